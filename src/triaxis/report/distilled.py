"""The results of a distillation and of its factorial as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triaxis.report.load import write_text
from triaxis.report.repair import EFFECT, _effect, grid
from triaxis.report.words import number, points

Json = Mapping[str, Any]


def markdown(found: Json) -> str:
    """Headroom first; then either why nothing was distilled, or data, accuracies, effects; or the factorial."""
    parts = ["### Headroom\n" + _headroom(found)]
    if "refused" in found:
        return "\n\n".join([*parts, f"**Refused:** {found['refused']}"]) + "\n"
    data = found["data"]
    buckets = ", ".join(f"{k} {v}" for k, v in data["buckets"].items())
    parts.append(
        f"Training items: {data['items']} ({buckets}); unanimous {points(data['unanimous'], sign=False)} %, greedy is "
        f"the vote in {points(data['greedy_is_vote'], sign=False)} %, {data['unique']:.2f} different answers, "
        f"{data['tied']} tied."
    )
    parts += _factorial(found) if "verdicts" in found else _evaluation(found)
    return "\n\n".join(parts) + "\n"


def _headroom(found: Json) -> str:
    rows = [
        [h["regime"], *(points(h[k], sign=False) for k in ("greedy", "branch", "vote", "oracle")),
         *_effect(h["vote_minus_greedy"])]
        for h in found["headroom"]
    ]  # fmt: skip
    return grid(
        ["regime", "greedy, %", "branch, %", "vote, %", "oracle, %", *(f"vote − greedy: {e}" for e in EFFECT)], rows
    )


def _evaluation(found: Json) -> list[str]:
    lines = [[r["name"], points(r["accuracy"], sign=False), number(r["forwards"])] for r in found["lines"]]
    effects = [[e["name"], *_effect(e)] for e in found["effects"]]
    shifts = [
        f"{k}: text changed in {points(s['text'], sign=False)} %, answer in {points(s['answer'], sign=False)} %, "
        f"to right {points(s['gain'], sign=False)} %, to wrong {points(s['loss'], sign=False)} %"
        for k, s in found["shift"].items()
    ]
    return [
        f"### Accuracy, N = {found['n']}\n" + grid(["what", "right, %", "forwards an item"], lines),
        "### Differences at equal forwards\n" + grid(["difference", *EFFECT], effects),
        "\n".join(shifts),
    ]


def _factorial(found: Json) -> list[str]:
    names = list(found["factors"])
    cells = [
        [*(c["levels"][f] for f in names), points(c["accuracy"], sign=False),
         *(points(found["flips"][" ".join(c["levels"].values())][k], sign=False) for k in ("answer", "gain", "loss"))]
        for c in found["cells"]
    ]  # fmt: skip
    effects = [
        [e["name"], *_effect(e), ", ".join(points(v) for v in found["by_seed"].get(e["name"], []))]
        for e in found["effects"]
        if len(e["factors"]) <= 2
    ]
    decided = [[str(d["block"]), points(d["same"], sign=False)] for d in found["decided"]]
    shift = [
        [str(s["block"]), f"{s['largest']:.2f}", f"{s['divergence']:.4f}", points(s["flips"], sign=False)]
        for s in found["shift"]
    ]
    said = "\n".join(f"- **{v['name']}**: {v['reason']}" for v in found["verdicts"])
    return [
        f"### Verdict, N = {found['n']}, {len(found['seeds'])} training seeds\n{said}\n- capacity: {found['capacity']}",
        "### Main effects and pairs\n" + grid(["effect", *EFFECT, "by seed"], effects),
        "### Cells\n" + grid([*names, "right, %", "answers changed, %", "to right, %", "to wrong, %"], cells),
        "### Answer decided before block\n" + grid(["block", "answers that stay, %"], decided),
        "### Logit shift of the richest cell\n"
        + grid(["block", "largest", "KL, nats", "likeliest token changes, %"], shift),
    ]


def write(found: Json, out: Path, name: str) -> Path:
    """Write NAME.json and NAME.md into `out`; the Markdown file's path."""
    write_text(out / f"{name}.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    write_text(out / f"{name}.md", markdown(found))
    return out / f"{name}.md"
