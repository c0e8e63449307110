"""The study loop: what it writes, what it refuses, and that nothing but the settings decides a row."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import triaxis.study
import triaxis.study.jobs
import triaxis.study.summary
from triaxis.conditions import Condition
from triaxis.errors import UndefinedEstimate, UserError, override
from triaxis.report.study import Study
from triaxis.sampling import executor
from triaxis.store import GradeRow, PlanRow, Row, Store
from triaxis.study.jobs import Arms, executor_card, jobs
from triaxis.tasks import load_task

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = {"steps": 12}
SMALL = Study(n=6, planners=(), conditions=("plan-empty", "other-plan", "vote"), decode=FAST)
SCHEMA = json.loads((files("triaxis.report") / "summary.schema.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> tuple[list[Row], dict[str, PlanRow], dict[str, GradeRow]]:
    with Store(folder / "rows.sqlite", write=False) as store:
        return store.rows(), store.plans(), store.grades()


def without_seconds(summary: dict[str, Any]) -> dict[str, Any]:
    return {**summary, "cost": {k: v for k, v in summary["cost"].items() if k != "seconds"}}


def batches_of(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    load = executor.load_executor
    made = lambda *a, **k: executor.Executor(load(*a, **k).checkpoint, batch_tokens=tokens)  # noqa: E731
    monkeypatch.setattr(executor, "load_executor", made)


@pytest.fixture(scope="module")
def done(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study; read only."""
    folder = tmp_path_factory.mktemp("study") / "done"
    SMALL.run(folder)
    return folder


@pytest.fixture
def mine(done: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, to change."""
    return Path(shutil.copytree(done, tmp_path / "mine"))


# ---------------------------------------------------------------- what it writes


def test_a_study_writes_its_four_files(done: Path) -> None:
    names = {p.name for p in done.iterdir()}
    assert names == {".lock", "rows.sqlite", "summary.json", "protocol.json", "report.html"}


def test_the_summary_is_the_contract(done: Path) -> None:
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    jsonschema.validate(summary, SCHEMA)
    assert summary["study"]["executor"] == "tiny"
    assert (summary["study"]["n"], summary["study"]["seeds"], summary["study"]["planners"]) == (6, [0], [])
    names = ["none", "plan-empty", "filler", "gold-plan", "other-plan", "vote"]
    assert [c["name"] for c in summary["conditions"]] == names
    assert all(summary["axes"].values())
    rows, _, grades = contents(done)
    assert summary["cost"]["forwards"] == sum(r.forwards for r in rows) > 0
    assert summary["cost"]["tokens"] == sum(r.tokens for r in rows)
    assert summary["cost"]["seconds"] > 0
    right = [r for r in rows if r.condition == "vote" and grades[r.id].verdict == "right"]
    assert summary["conditions"][-1]["accuracy"] == pytest.approx(len(right) / 30)


def test_every_item_has_every_condition_and_branch(done: Path) -> None:
    rows, plans, grades = contents(done)
    assert Counter(r.condition for r in rows) == {
        **dict.fromkeys(["none", "plan-empty", "filler", "gold-plan", "other-plan"], 6),
        "vote": 30,
    }
    assert set(grades) == {r.id for r in rows}
    assert {r.plan for r in rows if r.plan} == set(plans)
    assert len(plans) == 3 * 6  # made once and shared
    for row in rows:
        assert row.plan == "" or plans[row.plan].item == row.item
        assert row.plan == "" or row.prompt.endswith(f"Plan: {plans[row.plan].text}")


def test_the_twin_is_as_long_as_the_plan_and_says_nothing(done: Path) -> None:
    _, plans, _ = contents(done)
    by_source = {(p.source, p.item): p for p in plans.values()}
    for (source, item), plan in by_source.items():
        if source == "gold":
            twin = by_source["filler:gold", item]
            assert twin.tokens == plan.tokens
            assert not any(c.isdigit() for c in twin.text)
            assert by_source["other:gold", item].text != plan.text


def test_the_protocol_card(done: Path) -> None:
    protocol = json.loads((done / "protocol.json").read_text(encoding="utf-8"))
    assert protocol["decode"]["steps"] == 12
    assert protocol["decode"]["temperature"] == 0
    assert protocol["executor"]["fingerprint"]
    assert protocol["task"]["revision"]
    assert {"triaxis", "torch", "numpy", "python"} <= set(protocol["versions"])
    assert {c["name"]: c["completions"] for c in protocol["conditions"]}["vote"] == 5
    assert Study.from_spec(protocol["spec"]) == SMALL
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    assert summary["study"]["protocol_hash"] == protocol["protocol_hash"]


def test_the_page_is_one_file_with_every_condition(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("plan-empty", "other-plan", "vote"))


# ---------------------------------------------------------------- what decides a row


def test_rows_do_not_depend_on_batches_order_or_other_arms(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_of(1, monkeypatch)  # one row at a time
    replace(SMALL, n=4, conditions=("vote", "plan-empty")).run(tmp_path)
    rows = {r.id: r for r in contents(done)[0]}
    again = contents(tmp_path)[0]
    assert len(again) == 4 * (1 + 1 + 5)
    assert [rows[r.id] for r in again] == again


def test_an_id_changes_with_everything_that_can_change_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = triaxis.study.prepare(replace(SMALL, conditions=("none", "vote"), seeds=(0, 1))).arms
    none, vote = arms.table
    ids = {j.row.id for j in jobs(arms, none, {})}
    votes = {j.row.id for j in jobs(arms, vote, {})}
    assert len(ids) == 6  # temperature 0: one seed
    assert len(votes) == 6 * 5 * 2
    seen = ids | votes

    def changed(what: Arms, arm: Condition = none) -> None:
        new = {j.row.id for j in jobs(replace(what), arm, {})}
        assert len(new) == 6
        assert not new & seen
        seen.update(new)

    card = executor_card(arms.executor)
    for name, value in card.items():
        monkeypatch.setattr(
            triaxis.study.jobs, "executor_card", lambda _, name=name, value=value: {**card, name: f"{value}!"}
        )
        if name == "name":  # where the same weights lie does not change what they say
            assert {j.row.id for j in jobs(replace(arms), none, {})} == ids
        else:
            changed(arms)
    monkeypatch.undo()
    changed(replace(arms, engine="another"))
    changed(arms, replace(none, name="another"))
    changed(arms, replace(none, watch=True))
    for setting in ({"steps": 24}, {"block_length": 16}, {"cfg_scale": 0.5}, {"stop": "canvas"}):
        changed(replace(arms, base_decode=override(arms.base_decode, setting)))
        changed(arms, replace(none, name="arm", decode=tuple(setting.items())))
    changed(replace(arms, all_seeds=(7,)))
    changed(replace(arms, items=[replace(i, question=i.question + " ") for i in arms.items]))
    changed(replace(arms, items=[replace(i, id=i.id + "'") for i in arms.items]))
    arms.task.revision = "another"  # type: ignore[misc]
    changed(arms)


def test_seeds_are_replicates_only_where_something_is_random(tmp_path: Path) -> None:
    study = replace(SMALL, n=3, conditions=("vote",), seeds=(0, 4))
    summary = study.run(tmp_path)
    rows = contents(tmp_path)[0]
    assert Counter((r.condition, r.seed) for r in rows) == {("none", 0): 3, ("vote", 0): 15, ("vote", 4): 15}
    assert "1 conditions ran under seed 0 only: at temperature 0 seeds are no replicates" in summary["warnings"]
    assert summary["axes"]["diversity"]["branches"] == 5


# ---------------------------------------------------------------- running again


def test_a_second_run_loads_nothing_and_says_the_same(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in mine.iterdir() if p.name != ".lock"}
    monkeypatch.delattr(triaxis.study, "prepare")
    summary = SMALL.run(mine)
    assert summary == json.loads((mine / "summary.json").read_text(encoding="utf-8"))
    assert before == {p.name: p.stat().st_mtime_ns for p in mine.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("gone", ["summary.json", "report.html", "protocol.json"])
def test_what_was_deleted_is_made_again_without_sampling(
    mine: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = json.loads((mine / "summary.json").read_text(encoding="utf-8"))
    (mine / gone).unlink()
    if gone == "protocol.json":
        (mine / "summary.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(executor, "denoise", None)
    monkeypatch.setattr("triaxis.tasks.grading.second_opinion", None)
    again = SMALL.run(mine)
    assert again == summary
    assert (mine / gone).is_file()


def test_a_changed_model_or_version_is_not_taken_for_the_old_one(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert triaxis.study.finished(SMALL, mine) is not None
    for changed in (replace(SMALL, n=7), replace(SMALL, decode={}), replace(SMALL, executor="tiny-0")):
        assert triaxis.study.finished(changed, mine) is None
    monkeypatch.setattr(triaxis.study, "GRADER", "numeric-2")
    assert triaxis.study.finished(SMALL, mine) is None


def test_grades_of_older_rules_are_made_again(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the same study whose grades are of another version; the rows stay."""
    grades = contents(mine)[2]
    with Store(mine / "rows.sqlite", write=True) as store:
        store.replace_grades(replace(g, verdict="wrong") for g in grades.values())
        store.set("grader", "numeric-0")
    (mine / "summary.json").unlink()
    SMALL.run(mine)
    assert contents(mine)[2] == grades


def test_first_grades_outlive_an_interruption(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _, grades = contents(done)
    task = load_task(SMALL.task)
    monkeypatch.setattr(triaxis.study.summary, "_TOGETHER", 4)
    monkeypatch.setattr(triaxis.study.summary, "_STORED", 1)

    def interrupt(what: str, at: int, total: int) -> None:
        if at == 12:
            raise KeyboardInterrupt

    with Store(tmp_path / "rows.sqlite", write=True) as store:
        store.append(rows)
        with pytest.raises(KeyboardInterrupt):
            triaxis.study.summary.grade(store, task, task.items(SMALL.n), interrupt)
        assert len(store.grades()) == 12
        triaxis.study.summary.grade(store, task, task.items(SMALL.n))
        assert store.grades() == grades


def test_regrade_restores_grades_and_asks_the_second_grader_or_not(mine: Path) -> None:
    summary = json.loads((mine / "summary.json").read_text(encoding="utf-8"))
    grades = contents(mine)[2]
    with Store(mine / "rows.sqlite", write=True) as store:
        store.replace_grades(replace(g, verdict="wrong") for g in grades.values())
    assert triaxis.study.summary.regrade(mine) == summary
    assert contents(mine)[2] == grades
    triaxis.study.summary.regrade(mine, second=False)
    assert {g.second for g in contents(mine)[2].values()} == {-1}
    assert {g.second for g in grades.values()} <= {0, 1}


def test_reopen(done: Path, tmp_path: Path) -> None:
    assert Study.reopen(done) == SMALL
    assert type(Study.reopen(done)) is Study
    with pytest.raises(UserError, match="there is no such file"):
        Study.reopen(tmp_path)
    with Store(tmp_path / "rows.sqlite", write=True):
        pass
    with pytest.raises(UserError, match="no study was started there; run triaxis diagnose --out"):
        Study.reopen(tmp_path)


def test_an_unfinished_study_is_not_summarised(mine: Path) -> None:
    import sqlite3

    with sqlite3.connect(mine / "rows.sqlite") as db:
        db.execute("DELETE FROM rows WHERE condition = 'vote' AND branch > 2")
    with pytest.raises(UndefinedEstimate, match="condition 'vote' has all its rows for 0 of 6 items; run the study"):
        triaxis.study.summary.regrade(mine)
    SMALL.run(mine)  # nothing says it is unfinished but its rows; the summary is still the one of the whole
    (mine / "summary.json").unlink()
    rows = SMALL.run(mine) and contents(mine)[0]
    assert Counter(r.condition for r in rows)["vote"] == 30


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 7}, "its n is 6, here 7"),
        ({"seeds": (1,)}, "its seeds is [0], here [1]"),
        ({"decode": {"steps": 24}}, "its decode steps is 12, here 24"),
        ({"executor": "tiny-0"}, "its executor name is 'tiny', here 'tiny-0'"),
        ({"conditions": ("plan-empty",)}, "its conditions is ['none', 'plan-empty', 'filler', 'gold-plan', "),
    ],
)
def test_another_study_in_the_folder_is_refused_and_loses_nothing(
    mine: Path, change: dict[str, Any], said: str
) -> None:
    before = contents(mine), (mine / "summary.json").read_bytes(), (mine / "protocol.json").read_bytes()
    with pytest.raises(UserError) as e:
        replace(SMALL, **change).run(mine)
    assert said in str(e.value)
    assert str(e.value).startswith(f"{mine} holds another study (")
    assert str(e.value).endswith("choose another --out")
    assert before == (contents(mine), (mine / "summary.json").read_bytes(), (mine / "protocol.json").read_bytes())


def test_the_first_difference_inside_a_list_of_cards() -> None:
    before = {"n": 6, "planners": [{"name": "s", "identity": "a"}], "conditions": [{"name": "none", "branches": 1}]}
    now = {**before, "planners": [{"name": "s", "identity": "b"}]}
    assert triaxis.study._difference(before, now) == "its planners s identity is 'a', here 'b'"
    now = {**before, "conditions": [{"name": "none", "branches": 2}]}
    assert triaxis.study._difference(before, now) == "its conditions none branches is 1, here 2"
    now = {**before, "planners": []}
    assert triaxis.study._difference(before, now) == "its planners is ['s'], here []"


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 1}, "n=1 is too small: a paired comparison needs at least 2 items"),
        ({"n": 0}, "n=0 is too small"),
        ({"n": 2.5}, "n=2.5 and seeds=(0,) must be whole numbers"),
        ({"seeds": ("0",)}, "must be whole numbers"),
        ({"seeds": ()}, "seeds=() must be distinct and at least one"),
        ({"seeds": (1, 1)}, "seeds=(1, 1) must be distinct"),
        ({"planners": ("tiny-planner-s", "tiny-planner-s")}, "names one planner twice"),
        ({"conditions": ("hnt",)}, "no condition named 'hnt'; did you mean 'hint'"),
        ({"conditions": ("plan[other]",)}, "no condition named"),
    ],
)
def test_settings_are_checked_when_made(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        Study(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 2401}, "n=2401, but task 'gradeschool' has 2400 items"),
        ({"executor": "tiyn"}, "no executor named 'tiyn' and no such folder; did you mean 'tiny'"),
        ({"planners": ("tiny-planer-s",)}, "no planner named 'tiny-planer-s' and no such folder; did you mean"),
        ({"task": "gms8k"}, "no task named 'gms8k'; did you mean 'gsm8k'"),
        ({"decode": {"stpes": 6}}, "unknown setting 'stpes' of Decode; did you mean 'steps'"),
        ({"decode": {"steps": 5}}, "steps=5 must be a multiple of the 6 blocks"),
        ({"decode": {"temperature": "hot"}}, "temperature='hot' must be a number from 0"),
        ({"decode": {"temperature": float("nan")}}, "temperature=nan must be a number from 0"),
        ({"decode": {"remasking": "lowconfidence"}}, "'lowconfidence' is unknown; did you mean 'low_confidence'"),
        ({"device": "gpu"}, "no device named 'gpu'"),
        ({"dtype": "fp64"}, "dtype 'fp64' is unknown"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        replace(SMALL, conditions=("none",), **{"planners": (), **settings}).run(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_study_survives_its_spec() -> None:
    study = Study(n=7, seeds=(3, 4), conditions=("hint",), decode={"steps": 12}, device="cpu")
    assert Study.from_spec(json.loads(json.dumps(study.spec()))) == study
    with pytest.raises(UserError, match="unknown study setting 'seed'; did you mean 'seeds'"):
        Study.from_spec({**study.spec(), "seed": 3})


# ---------------------------------------------------------------- tasks


def questions(path: Path, rows: Sequence[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return f"jsonl:{path}"


def own_items(n: int = 6, solved: int = 0) -> list[dict[str, object]]:
    items: list[dict[str, object]] = []
    for i in range(n):
        items.append({"question": f"Tom has {i + 2} apples. He buys 3 more. How many now?", "answer": i + 5})
        if i < solved:
            items[-1]["solution"] = f"{i + 2} plus 3 is {i + 5}."
    return items


GOLD_ARMS = ("filler", "filler-before", "gold-plan", "other-plan", "wrong-plan")


@pytest.mark.parametrize("solved", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_own_items_without_solutions_leave_the_gold_arms_out_and_say_so(tmp_path: Path, solved: int) -> None:
    task = questions(tmp_path / "mine.jsonl", own_items(solved=solved))
    summary = Study(n=4, planners=(), task=task, decode={"steps": 6}).run(tmp_path / "out")
    jsonschema.validate(summary, SCHEMA)
    ran = [c["name"] for c in summary["conditions"]]
    shapes = ["hint", "plan-empty", "plan-empty-before", "xml-open"]
    assert ran == ["none", *shapes, "vote", "vote-plan-empty"]
    assert summary["axes"]["trust"] is None
    reason = "the task has items without a solution to make a gold plan of"
    assert summary["warnings"][0] == f"left out {', '.join(GOLD_ARMS)}: {reason}"
    assert (tmp_path / "out" / "report.html").is_file()


def test_own_items_with_solutions_run_everything(tmp_path: Path) -> None:
    task = questions(tmp_path / "mine.jsonl", own_items(solved=6))
    study = Study(n=4, planners=(), task=task, conditions=GOLD_ARMS, decode={"steps": 6})
    summary = study.run(tmp_path / "out")
    assert not [w for w in summary["warnings"] if "left out" in w]
    assert [c["name"] for c in summary["conditions"]] == ["none", *GOLD_ARMS]
    plans = {p.item: p for p in contents(tmp_path / "out")[1].values() if p.source == "gold"}
    assert {p.text for p in plans.values()} <= {f"{i + 2} plus 3 is {i + 5}." for i in range(6)}


def test_answers_of_plans_are_spelled_as_grades_spell_them(tmp_path: Path) -> None:
    """Else a plan that implies 5 would pass for a wrong one where the file says 5.00."""
    items = [{**item, "answer": f"{item['answer']}.00"} for item in own_items(4, solved=4)]
    task = questions(tmp_path / "mine.jsonl", items)
    Study(n=4, planners=(), task=task, conditions=("gold-plan",), decode={"steps": 6}).run(tmp_path / "out")
    details = [json.loads(p.detail) for p in contents(tmp_path / "out")[1].values() if p.source == "gold"]
    assert sorted((d["implied"], d["gold"]) for d in details) == [(str(k), str(k)) for k in range(5, 9)]


def test_a_gold_arm_asked_for_by_name_is_refused_where_it_cannot_run(tmp_path: Path) -> None:
    task = questions(tmp_path / "mine.jsonl", own_items())
    study = Study(n=4, planners=(), task=task, conditions=("hint", "gold-plan"))
    with pytest.raises(UserError) as e:
        study.run(tmp_path / "out")
    assert re.fullmatch(
        f"item mine-000. of task {task!r} has no solution to make a gold plan of; "
        "add one, or leave out the conditions filler, gold-plan",
        str(e.value),
    )
    assert not (tmp_path / "out").exists()


def test_an_unreadable_line_names_file_and_line(tmp_path: Path) -> None:
    task = questions(tmp_path / "mine.jsonl", own_items(2))
    with (tmp_path / "mine.jsonl").open("a") as f:
        f.write('{"question": "2+2?"}\n')
    with pytest.raises(UserError, match=r"mine\.jsonl:3: no field 'answer'"):
        Study(n=2, planners=(), task=task).run(tmp_path / "out")


def test_a_changed_file_is_another_task(tmp_path: Path) -> None:
    task = questions(tmp_path / "mine.jsonl", own_items())
    study = Study(n=2, planners=(), task=task, conditions=("none",), decode={"steps": 6})
    study.run(tmp_path / "out")
    questions(tmp_path / "mine.jsonl", own_items(7))
    with pytest.raises(UserError, match="its task revision is"):
        study.run(tmp_path / "out")
    with pytest.raises(UserError, match="is now revision"):
        triaxis.study.summary.regrade(tmp_path / "out")


def test_the_smallest_study(tmp_path: Path) -> None:
    """Too few items to see anything; the report says so instead of failing."""
    summary = Study(n=2, planners=(), decode={"steps": 6}).run(tmp_path)
    jsonschema.validate(summary, SCHEMA)
    assert any("no effect of any size" in w for w in summary["warnings"])


def test_gsm8k(tmp_path: Path) -> None:
    study = Study(n=4, planners=(), task="gsm8k", conditions=("plan-empty",), decode={"steps": 6})
    summary = study.run(tmp_path)
    jsonschema.validate(summary, SCHEMA)
    assert summary["study"]["task"] == "gsm8k"
    assert [c["n"] for c in summary["conditions"]] == [4, 4]
    assert len(contents(tmp_path)[0]) == 8


def test_items_that_do_not_fit_the_context_are_named_before_anything_is_sampled(tmp_path: Path) -> None:
    """All at once, so that a user with a file of items has to mend it only once."""
    items = own_items(6, solved=6)
    for i in (2, 4):
        items[i]["solution"] = "xqz " * 300 + str(items[i]["solution"])
    task = questions(tmp_path / "mine.jsonl", items)
    study = Study(n=6, planners=(), task=task, conditions=("gold-plan",), decode={"steps": 6})
    with pytest.raises(UserError) as e:
        study.run(tmp_path / "out")
    assert "2 of 6 items do not fit into the 512 tokens of executor 'tiny' with gen_length=48 (mine-000" in str(e.value)
    assert contents(tmp_path / "out")[0] == []


# ---------------------------------------------------------------- killed


def killed_and_whole(folder: Path, study: Study, kills: int, key: int, timeout: float) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("zygote.py")
    command = [sys.executable, str(script), str(folder), json.dumps(study.spec()), str(kills), str(key)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=alone)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_killed(folder: Path, kills: Sequence[dict[str, Any]]) -> None:
    for k in kills:
        assert k["present"] >= k["acknowledged"]
    for a, b in pairwise(kills):  # nothing is lost between kills
        assert a["present"] <= b["present"] or a["folder"] != b["folder"]
    summary = json.loads((folder / "whole" / "summary.json").read_text(encoding="utf-8"))
    for killed in folder.glob("killed*"):
        assert contents(killed) == contents(folder / "whole")
        again = json.loads((killed / "summary.json").read_text(encoding="utf-8"))
        assert without_seconds(again) == without_seconds(summary)
        files = {"rows.sqlite", "summary.json", "protocol.json", "report.html"}
        assert {p.name for p in killed.iterdir()} == {".lock", *files}


@pytest.mark.slow
def test_a_killed_study_ends_with_the_rows_of_one_never_killed(tmp_path: Path) -> None:
    study = replace(SMALL, n=4, conditions=("filler", "vote"))
    kills = killed_and_whole(tmp_path, study, kills=4, key=1, timeout=600)
    assert any(k["killed"] for k in kills)
    check_killed(tmp_path, kills)


@pytest.mark.slow
@pytest.mark.parametrize("key", [2, 3])
def test_a_study_killed_many_times(tmp_path: Path, key: int) -> None:
    study = replace(SMALL, n=8, planners=("tiny-planner-s",), conditions=(), seeds=(key,))
    kills = killed_and_whole(tmp_path, study, kills=20, key=key, timeout=1800)
    assert sum(k["killed"] for k in kills) >= 10
    check_killed(tmp_path, kills)


# ---------------------------------------------------------------- everything


@pytest.mark.slow
def test_every_arm_with_two_planners(tmp_path: Path) -> None:
    study = Study(n=6, planners=("tiny-planner-s", "tiny-planner-l"), decode={"steps": 12})
    summary = study.run(tmp_path)
    jsonschema.validate(summary, SCHEMA)
    assert [p["planner"] for p in summary["axes"]["trust"]["planners"]] == ["gold", *study.planners]
    assert summary["axes"]["trust"]["slope"]["n"] == 6
    rows, plans, _ = contents(tmp_path)
    assert len(rows) == 6 * (7 + 3 + 4 + 2 * 5)
    by_source = {(p.source, p.item): p for p in plans.values()}
    for (source, item), plan in by_source.items():
        if source.startswith("true:"):
            shown = [r for r in rows if r.plan == plan.id]
            assert [r.condition for r in shown] == [f"plan[{source[5:]}]"]
            assert by_source[f"filler:{source[5:]}", item].tokens > 0


@pytest.mark.slow
def test_rows_do_not_depend_on_batches_in_a_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(n=12, planners=(), decode={"steps": 48})
    study.run(tmp_path / "a")
    batches_of(700, monkeypatch)
    study.run(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
