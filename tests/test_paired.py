"""Paired statistics against brute force: every sign flip, every trinomial table, every definition."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, ndtri

from triaxis.estimate import paired as pr
from triaxis.estimate.paired import (
    Estimate,
    UndefinedEstimate,
    clopper_pearson,
    cluster_mean,
    cochran_q,
    contrast,
    e_value,
    finish,
    holm,
    mcnemar,
    mcnemar_midp,
    paired,
    tango,
    tost,
    verdict,
    wilson,
)
from triaxis.estimate.power import mde80, score_z

COUNTS = st.integers(0, 60)
Z95 = float(ndtri(0.975))


def arms(gain: int, loss: int, n: int) -> tuple[list[int], list[int]]:
    """0/1 scores of two arms with these counts; the rest right in both."""
    both = n - gain - loss
    return [1] * gain + [0] * loss + [1] * both, [0] * gain + [1] * loss + [1] * both


# --- one share ---------------------------------------------------------------------------------------------------


def test_clopper_pearson_and_wilson_check_values():
    assert clopper_pearson(37, 50) == pytest.approx((0.597, 0.854), abs=5e-4)
    assert clopper_pearson(0, 50) == (0.0, pytest.approx(1 - 0.025 ** (1 / 50)))
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
    assert wilson(50, 50)[0] == pytest.approx(50 / (50 + Z95**2))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.data(), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_inverts_the_score_test(n: int, data, level: float):
    k, z = data.draw(st.integers(0, n)), float(ndtri((1 + level) / 2))
    for end in wilson(k, n, level):
        if 0 < end < 1:
            assert abs(k / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(z)


def test_coverage_of_one_share_by_enumeration():
    shares = np.linspace(0.01, 0.99, 99)
    for n in (10, 50):
        k = np.arange(n + 1)
        ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        chance = np.exp(ways + np.outer(np.log(shares), k) + np.outer(np.log1p(-shares), n - k))
        for interval, least, mean in ((clopper_pearson, 0.95, 0.99), (wilson, 0.83, 0.965)):
            low, high = np.array([interval(int(i), n) for i in k]).T
            covered = (chance * ((shares[:, None] >= low) & (shares[:, None] <= high))).sum(axis=1)
            assert covered.min() >= least
            assert 0.945 <= covered.mean() <= mean


# --- McNemar, e-value, Holm, Cochran -----------------------------------------------------------------------------


def test_mcnemar_check_values():
    assert mcnemar(5, 9) == pytest.approx(0.424, abs=5e-4)
    assert mcnemar_midp(5, 9) == pytest.approx(0.302, abs=5e-4)
    assert mcnemar(18, 4) == pytest.approx(0.0043, abs=5e-5)
    assert mcnemar(0, 0) == mcnemar_midp(0, 0) == mcnemar(7, 7) == mcnemar_midp(7, 7) == 1.0
    assert 0 < mcnemar(3000, 0) < 1e-300  # never 0: underflow is not certainty
    assert 0 < mcnemar_midp(3000, 0) < 1e-300


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 11), st.integers(0, 11))
def test_mcnemar_is_the_share_of_sign_flips_as_extreme(gain: int, loss: int):
    m = gain + loss
    assume(m <= 12)
    sums = [abs(sum(signs)) for signs in itertools.product((-1, 1), repeat=m)]
    extreme = sum(s >= abs(gain - loss) for s in sums)
    assert mcnemar(gain, loss) == pytest.approx(extreme / 2**m)
    tied = sum(s == abs(gain - loss) for s in sums)
    # Mid-p takes half of the two tied tables; with gain = loss there is one, taken whole by the two-sided rule.
    assert mcnemar_midp(gain, loss) == pytest.approx((extreme - (tied / 2 if gain != loss else 0)) / 2**m)


def test_e_value_check_values_and_unit_expectation():
    assert e_value(18, 4) == pytest.approx(24.9, abs=0.05)
    assert e_value(16, 7) == pytest.approx(1.4, abs=0.05)
    assert e_value(5, 9) == pytest.approx(0.55, abs=0.005)
    assert e_value(0, 0) == 1.0
    assert math.isfinite(e_value(5000, 0))
    for m in (1, 7, 40):
        assert sum(math.comb(m, k) / 2**m * e_value(k, m - k) for k in range(m + 1)) == pytest.approx(1.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_as_the_step_down_procedure(ps, alpha: float):
    adjusted = holm(ps)
    assert [p is None for p in adjusted] == [p is None for p in ps]
    tested = [p for p in ps if p is not None]
    rejected = set()
    for rank, i in enumerate(sorted((i for i, p in enumerate(ps) if p is not None), key=lambda i: ps[i])):
        if ps[i] * (len(tested) - rank) > alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(adjusted) if p is not None and p <= alpha} == rejected


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    with pytest.raises(UndefinedEstimate, match="p number 1"):
        holm([0.5, math.nan])


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, st.integers(2, 30))
def test_cochran_of_two_columns_is_mcnemars_chi_square(gain: int, loss: int, rest: int):
    matrix = np.column_stack(arms(gain, loss, gain + loss + rest))
    if gain + loss == 0:
        with pytest.raises(UndefinedEstimate, match="discordant"):
            cochran_q(matrix)
        return
    q, df, p = cochran_q(matrix)
    assert q == pytest.approx((gain - loss) ** 2 / (gain + loss))
    assert df == 1
    assert p == pytest.approx(math.erfc(math.sqrt(q / 2)))


def test_cochran_statistic_by_its_definition():
    x = np.random.default_rng(3).random((40, 4)) < [0.3, 0.5, 0.6, 0.7]
    k, rows, columns = 4, x.sum(1), x.sum(0)
    by_hand = (k - 1) * (k * (columns**2).sum() - columns.sum() ** 2) / (k * rows.sum() - (rows**2).sum())
    assert cochran_q(x).q == pytest.approx(by_hand)
    for bad in ([[1, 1], [0, 0]], [[0.5, 1], [0, 1]], [[1], [0]], [1, 0]):
        with pytest.raises(UndefinedEstimate):
            cochran_q(bad)


# --- Tango and TOST ----------------------------------------------------------------------------------------------


def test_tango_check_values():
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert tango(40, 20, 160) == pytest.approx((0.031, 0.218), abs=5e-4)


def test_tango_at_the_edges():
    n, z2 = 30, Z95**2
    assert tango(0, 0, n) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-9)
    low, high = tango(n, 0, n)
    assert low == pytest.approx((n - z2) / (n + z2), abs=1e-9)
    assert high == 1.0
    assert tango(0, n, n) == (-1.0, pytest.approx(-low, abs=1e-9))


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, COUNTS, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_tango_inverts_its_score_test_and_flips_with_the_arms(gain: int, loss: int, rest: int, level: float):
    n = gain + loss + rest + 1
    low, high = tango(gain, loss, n, level)
    z = float(ndtri((1 + level) / 2))
    assert -1 <= low < (gain - loss) / n < high <= 1
    assert float(score_z(gain, loss, n, low)) == pytest.approx(z, abs=1e-4)
    assert float(score_z(gain, loss, n, high)) == pytest.approx(-z, abs=1e-4)
    assert tango(loss, gain, n, level) == pytest.approx((-high, -low), abs=1e-12)


def test_tango_coverage_by_enumeration():
    """Over 35 designs an n: exact coverage of the 95 % interval, no simulation."""
    for n, least, most in ((20, 0.94, 0.975), (50, 0.93, 0.96), (100, 0.935, 0.955), (200, 0.94, 0.955)):
        gain, loss = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
        gain, loss = gain[gain + loss <= n], loss[gain + loss <= n]
        ways = gammaln(n + 1) - gammaln(gain + 1) - gammaln(loss + 1) - gammaln(n - gain - loss + 1)
        found = []
        for discordance, part in itertools.product((0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9), (0, 0.25, 0.5, 0.75, 0.95)):
            up, down = discordance * (1 + part) / 2, discordance * (1 - part) / 2
            same = (n - gain - loss) * math.log1p(-discordance)
            chance = np.exp(ways + gain * math.log(up) + loss * math.log(down) + same)
            found.append(chance[np.abs(score_z(gain, loss, n, up - down)) <= Z95].sum())
        assert min(found) >= least
        assert 0.945 <= np.mean(found) <= most


def test_tost_check_value():
    result = tost(0, 0, 200, 0.05)
    assert (result.low, result.high) == pytest.approx((-0.0133, 0.0133), abs=5e-5)
    assert result.equivalent
    assert not tost(0, 0, 200, 0.0133).equivalent
    assert tost(0, 0, 200, 0.0134).equivalent


@settings(max_examples=100, deadline=None)
@given(COUNTS, COUNTS, st.integers(1, 300), st.floats(0.01, 0.6), st.sampled_from([0.01, 0.05, 0.1]))
def test_tost_says_what_the_interval_says(gain: int, loss: int, rest: int, margin: float, alpha: float):
    result = tost(gain, loss, gain + loss + rest, margin, alpha)
    assume(abs(result.p - alpha) > 1e-7)
    assert result.equivalent == (-margin < result.low and result.high < margin) == (result.p < alpha)


# --- paired ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(COUNTS, COUNTS, st.integers(2, 60))
def test_paired_of_right_and_wrong_is_mcnemar_and_tango(gain: int, loss: int, rest: int):
    n = gain + loss + rest
    e = paired(*arms(gain, loss, n), name="x")
    assert (e.name, e.n, e.gain, e.loss) == ("x", n, gain, loss)
    assert e.value == pytest.approx((gain - loss) / n)
    assert (e.low, e.high) == tango(gain, loss, n)
    assert (e.p, e.p_midp) == (mcnemar(gain, loss), mcnemar_midp(gain, loss))


def test_identical_replicates_add_nothing():
    """Seeds at temperature 0 repeat one answer: five of them carry what one does."""
    a, b = (np.array(x) for x in arms(18, 4, 60))
    assert paired(np.repeat(a[:, None], 5, 1), np.repeat(b[:, None], 5, 1)) == paired(a, b)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.6, -0.2, 0.0, 0.2, 0.4, 0.8]), min_size=2, max_size=11))
def test_sign_flip_is_exact_on_a_lattice(d):
    brute_flips(np.array(d))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=2, max_size=11))
def test_sign_flip_is_exact_for_few_unequal_differences(d):
    brute_flips(np.array(d))


def brute_flips(d) -> None:
    signs = np.array(list(itertools.product((-1, 1), repeat=d.size)))
    extreme = np.mean(np.abs(signs @ np.abs(d)) >= abs(d.sum()) - 1e-9)
    e = paired((1 + d) / 2, (1 - d) / 2, resamples=100)
    assert e.p == pytest.approx(extreme)
    assert (e.gain, e.loss) == ((d > 0).sum(), (d < 0).sum())
    assert e.value == pytest.approx(d.mean())


@pytest.mark.parametrize("sizes", [3, 200])
def test_random_flips_agree_with_the_exact_ones(sizes: int, monkeypatch: pytest.MonkeyPatch):
    """Both ways of drawing signs (counts of equal sizes; single bits) against the exact distribution."""
    rng = np.random.default_rng(sizes)
    d = rng.integers(-sizes, sizes + 1, 150) / (2 * sizes + 2)
    a, b = 0.5 + d / 2, 0.5 - d / 2
    monkeypatch.setattr(pr, "_EXACT_SUMS", 1 << 24)
    exact = paired(a, b, resamples=100).p
    monkeypatch.setattr(pr, "_EXACT_SUMS", 0)
    drawn = paired(a, b, resamples=100).p
    assert exact is not None
    assert drawn is not None
    assert 0.01 < exact < 0.99
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / pr.FLIPS) + 1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40), st.integers(0, 3))
def test_no_interval_has_width_zero(pairs, seed: int):
    a, b = np.array(pairs).T / 5
    e = paired(a, b, seed=seed, resamples=200)
    assert -1 <= e.low <= e.value + 1e-12
    assert e.value - 1e-12 <= e.high <= 1
    assert e.high - e.low > 0.02
    assert e == paired(a, b, seed=seed, resamples=200)


def test_no_difference_at_all_gives_the_bound_for_right_and_wrong():
    half = np.full((200, 2), 0.5)
    e = paired(half, half)
    assert (e.low, e.high) == pytest.approx(tango(0, 0, 200))
    assert (e.value, e.p, e.gain, e.loss) == (0.0, 1.0, 0, 0)
    # One small difference more must not make it surer.
    other = half.copy()
    other[0, 0] = 0.7
    wider = paired(other, half)
    assert wider.high > 0.9 * e.high


def test_the_order_of_items_does_not_matter():
    rng = np.random.default_rng(5)
    a, b, order = rng.random((80, 5)) < 0.6, rng.random((80, 5)) < 0.5, rng.permutation(80)
    assert paired(a, b) == paired(a[order], b[order])


def test_branches_are_not_items():
    """Five branches that agree within an item are worth one: the interval is by items."""
    rng = np.random.default_rng(6)
    a, b = rng.random(100) < 0.7, rng.random(100) < 0.6
    noisy = np.repeat(a[:, None], 5, 1).astype(float)
    noisy[0, 0] = 1 - noisy[0, 0]
    e, one = paired(noisy, np.repeat(b[:, None], 5, 1)), paired(a, b)
    assert e.high - e.low == pytest.approx(one.high - one.low, rel=0.1)


def lattice_tables(n: int):
    """Every split of n items over five differences."""
    for bars in itertools.combinations(range(n + 4), 4):
        edges = (-1, *bars, n + 4)
        yield [edges[i + 1] - edges[i] - 1 for i in range(5)]


@pytest.mark.slow
def test_score_bound_of_fractions_covers_by_enumeration():
    """The part of the interval that must hold with few nonzero differences, over every table of 20 items."""
    n, values = 20, np.array([-0.8, -0.2, 0.0, 0.2, 1.0])
    tables = np.array(list(lattice_tables(n)))
    ways = gammaln(n + 1) - gammaln(tables + 1).sum(axis=1)
    units = np.array([pr._score_units(np.repeat(values, table), 1.0) for table in tables])
    step, gain, loss = units[:, 0], (units[:, 1] + units[:, 2]) / 2, (units[:, 1] - units[:, 2]) / 2
    for shares in (
        [0.02, 0.02, 0.92, 0.02, 0.02],
        [0.001, 0.001, 0.95, 0.044, 0.004],
        [0.1, 0.2, 0.4, 0.2, 0.1],
        [0.001, 0.2, 0.6, 0.15, 0.049],
        [0.05, 0.3, 0.1, 0.5, 0.05],
    ):
        mean = float(values @ shares)
        inside = np.abs(score_z(gain, loss, n, mean / step)) <= Z95
        coverage = np.exp(ways + tables @ np.log(shares))[inside & (np.abs(mean) <= step)].sum()
        assert coverage >= 0.94, shares


@pytest.mark.slow
def test_interval_of_branches_covers_by_simulation():
    """1,000 data sets a case; 3 standard errors below 95 % is 93 %."""
    rng = np.random.default_rng(0)
    for n, share, shift in ((30, 0.1, 0.0), (100, 0.03, 0.3), (100, 0.5, 0.1), (200, 1.0, 0.05)):
        hits = 0
        for _ in range(1000):
            right = np.where(rng.random(n) < share, rng.beta(1, 1, n) * (1 - shift), 0.0)
            a = rng.binomial(5, right + shift * (right > 0)) / 5
            e = paired(a, rng.binomial(5, right) / 5, resamples=500)
            hits += e.low <= share * shift <= e.high
        assert hits >= 930, (n, share, shift, hits)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1, 0], [1, 0, 1], "a has shape"),
        ([[1, 0], [1, 0]], [1, 0], "same items"),
        ([1], [0], "at least 2"),
        ([1, math.nan], [1, 0], "item 1"),
        ([1, 0], [1, None], "b has no score at item 1"),
        ([74, 0], [1, 0], "outside"),
        ([1, -0.1], [1, 0], "outside"),
        (["yes", "no"], [1, 0], "not a table of numbers"),
        ([[1], [1, 2]], [1, 0], "not a table of numbers"),
        ([], [], "shape"),
        (1, 1, "shape"),
        ([[[1]], [[0]]], [[[1]], [[0]]], "shape"),
    ],
)
def test_paired_refuses(a, b, says: str):
    with pytest.raises(UndefinedEstimate, match=says):
        paired(a, b)


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired([1, 0], [0, 1], level=95),
        lambda: paired([0.5, 0], [0, 1], resamples=10),
        lambda: wilson(3, 2),
        lambda: clopper_pearson(0, 0),
        lambda: mcnemar(-1, 3),
        lambda: e_value(2, -1),
        lambda: tango(5, 6, 10),
        lambda: tango(math.nan, 0, 10),
        lambda: tost(1, 1, 10, 5.0),
        lambda: tost(1, 1, 10, 0.05, alpha=0.5),
        lambda: cluster_mean([2.0, 2.0]),
        lambda: cluster_mean([1.0]),
        lambda: cluster_mean([1.0, 9.0], bounds=(0, 5)),
        lambda: contrast([0, 0], [[1, 0], [0, 1]]),
        lambda: contrast([1, -1, 0], [[1, 0], [0, 1]]),
        lambda: contrast([1, math.inf], [[1, 0], [0, 1]]),
        lambda: contrast([1, -1], [1, 0]),
        lambda: finish([paired([1, 0], [0, 1])], margin=5),
    ],
)
def test_undefined_is_an_error_never_a_number(call):
    with pytest.raises(UndefinedEstimate):
        call()


# --- means and contrasts -----------------------------------------------------------------------------------------


def test_cluster_mean_of_unique_answers():
    x = np.random.default_rng(1).integers(1, 6, 300)
    e = cluster_mean(x, name="unique")
    half = Z95 * x.std(ddof=1) / math.sqrt(300)
    assert e.value == pytest.approx(x.mean())
    assert (e.low, e.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.15 * half)
    assert (e.p, e.gain, e.loss, e.n) == (None, None, None, 300)
    assert cluster_mean(np.repeat(x[:, None], 3, 1)).value == pytest.approx(e.value)


def test_cluster_mean_where_nearly_all_items_agree():
    few = cluster_mean([1.0] * 58 + [2.0] * 2)
    assert few.low < few.value < few.high
    assert few.high - few.value > few.value - few.low  # skewed as the data are
    same = cluster_mean([1.0] * 60, bounds=(1, 5))
    assert (same.value, same.low) == (1.0, 1.0)
    assert same.high == pytest.approx(1 + 4 * Z95**2 / (60 + Z95**2))


def test_contrast_of_two_is_paired_scaled():
    rng = np.random.default_rng(2)
    x = (rng.random((90, 3, 4)) < 0.6).astype(float)
    plain, scaled = paired(x[:, 2], x[:, 0]), contrast([-2, 0, 2], x)
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((2 * plain.value, 2 * plain.low, 2 * plain.high))
    assert (scaled.p, scaled.gain, scaled.loss) == (plain.p, plain.gain, plain.loss)
    binary = contrast([1, -1], np.column_stack(arms(18, 4, 60)))
    assert (binary.low, binary.high) == tango(18, 4, 60)


def test_interaction_by_hand():
    """(on, off) x (with, without): half of the items gain only where both are on."""
    both, neither = [1, 0, 0, 0], [0, 0, 0, 0]
    e = contrast([1, -1, -1, 1], [both, neither] * 30)
    assert e.value == pytest.approx(0.5)
    assert (e.gain, e.loss, e.n) == (30, 0, 60)
    assert e.p == pytest.approx(2 * 0.5**30)
    assert e.low > 0


def test_slope_is_the_mean_of_the_items_slopes():
    rng = np.random.default_rng(4)
    x = rng.random((50, 4)) < [0.4, 0.5, 0.6, 0.7]
    position = np.log10([0.1, 0.5, 1.5, 7.0])
    w = (position - position.mean()) / np.sum((position - position.mean()) ** 2)
    slopes = [np.polyfit(position, row.astype(float), 1)[0] for row in x]
    e = contrast(w, x, name="slope")
    assert e.value == pytest.approx(np.mean(slopes))
    half = Z95 * np.std(slopes, ddof=1) / math.sqrt(50)
    assert (e.low, e.high) == pytest.approx((e.value - half, e.value + half), abs=0.2 * half)


# --- verdicts ----------------------------------------------------------------------------------------------------


def test_verdict_words():
    assert verdict(-0.1, -0.2, -0.01, 0.01, equivalent=False, margin=0.05) == "drop"
    assert verdict(0.01, 0.001, 0.02, 0.04, equivalent=True, margin=0.05) == "lift"  # small, but not nothing
    assert verdict(0.0, -0.01, 0.01, 1.0, equivalent=True, margin=0.05) == "equivalent within 5 points"
    assert verdict(0.0, -0.01, 0.01, 1.0, equivalent=True, margin=0.01) == "equivalent within 1 point"
    assert verdict(0.0, -0.01, 0.01, 1.0, equivalent=True, margin=0.025) == "equivalent within 2.5 points"
    assert verdict(-0.1, -0.3, 0.1, 0.3, equivalent=False, margin=0.05) == "not resolved at this N"
    assert verdict(0.1, 0.05, 0.15, None, equivalent=False, margin=0.05) == "lift"


def test_finish_applies_holm_mde_and_verdicts():
    n = 200
    family = [
        paired(*arms(4, 24, n), name="a"),
        paired(*arms(0, 0, n), name="same"),
        paired(*arms(30, 22, n), name="noise"),
        paired(*arms(16, 5, n), name="lost to Holm"),
        cluster_mean([1, 2, 3] * 20, name="unique"),
    ]
    done = finish(family)
    assert [e.name for e in done] == [e.name for e in family]
    assert [e.p_holm for e in done] == holm([e.p for e in family])
    assert [e.verdict for e in done[:3]] == ["drop", "equivalent within 5 points", "not resolved at this N"]
    assert family[3].p is not None
    assert family[3].p < 0.05
    assert done[3].verdict == "not resolved at this N"
    assert finish(family[3:4])[0].verdict == "lift"
    assert done[2].mde80 == mde80(n, 0.26)
    assert done[1].mde80 == mde80(n, 0.0) > 0
    assert done[4] == family[4]
    assert finish([]) == []
    assert finish([paired([1, 0], [0, 0])])[0].mde80 is None  # two items can show nothing: no number


def test_finish_of_fractions_approaches_the_normal_formula():
    rng = np.random.default_rng(8)
    a, b = rng.random((1000, 5)) < 0.6, rng.random((1000, 5)) < 0.6
    (e,) = finish([paired(a, b)])
    sd = (a.mean(1) - b.mean(1)).std(ddof=1)
    assert e.mde80 == pytest.approx((Z95 + float(ndtri(0.8))) * sd / math.sqrt(1000), rel=0.02)
    assert e.verdict == "equivalent within 5 points"
    (one,) = finish([paired([0.2] + [0.0] * 19, [0.0] * 20)])
    assert one.verdict == "not resolved at this N"  # one small difference among 20 proves nothing


def test_effect_is_the_json_of_the_design():
    (e,) = finish([paired(*arms(18, 4, 60), name="x")])
    effect = e.effect()
    keys = "name,value,low,high,p,p_holm,n,gain,loss,mde80,verdict,p_midp,method"
    assert ",".join(effect) == keys
    assert json.loads(json.dumps(effect)) == effect
    (graded,) = finish([paired(np.eye(9) * 0.3, np.zeros((9, 9)))])
    json.dumps(graded.effect())


def test_estimates_are_frozen():
    e = paired([1, 0], [0, 1])
    with pytest.raises(AttributeError):
        e.value = 1.0  # type: ignore[misc]
    assert isinstance(e, Estimate)


def test_exact_p_is_a_fraction_of_flips():
    assert mcnemar(9, 1) == float(Fraction(2 * (1 + 10), 2**10))
