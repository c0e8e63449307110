"""Exact power against brute force over every trinomial table, and against published check values."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.estimate import power as pw
from triaxis.estimate.power import (
    UndefinedEstimate,
    mde80,
    mde_equivalence,
    n80,
    n80_normal,
    n_equivalence,
    power,
    power_equivalence,
    score_z,
)

SHARES = st.floats(0.01, 1.0)


def tables(n: int, discordance: float, effect: float):
    """Every (gain, loss, probability) of n items."""
    up, down = (discordance + effect) / 2, (discordance - effect) / 2
    for gain in range(n + 1):
        for loss in range(n + 1 - gain):
            ways = math.comb(n, gain) * math.comb(n - gain, loss)
            yield gain, loss, ways * up**gain * down**loss * (1 - discordance) ** (n - gain - loss)


def brute_p(gain: int, loss: int, test: str) -> Fraction:
    m, k = gain + loss, min(gain, loss)
    p = Fraction(2 * sum(math.comb(m, j) for j in range(k + 1)), 2**m)
    return p - Fraction(math.comb(m, k), 2**m) if test == "midp" else min(Fraction(1), p)


def brute_power(n: int, discordance: float, effect: float, test: str) -> float:
    return sum(
        chance for gain, loss, chance in tables(n, discordance, effect) if brute_p(gain, loss, test) <= Fraction(1, 20)
    )


# --- score statistic ---------------------------------------------------------------------------------------------


def test_score_is_mcnemars_z_at_zero():
    assert score_z(18, 4, 50, 0.0) == pytest.approx(14 / math.sqrt(22))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 15), st.floats(-0.9, 0.9))
def test_score_uses_the_restricted_maximum_likelihood(gain: int, loss: int, rest: int, delta: float):
    n = gain + loss + rest + 1
    down = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)  # every loss share that delta allows
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = ((gain, down + delta), (loss, down), (rest + 1, 1 - delta - 2 * down))
        likelihood = sum(k * np.log(np.maximum(share, 1e-300)) for k, share in terms if k)
    best = down[int(np.argmax(likelihood))]
    variance = n * (2 * best + delta - delta**2)
    if variance > 1e-3:
        assert float(score_z(gain, loss, n, delta)) == pytest.approx(
            (gain - loss - n * delta) / math.sqrt(variance), rel=1e-2, abs=1e-3
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_score_falls_with_delta_and_flips_with_the_arms(gain: int, loss: int, rest: int):
    n, delta = gain + loss + rest + 1, np.linspace(-0.999, 0.999, 301)
    z = score_z(gain, loss, n, delta)
    assert np.all(np.diff(z) <= 1e-9)
    np.testing.assert_array_equal(z, -score_z(loss, gain, n, -delta))


# --- power -------------------------------------------------------------------------------------------------------


def test_check_values():
    assert mde80(200, 0.26) == pytest.approx(0.0993, abs=5e-5)
    assert mde80(1319, 0.26) == pytest.approx(0.0392, abs=5e-5)
    # The table that says 317 used Connor's formula; the exact sum crosses 80 % two items earlier (brute force agrees).
    assert n80_normal(0.08, 0.26) == 317
    assert n80(0.08, 0.26) == 315
    assert power(314, 0.26, 0.08) < 0.8 <= power(315, 0.26, 0.08)


def test_315_by_brute_force():
    reject = {(g, m - g) for m in range(160) for g in range(m + 1) if brute_p(g, m - g, "midp") <= Fraction(1, 20)}

    def brute(n: int) -> float:
        total = 0.0
        for m in range(160):
            share = math.comb(n, m) * 0.26**m * 0.74 ** (n - m)
            up = 0.17 / 0.26
            total += share * sum(
                math.comb(m, g) * up**g * (1 - up) ** (m - g) for g in range(m + 1) if (g, m - g) in reject
            )
        return total

    assert brute(314) == pytest.approx(power(314, 0.26, 0.08), abs=1e-9)
    assert brute(314) < 0.8 <= brute(315)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 16), SHARES, st.floats(-1, 1), st.sampled_from(["midp", "exact"]))
def test_power_is_the_sum_over_all_tables(n: int, discordance: float, part: float, test):
    effect = part * discordance
    assert power(n, discordance, effect, test=test) == pytest.approx(
        brute_power(n, discordance, effect, test), abs=1e-11
    )


@pytest.mark.parametrize("n", [10, 100, 1319])
def test_power_without_an_effect_is_the_size_of_the_test(n: int):
    assert power(n, 0.3, 0.0, test="exact") <= 0.05
    assert power(n, 0.3, 0.0) <= 0.055
    assert power(n, 0.0, 0.0) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 3000), st.floats(0, 1), st.floats(0.3, 0.95), st.sampled_from(["midp", "exact"]))
def test_mde_is_the_effect_with_that_power(n: int, discordance: float, target: float, test):
    effect = mde80(n, discordance, power=target, test=test)
    assert power(n, max(discordance, effect), effect, test=test) == pytest.approx(target, abs=1e-5)


def test_mde_without_a_discordant_item():
    """Five discordant items, all on one side, are the fewest that mid-p rejects."""
    effect = mde80(200, 0.0)
    tail = 1 - sum(math.comb(200, k) * effect**k * (1 - effect) ** (200 - k) for k in range(5))
    assert tail == pytest.approx(0.8, abs=1e-6)
    with pytest.raises(UndefinedEstimate, match="4 items cannot show"):
        mde80(4, 0.0)


@pytest.mark.parametrize("test", ["midp", "exact"])
@pytest.mark.parametrize(
    ("discordance", "effect"),
    [(0.02, 0.02), (0.1, 0.07), (0.26, 0.08), (0.5, 0.15), (0.7, 0.49), (0.85, 0.17), (1.0, 0.1), (1.0, 0.7), (1, 1)],
)
def test_n80_is_where_the_saw_tooth_stops_crossing(discordance: float, effect: float, test):
    n = n80(effect, discordance, test=test)
    sizes = np.arange(1, 2 * n + 60)
    short = sizes[pw._power_at(sizes, discordance, effect, 0.05, test) < 0.8]
    assert n == short[-1] + 1


def test_the_saw_tooth_is_real():
    """At discordance 1 a smaller N reaches 80 % and loses it again: n80 must not return it."""
    n = n80(0.1, 1.0)
    assert any(power(smaller, 1.0, 0.1) >= 0.8 for smaller in range(n - 40, n))


def test_twenty_thousand_items_in_well_under_a_second():
    def seconds() -> float:
        start = time.process_time()
        mde80(20_000, 0.26), power(20_000, 0.9, 0.01), n80(0.0101, 0.26), mde_equivalence(20_000, 0.26)
        return time.process_time() - start

    pw._mde.cache_clear(), pw._boundary_block.cache_clear()
    assert min(seconds(), seconds()) < 1.0


# --- equivalence -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.floats(0, 1), st.floats(0.05, 0.9))
def test_equivalence_power_is_the_sum_over_all_tables(n: int, discordance: float, margin: float):
    brute = sum(
        chance
        for gain, loss, chance in tables(n, discordance, 0.0)
        if score_z(gain, loss, n, margin) <= -1.6448536269514722
        and score_z(gain, loss, n, -margin) >= 1.6448536269514722
    )
    assert power_equivalence(n, discordance, margin) == pytest.approx(brute, abs=1e-11)


def test_equivalence_without_discordant_items_is_closed():
    """The 90 % bound is z^2 / (n + z^2): 1.33 points at 200, under 5 points from 52 items on."""
    z2 = 1.6448536269514722**2
    assert mde_equivalence(200, 0.0) == pytest.approx(z2 / (200 + z2), abs=2e-6)
    assert n_equivalence(0.05, 0.0) == math.ceil(z2 * 0.95 / 0.05) == 52


@pytest.mark.parametrize(("margin", "discordance"), [(0.3, 0.02), (0.2, 0.26), (0.1, 0.26), (0.2, 1.0)])
def test_n_equivalence_holds_from_there_on(margin: float, discordance: float):
    n = n_equivalence(margin, discordance)
    assert power_equivalence(n - 1, discordance, margin) < 0.8
    assert min(power_equivalence(n + k, discordance, margin) for k in range(n // 4 + 20)) >= 0.8


def test_equivalence_margin_and_n_agree():
    n = n_equivalence(0.05, 0.26)
    assert mde_equivalence(n, 0.26) <= 0.05 < mde_equivalence(n - 10, 0.26)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: power(100, 0.1, 0.2), "effect 0.2 is larger than the discordance 0.1"),
        (lambda: n80(0.2, 0.1), "use a discordance of at least 0.2"),
        (lambda: n80(0.0, 0.1), "use n_equivalence"),
        (lambda: n80_normal(0.0, 0.1), "use n_equivalence"),
        (lambda: n80(1e-5, 0.5), "more than 10,000,000 items"),
        (lambda: power(0, 0.1, 0.0), "n=0"),
        (lambda: power(10.5, 0.1, 0.0), "n=10.5"),  # type: ignore[arg-type]
        (lambda: power(10, 26, 0.0), "write 26 % as 0.26"),
        (lambda: power(10, math.nan, 0.0), "discordance=nan"),
        (lambda: power(10, 0.5, math.nan), "effect nan"),
        (lambda: mde80(10, 0.5, power=80), "power=80"),
        (lambda: mde80(10, 0.5, alpha=0.0), "alpha=0.0"),
        (lambda: mde80(10, 0.5, test="chi2"), "known: midp, exact"),  # type: ignore[arg-type]
        (lambda: n_equivalence(5, 0.2), "margin=5"),
        (lambda: mde_equivalence(1, 1.0), "cannot show equivalence"),
    ],
)
def test_refusals_say_what_to_change(call, says: str):
    with pytest.raises(UndefinedEstimate, match=says.replace("(", r"\(")):
        call()


def test_nothing_heavy_is_imported():
    code = (
        "import sys; import triaxis.estimate.paired; "
        "print([m for m in ('torch', 'scipy.stats', 'scipy.optimize', 'statsmodels', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
