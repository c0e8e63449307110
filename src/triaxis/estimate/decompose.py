"""What changed in the branches between two arms: the right set, the wrong set, or only the temperature.

A change in diversity is split exactly into what it did to right and to wrong answers (`SPLITS`), named by declared
rules (`VERDICTS`), and held against the untrained executor at the temperature at which it is as accurate
(`temperature_control`). Both arms are `Ballots` of the same items and number of branches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, log
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from triaxis.errors import UndefinedEstimate, UserError, lookup
from triaxis.estimate.diversity import METRICS, Diversity, summary, unique_count
from triaxis.estimate.paired import Estimate, finish, paired
from triaxis.estimate.votes import Ballots, Floats, grades

# ---------------------------------------------------------------- right set and wrong set


def _unique_parts(b: Ballots) -> tuple[Floats, Floats]:
    found = unique_count(b.answers, b.right)
    return found.right.astype(float), found.wrong.astype(float)


def _disagreement_parts(b: Ballots) -> tuple[Floats, Floats]:
    """Differing pairs with a right branch; differing pairs of two wrong branches ("unreadable" is one answer)."""
    pairs = comb(b.branches, 2)
    if not pairs:
        raise UndefinedEstimate("the spread of one branch is undefined: sample at least two branches an item")
    right, wrong = [], []
    for good, bad in _outcomes(b):
        apart = pairs - sum(comb(c, 2) for c in (*good, *bad))
        among_wrong = comb(sum(bad), 2) - sum(comb(c, 2) for c in bad)
        right.append((apart - among_wrong) / pairs)
        wrong.append(among_wrong / pairs)
    return np.array(right), np.array(wrong)


def _entropy_parts(b: Ballots) -> tuple[Floats, Floats]:
    """Plug-in entropy, nats: H(right or wrong) + P(right) H(answer | right), and P(wrong) H(answer | wrong)."""
    if b.branches < 2:
        raise UndefinedEstimate("the spread of one branch is undefined: sample at least two branches an item")
    k = b.branches
    right, wrong = [], []
    for good, bad in _outcomes(b):
        n_wrong = sum(bad)
        among_wrong = sum(c / k * log(n_wrong / c) for c in bad)
        whole = sum(c / k * log(k / c) for c in (*good, *bad))
        right.append(whole - among_wrong)
        wrong.append(among_wrong)
    return np.array(right), np.array(wrong)


def _outcomes(b: Ballots) -> list[tuple[list[int], list[int]]]:
    """Counts of each item's right answers and of its wrong ones, "unreadable" among these."""
    found = []
    for row, marks in zip(b.answers, grades(b.right).tolist(), strict=True):
        good = Counter(a for a, ok in zip(row, marks, strict=True) if ok)
        bad = Counter(a for a, ok in zip(row, marks, strict=True) if not ok)
        found.append((list(good.values()), list(bad.values())))
    return found


class Parts(NamedTuple):
    """A measure of diversity that is the sum of a right-set and a wrong-set part, each (items,)."""

    says: str
    of: Callable[[Ballots], tuple[Floats, Floats]]
    most: Callable[[int], float]  # greatest value with k branches


SPLITS: Mapping[str, Parts] = MappingProxyType(
    {
        "unique": Parts(
            "distinct answers: right ones (the oracle, where forms are merged), wrong ones", _unique_parts, float
        ),
        "disagreement": Parts(
            "branch pairs that differ: with a right branch, both wrong", _disagreement_parts, lambda k: 1.0
        ),
        "entropy": Parts("plug-in, nats: right or wrong, which wrong answer", _entropy_parts, log),
    }
)


class Split(NamedTuple):
    """A change in diversity, after minus before: total = right + wrong, item by item."""

    measure: str
    total: Estimate
    right: Estimate
    wrong: Estimate


def split(before: Ballots, after: Ballots, measure: str = "unique", *, margin: float = 0.05) -> Split:
    """The change of a measure of `SPLITS`, in its own unit, with paired intervals; Holm over its three numbers.

    margin: for "equivalent", a share of the greatest value the measure can take. Raises UndefinedEstimate for other
    items or branches on the two sides, or fewer than two items.
    """
    return Split(measure, *_settled(_split_pairs(before, after, measure), margin))


_Pair = tuple[str, Floats, Floats, float]  # name, after, before, greatest value


def _split_pairs(before: Ballots, after: Ballots, measure: str) -> list[_Pair]:
    parts = lookup("split of diversity", SPLITS, measure)
    _same_shape(before, after)
    most = parts.most(after.branches)
    (r0, w0), (r1, w1) = parts.of(before), parts.of(after)
    named = (("total", r1 + w1, r0 + w0), ("right set", r1, r0), ("wrong set", w1, w0))
    return [(f"{measure}, {name}", new, old, most) for name, new, old in named]


def _settled(pairs: Sequence[_Pair], margin: float, alpha: float = 0.05) -> list[Estimate]:
    """Paired changes of one family, finished as shares of their greatest value and given in their own unit."""
    family = [paired(np.clip(a / m, 0, 1), np.clip(b / m, 0, 1), name=name) for name, a, b, m in pairs]
    done = finish(family, margin=margin, alpha=alpha)
    return [_in_unit(e, most, margin) for e, (_, _, _, most) in zip(done, pairs, strict=True)]


def _in_unit(e: Estimate, most: float, margin: float) -> Estimate:
    """A share of `most` in the unit of `most`; so is the margin that an equivalence names, unless that is in points."""
    mde = None if e.mde80 is None else most * e.mde80
    same = most != 1 and e.verdict.startswith("equivalent")
    word = f"equivalent within {most * margin:.2g}" if same else e.verdict
    made = replace(e, value=most * e.value, low=most * e.low, high=most * e.high, step=most * e.step, mde80=mde)
    return replace(made, verdict=word)


def _same_shape(before: Ballots, after: Ballots) -> None:
    if (before.items, before.branches) != (after.items, after.branches):
        raise UndefinedEstimate(
            f"{before.items} items x {before.branches} branches before, {after.items} x {after.branches} after: a "
            "change needs the same items and as many branches on both sides"
        )


# ---------------------------------------------------------------- what kind of change


class Signs(NamedTuple):
    """+1, -1 where a change is resolved (p Holm <= alpha), else 0."""

    total: int
    right: int
    wrong: int
    per_branch: int
    vote: int


class Kind(NamedTuple):
    says: str
    holds: Callable[[Signs], bool]


VERDICTS: Mapping[str, Kind] = MappingProxyType(  # the first that holds
    {
        "collapse": Kind(
            "fewer distinct answers, and the right set did not grow", lambda s: s.total < 0 and s.right <= 0
        ),
        "useful expansion": Kind(
            "the right set grew, and the vote did not fall", lambda s: s.right > 0 and s.vote >= 0
        ),
        "noise expansion": Kind("the wrong set grew, and nothing a vote can use", lambda s: s.wrong > 0),
        "not resolved": Kind("no change of the right set, the wrong set or their sum is resolved so", lambda s: True),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happened to the branches, after minus before. Holm runs over the five numbers behind the verdict."""

    unique: Split
    per_branch: Estimate
    vote: Estimate
    verdict: str
    reason: str

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        return self.unique.total, self.unique.right, self.unique.wrong, self.per_branch, self.vote


def change(
    before: Ballots, after: Ballots, *, tie: str = "uniform", margin: float = 0.05, alpha: float = 0.05
) -> Change:
    """Name the change of the branches by the rules of `VERDICTS`: in distinct right and wrong answers and the vote."""
    pairs = _split_pairs(before, after, "unique")
    old, new = _summary(before, tie), _summary(after, tie)
    pairs += [("per branch", new.per_branch, old.per_branch, 1.0), ("vote", new.vote.score, old.vote.score, 1.0)]
    total, right, wrong, branch, vote = _settled(pairs, margin, alpha)
    signs = Signs(*map(_sign, (total, right, wrong, branch, vote)))
    verdict = next(name for name, kind in VERDICTS.items() if kind.holds(signs))
    reason = VERDICTS[verdict].says
    if verdict == "collapse" and signs.per_branch > 0 and signs.right == 0:
        reason += "; onto right answers: a branch is right more often, and no right answer is known to be lost"
    return Change(
        unique=Split("unique", total, right, wrong), per_branch=branch, vote=vote, verdict=verdict, reason=reason
    )


def _sign(e: Estimate) -> int:
    return {"lift": 1, "drop": -1}.get(e.verdict, 0)


def _summary(b: Ballots, tie: str = "uniform") -> Diversity:
    return summary(b.answers, b.right, rule=tie, key=b.key(tie))


# ---------------------------------------------------------------- the accuracy-matched temperature


class Trial(NamedTuple):
    temperature: float
    difference: Estimate  # measured at this temperature minus the target


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The temperature at which a measure meets its target, as far as the budget and the noise allow.

    status: "matched" (within the tolerance), "matched within noise" (the paired interval of the rest contains 0),
    "not matched". span: the trials next to it that are resolved to lie on either side, None where none is.
    """

    temperature: float
    difference: Estimate
    status: str
    reason: str
    span: tuple[float | None, float | None]
    trials: tuple[Trial, ...]  # in the order asked

    @property
    def matched(self) -> bool:
        return self.status != "not matched"


def match_temperature(
    measure: Callable[[float], ArrayLike],
    target: ArrayLike,
    *,
    low: float = 0.1,
    high: float = 1.5,
    budget: int = 8,
    tolerance: float = 0.01,
    resolution: float = 0.01,
) -> Match:
    """Find T in [low, high] with mean(measure(T)) = mean(target), for a measure that falls as T rises.

    measure(T): per-item scores in [0, 1] of the same items as target, (items,); called at most `budget` times, each
    temperature once. A noisy trial does not throw away half the range for good: each step fits all trials by the
    nearest falling curve (isotonic regression) and asks inside the segment where that crosses the target, at the
    linear interpolation kept within its middle 60 %. Stops at the tolerance (a share), at neighbours closer than
    `resolution`, or when the budget is spent; the trial nearest to the target is the answer.
    """
    if not 0 <= low < high:
        raise UserError(f"temperatures from {low} to {high}: give 0 <= low < high")
    if budget < 2:
        raise UserError(f"budget={budget}: both ends have to be measured, so give at least 2")
    trials: list[Trial] = []

    def ask(temperature: float) -> bool:
        name = f"measured at T={temperature:.3g} minus target"
        trials.append(Trial(temperature, paired(measure(temperature), target, name=name)))
        return abs(trials[-1].difference.value) <= tolerance

    if ask(low) or ask(high):
        return _match(trials, tolerance, "an end of the range meets the target")
    at_low, at_high = trials[0].difference.value, trials[1].difference.value
    if at_low < 0 or at_high > 0:
        side = f"at T={low:g} it is already below" if at_low < 0 else f"at T={high:g} it is still above"
        return _match(trials, tolerance, f"the range does not reach the target: {side}")
    reason = f"the budget of {budget} trials is spent"
    while len(trials) < budget:
        after = _next_temperature(trials, resolution)
        if after is None:
            reason = f"neighbouring trials are closer than {resolution:g}"
            break
        if ask(after):
            reason = f"within {tolerance:g} of the target"
            break
    return _match(trials, tolerance, reason)


def _next_temperature(trials: Sequence[Trial], resolution: float) -> float | None:
    ordered = sorted(trials, key=lambda t: t.temperature)
    heat = [t.temperature for t in ordered]
    curve = falling([t.difference.value for t in ordered])
    crossing = [i for i in range(len(curve) - 1) if curve[i] > 0 >= curve[i + 1]]
    # pooling may leave no crossing: noise as large as the whole range; then look where least is known
    i = crossing[0] if crossing else int(np.argmax(np.diff(heat)))
    width = heat[i + 1] - heat[i]
    if width < resolution:
        return None
    drop = curve[i] - curve[i + 1]
    share = min(0.8, max(0.2, curve[i] / drop)) if crossing else 0.5
    return heat[i] + share * width


def falling(values: Sequence[float]) -> list[float]:
    """The non-increasing sequence nearest in squares (pool adjacent violators). Source: Ayer 1955; Barlow 1972."""
    blocks: list[tuple[float, int]] = []  # mean, size
    for value in values:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * n + b * m) / (n + m), n + m))
    return [mean for mean, size in blocks for _ in range(size)]


def _match(trials: Sequence[Trial], tolerance: float, reason: str) -> Match:
    best = min(trials, key=lambda t: abs(t.difference.value))
    d = best.difference
    status = "not matched"
    if abs(d.value) <= tolerance:
        status = "matched"
    elif d.low <= 0 <= d.high:
        status = "matched within noise"
    above = [t.temperature for t in trials if t.difference.low > 0]
    below = [t.temperature for t in trials if t.difference.high < 0]
    span = (max(above, default=None), min(below, default=None))
    return Match(
        temperature=best.temperature, difference=d, status=status, reason=reason, span=span, trials=tuple(trials)
    )


# ---------------------------------------------------------------- implicit temperature or other trajectories

MATCH_BY: Mapping[str, str] = MappingProxyType(  # each falls as the temperature rises
    {"per_branch": "accuracy of one branch", "all_equal": "items on which all branches agree"}
)
_COMPARED = ("per_branch", "vote", "oracle", "unique_right", "unique_wrong", "disagreement", "all_equal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A trained arm against the untrained executor at the temperature that matches it.

    effects: trained minus matched, paired by item, Holm over them, in the measures' own units. What is left of
    `match.difference` can account for effects of its size; the temperature was chosen on these same items.
    """

    by: str
    match: Match
    effects: tuple[Estimate, ...]
    verdict: str  # "implicit temperature", "other trajectories" or "not resolved"
    reason: str


def temperature_control(
    sample: Callable[[float], Ballots],
    trained: Ballots,
    *,
    by: str = "per_branch",
    low: float = 0.1,
    high: float = 1.5,
    budget: int = 8,
    tolerance: float = 0.01,
    margin: float = 0.05,
    alpha: float = 0.05,
) -> Control:
    """Did training do more than move the temperature? Match `by` (`MATCH_BY`), then compare all the rest.

    sample(T): the untrained executor's branches of the same items at temperature T. "other trajectories" where any
    effect is resolved (p Holm <= alpha); "implicit temperature" where every one is equivalent within `margin`, a share
    of the greatest value it can take; "not resolved" otherwise, and where no temperature matches.
    """
    lookup("measure to match", MATCH_BY, by)
    goal = _summary(trained)
    seen: dict[float, Diversity] = {}

    def measure(temperature: float) -> Floats:
        drawn = sample(temperature)
        _same_shape(drawn, trained)
        seen[temperature] = _summary(drawn)
        return _metric(seen[temperature], by)

    found = match_temperature(measure, _metric(goal, by), low=low, high=high, budget=budget, tolerance=tolerance)
    base = seen[found.temperature]
    pairs: list[_Pair] = [
        (name, _metric(goal, name), _metric(base, name), METRICS[name].most(trained.branches))
        for name in _COMPARED
        if name != by
    ]
    effects = tuple(_settled(pairs, margin, alpha))
    verdict, reason = _control_verdict(found, effects)
    return Control(by=by, match=found, effects=effects, verdict=verdict, reason=reason)


def _metric(d: Diversity, name: str) -> Floats:
    values = METRICS[name].of(d)
    if values is None:
        raise UndefinedEstimate(f"{name} of one branch is undefined: sample at least two branches an item")
    return np.asarray(values, dtype=np.float64)


def _control_verdict(found: Match, effects: Sequence[Estimate]) -> tuple[str, str]:
    if not found.matched:
        return "not resolved", f"no temperature matches: {found.reason}"
    resolved = [e.name for e in effects if _sign(e)]
    if resolved:
        return "other trajectories", f"differs at the matched temperature in {', '.join(resolved)}"
    open_ones = [e.name for e in effects if not e.verdict.startswith("equivalent")]
    if open_ones:
        return "not resolved", f"neither different nor equivalent at this N: {', '.join(open_ones)}"
    return "implicit temperature", f"everything is equivalent to T={found.temperature:.3g}"
