"""The repairs on the tiny family: resumable commands; results as JSON and as Markdown for docs/findings.md.

    python recipes/repairs/run.py all       --out runs/repairs --processes 2
    python recipes/repairs/run.py prefix    --out runs/repairs [--seeds 0,1,2,3,4] [--n 1000] [--device cuda]
    python recipes/repairs/run.py trust     --out runs/repairs
    python recipes/repairs/run.py distil    --out runs/repairs
    python recipes/repairs/run.py factorial --out runs/repairs

--reduced is 2 training seeds and N=300 with fewer conditions, training items and steps. Killed, any of them goes on
where it stopped when it is run again with the same settings. --processes P shares the work among P processes (one
thread each), --spares adds processes on the CPU that take cells of the factorial, --minutes stops in time and collects
the training seeds that are whole. The adapters lie in OUT/repairs/adapters (prefix, trust and their common control),
OUT/vote and OUT/gold; a folder with adapter_config.json, adapter_model.safetensors and card.json is a whole adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from archive import pack
from pool import DONE, Became, Unit, Work, run_units, say

from triaxis.cli.options import numbers
from triaxis.errors import UserError, script

KINDS = ("prefix", "trust")
LABELS: Mapping[str, str] = {"vote": "auto", "gold": "default"}  # label of a distillation -> its decoding regime


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is trained. items: of the repairs; asked: of the distillation. The others are changes to recipes."""

    items: int
    asked: int
    blocks: tuple[int, ...]
    repair: tuple[str, ...] = ()
    consensus: tuple[str, ...] = ()
    cell: tuple[str, ...] = ()
    factors: tuple[str, ...] = ("coverage", "span", "rank", "layers", "data")
    n: int = 1000
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    planners: tuple[str, ...] = ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")
    conditions: tuple[str, ...] = ()  # of the repairs' studies; () is all


SIZES: Mapping[str, Size] = {
    "full": Size(items=3200, asked=3000, blocks=(1, 3, 6), consensus=("steps=400",)),
    "reduced": Size(
        items=960, asked=600, blocks=(3,), repair=("steps=120", "every=60"), cell=("steps=100",),
        factors=("coverage", "span", "rank"), n=300, seeds=(0, 1), planners=("tiny-planner-s", "tiny-planner-l"),
        conditions=(
            "hint", "plan-empty", "plan-empty-before", "xml-open", "json-empty", "filler", "gold-plan", "other-plan",
            "counterfactual", "plan[tiny-planner-s]", "plan[tiny-planner-l]", "vote",
        ),
    ),
    "toy": Size(
        items=12, asked=60, blocks=(3,), repair=("steps=2", "batch=4", "every=2"), consensus=("steps=2", "batch=4"),
        cell=("steps=2", "batch=4"), factors=("coverage", "rank"), n=6, seeds=(0, 1), planners=("tiny-planner-s",),
        conditions=("none", "hint", "filler", "gold-plan", "vote"),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the commands were asked for; everything a process needs to know."""

    out: Path
    size: Size
    n: int
    seeds: tuple[int, ...]
    executor: str = "tiny"
    task: str = "gradeschool"
    planners: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    collect: Path | None = None
    conditions: tuple[str, ...] = ()


def note(name: str, stage: str, done: int, total: int, held: list[float] = [0.0]) -> None:  # noqa: B006
    """A line every half minute: a log file of a machine elsewhere shows no bar."""
    if time.monotonic() - held[0] > 30:
        held[0] = time.monotonic()
        say(f"{name}: {stage} {done}/{total}")


# ---------------------------------------------------------------- repairs


def repair_of(s: Setting, kind: str, device: str | None, seeds: tuple[int, ...] | None = None) -> Any:
    from triaxis.cli.train import recipe_of
    from triaxis.report.repairs import Repair

    recipes = [recipe_of(k, s.executor, [*s.size.repair, *s.changes]) for k in KINDS]
    if recipes[0] != recipes[1]:
        raise UserError("the recipes of prefix and trust differ, so they cannot share a control; run triaxis train")
    return Repair(
        kind=kind, recipe=recipes[0], executor=s.executor, task=s.task,
        planners=s.planners, items=s.size.items, n=s.n, seeds=s.seeds if seeds is None else seeds, device=device,
        dtype="fp32", conditions=s.conditions,
    )  # fmt: skip


def write_plans(s: Setting, device: str | None, planner: str) -> None:
    """One planner's plans for the training items, in a store of their own."""
    from triaxis.report.repairs import prepare

    r = repair_of(s, "prefix", device)
    prepare(replace(r, planners=(planner,), control=False), s.out / "planned" / planner)


def plan(s: Setting, device: str | None, kind: str) -> None:
    """All plans that a kind is trained on."""
    from triaxis.report.repairs import lend, prepare

    home = s.out / "repairs" / "plans" / kind
    for planner in s.planners if kind == "prefix" else ():
        lend(s.out / "planned" / planner / "plans" / kind, home)
    prepare(replace(repair_of(s, kind, device), control=False), s.out / "repairs")


def train(s: Setting, device: str | None, kind: str, seed: int) -> None:
    from triaxis.report.repairs import train_one

    train_one(repair_of(s, kind, device), kind, s.out / "repairs", seed, partial(note, f"{kind}-s{seed}"))


def study(s: Setting, device: str | None, kind: str, seed: int) -> None:
    """The study of one adapter, or with kind "before" of the executor as it is: rows, grades and summary, no page."""
    from triaxis.report.repairs import lend, studies
    from triaxis.study.summary import regrade

    home = s.out / "repairs"
    r = replace(repair_of(s, KINDS[0] if kind == "before" else kind, device), control=False)
    for folder, made in studies(r, home, () if kind == "before" else (seed,), before=kind == "before").items():
        if not (folder / "rows.sqlite").exists():
            lend(home / "before", folder)
        made.sample(folder, partial(note, folder.name))
        if not (folder / "summary.json").exists():
            regrade(folder, second=False)


def compared(s: Setting, device: str | None, became: Became, kind: str) -> None:
    """The comparison over the training seeds that are whole."""
    from triaxis.report.repairs import compare

    seeds = tuple(x for x in s.seeds if all(became[f"study {k} {x}"] == DONE for k in (kind, "plain")))
    home = s.out / "repairs"
    if seeds and became["study before"] == DONE:
        compare(repair_of(s, kind, device, seeds), home, kind)
    pack(s.collect, f"{kind}.tar.xz", s.out, [
        home / f"{kind}.json", home / f"{kind}.md", home / "before",
        *(home / part / f"{k}-s{x}" for k in (kind, "plain") for x in s.seeds for part in ("adapters", "studies")),
    ])  # fmt: skip


def repair_units(s: Setting, kind: str) -> Iterator[Unit]:
    if kind == "prefix":
        yield from (Unit(f"plans {p}", "write_plans", (p,)) for p in s.planners)
    after = tuple(f"plans {p}" for p in s.planners) if kind == "prefix" else ()
    yield Unit("study before", "study", ("before", 0))
    yield Unit("plan plain", "plan", ("plain",))
    yield Unit(f"plan {kind}", "plan", (kind,), after)
    for seed in s.seeds:
        for k in ("plain", kind):
            yield Unit(f"train {k} {seed}", "train", (k, seed), (f"plan {k}",))
            yield Unit(f"study {k} {seed}", "study", (k, seed), (f"train {k} {seed}", "study before"))
    every = [f"study {k} {x}" for x in s.seeds for k in ("plain", kind)]
    yield Unit(f"compare {kind}", "compared", (kind,), ("study before", *every), last=True)


# ---------------------------------------------------------------- consensus


def bench_of(s: Setting, device: str | None, label: str, changes: tuple[str, ...], seeds: tuple[int, ...]) -> Any:
    """The bench and the settings of a distillation."""
    from triaxis.cli.train import recipe_of
    from triaxis.sampling.executor import load_executor
    from triaxis.tasks import load_task
    from triaxis.train.distil import Distil
    from triaxis.train.sampled import Bench

    d = Distil(
        recipe=recipe_of("consensus", s.executor, [*changes, *s.changes]), items=s.size.asked, n=s.n, seeds=seeds,
        blocks=s.size.blocks, label=label, regime=LABELS[label],
    )  # fmt: skip
    bench = Bench(load_executor(s.executor, device=device, dtype="fp32"), load_task(s.task), s.out / "rows")
    return bench, d


def ask(s: Setting, device: str | None, name: str) -> None:
    """Greedy and branches of one regime on the training items, and what adapters are compared with on the tests."""
    from triaxis.train.distil import REGIMES, baselines, headroom

    bench, d = bench_of(s, device, "gold", s.size.consensus, s.seeds)
    headroom(bench, bench.task.items(d.items, split="train", seed=0), REGIMES[name], d.k)
    baselines(bench, d, REGIMES[name], bench.task.items(d.n, seed=0))


def ask_on(s: Setting, device: str | None) -> None:
    """Where neither of the first two regimes has headroom for the vote, the others."""
    from triaxis.train.distil import baselines, find_regime

    bench, d = bench_of(s, device, "vote", s.size.consensus, s.seeds)
    regime, _ = find_regime(bench, d, bench.task.items(d.items, split="train", seed=0))
    if regime is not None:
        baselines(bench, d, regime, bench.task.items(d.n, seed=0))


def distil_seed(s: Setting, device: str | None, label: str, seed: int) -> None:
    """Train and evaluate one seed; the result is read again by `distilled`."""
    from triaxis.train.distil import distil

    bench, d = bench_of(s, device, label, s.size.consensus, (seed,))
    distil(bench, d, s.out / label, partial(note, f"{label}-s{seed}"))


def distilled(s: Setting, device: str | None, became: Became) -> None:
    from triaxis.report import distilled as page
    from triaxis.train.distil import distil

    for label in LABELS:
        seeds = tuple(x for x in s.seeds if became[f"distil {label} {x}"] == DONE)
        if seeds:
            bench, d = bench_of(s, device, label, s.size.consensus, seeds)
            page.write(distil(bench, d, s.out / label), s.out, f"distil-{label}")
    pack_consensus(s)


def pack_consensus(s: Setting) -> None:
    names = [*(f"distil-{label}" for label in LABELS), "factorial"]
    pack(s.collect, "consensus.tar.xz", s.out, [
        *(s.out / f"{name}.{kind}" for name in names for kind in ("json", "md")),
        *(s.out / label for label in LABELS), s.out / "rows",
    ])  # fmt: skip


def ask_units() -> Iterator[Unit]:
    yield Unit("ask default", "ask", ("default",))
    yield Unit("ask random-order", "ask", ("random-order",))


def distil_units(s: Setting) -> Iterator[Unit]:
    yield from ask_units()
    yield Unit("ask on", "ask_on", (), ("ask default", "ask random-order"))
    for seed in s.seeds:
        yield Unit(f"distil vote {seed}", "distil_seed", ("vote", seed), ("ask on",))
        yield Unit(f"distil gold {seed}", "distil_seed", ("gold", seed), ("ask on",))
    every = tuple(f"distil {label} {x}" for x in s.seeds for label in LABELS)
    yield Unit("distilled", "distilled", (), every, last=True)


# ---------------------------------------------------------------- factorial


def factorial_of(s: Setting, device: str | None, seeds: tuple[int, ...]) -> Any:
    from triaxis.train.plateau import lay_out

    bench, d = bench_of(s, device, "gold", s.size.cell, seeds)
    return bench, d, lay_out(bench, d, s.out / "factorial", s.size.factors)


def trainings(s: Setting) -> list[list[dict[str, str]]]:
    """Cells that share an adapter, because they differ in nothing that is trained."""
    from itertools import product

    from triaxis.train.plateau import design

    chosen = design(s.size.factors)
    groups: dict[str, list[dict[str, str]]] = {}
    for cell in product(*chosen.values()):
        level = dict(zip(chosen, cell, strict=True))
        groups.setdefault(" ".join(v for k, v in level.items() if k != "coverage"), []).append(level)
    return list(groups.values())


def cell(s: Setting, device: str | None, group: int, seed: int) -> None:
    """One training of the factorial, and the tests under every coverage."""
    _, _, f = factorial_of(s, device, (seed,))
    for level in [] if isinstance(f, dict) else trainings(s)[group]:
        f.cell(level, seed, partial(note, f"cell {group} {seed}"))


def explained(s: Setting, device: str | None, became: Became) -> None:
    """The verdict over the training seeds that are whole."""
    from triaxis.report import distilled as page
    from triaxis.train.plateau import diagnose

    groups = range(len(trainings(s)))
    seeds = tuple(x for x in s.seeds if all(became[f"cell {g} {x}"] == DONE for g in groups))
    if seeds:
        bench, d = bench_of(s, device, "gold", s.size.cell, seeds)
        found = diagnose(bench, d, s.out / "factorial", factors=s.size.factors, probes=100)
        page.write(found, s.out, "factorial")
    pack_consensus(s)


def factorial_units(s: Setting, after: tuple[str, ...]) -> Iterator[Unit]:
    yield from ask_units()
    groups = range(len(trainings(s)))
    for seed in s.seeds:
        for g in groups:
            yield Unit(f"cell {g} {seed}", "cell", (g, seed), ("ask default",), anywhere=True)
    every = tuple(f"cell {g} {x}" for x in s.seeds for g in groups)
    yield Unit("explained", "explained", (), (*every, *after), last=True)


# ---------------------------------------------------------------- the whole

WORKS: Mapping[str, Work] = {
    f.__name__: f for f in (
        write_plans, plan, train, study, compared, ask, ask_on, distil_seed, distilled, cell, explained,
    )
}  # fmt: skip
STUDIES = (*KINDS, "distil", "factorial")


def units_of(names: tuple[str, ...], s: Setting) -> list[Unit]:
    """The units of the studies, each once, long ones first within what they wait for."""
    found: dict[str, Unit] = {}
    for name in names:
        if name in KINDS:
            made = repair_units(s, name)
        elif name == "distil":
            made = distil_units(s)
        else:  # both write one archive, so the one waits for the other
            made = factorial_units(s, ("distilled",) if "distil" in names else ())
        found |= {u.name: u for u in made if u.name not in found}
    first = [u for u in found.values() if u.work in ("write_plans", "plan", "ask") or u.name == "study before"]
    return first + [u for u in found.values() if u not in first]


def plainly() -> None:
    """Steps one kernel after the other: a network of a million parameters, in ever other batch sizes, is done before
    its graphs are captured and its layers compiled."""
    from triaxis.sampling import executor

    executor.denoise = partial(executor.denoise, graphed=False)  # type: ignore[assignment]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("all", *STUDIES))
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--reduced", dest="size", action="store_const", const="reduced", help="--size reduced")
    parser.add_argument("--seeds", help="training seeds; default: the size's")
    parser.add_argument("--n", type=int, help="test items; default: the size's")
    parser.add_argument("--out", type=Path, default=Path("runs/repairs"))
    parser.add_argument("--device", default=None)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--spares", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="after which only what is whole is collected")
    parser.add_argument("--collect", type=Path, help="a folder for results, adapters and rows as archives")
    parser.add_argument("--executor", default="tiny")
    parser.add_argument("--task", default="gradeschool")
    parser.add_argument("--planners", help="comma-separated; default: the size's")
    parser.add_argument("--conditions", default="", help="of the repairs' studies; default: the size's")
    parser.add_argument("--set", action="append", default=[], help="a setting of every recipe, such as rate=1e-3")
    a = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes' own
    size = SIZES[a.size]
    s = Setting(
        out=a.out.resolve(), size=size, n=a.n or size.n, executor=a.executor, task=a.task, changes=tuple(a.set),
        seeds=size.seeds if a.seeds is None else numbers(a.seeds), collect=a.collect,
        planners=size.planners if a.planners is None else tuple(p for p in a.planners.split(",") if p),
        conditions=tuple(c for c in a.conditions.split(",") if c) or size.conditions,
    )  # fmt: skip
    began = time.monotonic()
    units = units_of(STUDIES if a.name == "all" else (a.name,), s)
    became = run_units(units, WORKS, s, devices=[a.device] * a.processes, spares=a.spares, minutes=a.minutes)
    left = {name: what for name, what in became.items() if what != DONE}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {
        "name": a.name, "seconds": round(time.monotonic() - began), "units": len(units), "not done": left,
        "processor seconds": round(used.ru_utime + used.ru_stime),
    }  # fmt: skip
    sys.stdout.write(json.dumps(told) + "\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(script(main))
elif __name__ == "__mp_main__":
    plainly()
