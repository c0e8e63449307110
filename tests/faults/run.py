"""Faults, caused many times: `python tests/faults/run.py --rounds N [--only NAME,...] [--seed S] [--json FILE]`.

Every round runs a small study with the shipped models, breaks something, looks at every row that had been
acknowledged, resumes, and compares rows, plans, grades and summary with an undisturbed run. Prints a table; exits 1
where anything was lost, doubled, changed, unreported or unclear. What a fault needs (root, strace) and lacks here is
said, and the fault is not counted. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import disks  # noqa: E402
import kinds  # noqa: E402
from endpoint_server import serving  # noqa: E402
from lab import STUDY, Count, Hung, Lab, fresh, gone, undisturbed  # noqa: E402

COLUMNS = ("injected", "missed", "acknowledged", "checked", "lost", "doubled", "changed", "silent", "unclear")


def faults(names: list[str] | None) -> Iterator[tuple[str, Callable[[Lab], None], str]]:
    """(name, fault, what it lacks here)."""
    known: dict[str, Callable[[Lab], None]] = {**kinds.FAULTS, **disks.FAULTS, "endpoint": kinds.endpoint}
    for name in names or known:
        if name not in known:
            sys.exit(f"no fault named {name!r}; known: {', '.join(known)}")
        yield name, known[name], disks.lacking(name)


@contextmanager
def prepared(
    name: str, fault: Callable[..., None], home: Path
) -> Iterator[tuple[Callable[[Lab], None], dict[str, Any]]]:
    """The fault, with the study it runs and that study's undisturbed run."""
    if name != "endpoint":
        whole = home / "study"
        yield fault, {"study": STUDY, "whole": whole if whole.exists() else undisturbed(STUDY, home)}
        return
    with serving() as server:
        study, place = kinds.endpoint_study(server), fresh("endpoint-whole")
        yield partial(fault, server=server), {"study": study, "whole": undisturbed(study, place)}
        gone(place)


def once(name: str, fault: Callable[[Lab], None], key: str, count: Count, common: dict[str, Any]) -> None:
    """One round of one fault."""
    place, began = fresh("round"), time.monotonic()
    try:
        fault(Lab(place, random.Random(key), count, **common))
    except (Hung, Exception) as e:
        count.unclear += 1
        count.said[f"{key}: {type(e).__name__}: {e}"[:300]] += 1
        traceback.print_exc()
    finally:
        gone(place)
        count.seconds += time.monotonic() - began


def rounds(
    chosen: dict[str, Callable[..., None]], n: int, seed: int, home: Path, minutes: float = math.inf
) -> dict[str, Count]:
    """n rounds of every fault, one after the other; no new one once the time is up."""
    counts, until = {name: Count() for name in chosen}, time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        ready = {name: stack.enter_context(prepared(name, fault, home)) for name, fault in chosen.items()}
        for k, (name, (fault, common)) in product(range(n), ready.items()):
            if time.monotonic() < until:
                once(name, fault, f"{seed}/{name}/{k}", counts[name], common)
    return counts


def table(counts: dict[str, Count]) -> str:
    """The counts as Markdown, with their sum."""
    total = [sum(getattr(c, x) for c in counts.values()) for x in COLUMNS]
    lines = ["| fault | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    lines += [f"| {name} | " + " | ".join(f"{getattr(c, x):,}" for x in COLUMNS) + " |" for name, c in counts.items()]
    return "\n".join([*lines, "| **all** | " + " | ".join(f"{x:,}" for x in total) + " |"]) + "\n"


def added(paths: list[Path]) -> dict[str, Count]:
    """The counts of several runs as one."""
    total: dict[str, Count] = {}
    for path in paths:
        for name, held in json.loads(path.read_text()).items():
            count = total.setdefault(name, Count())
            for column in COLUMNS:
                setattr(count, column, getattr(count, column) + held[column])
    return total


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of every fault")
    parser.add_argument("--only", help="names of faults, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="no new round after so many")
    parser.add_argument("--json", type=Path, help="write the counts and what was said there")
    parser.add_argument("--sum", type=Path, nargs="+", help="run nothing: add up files that --json wrote")
    args = parser.parse_args(argv)
    if args.sum:
        print(table(added(args.sum)))
        return 0
    home, chosen = fresh("whole"), dict[str, Callable[..., None]]()
    for name, fault, lacks in faults(args.only.split(",") if args.only else None):
        if lacks:
            print(f"{name}: not run here: {lacks}", flush=True)
        else:
            chosen[name] = fault
    counts = rounds(chosen, args.rounds, args.seed, home, args.minutes)
    gone(home)
    for name, c in counts.items():
        print(
            f"{name} ({c.seconds:.0f} s): " + (", ".join(f"{n} x {t}" for t, n in c.said.most_common(12)) or "nothing")
        )
    print("\n" + table(counts))
    if args.json:
        args.json.write_text(json.dumps({n: {**vars(c), "said": dict(c.said)} for n, c in counts.items()}, indent=1))
    return int(any(c.bad for c in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
