"""Where plans come from: a table of kinds, each making the plan of every item.

A source is "kind" or "kind:origin": "gold", "true:tiny-planner-s", "filler:gold", "truncate-8:file:banks/mine.jsonl".
The origin is a planner's name, "gold", or a bank ("file:PATH" or "file:NAME"), used as a planner. The kinds other than
"gold" and "true" are edits of the plan of their origin; a filler of a fixed length ("filler-12", "random-12",
"dots-12") is an edit of nothing and has no origin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

from triaxis.errors import UserError, lookup, override
from triaxis.models.folder import SHIPPED
from triaxis.models.planner import check_planner, load_planner
from triaxis.models.writer import PLAN_PROMPT, Planner, Writing, Written
from triaxis.plans import corrupt, files, read, rework
from triaxis.plans.self_plan import self_planner
from triaxis.sampling.executor import Executor
from triaxis.tasks.base import Item, Task

MAKER = "plans-1"  # part of every plan's identity: change it when the same inputs may give another plan


class Plan(NamedTuple):
    """A plan of one source. `tokens` are the planner's, or the executor's for what is measured in them.

    unchanged: an edit that could not change its plan. implied: the answer it was made to imply, else None.
    """

    text: str
    tokens: int
    truncated: bool
    unchanged: bool = False
    implied: str | None = None


class Kind(NamedTuple):
    """A kind of source as spelled: "truncate-8" is ("truncate", 8)."""

    name: str
    length: int | None  # in executor tokens


@dataclass(frozen=True)
class Maker:
    """What the sources need: the task, its items, the executor's tokenizer and the planners by name."""

    task: Task
    items: Sequence[Item]
    executor: Executor
    planners: Mapping[str, Callable[[], Planner]]
    seed: int
    written: dict[tuple[str, str], Written] = field(default_factory=dict)  # by (planner, item id): edits reuse them
    banks: dict[str, files.BankPlanner] = field(default_factory=dict)  # by name, read once

    def make(self, source: str, items: Sequence[Item]) -> list[Plan]:
        """The plans of `items` from one source, in order. UserError for an unknown kind or a task without plans."""
        kind, origin = parse(source)
        if "gold" in (kind.name, origin) and kind.name in ("gold", "true"):
            return [self._gold(i) for i in items]
        if kind.name == "true":
            return [Plan(w.text, w.tokens, w.truncated) for w in self._write(origin, items)]
        return EDITS[kind.name](self, kind, origin, items)

    def identity(self, source: str) -> str:
        """Names everything that can change the plans of a source."""
        kind, origin = parse(source)
        parts = [MAKER, source, self.task.name, self.task.revision]
        if "gold" in (kind.name, origin) or kind.name in MEASURED:
            parts.append(self.executor.fingerprint)
        if origin in self.planners or origin.startswith(files.PREFIX):
            parts.append(self.planner(origin).identity)
        return "|".join(parts)

    def keep(self, source: str, item: Item, plan: Written) -> None:
        """Take up a stored plan, so that its edits are made from it and not from another making."""
        kind, origin = parse(source)
        if kind.name == "true":
            self.written[origin, item.id] = plan

    def planner(self, name: str) -> Planner | files.BankPlanner:
        """The planner or bank of that name, loaded once. UserError with the nearest name."""
        if not name.startswith(files.PREFIX):
            return lookup("planner", self.planners, name)()
        if name not in self.banks:
            self.banks[name] = files.open_bank(name)
        return self.banks[name]

    @cached_property
    def tokens(self) -> corrupt.Tokens:
        """The executor's tokenizer, as fillers need it."""
        t = self.executor.tokenizer
        special = {number for number, token in t.get_added_tokens_decoder().items() if token.special}
        ordinary = partial(sorted, (i for i in t.get_vocab().values() if i not in special))
        return corrupt.Tokens(self.executor.encode, lambda ids: str(t.decode(ids)), ordinary)

    def _write(self, name: str, items: Sequence[Item]) -> list[Written]:
        planner = self.planner(name)
        missing = [i for i in items if (name, i.id) not in self.written]
        if missing and isinstance(planner, files.BankPlanner):
            made = planner.plans(missing, self.task)
        else:
            made = planner.write([i.question for i in missing]) if missing else []
        self.written.update({(name, i.id): w for i, w in zip(missing, made, strict=True)})
        return [self.written[name, i.id] for i in items]

    def _gold(self, item: Item) -> Plan:
        text = read.gold_plan(item)
        if not text:
            raise UserError(
                f"{item.id} of task {self.task.name!r} has no solution to plan from; leave out the gold arms"
            )
        return Plan(text, len(self.executor.encode(text)), False)


def parse(source: str) -> tuple[Kind, str]:
    """(kind, origin) of a source. UserError for an unknown kind, and a length or an origin missing or too many."""
    spelled, _, origin = source.partition(":")
    name, dash, digits = spelled.rpartition("-")
    sized = bool(dash) and re.fullmatch(r"[0-9]{1,4}", digits) is not None and (name in MEASURED or name not in EDITS)
    kind = Kind(name, int(digits)) if sized else Kind(spelled, None)
    if kind.name not in ("gold", "true"):
        lookup("plan source", {**EDITS, "gold": None, "true": None}, kind.name)
    if (kind.length is not None) and kind.name not in MEASURED:
        raise UserError(f"plan source {source!r}: {kind.name!r} takes no length; write {kind.name}:{origin or 'gold'}")
    if kind.name == "truncate" and not kind.length:
        raise UserError(f"plan source {source!r} needs a length in executor tokens, such as truncate-8:gold")
    fixed = kind.length is not None and kind.name in corrupt.FILLERS
    if fixed and origin:
        raise UserError(f"plan source {source!r}: a filler of a fixed length has no origin; write {spelled!r}")
    if not fixed and not origin and kind.name != "gold":
        raise UserError(f"plan source {source!r} needs the plan it is made of, such as {spelled}:gold")
    return kind, origin


def _key(maker: Maker, kind: Kind, item: Item) -> str:
    return f"{kind.name}/{maker.seed}/{item.id}"


def _filler(maker: Maker, kind: Kind, origin: str, items: Sequence[Item]) -> list[Plan]:
    """A twin of its origin's length, or of a fixed one."""
    tokens, made = maker.tokens, []
    if kind.length is None:
        of = [w.text for w in maker.make(f"true:{origin}", items)]
        lengths = [len(maker.executor.encode(text)) for text in of]
    else:
        of, lengths = [""] * len(items), [kind.length] * len(items)
    for item, plan, n in zip(items, of, lengths, strict=True):
        text = corrupt.FILLERS[kind.name].make(n, tokens, _key(maker, kind, item))
        made.append(Plan(text, n, False, unchanged=kind.length is None and text == plan))
    return made


def _other(maker: Maker, kind: Kind, origin: str, items: Sequence[Item]) -> list[Plan]:
    everyone = sorted(maker.task.items(), key=lambda i: i.id)  # the donor must not depend on N or order
    if len(everyone) < 2:
        raise UserError(f"task {maker.task.name!r} has one item, so there is no other item's plan; leave out that arm")
    place = {item.id: k for k, item in enumerate(everyone)}
    donors = [everyone[(place[i.id] + 1) % len(everyone)] for i in items]
    return maker.make(f"true:{origin}", donors)


def _corrupted(maker: Maker, kind: Kind, origin: str, items: Sequence[Item]) -> list[Plan]:
    edit = corrupt.CORRUPTIONS[kind.name].edit
    plans = maker.make(f"true:{origin}", items)
    texts = [edit(p.text, _key(maker, kind, i)) for p, i in zip(plans, items, strict=True)]
    return [p._replace(text=t, unchanged=t == p.text) for p, t in zip(plans, texts, strict=True)]


def _truncated(maker: Maker, kind: Kind, origin: str, items: Sequence[Item]) -> list[Plan]:
    made, tokens = [], maker.tokens
    for plan in maker.make(f"true:{origin}", items):
        text = corrupt.truncate(plan.text, kind.length or 0, tokens)
        cut = text != plan.text
        made.append(Plan(text, len(tokens.encode(text)), plan.truncated or cut, unchanged=not cut))
    return made


def _counterfactual(maker: Maker, kind: Kind, origin: str, items: Sequence[Item]) -> list[Plan]:
    made = []
    for plan, item in zip(maker.make(f"true:{origin}", items), items, strict=True):
        # only the item's own solution is the text that its annotated steps belong to
        annotated = item.steps if origin == "gold" and read.follows(plan.text, item.steps) is not True else ()
        key = _key(maker, kind, item)
        found = rework.counterfactual(plan.text, key, item.answer, item.question, annotated)
        text, implied = found or (plan.text, None)
        made.append(plan._replace(text=text, implied=implied, unchanged=found is None))
    return made


Edit = Callable[[Maker, Kind, str, Sequence[Item]], list[Plan]]
EDITS: Mapping[str, Edit] = {
    **dict.fromkeys(corrupt.FILLERS, _filler),
    **dict.fromkeys(corrupt.CORRUPTIONS, _corrupted),
    "other": _other,
    "truncate": _truncated,
    "counterfactual": _counterfactual,
}
MEASURED = (*corrupt.FILLERS, "truncate")  # kinds measured in the executor's tokens


def planner_table(
    names: Sequence[str],
    executor: Executor | None = None,
    writing: Mapping[str, object] | None = None,
    device: str | None = None,
) -> dict[str, Callable[[], Planner]]:
    """Planners by name, each loaded once, when first used. UserError at once for an unknown prefix or name.

    executor: what "self" stands for; folders run on its device. writing: changes to the settings of all of them, which
    ask a model for a short plan, and the shipped planners, which know nothing else, the bare question. A bank
    ("file:") keeps its own. device: of folders, where there is no executor. UserError for an unknown setting.
    """
    override(Writing(), writing or {})
    loaded: dict[str, Planner] = {}
    where = device if executor is None else next(executor.checkpoint.network.parameters()).device.type
    above: Mapping[str, Callable[[str], Planner]] = {
        "self": lambda name: _self(executor, _writing(name, writing)),
        "file": files.open_bank,
    }

    def opener(name: str) -> Callable[[], Planner]:
        """A planner that is loaded when it is first asked for, and once."""
        kind = check_planner(name)

        def open_once() -> Planner:
            if name not in loaded:
                open_model = above.get(kind) or partial(_open_model, device=where, writing=writing)
                loaded[name] = open_model(name)
            return loaded[name]

        return open_once

    return {name: opener(name) for name in names}


def _open_model(name: str, device: str | None, writing: Mapping[str, object] | None) -> Planner:
    return load_planner(name, _writing(name, writing), device=device)


def _writing(name: str, changes: Mapping[str, object] | None) -> Writing:
    prompt = "{question}" if name in SHIPPED["planner"] else PLAN_PROMPT
    return override(Writing(prompt=prompt), changes or {})


def _self(executor: Executor | None, writing: Writing | None) -> Planner:
    if executor is None:
        raise UserError("planner 'self' is the executor of a study, and there is none here; name another planner")
    return self_planner(executor, writing)
