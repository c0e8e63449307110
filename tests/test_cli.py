"""The commands of a study as a user types them: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import triaxis.study
from triaxis.cli import app, evidence, main  # noqa: F401 - evidence registers its commands
from triaxis.cli.options import Bar
from triaxis.cli.study import default_folder
from triaxis.errors import UndefinedEstimate
from triaxis.sampling import executor
from triaxis.store import Store
from triaxis.study import Study

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]
SMALL = ("--n", "6", "--planners", "", "--conditions", "plan-empty", "--set", "steps=6")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """triaxis as a function: (exit code, stdout, stderr)."""

    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            main(list(argv))
        seen = capsys.readouterr()
        return int(e.value.code or 0), seen.out, seen.err

    return call


@pytest.fixture(scope="module")
def done(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "done"
    with pytest.raises(SystemExit) as e:
        main(["diagnose", *SMALL, "--out", str(folder)])
    assert not e.value.code
    return folder


def refused(found: tuple[int, str, str], *said: str) -> None:
    """Exit code 2, nothing on stdout, exactly one line on stderr with these words."""
    code, out, err = found
    assert (code, out) == (2, "")
    assert err.startswith("triaxis: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for words in said:
        assert words in err


# ---------------------------------------------------------------- the surface


def flags(command: str) -> dict[str, list[str]]:
    known = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {p.name: [*p.opts, *p.secondary_opts] for p in known.params}


def test_the_commands_and_flags_are_frozen() -> None:
    """Users script against them: removing or renaming one is a breaking change, for CHANGELOG.md."""
    assert {"diagnose", "grade", "report", "compare", "audit", "power"} <= set(
        typer.main.get_command(app).commands  # type: ignore[attr-defined]
    )
    assert flags("diagnose") == {
        "executor": ["--executor"],
        "planners": ["--planners"],
        "task": ["--task"],
        "n": ["--n"],
        "seed": ["--seed"],
        "preset": ["--preset"],
        "conditions": ["--conditions"],
        "setting": ["--set"],
        "plan_setting": ["--plan-set"],
        "adapter": ["--adapter"],
        "alone": ["--alone"],
        "out": ["--out"],
        "resume": ["--resume"],
        "device": ["--device"],
        "dtype": ["--dtype"],
        "quantize": ["--quantize"],
        "prereg": ["--prereg"],
        "stop_when": ["--stop-when"],
        "rows_only": ["--rows-only"],
        "speed": ["--speed"],
        "price_per_hour": ["--price-per-hour"],
        "dry_run": ["--dry-run"],
        "compute_": ["--compute"],
        "workers": ["--workers"],
        "devices": ["--devices"],
        "address": ["--address"],
        "planner_workers": ["--planner-workers"],
        "json_": ["--json"],
    }
    assert flags("grade") == {"folder": ["folder"], "second": ["--second", "--no-second"], "json_": ["--json"]}
    assert flags("report") == {
        "folder": ["folder"],
        "markdown": ["--markdown"],
        "latex": ["--latex"],
        "csv": ["--csv"],
        "figures": ["--figures"],
        "json_": ["--json"],
    }


def test_help(run: Run) -> None:
    for argv in ([], ["--help"], ["diagnose", "--help"], ["grade", "--help"], ["report", "--help"]):
        code, out, err = run(*argv)
        assert code == 0
        assert "Usage: triaxis" in out
        assert err == ""


# ---------------------------------------------------------------- what it prints


def test_diagnose_prints_the_three_axes_and_the_place_of_the_report(run: Run, done: Path) -> None:
    code, out, err = run("diagnose", *SMALL, "--out", str(done))  # a second time: at once, the same tables
    assert (code, err) == (0, "")
    for words in ("Axis 1", "Axis 2", "Axis 3", "plan-empty", "not measured"):
        assert words in out
    assert out.endswith(f"report: {done / 'report.html'}\n")


def test_json_is_one_object_and_nothing_else(run: Run, done: Path) -> None:
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    for argv in (["diagnose", *SMALL, "--out", str(done), "--json"], ["grade", str(done), "--json"]):
        code, out, err = run(*argv)
        assert (code, err) == (0, "")
        assert json.loads(out) == summary
        assert out.count("\n") == 1
    code, out, err = run("report", str(done), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"report": str(done / "report.html")}


def test_report_and_grade_in_words(run: Run, done: Path) -> None:
    (done / "report.html").unlink()
    assert run("report", str(done)) == (0, f"report: {done / 'report.html'}\n", "")
    assert (done / "report.html").is_file()
    code, out, err = run("grade", str(done), "--no-second")
    assert (code, err) == (0, "")
    assert "Axis 1" in out


def test_progress_is_shown_with_the_time_left_and_only_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar() as bar:
        bar("sampling", 3, 10)
        assert bar.progress.disable
        task = bar.progress.tasks[0]
        assert (task.description, task.completed, task.total) == ("sampling", 3, 10)
        bar("sampling", 4, 10)
        bar("grading", 0, 2)
        assert bar.progress.tasks[0].completed == 10  # a stage ends when the next begins
    assert capsys.readouterr() == ("", "")


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Bar() as bar:
        bar("sampling", 3, 10)
    out, err = capsys.readouterr()
    assert out == ""
    assert "sampling" in err
    assert "left" in err


# ---------------------------------------------------------------- where it writes


def test_the_default_folder_is_one_a_study(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ("diagnose", "--n", "4", "--planners", "", "--conditions", "plan-empty,hint", "--set", "steps=6")
    _, first, _ = run(*argv)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-gradeschool-n4-")
    assert first.endswith(f"report: {Path('runs') / folder.name / 'report.html'}\n")
    monkeypatch.delattr(triaxis.study, "prepare")  # a second time, nothing is loaded
    assert run(*argv) == (0, first, "")


def test_default_folders_tell_studies_apart() -> None:
    base = Study(planners=(), conditions=("hint", "plan-empty"))
    others = [
        Study(planners=(), conditions=("hint",)),
        Study(conditions=("hint", "plan-empty")),
        Study(planners=(), conditions=base.conditions, seeds=(1,)),
        Study(planners=(), conditions=base.conditions, n=99),
        Study(planners=(), conditions=base.conditions, decode={"steps": 12}),
        Study(planners=(), conditions=base.conditions, task="jsonl:../my items/a?b.jsonl"),
        Study(planners=(), conditions=base.conditions, executor="/data/some model"),
    ]
    names = {str(default_folder(s)) for s in [base, *others]}
    assert len(names) == len(others) + 1
    assert all(Path(n).parent == Path("runs") for n in names)
    assert default_folder(Study(planners=(), conditions=("plan-empty", "hint", "hint", "none"))) == default_folder(base)
    everything = Study(planners=()).table()
    assert default_folder(Study(planners=(), conditions=tuple(c.name for c in everything))) == default_folder(
        Study(planners=())
    )


# ---------------------------------------------------------------- resuming


def test_resume_goes_on_without_repeating_the_settings(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("diagnose", *SMALL, "--out", str(tmp_path))
    complete = executor.Executor.complete

    def interrupted(self: Any, prompts: Any, keys: Any, decode: Any, done: Any, **more: Any) -> None:
        def once(places: Any, completions: Any) -> None:
            done(places[:5], completions[:5])
            signal.raise_signal(signal.SIGINT)  # Ctrl-C

        complete(self, prompts, keys, decode, once, **more)

    with monkeypatch.context() as patch:
        patch.setattr(executor.Executor, "complete", interrupted)
        code, out, err = run(*argv)
    assert (code, out) == (130, "")
    assert err == "triaxis: interrupted; what was written is safe: run the same command again to go on\n"
    with Store(tmp_path / "rows.sqlite", write=False) as store:
        before = store.rows()
    assert 0 < len(before) <= 5  # as many as finished together

    refused(run("grade", str(tmp_path)), "has all its rows for", "run the study to its end first")
    code, out, err = run("diagnose", "--resume", "--out", str(tmp_path), "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert [c["name"] for c in summary["conditions"]] == ["none", "plan-empty"]
    assert summary["study"]["n"] == 6
    with Store(tmp_path / "rows.sqlite", write=False) as store:
        rows = {r.id: r for r in store.rows()}
    assert len(rows) == 12
    assert all(rows[r.id] == r for r in before)


def test_resume_takes_repeated_settings_and_refuses_others(run: Run, done: Path, tmp_path: Path) -> None:
    resume = ("diagnose", "--resume", "--out", str(done))
    for same in ([], ["--n", "6"], SMALL, ["--conditions", "none,plan-empty"], ["--task", "gradeschool"]):
        code, _, err = run(*resume, *same)
        assert (code, err) == (0, "")
    refused(run(*resume, "--n", "9"), f"--n: the study in {done} has n 6, not 9; leave out --n or --resume")
    refused(run(*resume, "--n", "6", "--seed", "1"), "has seeds (0,), not (1,)")
    refused(run(*resume, "--conditions", "hint"), "has conditions ('plan-empty',), not ('hint',)")
    refused(run(*resume, "--set", "steps=12"), "has decode {'steps': 6}, not {'steps': 12}")
    refused(run("diagnose", "--resume"), "--resume needs --out")


def test_resume_of_nothing(run: Run, tmp_path: Path) -> None:
    """A run killed before it wrote anything is started by the same command; without settings nothing says what."""
    out = tmp_path / "new"
    refused(run("diagnose", "--resume", "--out", str(out)), f"{out}", "there is no such file")
    code, _, err = run("diagnose", *SMALL, "--n", "2", "--resume", "--out", str(out))
    assert (code, err) == (0, "")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["diagnos"], ["No such command 'diagnos'", "Did you mean 'diagnose'"]),
        (["diagnose", "--exectuor", "x"], ["No such option", "--exectuor", "--executor"]),
        (["diagnose", "extra"], ["unexpected extra argument", "extra"]),
        (["diagnose", "--n", "many"], ["--n", "valid integer"]),
        (["diagnose", "--n", "1"], ["n=1 is too small"]),
        (["diagnose", "--n", "-5"], ["n=-5 is too small"]),
        (["diagnose", "--n", "2401"], ["n=2401", "2400 items"]),
        (["diagnose", "--executor", "tiyn"], ["no executor named 'tiyn'", "did you mean 'tiny'"]),
        (["diagnose", "--executor", ""], ["no executor named ''"]),
        (["diagnose", "--planners", "tiny-planner-x"], ["no planner named", "did you mean 'tiny-planner-"]),
        (["diagnose", "--planners", "tiny-planner-s,tiny-planner-s"], ["names one planner twice"]),
        (["diagnose", "--task", "gms8k"], ["no task named 'gms8k'", "did you mean 'gsm8k'"]),
        (["diagnose", "--task", "mine.jsonl"], ["use jsonl:mine.jsonl"]),
        (["diagnose", "--task", "jsonl:"], ["needs a file; use jsonl:FILE"]),
        (["diagnose", "--task", "jsonl:no/such.jsonl"], ["no file no/such.jsonl"]),
        (["diagnose", "--conditions", "none,hnt"], ["no condition named 'hnt'", "did you mean 'hint'"]),
        (["diagnose", "--seed", "one"], ["seed 'one' is not a whole number"]),
        (["diagnose", "--seed", "1,,2"], ["seed '1,,2'"]),
        (["train", "prefix", "--seeds", "x"], ["triaxis: seed 'x' is not a whole number"]),
        (["diagnose", "--seed", "1,1"], ["must be distinct"]),
        (["diagnose", "--set", "steps"], ["--set 'steps' is not of the form name=value"]),
        (["diagnose", "--planners", "", "--set", "stpes=6"], ["unknown setting 'stpes'", "did you mean 'steps'"]),
        (["diagnose", "--planners", "", "--set", "steps=5"], ["steps=5 must be a multiple of the 6 blocks", "try"]),
        (["diagnose", "--planners", "", "--set", "steps=12.5"], ["steps=12.5 must be a whole number"]),
        (["diagnose", "--planners", "", "--set", "temperature=inf"], ["temperature=inf"]),
        (["diagnose", "--planners", "", "--set", "remasking=rand"], ["'rand'", "random"]),
        (["diagnose", "--planners", "", "--device", "gpu"], ["no device named 'gpu'"]),
        (["diagnose", "--out"], ["--out"]),
        (["grade"], ["folder"]),
        (["grade", "no/such"], ["no/such"]),
        (["report"], ["folder"]),
        (["report", "no/such"], ["no/such"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(
    run: Run, argv: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run(*argv), *said)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_line_of_a_file_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "2+2?", "answer": 4}\n\n{"question": "2+3?", "answer": \n')
    refused(run("diagnose", "--task", f"jsonl:{path}", "--n", "2"), f"{path}:3: not JSON")


def test_another_study_in_the_folder(run: Run, done: Path) -> None:
    argv = ("diagnose", *SMALL, "--seed", "3", "--out", str(done))
    refused(run(*argv), f"{done} holds another study (its seeds is [0], here [3])", "choose another --out")


def test_a_folder_that_is_written_to(run: Run, done: Path) -> None:
    with Store(done / "rows.sqlite", write=True):
        refused(run("grade", str(done)), "another run is writing there")


@pytest.mark.parametrize("kind", ["garbage", "folder", "file"])
def test_a_folder_of_something_else(run: Run, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "rows.sqlite").mkdir() if kind == "folder" else (out / "rows.sqlite").write_text("mine " * 999)
    refused(run("diagnose", *SMALL, "--out", str(out)), str(out), "choose another --out")
    if kind != "folder":
        refused(run("grade", str(out)), str(out))


def test_what_cannot_be_estimated_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def undefined(*_: object, **__: object) -> None:
        raise UndefinedEstimate("there is\nnothing to estimate")

    monkeypatch.setattr(triaxis.study, "finished", undefined)
    refused(run("diagnose", *SMALL), "there is nothing to estimate")


def test_our_own_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(triaxis.study, "finished", bug)
    with pytest.raises(AssertionError, match="a bug"):
        main(["diagnose", *SMALL])


# ---------------------------------------------------------------- the real process


def test_the_process_answers_a_typing_mistake() -> None:
    script = Path(sys.executable).with_name("triaxis")
    done = subprocess.run([script, "diagnose", "--task", "gms8k"], capture_output=True, text=True, timeout=60)
    refused((done.returncode, done.stdout, done.stderr), "did you mean 'gsm8k'")


@pytest.mark.slow
def test_diagnose_killed_at_random_moments_from_start_to_end(tmp_path: Path) -> None:
    """The command itself, with a planner, killed while it imports, loads, plans, samples, grades and reports."""
    script = Path(sys.executable).with_name("triaxis")
    settings = ["--n", "6", "--planners", "tiny-planner-s", "--set", "steps=12", "--json"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: str) -> subprocess.Popen[str]:
        command = [str(script), "diagnose", *settings, "--out", str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=alone)

    began = time.monotonic()
    whole = start("whole")
    expected, err = whole.communicate(timeout=600)
    assert (whole.returncode, err) == (0, "")
    lasts, rng = time.monotonic() - began, random.Random(4)
    for _ in range(8):
        process = start("killed")
        time.sleep(rng.uniform(0.2, 1) * lasts)
        process.kill()
        process.communicate()
    last = start("killed")
    out, err = last.communicate(timeout=600)
    assert (last.returncode, err) == (0, "")
    a, b = json.loads(expected), json.loads(out)
    a["cost"]["seconds"] = b["cost"]["seconds"] = 0
    assert a == b
    for name in ("rows", "plans", "grades"):
        x, y = (Store(tmp_path / folder / "rows.sqlite", write=False) for folder in ("whole", "killed"))
        with x, y:
            assert getattr(x, name)() == getattr(y, name)()


@pytest.mark.slow
def test_a_full_disk_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """One clear line, and once there is room the run goes on with what it has."""
    import resource

    script = Path(sys.executable).with_name("triaxis")
    command = [str(script), "diagnose", *SMALL, "--n", "120", "--out", str(tmp_path / "out")]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))  # noqa: E731
    full = subprocess.run(command, capture_output=True, text=True, timeout=600, preexec_fn=limit)
    refused((full.returncode, full.stdout, full.stderr), "could not write", "free space, then run again")
    with Store(tmp_path / "out" / "rows.sqlite", write=False) as store:
        before = store.rows()
    assert before
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0
    with Store(tmp_path / "out" / "rows.sqlite", write=False) as store:
        after = {r.id: r for r in store.rows()}
    assert all(after[r.id] == r for r in before)
