"""Faults of processes, clocks, memory, second runs and endpoints. A round: cause it, look, resume, look again.

A fault takes a `Lab`. It says `lab.hit(False)` where it came too late to do anything, so that such a round is not
counted as a fault.
"""

from __future__ import annotations

import datetime
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from cluster import two_nodes
from lab import Child, Lab

from triaxis.compute import Compute
from triaxis.study import Study

PROCESSES = Compute(kind="processes", workers=2, chunk=4)


def somewhen(lab: Lab, child: Child) -> None:
    """Wait until a random moment of the run: so many rows, and a little."""
    child.rows_at_least(lab.rng.randrange(0, len(lab.wanted[0])))
    time.sleep(lab.rng.choice((0, 0, 0.003, 0.03)))


# ---------------------------------------------------------------- kills


def driver_killed(lab: Lab) -> None:
    """SIGKILL of the run, up to three times in a row."""
    for _ in range(lab.rng.choice((1, 1, 2, 3))):
        child = lab.start()
        somewhen(lab, child)
        child.kill()
        lab.hit(not child.said)
        lab.after(child)
    lab.finish()


def driver_of_processes_killed(lab: Lab) -> None:
    """SIGKILL of a driver with worker processes: they end, and the folder is free at once."""
    child = lab.start(compute=PROCESSES)
    somewhen(lab, child)
    workers = child.workers()
    child.kill()
    lab.hit(not child.said)
    lab.after(child)
    lab.finish()  # not refused: no orphan holds the lock
    limit = time.monotonic() + 10
    while any(map(_lives, workers)) and time.monotonic() < limit:
        time.sleep(0.05)
    lab.count.unclear += sum(map(_lives, workers))


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def worker_killed(lab: Lab) -> None:
    """SIGKILL of worker processes, again and again; the run goes on with others, or ends with a clear line."""
    child = lab.start(compute=PROCESSES)
    for _ in range(lab.rng.choice((1, 2, 3))):
        somewhen(lab, child)
        workers = child.workers()
        hit = bool(workers) and child.alive()
        if hit:
            with suppress(ProcessLookupError):
                os.kill(lab.rng.choice(workers), signal.SIGKILL)
        lab.hit(hit)
    lab.note(child.wait())
    lab.after(child)
    lab.finish()


def node_killed(lab: Lab) -> None:
    """A node of a simulated Ray cluster of two dies with its workers while a study runs on both."""
    with two_nodes() as (address, kill):
        child = lab.start(compute=Compute(kind="ray", workers=2, chunk=4, address=address))
        somewhen(lab, child)
        kill()
        lab.hit(child.alive())
        lab.note(child.wait())
    lab.after(child)
    lab.finish()


# ---------------------------------------------------------------- memory


def memory_of_a_worker(lab: Lab) -> None:
    """A worker's address space ends a little above what it uses."""
    child = lab.start(compute=PROCESSES)
    somewhen(lab, child)
    workers = child.workers()
    hit = bool(workers) and child.alive()
    if hit:
        lab.hit(_no_more_memory(lab.rng.choice(workers), lab.rng.randrange(0, 8 << 20)))
    else:
        lab.hit(False)
    lab.note(child.wait())
    lab.after(child)
    lab.finish()


def memory_of_the_driver(lab: Lab) -> None:
    """The run's own address space ends while it runs."""
    child = lab.start()
    somewhen(lab, child)
    if child.alive():
        _no_more_memory(child.pid, -lab.rng.randrange(0, 64 << 20))
    lab.hit(lab.note(child.wait(), speechless=True) != "done")
    lab.after(child)
    lab.finish()


def _no_more_memory(pid: int, more: int) -> bool:
    with suppress(OSError):
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used + more, used + more))
        return True
    return False


# ---------------------------------------------------------------- clocks


def clock_jumps(lab: Lab) -> None:
    """The clock goes back and forth by years while the run is killed and resumed, and files have any time of change."""
    children = []
    for _ in range(2):
        child = lab.start(before=partial(_jumping, lab.rng.random()))
        somewhen(lab, child)
        children.append(child.kill())
        lab.hit(not child.said)
        lab.after(child)
        for path in lab.out.rglob("*") if lab.out.exists() else ():
            at = lab.rng.uniform(0, 4e9)
            os.utime(path, (at, at))
    lab.finish()


def _jumping(seed: float) -> None:
    rng, real = random.Random(seed), time.time

    def jumped() -> float:
        return max(0.0, real() + rng.choice((-1, 1)) * rng.uniform(0, 3e8))

    class Jumped(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(jumped(), tz)

    import triaxis.study

    time.time = jumped
    time.time_ns = lambda: int(jumped() * 1e9)
    triaxis.study.datetime = Jumped  # type: ignore[misc]


# ---------------------------------------------------------------- two runs


def two_runs(lab: Lab) -> None:
    """Two runs on one folder at once: one is refused, or comes late enough to find everything done."""
    first = lab.start()
    if lab.rng.random() < 0.7:
        somewhen(lab, first)
    second = lab.start()
    said = [lab.note(c.wait()) for c in (first, second)]
    refused = [s for s in said if "another run is writing there" in s]
    lab.hit(bool(refused))
    lab.count.unclear += said.count("done") + len(refused) != 2 or "done" not in said
    lab.after(first, second)
    lab.finish()


# ---------------------------------------------------------------- endpoints

ACTS: tuple[Any, ...] = (
    "drop", "hang", "trickle", b"rubbish", b"", b"[1, 2", b"\xff\xfe\x00", b"{}", b"[" * 5000, {"choices": []},
    {"choices": [{"message": {"content": None}}]}, {"choices": [{"message": {"content": 7}}]}, {"choices": "x"},
    {"choices": [{"message": {}, "finish_reason": "stop"}]}, (500, {"error": "x"}, {}), (503, b"<html>", {}),
    (429, {"error": {"message": "slow"}}, {"Retry-After": "0"}), (404, {"error": "no such model"}, {}),
    (401, {"error": "no key"}, {}), (302, b"", {"Location": "http://127.0.0.1:1/"}), (200, b"\x00" * 300, {}),
)  # fmt: skip


def endpoint(lab: Lab, server: Any) -> None:
    """A planner's endpoint fails, hangs, drops the line and answers rubbish; then it answers well again."""
    acts = [lab.rng.choice(ACTS) for _ in range(lab.rng.choice((1, 2, 4, 12)))]
    server.script.extend("well" for _ in range(lab.rng.randrange(0, lab.study.n)))
    server.script.extend(acts)
    child = lab.start(before=_impatient).wait()
    lab.hit(len(server.script) < len(acts))
    lab.note(child)
    server.script.clear()
    lab.after(child)
    lab.finish()


def _impatient() -> None:
    from triaxis.models.endpoint import Patience

    Patience.__init__.__kwdefaults__.update(timeout=0.4, total=3.0, attempts=3, first_wait=0.01)


def endpoint_study(server: Any) -> Study:
    spec = server.spec()
    return Study(n=5, planners=(spec,), conditions=("none", f"plan[{spec}]"), decode={"steps": 6})


FAULTS: dict[str, Callable[..., None]] = {
    "driver killed": driver_killed,
    "driver of workers killed": driver_of_processes_killed,
    "worker killed": worker_killed,
    "Ray node killed": node_killed,
    "worker out of memory": memory_of_a_worker,
    "driver out of memory": memory_of_the_driver,
    "clock jumps": clock_jumps,
    "two runs at once": two_runs,
}
