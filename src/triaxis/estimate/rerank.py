"""Reranking: choose among the branches by a verifier's scores, against the vote, one branch and the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from triaxis.errors import UndefinedEstimate
from triaxis.estimate.paired import Estimate, finish, paired
from triaxis.estimate.votes import Ballots, Vote, grades, majority, oracle_vote, verifier


@dataclass(frozen=True, eq=False, kw_only=True)
class Rerank:
    """A verifier's choice against the vote, one branch and the oracle, paired by item, Holm over the three tests."""

    chosen: Vote
    over_vote: Estimate
    over_branch: Estimate
    headroom: Estimate  # oracle minus rerank: what a better verifier could still win
    gap_closure: Estimate | None  # (rerank - vote) / (oracle - vote); None where the gap is not resolved

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        return self.over_vote, self.over_branch, self.headroom


def rerank(
    b: Ballots, scores: ArrayLike | Callable[[int, int], float], *, tie: str = "uniform", margin: float = 0.05
) -> Rerank:
    """Choose by a verifier's scores (as in `verifier`) and compare with the majority vote."""
    chosen = verifier(b, scores=scores)
    base, best = majority(b, tie=tie).score, oracle_vote(b).score
    family = [
        paired(chosen.score, base, name="rerank minus vote"),
        paired(chosen.score, grades(b.right).mean(axis=1), name="rerank minus one branch"),
        paired(best, chosen.score, name="oracle minus rerank"),
    ]
    over_vote, over_branch, headroom = finish(family, margin=margin)
    try:
        closure: Estimate | None = gap_closure(chosen.score, base, best)
    except UndefinedEstimate:
        closure = None
    return Rerank(chosen=chosen, over_vote=over_vote, over_branch=over_branch, headroom=headroom, gap_closure=closure)


def gap_closure(
    chosen: ArrayLike, base: ArrayLike, best: ArrayLike, *, level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Estimate:
    """(mean chosen - mean base) / (mean best - mean base), with a percentile bootstrap interval by item.

    Args: per-item scores, (items,) each, best >= base. 1: all of the gap is closed; negative: worse than the base.
    Raises UndefinedEstimate where the gap is 0 in more than (1 - level) / 2 of the resamples: a ratio to nothing.
    """
    paired(best, base)  # the checks on shapes and values
    up, gap = np.asarray(chosen, float) - np.asarray(base, float), np.asarray(best, float) - np.asarray(base, float)
    pairs, counts = np.unique(np.stack([up, gap], axis=1), axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(up.size, counts / up.size, size=resamples) @ pairs
    empty = draws[:, 1] <= 1e-12
    if gap.sum() <= 1e-12 or empty.mean() > (1 - level) / 2:
        raise UndefinedEstimate(f"the oracle is not above the vote on enough of {up.size} items to divide by the gap")
    ratios = draws[~empty, 0] / draws[~empty, 1]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        name="gap closure",
        value=float(up.sum() / gap.sum()),
        low=float(low),
        high=float(high),
        p=None,
        n=int(up.size),
        gain=None,
        loss=None,
        method="ratio of paired means; percentile bootstrap by item",
        level=level,
    )
