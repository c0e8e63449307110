"""Right-set and wrong-set parts, named changes, the matched temperature, and the Pareto front."""

from __future__ import annotations

from itertools import combinations, pairwise, product
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate import decompose as dc
from triaxis.estimate import diversity as dv
from triaxis.estimate import pareto
from triaxis.estimate.votes import Ballots

SYMBOLS = ["", "a", "b", "c", "d", "e"]
GOOD = {"a", "b"}


def ballots(rows):
    return Ballots(rows, [[x in GOOD for x in row] for row in rows])


arms = st.integers(2, 5).flatmap(
    lambda k: st.lists(
        st.tuples(*[st.lists(st.sampled_from(SYMBOLS), min_size=k, max_size=k)] * 2), min_size=2, max_size=6
    )
)
WHOLE = {
    "unique": lambda b: dv.unique_count(b.answers, b.right).total,
    "disagreement": lambda b: dv.pairwise_disagreement(b.answers),
    "entropy": lambda b: dv.entropy(b.answers, miller_madow=False),
}


# ---------------------------------------------------------------- the split


@given(arms, st.sampled_from(sorted(dc.SPLITS)))
@settings(max_examples=60, deadline=None)
def test_the_parts_add_up_to_the_change_of_the_published_measure(items, measure):
    before, after = ballots([x for x, _ in items]), ballots([y for _, y in items])
    s = dc.split(before, after, measure)
    whole = WHOLE[measure](after).mean() - WHOLE[measure](before).mean()
    assert s.total.value == pytest.approx(whole, abs=1e-9)
    assert s.right.value + s.wrong.value == pytest.approx(s.total.value, abs=1e-9)
    for e in (s.total, s.right, s.wrong):
        assert e.low - 1e-9 <= e.value <= e.high + 1e-9


@given(st.lists(st.sampled_from(SYMBOLS), min_size=2, max_size=6))
@settings(max_examples=120, deadline=None)
def test_the_parts_are_what_they_say(row):
    b, k = ballots([row]), len(row)
    right, wrong = dc.SPLITS["disagreement"].of(b)
    pairs = list(combinations(row, 2))
    assert wrong[0] == pytest.approx(np.mean([x != y and not {x, y} & GOOD for x, y in pairs]))
    assert right[0] == pytest.approx(np.mean([x != y and bool({x, y} & GOOD) for x, y in pairs]))
    good, bad = [x for x in row if x in GOOD], [x for x in row if x not in GOOD]

    def h(xs):
        return -sum(xs.count(x) / len(xs) * log(xs.count(x) / len(xs)) for x in set(xs))

    right, wrong = dc.SPLITS["entropy"].of(b)
    assert wrong[0] == pytest.approx(len(bad) / k * h(bad))
    assert right[0] == pytest.approx(h([x in GOOD for x in row]) + len(good) / k * h(good))


@pytest.mark.parametrize(("measure", "said"), [("unique", "0.25"), ("disagreement", "5 points"), ("entropy", "0.08")])
def test_an_equivalence_names_its_margin_in_the_unit_of_the_change(measure, said):
    """Five branches can give five distinct answers: a twentieth of that is a quarter of an answer, not 5 points."""
    same = ballots([["a", "b", "c", "c", "d"]] * 200)
    found = dc.split(same, same, measure)
    assert {e.verdict for e in (found.total, found.right, found.wrong)} == {f"equivalent within {said}"}


def test_unequal_arms_and_unknown_measures_are_refused():
    one, two = ballots([["a", "c"]] * 3), ballots([["a", "c", "d"]] * 3)
    with pytest.raises(UndefinedEstimate, match="3 items x 2 branches before, 3 x 3 after"):
        dc.split(one, two)
    with pytest.raises(UserError, match="did you mean 'unique'"):
        dc.split(one, one, "uniqe")
    for measure in ("disagreement", "entropy"):
        with pytest.raises(UndefinedEstimate, match="one branch"):
            dc.split(ballots([["a"]] * 3), ballots([["c"]] * 3), measure)


# ---------------------------------------------------------------- named changes


def mixed(*parts):
    return ballots([row for row, times in parts for _ in range(times)])


CASES = {
    # wrong answers of half the items come apart, nothing else happens: the unique count rises
    "noise expansion": (mixed((["c"] * 4, 40), (["a"] * 4, 40)), mixed((["c", "c", "c", "d"], 40), (["a"] * 4, 40))),
    # a right branch appears where there was none, without winning or losing a vote
    "useful expansion": (mixed((["c"] * 4, 40), (["a"] * 4, 40)), mixed((["a", "c", "c", "c"], 40), (["a"] * 4, 40))),
    # branches that held the right answer all say the wrong one
    "collapse": (mixed((["a", "c", "c", "c"], 60), (["a"] * 4, 20)), mixed((["c"] * 4, 60), (["a"] * 4, 20))),
    "not resolved": (mixed((["a", "c", "c", "c"], 40)), mixed((["a", "c", "c", "c"], 39), (["c"] * 4, 1))),
}


@pytest.mark.parametrize("verdict", CASES)
def test_each_verdict_on_a_case_made_for_it(verdict):
    before, after = CASES[verdict]
    found = dc.change(before, after)
    assert found.verdict == verdict
    assert found.unique.total.value == pytest.approx(found.unique.right.value + found.unique.wrong.value)
    assert all(e.p_holm is not None for e in found.estimates)


def test_a_rising_unique_count_of_wrong_answers_is_not_useful():
    before, after = CASES["noise expansion"]
    found = dc.change(before, after)
    assert found.unique.total.value == 0.5
    assert found.unique.right.value == 0
    assert found.vote.value == 0


def test_a_right_branch_that_costs_the_vote_is_not_useful():
    before = mixed((["c"] * 4, 60), (["a", "a", "a", "c"], 60))
    after = mixed((["a", "c", "c", "c"], 60), (["a", "c", "c", "d"], 60))
    found = dc.change(before, after)
    assert (found.unique.right.verdict, found.vote.verdict) == ("lift", "drop")
    assert found.verdict == "noise expansion"


def test_collapse_onto_right_answers_is_told_apart():
    before, after = mixed((["a", "a", "c", "d"], 60)), mixed((["a"] * 4, 60))
    found = dc.change(before, after)
    assert (found.verdict, "onto right answers" in found.reason) == ("collapse", True)
    lost = dc.change(*CASES["collapse"])
    assert "onto right answers" not in lost.reason


def test_the_rules_name_exactly_one_verdict_for_every_pattern_of_signs():
    order = list(dc.VERDICTS)
    for signs in product((-1, 0, 1), repeat=5):
        s = dc.Signs(*signs)
        name = next(n for n in order if dc.VERDICTS[n].holds(s))
        if s.total < 0 and s.right <= 0:
            assert name == "collapse"
        elif s.right > 0 and s.vote >= 0:
            assert name == "useful expansion"
        else:
            assert name == ("noise expansion" if s.wrong > 0 else "not resolved")


# ---------------------------------------------------------------- matched temperature


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_falling_is_the_nearest_falling_sequence(values):
    fit = dc.falling(values)
    assert all(a >= b - 1e-12 for a, b in pairwise(fit))
    mine = sum((a - b) ** 2 for a, b in zip(fit, values, strict=True))
    # max-min formula of isotonic regression
    n = len(values)
    for i in range(n):
        best = min(max(np.mean(values[a : b + 1]) for b in range(i, n)) for a in range(i + 1))
        assert fit[i] == pytest.approx(best)
    assert mine <= sum((v - np.mean(values)) ** 2 for v in values) + 1e-9


def steps(n):
    """A measure without noise: item i is right while T < its own threshold, spread evenly over (0, 2)."""
    thresholds = (np.arange(n) + 0.5) / n * 2
    return lambda t: (thresholds > t).astype(float)


@pytest.mark.parametrize("true", [0.31, 0.8, 1.19])
def test_bisection_finds_the_temperature_within_its_budget(true):
    asked = []
    measure = steps(400)

    def counted(t):
        asked.append(t)
        return measure(t)

    m = dc.match_temperature(counted, measure(true), budget=10, tolerance=0.006)
    assert m.status == "matched"
    assert m.temperature == pytest.approx(true, abs=0.02)
    assert len(asked) == len(set(asked)) == len(m.trials) <= 10
    assert m.span[0] < m.temperature < m.span[1]


def test_bisection_withstands_noise():
    n, hits = 300, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        skill = rng.beta(2, 2, n)

        def noisy(t, rng=rng, skill=skill):
            return (rng.random((n, 5)) < np.clip(skill * (1.3 - 0.6 * t), 0, 1)[:, None]).mean(axis=1)

        m = dc.match_temperature(noisy, noisy(0.7), low=0.1, high=1.5, budget=8)
        hits += m.matched and abs(m.temperature - 0.7) < 0.25
    assert hits >= 19


def test_a_target_out_of_reach_is_not_matched():
    measure = steps(100)
    m = dc.match_temperature(measure, np.ones(100), low=0.5, high=1.5)
    assert (m.matched, len(m.trials)) == (False, 2)
    assert "at T=0.5 it is already below" in m.reason
    assert m.temperature == 0.5
    m = dc.match_temperature(measure, np.zeros(100), low=0.5, high=1.0)
    assert "at T=1 it is still above" in m.reason
    with pytest.raises(UserError, match="low < high"):
        dc.match_temperature(measure, np.zeros(100), low=1.0, high=0.5)
    with pytest.raises(UserError, match="budget=1"):
        dc.match_temperature(measure, np.zeros(100), budget=1)


def test_a_spent_budget_says_so():
    curved = steps(1000)

    def measure(t):
        return curved(t**3)

    m = dc.match_temperature(measure, measure(0.777), budget=3, tolerance=0.0005)
    assert len(m.trials) == 3
    assert "budget of 3" in m.reason
    assert m.status == "not matched"


def world(n, k, seed, wrong=6):
    """Branches of n items: right with a chance that falls in T, else one of `wrong` answers."""
    skill = np.random.default_rng(99).beta(3, 2, n)

    def sample(t, salt=0, wrong=wrong):
        rng = np.random.default_rng([seed, round(1000 * t), salt])
        right = rng.random((n, k)) < np.clip(skill * (1.25 - 0.5 * t), 0, 1)[:, None]
        others = rng.integers(0, wrong, (n, k))
        answers = [
            ["a" if r else f"w{o}" for r, o in zip(*row, strict=True)] for row in zip(right, others, strict=True)
        ]
        return Ballots(answers, right)

    return sample


def test_training_that_only_cools_is_an_implicit_temperature():
    sample = world(2500, 5, 1)
    found = dc.temperature_control(sample, sample(0.5, salt=1), tolerance=0.004, budget=9)
    assert found.match.matched
    assert found.match.temperature == pytest.approx(0.5, abs=0.1)
    assert found.verdict == "implicit temperature"
    few = dc.temperature_control(world(40, 5, 1), world(40, 5, 1)(0.5, salt=1), budget=6)
    assert few.verdict == "not resolved"


def test_training_that_gathers_wrong_answers_is_other_trajectories():
    sample = world(600, 5, 2)
    found = dc.temperature_control(sample, sample(0.5, salt=1, wrong=1), budget=7)
    assert found.verdict == "other trajectories"
    assert "unique_wrong" in found.reason
    assert found.match.temperature == pytest.approx(0.5, abs=0.2)
    assert [e.name for e in found.effects] == [n for n in dc._COMPARED if n != "per_branch"]


def test_no_matching_temperature_resolves_nothing():
    sample = world(300, 5, 3)
    perfect = Ballots([["a"] * 5] * 300, np.ones((300, 5)))
    found = dc.temperature_control(sample, perfect)
    assert (found.verdict, "no temperature matches" in found.reason) == ("not resolved", True)
    by_unanimity = dc.temperature_control(sample, sample(0.6, salt=1), by="all_equal", budget=5)
    assert by_unanimity.by == "all_equal"
    assert "per_branch" in [e.name for e in by_unanimity.effects]
    with pytest.raises(UserError, match="did you mean 'per_branch'"):
        dc.temperature_control(sample, perfect, by="perbranch")


# ---------------------------------------------------------------- Pareto

points = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=7)


@given(points)
@settings(max_examples=100, deadline=None)
def test_hypervolume_counts_cells(ps):
    """A grid of 6 x 5 unit cells, each dominated or not."""
    cells = sum(any(c <= x and a >= y + 1 for c, a in ps) for x in range(6) for y in range(5))
    assert pareto.hypervolume([(c, a / 5) for c, a in ps], cost=6) == pytest.approx(cells / 30)


@given(points)
@settings(max_examples=30, deadline=None)
def test_the_front_is_what_nothing_dominates(ps):
    arms = {f"arm{i}": pareto.Arm([a / 5, a / 5], [c, c]) for i, (c, a) in enumerate(ps)}
    for p in pareto.front(arms):
        c, a = ps[int(p.name[3:])]
        over = {f"arm{i}" for i, (d, b) in enumerate(ps) if d <= c and b >= a and (d < c or b > a)}
        assert set(p.dominated_by) == over
        assert p.dominated == bool(over)


def test_points_have_intervals_both_ways_and_evidence():
    rng = np.random.default_rng(0)
    n = 200
    skill = rng.random(n)
    good, bad = (skill < 0.8).astype(float), (skill < 0.4).astype(float)
    near = good.copy()
    near[np.flatnonzero(good)[:2]] = 0
    found = {
        p.name: p
        for p in pareto.front(
            {
                "one": pareto.Arm(good, rng.integers(900, 1100, n)),
                "worse": pareto.Arm(bad, rng.integers(1900, 2100, n)),
                "same, dearer": pareto.Arm(near, np.full(n, 3000)),
                "much": pareto.Arm(np.ones(n), np.full(n, 5000)),
            }
        )
    }
    assert list(found) == ["one", "worse", "same, dearer", "much"]
    assert [p.dominated for p in found.values()] == [False, True, True, False]
    assert [p.certain for p in found.values()] == [False, True, True, False]
    one = found["one"]
    assert one.cost.low < one.cost.value < one.cost.high
    assert one.accuracy.low < one.accuracy.value < one.accuracy.high
    assert found["much"].cost.low == found["much"].cost.high == 5000


def test_pareto_refusals():
    with pytest.raises(UndefinedEstimate, match="'b' has scores"):
        pareto.front({"a": pareto.Arm([1, 0], [1, 1]), "b": pareto.Arm([1, 0, 1], [1, 1, 1])})
    with pytest.raises(UndefinedEstimate, match="not a positive number"):
        pareto.front({"a": pareto.Arm([1, 0], [1, 0])})
    with pytest.raises(UndefinedEstimate, match="no arm"):
        pareto.front({})
    with pytest.raises(UndefinedEstimate, match="no area"):
        pareto.hypervolume([(1, 1)], cost=0)
