"""What a plan says, read from its text: its calculations, the answer it implies, and whether it states the answer.

Reads "12 plus 7 is 19", "12+7=19", "16 - 3 - 4 = 9", "9 * 2 = $18" and a last calculation left open ("19 times 2").
Numbers are exact rationals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from triaxis.tasks.base import Item

OPS = {
    "plus": "+", "minus": "-", "times": "*", "divided by": "/",
    "added to": "+", "less": "-", "multiplied by": "*", "split into": "/",
    "+": "+", "-": "-", "*": "*", "/": "/", "x": "*", "×": "*", "÷": "/", "−": "-",
}  # fmt: skip
_GROUPED = r"\d{3}(?!\d)"  # three digits behind a comma belong to the number before it
_NUMBER = (
    rf"(?<!\d)(?<!\d\.)(?:(?<!\d,)|(?!{_GROUPED}))-?"
    rf"(?:\d{{1,3}}(?:,{_GROUPED})+|\d{{1,12}}|(?<![\w.])(?=\.\d))(?:\.\d{{1,6}})?(?!,{_GROUPED})(?!\.?\d)"
)
# "12 miles + 3 miles": units may stand before a sign; before a word they would make calculations of plain sentences
_VERBS = "is|equals|makes|then|plus|minus|times|less|and"
_UNITS_OF = rf"(?:\s+(?!(?:{_VERBS})\b)[A-Za-z][A-Za-z/]{{0,19}}){{1,3}}"
_SIGN = r"[-+*/x×÷−]"
_OP = rf"(?:\s*(?:plus|minus|times|divided by|added to|less|multiplied by|split into)|(?:{_UNITS_OF})?\s*{_SIGN})\s*"
_IS = rf"(?:\s*(?:is|equals|makes)|(?:{_UNITS_OF})?\s*=)\s*"
_STEP = re.compile(rf"\$?{_NUMBER}(?:{_OP}\$?{_NUMBER})+(?:(?P<is>{_IS})\$?(?P<result>{_NUMBER}))?")
_PIECE = re.compile(rf"(?P<op>{_OP})\$?(?P<number>{_NUMBER})|\$?(?P<first>{_NUMBER})")
_LAST_OP = re.compile(rf"(?:plus|minus|times|divided by|added to|less|multiplied by|split into|{_SIGN})\Z")
_TERM = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|[-+*/()])")


class Step(NamedTuple):
    """One calculation as written: "12+7", and its result, None where the plan leaves it open. `at` is its place."""

    expression: str
    result: str | None
    at: tuple[int, int] = (0, 0)  # first character and the one after the last

    @property
    def value(self) -> str | None:
        """What the calculation comes to, as written or else computed; None for a division by zero."""
        if self.result is not None:
            return self.result
        total = evaluate(self.expression)
        return None if total is None else spell(total)


def spell(value: Fraction) -> str:
    """A rational as grades spell it: "38", "7/2"."""
    return str(value.numerator) if value.denominator == 1 else str(value)


def evaluate(expression: str) -> Fraction | None:
    """The value of an expression of numbers, + - * / and parentheses, such as "16-3-4"; None where it has none."""
    terms = _terms(expression)
    if terms is None:
        return None
    try:
        value, rest = _sum(terms)
    except (ZeroDivisionError, IndexError, ValueError, RecursionError):
        return None
    return None if rest else value


def _terms(expression: str) -> list[str] | None:
    found, at, text = [], 0, expression.strip()
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None:
            return None
        found.append(match[1])
        at = match.end()
    return found


def _sum(terms: list[str]) -> tuple[Fraction, list[str]]:
    value, terms = _product(terms)
    while terms and terms[0] in "+-":
        right, rest = _product(terms[1:])
        value, terms = (value + right if terms[0] == "+" else value - right), rest
    return value, terms


def _product(terms: list[str]) -> tuple[Fraction, list[str]]:
    value, terms = _atom(terms)
    while terms and terms[0] in "*/":
        right, rest = _atom(terms[1:])
        value, terms = (value * right if terms[0] == "*" else value / right), rest
    return value, terms


def _atom(terms: list[str]) -> tuple[Fraction, list[str]]:
    first, rest = terms[0], terms[1:]
    if first in "+-":
        value, rest = _atom(rest)
        return (value if first == "+" else -value), rest
    if first == "(":
        value, rest = _sum(rest)
        if rest[0] != ")":
            raise ValueError(rest[0])
        return value, rest[1:]
    return Fraction(first), rest


def plain(number: str) -> str:
    """A number as written without its thousands commas and currency: "$1,200" -> "1200"."""
    return number.replace(",", "").replace("$", "")


def steps(plan: str) -> list[Step]:
    """The calculations of a plan, in order."""
    return [_step(m) for m in _STEP.finditer(plan)]


def _step(m: re.Match[str]) -> Step:
    end = m.end() if m["result"] is None else m.start("is")
    expression = "".join(_piece(p) for p in _PIECE.finditer(m.string, m.start(), end))
    return Step(expression, None if m["result"] is None else plain(m["result"]), m.span())


def _piece(p: re.Match[str]) -> str:
    if p["op"] is None:
        return plain(p["first"])
    op = _LAST_OP.search(p["op"].rstrip())
    assert op is not None, p["op"]
    return OPS[op[0]] + plain(p["number"])


def operators(plan: str, step: Step) -> list[tuple[int, int]]:
    """Where the operators of a step stand in the plan it was read from, in order: "+", "divided by"."""
    found = []
    for p in _PIECE.finditer(plan, *step.at):
        op = _LAST_OP.search(p["op"].rstrip()) if p["op"] else None
        if op is not None:
            found.append((p.start("op") + op.start(), p.start("op") + op.end()))
    return found


def implied_answer(plan: str) -> str | None:
    """The value of the plan's last calculation, or None if it has none."""
    found = steps(plan)
    return found[-1].value if found else None


def gold_plan(item: Item) -> str:
    """The item's own plan, or its worked solution without the marked answer; "" if it has neither."""
    return dict(item.meta).get("plan") or item.solution.rpartition("####")[0].strip()


def follows(plan: str, gold: tuple[str, ...]) -> bool | None:
    """Whether every calculation of the plan is the gold one, in order; None where no gold steps are known.

    An open last result counts as right: a plan need not state the answer.
    """
    if not gold:
        return None
    found = steps(plan)
    if len(found) != len(gold):
        return False
    return all(_spelled(f"{s.expression}={s.value}") == _spelled(g) for s, g in zip(found, gold, strict=True))


def _spelled(calculation: str) -> str:
    """A calculation with each number in one spelling: ".50*2=1.00" -> "1/2*2=1"."""
    return re.sub(r"\d*\.?\d+", lambda m: spell(Fraction(m[0])), calculation.replace(" ", ""))


# --- numbers in digits and in words ---

_DIGITS = re.compile(r"(?<![\d.])(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d{1,18}(?!\d))(?:\.\d{1,9}(?!\d))?(?!\.\d)", re.ASCII)
_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORTH = {
    **{w: n for n, w in enumerate((*_UNITS, *_TEENS), 1)}, **{w: 10 * n for n, w in enumerate(_TENS, 2)},
    "zero": 0, "a": 1, "an": 1,
}  # fmt: skip
_POWERS = {"thousand": 1000, "million": 1_000_000}
_UNIT, _GAP = "|".join(_UNITS), r"(?:\s+|\s*-\s*)"
_UNDER_100 = rf"(?:(?:{'|'.join(_TENS)})(?:{_GAP}(?:{_UNIT}))?|{'|'.join(_TEENS)}|{_UNIT})\b"
_UNDER_1000 = rf"(?:(?:an?|{_UNDER_100}){_GAP}hundred\b(?:{_GAP}(?:and\s+)?{_UNDER_100})?|{_UNDER_100})"
_BIG, _THEN = rf"(?:an?|{_UNDER_1000}){_GAP}(?:thousand|million)\b", r",?\s+(?:and\s+)?"
_SPOKEN = re.compile(
    rf"(?<![\w-])(?:{_BIG}(?:{_THEN}{_BIG})?(?:{_THEN}{_UNDER_1000})?|{_UNDER_1000}|zero\b)", re.IGNORECASE
)


def spoken(text: str) -> Iterator[int]:
    """The numbers that a text states in words, in order: "forty-two", "one hundred and five", "two thousand"."""
    for m in _SPOKEN.finditer(text):
        yield _worth([w for w in re.split(r"[\s,-]+", m[0].lower()) if w])


def _worth(words: list[str]) -> int:
    total = part = 0
    for word in words:
        if word in _POWERS:
            total, part = total + part * _POWERS[word], 0
        elif word == "hundred":
            part *= 100
        else:
            part += _WORTH.get(word, 0)  # "and" adds nothing
    return total + part


def stated(text: str) -> Iterator[Fraction]:
    """The size of every number a text states in digits ("1,200", "2.5"), without its sign, in order."""
    for m in _DIGITS.finditer(text):
        yield Fraction(m[0].replace(",", ""))


def exact(text: str) -> Fraction:
    """The number a text is. ValueError where it is none, has an exponent (1e999999999 alone fills the memory), or has
    more than 300 characters; ZeroDivisionError for 1/0.
    """
    if len(text) > 300 or "e" in text.lower():
        raise ValueError(f"{text[:40]!r} is no number in digits")
    return Fraction(text)


def leaks(plan: str, answer: str) -> bool:
    """Whether the plan states the answer as a number of its own, in digits or in words.

    By value: "1,200" and "1200.0" state 1200; of a negative answer the plan must state the size. An answer that is no
    number is looked for as text.
    """
    try:
        size = abs(exact(plain(answer)))
    except (ValueError, ZeroDivisionError):
        return bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", plan) is not None
    return any(n == size for n in stated(plan)) or any(n == size for n in spoken(plan))
