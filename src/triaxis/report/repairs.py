"""Train a repair and judge it: adapters and controls by training seed, a study of each, one report.

Every step is resumable and none is done twice, so the whole is one command that may be killed and run again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.conditions import load_preset
from triaxis.limits import parse_json, read_text
from triaxis.report import repair
from triaxis.report.study import Study
from triaxis.store import Store
from triaxis.study.jobs import Progress, silent
from triaxis.train.trackers import check_tracker

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor
    from triaxis.train.recipes import Recipe
    from triaxis.train.tiers import Material

PRESET = str(files("triaxis.train").joinpath("repairs.toml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What is trained and how it is judged. kind: prefix or trust. seeds: training seeds. items: training items.

    sharded: each of several processes holds a part of the frozen weights, so nothing is decoded on the way.
    """

    kind: str
    recipe: Recipe
    executor: str = "tiny"
    task: str = "gradeschool"
    planners: tuple[str, ...] = ()
    items: int = 1600
    n: int = 300
    seeds: tuple[int, ...] = (0,)
    control: bool = True
    device: str | None = None
    dtype: str | None = None
    margin: float = repair.MARGIN
    conditions: tuple[str, ...] = ()
    tracker: str = ""
    sharded: bool = False

    def __post_init__(self) -> None:
        check_tracker(self.tracker)


def run_repair(r: Repair, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Train, measure and compare in `out`; the comparison, also written there as repair.json and repair.md.

    Processes started together by `accelerate launch` or `torchrun` share the training; the first one does the rest, and
    the others return nothing.
    """
    from triaxis.models.load import find_device
    from triaxis.train.runners import own_device, runner_on, started
    from triaxis.train.sharded import check_sharded

    if r.sharded:
        check_sharded(started(), r.dtype)
    device = own_device(find_device(r.device))
    runner = runner_on(device)
    r = replace(r, device=str(device)) if started() > 1 else r
    if runner.main:
        prepare(r, out)
    runner.wait()
    for seed in r.seeds:
        train(r, out, seed, progress)
    return _measured(r, out, progress) if runner.main else {}


def _measured(r: Repair, out: Path, progress: Progress) -> dict[str, Any]:
    """The studies of what was trained, and their comparison."""
    for folder, study in studies(r, out).items():
        if not (folder / "rows.sqlite").exists():
            lend(out / "before", folder)
        study.run(folder, progress)
    return compare(r, out)


def prepare(r: Repair, out: Path) -> None:
    """Make the plans of the training items, which all seeds share."""
    executor = _executor(r)
    for kind in kinds(r):
        _material(r, kind, executor, out / "plans" / kind)


def train(r: Repair, out: Path, seed: int, progress: Progress = silent) -> None:
    """The adapters of one training seed, with its control. Seeds may be trained side by side after `prepare`."""
    for kind in kinds(r):
        train_one(r, kind, out, seed, progress)


def train_one(r: Repair, kind: str, out: Path, seed: int, progress: Progress = silent) -> Path:
    """One adapter or its control, as its folder. Kinds and seeds may be trained side by side after `prepare`."""
    from triaxis.train.runners import rank

    executor, plans = _executor(r), out / f"plans-s{seed}" / f"{kind}{f'-p{rank()}' if rank() else ''}"
    if not plans.exists():  # a store has one writer at a time
        shutil.copytree(out / "plans" / kind, plans)
    folder = out / "adapters" / f"{kind}-s{seed}"
    made, recipe = _material(r, kind, executor, plans), replace(r.recipe, seed=seed)
    _train(replace(r, recipe=recipe), executor, made, folder, progress)
    return folder


def lend(made: Path, folder: Path) -> None:
    """Give a store the plans of another: planners' plans are the same in all studies of a task, and cost the most."""
    if (made / "rows.sqlite").is_file():
        with Store(made / "rows.sqlite", write=False) as theirs, Store(folder / "rows.sqlite", write=True) as mine:
            held = mine.plans()
            mine.append(p for key, p in theirs.plans().items() if key not in held)


def studies(r: Repair, out: Path, seeds: tuple[int, ...] | None = None, before: bool = True) -> dict[Path, Study]:
    """The studies by folder: of the executor as it is, and with each adapter of `seeds` (all of them by default)."""
    study = Study(
        executor=r.executor, planners=r.planners, task=r.task, n=r.n, preset=PRESET, device=r.device, dtype=r.dtype,
        conditions=r.conditions,
    )  # fmt: skip
    found = {out / "before": study} if before else {}
    for kind in kinds(r):
        for s in r.seeds if seeds is None else seeds:
            name = f"{kind}-s{s}"
            found[out / "studies" / name] = replace(study, adapter=str(out / "adapters" / name))
    return found


def compare(r: Repair, out: Path, name: str = "repair") -> dict[str, Any]:
    """The comparison of finished studies, also written as NAME.json and NAME.md.

    Needs no model and no weights: summaries, rows and the adapters' cards.
    """

    def arm(name: str, kind: str) -> repair.Arm:
        return repair.read_arm(name, [out / "studies" / f"{kind}-s{s}" for s in r.seeds])

    card = parse_json(read_text(out / "adapters" / f"{r.kind}-s{r.seeds[0]}" / "card.json", "settings"))
    found = repair.repair(
        repair.read_arm("before", [out / "before"]), arm("after", r.kind),
        arm("control", "plain") if r.control else None, card["seen"], r.margin,
    )  # fmt: skip
    found = {"kind": r.kind, "executor": r.executor, "task": r.task, "recipe": r.recipe.card(), **found}
    repair.write(found, out, name)
    return found


def kinds(r: Repair) -> tuple[str, ...]:
    """What is trained: the repair, and its control."""
    return (r.kind, "plain") if r.control else (r.kind,)


def _executor(r: Repair) -> Executor:
    from triaxis.sampling.executor import load_executor

    return load_executor(r.executor, device=r.device, dtype=r.dtype)


def _material(r: Repair, kind: str, executor: Executor, plans: Path) -> Material:
    from triaxis.tasks import load_task
    from triaxis.train.tiers import material

    plans.mkdir(parents=True, exist_ok=True)
    table = load_preset(PRESET).conditions(r.planners)
    shown = [c for c in table if not r.conditions or c.name in r.conditions]
    return material(
        executor, load_task(r.task), kind, r.recipe, planners=r.planners, items=r.items,
        decode=executor.default_decode(), store=plans / "rows.sqlite", conditions=shown,
    )  # fmt: skip


def _train(r: Repair, executor: Executor, made: Material, folder: Path, progress: Progress) -> None:
    """One adapter; its held-out questions are decoded on the way to hear a collapse, where the weights are whole."""
    from triaxis.train.fit import fit
    from triaxis.train.watch import watch

    fit(
        executor, r.recipe, made.data, folder, held=made.held, card=made.card, note=progress, tracker=r.tracker,
        probe=None if r.sharded else watch(executor, made.held), sharded=r.sharded,
    )  # fmt: skip
