"""Axis 3: what sampled branches give a vote, and what a scaffold does to that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from triaxis.estimate import decompose, diversity, trajectory
from triaxis.estimate.arms import MARGIN, Floats, Table, interval
from triaxis.estimate.paired import UndefinedEstimate, cluster_mean, finish, paired
from triaxis.estimate.pipelines import base_vote, pareto
from triaxis.estimate.votes import Ballots
from triaxis.limits import parse_json

ORDER_ITEMS = 1000  # items whose decoding orders are compared: pairs of pairs of places take the time of all the rest
MEASURES = ("disagreement", "all_equal", "unique_right", "unique_wrong", "unreadable", "duplicates", "margin")


def diversity_axis(t: Table) -> dict[str, Any] | None:
    """Axis 3 of the bare question's branches, with the other branches beside it under "scaffolded"."""
    names = t.role("diversity")
    if not names:
        return None
    base = base_vote(t)
    vote = {n: t.outcome(n) for n in names}
    family = [paired(vote[base], t.score(base), name="vote minus one branch")]
    others = [n for n in names if n != base]
    family += [paired(vote[n], vote[base], name=f"vote of {n} minus vote of {base}") for n in others]
    greedy = "greedy" if t.right(t.baseline).shape[1] == 1 else t.baseline
    family.append(paired(vote[base], t.score(t.baseline), name=f"vote minus {greedy}"))
    effects = [e.effect() for e in finish(family, margin=MARGIN)]
    scaffolded = {n: branches(t, n) for n in others}
    changes = {n: changed(t, base, n) for n in others if t.branches(n) == t.branches(base) > 1}
    return {
        **branches(t, base), "useful": effects[0], "effects": effects[1:], "scaffolded": scaffolded, "changes": changes,
        "pareto": pareto(t),
    }  # fmt: skip


def changed(t: Table, before: str, after: str) -> dict[str, Any]:
    """What happened to the branches between two conditions, after minus before, split into right and wrong answers.

    Of the first seed's branches. Distinct answers are counts, entropy is in nats, the rest are shares.
    """
    old, new = _ballots(t, before), _ballots(t, after)
    found = decompose.change(old, new, margin=MARGIN)
    splits = {m: decompose.split(old, new, m, margin=MARGIN) for m in decompose.SPLITS if m != "unique"}
    return {
        "against": before,
        "verdict": found.verdict,
        "reason": found.reason,
        "per_branch": found.per_branch.effect(),
        "vote": found.vote.effect(),
        "splits": {
            s.measure: {"total": s.total.effect(), "right": s.right.effect(), "wrong": s.wrong.effect()}
            for s in (found.unique, *splits.values())
        },
    }


def _ballots(t: Table, name: str) -> Ballots:
    first = t.by_seed(name)[0]
    return Ballots([row[first] for row in t.answers(name)], t.right(name)[:, first])


def branches(t: Table, name: str) -> dict[str, Any]:
    """Vote, oracle, spread of answers, pass@k and maj@k of one condition: means over items and seeds, intervals."""
    seeds = t.summaries(name)
    size = seeds[0].branches
    curve = diversity.pass_curve(t.right(name))[:, :size]  # over all seeds' branches: they are draws of one kind
    majority = np.clip(np.mean([d.maj_at_k.score for d in seeds], axis=0), 0.0, 1.0)
    vote = np.asarray(np.mean([d.vote.score for d in seeds], axis=0), dtype=float)
    return {
        "condition": name,
        "branches": size,
        "tie_rule": "uniform",
        "ties": sum(int(np.sum(d.vote.tie)) for d in seeds),
        "per_branch": float(t.right(name).mean()),
        "vote": float(vote.mean()),
        "vote_low_tie": float(np.mean([d.vote.low_tie for d in seeds])),
        "vote_high_tie": float(np.mean([d.vote.high_tie for d in seeds])),
        "oracle": float(np.mean([d.oracle for d in seeds])),
        "unique": float(np.mean([d.unique.total for d in seeds])),
        "entropy": _mean([d.entropy for d in seeds]),
        "pass_at_k": [float(x) for x in curve.mean(0)],
        "pass_at_k_interval": [interval(curve[:, k]) for k in range(size)],
        "maj_at_k": [float(x) for x in majority.mean(0)],
        "maj_at_k_interval": [interval(majority[:, k]) for k in range(size)],
        "vote_interval": interval(vote),
        "measures": _measures(seeds),
        "order": _orders(t, name),
        "calibration": _calibration(t, name),
    }


def _mean(values: list[Any]) -> float | None:
    return None if values[0] is None else float(np.mean(values))


def _measures(seeds: list[diversity.Diversity]) -> dict[str, dict[str, float]]:
    """Measures with their intervals by item; those that a single branch does not have are left out."""
    found = {}
    for name in MEASURES:
        metric = diversity.METRICS[name]
        values = [v for d in seeds if (v := metric.of(d)) is not None]
        if values:
            e = cluster_mean(np.stack(values, axis=1), bounds=(0.0, metric.most(seeds[0].branches)))
            found[name] = {"value": e.value, "low": e.low, "high": e.high}
    return found


def _calibration(t: Table, name: str) -> dict[str, Any] | None:
    """Is the vote right as often as the winner's share of the branches says? Of the first seed's votes."""
    if t.branches(name) < 2:
        return None
    b = _ballots(t, name)
    found = diversity.margin_calibration(b.answers, b.right)
    return {
        "ece": found.ece.value, "low": found.ece.low, "high": found.ece.high, "chance": found.chance,
        "levels": [level._asdict() for level in found.levels],
    }  # fmt: skip


# ---------------------------------------------------------------- decoding order


def _orders(t: Table, name: str) -> dict[str, Any] | None:
    """Kendall's tau between the decoding orders of an item's branches, and of each order against left to right.

    Over the items, of the first thousand, where it is defined; None where no orders are stored. Blocks are decoded in
    order by construction, which agrees by itself.
    """
    steps = [[_commits(r.trace) for r in rows[: t.branches(name)]] for rows in t.completions(name, ORDER_ITEMS)]
    width = max((len(s) for row in steps for s in row), default=0)
    if not width:
        return None
    table = np.array([[s + [-1] * (width - len(s)) for s in row] for row in steps])
    found: dict[str, Any] = {}
    for key, of in (("tau", trajectory.order_agreement), ("left_to_right", trajectory.autoregressiveness)):
        known = [x for row in table if (x := _tau(of, row)) is not None]
        if len(known) < 2:
            found[key] = None
            continue
        e = cluster_mean((np.array(known) + 1) / 2, bounds=(0.0, 1.0))  # tau is in [-1, 1]
        found[key] = {"value": 2 * e.value - 1, "low": 2 * e.low - 1, "high": 2 * e.high - 1, "n": len(known)}
    return found if any(found.values()) else None


def _tau(of: Any, row: Floats) -> float | None:
    try:
        return float(np.clip(of(row[None])[0], -1, 1))
    except UndefinedEstimate:
        return None  # one branch, one token, or all tokens at one step


def _commits(trace: str) -> list[int]:
    try:
        found: Mapping[str, Any] = parse_json(trace) if trace else {}
    except ValueError:
        return []
    order = found.get("order") if isinstance(found, dict) else None
    return [int(x) for x in order] if isinstance(order, list) else []
