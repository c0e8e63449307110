"""A summary as coloured tables for a terminal; plain where there is none, and legible when it is narrow.

Every text of a study goes in as rich Text, never as markup: condition names hold square brackets. Numbers carry a
plain hyphen so that they can be copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from triaxis.report import words
from triaxis.report.answer import Answer, adapted, answers, sorted_warnings
from triaxis.report.sections import failures, rate
from triaxis.report.words import points, span

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Json = Mapping[str, Any]
Line = tuple[str, Json]  # label, Effect
LinesOf = Callable[[Json], tuple[list[Line], list[str]]]  # of an axis: its lines, and notes under them
Column = tuple[str, str, str]  # heading, style, "left" or "right"
FULL, HALF = 112, 78  # terminal columns from which a line has all numbers, or most; below, a line becomes three
CELL_PADDING = (0, 2, 0, 0)
_COLOUR = {"drop": "red", "lift": "green", "same": "cyan", "open": "yellow"}


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the three axes, grids and pipelines where there are any, the conditions, failures and the warnings."""
    axes = summary["axes"]
    one, two, three = answers(summary)
    _axis(one, axes["brittleness"], _axis1, console)
    for design in axes.get("factorial") or ():
        _heading(f"Grid {design['grid']}", console)
        _effects(_design(design), console)
    _axis(two, axes["trust"], _axis2, console)
    _axis(three, axes["diversity"], _axis3, console)
    if found := axes.get("pipelines"):
        _heading("Pipelines", console)
        _effects([(e["effect"]["name"], e["effect"]) for e in (*found["effects"], *found["matched"])], console)
    if found := axes.get("adapters"):
        for answer in adapted(summary):
            _answer(answer, console)
        both = [*(e["effect"] for e in found["effects"]), *(c["change"] for c in found["costs"])]
        _effects([(e["name"], e) for e in both], console)
    if found := summary.get("prereg"):
        _heading("Predictions", console)
        console.print(_text(found["standing"], "dim"))
        for o in found["outcomes"]:
            console.print(_text(f"{o['outcome']}  {o['name']}: {o['why']}"))
    console.print()
    _conditions(summary["conditions"], console)
    _failures(summary["conditions"], console)
    warnings, single = sorted_warnings(summary)
    if single:
        many = f"{len(single)} high rates of failed completions: see the columns unread and cut and the failures above"
        warnings = [*warnings, many]
    console.print()
    console.print(_text(f"protocol {summary['study']['protocol_hash']}", "dim"))
    for warning in warnings:
        console.print(_text("warning  ", "bold yellow") + _text(warning))
    if warnings:
        console.print()


def _answer(answer: Answer, console: Console) -> None:
    console.print()
    console.print(_text(answer.axis, "bold") + _text(f"  {answer.verdict}", _COLOUR[answer.kind]))


def _axis(answer: Answer, axis: Json | None, of: LinesOf, console: Console) -> None:
    _answer(answer, console)
    if axis is None:
        return
    lines, notes = of(axis)
    _effects(lines, console)
    for note in notes:
        console.print(_text(note, "dim"))


def _heading(text: str, console: Console) -> None:
    console.print()
    console.print(_text(text, "bold"))


def _axis1(axis: Json) -> tuple[list[Line], list[str]]:
    spread, worst = axis["spread"], axis["worst_case"]
    note = (
        f"worst {axis['worst']}, whichever shape it is {span(worst['low'], worst['high'])}; spread "
        f"{points(spread['value'], sign=False)} points {span(spread['low'], spread['high'], sign=False)}, "
        f"Cochran's Q p {words.p_value(spread['p'])}"
    )
    placed = [(p["effect"]["name"], p["effect"]) for p in axis["placements"]]
    return [*((e["name"], e) for e in axis["effects"]), *placed], [note]


def _design(d: Json) -> list[Line]:
    return [*((e["effect"]["name"], e["effect"]) for e in d["effects"]), *((e["name"], e) for e in d["cost"])]


def _axis2(axis: Json) -> tuple[list[Line], list[str]]:
    found = [
        e
        for p in axis["planners"]
        for e in (p["content"], p["scaffold"], p["net"], p["gold_lift"], *p["corruptions"].values())
        if e is not None
    ]
    found += [axis[key] for key in ("slope", "quality_slope") if axis[key] is not None]
    return [(e["name"], e) for e in found], [note for p in axis["planners"] if (note := _rates(p))]


def _rates(p: Json) -> str:
    """What a planner's plans say and do: only what is known of them."""
    plain = {"steps right": p["plan_quality"], "copied": p["copy_rate"]}
    said = [f"{name} {points(value, sign=False)} %" for name, value in plain.items() if value is not None]
    named = {
        "followed when wrong": p["copying"]["wrong"],
        "follows counterfactuals": p["following"],
        "rescued": p["rescue"],
        "retained": p["retention"],
    }
    said += [f"{name} {rate(value)} %" for name, value in named.items() if value is not None]
    return f"plans of {p['planner']}: {', '.join(said)}" if said else ""


def _axis3(axis: Json) -> tuple[list[Line], list[str]]:
    notes = []
    for name, b in {axis["condition"]: axis, **axis["scaffolded"]}.items():
        low, high = b["vote_interval"]
        ties = f", {points(b['vote_low_tie'], sign=False)} to {points(b['vote_high_tie'], sign=False)} by ties"
        notes.append(
            f"{name}: one branch {points(b['per_branch'], sign=False)} %, vote of {b['branches']} "
            f"{points(b['vote'], sign=False)} % {span(low, high, sign=False)}{ties if b['ties'] else ''}, "
            f"oracle {points(b['oracle'], sign=False)} %"
        )
    notes += [f"{name} against {c['against']}: {c['verdict']} ({c['reason']})" for name, c in axis["changes"].items()]
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


def _failures(conditions: Sequence[Json], console: Console) -> None:
    """Rates of the kinds that have no column above, of the conditions where any occurs."""
    found = failures(conditions)
    if found is None:
        return
    grid = found["table"]
    shown = [k for k, (head, _) in enumerate(grid.heads) if head not in ("cut", "unread")]
    rows = [row for row in grid.rows if any(_is_notable(row[k]) for k in shown[1:])]
    if not rows:
        return
    _heading("Failures of format, %", console)
    if console.width < HALF:
        for row in rows:
            _stacked(console, row[0], ", ".join(f"{grid.heads[k][0]} {row[k]}" for k in shown[1:]), _text(""))
        return
    table = _table([grid.heads[k][0] for k in shown], {"condition"})
    for row in rows:
        table.add_row(*(_text(row[k]) for k in shown))
    console.print(table)


def _is_notable(cell: str) -> bool:
    return cell not in (words.DASH, points(0.0, sign=False)) and not cell.startswith("0 of")


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
