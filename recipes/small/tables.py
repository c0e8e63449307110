"""What `run.py write` makes of the rows of `small`: grades, comparisons, and the tables of docs/small.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triaxis.report.repairs import Repair


def write(out: Path, found: Mapping[str, Any], r: Repair, page: Path | None) -> None:
    """Grade and compare what there is; tables.md and card.md in `out`, and between the marks of a page.

    found: what the stage eval chose; r: the prefix repair.
    """
    from triaxis.report import distilled, render, repair
    from triaxis.report.markdown import markdown
    from triaxis.report.repairs import compare
    from triaxis.study.summary import regrade

    parts = []
    for task in found["studied"]:
        folder = out / "studies" / f"axes-{task}"
        if (folder / "rows.sqlite").is_file():
            summary = regrade(folder)
            render(folder)
            parts.append(f"## The three axes on {task}, N = {summary['study']['n']}\n\n{markdown(summary)}")
    at = out / "prefix"
    studies = {k: [at / "studies" / f"{k}-s{s}" for s in r.seeds] for k in ("prefix", "plain")}
    rows = {folder: sampled(folder) for folder in (at / "before", *studies["prefix"], *studies["plain"])}
    wanted = rows[at / "before"]
    if wanted and all(rows[f] == wanted for f in studies["prefix"]):
        r = replace(r, control=all(rows[f] == wanted for f in studies["plain"]))
        for folder in (at / "before", *studies["prefix"], *(studies["plain"] if r.control else ())):
            regrade(folder, second=False)
        parts.append(f"## Prefix repair on {r.task}\n\n{repair.markdown(compare(r, at))}")
        if not r.control:
            have = ", ".join(str(rows[f]) for f in studies["plain"])
            parts.append(f"The controls' studies were cut off ({have} of {wanted} rows) and are left out above.\n")
    else:
        parts.append(f"## Prefix repair on {r.task}: trained, not measured\n")
    parts.append("\n".join(losses(at)) + "\n")
    if (out / "modes.md").is_file():
        parts.append((out / "modes.md").read_text(encoding="utf-8"))
    for label in ("vote", "gold"):
        if (out / "distil" / f"{label}.json").is_file():
            told = json.loads((out / "distil" / f"{label}.json").read_text(encoding="utf-8"))
            parts.append(f"## Consensus distillation on {r.task}, label {label}\n\n{distilled.markdown(told)}")
    tables = re.sub(r"/[^\s\[\]|]*/(smollm2|planner-tuned|executor)\b", r"\1", "\n".join(parts))  # not where they lay
    (out / "tables.md").write_text(tables, encoding="utf-8")
    (out / "card.md").write_text("\n".join(card(out, found)) + "\n", encoding="utf-8")
    if page:
        for name in ("card", "tables"):
            put(page, name, (out / f"{name}.md").read_text(encoding="utf-8"))


def card(out: Path, found: Mapping[str, Any]) -> Iterator[str]:
    """What was trained, for how long, and how good it is."""
    yield "| network | steps | minutes | tokens, M | tokens/s | last loss | ended by |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for name in ("executor", "planner-tuned"):
        done = json.loads((out / name / "training.json").read_text(encoding="utf-8"))["done"]
        speed = done["tokens"] / done["seconds"]
        yield (
            f"| {name} | {done['step']} | {done['seconds'] / 60:.1f} | {done['tokens'] / 1e6:.1f} | {speed:,.0f} | "
            f"{done['loss']:.3f} | {done['stopped']} |"
        )
    yield "\n| task | right, % [95 %] | n | unreadable, % | truncated, % | forwards |"
    yield "|---|---|---:|---:|---:|---:|"
    for folder in sorted((out / "studies").glob("eval-*")):
        task, e = folder.name.removeprefix("eval-"), accuracy(folder)
        if e["left"]:
            yield f"| {task} | not finished: {e['left']} items left | | | | |"
            continue
        right = f"{100 * e['accuracy']:.1f} [{100 * e['low']:.1f}, {100 * e['high']:.1f}]"
        unread, cut = 100 * e["unreadable"], 100 * e["truncated"]
        yield f"| {task} | {right} | {e['n']} | {unread:.1f} | {cut:.1f} | {e['forwards']:.1f} |"
    yield f"\nStudied: {', '.join(found['studied'])}. {found['note']}"
    if (out / "check.json").is_file():
        held = json.loads((out / "check.json").read_text(encoding="utf-8"))
        yield f"\n{held['same_text']} of {held['items']} texts of {held['task']} are the same on a CPU in float32."


def accuracy(folder: Path) -> dict[str, float]:
    """Share of right rows with Wilson's interval, unreadable and truncated ones beside it."""
    from triaxis.estimate.paired import wilson
    from triaxis.store import Store
    from triaxis.study.summary import held_protocol
    from triaxis.tasks import load_task

    spec = held_protocol(folder)["spec"]
    task = load_task(spec["task"])
    items = {i.id: i for i in task.items(spec["n"])}
    with Store(folder / "rows.sqlite", write=False) as store:
        rows = store.rows()
    verdicts = [task.grade(r.text, items[r.item]).verdict for r in rows]
    right, n = verdicts.count("right"), len(verdicts)
    low, high = wilson(right, n)
    return {
        "accuracy": right / n, "low": low, "high": high, "n": n, "left": len(items) - n,
        "unreadable": verdicts.count("unreadable") / n,
        "truncated": sum(not r.ended for r in rows) / n, "forwards": sum(r.forwards for r in rows) / n,
    }  # fmt: skip


def losses(out: Path) -> Iterator[str]:
    """What training did to the loss on rows kept apart."""
    yield "| adapter | seed | held-out loss before | best after |\n|---|---:|---:|---:|"
    for folder in sorted((out / "adapters").glob("*-s*")):
        lines = [json.loads(x) for x in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        losses = [x["held_loss"] for x in lines if "held_loss" in x]
        kind, _, seed = folder.name.rpartition("-s")
        yield f"| {kind} | {seed} | {losses[0]:.3f} | {min(losses[1:], default=losses[0]):.3f} |"


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between a page's marks of that name."""
    head, rest = page.read_text(encoding="utf-8").split(f"<!-- {name}:begin -->")
    tail = rest.split(f"<!-- {name}:end -->")[1]
    page.write_text(f"{head}<!-- {name}:begin -->\n{text}\n<!-- {name}:end -->{tail}", encoding="utf-8")


def sampled(folder: Path) -> int:
    """Rows of a study; 0 where it was not begun."""
    from triaxis.store import Store

    if not (folder / "rows.sqlite").is_file():
        return 0
    with Store(folder / "rows.sqlite", write=False) as store:
        return store.tally("rows").rows
