"""A study: executor + planners + task + conditions + decoding + N + seeds, run as a resumable loop.

The loop is plain: which rows are missing -> plan -> sample -> append -> grade -> summarise. It never knows
what a condition means; `conditions.py` holds that as data and `estimate/axes.py` reads it back. It knows
nothing of reports either: what is made of a summary is passed in from above (`report/study.py`).

Its parts, each above the ones before: `jobs.py` (which rows are missing, and making them here), `hands.py` and
`spread.py` (on several workers), `kept.py` and `gather.py` (rows read as columns), `summary.py` (grades and the
summary). Above it lies `integrity.py`, which looks whether a finished study is what was written.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.compute.processes import cores
from triaxis.conditions import Condition, load_preset, select, under
from triaxis.errors import UserError, lookup, override, suggest
from triaxis.limits import parse_json, read_text
from triaxis.store import Store, identity
from triaxis.store.protocol import first_difference as _difference
from triaxis.store.protocol import hashes, read_protocol
from triaxis.study.jobs import Arms, Progress, Seen, executor_card, sample, silent, unseen
from triaxis.study.summary import GRADER, grade, held_protocol, summarise, write_json
from triaxis.version import __version__

if TYPE_CHECKING:
    from typing import Self

    from triaxis.compute import Compute
    from triaxis.models.writer import Planner
    from triaxis.sampling.executor import Executor
    from triaxis.tasks.base import Item, Task

TINY_PLANNERS = ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")

Finish = Callable[[Path], object]  # what is made of a folder once its summary is written
Sampler = Callable[[Store, Arms, Progress, Seen], None]  # makes the rows that are missing
# (executor, dtype, device, planners, writing) to the executor and the planners by name
Load = Callable[..., "tuple[Executor, dict[str, Callable[[], Planner]]]"]


def nothing(folder: Path) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a command runs, resumes and reports. Made of names and numbers only; nothing is loaded until `run`.

    preset: a shipped table of conditions or a TOML file of one's own. conditions: names from it; empty means every
    one the task has plans for. decode: changes to the executor family's default protocol. writing: changes to how
    planners write. seeds: the first one also chooses the items; arms at temperature 0 run under the first seed only,
    because seeds at temperature 0 are not replicates. stop_when: "resolved" ends the study once every main contrast is
    (anytime-valid e-values). adapter: an adapter schedule for every arm of the executor that names none itself; beside:
    next to the same arms without it.
    """

    executor: str = "tiny"
    planners: tuple[str, ...] = TINY_PLANNERS
    task: str = "gradeschool"
    n: int = 100
    seeds: tuple[int, ...] = (0,)
    conditions: tuple[str, ...] = ()
    decode: Mapping[str, object] = field(default_factory=dict)
    writing: Mapping[str, object] = field(default_factory=dict)
    dtype: str | None = None
    device: str | None = None
    preset: str = "quick"
    stop_when: str = ""
    adapter: str = ""
    beside: bool = False

    def __post_init__(self) -> None:
        if not all(isinstance(x, int) for x in (self.n, *self.seeds)):
            raise UserError(f"n={self.n!r} and seeds={self.seeds!r} must be whole numbers")
        if self.n < 2:
            raise UserError(f"n={self.n} is too small: a paired comparison needs at least 2 items")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds={self.seeds!r} must be distinct and at least one")
        if len(set(self.planners)) != len(self.planners):
            raise UserError(f"planners={self.planners!r} names one planner twice")
        lookup("rule for stopping", {"": None, "resolved": None}, self.stop_when)
        self.table()

    def table(self) -> tuple[Condition, ...]:
        """The conditions this study asks for."""
        known = load_preset(self.preset).conditions(self.planners)
        chosen = select(known, self.conditions) if self.conditions else known
        return under(chosen, self.adapter, beside=self.beside) if self.adapter else chosen

    def spec(self) -> dict[str, Any]:
        """The study as plain data, enough to make it again."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """The study of a `spec()`."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
        unknown = [k for k in given if k not in cls.__dataclass_fields__]
        if unknown:
            raise UserError(f"unknown study setting {unknown[0]!r}{suggest(unknown[0], cls.__dataclass_fields__)}")
        return cls(**given)

    @classmethod
    def reopen(cls, folder: str | Path) -> Self:
        """The study that a folder holds. UserError if it holds none."""
        return cls.from_spec(held_protocol(Path(folder))["spec"])

    def run(
        self,
        out: str | Path,
        progress: Progress = silent,
        finish: Finish = nothing,
        prereg: Path | None = None,
        seen: Seen = unseen,
        compute: Compute | str | None = None,
    ) -> dict[str, Any]:
        """Run or go on with the study in folder `out`; the summary, also written there.

        Rows present are kept and only missing ones are made; a study that is there already is not loaded again.
        finish: called with the folder at the end; `triaxis.Study` writes the report there. prereg: a file of
        predictions whose hash is stamped into the study, with the number of rows that were there before. seen: told of
        rows as they are stored. compute: workers that make the rows, "processes", "ray" or a `Compute`; by default
        this process. It changes no row, and a study may go on with another.
        UserError where `out` holds another study, or a name or setting is unknown; then nothing in it has changed.
        """
        out = Path(out)
        summary = (finished(self, out) if prereg is None else None) or _made(self, out, progress, prereg, seen, compute)
        progress("report", 0, 1)
        finish(out)
        progress("report", 1, 1)
        return summary

    def sample(
        self, out: str | Path, progress: Progress = silent, seen: Seen = unseen, compute: Compute | str | None = None
    ) -> int:
        """Make the plans and rows only, and count the rows; `triaxis grade` makes the rest, on any machine.

        Needs no package for grading, statistics or pages. Errors as `run`.
        """
        with opened(self, progress, compute) as (s, fill), Store(Path(out) / "rows.sqlite", write=True) as store:
            bind(store, s, Path(out))
            fill(store, s.arms, progress, seen)
            return len(store.row_ids())


@contextmanager
def opened(
    study: Study, progress: Progress = silent, compute: Compute | str | None = None
) -> Iterator[tuple[OpenStudy, Sampler]]:
    """The study with everything loaded, and what makes its rows: this process, or workers for as long as it is open."""
    if compute is None:
        yield prepare(study, progress), sample
        return
    from triaxis.compute import Compute
    from triaxis.study.spread import Company

    with Company(Compute(kind=compute) if isinstance(compute, str) else compute) as company:
        yield prepare(study, progress, company.load), company.sample


def _made(
    study: Study, out: Path, progress: Progress, prereg: Path | None, seen: Seen, compute: Compute | str | None
) -> dict[str, Any]:
    if prereg is not None:
        from triaxis.estimate.prereg import load

        load(prereg)  # a file that cannot be used is refused before anything else is loaded
    with opened(study, progress, compute) as (s, fill), Store(out / "rows.sqlite", write=True) as store:
        bind(store, s, out)
        if prereg is not None:
            _stamp(store, prereg)
        for part in _parts(s):
            fill(store, part.arms, progress, seen)
            grade(store, s.task, part.items, progress)
            store.set("items", str(len(part.items)))
            if study.stop_when and settled(store, s.protocol, len(s.items) - len(part.items)):
                break
        readers = 1 if compute is None else cores()  # who has workers may start further processes
        summary = summarise(store, s.protocol, readers)
        write_json(out / "summary.json", summary)
        store.set("sources", sources(study, s.protocol))
    return summary


def _stamp(store: Store, prereg: Path) -> None:
    """Stamp the predictions into the study, once. UserError where it holds the stamp of another file."""
    from triaxis.estimate.prereg import digest, stamp

    held = store.get("prereg")
    if held is None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        store.set("prereg", stamp(prereg, rows_before=len(store.row_ids()), stamped_at=at))
    elif parse_json(held)["hash"] != digest(prereg):
        raise UserError(
            f"{prereg}: the study was stamped with other predictions; keep that file, or choose another --out"
        )


def _parts(s: OpenStudy, size: int = 20) -> Iterator[OpenStudy]:
    """The study at 20, 40, 60, ... items where it may stop early, else whole."""
    sizes = range(size, len(s.items), size) if s.study.stop_when else ()
    yield from (replace(s, items=s.items[:n]) for n in sizes)
    yield s


def settled(store: Store, protocol: Mapping[str, Any], left: int) -> bool:
    """Whether every main contrast is resolved, or `left` more items could not resolve it."""
    from triaxis.estimate import axes, sequential

    n = int(store.get("items") or 0)
    t = axes.arrange(store.rows(), store.grades(), store.plans(), protocol["conditions"], n)
    counts = axes.main_contrasts(t)
    return all(
        sequential.resolved(gain, loss, comparisons=len(counts))
        or not sequential.resolvable(gain, loss, left, comparisons=len(counts))
        for gain, loss in counts
    )


def finished(study: Study, out: Path) -> dict[str, Any] | None:
    """The summary in `out` if it is this study's and nothing that went into it has changed; reads files only."""
    try:
        summary: dict[str, Any] = parse_json(read_text(out / "summary.json", "card"))
        protocol = held_protocol(out)
        with Store(out / "rows.sqlite", write=False) as store:
            same = store.get("sources") == sources(study, protocol)
        return summary if same and summary["study"]["protocol_hash"] == protocol["protocol_hash"] else None
    except (OSError, ValueError, LookupError, TypeError, UserError):
        return None  # no study, or a damaged one: the long way says what is wrong


def sources(study: Study, protocol: Mapping[str, Any]) -> str:
    """A hash of what a summary is made from: the settings, the models' files, the task's data, the versions."""
    from triaxis.models.folder import find_checkpoint, fingerprint
    from triaxis.sampling.schedule import ENGINE
    from triaxis.tasks import load_task

    return identity(
        {
            "spec": study.spec(),
            "files": [
                fingerprint(find_checkpoint(study.executor, "executor")[0]),
                *(_source(p["name"], p["identity"]) for p in protocol["planners"]),
            ],
            "task": load_task(study.task).revision,
            "adapters": _adapters(study),
            "versions": [versions(), ENGINE, GRADER],
        }
    )


def _source(planner: str, held: str) -> str:
    """What a planner's plans come from now: its files where it has some, else what it was when the study ran."""
    from triaxis.models.folder import find_folder, fingerprint
    from triaxis.models.planner import check_planner
    from triaxis.plans.files import open_bank

    kind = check_planner(planner)
    if not kind:
        return fingerprint(find_folder(planner, "planner"))
    return open_bank(planner).identity if kind == "file" else held


def _adapters(study: Study) -> dict[str, Any]:
    specs = dict.fromkeys(c.adapter for c in study.table() if c.adapter)
    if not specs:
        return {}
    from triaxis.models.schedules import Schedule  # torch: only where there is an adapter

    return {spec: Schedule.parse(spec).card() for spec in specs}


def versions() -> dict[str, str]:
    """Versions of what a row or a number may depend on. Our own is not read from metadata: a checkout has none."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "scipy")
    return {"triaxis": __version__, **{p: version(p) for p in packages}, "python": platform.python_version()}


@dataclass(frozen=True)
class OpenStudy:
    """A study with everything loaded: its arms, and its protocol card."""

    study: Study
    arms: Arms
    items: Sequence[Item]
    left_out: Mapping[str, str]  # conditions that cannot run, and why

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", replace(self.arms, items=self.items))

    @property
    def task(self) -> Task:
        return self.arms.task

    @cached_property
    def protocol(self) -> dict[str, Any]:
        return protocol_card(self)


def _load_here(
    executor: str, dtype: str | None, device: str | None, planners: Sequence[str], writing: Mapping[str, object]
) -> tuple[Executor, dict[str, Callable[[], Planner]]]:
    from triaxis.plans.sources import planner_table
    from triaxis.sampling.executor import load_executor

    loaded = load_executor(executor, dtype=dtype, device=device)
    return loaded, planner_table(planners, loaded, writing)


def prepare(study: Study, progress: Progress = silent, load: Load = _load_here) -> OpenStudy:
    """Check every name and load the executor and the task, before anything is written. load: where models are had."""
    from triaxis.models.folder import find_checkpoint
    from triaxis.models.planner import check_planner
    from triaxis.tasks import load_task

    task = load_task(study.task)
    items = task.items(study.n, seed=study.seeds[0])
    for planner in study.planners:
        check_planner(planner)
    find_checkpoint(study.executor, "executor")
    runnable(study, task, "")  # what the user must mend is said before anything is loaded
    progress("loading", 0, 1)
    from triaxis.plans.sources import Maker
    from triaxis.sampling.schedule import ENGINE

    executor, planners = load(study.executor, study.dtype, study.device, study.planners, study.writing)
    table, left_out = runnable(study, task, executor.checkpoint.family.system)
    for spec in dict.fromkeys(c.adapter for c in table if c.adapter):
        executor.with_adapters(spec)  # one that does not fit is refused before anything is written
    preset = load_preset(study.preset)
    decode = override(executor.default_decode(), {**preset.decode, **study.decode})
    maker = Maker(task, items, executor, planners, study.seeds[0])
    arms = Arms(table, executor, task, items, maker, study.seeds, decode, ENGINE, preset.writer)
    opened = OpenStudy(study, arms, items, left_out)
    _ = opened.protocol  # loads the planners and checks the settings
    return opened


NO_TURN = "the executor's family has no system turn"
NO_PLAN = "the task has items without a solution to make a gold plan of"


def runnable(study: Study, task: Task, system: str) -> tuple[tuple[Condition, ...], dict[str, str]]:
    """The study's conditions that can run, and why the others cannot, with what hangs on them.

    Conditions named by the user are never left out: UserError names those to leave out. Every item of the task
    counts, not only the n chosen, so that the conditions do not change with n. system: the family's system turn.
    """
    from triaxis.plans.read import gold_plan

    table, out = study.table(), dict[str, str]()
    needy = [c.name for c in table if c.needs_gold]
    item = next((i for i in task.items() if not gold_plan(i)), None) if needy else None
    if item is not None and study.conditions:
        reason = f"item {item.id} of task {task.name!r} has no solution to make a gold plan of"
        raise UserError(f"{reason}; add one, or leave out the conditions {', '.join(needy)}")
    for c in table:
        if c.needs_gold and item is not None:
            out[c.name] = NO_PLAN
        if c.scaffold.placement == "system" and not (system or c.writer or study.conditions):
            out[c.name] = NO_TURN
    while more := {c.name: out[n] for c in table for n in (c.against, c.stage) if n in out and c.name not in out}:
        out |= more
    return tuple(c for c in table if c.name not in out), out


def protocol_card(s: OpenStudy) -> dict[str, Any]:
    """Everything a reader must know to compare two studies; `protocol_hash` covers how text becomes a row."""
    arms = s.arms
    shown = dict.fromkeys(n for c in arms.table for n in (c.planner, c.writer) if n in s.study.planners)
    planners = [planner_card(arms.maker.planners[name]()) for name in shown]
    whole = {
        "executor": executor_card(arms.executor),
        "decode": arms.base_decode.card(),
        "task": {"name": s.task.name, "revision": s.task.revision, "grader": GRADER},
        "engine": arms.engine,
        "planners": planners,
        "conditions": [{**c.card(), "completions": arms.completions(c)} for c in arms.table],
        "seeds": list(s.study.seeds),
        "n": s.study.n,
        "items_hash": identity({"items": [i.id for i in s.items]}),
    }
    if arms.adapter_cards:  # an adapter trained anew at the same place is another study
        whole["adapters"] = {spec: identity({"schedule": card}) for spec, card in arms.adapter_cards.items()}
    return {
        **hashes(whole),
        **whole,
        "left_out": dict(s.left_out),
        "spec": s.study.spec(),
        "versions": versions(),
    }


def planner_card(p: Planner) -> dict[str, Any]:
    """A planner as plain data; how it writes, where it is a model."""
    writing = getattr(p, "writing", None)
    more = {} if writing is None else {"writing": asdict(writing)}
    return {"name": p.name, "identity": p.identity, "parameters": p.parameters, **more}


def bind(store: Store, s: OpenStudy, out: Path) -> None:
    """Tie the folder to this study, or refuse it if it holds another one, naming the first difference."""
    held = store.get("protocol")
    before = s.protocol if held is None else read_protocol(held, out)
    if before["study_hash"] != s.protocol["study_hash"]:
        raise UserError(f"{out} holds another study ({_difference(before, s.protocol)}); choose another --out")
    if held is None:
        store.set("protocol", json.dumps(s.protocol, ensure_ascii=False))
    if store.get("sizes") is None:  # what operations are counted from
        from triaxis.models.load import sizes_of

        store.set("sizes", json.dumps(asdict(sizes_of(s.arms.executor.checkpoint.config))))
    write_json(out / "protocol.json", before)
