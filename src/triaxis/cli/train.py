"""Commands that train and check adapters: doctor, train prefix, train trust, distill."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triaxis.cli import app, print_json, write
from triaxis.cli.options import Bar, Json, names, numbers, settings

if TYPE_CHECKING:
    from triaxis.train.recipes import Recipe

training = typer.Typer(help="Train a repair adapter, judge it on all three axes, and write one report.")
app.add_typer(training, name="train")

Executor = Annotated[str, typer.Option(help="'tiny' or a checkpoint folder.")]
Task = Annotated[
    str, typer.Option(help='gradeschool, gsm8k, or jsonl:FILE with "split": "train" on items that have a solution.')
]
Planners = Annotated[str | None, typer.Option(help="Comma-separated planners; default: the three tiny ones.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; running again goes on with it.")]
Seeds = Annotated[str, typer.Option(help="Training seeds, such as 0,1,2,3,4.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="A setting of the recipe, such as steps=400.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
Dtype = Annotated[
    str | None, typer.Option(help="Of the frozen weights: fp32, bf16 or 4bit; default: fp32 on a CPU, bf16 on a GPU.")
]
Track = Annotated[
    str, typer.Option(help="Also log to trackio, wandb or tensorboard (extras of those names; all stay offline).")
]


def recipe_of(kind: str, executor: str, changes: list[str] | None) -> Recipe:
    """The kind's recipe for the executor's family with the changes. UserError names an unknown setting."""
    from triaxis.models.folder import find_folder, read_config

    return changed(kind, changes, str(read_config(find_folder(executor, "executor")).get("triaxis_family", "")))


def changed(kind: str, changes: list[str] | None, family: str = "") -> Recipe:
    """The kind's recipe for a family, or the published one, with the changes."""
    from triaxis.errors import override
    from triaxis.train.recipes import Recipe, default_recipe

    tuples = {f.name for f in fields(Recipe) if str(f.type).startswith("tuple")}
    given = settings(changes or [])
    for name in tuples & set(given):
        parts = str(given[name]).split(",")
        given[name] = tuple(parts) if name == "targets" else tuple(float(p) for p in parts)
    return override(default_recipe(kind, family), given)


def _judged(kind: str, text: str) -> None:
    """Register the command that trains the kind's adapter and its control and judges both."""

    @training.command(kind, help=text)
    def command(
        executor: Executor = "tiny", task: Task = "gradeschool", planners: Planners = None,
        items: Annotated[int, typer.Option(help="Training items; each is shown in every tier.")] = 1600,
        n: Annotated[int, typer.Option(help="Test items.")] = 300,
        seeds: Seeds = "0",
        control: Annotated[bool, typer.Option(help="Also train the control on bare prompts.")] = True,
        conditions: Annotated[str | None, typer.Option(help="Conditions of the evaluation; default: all.")] = None,
        out: Out = Path("runs") / kind, setting: Setting = None, device: Device = None, dtype: Dtype = None,
        track: Track = "",
        sharded: Annotated[
            bool, typer.Option("--sharded", help="Under accelerate launch: each process holds a part of the weights.")
        ] = False,
        json_: Json = False,
    ) -> None:  # fmt: skip
        from triaxis.report.repair import markdown
        from triaxis.report.repairs import Repair, run_repair
        from triaxis.study import TINY_PLANNERS

        wanted = Repair(
            kind=kind, recipe=recipe_of(kind, executor, setting), executor=executor, task=task, items=items, n=n,
            planners=TINY_PLANNERS if planners is None else names(planners), seeds=numbers(seeds), control=control,
            device=device, dtype=dtype, conditions=names(conditions), tracker=track, sharded=sharded,
        )  # fmt: skip
        with Bar() as bar:
            found = run_repair(wanted, out, bar)
        if not found:  # not the first of several processes
            return
        if json_:
            print_json(found)
        else:
            sys.stdout.write(markdown(found) + f"\nreport: {out / 'repair.md'}\n")


_judged(
    "prefix",
    "Prefix robustness: the right answer under every shape of scaffold; before, after and control in one report.",
)
_judged(
    "trust", "Content trust: plans of one shape that are right, wrong or counterfactual; the target is always right."
)


@training.command()
def cost(
    kind: Annotated[str, typer.Argument(help="prefix, trust or consensus: its published recipe.")] = "prefix",
    bench: Annotated[Path | None, typer.Option(help="What triaxis bench train --json wrote on that machine.")] = None,
    case: Annotated[str, typer.Option(help="Case of that report.")] = "compiled",
    tokens_per_second: Annotated[float | None, typer.Option(help="Instead of --bench: tokens a second.")] = None,
    row_tokens: Annotated[float | None, typer.Option(help="Tokens of a training row; default: of the bench.")] = None,
    planners: Annotated[int, typer.Option(help="Planners of the judgement.")] = 3,
    n: Annotated[int, typer.Option(help="Test items.")] = 300,
    seeds: Seeds = "0",
    control: Annotated[bool, typer.Option(help="Also train the control on bare prompts.")] = True,
    items: Annotated[int, typer.Option(help="consensus: training items that the branches answer.")] = 500,
    k: Annotated[int, typer.Option(help="consensus: branches of a vote.")] = 5,
    blocks: Annotated[str, typer.Option(help="consensus: last blocks the adapter is on in.")] = "1,3",
    sequence_seconds: Annotated[
        float | None, typer.Option(help="Seconds a decoded sequence takes (triaxis bench speed); default: not counted.")
    ] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Dollars an hour of the machine costs.")] = None,
    setting: Setting = None, json_: Json = False,
) -> None:  # fmt: skip
    """Hours and dollars of training and judging an adapter, from a throughput that was measured."""
    from dataclasses import asdict

    from triaxis.errors import UserError
    from triaxis.train import budget as b

    count, recipe = len(numbers(seeds)), changed("prefix" if kind == "trust" else kind, setting)
    if (bench is None) == (tokens_per_second is None):
        raise UserError("give either --bench FILE (of triaxis bench train --json) or --tokens-per-second")
    if tokens_per_second is not None and row_tokens is None:
        raise UserError("--tokens-per-second needs --row-tokens, the prompt and response of a training row")
    if bench is not None:
        speed = b.measured(bench, case, row_tokens)
    else:
        speed = b.given(tokens_per_second or 0.0, row_tokens or 0.0)
    names_ = [f"planner {i}" for i in range(planners)]
    last = len(numbers(blocks))
    sequences = b.judged(kind, names_, n, count, control=control, asked=items, k=k, blocks=last)
    adapters = count * (2 if control and kind != "consensus" else 1)
    found = b.budget(
        recipe, speed, adapters=adapters, sequences=sequences, sequence_seconds=sequence_seconds, price=price_per_hour
    )
    print_json(asdict(found)) if json_ else sys.stdout.write(found.lines())


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
            write(f"{f.severity:8}{f.code:18}{f.message}\n")
    raise typer.Exit(1 if any(f.severity == "error" for f in found) else 0)


@app.command()
def distill(
    executor: Executor = "tiny", task: Task = "gradeschool",
    items: Annotated[int, typer.Option(help="Training items that greedy and the branches answer.")] = 500,
    n: Annotated[int, typer.Option(help="Test items.")] = 300,
    k: Annotated[int, typer.Option(help="Branches of a vote.")] = 5,
    regime: Annotated[
        str, typer.Option(help="default, random-order, one-block, hot, or auto: the first with headroom.")
    ] = "default",
    label: Annotated[str, typer.Option(help="vote (no answers needed) or gold.")] = "vote",
    blocks: Annotated[str, typer.Option(help="Last blocks the adapter is on in, such as 1,3.")] = "1,3",
    seeds: Seeds = "0",
    diagnose: Annotated[bool, typer.Option("--diagnose", help="Run the factorial that explains a plateau.")] = False,
    factors: Annotated[str, typer.Option(help="Factors of --diagnose.")] = "coverage,span,rank,layers,data",
    out: Out = Path("runs/distill"), setting: Setting = None, device: Device = None, dtype: Dtype = None,
    track: Track = "", json_: Json = False,
) -> None:  # fmt: skip
    """Put the majority vote into one pass, or with --diagnose say what limits that. Exit 1 where nothing is to gain."""
    from triaxis.report.distilled import markdown, write
    from triaxis.sampling.executor import load_executor
    from triaxis.tasks import load_task
    from triaxis.train.distil import Distil, distil
    from triaxis.train.plateau import diagnose as explain
    from triaxis.train.sampled import Bench

    wanted = Distil(
        recipe=recipe_of("consensus", executor, setting), regime=regime, label=label, items=items, n=n, k=k,
        blocks=numbers(blocks), seeds=numbers(seeds), tracker=track,
    )  # fmt: skip
    bench = Bench(load_executor(executor, device=device, dtype=dtype), load_task(task), out / "rows")
    with Bar() as bar:
        if diagnose:
            found = explain(bench, wanted, out, factors=names(factors), note=bar)
        else:
            found = distil(bench, wanted, out, note=bar)
    path = write(found, out, "diagnosis" if diagnose else "distillation")
    if json_:
        print_json(found)
    else:
        sys.stdout.write(markdown(found) + f"\nreport: {path}\n")
    raise typer.Exit(1 if "refused" in found else 0)
