"""The answer in three sentences, one an axis, made from the effects alone.

Knows the summary's axes object. Neither HTML nor terminal: both print what is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from triaxis.report.words import Kind, kind, points, several, span, stated, unbroken

Effect = Mapping[str, Any]
FEW_WARNINGS = 4  # about single conditions; more of them are folded


class Answer(NamedTuple):
    """One axis: its question, the answer as a sentence, its verdict in a few words and that verdict's kind.

    `anchor`: the part of the page that holds the numbers.
    """

    anchor: str
    axis: str
    question: str
    sentence: str
    verdict: str
    kind: Kind


def answers(summary: Mapping[str, Any]) -> list[Answer]:
    """Three answers, in the order of the axes."""
    axes = summary["axes"]
    return [
        _shape(axes["brittleness"], axes.get("factorial") or ()),
        _content(axes["trust"]),
        _votes(axes["diversity"]),
    ]


def adapted(summary: Mapping[str, Any]) -> list[Answer]:
    """What adapters changed, where arms were run with and without one: one answer or none."""
    found = summary["axes"].get("adapters")
    if not found:
        return []
    effects = [{**e["effect"], "name": e["condition"]} for e in found["effects"]]
    said = {"drop": "lose{s} accuracy", "lift": "gain{s} accuracy"}
    text = f"Of {_count(effects, 'arm')} with an adapter, {_groups(effects, said)}."
    changes = [{**c["change"], "name": c["condition"]} for c in found["costs"]]
    if changes:
        moved = _groups(changes, {"drop": "fall{s}", "lift": "rise{s}"})
        text += f" Of {_count(changes, 'effect')} of a scaffold or plan, {moved}."
    title = ("adapters", "Before and after", "What did the adapter change, each arm against itself without?")
    return [Answer(*title, text, *_overall(effects))]


def sorted_warnings(summary: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Warnings of the study, and apart from them those about single conditions' failures where they are many."""
    starts = tuple(f"{c['name']}: " for c in summary["conditions"])
    about = ("% of the completions", "failure of format")
    single = [w for w in summary["warnings"] if w.startswith(starts) and any(a in w for a in about)]
    if len(single) <= FEW_WARNINGS:
        return list(summary["warnings"]), []
    return [w for w in summary["warnings"] if w not in single], single


# What a warning says, and the method on the page behind its numbers.
_BEHIND = (
    ("of the completions", "m-failures"), ("have a failure of format", "m-lost"), ("votes are tied", "m-tie"),
    ("second grader", "m-failures"), ("fallback rule", "m-unreadable"), ("low power", "m-mde"),
    ("cells were never run", "m-factorial"), ("stopped at", "m-interval"), ("at temperature 0", "m-interval"),
)  # fmt: skip


def method_of(warning: str) -> str:
    """The anchor of the method behind a warning's numbers; "" for one without any."""
    return next((anchor for said, anchor in _BEHIND if said in warning), "")


def _shape(axis: Mapping[str, Any] | None, designs: Sequence[Mapping[str, Any]]) -> Answer:
    title = ("axis1", "Axis 1, brittleness", "What does a plan-shaped scaffold without content cost?")
    said = {"drop": "cost{s} accuracy", "lift": "raise{s} it"}
    costs = [{**e, "name": f"grid {d['grid']}, {e['name']}"} for d in designs for e in d["cost"]]
    if axis is None and not costs:
        return _unmeasured(*title)
    text = []
    if axis is not None:
        text.append(f"Of {_count(axis['effects'], 'content-free shape')}, {_groups(axis['effects'], said)}.")
    if costs:
        text.append(f"Of {_count(costs, 'mean')} over the shapes of a grid, {_groups(costs, said)}.")
    factors = [
        {**e["effect"], "name": f"{d['grid']}, {e['effect']['name']}"}
        for d in designs
        for e in d["effects"]
        if len(e["factors"]) == 1 and kind(e["effect"]["verdict"]) in said
    ]
    if factors:
        text.append(f"{_count(factors, 'level')} of a factor differ from its first: {_extreme(factors)}.")
    return Answer(*title, " ".join(text), *_overall(costs if axis is None else axis["effects"]))


def _content(axis: Mapping[str, Any] | None) -> Answer:
    title = ("axis2", "Axis 2, trust", "How much is the content of a plan used, once its shape is accounted for?")
    if axis is None:
        return _unmeasured(*title)
    effects = [{**p["content"], "name": p["planner"]} for p in axis["planners"]]
    said = {"drop": "lower{s} accuracy", "lift": "raise{s} accuracy"}
    sources = _count(effects, "plan source")
    text = f"Of {sources}, each against a content-free twin of equal length, {_groups(effects, said)}"
    if (slope := axis["slope"]) is not None:
        text += f"; a tenfold larger planner changes this by {stated(slope)} ({slope['verdict']})"
    return Answer(*title, text + ".", *_overall(effects))


def _votes(axis: Mapping[str, Any] | None) -> Answer:
    title = ("axis3", "Axis 3, diversity", "Do sampled branches differ in a way that a vote can use?")
    if axis is None:
        return _unmeasured(*title)
    useful = axis["useful"]
    low, high = axis["vote_interval"]
    text = (
        f"The majority vote of {axis['branches']} branches is right on {points(axis['vote'], sign=False)}\u00a0% "
        f"{unbroken(span(low, high, sign=False))} of {useful['n']} items, {stated(useful)} against one branch"
    )
    if axis["ties"]:
        bounds = f"{points(axis['vote_low_tie'], sign=False)} to {points(axis['vote_high_tie'], sign=False)} %"
        ties = "1 tie is" if axis["ties"] == 1 else f"{axis['ties']} ties are"
        text += f" ({bounds} by how {ties} broken)"
    text += f"; at least one branch is right on {points(axis['oracle'], sign=False)}\u00a0%."
    changed = [f"{name} against {c['against']} is {c['verdict']}" for name, c in axis["changes"].items() if known(c)]
    if changed:
        text += f" Of the branches themselves, {several(changed)}."
    return Answer(*title, text, useful["verdict"], kind(useful["verdict"]))


def known(change: Mapping[str, Any]) -> bool:
    """Whether it is resolved what happened to the branches."""
    return bool(change["verdict"] != "not resolved")


def _unmeasured(anchor: str, axis: str, question: str) -> Answer:
    return Answer(anchor, axis, question, "Not measured: none of its conditions was run.", "not measured", "open")


def _count(effects: Sequence[Effect], noun: str) -> str:
    return f"{len(effects)} {noun}{'' if len(effects) == 1 else 's'}"


def _groups(effects: Sequence[Effect], said: Mapping[str, str]) -> str:
    """'2 cost accuracy (largest: a, -8.0 points [..]), 1 is equivalent within 5 points and 3 are not resolved'."""
    parts = []
    for word in ("drop", "lift", "same", "open"):
        group = [e for e in effects if kind(e["verdict"]) == word]
        if not group:
            continue
        s, be = ("s", "is") if len(group) == 1 else ("", "are")
        count = f"{'all ' if len(group) == len(effects) > 1 else ''}{len(group)}"
        if word in said:
            part = f"{count} {said[word].format(s=s)} ({_extreme(group)})"
        elif word == "same":
            part = f"{count} {be} {group[0]['verdict']}"
        else:
            alone = f"{_extreme(group)}; " if len(group) == len(effects) else ""
            n = unbroken(f"n = {group[0]['n']}")
            part = f"{count} {be} not resolved at {n} ({alone}{sight(group)})"
        parts.append(part)
    return several(parts)


def _extreme(group: Sequence[Effect]) -> str:
    e = max(group, key=lambda e: abs(e["value"]))
    return f"{'largest: ' if len(group) > 1 else ''}{e['name']}, {stated(e)}"


def sight(group: Sequence[Effect]) -> str:
    """What effects the design could have seen, from the MDEs of `group`."""
    values = sorted(e["mde80"] for e in group if e["mde80"] is not None)
    if not values:
        return "this design could see an effect of no size"
    low, high = points(values[0], sign=False), points(values[-1], sign=False)
    return f"this design could see {low if low == high else f'{low} to {high}'} points"


def _overall(effects: Sequence[Effect]) -> tuple[str, Kind]:
    """The verdict of an axis: the verdict all effects share, or how many drop and lift."""
    words = [e["verdict"] for e in effects]
    if len(set(words)) == 1:
        return words[0], kind(words[0])
    counts = [(w, sum(kind(x) == w for x in words)) for w in ("drop", "lift")]
    found = [f"{w} in {k}" for w, k in counts if k]
    if found:
        worst: Kind = "drop" if counts[0][1] else "lift"
        return f"{several(found)} of {len(words)}", worst
    same = sum(kind(w) == "same" for w in words)
    return f"equivalent in {same} of {len(words)}", "open"
