"""Where plans come from: a table of kinds, each making the plan of every item.

A source is "kind" or "kind:origin": "gold", "true:tiny-planner-s", "filler:gold", "other:gold". The kinds
other than "gold" and "true" are edits of the plan of their origin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from triaxis.errors import UserError, lookup
from triaxis.models.planner import Planner, Written, load_planner
from triaxis.plans import corrupt, read
from triaxis.sampling.executor import Executor
from triaxis.tasks.base import Item, Task

MAKER = "plans-1"  # part of every plan's identity: change it when the same inputs may give another plan


@dataclass(frozen=True)
class Maker:
    """What the sources need: the task, its items, the executor's tokenizer and the planners by name."""

    task: Task
    items: Sequence[Item]
    executor: Executor
    planners: Mapping[str, Callable[[], Planner]]
    seed: int
    written: dict[tuple[str, str], Written] = field(default_factory=dict)  # by (planner, item id): edits reuse them

    def make(self, source: str, items: Sequence[Item]) -> list[Written]:
        """The plans of `items` from one source, in order. UserError for an unknown kind or a task without plans."""
        kind, _, origin = source.partition(":")
        if kind == "gold" or (kind, origin) == ("true", "gold"):
            return [self._gold(i) for i in items]
        if kind == "true":
            return self._write(origin, items)
        edit = lookup("plan source", EDITS, kind)
        return edit(self, origin, items)

    def identity(self, source: str) -> str:
        """Names everything that can change the plans of a source."""
        kind, _, origin = source.partition(":")
        parts = [MAKER, source, self.task.name, self.task.revision]
        if "gold" in (kind, origin) or kind == "filler":  # measured in the executor's tokens
            parts.append(self.executor.fingerprint)
        if origin in self.planners:
            parts.append(self.planners[origin]().identity)
        return "|".join(parts)

    def keep(self, source: str, item: Item, plan: Written) -> None:
        """Take up a stored plan, so that its edits are made from it and not from another making."""
        kind, _, origin = source.partition(":")
        if kind == "true":
            self.written[origin, item.id] = plan

    def _write(self, name: str, items: Sequence[Item]) -> list[Written]:
        planner = lookup("planner", self.planners, name)()
        missing = [i for i in items if (name, i.id) not in self.written]
        made = planner.write([i.question for i in missing]) if missing else []
        self.written.update({(name, i.id): w for i, w in zip(missing, made, strict=True)})
        return [self.written[name, i.id] for i in items]

    def _gold(self, item: Item) -> Written:
        text = read.gold_plan(item)
        if not text:
            raise UserError(
                f"{item.id} of task {self.task.name!r} has no solution to plan from; leave out the gold arms"
            )
        return Written(text, len(self.executor.encode(text)), False)


def _filler(maker: Maker, origin: str, items: Sequence[Item]) -> list[Written]:
    e = maker.executor
    lengths = [len(e.encode(w.text)) for w in maker.make(f"true:{origin}", items)]
    return [Written(corrupt.filler(n, e.encode, lambda ids: e.tokenizer.decode(ids)), n, False) for n in lengths]


def _other(maker: Maker, origin: str, items: Sequence[Item]) -> list[Written]:
    everyone = sorted(maker.task.items(), key=lambda i: i.id)  # the donor must not depend on N or order
    if len(everyone) < 2:
        raise UserError(f"task {maker.task.name!r} has one item, so there is no other item's plan; leave out that arm")
    place = {item.id: k for k, item in enumerate(everyone)}
    return maker.make(f"true:{origin}", [everyone[(place[i.id] + 1) % len(everyone)] for i in items])


def _numbers(maker: Maker, origin: str, items: Sequence[Item]) -> list[Written]:
    plans = maker.make(f"true:{origin}", items)
    keys = [f"numbers/{maker.seed}/{i.id}" for i in items]
    return [w._replace(text=corrupt.numbers(w.text, k)) for w, k in zip(plans, keys, strict=True)]


EDITS: Mapping[str, Callable[[Maker, str, Sequence[Item]], list[Written]]] = {
    "filler": _filler,
    "other": _other,
    "numbers": _numbers,
}


def planner_table(names: Sequence[str]) -> dict[str, Callable[[], Planner]]:
    """Planners by name, each loaded once, when first used."""
    loaded: dict[str, Planner] = {}

    def opener(name: str) -> Callable[[], Planner]:
        def open_once() -> Planner:
            if name not in loaded:
                loaded[name] = load_planner(name)
            return loaded[name]

        return open_once

    return {name: opener(name) for name in names}
