"""The three axes from rows: pure functions of scores, no torch, no models.

Axis 1 (brittleness): every content-free shape against the bare question. Axis 2 (trust): a true plan
against its content-free twin of the same template and token length, the twin against the bare question,
and corruptions against the true plan. Axis 3 (diversity): what sampled branches give a vote.
Every effect is paired by item; Holm's correction is applied within an axis (docs/methods.md).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from triaxis.estimate import diversity
from triaxis.estimate.paired import (
    Estimate,
    UndefinedEstimate,
    cluster_mean,
    cochran_q,
    contrast,
    finish,
    paired,
    wilson,
)
from triaxis.store import GradeRow, PlanRow, Row

Floats = npt.NDArray[np.float64]
MARGIN = 0.05  # equivalence margin, in accuracy


@dataclass(frozen=True)
class Table:
    """Rows of one study arranged for pairing. Every condition covers the same items in the same order."""

    items: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, Any]]  # name -> the condition's card
    rows: Mapping[str, Sequence[Sequence[Row]]]  # name -> per item, its branches in order of (seed, branch)
    grades: Mapping[str, GradeRow]
    plans: Mapping[str, PlanRow]

    def right(self, name: str) -> npt.NDArray[np.bool_]:
        """(items, branches) bool: whether each completion is right; unreadable counts as wrong."""
        return np.array([[self.grades[r.id].verdict == "right" for r in rows] for rows in self.rows[name]])

    def score(self, name: str) -> Floats:
        """Scores for pairing: (items,) where there is one branch, else (items, branches)."""
        right = self.right(name).astype(float)
        return right[:, 0] if right.shape[1] == 1 else right

    def answers(self, name: str) -> list[list[str]]:
        """Canonical answers by item and branch, "" where unreadable."""
        return [[self.grades[r.id].answer for r in rows] for rows in self.rows[name]]


def arrange(
    rows: Sequence[Row],
    grades: Mapping[str, GradeRow],
    plans: Mapping[str, PlanRow],
    cards: Sequence[Mapping[str, Any]],
) -> Table:
    """Pair rows by item. UndefinedEstimate where a condition misses items or branches: run the study to its end."""
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda r: (r.seed, r.branch)):
        found[row.condition][row.item].append(row)
    names = [str(c["name"]) for c in cards]
    items = sorted({row.item for row in rows})
    for name in names:
        counts = {len(found[name].get(item, ())) for item in items}
        if len(counts) != 1 or 0 in counts:
            raise UndefinedEstimate(f"condition {name!r} lacks rows for some items; run the study to its end first")
    table = {name: [found[name][item] for item in items] for name in names}
    return Table(tuple(items), {str(c["name"]): c for c in cards}, table, grades, plans)


def condition_rows(t: Table) -> list[dict[str, Any]]:
    """One line a condition: accuracy with interval and failure rates; forwards and tokens are means a completion."""
    lines = []
    for name, per_item in t.rows.items():
        right = t.right(name)
        rows = [r for item in per_item for r in item]
        if right.shape[1] == 1:
            low, high = wilson(int(right.sum()), len(right))
        else:
            e = cluster_mean(right.astype(float), bounds=(0.0, 1.0))
            low, high = e.low, e.high
        lines.append(
            {
                "name": name,
                "n": len(per_item),
                "accuracy": float(right.mean()),
                "low": float(low),
                "high": float(high),
                "unreadable": sum(t.grades[r.id].verdict == "unreadable" for r in rows) / len(rows),
                "truncated": sum(not r.ended for r in rows) / len(rows),
                "forwards": sum(r.forwards for r in rows) / len(rows),
                "tokens": sum(r.tokens for r in rows) / len(rows),
            }
        )
    return lines


def _role(t: Table, role: str) -> list[str]:
    return [n for n, c in t.conditions.items() if c["role"] == role]


def _difference(t: Table, name: str, against: str, label: str = "") -> Estimate:
    return paired(t.score(name), t.score(against), name=label or f"{name} vs {against}")


def brittleness(t: Table) -> dict[str, Any] | None:
    """Axis 1: each shape minus the bare question, their spread, and the worst one."""
    names = _role(t, "brittleness")
    if not names:
        return None
    effects = finish([_difference(t, n, "none", n) for n in names], margin=MARGIN)
    worst = min(effects, key=lambda e: e.value)
    return {
        "effects": [e.effect() for e in effects],
        "spread": spread(t, ["none", *names]).effect(),
        "worst": worst.name,
    }


def spread(t: Table, names: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Best minus worst accuracy over the shapes, with a percentile interval by item and Cochran's Q as its test.

    The maximum of noisy means is biased upward at small N, so the value may not be read as what the worst
    shape costs; each shape's own effect says that. gain and loss are those of the best against the worst.
    """
    scores = np.stack([t.score(n) for n in names], axis=1)
    means = scores.mean(0)
    best, worst = int(means.argmax()), int(means.argmin())
    draws = np.random.default_rng(seed).integers(0, len(scores), (resamples, len(scores)))
    spreads = np.array([np.ptp(scores[d].mean(0)) for d in draws])
    low, high = np.quantile(spreads, [0.025, 0.975])
    try:
        p: float | None = cochran_q(scores).p
    except UndefinedEstimate:
        p = None  # no item differs between any two shapes
    pair = paired(scores[:, best], scores[:, worst])
    verdict = "drop" if p is not None and p < 0.05 else "not resolved at this N"
    return replace(
        pair, name="spread", value=float(np.ptp(means)), low=float(low), high=float(high), p=p, p_holm=p, p_midp=None,
        verdict=verdict, method="best minus worst, percentile bootstrap by item, Cochran's Q",
    )  # fmt: skip


def _rates(t: Table, name: str) -> dict[str, float | None]:
    """How often the executor gives the answer its plan implies: over all plans, and over plans that imply a wrong one."""
    copied: list[bool] = []
    followed: list[bool] = []
    right_steps: list[bool] = []
    for rows in t.rows[name]:
        for row in rows:
            detail = json.loads(t.plans[row.plan].detail)
            if detail["steps_right"] is not None:
                right_steps.append(detail["steps_right"])
            if detail["implied"] is None:
                continue
            same = t.grades[row.id].answer == detail["implied"]
            copied.append(same)
            if detail["implied"] != detail["gold"]:
                followed.append(same)
    return {
        "copy_rate": float(np.mean(copied)) if copied else None,
        "follow_rate": float(np.mean(followed)) if followed else None,
        "plan_quality": float(np.mean(right_steps)) if right_steps else None,
    }


def trust(t: Table, parameters: Mapping[str, int]) -> dict[str, Any] | None:
    """Axis 2: per planner the content effect, the scaffold effect and the corruptions; their slope over planner size.

    parameters: parameter count by planner; a source without one (gold) is left out of the slope.
    """
    shown = {c["planner"]: n for n, c in t.conditions.items() if c["role"] == "trust" and c["kind"] == "true"}
    if not shown:
        return None
    raw: dict[tuple[str, str], Estimate] = {}
    for planner, name in shown.items():
        twin = str(t.conditions[name]["against"])
        raw[planner, "content"] = _difference(t, name, twin, f"content[{planner}]")
        raw[planner, "scaffold"] = _difference(t, twin, "none", f"scaffold[{planner}]")
        for other, card in t.conditions.items():
            if card["role"] == "trust" and card["against"] == name:
                raw[planner, other] = _difference(t, other, name, f"{card['kind']}[{planner}]")
    done = dict(zip(raw, finish(list(raw.values()), margin=MARGIN), strict=True))
    planners = []
    for planner, name in shown.items():
        corruptions = {
            str(t.conditions[k]["kind"]): e.effect() for (p, k), e in done.items() if p == planner and k in t.conditions
        }
        planners.append(
            {
                "planner": planner,
                "parameters": parameters.get(planner),
                "content": done[planner, "content"].effect(),
                "scaffold": done[planner, "scaffold"].effect(),
                "corruptions": corruptions,
                **_rates(t, name),
            }
        )
    return {"planners": planners, "slope": slope(t, {p: n for p, n in shown.items() if parameters.get(p)}, parameters)}


def slope(t: Table, shown: Mapping[str, str], parameters: Mapping[str, int]) -> dict[str, Any] | None:
    """Least-squares slope of the content effect over log10(parameters), per tenfold size; None under two sizes.

    A per-item contrast, so that the pairing carries over: sum of w (true - twin), w = (x - mean x) / Sxx.
    """
    sizes = np.array([math.log10(parameters[p]) for p in shown])
    if len(sizes) < 2 or np.ptp(sizes) == 0:
        return None
    weights = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()
    columns = [t.score(n) for n in shown.values()] + [t.score(str(t.conditions[n]["against"])) for n in shown.values()]
    estimate = contrast(np.concatenate((weights, -weights)), np.stack(columns, axis=1), name="content per tenfold size")
    return finish([estimate], margin=MARGIN)[0].effect()


def diversity_axis(t: Table) -> dict[str, Any] | None:
    """Axis 3 of the bare question's branches, with the scaffolded branches beside it under "scaffolded"."""
    names = _role(t, "diversity")
    if not names:
        return None
    base = next((n for n in names if t.conditions[n]["against"] == "none"), names[0])
    out = _branches(t, base)
    useful = paired(_vote(t, base), t.right(base).mean(1), name="vote minus one branch")
    family = [useful]
    others = [n for n in names if n != base]
    family += [paired(_vote(t, n), _vote(t, base), name=f"vote of {n} minus vote of {base}") for n in others]
    if "none" in t.rows:
        family.append(paired(_vote(t, base), t.score("none"), name="vote minus greedy"))
    effects = [e.effect() for e in finish(family, margin=MARGIN)]
    out["useful"] = effects[0]
    out["effects"] = effects[1:]
    out["scaffolded"] = {n: _branches(t, n) for n in others}
    return out


def _vote(t: Table, name: str) -> Floats:
    return np.asarray(diversity.vote(t.answers(name), t.right(name)).score, dtype=float)


def _branches(t: Table, name: str) -> dict[str, Any]:
    """Vote, oracle, spread of answers and pass@k of one condition; ties are split uniformly, bounds beside it."""
    answers, right = t.answers(name), t.right(name)
    vote = diversity.vote(answers, right)
    curve = diversity.pass_curve(right)
    entropy = diversity.entropy(answers) if right.shape[1] > 1 else None
    return {
        "branches": int(right.shape[1]),
        "tie_rule": "uniform",
        "ties": int(np.sum(vote.tie)),
        "per_branch": float(right.mean()),
        "vote": float(np.mean(vote.score)),
        "vote_low_tie": float(np.mean(vote.low_tie)),
        "vote_high_tie": float(np.mean(vote.high_tie)),
        "oracle": float(right.any(1).mean()),
        "unique": float(np.mean(diversity.unique_count(answers, right).total)),
        "entropy": None if entropy is None else float(np.mean(entropy)),
        "pass_at_k": [float(x) for x in curve.mean(0)],
        "pass_at_k_interval": [_interval(curve[:, k]) for k in range(curve.shape[1])],
        "vote_interval": _interval(np.asarray(vote.score, dtype=float)),
    }


def _interval(x: Floats) -> list[float]:
    e = cluster_mean(x, bounds=(0.0, 1.0))
    return [float(e.low), float(e.high)]


def axes(t: Table, parameters: Mapping[str, int]) -> dict[str, Any]:
    """The contract's "axes" object; an axis whose conditions were not run is null."""
    return {"brittleness": brittleness(t), "trust": trust(t, parameters), "diversity": diversity_axis(t)}


def warnings(t: Table, lines: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> list[str]:
    """What a reader must know before reading the numbers; each line is computed from the rows."""
    out: list[str] = []
    for line in lines:
        for rate, what in (("truncated", "hit the end of the canvas"), ("unreadable", "had no readable answer")):
            if line[rate] >= 0.02:
                out.append(
                    f"{line['name']}: {line[rate]:.1%} of the completions {what}; read its accuracy with that in mind"
                )
    axis = found.get("diversity")
    if axis and axis["ties"]:
        points = 100 * (axis["vote_high_tie"] - axis["vote_low_tie"])
        out.append(
            f"vote: {axis['ties']} of {len(t.items)} items are tied; how ties are broken moves it by {points:.1f} points"
        )
    graded = [g for g in t.grades.values() if g.second >= 0]
    disagree = sum((g.verdict == "right") != bool(g.second) for g in graded)
    if disagree:
        out.append(f"the second grader (math-verify) disagrees on {disagree} of {len(graded)} completions")
    fallback = sum(g.how == "fallback" for g in t.grades.values())
    if fallback:
        out.append(f"{fallback} answers were read by the fallback rule (last number), not from a mark")
    effects = list((found.get("brittleness") or {}).get("effects", []))
    weak = [e["mde80"] for e in effects if e["verdict"] == "not resolved at this N" and e["mde80"]]
    if weak:
        out.append(
            f"low power: {len(weak)} effects of axis 1 are not resolved at n={len(t.items)}; "
            f"the design could see {100 * min(weak):.0f} to {100 * max(weak):.0f} points"
        )
    return out
