"""What a reader is, and where the files are that seeds are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2]
HOME = TESTS.parent / "src" / "triaxis"
TINY = HOME / "models" / "tiny"
Seeds = Callable[[], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Reader:
    """run: takes the bytes and a scratch folder of its own. shape: of mutate.SHAPES. weight: share of executions."""

    run: Callable[[bytes, Path], object]
    shape: str
    seeds: Seeds
    weight: float = 1.0
    needs: str = ""  # a package of an extra, without which there is nothing to read with

    @property
    def ready(self) -> bool:
        return not self.needs or find_spec(self.needs) is not None


def put(place: Path, name: str, data: bytes) -> Path:
    path = place / name
    path.write_bytes(data)
    return path


def first_lines(path: Path, count: int) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


def files(*paths: str) -> Seeds:
    return lambda: [(HOME / p).read_bytes() for p in paths]


def these(*seeds: bytes) -> Seeds:
    return lambda: seeds


def named(run: Callable[[bytes, Path, str], None], name: str) -> Callable[[bytes, Path], None]:
    """The reader of a file that is told by its name."""
    return lambda data, place: run(data, place, name)


def suppress_user() -> Any:
    from triaxis.errors import UserError

    return suppress(UserError)
