"""Where a training's numbers go beside its own log.jsonl: trackio, wandb or tensorboard, each an extra, all offline.

A tracker is opened for one training, told every line of its log, and closed. Nothing is sent anywhere: trackio keeps a
file of its own on this machine, wandb writes a folder for `wandb sync`, tensorboard writes event files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from triaxis.errors import UserError, lookup

Track = Callable[[Mapping[str, Any]], None]  # takes a line of the log: its "step", and numbers by name
PROJECT = "triaxis"


class Opened(NamedTuple):
    """A tracker at work: what takes lines, and what ends it."""

    line: Track
    close: Callable[[], None]


def _trackio(folder: Path, name: str, settings: Mapping[str, Any]) -> Opened:
    trackio = _import("trackio", "trackio")
    trackio.init(project=PROJECT, name=name, config=dict(settings), resume="allow", embed=False)
    return Opened(lambda line: trackio.log(_numbers(line), step=line["step"]), trackio.finish)


def _wandb(folder: Path, name: str, settings: Mapping[str, Any]) -> Opened:
    wandb = _import("wandb", "wandb")
    run = wandb.init(project=PROJECT, name=name, config=dict(settings), dir=str(folder), mode="offline")
    return Opened(lambda line: run.log(_numbers(line), step=line["step"]), run.finish)


def _tensorboard(folder: Path, name: str, settings: Mapping[str, Any]) -> Opened:
    _import("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def line(values: Mapping[str, Any]) -> None:
        for key, value in _numbers(values).items():
            writer.add_scalar(key, value, values["step"])

    return Opened(line, writer.close)


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Opened]] = {
    "trackio": _trackio, "wandb": _wandb, "tensorboard": _tensorboard,
}  # fmt: skip


@contextmanager
def tracking(kind: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[Track | None]:
    """The tracker `kind` for the training in `folder`, which also names the run; None for "".

    UserError for an unknown one, or one that is not installed; then nothing was trained.
    """
    if not kind:
        yield None
        return
    make = lookup("tracker", TRACKERS, kind)
    folder.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(sys.stderr):  # stdout is the command's own
        opened = make(folder, folder.name, settings)
    try:
        yield opened.line
    finally:
        with redirect_stdout(sys.stderr):
            opened.close()


def check_tracker(kind: str) -> None:
    """UserError for an unknown tracker or one that is not installed, before anything else is done."""
    if kind:
        lookup("tracker", TRACKERS, kind)
        _import(kind, kind)


def _import(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as e:
        raise UserError(f"--track {extra} needs the package {module} ({e}); pip install 'triaxis[{extra}]'") from None


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in line.items() if k != "step"}
