"""What every fault needs: runs in processes of their own that say what they acknowledged, and the look afterwards.

The parent imports everything and computes nothing, so that a fork of it is a run of triaxis without its start-up. A run
writes the id of every row to a file once `Store.append` has returned: those are the rows that must never be lost.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import math_verify  # noqa: F401 - imported once, before the forks
import torch

from triaxis.compute import Compute
from triaxis.errors import NO_MEMORY, UserError, out_of_memory
from triaxis.estimate import axes  # noqa: F401
from triaxis.models.planner import load_planner
from triaxis.plans import bank, sources  # noqa: F401
from triaxis.sampling import executor
from triaxis.store import PlanRow, Row, Store
from triaxis.study import Study
from triaxis.study.integrity import mend, verify

# without a page at its end: that is made of the summary, which is compared
STUDY = Study(n=5, planners=("tiny-planner-s",), conditions=("plan[tiny-planner-s]", "vote"), decode={"steps": 6})
LONGEST = 600  # seconds of a run, after which it counts as hung
_LOAD = (executor.load_executor, load_planner)


def nothing() -> None:
    pass


class Hung(AssertionError):
    """A run did not end."""


@dataclass
class Child:
    """A run in a process of its own. said: "done", "refused: ...", "error: ..." or "" where it was killed."""

    pid: int
    log: Path
    status: int | None = None

    @property
    def acknowledged(self) -> set[str]:
        return {id for kind, text in self._lines() if kind == "rows" for id in text}

    @property
    def said(self) -> str:
        return next((str(text) for kind, text in self._lines() if kind == "said"), "")

    def _lines(self) -> list[tuple[str, Any]]:
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines(keepends=True) if line[-1] == "\n"]

    def alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def wait(self) -> Child:
        limit = time.monotonic() + LONGEST
        while self.alive():
            if time.monotonic() > limit:
                self.kill()
                raise Hung(f"a run took more than {LONGEST} s")
            time.sleep(0.005)
        return self

    def kill(self, number: int = signal.SIGKILL) -> Child:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return self if number != signal.SIGKILL else self.wait()

    def rows_at_least(self, count: int) -> Child:
        """Wait until it has acknowledged so many rows, or has ended."""
        while self.alive() and len(self.acknowledged) < count:
            time.sleep(0.002)
        return self

    def workers(self) -> list[int]:
        """Worker processes below it that are still there."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found


def start(study: Study, out: Path, *, before: Callable[[], object] = nothing, compute: Compute | None = None) -> Child:
    """Run the study in `out` in a fork. before: called in it first, to prepare a fault."""
    _weights(study)
    handle, name = tempfile.mkstemp(prefix="run-", suffix=".log")
    pid = os.fork()
    if pid:
        os.close(handle)
        return Child(pid, Path(name))
    torch.set_num_threads(1)  # a fork has no copy of its parent's pool of threads, and would wait for it
    try:
        _tell(handle, "said", _run(study, out, handle, before, compute))
    finally:
        os._exit(0)


@cache
def _loaded(load: Callable[..., Any], name: str) -> Any:
    return load(name)


def _weights(study: Study) -> None:
    """Read the shipped weights before the fork, once: a run then begins where it begins to work. Computes nothing."""
    _loaded(_LOAD[0], study.executor)
    for name in study.planners:
        if ":" not in name:
            _loaded(_LOAD[1], name)


def _tell(handle: int, kind: str, what: object) -> None:
    os.write(handle, (json.dumps([kind, what]) + "\n").encode())


def _run(study: Study, out: Path, handle: int, before: Callable[[], object], compute: Compute | None) -> str:
    append = Store.append

    def told(self: Store, rows: Any, **more: Any) -> None:
        held = list(rows)
        append(self, held, **more)
        _tell(handle, "rows", [r.id for r in held if isinstance(r, Row)])

    Store.append = told  # type: ignore[method-assign]
    if compute is None:
        executor.load_executor = lambda spec, **_: executor.Executor(  # type: ignore[assignment]
            _loaded(_LOAD[0], spec).checkpoint, batch_tokens=400
        )  # many appends
        sources.load_planner = lambda name, writing, **_: replace(_loaded(_LOAD[1], name), writing=writing)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    try:
        before()
        study.run(out, compute=compute)
        return "done"
    except UserError as e:
        return f"refused: {e}"
    except BaseException as e:
        if out_of_memory(e):
            return f"refused: {NO_MEMORY}"  # as the command line says it
        return f"error: {type(e).__name__}: {' '.join(str(e).split())[-300:]}"


@dataclass
class Count:
    """What a fault did, over all rounds. missed: rounds in which it came too early or too late to do anything."""

    injected: int = 0
    missed: int = 0
    acknowledged: int = 0
    checked: int = 0
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    silent: int = 0  # damage that nothing reported
    unclear: int = 0  # ends without one clear line
    seconds: float = 0.0
    said: Counter[str] = field(default_factory=Counter)

    @property
    def bad(self) -> int:
        return self.lost + self.doubled + self.changed + self.silent + self.unclear


@dataclass
class Lab:
    """One round of one fault: a place of its own, a random stream, and where to count."""

    place: Path
    rng: random.Random
    count: Count
    study: Study = STUDY
    whole: Path | None = None  # an undisturbed run of the study

    @property
    def out(self) -> Path:
        return self.place / "study"

    @cached_property
    def wanted(self) -> tuple[Any, ...]:
        """Rows, plans and grades of the undisturbed run."""
        assert self.whole is not None
        return contents(self.whole)

    def start(self, **how: Any) -> Child:
        return start(self.study, self.out, **how)

    def hit(self, whether: bool = True) -> None:
        self.count.injected += whether
        self.count.missed += not whether

    def note(self, child: Child, *, speechless: bool = False) -> str:
        """Count how a run ended by itself; anything but its end or one clear line is unclear.

        speechless: the fault can take its last word too, as where nothing can be allocated; then its rows speak alone.
        """
        said = child.said
        clear = speechless or said == "done" or (said.startswith("refused: ") and "; " in said and "\n" not in said)
        self.count.unclear += not clear
        self.count.said[_shape(said, self.place)] += 1
        return said

    def after(self, *children: Child, folder: Path | None = None) -> None:
        """After the fault: what was acknowledged is there, as it would be in an undisturbed run, and only once."""
        asked = set().union(*(c.acknowledged for c in children)) if children else set()
        path = (folder or self.out) / "rows.sqlite"
        rows: list[Row] = []
        try:
            with Store(path, write=False) as s:
                rows = s.rows()
        except UserError as e:  # nothing was started yet: then nothing may have been acknowledged
            if "there is no such file" not in str(e) and "no study was started there yet" not in str(e):
                raise
        self.count.acknowledged += len(asked)
        self.count.lost += len(asked - {r.id for r in rows})
        self._compare(rows)

    def _compare(self, rows: list[Row]) -> None:
        known = {r.id: r for r in self.wanted[0]}
        self.count.checked += len(rows)
        self.count.changed += sum(known.get(r.id) != r for r in rows)
        self.count.doubled += len(rows) - len({(r.condition, r.item, r.seed, r.branch) for r in rows})

    def finish(self, folder: Path | None = None, compute: Compute | None = None) -> None:
        """Resume to the end, repairing where the run says so; then everything is as in the undisturbed run."""
        out = folder or self.out
        child = start(self.study, out, compute=compute).wait()
        if "--repair" in child.said:
            self.note(child)
            mend(out)
            child = start(self.study, out, compute=compute).wait()
        self.note(child)
        if child.said != "done":
            self.count.unclear += 1
            return
        rows, plans, grades = contents(out)
        self._compare(rows)
        self.count.lost += len({r.id for r in self.wanted[0]} - {r.id for r in rows})
        self.count.changed += (plans, grades) != self.wanted[1:]
        self.count.changed += without_seconds(out) != without_seconds(self.whole)
        self.count.silent += not verify(out).ok


def without_seconds(folder: Path | None) -> dict[str, Any]:
    """The summary without what a fault rightly changes: how long it took, how often an endpoint was asked."""
    assert folder is not None
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["cost"].pop("seconds")
    summary["cost"]["planning"].pop("requests")
    return dict(summary)


def contents(folder: Path) -> tuple[Any, ...]:
    """Rows, plans without the number of requests they took, grades."""
    with Store(folder / "rows.sqlite", write=False) as s:
        return s.rows(), {k: _unasked(p) for k, p in s.plans().items()}, s.grades()


def _unasked(plan: PlanRow) -> PlanRow:
    detail = json.loads(plan.detail)
    detail.get("cost", {}).pop("requests", None)
    return replace(plan, detail=json.dumps(detail))


def _shape(said: str, place: Path) -> str:
    """A message without what differs from round to round."""
    text = said.replace(str(place), "PLACE")
    return "".join("9" if c.isdigit() else c for c in text).replace("99", "9")[:150]


def undisturbed(study: Study, place: Path) -> Path:
    """A folder with the study run to its end; how long that took is in the file `took`."""
    began = time.monotonic()
    child = start(study, place / "study").wait()
    assert child.said == "done", child.said
    (place / "took").write_text(str(time.monotonic() - began))
    return place / "study"


def fresh(prefix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"fault-{prefix}-"))


def gone(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
