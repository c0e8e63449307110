"""Trackers hear what the log says, offline; each is an extra."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_train_lora import SMALL, dataset

from triaxis.cli import main
from triaxis.errors import UserError
from triaxis.train import trackers
from triaxis.train.fit import fit
from triaxis.train.trackers import TRACKERS, Opened, check_tracker, tracking

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor


class Heard:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self.settings: Mapping[str, Any] = {}
        self.closed = 0

    def open(self, folder: Path, name: str, settings: Mapping[str, Any]) -> Opened:
        self.settings = {**settings, "name": name}
        return Opened(self.lines.append, self.close)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    made = Heard()
    monkeypatch.setattr(trackers, "TRACKERS", {**TRACKERS, "heard": made.open})
    return made


def test_a_tracker_hears_every_line_of_the_log(tiny: Executor, heard: Heard, tmp_path: Path) -> None:
    fit(tiny, SMALL, dataset(tiny), tmp_path / "a", held=dataset(tiny, 2, start=20), tracker="heard")
    logged = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert heard.lines == logged
    assert any("held_loss" in line for line in logged)
    assert any("loss" in line for line in logged)
    assert (heard.settings["name"], heard.settings["rate"]) == ("a", SMALL.rate)
    assert heard.closed == 1
    fit(tiny, SMALL, dataset(tiny), tmp_path / "a", held=dataset(tiny, 2, start=20), tracker="heard")
    assert heard.closed == 1  # a training that is done opens none


def test_it_is_closed_after_an_error(heard: Heard, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracking("heard", tmp_path, {}):
        raise ZeroDivisionError
    assert heard.closed == 1


def test_tensorboard_keeps_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking("tensorboard", tmp_path / "run", {"rate": 1e-3}) as track:
        assert track is not None
        for step in (10, 20):
            track({"step": step, "loss": 1 / step, "held_loss": 2})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    assert [(e.step, pytest.approx(e.value)) for e in read.Scalars("loss")] == [(10, 0.1), (20, 0.05)]
    assert [e.value for e in read.Scalars("held_loss")] == [2.0, 2.0]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["trackio", "wandb"])
def test_the_others_keep_a_run_on_this_machine(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip(kind, reason=f"extra {kind} is not installed")
    with tracking(kind, tmp_path / "run", {"rate": 1e-3}) as track:
        assert track is not None
        track({"step": 10, "loss": 0.1})
    assert list(tmp_path.rglob("*.db" if kind == "trackio" else "*.wandb"))
    assert capsys.readouterr().out == ""


def test_what_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'triaxis\[wandb\]'"):
        check_tracker("wandb")
    with pytest.raises(UserError, match="did you mean 'trackio'"):
        check_tracker("trackyo")
    with pytest.raises(SystemExit) as stop:
        main(["train", "prefix", "--track", "wandb"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
