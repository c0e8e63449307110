"""Axis 1: what a plan-shaped scaffold without content costs, and which of its factors costs it.

Single shapes against the bare question, with simultaneous intervals, the worst case and the spread; and grids, whose
conditions cross placement, closure, length, label and filler, as a factorial design.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from triaxis.estimate.arms import MARGIN, Table, interval
from triaxis.estimate.factorial import Attribution, attribute, missing_cells
from triaxis.estimate.paired import Estimate, contrast, finish, paired
from triaxis.estimate.simultaneous import LEVEL, joint

PACE = "tokens_per_step"  # the factor whose interactions with all others are asked for
Levels = tuple[str, ...]
Factors = Mapping[str, Levels]


def shapes(t: Table) -> list[str]:
    """Content-free shapes under the baseline's adapter. A bare question decoded otherwise is no shape; the grids are
    compared with it. A shape under another adapter would show both at once; estimate/adapters.py takes them apart."""
    own = t.conditions[t.baseline].get("adapter", "")
    found = [n for n in t.role("brittleness") if n not in bare(t)]
    return [n for n in found if t.conditions[n].get("adapter", "") == own]


def bare(t: Table) -> list[str]:
    """Conditions that show the question alone; the baseline first."""
    others = [n for n in t.role("brittleness") if _is_bare(t.conditions[n])]
    return [t.baseline, *others]


def _is_bare(card: Mapping[str, Any]) -> bool:
    scaffold = card["scaffold"]
    return not (scaffold["template"] or scaffold["closed"] or card["variants"])


def brittleness(t: Table) -> dict[str, Any] | None:
    """Each shape minus the bare question, alone and together, their spread, the worst one, and means by placement."""
    names = shapes(t)
    if not names:
        return None
    effects = finish([t.difference(n, t.baseline, n) for n in names], margin=MARGIN)
    both = joint([t.score(n) for n in names], t.score(t.baseline), effects)
    return {
        "effects": [e.effect() for e in effects],
        "spread": both.spread.effect(),
        "worst": min(effects, key=lambda e: e.value).name,
        "worst_case": both.worst.effect(),
        "corrected": {"spread": both.spread_corrected, "worst_case": both.worst_corrected},
        "simultaneous": {
            "level": LEVEL,
            "each": both.level,
            "intervals": {n: list(ends) for n, ends in zip(names, both.intervals, strict=True)},
        },
        "placements": placements(t, names),
    }


def placements(t: Table, names: Sequence[str]) -> list[dict[str, Any]]:
    """Mean effect of the shapes of each placement, Holm over the placements; [] where there is but one."""
    groups: dict[str, list[str]] = {}
    for n in names:
        groups.setdefault(t.conditions[n]["scaffold"]["placement"], []).append(n)
    if len(groups) < 2:
        return []
    found = finish([_mean_effect(t, group, [t.baseline], f"mean of {p}") for p, group in groups.items()], margin=MARGIN)
    return [
        {"placement": p, "shapes": group, "effect": e.effect()}
        for (p, group), e in zip(groups.items(), found, strict=True)
    ]


def _mean_effect(t: Table, names: Sequence[str], against: Sequence[str], label: str) -> Estimate:
    """Mean score over some conditions minus the mean over others, by item."""
    columns = [t.score(n) for n in (*names, *against)]
    weights = [1 / len(names)] * len(names) + [-1 / len(against)] * len(against)
    return contrast(weights, np.stack(columns, axis=1), name=label)


# ---------------------------------------------------------------- grids


def factorial(t: Table) -> list[dict[str, Any]]:
    """Every grid of the study as a design: cost of its shapes, level means, main effects and two-way interactions."""
    grids: dict[str, dict[str, Levels]] = {}
    for name in t.role("factorial"):
        grids.setdefault(name.split("/", 1)[0], {})[name] = tuple(t.conditions[name]["factors"].values())
    return [_design(t, grid, cells) for grid, cells in grids.items()]


def _design(t: Table, grid: str, cells: Mapping[str, Levels]) -> dict[str, Any]:
    factors = _factors(t, cells)
    scores = {levels: dict(zip(t.items, t.score(name).tolist(), strict=True)) for name, levels in cells.items()}
    owed = missing_cells(factors, scores)
    return {
        "grid": grid,
        "n": len(t.items),
        "factors": {f: list(levels) for f, levels in factors.items()},
        "cells": [
            {"levels": dict(zip(factors, levels, strict=True)), "accuracy": float(t.score(name).mean())}
            for name, levels in cells.items()
        ],
        "missing": ["/".join(levels) for levels in owed],
        "cost": _costs(t, cells),
        "levels": [] if owed else list(_level_means(t, factors, cells)),
        "effects": [] if owed else _effects(t, factors, cells, scores),
    }


def _factors(t: Table, cells: Mapping[str, Levels]) -> dict[str, Levels]:
    """The factors that vary, each with its levels in order of appearance; the first one is the reference."""
    names = list(t.conditions[next(iter(cells))]["factors"])
    return {f: tuple(dict.fromkeys(levels[i] for levels in cells.values())) for i, f in enumerate(names)}


def _costs(t: Table, cells: Mapping[str, Levels]) -> list[dict[str, Any]]:
    """Mean of the grid's cells minus the bare question decoded as they are, one for each way of decoding."""
    known = {_pace(t, n): n for n in reversed(bare(t))}
    groups: dict[str, list[str]] = {}
    for name in cells:
        groups.setdefault(known.get(_pace(t, name), t.baseline), []).append(name)
    found = [_mean_effect(t, names, [b], f"mean of {len(names)} shapes vs {b}") for b, names in groups.items()]
    return [e.effect() for e in finish(found, margin=MARGIN)]


def _pace(t: Table, name: str) -> str:
    return repr(sorted(t.conditions[name]["decode"].items()))


def _level_means(t: Table, factors: Factors, cells: Mapping[str, Levels]) -> Iterator[dict[str, Any]]:
    for at, (factor, levels) in enumerate(factors.items()):
        for level in levels:
            here = np.mean([t.score(n) for n, chosen in cells.items() if chosen[at] == level], axis=0)
            low, high = interval(here)
            yield {"factor": factor, "level": level, "accuracy": float(here.mean()), "low": low, "high": high}


def _effects(
    t: Table, factors: Factors, cells: Mapping[str, Levels], scores: Mapping[Levels, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Main effects and two-way interactions, Holm over them; with a pace factor only its interactions are asked for."""
    if len(factors) == 1:
        ((factor, levels),) = factors.items()
        column = {chosen[0]: t.score(n) for n, chosen in cells.items()}
        plain = [paired(column[v], column[levels[0]], name=f"{factor}={v}") for v in levels[1:]]
        return [
            {"factors": [factor], "levels": [v], "effect": e.effect()}
            for e, v in zip(finish(plain, margin=MARGIN), levels[1:], strict=True)
        ]
    asked = [e for e in _attributed(factors, scores).effects if _is_asked(e.factors, PACE in factors)]
    done = finish([e.estimate for e in asked], margin=MARGIN)
    return [
        {"factors": list(a.factors), "levels": list(a.levels), "effect": e.effect()}
        for a, e in zip(asked, done, strict=True)
    ]


def _attributed(factors: Factors, scores: Mapping[Levels, Mapping[str, float]]) -> Attribution:
    return attribute(factors, scores, margin=MARGIN)


def _is_asked(of: Sequence[str], paced: bool) -> bool:
    return len(of) == 1 or (len(of) == 2 and (not paced or PACE in of))
