"""What one writer appends to a study's store, as a study writes it: batches of rows with its clock, each durable.

    python bench/store.py [--seconds 60] [--batches 16,64,256] [--folder DIR]

Rows have the sizes of real ones (a prompt of 400 characters, a completion of 250, the order of 128 tokens). Durability
is the store's own and not turned down: WAL with synchronous=FULL, so an append that returned is on the disk. For each
size of batch: rows a second over the whole time and in the slowest ten seconds, rows a second of processor time (which
a busy machine stretches less), and the share of the time that the writer waited for the disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from triaxis.errors import script
from triaxis.store import Row, Store, identity

WINDOW = 10.0  # seconds
ORDER = json.dumps({"order": [k % 32 for k in range(128)]}, separators=(",", ":"))
MODEL = Row("", "vote", "", 0, 0, "", "p" * 400, "t" * 250, 40_000, 64, True, 120, -0.125, ORDER)


def rows(key: int) -> Iterator[Row]:
    """Rows without end, made before they are timed; ids are hashes, as a study's are, so they come in no order."""
    at = 0
    while True:
        at += 1
        yield replace(MODEL, id=identity({"key": key, "row": at}), item=f"item-{at // 5}", branch=at % 5)


def sustained(folder: Path, batch: int, seconds: float, key: int) -> dict[str, Any]:
    """Append batches of one size for that many seconds of appending."""
    source, spent, done = rows(key), 0.0, 0
    marks: list[tuple[float, int]] = [(0.0, 0)]
    processor = 0.0
    with Store(folder / f"rows-{batch}.sqlite", write=True) as store:
        while spent < seconds:
            made = [next(source) for _ in range(batch)]
            began, worked = time.perf_counter(), time.process_time()
            store.append(made, seconds=str(spent))
            spent += time.perf_counter() - began
            processor += time.process_time() - worked
            done += batch
            marks.append((spent, done))
    size = sum(p.stat().st_size for p in folder.glob(f"rows-{batch}.sqlite*"))
    return {
        "batch": batch, "rows": done, "seconds": round(spent, 1), "rows_per_second": round(done / spent),
        "slowest_window": round(slowest(marks)), "rows_per_processor_second": round(done / processor),
        "waiting": round(1 - processor / spent, 3), "bytes_per_row": round(size / done),
    }  # fmt: skip


def slowest(marks: Sequence[tuple[float, int]]) -> float:
    """Rows a second in the slowest whole window; over all of it where it is shorter than one."""
    found, start = [], 0
    for k, (at, count) in enumerate(marks):
        if at - marks[start][0] >= WINDOW:
            found.append((count - marks[start][1]) / (at - marks[start][0]))
            start = k
    return min(found) if found else marks[-1][1] / marks[-1][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of appending, for each size of batch")
    parser.add_argument("--batches", default="16,64,256", help="rows of an append")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: a temporary folder")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder, prefix="triaxis-store-") as folder:
        for key, batch in enumerate(map(int, a.batches.split(","))):
            place = Path(folder) / str(batch)
            print(json.dumps(sustained(place, batch, a.seconds, key)), flush=True)


if __name__ == "__main__":
    sys.exit(script(main))
