"""Items whose outcome differs between a condition and the one it is compared with: what to look at first.

Reads rows, grades, plans and condition cards; knows nothing of HTML. An item's score is its vote, averaged over
seeds, so a condition of one branch scores as in axes 1 and 2 and one of several as in axis 3; gained and lost items
therefore are the `gain` and `loss` of the effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from triaxis.errors import UserError
from triaxis.estimate.columns import VERDICTS, Columns, vote
from triaxis.limits import parse_json
from triaxis.report.words import clip, number
from triaxis.store import GradeRow, PlanRow, Row

FLAGS = ("tie", "unreadable", "truncated")  # a tied vote; a branch that could not be read; one cut by the canvas
_VERDICTS = {code: str(name) for name, code in VERDICTS.items()}
AHEAD = 256  # flips whose rows are fetched together
LONGEST = 1500  # characters of any one text; its middle is left out beyond them


@dataclass(frozen=True, slots=True)
class Side:
    """What one condition showed for one item and what came back."""

    condition: str
    before: str  # text put before the question
    after: str  # text put after it
    prompt: str  # the whole prompt, only where it does not hold the bare question
    plan: str  # the plan's text, only where the prompt does not hold it as it is
    plan_notes: Sequence[str]
    text: str
    verdict: str
    answer: str
    outcome: str  # the answer that counts, or those that tie
    notes: Sequence[str]
    votes: Sequence[tuple[str, str, int]]  # answer, verdict, branches; empty for one branch


@dataclass(frozen=True, slots=True)
class Flip:
    """One item under a condition and under the one it is compared with. `gold` is "" where no plan states it."""

    item: str
    direction: Literal["gained", "lost", "same"]
    flags: Sequence[str]  # of FLAGS, on either side
    question: str
    gold: str
    old: Side
    new: Side


@dataclass(frozen=True, slots=True)
class Pair:
    """A condition against the one its card names, with the items that flipped, in order of their ids.

    `others`: items that did not flip, but with one of FLAGS on either side.
    """

    condition: str
    against: str
    n: int
    gained: int
    lost: int
    items: Sequence[str]
    others: Sequence[str]


Fetch = Callable[[Sequence[str]], Sequence[tuple[Row, GradeRow]]]  # whole rows by id, in the order of the ids


class Flips:
    """The flips of a study. Counts are made at once, the texts of a flip are fetched when it is asked for."""

    def __init__(
        self, columns: Columns, plans: Mapping[str, PlanRow], cards: Sequence[Mapping[str, Any]], fetch: Fetch
    ) -> None:
        missing = columns.ungraded()[:1]
        if missing:
            at = missing[0]
            id, name = columns.ids(slice(at, at + 1))[0], columns.conditions[columns.rows.condition[at]]
            raise UserError(f"row {id} of condition {name!r} has no grade; run triaxis grade on the folder first")
        self.columns, self.plans, self.fetch = columns, plans, fetch
        self._sides: dict[tuple[str, str, str], Side] = {}
        self._rows: dict[int, tuple[Row, GradeRow]] = {}  # place -> row
        self._winners: dict[tuple[str, str], tuple[int, list[tuple[str, str, int]]]] = {}
        self.places = {name: self._places(at) for name, at in columns.of.items()}
        self.bare = next((str(c["name"]) for c in cards if c.get("role") == "baseline"), "none")
        self.branches = {str(c["name"]): int(c.get("branches", 1)) for c in cards}
        self.scores = {name: self._scores(name) for name in self.places}
        compared = [(str(c["name"]), str(c.get("against", ""))) for c in cards if c.get("role") != "stage"]
        self.pairs = [self._pair(a, b) for a, b in compared if a != b and a in self.scores and b in self.scores]

    def __iter__(self) -> Iterator[tuple[int, Flip]]:
        """(pair, flip): the first of every pair, then the second of every pair, and so on: any prefix is fair.

        Items that did not flip come after all that did.
        """
        order = self._order()
        while some := list(islice(order, AHEAD)):
            self._fetch_ahead([(self.pairs[place], item) for place, item in some])
            for place, item in some:
                yield place, self._flip(self.pairs[place], item)

    def _order(self) -> Iterator[tuple[int, str]]:
        for which in ("items", "others"):
            found = [getattr(p, which) for p in self.pairs]
            for depth in range(max(map(len, found), default=0)):
                yield from ((place, items[depth]) for place, items in enumerate(found) if depth < len(items))

    def _fetch_ahead(self, flips: Sequence[tuple[Pair, str]]) -> None:
        """The rows that flips show, in one query: one query a row took half of a page's time."""
        wanted = [
            place
            for pair, item in flips
            for place in (
                self._place(self._asks(item, pair.against), item),
                *(self._place(name, item, self._shown(name, item)[0]) for name in (pair.condition, pair.against)),
            )
        ]
        fresh = [at for at in dict.fromkeys(wanted) if at not in self._rows]
        ids = [self.columns.ids(slice(at, at + 1))[0] for at in fresh]
        self._rows |= zip(fresh, self.fetch(ids), strict=True)

    def _places(self, at: slice) -> dict[str, slice]:
        """Where the rows of each item are, in one condition."""
        items, starts = np.unique(self.columns.rows.item[at], return_index=True)
        ends = [*starts[1:].tolist(), at.stop - at.start]
        names = [self.columns.items[i] for i in items.tolist()]
        return {n: slice(at.start + a, at.start + b) for n, a, b in zip(names, starts.tolist(), ends, strict=True)}

    def _evenly(self, condition: str) -> Iterator[tuple[list[str], npt.NDArray[np.int64]]]:
        """(items, places of their rows, (items, rows an item)), by how many rows an item has."""
        by_count: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for item, at in self.places[condition].items():
            by_count[at.stop - at.start].append((item, at.start))
        for count, found in by_count.items():
            yield [i for i, _ in found], np.array([start for _, start in found])[:, None] + np.arange(count)

    def _scores(self, condition: str) -> dict[str, float]:
        size, rows = self.branches.get(condition, 1), self.columns.rows
        scores: dict[str, float] = {}
        for items, at in self._evenly(condition):
            right = rows.verdict[at] == VERDICTS["right"]
            seeds = [slice(k, k + size) for k in range(0, at.shape[1], size)]
            votes = [vote(rows.answer[at[:, s]], right[:, s], self._unread)[0] for s in seeds]
            mean = right[:, 0].astype(float) if size == at.shape[1] == 1 else sum(votes) / len(seeds)
            scores |= zip(items, np.asarray(mean).tolist(), strict=True)
        return scores

    @cached_property
    def _unread(self) -> int:
        """The code of no answer; one that nothing has where everything was read."""
        words = self.columns.rows.words
        return list(words).index("") if "" in words else -1

    def _place(self, condition: str, item: str, which: int = 0) -> int:
        return int(self.places[condition][item].start) + which

    def _row(self, condition: str, item: str, which: int = 0) -> tuple[Row, GradeRow]:
        """A row that was fetched ahead."""
        return self._rows[self._place(condition, item, which)]

    def _shown(self, condition: str, item: str) -> tuple[int, list[tuple[str, str, int]]]:
        """Which of an item's rows is shown, the first that gave the winning answer, and the votes; none for one row."""
        key = (condition, item)
        if key not in self._winners:
            ballots = self._ballots(condition, item)
            votes = _votes(ballots) if len(ballots) > 1 else []
            first = next(i for i, (answer, _) in enumerate(ballots) if not votes or answer == votes[0][0])
            self._winners[key] = first, votes
        return self._winners[key]

    def _ballots(self, condition: str, item: str) -> list[tuple[str, str]]:
        """(answer, verdict) of an item's rows."""
        rows, at = self.columns.rows, self.places[condition][item]
        codes = zip(rows.answer[at].tolist(), rows.verdict[at].tolist(), strict=True)
        return [(rows.words[answer], _VERDICTS[verdict]) for answer, verdict in codes]

    def _pair(self, condition: str, against: str) -> Pair:
        new, old = self.scores[condition], self.scores[against]
        both = sorted(new.keys() & old.keys())
        changed = [i for i in both if new[i] != old[i]]
        gained = sum(new[i] > old[i] for i in changed)
        marked = self._flags[condition].keys() | self._flags[against].keys()
        others = [i for i in both if i in marked and new[i] == old[i]]
        return Pair(condition, against, len(both), gained, len(changed) - gained, changed, others)

    def _flip(self, pair: Pair, item: str) -> Flip:
        question = self._row(self._asks(item, pair.against), item)[0].prompt
        new, old = (self._held(name, item, question) for name in (pair.condition, pair.against))
        change = self.scores[pair.condition][item] - self.scores[pair.against][item]
        way: Literal["gained", "lost", "same"] = "gained" if change > 0 else "lost" if change < 0 else "same"
        marked = {f for name in (pair.condition, pair.against) for f in self._flags[name].get(item, ())}
        return Flip(
            item, way, [f for f in FLAGS if f in marked], clip(question, LONGEST), self._gold.get(item, ""), old, new
        )

    def _asks(self, item: str, against: str) -> str:
        """The condition whose prompt is the question."""
        return self.bare if item in self.places.get(self.bare, ()) else against

    @cached_property
    def _flags(self) -> dict[str, dict[str, set[str]]]:
        """condition -> item -> its flags; items without any are left out."""
        found: dict[str, dict[str, set[str]]] = {}
        rows = self.columns.rows
        for name in self.places:
            mine: dict[str, set[str]] = {}
            found[name] = mine
            for items, at in self._evenly(name):
                several = at.shape[1] > 1
                marks = {f: self.columns.kind(f, at).any(axis=1) for f in ("truncated", "unreadable")}
                if several:
                    marks["tie"] = vote(rows.answer[at], rows.verdict[at] == VERDICTS["right"], self._unread)[1]
                for flag, there in marks.items():
                    for place in np.flatnonzero(there).tolist():
                        mine.setdefault(items[place], set()).add(flag)
        return found

    @cached_property
    def _gold(self) -> dict[str, str]:
        """The expected answer by item, as the plans' own notes state it."""
        return {p.item: str(gold) for p in self.plans.values() if (gold := _detail(p).get("gold")) is not None}

    def _held(self, condition: str, item: str, question: str) -> Side:
        """A side, made once: the arm that many are compared with stands on one side of most flips."""
        key = (condition, item, question)
        if key not in self._sides:
            self._sides[key] = self._side(*key)
        return self._sides[key]

    def _side(self, condition: str, item: str, question: str) -> Side:
        which, votes = self._shown(condition, item)
        shown, grade = self._row(condition, item, which)
        plan = self.plans.get(shown.plan)
        before, found, after = shown.prompt.partition(question or "\0")
        return Side(
            condition=condition,
            before=clip(before.strip("\n"), LONGEST) if found else "",
            after=clip(after.strip("\n"), LONGEST) if found else "",
            prompt="" if found else clip(shown.prompt, LONGEST),
            plan=clip(plan.text, LONGEST) if plan and plan.text not in shown.prompt else "",
            plan_notes=_plan_notes(plan) if plan else [],
            text=clip(shown.text, LONGEST),
            verdict=grade.verdict,
            answer=grade.answer,
            outcome=" / ".join(_tied(votes) or [grade.answer or "unreadable"]),
            notes=[*_notes(shown, grade), *(["tied vote"] if len(_tied(votes)) > 1 else [])],
            votes=votes,
        )


def _votes(ballots: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """(answer, verdict, branches), most voted first, unreadable last."""
    counts: dict[tuple[str, str], int] = {}
    for ballot in ballots:
        counts[ballot] = counts.get(ballot, 0) + 1
    ordered = sorted(counts.items(), key=lambda c: (c[0][0] == "", -c[1]))
    return [(answer, verdict, count) for (answer, verdict), count in ordered]


def _tied(votes: Sequence[tuple[str, str, int]]) -> list[str]:
    """The most voted readable answers; none for a single branch."""
    return [answer for answer, _, count in votes if answer != "" and count == votes[0][2]]


def _notes(row: Row, grade: GradeRow) -> list[str]:
    notes = {"marked": "marked answer", "fallback": "read by the fallback rule", "none": "no answer found"}
    found = [notes.get(grade.how, grade.how)]
    if not row.ended:
        found.append("truncated by the canvas")
    if grade.second >= 0 and bool(grade.second) != (grade.verdict == "right"):
        found.append("the second grader disagrees")
    return found


def _plan_notes(plan: PlanRow) -> list[str]:
    detail = _detail(plan)
    found = [plan.source, f"{number(plan.tokens, 0)} tokens"]
    if plan.truncated:
        found.append("cut at its limit")
    if detail.get("implied") is not None:  # it has calculations; a filler has none
        found += (
            [] if detail.get("steps_right") is None else ["steps right" if detail["steps_right"] else "steps wrong"]
        )
        found.append(f"implies {detail['implied']}")
    if detail.get("leaks"):
        found.append("states the answer")
    return found


def _detail(plan: PlanRow) -> dict[str, Any]:
    """What the plan's source says of it; nothing where that is not an object."""
    try:
        found = parse_json(plan.detail)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
