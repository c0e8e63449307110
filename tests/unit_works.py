"""What units of tests/test_repairs_recipe.py do, in a module that processes import quickly."""

from __future__ import annotations

import os
import time
from pathlib import Path


def write(out: Path, device: str | None, name: str) -> None:
    (out / name).write_text(str(device))


def fail(out: Path, device: str | None) -> None:
    raise ValueError("as it should")


def die(out: Path, device: str | None) -> None:
    os._exit(3)


def sleep(out: Path, device: str | None) -> None:
    time.sleep(600)


def collect(out: Path, device: str | None, became: dict[str, str]) -> None:
    (out / "told").write_text(repr(dict(sorted(became.items()))))


WORKS = {f.__name__: f for f in (write, fail, die, sleep, collect)}
