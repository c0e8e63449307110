"""Write the measured figures of the tiny family into docs/tiny.md, from the README's run and the two other executors.

triaxis diagnose --out runs/first
python recipes/tiny_card.py runs/first          # resumable; samples 4 arms of tiny-0 and tiny-1 on the same items
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triaxis.store import Store
from triaxis.study import Study

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("none", "plan-empty", "gold-plan", "other-plan")


def row(executor: str, summary: Mapping[str, Any]) -> str:
    """Accuracy of the arms with intervals, in percent."""
    cells = {c["name"]: c for c in summary["conditions"]}
    shown = (
        f"{100 * c['accuracy']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in map(cells.get, ARMS) if c
    )
    return f"| {executor} | " + " | ".join(shown) + " |"


def planners(folder: Path) -> list[str]:
    """Share of right plans by planner, from the plans the run stored."""
    protocol = json.loads((folder / "protocol.json").read_text(encoding="utf-8"))
    with Store(folder / "rows.sqlite", write=False) as store:
        plans = store.plans().values()
    lines = ["| planner | parameters | plans whose steps are right |", "|---|---|---|"]
    for planner in protocol["planners"]:
        mine = [json.loads(p.detail)["steps_right"] for p in plans if p.source == f"true:{planner['name']}"]
        lines.append(f"| {planner['name']} | {planner['parameters']:,} | {sum(mine)} of {len(mine)} |")
    return lines


def main() -> None:
    """Measure, and replace the marked part of the card."""
    first = Path(sys.argv[1])
    summary = json.loads((first / "summary.json").read_text(encoding="utf-8"))
    n = summary["study"]["n"]
    lines = [f"Accuracy in percent on {n} test items, 24 steps for 48 tokens in blocks of 8, temperature 0:", ""]
    lines += ["| executor | " + " | ".join(ARMS) + " |", "|---" * (len(ARMS) + 1) + "|", row("tiny (seed 2)", summary)]
    for executor in ("tiny-0", "tiny-1"):
        study = Study(executor=executor, n=n, planners=(), conditions=ARMS)
        lines.append(row(executor, study.run(ROOT / "runs" / f"card-{executor}-{n}")))
    axis = summary["axes"]["diversity"]
    effect = next(e for e in axis["effects"] if e["name"] == "vote minus greedy")
    vote = f"{100 * effect['value']:+.1f} points [{100 * effect['low']:+.1f}, {100 * effect['high']:+.1f}]"
    lines += [
        "",
        f"Vote of {axis['branches']} at T=0.7 minus greedy, tiny: {vote}: {effect['verdict']}.",
        "",
        *planners(first),
    ]
    path = ROOT / "docs" / "tiny.md"
    head, rest = path.read_text(encoding="utf-8").split("<!-- measured:begin -->")
    tail = rest.split("<!-- measured:end -->")[1]
    path.write_text(
        "\n".join([f"{head}<!-- measured:begin -->", *lines, f"<!-- measured:end -->{tail}"]), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
