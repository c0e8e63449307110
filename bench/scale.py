"""A study on one and on several workers: rows a second, equal rows, a worker killed on the way, and what follows.

    PYTHONPATH=src python bench/scale.py --shape llada-8b                          # two GPUs, random weights
    PYTHONPATH=src python bench/scale.py --shape small --items 8 --device cpu      # two CPU workers
    PYTHONPATH=src python bench/scale.py --shape llada-8b --backends processes,ray # Ray too, where it is installed

For each backend: workers are started and warmed up (every chunk once with few steps, on every worker: compiling and
capturing is not timed), then the same rows are made by one worker, by all, and by all with one killed when half of the
rows are there. Rows are compared whole. The weights are drawn on each worker from one seed; no weights touch a disk.
Then what a larger machine would do, by the model of `triaxis simulate` from parts measured here: chunks as long as
those of this run, given to whoever is free, and the driver's time, which no number of workers shares. Prints JSON; the
table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from triaxis.compute import Compute
from triaxis.compute.pool import Pool
from triaxis.errors import UserError, script
from triaxis.estimate.scaling import Workload, predict, scaled
from triaxis.models.random import write_random
from triaxis.sampling.speed import SHAPES
from triaxis.store import Row, Store
from triaxis.study import OpenStudy, Sampler, Study, opened
from triaxis.study.jobs import silent
from triaxis.study.spread import EXECUTOR, chunks, units

ARMS = """
[[condition]]
name = "none"
role = "baseline"
[[condition]]
name = "gold-plan"
role = "stage"
plan = "gold"
scaffold = "plan"
[[condition]]
name = "vote"
role = "diversity"
branches = 2
decode = { temperature = 0.7 }
[[scaffold]]
name = "plan"
template = "Plan: {plan}"
"""
GPUS = (8, 64)  # predicted
ROWS = 250_000  # rows of the study that is predicted


@dataclass(frozen=True, slots=True)
class Pass:
    """One making of all rows."""

    workers: int
    killed: int
    rows: int
    seconds: float
    rows_per_second: float
    chunk_seconds: tuple[float, ...]
    driver_seconds: float  # of the driver: its processor's, and those it waited for the disk
    deaths: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llada-8b", choices=sorted(SHAPES))
    parser.add_argument("--items", type=int, default=32, help="four rows each")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backends", default="processes")
    parser.add_argument("--chunk", type=int, default=16, help="rows that a worker is given at once")
    parser.add_argument("--steps", type=int, default=64, help="of 128 new tokens in blocks of 32")
    parser.add_argument("--device", default=None, help="cpu or cuda")
    parser.add_argument("--gpus", type=int, nargs="*", default=GPUS, help="numbers of workers to predict")
    a = parser.parse_args()
    for name, value in (("workers", a.workers), ("chunk", a.chunk), *(("gpus", n) for n in a.gpus)):
        if value < 1:
            raise UserError(f"{name}={value} measures nothing; give at least 1")
    found: dict[str, Any] = {"arguments": vars(a), "machine": machine(a.device)}
    with tempfile.TemporaryDirectory(prefix="triaxis-scale-") as scratch:
        study = a_study(Path(scratch), a.shape, a.items, a.steps, a.device)
        for kind in a.backends.split(","):
            try:
                found[kind] = measure(
                    study, Path(scratch) / kind, Compute(kind=kind, workers=a.workers, chunk=a.chunk), a
                )
            except UserError as e:
                if kind == a.backends.partition(",")[0]:
                    raise
                found[kind] = {"not run": str(e)}  # what was measured before is still printed
            say(f"{kind}: {table(found[kind])}")
    print(json.dumps(found, indent=1))
    return 0 if all(f.get("identical", False) for f in (found[k] for k in a.backends.split(","))) else 1


def a_study(scratch: Path, shape: str, items: int, steps: int, device: str | None) -> Study:
    """Four rows an item at that shape: two arms at temperature 0, one of two branches at 0.7."""
    (scratch / "arms.toml").write_text(ARMS, encoding="utf-8")
    folder = write_random(scratch / shape, SHAPES[shape])
    decode = {"gen_length": 128, "block_length": 32, "steps": steps, "stop": "canvas"}
    return Study(
        executor=str(folder), planners=(), n=items, preset=str(scratch / "arms.toml"), decode=decode, device=device
    )


def measure(study: Study, out: Path, compute: Compute, a: argparse.Namespace) -> dict[str, Any]:
    """Everything of one backend. UserError where it cannot be had."""
    out.mkdir()
    began = time.monotonic()
    with opened(study, silent, compute) as (s, sampler):
        pool: Pool = sampler.__self__.pool  # type: ignore[attr-defined]
        pool.ready()
        ready = time.monotonic() - began
        warm_up(pool, s, a.chunk)
        warm = time.monotonic() - began - ready
        say(f"{compute.kind}: {a.workers} workers ready after {ready:.1f} s, warm after {warm:.1f} s more")
        one, rows = timed(pool, s, sampler, out / "one.sqlite", 1)
        many, again = timed(pool, s, sampler, out / "many.sqlite", a.workers)
        killed, third = timed(pool, s, sampler, out / "killed.sqlite", a.workers, kill=True)
        restart = pool.counts.restarts
    same = [equal(rows, again), equal(rows, third)]
    return {
        "ready_seconds": round(ready, 2), "warm_seconds": round(warm, 2),
        "passes": [asdict(p) for p in (one, many, killed)],
        "ratio": round(many.rows_per_second / one.rows_per_second, 3),
        "identical": same == [len(rows)] * 2, "rows": len(rows), "equal_rows": same, "restarts": restart,
        "lost_or_doubled": len({r.id for r in rows} ^ {r.id for r in third}) + len(third) - len({r.id for r in third}),
        "parts": parts(one, many, ready),
        "predicted": predictions(one, many, ready, sorted({1, a.workers, *a.gpus}), a.chunk),
    }  # fmt: skip


class Timed(Store):
    """A store that knows how long its appends waited for the disk."""

    waited = 0.0

    def append(self, rows: Iterable[Any], **meta: str) -> None:
        began, worked = time.perf_counter(), time.process_time()
        super().append(rows, **meta)
        self.waited += max(0.0, time.perf_counter() - began - (time.process_time() - worked))


def warm_up(pool: Pool, s: OpenStudy, size: int) -> None:
    """Every chunk with one step a block, on every worker: all idle workers are given one of as many equal chunks.

    The shortest first: a chunk after a longer one would sit in that one's graphs, filled up, and have none of its own,
    which a study makes as soon as filling has cost as much (sampling/seats.py).
    """
    from triaxis.plans.bank import fill

    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "rows.sqlite", write=True) as store:
        bank = fill(store, s.arms.maker, ["gold"])
    longest_first = [c for unit in units(s.arms, s.arms.table) for c in chunks(s.arms, unit, bank, set(), size)]
    for chunk in reversed(longest_first):
        d = chunk.common.decode
        quick = chunk._replace(common=replace(chunk.common, decode=replace(d, steps=d.blocks)))
        for _ in range(pool.active[EXECUTOR]):
            pool.submit(quick)
        while pool.busy:
            pool.next()


def timed(
    pool: Pool, s: OpenStudy, sampler: Sampler, path: Path, workers: int, *, kill: bool = False
) -> tuple[Pass, list[Row]]:
    """All rows by so many of the pool's workers; with `kill`, one of them is killed when half of the rows are there."""
    pool.active[EXECUTOR] = workers
    before, deaths, killed = len(pool.counts.seconds), pool.counts.deaths, [0] * kill

    def progress(stage: str, done: int, total: int) -> None:
        if killed and not killed[0] and done >= total // 2:
            killed[0] = pool.pids(EXECUTOR)[0]
            with suppress(ProcessLookupError):
                os.kill(killed[0], signal.SIGKILL)

    with Timed(path, write=True) as store:
        began, worked = time.monotonic(), time.process_time()
        sampler(store, s.arms, progress, lambda *_: None)
        seconds, worked = time.monotonic() - began, time.process_time() - worked
        rows = store.rows()
    made = Pass(
        workers, len(killed), len(rows), round(seconds, 3), round(len(rows) / seconds, 3),
        tuple(pool.counts.seconds[before:]), round(worked + store.waited, 4), pool.counts.deaths - deaths,
    )  # fmt: skip
    say(f"{workers} workers{', one killed' if kill else ''}: {len(rows)} rows in {seconds:.2f} s")
    return made, rows


def equal(rows: Sequence[Row], others: Sequence[Row]) -> int:
    """Rows that are equal in everything."""
    held = {r.id: r for r in others}
    return sum(held.get(r.id) == r for r in rows)


# ---------------------------------------------------------------- what a larger machine would do


def parts(one: Pass, many: Pass, ready: float) -> dict[str, float]:
    """What a prediction is made of, in seconds."""
    return {
        "loading": round(ready, 2),
        "chunk_mean": round(statistics.mean(one.chunk_seconds), 4),
        "chunk_spread": round(statistics.pstdev(one.chunk_seconds), 4),
        "driver_per_row": round(one.driver_seconds / one.rows, 6),
        "between_chunks": round(max(0.0, one.seconds - sum(one.chunk_seconds)) / len(one.chunk_seconds), 4),
        "idle_at_the_end": round(max(0.0, many.workers * many.seconds - sum(many.chunk_seconds)), 3),
    }  # fmt: skip


def predictions(one: Pass, many: Pass, ready: float, workers: Sequence[int], chunk: int) -> list[dict[str, Any]]:
    """A quarter of a million rows on so many workers, as `triaxis simulate` does it from what one worker took here;
    and this run's own passes, to hold the model against.

    Chunks take the seconds of this run's chunks in turn, loading is as here for all at once, nobody dies.
    """
    each = statistics.mean(one.chunk_seconds)
    here = Workload(
        works=one.rows, seconds=sum(one.chunk_seconds), chunk=min(chunk, one.rows), noise=0.0,
        shape=[s / each for s in one.chunk_seconds], appends=one.rows / one.driver_seconds,
    )  # fmt: skip
    far = replace(scaled(here, ROWS / one.rows), loading=ready)
    alone, found = predict(far, 1).seconds - ready, []
    for n in workers:
        run = predict(far, n)
        line: dict[str, Any] = {
            "workers": n, "rows": ROWS, "hours": round(run.seconds / 3600, 3), "efficiency": round(run.efficiency, 3),
            "ratio": round(alone / (run.seconds - ready), 2), "lost": {k: round(v, 4) for k, v in run.lost.items()},
        }  # fmt: skip
        for measured in (p for p in (one, many) if p.workers == n):
            line |= {"this_run": round(predict(here, n).seconds, 3), "measured": measured.seconds}
        found.append(line)
    return found


# ---------------------------------------------------------------- words


def machine(device: str | None) -> str:
    import torch

    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    what = f"{gpus} x {torch.cuda.get_device_name(0)}" if gpus else f"CPU, {os.cpu_count()} cores"
    return f"{what}; torch {torch.__version__}, Python {sys.version.split()[0]}"


def table(found: dict[str, Any]) -> str:
    if "not run" in found:
        return f"not run: {found['not run']}"
    lines = [f"ratio {found['ratio']}, {found['rows']} rows, equal to the first pass: {found['equal_rows']}"]
    for p in found["passes"]:
        what = f"{p['workers']} workers" + (", one killed" if p["killed"] else "")
        lines.append(f"  {what:<24} {p['seconds']:>9.2f} s {p['rows_per_second']:>9.2f} rows/s  deaths {p['deaths']}")
    lines += [
        f"  {p['workers']:>3} workers, {p['rows']} rows: {p['hours']:.2f} h, ratio {p['ratio']}"
        for p in found["predicted"]
    ]
    return "\n".join(lines)


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(script(main))
