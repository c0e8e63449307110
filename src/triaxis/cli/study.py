"""Commands that run and re-make studies: diagnose, grade, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triaxis.cli import app, print_json
from triaxis.errors import UserError

if TYPE_CHECKING:
    from triaxis.study import Study

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a study (rows.sqlite, summary.json).")]


class Bar:
    """A progress bar on stderr with the time left; silent when stderr is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.stages: dict[str, Any] = {}

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.stages:
            for other in self.stages.values():
                self.progress.update(other, completed=self.progress.tasks[other].total)
            self.stages[stage] = self.progress.add_task(stage, total=total, completed=done)
        else:
            self.progress.update(self.stages[stage], completed=done, total=total)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(n.strip() for n in text.split(",") if n.strip()) if text else ()


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(s) for s in text.split(","))
    except ValueError:
        raise UserError(
            f"--seed {text!r} is not a whole number or a comma-separated list of them, such as 0 or 0,1,2"
        ) from None


def _settings(pairs: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r} is not of the form name=value, such as steps=48")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text.lower() == "none" else text


@app.command()
def diagnose(
    context: typer.Context,
    executor: Annotated[str, typer.Option(help="'tiny' or a checkpoint folder.")] = "tiny",
    planners: Annotated[
        str | None, typer.Option(help="Comma-separated planners; default: the three tiny ones.")
    ] = None,
    task: Annotated[str, typer.Option(help="gradeschool, gsm8k, or jsonl:FILE.")] = "gradeschool",
    n: Annotated[int, typer.Option(help="Items.")] = 100,
    seed: Annotated[str, typer.Option(help="Seed, or several: 0,1,2.")] = "0",
    conditions: Annotated[str | None, typer.Option(help="Comma-separated conditions; default: all.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A decoding setting, such as steps=48.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default: runs/<name of the study>.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in --out, with its own settings.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    json_: Json = False,
) -> None:
    """Run the three-axis diagnosis and write rows, summary and report. Re-running goes on where it stopped."""
    from triaxis.report.study import Study
    from triaxis.study import TINY_PLANNERS

    if resume:
        if out is None:
            raise UserError("--resume needs --out, the folder of the study to go on with")
        _refuse_settings(context)
        study = Study.reopen(out)
    else:
        study = Study(
            executor=executor, planners=_names(planners) if planners is not None else TINY_PLANNERS, task=task, n=n,
            seeds=_seeds(seed), conditions=_names(conditions), decode=_settings(setting or []), device=device,
        )  # fmt: skip
    folder = out or default_folder(study)
    with Bar() as bar:
        summary = study.run(folder, bar)
    show(summary, folder, json_)


def _refuse_settings(context: typer.Context) -> None:
    """--resume takes its settings from the folder; one given beside it would be ignored, so it is refused."""
    beside = ("out", "resume", "json_")
    given = [p for p in context.command.params if context.get_parameter_source(str(p.name)).name == "COMMANDLINE"]  # type: ignore[union-attr]
    settings = [p.opts[0] for p in given if p.name not in beside]
    if settings:
        raise UserError(f"--resume goes on with the settings of the study in --out; leave out {', '.join(settings)}")


def default_folder(study: Study) -> Path:
    """runs/<executor>-<task>-n<n>-<hash>, so that different studies never meet; one study has one folder."""
    from triaxis.store import identity

    task = "".join(c if c.isalnum() else "-" for c in study.task)[-30:]
    settings = {**study.spec(), "conditions": sorted(c.name for c in study.table())}
    return Path("runs") / f"{Path(study.executor).name}-{task}-n{study.n}-{identity(settings)[:8]}"


def show(summary: dict[str, Any], folder: Path, json_: bool) -> None:
    """Print a summary: as JSON, or as tables with the place of the report."""
    if json_:
        print_json(summary)
        return
    from rich.console import Console

    from triaxis.report.terminal import print_summary

    console = Console()
    print_summary(summary, console)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def report(folder: Folder, json_: Json = False) -> None:
    """Re-make a study's report from its files; needs no model."""
    from triaxis.report import render

    path = render(folder)
    if json_:
        print_json({"report": str(path)})
    else:
        sys.stdout.write(f"report: {path}\n")


@app.command()
def grade(
    folder: Folder,
    second: Annotated[bool, typer.Option(help="Ask the second grader (math-verify) too.")] = True,
    json_: Json = False,
) -> None:
    """Grade a study's stored texts again and re-make its summary and report; needs no model."""
    from triaxis.report import render
    from triaxis.study import regrade

    with Bar() as bar:
        summary = regrade(folder, bar, second=second)
    render(folder)
    show(summary, folder, json_)
