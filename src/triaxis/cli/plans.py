"""Commands about plans: plans build, show, export, import, check."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triaxis.cli import app, print_json, write
from triaxis.cli.options import Json
from triaxis.errors import UserError

if TYPE_CHECKING:
    from triaxis.models.writer import Planner
    from triaxis.plans.files import Bank
    from triaxis.plans.sources import Plan
    from triaxis.tasks.base import Item, Task

group = typer.Typer(
    name="plans", help="Plans as stimuli: make, look at, export, import and check them.", no_args_is_help=True
)
app.add_typer(group)

BankName = Annotated[str, typer.Argument(metavar="BANK", help="A bank file, or the name of a bank.")]
TaskName = Annotated[str | None, typer.Option("--task", help="The bank's task, if not under the name it gives.")]
Out = Annotated[Path, typer.Option("--out", help="The bank: NAME.jsonl or NAME.jsonl.gz.")]


def _bank_and_task(name: str, task: str | None) -> tuple[Bank, Task]:
    """A bank that is whole and its task; the bank is checked against it."""
    from triaxis.plans import files
    from triaxis.tasks import load_task

    bank = files.read_bank(files.find_bank(name))
    of = load_task(task or bank.manifest.task)
    files.check_bank(bank, of)
    return bank, of


def _card(bank: Bank, **more: object) -> dict[str, Any]:
    m = bank.manifest
    return {
        "bank": str(bank.path), "task": m.task, "planner": m.planner, "identity": m.identity,
        "parameters": m.parameters, "items": len(bank.rows), "sha256": bank.sha256, **more,
    }  # fmt: skip


def _say(bank: Bank, what: str, json_: bool, **more: object) -> None:
    if json_:
        print_json(_card(bank, **more))
    else:
        of = f"{len(bank.rows)} plans of {bank.manifest.planner} for {bank.manifest.task}"
        write(f"{what}: {bank.path} ({of}, sha256 {bank.sha256[:12]})\n")


@group.command("build")
def build_bank(
    planner: Annotated[str, typer.Option(help="The planner, as diagnose takes it.")],
    out: Out,
    task: Annotated[str, typer.Option(help="gradeschool, gsm8k, jsonl:FILE or lm-eval:NAME.")] = "gradeschool",
    n: Annotated[int | None, typer.Option(help="Items; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the items.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the task.")] = "test",
    setting: Annotated[list[str] | None, typer.Option("--plan-set", help="How it writes, such as budget=32.")] = None,
    json_: Json = False,
) -> None:
    """Make a planner's plans and write them as a bank. Goes on where it stopped; a larger --n extends a bank."""
    from triaxis.cli.options import Bar, settings
    from triaxis.plans.build import build
    from triaxis.tasks import load_task

    of = load_task(task)
    of.items(n, split=split, seed=seed)  # wrong names are told before a planner is loaded
    asked = {"planner": planner, "task": task, "split": split, "n": n, "seed": seed, "out": out.name}
    told = [(name, value) for name, value in asked.items() if value is not None]
    told += [("plan-set", pair) for pair in setting or []]
    command = " ".join(("triaxis plans build", *(f"--{name} {shlex.quote(str(value))}" for name, value in told)))
    with Bar() as bar:
        made = build(
            _opened(planner, settings(setting or [])),
            of,
            n,
            out,
            split=split,
            seed=seed,
            command=command,
            progress=bar,
        )
    _say(made, "bank", json_)


def _opened(name: str, settings: Mapping[str, object]) -> Planner:
    """The planner of that name with its settings."""
    from triaxis.plans.sources import planner_table

    return planner_table([name], writing=settings)[name]()


@group.command("show")
def show_plans(
    source: Annotated[
        str, typer.Argument(help="A bank, or a plan source: gold, true:PLANNER, truncate-8:gold, filler-12.")
    ],
    n: Annotated[int, typer.Option(help="Plans printed.")] = 5,
    rated: Annotated[int, typer.Option("--of", help="Plans of a source that are counted; all of a bank.")] = 50,
    task: TaskName = None,
    seed: Annotated[int, typer.Option(help="Chooses the items and draws the edits.")] = 0,
    executor: Annotated[str, typer.Option(help="Whose tokens measure fillers: 'tiny' or a folder.")] = "tiny",
    json_: Json = False,
) -> None:
    """Print some plans with their flags, and how many are truncated, state the answer, have the right steps."""
    from triaxis.plans.build import flags, rates

    plans, items = _plans(source, max(n, rated), task, seed, executor)
    told = [flags(p, i) for p, i in zip(plans, items, strict=True)]
    shares = rates(told)
    if json_:
        print_json({"source": source, "rates": shares, "plans": told[:n]})
        return
    for f in told[:n]:
        marks = [name for name in ("truncated", "leaks", "unchanged") if f.get(name)]
        marks += [] if f["steps_right"] is None else ["steps right" if f["steps_right"] else "steps wrong"]
        marks += [] if f["implied"] is None else [f"implies {f['implied']}"]
        marks.append(f"gold {f['gold']}")
        write(f"{f['item']} ({f['tokens']} tokens; {', '.join(marks)})\n{f['text']}\n\n")
    parts = [f"{name.replace('_', ' ')} {v:.1%}" for name, v in shares.items() if name != "n" and v is not None]
    sys.stdout.write(f"of {shares['n']} plans: {', '.join(parts)}\n")


def _plans(source: str, n: int, task: str | None, seed: int, executor: str) -> tuple[Sequence[Plan], Sequence[Item]]:
    """The plans of a bank, whole, or of the first `n` items from a source."""
    from triaxis.plans import files

    known = files.shipped()
    if source.startswith(files.PREFIX) or (":" not in source and source.endswith(files.SUFFIXES)) or source in known:
        from triaxis.plans.sources import Plan

        bank, of = _bank_and_task(source, task)
        items_of = {i.id: i for i in of.items(split=bank.manifest.split)}
        return [Plan(r.text, r.tokens, r.truncated) for r in bank.rows], [items_of[r.item] for r in bank.rows]
    from triaxis.plans.sources import Maker, parse, planner_table
    from triaxis.sampling.executor import load_executor
    from triaxis.tasks import load_task

    _, origin = parse(source)
    of = load_task(task or "gradeschool")
    everyone = of.items(seed=seed)
    items = everyone[: min(n, len(everyone))]
    table = planner_table([origin] if origin not in ("", "gold") and not origin.startswith(files.PREFIX) else [])
    return Maker(of, items, load_executor(executor), table, seed).make(source, items), items


@group.command("export")
def export_plans(
    folder: Annotated[Path, typer.Argument(help="Folder of a study (rows.sqlite).")],
    planner: Annotated[str, typer.Option(help="A planner of that study.")],
    out: Out,
    task: TaskName = None,
    json_: Json = False,
) -> None:
    """Write the plans of one planner that a study's store holds as a bank."""
    from triaxis.plans.build import export
    from triaxis.store.protocol import PLANS
    from triaxis.study.summary import held_protocol
    from triaxis.tasks import load_task

    name = task or held_protocol(folder, PLANS)["task"]["name"]
    command = f"triaxis plans export {shlex.quote(folder.name)} --planner {shlex.quote(planner)} --out {out.name}"
    _say(export(folder, planner, out, load_task(name), command), "bank", json_)


@group.command("import")
def import_plans(
    bank: BankName,
    into: Annotated[Path | None, typer.Option(help="Folder of a study: the plans stand for its planner's.")] = None,
    name: Annotated[str | None, typer.Option(help="Copy to ./banks, to be used as planner file:NAME.")] = None,
    task: TaskName = None,
    json_: Json = False,
) -> None:
    """Check a bank and put its plans into a study's store, or copy it to a name."""
    from triaxis.plans.build import copy, put

    if (into is None) == (name is None):
        raise UserError("plans import needs one place: --into STUDY, or --name NAME to copy the bank to ./banks")
    held, of = _bank_and_task(bank, task)
    if into is not None:
        new = put(held, of, into)
        _say(held, f"{new} new plans in {into}", json_, new=new)
        return
    assert name is not None
    place = copy(held, of, name)
    _say(held, f"copied to {place}; use it as planner file:{name}", json_, copied=str(place))


@group.command("check")
def check_plans(bank: BankName, task: TaskName = None, json_: Json = False) -> None:
    """Check a bank: its lines, fields, checksum, and items and answers against the task."""
    held, _ = _bank_and_task(bank, task)
    _say(held, "sound", json_, sound=True)
