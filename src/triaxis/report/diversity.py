"""Axis 3 on the page: what sampled branches give, how they differ, and what a scaffold did to them.

Arranges what the summary holds as figures and lines of words, as `sections` does for the other parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triaxis.report import plots, words
from triaxis.report.embed import markup
from triaxis.report.sections import SAME, Grid, grid, line, pareto
from triaxis.report.words import number, points, span

Json = Mapping[str, Any]


def axis3(axis: Json | None) -> Json | None:
    """Curves over k, vote and oracle, measures of spread, what changed in the branches, and costs."""
    if axis is None:
        return None
    series = {axis["condition"]: axis, **axis["scaffolded"]}
    groups = [plots.Group(name, _branch_marks(b)) for name, b in series.items()]
    title = f"Accuracy of one branch, of the vote and of the oracle. {SAME}"
    figure = plots.forest(groups, title=title, axis="% of items right", name="forest3", sign=False)
    drawn = [
        plots.Curve(f"{curve}@k", name, b[f"{curve}_at_k"], b[f"{curve}_at_k_interval"])
        for curve in ("pass", "maj")
        for name, b in series.items()
    ]
    title = "pass@k and maj@k against the number of branches. The table below holds their ends."
    curves = plots.curves(drawn, title=title, axis="% of items", name="curves3")
    changes: list[Json] = [{"name": n, **c, "table": split_table(n, c)} for n, c in axis["changes"].items()]
    return {
        "series": series,
        "figure": markup(figure),
        "curves": markup(curves),
        "groups": [("", [line(e) for e in (axis["useful"], *axis["effects"])])],
        "measures": _measures(series),
        "changes": changes,
        "decomposed": markup(_decomposed(changes)),
        "agreement": _agreement(series),
        "pareto": pareto(axis["pareto"]),
    }


def _decomposed(changes: Sequence[Json]) -> str:
    """The change of distinct answers as the sum of what became of right and of wrong ones."""
    groups = []
    for c in changes:
        parts = c["splits"]["unique"]
        named = (("all answers", "total"), ("right answers", "right"), ("wrong answers", "wrong"))
        marks = [plots.effect_mark(parts[key], words.kind(parts[key]["verdict"]), label) for label, key in named]
        groups.append(plots.Group(f"{c['name']} minus {c['against']}", marks))
    if not groups:
        return ""
    title = "Change in distinct answers, split into right and wrong ones. The tables below hold the same numbers."
    return plots.forest(groups, title=title, axis="distinct answers per 100 items", name="decomposed3")


def _agreement(series: Mapping[str, Json]) -> Json | None:
    """How many of an item's branches give the winner, and how often the winner is then right."""
    known = {name: b["calibration"]["levels"] for name, b in series.items() if b["calibration"]}
    if not known:
        return None
    drawn, rows = [], []
    for name, levels in known.items():
        whole = sum(x["n"] for x in levels)
        right = [x["right"] * x["n"] / whole for x in levels]
        wrong = [(1 - x["right"]) * x["n"] / whole for x in levels]
        drawn.append(plots.Bars(name, [x["stated"] for x in levels], right, wrong))
        rows += [
            [name, points(x["stated"], sign=False), str(x["n"]), points(x["right"], sign=False),
             span(x["low"], x["high"], sign=False)]
            for x in levels
        ]  # fmt: skip
    title = f"Agreement of the branches: items by the share of branches that give the winning answer. {SAME}"
    heads = [
        ("branches of", ""), ("share of the winner", "m-agreement"), ("items", "m-n"), ("vote right", "m-agreement"),
        (f"{words.LEVEL} interval", "m-interval"),
    ]  # fmt: skip
    return {
        "figure": markup(plots.bars(drawn, title=title, axis="% of items", name="agreement3")),
        "table": Grid("Agreement of the branches", "Agreement of the branches, shares in %.", heads, rows),
    }


def _branch_marks(b: Json) -> list[plots.Mark]:
    first, last = b["pass_at_k_interval"][0], b["pass_at_k_interval"][-1]
    low, high = b["vote_interval"]
    ties = (b["vote_low_tie"], b["vote_high_tie"]) if b["ties"] else None
    return [
        plots.Mark("one branch", b["per_branch"], first[0], first[1]),
        plots.Mark(f"vote of {b['branches']}", b["vote"], low, high, inner=ties),
        plots.Mark("oracle, at least one right", b["oracle"], last[0], last[1]),
    ]


# key of "measures", heading, and whether it is a share
_MEASURES = (
    ("disagreement", "disagree", True), ("all_equal", "all equal", True), ("duplicates", "same text", True),
    ("unique_right", "right answers", False), ("unique_wrong", "wrong answers", False),
)  # fmt: skip


def _measures(series: Mapping[str, Json]) -> Grid:
    heads = [
        ("branches of", ""), *((head, "m-spread3") for _, head, _ in _MEASURES), ("order \u03c4", "m-order"),
        ("left to right \u03c4", "m-order"), ("ECE of the winner's share", "m-ece"), ("by chance", "m-ece"),
    ]  # fmt: skip
    rows = []
    for name, b in series.items():
        found = [_value(b["measures"].get(key), share) for key, _, share in _MEASURES]
        order, sure = b["order"] or {"tau": None, "left_to_right": None}, b["calibration"]
        stated = [_value({**sure, "value": sure["ece"]}, True), points(sure["chance"], sign=False)] if sure else []
        row = [*found, *(_value(order[k], False) for k in ("tau", "left_to_right")), *(stated or [words.DASH] * 2)]
        rows.append([name, *row])
    caption = "How the branches differ: shares in %, counts and \u03c4 as they are, with intervals."
    return grid("How the branches differ", caption, heads, rows)


def _value(m: Json | None, share: bool) -> str:
    if m is None:
        return words.DASH
    if share:
        return f"{points(m['value'], sign=False)} {span(m['low'], m['high'], sign=False)}"
    return f"{number(m['value'], 2)} [{number(m['low'], 2)}, {number(m['high'], 2)}]"


def split_table(name: str, change: Json) -> Grid:
    rows = []
    for measure, parts in change["splits"].items():
        cells = [_split_cell(parts[key], measure == "disagreement") for key in ("total", "right", "wrong")]
        rows.append([_SPLITS.get(measure, measure), *cells])
    heads = [("change in", ""), ("total", "m-split"), ("right set", "m-split"), ("wrong set", "m-split")]
    return Grid(f"What changed in {name}", "With intervals; total = right set + wrong set.", heads, rows)


_SPLITS = {"unique": "distinct answers", "disagreement": "disagreement, points", "entropy": "entropy, nats"}


def _split_cell(e: Json, share: bool) -> str:
    if share:
        return f"{points(e['value'])} {span(e['low'], e['high'])}"
    return f"{number(e['value'], 2, sign=True)} [{number(e['low'], 2, sign=True)}, {number(e['high'], 2, sign=True)}]"
