"""Axis 2: how much of a plan's content the executor uses, once the shape is accounted for.

Per planner: a true plan against its content-free twin, the twin against the bare question, the gold plan against the
planner's, corruptions against the TRUE plan; how often the executor answers what the plan implies, by whether that is
right; what a plan rescues and what it loses; the lift where the plan states the answer and where it does not; and how
all this changes with the planner's size and with the quality of its plans.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triaxis.estimate.arms import MARGIN, Floats, Rate, Table, as_dict, share
from triaxis.estimate.paired import Estimate, contrast, finish, paired

QUALITY_STEP = 0.1  # the slope over plan quality is per ten points of plans with right steps
TWINS = ("filler", "random", "dots")  # kinds of plans without content
DERIVED = ("net", "gold_lift")
Detail = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """A condition that shows true plans, its content-free twin, and the corruptions of its plans."""

    planner: str
    label: str  # the planner, or the condition where a planner's plans are shown in several scaffolds
    name: str
    twin: str
    corrupted: tuple[str, ...]


def shown_plans(t: Table) -> list[Shown]:
    """The true-plan conditions of a study, each with what is made from its plans."""
    trust = {n: t.conditions[n] for n in t.role("trust")}
    true = {n: c for n, c in trust.items() if c["kind"] == "true"}
    owners: dict[str, list[str]] = {}
    for n, c in trust.items():
        if c["kind"] not in ("true", *TWINS) and (owner := _owner(c, true)):
            owners.setdefault(owner, []).append(n)
    planners = [c["planner"] for c in true.values()]
    return [
        Shown(
            planner=c["planner"], label=c["planner"] if planners.count(c["planner"]) == 1 else n, name=n,
            twin=str(c["against"]), corrupted=tuple(owners.get(n, ())),
        )
        for n, c in true.items()
    ]  # fmt: skip


def _owner(card: Mapping[str, Any], true: Mapping[str, Mapping[str, Any]]) -> str:
    """The true plan that a corrupted one is compared with: the one it names, else one of its planner, same scaffold."""
    if card["against"] in true:
        return str(card["against"])
    same = [n for n, c in true.items() if c["planner"] == card["planner"]]
    alike = [n for n in same if true[n]["scaffold"] == card["scaffold"]]
    return (alike or same or [""])[0]


def trust(t: Table, parameters: Mapping[str, int | None]) -> dict[str, Any] | None:
    """The axis' object. Holm over content, scaffold and corruptions of every planner; and over what follows from them
    (net, gold_lift) apart, so that showing it costs the questions asked no power.

    parameters: parameter count by planner; a source without one (gold) is left out of the slope over size.
    """
    shown = shown_plans(t)
    if not shown:
        return None
    gold = next((s for s in shown if s.planner == "gold"), None)
    raw: dict[tuple[str, str], Estimate] = {}
    for s in shown:
        raw |= {(s.name, key): e for key, e in _differences(t, s, gold)}
    done: dict[tuple[str, str], Estimate] = {}
    for second in (False, True):
        family = {k: e for k, e in raw.items() if (k[1] in DERIVED) == second}
        done |= dict(zip(family, finish(list(family.values()), margin=MARGIN), strict=True))
    planners = [_planner(t, s, parameters, {k: e for (n, k), e in done.items() if n == s.name}) for s in shown]
    sized = {s: math.log10(float(p)) for s in shown if (p := parameters.get(s.planner))}
    quality = {s: p["plan_quality"] for s, p in zip(shown, planners, strict=True) if p["plan_quality"] is not None}
    return {
        "planners": planners,
        "slope": slope(t, sized, "content per tenfold size"),
        "quality_slope": slope(t, quality, "content per 10 points of plan quality", unit=QUALITY_STEP),
    }


def _differences(t: Table, s: Shown, gold: Shown | None) -> Iterator[tuple[str, Estimate]]:
    yield "content", t.difference(s.name, s.twin, f"content[{s.label}]")
    yield "scaffold", t.difference(s.twin, t.baseline, f"scaffold[{s.label}]")
    for n in s.corrupted:
        yield n, t.difference(n, s.name, f"{t.conditions[n]['kind']}[{s.label}]")
    yield "net", t.difference(s.name, t.baseline, f"net[{s.label}]")
    if gold is not None and s.planner != "gold":
        yield "gold_lift", t.difference(gold.name, s.name, f"gold over [{s.label}]")


def _planner(t: Table, s: Shown, parameters: Mapping[str, int | None], done: Mapping[str, Estimate]) -> dict[str, Any]:
    kinds = [t.conditions[n]["kind"] for n in s.corrupted]
    keys = [k if kinds.count(k) == 1 else n for k, n in zip(kinds, s.corrupted, strict=True)]
    base, with_plan = t.score(t.baseline), t.score(s.name)
    copied, followed = _answers_plan(t, s.name, None), _answers_plan(t, s.name, False)
    return {
        "planner": s.label,
        "parameters": parameters.get(s.planner),
        "content": done["content"].effect(),
        "scaffold": done["scaffold"].effect(),
        "corruptions": {key: done[n].effect() for key, n in zip(keys, s.corrupted, strict=True)},
        "net": done["net"].effect(),
        "gold_lift": done["gold_lift"].effect() if "gold_lift" in done else None,
        "copy_rate": copied.rate if copied else None,
        "follow_rate": followed.rate if followed else None,
        "plan_quality": _quality(t, s.name),
        "copying": {
            "right": as_dict(_answers_plan(t, s.name, True)),
            "wrong": as_dict(followed),
            "wrong_without_plan": as_dict(_answers_plan(t, s.name, False, read=t.baseline)),
        },
        "following": _following(t, s),
        "rescue": as_dict(share((1 - base) * with_plan, 1 - base)),
        "retention": as_dict(share(base * with_plan, base)),
        "leaks": _leaks(t, s),
    }


def _quality(t: Table, name: str) -> float | None:
    """Share of the plans whose steps are the gold ones, over those that can be told."""
    told = [right for d in t.details(name) if (right := d.get("steps_right")) is not None]
    return float(np.mean(told)) if told else None


def _answers_plan(t: Table, name: str, right: bool | None, *, read: str = "") -> Rate | None:
    """How often the answer is the one the plan implies: over plans that imply the right one, a wrong one, or any.

    A plan that its edit could not change counts as none. read: another condition whose answers are taken instead,
    item by item: how often that happens without the plan.
    """
    hits, cases = np.zeros(len(t.items)), np.zeros(len(t.items))
    for i, (d, answers) in enumerate(zip(t.details(name), t.answers(read or name), strict=True)):
        implied = None if d.get("unchanged") else d.get("implied")
        if implied is not None and right in (None, implied == d.get("gold")):
            hits[i], cases[i] = answers.count(implied) / len(answers), 1
    return share(hits, cases)


def _following(t: Table, s: Shown) -> dict[str, Any] | None:
    """Answers of counterfactual plans: the share that gives the answer such a plan implies, with and without it."""
    name = next((n for n in s.corrupted if t.conditions[n]["kind"] == "counterfactual"), None)
    if name is None or (rate := _answers_plan(t, name, False)) is None:
        return None
    return {
        "condition": name,
        **rate._asdict(),
        "without_plan": as_dict(_answers_plan(t, name, False, read=t.baseline)),
        "right_anyway": as_dict(share(t.score(name), np.ones(len(t.items)))),
    }


def _leaks(t: Table, s: Shown) -> dict[str, Any]:
    """The content effect by whether the plan states the answer; an effect needs two items."""
    states = np.array([bool(d.get("leaks")) for d in t.details(s.name)])
    found = {"share": as_dict(share(states.astype(float), np.ones(len(states))))}
    strata = {"stated": states, "not_stated": ~states}
    there = {k: mask for k, mask in strata.items() if mask.sum() >= 2}
    lifts = [
        paired(t.score(s.name)[mask], t.score(s.twin)[mask], name=f"content[{s.label}], answer {k.replace('_', ' ')}")
        for k, mask in there.items()
    ]
    done = dict(zip(there, finish(lifts, margin=MARGIN), strict=True))
    return {**found, **{k: done[k].effect() if k in done else None for k in strata}}


def slope(t: Table, shown: Mapping[Shown, float], name: str, *, unit: float = 1.0) -> dict[str, Any] | None:
    """Least-squares slope of the content effect over x, per `unit` of x; None under two different values.

    shown: x by true-plan condition. A per-item contrast, so that the pairing carries over: sum of w (true - twin),
    w = (x - mean x) / Sxx. x is taken as known: where it is measured, the interval leaves that out.
    """
    x = np.array(list(shown.values()), dtype=float)
    if len(x) < 2 or np.ptp(x) < 1e-9:
        return None
    weights = unit * (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    columns: Sequence[Floats] = [t.score(s.name) for s in shown] + [t.score(s.twin) for s in shown]
    estimate = contrast(np.concatenate((weights, -weights)), np.stack(columns, axis=1), name=name)
    return finish([estimate], margin=MARGIN)[0].effect()
