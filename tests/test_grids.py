"""Grids: main effects, interactions and level means by hand; what is compared with what."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from test_axes import World

from triaxis.conditions import load_preset, read_preset, select
from triaxis.estimate import axes

PRESET = """
[[condition]]
name = "none"
role = "baseline"
[[condition]]
name = "none-slow"
role = "brittleness"
decode = { tokens_per_step = 1 }
[[grid]]
name = "g"
[grid.levels]
placement = ["after", "before", "reply"]
closure = ["open", "closed"]
tokens_per_step = [2, 1]
[[grid]]
name = "one"
[grid.levels]
label = ["plan", "hint", "draft"]
"""


def world(key: int = 0) -> World:
    return World(read_preset(PRESET, "made", "made").conditions(()), key=key)


def design(w: World, k: int = 0) -> dict[str, Any]:
    return dict(axes.factorial(w.table())[k])


def mean(w: World, **levels: str) -> float:
    """Accuracy over the cells of g that have these levels."""
    chosen = [c["name"] for c in w.cards if c["name"].startswith("g/") and levels.items() <= c["factors"].items()]
    return float(np.mean([w.score(n) for n in chosen]))


@pytest.mark.parametrize("key", range(3))
def test_effects_and_levels_by_hand(key: int) -> None:
    w = world(key)
    d = design(w)
    assert list(d["factors"]) == ["placement", "closure", "tokens_per_step"]
    assert len(d["cells"]) == 12
    by_name = {e["effect"]["name"]: e for e in d["effects"]}
    assert list(by_name) == [
        "placement=before", "placement=reply", "closure", "tokens_per_step",
        "placement=before x tokens_per_step", "placement=reply x tokens_per_step", "closure x tokens_per_step",
    ]  # fmt: skip
    expected = mean(w, placement="reply") - mean(w, placement="after")
    assert by_name["placement=reply"]["effect"]["value"] == pytest.approx(expected)
    slow, fast = ("1", "2")
    gaps = [
        mean(w, closure="closed", tokens_per_step=t) - mean(w, closure="open", tokens_per_step=t) for t in (slow, fast)
    ]
    both = by_name["closure x tokens_per_step"]
    assert both["effect"]["value"] == pytest.approx(gaps[0] - gaps[1])
    assert (both["factors"], both["levels"]) == (["closure", "tokens_per_step"], ["closed", "1"])
    for e in d["effects"]:
        e = e["effect"]
        assert e["low"] <= e["value"] <= e["high"]
        assert e["p"] <= e["p_holm"] <= 1
    for m in d["levels"]:
        assert m["accuracy"] == pytest.approx(mean(w, **{m["factor"]: m["level"]}))
        assert 0 <= m["low"] <= m["accuracy"] <= m["high"] <= 1
    assert len(d["levels"]) == 3 + 2 + 2


def test_cost_is_against_the_bare_question_decoded_alike() -> None:
    w = world()
    fast, slow = design(w)["cost"]
    assert (fast["name"], slow["name"]) == ("mean of 6 shapes vs none", "mean of 6 shapes vs none-slow")
    assert fast["value"] == pytest.approx(mean(w, tokens_per_step="2") - np.mean(w.score("none")))
    assert slow["value"] == pytest.approx(mean(w, tokens_per_step="1") - np.mean(w.score("none-slow")))


def test_a_bare_question_decoded_otherwise_is_no_shape() -> None:
    w = world()
    assert axes.brittleness(w.table()) is None
    assert axes.main_contrasts(w.table()) == []


def test_one_factor_alone_is_plain_pairs() -> None:
    w = world()
    d = design(w, 1)
    for e, level in zip(d["effects"], ("hint", "draft"), strict=True):
        expected = np.mean(w.score(f"one/{level}")) - np.mean(w.score("one/plan"))
        assert e["effect"]["value"] == pytest.approx(expected)
        assert (e["factors"], e["levels"]) == (["label"], [level])


def test_missing_cells_are_named_and_nothing_is_estimated() -> None:
    w = world()
    whole = len(w.cards)
    w.cards = [c for c in w.cards if c["name"] != "g/before/open/2"]
    assert len(w.cards) == whole - 1
    t = w.table()
    found = axes.axes(t, {})
    d = found["factorial"][0]
    assert (d["missing"], d["effects"], d["levels"]) == (["before/open/2"], [], [])
    said = axes.warnings(t, axes.condition_rows(t), found)
    assert "grid g: 1 cells were never run (before/open/2); its effects cannot be told apart" in said


def test_the_shipped_factorial_preset_asks_what_it_says() -> None:
    """Main effects of placement, closure, length, label and filler, and interactions with tokens per step."""
    w = World(load_preset("factorial").conditions(()), n=8)
    found = axes.axes(w.table(), {})
    assert {k for k, v in found.items() if v is not None} == {"factorial"}
    mains = {f for d in found["factorial"] for e in d["effects"] if len(e["factors"]) == 1 for f in e["factors"]}
    assert mains == {"placement", "closure", "length", "label", "filler", "tokens_per_step"}
    paced = {
        f for d in found["factorial"] for e in d["effects"] if "tokens_per_step" in e["factors"] for f in e["factors"]
    }
    assert paced == {"placement", "closure", "length", "tokens_per_step"}
    json.dumps(found, allow_nan=False)


def test_placements_are_means_of_their_shapes() -> None:
    names = ["hint", "plan-empty", "plan-empty-before", "filler-before"]
    w = World(select(load_preset("quick").conditions(()), names))
    found = axes.brittleness(w.table())
    assert found is not None
    after, before = found["placements"]
    assert (after["placement"], before["shapes"]) == ("after", ["plan-empty-before", "filler-before"])
    expected = np.mean([w.score(n) for n in before["shapes"]]) - np.mean(w.score("none"))
    assert before["effect"]["value"] == pytest.approx(expected)
    assert set(found["simultaneous"]["intervals"]) == set(names)
    w = World(select(load_preset("quick").conditions(()), ["hint"]))
    assert axes.brittleness(w.table())["placements"] == []  # type: ignore[index]
