"""The backend of Ray actors, on one machine or many (extra `ray`). One actor a worker, its state made once.

Actors ask for fractions of a CPU, so that they can never hold all of them: Ray's own tasks would then wait for ever.
Every wait has a timeout. Actors are not restarted by Ray but by the pool, which knows what they were at.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from os import environ
from typing import Any

from triaxis.compute import Compute, Crew, Died, Event, Place, Worker
from triaxis.compute.work import answer, begin
from triaxis.errors import UserError

CPU = 0.25  # of a core, at most: what a worker asks for, so that those of a lost node find room on the others
SHARE = 0.9  # of a GPU that an executor asks for where helpers need one too; they share the rest
PATIENCE = 120.0  # seconds for Ray itself to answer
JOINING = 60.0  # seconds that nodes may take to join the cluster


def the_ray() -> Any:
    """The package. UserError where it is not installed.

    It tells of dead workers on stdout, whatever it is asked to log; the pool tells of them itself.
    """
    environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    try:
        return import_module("ray")
    except ImportError:
        raise UserError("compute 'ray' needs the package ray: pip install 'triaxis[ray]'") from None


class Actor:
    """What runs in the actor's process."""

    def __init__(self, crew: Crew, place: Place) -> None:
        self.crew, self.place, self.state = crew, place, None

    def begin(self) -> Event:
        self.state, said = begin(self.crew, self.place)
        return said

    def answer(self, common: Any, items: tuple[Any, ...]) -> Event:
        return answer(self.crew, self.state, common, items)


class Remote:
    """An actor as the pool sees it."""

    def __init__(self, ray: Any, options: Mapping[str, Any], crew: Crew, place: Place) -> None:
        self.ray = ray
        self.actor = ray.remote(Actor).options(**options).remote(crew, place)
        self.owed = self.actor.begin.remote()

    def send(self, common: Any, items: tuple[Any, ...]) -> None:
        self.owed = self.actor.answer.remote(common, items)  # of a dead actor: an error when it is waited for

    def kill(self) -> None:
        with suppress(self.ray.exceptions.RayError, ValueError):
            self.ray.kill(self.actor)

    def event(self) -> Event:
        try:
            said: Event = self.ray.get(self.owed, timeout=PATIENCE)
            return said
        except self.ray.exceptions.RayError as e:
            return Died(f"Ray says {type(e).__name__}: {_last(e)}")


def _last(e: BaseException) -> str:
    """The last line of what Ray says: the cause, after its tracebacks."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason"


def _reach(address: str) -> None:
    """UserError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address in ("", "auto"):
        return
    if not host or not port.isdecimal() or "//" in address:
        raise UserError(f"Ray address {address!r} is not auto or host:port; run on a machine of the cluster")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as e:
        raise UserError(f"Ray at {address}: {e}; is it running there (ray start --head)?") from None


class OnRay:
    """The backend `ray`: actors of a cluster that runs, or of one started on this machine for the run."""

    def __init__(self, compute: Compute) -> None:
        self.ray, self.compute = the_ray(), compute
        self.cpu, self.threads = CPU, 1  # of a core that a worker asks for; that it may use
        self.sharing = False  # whether helpers need GPUs too
        self.mine = not self.ray.is_initialized()
        if self.mine:
            self._connect()

    def _connect(self) -> None:
        _reach(self.compute.address)
        own = {"address": "local", "include_dashboard": False}
        where: dict[str, Any] = {"address": self.compute.address} if self.compute.address else own
        try:
            self.ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as e:
            at = self.compute.address or "this machine"
            raise UserError(f"Ray at {at}: {_last(e)}; is it running there (ray start --head)?") from None

    def gpus(self) -> int:
        return int(self.ray.cluster_resources().get("GPU", 0))

    def enlist(self, crews: Mapping[str, Crew]) -> dict[str, int]:
        """Actors without room would be waited for in vain: what the cluster has is held against what they ask for."""
        gpu = any(c.gpu for c in crews.values() if c.main)
        until = time.monotonic() + JOINING
        while gpu and self.gpus() < self.compute.workers and time.monotonic() < until:
            time.sleep(1)
        cpus = float(self.ray.cluster_resources().get("CPU", 0))
        main = self.compute.workers or max(1, self.gpus() if gpu else int(cpus))
        sizes = {role: main if c.main else self.compute.helpers for role, c in crews.items()}
        everyone = sum(sizes.values())
        self.sharing = any(c.gpu and not c.main for c in crews.values())
        self.cpu, self.threads = min(CPU, int(900 * cpus / everyone) / 1000), max(1, int(cpus / everyone))
        if gpu and main > self.gpus():
            raise UserError(f"{main} workers with a GPU each, but the Ray cluster has {self.gpus()}; ask for fewer")
        if self.cpu < 0.001 or self.cpu * everyone > cpus:
            raise UserError(f"{everyone} workers, but the Ray cluster has {cpus:g} CPUs; ask for fewer workers")
        return sizes

    def start(self, crew: Crew, number: int) -> Worker:
        """An actor of the crew, wherever the cluster has room; it is never restarted by Ray itself."""
        options: dict[str, Any] = {
            "num_cpus": self.cpu, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"
        }  # fmt: skip
        if crew.gpu:
            helper = round((1 - SHARE) / self.compute.helpers, 3)
            options["num_gpus"] = helper if not crew.main else SHARE if self.sharing else 1
        place = Place("cuda") if crew.gpu else Place("cpu", self.threads)
        return Remote(self.ray, options, crew, place)

    def wait(self, workers: Sequence[Worker], timeout: float) -> list[tuple[Worker, Event]]:
        owing = {w.owed: w for w in workers if isinstance(w, Remote)}
        if not owing:
            return []
        heard, _ = self.ray.wait(list(owing), num_returns=1, timeout=timeout)
        return [(owing[ref], owing[ref].event()) for ref in heard]

    def close(self) -> None:
        """Leave the cluster, if it was joined here; one that was started here ends with it."""
        if self.mine:
            self.ray.shutdown()
