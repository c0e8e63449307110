"""The plan bank: every plan is made once per (item, source, seed), stored, and shared by every arm that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from triaxis.models.planner import Written
from triaxis.plans import read
from triaxis.plans.sources import Maker
from triaxis.store import PlanRow, Store, identity
from triaxis.tasks.base import Item
from triaxis.tasks.grading import canonical


def plan_id(maker: Maker, source: str, item: Item) -> str:
    """The id of one plan: a hash of everything that can change it."""
    return identity({"item": item.id, "source": maker.identity(source), "seed": maker.seed})


def fill(store: Store, maker: Maker, sources: Sequence[str]) -> dict[tuple[str, str], PlanRow]:
    """Make what is missing and return all plans of the sources by (source, item id)."""
    present = store.plans()
    bank: dict[tuple[str, str], PlanRow] = {}
    for source in sources:
        ids = {item.id: plan_id(maker, source, item) for item in maker.items}
        missing = [item for item in maker.items if ids[item.id] not in present]
        if missing:
            made = maker.make(source, missing)
            rows = [
                PlanRow(ids[i.id], i.id, source, maker.seed, w.text, w.tokens, w.truncated, detail(w.text, i))
                for i, w in zip(missing, made, strict=True)
            ]
            store.append(rows)
            present |= {r.id: r for r in rows}
        for item in maker.items:
            row = bank[source, item.id] = present[ids[item.id]]
            maker.keep(source, item, Written(row.text, row.tokens, row.truncated))
    return bank


def detail(text: str, item: Item) -> str:
    """What the estimates need to know of a plan, so that they need neither tasks nor parsers.

    Answers are spelled as grades spell them, so that the estimates can compare them as text.
    """
    implied = read.implied_answer(text)
    return json.dumps(
        {
            "implied": None if implied is None else canonical(implied),
            "steps_right": read.follows(text, item.steps),
            "leaks": read.leaks(text, item.answer),
            "gold": canonical(item.answer),
        }
    )
