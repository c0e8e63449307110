"""triaxis diversity: branches before and after, at several temperatures, under every rule of voting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from triaxis.cli import app, print_json
from triaxis.errors import UserError


@app.command()
def diversity(
    executor: Annotated[str, typer.Option(help="'tiny' or a checkpoint folder: before.")] = "tiny",
    after: Annotated[str, typer.Option(help="Another executor: after.")] = "",
    adapter: Annotated[str, typer.Option(help="An adapter schedule on the same executor: after.")] = "",
    task: Annotated[str, typer.Option(help="gradeschool, gsm8k, jsonl:FILE or lm-eval:NAME.")] = "gradeschool",
    n: Annotated[int, typer.Option(help="Items.")] = 100,
    k: Annotated[int, typer.Option(help="Branches of an item.")] = 5,
    temperatures: Annotated[str, typer.Option(help="Comma-separated temperatures.")] = "0.3,0.7,1.2",
    match: Annotated[str, typer.Option(help="What the matched temperature makes equal: per_branch, all_equal.")] = (
        "per_branch"
    ),
    budget: Annotated[int, typer.Option(help="Temperatures that matching may try.")] = 6,
    judge: Annotated[str, typer.Option(help="A planner spec that says which branches are right, to rerank them.")] = "",
    embed: Annotated[str, typer.Option(help="A sentence-transformers model: distance between branches' texts.")] = "",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A decoding setting, such as steps=48.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the measurement.")] = Path("runs/diversity"),
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")] = False,
) -> None:
    """Measure the diversity that voting can use, and whether training expanded or collapsed it."""
    from triaxis.branching import Branching
    from triaxis.cli.options import Bar, settings

    measured = Branching(
        executor=executor, after=after, adapter=adapter, task=task, n=n, k=k, temperatures=_numbers(temperatures),
        seed=seed, decode=settings(setting or []), device=device, match_by=match, budget=budget,
        judge=judge, embed=embed,
    )  # fmt: skip
    with Bar() as bar:
        found = measured.run(out, bar)
    print_json(found) if json_ else _show(found, out)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(t) for t in text.split(",") if t.strip())
    except ValueError:
        raise UserError(f"--temperatures {text!r} is not a comma-separated list of numbers, such as 0.3,0.7") from None


def _show(found: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from triaxis.cli.show import Harmless

    console = Harmless()
    arms = {f"{side} {name}": arm for side in ("before", "after") for name, arm in found.get(side, {}).items()}
    shown = Table("measure, with its 95 % interval", *arms, box=None)
    for label in next(iter(arms.values()))["metrics"]:
        shown.add_row(label, *(_cell(arm["metrics"][label]) for arm in arms.values()))
    for label in next(iter(arms.values()))["trajectory"]:
        shown.add_row(label, *(_cell(arm["trajectory"].get(label)) for arm in arms.values()))
    for label in next(iter(arms.values()))["votes"]:
        shown.add_row(label, *(_cell(arm["votes"][label]) for arm in arms.values()))
    for rule in ("exact", "likely"):
        shown.add_row(
            f"quorum, {rule}: forwards saved", *(f"{arm['quorum'][rule]['saved']:.3f}" for arm in arms.values())
        )
    label = "quorum, likely: votes flipped (approximate)"
    shown.add_row(label, *(_cell(arm["quorum"]["likely"]["flip_rate"]) for arm in arms.values()))
    console.print(shown)
    for side, votes in found["temporal"].items():
        said = ", ".join(f"{weighting} {_cell(e)}" for weighting, e in votes.items())
        console.print(f"temporal vote of one greedy pass, {side}: {said}", highlight=False)
    for side, by_arm in found.get("rerank", {}).items():
        for name, r in by_arm.items():
            said = "; ".join(f"{e['name']} {100 * e['value']:+.1f} points, {e['verdict']}" for e in r["effects"])
            console.print(f"reranked by {r['judge']}, {side} {name}: {said}", highlight=False)
    for name, change in found.get("changes", {}).items():
        console.print(f"{name}: [bold]{change['verdict']}[/bold] ({change['reason']})", highlight=False)
    if control := found.get("control"):
        at = f"T={control['temperature_before']:.3g} before matches T={control['temperature_after']:g} after"
        console.print(f"{at} ({control['status']}): [bold]{control['verdict']}[/bold]; {control['reason']}")
    console.print(f"written: {out / 'diversity.json'}", soft_wrap=True, highlight=False)


def _cell(e: dict[str, float] | None) -> str:
    return "-" if e is None else f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
