"""The parts of the page that show numbers: figures, effect tables and plain tables of each axis.

Arranges what the summary holds as figures and lines of words; computes no number and knows no HTML beyond the markup
that `plots` draws. A part whose data is not there is None or empty, and the page leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from triaxis.report import plots, words
from triaxis.report.embed import markup
from triaxis.report.words import number, points, span

Json = Mapping[str, Any]
Named = tuple[str, Sequence[tuple[str, Json]]]  # title, (label, Effect)
POINTS = "points of accuracy"
SAME = "The table below holds the same numbers."


class Grid(NamedTuple):
    """A plain table: heads are (text, anchor of its method or ""); the first cell of a row is its name.

    `worded`: heads of columns of words, which stand at the left.
    """

    label: str
    caption: str
    heads: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]
    worded: Sequence[str] = ()


def grid(label: str, caption: str, heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Grid:
    """A table without the columns in which no row has anything to say."""
    kept = [i for i in range(len(heads)) if not i or any(row[i] != words.DASH for row in rows)]
    return Grid(label, caption, [heads[i] for i in kept], [[row[i] for i in kept] for row in rows])


class Shown(NamedTuple):
    """Effects as a figure and as the lines of one table."""

    figure: Any
    groups: Sequence[tuple[str, Sequence[Json]]]


# ---------------------------------------------------------------- axis 1


def axis1(axis: Json | None) -> Json | None:
    """Shapes with their own and their simultaneous intervals, the extremes, means by placement."""
    if axis is None:
        return None
    together = axis["simultaneous"]["intervals"]
    marks = [_mark(e, outer=together.get(e["name"])) for e in axis["effects"]]
    title = f"Forest plot: each shape minus the bare question. {SAME}"
    figure = plots.forest([plots.Group("", marks)], title=title, axis=POINTS, name="forest1")
    spread = line(axis["spread"], "spread, best minus worst", signed=False)
    said = "the shapes differ" if axis["spread"]["verdict"] == "drop" else spread["said"]
    groups = [
        ("", [line(e) for e in axis["effects"]]),
        ("Mean of the shapes by placement", [line(p["effect"], _placement(p)) for p in axis["placements"]]),
        (
            "Over all shapes",
            [line(axis["worst_case"], f"worst case, {axis['worst']}"), {**spread, "said": said, "kind": "plain"}],
        ),
    ]
    return {
        **axis,
        "figure": markup(figure),
        "groups": [g for g in groups if g[1]],
        "spread_p": words.p_value(axis["spread"]["p"]),
        "together": Grid(
            "Simultaneous intervals of axis 1",
            "Intervals in points that hold for all shapes at once.",
            [("shape", ""), ("points", "m-effect"), (f"{words.LEVEL} together", "m-together")],
            [[e["name"], points(e["value"]), span(*together[e["name"]])] for e in axis["effects"]],
        ),
    }


def _placement(group: Json) -> str:
    names = {"after": "after the question", "before": "before the question", "system": "system turn"}
    return names.get(group["placement"], f"start of the {group['placement']}")


def designs(found: Sequence[Json]) -> list[Json]:
    """Each grid: main effects and interactions, level means, cost against the bare question."""
    return [_design(d, f"design{k}") for k, d in enumerate(found, 1)]


def _design(d: Json, name: str) -> Json:
    main = [(_term(e), e["effect"]) for e in d["effects"] if len(e["factors"]) == 1]
    both = [(_term(e), e["effect"]) for e in d["effects"] if len(e["factors"]) > 1]
    first = {f: levels[0] for f, levels in d["factors"].items()}
    named: list[Named] = [
        ("Main effects, against the first level", main),
        ("Interactions: how much more the first does at the second", both),
    ]
    figure = ""
    if d["levels"]:
        groups = [plots.Group(_factor(f), [_level(m) for m in d["levels"] if m["factor"] == f]) for f in d["factors"]]
        figure = plots.forest(
            groups, title=f"Accuracy by level of each factor of grid {d['grid']}, means over the others.",
            axis="% of items right", name=f"{name}-levels", sign=False,
        )  # fmt: skip
    levels = Grid(
        f"Levels of grid {d['grid']}",
        "Accuracy in %, mean over the levels of the other factors.",
        [("level", ""), ("accuracy", "m-accuracy"), (f"{words.LEVEL} interval", "m-interval")],
        [[f"{m['factor']} = {m['level']}", points(m["accuracy"], sign=False), span(m["low"], m["high"], sign=False)]
         for m in d["levels"]],
    )  # fmt: skip
    shown = effects([*named, ("All shapes of the grid", [(e["name"], e) for e in d["cost"]])], f"{name}-effects")
    return {**d, "first": first, "levels_figure": markup(figure), "levels_table": levels, "shown": shown}


def _level(m: Json) -> plots.Mark:
    return plots.Mark(m["level"], m["accuracy"], m["low"], m["high"])


def _term(e: Json) -> str:
    return " \u00d7 ".join(f"{_factor(f)} {v}" for f, v in zip(e["factors"], e["levels"], strict=True))


def _factor(name: str) -> str:
    return name.replace("_per_", "/").replace("_", " ")


# ---------------------------------------------------------------- axis 2


def axis2(axis: Json | None) -> Json | None:
    """Effects by planner, corruptions by planner in a figure of their own, and what the plans' answers show."""
    if axis is None:
        return None
    planners = axis["planners"]

    def each(key: str) -> list[tuple[str, Json]]:
        return [(p["planner"], p[key]) for p in planners if p[key] is not None]

    main: list[Named] = [
        ("Content: true plan minus its twin", each("content")),
        ("Scaffold: twin minus the bare question", each("scaffold")),
        ("Net: true plan minus the bare question", each("net")),
        ("Gold plan minus the planner's plan", each("gold_lift")),
    ]
    corrupted: list[Named] = [
        (f"Corrupted minus true plans of {p['planner']}", list(p["corruptions"].items())) for p in planners
    ]
    slopes = [
        (label, axis[key])
        for key, label in (("slope", "per tenfold parameters"), ("quality_slope", "per 10 more plans of 100 right"))
        if axis[key] is not None
    ]
    lines = groups_of([*main, *corrupted, ("Content over planner size and plan quality", slopes), *_leaks(planners)])
    return {
        **axis,
        "figure": effects(main, "forest2").figure,
        "corruptions": effects(corrupted, "forest2c").figure if any(g[1] for g in corrupted) else "",
        "groups": lines,
        "tables": [_plans(planners), _answers(planners)],
    }


def _leaks(planners: Sequence[Json]) -> Iterator[Named]:
    for key, title in (
        ("stated", "Content where the plan states the answer"),
        ("not_stated", "Content where it does not"),
    ):
        found = [(p["planner"], p["leaks"][key]) for p in planners if p["leaks"][key] is not None]
        if found and any(p["leaks"]["stated"] for p in planners):
            yield title, found


def _plans(planners: Sequence[Json]) -> Grid:
    heads = [
        ("plans of", ""), ("parameters", "m-parameters"), ("steps right", "m-quality"), ("state the answer", "m-leaks"),
        ("copied when right", "m-copy"), ("followed when wrong", "m-follow"), ("so without a plan", "m-follow"),
    ]  # fmt: skip
    rows = [
        [
            p["planner"], words.size(p["parameters"]), points(p["plan_quality"], sign=False), rate(p["leaks"]["share"]),
            rate(p["copying"]["right"]), rate(p["copying"]["wrong"]), rate(p["copying"]["wrong_without_plan"]),
        ]
        for p in planners
    ]  # fmt: skip
    return grid(
        "Plans of axis 2", "What the plans say and how often the executor answers what they imply, in %.", heads, rows
    )


def _answers(planners: Sequence[Json]) -> Grid:
    heads = [
        ("plans of", ""), ("rescued", "m-rescue"), ("retained", "m-rescue"), ("follows a counterfactual", "m-follow"),
        ("answers so without it", "m-follow"), ("right in spite of it", "m-follow"),
    ]  # fmt: skip
    rows = []
    for p in planners:
        follow = p["following"]
        other = [rate(follow[k]) for k in ("without_plan", "right_anyway")] if follow else [words.DASH] * 2
        rows.append([p["planner"], rate(p["rescue"]), rate(p["retention"]), rate(follow), *other])
    return grid(
        "Rescue, retention and following", "What becomes of items with the plan, in %, with intervals.", heads, rows
    )


def rate(r: Json | None) -> str:
    """A rate of the summary: '62.5 [48.1, 75.0]'."""
    return words.DASH if r is None else f"{points(r['rate'], sign=False)} {span(r['low'], r['high'], sign=False)}"


# ---------------------------------------------------------------- pipelines, costs, failures


def pareto(found: Sequence[Json] | None) -> Json | None:
    """Accuracy against tokens, numbered from the cheapest."""
    if not found:
        return None
    at: dict[tuple[float, float], list[str]] = {}  # arms at one place share a mark
    for k, p in enumerate(found, 1):
        at.setdefault((p["tokens"], p["accuracy"]), []).append(str(k))
    spots = []
    for p in found:
        label = ", ".join(at.pop((p["tokens"], p["accuracy"]), []))
        ends = (p["low"], p["accuracy"], p["high"]), (p["tokens_low"], p["tokens"], p["tokens_high"])
        spots.append(plots.Spot(label, *ends, hollow=bool(p["dominated_by"])))
    title = f"Accuracy against tokens read an item. {SAME}"
    place = {p["name"]: str(k) for k, p in enumerate(found, 1)}
    rows = [
        [
            f"{place[p['name']]}  {p['name']}", points(p["accuracy"], sign=False),
            span(p["low"], p["high"], sign=False), number(p["tokens"], 0), _beaten(p, place),
        ]
        for p in found
    ]  # fmt: skip
    heads = [
        ("arm", ""), ("accuracy", "m-accuracy"), (f"{words.LEVEL} interval", "m-interval"),
        ("tokens an item", "m-pareto"), ("no dearer and no worse", "m-pareto"),
    ]  # fmt: skip
    return {
        "figure": markup(plots.costs(spots, title=title, axis="tokens read an item", name="pareto")),
        "table": Grid("Accuracy and cost", "Cheapest first; accuracy in %.", heads, rows),
    }


def _beaten(p: Json, place: Mapping[str, str]) -> str:
    by = [place[n] for n in p["dominated_by"]]
    return (", ".join(by) + (" (with evidence)" if p["certain"] else "")) if by else words.DASH


def pipelines(found: Json | None) -> Json | None:
    """Each pipeline against its rival, and the executor against AR models at matched cost."""
    if not found:
        return None
    by = {"branches": "Executor minus AR model alone, as many branches", "tokens": "Arm minus AR model, as many tokens"}
    matched: list[Named] = [
        (title, [(_matched(m), m["effect"]) for m in found["matched"] if m["matched"] == key])
        for key, title in by.items()
    ]
    plain = [(f"{e['condition']} minus {e['against']}", e["effect"]) for e in found["effects"]]
    return {"shown": effects([("", plain), *matched], "pipelines"), "pareto": pareto(found["pareto"])}


def _matched(m: Json) -> str:
    many = "" if m["branches"] == 1 else f", {m['branches']} branches"
    return f"{m['condition']} minus {m['against']}{many}"


FAILURES = (
    ("truncated", "cut"), ("unreadable", "unread"), ("early_end", "early end"), ("flooded", "flooded"),
    ("continued", "plan goes on"), ("disagree", "graders differ"), ("duplicates", "same text"),
)  # fmt: skip


def failures(conditions: Sequence[Json]) -> Json | None:
    """Rates of every kind that occurs, and their paired differences from the baseline; None where none occurs."""
    kinds = [(key, head) for key, head in FAILURES if any(c[key] for c in conditions)]
    if not kinds:
        return None
    rows = [
        [c["name"], *(points(c[key], sign=False) for key, _ in kinds), _lost(c["lost"])] for c in conditions
    ]  # fmt: skip
    heads = [("condition", ""), *((head, "m-failures") for _, head in kinds), ("lost by format", "m-lost")]
    groups = [
        (head, [line(c["failures"][key], c["name"]) for c in conditions if key in c["failures"]]) for key, head in kinds
    ]
    resolved = sum(e["said"] in ("drop", "lift") for _, lines in groups for e in lines)
    return {
        "table": grid("Failures of format", "Completions with a failure, in % of each condition's.", heads, rows),
        "groups": [(title, lines) for title, lines in groups if lines],
        "count": sum(len(lines) for _, lines in groups),
        "resolved": resolved,
    }


def _lost(lost: Json | None) -> str:
    return words.DASH if not lost or not lost["items"] else f"{lost['format']} of {lost['items']}"


def _paid(dollars: float | None) -> str | None:
    return None if dollars is None else number(dollars, 2 if dollars >= 1 else 4)


def cost(found: Json) -> Grid:
    """What the whole study took; what nobody knows is left out."""
    plans = found.get("planning") or {}

    def many(count: int | None) -> str | None:
        return number(count, 0) if count else None

    rows: list[tuple[str, str | None]] = [
        ("time of sampling and planning", words.duration(found["seconds"])),
        ("dollars", _paid(found["dollars"])),
        ("forward passes", number(found["forwards"], 0)),
        ("tokens they read", number(found["tokens"], 0)),
        ("operations of the executor", words.operations(found["flops"]) if found.get("flops") else None),
        ("planners' forward passes to write plans", many(plans.get("forwards"))),
        ("tokens these read", many(plans.get("tokens"))),
        ("requests to endpoints", many(plans.get("requests"))),
    ]
    heads = [("what", ""), ("in all", "m-cost")]
    caption = "What ran, once however many rows show it."
    return Grid("Cost of the whole study", caption, heads, [(name, said) for name, said in rows if said is not None])


# ---------------------------------------------------------------- effects in common


def effects(named: Sequence[Named], name: str) -> Shown:
    """Effects in groups, drawn and as lines; groups without any are left out."""
    there = [(title, found) for title, found in named if found]
    groups = [plots.Group(title, [_mark(e, label) for label, e in found]) for title, found in there]
    figure = plots.forest(groups, title=f"Forest plot. {SAME}", axis=POINTS, name=name) if groups else ""
    return Shown(markup(figure), groups_of(named))


def groups_of(named: Sequence[Named]) -> list[tuple[str, list[Json]]]:
    """The lines of an effect table."""
    return [(title, [line(e, label) for label, e in found]) for title, found in named if found]


def _mark(effect: Json, label: str = "", outer: Sequence[float] | None = None) -> plots.Mark:
    return plots.effect_mark(effect, words.kind(effect["verdict"]), label, outer)


def line(effect: Json, label: str = "", *, signed: bool = True) -> Json:
    """An Effect as a line of an effect table."""
    said = effect["verdict"]
    return {**effect, "label": label or effect["name"], "signed": signed, "said": said, "kind": words.kind(said)}


def every_effect(summary: Json) -> Iterator[tuple[str, Json]]:
    """(axis, Effect) of all comparisons of a summary that compare accuracies, in the order of the page."""
    axes = summary["axes"]
    if axis := axes["brittleness"]:
        yield from (("1", e) for e in axis["effects"])
        yield from (("1", p["effect"]) for p in axis["placements"])
    for d in axes.get("factorial") or ():
        for e in (*(x["effect"] for x in d["effects"]), *d["cost"]):
            yield "1", {**e, "name": f"{d['grid']}: {e['name']}"}
    if axis := axes["trust"]:
        for p in axis["planners"]:
            found = (p["content"], p["scaffold"], *p["corruptions"].values(), p["net"], p["gold_lift"])
            yield from (("2", e) for e in found if e is not None)
        yield from (("2", axis[k]) for k in ("slope", "quality_slope") if axis[k] is not None)
    if axis := axes["diversity"]:
        yield from (("3", e) for e in (axis["useful"], *axis["effects"]))
    if found := axes.get("adapters"):
        yield from (("adapter", e["effect"]) for e in found["effects"])
        yield from (("adapter", c["change"]) for c in found["costs"])
    if found := axes.get("pipelines"):
        yield from (("chain", e["effect"]) for e in (*found["effects"], *found["matched"]))
