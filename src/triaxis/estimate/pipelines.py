"""Whole pipelines: hybrid chains against what they are to beat, and AR models alone at matched cost.

A condition with branches counts by its vote. Costs are tokens that forward passes read, stages included; models of
different size read a token at different cost, which is not weighed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from triaxis.estimate.arms import MARGIN, Floats, Table
from triaxis.estimate.brittleness import bare
from triaxis.estimate.paired import Estimate, finish, paired
from triaxis.estimate.pareto import Arm, front


def pipelines(t: Table) -> dict[str, Any] | None:
    """Every pipeline against the condition its card names, and the executor's arms against AR models at matched
    branches and at matched tokens. Holm over all of them. None where no pipeline was run."""
    names = t.role("pipeline")
    if not names:
        return None
    plain = [(n, str(t.conditions[n]["against"])) for n in names]
    first = [paired(t.outcome(a), t.outcome(b), name=f"{a} vs {b}") for a, b in plain]
    matched = [*_at_branches(t), *_at_tokens(t)]
    done = finish([*first, *(e for e, _ in matched)], margin=MARGIN)
    alone, held = done[: len(plain)], done[len(plain) :]
    return {
        "effects": [
            {"condition": a, "against": b, "effect": e.effect()} for e, (a, b) in zip(alone, plain, strict=True)
        ],
        "matched": [{**about, "effect": e.effect()} for e, (_, about) in zip(held, matched, strict=True)],
        "pareto": None if t.role("diversity") else pareto(t),  # axis 3 holds it where there are branches
    }


def _alone(t: Table) -> list[str]:
    """AR models that answer by themselves: they complete the question without any plan or draft."""
    return [n for n in t.role("pipeline") if t.conditions[n]["writer"] and not t.conditions[n]["plan"]]


Matched = tuple[Estimate, dict[str, Any]]


def _at_branches(t: Table) -> Iterator[Matched]:
    """The executor against an AR model that answers alone, at as many branches."""
    for ar in _alone(t):
        for arm in (t.baseline, *t.role("diversity")):
            if not t.conditions[arm]["writer"] and t.branches(arm) == t.branches(ar):
                e = paired(t.outcome(arm), t.outcome(ar), name=f"{arm} vs {ar}")
                yield e, _about(t, arm, ar, "branches", t.branches(ar))


def _at_tokens(t: Table) -> Iterator[Matched]:
    """Every arm that uses the executor against AR self-consistency with as many branches as the arm's tokens pay for.

    A chain is held against the AR model in it. Only where at least one AR branch can be paid and there are enough.
    """
    arms = [n for n in (t.baseline, *t.role("diversity"), *t.role("pipeline")) if n not in _alone(t)]
    writer = {n: t.conditions[n]["writer"] for n in t.conditions}
    for ar in (n for n in _alone(t) if t.branches(n) > 1):
        each = float(t.tokens(ar).mean()) / t.branches(ar)
        for arm in (a for a in arms if writer[a] in ("", writer[ar])):
            k = int(float(t.tokens(arm).mean()) // each) if each else 0
            if 1 <= k <= t.branches(ar):
                e = paired(t.outcome(arm), _majority(t, ar, k), name=f"{arm} vs {ar}, {k} branches")
                yield e, _about(t, arm, ar, "tokens", k)


def _about(t: Table, arm: str, ar: str, by: str, k: int) -> dict[str, Any]:
    spent = float(t.tokens(ar).mean()) * k / t.branches(ar)
    return {
        "condition": arm, "against": ar, "matched": by, "branches": k, "tokens": float(t.tokens(arm).mean()),
        "tokens_against": spent,
    }  # fmt: skip


def _majority(t: Table, name: str, k: int) -> Floats:
    """(items,): expected vote of k of the branches, over all choices of k and over seeds."""
    curves = [d.maj_at_k.score[:, k - 1] for d in t.summaries(name)]
    return np.asarray(np.clip(np.mean(curves, axis=0), 0.0, 1.0), dtype=float)


def base_vote(t: Table) -> str:
    """The branches of the bare question, the first ones where none are; "" without branches."""
    names = t.role("diversity")
    return next((n for n in names if t.conditions[n]["against"] == t.baseline), next(iter(names), ""))


def pareto(t: Table) -> list[dict[str, Any]] | None:
    """Accuracy against tokens of single passes, votes of K (of the bare question's, also of fewer) and pipelines.

    Cheapest first. An arm whose cost is not known (an endpoint that counts none) is left out; None under two arms.
    """
    plain = [*bare(t), *t.role("diversity"), *t.role("pipeline")]
    arms = {n: Arm(t.outcome(n), cost) for n in plain if (cost := t.tokens(n)).all()}
    base = base_vote(t)
    if base in arms:
        arms |= {f"{base}, {k} of {t.branches(base)}": _fewer(t, base, k) for k in range(1, t.branches(base), 2)}
    if len(arms) < 2:
        return None
    return [
        {
            "name": p.name, "accuracy": p.accuracy.value, "low": p.accuracy.low, "high": p.accuracy.high,
            "tokens": p.cost.value, "tokens_low": p.cost.low, "tokens_high": p.cost.high,
            "dominated_by": list(p.dominated_by), "certain": p.certain,
        }
        for p in front(arms)
    ]  # fmt: skip


def _fewer(t: Table, name: str, k: int) -> Arm:
    return Arm(_majority(t, name, k), t.tokens(name) * k / t.branches(name))
