"""Repairs from the command to the report: tiers in the evaluation's template, controls, verdicts that can be no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from triaxis.cli import main
from triaxis.conditions import load_preset
from triaxis.errors import UserError
from triaxis.report.repair import Arm, repair
from triaxis.report.repairs import PRESET
from triaxis.tasks import load_task
from triaxis.train.recipes import RECIPES
from triaxis.train.tiers import KINDS, material, was_seen

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor

PLANNERS = ("tiny-planner-s",)


def test_training_prompts_are_the_evaluations_own(tiny: Executor, tmp_path: Path) -> None:
    """A row of a tier and the condition it stands for have the same prompt ids for the same question and plan."""
    table = {c.name: c for c in load_preset(PRESET).conditions(PLANNERS)}
    made = material(
        tiny, load_task("gradeschool"), "prefix", RECIPES["tiny-prefix"], planners=PLANNERS, items=5,
        decode=tiny.default_decode(), store=tmp_path / "rows.sqlite", conditions=table.values(),
    )  # fmt: skip
    items = {i.id: i for i in load_task("gradeschool").items(5, split="train")}
    rows = [r for r in (*made.data.rows, *made.held.rows) if r.tier in ("none", "hint", "plan-empty")]
    assert len(rows) == 15
    for row in rows:
        shown = table[row.tier].scaffold.render(items[row.item].question)
        assert list(row.prompt) == tiny.prompt_ids(shown.user, shown.reply, shown.system)
        assert tiny.text(row.response) == items[row.item].solution
    assert made.data.tiers.keys() == made.held.tiers.keys()
    assert not {r.item for r in made.data.rows} & {r.item for r in made.held.rows}
    votes = {"vote", "vote-plan-empty"}
    assert set(made.card["seen"]) - votes == {"none", "hint", "plan-empty", "gold-plan", "plan[tiny-planner-s]"}
    assert set(made.card["held_out"]) >= {"plan-empty-before", "filler", "draft-empty", "json-empty", "filler-before"}


def test_trust_tiers_vary_the_plan_and_never_the_target(tiny: Executor, tmp_path: Path) -> None:
    made = material(
        tiny, load_task("gradeschool"), "trust", RECIPES["tiny-trust"], planners=(), items=10,
        decode=tiny.default_decode(), store=tmp_path / "rows.sqlite",
    )  # fmt: skip
    by_item: dict[str, dict[str, Any]] = {}
    for row in (*made.data.rows, *made.held.rows):
        by_item.setdefault(row.item, {})[row.tier] = row
    assert made.data.tiers["wrong-plan"] == made.data.tiers["gold-plan"] == 9
    for tiers in by_item.values():
        assert len({r.response for r in tiers.values()}) == 1
        assert len({r.prompt for r in tiers.values()}) == len(tiers)  # an edit that changed nothing is left out
    assert {"none", "gold-plan", "wrong-plan"} <= made.data.tiers.keys()


def test_what_was_seen_is_decided_by_shape() -> None:
    table = {c.name: c for c in load_preset(PRESET).conditions(PLANNERS)}
    tiers = KINDS["prefix"](PLANNERS)
    seen = {n for n, c in table.items() if was_seen(c, tiers)}
    assert {"hint", "plan-empty", "gold-plan"} <= seen
    assert not {"plan-empty-before", "filler", "xml-open", "draft-empty", "json-empty", "wrong-plan"} & seen
    assert {n for n, c in table.items() if was_seen(c, KINDS["plain"](()))} == {"none", "vote"}


def test_a_task_without_rationales_is_refused(tiny: Executor, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"question": f"{k}+1?", "answer": str(k + 1)}) + "\n" for k in range(5)))
    with pytest.raises(UserError, match=r"no worked solution|no split 'train'"):
        material(
            tiny, load_task(f"jsonl:{path}"), "prefix", RECIPES["tiny-prefix"], planners=(), items=4,
            decode=tiny.default_decode(), store=tmp_path / "rows.sqlite",
        )  # fmt: skip


# ---------------------------------------------------------------- verdicts, on made scores


class Made:
    """A table of made scores: condition -> share of 400 items that are right, nested as far as can be."""

    def __init__(self, shares: dict[str, float]) -> None:
        self.items = tuple(str(i) for i in range(400))
        role = {"none": "baseline"}
        self.conditions = {n: {"role": role.get(n, "brittleness"), "against": "none"} for n in shares}
        self.baseline = "none"
        self.scores = {n: (np.arange(400) < 400 * s).astype(float) for n, s in shares.items()}

    def role(self, role: str) -> list[str]:
        return [n for n, c in self.conditions.items() if c["role"] == role]

    def outcome(self, name: str) -> Any:
        return self.scores[name]


def verdict(before: dict[str, float], after: dict[str, float], control: dict[str, float] | None) -> dict[str, str]:
    def arm(name: str, shares: dict[str, float]) -> Arm:
        table: Any = Made(shares)
        return Arm(name, (table,))

    found = repair(
        arm("before", before), arm("after", after), arm("control", control) if control else None, ["hint"]
    )  # fmt: skip
    return {k: v["verdict"] for k, v in found["verdicts"].items()}


BROKEN = {"none": 0.7, "hint": 0.5, "filler": 0.4}


def test_repaired_and_generalises_are_two_verdicts() -> None:
    saw = verdict(BROKEN, {"none": 0.7, "hint": 0.7, "filler": 0.4}, BROKEN)
    assert saw["repaired on what it saw"] == "yes"
    assert saw["generalises"] == "no: filler still cost accuracy"
    both = verdict(BROKEN, {"none": 0.7, "hint": 0.7, "filler": 0.7}, BROKEN)
    assert both == {"repaired on what it saw": "yes", "generalises": "yes"}


def test_what_the_control_does_too_is_no_robustness() -> None:
    whole = {"none": 0.7, "hint": 0.7, "filler": 0.7}
    assert verdict(BROKEN, whole, whole)["repaired on what it saw"] == "not told apart from training on bare prompts"


def test_a_brittleness_that_is_left_is_said() -> None:
    assert verdict(BROKEN, BROKEN, None)["repaired on what it saw"] == "no: hint still cost accuracy"


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_from_one_end_to_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = [
        "train", "prefix", "--planners", "tiny-planner-s", "--items", "12", "--n", "4", "--conditions",
        "none,hint,filler", "--set", "steps=3", "--set", "every=3", "--set", "batch=4", "--out", str(out), "--json",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seen"] == ["hint"]
    assert found["held_out"] == ["filler"]
    assert {r["of"] for r in found["brittleness"]} == {
        "before", "after", "control", "after minus before", "after minus control"
    }  # fmt: skip
    assert (out / "repair.md").is_file()
    for folder in ("before", "studies/prefix-s0", "studies/plain-s0"):
        assert (out / folder / "report.html").is_file()
    with pytest.raises(SystemExit):
        main(command)
    assert json.loads(capsys.readouterr().out) == found


def test_an_unknown_setting_of_a_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "prefix", "--set", "step=3"])
    assert stop.value.code == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
