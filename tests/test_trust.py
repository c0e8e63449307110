"""Axis 2 in full, by hand: what is compared with what, and how often a plan's answer is given."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_axes import PARAMETERS, World, check_family

from triaxis.conditions import load_preset, read_preset, select
from triaxis.estimate import axes
from triaxis.estimate.arms import share
from triaxis.estimate.paired import wilson
from triaxis.store import GradeRow

EXTRA = """
[[scaffold]]
name = "plan"
template = "Plan: {plan}"
[[condition]]
name = "none"
role = "baseline"
[[condition]]
name = "true"
scaffold = "plan"
role = "trust"
plan = "true:s"
planner = "s"
kind = "true"
against = "twin"
[[condition]]
name = "twin"
scaffold = "plan"
role = "trust"
plan = "filler:s"
planner = "s"
kind = "filler"
[[condition]]
name = "flipped"
scaffold = "plan"
role = "trust"
plan = "counterfactual:s"
planner = "s"
kind = "counterfactual"
"""


def world(n: int = 20) -> World:
    """One planner with its twin and counterfactual plans; everything right, every plan right and silent."""
    w = World(read_preset(EXTRA, "extra", "extra").conditions(["s"]), n=n)
    w.grades = {r.id: GradeRow(r.id, "right", "4", "marked", 1) for r in w.rows}
    w.plans = {k: replace(p, detail=note(implied="4")) for k, p in w.plans.items()}
    return w


def note(**known: Any) -> str:
    return json.dumps({"implied": None, "steps_right": True, "leaks": False, "gold": "4"} | known)


def answer(w: World, condition: str, items: range, text: str) -> None:
    for i in items:
        id = f"{condition}/item-{i:02d}/0/0"
        w.grades[id] = GradeRow(id, "right" if text == "4" else "wrong", text, "marked", 1)


def plan(w: World, source: str, items: range, **known: Any) -> None:
    for i in items:
        id = f"{source}/item-{i:02d}"
        w.plans[id] = replace(w.plans[id], detail=note(**known))


def only(w: World) -> dict[str, Any]:
    found = axes.trust(w.table(), {"s": 100})
    assert found is not None
    (planner,) = found["planners"]
    return dict(planner)


def is_rate(rate: dict[str, float] | None, k: int, n: int) -> bool:
    assert rate is not None
    return rate == {"rate": k / n, "low": wilson(k, n)[0], "high": wilson(k, n)[1], "k": k, "n": n}


@pytest.mark.parametrize("key", range(3))
def test_every_difference_of_the_trust_preset(key: int) -> None:
    """Each against what it must be compared with; what was asked and what follows from it are two families."""
    w = World(load_preset("trust").conditions(PARAMETERS), key=key)
    found = axes.trust(w.table(), PARAMETERS)
    assert found is not None
    main, derived = [], []
    for p in found["planners"]:
        gold = p["planner"] == "gold"
        name, twin = ("gold-plan", "filler") if gold else (f"plan[{p['planner']}]", f"filler-as[{p['planner']}]")
        main += [(p["content"], name, twin), (p["scaffold"], twin, "none")]
        for kind, e in p["corruptions"].items():
            main.append((e, kind if gold else f"{kind}[{p['planner']}]", name))
        derived.append((p["net"], name, "none"))
        if gold:
            assert p["gold_lift"] is None
            assert {"numbers", "other", "counterfactual", "shuffle-words"} <= set(p["corruptions"])
        else:
            derived.append((p["gold_lift"], "gold-plan", name))
    for family in (main, derived):
        check_family([e for e, _, _ in family], [(w.score(a), w.score(b)) for _, a, b in family])


def test_a_corruption_is_held_against_the_true_plan_even_where_its_card_says_the_baseline() -> None:
    w = world()
    assert next(c for c in w.cards if c["name"] == "flipped")["against"] == "none"
    answer(w, "flipped", range(6), "5")
    answer(w, "none", range(20), "5")
    assert only(w)["corruptions"]["counterfactual"]["value"] == pytest.approx(-6 / 20)


def test_following_counterfactual_plans() -> None:
    w = world()
    plan(w, "counterfactual:s", range(16), implied="7")
    plan(w, "counterfactual:s", range(16, 18), implied="7", unchanged=True)  # no such edit exists: not a case
    answer(w, "flipped", range(6), "7")
    answer(w, "flipped", range(16, 18), "7")
    answer(w, "none", range(5, 7), "7")  # gets there without the plan
    found = only(w)["following"]
    assert found["condition"] == "flipped"
    assert is_rate({k: found[k] for k in ("rate", "low", "high", "k", "n")}, 6, 16)
    assert is_rate(found["without_plan"], 2, 16)
    assert is_rate(found["right_anyway"], 12, 20)


def test_copying_is_split_by_whether_the_plan_is_right() -> None:
    w = world()
    plan(w, "true:s", range(8), implied="9")
    plan(w, "true:s", range(18, 20), implied=None)
    answer(w, "true", range(5), "9")
    answer(w, "true", range(8, 10), "3")
    answer(w, "none", range(1), "9")
    found = only(w)
    assert is_rate(found["copying"]["wrong"], 5, 8)
    assert is_rate(found["copying"]["right"], 8, 10)
    assert is_rate(found["copying"]["wrong_without_plan"], 1, 8)
    assert found["follow_rate"] == 5 / 8
    assert found["copy_rate"] == pytest.approx(13 / 18)
    assert found["following"] is None  # its counterfactual plans imply the right answer: there is no case


def test_rescue_and_retention() -> None:
    w = world()
    answer(w, "none", range(12), "5")
    answer(w, "true", range(7), "5")
    answer(w, "true", range(12, 13), "5")
    found = only(w)
    assert is_rate(found["rescue"], 5, 12)
    assert is_rate(found["retention"], 7, 8)
    answer(w, "none", range(20), "4")
    assert only(w)["rescue"] is None  # nothing to rescue is no rate of 0


def test_lift_by_whether_the_plan_states_the_answer() -> None:
    w = world()
    plan(w, "true:s", range(8), implied="4", leaks=True)
    answer(w, "twin", range(10), "5")
    found = only(w)["leaks"]
    assert is_rate(found["share"], 8, 20)
    assert (found["stated"]["n"], found["stated"]["value"]) == (8, 1)
    assert (found["not_stated"]["n"], found["not_stated"]["value"]) == (12, pytest.approx(2 / 12))
    plan(w, "true:s", range(20), implied="4")
    assert only(w)["leaks"]["stated"] is None


def test_slope_over_plan_quality() -> None:
    w = World(load_preset("quick").conditions(PARAMETERS), key=4)
    found = axes.trust(w.table(), PARAMETERS)
    assert found is not None
    x = [p["plan_quality"] for p in found["planners"]]
    y = [p["content"]["value"] for p in found["planners"]]
    assert found["quality_slope"]["value"] == pytest.approx(np.polyfit(x, y, 1)[0] / 10)
    assert found["quality_slope"]["low"] <= found["quality_slope"]["value"] <= found["quality_slope"]["high"]


def test_a_planner_shown_in_two_scaffolds_is_named_by_its_condition() -> None:
    text = EXTRA + EXTRA.split("[[condition]]")[2].join(["[[condition]]", ""]).replace('"true"\nsc', '"again"\nsc')
    w = World(read_preset(text, "extra", "extra").conditions(["s"]))
    found = axes.trust(w.table(), {"s": 100})
    assert found is not None
    assert [p["planner"] for p in found["planners"]] == ["true", "again"]
    assert [list(p["corruptions"]) for p in found["planners"]] == [["counterfactual"], []]


def test_subsets_leave_out_what_was_not_run() -> None:
    w = World(select(load_preset("trust").conditions(("s",)), ["plan[s]"]))
    found = only(w)
    assert found["gold_lift"] is None
    assert found["corruptions"] == {}
    assert found["following"] is None


@pytest.mark.slow
def test_ten_thousand_items_take_less_than_a_second_of_work() -> None:
    w = World(select(load_preset("quick").conditions(("s",)), ["plan[s]"]), n=10_000)
    began = time.process_time()
    t = w.table()
    lines, found = axes.condition_rows(t), axes.axes(t, {"s": 100})
    axes.warnings(t, lines, found)
    assert time.process_time() - began < 2  # 0.5 s where measured; a guard against a slip


# ---------------------------------------------------------------- shares


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12))
def test_shares(cases: list[tuple[int, int]]) -> None:
    n = [max(a, b) for a, b in cases]
    k = [min(a, b) for a, b in cases]
    found = share(k, n)
    if not sum(n):
        assert found is None
        return
    assert found is not None
    assert found.rate == pytest.approx(sum(k) / sum(n))
    assert 0 <= found.low <= found.rate + 1e-12
    assert found.rate - 1e-12 <= found.high <= 1
    if max(n) == 1:
        assert (found.low, found.high) == wilson(sum(k), sum(n))
