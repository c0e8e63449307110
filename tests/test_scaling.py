"""triaxis simulate: against schedules worked out by hand, against bounds that hold for all, and as a user types it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_study import write_study

from triaxis.cli import main
from triaxis.errors import UserError
from triaxis.estimate.scaling import Workload, predict, scaled, shape_of, table
from triaxis.store import Store

EVEN = Workload(works=800, seconds=800.0, chunk=100, noise=0.0, appends=1e12)


def test_even_chunks_are_rounds() -> None:
    """Eight chunks of 100 s: one worker takes 800 s, three take three rounds, eight one, and a ninth has nothing."""
    assert [round(predict(EVEN, w).seconds, 3) for w in (1, 2, 3, 4, 8, 9)] == [800, 400, 300, 200, 100, 100]
    run = predict(EVEN, 3)
    assert run.efficiency == pytest.approx(800 / 900)
    assert run.lost["tail"] == pytest.approx(100 / 900)
    assert predict(EVEN, 9).efficiency == pytest.approx(800 / 900)


def test_loading_counts_once_a_worker() -> None:
    run = predict(replace(EVEN, loading=50.0), 4)
    assert run.seconds == pytest.approx(250)
    assert run.lost["loading"] == pytest.approx(50 / 250)


def test_a_long_chunk_at_the_end_is_the_tail() -> None:
    """Chunks of 1, 1, 1, 5 units on two workers, by hand: 1 1 | 1 5 -> the second worker ends at 6."""
    load = Workload(works=4, seconds=8.0, chunk=1, shape=(1, 1, 1, 5), noise=0.0, appends=1e12)
    run = predict(load, 2)
    assert run.seconds == pytest.approx(6)
    assert run.lost["tail"] == pytest.approx(4 / 12)


def test_one_driver_is_a_ceiling() -> None:
    """800 works at 10 a second: nobody is quicker than 80 s, and with eight chunks of 10 s each the writes queue."""
    load = replace(EVEN, seconds=80.0, appends=10.0)
    assert predict(load, 8).seconds == pytest.approx(10 + 8 * 10)  # all come back at once, then eight writes
    assert predict(replace(EVEN, works=80_000, seconds=80.0, appends=1000.0), 100).seconds >= 80


def test_plans_hold_back_the_rows_that_show_them() -> None:
    """Half of eight chunks wait for plans written over 800 s by one planner: the last may start at 800."""
    load = replace(EVEN, planning=800.0, planned=0.5)
    assert predict(load, 8).seconds == pytest.approx(900)
    assert predict(replace(load, planners=8), 8).seconds == pytest.approx(200)
    assert predict(load, 8).lost["planning"] > 0.2
    assert predict(replace(load, planning=100.0), 1).seconds == pytest.approx(800)  # hidden behind decoding


def test_list_scheduling_keeps_its_bounds() -> None:
    load = Workload(works=5000, seconds=1000.0, chunk=16, shape=(1, 3, 0.5, 2, 1.1), noise=0.3, appends=1e12)
    longest = 1000.0 * 3 / (7.6 * 5000 / 16 / 5) * 3
    for w in (1, 2, 7, 40):
        run = predict(load, w)
        assert 0.9 * 1000 / w <= run.low <= run.seconds <= run.high <= 1.1 * 1000 / w + longest
        assert 0 < run.efficiency <= 1
        assert 1 - sum(run.lost.values()) == pytest.approx(run.efficiency)


def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not() -> None:
    load = replace(EVEN, noise=0.2)
    assert predict(load, 3, seed=1) == predict(load, 3, seed=1)
    assert predict(load, 3, seed=1) != predict(load, 3, seed=2)


def test_where_efficiency_is_lost_is_found() -> None:
    found = table(replace(EVEN, loading=10.0), (1, 8, 100))
    assert found.holds == {0.9: 2, 0.5: 14}  # at three the last round is not full; 800 / (14 * 110)
    for level, most in found.holds.items():
        assert most is not None
        assert predict(replace(EVEN, loading=10.0), most).efficiency >= level
        assert predict(replace(EVEN, loading=10.0), most + 1).efficiency < level
    assert table(replace(EVEN, loading=8000.0), (1, 8)).holds == {0.9: None, 0.5: None}


def test_costs_of_chunks_come_from_tokens() -> None:
    import numpy as np

    assert shape_of(np.array([1.0, 1, 3, 3, 9]), 2) == [0.5, 1.5]  # a rest is no chunk
    assert shape_of(np.zeros(4), 2) == [1.0]
    assert scaled(EVEN, 2.0).works == 1600


@pytest.mark.parametrize("wrong", [{"works": 0}, {"seconds": 0.0}, {"chunk": 0}, {"planned": 2.0}, {"appends": 0.0}])
def test_a_workload_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        replace(EVEN, **wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------- as typed


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        main(argv)
    out, err = capsys.readouterr()
    return int(e.value.code or 0), out, err


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_study(tmp_path, n=30)
    protocol = json.loads((tmp_path / "protocol.json").read_text())
    protocol |= {"spec": {"task": "gradeschool", "n": 30, "seeds": [0]}, "left_out": {}}
    protocol["decode"]["remasking"] = "low_confidence"
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        store.set("protocol", json.dumps(protocol))
        store.set("seconds", "120.0")
    return tmp_path


def test_from_a_finished_study(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["simulate", str(study), "--gpus", "1,2,8", "--noise", "0", "--price-per-hour", "3", "--json"]
    code, out, _ = run(asked, capsys)
    found = json.loads(out)
    assert code == 0
    assert found["workload"]["seconds"] == 120
    assert 0 < found["workload"]["planned"] < 1
    assert [r["workers"] for r in found["runs"]] == [1, 2, 8]
    one = found["runs"][0]
    assert one["seconds"] == pytest.approx(120, rel=0.01)
    assert one["dollars"] == round(one["seconds"] / 3600 * 3, 2)
    code, out, _ = run([*asked, "--times", "100", "--faster", "10"], capsys)
    assert json.loads(out)["runs"][0]["seconds"] == pytest.approx(1200, rel=0.01)
    code, out, _ = run(asked[:-1], capsys)
    assert "GPU hours" in out
    assert "efficiency of 90%: up to" in out


def test_from_numbers_and_from_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["simulate", "--works", "1000", "--work-seconds", "0.5", "--gpus", "1", "--json"], capsys)
    assert code == 0
    assert json.loads(out)["runs"][0]["seconds"] == pytest.approx(500, rel=0.05)
    made = {"rows": 400, "seconds": 105.0, "calibration": {"loading": 5.0, "seconds": 12.0}}
    (tmp_path / "dry.json").write_text(json.dumps(made))
    code, out, _ = run(["simulate", str(tmp_path / "dry.json"), "--gpus", "1", "--noise", "0", "--json"], capsys)
    assert json.loads(out)["workload"]["loading"] == 5
    assert json.loads(out)["runs"][0]["seconds"] == pytest.approx(105, rel=0.01)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--works and --work-seconds"),
        (["--works", "5", "--work-seconds", "1", "--gpus", "0"], "from 1 to"),
        (["--works", "5", "--work-seconds", "1", "--gpus", "x"], "from 1 to"),
        (["--works", "5", "--work-seconds", "1", "--faster", "0"], "must be above 0"),
        (["nowhere.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(["simulate", *argv], capsys)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"rows": 1, "seconds": 1, "calibration": {"loading": 5, "seconds": 1}}']
)
def test_a_file_that_is_no_dry_run_is_said(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dry.json").write_text(text)
    code, _, err = run(["simulate", str(tmp_path / "dry.json")], capsys)
    assert code == 2
    assert err.count("\n") == 1
