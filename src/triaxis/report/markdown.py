"""The condition and effect tables of a summary as Markdown, for a README or an issue."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from triaxis.report import words
from triaxis.report.words import points, span

Json = Mapping[str, Any]


def markdown(summary: Mapping[str, Any]) -> str:
    """Two pipe tables: accuracy by condition, then every effect of the axes that were measured."""
    heads: Sequence[str] = (
        "condition",
        "right, %",
        f"{words.LEVEL} interval",
        "n",
        "unreadable, %",
        "truncated, %",
        "forwards",
    )
    conditions = _table(heads, [_condition(c) for c in summary["conditions"]])
    heads = ("axis", "effect", "points", f"{words.LEVEL} interval", "n", "gain", "loss", "p (Holm)", "MDE80", "verdict")
    return f"{conditions}\n\n{_table(heads, _effects(summary['axes']))}\n"


def _condition(c: Json) -> list[str]:
    rates = (points(c[key], sign=False) for key in ("unreadable", "truncated"))
    accuracy = (points(c["accuracy"], sign=False), span(c["low"], c["high"], sign=False))
    return [c["name"], *accuracy, str(c["n"]), *rates, words.number(c["forwards"])]


def _effects(axes: Json) -> list[list[str]]:
    found: list[tuple[str, Json]] = []
    if axis := axes["brittleness"]:
        found += [("1", e) for e in axis["effects"]]
    if axis := axes["trust"]:
        for p in axis["planners"]:
            found += [("2", e) for e in (p["content"], p["scaffold"], *p["corruptions"].values())]
        found += [("2", axis["slope"])] if axis["slope"] is not None else []
    if axis := axes["diversity"]:
        found += [("3", e) for e in (axis["useful"], *axis["effects"])]
    return [[axis_number, *_effect(e)] for axis_number, e in found]


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
