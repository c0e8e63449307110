"""A study's rows and grades in columns: what estimates and flips need of five million rows, in some hundred megabytes.

A part is read from stored values, row by row and in any order; parts of one study are put together and sorted by
(condition, item, seed, branch). Texts become digests of 64 bits, which are only ever asked whether two are the same
(two of a million different texts meet with a chance of 3e-8), and flags. NumPy only: no SciPy, no models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from triaxis.estimate.marks import FLOOR, KINDS, Continues, openers
from triaxis.store import GradeRow, Row, plain

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Values = Sequence[Any]  # of a row and its grade, as `Store.graded` gives them
BATCH = 20_000  # rows whose texts are in memory at once
VERDICTS = {"wrong": 0, "right": 1, "unreadable": 2, None: 255}  # None: not graded
_BITS = {kind: np.uint8(1 << k) for k, kind in enumerate(KINDS)}
_UNKNOWN = np.uint8(1 << len(KINDS))  # no second grader was asked


class Reading(NamedTuple):
    """How completions are looked at. continues: see `marks`. several: conditions whose texts are compared by item."""

    continues: Continues
    several: frozenset[str]


def reading(cards: Sequence[Mapping[str, Any]], plan: Callable[[str], str]) -> Reading:
    """For the conditions of a study. plan: the text of a plan by its id."""
    several = frozenset(str(c["name"]) for c in cards if c.get("branches", 1) > 1)
    return Reading(Continues(openers(cards), plan), several)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows, one entry of every array each. condition, item, plan and answer are places in `words`."""

    words: Sequence[str]
    id: Array  # bytes
    condition: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    plan: npt.NDArray[np.int32]
    answer: npt.NDArray[np.int32]
    seed: Ints
    branch: Ints
    prompt: Ints  # digests
    text: Ints  # of the text without white space at its ends; 0 where it is not compared with any
    tokens: Ints
    forwards: Ints
    verdict: npt.NDArray[np.uint8]  # of VERDICTS
    flags: npt.NDArray[np.uint8]  # one bit a kind of KINDS, and _UNKNOWN
    fallback: Bools  # the answer was read by the fallback rule

    def __len__(self) -> int:
        return len(self.id)


CODED = ("condition", "item", "plan", "answer")  # places in a list of words
ARRAYS = tuple(f.name for f in fields(Part) if f.name != "words")
DTYPES: Mapping[str, Any] = {  # of an array without rows; the longest id makes its own
    **dict.fromkeys(ARRAYS, np.int64), **dict.fromkeys(CODED, np.int32),
    "id": np.dtype("S1"), "verdict": np.uint8, "flags": np.uint8, "fallback": np.bool_,
}  # fmt: skip


def objects(rows: Iterable[Row], grades: Mapping[str, GradeRow]) -> Iterator[Values]:
    """Values as a store gives them, of rows and grades that are at hand."""
    none = (None,) * 4
    for row in rows:
        grade = grades.get(row.id)
        yield (*plain(row), *(none if grade is None else plain(grade)[1:]))


def read(values: Iterable[Values], how: Reading) -> Part:
    """One part from rows with their grades, in any order."""
    words: dict[str, int] = {}
    found = iter(values)
    batches = [_batch(batch, how, words) for batch in iter(lambda: list(islice(found, BATCH)), [])]
    return _joined(words, {name: [b[name] for b in batches] for name in ARRAYS})


def _joined(words: Iterable[str], held: dict[str, list[Array]]) -> Part:
    empty = {name: np.empty(0, dtype=DTYPES[name]) for name in ARRAYS}
    return Part(list(words), **{name: np.concatenate([empty[name], *held.pop(name)]) for name in ARRAYS})


def _batch(batch: Sequence[Values], how: Reading, words: dict[str, int]) -> dict[str, Array]:
    (id, condition, item, branch, seed, plan, prompt, text, tokens, forwards, ended, length, _, _, verdict, answer,
     by, second) = zip(*batch, strict=True)  # fmt: skip
    if None in verdict:
        answer, second = tuple(a or "" for a in answer), tuple(-1 if s is None else s for s in second)
    bare = [t.strip() for t in text]
    digests = [_digest(t) if c in how.several else 0 for t, c in zip(bare, condition, strict=True)]
    codes = [VERDICTS.get(v, 0) for v in verdict]
    goes_on = list(map(how.continues, text, plan, by))
    coded = zip(CODED, (condition, item, plan, answer), strict=True)
    return {
        **{n: np.array([words.setdefault(w, len(words)) for w in column], dtype=np.int32) for n, column in coded},
        "id": np.array([i.encode() for i in id]),
        "seed": _whole(seed), "branch": _whole(branch), "tokens": _whole(tokens), "forwards": _whole(forwards),
        "prompt": _whole([_digest(p) for p in prompt]), "text": _whole(digests),
        "verdict": np.array(codes, dtype=np.uint8),
        "flags": _flags(np.array(codes), np.array(ended, bool), np.array([not t for t in bare]), _whole(length),
                        np.array(goes_on, bool), _whole(second)),
        "fallback": np.array([b == "fallback" for b in by]),
    }  # fmt: skip


def _whole(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _digest(text: str) -> int:
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


def _flags(verdict: Array, ended: Bools, empty: Bools, length: Ints, goes_on: Bools, second: Ints) -> Array:
    """The bits of `KINDS`, in its order."""
    right = verdict == VERDICTS["right"]
    short = empty | ((length > 0) & (length < FLOOR))
    kinds = (
        ~ended, verdict == VERDICTS["unreadable"], ended & short, ended & empty, goes_on,
        (second >= 0) & (right != (second > 0)),
    )  # fmt: skip
    bits = np.where(second < 0, _UNKNOWN, np.uint8(0))
    for there, bit in zip(kinds, _BITS.values(), strict=True):
        bits |= np.where(there, bit, np.uint8(0))
    return bits


def join(parts: Iterable[Part]) -> Part:
    """All of them as one, with one list of words. Parts may be taken as they come."""
    words: dict[str, int] = {}
    held: dict[str, list[Array]] = {name: [] for name in ARRAYS}
    for part in parts:
        moved = np.array([words.setdefault(w, len(words)) for w in part.words], dtype=np.int32)
        for name in ARRAYS:
            column = getattr(part, name)
            held[name].append(moved[column] if name in CODED and len(part) else column)
    return _joined(words, held)


# ---------------------------------------------------------------- a whole study


@dataclass(frozen=True)
class Columns:
    """The rows of a study, ordered by condition, item, seed and branch. `of[name]`: where a condition's rows are.

    In `rows`, condition and item are places in `conditions` and `items`, both sorted; plan and answer in `rows.words`.
    """

    rows: Part
    conditions: Sequence[str]
    items: Sequence[str]

    @cached_property
    def of(self) -> Mapping[str, slice]:
        ends = np.searchsorted(self.rows.condition, np.arange(len(self.conditions) + 1)).tolist()
        return {name: slice(ends[k], ends[k + 1]) for k, name in enumerate(self.conditions)}

    def kind(self, name: str, at: slice | Ints) -> Bools:
        """Whether completions have a kind of failure. "disagree" is false where no second grader was asked."""
        found: Bools = (self.rows.flags[at] & _BITS[name]) > 0
        return found

    def asked(self, at: slice) -> Bools:
        """Whether a second grader was asked."""
        found: Bools = (self.rows.flags[at] & _UNKNOWN) == 0
        return found

    def ungraded(self) -> list[int]:
        """Places of the rows that have no grade."""
        return np.flatnonzero(self.rows.verdict == VERDICTS[None]).tolist()

    def ids(self, at: slice) -> list[str]:
        return [i.decode() for i in self.rows.id[at].tolist()]


def arranged(rows: Part) -> Columns:
    """Sorted, with sorted names of conditions and items."""
    conditions, condition = _ranked(rows.words, rows.condition)
    items, item = _ranked(rows.words, rows.item)
    order = np.lexsort((rows.id, *_packed(condition, item, rows.seed, rows.branch)))
    moved = {name: getattr(rows, name)[order] for name in ARRAYS if name not in ("condition", "item")}
    return Columns(Part(rows.words, condition=condition[order], item=item[order], **moved), conditions, items)


def _ranked(words: Sequence[str], codes: npt.NDArray[np.int32]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The words that occur, sorted, and the place of each row's among them."""
    there = np.unique(codes).tolist()
    named = sorted((words[c], c) for c in there)
    places = np.zeros(len(words), dtype=np.int32)
    places[[c for _, c in named]] = np.arange(len(named))
    return [w for w, _ in named], places[codes]


def _packed(condition: Array, item: Array, seed: Ints, branch: Ints) -> tuple[Array, ...]:
    """One number that sorts as the four do where they fit into 63 bits, else the four, the last one the first key."""
    seeds, s = np.unique(seed, return_inverse=True)
    branches, b = np.unique(branch, return_inverse=True)
    sizes = [int(condition.max(initial=0)) + 1, int(item.max(initial=0)) + 1, max(1, len(seeds)), max(1, len(branches))]
    if np.prod([float(x) for x in sizes]) >= 2.0**62:
        return branch, seed, item, condition
    key = condition.astype(np.int64)
    for column, size in zip((item, s, b), sizes[1:], strict=True):
        key *= size
        key += column
    return (key,)


# ---------------------------------------------------------------- what ran


def once(columns: Columns, settings: Callable[[str, int], tuple[str, bool]]) -> Ints:
    """Places of the rows that stand for what ran: those with one prompt, one protocol and one random stream were
    sampled once, and the last of them counts. settings: protocol of (condition, branch), and whether it draws."""
    rows, keys = columns.rows, dict[str, int]()
    protocol, stream = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), -1, dtype=np.int64)
    own = _packed(np.zeros_like(rows.item), rows.item, rows.seed, rows.branch)
    place = np.unique(np.stack(own, axis=1), axis=0, return_inverse=True)[1] if len(own) > 1 else own[0]
    for name, at in columns.of.items():
        for branch in np.unique(rows.branch[at]).tolist():
            key, draws = settings(name, branch)
            mine = at.start + np.flatnonzero(rows.branch[at] == branch)
            protocol[mine] = keys.setdefault(key, len(keys))
            stream[mine] = place[mine] if draws else -1
    order = np.lexsort((stream, protocol, rows.prompt))  # stable: within one key as the rows stand
    last = np.ones(len(rows), dtype=bool)
    if len(rows):
        last[:-1] = np.any([np.diff(k[order]) != 0 for k in (stream, protocol, rows.prompt)], axis=0)
    found: Ints = order[last]
    return found


# ---------------------------------------------------------------- votes, without SciPy


def vote(answers: Array, right: Bools, unreadable: int) -> tuple[Floats, Bools]:
    """(score, tie) of the plurality vote of each row of branches, ties split: the share of the tied answers that are
    right, and whether several answers tie. answers, right: (votes, branches); unreadable: the code of no answer.

    The "uniform" rule of triaxis.estimate.diversity for many votes at once; an answer that is called both right and
    wrong counts as two.
    """
    k = answers.shape[1]
    ballots = 2 * answers + right
    said = answers != unreadable
    count = np.zeros(answers.shape, dtype=np.int16)
    first = said.copy()
    for i in range(k):
        for j in range(k):
            same = ballots[:, i] == ballots[:, j]
            count[:, i] += same
            if j < i:
                first[:, i] &= ~same
    count[~said] = 0
    leads = first & (count == count.max(axis=1, keepdims=True))
    tied = leads.sum(axis=1)
    score = (leads & right).sum(axis=1) / np.maximum(tied, 1)
    return score, tied > 1
