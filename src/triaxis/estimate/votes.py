"""Votes over the K branches of an item: one shape of input (`Ballots`), one table of rules (`RULES`).

Knows answers (canonical strings, "" = unreadable) and whether each branch is right. Knows nothing of models, tasks or
files. What the corners come to, everywhere the same:
- an unreadable branch is wrong and has no vote. It wins only when every branch of the item is unreadable, and then
  the vote is wrong, with winner "", margin 0 and no tie; or where `unreadable_votes=True` declares that "" is one
  more (wrong) answer to vote for;
- a number by branch (confidence, length, verifier's score, weight) must be finite for every readable branch; that of
  an unreadable branch is never looked at and may be NaN;
- no items or no branches: `UndefinedEstimate`. Contradictions (ragged rows, an unreadable branch called right, one
  answer called both right and wrong): a ValueError that names the item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triaxis.errors import UndefinedEstimate, UserError, lookup, suggest
from triaxis.estimate.paired import Estimate, cluster_mean
from triaxis.estimate.quorum import STOP_RULES, TIE_RULES, Stop

Answers: TypeAlias = Sequence[Sequence[str]]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


class Vote(NamedTuple):
    """What a rule decides per item, each of shape (items,)."""

    score: Floats  # in [0, 1]; 0 or 1 unless ties are split ("uniform") and right and wrong answers tie
    low_tie: Floats  # 0 or 1, as if every tie went to a wrong answer where it can
    high_tie: Floats  # 0 or 1, as if every tie went to the right answer where it can
    winner: tuple[str, ...]  # under "uniform" a tied item shows its first tied answer
    tie: Bools
    margin: Floats  # votes of the winner minus the runner-up; 0 in a tie; all its votes without a runner-up


class Tally(NamedTuple):
    """The branches of one item, counted."""

    votes: dict[str, int]  # readable answers in order of first appearance
    right: frozenset[str]
    unreadable: int


# ---------------------------------------------------------------- reading the branches


def _tally(item: int, row: Sequence[str], right: Sequence[bool] | None) -> Tally:
    votes: dict[str, int] = {}
    for answer in row:
        votes[answer] = votes.get(answer, 0) + 1
    unreadable = votes.pop("", 0)
    if right is None:
        return Tally(votes, frozenset(), unreadable)
    good = {a for a, ok in zip(row, right, strict=True) if ok}
    if "" in good:
        raise ValueError(f"item {item}: an unreadable branch is marked right")
    both = good & {a for a, ok in zip(row, right, strict=True) if not ok}
    if both:
        raise ValueError(f"item {item}: answer {min(both)!r} is marked both right and wrong")
    return Tally(votes, frozenset(good), unreadable)


def grades(right: ArrayLike) -> Bools:
    """`right` as a (items, K) bool array with at least one item and one branch."""
    array = np.asarray(right)
    if array.size == 0:
        raise UndefinedEstimate("no branches: at least one item with one branch is needed")
    if array.ndim != 2 or not np.isin(array, (0, 1)).all():
        raise ValueError(f"right must be a (items, branches) array of true and false, got shape {array.shape}")
    return array.astype(bool)


def tallies(answers: Answers, right: ArrayLike | None = None) -> list[Tally]:
    """The counted branches of every item, checked; without `right` no answer is marked right."""
    if len(answers) == 0 or len(answers[0]) == 0:
        raise UndefinedEstimate("no branches: at least one item with one branch is needed")
    k = len(answers[0])
    for item, row in enumerate(answers):
        if len(row) != k:
            raise ValueError(f"item {item} has {len(row)} branches, item 0 has {k}")
    if right is None:
        return [_tally(item, row, None) for item, row in enumerate(answers)]
    marks = grades(right)
    if marks.shape != (len(answers), k):
        raise ValueError(f"answers are {len(answers)} items x {k} branches, right is {marks.shape}")
    return [_tally(item, row, ok) for item, (row, ok) in enumerate(zip(answers, marks.tolist(), strict=True))]


def _branch_values(name: str, values: ArrayLike, answers: Answers) -> Floats:
    """(items, K) numbers, finite where the branch is readable; 0 where it is not."""
    shape = (len(answers), len(answers[0]))
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must be finite numbers of shape {shape}, got shape {array.shape}")
    readable = np.array([[a != "" for a in row] for row in answers])
    bad = np.argwhere(~np.isfinite(array) & readable)
    if bad.size:
        item, branch = bad[0]
        raise ValueError(f"{name} must be finite: {array[item, branch]} at item {item}, branch {branch}")
    return np.where(readable, array, 0.0)


# ---------------------------------------------------------------- the vote of all K branches


def vote(
    answers: Answers,
    right: ArrayLike,
    *,
    rule: str = "uniform",
    key: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    unreadable_votes: bool = False,
) -> Vote:
    """Plurality vote over the readable branches of each item.

    Args: answers, right: (items, K). rule: one of `TIE_RULES`. key: (items, K), what rule "shortest" (lengths)
    or "confidence" compares. weights: (items, K) >= 0, one vote each unless given; sums that differ by less
    than a billionth of the largest are a tie. unreadable_votes: "" is one more answer, a wrong one.
    Raises UserError on an unknown rule, ValueError on bad arrays.
    """
    lookup("tie rule", TIE_RULES, rule)
    counted = tallies(answers, right)
    if (key is None) != (rule in ("uniform", "first")):
        raise ValueError(f"tie rule {rule!r} {'needs key=, one number a branch' if key is None else 'takes no key'}")
    keys = None if key is None else _branch_values("key", key, answers)
    strengths = np.ones((len(answers), len(answers[0])))
    if weights is not None:
        strengths = _branch_values("weights", weights, answers)
    if (strengths < 0).any():
        raise ValueError("weights must not be negative")
    results = []
    for item, (tally, row) in enumerate(zip(counted, answers, strict=True)):
        tied, margin = _tied(_weighted(row, strengths[item], unreadable_votes))
        chosen = None
        if rule != "uniform" and tied:
            chosen = _break_tie(rule, tied, row, None if keys is None else keys[item])
        results.append(_outcome(tied, tally.right, margin, chosen))
    return _gathered(results)


_Outcome: TypeAlias = tuple[float, float, float, str, bool, float]


def _gathered(outcomes: Sequence[_Outcome]) -> Vote:
    score, low, high, winner, tie, margins = zip(*outcomes, strict=True)
    return Vote(np.array(score), np.array(low), np.array(high), winner, np.array(tie), np.array(margins))


def _weighted(row: Sequence[str], strengths: Floats, unreadable_votes: bool) -> dict[str, float]:
    votes: dict[str, float] = {}
    for answer, strength in zip(row, strengths.tolist(), strict=True):
        if answer or unreadable_votes:
            votes[answer] = votes.get(answer, 0.0) + strength
    return votes


def _tied(votes: Mapping[str, float]) -> tuple[list[str], float]:
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


def _outcome(tied: list[str], right: frozenset[str], margin: float, chosen: str | None) -> _Outcome:
    if not tied:
        return 0.0, 0.0, 0.0, "", False, 0.0
    ok = [a in right for a in tied]
    score = sum(ok) / len(ok) if chosen is None else float(chosen in right)
    return score, float(all(ok)), float(any(ok)), tied[0] if chosen is None else chosen, len(tied) > 1, margin


# ---------------------------------------------------------------- ballots and the table of rules


@dataclass(frozen=True, eq=False)
class Ballots:
    """What K branches an item said: the input of every rule. Checked when made.

    answers, right: (items, K). confidence (any increasing scale) and lengths (tokens or characters): (items, K), or
    None where not measured. For `temporal` the K columns are the steps of one trajectory, or of several one after
    another.
    """

    answers: Answers
    right: ArrayLike
    confidence: ArrayLike | None = None
    lengths: ArrayLike | None = None

    def __post_init__(self) -> None:
        tallies(self.answers, self.right)
        for name in ("confidence", "lengths"):
            if getattr(self, name) is not None:
                _branch_values(name, getattr(self, name), self.answers)

    @property
    def items(self) -> int:
        return len(self.answers)

    @property
    def branches(self) -> int:
        return len(self.answers[0])

    def measured(self, name: str) -> Floats:
        """`confidence` or `lengths`. UserError where the branches carry none."""
        values = getattr(self, name)
        if values is None:
            raise UserError(f"this vote needs the {name} of each branch; give Ballots({name}=...)")
        return _branch_values(name, values, self.answers)

    def key(self, tie: str) -> Floats | None:
        """What a tie rule compares."""
        lookup("tie rule", TIE_RULES, tie)
        field = {"confidence": "confidence", "shortest": "lengths"}.get(tie)
        return None if field is None else self.measured(field)


def majority(b: Ballots, *, tie: str = "uniform", unreadable_votes: bool = False) -> Vote:
    """One branch, one vote. Source: self-consistency, Wang 2022, arXiv:2203.11171."""
    return vote(b.answers, b.right, rule=tie, key=b.key(tie), unreadable_votes=unreadable_votes)


def by_confidence(b: Ballots, *, tie: str = "uniform") -> Vote:
    """Votes weighted by `confidence`, which must not be negative: exp of a mean log probability, not the log itself."""
    weights = b.measured("confidence")
    if (weights < 0).any():
        raise UserError(f"confidence {weights.min():.3g} cannot weigh a vote; give exp(mean log probability)")
    return vote(b.answers, b.right, rule=tie, key=b.key(tie), weights=weights)


WEIGHTINGS: dict[str, Callable[[Floats, float], Floats]] = {
    "fixed": lambda share, alpha: np.ones_like(share),
    "linear": lambda share, alpha: share,
    "exponential": lambda share, alpha: np.exp(alpha * (share - 1)),  # the last step weighs 1: nothing overflows
}


def step_weights(steps: int, weighting: str = "exponential", alpha: float = 5.0) -> Floats:
    """Weights of denoising steps 1..steps, (steps,), the last one 1: f of the share of the denoising that is done.

    "fixed" 1, "linear" s / S, "exponential" exp(alpha s / S) / exp(alpha). Source: Time Is a Feature,
    arXiv:2508.09138, whose diffusion time runs down: 1 - t / T there is s / S here; its alpha is 5.
    """
    shape = lookup("step weighting", WEIGHTINGS, weighting)
    if steps < 1 or not (np.isfinite(alpha) and alpha >= 0):
        raise UserError(f"{steps} steps with alpha={alpha}: give at least 1 step and a finite alpha of at least 0")
    return shape(np.arange(1, steps + 1) / steps, float(alpha))


def even_steps(paths: Sequence[Sequence[str]]) -> list[list[str]]:
    """Answers read at each step, made equally long for `temporal`: a row that left early goes on saying its last one.

    That is what denoising the rest of its canvas would have read, since what follows the end mark is no text.
    """
    longest = max((len(p) for p in paths), default=0)
    for item, path in enumerate(paths):
        if not path:
            raise UndefinedEstimate(f"trajectory {item} has no step; sample it with its steps kept")
    return [[*p, *[p[-1]] * (longest - len(p))] for p in paths]


def temporal(
    b: Ballots, *, weighting: str = "exponential", alpha: float = 5.0, trajectories: int = 1, tie: str = "uniform"
) -> Vote:
    """Vote of the answers read at every denoising step, weighted by step (`step_weights`).

    The columns of `b` are steps 1..S of the first trajectory, then of the second. A step at which nothing can be read
    has no vote.
    """
    steps, over = divmod(b.branches, max(1, trajectories))
    if over or trajectories < 1:
        raise UserError(f"{b.branches} columns are not the steps of {trajectories} trajectories of one length")
    one = step_weights(steps, weighting, alpha)
    weights = np.tile(one, (b.items, trajectories))
    return vote(b.answers, b.right, rule=tie, key=b.key(tie), weights=weights)


def oracle_vote(b: Ballots) -> Vote:
    """A judge that knows the answers: the first right branch, else the first readable one. No ties, margin 0."""
    outcomes: list[_Outcome] = []
    for tally in tallies(b.answers, b.right):
        winner = next((a for a in tally.votes if a in tally.right), next(iter(tally.votes), ""))
        hit = float(winner in tally.right)
        outcomes.append((hit, hit, hit, winner, False, 0.0))
    return _gathered(outcomes)


def verifier(b: Ballots, *, scores: ArrayLike | Callable[[int, int], float]) -> Vote:
    """The answer of the branch a verifier scores highest; equal scores are a tie, split uniformly.

    scores: (items, K), or called with (item, branch) of every readable branch. Margin is the lead in score over the
    best branch with another answer, 0 in a tie or without one.
    """
    table = branch_scores(b, scores)
    outcomes: list[_Outcome] = []
    for tally, row, points in zip(tallies(b.answers, b.right), b.answers, table.tolist(), strict=True):
        best = {a: max(s for c, s in zip(row, points, strict=True) if c == a) for a in tally.votes}
        top = max(best.values(), default=0.0)
        tied = [a for a, s in best.items() if s == top]
        rest = [s for a, s in best.items() if a not in tied]
        margin = top - max(rest) if rest and len(tied) == 1 else 0.0
        outcomes.append(_outcome(tied, tally.right, margin, None))
    return _gathered(outcomes)


def by_verifier(b: Ballots, *, scores: ArrayLike | Callable[[int, int], float], tie: str = "uniform") -> Vote:
    """Votes weighted by a verifier's scores, which must not be negative."""
    return vote(b.answers, b.right, rule=tie, key=b.key(tie), weights=branch_scores(b, scores))


def branch_scores(b: Ballots, scores: ArrayLike | Callable[[int, int], float]) -> Floats:
    """A verifier's scores, (items, K); unreadable branches are not asked about and hold 0."""
    if not callable(scores):
        return _branch_values("scores", scores, b.answers)
    asked = [[scores(i, j) if a else 0.0 for j, a in enumerate(row)] for i, row in enumerate(b.answers)]
    return _branch_values("scores", asked, b.answers)


class Rule(NamedTuple):
    """One way to decide between branches, with the settings it takes."""

    says: str
    run: Callable[..., Vote]
    settings: tuple[str, ...]


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "majority": Rule("one branch, one vote", majority, ("tie", "unreadable_votes")),
        "confidence": Rule("votes weighted by confidence", by_confidence, ("tie",)),
        "temporal": Rule(
            "votes of all denoising steps, weighted by step", temporal, ("weighting", "alpha", "trajectories", "tie")
        ),
        "verifier": Rule("the branch a verifier scores highest", verifier, ("scores",)),
        "verifier-weighted": Rule("votes weighted by a verifier's scores", by_verifier, ("scores", "tie")),
        "quorum": Rule(
            "the majority of the branches drawn until it is settled",
            lambda b, **settings: quorum(b, **settings).vote,
            ("rule", "p", "tie"),
        ),
        "oracle": Rule("any right branch: the ceiling of every rule", oracle_vote, ()),
    }
)


def elect(b: Ballots, rule: str = "majority", **settings: object) -> Vote:
    """Decide every item by the named rule of `RULES`. UserError on an unknown rule or setting, with the nearest."""
    entry = lookup("vote rule", RULES, rule)
    for name in settings:
        if name not in entry.settings:
            raise UserError(f"vote rule {rule!r} has no setting {name!r}{suggest(name, entry.settings)}")
    return entry.run(b, **settings)


# ---------------------------------------------------------------- quorum, replayed on branches that are all there


@dataclass(frozen=True, eq=False, kw_only=True)
class Quorum:
    """A vote that stopped early, beside the vote of all branches. Arrays are (items,)."""

    stop: Stop
    vote: Vote  # of the branches drawn
    full: Vote  # of all k
    used: Ints  # branches drawn
    flips: Floats  # share of the full vote's outcome that changed: 0 or 1, between where ties are split
    forwards_used: Floats | None  # None: forwards were not given
    forwards_full: Floats | None

    @property
    def approximate(self) -> bool:
        return self.stop.rule != "exact"

    def flip_rate(self) -> Estimate:
        """Share of items that the early stop decides otherwise, with its interval; 0 under "exact"."""
        return cluster_mean(self.flips, bounds=(0.0, 1.0), name=f"flip rate, {STOP_RULES[self.stop.rule]}")

    def branches_used(self) -> Estimate:
        """Branches drawn for an item, mean and interval."""
        return cluster_mean(self.used, bounds=(1.0, float(self.stop.k)), name="branches used")

    @property
    def saved(self) -> float:
        """Share of all forwards (of all branches, where forwards were not given) that were not run."""
        if self.forwards_used is None or self.forwards_full is None:
            return 1 - float(self.used.mean()) / self.stop.k
        return 1 - float(self.forwards_used.sum() / self.forwards_full.sum())


def quorum(
    b: Ballots, *, rule: str = "exact", p: float = 0.95, tie: str = "first", forwards: ArrayLike | None = None
) -> Quorum:
    """Replay of an early stop on finished branches, taken in branch order; see `quorum.Stop`.

    forwards: (items, K) > 0, forward passes of each branch. Branches not drawn are as if unreadable: no vote.
    """
    stop = Stop(k=b.branches, rule=rule, p=p, tie=tie)
    used = np.array([_drawn(row, stop) for row in b.answers], dtype=np.int64)
    drawn = np.arange(b.branches) < used[:, None]
    answers = [
        [a if on else "" for a, on in zip(row, ons, strict=True)]
        for row, ons in zip(b.answers, drawn.tolist(), strict=True)
    ]
    early = vote(answers, grades(b.right) & drawn, rule=tie, key=b.key(tie))
    full = majority(b, tie=tie)
    flips = np.array([_flip(few, row, tie) for few, row in zip(answers, b.answers, strict=True)])
    if tie != "uniform":
        flips = np.array([float(x != y) for x, y in zip(early.winner, full.winner, strict=True)])
    cost = None
    if forwards is not None:
        cost = np.asarray(forwards, dtype=np.float64)
        if cost.shape != drawn.shape or not (np.isfinite(cost) & (cost > 0)).all():
            raise ValueError(f"forwards must be positive numbers of shape {drawn.shape}, got shape {cost.shape}")
    return Quorum(
        stop=stop,
        vote=early,
        full=full,
        used=used,
        flips=flips,
        forwards_used=None if cost is None else np.where(drawn, cost, 0.0).sum(axis=1),
        forwards_full=None if cost is None else cost.sum(axis=1),
    )


def _drawn(row: Sequence[str], stop: Stop) -> int:
    return next(j for j in range(1, len(row) + 1) if stop.settled(row[:j]))


def _flip(few: Sequence[str], row: Sequence[str], tie: str) -> float:
    """Total variation distance between two uniform draws from the tied winners."""
    ones = np.ones(len(row))
    one, other = (set(_tied(_weighted(r, ones, False))[0]) or {""} for r in (few, row))
    return 1 - len(one & other) / max(len(one), len(other))
