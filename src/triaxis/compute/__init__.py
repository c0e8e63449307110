"""Run independent chunks of work on workers that each hold a state made once: here, on processes, or on Ray.

Knows nothing of language models. A crew is workers of one role; a chunk is items of one role with what they have in
common; its result is one value an item. Workers pull chunks, so an uneven share is evened out by whoever is free. What
goes wrong is `pool.py`'s: a chunk of a worker that died is done again by another, a chunk too large for a worker's
memory is done in halves. Where workers are and how they are reached is a backend's: `local.py`, `processes.py`,
`on_ray.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from triaxis.errors import UserError, lookup

KINDS = ("here", "processes", "ray")
NO_GPUS = "there are no GPUs for workers here; use --device cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Where work runs. Changes no result, only how long it takes.

    kind: "here" (one worker, this process), "processes" (this machine) or "ray" (one or many machines). workers: of the
    main crew; 0: one a GPU, else one a CPU core. devices: of those workers in turn, such as ("cuda:0", "cuda:1"), for
    processes; () takes what there is. address: of a running Ray cluster; "" starts one on this machine. helpers:
    workers of every other crew. chunk: items of a chunk; 0: chosen by the sender. timeout: seconds that one chunk may
    take before its worker is given up and the chunk is done again, in halves the second time.
    """

    kind: str = "here"
    workers: int = 0
    devices: tuple[str, ...] = ()
    address: str = ""
    helpers: int = 1
    chunk: int = 0
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        lookup("kind of compute", dict.fromkeys(KINDS), self.kind)
        for name, least in (("workers", 0), ("helpers", 1), ("chunk", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"compute {name}={value!r} is not sensible; give a whole number from {least} up")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise UserError(f"compute timeout={self.timeout!r} is not sensible; give seconds above 0")
        if self.address and self.kind != "ray":
            raise UserError(f"address {self.address!r} is a Ray cluster's; use compute 'ray', not {self.kind!r}")
        if self.kind == "here" and (self.workers > 1 or len(self.devices) > 1):
            raise UserError("compute 'here' is one worker on one device; use processes or ray for more")
        if self.devices and self.kind == "ray":
            raise UserError("Ray places its workers on GPUs itself; leave out devices, and say workers")
        for name in self.devices:
            kind, _, number = name.partition(":")
            if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and number.isdecimal())):
                raise UserError(f"no device named {name!r}; give cpu, cuda, or such as cuda:0,cuda:1")
        if len({name.partition(":")[0] for name in self.devices}) > 1:
            raise UserError("devices cpu and cuda together would make rows that differ; give devices of one kind")
        if self.workers and self.devices and self.workers < len(self.devices):
            raise UserError(
                f"{len(self.devices)} devices but {self.workers} workers; give at least one worker a device"
            )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker's state is to be made. device: "cpu" or "cuda" (the worker's own). threads: of a CPU; 0: free."""

    device: str = "cpu"
    threads: int = 0


Factory = Callable[[Place], Any]
Method = Callable[[Any, Any, tuple[Any, ...]], Sequence[Any]]  # (state, common, items) -> one result an item


@dataclass(frozen=True, slots=True)
class Crew:
    """Workers of one role. factory and work are sent to them: functions of a module, or partials of such.

    main: whether it is the crew that `Compute.workers` counts. gpu: whether its workers need one.
    """

    factory: Factory
    work: Method
    main: bool = True
    gpu: bool = False


class Chunk(NamedTuple):
    """Work for one worker. common and items are sent; tags, one an item, stay with the sender and come back."""

    role: str
    common: Any
    items: tuple[Any, ...]
    tags: tuple[Any, ...]

    def halves(self) -> tuple[Chunk, Chunk]:
        half = len(self.items) // 2
        return (
            self._replace(items=self.items[:half], tags=self.tags[:half]),
            self._replace(items=self.items[half:], tags=self.tags[half:]),
        )


class Done(NamedTuple):
    """A chunk, or a part of one that had to be split, with one result an item."""

    chunk: Chunk
    results: Sequence[Any]
    seconds: float


# ---------------------------------------------------------------- what a worker says


class Ready(NamedTuple):
    """The worker's state is made."""

    pid: int


class Result(NamedTuple):
    """One value an item of the chunk."""

    values: Sequence[Any]


class Failure(NamedTuple):
    """The work raised. kind: "user" (a UserError's text), "memory" (too large for this worker), "bug" (a traceback)."""

    kind: str
    text: str


class Died(NamedTuple):
    """The worker is gone, and why."""

    why: str


Event = Ready | Result | Failure | Died


class Worker(Protocol):
    """One worker as the pool sees it; its state is being made from the moment it is there."""

    def send(self, common: Any, items: tuple[Any, ...]) -> None:
        """Give it a chunk. It answers with one event. Never raises for a dead worker: the event says so."""
        ...

    def kill(self) -> None:
        """End it, whatever it does."""
        ...


class Backend(Protocol):
    """Starts workers and waits for what they say."""

    def gpus(self) -> int:
        """GPUs that workers can be put on."""
        ...

    def enlist(self, crews: Mapping[str, Crew]) -> dict[str, int]:
        """Make room for these crews, before any worker is started: how many workers each has.

        UserError where they cannot be had.
        """
        ...

    def start(self, crew: Crew, number: int) -> Worker: ...

    def wait(self, workers: Sequence[Worker], timeout: float) -> list[tuple[Worker, Event]]:
        """The next events of these workers, at most one each; none where `timeout` seconds passed."""
        ...

    def close(self) -> None: ...


def backend(compute: Compute) -> Backend:
    """The backend of that kind. UserError where it cannot be had."""
    if compute.kind == "ray":
        from triaxis.compute.on_ray import OnRay

        return OnRay(compute)
    if compute.kind == "processes":
        from triaxis.compute.processes import Processes

        return Processes(compute)
    from triaxis.compute.local import Here

    return Here(compute)


def gpus_here() -> int:
    """GPUs that this process sees."""
    import torch

    return torch.cuda.device_count()
