"""Units of work with dependencies, spread over processes, within a limit of minutes. Knows nothing of repairs.

A process runs one unit at a time; a unit that fails costs what hangs on it and nothing else. When the minutes are up,
what still runs is stopped, and units that collect (`last`) run on what there is.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

DONE, FAILED, SKIPPED, LATE = "done", "failed", "not begun: it needs one that is missing", "out of time"
Became = dict[str, str]  # unit -> what became of it
Work = Callable[..., None]  # (setting, device, *args); of a `last` unit (setting, device, what became so far, *args)


@dataclass(frozen=True)
class Unit:
    """A piece of work: which function with which arguments, and after which units.

    anywhere: spare processes may take it. last: it runs once the units before it have ended in any way.
    """

    name: str
    work: str
    args: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()
    anywhere: bool = False
    last: bool = False


@dataclass
class Plan:
    """Which units have ended, and which can begin."""

    units: Sequence[Unit]
    became: Became = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)

    def next(self, spare: bool = False) -> Unit | None:
        """The first unit that can begin; for a spare process the last one that runs anywhere."""
        self._skip()
        can = [u for u in self.units if u.name not in self.begun and all(a in self.became for a in u.after)]
        can = [u for u in reversed(can) if u.anywhere] if spare else can
        if can:
            self.begun.add(can[0].name)
        return can[0] if can else None

    def _skip(self) -> None:
        for u in self.units:
            if u.name not in self.begun and not u.last and any(self.became.get(a, DONE) != DONE for a in u.after):
                self.begun.add(u.name)
                self.became[u.name] = SKIPPED

    def stop(self) -> None:
        """Nothing but `last` units from here on."""
        for u in self.units:
            if u.name not in self.became and not u.last:
                self.begun.add(u.name)
                self.became[u.name] = LATE

    @property
    def over(self) -> bool:
        return len(self.became) == len(self.units)


@dataclass
class Process:
    """A process, the pipe to it, and the unit it has."""

    device: str | None
    spare: bool
    process: BaseProcess
    line: Connection
    unit: Unit | None = None
    since: float = 0.0


def run_units(
    units: Sequence[Unit], works: Mapping[str, Work], setting: Any, *, devices: Sequence[str | None], spares: int = 0,
    minutes: float | None = None,
) -> Became:  # fmt: skip
    """Run all units and say what became of each. devices: one a process. spares: further processes, on the CPU."""
    plan, began = Plan(units), time.monotonic()

    def start(device: str | None, spare: bool) -> Process:
        mine, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(theirs, works, setting, device), daemon=True)
        process.start()
        theirs.close()
        return Process(device, spare, process, mine)

    running = [start(d, False) for d in devices] + [start("cpu", True) for _ in range(spares)]
    try:
        while not plan.over:
            if minutes is not None and time.monotonic() > began + 60 * minutes:
                minutes = None
                plan.stop()
                running = [_again(p, start) if p.unit is not None and not p.unit.last else p for p in running]
            for p in running:
                _give(p, plan)
            for line in wait([p.line for p in running if p.unit is not None], timeout=1.0):
                at = next(i for i, p in enumerate(running) if p.line is line)
                if not _hear(running[at], plan):
                    running[at] = _again(running[at], start)
    finally:
        for p in running:
            p.process.kill()
            p.process.join()  # so that its processor time counts as ours
    return plan.became


def _give(p: Process, plan: Plan) -> None:
    if p.unit is None and (unit := plan.next(p.spare)) is not None:
        p.unit, p.since = unit, time.monotonic()
        p.line.send((unit, dict(plan.became)))


def _hear(p: Process, plan: Plan) -> bool:
    """Note how a unit ended; whether its process still lives."""
    assert p.unit is not None
    try:
        failure, lives = p.line.recv(), True
    except (EOFError, OSError):
        failure, lives = "its process died", False
    plan.became[p.unit.name] = FAILED if failure else DONE
    say(f"{p.unit.name}: {failure or DONE} ({time.monotonic() - p.since:.0f} s)")
    p.unit = None
    return lives


def _again(p: Process, start: Callable[[str | None, bool], Process]) -> Process:
    p.process.kill()
    return start(p.device, p.spare)


def _serve(line: Connection, works: Mapping[str, Work], setting: Any, device: str | None) -> None:
    """A process: units in, failures out."""
    if device == "cpu":  # torch would make a context on every accelerator it sees
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    while True:
        try:
            unit, became = line.recv()
        except EOFError:
            return
        try:
            works[unit.work](setting, device, *((became,) if unit.last else ()), *unit.args)
            line.send("")
        except Exception:  # a unit is a boundary: the others go on, and the log says why this one did not
            line.send(traceback.format_exc())


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
