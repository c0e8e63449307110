"""The cells of a crossed design from result files: one file with a column a factor, or one file or condition a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from triaxis.errors import UserError, suggest
from triaxis.estimate.compare import How, Scores, item_scores
from triaxis.estimate.factorial import Levels
from triaxis.estimate.results import Columns, Record, open_spec, read_spec

Design = tuple[dict[str, tuple[str, ...]], dict[Levels, Scores]]


def columns(file: str, factors: str, wanted: Columns) -> Design:
    """Cells of one file by the values of its factor columns. Levels in order of appearance, the first the reference."""
    names = [f.strip() for f in factors.split(",") if f.strip()]
    if not file or not names:
        raise UserError("give a file and --factors a,b, or --cell FILE@a=x,b=y once for each cell")
    results = read_spec(file, wanted)
    groups: dict[Levels, list[Record]] = {}
    for r in results.records:
        for name in names:
            if name not in r.fields:
                raise UserError(f"{results.at(r)}: no column {name!r}{suggest(name, [str(k) for k in r.fields])}")
        groups.setdefault(tuple(str(r.fields[name]) for name in names), []).append(r)
    crossed = {name: tuple(dict.fromkeys(cell[i] for cell in groups)) for i, name in enumerate(names)}
    scores = {cell: item_scores(replace(results, records=tuple(rows))) for cell, rows in groups.items()}
    return crossed, scores


def named(specs: Sequence[str], wanted: Columns) -> Design:
    """Cells as "FILE:CONDITION@planner=no,adapter=yes", each naming a level of every factor."""
    crossed: dict[str, list[str]] = {}
    scores: dict[Levels, Scores] = {}
    for spec in specs:
        source, _, levels = spec.rpartition("@")
        given = dict(part.split("=", 1) for part in levels.split(",") if "=" in part)
        if not source or not given or len(given) != len(levels.split(",")):
            raise UserError(f"--cell {spec!r}: expected FILE@factor=level,factor=level")
        if crossed and set(given) != set(crossed):
            raise UserError(
                f"--cell {spec!r} names the factors {', '.join(given)}; the first cell has {', '.join(crossed)}"
            )
        for name, level in given.items():
            known = crossed.setdefault(name.strip(), [])
            if level not in known:
                known.append(level)
        cell = tuple(given[name] for name in crossed)
        if cell in scores:
            raise UserError(f"--cell {spec!r}: this cell is given twice")
        scores[cell] = item_scores(open_spec(source, wanted), How())
    return {name: tuple(levels) for name, levels in crossed.items()}, scores
