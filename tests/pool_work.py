"""Work for the tests of triaxis.compute; imported by spawned workers, so it imports next to nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from triaxis.compute import Place
from triaxis.errors import UserError


def state(place: Place) -> dict[str, Any]:
    return {"place": place, "pid": os.getpid()}


def no_state(place: Place) -> None:
    raise UserError("no such model; give another")


def too_large(place: Place) -> None:
    raise MemoryError("16 GB")


def dies_at_start(place: Place) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def square(state: dict[str, Any], common: int, items: tuple[int, ...]) -> list[int]:
    return [common * i * i for i in items]


def who(state: dict[str, Any], common: float, items: tuple[int, ...]) -> list[tuple[int, int, str]]:
    time.sleep(common)
    return [(i, state["pid"], state["place"].device) for i in items]


def first_time(folder: Path, name: str) -> bool:
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def killed_once(state: object, common: Path, items: tuple[int, ...]) -> list[int]:
    """Item 7 kills its worker the first time."""
    if 7 in items and first_time(common, "killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return list(items)


def poison(state: object, common: object, items: tuple[int, ...]) -> list[int]:
    """Item 7 always kills its worker."""
    if 7 in items:
        os.kill(os.getpid(), signal.SIGKILL)
    return list(items)


def hangs_once(state: object, common: Path, items: tuple[int, ...]) -> list[int]:
    if first_time(common, "hung"):
        time.sleep(600)
    return list(items)


def small_memory(state: object, common: int, items: tuple[int, ...]) -> list[int]:
    """Has room for `common` items."""
    if len(items) > common:
        raise MemoryError(f"{len(items)} items")
    return list(items)


def broken(state: object, common: object, items: tuple[int, ...]) -> list[int]:
    raise KeyError("our own mistake")


def too_few(state: object, common: object, items: tuple[int, ...]) -> list[int]:
    return [0]
