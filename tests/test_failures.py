"""Failures of format: each kind by hand, paired differences, and what of a loss they account for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_axes import World

from triaxis.conditions import default_conditions, select
from triaxis.estimate.arms import Table
from triaxis.estimate.axes import condition_rows, warnings
from triaxis.estimate.failures import FLOOR, KINDS
from triaxis.estimate.paired import paired
from triaxis.store import GradeRow

N = 20
CLEAN: dict[str, Any] = {"text": "3 + 1 = 4\n#### 4", "ended": True, "length": 12}


def world(*names: str) -> World:
    """Everything right, read, ended and agreed."""
    w = World(select(default_conditions(("s",)), names), n=N)
    w.rows = [replace(r, **CLEAN) for r in w.rows]
    w.grades = {r.id: GradeRow(r.id, "right", "4", "marked", 1) for r in w.rows}
    return w


def spoil(w: World, condition: str, items: range, row: dict[str, Any], grade: dict[str, Any] | None = None) -> None:
    chosen = {f"item-{i:02d}" for i in items}
    for k, r in enumerate(w.rows):
        if r.condition == condition and r.item in chosen:
            w.rows[k] = replace(r, **row)
            w.grades[r.id] = replace(w.grades[r.id], **(grade or {}))


def lines(w: World) -> dict[str, dict[str, Any]]:
    return {x["name"]: x for x in condition_rows(w.table())}


WRONG: dict[str, Any] = {"verdict": "wrong", "answer": "5", "second": 0}
NO_MARK: dict[str, Any] = {**WRONG, "how": "fallback"}


@pytest.mark.parametrize(
    ("row", "grade", "kinds"),
    [
        ({"ended": False}, {}, {"truncated"}),
        ({}, {"verdict": "unreadable", "answer": "", "how": "none", "second": 0}, {"unreadable"}),
        ({"text": "", "length": 0}, {"verdict": "unreadable", "answer": "", "second": 0},
         {"unreadable", "early_end", "flooded"}),
        ({"text": " \n", "length": 2}, WRONG, {"early_end", "flooded"}),
        ({"text": "5", "length": FLOOR - 1}, NO_MARK, {"early_end"}),
        ({"text": "is 5", "length": FLOOR}, NO_MARK, set()),
        ({"text": "", "length": 0, "ended": False}, WRONG, {"truncated"}),  # no end mark: not an early one
        ({"text": "Plan: first add\n#### 4"}, {}, {"continued"}),  # an opener, though the answer is marked
        ({"text": "so Hint: none 5"}, NO_MARK, set()),  # no opener of this study
        ({}, {"second": 0}, {"disagree"}),
        ({}, {"verdict": "wrong", "second": 1}, {"disagree"}),
    ],
)  # fmt: skip
def test_each_kind(row: dict[str, Any], grade: dict[str, Any], kinds: set[str]) -> None:
    w = world("hint", "plan-empty")
    spoil(w, "hint", range(5), row, grade)
    found = lines(w)
    assert {k for k in KINDS if found["hint"][k]} == kinds
    assert all(found["hint"][k] == pytest.approx(5 / N) for k in kinds)
    assert all(not found[n][k] for n in ("none", "plan-empty") for k in KINDS)
    assert set(found["hint"]["failures"]) == kinds
    for k in kinds:
        again = paired([1.0] * 5 + [0.0] * 15, [0.0] * N)
        e = found["hint"]["failures"][k]
        assert (e["value"], e["gain"], e["loss"], e["p"]) == (again.value, 5, 0, again.p)
        assert (e["low"], e["high"]) == (again.low, again.high)


def test_steps_of_the_plan_count_only_without_a_marked_answer() -> None:
    w = world("plan[s]")
    plans = {k: replace(p, text="Add the pens first; then double it.") for k, p in w.plans.items()}
    w.plans = plans
    repeated = {"text": "then  DOUBLE it and so 5", "length": 9}
    spoil(w, "plan[s]", range(4), repeated, NO_MARK)
    spoil(w, "plan[s]", range(4, 8), repeated)  # marked
    spoil(w, "none", range(3), repeated, NO_MARK)  # shows no plan
    found = lines(w)
    assert found["plan[s]"]["continued"] == pytest.approx(4 / N)
    assert found["none"]["continued"] == 0


def test_graders_that_were_not_asked_are_not_known() -> None:
    w = world("hint")
    w.grades = {k: replace(g, second=-1) for k, g in w.grades.items()}
    assert lines(w)["hint"]["disagree"] is None
    assert "disagree" not in lines(w)["hint"]["failures"]
    asked = [f"{c}/item-{i:02d}/0/0" for c in ("none", "hint") for i in range(8)]
    w.grades |= {k: replace(w.grades[k], second=int("none" in k)) for k in asked}
    found = lines(w)["hint"]
    assert found["disagree"] == 1
    assert (found["failures"]["disagree"]["n"], found["failures"]["disagree"]["value"]) == (8, 1)


def test_duplicates_are_of_branches_and_pair_with_the_condition_named() -> None:
    w = world("vote", "vote-plan-empty")
    w.rows = [replace(r, text=f"{r.branch if r.condition == 'vote' else r.branch // 2} #### 4") for r in w.rows]
    found = lines(w)
    assert found["none"]["duplicates"] is None
    assert found["vote"]["duplicates"] == 0
    assert found["vote-plan-empty"]["duplicates"] == pytest.approx(2 / 4)  # 0 0 1 1 2
    assert found["vote-plan-empty"]["failures"]["duplicates"]["value"] == pytest.approx(1 / 2)
    assert "duplicates" not in found["vote"]["failures"]


def test_what_of_a_loss_is_format() -> None:
    w = world("hint", "plan-empty")
    spoil(w, "hint", range(6), {"ended": False}, WRONG)
    spoil(w, "hint", range(6, 8), {}, WRONG)
    spoil(w, "hint", range(8, 10), {"ended": False})  # cut, and right all the same
    spoil(w, "plan-empty", range(4), {}, WRONG)
    found = lines(w)
    assert found["none"]["lost"] is None
    assert found["none"]["failures"] == {}
    assert found["hint"]["lost"] == {"items": 8, "format": 6}
    assert found["plan-empty"]["lost"] == {"items": 4, "format": 0}
    t: Table = w.table()
    said = warnings(t, list(found.values()), dict.fromkeys(("brittleness", "trust", "diversity")))
    assert [s for s in said if "not all of its drop is reasoning" in s] == [
        "hint: 6 of the 8 items it loses have a failure of format (cut, unread, ended early or the plan goes on): "
        "not all of its drop is reasoning"
    ]


def test_openers_of_what_ar_models_are_asked_do_not_count() -> None:
    w = world("hint")
    w.cards = [{**c, "scaffold": {**c["scaffold"], "template": "#### "}} for c in w.cards]  # no letters: no opener
    assert lines(w)["hint"]["continued"] == 0
    w.cards = [{**c, "scaffold": {**c["scaffold"], "template": "3 + 1 is {plan}"}} for c in w.cards]
    w.rows = [replace(r, text="3 + 1 is 4") for r in w.rows]
    assert lines(w)["hint"]["continued"] == 1
    w.cards = [
        {**c, "role": "pipeline"} if c["name"] == "hint" else {**c, "scaffold": {"template": ""}} for c in w.cards
    ]
    assert lines(w)["hint"]["continued"] == 0
