"""What several commands take and show: common options, how settings are spelled, and the progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from triaxis.errors import UserError, lookup

if TYPE_CHECKING:
    from triaxis.compute import Compute
    from triaxis.estimate.audit import Assumed
    from triaxis.estimate.results import Columns

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]
Alpha = Annotated[float, typer.Option(help="Significance level, a share.")]
Margin = Annotated[float, typer.Option(help="Equivalence margin, a share: 0.05 = five points.")]
Task = Annotated[str, typer.Option(help="Task whose published discordance is the default.")]
Discordance = Annotated[
    float | None,
    typer.Option(help="Share of items right in exactly one arm. Default: the registry's, with its source."),
]
Id = Annotated[str, typer.Option("--id", help="Column that holds the item id.")]
Metric = Annotated[str, typer.Option(help="Score column, lm-eval metric or Inspect scorer.")]
Filter = Annotated[str, typer.Option(help="lm-eval answer filter, such as strict-match.")]
Where = Annotated[
    str,
    typer.Option("--compute", help="Where rows are made: here, processes or ray; default: this process, no chunks."),
]
Workers = Annotated[int, typer.Option(help="Workers with an executor; default: one a GPU, else one a CPU core.")]
Devices = Annotated[str | None, typer.Option(help="Devices of processes: cuda:0,cuda:1; default: all GPUs.")]
Address = Annotated[str, typer.Option(help="A running Ray cluster, such as auto; default: one on this machine.")]
Dtype = Annotated[str | None, typer.Option(help="fp32 or bf16; default: fp32 on a CPU, bf16 on a GPU.")]
Quantize = Annotated[
    str | None, typer.Option(help="8bit, or 4bit (extra quantize): the layers' projections in so many bits.")
]
PlannerWorkers = Annotated[int, typer.Option(help="Workers with the planners, beside those with an executor.")]


def compute(kind: str, workers: int, devices: str | None, address: str, helpers: int) -> Compute | None:
    """What those options say; None where rows are made by this process in the plain way."""
    from triaxis.compute import Compute

    if not kind:
        if workers or devices or address or helpers != 1:
            raise UserError("--workers, --devices, --address and --planner-workers need --compute processes or ray")
        return None
    return Compute(kind=kind, workers=workers, devices=names(devices), address=address, helpers=helpers)


def columns(id: str, metric: str, filter: str, *, unfinished: bool = False) -> Columns:
    from triaxis.estimate.results import Columns

    return Columns(item=id, metric=metric, filter=filter, unfinished=unfinished)


def assumed(discordance: float | None, task: str) -> Assumed:
    from triaxis.estimate.audit import Assumed, assumed_discordance

    return assumed_discordance(task) if discordance is None else Assumed(share=discordance, source="given")


def names(text: str | None) -> tuple[str, ...]:
    return tuple(n.strip() for n in text.split(",") if n.strip()) if text else ()


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(s) for s in text.split(","))
    except ValueError:
        raise UserError(
            f"seed {text!r} is not a whole number or a comma-separated list of them, such as 0 or 0,1,2"
        ) from None


def bits(dtype: str | None, quantize: str | None) -> str | None:
    """--dtype and --quantize as one dtype."""
    if quantize is None:
        return dtype
    lookup("number of bits", dict.fromkeys(("8bit", "4bit")), quantize)
    if dtype not in (None, quantize):
        raise UserError(f"--dtype {dtype} and --quantize {quantize} exclude each other; leave one out")
    return quantize


def settings(pairs: list[str]) -> dict[str, object]:
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
