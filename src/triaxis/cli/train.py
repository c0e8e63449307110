"""Commands that train and check adapters: doctor, train prefix, train trust, distill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from triaxis.cli import app, print_json
from triaxis.cli.options import Json


@app.command()
def doctor(
    executor: Annotated[str, typer.Option(help="'tiny' or a checkpoint folder.")] = "tiny",
    targets: Annotated[
        str | None, typer.Option(help="Comma-separated target names of a recipe, or one pattern.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="An adapter folder, or a schedule of several.")] = None,
    data: Annotated[Path | None, typer.Option(help='Training rows, JSON Lines with "prompt" and "response".')] = None,
    json_: Json = False,
) -> None:
    """Check a training run before it runs, or say what a published adapter really attaches to. Exit 1 on an error."""
    from triaxis.conditions import load_preset
    from triaxis.tasks import load_task
    from triaxis.train.doctor import examine

    shown = {c.name: c.scaffold.template.partition("{plan}")[0].strip() for c in load_preset("quick").conditions([])}
    questions = [i.question for i in load_task("gradeschool").items(4, split="train")] if adapter else []
    names = [t.strip() for t in (targets or "").split(",") if t.strip()]
    if targets and set(targets) & set("*()|\\"):
        names = [targets]
    found = examine(
        executor,
        targets=names,
        adapter=adapter or "",
        data=data,
        scaffolds=shown if data else None,
        questions=questions,
    )
    if json_:
        print_json({"findings": [f.as_dict() for f in found]})
    else:
        for f in found:
            sys.stdout.write(f"{f.severity:8}{f.code:18}{f.message}\n")
    raise typer.Exit(1 if any(f.severity == "error" for f in found) else 0)
