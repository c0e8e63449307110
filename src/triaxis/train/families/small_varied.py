"""The same word problem with other numbers: the question's numbers are drawn again and its calculations done again.

A number of the question may change if it stands there once, is whole and at least three, and is no percentage, ordinal
or part of a fraction. Where the calculations use a number that may be either the question's or an earlier result, the
problem is left as it is. Numbers that matter to no calculation change too. Words ("half", "three") never change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from triaxis.tasks.gradeschool import Dice

TRIES = 12
LARGEST = 100_000
_IN_QUESTION = re.compile(r"\d[\d,]*(?:\.\d+)?")
_IN_STEP = re.compile(r"\d+(?:\.\d+)?|\.\d+|[-+*/()]")
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


class Slot(NamedTuple):
    """Where a calculation's number comes from: "question" or "result" with its place, or "constant" with its value."""

    kind: str
    at: int
    value: Fraction


@dataclass(frozen=True, slots=True)
class Template:
    """A problem whose numbers can change. pieces: the question around them; numbers: as they are; steps: in postfix,
    with the text of each calculation's left side cut at its numbers."""

    pieces: tuple[str, ...]
    numbers: tuple[int, ...]
    steps: tuple[tuple[tuple[Slot | str, ...], tuple[Slot | str, ...]], ...]  # as written, in postfix
    results: tuple[Fraction, ...]


class Varied(NamedTuple):
    """A problem with its calculations and its answer."""

    question: str
    steps: tuple[str, ...]
    answer: str


def template(question: str, steps: Sequence[str]) -> Template | None:
    """The template of a problem; None where its numbers cannot be told apart or its calculations not be read."""
    spans = list(_IN_QUESTION.finditer(question))
    written = [m[0].replace(",", "").rstrip(".") for m in spans]
    free = [k for k, m in enumerate(spans) if written.count(written[k]) == 1 and _may_change(question, m)]
    values = [Fraction(written[k]) for k in free]
    results: list[Fraction] = []
    made = []
    for step in steps:
        left, _, right = step.rpartition("=")
        found = _IN_STEP.findall(left)
        if "".join(found) != left or not re.fullmatch(r"-?[\d.]+", right):
            return None
        tokens: list[Slot | str] = []
        for t in found:
            slot = t if t in "+-*/()" else _slot(Fraction(t), values, results)
            if slot is None:
                return None
            tokens.append(slot)
        postfix = _postfix(tokens)
        if postfix is None or evaluate(postfix, values, results) != Fraction(right):
            return None
        made.append((tuple(tokens), postfix))
        results.append(Fraction(right))
    cuts = [0, *(e for k in free for e in spans[k].span()), len(question)]
    pieces = tuple(question[a:b] for a, b in zip(cuts[::2], cuts[1::2], strict=True))
    return Template(pieces, tuple(int(v) for v in values), tuple(made), tuple(results)) if free else None


def _may_change(question: str, m: re.Match[str]) -> bool:
    before, after = question[: m.start()][-1:], question[m.end() :][:2]
    whole = m[0].isdecimal() and 3 <= int(m[0]) <= 9999
    return whole and before not in ("/", ".", ":") and not re.match(r"%|/|:| ?percent|[A-Za-z]", after)


def _slot(value: Fraction, numbers: Sequence[Fraction], results: Sequence[Fraction]) -> Slot | None:
    """Where a calculation's number comes from; None where it may come from two places."""
    if value in numbers:
        return None if value in results else Slot("question", numbers.index(value), value)
    if value in results:
        return None if results.count(value) > 1 else Slot("result", results.index(value), value)
    return Slot("constant", 0, value)


def _postfix(tokens: Sequence[Slot | str]) -> tuple[Slot | str, ...] | None:
    """By precedence (the shunting-yard algorithm); None where it is no plain calculation."""
    out: list[Slot | str] = []
    held: list[str] = []
    operand = True  # whether one is due
    for t in tokens:
        if not isinstance(t, str):
            if not operand:
                return None
            out.append(t)
            operand = False
        elif t == "(":
            held.append(t)
        elif t == ")":
            while held and held[-1] != "(":
                out.append(held.pop())
            if not held or operand:
                return None
            held.pop()
        else:
            if operand:
                return None  # a sign
            while held and held[-1] != "(" and _RANK[held[-1]] >= _RANK[t]:
                out.append(held.pop())
            held.append(t)
            operand = True
    if operand or "(" in held:
        return None
    return (*out, *reversed(held))


def evaluate(
    postfix: Sequence[Slot | str], numbers: Sequence[Fraction], results: Sequence[Fraction]
) -> Fraction | None:
    """The value of a calculation; None where it divides by zero."""
    stack: list[Fraction] = []
    for t in postfix:
        if not isinstance(t, str):
            stack.append(_value(t, numbers, results))
            continue
        right, left = stack.pop(), stack.pop()
        if t == "/" and not right:
            return None
        stack.append(
            left + right if t == "+" else left - right if t == "-" else left * right if t == "*" else left / right
        )
    return stack[0]


def _value(slot: Slot, numbers: Sequence[Fraction], results: Sequence[Fraction]) -> Fraction:
    if slot.kind == "question":
        return numbers[slot.at]
    return results[slot.at] if slot.kind == "result" else slot.value


def vary(t: Template, dice: Dice) -> Varied | None:
    """The problem with other numbers; None where no draw gave results like the first ones."""
    for _ in range(TRIES):
        numbers = [Fraction(_another(v, dice)) for v in t.numbers]
        if len(set(numbers)) < len(numbers):
            continue  # two numbers that were told apart must stay so
        results: list[Fraction] = []
        for (_, postfix), was in zip(t.steps, t.results, strict=True):
            value = evaluate(postfix, numbers, results)
            if value is None or not _alike(value, was):
                break
            results.append(value)
        else:
            return _written(t, numbers, results)
    return None


def _another(value: int, dice: Dice) -> int:
    """A number of the same size; a round one is mostly replaced by a round one."""
    if value <= 12:
        return dice.between(2, 12)
    unit = next((u for u in (100, 10, 5) if value % u == 0 and value > u), 1)
    unit = unit if dice.chance(0.8) else 1
    return unit * dice.between(max(1, value // (3 * unit)), max(2, 2 * value // unit))


def _alike(value: Fraction, was: Fraction) -> bool:
    """A result that may stand in the place of another: of its sign, whole if it was, of at most two decimals."""
    if (value > 0) != (was > 0) or (abs(value) > LARGEST and abs(value) > abs(was)):
        return False
    return value.denominator == 1 if was.denominator == 1 else 100 % value.denominator == 0


def _written(t: Template, numbers: Sequence[Fraction], results: Sequence[Fraction]) -> Varied:
    question = t.pieces[0] + "".join(f"{n}{p}" for n, p in zip(numbers, t.pieces[1:], strict=True))
    steps = []
    for k, (tokens, _) in enumerate(t.steps):
        left = "".join(x if isinstance(x, str) else spelled(_value(x, numbers, results[:k])) for x in tokens)
        steps.append(f"{left}={spelled(results[k])}")
    return Varied(question, tuple(steps), spelled(results[-1]))


def spelled(value: Fraction) -> str:
    """A number as GSM8K's calculations have it: 12, 0.25."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0")
