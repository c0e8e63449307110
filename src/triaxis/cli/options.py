"""Options that several of the evidence commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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


def columns(id: str, metric: str, filter: str, *, unfinished: bool = False) -> Columns:
    from triaxis.estimate.results import Columns

    return Columns(item=id, metric=metric, filter=filter, unfinished=unfinished)


def assumed(discordance: float | None, task: str) -> Assumed:
    from triaxis.estimate.audit import Assumed, assumed_discordance

    return assumed_discordance(task) if discordance is None else Assumed(share=discordance, source="given")
