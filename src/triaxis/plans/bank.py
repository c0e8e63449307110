"""The plan bank: every plan is made once per (item, source, seed), stored, and shared by every arm that shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from triaxis.models.writer import Writer, Written
from triaxis.plans import read
from triaxis.plans.sources import MAKER, Maker, parse
from triaxis.store import PlanRow, Store, identity
from triaxis.tasks.base import Item, Task
from triaxis.tasks.grading import canonical

COSTS = ("forwards", "forward_tokens", "requests")  # of `Written`
PART = 64  # plans made between two appends; a planner's own batch


def plan_id(maker: Maker, source: str, item: Item) -> str:
    """The id of one plan: a hash of everything that can change it."""
    return identity({"item": item.id, "source": maker.identity(source), "seed": maker.seed})


def planner_plan_id(task: Task, planner: str, planner_identity: str, seed: int, item: str) -> str:
    """`plan_id` of a planner's own plan, "true:NAME", for whoever knows its identity but has not loaded it."""
    source = f"true:{planner}"
    known = "|".join([MAKER, source, task.name, task.revision, planner_identity])
    return identity({"item": item, "source": known, "seed": seed})


def fill(
    store: Store, maker: Maker, sources: Sequence[str], held: dict[str, PlanRow] | None = None
) -> dict[tuple[str, str], PlanRow]:
    """Make what is missing and return all plans of the sources by (source, item id).

    Plans are appended part by part, so that an interruption costs one part and never a plan that was paid for. held:
    the store's plans by id, for whoever calls this often; those made are added to it.
    """
    present = store.plans() if held is None else held
    bank: dict[tuple[str, str], PlanRow] = {}
    for source in sources:
        ids = {item.id: plan_id(maker, source, item) for item in maker.items}
        missing = [item for item in maker.items if ids[item.id] not in present]
        if missing and (made := _paid(store, maker, source, missing, ids)):
            present |= made
            missing = []
        for start in range(0, len(missing), PART):
            part = missing[start : start + PART]
            plans = maker.make(source, part)
            rows = [
                PlanRow(
                    ids[i.id], i.id, source, maker.seed, p.text, p.tokens, p.truncated,
                    detail(p.text, i, p.implied, p.unchanged),
                )
                for i, p in zip(part, plans, strict=True)
            ]  # fmt: skip
            store.append(rows)
            present |= {r.id: r for r in rows}
        for item in maker.items:
            row = bank[source, item.id] = present[ids[item.id]]
            maker.keep(source, item, Written(row.text, row.tokens, row.truncated))
    return bank


def _paid(
    store: Store, maker: Maker, source: str, missing: Sequence[Item], ids: Mapping[str, str]
) -> dict[str, PlanRow]:
    """The plans that a model writes itself, each appended as it comes; none for any other source."""
    kind, origin = parse(source)
    planner = maker.planner(origin) if kind.name == "true" and origin != "gold" else None
    if not isinstance(planner, Writer):
        return {}
    found: dict[str, PlanRow] = {}

    def append(places: list[int], plans: list[Written]) -> None:
        rows = [
            PlanRow(ids[i.id], i.id, source, maker.seed, w.text, w.tokens, w.truncated, detail(w.text, i, cost=w))
            for i, w in zip((missing[k] for k in places), plans, strict=True)
        ]
        store.append(rows)
        found.update((r.id, r) for r in rows)

    planner.write([i.question for i in missing], done=append)
    return found


def detail(
    text: str, item: Item, implied: str | None = None, unchanged: bool = False, cost: Written | None = None
) -> str:
    """What the estimates need to know of a plan, so that they need neither tasks nor parsers, as JSON.

    implied: the answer it implies, as given or else read; None where none can be read. steps_right: whether its
    calculations are the gold ones; None where no gold steps are known, or the gold plan itself cannot be read in full.
    leaks: it states the right answer, in digits or in words. gold: the right answer. unchanged: true, and only there,
    for an edit that could not change its plan. cost: what a model spent on it. Answers are spelled as grades spell
    them, so that they can be compared as text.
    """
    implied = implied or read.implied_answer(text)
    return json.dumps(
        {
            "implied": None if implied is None else canonical(implied),
            "steps_right": steps_right(text, item),
            "leaks": read.leaks(text, item.answer),
            "gold": canonical(item.answer),
            **({"unchanged": True} if unchanged else {}),
            **({} if cost is None else {"cost": {k: getattr(cost, k) for k in COSTS}}),
        }
    )


def steps_right(text: str, item: Item) -> bool | None:
    """Whether the plan's calculations are the item's; None where even the gold plan cannot be read as them."""
    gold = read.gold_plan(item)
    return None if gold and not read.follows(gold, item.steps) else read.follows(text, item.steps)
