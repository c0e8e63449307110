"""The tables of a summary as Markdown, for a README or an issue."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from triaxis.report import words
from triaxis.report.sections import every_effect, failures
from triaxis.report.words import points, span

Json = Mapping[str, Any]


class Table(NamedTuple):
    """A table as words: a caption, heads, rows, and which columns hold words rather than numbers."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def is_words(self) -> list[bool]:
        return [head in ("axis", "effect", "condition", "verdict") for head in self.heads]


def tables(summary: Json) -> list[Table]:
    """Accuracy by condition, every effect that was measured, failures of format where there are any."""
    heads: Sequence[str] = (
        "condition",
        "right, %",
        f"{words.LEVEL} interval",
        "n",
        "unreadable, %",
        "truncated, %",
        "forwards",
    )
    found = [Table("Accuracy by condition.", heads, [_condition(c) for c in summary["conditions"]])]
    heads = ("axis", "effect", "points", f"{words.LEVEL} interval", "n", "gain", "loss", "p (Holm)", "MDE80", "verdict")
    effects = [[axis, *_effect(e)] for axis, e in every_effect(summary)]
    found.append(Table("Paired effects in percentage points.", heads, effects))
    # rates in %, and how many of the lost items have one of these failures
    if (failed := failures(summary["conditions"])) is not None:
        grid = failed["table"]
        found.append(Table("Failures of format.", [text for text, _ in grid.heads], grid.rows))
    return found


def markdown(summary: Json) -> str:
    """Pipe tables, and the protocol's hash: numbers of two protocols are not to be read beside one another."""
    made = [_table(t) for t in tables(summary)]
    return "\n\n".join([*made, f"Protocol {_cell(summary['study']['protocol_hash'])}."]) + "\n"


def _condition(c: Json) -> list[str]:
    rates = (points(c[key], sign=False) for key in ("unreadable", "truncated"))
    accuracy = (points(c["accuracy"], sign=False), span(c["low"], c["high"], sign=False))
    return [c["name"], *accuracy, str(c["n"]), *rates, words.number(c["forwards"])]


def _effect(e: Json) -> list[str]:
    numbers = (points(e["value"]), span(e["low"], e["high"]), str(e["n"]))
    counts = (words.number(e["gain"], 0), words.number(e["loss"], 0))
    return [e["name"], *numbers, *counts, words.p_value(e["p_holm"]), points(e["mde80"], sign=False), e["verdict"]]


def _table(t: Table) -> str:
    rules = ["---" if is_words else "---:" for is_words in t.is_words]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (t.heads, rules, *(map(_cell, row) for row in t.rows)))


def _cell(text: str) -> str:
    """Text that stays one cell: pipes, line ends and markup in a name are shown, not obeyed."""
    return html.escape(" ".join(words.visible(text).split()), quote=False).replace("|", "\\|").replace("`", "\\`")
