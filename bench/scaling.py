"""Predicted against measured seconds of a study on several workers of this machine.

    python bench/scaling.py [--workers 2] [--n 60] [--device cpu]
    python bench/scaling.py --asleep [--workers 1,2,4,8]

One worker makes the study at two sizes; from these its loading time and its seconds an item follow, and from the rows
the relative costs of chunks. Then each number of workers makes it, on as many cores, and `triaxis simulate`'s model
predicts what was measured. Every run is a process of its own. The error says what the model leaves out; on a machine
that does anything else it says what that was. Wall-clock from the start of the command to its end, imports and loading
included.

--asleep: the workers of the pool sleep for known seconds instead of decoding, and the driver appends rows to a store.
That holds on a busy machine, and tests the schedule alone: who waits for whom.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from triaxis.compute import Chunk, Compute, Crew, Place, backend
from triaxis.compute.pool import Pool
from triaxis.errors import script
from triaxis.estimate.columns import once
from triaxis.estimate.scaling import Workload, predict, shape_of
from triaxis.store import Row, Store
from triaxis.study.gather import gather
from triaxis.study.summary import protocols

LOADING, CHUNKS, SIZE, SECONDS = 2.0, 64, 32, 60.0
SHAPE = (1.0, 0.4, 1.6, 0.8, 1.2, 0.6, 1.4, 1.0)  # relative seconds of chunks in turn
ROW = Row("", "vote", "item", 0, 0, "", "p" * 400, "t" * 250, 40_000, 64, True, 120, -0.125, "")
COMMAND = "from triaxis.cli import main; main()"


def run(place: Path, n: int, workers: int, extra: list[str]) -> tuple[float, Path]:
    """Seconds of one run of the study's rows on as many cores as it has workers, and its folder."""
    folder = place / f"n{n}-w{workers}"
    asked = ["diagnose", "--preset", "diversity", "--planners", "", "--n", str(n), "--rows-only", "--out", str(folder)]
    compute = ["--compute", "processes", "--workers", str(workers)]
    mine = sorted(os.sched_getaffinity(0))[:workers]
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", COMMAND, *asked, *compute, *extra], check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, mine),
    )  # fmt: skip
    return time.monotonic() - began, folder


def workload(folder: Path, seconds: float, loading: float) -> Workload:
    with Store(folder / "rows.sqlite", write=False) as store:
        protocol: dict[str, Any] = json.loads(store.get("protocol") or "")
        columns = gather(store, protocol["conditions"])
    ran = once(columns, protocols(protocol))
    ran.sort()
    size = max(8, min(64, len(ran) // 64))  # as study/spread.py cuts them on CPUs
    shape = shape_of(columns.rows.tokens[ran].astype(float), size)
    return Workload(works=len(ran), seconds=seconds, loading=loading, chunk=size, shape=shape)


def waking(place: Place) -> None:
    """A worker's state: loading it takes LOADING seconds."""
    time.sleep(LOADING)


def sleeping(state: None, common: None, items: tuple[float, ...]) -> list[int]:
    time.sleep(sum(items))
    return [0] * len(items)


def asleep(folder: Path, workers: int) -> dict[str, Any]:
    """One run of sleepers against its prediction. Processes start before the clock does: it starts with loading."""
    load = Workload(works=CHUNKS * SIZE, seconds=SECONDS, loading=LOADING, chunk=SIZE, shape=SHAPE, noise=0.0)
    each = [SECONDS * SHAPE[k % len(SHAPE)] / CHUNKS / SIZE for k in range(CHUNKS)]
    crews = {"sleeper": Crew(waking, sleeping)}
    done = 0
    pool = Pool(backend(Compute(kind="processes", workers=workers)), crews)
    with Store(folder / f"{workers}.sqlite", write=True) as store, pool:
        for k in range(CHUNKS):
            pool.submit(Chunk("sleeper", None, (each[k],) * SIZE, tuple(range(k * SIZE, (k + 1) * SIZE))))
        pool.ready()
        began = time.monotonic() - LOADING
        while pool.busy:
            made = pool.next()
            store.append([replace(ROW, id=f"{tag:016x}") for tag in made.chunk.tags])
            done += len(made.results)
        measured = time.monotonic() - began
    found = predict(load, workers).seconds
    return {"workers": workers, "measured": round(measured, 2), "predicted": round(found, 2), "rows": done,
            "error": round(found / measured - 1, 3), "load": round(os.getloadavg()[0], 1)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="2", help="numbers of workers to predict and to measure")
    parser.add_argument("--n", type=int, default=60, help="items")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--asleep", action="store_true")
    a = parser.parse_args()
    if a.asleep:
        with tempfile.TemporaryDirectory(prefix="triaxis-scaling-") as scratch:
            for workers in map(int, a.workers.split(",")):
                print(json.dumps(asleep(Path(scratch), workers)), flush=True)
        return
    extra = ["--device", a.device]
    with tempfile.TemporaryDirectory(prefix="triaxis-scaling-") as scratch:
        place = Path(scratch)
        small, _ = run(place, a.n // 3, 1, extra)
        whole, folder = run(place, a.n, 1, extra)
        each = (whole - small) / (a.n - a.n // 3)
        loading = max(0.0, whole - each * a.n)
        load = workload(folder, each * a.n, loading)
        print(json.dumps({"one_worker": round(whole, 1), "third_of_it": round(small, 1), "loading": round(loading, 1),
                          "works": load.works, "chunk": load.chunk, "cores": os.cpu_count(),
                          "load": round(os.getloadavg()[0], 1)}), flush=True)  # fmt: skip
        for workers in map(int, a.workers.split(",")):
            measured, _ = run(place, a.n, workers, extra)
            found = predict(load, workers)
            line = {"workers": workers, "measured": round(measured, 1), "predicted": round(found.seconds, 1),
                    "low": round(found.low, 1), "high": round(found.high, 1),
                    "error": round(found.seconds / measured - 1, 3), "speedup": round(whole / measured, 2)}  # fmt: skip
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(script(main))
