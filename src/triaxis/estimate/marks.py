"""What is seen of one completion beside right or wrong: its failures of format, by text, length and grade.

Each kind is a flag of one completion. Knows stored values only: an end mark inside a text is not seen here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

FLOOR = 3  # tokens: an answer and its mark need as many; less before the end mark is an early end
_STEP = re.compile(r"[.;\n]+")
_STEP_WORDS = 3  # a piece of a plan that counts when it comes back in a completion has at least as many words


class Kind(NamedTuple):
    """One kind of failure: its heading, and what a completion that has it does."""

    label: str
    says: str


KINDS: Mapping[str, Kind] = {
    "truncated": Kind("cut", "reached the end of the canvas without an end mark"),
    "unreadable": Kind("unread", "has no readable answer"),
    "early_end": Kind("early end", f"ended after fewer than {FLOOR} tokens"),
    "flooded": Kind("flooded", "is end marks from its first place on"),
    "continued": Kind("plan goes on", "goes on with the scaffold or repeats the plan instead of answering"),
    "disagree": Kind("graders differ", "is graded otherwise by the second grader"),
}


class Continues:
    """Whether a completion goes on with the scaffold: it writes an opener of the study's, or repeats a step of the plan
    it was shown and marks no answer. plan: the text of a plan by its id, "" where there is none."""

    def __init__(self, openers: Iterable[str], plan: Callable[[str], str]) -> None:
        one_of = "|".join(map(re.escape, openers))
        self.opens = re.compile(one_of).search if one_of else None
        self.plan = plan

    def __call__(self, text: str, plan: str, how: str) -> bool:
        if self.opens is not None and self.opens(text):
            return True
        return how != "marked" and bool(plan) and _repeats(text, self.plan(plan))


def openers(cards: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    """Openers of all scaffolds that a plan or its shape stands in, so that a rate means the same in every condition."""
    found = [
        opener
        for card in cards
        if card["role"] not in ("pipeline", "stage")  # what an AR model is asked in is no plan's place
        for opener in [str(card["scaffold"]["template"]).partition("{plan}")[0].strip()]
        if any(c.isalpha() for c in opener) and len(opener) > 2
    ]
    return tuple(dict.fromkeys(found))


def _repeats(text: str, plan: str) -> bool:
    """Whether a text holds a step of the plan word for word, of at least three words."""
    shown = _plain(text)
    steps = map(_plain, _STEP.split(plan))
    return any(step in shown for step in steps if len(step.split()) >= _STEP_WORDS)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
