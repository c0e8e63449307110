"""Where a study's numbers stand: beside the same arms without an adapter, beside what was predicted, beside what is
published on the same axis.

Arranges the summary and the registry's audited claims; computes no number. A published number is never shown without
its provenance, and no test joins it to the study's: protocols, tasks and executors differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triaxis.registry.sights import sights
from triaxis.report import plots, words
from triaxis.report.diversity import split_table
from triaxis.report.embed import markup
from triaxis.report.sections import POINTS, SAME, Grid, Named, effects
from triaxis.report.words import number, points

Json = Mapping[str, Any]
_AXES = (("A1", "brittleness"), ("A2", "trust"), ("A3", "diversity"))
_TOLD = ("placement", "closed", "plan_budget", "gen_length", "steps", "temperature")  # what papers most often differ in
_WORDED = ("numbers", "task", "executor", "verdict on them", "set as")
_KINDS = {"HOLDS": "lift", "FAILS": "drop", "NOT RESOLVED": "open"}


# ---------------------------------------------------------------- adapters


def adapters(found: Json | None) -> Json | None:
    """Arms before and after, what scaffolds cost before and after, and what became of the branches."""
    if found is None:
        return None
    named: list[Named] = [
        ("Outcome with the adapter minus without", [(e["condition"], e["effect"]) for e in found["effects"]]),
        ("Change of what a scaffold or plan does, after minus before", _costs(found, "change")),
        ("Scaffold or plan minus the bare question, before", _costs(found, "before")),
        ("Scaffold or plan minus the bare question, after", _costs(found, "after")),
    ]
    heads = [
        ("arm", ""),
        ("without", "m-adapters"),
        ("adapter", "m-adapters"),
        ("was", "m-accuracy"),
        ("now", "m-accuracy"),
    ]
    rows = [
        [e["condition"], e["against"], e["adapter"], points(e["was"], sign=False), points(e["now"], sign=False)]
        for e in found["effects"]
    ]
    return {
        "shown": effects(named, "adapters"),
        "table": Grid(
            "Arms with and without an adapter",
            "Accuracy in %; a vote where there are branches.",
            heads,
            rows,
            ("without", "adapter"),
        ),
        "changes": [{"name": n, **c, "table": split_table(n, c)} for n, c in found["changes"].items()],
    }


def _costs(found: Json, key: str) -> list[tuple[str, Json]]:
    return [(c["condition"], c[key]) for c in found["costs"]]


# ---------------------------------------------------------------- predictions


def scorecard(found: Json | None) -> Json | None:
    """Predictions stamped into the study, each with its outcome, and when they were made."""
    if found is None:
        return None
    lines = [{**o, "kind": _KINDS[o["outcome"]]} for o in found["outcomes"]]
    counts = [(what, sum(o["outcome"] == what for o in lines)) for what in _KINDS]
    said = ", ".join(f"{k} {what}" for what, k in counts if k)
    return {**found, "lines": lines, "said": said}


# ---------------------------------------------------------------- published claims


def published(summary: Json) -> list[Json]:
    """For each measured axis: the study's effects over the published differences of the same axis."""
    own = {"A1": _shapes, "A2": _contents, "A3": _votes}
    found = []
    for axis, name in _AXES:
        mine, claims = own[axis](summary["axes"]), sights().get(axis, [])
        if mine and claims:
            found.append(_beside(axis, name, mine, claims))
    return found


def _shapes(axes: Json) -> list[Json]:
    return list((axes["brittleness"] or {"effects": []})["effects"])


def _contents(axes: Json) -> list[Json]:
    planners = (axes["trust"] or {"planners": []})["planners"]
    return [p[key] for p in planners for key in ("net", "content") if p[key] is not None]


def _votes(axes: Json) -> list[Json]:
    axis = axes["diversity"]
    return [] if axis is None else [axis["useful"], *axis["effects"]]


def _beside(axis: str, name: str, mine: Sequence[Json], claims: Sequence[Json]) -> Json:
    groups = [plots.Group("This study", [plots.effect_mark(e, words.kind(e["verdict"])) for e in mine])]
    for title, verified in (("Published, verified from the full text", True), ("Published, unverified", False)):
        marks = [_mark(c) for c in _ends(claims) if c["label"].startswith("verified") == verified]
        groups += [plots.Group(title, marks)] if marks else []
    title = f"This study's effects over the least and largest published difference of each paper. {SAME}"
    ends = (min(c["points"] for c in claims), max(c["points"] for c in claims))
    own = (min(e["value"] for e in mine), max(e["value"] for e in mine))
    heads = [
        ("claim", ""), ("numbers", "m-published"), ("task", ""), ("executor", ""), ("n", "m-published"),
        ("points", "m-published"), ("what they allow", "m-published"), ("verdict on them", "m-published"),
        ("set as", "m-published"),
    ]  # fmt: skip
    return {
        "name": name,
        "figure": markup(plots.forest(groups, title=title, axis=POINTS, name=f"published-{axis.lower()}")),
        "claims": len(claims),
        "papers": len({c["paper"] for c in claims}),
        "verified": sum(c["label"].startswith("verified") for c in claims),
        "span": f"{number(ends[0], sign=True)} to {number(ends[1], sign=True)}",
        "own": f"{points(own[0])} to {points(own[1])}",
        "table": Grid(
            f"Published differences on {name}", "In points, least first.", heads, [_line(c) for c in claims], _WORDED
        ),
        "titles": sorted({(c["paper"], c["citation"], c["label"]) for c in claims}),
    }


def _ends(claims: Sequence[Json]) -> list[Json]:
    """The least and the largest claim of each paper, least first; claims come sorted."""
    found: list[Json] = []
    for paper in dict.fromkeys(c["paper"] for c in claims):
        own = [c for c in claims if c["paper"] == paper]
        found += own if len(own) == 1 else [own[0], own[-1]]
    return found


def _mark(c: Json) -> plots.Mark:
    low, high = (None if end is None else end / 100 for end in (c["low"], c["high"]))
    kind = "ink" if c["label"].startswith("verified") else "open"
    note = "" if c["n"] is None else f"n {c['n']}"
    return plots.Mark(f"{c['paper']} {c['condition']}", c["points"] / 100, low, high, note, kind)


def _line(c: Json) -> list[str]:
    allow = words.DASH if c["low"] is None else f"[{number(c['low'], sign=True)}, {number(c['high'], sign=True)}]"
    fixed = "; ".join(f"{k} {c['fixed'][k]}" for k in _TOLD if k in c["fixed"]) or words.DASH
    n = words.DASH if c["n"] is None else str(c["n"])
    return [
        f"{c['paper']} {c['condition']}", c["label"], c["task"], c["executor"] or words.DASH, n,
        number(c["points"], sign=True), allow, c["verdict"], fixed,
    ]  # fmt: skip
