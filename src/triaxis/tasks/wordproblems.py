"""`wordproblems`: generated word problems of one to three calculations in varied everyday language.

A problem is a scheme of `wordproblems_text` (a comparison, a purchase, an unknown start, ...) or a chain: an opening,
events that change what somebody has, and a question that may ask for one more calculation. Wordings, names, things,
number words and sentences with numbers that do not matter are drawn; answers are whole numbers. As in `gradeschool`,
the sequence of calculations alone ("12+7", "19*2") decides by a hash whether a problem is test or train, so no test
problem's calculations occur in training: disjoint by construction. Levels 1, 2, 3 are the number of calculations;
level 4 has larger numbers, three or four calculations, and more that does not matter.

Everything is drawn through `gradeschool.Dice`, which is stable across Python versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from triaxis.tasks.base import Item
from triaxis.tasks.gradeschool import Dice, Problem, is_test
from triaxis.tasks.wordproblems_text import (
    ALL,
    ASIDES,
    BOYS,
    CLOSERS,
    CONTAINERS,
    EVENTS,
    GIRLS,
    HAS,
    LEFT,
    NOW,
    PLACES,
    PLAIN_ASIDES,
    SCHEMES,
    THINGS,
    Scheme,
)

if TYPE_CHECKING:
    from triaxis.tasks.listed import ListTask

REVISION = "wordproblems-1"
LEVELS = (1, 2, 3, 4)
TEST_SIZE, TRAIN_SIZE = 1500, 6000
LARGEST = 9999
_SPOKEN = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

Calculation = tuple[int, str, int, int]


class Chances(NamedTuple):
    """How a level is drawn: calculations (one of these), and how often what happens."""

    lengths: tuple[int, ...]
    scheme: float  # a scheme, not a chain
    aside: float  # a sentence with a number that does not matter
    large: float  # numbers ten times as large where nothing is multiplied


CHANCES = {
    1: Chances((1,), 0.75, 0.2, 0.15),
    2: Chances((2,), 0.6, 0.25, 0.15),
    3: Chances((3,), 0.4, 0.3, 0.15),
    4: Chances((3, 4, 4), 0.2, 0.6, 0.4),
}
_SCHEMES_OF = {n: tuple(s for s in SCHEMES if s.calculations.count("=") == n) for n in (1, 2, 3)}


def calculate(left: int, sign: str, right: int) -> int | None:
    """A whole number within 1..LARGEST, or None."""
    if sign == "/":
        return left // right if right and left % right == 0 and left >= right else None
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return value if 1 <= value <= LARGEST else None


def draw(dice: Dice, level: int) -> Problem | None:
    """One problem of a level, or None where the draw did not work out."""
    chances = CHANCES[level]
    length = chances.lengths[dice.below(len(chances.lengths))]
    words = _words(dice)
    use_scheme = length in _SCHEMES_OF and dice.chance(chances.scheme)
    made = _from_scheme(dice, length, words, chances) if use_scheme else _chain(dice, length, words, chances)
    if made is None:
        return None
    sentences, calculations = made
    if dice.chance(chances.aside):
        text = dice.pick(ASIDES).format(k=_number(dice, dice.between(2, 60)), **words)
        sentences.insert(1 + dice.below(len(sentences) - 1) if len(sentences) > 1 else 0, text)
    if dice.chance(0.1):
        sentences.insert(dice.below(len(sentences)), dice.pick(PLAIN_ASIDES).format(**words))
    question = " ".join(s[0].upper() + s[1:] for s in sentences)
    return Problem(question, tuple(calculations), leaks=False)


def _words(dice: Dice) -> dict[str, str]:
    """Names, things and places of one story."""
    girl = dice.chance(0.5)
    n = dice.pick(GIRLS if girl else BOYS)
    m = dice.pick([x for x in (*BOYS, *GIRLS) if x != n])
    thing, other = THINGS[dice.below(len(THINGS))], THINGS[dice.below(len(THINGS))]
    while other == thing:
        other = THINGS[dice.below(len(THINGS))]
    container = CONTAINERS[dice.below(len(CONTAINERS))]
    p = "she" if girl else "he"
    return {
        "n": n, "m": m, "p": p, "P": p.capitalize(), "t1": thing[0], "t": thing[1], "u": other[1],
        "g1": container[0], "g": container[1], "w": dice.pick(PLACES),
    }  # fmt: skip


def _number(dice: Dice, value: int) -> str:
    """A number as written: small ones sometimes in words."""
    return _SPOKEN[value - 1] if 2 <= value <= 12 and dice.chance(0.12) else str(value)


def _from_scheme(
    dice: Dice, length: int, words: dict[str, str], chances: Chances
) -> tuple[list[str], list[Calculation]] | None:
    scheme = _SCHEMES_OF[length][dice.below(len(_SCHEMES_OF[length]))]
    tenfold = not set("*/") & set(scheme.calculations) and dice.chance(chances.large)
    values = _values(dice, scheme, 10 if tenfold else 1)
    if values is None:
        return None
    calculations = _worked(scheme, values)
    if calculations is None:
        return None
    shown = {name: _number(dice, v) for name, v in values.items()}
    sentences = [dice.pick(part).format(**{**words, **shown}) for part in scheme.parts]
    return [_dollars(s) for s in sentences], calculations


def _dollars(sentence: str) -> str:
    """An amount after a dollar sign is written in digits."""
    for value, word in enumerate(_SPOKEN, 1):
        sentence = sentence.replace(f"${word}", f"${value}")
    return sentence


def _values(dice: Dice, scheme: Scheme, scale: int) -> dict[str, int] | None:
    """The numbers of a scheme, drawn in the order of its ranges."""
    values: dict[str, int] = {}
    for name, rule in scheme.ranges.items():
        if isinstance(rule, tuple):
            values[name] = dice.between(rule[0], rule[1] * scale)
            continue
        found = _evaluate(rule, values)
        if found is None:
            return None
        values[name] = found
    return values


def _evaluate(expression: str, values: dict[str, int]) -> int | None:
    at = next(i for i, c in enumerate(expression) if c in "+-*/")
    left, right = (values.get(t) if t.isalpha() else int(t) for t in (expression[:at], expression[at + 1 :]))
    return None if left is None or right is None else calculate(left, expression[at], right)


def _worked(scheme: Scheme, values: dict[str, int]) -> list[Calculation] | None:
    """The calculations with their numbers; None where a result is no whole number above zero."""
    held = dict(values)
    made: list[Calculation] = []
    for part in scheme.calculations.split("; "):
        name, expression = part.split("=")
        at = next(i for i, c in enumerate(expression) if c in "+-*/")
        left, right = (held[t] if t.isalpha() else int(t) for t in (expression[:at], expression[at + 1 :]))
        result = calculate(left, expression[at], right)
        if result is None:
            return None
        held[name] = result
        made.append((left, expression[at], right, result))
    return made


def _chain(
    dice: Dice, length: int, words: dict[str, str], chances: Chances
) -> tuple[list[str], list[Calculation]] | None:
    """An opening, events, and a question that may ask for one more calculation."""
    scale = 10 if dice.chance(chances.large) else 1
    sentences, calculations, value = _opening(dice, words, scale)
    closing = dice.chance(0.4) and len(calculations) < length
    while len(calculations) < length - closing:
        sign = dice.pick("+++---*/")
        k = _operand(dice, sign, value, scale)
        result = None if k is None else calculate(value, sign, k)
        if k is None or result is None:
            return None
        calculations.append((value, sign, k, result))
        sentences.append(dice.pick(EVENTS[sign]).format(k=_number(dice, k), **words))
        value = result
    if len(calculations) > length:
        return None
    if not closing:
        last = calculations[-1][1]
        sentences.append(dice.pick(LEFT if last == "-" else ALL if len(calculations) == 1 else NOW).format(**words))
        return sentences, calculations
    sign, left, texts = CLOSERS[dice.below(len(CLOSERS))]
    k = _operand(dice, sign, value, scale) if left else value + dice.between(2, 40 * scale)
    result = None if k is None else calculate(*((value, sign, k) if left else (k, sign, value)))
    if k is None or result is None:
        return None
    calculations.append((value, sign, k, result) if left else (k, sign, value, result))
    sentences.append(_dollars(dice.pick(texts).format(k=_number(dice, k), **words)))
    return sentences, calculations


def _opening(dice: Dice, words: dict[str, str], scale: int) -> tuple[list[str], list[Calculation], int]:
    """The first sentence, the calculation it asks for if any, and the quantity it leaves."""
    kind = dice.below(4)
    if kind == 0:
        a, b = dice.between(2, 12), dice.between(2, 12)
        text = dice.pick(
            (
                "{n} has {a} {g} with {b} {t} in each.",
                "There are {a} {g} of {b} {t} each.",
                "{n} filled {a} {g} with {b} {t} each.",
            )
        )
        made: list[Calculation] = [(a, "*", b, a * b)]
    elif kind == 1:
        a, b = dice.between(3, 50 * scale), dice.between(3, 40 * scale)
        text = dice.pick(
            (
                "{n} has {a} {t} at home and {b} at school.",
                "{n} has {a} red {t} and {b} green ones.",
                "{n} found {a} {t}, then {b} more.",
            )
        )
        made = [(a, "+", b, a + b)]
    else:
        a, b = dice.between(3, 99 * scale), 0
        text, made = dice.pick(HAS), []
    shown = text.format(a=_number(dice, a), b=_number(dice, b) if b else "", **words)
    return [shown], made, made[-1][3] if made else a


def _operand(dice: Dice, sign: str, value: int, scale: int) -> int | None:
    """A right operand that keeps the result a whole number above zero; None if there is none."""
    if sign == "+":
        return dice.between(2, 50 * scale)
    if sign == "-":
        return dice.between(2, min(60 * scale, value - 1)) if value > 2 else None
    if sign == "*":
        return dice.between(2, 6) if value <= 200 else None
    divisors = [d for d in range(2, 13) if value % d == 0 and value > d]
    return divisors[dice.below(len(divisors))] if divisors else None


def problems(split: str, key: str, levels: tuple[int, ...] = (1, 2, 3)) -> Iterator[Problem]:
    """An endless stream of problems of the split, the levels in turn. UserError-free: levels are ours.

    Train streams may repeat a sequence of calculations; they never contain one of the test side.
    """
    want_test, turn = split == "test", 0
    dice = Dice(f"{REVISION}/{split}/{key}/{levels}")
    while True:
        problem = draw(dice, levels[turn % len(levels)])
        if problem is not None and is_test(problem.skeleton) is want_test:
            turn += 1
            yield problem


@cache
def _split(split: str, size: int, levels: tuple[int, ...]) -> tuple[Item, ...]:
    found: list[Item] = []
    seen: set[tuple[str, ...]] = set()
    mark = "-".join(map(str, levels))
    for problem in problems(split, "items", levels):
        if problem.skeleton in seen:
            continue
        seen.add(problem.skeleton)
        meta = (("plan", problem.plan), ("steps", str(len(problem.steps))))
        name = f"wordproblems-{mark}-{split}-{len(found):04d}"
        found.append(Item(name, problem.question, problem.answer, problem.solution, problem.steps, meta))
        if len(found) == size:
            break
    return tuple(found)


def wordproblems(level: int | None = None) -> ListTask:
    """The task: 1,500 test and 6,000 train items with distinct calculations, of levels 1 to 3 in turn or of one."""
    from triaxis.tasks.listed import ListTask

    levels = (1, 2, 3) if level is None else (level,)
    name = "wordproblems" if level is None else f"wordproblems-{level}"
    sizes = {"test": TEST_SIZE if level != 1 else 800, "train": TRAIN_SIZE if level != 1 else 3000}
    return ListTask(name, f"{REVISION}-{name}", {s: partial(_split, s, n, levels) for s, n in sizes.items()})
