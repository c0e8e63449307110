"""What a study of millions of rows costs to summarise and to report: seconds, processor seconds, memory.

    python bench/millions.py FOLDER [--rows 5000000] [--workers 0]

FOLDER holds a made-up study afterwards, written through the store: 13 conditions, 5 branches, 3 seeds, and as many
items as make the rows; prompts, completions and plans as long as real ones, right answers and wrong ones by an item's
difficulty. It is made once and takes about 1.6 KB a row on the disk. Then the summary is computed, and the page made
by `triaxis report`, each in a process of its own: wall-clock, processor time, and the largest memory at any moment of
that process and its workers together (resident, from /proc).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from triaxis.conditions import Condition, load_preset
from triaxis.errors import script
from triaxis.store import GradeRow, PlanRow, Row, Store, identity

BRANCHES, SEEDS, PLANNER = 5, (0, 1, 2), "tiny-planner-l"
BLOCK = 50  # items of one append
SKILL = {"none": 0.6, "hint": 0.58, "plan-empty": 0.5, "gold-plan": 0.9, "other-plan": 0.35, "wrong-plan": 0.3}
ORDERS = [
    json.dumps({"order": random.Random(k).sample(range(64), 64)}, separators=(",", ":")) for k in range(997)
]  # as a denoiser commits; one a row would take most of the time that making the study takes
SUMMARY = """
import json, sys
from pathlib import Path
from triaxis.store import Store
from triaxis.study.summary import summarise, write_json

if __name__ == "__main__":
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    with Store(folder / "rows.sqlite", write=False) as store:
        write_json(folder / "summary.json", summarise(store, json.loads(store.get("protocol")), workers))
"""


def conditions() -> list[Condition]:
    """Thirteen arms of all three axes, every one with five branches at T=.7."""
    table = [c for c in load_preset("quick").conditions((PLANNER,)) if c.name != "plan-empty-before"]
    return [replace(c, branches=BRANCHES, decode=(("temperature", 0.7),)) for c in table]


def protocol(n: int) -> dict[str, Any]:
    cards = [{**c.card(), "completions": BRANCHES * len(SEEDS)} for c in conditions()]
    decode = {
        "gen_length": 128, "block_length": 32, "steps": 64, "temperature": 0.0, "threshold": None, "stop": "canvas",
        "remasking": "low_confidence",
    }  # fmt: skip
    return {
        "protocol_hash": "0" * 16, "study_hash": "0" * 16, "executor": {"name": "made up", "parameters": 8_000_000_000},
        "decode": decode, "task": {"name": "made up", "revision": "1", "grader": "numeric-1"},
        "planners": [{"name": PLANNER, "identity": "0", "parameters": 1_600_000}], "conditions": cards,
        "seeds": list(SEEDS), "n": n, "items_hash": "0", "engine": "none", "left_out": {}, "spec": {}, "versions": {},
    }  # fmt: skip


# ---------------------------------------------------------------- the study


class Problem:
    """One item: a question, its answer, how hard it is."""

    def __init__(self, number: int) -> None:
        self.rng = rng = random.Random(number)
        self.id = f"item-{number:06d}"
        a, b, c, d = rng.randint(5, 90), rng.randint(5, 90), rng.randint(2, 9), rng.randint(1, 40)
        self.answer = (a + b) * c - d
        self.steps = f"{a} + {b} = {a + b}\n{a + b} * {c} = {(a + b) * c}\n{(a + b) * c} - {d} = {self.answer}"
        self.question = (
            f"A bakery makes {a} loaves of rye bread in the morning and {b} loaves of wheat bread in the afternoon. "
            f"Every loaf is sold for {c} coins at the market on the next day, and the stall at the market costs {d} "
            "coins a day, which is paid in the evening. How many coins does the bakery have in the evening when every "
            "loaf has been sold?"
        )
        self.ease = rng.random() - 0.5

    def plan(self, source: str) -> PlanRow:
        good = source != "numbers:gold" and (PLANNER not in source or self.rng.random() < 0.8)
        implied = None if "filler" in source else str(self.answer if good else self.answer + self.rng.randint(1, 9))
        text = "and so on " * 20 if implied is None else f"{self.steps.rpartition(' ')[0]} {implied}"
        note = {"implied": implied, "steps_right": implied and good, "gold": str(self.answer), "leaks": good}
        id = identity({"item": self.id, "source": source})
        return PlanRow(id, self.id, source, 0, text, 60, False, json.dumps(note))


def rows_of(problem: Problem, table: list[Condition]) -> Iterator[Row | PlanRow | GradeRow]:
    """Plans, rows and grades of one item."""
    rng = problem.rng
    plans = {c.plan: problem.plan(c.plan) for c in table if c.plan}
    yield from plans.values()
    for c in table:
        plan = plans.get(c.plan)
        prompt = c.scaffold.render(problem.question, plan.text if plan else None).shown
        chance = min(0.98, max(0.02, SKILL.get(c.name, 0.55) + problem.ease))
        for seed in SEEDS:
            for branch in range(BRANCHES):
                id = identity({"c": c.name, "i": problem.id, "s": seed, "b": branch})
                drawn = rng.random()
                verdict = "right" if drawn < chance else "unreadable" if drawn > 0.99 else "wrong"
                answer = problem.answer if verdict == "right" else problem.answer + rng.randint(1, 6)
                said = "" if verdict == "unreadable" else str(answer)
                text = f"We go step by step, as always.\n{problem.steps}\nSo there are {said} coins.\n#### {said}"
                yield Row(
                    id, c.name, problem.id, branch, seed, plan.id if plan else "", prompt, text, 18_000, 64,
                    rng.random() > 0.02, 60, -0.1, rng.choice(ORDERS),
                )  # fmt: skip
                yield GradeRow(id, verdict, said, "marked" if said else "none", int(verdict == "right"))


def make(folder: Path, rows: int) -> int:
    """Write the study, if it is not there; its items. Seconds are of appending and making together."""
    table = conditions()
    n = -(-rows // (len(table) * BRANCHES * len(SEEDS)))
    began = time.monotonic()
    with Store(folder / "rows.sqlite", write=True) as store:
        done = int(store.get("made") or 0)
        while done < n:
            block = range(done, min(n, done + BLOCK))
            done = block.stop
            store.append((r for i in block for r in rows_of(Problem(i), table)), made=str(done))
            if done % (20 * BLOCK) == 0:
                print(f"{done} of {n} items, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        store.set("protocol", json.dumps(protocol(n)))
        (folder / "protocol.json").write_text(json.dumps(protocol(n)))
    return n


# ---------------------------------------------------------------- measuring


def measured(command: list[str]) -> dict[str, Any]:
    """Wall-clock and processor seconds of a command with its children, and their largest common memory in GB."""
    before, began = os.times(), time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    most = 0
    while child.poll() is None:
        most = max(most, sum(map(resident, family(child.pid))))
        time.sleep(0.1)
    took, after = time.monotonic() - began, os.times()
    if child.returncode:
        raise SystemExit(f"{command[-2:]} ended with {child.returncode}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": round(took, 1), "processor_seconds": round(spent, 1), "peak_gb": round(most / 1e9, 2)}


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for c in children for p in family(int(c)))]


def resident(pid: int) -> int:
    """Bytes of memory of a process that are its own: pages of files, which the system may drop, are not counted."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return 1024 * int(fields["RssAnon"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--workers", type=int, default=0, help="that read the store for the summary; 0: one a core")
    a = parser.parse_args()
    n = make(a.folder, a.rows)
    workers = a.workers or len(os.sched_getaffinity(0))
    size = (a.folder / "rows.sqlite").stat().st_size
    print(json.dumps({"items": n, "rows": n * 195, "gigabytes": round(size / 1e9, 2), "cores": os.cpu_count(),
                      "load": os.getloadavg()[0]}))  # fmt: skip
    script = a.folder / "summarise.py"
    script.write_text(SUMMARY)
    print(json.dumps({"summary": measured([sys.executable, str(script), str(a.folder), str(workers)])}), flush=True)
    (a.folder / "report.html").unlink(missing_ok=True)
    report = [sys.executable, "-c", "from triaxis.cli import main; main()", "report", str(a.folder)]
    print(json.dumps({"report": measured(report)}))


if __name__ == "__main__":
    sys.exit(script(main))
