"""A study: executor + planners + task + conditions + decoding + N + seeds, run as a resumable loop.

The loop is plain: which rows are missing -> plan -> sample -> append -> grade -> summarise. It never knows
what a condition means; `conditions.py` holds that as data and `estimate/axes.py` reads it back. It knows
nothing of reports either: what is made of a summary is passed in from above (`report/study.py`).
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from itertools import groupby, product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from triaxis.conditions import Condition, default_conditions, select
from triaxis.errors import UserError, override, suggest
from triaxis.store import GradeRow, PlanRow, Row, Store, identity

if TYPE_CHECKING:
    from typing import Self

    from triaxis.plans.sources import Maker
    from triaxis.sampling.executor import Completion, Executor
    from triaxis.sampling.schedule import Decode
    from triaxis.tasks.base import Item, Task

TINY_PLANNERS = ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")
GRADER = "numeric-1"  # version of the grading rules; grades can be re-made from stored text

Progress = Callable[[str, int, int], None]  # (stage, done, total)
Finish = Callable[[Path], object]  # what is made of a folder once its summary is written


def silent(stage: str, done: int, total: int) -> None:
    pass


def nothing(folder: Path) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a command runs, resumes and reports. Made of names and numbers only; nothing is loaded until `run`.

    conditions: names from the default table; empty means every one the task has plans for. decode: changes to
    the executor family's default protocol. seeds: the first one also chooses the items; arms at temperature 0
    run under the first seed only, because seeds at temperature 0 are not replicates.
    """

    executor: str = "tiny"
    planners: tuple[str, ...] = TINY_PLANNERS
    task: str = "gradeschool"
    n: int = 100
    seeds: tuple[int, ...] = (0,)
    conditions: tuple[str, ...] = ()
    decode: Mapping[str, object] = field(default_factory=dict)
    dtype: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(x, int) for x in (self.n, *self.seeds)):
            raise UserError(f"n={self.n!r} and seeds={self.seeds!r} must be whole numbers")
        if self.n < 2:
            raise UserError(f"n={self.n} is too small: a paired comparison needs at least 2 items")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds={self.seeds!r} must be distinct and at least one")
        if len(set(self.planners)) != len(self.planners):
            raise UserError(f"planners={self.planners!r} names one planner twice")
        self.table()

    def table(self) -> tuple[Condition, ...]:
        """The conditions this study asks for."""
        known = default_conditions(self.planners)
        return select(known, self.conditions) if self.conditions else known

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

    def run(self, out: str | Path, progress: Progress = silent, finish: Finish = nothing) -> dict[str, Any]:
        """Run or go on with the study in folder `out`; the summary, also written there.

        Rows present are kept and only missing ones are made; a study that is there already is not loaded again.
        finish: called with the folder at the end; `triaxis.Study` writes the report there. UserError where `out`
        holds another study, or a name or setting is unknown, and then nothing in it has changed.
        """
        out = Path(out)
        summary = finished(self, out) or _made(self, out, progress)
        progress("report", 0, 1)
        finish(out)
        progress("report", 1, 1)
        return summary


def _made(study: Study, out: Path, progress: Progress) -> dict[str, Any]:
    s = prepare(study, progress)
    with Store(out / "rows.sqlite", write=True) as store:
        bind(store, s, out)
        sample(store, s, progress)
        keep = store.grades() if store.get("grader") == GRADER else {}
        grade(store, s.task, s.items, progress, keep=keep)
        summary = summarise(store, s.protocol)
        write_json(out / "summary.json", summary)
        store.set("sources", sources(study, s.protocol))
    return summary


def held_protocol(folder: Path) -> dict[str, Any]:
    """The protocol card of the study in a folder. UserError if no study was started there."""
    with Store(folder / "rows.sqlite", write=False) as store:
        held = store.get("protocol")
    if held is None:
        raise UserError(f"{folder}: no study was started there; run triaxis diagnose --out {folder}")
    return dict(json.loads(held))


def finished(study: Study, out: Path) -> dict[str, Any] | None:
    """The summary in `out` if it is this study's and nothing that went into it has changed; reads files only."""
    try:
        summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        protocol = held_protocol(out)
        with Store(out / "rows.sqlite", write=False) as store:
            same = store.get("sources") == sources(study, protocol)
        return summary if same and summary["study"]["protocol_hash"] == protocol["protocol_hash"] else None
    except (OSError, ValueError, LookupError, TypeError, UserError):
        return None  # no study, or a damaged one: the long way says what is wrong


def sources(study: Study, protocol: Mapping[str, Any]) -> str:
    """A hash of what a summary is made from: the settings, the models' files, the task's data, the versions."""
    from triaxis.models.folder import find_folder, fingerprint
    from triaxis.sampling.schedule import ENGINE
    from triaxis.tasks import load_task

    folders = [find_folder(p["name"], "planner") for p in protocol["planners"]]
    return identity(
        {
            "spec": study.spec(),
            "files": [fingerprint(folder) for folder in (find_folder(study.executor, "executor"), *folders)],
            "task": load_task(study.task).revision,
            "versions": [versions(), ENGINE, GRADER],
        }
    )


def versions() -> dict[str, str]:
    """Versions of what a row or a number may depend on."""
    packages = ("triaxis", "torch", "transformers", "tokenizers", "numpy", "scipy")
    return {p: version(p) for p in packages} | {"python": platform.python_version()}


@dataclass(frozen=True)
class OpenStudy:
    """A study with everything loaded: executor, task, items, planners, and its protocol card."""

    study: Study
    table: tuple[Condition, ...]  # the conditions that run
    executor: Executor
    task: Task
    items: Sequence[Item]
    maker: Maker

    def decode(self, condition: Condition) -> Decode:
        """The protocol of one condition: the study's, at the condition's temperature."""
        base = self.base_decode
        return base if condition.temperature is None else replace(base, temperature=condition.temperature)

    def seeds(self, condition: Condition) -> tuple[int, ...]:
        """The seeds a condition runs under: the first one only, where nothing in it is random."""
        decode = self.decode(condition)
        random = decode.temperature > 0 or decode.remasking == "random"
        return self.study.seeds if random else self.study.seeds[:1]

    @cached_property
    def base_decode(self) -> Decode:
        return override(self.executor.default_decode(), self.study.decode)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        return protocol_card(self)


def prepare(study: Study, progress: Progress = silent) -> OpenStudy:
    """Check every name and load the executor and the task, before anything is written."""
    from triaxis.models.folder import find_folder
    from triaxis.tasks import load_task

    task = load_task(study.task)
    items = task.items(study.n, seed=study.seeds[0])
    for planner in study.planners:
        find_folder(planner, "planner")
    find_folder(study.executor, "executor")
    table = runnable(study, task)
    progress("loading", 0, 1)
    from triaxis.plans.sources import Maker, planner_table
    from triaxis.sampling.executor import load_executor

    executor = load_executor(study.executor, dtype=study.dtype, device=study.device)
    maker = Maker(task, items, executor, planner_table(study.planners), study.seeds[0])
    opened = OpenStudy(study, table, executor, task, items, maker)
    _ = opened.protocol  # loads the planners and checks the settings
    return opened


def runnable(study: Study, task: Task) -> tuple[Condition, ...]:
    """The study's conditions; of the default ones, those that the task has plans for.

    Conditions named by the user are never left out: UserError names those to leave out. Every item of the task
    counts, not only the n chosen, so that the conditions do not change with n.
    """
    from triaxis.plans.read import gold_plan

    table = study.table()
    without = [c.name for c in table if c.needs_gold]
    item = next((i for i in task.items() if not gold_plan(i)), None) if without else None
    if item is not None and study.conditions:
        reason = f"item {item.id} of task {task.name!r} has no solution to make a gold plan of"
        raise UserError(f"{reason}; add one, or leave out the conditions {', '.join(without)}")
    return table if item is None else tuple(c for c in table if not c.needs_gold)


def protocol_card(s: OpenStudy) -> dict[str, Any]:
    """Everything a reader must know to compare two studies; `protocol_hash` covers how text becomes a row."""
    from triaxis.sampling.schedule import ENGINE

    protocol = {
        "executor": _executor_card(s.executor),
        "decode": s.base_decode.card(),
        "task": {"name": s.task.name, "revision": s.task.revision, "grader": GRADER},
        "engine": ENGINE,
    }
    shown = dict.fromkeys(c.planner for c in s.table if c.planner in s.study.planners)
    planners = [s.maker.planners[name]() for name in shown]
    whole = {
        **protocol,
        "planners": [{"name": p.name, "identity": p.identity, "parameters": p.parameters} for p in planners],
        "conditions": [{**c.card(), "completions": c.branches * len(s.seeds(c))} for c in s.table],
        "seeds": list(s.study.seeds),
        "n": s.study.n,
        "items_hash": identity({"items": [i.id for i in s.items]}),
    }
    return {
        "protocol_hash": identity(protocol),
        "study_hash": identity(whole),
        **whole,
        "spec": s.study.spec(),
        "versions": versions(),
    }


def _executor_card(executor: Executor) -> dict[str, Any]:
    family = executor.checkpoint.family
    weights = next(executor.checkpoint.network.parameters())
    return {
        "name": executor.name,
        "fingerprint": executor.fingerprint,
        "family": family.name,
        "parameters": executor.parameters,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "device": weights.device.type,
        "start": family.start,
        "content": family.content,
        "reply": family.reply,
        "ends": list(family.ends),
    }


def bind(store: Store, s: OpenStudy, out: Path) -> None:
    """Tie the folder to this study, or refuse it if it holds another one, naming the first difference."""
    held = store.get("protocol")
    before = s.protocol if held is None else json.loads(held)
    if before["study_hash"] != s.protocol["study_hash"]:
        raise UserError(f"{out} holds another study ({_difference(before, s.protocol)}); choose another --out")
    if held is None:
        store.set("protocol", json.dumps(s.protocol, ensure_ascii=False))
    write_json(out / "protocol.json", before)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two protocol cards differ, in words."""
    for key in ("n", "seeds", "task", "executor", "decode", "planners", "conditions", "engine", "items_hash"):
        was, here, what = before.get(key), now.get(key), key
        while was != here:
            if isinstance(was, list) and isinstance(here, list) and all(isinstance(x, dict) for x in was + here):
                was, here = {x["name"]: x for x in was}, {x["name"]: x for x in here}
                if list(was) != list(here):
                    was, here = list(was), list(here)
            if not (isinstance(was, dict) and isinstance(here, dict)):
                return f"its {what} is {was!r}, here {here!r}"
            part = next(k for k in {**was, **here} if was.get(k) != here.get(k))
            was, here, what = was.get(part), here.get(part), f"{what} {part}"
    return "its protocol differs"


@dataclass(frozen=True, slots=True)
class Job:
    """One row to make: what to show, which random stream, and the row it will become."""

    row: Row
    prompt: tuple[int, ...]
    key: int


def jobs(s: OpenStudy, condition: Condition, bank: Mapping[tuple[str, str], PlanRow]) -> Iterator[Job]:
    """All rows of one condition, as jobs. A row's id hashes everything that can change it."""
    from triaxis.sampling.noise import stream_key

    executor = {k: v for k, v in s.protocol["executor"].items() if k != "name"}
    common = {
        "condition": condition.name,
        "task": s.task.revision,
        "executor": identity(executor),
        "engine": s.protocol["engine"],
        "decode": s.decode(condition).card(),
    }
    for item in s.items:
        plan = bank[condition.plan, item.id] if condition.plan else None
        user = condition.scaffold.render(item.question, plan.text if plan else None)
        ids = tuple(s.executor.prompt_ids(user))
        for seed, branch in product(s.seeds(condition), range(condition.branches)):
            name = identity({**common, "item": item.id, "prompt": ids, "seed": seed, "branch": branch})
            row = Row(name, condition.name, item.id, branch, seed, plan.id if plan else "", user, "", 0, 0, False)
            yield Job(row, ids, stream_key(seed, item.id, branch))


def make_plans(store: Store, s: OpenStudy, progress: Progress) -> dict[tuple[str, str], PlanRow]:
    """Every plan the conditions show, by (source, item id); those already stored are not made again."""
    from triaxis.plans import bank

    names = list(dict.fromkeys(c.plan for c in s.table if c.plan))
    plans: dict[tuple[str, str], PlanRow] = {}
    for done, source in enumerate(names):
        progress("planning", done, len(names))
        plans |= bank.fill(store, s.maker, [source])
    return plans


def sample(store: Store, s: OpenStudy, progress: Progress) -> None:
    """Make the plans, then every missing row, appending after each batch."""
    began, before = time.monotonic(), float(store.get("seconds") or 0)
    plans = make_plans(store, s, progress)
    groups: dict[Decode, list[Job]] = {}
    for condition in s.table:
        groups.setdefault(s.decode(condition), []).extend(jobs(s, condition, plans))
    for decode, group in groups.items():
        check_lengths(s, decode, group)
    present = store.row_ids()
    missing = {decode: [j for j in group if j.row.id not in present] for decode, group in groups.items()}
    total = sum(map(len, groups.values()))
    done = total - sum(map(len, missing.values()))
    progress("sampling", done, total)
    for decode, group in missing.items():

        def append(places: list[int], completions: list[Completion], group: list[Job] = group) -> None:
            nonlocal done
            store.append(_completed(group[i].row, c) for i, c in zip(places, completions, strict=True))
            store.set("seconds", str(before + time.monotonic() - began))
            done += len(places)
            progress("sampling", done, total)

        s.executor.complete([j.prompt for j in group], [j.key for j in group], decode, append)


def check_lengths(s: OpenStudy, decode: Decode, group: Sequence[Job]) -> None:
    """UserError that counts the items whose longest prompt is too long; no item is left out in silence."""
    context = s.executor.checkpoint.config.max_sequence_length
    long = [j for j in group if len(j.prompt) + decode.gen_length > context]
    if long:
        worst = max(long, key=lambda j: len(j.prompt))
        raise UserError(
            f"{len({j.row.item for j in long})} of {len(s.items)} items do not fit into the {context} tokens of "
            f"executor {s.executor.name!r} with gen_length={decode.gen_length} ({worst.row.item} in condition "
            f"{worst.row.condition} has {len(worst.prompt)}); leave out such items or conditions, or lower gen_length"
        )


def _completed(row: Row, c: Completion) -> Row:
    return replace(row, text=c.text, tokens=c.forward_tokens, forwards=c.forwards, ended=c.ended)


def grade(
    store: Store, task: Task, items: Sequence[Item], progress: Progress = silent,
    *, second: bool = True, keep: Mapping[str, GradeRow] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Grade every stored row that has no grade in `keep`; the result replaces all stored grades. Needs no model."""
    from triaxis.tasks.grading import grade_many

    item = {i.id: i for i in items}
    rows = [r for r in store.rows() if r.item in item]
    made = [keep[r.id] for r in rows if r.id in keep]
    asked = {None: -1, True: 1, False: 0}
    for _, group in groupby((r for r in rows if r.id not in keep), key=lambda r: r.condition):
        progress("grading", len(made), len(rows))
        part = list(group)
        graded = grade_many(task, [r.text for r in part], [item[r.item] for r in part], second=second)
        made += [GradeRow(r.id, g.verdict, g.answer, g.how, asked[g.second]) for r, g in zip(part, graded, strict=True)]
    store.replace_grades(made)
    store.set("grader", GRADER)
    progress("grading", len(rows), len(rows))


def summarise(store: Store, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's summary object, from stored rows, grades and plans alone."""
    from triaxis.estimate import axes

    rows = store.rows()
    t = axes.arrange(rows, store.grades(), store.plans(), protocol["conditions"], protocol["n"])
    lines = axes.condition_rows(t)
    found = axes.axes(t, {p["name"]: p["parameters"] for p in protocol["planners"]})
    return {
        "schema": 1,
        "study": {
            "executor": protocol["executor"]["name"],
            "planners": [p["name"] for p in protocol["planners"]],
            "task": protocol["task"]["name"],
            "n": protocol["n"],
            "seeds": protocol["seeds"],
            "protocol_hash": protocol["protocol_hash"],
        },
        "conditions": lines,
        "axes": found,
        "cost": {"seconds": round(float(store.get("seconds") or 0), 1), **_work(rows, protocol), "dollars": None},
        "warnings": [*_notes(protocol), *axes.warnings(t, lines, found)],
    }


def _work(rows: Sequence[Row], protocol: Mapping[str, Any]) -> dict[str, int]:
    """Forwards and tokens of what ran: rows with one prompt and one random stream were sampled once and count once."""
    base = protocol["decode"]
    heats = {
        c["name"]: base["temperature"] if c["temperature"] is None else c["temperature"] for c in protocol["conditions"]
    }
    ran = {}
    for r in rows:
        draws = heats[r.condition] > 0 or base["remasking"] == "random"
        ran[r.prompt, heats[r.condition], (r.item, r.seed, r.branch) if draws else None] = r
    return {"forwards": sum(r.forwards for r in ran.values()), "tokens": sum(r.tokens for r in ran.values())}


def _notes(protocol: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know of the protocol before reading the numbers."""
    ran = {c["name"] for c in protocol["conditions"]}
    names = [c.name for c in Study.from_spec(protocol["spec"]).table() if c.name not in ran]
    if names:
        yield f"left out {', '.join(names)}: the task has items without a solution to make a gold plan of"
    first, *others = protocol["seeds"]
    once = sum(c["completions"] == c["branches"] for c in protocol["conditions"])
    if others and once:
        yield f"{once} conditions ran under seed {first} only: at temperature 0 seeds are no replicates"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON by replacing the file in one move."""
    scratch = path.with_suffix(".partial")
    try:
        scratch.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        scratch.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot write ({e.strerror}); rows already written are safe") from None


def regrade(folder: Path, progress: Progress = silent, *, second: bool = True) -> dict[str, Any]:
    """Grade a finished study's stored texts again, re-make its summary, and return it."""
    from triaxis.tasks import load_task

    protocol = held_protocol(folder)
    study = Study.from_spec(protocol["spec"])
    task = load_task(study.task)
    if task.revision != protocol["task"]["revision"]:
        was = protocol["task"]["revision"]
        raise UserError(f"{folder}: task {study.task!r} is now revision {task.revision}, its rows are of {was}")
    with Store(folder / "rows.sqlite", write=True) as store:
        grade(store, task, task.items(study.n, seed=study.seeds[0]), progress, second=second)
        summary = summarise(store, protocol)
        write_json(folder / "summary.json", summary)
    return summary
