"""The pool: hands chunks to free workers, takes their results as they come, and mends what goes wrong.

A worker that dies, or takes longer than it may, is replaced and its chunk done by whoever is free next. A chunk that
cost two workers, or is too large for a worker's memory, is split in halves; a single item that costs three ends the
run with its reason. Deaths are counted since the last result: where nothing comes back any more, the run ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from triaxis.compute import Backend, Chunk, Crew, Died, Done, Event, Failure, Ready, Worker
from triaxis.errors import UserError

COSTS = 3  # workers that one item may cost
SPLIT = 2  # workers that one chunk may cost before it is split
DEATHS = 8  # workers, or four times as many as there are, that may die with no result between
AHEAD = 2  # chunks that wait for each worker, at most
SAFE = "what came back before is kept, and the same command goes on from there"


class WorkerFault(RuntimeError):
    """An error of our own code in a worker, with the worker's traceback."""


@dataclass(slots=True)
class _Try:
    chunk: Chunk
    costs: int = 0  # workers it cost so far


@dataclass(slots=True)
class _Slot:
    """A place for a worker of a crew. at: what it works on. since: when that began, or its start."""

    role: str
    number: int
    worker: Worker
    since: float
    pid: int = 0  # 0: its state is being made
    at: _Try | None = None


@dataclass(slots=True)
class Counts:
    """What happened in a pool. seconds: what each chunk took, from the handing out to the result."""

    seconds: list[float] = field(default_factory=list)
    deaths: int = 0
    splits: int = 0
    restarts: int = 0
    reasons: list[str] = field(default_factory=list)


class Pool:
    """Crews of workers; a context manager, which ends them. Not for use by several threads.

    timeout: seconds for one chunk. start_timeout: seconds for making a worker's state.
    """

    def __init__(
        self, made: Backend, crews: Mapping[str, Crew], timeout: float = 3600.0, start_timeout: float = 1800.0
    ) -> None:
        self.backend, self.crews = made, crews
        self.timeout, self.start_timeout = timeout, start_timeout
        self.counts = Counts()
        self.active = made.enlist(crews)  # workers of each crew that are given chunks
        self._waiting: dict[str, deque[_Try]] = {role: deque() for role in crews}
        self._slots: list[_Slot] = []
        self._results: deque[Done] = deque()
        self._since = 0  # deaths since the last result
        self._begun = False  # whether a worker was ever ready

    def __enter__(self) -> Pool:
        try:
            for role, crew in self.crews.items():
                for number in range(self.active[role]):
                    self._slots.append(_Slot(role, number, self.backend.start(crew, number), time.monotonic()))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for slot in self._slots:
            slot.worker.kill()

    def room(self, role: str) -> bool:
        """Whether another chunk should be made: what is made too early is memory for nothing."""
        return len(self._waiting[role]) < AHEAD * self.active[role]

    def submit(self, chunk: Chunk) -> None:
        """Add a chunk, whether or not there is room."""
        self._waiting[chunk.role].append(_Try(chunk))

    @property
    def busy(self) -> bool:
        """Whether a result is still to come."""
        return bool(self._results) or any(self._waiting.values()) or any(s.at for s in self._slots)

    def pids(self, role: str) -> list[int]:
        """Processes of the crew's workers that are ready, on whatever machine."""
        return [s.pid for s in self._slots if s.role == role and s.pid]

    def ready(self) -> None:
        """Wait until every worker's state is made; a chunk need not wait for that."""
        while not all(s.pid for s in self._slots):
            self._turn([s for s in self._slots if not s.pid])

    def next(self) -> Done:
        """The next result, in the order they come. UserError as a worker raised it, or where workers keep dying.

        WorkerFault for any other error in a worker.
        """
        while not self._results:
            if not self.busy:
                raise RuntimeError("no chunk is under way")
            self._hand_out()
            self._turn(self._slots)
        self._hand_out()  # before the sender looks at the result
        return self._results.popleft()

    def _hand_out(self) -> None:
        for slot in self._slots:
            queue = self._waiting[slot.role]
            if queue and slot.pid and slot.at is None and slot.number < self.active[slot.role]:
                slot.at, slot.since = queue.popleft(), time.monotonic()
                slot.worker.send(slot.at.chunk.common, slot.at.chunk.items)

    def _turn(self, slots: list[_Slot]) -> None:
        """Wait for events of workers that owe one, and deal with them."""
        working = {id(s.worker): s for s in slots if s.at is not None or not s.pid}
        patience = min((self._deadline(s) for s in working.values()), default=0.0) - time.monotonic()
        for worker, event in self.backend.wait([s.worker for s in working.values()], max(0.0, patience)):
            self._take(working[id(worker)], event)
        self._give_up_late()

    def _deadline(self, slot: _Slot) -> float:
        return slot.since + (self.timeout if slot.pid else self.start_timeout)

    def _give_up_late(self) -> None:
        now = time.monotonic()
        late = [s for s in self._slots if (s.at is not None or not s.pid) and self._deadline(s) <= now]
        for slot in late:
            if not any(s.pid for s in self._slots if s.role == slot.role):
                raise UserError(f"no worker of {slot.role!r} got ready within {self.start_timeout:g} s; {SAFE}")
            slot.worker.kill()
            what = f"a chunk took longer than {self.timeout:g} s" if slot.pid else "it did not get ready in time"
            self._lost(slot, what)

    def _take(self, slot: _Slot, event: Event) -> None:
        if isinstance(event, Ready):
            slot.pid, self._begun = event.pid, True
        elif isinstance(event, Died):
            self._lost(slot, event.why)
        elif isinstance(event, Failure):
            self._failed(slot, event)
        elif slot.at is not None:
            self.counts.seconds.append(time.monotonic() - slot.since)
            self._results.append(Done(slot.at.chunk, event.values, self.counts.seconds[-1]))
            slot.at, self._since = None, 0

    def _failed(self, slot: _Slot, event: Failure) -> None:
        if event.kind == "user":
            raise UserError(event.text)
        if event.kind == "bug":
            raise WorkerFault(f"in worker {slot.number} of {slot.role!r}:\n{event.text}")
        last = event.text.strip().splitlines()[-1]
        if slot.at is None:
            raise UserError(f"out of memory while a worker got ready ({last}); use fewer workers, or more devices")
        failed, slot.at = slot.at, None
        if len(failed.chunk.items) == 1:
            raise UserError(f"out of memory with a single item ({last}); use a device with more memory; {SAFE}")
        self._split(failed)

    def _lost(self, slot: _Slot, why: str) -> None:
        """Replace a dead worker; its chunk waits in front."""
        role, died = slot.role, slot.at
        self.counts.deaths += 1
        self.counts.reasons.append(f"{role} {slot.number}: {why}")
        self._since += 1
        most = max(DEATHS, 4 * len(self._slots)) if self._begun else COSTS
        if self._since > most:
            raise UserError(f"workers died {self._since} times with no result between (the last: {why}); {SAFE}")
        if died is not None:
            died.costs += 1
            self._again(died, why)
        slot.at, slot.pid, slot.since = None, 0, time.monotonic()
        slot.worker = self.backend.start(self.crews[role], slot.number)
        self.counts.restarts += 1

    def _again(self, lost: _Try, why: str) -> None:
        if len(lost.chunk.items) == 1 and lost.costs >= COSTS:
            raise UserError(f"one item cost {lost.costs} workers (the last: {why}); {SAFE}")
        if len(lost.chunk.items) > 1 and lost.costs >= SPLIT:
            self._split(lost)
        else:
            self._waiting[lost.chunk.role].appendleft(lost)

    def _split(self, whole: _Try) -> None:
        self.counts.splits += 1
        self._waiting[whole.chunk.role].extendleft(_Try(half) for half in reversed(whole.chunk.halves()))
