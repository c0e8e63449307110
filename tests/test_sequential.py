"""Watching without inflating error: closed forms, agreement of the two e-processes, simulated error rates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.estimate.paired import UndefinedEstimate, e_value, mcnemar, tango
from triaxis.estimate.sequential import difference_interval, look, resolvable, resolved, watch


def test_resolved_is_the_e_value_against_its_threshold():
    assert e_value(18, 4) == pytest.approx(24.9, abs=0.05)
    assert resolved(18, 4, 0.05)
    assert not resolved(18, 4, 0.05, comparisons=2)  # 24.9 < 40
    assert not resolved(16, 7)
    assert not resolved(0, 0)


def test_resolvable_says_when_to_give_up():
    assert resolvable(0, 0, 10)  # ten losses in a row: 2^10 / 11
    assert not resolvable(0, 0, 3)
    assert not resolvable(40, 40, 10)


def test_alpha_and_comparisons_are_checked():
    with pytest.raises(UndefinedEstimate, match=r"write 5 % as 0\.05"):
        resolved(1, 1, 5)
    with pytest.raises(UserError, match="at least one"):
        resolved(1, 1, comparisons=0)
    with pytest.raises(UndefinedEstimate, match="not counts"):
        difference_interval(3, 3, 5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.data())
def test_the_interval_holds_the_estimate_is_symmetric_and_wider_than_tangos(n: int, data):
    gain = data.draw(st.integers(0, n))
    loss = data.draw(st.integers(0, n - gain))
    low, high = difference_interval(gain, loss, n)
    assert -1 <= low <= (gain - loss) / n <= high <= 1
    other = difference_interval(loss, gain, n)
    assert (low, high) == pytest.approx((-other[1], -other[0]), abs=1e-8)
    if n >= 20:
        fixed = tango(gain, loss, n)
        assert low <= fixed[0] + 1e-9
        assert fixed[1] <= high + 1e-9
    assert difference_interval(gain, loss, n, 0.2)[0] >= low


def test_the_interval_closes_in_on_the_truth():
    widths = [np.ptp(difference_interval(2 * k, k, 10 * k)) for k in (2, 20, 200, 2000)]
    assert all(a > b for a, b in itertools.pairwise(widths))
    assert widths[-1] < 0.04


def test_watch_stops_when_all_are_resolved_and_counts_comparisons():
    data = iter([[(1, 0, 2), (0, 0, 0)], [(5, 0, 20), (5, 0, 20)], [(30, 0, 60), (30, 0, 60)], [(99, 0, 99)] * 2])
    pauses = []
    looks = list(watch(lambda: next(data), lambda: pauses.append(1)))
    assert len(looks) == 3  # the fourth poll never happens
    assert len(pauses) == 2
    assert looks[0][1] is None  # nothing shared yet
    assert not looks[0][0].resolved
    assert all(at.resolved for at in looks[-1])


def test_watch_stops_when_out_of_polls_without_a_last_pause():
    pauses = []
    looks = list(watch(lambda: [(1, 1, 4)], lambda: pauses.append(1), polls=3))
    assert (len(looks), len(pauses)) == (3, 2)


def test_a_look_shows_the_fixed_n_p_beside_the_e_value():
    at = look(5, 9, 50)
    assert (at.value, at.p, at.e) == (pytest.approx(-0.08), mcnemar(5, 9), e_value(5, 9))
    assert at.low < -0.08 < at.high


# --- error rates -------------------------------------------------------------------------------------------------


def first_stop(steps: np.ndarray, alpha: float) -> bool:
    """Would anyone looking after each discordant item have stopped? steps: +-1, one row a study."""
    gain, loss = np.cumsum(steps > 0), np.cumsum(steps < 0)
    return any(resolved(int(g), int(b), alpha) for g, b in zip(gain, loss, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_looking_after_every_item_keeps_the_error_rate(alpha: float):
    rng = np.random.default_rng(1)
    studies, most = 1500, 200
    false = np.mean([first_stop(rng.choice((-1, 1), most), alpha) for _ in range(studies)])
    assert false <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / studies)
    # the same looks at a p-value would not: this is what the e-value is for
    steps = rng.choice((-1, 1), (200, most))
    peeked = [
        any(mcnemar(int((s[:k] > 0).sum()), int((s[:k] < 0).sum())) <= alpha for k in range(1, most)) for s in steps
    ]
    assert np.mean(peeked) > 2 * alpha


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "loss"), [(0.1, 0.1), (0.3, 0.1), (0.02, 0.02)])
def test_the_interval_covers_at_every_n_at_once(gain: float, loss: float):
    rng = np.random.default_rng(2)
    missed = 0
    studies, alpha = 400, 0.1
    looks = np.unique(np.geomspace(5, 400, 25).astype(int))
    for _ in range(studies):
        kinds = rng.choice(3, 400, p=(gain, loss, 1 - gain - loss))
        for n in looks:
            low, high = difference_interval(int((kinds[:n] == 0).sum()), int((kinds[:n] == 1).sum()), int(n), alpha)
            if not low <= gain - loss <= high:
                missed += 1
                break
    assert missed / studies <= alpha


@pytest.mark.slow
def test_a_real_effect_is_found_early():
    rng = np.random.default_rng(3)
    found = np.mean([first_stop(rng.choice((-1, 1), 120, p=(0.2, 0.8)), 0.05) for _ in range(300)])
    assert found > 0.95
