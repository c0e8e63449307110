"""`gradeschool`: generated multi-step arithmetic word problems with worked solutions.

A problem is a chain of one to four calculations told in varied language. Its *skeleton* is the tuple
of calculations ("12+7", "19*2"); a hash of the skeleton alone decides whether a problem belongs to
train or to test, so no test problem's numbers-and-operations sequence can occur in training: the
splits are disjoint by construction (and a test checks it).

All randomness comes from `random.Random(text).random()`, which Python keeps stable across versions.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from triaxis.tasks.base import Item

if TYPE_CHECKING:
    from triaxis.tasks.listed import ListTask

REVISION = "gradeschool-1"
TEST_SIZE = 2400
MAX_STEPS = 4
MAX_VALUE = 199
MAX_SOLUTION_CHARS = 46  # so that the solution and its end mark fit 48 tokens of the tiny tokenizer
WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}

NAMES = ("Tom", "Mia", "Ana", "Ben", "Leo", "Eva", "Sam", "Zoe", "Max", "Ida")
THINGS = ("pens", "cards", "shells", "apples", "coins", "books", "beads", "stamps", "marbles", "cups")
BOXES = ("boxes", "bags", "trays", "jars")
STORY = {
    "+": (
        "{n} finds {k} more {t}.",
        "Then {n} buys {k} more.",
        "A friend gives {n} {k} {t}.",
        "{k} more {t} are added.",
        "After that {n} wins {k} {t}.",
        "{n} picks up another {k}.",
    ),
    "-": (
        "{n} gives away {k} {t}.",
        "Then {n} loses {k} of them.",
        "{n} sells {k} {t}.",
        "{k} of the {t} break.",
        "After that {n} uses {k} {t}.",
        "{k} are taken away.",
    ),
    "*": (
        "Soon {n} has {k} times as many {t}.",
        "The number of {t} grows {k} times.",
        "Then {n} gets {k} times that number.",
        "A game makes it {k} times as many.",
    ),
    "/": (
        "{n} shares the {t} equally among {k} friends and looks at one share.",
        "The {t} are split into {k} equal groups and {n} keeps one group.",
        "{n} puts them into {k} equal rows and counts one row.",
        "Only one of {k} equal parts is left.",
    ),
}
# The marks and words that scaffolds use occur here in ordinary roles, so that a scaffold does not
# measure untrained embeddings. No line contains a scaffold under test.
ASIDES = (
    "{n} has a plan for the day.",
    "Plan B is the name of a shop.",
    "{n} takes the hint.",
    "Hint is the name of a cat.",
    "The draft from the door is cold.",
    "Draft horses like hay.",
    "They sit side by side.",
    "Let's say it is a clear day.",
    "Some think the sky is calm today.",
    "The first step of the house is red.",
    "Today the shop is open: all day long.",
    "Box <A> is red and box <B> is blue.",
    "The set {{A, B}} is blue.",
    'A card reads "go".',
    "The tag is #red and the weather is clear.",
    "Wait... it is late.",
    "The solution of salt is clear.",
    "And so it goes.",
    "The weather and the sky are calm.",
    "It is the answer to a letter.",
    'A card reads "plan" or "hint".',
    "<A> and <B> mark the doors.",
    "{{A}} is a set.",
    "#red is the tag of the day.",
)
# (text, whether a plan for a problem that ends so states the last result)
ENDINGS = (
    ("How many {t} are there?", True),
    ("How many {t} does {n} have now?", False),
    ("What is the number of {t} then?", True),
    ("The answer is the number of {t} left.", False),
    ("Find the number of {t} at the end.", True),
    ("Say how many {t} there are in the end.", False),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One generated problem: `calculations` are (left, op, right, result); `leaks` says whether its plan may."""

    question: str
    calculations: tuple[tuple[int, str, int, int], ...]
    leaks: bool

    @property
    def skeleton(self) -> tuple[str, ...]:
        return tuple(f"{a}{op}{b}" for a, op, b, _ in self.calculations)

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(f"{a}{op}{b}={c}" for a, op, b, c in self.calculations)

    @property
    def answer(self) -> str:
        return str(self.calculations[-1][3])

    @property
    def solution(self) -> str:
        return "\n".join((*self.steps, f"#### {self.answer}"))

    @property
    def plan(self) -> str:
        return plan_text(self.calculations, self.leaks)


def plan_text(calculations: Sequence[tuple[int, str, int, int]], leaks: bool) -> str:
    """The gold plan in words: "12 plus 7 is 19, then 19 times 2." The last result is stated only if `leaks`."""
    parts = [f"{a} {WORDS[op]} {b} is {c}" for a, op, b, c in calculations]
    if not leaks:
        parts[-1] = parts[-1].rsplit(" is ", 1)[0]
    return ", then ".join(parts) + "."


def is_test(skeleton: Sequence[str]) -> bool:
    """Whether problems with this skeleton belong to the test split (one in eight)."""
    return hashlib.sha256("|".join(skeleton).encode()).digest()[0] % 8 == 0


class Dice:
    """The few draws the generator needs, from a text key, stable across Python versions."""

    def __init__(self, key: str) -> None:
        self._random = random.Random(key)

    def below(self, n: int) -> int:
        return int(self._random.random() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def pick(self, options: Sequence[str]) -> str:
        return options[self.below(len(options))]

    def chance(self, p: float) -> bool:
        return self._random.random() < p


def _operand(dice: Dice, op: str, value: int) -> int | None:
    """A right operand that keeps the result a whole number within 1..MAX_VALUE; None if there is none."""
    if op == "+":
        return dice.between(2, min(50, MAX_VALUE - value)) if value <= MAX_VALUE - 2 else None
    if op == "-":
        return dice.between(1, min(50, value - 1)) if value > 1 else None
    if op == "*":
        top = min(7, MAX_VALUE // value)
        return dice.between(2, top) if top >= 2 else None
    divisors = [d for d in range(2, 9) if value % d == 0 and value // d >= 1]
    return divisors[dice.below(len(divisors))] if divisors else None


def _opening(dice: Dice, name: str, thing: str) -> tuple[str, list[tuple[int, str, int, int]], int]:
    """The first sentence, the calculations it already asks for, and the quantity it leaves."""
    kind = dice.below(6)
    if kind <= 2:
        value = dice.between(3, 99)
        return dice.pick((f"{name} has {value} {thing}.", f"There are {value} {thing}.")), [], value
    other = NAMES[(NAMES.index(name) + 1 + dice.below(len(NAMES) - 1)) % len(NAMES)]
    if kind == 3:
        a, b = dice.between(2, 12), dice.between(2, 12)
        box = dice.pick(BOXES)
        return f"{name} has {a} {box} with {b} {thing} in each.", [(a, "*", b, a * b)], a * b
    a, b = dice.between(3, 70), dice.between(3, 40)
    if kind == 4:
        return f"{name} has {a} {thing} and {other} has {b}. They put them together.", [(a, "+", b, a + b)], a + b
    more = a + b
    if a + more > MAX_VALUE:
        return f"{other} has {a} {thing}. {name} has {b} more than {other}.", [(a, "+", b, more)], more
    text = f"{other} has {a} {thing}. {name} has {b} more than {other}. They put all of them together."
    return text, [(a, "+", b, more), (a, "+", more, a + more)], a + more


def _draw(dice: Dice, length: int) -> Problem | None:
    """One problem of `length` calculations, or None where the draw did not work out."""
    name, thing = dice.pick(NAMES), dice.pick(THINGS)
    text, calculations, value = _opening(dice, name, thing)
    if len(calculations) > length:
        return None
    sentences = [text]
    while len(calculations) < length:
        op = dice.pick("++--*/")
        operand = _operand(dice, op, value)
        if operand is None:
            return None
        result = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[op]
        calculations.append((value, op, operand, result))
        sentences.append(dice.pick(STORY[op]).format(n=name, k=operand, t=thing))
        value = result
    ending, leaks = ENDINGS[dice.below(len(ENDINGS))]
    if dice.chance(0.3):
        sentences.insert(dice.below(len(sentences) + 1), dice.pick(ASIDES).format(n=name))
    question = " ".join((*sentences, ending.format(n=name, t=thing)))
    problem = Problem(question, tuple(calculations), leaks)
    return problem if len(problem.solution) <= MAX_SOLUTION_CHARS else None


def problems(split: str, key: str) -> Iterator[Problem]:
    """An endless stream of problems of the split, one to four steps in turn, all with new skeletons' side.

    Train streams may repeat a skeleton; they never contain one of the test side.
    """
    want_test = split == "test"
    dice = Dice(f"{REVISION}/{split}/{key}")
    length = 0
    while True:
        problem = _draw(dice, length % MAX_STEPS + 1)
        if problem is not None and is_test(problem.skeleton) is want_test:
            length += 1
            yield problem


@cache
def _split(split: str, size: int) -> tuple[Item, ...]:
    found: list[Item] = []
    seen: set[tuple[str, ...]] = set()
    for problem in problems(split, "items"):
        if problem.skeleton in seen:
            continue
        seen.add(problem.skeleton)
        meta = (("plan", problem.plan), ("steps", str(len(problem.steps))))
        name = f"gradeschool-{split}-{len(found):04d}"
        found.append(Item(name, problem.question, problem.answer, problem.solution, problem.steps, meta))
        if len(found) == size:
            break
    return tuple(found)


def gradeschool() -> ListTask:
    """The task: 2,400 test items with distinct skeletons, 4,000 train items for adapters and planners."""
    from triaxis.tasks.listed import ListTask

    return ListTask(
        name="gradeschool",
        revision=REVISION,
        splits={"test": partial(_split, "test", TEST_SIZE), "train": partial(_split, "train", 4000)},
    )
