"""The backend of local processes: one a GPU, or one a slice of the CPU's cores.

Processes are spawned, never forked: a forked child of a process with threads, or with a GPU's context, may hang. Each
has a pipe of its own: a queue that they share would stay locked when its holder is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

from triaxis.compute import NO_GPUS, Compute, Crew, Died, Event, Place, Worker, gpus_here
from triaxis.compute.work import answer, begin
from triaxis.errors import UserError

UNREADY = " before it was ready; a script needs its commands under if __name__ == '__main__'"
GPUS = "CUDA_VISIBLE_DEVICES"


class Process:
    """A spawned worker."""

    def __init__(self, crew: Crew, place: Place, gpu: str | None) -> None:
        spawn = get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, crew, place, gpu))
        self.process.start()
        self.ready = False
        theirs.close()  # now the pipe ends when the worker does

    def send(self, common: Any, items: tuple[Any, ...]) -> None:
        with suppress(OSError):  # it is dead: so says the pipe
            self.pipe.send((common, items))

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def event(self) -> Event:
        try:
            said: Event = self.pipe.recv()
            self.ready = True
            return said
        except (EOFError, OSError):
            self.process.join(10)
            return Died(_ending(self.process.exitcode) + ("" if self.ready else UNREADY))


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"its process was ended by signal {-code}"


def _serve(pipe: Connection, crew: Crew, place: Place, gpu: str | None) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's, which ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ[GPUS] = gpu  # before anything touches a GPU: the worker knows one only, and calls it "cuda"
    state, said = begin(crew, place)
    with suppress(EOFError, OSError):
        pipe.send(said)
        while True:
            pipe.send(answer(crew, state, *pipe.recv()))


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Processes:
    """The backend `processes`: spawned processes of this machine, one a GPU, or sharing its cores."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.devices: tuple[str, ...] = ()  # of the main crew's workers, in turn
        self.threads = 1  # of each worker on a CPU

    def gpus(self) -> int:
        return gpus_here()

    def enlist(self, crews: Mapping[str, Crew]) -> dict[str, int]:
        gpu = any(c.gpu for c in crews.values() if c.main)
        self.devices = self._devices() if gpu else ()
        main = self.compute.workers or len(self.devices) or cores()
        sizes = {role: main if c.main else self.compute.helpers for role, c in crews.items()}
        self.threads = max(1, cores() // sum(sizes.values()))
        return sizes

    def _devices(self) -> tuple[str, ...]:
        held = self.gpus()
        if not held:
            raise UserError(NO_GPUS)
        asked = tuple(d for d in self.compute.devices if d != "cuda") or tuple(f"cuda:{k}" for k in range(held))
        for name in asked:
            if int(name.partition(":")[2]) >= held:
                raise UserError(f"device {name!r} is not here: torch sees {held} GPUs; use --device cpu")
        return asked

    def start(self, crew: Crew, number: int) -> Worker:
        if not crew.gpu:
            return Process(crew, Place("cpu", self.threads), None)
        place = number if crew.main else -1 - number  # helpers share the last devices first
        device = self.devices[place % len(self.devices)]
        return Process(crew, Place("cuda"), visible(int(device.partition(":")[2])))

    def wait(self, workers: Sequence[Worker], timeout: float) -> list[tuple[Worker, Event]]:
        known = {w.pipe: w for w in workers if isinstance(w, Process)}
        heard = connection.wait(list(known), timeout)
        return [(w, w.event()) for pipe, w in known.items() if pipe in heard]

    def close(self) -> None:
        pass


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible(index: int) -> str:
    """The GPU that this process calls cuda:`index`, as CUDA_VISIBLE_DEVICES names it. UserError where it has fewer."""
    names = [n.strip() for n in os.environ.get(GPUS, "").split(",") if n.strip()]
    if not names:
        return str(index)
    if index >= len(names):
        raise UserError(f"device cuda:{index} is not here: {GPUS} names {len(names)} GPUs")
    return names[index]
