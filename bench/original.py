"""What the original study costs at a model's shape: predicted as `triaxis diagnose --dry-run` does it, then measured.

    PYTHONPATH=src python bench/original.py FOLDER --shape llada-8b --price-per-hour 2.99  # one GPU, some 15 minutes
    PYTHONPATH=src python bench/original.py FOLDER --shape small --n 5 --steps 4 --device cpu  # does everything run?

Ten sequences an item as there: five arms decoded greedily and a vote of five at T=.7; canvas 128, blocks of 32, 64
steps, every canvas to its end; SVAMP items as prompts (130 to 160 tokens in this vocabulary). Weights are random, which
changes no time. Killed, or out of --minutes, it goes on in FOLDER when it is run again. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

from scale import machine

from triaxis.cli.scale import forecast
from triaxis.cost import dollars
from triaxis.errors import script
from triaxis.models.random import write_random
from triaxis.sampling.speed import SHAPES
from triaxis.store import Store
from triaxis.study import Study

ARMS = """
condition = [
  { name = "none", role = "baseline" },
  { name = "empty", role = "brittleness", scaffold = "empty" },
  { name = "hint", role = "brittleness", scaffold = "hint" },
  { name = "xml", role = "brittleness", scaffold = "xml" },
  { name = "gold", role = "stage", plan = "gold", scaffold = "plan" },
  { name = "vote", role = "diversity", branches = 5, decode = { temperature = 0.7 } },
]
scaffold = [
  { name = "empty", template = "Plan: " }, { name = "hint", template = "Let's think step by step." },
  { name = "xml", template = "<plan>" }, { name = "plan", template = "Plan: {plan}" },
]
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="llada-8b", choices=sorted(SHAPES))
    parser.add_argument("--n", type=int, default=200, help="items")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--device", default=None, help="cpu or cuda")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop then, to go on later; 0: run to the end")
    parser.add_argument("--price-per-hour", type=float, default=None, help="dollars of the machine")
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    study = a_study(a.folder, a)
    guess = a.folder / "predicted.json"
    if not guess.exists():
        guess.write_text(json.dumps(forecast(study, a.price_per_hour).plain()))
    if a.minutes:
        signal.setitimer(signal.ITIMER_REAL, 60 * a.minutes)
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"{a.minutes:g} minutes are over; run it again to go on"))
    study.run(a.folder / "study", lambda *_: None)
    print(
        json.dumps({"machine": machine(a.device), "predicted": json.loads(guess.read_text()), **measured(a)}, indent=1)
    )
    return 0


def a_study(folder: Path, a: argparse.Namespace) -> Study:
    (folder / "arms.toml").write_text(ARMS, encoding="utf-8")
    executor = folder / a.shape
    if not (executor / "config.json").exists():
        write_random(executor, SHAPES[a.shape])
    decode = {"gen_length": 128, "block_length": 32, "steps": a.steps, "stop": "canvas"}
    return Study(
        executor=str(executor), planners=(), n=a.n, task="svamp", preset=str(folder / "arms.toml"), decode=decode,
        device=a.device,
    )  # fmt: skip


def measured(a: argparse.Namespace) -> dict[str, Any]:
    with Store(a.folder / "study" / "rows.sqlite", write=False) as store:
        seconds, rows = float(store.get("seconds") or 0), store.rows()
    paid = dollars(seconds, a.price_per_hour)
    return {
        "items": a.n, "rows": len(rows), "seconds": round(seconds, 1), "dollars": paid,
        "seconds_a_sequence": round(seconds / len(rows), 4),
        "canvas_tokens": round(statistics.mean(r.tokens / max(1, r.forwards) for r in rows), 1),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(script(main))
