"""Commands that measure decoding and training: bench speed, bench agreement, bench train."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

import typer

from triaxis.cli import app, print_json
from triaxis.cli.options import Dtype, Json, Quantize, bits
from triaxis.cli.tune import measure as measured_modes  # registers tune
from triaxis.errors import UserError, lookup

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor

bench = typer.Typer(
    name="bench", help="Measure decoding and training: speed, and what approximate modes change.", no_args_is_help=True
)
app.add_typer(bench)
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="'tiny', a checkpoint folder or a hub id.")]


@bench.command()
def speed(
    shape: Annotated[
        str, typer.Option(help="tiny: the shipped executor on its task; or llada-8b, llada-1b, small: random weights.")
    ] = "tiny",
    n: Annotated[int, typer.Option(help="Prompts of the tiny executor; 32 are what a batch of a study holds.")] = 32,
    rounds: Annotated[int, typer.Option(help="Rounds; the least time of each way counts.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Few layers and steps: does everything run?")] = False,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Seconds a sequence against the plain reference loop, as ratios in one run."""
    import torch

    from triaxis.models.load import find_device
    from triaxis.sampling import speed as measure

    if n < 2 or rounds < 1:
        raise UserError(f"--n {n} --rounds {rounds}: give at least 2 prompts and 1 round")
    lookup("shape", dict.fromkeys(("tiny", *measure.SHAPES)), shape)
    place = torch.device("cpu") if shape == "tiny" and device is None else find_device(device)
    if shape == "tiny":
        from triaxis.sampling.executor import load_executor

        executor = load_executor("tiny", device=str(place), dtype="fp32")
        prompts = _one_length(executor, min(n, 4) if quick else n)
        report = measure.against_reference(
            executor.checkpoint.network, prompts, executor.default_decode(), executor.end_ids,  # type: ignore[arg-type]
            rounds=1 if quick else rounds,
        )  # fmt: skip
    else:
        report = measure.of_shape(shape, device=place, quick=quick)
    if json_:
        print_json(report.plain())
    else:
        sys.stdout.write(measure.table(report) + "\n")


def _one_length(executor: Executor, n: int) -> list[list[int]]:
    """n different prompts of the task whose length is the most common one; the reference loop takes no others."""
    from triaxis.tasks import load_task

    by_length: dict[int, dict[tuple[int, ...], None]] = defaultdict(dict)
    for item in load_task("gradeschool").items(None):
        ids = executor.prompt_ids(item.question)
        by_length[len(ids)][tuple(ids)] = None
    most = max(by_length.values(), key=len)
    if len(most) < n:
        raise UserError(f"--n {n}: the task has {len(most)} prompts of one length; give at most that")
    return [list(ids) for ids in list(most)[:n]]


@bench.command()
def agreement(
    executor: ExecutorName = "tiny",
    task: Annotated[str, typer.Option(help="gradeschool, gsm8k, jsonl:FILE or lm-eval:NAME.")] = "gradeschool",
    n: Annotated[int, typer.Option(help="Items.")] = 100,
    seed: Annotated[int, typer.Option(help="Which items.")] = 0,
    margin: Annotated[float, typer.Option(help="Non-inferiority margin, a share: 0.05 = five points.")] = 0.05,
    modes: Annotated[str, typer.Option(help="Semicolon-separated modes; default: all.")] = "",
    setting: Annotated[list[str] | None, typer.Option("--set", help="A decoding setting, such as steps=48.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    json_: Json = False,
) -> None:
    """Tokens changed, answers flipped, accuracy lost and time saved by each approximate mode, on your own task."""
    from triaxis.sampling.agreement import presets, table

    m = measured_modes(
        executor, task, n=n, seed=seed, margin=margin, modes=modes, setting=setting, device=device,
        dtype=bits(dtype, quantize),
    )  # fmt: skip
    if json_:
        print_json(
            {"executor": m.executor.name, "task": task, "n": m.n, "margin": margin, "decode": m.decode.card(),
             "modes": [r.plain() for r in m.rows], "presets": presets(m.rows, m.decode)}
        )  # fmt: skip
        return
    sys.stdout.write(table(m.rows) + "\n")


@bench.command()
def train(
    shape: Annotated[str, typer.Option(help="llada-8b, llada-1b or small: random weights.")] = "llada-8b",
    row_tokens: Annotated[int, typer.Option(help="Prompt and response of a row.")] = 512,
    case: Annotated[list[str] | None, typer.Option("--case", help="Only this way of training; repeatable.")] = None,
    budget: Annotated[float, typer.Option(help="Start no new case after so many seconds.")] = 75.0,
    price_per_hour: Annotated[float | None, typer.Option(help="Dollars of the machine.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Also list the longest kernels of a GPU.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Four layers: does everything run?")] = False,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Tokens a second of adapter training at a model shape, memory, share of the ceiling, and what the recipes cost."""
    from dataclasses import asdict

    from triaxis.models.load import find_device
    from triaxis.sampling.speed import SHAPES
    from triaxis.train import speed as measure

    lookup("shape", SHAPES, shape)
    known = {c.name: None for c in measure.CASES}
    for name in case or []:
        lookup("case", known, name)
    if row_tokens < 16:
        raise UserError(f"--row-tokens {row_tokens}: give at least 16")
    report = measure.of_shape(
        shape, device=find_device(device), quick=quick, budget=budget, names=case or [], price=price_per_hour,
        tokens=row_tokens, profiled=profile,
    )  # fmt: skip
    if json_:
        print_json(asdict(report))
    else:
        sys.stdout.write(measure.table(report) + "\n")
