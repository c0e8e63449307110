"""Measure the tiny family and write the figures into docs/tiny.md. Resumable; about ten minutes on two cores.

    python recipes/tiny_card.py [N]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from triaxis.store import Store
from triaxis.study import Study

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("none", "plan-empty", "gold-plan", "other-plan", "wrong-plan", "vote")


def interval(cell: dict[str, float]) -> str:
    """Accuracy with its interval, in percent."""
    return f"{100 * cell['accuracy']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"


def line(executor: str, n: int) -> tuple[str, dict[str, object]]:
    """One executor's row of the table, and its summary."""
    folder = ROOT / "runs" / f"card-{executor}-{n}"
    summary = Study(executor=executor, n=n, conditions=ARMS).run(folder)
    cells = {c["name"]: c for c in summary["conditions"]}
    vote = summary["axes"]["diversity"]
    shown = [interval(cells[a]) for a in ARMS[:-1]]
    return f"| {executor} | " + " | ".join([*shown, f"{100 * vote['vote']:.1f}"]) + " |", summary


def planners(n: int) -> list[str]:
    """Share of right plans by planner, from the plans a study of every planner stored."""
    folder = ROOT / "runs" / f"card-planners-{n}"
    names = ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")
    Study(n=n, conditions=tuple(f"plan[{p}]" for p in names)).run(folder)
    protocol = json.loads((folder / "protocol.json").read_text())
    sizes = {p["name"]: p["parameters"] for p in protocol["planners"]}
    with Store(folder / "rows.sqlite", write=False) as store:
        plans = store.plans().values()
    lines = ["| planner | parameters | plans whose steps are right |", "|---|---|---|"]
    for name in names:
        mine = [json.loads(p.detail)["steps_right"] for p in plans if p.source == f"true:{name}"]
        lines.append(f"| {name} | {sizes[name]:,} | {sum(mine)} of {len(mine)} |")
    return lines


def main() -> None:
    """Measure, and replace the marked part of the card."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    table = [f"Accuracy in percent on {n} test items, 24 steps for 48 tokens in blocks of 8, temperature 0:", ""]
    table += ["| executor | " + " | ".join(ARMS[:-1]) + " | vote of 5, T=0.7 |", "|---" * 7 + "|"]
    verdicts = []
    for executor in ("tiny-0", "tiny-1", "tiny-2"):
        row, summary = line(executor, n)
        table.append(row)
        effect = next(e for e in summary["axes"]["diversity"]["effects"] if e["name"] == "vote minus greedy")  # type: ignore[index]
        verdicts.append(
            f"- {executor}: vote minus greedy {100 * effect['value']:+.1f} points "
            f"[{100 * effect['low']:+.1f}, {100 * effect['high']:+.1f}]: {effect['verdict']}"
        )
    text = "\n".join([*table, "", *verdicts, "", *planners(n)])
    path = ROOT / "docs" / "tiny.md"
    head, rest = path.read_text(encoding="utf-8").split("<!-- measured:begin -->")
    tail = rest.split("<!-- measured:end -->")[1]
    path.write_text(f"{head}<!-- measured:begin -->\n{text}\n<!-- measured:end -->{tail}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
