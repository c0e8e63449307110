"""A summary as three coloured tables for a terminal; plain where there is none, and legible when it is narrow.

Every text of a study goes in as rich Text, never as markup: condition names hold square brackets. Numbers carry a
plain hyphen so that they can be copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from triaxis.report import words
from triaxis.report.answer import answers, sorted_warnings
from triaxis.report.words import points, span

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Json = Mapping[str, Any]
Line = tuple[str, Json]  # label, Effect
Column = tuple[str, str, str]  # heading, style, "left" or "right"
FULL, HALF = 112, 78  # terminal columns from which a line has all numbers, or most; below, a line becomes three
CELL_PADDING = (0, 2, 0, 0)
_COLOUR = {"drop": "red", "lift": "green", "same": "cyan", "open": "yellow"}


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the three axes, the conditions and the warnings of a summary object."""
    axes = summary["axes"]
    parts = (
        (_axis1, axes["brittleness"]),
        (_axis2, axes["trust"]),
        (_axis3, axes["diversity"]),
    )
    for answer, (lines_of, axis) in zip(answers(summary), parts, strict=True):
        console.print()
        console.print(_text(answer.axis, "bold") + _text(f"  {answer.verdict}", _COLOUR[answer.kind]))
        if axis is None:
            continue
        lines, notes = lines_of(axis)
        _effects(lines, console)
        for note in notes:
            console.print(_text(note, "dim"))
    console.print()
    _conditions(summary["conditions"], console)
    warnings, single = sorted_warnings(summary)
    if single:
        many = f"{len(single)} high rates of unreadable or truncated completions: see the columns unread and cut above"
        warnings = [*warnings, many]
    console.print()
    for warning in warnings:
        console.print(_text("warning  ", "bold yellow") + _text(warning))
    if warnings:
        console.print()


def _axis1(axis: Json) -> tuple[list[Line], list[str]]:
    spread = axis["spread"]
    note = (
        f"worst {axis['worst']}; spread {points(spread['value'], sign=False)} points "
        f"{span(spread['low'], spread['high'], sign=False)}, Cochran's Q p {words.p_value(spread['p'])}"
    )
    return [(e["name"], e) for e in axis["effects"]], [note]


def _axis2(axis: Json) -> tuple[list[Line], list[str]]:
    effects = [e for p in axis["planners"] for e in (p["content"], p["scaffold"], *p["corruptions"].values())]
    lines = [(e["name"], e) for e in effects]
    if axis["slope"] is not None:
        lines.append((axis["slope"]["name"], axis["slope"]))
    notes = []
    for p in axis["planners"]:
        named = {"steps right": "plan_quality", "copied": "copy_rate", "followed when wrong": "follow_rate"}
        rates = [f"{name} {points(p[key], sign=False)} %" for name, key in named.items() if p[key] is not None]
        if rates:
            notes.append(f"plans of {p['planner']}: {', '.join(rates)}")
    return lines, notes


def _axis3(axis: Json) -> tuple[list[Line], list[str]]:
    notes = []
    for name, b in {"no scaffold": axis, **axis["scaffolded"]}.items():
        low, high = b["vote_interval"]
        ties = f", {points(b['vote_low_tie'], sign=False)} to {points(b['vote_high_tie'], sign=False)} by ties"
        notes.append(
            f"{name}: one branch {points(b['per_branch'], sign=False)} %, vote of {b['branches']} "
            f"{points(b['vote'], sign=False)} % {span(low, high, sign=False)}{ties if b['ties'] else ''}, "
            f"oracle {points(b['oracle'], sign=False)} %"
        )
    return [(e["name"], e) for e in (axis["useful"], *axis["effects"])], notes


# ---------------------------------------------------------------- tables


def _effects(lines: Sequence[Line], console: Console) -> None:
    if console.width < HALF:
        for label, e in lines:
            tail = f"n {e['n']}, Holm p {words.p_value(e['p_holm'])}, "
            _stacked(
                console,
                label,
                f"{points(e['value'])} {span(e['low'], e['high'])}",
                _text(tail) + _verdict(e["verdict"], short=True),
            )
        return
    full = console.width >= FULL
    extra = ["MDE80"] if full else []
    heads = ["comparison", "points", f"{words.LEVEL} interval", "n", "p (Holm)", *extra, "verdict"]
    table = _table(heads, {"comparison", "verdict"})
    for label, e in lines:
        numbers = [points(e["value"]), span(e["low"], e["high"]), str(e["n"]), words.p_value(e["p_holm"])]
        mde = [points(e["mde80"], sign=False)] if full else []
        table.add_row(_text(label), *map(_text, numbers + mde), _verdict(e["verdict"], short=not full))
    console.print(table)


def _conditions(conditions: Sequence[Json], console: Console) -> None:
    console.print(_text("Conditions", "bold"))
    if console.width < HALF:
        for c in conditions:
            accuracy = f"{points(c['accuracy'], sign=False)} % {span(c['low'], c['high'], sign=False)}"
            unread, cut = (points(c[key], sign=False) for key in ("unreadable", "truncated"))
            rates = f"n {c['n']}, unread {unread} %, cut {cut} %"
            _stacked(console, c["name"], accuracy, _text(rates))
        return
    full = console.width >= FULL
    extra = ["forwards", "tokens"] if full else []
    heads = ["condition", "right %", f"{words.LEVEL} interval", "n", "unread %", "cut %", *extra]
    table = _table(heads, {"condition"})
    for c in conditions:
        shares = [points(c[key], sign=False) for key in ("accuracy", "unreadable", "truncated")]
        numbers = [shares[0], span(c["low"], c["high"], sign=False), str(c["n"]), *shares[1:]]
        cost = [words.number(c["forwards"]), words.number(c["tokens"], 0)] if full else []
        table.add_row(_text(c["name"]), *map(_text, numbers + cost))
    console.print(table)


def _table(heads: Sequence[str], left: set[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=CELL_PADDING, header_style="dim")
    for head in heads:
        whole = head not in ("comparison", "condition")  # only names may be broken
        table.add_column(head, justify="left" if head in left else "right", no_wrap=whole, overflow="fold")
    return table


def _stacked(console: Console, label: str, numbers: str, rest: Text) -> None:
    console.print(_text(label, "bold"))
    console.print(_text(f"  {numbers}"))
    console.print(_text("  ") + rest)


def _verdict(verdict: str, *, short: bool = False) -> Text:
    said = verdict.removesuffix(" at this N") if short else verdict
    if short and said.startswith("equivalent within "):
        said = said.replace("equivalent within ", "within ").removesuffix("s").removesuffix(" point")
    return _text(said, _COLOUR[words.kind(verdict)])


def _text(text: str, style: str = "") -> Text:
    """Text with hyphens for minus signs and dashes, and nothing in it that a terminal would obey."""
    from rich.text import Text

    return Text(words.visible(text).replace(words.MINUS, "-").replace(words.DASH, "-"), style=style)
