"""AR planners: a causal language model that writes a plan for a question.

Runs any Llama-style Hugging Face checkpoint folder (safetensors, no remote code) through transformers;
batched, left-padded, greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from triaxis.errors import UserError
from triaxis.models.folder import find_folder, fingerprint, weight_files


class Written(NamedTuple):
    """A plan as written: its text, its length in the planner's tokens, and whether the budget cut it."""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Planner:
    """A loaded planner. `identity` names everything that can change its plans."""

    name: str
    parameters: int
    identity: str
    budget: int  # new tokens at most
    model: Any
    tokenizer: Any

    def write(self, questions: Sequence[str], batch: int = 64) -> list[Written]:
        """One greedy plan a question, in order. A row's plan does not depend on its batch mates."""
        order = sorted(range(len(questions)), key=lambda i: (len(questions[i]), i))
        out: list[Written | None] = [None] * len(questions)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            for i, written in zip(rows, self._write([questions[i] for i in rows]), strict=True):
                out[i] = written
        return [w for w in out if w is not None]

    def _write(self, questions: Sequence[str]) -> list[Written]:
        chats = [[{"role": "user", "content": q}] for q in questions]
        texts = [self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        encoded = self.tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
        )
        made = self.model.generate(**encoded, max_new_tokens=self.budget, do_sample=False)
        end = self.model.config.eos_token_id
        found = []
        for ids in made[:, encoded["input_ids"].shape[1] :].tolist():
            stop = ids.index(end) if end in ids else len(ids)
            text = self.tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
            found.append(Written(text, stop, end not in ids))
        return found


def load_planner(spec: str, *, budget: int = 64) -> Planner:
    """Load a shipped planner or a folder. UserError where it is not a readable causal language model."""
    folder: Path = find_folder(spec, "planner")
    weight_files(folder)  # refuses pickles before transformers sees the folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left", **options)
        model = AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError) as e:
        raise UserError(f"planner {spec!r}: {str(e).splitlines()[0]}") from None
    model.eval()
    parameters = sum(p.numel() for p in model.parameters())
    return Planner(spec, parameters, f"{fingerprint(folder)}/greedy/{budget}", budget, model, tokenizer)
