"""From conditions to rows: which are missing, and making them.

The loop is plain: for each round of conditions, make the plans they show, lay out one job a row, leave out the rows
that are there, complete the rest and append each batch. It never knows what a condition means.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

from triaxis.conditions import Condition, Prompt, in_order
from triaxis.errors import UserError, override
from triaxis.store import PlanRow, Row, Store, identity

if TYPE_CHECKING:
    from triaxis.models.writer import Writer, Written
    from triaxis.plans.sources import Maker
    from triaxis.sampling.executor import Completion, Executor
    from triaxis.sampling.schedule import Decode
    from triaxis.tasks.base import Item, Task

Progress = Callable[[str, int, int], None]  # (stage, done, total)
Seen = Callable[["Arms", Sequence[Row]], None]  # rows that were stored, for whoever watches
Bank = Mapping[tuple[str, str], PlanRow]  # plans by (source, item id)


def unseen(arms: Arms, rows: Sequence[Row]) -> None:
    pass


def silent(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Arms:
    """Everything that rows are made of: loaded models, items, the conditions that run and the decoding protocol."""

    table: tuple[Condition, ...]
    executor: Executor
    task: Task
    items: Sequence[Item]
    maker: Maker
    all_seeds: tuple[int, ...]
    base_decode: Decode
    engine: str
    writer_settings: Mapping[str, object] = field(default_factory=dict)  # of AR writers: changes to `Writing`

    def writer(self, condition: Condition) -> Writer:
        """The planner that completes a condition, at its temperature and with room for a whole response.

        UserError where the planner holds plans only.
        """
        from triaxis.models.writer import Writer

        planner, decode = self.maker.planners[condition.writer](), self.decode(condition)
        if not isinstance(planner, Writer):
            raise UserError(
                f"planner {condition.writer!r} holds plans and cannot answer, as condition {condition.name!r} needs; "
                "name a model, or leave out the conditions it would write"
            )
        room = max(planner.budget, decode.gen_length)
        return planner.using(**{"temperature": decode.temperature, "budget": room, **self.writer_settings})

    def decode(self, condition: Condition, branch: int = 0) -> Decode:
        """The protocol of one branch: the study's, with what the condition and the branch's variant change."""
        changes = dict(condition.decode)
        if condition.variants:
            changes |= dict(condition.variants[branch % len(condition.variants)].decode)
        per_step = changes.pop("tokens_per_step", None)
        made = override(self.base_decode, changes)
        return made if per_step is None else replace(made, steps=max(1, made.gen_length // int(str(per_step))))

    def seeds(self, condition: Condition) -> tuple[int, ...]:
        """The seeds a condition runs under: the first one only, where nothing in it is random or it shows answers."""
        heat = any(self.decode(condition, b).draws for b in range(condition.branches))
        return self.all_seeds if heat and not condition.stage else self.all_seeds[:1]

    def completions(self, condition: Condition) -> int:
        """Rows an item has in a condition."""
        return condition.branches * len(self.seeds(condition))

    @cached_property
    def executor_identity(self) -> str:
        return identity({k: v for k, v in executor_card(self.executor).items() if k != "name"})

    @cached_property
    def adapter_cards(self) -> dict[str, list[dict[str, Any]]]:
        """Every adapter schedule of the table as plain data, with the fingerprints of its files."""
        from triaxis.models.schedules import Schedule

        specs = dict.fromkeys(c.adapter for c in self.table if c.adapter and not c.writer)
        return {spec: Schedule.parse(spec).card() for spec in specs}

    def model_identity(self, condition: Condition) -> str:
        """Names everything of the completing model that can change a row."""
        if condition.writer:
            return self.writer(condition).identity
        return self.executor_identity


def executor_card(executor: Executor) -> dict[str, Any]:
    """The executor as plain data: what it is, where it runs, how it is spoken to."""
    family = executor.checkpoint.family
    weights = next(executor.checkpoint.network.parameters())
    return {
        "name": executor.name,
        "fingerprint": executor.fingerprint,
        "family": family.name,
        "parameters": executor.parameters,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "device": executor.checkpoint.elsewhere or weights.device.type,
        "attention": "torch scaled_dot_product_attention",
        "revision": executor.checkpoint.revision,
        "start": family.start,
        "system": family.system,
        "content": family.content,
        "reply": family.reply,
        "ends": list(family.ends),
        **({"notes": family.notes} if family.notes else {}),  # where its turns are not the hub's
    }


@dataclass(frozen=True, slots=True)
class Job:
    """One row to make: what to show, which random stream, and the row it will become."""

    row: Row
    shown: Prompt
    ids: tuple[int, ...]  # the executor's prompt; empty for a writer
    key: int
    decode: Decode
    condition: Condition


def jobs(arms: Arms, condition: Condition, bank: Bank) -> Iterator[Job]:
    """All rows of one condition, as jobs. A row's id hashes everything that can change it."""
    from triaxis.streams import stream_key

    decodes = [arms.decode(condition, b) for b in range(condition.branches)]
    scaffolds = [_scaffold(condition, b) for b in range(condition.branches)]
    common: dict[str, Any] = {
        "condition": condition.name,
        "task": arms.task.revision,
        "executor": arms.model_identity(condition),
        "engine": arms.engine,
    }
    if condition.watch:
        common["watch"] = "path"
    if condition.adapter and not condition.writer:
        common["adapter"] = arms.adapter_cards[condition.adapter]
    cards = [{**common, "decode": d.card()} for d in decodes]
    for item in arms.items:
        plan = bank[condition.plan, item.id] if condition.plan else None
        seen: dict[str, tuple[Prompt, tuple[int, ...]]] = {}
        for seed, branch in product(arms.seeds(condition), range(condition.branches)):
            scaffold = scaffolds[branch]
            if scaffold.name not in seen:
                shown = scaffold.render(item.question, plan.text if plan else None)
                made = () if condition.writer else tuple(arms.executor.prompt_ids(*shown.parts))
                seen[scaffold.name] = shown, made
            shown, ids = seen[scaffold.name]
            spec = {**cards[branch], "item": item.id, "prompt": ids or list(shown), "seed": seed, "branch": branch}
            row = Row(
                identity(spec), condition.name, item.id, branch, seed, plan.id if plan else "", shown.shown, "", 0, 0,
                ended=False,
            )  # fmt: skip
            yield Job(row, shown, ids, stream_key(seed, item.id, branch), decodes[branch], condition)


def _scaffold(condition: Condition, branch: int) -> Any:
    if condition.variants:
        return condition.variants[branch % len(condition.variants)].scaffold or condition.scaffold
    return condition.scaffold


# ---------------------------------------------------------------- plans


def make_plans(
    store: Store, arms: Arms, table: Sequence[Condition], progress: Progress
) -> dict[tuple[str, str], PlanRow]:
    """Every plan the conditions show; those already stored are not made again."""
    from triaxis.plans import bank

    names = list(dict.fromkeys(c.plan for c in table if c.plan))
    plans: dict[tuple[str, str], PlanRow] = {}
    for done, source in enumerate(names):
        progress("planning", done, len(names))
        plans |= answers(store, arms, source) if source.startswith("rows:") else bank.fill(store, arms.maker, [source])
    return plans


def answers(store: Store, arms: Arms, source: str) -> dict[tuple[str, str], PlanRow]:
    """Plans made of what another condition answered, all branches of the first seed in order."""
    from triaxis.plans import bank

    name = source.removeprefix("rows:")
    found: dict[str, list[Row]] = {}
    for row in store.rows(condition=name):
        if row.seed == arms.all_seeds[0]:
            found.setdefault(row.item, []).append(row)
    plans = {}
    for item in arms.items:
        rows = sorted(found[item.id], key=lambda r: r.branch)
        text = "\n".join(r.text for r in rows)
        spec = {"source": source, "rows": [r.id for r in rows]}
        plans[source, item.id] = PlanRow(
            identity(spec), item.id, source, arms.all_seeds[0], text, sum(r.length for r in rows),
            not all(r.ended for r in rows), bank.detail(text, item),
        )  # fmt: skip
    store.append(plans.values())
    return plans


# ---------------------------------------------------------------- sampling


PART = 256  # items whose jobs are laid out at once, so that memory does not grow with the study


def sample(store: Store, arms: Arms, progress: Progress, seen: Seen = unseen) -> None:
    """Make the plans, then every missing row, appending after each batch; conditions that show answers come later."""
    clock, total = Clock(store), len(arms.items) * sum(map(arms.completions, arms.table))
    done = 0

    def note(rows: int) -> None:
        nonlocal done
        done += rows
        progress("sampling", done, total)

    def add(rows: list[Row]) -> None:
        store.append(rows, seconds=clock.read())
        seen(arms, rows)
        note(len(rows))

    present = store.row_ids()
    if present and seen is not unseen:
        seen(arms, store.rows())
    for table in in_order(arms.table):
        plans = make_plans(store, arms, table, progress)
        check_lengths(arms, table, plans)
        for start in range(0, len(arms.items), PART):
            part = replace(arms, items=arms.items[start : start + PART])
            work = [job for condition in table for job in jobs(part, condition, plans)]
            missing = [job for job in work if job.row.id not in present]
            note(len(work) - len(missing))
            _complete(part, [j for j in missing if not j.condition.writer], add)
            _write(part, [j for j in missing if j.condition.writer], add)


class Clock:
    """Seconds a study has taken, over its restarts."""

    def __init__(self, store: Store) -> None:
        self.began, self.before = time.monotonic(), float(store.get("seconds") or 0)

    def read(self) -> str:
        """As it is stored, with each append of rows."""
        return str(self.before + time.monotonic() - self.began)


def _complete(arms: Arms, missing: Sequence[Job], add: Callable[[list[Row]], None]) -> None:
    """Rows of the executor: one pass over all jobs of one protocol, so that identical work is done once."""
    groups: dict[tuple[Decode, bool, str], list[Job]] = {}  # one adapter schedule a batch is the quicker way
    for job in missing:
        groups.setdefault((job.decode, job.condition.watch, job.condition.adapter), []).append(job)
    for (decode, watch, adapter), group in groups.items():

        def append(places: list[int], made: list[Completion], group: list[Job] = group) -> None:
            add([completed(group[i].row, c) for i, c in zip(places, made, strict=True)])

        executor = arms.executor.with_adapters(adapter) if adapter else arms.executor
        executor.complete([j.ids for j in group], [j.key for j in group], decode, append, watch=watch)


def completed(row: Row, c: Completion) -> Row:
    """A row with what the executor made of it."""
    trace: dict[str, Any] = {"order": c.order}
    if c.path:
        trace["path"] = [[text, len(list(same))] for text, same in groupby(c.path)]
    return replace(
        row, text=c.text, tokens=c.forward_tokens, forwards=c.forwards, ended=c.ended, length=c.length,
        confidence=c.confidence, trace=json.dumps(trace, ensure_ascii=False, separators=(",", ":")),
    )  # fmt: skip


def _write(arms: Arms, missing: Sequence[Job], add: Callable[[list[Row]], None]) -> None:
    """Rows of AR writers: one pass over all jobs of one planner and temperature."""
    writers = {job.condition.name: arms.writer(job.condition) for job in missing}
    groups: dict[str, list[Job]] = {}
    for job in missing:
        groups.setdefault(writers[job.condition.name].identity, []).append(job)
    for group in groups.values():

        def append(places: list[int], made: list[Written], group: list[Job] = group) -> None:
            add([written(group[i].row, w) for i, w in zip(places, made, strict=True)])

        writers[group[0].condition.name].complete([j.shown.user for j in group], [j.key for j in group], done=append)


def written(row: Row, w: Written) -> Row:
    """A row with what an AR writer made of it."""
    return replace(
        row, text=w.text, tokens=w.forward_tokens, forwards=w.forwards, ended=not w.truncated, length=w.tokens
    )


def check_lengths(arms: Arms, table: Sequence[Condition], bank: Bank) -> None:
    """UserError that counts the items whose longest prompt is too long, before any of the conditions is sampled."""
    context = arms.executor.checkpoint.config.max_sequence_length
    long: dict[str, tuple[int, str, int]] = {}  # item -> tokens, condition, canvas
    for condition in (c for c in table if not c.writer):
        for branch, item in product(range(len(condition.variants) or 1), arms.items):
            plan = bank[condition.plan, item.id].text if condition.plan else None
            shown = _scaffold(condition, branch).render(item.question, plan)
            length, canvas = len(arms.executor.prompt_ids(*shown.parts)), arms.decode(condition, branch).gen_length
            if length + canvas > context:
                long[item.id] = max(long.get(item.id, (0, "", 0)), (length, condition.name, canvas))
    if long:
        worst, (length, name, canvas) = max(long.items(), key=lambda x: x[1])
        raise UserError(
            f"{len(long)} of {len(arms.items)} items do not fit into the {context} tokens of executor "
            f"{arms.executor.name!r} with gen_length={canvas} ({worst} in condition {name} has {length}); leave "
            "out such items or conditions, or lower gen_length"
        )
