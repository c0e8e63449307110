"""Edits that change a calculation of a plan and work everything after it out anew, so that the plan agrees with itself.

A plan is taken as a chain of calculations over quantities. A quantity is first known by its value: two mentions of 19
are one quantity, wherever they stand. One quantity or operator is changed, every later result is computed again in
exact rationals, and every mention in the text is replaced. An edit that would need one number to become two different
ones, that touches a quantity which the text also states in words or as a percentage, or that leaves the kind of numbers
the plan had (whole and positive) is not made; the next one is tried. Where none works and the text is nothing but its
calculations, a quantity is known by its place instead: an operand is the latest result of that value, else its own.
Knows nothing of tasks and tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from fractions import Fraction
from typing import NamedTuple

from triaxis.plans import read

Calculation = tuple[str, str | None]  # an expression and its stated result
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_TOKEN = re.compile(r"(?<![\d.])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+")
_FRACTION = re.compile(r"(?<![\d.])(\d+\s+)?(\d+)\s?/\s?(\d+)(?![\d.]*\d)")
_BESIDE = re.compile(r"\s?%|:\d|(?:st|nd|rd|th)\b")  # behind a number: it is a share, a time of day, a place
_BINARY = re.compile(r"(?<=[\d.)])[-+*/]")
# words that state a quantity without naming its number
_SAID = {
    2: "half|halve[sd]?|twice|double[sd]?|couple|pair|both", 3: "thirds?|triple[sd]?|thrice", 4: "quarters?|fourths?",
    5: "fifths?", 6: "sixths?", 7: "weeks?|weekly", 8: "eighths?", 10: "tenths?|decades?", 12: "dozens?|years?",
    24: "days?", 60: "hours?|minutes?", 100: "percent|dollars?|cents?|centur(?:y|ies)",
}  # fmt: skip
# what to try instead of an operator, the likeliest confusion first
_INSTEAD = {"+": "-*", "-": "+*", "*": "+-/", "/": "*-"}
_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


class Reworked(NamedTuple):
    """An edited plan and the one answer it implies, spelled as grades spell it."""

    text: str
    implied: str


class _Named(NamedTuple):
    """A chain whose quantities have names; two mentions of one name are one quantity."""

    chain: tuple[Calculation, ...]
    names: tuple[tuple[Hashable, ...], ...]  # of the operands of each calculation, then of its result
    by_place: bool


class _Changed(NamedTuple):
    """A chain after an edit: (old, new) of every mention in order, the last value, whether digit counts stayed."""

    mentions: tuple[tuple[Fraction, Fraction], ...]
    last: Fraction
    alike: bool


def counterfactual(plan: str, key: str, gold: str, given: str = "", annotated: Sequence[str] = ()) -> Reworked | None:
    """The plan with one quantity changed early and all that follows from it, implying one answer that is not `gold`.

    gold: the right answer. given: the question; a quantity it states is changed where one can be, so that the plan
    contradicts the question in exactly that number. annotated: the calculations of a text that is not read in full,
    such as GSM8K's "16-3-4=9". The edit is the first that works, in the plan's order; its new value is drawn by `key`
    among those that keep every number's count of digits, if there are such. None where no edit works.

    The new answer is whole, positive wherever the old one was, differs from the gold one and from what the plan implied
    before, and the edited plan does not state the gold answer.
    """
    chain = _calculations(plan, annotated)
    try:
        target = read.exact(read.plain(gold))
    except (ValueError, ZeroDivisionError):
        return None
    if annotated and (not chain or _result(chain[-1]) != target):
        return None  # the annotations do not lead to the answer, so an edit of them need not change it
    asked = set(read.stated(given)) | {Fraction(n) for n in read.spoken(given)}
    second: Reworked | None = None
    for named in _readings(plan, chain):
        for name, new in _leaf_edits(named, key, asked):
            found = _propagate(named, {name: new})
            if found is None or found.last == target or found.last.denominator != 1 or (second and not found.alike):
                continue
            text = _rewrite(plan, named, found)
            if text is None or read.leaks(text, gold) or not _says(text, plan, found.last, bool(annotated)):
                continue
            if not _agrees(text, plan):
                continue
            made = Reworked(text, read.spell(found.last))
            if found.alike:
                return made
            second = second or made
    return second


def operators(plan: str, key: str) -> str:
    """The plan with one operator changed, drawn by `key`, and later results worked out anew where that is possible.

    Invariant: the same text outside that operator and the numbers that follow from it; the given numbers stay. A plan
    in which no change agrees with itself gets the operator alone changed; one without a calculation is unchanged.
    """
    steps = read.steps(plan)
    swaps = [
        (s, j, new)
        for rank in range(3)
        for s, step in enumerate(steps)
        for j, op in enumerate(_BINARY.findall(step.expression))
        for new in _INSTEAD[op][rank : rank + 1]
    ]
    random.Random(key).shuffle(swaps)
    was, beside = read.implied_answer(plan), None
    for named in _readings(plan, [(step.expression, step.result) for step in steps]):
        for s, j, new in swaps:
            after = [expression for expression, _ in named.chain]
            after[s] = _swap_in(after[s], j, new)
            swapped, found = _swapped(plan, steps[s], j, new), _propagate(named, {}, after)
            text = None if swapped is None or found is None else _rewrite(swapped, named, found)
            if text is None or found is None or read.implied_answer(text) != read.spell(found.last):
                continue
            if read.spell(found.last) != was:
                return text
            beside = beside or text  # agrees with itself, but ends where the plan did
    alone = (_swapped(plan, steps[s], j, new) for s, j, new in swaps)
    return beside or next((text for text in alone if text is not None), plan)


def _calculations(plan: str, annotated: Sequence[str]) -> list[Calculation]:
    """The calculations of the annotations where there are any, else of the text."""
    if not annotated:
        return [(s.expression, s.result) for s in read.steps(plan)]
    pairs = [a.replace(" ", "").partition("=") for a in annotated]
    return [(left, right if _is_number(right) else None) for left, _, right in pairs]


def _readings(plan: str, chain: Sequence[Calculation]) -> Iterator[_Named]:
    """The chain with its quantities known by value, then, where the text holds nothing else, by place."""
    if not chain:
        return
    operands = [[Fraction(n) for n in _NUMBER.findall(expression)] for expression, _ in chain]
    results = [_result(calculation) for calculation in chain]
    yield _Named(tuple(chain), tuple((*o, r) for o, r in zip(operands, results, strict=True)), False)
    mentioned = [
        n for o, (_, stated), r in zip(operands, chain, results, strict=True) for n in (*o, *([r] * bool(stated)))
    ]
    if mentioned != [Fraction(m[0].replace(",", "")) for m in _TOKEN.finditer(plan)]:
        return
    names: list[tuple[Hashable, ...]] = []
    for k, numbers in enumerate(operands):
        sources = [next((j for j in reversed(range(k)) if results[j] == n), None) for n in numbers]
        names.append((*(("of", k, i) if j is None else ("result", j) for i, j in enumerate(sources)), ("result", k)))
    yield _Named(tuple(chain), tuple(names), True)


def _result(calculation: Calculation) -> Fraction | None:
    expression, stated = calculation
    return read.evaluate(expression) if stated is None else Fraction(stated)


def _leaf_edits(named: _Named, key: str, asked: AbstractSet[Fraction]) -> Iterator[tuple[Hashable, Fraction]]:
    """(name, new value) of every whole operand that is no result, those of the question first, in the plan's order."""
    leaves: dict[Hashable, int] = {}
    results: set[Hashable] = set()
    for (expression, _), names in zip(named.chain, named.names, strict=True):
        for name, number in zip(names, map(Fraction, _NUMBER.findall(expression)), strict=False):  # the result is left
            if name not in results and number.denominator == 1 and number > 1:
                leaves[name] = int(number)
        results.add(names[-1])
    rng = random.Random(key)
    for name in sorted(leaves, key=lambda n: leaves[n] not in asked):  # stable: else the plan's order
        yield from ((name, new) for new in _others(leaves[name], rng))


def _others(old: int, rng: random.Random) -> list[Fraction]:
    """Other whole numbers above one in place of `old`, of as many digits, then a few of more; at most 120, shuffled."""
    low, high = max(2, 10 ** (len(str(old)) - 1)), 10 ** len(str(old)) - 1
    near = range(max(low, old - 60), min(high, old + 60) + 1)
    same = [Fraction(n) for n in near if n != old]
    rng.shuffle(same)
    more = [Fraction(n) for n in range(high + 1, high + 12)]
    rng.shuffle(more)
    return same + more


def _propagate(named: _Named, change: dict[Hashable, Fraction], after: Sequence[str] | None = None) -> _Changed | None:
    """Work the chain out anew from changed quantities, or with the expressions `after`. None on a conflict.

    A calculation that no change reaches keeps its result, right or wrong.
    """
    now = dict(change)
    mentions: list[tuple[Fraction, Fraction]] = []
    last = Fraction(0)
    for k, (before, stated) in enumerate(named.chain):
        old = [Fraction(n) for n in _NUMBER.findall(before)]
        new = [now.setdefault(name, n) for name, n in zip(named.names[k], old, strict=False)]
        expression, was = after[k] if after else before, _result((before, stated))
        moved = expression != before or new != old
        value = read.evaluate(_filled(expression, new)) if moved else was
        if was is None or value is None or not _like(value, was):
            return None
        if (stated is not None or named.by_place) and now.setdefault(named.names[k][-1], value) != value:
            return None
        mentions += [*zip(old, new, strict=True), *([(was, value)] if stated is not None else [])]
        last = value
    return _Changed(tuple(mentions), last, all(len(str(a)) == len(str(b)) for a, b in mentions))


def _filled(expression: str, values: Sequence[Fraction]) -> str:
    """An expression with its numbers replaced, in brackets: a new value may be negative and must stay one operand."""
    left = iter(values)
    return _NUMBER.sub(lambda _: _bracketed(next(left)), expression)


def _bracketed(value: Fraction) -> str:
    return f"({value.numerator}/{value.denominator})"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?(?:\d+(?:\.\d*)?|\.\d+)", text) is not None


def _like(new: Fraction, old: Fraction) -> bool:
    """Whether a value may stand where another did: as whole and as positive, and short enough to be written."""
    short = (new * 100).denominator == 1
    return short and (new.denominator == 1 or old.denominator != 1) and (new > 0 or old <= 0)


def _rewrite(text: str, named: _Named, found: _Changed) -> str | None:
    """The text with every mention of a changed quantity replaced; None where one could not be, or not safely."""
    tokens = list(_TOKEN.finditer(text))
    if named.by_place:
        new = [value for _, value in found.mentions]
    else:
        change = {abs(a): b for a, b in found.mentions if a != b}
        if not _safe(text, named, set(change)):
            return None
        old = [Fraction(m[0].replace(",", "")) for m in tokens]
        new = [change.get(value, value) for value in old]
    out, at = [], 0
    for m, value in zip(tokens, new, strict=True):
        kept = value == Fraction(m[0].replace(",", ""))
        written = m[0] if kept else _written(value, m[0])
        if (
            written is None
            or (not kept and _BESIDE.match(text, m.end()))
            or (not kept and text[: m.start()][-1:] == ":")
        ):
            return None
        out += [text[at : m.start()], written]
        at = m.end()
    return "".join(out) + text[at:]


def _safe(text: str, named: _Named, changed: AbstractSet[Fraction]) -> bool:
    """Whether the text states the changed quantities in digits only, and in no fraction that is not calculated with."""
    if any(n in changed for n in map(Fraction, read.spoken(text))):
        return False
    if any(n in changed and re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) for n, words in _SAID.items()):
        return False
    fractions = [m for m in _FRACTION.finditer(text) if {Fraction(m[2]), Fraction(m[3])} & changed]
    return all(not m[1] and any(f"{m[2]}/{m[3]}" in expression for expression, _ in named.chain) for m in fractions)


def _written(value: Fraction, like: str) -> str | None:
    """A value spelled as another number was: with its count of decimals and its thousands commas."""
    decimals = len(like.partition(".")[2])
    scaled = value * 10**decimals
    if scaled.denominator != 1 or value < 0:
        return None
    grouped = "," if "," in like else ""
    return f"{float(value):{grouped}.{decimals}f}" if decimals else f"{int(value):{grouped}}"


def _says(text: str, plan: str, last: Fraction, annotated: bool) -> bool:
    """Whether the edited text implies `last`, which the plan did not: read from it or, if annotated, stated in it."""
    answer = read.spell(last)
    if read.implied_answer(text) == answer:
        return read.implied_answer(plan) != answer
    return annotated and read.leaks(text, answer) and not read.leaks(plan, answer)


def _agrees(text: str, plan: str) -> bool:
    """Whether every calculation that was right in the plan, annotated or not, is right in the edited text."""
    before, after = read.steps(plan), read.steps(text)
    return len(before) == len(after) and all(_right(a) or not _right(b) for a, b in zip(after, before, strict=True))


def _right(step: read.Step) -> bool:
    return step.result is None or read.evaluate(step.expression) == Fraction(step.result)


def _swap_in(expression: str, number: int, new: str) -> str:
    """An expression with its operator of that number replaced."""
    m = list(_BINARY.finditer(expression))[number]
    return expression[: m.start()] + new + expression[m.end() :]


def _swapped(plan: str, step: read.Step, number: int, new: str) -> str | None:
    """The plan with one operator of a step replaced in its notation; None where it does not stand there as read."""
    places = read.operators(plan, step)
    if number >= len(places):
        return None
    start, end = places[number]
    return plan[:start] + (_WORDS[new] if plan[start].isalpha() and plan[start:end] != "x" else new) + plan[end:]
