"""Intervals that hold together: between one comparison's and Bonferroni's, and they cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from triaxis.estimate.paired import finish, paired
from triaxis.estimate.simultaneous import bootstrap_sums, joint, joint_level


def against_first(matrix: NDArray[np.float64]) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    return [matrix[:, j] for j in range(1, matrix.shape[1])], matrix[:, 0]


def made(n: int, rights: list[float], seed: int, shared: float = 0.5) -> NDArray[np.float64]:
    """0/1 scores of (items, conditions) with given accuracies; `shared` of the items have one draw for all."""
    rng = np.random.default_rng(seed)
    common = np.where(rng.random(n) < shared, rng.random(n), np.nan)[:, None]
    own = rng.random((n, len(rights)))
    return (np.where(np.isnan(common), own, common) < np.array(rights)).astype(float)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([2, 6]))
def test_bounds_nest_and_extremes_follow_from_them(n: int, k: int, seed: int, levels: int) -> None:
    matrix = np.round(np.random.default_rng(seed).random((n, k + 1)) * (levels - 1)) / (levels - 1)
    scores, reference = against_first(matrix)
    single = finish([paired(s, reference, name=f"c{j}") for j, s in enumerate(scores)])
    found = joint(scores, reference, single)
    assert 0.95 - 1e-9 <= found.level <= 1 - 0.05 / k + 1e-9
    for e, (low, high) in zip(single, found.intervals, strict=True):
        assert low <= e.low + 1e-9
        assert high >= e.high - 1e-9
    assert found.worst.value == min(e.value for e in single)
    assert (found.worst.low, found.worst.high) == (
        min(x for x, _ in found.intervals),
        min(x for _, x in found.intervals),
    )
    assert found.worst.low <= found.worst.value + 1e-9 <= found.worst.high + 2e-9
    means = matrix.mean(axis=0)
    assert found.spread.value == pytest.approx(means.max() - means.min())
    assert 0 <= found.spread.low <= found.spread.value + 1e-9 <= found.spread.high + 2e-9
    assert 0 <= found.spread_corrected <= found.spread.value + 0.05
    assert found.worst.value - 0.05 <= found.worst_corrected


def test_one_comparison_needs_no_more_than_its_own_level() -> None:
    matrix = made(200, [0.6, 0.5], 1)
    assert joint_level(matrix, [(1, 0)]) == pytest.approx(0.95, abs=0.006)


def test_conditions_that_go_together_need_less_than_bonferroni() -> None:
    base, one = made(400, [0.6, 0.5], 2).T
    same = np.stack([base, one, one, one, one], axis=1)  # four names of one condition are one comparison
    pairs = [(j, 0) for j in range(1, 5)]
    assert joint_level(same, pairs) == pytest.approx(0.95, abs=0.006)
    free = made(400, [0.5] * 5, 3, shared=0.0)
    assert joint_level(free, pairs) > 0.975


def test_nothing_differs() -> None:
    matrix = np.ones((30, 4))
    assert joint_level(matrix, [(1, 0), (2, 0)]) == pytest.approx(0.975)
    scores, reference = against_first(matrix)
    found = joint(scores, reference, finish([paired(s, reference) for s in scores]))
    assert (found.spread.value, found.spread.p, found.spread.low) == (0, None, 0)
    assert found.spread.high > 0  # seen nothing is not known to be nothing


def test_resampled_sums_are_those_of_resampled_rows() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 2, (50, 3)).astype(float), rng.random((1500, 2))
    for matrix in (few, many):  # by distinct rows, and by index
        sums = bootstrap_sums(matrix, resamples=600)
        n = len(matrix)
        assert sums.mean(axis=0) == pytest.approx(matrix.sum(axis=0), rel=0.05)
        assert sums.std(axis=0) == pytest.approx(matrix.std(axis=0) * np.sqrt(n), rel=0.15)
        again = bootstrap_sums(matrix, resamples=600)
        assert (sums == again).all()


@pytest.mark.slow
@pytest.mark.parametrize("rights", [[0.6] * 6, [0.7, 0.65, 0.6, 0.6, 0.7, 0.5], [0.98] * 5])
def test_coverage_of_all_at_once_and_of_the_extremes(rights: list[float]) -> None:
    """95 % asked; over 200 data sets a method that covers 95 % is hardly ever seen below 91 %."""
    truth = np.array(rights[1:]) - rights[0]
    runs, together, alone, worst, spread = 200, 0, 0, 0, 0
    for seed in range(runs):
        scores, reference = against_first(made(100, rights, seed))
        single = finish([paired(s, reference) for s in scores])
        found = joint(scores, reference, single)
        together += all(low <= d <= high for (low, high), d in zip(found.intervals, truth, strict=True))
        alone += all(e.low <= d <= e.high for e, d in zip(single, truth, strict=True))
        worst += found.worst.low <= truth.min() <= found.worst.high
        spread += found.spread.low <= np.ptp(rights) <= found.spread.high
    assert min(together, worst, spread) >= 0.91 * runs
    assert together >= alone
