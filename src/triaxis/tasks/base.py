"""What a task is: items with an answer, and a grader that says right, wrong or unreadable.

Knows nothing of models or prompts. Source of the grading rule: GSM8K's marked answer
(arXiv:2110.14168), read strictly; see `tasks/grading.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Verdict = Literal["right", "wrong", "unreadable"]


@dataclass(frozen=True, slots=True)
class Item:
    """One problem. `solution` is the worked gold text ending in the marked answer, empty if unknown.

    `steps` are the gold calculations in order, as strings such as "12+7=19"; empty if unknown.
    """

    id: str
    question: str
    answer: str
    solution: str = ""
    steps: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Grade:
    """The outcome for one completion.

    verdict: unreadable counts as wrong in accuracy and is reported beside it.
    answer: the canonical answer read from the text ("" if unreadable); votes count these.
    how: the rule that found it: "marked", "fallback" or "none".
    second: the second grader's opinion, None where it was not asked.
    """

    verdict: Verdict
    answer: str
    how: str
    second: bool | None = None


class Task(Protocol):
    """A data set with a grader."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str:
        """Hash or version of the data; part of every row's identity."""
        ...

    def items(self, n: int | None = None, *, split: str = "test", seed: int = 0) -> Sequence[Item]:
        """`n` items of the split (all if None), the same for the same seed. UserError if n > size."""
        ...

    def grade(self, text: str, item: Item) -> Grade:
        """Grade one completion. Never raises on model output."""
        ...
