"""Comparing results: compare, power, factorial. Parse, call one function, print.

Exit codes: 0 done, whatever the comparison found; 2 unusable input, with one line. Everything heavy is imported in the
command that uses it. `published` registers the commands that audit what was printed: audit, prereg, registry.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from triaxis.cli import (
    app,
    complain,
    print_json,
    published,  # noqa: F401 - registers audit, prereg and registry
)
from triaxis.cli.options import Alpha, Discordance, Filter, Id, Json, Margin, Metric, Task, assumed, columns
from triaxis.errors import UserError

if TYPE_CHECKING:
    from triaxis.estimate.compare import How
    from triaxis.estimate.results import Columns
    from triaxis.estimate.sequential import Look


# ---------------------------------------------------------------- compare


@app.command()
def compare(
    files: Annotated[
        list[str], typer.Argument(help="Result files or study folders; FILE:CONDITION picks a condition.")
    ],
    intersect: Annotated[bool, typer.Option(help="Compare the shared items where the sets differ.")] = False,
    condition: Annotated[str, typer.Option(help="Condition to take from files that hold several.")] = "",
    against: Annotated[str, typer.Option(help="Several files: 'first' or 'all' pairs.")] = "first",
    vote: Annotated[bool, typer.Option(help="Score the vote of each item's branches, not their mean.")] = False,
    repeats: Annotated[
        str, typer.Option(help="An item twice without seed or branch: 'refuse' or 'average'.")
    ] = "refuse",
    allow_identical: Annotated[bool, typer.Option(help="Let two equal files through.")] = False,
    margin: Margin = 0.05,
    alpha: Alpha = 0.05,
    level: Annotated[float, typer.Option(help="Coverage of the intervals, a share.")] = 0.95,
    id: Id = "",
    metric: Metric = "",
    filter: Filter = "",
    watch: Annotated[
        bool, typer.Option(help="Poll growing files; stop when the e-value resolves, or on Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks (--watch).")] = 5.0,
    polls: Annotated[int | None, typer.Option(help="Looks at most (--watch).")] = None,
    branches: Annotated[int, typer.Option(help="Scores an item will have (--watch).")] = 1,
    json: Json = False,
) -> None:
    """Compare two or more result files item by item; value = B minus A.

    Reads study folders, rows.sqlite, JSONL, CSV, lm-eval --log_samples files and Inspect logs.
    """
    from triaxis.estimate.compare import How, compare_many, relabel
    from triaxis.estimate.results import open_spec

    if len(files) < 2:
        raise UserError("a comparison needs at least two result files: triaxis compare A B")
    wanted = columns(id, metric, filter, unfinished=watch)
    if watch:
        return _watch(files, wanted, condition, alpha, every, polls, branches, json)
    shares = {"margin": margin, "alpha": alpha, "level": level}
    how: How = How(intersect=intersect, repeats=repeats, vote=vote, identical=allow_identical, **shares)
    found = compare_many(relabel([open_spec(f, wanted, condition) for f in files]), how, against=against)
    if json:
        return print_json(found.comparisons[0].as_dict() if len(files) == 2 else found.as_dict())
    from triaxis.cli import show

    show.family(found)


def _watch(
    files: list[str],
    wanted: Columns,
    condition: str,
    alpha: float,
    every: float,
    polls: int | None,
    branches: int,
    json: bool,
) -> None:
    """Looks until resolved, out of polls, or interrupted; then the last look."""
    import time

    from triaxis.estimate.compare import growing, relabel
    from triaxis.estimate.results import open_spec
    from triaxis.estimate.sequential import all_resolved, watch

    if every < 0 or (polls is not None and polls < 1) or branches < 1:
        raise UserError("--every is seconds from 0, --polls and --branches whole numbers from 1")
    names: list[str] = []

    def poll() -> list[tuple[int, int, int]]:
        found = relabel([open_spec(f, wanted, condition) for f in files])
        names[:] = [f"{f.label} vs {found[0].label}" for f in found[1:]]
        return [growing(found[0], f, branches) for f in found[1:]]

    last: list[Look | None] = []
    stopped, taken = "out of polls", 0
    try:
        for last in watch(poll, lambda: time.sleep(every), alpha=alpha, polls=polls):
            taken += 1
            seen = [f"n={at.n} {100 * at.value:+.1f} points e={at.e:.3g}" for at in last if at is not None]
            complain(f"look {taken}: {'; '.join(seen) or 'no shared item yet'}")
        stopped = "resolved" if all_resolved(last) else stopped
    except KeyboardInterrupt:
        stopped = "interrupted"
    if json:
        head: dict[str, Any] = {"stopped": stopped, "looks": taken}
        if len(last) == 1 and last[0] is not None:
            return print_json({**head, **_look_effect(names[0], last[0])})
        effects = [None if at is None else _look_effect(n, at) for n, at in zip(names, last, strict=False)]
        return print_json({**head, "effects": effects})
    from triaxis.cli import show

    show.looks(names if last else [], last, stopped, alpha)


def _look_effect(name: str, at: Look) -> dict[str, Any]:
    word = ("drop" if at.value < 0 else "lift") if at.resolved else "not resolved at this N"
    found = {"name": name, "value": at.value, "low": at.low, "high": at.high, "p": at.p, "p_holm": None, "n": at.n}
    found |= {
        "gain": at.gain,
        "loss": at.loss,
        "mde80": None,
        "verdict": word,
        "e_value": at.e,
        "resolved": at.resolved,
    }
    return {**found, "method": "e-value and anytime-valid interval; p is for a fixed N only"}


# ---------------------------------------------------------------- power


@app.command()
def power(
    n: Annotated[int | None, typer.Option(help="Items: what effect do they see?")] = None,
    effect: Annotated[float | None, typer.Option(help="Difference, a share: how many items does it need?")] = None,
    margin: Annotated[float | None, typer.Option(help="Equivalence margin, a share: how many items show it?")] = None,
    discordance: Discordance = None,
    alpha: Alpha = 0.05,
    power: Annotated[float, typer.Option(help="Power aimed at, a share.")] = 0.8,
    test: Annotated[str, typer.Option(help="'midp' or 'exact' McNemar.")] = "midp",
    task: Task = "GSM8K",
    plot: Annotated[Path | None, typer.Option(help="Draw effect against N: FILE.svg, .png or .pdf.")] = None,
    json: Json = False,
) -> None:
    """Plan a paired comparison: N to effect, effect to N, or equivalence margin to N."""
    from triaxis.estimate import design

    known = assumed(discordance, task)
    kind: Literal["midp", "exact"] = "exact" if test == "exact" else "midp"
    if test not in ("midp", "exact"):
        raise UserError(f"--test {test!r}: known: midp, exact")
    question = design.Question(
        n=n, effect=effect, margin=margin, discordance=known, alpha=alpha, power=power, test=kind
    )
    found = design.answer(question)
    if plot is not None:
        design.plot(question, plot)
        found["plot"] = str(plot)
    if json:
        return print_json(found)
    ladder = design.curve(design.LADDER, known.share, question)
    from triaxis.cli import show

    show.power(found, ladder)
    if plot is not None:
        show.say(f"Plot: {plot}")


# ---------------------------------------------------------------- factorial


@app.command()
def factorial(
    file: Annotated[
        str, typer.Argument(help="File with a column for each factor; or none, and --cell for every cell.")
    ] = "",
    factors: Annotated[str, typer.Option(help="Columns whose levels are crossed: a,b.")] = "",
    cell: Annotated[
        list[str] | None, typer.Option(help="FILE:CONDITION@planner=no,adapter=yes, once for each cell.")
    ] = None,
    mixed: Annotated[str, typer.Option(help="Also as log-odds: 'gee' or 'conditional' (needs statsmodels).")] = "",
    margin: Margin = 0.05,
    alpha: Alpha = 0.05,
    id: Id = "",
    metric: Metric = "",
    filter: Filter = "",
    json: Json = False,
) -> None:
    """Which factor did it: main effects and interactions of a crossed design, item by item."""
    from triaxis.estimate import cells
    from triaxis.estimate.factorial import attribute, mixed_check

    wanted = columns(id, metric, filter)
    crossed, scores = cells.named(cell, wanted) if cell else cells.columns(file, factors, wanted)
    found = attribute(crossed, scores, margin=margin, alpha=alpha)
    check = mixed_check(crossed, scores, method=mixed) if mixed else None
    if json:
        terms = None if check is None else [t._asdict() for t in check]
        return print_json({**found.as_dict(), "log_odds": terms})
    from triaxis.cli import show

    show.attribution(found, check)
