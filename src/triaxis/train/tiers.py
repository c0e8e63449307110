"""What the repairs are trained on: tiers of prompts made of any task and its plans, in the evaluation's own template.

A tier is a scaffold with the source of the plan it shows, as in a condition; its rows are the task's training items and
the target is always the item's own worked solution. What is kept out of training (placements, notations, closures,
scaffolds) is listed too, so that "repaired on what it saw" and "generalises" can be tested apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from triaxis.conditions import BARE, Condition, Scaffold
from triaxis.errors import UserError, lookup
from triaxis.plans import bank
from triaxis.plans.sources import Maker, planner_table
from triaxis.store import PlanRow, Store
from triaxis.train.data import Dataset, End, Example, Span, encode

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor
    from triaxis.sampling.schedule import Decode
    from triaxis.tasks.base import Item, Task
    from triaxis.train.recipes import Recipe

PLAN = Scaffold("plan", "Plan: {plan}")
XML = Scaffold("xml", "<plan>{plan}")


@dataclass(frozen=True, slots=True)
class Tier:
    """One kind of training prompt. cut: characters of the plan that are shown, 0 for all of them."""

    name: str
    scaffold: Scaffold
    plan: str = ""
    cut: int = 0

    def render(self, question: str, plan: str) -> Any:
        """What is shown."""
        return self.scaffold.render(question, (plan[: self.cut] if self.cut else plan) if self.plan else None)


NONE = Tier("none", BARE)


def prefix_tiers(planners: Sequence[str]) -> tuple[Tier, ...]:
    """The study's tiers: no scaffold, "Plan: ", hint, XML opener with 80 characters of gold, planners' plans, gold."""
    fixed = (
        NONE,
        Tier("plan-empty", Scaffold("plan-empty", "Plan: ")),
        Tier("hint", Scaffold("hint", "Let's think step by step.")),
        Tier("xml-open", XML, "gold", 80),
        Tier("gold-plan", PLAN, "gold", 200),
    )
    return (*fixed, *(Tier(f"plan[{p}]", PLAN, f"true:{p}") for p in planners))


def trust_tiers(planners: Sequence[str]) -> tuple[Tier, ...]:
    """Plans of one shape and of different truth: right, one number wrong, another problem's worth; and no plan."""
    sources = {"gold-plan": "gold", "wrong-plan": "numbers:gold", "counterfactual": "counterfactual:gold"}
    return (NONE, *(Tier(name, PLAN, source) for name, source in sources.items()))


KINDS: Mapping[str, Callable[[Sequence[str]], tuple[Tier, ...]]] = {
    "prefix": prefix_tiers,
    "trust": trust_tiers,
    "plain": lambda planners: (NONE,),  # the control: as many steps on unscaffolded prompts only
}


def was_seen(condition: Condition, tiers: Sequence[Tier]) -> bool:
    """Whether a condition's scaffold, in its placement and closure and with its kind of plan, was trained on."""

    def shape(scaffold: Scaffold, plan: str) -> tuple[object, ...]:
        kind = "" if not plan else plan if plan.split(":")[0] not in ("gold", "true") else "plan"
        return scaffold.template.strip(), scaffold.placement, scaffold.closed, kind

    return shape(condition.scaffold, condition.plan) in {shape(t.scaffold, t.plan) for t in tiers}


class Material(NamedTuple):
    """Training and held-out rows of one kind of adapter, and what its card says of them."""

    data: Dataset
    held: Dataset
    card: dict[str, Any]


def material(
    executor: Executor, task: Task, kind: str, recipe: Recipe, *, planners: Sequence[str], items: int, decode: Decode,
    store: Path, conditions: Iterable[Condition] = (), seed: int = 0, held: float = 0.1,
) -> Material:  # fmt: skip
    """The rows of `kind` over `items` training items, a share of which is held out whole, in all of its tiers.

    store: a row store that keeps the plans, so that none is made twice. conditions: those of the evaluation; the card
    lists which of them are seen and which held out. UserError for a task without rationales or without a train split.
    """
    tiers = lookup("kind of repair", KINDS, kind)(planners)
    chosen = list(task.items(items, split="train", seed=seed))
    bare = next((i for i in chosen if not i.solution), None)
    if bare is not None:
        raise UserError(
            f"training item {bare.id} of task {task.name!r} has no worked solution to learn from; give items with one"
        )
    plans = _plans(executor, task, chosen, tiers, planners, store, seed)
    apart = max(1, round(held * len(chosen)))
    if len(chosen) - apart < 1:
        raise UserError(f"{items} training items leave none beside the held-out ones; give at least 2")
    span = Span.parse(recipe.span)
    end: End = "one" if recipe.end == "one" else "fill"

    def made(part: Sequence[Item]) -> Dataset:
        rows = _examples(part, tiers, plans)
        return encode(executor, rows, response=decode.gen_length, block=decode.block_length, span=span, end=end)

    seen = [c.name for c in conditions if was_seen(c, tiers)]
    shown = {t.name: [t.scaffold.template, t.scaffold.placement, t.plan] for t in tiers}
    card = {
        "kind": kind,
        "task": {"name": task.name, "revision": task.revision, "split": "train", "items": len(chosen) - apart},
        "tiers": shown,
        "seen": seen,
        "held_out": [c.name for c in conditions if c.name not in seen],
        "protocol": decode.card(),
    }  # fmt: skip
    return Material(made(chosen[apart:]), made(chosen[:apart]), card)


def _plans(
    executor: Executor, task: Task, items: Sequence[Item], tiers: Sequence[Tier], planners: Sequence[str], store: Path,
    seed: int,
) -> dict[tuple[str, str], PlanRow]:  # fmt: skip
    sources = list(dict.fromkeys(t.plan for t in tiers if t.plan))
    if not sources:
        return {}
    maker = Maker(task, items, executor, planner_table(planners, executor), seed)
    with Store(store, write=True) as s:
        return bank.fill(s, maker, sources)


def _examples(
    items: Sequence[Item], tiers: Sequence[Tier], plans: Mapping[tuple[str, str], PlanRow]
) -> Iterator[Example]:
    """Every item in every tier; a corruption that could not change its plan is left out, because it would be true."""
    for item in items:
        for tier in tiers:
            plan = plans[tier.plan, item.id] if tier.plan else None
            if plan is not None and '"unchanged": true' in plan.detail:
                continue
            shown = tier.render(item.question, plan.text if plan else "")
            yield Example(item.id, tier.name, shown, item.solution)
