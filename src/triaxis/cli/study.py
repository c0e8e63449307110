"""Commands that run and re-make studies: diagnose, grade, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from triaxis.cli import app, print_json
from triaxis.cli.options import (
    Address,
    Bar,
    Devices,
    Dtype,
    PlannerWorkers,
    Quantize,
    Where,
    Workers,
    bits,
    compute,
    names,
    numbers,
    settings,
)
from triaxis.errors import UserError

if TYPE_CHECKING:
    from triaxis.study import Study

S = TypeVar("S", bound="Study")
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]
StopWhen = Annotated[str, typer.Option(help="'resolved': stop once every main contrast is, by anytime-valid e-values.")]
RowsOnly = Annotated[
    bool, typer.Option("--rows-only", help="Make plans and rows only; triaxis grade makes the rest, anywhere.")
]
Preset = Annotated[
    str,
    typer.Option(help="quick, original, think-first, factorial, trust, diversity, or a .toml file of conditions."),
]
AdapterOf = Annotated[
    str,
    typer.Option(help="Adapter schedule, such as prefix or prefix@last:3: every executor arm with and without it."),
]
Prereg = Annotated[
    Path | None, typer.Option(help="Predictions (triaxis prereg new); their hash is stamped into the study.")
]
Speed = Annotated[str, typer.Option(help="exact, balanced or fast: the last two as triaxis tune found for this task.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Predict time, memory and dollars from a few items; keep nothing.")
]
Folder = Annotated[Path, typer.Argument(help="Folder of a study (rows.sqlite, summary.json).")]


@app.command()
def diagnose(
    context: typer.Context,
    executor: Annotated[str, typer.Option(help="'tiny', a checkpoint folder or a hub id.")] = "tiny",
    planners: Annotated[
        str | None, typer.Option(help="Comma-separated planners; default: the three tiny ones.")
    ] = None,
    task: Annotated[str, typer.Option(help="gradeschool, gsm8k, jsonl:FILE or lm-eval:NAME.")] = "gradeschool",
    n: Annotated[int, typer.Option(help="Items.")] = 100,
    seed: Annotated[str, typer.Option(help="Seed, or several: 0,1,2.")] = "0",
    preset: Preset = "quick",
    conditions: Annotated[str | None, typer.Option(help="Comma-separated conditions; default: all.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A decoding setting, such as steps=48.")] = None,
    plan_setting: Annotated[
        list[str] | None, typer.Option("--plan-set", help="A setting of the planners, such as budget=100.")
    ] = None,
    adapter: AdapterOf = "",
    alone: Annotated[bool, typer.Option("--alone", help="With --adapter: no arms without it.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; default: runs/<name of the study>.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in --out, with its own settings.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    prereg: Prereg = None,
    stop_when: StopWhen = "",
    rows_only: RowsOnly = False,
    speed: Speed = "exact",
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Dollars an hour of this machine costs.")] = None,
    dry_run: DryRun = False,
    compute_: Where = "",
    workers: Workers = 0,
    devices: Devices = None,
    address: Address = "",
    planner_workers: PlannerWorkers = 1,
    json_: Json = False,
) -> None:
    """Run the three-axis diagnosis and write rows, summary and report. Re-running goes on where it stopped."""
    from triaxis.cli.live import Live
    from triaxis.cli.scale import forecast, priced
    from triaxis.cli.tune import speed_settings
    from triaxis.conditions import load_preset
    from triaxis.report.study import Study
    from triaxis.study import TINY_PLANNERS

    typed, place = _given(context), compute(compute_, workers, devices, address, planner_workers)
    asked: dict[str, Any] = {
        "executor": executor, "planners": TINY_PLANNERS if planners is None else names(planners), "task": task, "n": n,
        "seeds": numbers(seed), "conditions": names(conditions),
        "decode": {**speed_settings(speed, executor, task), **settings(setting or [])},
        "writing": settings(plan_setting or []), "device": device, "dtype": bits(dtype, quantize), "adapter": adapter,
        "beside": bool(adapter) and not alone,
        "preset": preset, "stop_when": stop_when,
    }  # fmt: skip
    study = Study.from_spec({**asked, **{k: v for k, v in load_preset(preset).study.items() if k not in typed}})
    if resume:
        study = _resumed(study, out, typed)
    if dry_run:
        found = forecast(study, price_per_hour)
        print_json(found.plain()) if json_ else sys.stdout.write(found.lines())
        return
    folder = out or default_folder(study)
    with Live(price_per_hour) as live:
        made = (
            study.sample(folder, live, live.seen, place)
            if rows_only
            else study.run(folder, live, prereg=prereg, seen=live.seen, compute=place)
        )
    if isinstance(made, int):
        print_json({"rows": made}) if json_ else sys.stdout.write(f"{made} rows: triaxis grade {folder}\n")
    else:
        show(made if price_per_hour is None else priced(folder, price_per_hour), folder, json_)


def _given(context: typer.Context) -> dict[str, str]:
    """The settings typed on the command line: field of Study -> flag."""
    fields = {"seed": "seeds", "setting": "decode", "plan_setting": "writing", "speed": "decode", "alone": "beside",
              "quantize": "dtype"}  # fmt: skip
    typed = [p for p in context.command.params if _was_typed(context, str(p.name))]
    beside = (
        "out", "resume", "json_", "prereg", "rows_only", "price_per_hour", "dry_run", "compute_", "workers", "devices",
        "address", "planner_workers",
    )  # fmt: skip
    return {fields.get(str(p.name), str(p.name)): p.opts[0] for p in typed if p.name not in beside}


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _resumed(asked: S, out: Path | None, given: Mapping[str, str]) -> S:
    """The study in `out`. Settings given beside --resume need not be repeated, and must not contradict it.

    Where nothing was started yet, settings say what to start; without any there is nothing to go on with.
    """
    if out is None:
        raise UserError("--resume needs --out, the folder of the study to go on with")
    if given and not (out / "rows.sqlite").is_file():
        return asked
    held = type(asked).reopen(out)
    now = replace(held, **{field: getattr(asked, field) for field in given})
    for field, flag in given.items():
        was, here = getattr(held, field), getattr(now, field)
        if was != here and (field != "conditions" or held.table() != now.table()):
            raise UserError(
                f"{flag}: the study in {out} has {field} {was!r}, not {here!r}; leave out {flag} or --resume"
            )
    return held


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
def report(
    folder: Folder,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print the tables as LaTeX (booktabs, graphicx).")] = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write conditions.csv and effects.csv into FOLDER/tables.")
    ] = False,
    figures: Annotated[
        str | None, typer.Option(help="pdf or svg: write every figure as a file into FOLDER/figures.")
    ] = None,
    json_: Json = False,
) -> None:
    """Re-make a study's report from its files, unless the one there is current; needs no model."""
    from triaxis.compute.processes import cores
    from triaxis.report import current, render

    if markdown + latex + json_ > 1:
        raise UserError("--markdown, --latex and --json each take stdout; give one of them")
    path = folder / "report.html" if current(folder) else render(folder, cores())
    if not (markdown or latex or csv or figures is not None):
        print_json({"report": str(path)}) if json_ else sys.stdout.write(f"report: {path}\n")
        return
    from triaxis.report.export import latex as tex
    from triaxis.report.export import write_csv, write_figures
    from triaxis.report.load import load
    from triaxis.report.markdown import markdown as tables

    summary, _, store = load(folder)
    with store:
        files = write_csv(summary, folder / "tables") if csv else []
        files += write_figures(summary, folder / "figures", figures) if figures is not None else []
    if json_:
        print_json({"report": str(path), **({"files": [str(f) for f in files]} if files else {})})
    elif markdown or latex:
        sys.stdout.write(tables(summary) if markdown else tex(summary))
    else:
        sys.stdout.write("".join(f"{f}\n" for f in files) + f"report: {path}\n")


@app.command()
def grade(
    folder: Folder,
    second: Annotated[bool, typer.Option(help="Ask the second grader (math-verify) too.")] = True,
    json_: Json = False,
) -> None:
    """Grade a study's stored texts again and re-make its summary and report; needs no model."""
    from triaxis.compute.processes import cores
    from triaxis.report import render
    from triaxis.study.summary import regrade

    with Bar() as bar:
        summary = regrade(folder, bar, second=second, workers=cores())
    render(folder, cores())
    show(summary, folder, json_)
