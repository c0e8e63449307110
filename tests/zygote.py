"""Runs one study again and again in forked children and kills them at random moments; not a test itself.

    python zygote.py FOLDER SPEC KILLS KEY

The parent has imported everything and computed nothing, so a child is a run of triaxis without its start-up. First
a child that is never killed runs the study in FOLDER/whole; then children run it in FOLDER/killed0 until KILLS of them
were killed; then one more ends it. A child that is quicker than its killer ends it too, and the next one begins in
FOLDER/killed1. One JSON line a child: its folder, rows it had acknowledged, rows found after it.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import math_verify  # noqa: F401
import matplotlib.figure  # noqa: F401

from triaxis.errors import UserError
from triaxis.plans import bank  # noqa: F401
from triaxis.report import page  # noqa: F401
from triaxis.report.study import Study
from triaxis.sampling import executor
from triaxis.store import Store
from triaxis.tasks import load_task


def child(study: Study, out: Path, report: int) -> None:
    """Run the study; every row that is acknowledged is reported as a byte in `report`."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "sampling":
            os.write(report, f"{done}\n".encode())

    study.run(out, progress)


def run(study: Study, out: Path, delay: float | None) -> tuple[bool, int]:
    """(whether it was killed, rows acknowledged)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        code = 1
        try:
            child(study, out, write)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    with open(read) as f:
        lines = f.read().split("\n")[:-1]
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0
    return killed, int(lines[-1]) if lines else 0


def rows_in(out: Path) -> int:
    """Rows of a run killed at any moment: none too where it had only made the file, or not even that."""
    try:
        with Store(out / "rows.sqlite", write=False) as store:
            return len(store.row_ids())
    except UserError as e:
        if not re.search("no such file|no study was started", str(e)):
            raise
        return 0


def main(folder: Path, study: Study, kills: int, key: int) -> None:
    load = executor.load_executor
    executor.load_executor = lambda *a, **k: executor.Executor(
        load(*a, **k).checkpoint, batch_tokens=400
    )  # many appends
    load_task(study.task).items(study.n)
    began = time.monotonic()
    run(study, folder / "whole", None)
    whole = time.monotonic() - began
    rng, killed, ended = random.Random(key), 0, 0
    while killed < kills and ended < kills:
        out = folder / f"killed{ended}"
        was_killed, acknowledged = run(study, out, rng.uniform(0, 0.7 * whole))
        killed, ended = killed + was_killed, ended + (not was_killed)
        line = {"folder": out.name, "killed": was_killed, "acknowledged": acknowledged, "present": rows_in(out)}
        print(json.dumps(line), flush=True)
    run(study, folder / f"killed{ended}", None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Study.from_spec(json.loads(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4]))
