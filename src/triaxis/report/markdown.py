"""The tables of a summary as Markdown, for a README or an issue."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from triaxis.report import words
from triaxis.report.sections import every_effect, failures
from triaxis.report.words import points, span

Json = Mapping[str, Any]


def markdown(summary: Mapping[str, Any]) -> str:
    """Pipe tables: accuracy by condition, every effect that was measured, failures of format where there are any.

    A line with the protocol's hash comes last: numbers of two protocols are not to be read beside one another.
    """
    heads: Sequence[str] = (
        "condition",
        "right, %",
        f"{words.LEVEL} interval",
        "n",
        "unreadable, %",
        "truncated, %",
        "forwards",
    )
    tables = [_table(heads, [_condition(c) for c in summary["conditions"]])]
    heads = ("axis", "effect", "points", f"{words.LEVEL} interval", "n", "gain", "loss", "p (Holm)", "MDE80", "verdict")
    tables.append(_table(heads, [[axis, *_effect(e)] for axis, e in every_effect(summary)]))
    # rates in %, and how many of the lost items have one of these failures
    if (found := failures(summary["conditions"])) is not None:
        grid = found["table"]
        tables.append(_table([text for text, _ in grid.heads], grid.rows))
    return "\n\n".join([*tables, f"Protocol {_cell(summary['study']['protocol_hash'])}."]) + "\n"


def _condition(c: Json) -> list[str]:
    rates = (points(c[key], sign=False) for key in ("unreadable", "truncated"))
    accuracy = (points(c["accuracy"], sign=False), span(c["low"], c["high"], sign=False))
    return [c["name"], *accuracy, str(c["n"]), *rates, words.number(c["forwards"])]


def _effect(e: Json) -> list[str]:
    numbers = (points(e["value"]), span(e["low"], e["high"]), str(e["n"]))
    counts = (words.number(e["gain"], 0), words.number(e["loss"], 0))
    return [e["name"], *numbers, *counts, words.p_value(e["p_holm"]), points(e["mde80"], sign=False), e["verdict"]]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = ["---" if head in ("axis", "effect", "condition", "verdict") else "---:" for head in heads]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *(map(_cell, row) for row in rows)))


def _cell(text: str) -> str:
    """Text that stays one cell: pipes, line ends and markup in a name are shown, not obeyed."""
    return html.escape(" ".join(words.visible(text).split()), quote=False).replace("|", "\\|").replace("`", "\\`")
