"""Accuracy against what it cost: points of several arms over the same items, and which of them nothing recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from triaxis.errors import UndefinedEstimate
from triaxis.estimate.paired import Estimate, cluster_mean, finish, paired
from triaxis.estimate.votes import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One arm: mean accuracy (share) and mean cost an item (forward tokens), intervals by item both ways.

    dominated_by: arms that cost no more and are no less accurate, one of them strictly, by their means. certain: one
    of them is so with evidence: its paired gain is resolved (p Holm over all such pairs <= .05) or equivalent within 5
    points, and the interval of its saving excludes 0.
    """

    name: str
    accuracy: Estimate
    cost: Estimate
    dominated_by: tuple[str, ...]
    certain: bool

    @property
    def dominated(self) -> bool:
        return bool(self.dominated_by)


class Arm(NamedTuple):
    """Per-item score in [0, 1] and cost > 0 of one arm, (items,) each; item i is the same in every arm."""

    score: ArrayLike
    cost: ArrayLike


def front(arms: Mapping[str, Arm], *, alpha: float = 0.05) -> tuple[Point, ...]:
    """The points of all arms, cheapest first. UndefinedEstimate for unequal items, or a cost that is not positive."""
    if not arms:
        raise UndefinedEstimate("no arm to plot; give at least one")
    scores = {name: np.asarray(arm.score, dtype=np.float64) for name, arm in arms.items()}
    costs = {name: _cost(name, arm) for name, arm in arms.items()}
    size = len(next(iter(scores.values())))
    for name in arms:
        if scores[name].shape != (size,) or costs[name].shape != (size,):
            shapes = f"scores {scores[name].shape}, costs {costs[name].shape}"
            raise UndefinedEstimate(f"arm {name!r} has {shapes}; all arms need the same {size} items")
    means = {name: (float(costs[name].mean()), float(scores[name].mean())) for name in arms}
    over = {name: tuple(b for b in arms if dominates(means[b], means[name])) for name in arms}
    sure = _certain(scores, costs, over, alpha)
    points = [
        Point(
            name=name,
            accuracy=cluster_mean(scores[name], bounds=(0.0, 1.0), name=f"accuracy of {name}"),
            cost=_cost_estimate(name, costs[name]),
            dominated_by=over[name],
            certain=name in sure,
        )
        for name in arms
    ]
    return tuple(sorted(points, key=lambda p: (p.cost.value, -p.accuracy.value)))


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether the (cost, accuracy) of a is at least as good as that of b both ways, and better one way."""
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def _cost(name: str, arm: Arm) -> Floats:
    cost = np.asarray(arm.cost, dtype=np.float64)
    if not (np.isfinite(cost) & (cost > 0)).all():
        raise UndefinedEstimate(f"arm {name!r} has a cost that is not a positive number; count forward tokens")
    return cost


def _cost_estimate(name: str, cost: Floats) -> Estimate:
    # equal costs are not unknown ones: counted, not sampled; any bound around them would be made up
    if np.ptp(cost) == 0:
        value = float(cost[0])
        e = cluster_mean(cost, bounds=(0.0, 2 * value), name=f"cost of {name}")
        return Estimate(
            name=e.name, value=value, low=value, high=value, p=None, n=e.n, gain=None, loss=None,
            method="counted: the same for every item",
        )  # fmt: skip
    return cluster_mean(cost, name=f"cost of {name}")


def _certain(
    scores: Mapping[str, Floats], costs: Mapping[str, Floats], over: Mapping[str, tuple[str, ...]], alpha: float
) -> set[str]:
    """Arms that one of their dominators beats with evidence in accuracy, and in cost beyond its interval."""
    pairs = [(name, better) for name, others in over.items() for better in others]
    gains = finish([paired(scores[better], scores[name]) for name, better in pairs], alpha=alpha)
    found = set()
    for (name, better), gain in zip(pairs, gains, strict=True):
        saving = costs[name] - costs[better]
        cheaper = float(saving[0]) > 0 if np.ptp(saving) == 0 else cluster_mean(saving).low > 0
        if cheaper and (gain.verdict == "lift" or gain.verdict.startswith("equivalent")):
            found.add(name)
    return found


def hypervolume(points: Sequence[tuple[float, float]], *, cost: float, accuracy: float = 0.0) -> float:
    """Area that (cost, accuracy) points dominate inside the reference corner, as a share of it when accuracy ends at 1.

    cost, accuracy: the corner: the greatest cost and the least accuracy that count; points beyond add nothing.
    In [0, 1]. Source: Zitzler & Thiele 1999, hypervolume indicator, two objectives.
    """
    if cost <= 0 or not 0 <= accuracy < 1:
        raise UndefinedEstimate(f"corner (cost {cost:g}, accuracy {accuracy:g}) leaves no area; give cost > 0")
    inside = sorted((c, a) for c, a in points if c < cost and a > accuracy)
    area, best = 0.0, accuracy
    for c, a in inside:  # from the cheapest: each point adds what rises above those before it
        if a > best:
            area += (cost - c) * (a - best)
            best = a
    return area / (cost * (1 - accuracy))
