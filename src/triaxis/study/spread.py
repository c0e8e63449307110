"""A study's rows on several workers: which chunks there are, and what is made of what comes back.

Only this process, the driver, writes to the store; it holds no weights. Planners run on workers of their own, so that
plans are written while rows that need none, or have theirs, are decoded. Which rows share a chunk depends on the
study alone, not on how many workers there are, on which was quicker, or on what a run that was killed had done.
"""

from __future__ import annotations

from collections import ChainMap, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from triaxis.compute import Chunk, Compute, Crew, Done, backend
from triaxis.compute.pool import Pool
from triaxis.conditions import Condition, in_order
from triaxis.errors import UserError, lookup
from triaxis.models.writer import Planner, Writer, Writing, Written
from triaxis.store import Row, Store
from triaxis.study.hands import Asking, Cast, Completing, Introducing, Work, load, work
from triaxis.study.jobs import (
    PART,
    Arms,
    Bank,
    Clock,
    Job,
    Progress,
    Seen,
    answers,
    check_lengths,
    completed,
    executor_card,
    jobs,
    unseen,
    written,
)

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor

EXECUTOR, PLANNER = "executor", "planner"  # roles
PLANNED = 64  # items whose plans are asked for at once: what an interruption can cost
ROWS = {"cpu": (8, 64), "cuda": (16, 128)}  # works of a chunk, least and most: a GPU's batch, and its queue's
SHARES = 64  # chunks a study has at least, where they are not below the least


class Unwritten(Exception):
    """Plans are needed that no worker has written yet. Not an error: the driver asks for them and tries again."""

    def __init__(self, planner: str, writing: Writing, items: tuple[tuple[str, int], ...]) -> None:
        super().__init__(planner)
        self.planner, self.writing, self.items = planner, writing, items


@dataclass(frozen=True)
class Distant(Writer):
    """A planner that workers hold. Hands out what came back from them; for anything else it raises `Unwritten`."""

    found: dict[tuple[str, str, int], Written] = field(default_factory=dict, repr=False, compare=False)

    def take(self, writing: Writing, items: Sequence[tuple[str, int]], made: Sequence[Written]) -> None:
        self.found.update({_key(writing, *item): w for item, w in zip(items, made, strict=True)})

    def _complete(
        self, prompts: Sequence[str], keys: Sequence[int], writing: Writing
    ) -> Iterator[tuple[list[int], list[Written]]]:
        items = tuple(zip(prompts, keys, strict=True))
        missing = tuple(i for i in items if _key(writing, *i) not in self.found)
        if missing:
            raise Unwritten(self.name, writing, missing)
        yield list(range(len(items))), [self.found[_key(writing, *i)] for i in items]


def _key(writing: Writing, prompt: str, key: int) -> tuple[str, str, int]:
    return writing.identity, prompt, key if writing.temperature else 0


# ---------------------------------------------------------------- the crews


class Company:
    """The workers of a study, for as long as it runs; a context manager. `load` starts them, `sample` uses them."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.stack = ExitStack()
        self.pool: Pool | None = None
        self.device = "cpu"  # kind of the executors' devices

    def __enter__(self) -> Company:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def load(
        self, executor: str, dtype: str | None, device: str | None, planners: Sequence[str],
        writing: Mapping[str, object],
    ) -> tuple[Executor, dict[str, Callable[[], Planner]]]:  # fmt: skip
        """Start the workers: the executor as the driver needs it, without weights, and the planners by name.

        UserError as `load_executor` and `planner_table`, and where workers cannot be had.
        """
        from triaxis.plans.sources import planner_table

        described = self._describe(executor, dtype, device)
        table = planner_table(planners, described, writing)
        away = [name for name in planners if not name.startswith("file:")]
        self._hire(Cast(executor, dtype, tuple(away), dict(writing), executor_card(described)))
        return described, {**table, **{name: partial(self._planner, name, {}) for name in away}}

    def _describe(self, spec: str, dtype: str | None, device: str | None) -> Executor:
        """The executor of the workers, and on which kind of device they run it."""
        from triaxis.models.load import describe_checkpoint
        from triaxis.models.quantise import QUANTISED
        from triaxis.sampling.executor import Executor

        if dtype in QUANTISED:
            raise UserError(f"dtype {dtype!r} runs in one process; leave out --compute, or use bf16")
        if device and ":" in device and not self.compute.devices and self.compute.kind != "ray":
            self.compute = replace(self.compute, devices=(device,))
        asked = (*self.compute.devices, device or "")[0]
        self.backend = backend(self.compute)
        self.stack.callback(self.backend.close)
        self.device = asked.partition(":")[0] or ("cuda" if self.backend.gpus() else "cpu")
        lookup("device", ROWS, self.device)
        return Executor(describe_checkpoint(spec, dtype=dtype, kind=self.device))

    def _hire(self, cast: Cast) -> None:
        gpu = self.device == "cuda"
        crews = {EXECUTOR: Crew(partial(load, cast), work, gpu=gpu)}
        others = [name for name in cast.planners if name != "self"]
        if others:
            folders = any(":" not in name for name in others)
            without = replace(cast, card=None, planners=tuple(others))
            crews[PLANNER] = Crew(partial(load, without), work, main=False, gpu=gpu and folders)
        self.pool = self.stack.enter_context(Pool(self.backend, crews, self.compute.timeout))

    def _planner(self, name: str, known: dict[str, Distant]) -> Distant:
        """What a worker says of a planner; asked once."""
        if name not in known:
            assert self.pool is not None
            self.pool.submit(Chunk(_role(name), Introducing(), (name,), (name,)))
            known[name] = Distant(*self.pool.next().results[0])
        return known[name]

    def sample(self, store: Store, arms: Arms, progress: Progress, seen: Seen = unseen) -> None:
        """Make the plans, then every missing row, as `jobs.sample` does, on the workers."""
        assert self.pool is not None
        rows = len(arms.items) * sum(map(arms.completions, arms.table))
        least, most = ROWS[self.device]
        size = self.compute.chunk or max(least, min(most, rows // SHARES))
        spread(store, arms, self.pool, size, progress, seen)


def _role(planner: str) -> str:
    return EXECUTOR if planner == "self" else PLANNER


# ---------------------------------------------------------------- units and chunks


@dataclass(eq=False, slots=True)
class Unit:
    """Conditions of one role over some items whose plans come from one planner, "" for none. owed: texts asked for."""

    items: Sequence[Any]
    table: list[Condition]
    role: str
    planner: str
    owed: int = 0


def units(arms: Arms, table: Sequence[Condition]) -> Iterator[Unit]:
    """All units of a round, those without a planner first."""
    from triaxis.plans.sources import parse

    groups: dict[tuple[str, str], list[Condition]] = {}
    for c in table:
        origin = parse(c.plan)[1] if c.plan and not c.plan.startswith("rows:") else ""
        held = arms.maker.planners[origin]() if origin in arms.maker.planners else None
        planner = origin if isinstance(held, Distant) else ""
        groups.setdefault((planner, _role(c.writer) if c.writer else EXECUTOR), []).append(c)
    for (planner, role), conditions in sorted(groups.items(), key=lambda g: bool(g[0][0])):
        size = PLANNED if planner else PART
        for start in range(0, len(arms.items), size):
            yield Unit(arms.items[start : start + size], conditions, role, planner)


def chunks(arms: Arms, unit: Unit, bank: Bank, present: set[str], size: int) -> Iterator[Chunk]:
    """The unit's chunks that have rows to make, those that take longest first, so that workers end together.

    Prompts of like length, and branches of one prompt, are together. Laid out over all rows, so that a study that goes
    on has the chunks it had before.
    """
    part = replace(arms, items=unit.items)
    groups: dict[Any, dict[Any, list[Job]]] = {}  # common part -> work -> its jobs: identical work is done once
    for condition in unit.table:
        writing = arms.writer(condition).writing if condition.writer else None
        for job in jobs(part, condition, bank):
            common, item = _work(job, writing)
            groups.setdefault(common, {}).setdefault(item, []).append(job)
    made = []
    for common, works in groups.items():
        order = sorted(works, key=lambda w: (len(w[0]), w))
        for start in range(0, len(order), size):
            missing = {w: [j for j in works[w] if j.row.id not in present] for w in order[start : start + size]}
            items = tuple(w for w, owed in missing.items() if owed)
            if items:
                made.append(Chunk(unit.role, common, items, tuple(missing[w] for w in items)))
    yield from sorted(made, key=_cost, reverse=True)


def _cost(chunk: Chunk) -> int:
    """Tokens in all passes of a chunk of rows; characters of a planner's prompts, whose answers are of any length."""
    read, decode = sum(len(w[0]) for w in chunk.items), getattr(chunk.common, "decode", None)
    return decode.steps * (read + len(chunk.items) * decode.gen_length) if decode else read


def _work(job: Job, writing: Writing | None) -> tuple[Any, Any]:
    """(what it has in common with others, the work itself)."""
    if writing is None:
        key = job.key if job.decode.draws else 0
        return Completing(job.decode, job.condition.watch, job.condition.adapter), Work(job.ids, key)
    key = job.key if writing.temperature else 0
    return Asking(job.condition.writer, writing), (job.shown.user, key)


# ---------------------------------------------------------------- the driver's loop


def spread(store: Store, arms: Arms, pool: Pool, size: int, progress: Progress, seen: Seen = unseen) -> None:
    """Make plans and rows on the pool's workers; `size` works a chunk. Conditions that show answers come later."""
    driver = _Driver(store, arms, pool, size, progress, seen)
    for table in in_order(arms.table):
        driver.round(table)


class _Driver:
    def __init__(self, store: Store, arms: Arms, pool: Pool, size: int, progress: Progress, seen: Seen) -> None:
        self.store, self.arms, self.pool, self.size, self.progress, self.seen = store, arms, pool, size, progress, seen
        self.clock, self.present = Clock(store), store.row_ids()
        self.total = len(arms.items) * sum(map(arms.completions, arms.table))
        self.plans = store.plans()
        self.answers: dict[tuple[str, str], Any] = {}  # plans made of rows
        self.plain: dict[str, deque[Unit]] = {role: deque() for role in pool.crews}  # their plans can be made here
        self.planned: deque[Unit] = deque()  # their plans may have to be written first
        self.written = self.to_write = 0  # of those, for the progress
        self.laid: dict[str, deque[tuple[Unit, Bank]]] = {role: deque() for role in pool.crews}
        self.ready: dict[str, deque[Chunk]] = {role: deque() for role in pool.crews}
        if self.present and seen is not unseen:
            seen(arms, store.rows())
        self._tell()

    def round(self, table: Sequence[Condition]) -> None:
        """Every row of these conditions."""
        for source in dict.fromkeys(c.plan for c in table if c.plan.startswith("rows:")):
            self.answers |= answers(self.store, self.arms, source)
        for unit in units(self.arms, table):
            (self.planned if unit.planner else self.plain[unit.role]).append(unit)
        self.to_write += len(self.planned)
        while True:
            while self.planned and self.pool.room(_role(self.planned[0].planner)):
                self._try(self.planned.popleft())
            for role in self.pool.crews:
                while self.pool.room(role) and (chunk := self._next(role)) is not None:
                    self.pool.submit(chunk)
            if not self.pool.busy:
                break
            self._take(self.pool.next())

    def _next(self, role: str) -> Chunk | None:
        """The next chunk of rows of a role, where one can be made now."""
        while not self.ready[role]:
            if not self.laid[role] and self.plain[role]:
                self._try(self.plain[role].popleft())
            elif not self.laid[role]:
                return None
            else:
                unit, bank = self.laid[role].popleft()
                self.ready[role].extend(chunks(self.arms, unit, bank, self.present, self.size))
        return self.ready[role].popleft()

    def _try(self, unit: Unit) -> None:
        """Lay the unit out if its plans are there or can be made here, else have them written."""
        from triaxis.plans import bank

        part = replace(self.arms, items=unit.items)
        sources = list(dict.fromkeys(c.plan for c in unit.table if c.plan and not c.plan.startswith("rows:")))
        try:
            plans = bank.fill(self.store, replace(self.arms.maker, items=unit.items), sources, self.plans)
        except Unwritten as needed:
            unit.owed = len(needed.items)
            for start in range(0, unit.owed, PLANNED):
                items = needed.items[start : start + PLANNED]
                self.pool.submit(
                    Chunk(_role(needed.planner), Asking(needed.planner, needed.writing), items, (unit,) * len(items))
                )
            return
        shown = ChainMap(plans, self.answers)
        check_lengths(part, unit.table, shown)
        self.laid[unit.role].append((unit, shown))
        if unit.planner:
            self.written += 1
            self.progress("planning", self.written, self.to_write)

    def _take(self, done: Done) -> None:
        if isinstance(done.chunk.tags[0], Unit):
            self._planned(done, done.chunk.tags[0])
            return
        make: Callable[[Row, Any], Row] = completed if isinstance(done.chunk.common, Completing) else written
        rows = [make(j.row, r) for js, r in zip(done.chunk.tags, done.results, strict=True) for j in js]
        self.store.append(rows, seconds=self.clock.read())
        self.present.update(r.id for r in rows)
        self.seen(self.arms, rows)
        self._tell()

    def _planned(self, done: Done, unit: Unit) -> None:
        common = done.chunk.common
        planner = self.arms.maker.planners[common.planner]()
        assert isinstance(planner, Distant)
        planner.take(common.writing, done.chunk.items, done.results)
        unit.owed -= len(done.results)
        if not unit.owed:
            self._try(unit)

    def _tell(self) -> None:
        self.progress("sampling", min(len(self.present), self.total), self.total)
