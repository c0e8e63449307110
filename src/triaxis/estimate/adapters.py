"""Arms with an adapter against the same arms without: accuracy, what scaffolds cost before and after, the branches.

A pair is two conditions of one study whose cards agree in everything that reaches the executor but the adapter
schedule. Whether a repair generalises beyond one study and one training seed is `triaxis train`'s question.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from triaxis.estimate.arms import MARGIN, Table
from triaxis.estimate.branches import changed
from triaxis.estimate.brittleness import bare
from triaxis.estimate.paired import Estimate, contrast, finish, paired

_NAMES_ONLY = ("name", "adapter", "role", "against", "kind", "factors", "completions", "watch", "planner")


class Pair(NamedTuple):
    """Two arms that differ in the adapter schedule alone."""

    after: str
    before: str
    adapter: str


def pairs(t: Table) -> list[Pair]:
    """Every arm with an adapter beside the same arm without one, in the order of the study."""
    plain = {_shown(t, n): n for n, c in t.conditions.items() if not c.get("adapter")}
    with_one = [(n, str(c["adapter"])) for n, c in t.conditions.items() if c.get("adapter")]
    return [Pair(n, plain[_shown(t, n)], adapter) for n, adapter in with_one if _shown(t, n) in plain]


def _shown(t: Table, name: str) -> str:
    """What reaches the executor: the card without names and without the adapter, the scaffold without its name."""
    card = {k: v for k, v in t.conditions[name].items() if k not in _NAMES_ONLY}
    return json.dumps(
        {**card, "scaffold": {k: v for k, v in card["scaffold"].items() if k != "name"}}, sort_keys=True, default=str
    )


def adapters(t: Table) -> dict[str, Any] | None:
    """What adapters changed; None where no arm was run with and without one.

    "effects": outcome of each arm with the adapter minus without, Holm over all of them. "costs": each scaffold minus
    the bare question without the adapter, with it, and the change of that cost, Holm over the changes. "changes": what
    happened to the branches that a vote uses.
    """
    found = pairs(t)
    if not found:
        return None
    family = [paired(t.outcome(p.after), t.outcome(p.before), name=f"{p.after} minus {p.before}") for p in found]
    effects = [
        {
            "condition": p.after, "against": p.before, "adapter": p.adapter,
            "now": float(t.outcome(p.after).mean()), "was": float(t.outcome(p.before).mean()), "effect": e.effect(),
        }
        for p, e in zip(found, finish(family, margin=MARGIN), strict=True)
    ]  # fmt: skip
    votes = [p for p in found if t.branches(p.after) == t.branches(p.before) > 1]
    changes = {p.after: changed(t, p.before, p.after) for p in votes}
    return {"effects": effects, "costs": _costs(t, found), "changes": changes}


def _costs(t: Table, found: list[Pair]) -> list[dict[str, Any]]:
    """Scaffolds and plans against the bare question under the same adapter, before and after."""
    question = {p.adapter: p for p in found if p.before == t.baseline}
    held = [
        (p, question[p.adapter])
        for p in found
        if p.adapter in question and p.before not in bare(t) and t.branches(p.before) == 1
    ]
    if not held:
        return []
    before = finish([paired(t.score(p.before), t.score(t.baseline), name=p.before) for p, _ in held], margin=MARGIN)
    after = finish([paired(t.score(p.after), t.score(q.after), name=p.after) for p, q in held], margin=MARGIN)
    change = finish([_change(t, p, q) for p, q in held], margin=MARGIN)
    return [
        {"condition": p.after, "adapter": p.adapter, "before": b.effect(), "after": a.effect(), "change": c.effect()}
        for (p, _), b, a, c in zip(held, before, after, change, strict=True)
    ]


def _change(t: Table, p: Pair, q: Pair) -> Estimate:
    """(arm minus bare question) with the adapter minus the same without, by item."""
    columns = [t.score(n) for n in (p.after, q.after, p.before, q.before)]
    return contrast([1, -1, -1, 1], np.stack(columns, axis=1), name=f"cost of {p.before}, after minus before")
