"""The rows of one study arranged for pairing: every condition covers the same items in the same order.

What all axes stand on: scores, votes, roles and shares of a `Table`. Knows condition cards (plain data) and stored
rows; knows nothing of tasks or models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True)
class Table:
    """Rows of one study arranged for pairing. Every condition covers the same items in the same order."""

    items: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, Any]]  # name -> the condition's card
    rows: Mapping[str, Sequence[Sequence[Row]]]  # name -> per item, its branches in order of (seed, branch)
    grades: Mapping[str, GradeRow]
    plans: Mapping[str, PlanRow]
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

    def right(self, name: str) -> Bools:
        """(items, completions) bool: whether each completion is right; unreadable counts as wrong."""
        g = self.grades
        return self.kept(
            "right", name, lambda: np.array([[g[r.id].verdict == "right" for r in rows] for rows in self.rows[name]])
        )

    def score(self, name: str) -> Floats:
        """(items,): the share of an item's completions that are right, 0 or 1 where there is one."""
        return self.kept("score", name, lambda: np.asarray(self.right(name).mean(1), dtype=float))

    def answers(self, name: str) -> list[list[str]]:
        """Canonical answers by item and completion, "" where unreadable."""
        g = self.grades
        return self.kept("answers", name, lambda: [[g[r.id].answer for r in rows] for rows in self.rows[name]])

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
            answers, right = self.answers(name), self.right(name)
            texts = [[r.text for r in rows] for rows in self.rows[name]]
            return [
                summary([row[s] for row in answers], right[:, s], texts=[row[s] for row in texts])
                for s in self.by_seed(name)
            ]

        return self.kept("summaries", name, made)

    def outcome(self, name: str) -> Floats:
        """(items,): what the condition answers in the end: its vote where it has branches, else its score."""
        if self.branches(name) == 1:
            return self.score(name)
        return np.asarray(np.mean([d.vote.score for d in self.summaries(name)], axis=0), dtype=float)

    def detail(self, row: Row) -> Mapping[str, Any]:
        """What is noted of the plan that a row shows; {} without a plan or where the note is no JSON object."""
        return self.kept("detail", row.plan, lambda: _detail(self.plans.get(row.plan)))

    def each(self, name: str, of: Callable[[Row, GradeRow], T]) -> list[list[T]]:
        """Something of every completion, by item."""
        grades = self.grades
        return [[of(r, grades[r.id]) for r in rows] for rows in self.rows[name]]

    def difference(self, name: str, against: str, label: str = "") -> Estimate:
        """Score of one condition minus score of another, by item."""
        return paired(self.score(name), self.score(against), name=label or f"{name} vs {against}")

    def tokens(self, name: str) -> Floats:
        """(items,): tokens that forward passes read for an item's vote in this condition, the stages that its prompt
        was made from included. What a planner read to write its plans is not in the rows and not counted."""
        own = np.array([sum(r.tokens for r in rows) for rows in self.rows[name]], dtype=float)
        mine: Floats = own / len(self.by_seed(name))
        stage = str(self.conditions[name].get("plan", ""))
        return mine + self.tokens(stage.removeprefix("rows:")) if stage.startswith("rows:") else mine


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
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda r: (r.seed, r.branch)):
        found[row.condition][row.item].append(row)
    items = sorted({row.item for row in rows})
    for card in cards:
        per_item = found[card["name"]]
        whole = sum(len(per_item.get(item, ())) == card["completions"] for item in items)
        if whole != n or len(items) != n:
            raise UndefinedEstimate(
                f"condition {card['name']!r} has all its rows for {whole} of {n} items; run the study to its end first"
            )
    table = {str(c["name"]): [found[c["name"]][item] for item in items] for c in cards}
    graded = [row.id in grades for per_item in table.values() for group in per_item for row in group]
    if not all(graded):
        raise UndefinedEstimate(f"{graded.count(False)} of {len(graded)} rows are not graded; run triaxis grade first")
    return Table(tuple(items), {str(c["name"]): c for c in cards}, table, grades, plans)


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
