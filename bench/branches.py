"""What K branches of one item cost against as many different items: one process, in turn, ratio of medians.

    python bench/branches.py [--items 40] [--k 5] [--rounds 5]

The prompts of both sides have the same lengths: every item stands K times on one side, and on the other K items of its
length stand once, so that only sharing an item can make a difference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace

from triaxis.errors import script
from triaxis.sampling.executor import load_executor
from triaxis.streams import stream_key
from triaxis.tasks import load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    executor = load_executor("tiny")
    decode = replace(executor.default_decode(), temperature=0.7)
    prompts = sorted((executor.prompt_ids(i.question) for i in load_task("gradeschool").items()), key=len)
    groups: dict[int, list[list[int]]] = {}
    for p in prompts:
        groups.setdefault(len(p), []).append(p)
    full = [g[: a.k] for g in groups.values() if len(g) >= a.k]
    chosen = [full[i * len(full) // a.items] for i in range(min(a.items, len(full)))]
    sides = {
        "branches": [(g[0], stream_key(0, n, b)) for n, g in enumerate(chosen) for b in range(a.k)],
        "items": [(p, stream_key(0, n, b)) for n, g in enumerate(chosen) for b, p in enumerate(g)],
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(a.rounds + 1):  # the first round warms up
        for side, work in sides.items():
            began = time.perf_counter()
            executor.denoise([p for p, _ in work], [k for _, k in work], decode)
            seconds[side].append(time.perf_counter() - began)
    medians = {side: statistics.median(s[1:]) for side, s in seconds.items()}
    rows = len(sides["items"])
    print(json.dumps({"rows": rows, **medians, "ratio": medians["branches"] / medians["items"]}))


if __name__ == "__main__":
    sys.exit(script(main))
