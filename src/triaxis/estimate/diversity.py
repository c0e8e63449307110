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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, log
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triaxis.errors import lookup
from triaxis.estimate.paired import UndefinedEstimate

Answers: TypeAlias = Sequence[Sequence[str]]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

TIE_RULES: dict[str, str] = {
    "uniform": "the expected score: the share of the tied answers that are right",
    "first": "the tied answer that came first",
    "shortest": "the tied answer with the shortest branch (key = lengths); then the first",
    "confidence": "the tied answer with the most confident branch (key = confidences); then the first",
}


class Vote(NamedTuple):
    """Plurality vote per item, each of shape (items,)."""

    score: Floats  # in [0, 1]; 0 or 1 unless the rule is "uniform" and right and wrong answers tie
    low_tie: Floats  # 0 or 1, as if every tie went to a wrong answer where it can
    high_tie: Floats  # 0 or 1, as if every tie went to the right answer where it can
    winner: tuple[str, ...]  # under "uniform" a tied item shows its first tied answer
    tie: Bools
    margin: Floats  # votes of the winner minus the runner-up; 0 in a tie; all its votes without a runner-up


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


class _Tally(NamedTuple):
    votes: dict[str, int]  # readable answers in order of first appearance
    right: frozenset[str]
    unreadable: int


# ---------------------------------------------------------------- reading the branches


def _tally(item: int, row: Sequence[str], right: Sequence[bool] | None) -> _Tally:
    votes: dict[str, int] = {}
    for answer in row:
        votes[answer] = votes.get(answer, 0) + 1
    unreadable = votes.pop("", 0)
    if right is None:
        return _Tally(votes, frozenset(), unreadable)
    good = {a for a, ok in zip(row, right, strict=True) if ok}
    if "" in good:
        raise ValueError(f"item {item}: an unreadable branch is marked right")
    both = good & {a for a, ok in zip(row, right, strict=True) if not ok}
    if both:
        raise ValueError(f"item {item}: answer {min(both)!r} is marked both right and wrong")
    return _Tally(votes, frozenset(good), unreadable)


def _right(right: ArrayLike) -> Bools:
    """`right` as a (items, K) bool array with at least one item and one branch."""
    array = np.asarray(right)
    if array.size == 0:
        raise UndefinedEstimate("no branches: at least one item with one branch is needed")
    if array.ndim != 2 or not np.isin(array, (0, 1)).all():
        raise ValueError(f"right must be a (items, branches) array of true and false, got shape {array.shape}")
    return array.astype(bool)


def _tallies(answers: Answers, right: ArrayLike | None = None) -> list[_Tally]:
    if len(answers) == 0 or len(answers[0]) == 0:
        raise UndefinedEstimate("no branches: at least one item with one branch is needed")
    k = len(answers[0])
    for item, row in enumerate(answers):
        if len(row) != k:
            raise ValueError(f"item {item} has {len(row)} branches, item 0 has {k}")
    if right is None:
        return [_tally(item, row, None) for item, row in enumerate(answers)]
    grades = _right(right)
    if grades.shape != (len(answers), k):
        raise ValueError(f"answers are {len(answers)} items x {k} branches, right is {grades.shape}")
    return [_tally(item, row, ok) for item, (row, ok) in enumerate(zip(answers, grades.tolist(), strict=True))]


def _branch_values(name: str, values: ArrayLike, shape: tuple[int, int]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers of shape {shape}, got shape {array.shape}")
    return array


# ---------------------------------------------------------------- the vote of all K branches


def vote(
    answers: Answers,
    right: ArrayLike,
    *,
    rule: str = "uniform",
    key: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Vote:
    """Plurality vote over the readable branches of each item.

    Args: answers, right: (items, K). rule: one of `TIE_RULES`. key: (items, K), what rule "shortest" (lengths)
    or "confidence" compares. weights: (items, K) >= 0, one vote each unless given; sums that differ by less
    than a billionth of the largest are a tie. Raises UserError on an unknown rule, ValueError on bad arrays.
    """
    lookup("tie rule", TIE_RULES, rule)
    tallies = _tallies(answers, right)
    shape = (len(answers), len(answers[0]))
    if (key is None) != (rule in ("uniform", "first")):
        raise ValueError(f"tie rule {rule!r} {'needs key=, one number a branch' if key is None else 'takes no key'}")
    keys = None if key is None else _branch_values("key", key, shape)
    strengths = None if weights is None else _branch_values("weights", weights, shape)
    if strengths is not None and (strengths < 0).any():
        raise ValueError("weights must not be negative")
    results = []
    for item, (tally, row) in enumerate(zip(tallies, answers, strict=True)):
        votes = tally.votes if strengths is None else _weighted(row, strengths[item])
        tied, margin = _tied(votes)
        chosen = None
        if rule != "uniform" and tied:
            chosen = _break_tie(rule, tied, row, None if keys is None else keys[item])
        results.append(_outcome(tied, tally.right, margin, chosen))
    score, low, high, winner, tie, margins = zip(*results, strict=True)
    return Vote(np.array(score), np.array(low), np.array(high), winner, np.array(tie), np.array(margins))


def _weighted(row: Sequence[str], strengths: Floats) -> dict[str, float]:
    votes: dict[str, float] = {}
    for answer, strength in zip(row, strengths.tolist(), strict=True):
        if answer:
            votes[answer] = votes.get(answer, 0.0) + strength
    return votes


def _tied(votes: dict[str, int] | dict[str, float]) -> tuple[list[str], float]:
    """The answers with the most votes, in order of appearance, and their lead over the next."""
    if not votes:
        return [], 0.0
    top = max(votes.values())
    tied = [a for a, v in votes.items() if v >= top * (1 - 1e-9)]
    rest = [v for a, v in votes.items() if a not in tied]
    return tied, 0.0 if len(tied) > 1 else float(top - max(rest, default=0))


def _break_tie(rule: str, tied: list[str], row: Sequence[str], keys: Floats | None) -> str:
    if keys is None:
        return tied[0]
    best: Callable[..., float] = min if rule == "shortest" else max
    reach = {a: best(k for b, k in zip(row, keys.tolist(), strict=True) if a == b) for a in tied}
    goal = best(reach.values())
    return next(a for a in tied if reach[a] == goal)


def _outcome(
    tied: list[str], right: frozenset[str], margin: float, chosen: str | None
) -> tuple[float, float, float, str, bool, float]:
    if not tied:
        return 0.0, 0.0, 0.0, "", False, 0.0
    ok = [a in right for a in tied]
    score = sum(ok) / len(ok) if chosen is None else float(chosen in right)
    return score, float(all(ok)), float(any(ok)), chosen or tied[0], len(tied) > 1, margin


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
    grades = _right(right)
    k = grades.shape[1]
    return pass_at_k(grades.sum(axis=1)[:, None], k, np.arange(1, k + 1))


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
    curves = np.stack([_majority_curve(*_pattern(t)) for t in _tallies(answers, right)], axis=1)
    return Majority(*curves)


def _pattern(tally: _Tally) -> tuple[tuple[int, ...], tuple[int, ...], int]:
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
    return np.asarray(_right(right).any(axis=1))


def unique_count(answers: Answers, right: ArrayLike) -> UniqueAnswers:
    """Distinct readable answers of each item, split into right and wrong: more wrong ones is noise, not reach."""
    tallies = _tallies(answers, right)
    good = np.array([len(t.right) for t in tallies], dtype=np.int64)
    total = np.array([len(t.votes) for t in tallies], dtype=np.int64)
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
    tallies = _tallies(answers)
    if len(answers[0]) < 2:
        raise UndefinedEstimate("the spread of one branch is undefined: sample at least two branches an item")
    return [[*t.votes.values()] + ([t.unreadable] if t.unreadable else []) for t in tallies]


# ---------------------------------------------------------------- everything at once


@dataclass(frozen=True, slots=True)
class Diversity:
    """Every per-item measure of one condition; arrays are (items,) unless said. Pair two of these by item.

    `entropy` (nats, Miller-Madow), `disagreement` and `all_equal` are None for a single branch.
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


def summary(
    answers: Answers,
    right: ArrayLike,
    *,
    rule: str = "uniform",
    key: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Diversity:
    """All measures of K branches an item. `rule`, `key`, `weights` are those of `vote` and touch it alone."""
    ballot = vote(answers, right, rule=rule, key=key, weights=weights)
    grades = _right(right)
    several = grades.shape[1] > 1
    return Diversity(
        branches=grades.shape[1],
        per_branch=grades.mean(axis=1),
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
