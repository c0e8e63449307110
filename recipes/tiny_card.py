"""Write the measured figures of the tiny family into docs/tiny.md, from the studies of docs/findings.md.

python recipes/findings/axes.py sample --only quick && python recipes/findings/axes.py write
python recipes/tiny_card.py runs/findings
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triaxis.errors import script
from triaxis.estimate.paired import wilson
from triaxis.store import Store
from triaxis.study.summary import held_protocol

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("none", "plan-empty", "filler", "gold-plan", "other-plan")
EXECUTORS = {"tiny-2": "tiny (seed 2)", "tiny-0": "tiny-0", "tiny-1": "tiny-1"}


def row(executor: str, summary: Mapping[str, Any]) -> str:
    """Accuracy of the arms with intervals, in percent."""
    cells = {c["name"]: c for c in summary["conditions"]}
    shown = (
        f"{100 * c['accuracy']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in map(cells.get, ARMS) if c
    )
    return f"| {executor} | " + " | ".join(shown) + " |"


def planners(folder: Path) -> list[str]:
    """Share of right plans by planner with Wilson's interval, from the plans the run stored."""
    protocol = held_protocol(folder)
    with Store(folder / "rows.sqlite", write=False) as store:
        plans = store.plans().values()
    lines = ["| planner | parameters | plans whose steps are right, % |", "|---|---|---|"]
    for planner in protocol["planners"]:
        mine = [json.loads(p.detail)["steps_right"] for p in plans if p.source == f"true:{planner['name']}"]
        low, high = wilson(sum(mine), len(mine))
        share = f"{100 * sum(mine) / len(mine):.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"| {planner['name']} | {planner['parameters']:,} | {share} |")
    return lines


def main() -> None:
    """Replace the marked part of the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, help="their folder")
    home: Path = parser.parse_args().studies
    folders = {name: home / f"quick-{name}" for name in EXECUTORS}
    summaries = {k: json.loads((f / "summary.json").read_text(encoding="utf-8")) for k, f in folders.items()}
    n = summaries["tiny-2"]["study"]["n"]
    lines = [f"Accuracy in percent on {n} test items, 24 steps for 48 tokens in blocks of 8, temperature 0:", ""]
    lines += ["| executor | " + " | ".join(ARMS) + " |", "|---" * (len(ARMS) + 1) + "|"]
    lines += [row(shown, summaries[name]) for name, shown in EXECUTORS.items()]
    axis = summaries["tiny-2"]["axes"]["diversity"]
    effect = next(e for e in axis["effects"] if e["name"] == "vote minus greedy")
    vote = f"{100 * effect['value']:+.1f} points [{100 * effect['low']:+.1f}, {100 * effect['high']:+.1f}]"
    lines += ["", f"Vote of {axis['branches']} at T=0.7 minus greedy, tiny: {vote}: {effect['verdict']}.", ""]
    lines += planners(folders["tiny-2"])
    path = ROOT / "docs" / "tiny.md"
    head, rest = path.read_text(encoding="utf-8").split("<!-- measured:begin -->")
    tail = rest.split("<!-- measured:end -->")[1]
    text = "\n".join([f"{head}<!-- measured:begin -->", *lines, f"<!-- measured:end -->{tail}"])
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(script(main))
