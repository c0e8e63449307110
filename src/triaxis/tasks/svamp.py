"""SVAMP (arXiv:2103.07191): 1,000 short word problems, MIT licence, shipped in the package.

The source publishes one file, a challenge set without a train part, made by varying about a hundred other problems: a
family is one story with other numbers or another question. A random split, as some mirrors have it, puts members of
one family on both sides. Here whole families go to one side (`families`), so the test asks no story of the train
split. data/svamp/test_ids.txt holds the outcome; a test makes it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from triaxis.limits import parse_json
from triaxis.tasks.base import Item
from triaxis.tasks.listed import ListTask
from triaxis.tasks.packed import checksums, read_packed

ALIKE = 0.6  # two problems that share this much of their words are of one family
TEST_SIZE = 350  # at least; whole families
_OPERATIONS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}


def svamp() -> ListTask:
    """The task: about 350 test items of families that the train split has no member of."""
    known = checksums(_folder(), "SVAMP")["SVAMP.json"]
    side = hashlib.sha256(_test_ids().encode()).hexdigest()
    splits = {"test": lambda: load("test"), "train": lambda: load("train")}
    return ListTask("svamp", f"{known[:12]}-{side[:12]}", splits)


@cache
def load(split: str) -> tuple[Item, ...]:
    """The items of a split in file order, ids as published (chal-1 and on)."""
    test = set(_test_ids().split())
    return tuple(item(row) for row in rows() if (row["ID"] in test) is (split == "test"))


@cache
def rows() -> tuple[Mapping[str, Any], ...]:
    """The published rows. UserError if the file is not as published."""
    return tuple(parse_json(read_packed(_folder(), "SVAMP.json", "SVAMP")))


def item(row: Mapping[str, Any]) -> Item:
    """One row as an item; its worked solution is its equation, one calculation a line."""
    body = row["Body"].strip()
    question = f"{body}{'' if body[-1] in '.?!,' else ','} {row['Question'].strip()}"
    answer = _spelled(Fraction(str(row["Answer"])))
    steps = calculations(row["Equation"])
    lines = steps or (f"The problem says it: {answer}",)  # one row's equation is a number
    return Item(row["ID"], question, answer, "\n".join((*lines, f"#### {answer}")), steps)


def calculations(equation: str) -> tuple[str, ...]:
    """The calculations of a fully bracketed equation, innermost first: "( ( 3.0 + 5.0 ) - 2.0 )" -> 3+5=8, 8-2=6."""
    made: list[str] = []
    stack: list[str] = []
    for token in equation.split():
        if token != ")":
            stack.append(token)
            continue
        right, sign, left, _ = (stack.pop() for _ in range(4))
        a, b = Fraction(left), Fraction(right)
        value = _spelled(_OPERATIONS[sign](a, b))
        made.append(f"{_spelled(a)}{sign}{_spelled(b)}={value}")
        stack.append(value)
    return tuple(made)


def families(problems: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The ids of each family, in file order: problems joined by chains of pairs that share `ALIKE` of their words."""
    words = [frozenset(re.findall(r"[a-z]+", f"{p['Body']} {p['Question']}".lower())) for p in problems]
    parent = list(range(len(problems)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, mine in enumerate(words):
        for j in range(i):
            if len(mine & words[j]) >= ALIKE * len(mine | words[j]):
                parent[root(i)] = root(j)
    found: dict[int, list[str]] = {}
    for i, p in enumerate(problems):
        found.setdefault(root(i), []).append(p["ID"])
    return list(found.values())


def choose_test(found: Sequence[Sequence[str]]) -> list[str]:
    """Families in the order of a hash until the test split is large enough; their ids in file order."""
    chosen: list[str] = []
    for family in sorted(found, key=lambda f: hashlib.sha256(f[0].encode()).digest()):
        if len(chosen) >= TEST_SIZE:
            break
        chosen += family
    return sorted(chosen, key=lambda name: int(name.removeprefix("chal-")))


def _spelled(value: Fraction) -> str:
    """A rational as the grader spells it."""
    return str(value.numerator) if value.denominator == 1 else str(value)


def _test_ids() -> str:
    return (_folder() / "test_ids.txt").read_text("utf-8")


def _folder() -> Traversable:
    return files("triaxis.tasks") / "data" / "svamp"
