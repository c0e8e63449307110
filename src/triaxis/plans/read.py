"""What a plan says, read from its text: its calculations and the answer it implies.

Reads "12 plus 7 is 19", "12+7=19", "12 + 7 = 19" and a last calculation left open ("19 times 2").
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from triaxis.tasks.base import Item

_OPS = {
    "plus": "+", "minus": "-", "times": "*", "divided by": "/",
    "+": "+", "-": "-", "*": "*", "/": "/", "x": "*", "×": "*", "÷": "/", "−": "-",
}  # fmt: skip
_NUMBER = r"(?<!\d)(?<!\d\.)-?\d{1,12}(?:\.\d{1,6})?(?!\.?\d)"  # a whole number, never a part of a longer one
_STEP = re.compile(
    rf"({_NUMBER})\s*(plus|minus|times|divided by|[-+*/x×÷−])\s*({_NUMBER})(?:\s*(?:=|is|equals)\s*({_NUMBER}))?"
)


class Step(NamedTuple):
    """One calculation as written; `result` is None where the plan leaves it open."""

    left: str
    op: str
    right: str
    result: str | None

    @property
    def value(self) -> str | None:
        """What the calculation comes to, as written or else computed; None for a division by zero."""
        if self.result is not None:
            return self.result
        a, b = Fraction(self.left), Fraction(self.right)
        if self.op == "/" and b == 0:
            return None
        total = {"+": a + b, "-": a - b, "*": a * b}[self.op] if self.op != "/" else a / b
        return str(total.numerator) if total.denominator == 1 else str(total)


def steps(plan: str) -> list[Step]:
    """The calculations of a plan, in order."""
    return [Step(m[1], _OPS[m[2]], m[3], m[4]) for m in _STEP.finditer(plan)]


def implied_answer(plan: str) -> str | None:
    """The value of the plan's last calculation, or None if it has none."""
    found = steps(plan)
    return found[-1].value if found else None


def gold_plan(item: Item) -> str:
    """The item's own plan, or its worked solution without the marked answer; "" if it has neither."""
    return dict(item.meta).get("plan") or item.solution.rpartition("####")[0].strip()


def leaks(plan: str, answer: str) -> bool:
    """Whether the plan states the answer as a number of its own."""
    return re.search(rf"(?<![\d.]){re.escape(answer)}(?!\.?\d)", plan) is not None


def follows(plan: str, gold: tuple[str, ...]) -> bool | None:
    """Whether every calculation of the plan is the gold one, in order; None where no gold steps are known.

    An open last result counts as right: a plan need not state the answer.
    """
    if not gold:
        return None
    found = steps(plan)
    if len(found) != len(gold):
        return False
    return all(f"{s.left}{s.op}{s.right}={s.value}" == g for s, g in zip(found, gold, strict=True))
