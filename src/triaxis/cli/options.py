"""What the evidence commands share: options, and the one place where "cannot be estimated" becomes a clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from triaxis.errors import UserError

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


@contextmanager
def answerable() -> Iterator[None]:
    """What cannot be estimated is one clear line, like any unusable input."""
    from triaxis.estimate.power import UndefinedEstimate

    try:
        yield
    except UndefinedEstimate as e:
        raise UserError(str(e)) from None


def columns(id: str, metric: str, filter: str, *, unfinished: bool = False) -> Columns:
    from triaxis.estimate.results import Columns

    return Columns(item=id, metric=metric, filter=filter, unfinished=unfinished)


def assumed(discordance: float | None, task: str) -> Assumed:
    from triaxis.estimate.audit import Assumed, assumed_discordance

    return assumed_discordance(task) if discordance is None else Assumed(share=discordance, source="given")
