"""Predicted against measured seconds of a study on several workers of this machine.

    python bench/scaling.py [--workers 2,4] [--n 60] [--device cpu]

One worker makes the study at two sizes; from these its loading time and its seconds an item follow, and from the rows
the relative costs of chunks. Then each number of workers makes it, and `triaxis simulate`'s model predicts what was
measured. Every run is a process of its own. The error says what the model leaves out; on a machine that does anything
else it says what that was. Wall-clock from the start of the command to its end, imports and loading included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from triaxis.estimate.columns import once
from triaxis.estimate.scaling import Workload, predict, shape_of
from triaxis.gather import gather
from triaxis.store import Store
from triaxis.summary import protocols

COMMAND = "from triaxis.cli import main; main()"


def run(place: Path, n: int, workers: int, extra: list[str]) -> tuple[float, Path]:
    """Seconds of one run of the study's rows, and its folder."""
    folder = place / f"n{n}-w{workers}"
    asked = ["diagnose", "--preset", "diversity", "--planners", "", "--n", str(n), "--rows-only", "--out", str(folder)]
    compute = ["--compute", "processes", "--workers", str(workers)]
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", COMMAND, *asked, *compute, *extra], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    return time.monotonic() - began, folder


def workload(folder: Path, seconds: float, loading: float) -> Workload:
    with Store(folder / "rows.sqlite", write=False) as store:
        protocol: dict[str, Any] = json.loads(store.get("protocol") or "")
        columns = gather(store, protocol["conditions"])
    ran = once(columns, protocols(protocol))
    ran.sort()
    size = max(8, min(64, len(ran) // 64))  # as triaxis.spread cuts them on CPUs
    shape = shape_of(columns.rows.tokens[ran].astype(float), size)
    return Workload(works=len(ran), seconds=seconds, loading=loading, chunk=size, shape=shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="2", help="numbers of workers to predict and to measure")
    parser.add_argument("--n", type=int, default=60, help="items")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
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
    main()
