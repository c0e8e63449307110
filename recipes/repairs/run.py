"""The repairs on the tiny family, each one resumable command; results as JSON and as Markdown for docs/findings.md.

    python recipes/repairs/run.py prefix    --out runs/repairs [--seeds 0,1,2,3,4] [--n 1000] [--device cuda]
    python recipes/repairs/run.py trust     --out runs/repairs
    python recipes/repairs/run.py distil    --out runs/repairs
    python recipes/repairs/run.py factorial --out runs/repairs

--reduced is 2 training seeds and N=300 with fewer training items. Killed, any of them goes on where it stopped when it
is run again with the same settings. The adapters lie in OUT/NAME/adapters (prefix, trust) or OUT/NAME/gold (distil);
a folder with adapter_config.json, adapter_model.safetensors and card.json is a whole adapter.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from triaxis.cli.train import recipe_of
from triaxis.report import distilled, repair
from triaxis.report.repairs import Repair, run_repair
from triaxis.sampling.executor import load_executor
from triaxis.study import TINY_PLANNERS
from triaxis.tasks import load_task
from triaxis.train.distil import Distil, distil
from triaxis.train.plateau import diagnose
from triaxis.train.sampled import Bench

# what the reduced form changes: training items of the repairs, of the consensus
ITEMS = {"full": (3200, 3000), "reduced": (1200, 600)}


def log(stage: str, done: int, total: int) -> None:
    """A line on stderr every so often; a log file of a machine elsewhere shows no bar."""
    if done == total or time.monotonic() - log.last > 20:  # type: ignore[attr-defined]
        log.last = time.monotonic()  # type: ignore[attr-defined]
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {stage} {done}/{total}\n")


log.last = 0.0  # type: ignore[attr-defined]


def repaired(kind: str) -> Callable[[argparse.Namespace], Mapping[str, str]]:
    """Prefix robustness or content trust, with its control."""

    def run(a: argparse.Namespace) -> Mapping[str, str]:
        r = Repair(
            kind=kind, recipe=recipe_of(kind, a.executor, a.set), executor=a.executor, task=a.task,
            planners=a.planners, items=a.items or ITEMS[a.size][0], n=a.n, seeds=a.seeds, device=a.device,
        )  # fmt: skip
        return {kind: repair.markdown(run_repair(r, a.out / kind, log))}

    return run


def _distil(a: argparse.Namespace) -> tuple[Distil, Bench]:
    d = Distil(
        recipe=recipe_of("consensus", a.executor, a.set), items=a.items or ITEMS[a.size][1], n=a.n, seeds=a.seeds,
        blocks=a.blocks,
    )  # fmt: skip
    executor = load_executor(a.executor, device=a.device)
    return d, Bench(executor, load_task(a.task), a.out / "distil" / "rows" / "rows.sqlite")


def distilled_both(a: argparse.Namespace) -> Mapping[str, str]:
    """Vote labels in the first regime with headroom, and gold labels in the default regime."""
    d, bench = _distil(a)
    made = {}
    for name, chosen in {
        "vote": replace(d, label="vote", regime="auto"),
        "gold": replace(d, label="gold", regime="default"),
    }.items():
        found = distil(bench, chosen, a.out / "distil" / name, log)
        distilled.write(found, a.out / "distil", f"distil-{name}")
        made[f"distil, label {name}"] = distilled.markdown(found)
    return made


def factorial(a: argparse.Namespace) -> Mapping[str, str]:
    """All five factors, gold labels, default regime."""
    d, bench = _distil(a)
    found = diagnose(bench, replace(d, label="gold", regime="default"), a.out / "factorial", probes=100, note=log)
    distilled.write(found, a.out / "factorial", "factorial")
    return {"factorial": distilled.markdown(found)}


COMMANDS: Mapping[str, Callable[[argparse.Namespace], Mapping[str, str]]] = {
    "prefix": repaired("prefix"),
    "trust": repaired("trust"),
    "distil": distilled_both,
    "factorial": factorial,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=COMMANDS)
    parser.add_argument("--seeds", help="training seeds; default 0,1,2,3,4, reduced 0,1")
    parser.add_argument("--n", type=int, help="test items; default 1000, reduced 300")
    parser.add_argument("--items", type=int, help="training items")
    parser.add_argument("--out", type=Path, default=Path("runs/repairs"))
    parser.add_argument("--device", default=None)
    parser.add_argument("--executor", default="tiny")
    parser.add_argument("--task", default="gradeschool")
    parser.add_argument("--planners", help="comma-separated; default: the three tiny ones")
    parser.add_argument("--blocks", default="1,3,6", help="distil, factorial: last blocks the adapter is on in")
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe, such as steps=400")
    parser.add_argument("--reduced", action="store_true")
    a = parser.parse_args()
    a.size = "reduced" if a.reduced else "full"
    a.seeds = tuple(int(s) for s in (a.seeds or ("0,1" if a.reduced else "0,1,2,3,4")).split(","))
    a.planners = TINY_PLANNERS if a.planners is None else tuple(p for p in a.planners.split(",") if p)
    a.blocks = tuple(int(b) for b in a.blocks.split(","))
    a.n = a.n or (300 if a.reduced else 1000)
    began = time.monotonic()
    made: dict[str, Any] = dict(COMMANDS[a.name](a))
    seconds = round(time.monotonic() - began)
    text = "\n".join(f"## {title}\n\n{body}" for title, body in made.items())
    path = a.out / f"{a.name}.md"
    path.write_text(text + f"\nSeconds of this invocation: {seconds}.\n", encoding="utf-8")
    sys.stdout.write(json.dumps({"name": a.name, "seconds": seconds, "table": str(path)}) + "\n")


if __name__ == "__main__":
    main()
