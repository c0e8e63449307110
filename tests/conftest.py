"""What several test files need: the shipped models, loaded once a session, and folders to spoil."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import guard
import pytest
from places import PARITY

if TYPE_CHECKING:
    from torch import Tensor

    from triaxis.models.writer import Planner
    from triaxis.sampling.executor import Executor


guard.install()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a script's background; tests send Ctrl-C all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def one_thread() -> None:
    """These models are so small that a second thread waits longer than it works, the more so on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(one_thread: None) -> Executor:
    """The shipped default executor."""
    import triaxis

    return triaxis.load_executor("tiny")


@pytest.fixture(scope="session")
def parity(one_thread: None) -> Executor:
    """The small untrained LLaDA whose logits and completions were recorded from the reference code."""
    import triaxis

    return triaxis.load_executor(str(PARITY))


@pytest.fixture(scope="session")
def planners(one_thread: None) -> Mapping[str, Planner]:
    """The three shipped planners by size: s, m, l."""
    import triaxis

    return {size: triaxis.load_planner(f"tiny-planner-{size}") for size in "sml"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the parity checkpoint, to spoil."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(PARITY, copy, ignore=shutil.ignore_patterns("recorded.json"))
    return copy


@pytest.fixture
def set_config() -> Callable[..., None]:
    """set_config(folder, name=value, ...): change fields of its config.json; `...` takes a field out."""

    def change(folder: Path, **fields: object) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

    return change


@pytest.fixture
def set_tensors() -> Callable[..., None]:
    """set_tensors(folder, {name: tensor}): change tensors of its model.safetensors; None takes one out."""

    def change(folder: Path, tensors: Mapping[str, Tensor | None]) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        everything = load_file(path) | dict(tensors)
        save_file({k: v for k, v in everything.items() if v is not None}, path, metadata={"format": "pt"})

    return change
