"""Attribution against direct sums, refusal of missing cells, and the model-based check."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from triaxis.errors import UserError
from triaxis.estimate.factorial import attribute, missing_cells, mixed_check
from triaxis.estimate.paired import UndefinedEstimate, holm, paired

TWO = {"planner": ("no", "yes"), "adapter": ("no", "yes")}


def cells(factors, n=60, seed=0, chance=lambda cell: 0.5):
    """0/1 scores of every cell on the same items, with an item effect that pairs them."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 1, n)
    found = {}
    for cell in itertools.product(*factors.values()):
        odds = np.log(chance(cell) / (1 - chance(cell)))
        right = rng.random(n) < 1 / (1 + np.exp(-(odds + ease)))
        found[cell] = {f"q{i}": float(r) for i, r in enumerate(right)}
    return found


def vector(scores):
    return np.array([scores[k] for k in sorted(scores)])


def test_two_by_two_is_differences_and_a_difference_of_differences():
    data = cells(TWO, chance=lambda c: 0.3 + 0.2 * (c[0] == "yes") + 0.2 * (c == ("yes", "yes")))
    found = attribute(TWO, data)
    nn, ny, yn, yy = (vector(data[c]) for c in itertools.product(*TWO.values()))
    by_name = {e.estimate.name: e.estimate for e in found.effects}
    assert by_name["planner"].value == pytest.approx(((yn - nn) + (yy - ny)).mean() / 2)
    assert by_name["adapter"].value == pytest.approx(((ny - nn) + (yy - yn)).mean() / 2)
    assert by_name["planner x adapter"].value == pytest.approx(((yy - yn) - (ny - nn)).mean())
    assert [e.p_holm for e in by_name.values()] == holm([e.p for e in by_name.values()])
    assert all(e.low <= e.value <= e.high and e.verdict for e in by_name.values())
    assert found.cells["yes", "yes"] == pytest.approx(yy.mean())


def test_three_factors_have_seven_effects_that_sum_to_the_corner():
    factors = dict.fromkeys("abc", ("0", "1"))
    data = cells(factors, n=30)
    found = attribute(factors, data)
    assert len(found.effects) == 7
    by_factors = {e.factors: e.estimate.value for e in found.effects}
    corner, origin = vector(data["1", "1", "1"]).mean(), vector(data["0", "0", "0"]).mean()
    # with +-1/2 coding the opposite corner differs by the odd-order effects: the means, and a quarter of the triple
    odd = sum(v for f, v in by_factors.items() if len(f) == 1) + by_factors["a", "b", "c"] / 4
    assert corner - origin == pytest.approx(odd)


def test_planner_by_adapter_with_three_planners():
    factors = {"planner": ("none", "small", "large"), "adapter": ("off", "on")}
    data = cells(factors, chance=lambda c: 0.4 + 0.2 * (c == ("large", "on")))
    found = {e.estimate.name: e for e in attribute(factors, data).effects}
    assert set(found) == {
        *("planner=small", "planner=large", "adapter"),
        *("planner=small x adapter", "planner=large x adapter"),
    }
    m = {c: vector(data[c]) for c in data}
    large = found["planner=large x adapter"].estimate
    expected = (m["large", "on"] - m["large", "off"]) - (m["none", "on"] - m["none", "off"])
    assert large.value == pytest.approx(expected.mean())


def test_with_one_factor_irrelevant_the_other_is_the_paired_difference():
    one = cells({"a": ("0", "1")}, n=40)
    data = {(a, b): one[(a,)] for a in "01" for b in "01"}
    found = {e.estimate.name: e.estimate for e in attribute({"a": ("0", "1"), "b": ("0", "1")}, data).effects}
    plain = paired(vector(one[("1",)]), vector(one[("0",)]))
    assert found["a"].value == pytest.approx(plain.value)
    assert found["b"].value == 0
    assert found["b"].verdict != "lift"


def test_a_missing_cell_is_refused_by_name():
    data = cells(TWO)
    del data["no", "yes"]
    assert missing_cells(TWO, data) == [("no", "yes")]
    with pytest.raises(UserError, match="1 cell never run: planner=no, adapter=yes; run it"):
        attribute(TWO, data)


def test_cells_of_other_items_and_single_levels_are_refused():
    data = cells(TWO)
    data["yes", "yes"] = {**data["yes", "yes"], "extra": 1.0}
    with pytest.raises(UserError, match=r"planner=yes, adapter=yes has other items .*'extra'"):
        attribute(TWO, data)
    with pytest.raises(UserError, match="factor 'b' has one level"):
        attribute({"a": ("0", "1"), "b": ("0",)}, data)
    with pytest.raises(UserError, match="1 factors"):
        attribute({"a": ("0", "1")}, data)


@pytest.mark.parametrize("method", ["gee", "conditional"])
def test_the_mixed_check_agrees_in_sign_and_in_what_it_finds(method):
    pytest.importorskip("statsmodels")
    data = cells(TWO, n=300, chance=lambda c: {"no": 0.4, "yes": 0.65}[c[0]])
    terms = {t.name: t for t in mixed_check(TWO, data, method=method)}
    effects = {e.estimate.name: e.estimate for e in attribute(TWO, data).effects}
    assert set(terms) == set(effects)
    for name, term in terms.items():
        assert term.low < term.log_odds < term.high
        if effects[name].p < 0.01:
            assert np.sign(term.log_odds) == np.sign(effects[name].value)
    assert terms["planner"].p < 1e-4
    assert terms["planner"].log_odds == pytest.approx(np.log(0.65 / 0.35 / (0.4 / 0.6)), abs=0.35)
    assert terms["planner x adapter"].p > 0.01


def test_gee_is_statsmodels_own():
    sm = pytest.importorskip("statsmodels.api")
    data = cells(TWO, n=80)
    order = list(itertools.product(*TWO.values()))
    items = sorted(data["no", "no"])
    y = np.array([data[c][i] for i in items for c in order])
    half = np.array([[(c[0] == "yes") - 0.5, (c[1] == "yes") - 0.5] for c in order])
    x = np.tile(np.column_stack([np.ones(4), half, half[:, 0] * half[:, 1]]), (len(items), 1))
    fit = sm.GEE(
        y,
        x,
        groups=np.repeat(range(len(items)), 4),
        family=sm.families.Binomial(),
        cov_struct=sm.cov_struct.Exchangeable(),
    ).fit()
    assert [t.log_odds for t in mixed_check(TWO, data)] == pytest.approx(list(fit.params[1:]))
    assert [t.p for t in mixed_check(TWO, data)] == pytest.approx(list(fit.pvalues[1:]))


def test_the_mixed_check_refuses_what_has_no_fit():
    pytest.importorskip("statsmodels")
    data = cells(TWO, n=20)
    perfect = {c: dict.fromkeys(s, 1.0) if c == ("yes", "yes") else s for c, s in data.items()}
    with pytest.raises(UndefinedEstimate, match="planner=yes, adapter=yes is all right or all wrong"):
        mixed_check(TWO, perfect, method="conditional")
    with pytest.raises(UndefinedEstimate, match="0 or 1"):
        mixed_check(TWO, {c: {k: v / 2 for k, v in s.items()} for c, s in data.items()})
    with pytest.raises(UserError, match="known: gee, conditional"):
        mixed_check(TWO, data, method="bayes")
