"""The command that shows how a completion is denoised: trace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triaxis.cli import app, print_json, write
from triaxis.cli.options import Json, settings
from triaxis.errors import UserError, lookup, override

if TYPE_CHECKING:
    from triaxis.conditions import Prompt, Scaffold
    from triaxis.tracing import Trace

BARE, BASE = "bare", "base"  # what --against may say besides a scaffold's name


def scaffolds() -> Mapping[str, Scaffold]:
    """Every scaffold of the shipped presets by name."""
    from triaxis.conditions import PRESETS, load_preset
    from triaxis.study import TINY_PLANNERS

    arms = [c for p in PRESETS for c in load_preset(p).conditions(TINY_PLANNERS)]
    return {c.scaffold.name: c.scaffold for c in arms[::-1]}


def prompt_of(question: str, scaffold: str, plan: str | None) -> Prompt:
    """What the executor is shown. A plan without a scaffold goes into "plan". UserError where the two disagree."""
    from triaxis.conditions import Prompt

    name = scaffold or ("plan" if plan is not None else "")
    if not name or name in (BARE, BASE):
        return Prompt(question)
    found = lookup("scaffold", scaffolds(), name)
    if found.shows_plan and plan is None:
        raise UserError(f"scaffold {name!r} shows a plan; give its text with --plan")
    return found.render(question, plan if found.shows_plan else None)


def _arms(scaffold: str, plan: str | None, adapter: str, against: str | None) -> list[tuple[str, str, str | None, str]]:
    """(label, scaffold, plan, adapter) of the trajectories to record."""
    if (plan is None and scaffold in ("", BARE)) and not adapter and against in (BARE, BASE):
        raise UserError(f"--against {against}: both sides are the same; give --scaffold, --plan or --adapter")
    shown = scaffold or ("plan" if plan is not None else BARE)
    found = [(shown + (f" with {adapter}" if adapter else ""), scaffold, plan, adapter)]
    if against is not None:
        other = (scaffold, plan, "") if against == BASE else (against, None if against == BARE else plan, adapter)
        if other == found[0][1:]:
            raise UserError(f"--against {against}: both sides are the same; name another scaffold, bare or base")
        name = shown + " without adapters" if against == BASE else against + (f" with {adapter}" if adapter else "")
        found.append((name, *other))
    return found


@app.command()
def trace(
    question: Annotated[str, typer.Option(help="The question, as the executor is shown it.")],
    executor: Annotated[str, typer.Option(help="'tiny', a checkpoint folder or a hub id.")] = "tiny",
    scaffold: Annotated[str, typer.Option(help="A scaffold of the shipped presets, such as plan-empty.")] = "",
    plan: Annotated[str | None, typer.Option(help="A plan's text, shown in --scaffold (default: plan).")] = None,
    adapter: Annotated[str, typer.Option(help="Adapter schedule, such as prefix@last:3.")] = "",
    against: Annotated[
        str | None,
        typer.Option(help="A second trajectory beside it: bare (no scaffold), base (no adapters), or a scaffold."),
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A decoding setting, such as steps=48.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random stream; unused where nothing is drawn.")] = 0,
    top: Annotated[int, typer.Option(help="Alternatives kept at each commit.")] = 5,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for trace.html and the .jsonl files.")] = Path("runs/trace"),
    movie: Annotated[str | None, typer.Option(help="gif or mp4: also write the trajectory as a film.")] = None,
    json_: Json = False,
) -> None:
    """Record how a completion is denoised, step by step, and write it as JSONL and as a page that plays it."""
    from triaxis.report.load import write_text
    from triaxis.report.movie import check_movie, write_movie
    from triaxis.report.trace import trace_page
    from triaxis.tracing import to_jsonl

    if movie is not None:
        check_movie(movie)
    arms = _arms(scaffold, plan, adapter, against)
    prompts = [prompt_of(question, name, text) for _, name, text, _ in arms]
    made = _record(executor, device, setting or [], arms, prompts, lambda t: {"seed": seed, "top": top, "label": t})
    files = [out / f"trace-{'ab'[i]}.jsonl" for i in range(len(made))]
    for path, t in zip(files, made, strict=True):
        write_text(path, to_jsonl(t))
    if len(made) == 1:
        (out / "trace-b.jsonl").unlink(missing_ok=True)  # of an earlier pair in this folder
    write_text(out / "trace.html", trace_page(made))
    if movie is not None:
        files.append(write_movie(made, out, movie))
    _tell(made, files, out / "trace.html", json_)


def _record(
    spec: str, device: str | None, changes: list[str], arms: list[tuple[str, str, str | None, str]],
    prompts: list[Prompt], options: Callable[[str], dict[str, Any]],
) -> list[Trace]:  # fmt: skip
    from triaxis.sampling.executor import load_executor
    from triaxis.tracing import record

    loaded = load_executor(spec, device=device)
    decode = override(loaded.default_decode(), settings(changes))
    return [
        record(loaded.with_adapters(arm[-1]), prompt, decode, **options(arm[0]))
        for arm, prompt in zip(arms, prompts, strict=True)
    ]


def _tell(made: list[Trace], files: list[Path], page: Path, json_: bool) -> None:
    from triaxis.report.trace import alarm_lines
    from triaxis.tracing import alarms, divergence

    apart = divergence(*made)._asdict() if len(made) > 1 else None
    if json_:
        found = [
            {"label": t.label, "file": str(f), "answer": t.answer, "forwards": t.forwards, "seconds": t.seconds,
             "alarms": alarms(t)._asdict()}
            for t, f in zip(made, files, strict=False)
        ]  # fmt: skip
        film = {"movie": str(files[-1])} if len(files) > len(made) else {}
        print_json({"page": str(page), "traces": found, "divergence": apart, **film})
        return
    for t in made:
        write(f"{t.label}: {t.answer.strip()!r}\n" + "".join(f"  {line}\n" for line in alarm_lines(alarms(t))))
    if apart is not None:
        sys.stdout.write(f"first divergence: step {apart['step']}, position {apart['place']}\n")
    sys.stdout.write(f"page: {page}\n" + "".join(f"film: {f}\n" for f in files[len(made) :]))
