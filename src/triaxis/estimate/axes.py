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
from collections.abc import Iterator, Mapping, Sequence
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

    @property
    def baseline(self) -> str:
        """The bare question's condition."""
        return next(n for n, c in self.conditions.items() if c["role"] == "baseline")

    def right(self, name: str) -> npt.NDArray[np.bool_]:
        """(items, branches) bool: whether each completion is right; unreadable counts as wrong."""
        return np.array([[self.grades[r.id].verdict == "right" for r in rows] for rows in self.rows[name]])

    def score(self, name: str) -> Floats:
        """(items,): the share of an item's completions that are right, 0 or 1 where there is one."""
        return np.asarray(self.right(name).mean(1), dtype=float)

    def answers(self, name: str) -> list[list[str]]:
        """Canonical answers by item and branch, "" where unreadable."""
        return [[self.grades[r.id].answer for r in rows] for rows in self.rows[name]]


def arrange(
    rows: Sequence[Row],
    grades: Mapping[str, GradeRow],
    plans: Mapping[str, PlanRow],
    cards: Sequence[Mapping[str, Any]],
    n: int,
) -> Table:
    """Pair the rows of `n` items. UndefinedEstimate where rows or grades are missing: run the study to its end.

    cards: the conditions, each with the number of "completions" an item has in it, over seeds and branches.
    """
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda r: (r.seed, r.branch)):
        found[row.condition][row.item].append(row)
    items = sorted({row.item for row in rows})
    for card in cards:
        per_item = found[card["name"]]
        whole = sum(len(per_item.get(item, ())) == card["completions"] for item in items)
        if whole != n or len(items) != n:
            raise UndefinedEstimate(
                f"condition {card['name']!r} has all its rows for {whole} of {n} items; run the study to its end first"
            )
    table = {str(c["name"]): [found[c["name"]][item] for item in items] for c in cards}
    graded = [row.id in grades for per_item in table.values() for group in per_item for row in group]
    if not all(graded):
        raise UndefinedEstimate(f"{graded.count(False)} of {len(graded)} rows are not graded; run triaxis grade first")
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
    effects = finish([_difference(t, n, t.baseline, n) for n in names], margin=MARGIN)
    worst = min(effects, key=lambda e: e.value)
    return {
        "effects": [e.effect() for e in effects],
        "spread": spread(t, [t.baseline, *names]).effect(),
        "worst": worst.name,
    }


def spread(t: Table, names: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Best minus worst accuracy over the shapes, with a percentile interval by item and Cochran's Q as its test.

    The maximum of noisy means is biased upward at small N, so the value may not be read as what the worst
    shape costs; each shape's own effect says that. gain and loss are those of the best against the worst.
    """
    scores = np.stack([t.score(n) for n in names], axis=1)  # (items, shapes)
    means = scores.mean(0)
    best, worst = int(means.argmax()), int(means.argmin())
    draws = np.random.default_rng(seed).integers(0, len(scores), (resamples, len(scores)))
    spreads = np.array([np.ptp(scores[d].mean(0)) for d in draws])
    low, high = np.quantile(spreads, [0.025, 0.975])
    try:
        p: float | None = cochran_q(scores).p
    except UndefinedEstimate:
        p = None  # no item differs between any two shapes, or scores are shares of several completions
    pair = paired(scores[:, best], scores[:, worst])
    verdict = "drop" if p is not None and p < 0.05 else "not resolved at this N"
    return replace(
        pair, name="spread", value=float(np.ptp(means)), low=float(low), high=float(high), p=p, p_holm=p, p_midp=None,
        verdict=verdict, method="best minus worst, percentile bootstrap by item, Cochran's Q",
    )  # fmt: skip


def _rates(t: Table, name: str) -> dict[str, float | None]:
    """How often the answer is the one the plan implies: over all plans, and over plans that imply a wrong one."""
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
        raw[planner, "scaffold"] = _difference(t, twin, t.baseline, f"scaffold[{planner}]")
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


def main_contrasts(t: Table) -> list[tuple[int, int]]:
    """(gain, loss) of every shape against the bare question and every true plan against its twin."""
    pairs = [(n, t.baseline) for n in _role(t, "brittleness")]
    pairs += [(n, c["against"]) for n, c in t.conditions.items() if c["role"] == "trust" and c["kind"] == "true"]
    found = [t.score(a) - t.score(b) for a, b in pairs]
    return [(int((d > 0).sum()), int((d < 0).sum())) for d in found]


def diversity_axis(t: Table) -> dict[str, Any] | None:
    """Axis 3 of the bare question's branches, with the scaffolded branches beside it under "scaffolded"."""
    names = _role(t, "diversity")
    if not names:
        return None
    base = _base_vote(t)
    vote = {n: _vote_score(t, n) for n in names}
    family = [paired(vote[base], t.score(base), name="vote minus one branch")]
    others = [n for n in names if n != base]
    family += [paired(vote[n], vote[base], name=f"vote of {n} minus vote of {base}") for n in others]
    if t.right(t.baseline).shape[1] == 1:
        family.append(paired(vote[base], t.score(t.baseline), name="vote minus greedy"))
    effects = [e.effect() for e in finish(family, margin=MARGIN)]
    scaffolded = {n: _branches(t, n) for n in others}
    return {**_branches(t, base), "useful": effects[0], "effects": effects[1:], "scaffolded": scaffolded}


def _base_vote(t: Table) -> str:
    names = _role(t, "diversity")
    return next((n for n in names if t.conditions[n]["against"] == t.baseline), names[0])


def _votes(t: Table, name: str) -> list[diversity.Vote]:
    """One vote a seed, over the condition's branches; ties are split uniformly."""
    answers, right, size = t.answers(name), t.right(name), int(t.conditions[name]["branches"])
    starts = range(0, right.shape[1], size)
    return [diversity.vote([row[k : k + size] for row in answers], right[:, k : k + size]) for k in starts]


def _vote_score(t: Table, name: str) -> Floats:
    return np.asarray(np.mean([v.score for v in _votes(t, name)], axis=0), dtype=float)


def _branches(t: Table, name: str) -> dict[str, Any]:
    """Vote, oracle, spread of answers and pass@k of one condition, means over items and seeds; tie bounds beside it."""
    answers, right, size = t.answers(name), t.right(name), int(t.conditions[name]["branches"])
    votes = _votes(t, name)
    curve = diversity.pass_curve(right)[:, :size]
    by_seed = [([row[k : k + size] for row in answers], right[:, k : k + size]) for k in range(0, right.shape[1], size)]
    return {
        "branches": size,
        "tie_rule": "uniform",
        "ties": sum(int(np.sum(v.tie)) for v in votes),
        "per_branch": float(right.mean()),
        "vote": float(np.mean([v.score for v in votes])),
        "vote_low_tie": float(np.mean([v.low_tie for v in votes])),
        "vote_high_tie": float(np.mean([v.high_tie for v in votes])),
        "oracle": float(np.mean([r.any(1) for _, r in by_seed])),
        "unique": float(np.mean([diversity.unique_count(a, r).total for a, r in by_seed])),
        "entropy": float(np.mean([diversity.entropy(a) for a, _ in by_seed])) if size > 1 else None,
        "pass_at_k": [float(x) for x in curve.mean(0)],
        "pass_at_k_interval": [_interval(curve[:, k]) for k in range(size)],
        "vote_interval": _interval(_vote_score(t, name)),
    }


def _interval(x: Floats) -> list[float]:
    e = cluster_mean(x, bounds=(0.0, 1.0))
    return [float(e.low), float(e.high)]


def axes(t: Table, parameters: Mapping[str, int]) -> dict[str, Any]:
    """The contract's "axes" object; an axis whose conditions were not run is null."""
    return {"brittleness": brittleness(t), "trust": trust(t, parameters), "diversity": diversity_axis(t)}


def warnings(t: Table, lines: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> list[str]:
    """What a reader must know before reading the numbers; each line is computed from the rows."""
    return [*_failures(lines), *_ties(t, found["diversity"]), *_graders(t), *_low_power(found)]


def _failures(lines: Sequence[Mapping[str, Any]], least: float = 0.02) -> Iterator[str]:
    for line in lines:
        for rate, what in (("truncated", "hit the end of the canvas"), ("unreadable", "had no readable answer")):
            if line[rate] >= least:
                share = f"{line['name']}: {line[rate]:.1%} of the completions {what}"
                yield f"{share}; read its accuracy with that in mind"


def _ties(t: Table, axis: Mapping[str, Any] | None) -> Iterator[str]:
    if axis and axis["ties"]:
        votes = len(t.items) * len(_votes(t, _base_vote(t)))
        points = 100 * (axis["vote_high_tie"] - axis["vote_low_tie"])
        yield f"vote: {axis['ties']} of {votes} votes are tied; how ties are broken moves it by {points:.1f} points"


def _graders(t: Table) -> Iterator[str]:
    grades = [t.grades[row.id] for per_item in t.rows.values() for rows in per_item for row in rows]
    asked = [g for g in grades if g.second >= 0]
    disagree = sum((g.verdict == "right") != bool(g.second) for g in asked)
    if disagree:
        yield f"the second grader (math-verify) disagrees on {disagree} of {len(asked)} completions"
    fallback = sum(g.how == "fallback" for g in grades)
    if fallback:
        yield f"{fallback} answers were read by the fallback rule (last number), not from a mark"


def _low_power(found: Mapping[str, Any]) -> Iterator[str]:
    """One line an axis on its main effects; the spread, the corruptions and the slope are not counted."""
    shapes = (found["brittleness"] or {"effects": []})["effects"]
    contents = [p["content"] for p in (found["trust"] or {"planners": []})["planners"]]
    votes = [found["diversity"]["useful"]] if found["diversity"] else []
    for number, effects in enumerate((shapes, contents, votes), 1):
        open_ = [e for e in effects if e["verdict"] == "not resolved at this N"]
        if not open_:
            continue
        seen = [100 * e["mde80"] for e in open_ if e["mde80"] is not None]
        could = f"effects from {min(seen):.0f} to {max(seen):.0f} points" if seen else "no effect of any size"
        if seen and f"{min(seen):.0f}" == f"{max(seen):.0f}":
            could = f"an effect of {max(seen):.0f} points"
        many = f"{len(open_)} of {len(effects)} main effects of axis {number} are"
        yield f"low power: {many} not resolved at n={open_[0]['n']}; with 80 % power the design sees {could}"
