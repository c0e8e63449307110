"""A verifier that is a model: any planner spec (a folder, an endpoint, a GGUF file) asked whether a solution is right.

Scores rerank branches (`estimate/rerank.py`); they are a model's opinion and grade nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from triaxis.errors import UserError
from triaxis.models.writer import Writer
from triaxis.plans.sources import planner_table

PROMPT = (
    "Problem: {question}\n\nProposed solution:\n{solution}\n\n"
    "Is the proposed solution right? Answer with one word, yes or no."
)
_SAYS = {"yes": 1.0, "no": 0.0}


def judge(spec: str, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
    """Scores of every item's solutions: 1 for a yes, 0 for a no, one half for anything else; (items, K).

    The first yes or no of the reply counts. Equal texts of an item are asked about once. UserError where the planner
    cannot answer prompts.
    """
    model = planner_table([spec])[spec]()
    if not isinstance(model, Writer):
        raise UserError(f"judge {spec!r} holds plans and cannot judge; name a model")
    asked = [(q, s) for q, texts in zip(questions, solutions, strict=True) for s in dict.fromkeys(texts)]
    prompts = [PROMPT.replace("{question}", q).replace("{solution}", s) for q, s in asked]
    replies = model.using(budget=8, prompt="{question}").complete(prompts)
    said = {pair: score(w.text) for pair, w in zip(asked, replies, strict=True)}
    return [[said[q, s] for s in texts] for q, texts in zip(questions, solutions, strict=True)]


def score(reply: str) -> float:
    """What a reply says, in [0, 1]."""
    found = re.search(r"\b(yes|no)\b", reply.lower())
    return _SAYS[found[1]] if found else 0.5
