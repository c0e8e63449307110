"""What pages cost: seconds to make a study's report again and its bytes, and what recording a trace adds to decoding.

    python bench/pages.py DIR [--rounds 5]

The report is made by the command in a process of its own, imports included. Plain and recorded decoding of one item
take turns; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

from triaxis.conditions import Prompt
from triaxis.errors import script
from triaxis.sampling.executor import load_executor
from triaxis.streams import stream_key
from triaxis.tasks import load_task
from triaxis.tracing import record

COMMAND = "from triaxis.cli import main; main()"


def remake(folder: Path) -> tuple[float, float]:
    """Seconds of `triaxis report` without a page there: by the clock, and of processor time, which a busy machine
    stretches less."""
    (folder / "report.html").unlink(missing_ok=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", COMMAND, "report", str(folder)], check=True, stdout=subprocess.DEVNULL)
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def recording(rounds: int) -> dict[str, float]:
    executor = load_executor("tiny")
    decode = executor.default_decode()
    prompt = Prompt(load_task("gradeschool").items()[0].question)
    ids, key = executor.prompt_ids(*prompt.parts), stream_key("trace", 0)
    plain, recorded = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        executor.denoise([ids], [key], decode)
        plain.append(time.perf_counter() - began)
        recorded.append(record(executor, prompt, decode).seconds)
    ends = {"plain": statistics.median(plain[1:]), "recorded": statistics.median(recorded[1:])}  # the first warms up
    return {**ends, "ratio": ends["recorded"] / ends["plain"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    rows = sqlite3.connect(a.folder / "rows.sqlite").execute("SELECT count(*) FROM rows").fetchone()[0]
    clock, processor = zip(*(remake(a.folder) for _ in range(a.rounds)), strict=True)
    size = (a.folder / "report.html").stat().st_size
    times = {"seconds": statistics.median(clock), "slowest": max(clock), "processor": statistics.median(processor)}
    report = {"rows": rows, "bytes": size, **times}
    print(json.dumps({"report": report, "trace": recording(20 * a.rounds)}, indent=1))


if __name__ == "__main__":
    sys.exit(script(main))
