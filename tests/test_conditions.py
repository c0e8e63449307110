"""Conditions as data: the table, what a scaffold renders, what a selection brings along."""

from __future__ import annotations

import json

import pytest

from triaxis.conditions import Scaffold, default_conditions, select
from triaxis.errors import UserError

PLANNERS = ("s", "m")
TABLE = default_conditions(PLANNERS)
BY_NAME = {c.name: c for c in TABLE}
SCAFFOLDS = {c.scaffold.name: c.scaffold for c in TABLE}
PLAN = SCAFFOLDS["plan"]


def test_names_are_unique_and_every_comparison_is_in_the_table() -> None:
    assert len(BY_NAME) == len(TABLE)
    assert {c.against for c in TABLE} <= set(BY_NAME)


def test_the_table_holds_the_arms_of_the_issue() -> None:
    shapes = [c.name for c in TABLE if c.role == "brittleness"]
    assert shapes == ["hint", "plan-empty", "plan-empty-before", "xml-open", "filler", "filler-before"]
    assert [c.name for c in TABLE if c.kind == "true"] == ["gold-plan", "plan[s]", "plan[m]"]
    assert {c.name: (c.branches, dict(c.decode)) for c in TABLE if c.role == "diversity"} == {
        "vote": (5, {"temperature": 0.7}),
        "vote-plan-empty": (5, {"temperature": 0.7}),
    }
    assert [c.name for c in default_conditions(())] == [c.name for c in TABLE if c.planner not in PLANNERS]


def test_a_plan_and_its_twin_differ_in_content_only() -> None:
    for plan in (c for c in TABLE if c.kind == "true"):
        twin = BY_NAME[plan.against]
        assert twin.scaffold == plan.scaffold
        assert (twin.branches, twin.decode) == (plan.branches, plan.decode)
        assert twin.plan == f"filler:{plan.planner}"


def test_the_gold_arms_are_those_that_need_a_solution() -> None:
    needs = {c.name for c in TABLE if c.needs_gold}
    assert needs == {"filler", "filler-before", "gold-plan", "other-plan", "wrong-plan"}
    rest = [c for c in TABLE if not c.needs_gold]
    assert {c.against for c in rest} <= {
        c.name for c in rest
    }  # leaving them out leaves no comparison without its other side


def test_a_card_is_plain_data_that_tells_conditions_apart() -> None:
    cards = [json.dumps(c.card(), sort_keys=True) for c in TABLE]
    assert len(set(cards)) == len(TABLE)


@pytest.mark.parametrize(
    ("scaffold", "plan", "text"),
    [
        (Scaffold("none"), None, "2+2?"),
        (SCAFFOLDS["hint"], None, "2+2?\nLet's think step by step."),
        (SCAFFOLDS["plan-empty"], None, "2+2?\nPlan: "),
        (SCAFFOLDS["plan-empty-before"], None, "Plan: \n2+2?"),
        (PLAN, "add {them} %s \\n", "2+2?\nPlan: add {them} %s \\n"),
        (PLAN, "a {plan} of {plan}s", "2+2?\nPlan: a {plan} of {plan}s"),
        (PLAN, "", "2+2?\nPlan: "),
        (SCAFFOLDS["plan-before"], "add", "Plan: add\n2+2?"),
    ],
)
def test_render(scaffold: Scaffold, plan: str | None, text: str) -> None:
    assert scaffold.render("2+2?", plan).user == text


def test_render_leaves_the_question_as_it_is() -> None:
    assert PLAN.render("What is {plan}?", "x").user == "What is {plan}?\nPlan: x"


def test_render_refuses_a_plan_without_a_place_and_a_place_without_a_plan() -> None:
    with pytest.raises(ValueError, match="'none': template and plan disagree"):
        Scaffold("none").render("2+2?", "add")
    with pytest.raises(ValueError, match="'plan': template and plan disagree"):
        PLAN.render("2+2?")


def test_select_keeps_the_table_order_and_brings_what_is_compared() -> None:
    names = [c.name for c in select(TABLE, ["vote-plan-empty", "other-plan"])]
    assert names == ["none", "filler", "gold-plan", "other-plan", "vote", "vote-plan-empty"]
    assert [c.name for c in select(TABLE, ["none"])] == ["none"]
    assert [c.name for c in select(TABLE, ["hint", "hint"])] == ["none", "hint"]
    assert select(TABLE, [c.name for c in reversed(TABLE)]) == TABLE


def test_select_refuses_unknown_names_and_nothing() -> None:
    with pytest.raises(UserError, match="no condition named 'hnt'; did you mean 'hint'"):
        select(TABLE, ["none", "hnt"])
    with pytest.raises(UserError, match="no condition named"):
        select(TABLE, [""])
