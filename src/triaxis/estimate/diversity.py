"""What the K branches of an item give: votes, pass@k, maj@k, and the spread of their answers.

Knows answers (canonical strings, "" = unreadable) and whether each branch is right. Knows nothing of
models, tasks or files. Everything is per item, shape (items,) or (items, K) for curves over k = 1..K,
so that a caller can pair items across conditions and put an interval on the mean.

What an unreadable branch is here, everywhere the same:
- it is wrong, and it has no vote: it wins only when every branch of the item is unreadable, and then the
  vote is wrong, with winner "", margin 0 and no tie;
- for the spread (entropy, disagreement) it is one more outcome, so that no item drops out of a pairing;
- it is no unique answer, and it is never part of "all branches equal".

No items, or no branches: `UndefinedEstimate`. Spread of a single branch: `UndefinedEstimate` (`summary`
holds None there). Anything contradictory (ragged rows, an unreadable branch called right, one answer called
both right and wrong) is a ValueError that names the item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb, log
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triaxis.errors import UndefinedEstimate, lookup
from triaxis.estimate.paired import Estimate, cluster_mean, wilson
from triaxis.estimate.quorum import TIE_RULES as TIE_RULES
from triaxis.estimate.votes import Answers, Bools, Floats, Ints, Tally, Vote, grades, tallies
from triaxis.estimate.votes import vote as vote


class Majority(NamedTuple):
    """maj@k per item: ties split uniformly, and broken worst or best. Each of shape (items,) or (items, K)."""

    score: Floats
    low_tie: Floats
    high_tie: Floats


class UniqueAnswers(NamedTuple):
    """Distinct readable answers per item, each (items,); total = right + wrong.

    `right` is 0 or 1 where equal answers have one canonical form; 2 or more says that forms were not merged.
    """

    total: Ints
    right: Ints
    wrong: Ints


# ---------------------------------------------------------------- k of the K branches


def pass_at_k(c: ArrayLike, n: ArrayLike, k: ArrayLike) -> Floats:
    """Chance that k branches drawn from n without replacement hold one of the c right ones; arrays broadcast.

    1 - C(n-c, k) / C(n, k) as a product of k ratios, so nothing overflows. Raises UndefinedEstimate where
    k > n, ValueError unless 0 <= c <= n and k >= 1. Source: Chen 2021, arXiv:2107.03374, equation 1.
    """
    right, total, draws = np.broadcast_arrays(*(np.asarray(x) for x in (c, n, k)))
    if draws.size == 0:
        raise UndefinedEstimate("no items")
    if not all(np.issubdtype(a.dtype, np.integer) for a in (right, total, draws)):
        raise ValueError("c, n and k must be whole numbers")
    if (right < 0).any() or (right > total).any() or (draws < 1).any():
        raise ValueError("pass@k needs 0 <= c <= n and k >= 1")
    if (draws > total).any():
        raise UndefinedEstimate(f"pass@{draws.max()} cannot be estimated from {total.min()} branches")
    none_right = np.ones(right.shape)
    for j in range(int(draws.max())):
        missing = np.maximum(total - right - j, 0) / np.maximum(total - j, 1)
        none_right = np.where(j < draws, none_right * missing, none_right)
    return np.asarray(1.0 - none_right)


def pass_curve(right: ArrayLike) -> Floats:
    """pass@1 .. pass@K of each item, (items, K), from right (items, K)."""
    marks = grades(right)
    k = marks.shape[1]
    return pass_at_k(marks.sum(axis=1)[:, None], k, np.arange(1, k + 1))


def maj_at_k(answers: Answers, right: ArrayLike, k: int) -> Majority:
    """Expected vote over every subset of k branches; see `maj_curve`. Each result is (items,)."""
    curve = maj_curve(answers, right)
    branches = curve.score.shape[1]
    if k < 1:
        raise ValueError(f"maj@{k}: k must be at least 1")
    if k > branches:
        raise UndefinedEstimate(f"maj@{k} cannot be estimated from {branches} branches")
    return Majority(*(a[:, k - 1] for a in curve))


def maj_curve(answers: Answers, right: ArrayLike) -> Majority:
    """Mean vote score over all C(K, k) subsets of an item's branches, k = 1..K; each result is (items, K).

    Exact, without listing subsets: the draws are multivariate hypergeometric over the answer counts. `score`
    splits ties uniformly. maj@1 is the per-branch accuracy; maj@2 = maj@1 where every branch is readable (an
    unreadable branch has no vote, so with one of them the other decides, and maj@2 can differ).
    """
    curves = np.stack([_majority_curve(*_pattern(t)) for t in tallies(answers, right)], axis=1)
    return Majority(*curves)


def _pattern(tally: Tally) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Counts of the right answers, of the wrong ones, and of unreadable branches: all that maj@k depends on."""
    good = sorted(v for a, v in tally.votes.items() if a in tally.right)
    bad = sorted(v for a, v in tally.votes.items() if a not in tally.right)
    return tuple(good), tuple(bad), tally.unreadable


@lru_cache(maxsize=65536)
def _majority_curve(right: tuple[int, ...], wrong: tuple[int, ...], unreadable: int) -> Floats:
    """Uniform, worst-tie and best-tie maj@k, shape (3, K). A draw without a readable branch scores 0."""
    n = sum(right) + sum(wrong) + unreadable
    ways = np.zeros((3, n))
    for top in range(1, max(right + wrong, default=0) + 1):
        ways += _ways_won_with(top, right, wrong, n)
    subsets = np.array([comb(n, k) for k in range(1, n + 1)], dtype=np.float64)
    return np.asarray(ways / subsets)


def _ways_won_with(top: int, right: tuple[int, ...], wrong: tuple[int, ...], n: int) -> Floats:
    """Subsets of each size 1..n whose winner has exactly `top` votes, weighted by what they score, (3, n).

    ways[s, a, b] counts draws of s branches with a right and b wrong answers at `top` votes and none above.
    Branches whose answer cannot reach `top`, and unreadable ones, are one free pool.
    """
    good, bad = [c for c in right if c >= top], [c for c in wrong if c >= top]
    free = n - sum(good) - sum(bad)
    ways = np.zeros((n + 1, len(good) + 1, len(bad) + 1))
    ways[:, 0, 0] = [comb(free, s) for s in range(n + 1)]
    for count, is_right in [(c, True) for c in good] + [(c, False) for c in bad]:
        drawn = np.zeros_like(ways)
        for j in range(top):
            drawn[j:] += comb(count, j) * ways[: n + 1 - j]
        reach = comb(count, top) * ways[: n + 1 - top]
        if is_right:
            drawn[top:, 1:] += reach[:, :-1]
        else:
            drawn[top:, :, 1:] += reach[:, :, :-1]
        ways = drawn
    a, b = np.arange(len(good) + 1)[:, None], np.arange(len(bad) + 1)
    scores = [a / np.maximum(a + b, 1), (a > 0) & (b == 0), (a > 0) & (b >= 0)]
    return np.stack([(ways[1:] * s).sum(axis=(1, 2)) for s in scores])


# ---------------------------------------------------------------- how different the branches are


def oracle(right: ArrayLike) -> Bools:
    """Whether any branch of the item is right, (items,): the ceiling of every vote and reranker."""
    return np.asarray(grades(right).any(axis=1))


def unique_count(answers: Answers, right: ArrayLike) -> UniqueAnswers:
    """Distinct readable answers of each item, split into right and wrong: more wrong ones is noise, not reach."""
    counted = tallies(answers, right)
    good = np.array([len(t.right) for t in counted], dtype=np.int64)
    total = np.array([len(t.votes) for t in counted], dtype=np.int64)
    return UniqueAnswers(total, good, total - good)


def entropy(answers: Answers, *, miller_madow: bool = True) -> Floats:
    """Entropy of each item's answers in NATS, (items,); "unreadable" is one of the outcomes.

    With the Miller-Madow correction, (outcomes seen - 1) / (2 K), which lifts the plug-in value's low bias and
    can pass log K. Raises UndefinedEstimate for one branch.
    Source: Miller 1955; Paninski 2003, doi:10.1162/089976603321780272.
    """
    counts = _outcome_counts(answers)
    k = sum(counts[0])
    # log(k / c) rather than -log(c / k): one outcome gives 0.0, not -0.0
    plug_in = np.array([sum(c / k * log(k / c) for c in row) for row in counts])
    extra = np.array([(len(row) - 1) / (2 * k) for row in counts])
    return plug_in + extra if miller_madow else plug_in


def pairwise_disagreement(answers: Answers) -> Floats:
    """Share of an item's branch pairs whose answers differ, (items,) in [0, 1]; two unreadable ones agree.

    Unbiased for the chance that two fresh branches differ. Raises UndefinedEstimate for one branch.
    """
    counts = _outcome_counts(answers)
    pairs = comb(sum(counts[0]), 2)
    return np.array([1.0 - sum(comb(c, 2) for c in row) / pairs for row in counts])


def all_equal(answers: Answers) -> Bools:
    """Whether all branches gave one readable answer, (items,). Raises UndefinedEstimate for one branch."""
    _outcome_counts(answers)
    return np.array([row[0] != "" and all(a == row[0] for a in row) for row in answers])


def _outcome_counts(answers: Answers) -> list[list[int]]:
    counted = tallies(answers)
    if len(answers[0]) < 2:
        raise UndefinedEstimate("the spread of one branch is undefined: sample at least two branches an item")
    return [[*t.votes.values()] + ([t.unreadable] if t.unreadable else []) for t in counted]


def duplicate_rate(texts: Sequence[Sequence[str]]) -> Floats:
    """Share of an item's branches beyond the first that repeat the text of an earlier one, (items,) in [0, 1].

    (K - distinct texts) / (K - 1); white space at the ends is not text. Raises UndefinedEstimate for one branch.
    """
    k = len(_outcome_counts(texts)[0]) and len(texts[0])
    return np.array([(k - len({t.strip() for t in row})) / (k - 1) for row in texts])


# ---------------------------------------------------------------- everything at once


@dataclass(frozen=True, slots=True)
class Diversity:
    """Every per-item measure of one condition; arrays are (items,) unless said. Pair two of these by item.

    `entropy` (nats, Miller-Madow), `disagreement`, `all_equal` and `duplicates` are None for a single branch,
    `duplicates` also where no texts were given.
    """

    branches: int
    per_branch: Floats  # accuracy of the item's branches
    vote: Vote
    oracle: Floats
    unique: UniqueAnswers
    unreadable: Floats  # share of the item's branches
    entropy: Floats | None
    disagreement: Floats | None
    all_equal: Floats | None
    pass_at_k: Floats  # (items, K)
    maj_at_k: Majority  # of (items, K) each
    duplicates: Floats | None = None


def summary(
    answers: Answers,
    right: ArrayLike,
    *,
    rule: str = "uniform",
    key: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    texts: Sequence[Sequence[str]] | None = None,
) -> Diversity:
    """All measures of K branches an item. `rule`, `key`, `weights` are those of `vote` and touch it alone."""
    if key is None and weights is None and texts is None and len(answers) > 1:
        firsts, where = alike(answers, right)
        marks = grades(right)
        try:
            found = _summary([answers[i] for i in firsts], marks[firsts], rule=rule)
        except ValueError:
            tallies(answers, right)  # says it with the number of the item
            raise
        return _again(found, answers, firsts, where)
    found = _summary(answers, right, rule=rule, key=key, weights=weights)
    return found if texts is None or found.branches == 1 else replace(found, duplicates=duplicate_rate(texts))


def _summary(
    answers: Answers, right: ArrayLike, *, rule: str, key: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Diversity:
    ballot = vote(answers, right, rule=rule, key=key, weights=weights)
    marks = grades(right)
    several = marks.shape[1] > 1
    return Diversity(
        branches=marks.shape[1],
        per_branch=marks.mean(axis=1),
        vote=ballot,
        oracle=oracle(right).astype(np.float64),
        unique=unique_count(answers, right),
        unreadable=np.array([sum(a == "" for a in row) / len(row) for row in answers]),
        entropy=entropy(answers) if several else None,
        disagreement=pairwise_disagreement(answers) if several else None,
        all_equal=all_equal(answers).astype(np.float64) if several else None,
        pass_at_k=pass_curve(right),
        maj_at_k=maj_curve(answers, right),
    )


def alike(answers: Answers, right: ArrayLike) -> tuple[list[int], Ints]:
    """(firsts, where): the first item of each pattern, and which pattern each item has.

    Items are alike if their branches are equal, right and unreadable at the same places; every measure here is the
    same for them but the winner's name. Five branches have some hundred patterns, however many items there are.
    """
    known: dict[tuple[object, ...], int] = {}
    firsts: list[int] = []
    where = np.empty(len(answers), dtype=np.int64)
    for item, (row, marks) in enumerate(zip(answers, grades(right).tolist(), strict=False)):
        names: dict[str, int] = {"": 0}
        pattern = (*[names.setdefault(a, len(names)) for a in row], *marks)
        where[item] = known.setdefault(pattern, len(known))
        if len(known) > len(firsts):
            firsts.append(item)
    return firsts, where


def _again(d: Diversity, answers: Answers, firsts: Sequence[int], where: Ints) -> Diversity:
    """The measures of patterns for every item that has them."""
    places = [answers[i].index(w) if w else -1 for i, w in zip(firsts, d.vote.winner, strict=True)]
    chosen = [places[k] for k in where.tolist()]
    winner = tuple("" if at < 0 else row[at] for row, at in zip(answers, chosen, strict=True))
    score, low, high, _, tie, margin = d.vote
    ballot = Vote(score[where], low[where], high[where], winner, tie[where], margin[where])
    plain = {
        name: None if x is None else x[where]
        for name in ("per_branch", "oracle", "unreadable", "entropy", "disagreement", "all_equal", "pass_at_k")
        for x in [getattr(d, name)]
    }
    unique, majority = UniqueAnswers(*(x[where] for x in d.unique)), Majority(*(x[where] for x in d.maj_at_k))
    return Diversity(branches=d.branches, vote=ballot, unique=unique, maj_at_k=majority, **plain)  # type: ignore[arg-type]


class Metric(NamedTuple):
    """How a per-item measure is read from a `Diversity`, and the greatest value it can take with k branches."""

    of: Callable[[Diversity], Floats | Ints | None]
    most: Callable[[int], float] = lambda k: 1.0


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "per_branch": Metric(lambda d: d.per_branch),
        "vote": Metric(lambda d: d.vote.score),
        "vote_low_tie": Metric(lambda d: d.vote.low_tie),
        "vote_high_tie": Metric(lambda d: d.vote.high_tie),
        "oracle": Metric(lambda d: d.oracle),
        "unique": Metric(lambda d: d.unique.total, float),
        "unique_right": Metric(lambda d: d.unique.right, float),
        "unique_wrong": Metric(lambda d: d.unique.wrong, float),
        "unreadable": Metric(lambda d: d.unreadable),
        "entropy": Metric(lambda d: d.entropy, lambda k: log(k) + (k - 1) / (2 * k)),
        "disagreement": Metric(lambda d: d.disagreement),
        "all_equal": Metric(lambda d: d.all_equal),
        "margin": Metric(lambda d: d.vote.margin / d.branches),  # a share of the branches
        "duplicates": Metric(lambda d: d.duplicates),
    }
)


def metrics(*seeds: Diversity) -> dict[str, Estimate]:
    """Every measure of one condition with its interval by item: `METRICS`, then pass@1.. and maj@1.. (a curve each).

    seeds: one `summary` a seed, over the same items and branches; averaged within an item first. Measures that one
    branch does not have are left out. Raises UndefinedEstimate for fewer than two items or unequal shapes.
    """
    if not seeds or len({(d.branches, d.per_branch.size) for d in seeds}) > 1:
        raise UndefinedEstimate("give one summary a seed, all of the same items and number of branches")
    k = seeds[0].branches
    found: dict[str, Estimate] = {}
    for name, metric in METRICS.items():
        values = [v for d in seeds if (v := metric.of(d)) is not None]
        if len(values) == len(seeds):
            found[name] = cluster_mean(np.stack(values, axis=1), name=name, bounds=(0.0, metric.most(k)))
    for j in range(k):
        curves = {"pass": [d.pass_at_k for d in seeds], "maj": [d.maj_at_k.score for d in seeds]}
        for curve, arrays in curves.items():
            name = f"{curve}@{j + 1}"
            x = np.clip(np.stack([a[:, j] for a in arrays], axis=1), 0.0, 1.0)  # sums of ways may round past 1
            found[name] = cluster_mean(x, name=name, bounds=(0.0, 1.0))
    return found


# ---------------------------------------------------------------- does the margin know?


class Level(NamedTuple):
    """The items whose vote stated one probability (or one range of them)."""

    stated: float  # mean
    right: float  # share of them whose vote is right
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Reliability of a stated probability: its levels and the expected calibration error (ECE), a share.

    `ece` is the plug-in value, which is biased upwards; `chance` is what a perfectly calibrated vote shows on these
    items by sampling alone, to be read beside it. The interval, a bootstrap by item, takes that bias off at its low end
    (basic), keeps it at its high end (percentile), and reaches 0 where a perfect vote may well show this value. In
    simulations of 60 and 200 items, true values 0 to .3, it covered 93 to 99 %.
    """

    levels: tuple[Level, ...]
    ece: Estimate
    chance: float


STATED: dict[str, str] = {
    "margin": "votes of the winner minus the runner-up, over K",
    "share": "votes of the winner over K",
}
_MOST_LEVELS = 20


def margin_calibration(
    answers: Answers, right: ArrayLike, *, stated: str = "share", level: float = 0.95, seed: int = 0
) -> Calibration:
    """Is the vote right as often as its margin (or the winner's share of the branches) says? See `STATED`.

    Ties are split uniformly. Each value is one level; more than 20 values are put into 20 equal ranges. An item
    without a readable branch states 0. Source: ECE, Naeini 2015; Guo 2017, arXiv:1706.04599.
    """
    lookup("stated probability", STATED, stated)
    v = vote(answers, right)
    k = len(answers[0])
    tops = [max(t.votes.values(), default=0) for t in tallies(answers)]
    said = np.array(tops) / k if stated == "share" else v.margin / k
    values, place = np.unique(np.round(said, 12), return_inverse=True)
    if values.size > _MOST_LEVELS:
        place = np.minimum((said * _MOST_LEVELS).astype(int), _MOST_LEVELS - 1)
        _, place = np.unique(place, return_inverse=True)
    if said.size < 2:
        raise UndefinedEstimate(f"calibration of {said.size} item: an interval needs at least 2")
    levels = tuple(_level(said[place == i], v.score[place == i], level) for i in range(place.max() + 1))
    ece, low, high, chance = _ece(said, v.score, place, level, np.random.default_rng(seed))
    estimate = Estimate(
        name=f"ECE of the {stated}", value=ece, low=low, high=high, p=None, n=said.size, gain=None, loss=None,
        method="plug-in ECE; bootstrap by item, bias taken off below", level=level,
    )  # fmt: skip
    return Calibration(levels=levels, ece=estimate, chance=chance)


def _ece(
    said: Floats, score: Floats, place: NDArray[np.intp], level: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """ECE, its interval, and its mean where what is said is true: sum over levels of |sum over items of a gap| / n."""
    n, draws = said.size, 2000
    kinds, counts = np.unique(np.stack([place, said, score], axis=1), axis=0, return_counts=True)  # few, whatever n
    member = (kinds[:, :1] == np.arange(place.max() + 1)).astype(float)  # (kinds, levels)
    gaps = (kinds[:, 2] - kinds[:, 1])[:, None] * member
    ece = float(np.abs(counts @ gaps).sum() / n)
    drawn = np.abs(rng.multinomial(n, counts / n, size=draws) @ gaps).sum(axis=1) / n
    least, most = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    low, high = 2 * ece - most, max(most, 2 * ece - least)
    fair = rng.binomial(counts, np.clip(kinds[:, 1], 0, 1), size=(draws, counts.size)) - counts * kinds[:, 1]
    perfect = np.abs(fair @ member).sum(axis=1) / n
    if ece <= np.quantile(perfect, level):  # no worse than a perfect vote would look: 0 is not ruled out
        low = 0.0
    return ece, float(max(0.0, low)), float(min(1.0, high)), float(perfect.mean())


def _level(said: Floats, score: Floats, level: float) -> Level:
    n, hits = score.size, float(score.sum())
    if np.isin(score, (0.0, 1.0)).all():
        low, high = wilson(round(hits), n, level)
    elif n > 1:
        e = cluster_mean(score, bounds=(0.0, 1.0), level=level)
        low, high = e.low, e.high
    else:  # one item with a split tie says nothing
        low, high = 0.0, 1.0
    return Level(float(said.mean()), hits / n, low, high, n)
