"""How long a study takes on many GPUs, and what it costs: a simulation of workers that pull chunks from one driver.

What is simulated is `study/spread.py`: every worker loads the model once; the driver hands a chunk to whoever is free;
one chunk's rows are appended by the driver alone, which hands out the next chunk before it writes; planners write on
workers of their own, and rows that show plans wait for these. Seconds of chunks come from rows that were measured, so
that stragglers are those of the study. Knows nothing of GPUs: a GPU that is twice as fast halves the measured seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from triaxis.errors import UserError

Floats = npt.NDArray[np.float64]
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)
LEVELS = (0.9, 0.5)  # efficiencies whose loss is reported
DRAWS = 200_000  # chunks simulated for one number of workers, over its repetitions
MOST_DRAWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A study as its workers see it. Seconds are of one worker.

    works: completions to decode, identical ones once. seconds: of decoding all of them. shape: relative costs of
    chunks as they were measured, mean 1; they are taken in turn. chunk: works of a chunk. loading: of one worker.
    noise: standard deviation of log seconds of a chunk that its rows do not explain. planning: of all plans on one
    planner's worker; planners: such workers; planned: share of the works that show plans. appends: works a second that
    the driver can store. after: seconds at the end, of the driver alone.
    """

    works: int
    seconds: float
    shape: Sequence[float] = (1.0,)
    chunk: int = 64
    loading: float = 0.0
    noise: float = 0.05
    planning: float = 0.0
    planners: int = 1
    planned: float = 0.0
    appends: float = 5000.0
    after: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("works", 1), ("chunk", 1), ("planners", 1), ("loading", 0), ("noise", 0), ("planning", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} is not sensible; give at least {least}")
        if not self.seconds > 0 or not self.appends > 0 or not 0 <= self.planned <= 1 or self.after < 0:
            raise UserError(
                f"seconds={self.seconds:g} and appends={self.appends:g} must be above 0, planned={self.planned:g} a "
                f"share, after={self.after:g} not negative"
            )

    @property
    def chunks(self) -> int:
        return -(-self.works // self.chunk)


class Run(NamedTuple):
    """One number of workers: wall-clock seconds (median, and the range of nine tenths of the repetitions), the share
    of the workers' time that is decoding, and where the rest goes."""

    workers: int
    seconds: float
    low: float
    high: float
    efficiency: float
    lost: dict[str, float]  # loading, planning, driver, tail: shares of the workers' time

    def plain(self, price_per_hour: float | None = None) -> dict[str, Any]:
        hours = self.workers * self.seconds / 3600
        paid = None if price_per_hour is None else round(hours * price_per_hour, 2)
        return {**self._asdict(), "worker_hours": round(hours, 4), "dollars": paid}


def predict(load: Workload, workers: int, seed: int = 0) -> Run:
    """The run on that many workers. The same chunks take the same seconds whatever the number of workers."""
    if workers < 1:
        raise UserError(f"{workers} workers do nothing; give at least 1")
    repetitions = max(1, min(MOST_DRAWS, DRAWS // load.chunks))
    found = [_once(load, workers, _chunk_seconds(load, np.random.default_rng((seed, r)))) for r in range(repetitions)]
    walls = np.array([wall for wall, _ in found])
    lost = {name: float(np.mean([x[name] for _, x in found])) for name in found[0][1]}
    low, high = np.quantile(walls, (0.05, 0.95))
    return Run(workers, float(np.median(walls)), float(low), float(high), 1 - sum(lost.values()), lost)


def _chunk_seconds(load: Workload, rng: np.random.Generator) -> Floats:
    """Seconds of every chunk. They add up to `seconds` on average: noise has mean 1."""
    sizes = np.full(load.chunks, load.chunk, dtype=float)
    sizes[-1] = load.works - load.chunk * (load.chunks - 1)
    shape = np.resize(np.asarray(load.shape, dtype=float), load.chunks)
    each = sizes * shape / float((sizes * shape).sum()) * load.seconds
    return np.asarray(each * rng.lognormal(-(load.noise**2) / 2, load.noise, load.chunks))


def _once(load: Workload, workers: int, seconds: Floats) -> tuple[float, dict[str, float]]:
    """Wall-clock seconds of one run, and the shares of the workers' time that are not decoding."""
    release = _released(load)
    store = np.minimum(load.chunk, load.works) / load.appends
    free = [load.loading] * workers  # a worker is free: loaded, or its last chunk came back
    driver, planning, waiting = 0.0, 0.0, 0.0
    for k, took in enumerate(seconds.tolist()):
        at = heapq.heappop(free)
        back = at > load.loading
        given = max(at, driver) if back else at
        driver = given + store if back else driver  # the driver hands on, then writes what came back
        start = max(given, release[k])
        waiting, planning = waiting + given - at, planning + start - given
        heapq.heappush(free, start + took)
    ends = sorted(free)
    for end in ends:
        driver = max(driver, end) + (store if end > load.loading else 0.0)
    wall = driver + load.after
    used = wall * workers
    tail = used - sum(ends)
    lost = {"loading": load.loading * workers, "planning": planning, "driver": waiting, "tail": tail}
    return wall, {name: float(x / used) for name, x in lost.items()}


def _released(load: Workload) -> list[float]:
    """When each chunk may start: those without plans at once and first, the others as their plans are written."""
    late = round(load.planned * load.chunks)
    if not late or not load.planning:
        return [0.0] * load.chunks
    pace = load.planning / load.planners / late
    return [0.0] * (load.chunks - late) + [load.loading + pace * (k + 1) for k in range(late)]


class Table(NamedTuple):
    """Runs by number of workers, and up to how many workers each of LEVELS holds before it fails for the first time
    (None: not even on one). It may hold again beyond, where the last round of chunks happens to be full."""

    runs: tuple[Run, ...]
    holds: dict[float, int | None]


def table(load: Workload, counts: Sequence[int] = COUNTS, seed: int = 0) -> Table:
    """Runs on all these numbers of workers. holds: among COUNTS up to the largest of them, then by bisection."""
    runs = tuple(predict(load, w, seed) for w in sorted(set(counts)))
    return Table(runs, {level: _most(load, level, runs[-1].workers, seed) for level in LEVELS})


def _most(load: Workload, level: float, most: int, seed: int) -> int | None:
    tried = [w for w in COUNTS if w < most] + [most]
    fails = next((w for w in tried if predict(load, w, seed).efficiency < level), None)
    if fails is None or fails == 1:
        return most if fails is None else None
    holds = max(w for w in tried if w < fails)
    while fails - holds > 1:
        middle = (holds + fails) // 2
        holds, fails = (middle, fails) if predict(load, middle, seed).efficiency >= level else (holds, middle)
    return holds


def scaled(load: Workload, times: float) -> Workload:
    """The same study with that many times the items."""
    if not times > 0:
        raise UserError(f"a study cannot be {times:g} times as large")
    works = max(1, round(load.works * times))
    return replace(load, works=works, seconds=load.seconds * times, planning=load.planning * times,
                   after=load.after * times)  # fmt: skip


def shape_of(tokens: Floats, chunk: int) -> list[float]:
    """Relative costs of chunks of works in their order, mean 1: a work costs the tokens that its passes read."""
    whole = len(tokens) // chunk * chunk
    if not whole or not tokens[:whole].any():
        return [1.0]
    sums = tokens[:whole].reshape(-1, chunk).sum(axis=1)
    return [float(x) for x in sums / sums.mean()]
