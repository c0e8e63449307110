"""Watches the whole test run for what this package must never do: unpickle, or open a pickle, on its own way.

An audit hook, which the interpreter calls from C as well and which no code under test can take out: `pickle.find_class`
is raised for every global that an unpickler is about to look up, in any thread, and `open` for every file. A hook sees
the stack: it refuses where code of ours stands below. Between processes Python's own transport pickles what we send
ourselves; torch's compiler keeps its cache so. Those are let through by name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import triaxis

HOME = str(Path(triaxis.__file__).parent)
TRANSPORT = (
    "multiprocessing", "concurrent", "ray", "cloudpickle", "execnet", "xdist", "copyreg", "numpy/random", "triton",
    "torch/_inductor", "torch/_dynamo", "torch/_functorch", "torch/multiprocessing",
)  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill")
found: list[str] = []  # what was refused, in this process


class ForeignPickle(BaseException):
    """Not an Exception: no handler of the code under test may swallow it."""


def ours(frame: FrameType | None) -> str:
    """The first code of ours on the way up from a frame, "" where there is none or a transport stands before it."""
    while frame is not None:
        file = frame.f_code.co_filename
        if any(f"/{name}/" in file or file.endswith(f"/{name}.py") for name in TRANSPORT):
            return ""
        if file.startswith(HOME):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        told = f"unpickled {arguments[0]}.{arguments[1]}"
    elif event == "open" and isinstance(arguments[0], str | bytes) and str(arguments[1])[:1] == "r":
        name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode("utf-8", "replace")
        if not name.endswith(PICKLES):
            return
        told = f"opened {name}"
    else:
        return
    if place := ours(sys._getframe(1)):
        found.append(f"{place} {told}")
        raise ForeignPickle(f"{place} {told}")


def install() -> None:
    """Once a process; hooks cannot be taken out again."""
    if not getattr(sys, "_triaxis_guard", False):
        sys._triaxis_guard = True  # type: ignore[attr-defined]
        sys.addaudithook(watch)
