"""Several paired differences at once: intervals that hold for all of them together, and what follows for the extremes.

The critical value is that of the largest studentised difference under resampling of items (max-T), so it knows how
strongly conditions measured on the same items go together. It is used as a level: each interval is then computed by
the method of a single one (Tango's score interval for 0/1 scores) at that level, because a bootstrap interval of few
discordant items is far too short. It lies between one comparison's 1.96 and Bonferroni's, which always hold.
Source: Westfall & Young 1993; Hothorn, Bretz & Westfall 2008, Biometrical Journal 50:346-363.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import special

from triaxis.estimate.paired import Estimate, UndefinedEstimate, cochran_q, paired

Floats = npt.NDArray[np.float64]
LEVEL = 0.95
_FEW_PATTERNS = 1024  # with no more distinct rows than this, resampled counts are drawn over them


def bootstrap_sums(matrix: Floats, *, resamples: int = 2000, seed: int = 0) -> Floats:
    """Column sums of `resamples` samples of the rows with replacement, (resamples, columns)."""
    rng = np.random.default_rng(seed)
    rows, counts = np.unique(np.round(matrix, 12), axis=0, return_counts=True)
    n = len(matrix)
    if len(rows) <= _FEW_PATTERNS:
        return np.asarray(rng.multinomial(n, counts / n, size=resamples) @ rows, dtype=float)
    sums = [np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n) @ matrix for _ in range(resamples)]
    return np.stack(sums)


def joint_level(matrix: Floats, pairs: Sequence[tuple[int, int]], *, resamples: int = 2000, seed: int = 0) -> float:
    """The level at which each of the differences of columns must be taken for all to hold at 95 %.

    matrix: scores, (items, conditions). pairs: (i, j) for column i minus column j. With no difference anywhere it is
    Bonferroni's level.
    """
    z = float(special.ndtri((1 + LEVEL) / 2))
    most = float(special.ndtri(1 - (1 - LEVEL) / (2 * len(pairs))))
    left, right = (np.array([p[side] for p in pairs]) for side in (0, 1))
    d = matrix[:, left] - matrix[:, right]
    moves = d.std(axis=0) > 1e-12
    if not moves.any():
        return float(2 * special.ndtr(most) - 1)
    means = bootstrap_sums(matrix, resamples=resamples, seed=seed) / len(matrix)
    away = (means[:, left] - means[:, right] - d.mean(axis=0))[:, moves]
    largest = np.abs(away / (d.std(axis=0)[moves] / np.sqrt(len(d)))).max(axis=1)
    critical = float(np.clip(np.quantile(largest, LEVEL), z, most))
    return float(2 * special.ndtr(critical) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A family of differences against one reference, with what holds for all of them together."""

    level: float  # of each interval
    intervals: tuple[tuple[float, float], ...]  # of each difference, in order
    worst: Estimate  # the lowest difference
    worst_corrected: float
    spread: Estimate  # best minus worst condition, the reference among them
    spread_corrected: float


def joint(scores: Sequence[Floats], reference: Floats, effects: Sequence[Estimate], *, seed: int = 0) -> Joint:
    """Simultaneous intervals of every condition minus the reference, and of the worst case and the spread.

    scores: (items,) of each condition; effects: the finished differences in the same order. The lowest and the
    highest of noisy means lie too far out: `worst_corrected` and `spread_corrected` take off the bias that resampling
    shows (never past 0), and the intervals come from simultaneous bounds, which hold whichever condition is the
    extreme one: the worst case lies between the lowest lower and the lowest upper bound, the spread between the
    highest lower and the highest upper bound of all pairs.
    """
    matrix = np.stack([reference, *scores], axis=1)
    k = len(scores)
    level = joint_level(matrix, [(j, 0) for j in range(1, k + 1)], seed=seed)
    single = [paired(matrix[:, j], reference, level=level, seed=seed) for j in range(1, k + 1)]
    bounds = tuple((e.low, e.high) for e in single)
    means = bootstrap_sums(matrix, seed=seed) / len(matrix)
    at = matrix.mean(axis=0)
    lowest = min(range(k), key=lambda j: effects[j].value)
    named = effects[lowest]
    worst = replace(
        named, name="worst case", low=min(low for low, _ in bounds), high=min(high for _, high in bounds),
        p=named.p_holm, p_midp=None,
        method="lowest of the family; simultaneous (max-T) bounds; Holm's p of the shape that is lowest",
    )  # fmt: skip
    drawn = (means[:, 1:] - means[:, :1]).min(axis=1)
    spread = _spread(matrix, at, seed)
    return Joint(
        level=level, intervals=bounds, worst=worst, worst_corrected=_corrected(named.value, float(drawn.mean())),
        spread=spread, spread_corrected=_corrected(spread.value, float(np.ptp(means, axis=1).mean())),
    )  # fmt: skip


def _corrected(value: float, drawn: float) -> float:
    """Value minus its bootstrap bias, not past 0."""
    moved = 2 * value - drawn
    return float(max(0.0, moved) if value >= 0 else min(0.0, moved))


def _spread(matrix: Floats, at: Floats, seed: int) -> Estimate:
    pairs = list(combinations(range(matrix.shape[1]), 2))
    level = joint_level(matrix, pairs, seed=seed)
    found = [paired(matrix[:, i], matrix[:, j], level=level, seed=seed) for i, j in pairs]
    low = max(max(e.low, -e.high) for e in found)
    high = max(max(e.high, -e.low) for e in found)
    best, worst = int(at.argmax()), int(at.argmin())
    try:
        p: float | None = cochran_q(matrix).p
    except UndefinedEstimate:
        p = None  # no item differs between any two conditions, or scores are shares of several completions
    verdict = "drop" if p is not None and p < 1 - LEVEL else "not resolved at this N"
    return replace(
        paired(matrix[:, best], matrix[:, worst], seed=seed),
        name="spread", value=float(np.ptp(at)), low=max(0.0, low), high=high, p=p, p_holm=p, p_midp=None,
        verdict=verdict, method="best minus worst; simultaneous (max-T) bounds over all pairs; Cochran's Q",
    )  # fmt: skip
