"""A study: executor + planners + task + conditions + decoding + N + seeds, run as a resumable loop.

The loop is plain: which rows are missing -> plan -> sample -> append -> grade -> summarise. It never knows
what a condition means; `conditions.py` holds that as data and `estimate/axes.py` reads it back.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.conditions import Condition, default_conditions, select
from triaxis.errors import UserError, override, suggest
from triaxis.store import GradeRow, PlanRow, Row, Store, identity

if TYPE_CHECKING:
    from triaxis.plans.sources import Maker
    from triaxis.sampling.executor import Completion, Executor
    from triaxis.sampling.schedule import Decode
    from triaxis.tasks.base import Item, Task

TINY_PLANNERS = ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")
GRADER = "numeric-1"  # version of the grading rules; grades can be re-made from stored text

Progress = Callable[[str, int, int], None]  # (stage, done, total)


def _silent(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What a command runs, resumes and reports. Made of names and numbers only; nothing is loaded until `run`.

    conditions: names from the default table; empty means all of them. decode: changes to the executor
    family's default protocol. seeds: the first one also chooses the items; arms at temperature 0 run under
    the first seed only, because seeds at temperature 0 are not replicates.
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
        if self.n < 2:
            raise UserError(f"n={self.n} is too small: a paired comparison needs at least 2 items")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds={self.seeds!r} must be distinct and at least one")
        if len(set(self.planners)) != len(self.planners):
            raise UserError(f"planners={self.planners!r} names one planner twice")
        self.table()

    def table(self) -> tuple[Condition, ...]:
        """The conditions this study runs."""
        known = default_conditions(self.planners)
        return select(known, self.conditions) if self.conditions else known

    def spec(self) -> dict[str, Any]:
        """The study as plain data, enough to make it again."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Study:
        """The study of a `spec()`."""
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
        unknown = [k for k in fields if k not in cls.__dataclass_fields__]
        if unknown:
            raise UserError(f"unknown study setting {unknown[0]!r}{suggest(unknown[0], cls.__dataclass_fields__)}")
        return cls(**fields)

    def run(self, out: str | Path, progress: Progress = _silent) -> dict[str, Any]:
        """Run or go on with the study in folder `out`; the summary, also written there with the report.

        Rows present are kept; only missing ones are made. UserError where `out` holds another study.
        """
        began = time.monotonic()
        out = Path(out)
        open_study = prepare(self, progress)
        with Store(out / "rows.sqlite", write=True) as store:
            bind(store, open_study, out)
            sample(store, open_study, progress)
            spent = float(store.get("seconds") or 0) + time.monotonic() - began
            store.set("seconds", str(spent))
            progress("grading", 0, 1)
            grade(store, open_study.task, {i.id: i for i in open_study.items})
            summary = summarise(store, open_study.protocol)
        write_json(out / "summary.json", summary)
        from triaxis.report import render

        render(out)
        progress("report", 1, 1)
        return summary


@dataclass(frozen=True)
class OpenStudy:
    """A study with everything loaded: executor, task, items, planners, and its protocol card."""

    study: Study
    executor: Executor
    task: Task
    items: Sequence[Item]
    maker: Maker
    protocol: dict[str, Any]

    def decode(self, condition: Condition) -> Decode:
        """The protocol of one condition: the study's, at the condition's temperature."""
        base = self.base_decode
        return base if condition.temperature is None else replace(base, temperature=condition.temperature)

    @property
    def base_decode(self) -> Decode:
        return override(self.executor.default_decode(), self.study.decode)


def prepare(study: Study, progress: Progress = _silent) -> OpenStudy:
    """Check every name and load the executor and the task, before anything is written."""
    from triaxis.models.load import find_folder
    from triaxis.tasks import load_task

    task = load_task(study.task)
    items = task.items(study.n, seed=study.seeds[0])
    for planner in study.planners:
        find_folder(planner, "planner")
    find_folder(study.executor, "executor")
    progress("loading", 0, 1)
    from triaxis.plans.sources import Maker, planner_table
    from triaxis.sampling.executor import load_executor

    executor = load_executor(study.executor, dtype=study.dtype, device=study.device)
    planners = planner_table(study.planners)
    maker = Maker(task, items, executor, planners, study.seeds[0])
    opened = OpenStudy(study, executor, task, items, maker, {})
    opened.protocol.update(protocol_card(opened))
    return opened


def protocol_card(s: OpenStudy) -> dict[str, Any]:
    """Everything a reader must know to compare two studies; `protocol_hash` covers how text becomes a row."""
    family = s.executor.checkpoint.family
    weights = next(s.executor.checkpoint.network.parameters())
    protocol: dict[str, Any] = {
        "executor": {
            "name": s.executor.name,
            "fingerprint": s.executor.fingerprint,
            "family": family.name,
            "parameters": s.executor.parameters,
            "dtype": str(weights.dtype).removeprefix("torch."),
            "device": weights.device.type,
            "start": family.start,
            "content": family.content,
            "reply": family.reply,
            "ends": list(family.ends),
        },
        "decode": s.base_decode.card(),
        "task": {"name": s.task.name, "revision": s.task.revision, "grader": GRADER},
        "engine": _engine(),
    }
    conditions = [c.card() for c in s.study.table()]
    planners = [{"name": p, **_planner_card(s, p)} for p in s.study.planners if _is_shown(p, s.study.table())]
    whole = {
        **protocol,
        "planners": planners,
        "conditions": conditions,
        "seeds": list(s.study.seeds),
        "n": s.study.n,
        "items_hash": identity({"items": [i.id for i in s.items]}),
    }
    versions = {p: version(p) for p in ("triaxis", "torch", "transformers", "tokenizers", "numpy", "scipy")}
    return {
        "protocol_hash": identity(protocol),
        "study_hash": identity(whole),
        **whole,
        "spec": s.study.spec(),
        "versions": versions | {"python": platform.python_version()},
    }


def _is_shown(planner: str, table: Sequence[Condition]) -> bool:
    return any(c.planner == planner for c in table)


def _planner_card(s: OpenStudy, name: str) -> dict[str, Any]:
    planner = s.maker.planners[name]()
    return {"identity": planner.identity, "parameters": planner.parameters}


def _engine() -> str:
    from triaxis.sampling.executor import ENGINE

    return ENGINE


def bind(store: Store, s: OpenStudy, out: Path) -> None:
    """Tie the folder to this study, or refuse it if it holds another one, naming the first difference."""
    held = store.get("protocol")
    if held is None:
        store.set("protocol", json.dumps(s.protocol, ensure_ascii=False))
    else:
        before = json.loads(held)
        if before["study_hash"] != s.protocol["study_hash"]:
            raise UserError(f"{out} holds another study ({_difference(before, s.protocol)}); choose another --out")
    write_json(out / "protocol.json", s.protocol if held is None else json.loads(held))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for key in ("n", "seeds", "task", "executor", "decode", "planners", "conditions", "engine", "items_hash"):
        if before.get(key) == now.get(key):
            continue
        if isinstance(before.get(key), dict):
            sub = next(k for k in {**before[key], **now[key]} if before[key].get(k) != now[key].get(k))
            return f"its {key} {sub} is {before[key].get(sub)!r}, here {now[key].get(sub)!r}"
        if isinstance(before.get(key), list) and key in ("planners", "conditions"):
            return f"its {key} differ: {[x['name'] for x in before[key]]}"
        return f"its {key} is {before.get(key)!r}, here {now.get(key)!r}"
    return "its protocol differs"


@dataclass(frozen=True, slots=True)
class Job:
    """One missing row: what to show, which random stream, and the row it will become."""

    row: Row
    prompt: tuple[int, ...]
    key: int


def jobs(s: OpenStudy, condition: Condition, bank: Mapping[tuple[str, str], PlanRow]) -> list[Job]:
    """All rows of one condition, as jobs."""
    from triaxis.sampling.noise import stream_key

    decode = s.decode(condition)
    random = decode.temperature > 0 or decode.remasking == "random"
    found = []
    for item in s.items:
        plan = bank[condition.plan, item.id] if condition.plan else None
        user = condition.scaffold.render(item.question, plan.text if plan else None)
        ids = tuple(s.executor.prompt_ids(user))
        base = {
            "condition": condition.name,
            "item": item.id,
            "task": s.task.revision,
            "executor": s.executor.fingerprint,
            "dtype": s.protocol["executor"]["dtype"],
            "engine": _engine(),
            "prompt": list(ids),
            "decode": decode.card(),
        }
        for seed in s.study.seeds if random else s.study.seeds[:1]:
            for branch in range(condition.branches):
                name = identity({**base, "seed": seed, "branch": branch})
                row = Row(name, condition.name, item.id, branch, seed, plan.id if plan else "", user, "", 0, 0, False)
                found.append(Job(row, ids, stream_key(seed, item.id, branch)))
    return found


def sample(store: Store, s: OpenStudy, progress: Progress) -> None:
    """Make the plans, then every missing row, appending after each batch."""
    from triaxis.plans import bank

    table = s.study.table()
    sources = list(dict.fromkeys(c.plan for c in table if c.plan))
    progress("planning", 0, 1)
    plans = bank.fill(store, s.maker, sources)
    groups: dict[Decode, list[Job]] = {}
    for condition in table:
        groups.setdefault(s.decode(condition), []).extend(jobs(s, condition, plans))
    present = store.row_ids()
    total = sum(len(g) for g in groups.values())
    done = total - sum(j.row.id not in present for g in groups.values() for j in g)
    progress("sampling", done, total)
    for decode, group in groups.items():
        missing = [j for j in group if j.row.id not in present]

        def finished(places: list[int], completions: list[Completion], missing: list[Job] = missing) -> None:
            nonlocal done
            store.append(_completed(missing[i].row, c) for i, c in zip(places, completions, strict=True))
            done += len(places)
            progress("sampling", done, total)

        s.executor.complete([j.prompt for j in missing], [j.key for j in missing], decode, finished)


def _completed(row: Row, c: Completion) -> Row:
    return replace(row, text=c.text, tokens=c.forward_tokens, forwards=c.forwards, ended=c.ended)


def grade(store: Store, task: Task, items: Mapping[str, Item], *, second: bool = True) -> None:
    """Grade every stored row, replacing the grades that were there. Needs no model."""
    from triaxis.tasks.grading import grade_many

    rows = [r for r in store.rows() if r.item in items]
    graded = grade_many(task, [r.text for r in rows], [items[r.item] for r in rows], second=second)
    asked = {None: -1, True: 1, False: 0}
    store.replace_grades(
        [GradeRow(r.id, g.verdict, g.answer, g.how, asked[g.second]) for r, g in zip(rows, graded, strict=True)]
    )


def summarise(store: Store, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's summary object, from stored rows, grades and plans alone."""
    from triaxis.estimate import axes

    rows, grades = store.rows(), store.grades()
    t = axes.arrange(rows, grades, store.plans(), protocol["conditions"])
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
        "cost": {
            "seconds": round(float(store.get("seconds") or 0), 1),
            "forwards": sum(r.forwards for r in rows),
            "tokens": sum(r.tokens for r in rows),
            "dollars": None,
        },
        "warnings": axes.warnings(t, lines, found),
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON by replacing the file in one move."""
    scratch = path.with_suffix(".partial")
    try:
        scratch.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        scratch.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot write ({e.strerror}); rows already written are safe") from None


def reopen(folder: Path) -> tuple[Study, dict[str, Any]]:
    """The study a folder holds and its protocol card. UserError if it holds none."""
    with Store(folder / "rows.sqlite", write=False) as store:
        held = store.get("protocol")
    if held is None:
        raise UserError(f"{folder}: no study was started there; run triaxis diagnose --out {folder}")
    protocol = json.loads(held)
    return Study.from_spec(protocol["spec"]), protocol


def regrade(folder: Path, *, second: bool = True) -> dict[str, Any]:
    """Grade a finished study's stored texts again, re-make its summary and report, and return the summary."""
    from triaxis.report import render
    from triaxis.tasks import load_task

    study, protocol = reopen(folder)
    task = load_task(study.task)
    if task.revision != protocol["task"]["revision"]:
        raise UserError(
            f"{folder}: task {study.task!r} is now revision {task.revision}, the rows are of {protocol['task']['revision']}"
        )
    items = {i.id: i for i in task.items(study.n, seed=study.seeds[0])}
    with Store(folder / "rows.sqlite", write=True) as store:
        grade(store, task, items, second=second)
        summary = summarise(store, protocol)
    write_json(folder / "summary.json", summary)
    render(folder)
    return summary
