"""The rows of one study arranged for pairing: every condition covers the same items in the same order.

What all axes stand on: scores, votes, roles and shares of a `Table`. Knows condition cards (plain data) and stored
rows; knows nothing of tasks or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from triaxis.estimate.columns import VERDICTS, Columns, arranged, objects, read, reading
from triaxis.estimate.diversity import Diversity, summary
from triaxis.estimate.paired import Estimate, UndefinedEstimate, cluster_mean, paired, wilson
from triaxis.estimate.simultaneous import bootstrap_sums
from triaxis.limits import parse_json
from triaxis.store import GradeRow, PlanRow, Row

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
MARGIN = 0.05  # equivalence margin, in accuracy
T = TypeVar("T")


class Rate(NamedTuple):
    """A share of n with its interval; k may be a fraction where an item has several completions."""

    rate: float
    low: float
    high: float
    k: float
    n: float


Completions = Callable[[str, int | None], list[list[Row]]]  # (condition, first items) -> rows by item


@dataclass(frozen=True)
class Table:
    """Rows of one study arranged for pairing. Every condition covers the same items in the same order, and every array
    of a condition is (items, completions), the completions in order of (seed, branch)."""

    items: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, Any]]  # name -> the condition's card
    columns: Columns
    plans: Mapping[str, PlanRow]
    completions: Completions  # whole rows, for what is not in the columns
    _kept: dict[tuple[str, str], Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def baseline(self) -> str:
        """The bare question's condition."""
        return next(n for n, c in self.conditions.items() if c["role"] == "baseline")

    def role(self, role: str) -> list[str]:
        """The conditions of a role, in the order of the study."""
        return [n for n, c in self.conditions.items() if c["role"] == role]

    def kept(self, what: str, name: str, make: Callable[[], T]) -> T:
        """`make()`, made once for a condition."""
        key = (what, name)
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def rows(self, name: str) -> list[list[Row]]:
        """The rows of a condition, by item."""
        return self.kept("rows", name, lambda: self.completions(name, None))

    def cells(self, name: str, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A condition's part of a column, (items, completions)."""
        return column[self.columns.of[name]].reshape(len(self.items), -1)

    def right(self, name: str) -> Bools:
        """(items, completions) bool: whether each completion is right; unreadable counts as wrong."""
        right = self.columns.rows.verdict == VERDICTS["right"]
        return self.kept("right", name, lambda: self.cells(name, right))

    def score(self, name: str) -> Floats:
        """(items,): the share of an item's completions that are right, 0 or 1 where there is one."""
        return self.kept("score", name, lambda: np.asarray(self.right(name).mean(1), dtype=float))

    def answers(self, name: str) -> list[list[str]]:
        """Canonical answers by item and completion, "" where unreadable."""
        words, codes = self.columns.rows.words, self.columns.rows.answer
        return self.kept("answers", name, lambda: [[words[c] for c in row] for row in self.cells(name, codes).tolist()])

    def branches(self, name: str) -> int:
        """Branches of one vote."""
        return int(self.conditions[name].get("branches", 1))

    def by_seed(self, name: str) -> list[slice]:
        """Where the branches of each seed stand among an item's completions."""
        size = self.branches(name)
        return [slice(k, k + size) for k in range(0, self.right(name).shape[1], size)]

    def summaries(self, name: str) -> list[Diversity]:
        """Every measure of the branches by item, one summary a seed; ties of the vote are split uniformly."""

        def made() -> list[Diversity]:
            answers, right, twice = self.answers(name), self.right(name), self.duplicates(name)
            return [
                replace(summary([row[s] for row in answers], right[:, s]), duplicates=repeated)
                for s, repeated in zip(self.by_seed(name), twice, strict=True)
            ]

        return self.kept("summaries", name, made)

    def duplicates(self, name: str) -> list[Floats | None]:
        """Share of an item's branches that repeat the text of an earlier one, (items,) for each seed."""
        texts = self.cells(name, self.columns.rows.text)
        return [_duplicates(texts[:, s]) for s in self.by_seed(name)]

    def outcome(self, name: str) -> Floats:
        """(items,): what the condition answers in the end: its vote where it has branches, else its score."""
        if self.branches(name) == 1:
            return self.score(name)
        return np.asarray(np.mean([d.vote.score for d in self.summaries(name)], axis=0), dtype=float)

    def details(self, name: str) -> list[Mapping[str, Any]]:
        """What is noted of each item's plan, which all its completions show; {} without a plan or where the note is no
        JSON object."""
        words, shown = self.columns.rows.words, self.cells(name, self.columns.rows.plan)[:, 0].tolist()
        return self.kept("details", name, lambda: [_detail(self.plans.get(words[p])) for p in shown])

    def difference(self, name: str, against: str, label: str = "") -> Estimate:
        """Score of one condition minus score of another, by item."""
        return paired(self.score(name), self.score(against), name=label or f"{name} vs {against}")

    def tokens(self, name: str) -> Floats:
        """(items,): tokens that forward passes read for an item's vote in this condition, the stages that its prompt
        was made from included. What a planner read to write its plans is not in the rows and not counted."""
        own = self.cells(name, self.columns.rows.tokens).sum(axis=1).astype(float)
        mine: Floats = own / len(self.by_seed(name))
        stage = str(self.conditions[name].get("plan", ""))
        return mine + self.tokens(stage.removeprefix("rows:")) if stage.startswith("rows:") else mine


def _duplicates(texts: npt.NDArray[np.int64]) -> Floats | None:
    """As `diversity.duplicate_rate`, of texts by digest; None for a single branch."""
    k = texts.shape[1]
    if k < 2:
        return None
    repeated = np.diff(np.sort(texts, axis=1), axis=1) == 0
    return np.asarray(repeated.sum(axis=1) / (k - 1), dtype=float)


def arrange(
    rows: Sequence[Row],
    grades: Mapping[str, GradeRow],
    plans: Mapping[str, PlanRow],
    cards: Sequence[Mapping[str, Any]],
    n: int,
) -> Table:
    """Pair the rows of `n` items. UndefinedEstimate where rows or grades are missing: run the study to its end.

    cards: the conditions, each with the number of "completions" an item has in it, over seeds and branches.
    """
    known = [r for r in rows if r.condition in {str(c["name"]) for c in cards}]
    how = reading(cards, lambda plan: plans[plan].text if plan in plans else "")
    found = {r.id: r for r in known}

    def completions(name: str, first: int | None) -> list[list[Row]]:
        return by_item(columns, name, first, lambda ids: [found[i] for i in ids])

    columns = arranged(read(objects(known, grades), how))
    return table(columns, plans, cards, n, completions)


def by_item(
    columns: Columns, name: str, first: int | None, fetch: Callable[[list[str]], Sequence[Row]]
) -> list[list[Row]]:
    """Rows of a condition's `first` items, or of all of them. fetch: rows by id, in the order of the ids."""
    at = columns.of[name]
    items = len(columns.items) if first is None else min(first, len(columns.items))
    each = (at.stop - at.start) // max(1, len(columns.items))
    rows = fetch(columns.ids(slice(at.start, at.start + items * each)))
    return [list(rows[k : k + each]) for k in range(0, items * each, each)]


def table(
    columns: Columns, plans: Mapping[str, PlanRow], cards: Sequence[Mapping[str, Any]], n: int, completions: Completions
) -> Table:
    """A table of columns. UndefinedEstimate where a condition does not have all its rows for `n` items, or grades."""
    for card in cards:
        at = columns.of.get(card["name"], slice(0, 0))
        counts = np.bincount(columns.rows.item[at], minlength=len(columns.items))
        whole = int(np.sum(counts == card["completions"]))
        if whole != n or len(columns.items) != n:
            raise UndefinedEstimate(
                f"condition {card['name']!r} has all its rows for {whole} of {n} items; run the study to its end first"
            )
    missing = len(columns.ungraded())
    if missing:
        raise UndefinedEstimate(f"{missing} of {len(columns.rows)} rows are not graded; run triaxis grade first")
    return Table(tuple(columns.items), {str(c["name"]): c for c in cards}, columns, plans, completions)


def _detail(plan: PlanRow | None) -> Mapping[str, Any]:
    try:
        found = parse_json(plan.detail) if plan else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------- shares


def share(hits: npt.ArrayLike, cases: npt.ArrayLike, *, seed: int = 0) -> Rate | None:
    """Sum of hits over sum of cases with a 95 % interval by item; None without a case.

    hits, cases: (items,) with 0 <= hits <= cases. Whole numbers of at most 1: Wilson's interval. Otherwise, several
    completions an item: percentile bootstrap of the ratio over items, no narrower than Wilson's on as many items.
    """
    k, n = np.asarray(hits, float), np.asarray(cases, float)
    total = float(n.sum())
    if total == 0:
        return None
    rate = float(k.sum()) / total
    if np.isin(n, (0, 1)).all() and np.isin(k, (0, 1)).all():
        low, high = wilson(round(float(k.sum())), round(total))
        return Rate(rate, low, high, float(k.sum()), total)
    units = int(np.sum(n > 0))
    low, high = wilson(round(rate * units), units)
    sums = bootstrap_sums(np.stack([k, n], axis=1), seed=seed)
    drawn = sums[sums[:, 1] > 0]
    ends = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return Rate(rate, min(low, float(ends[0])), max(high, float(ends[1])), float(k.sum()), total)


def as_dict(rate: Rate | None) -> dict[str, float] | None:
    """A rate as JSON."""
    return None if rate is None else rate._asdict()


def interval(x: Floats, most: float = 1.0) -> list[float]:
    """Low and high of a mean over items of something in [0, most]."""
    e = cluster_mean(x, bounds=(0.0, most))
    return [float(e.low), float(e.high)]
