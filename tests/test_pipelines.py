"""Pipelines, costs and changed branches: what is compared with what, and at which price, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from test_axes import World, check_family, vote

from triaxis.conditions import load_preset
from triaxis.estimate import axes

N = 12


def world(key: int = 0, tokens: dict[str, int] | None = None) -> World:
    w = World(load_preset("original").conditions(("s",)), key=key)
    price = {"c1[s]": 10, "c1sc[s]": 10, "c2": 35, "cmaj": 100} | (tokens or {})
    w.rows = [replace(r, tokens=price.get(r.condition, 20)) for r in w.rows]
    return w


def outcome(w: World, name: str) -> list[float]:
    return [vote(row)[0] for row in w.answers(name)]


def majority(w: World, name: str, k: int) -> list[float]:
    return [float(np.mean([vote(list(c))[0] for c in combinations(row, k)])) for row in w.answers(name)]


@pytest.mark.parametrize("key", range(2))
def test_every_pair_of_one_family(key: int) -> None:
    w = world(key)
    found = axes.pipelines(w.table())
    assert found is not None
    named = [(e["condition"], e["against"]) for e in found["effects"]]
    assert named == [
        ("c1[s]", "c2"), ("c1sc[s]", "c1[s]"), ("c3[s]", "c2"), ("c4[s]", "c2"), ("crev[s]", "c2"),
        ("cmerge[s]", "cmaj"),
    ]  # fmt: skip
    matched = [(m["condition"], m["against"], m["matched"], m["branches"]) for m in found["matched"]]
    assert matched[:2] == [("c2", "c1[s]", "branches", 1), ("cmaj", "c1sc[s]", "branches", 5)]
    assert ("c2", "c1sc[s]", "tokens", 3) in matched  # 35 tokens pay for three branches of 10
    pairs = [(outcome(w, a), outcome(w, b)) for a, b in named]
    pairs += [(outcome(w, a), majority(w, b, k)) for a, b, _, k in matched]
    check_family([e["effect"] for e in (*found["effects"], *found["matched"])], pairs)
    assert found["pareto"] is None  # axis 3 was run and holds it


def test_a_chain_costs_what_its_stages_cost() -> None:
    w = world(tokens={"c3p[s]": 7, "c4-extend[s]": 1, "c4-draft[s]": 2, "c4[s]": 4, "c3[s]": 3, "cmerge[s]": 5})
    t = w.table()
    assert t.tokens("c3[s]").tolist() == [10] * N
    assert t.tokens("c4[s]").tolist() == [14] * N
    assert t.tokens("cmerge[s]").tolist() == [505] * N  # five branches of 100 before it
    assert t.tokens("cmaj").tolist() == [500] * N


def test_too_dear_and_too_cheap_arms_are_not_matched() -> None:
    found = axes.pipelines(world(tokens={"c1sc[s]": 50}).table())
    assert found is not None
    by_tokens = {m["condition"]: m for m in found["matched"] if m["matched"] == "tokens"}
    assert "c2" not in by_tokens  # 35 tokens pay for no branch of 50
    assert "cmaj" not in by_tokens  # 500 pay for ten, and there are five


def test_costs_and_accuracies_of_the_arms() -> None:
    w = world()
    found = axes.diversity_axis(w.table())
    assert found is not None
    points = {p["name"]: p for p in found["pareto"]}
    assert set(points) == {
        "c2", "cmaj", "cmaj, 1 of 5", "cmaj, 3 of 5", "c1[s]", "c1sc[s]", "c3[s]", "c4[s]", "crev[s]", "cmerge[s]",
    }  # fmt: skip
    assert [p["tokens"] for p in found["pareto"]] == sorted(p["tokens"] for p in found["pareto"])
    assert points["cmaj, 3 of 5"]["tokens"] == 300
    assert points["cmaj, 3 of 5"]["accuracy"] == pytest.approx(np.mean(majority(w, "cmaj", 3)))
    for p in points.values():
        better = [
            q["name"] for q in points.values()
            if q["tokens"] <= p["tokens"] and q["accuracy"] >= p["accuracy"]
            and (q["tokens"], q["accuracy"]) != (p["tokens"], p["accuracy"])
        ]  # fmt: skip
        assert sorted(p["dominated_by"]) == sorted(better)


def test_an_arm_that_counts_no_tokens_has_no_place() -> None:
    found = axes.diversity_axis(world(tokens={"c1[s]": 0}).table())
    assert found is not None
    assert "c1[s]" not in {p["name"] for p in found["pareto"]}


def test_orders_of_commitment() -> None:
    w = world()
    plain, mixed = list(range(6)), [5, 4, 3, 2, 1, 0]
    orders = [json.dumps({"order": plain if branch < 4 else mixed}) for branch in range(5)]
    w.rows = [replace(r, trace=orders[r.branch] if r.condition == "cmaj" else "") for r in w.rows]
    found = axes.diversity_axis(w.table())
    assert found is not None
    assert found["order"]["tau"]["value"] == pytest.approx((6 - 4) / 10)  # six pairs agree, four are opposite
    assert found["order"]["left_to_right"]["value"] == pytest.approx((4 - 1) / 5)
    assert found["order"]["tau"]["n"] == N


@pytest.mark.parametrize("trace", ["", "{", "[]", '{"order": []}', '{"order": [3]}', '{"path": []}'])
def test_rows_without_an_order_have_none(trace: str) -> None:
    w = world()
    w.rows = [replace(r, trace=trace) for r in w.rows]
    found = axes.diversity_axis(w.table())
    assert found is not None
    assert found["order"] is None


def test_a_change_of_branches_splits_into_right_and_wrong() -> None:
    w = World(load_preset("quick").conditions(()), key=3)
    found = axes.diversity_axis(w.table())
    assert found is not None
    change: dict[str, Any] = found["changes"]["vote-plan-empty"]
    assert change["against"] == found["condition"] == "vote"

    def distinct(name: str, right: bool) -> float:
        return float(np.mean([len({a for a in row if a and (a == "4") == right}) for row in w.answers(name)]))

    unique = change["splits"]["unique"]
    for part, right in (("right", True), ("wrong", False)):
        expected = distinct("vote-plan-empty", right) - distinct("vote", right)
        assert unique[part]["value"] == pytest.approx(expected)
    for parts in change["splits"].values():
        assert parts["total"]["value"] == pytest.approx(parts["right"]["value"] + parts["wrong"]["value"])
