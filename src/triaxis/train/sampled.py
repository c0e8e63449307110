"""Completions of a task kept in row stores: sampled once, resumable, read back as arrays for pairing.

A store has one writer at a time, so what is sampled under one protocol and one adapter schedule lies in a store of its
own: processes that evaluate different adapters can share the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from triaxis.estimate.votes import Ballots
from triaxis.models.schedules import Schedule
from triaxis.sampling.schedule import ENGINE, Decode
from triaxis.store import Row, Store, identity
from triaxis.streams import stream_key
from triaxis.tasks.grading import grade_many

if TYPE_CHECKING:
    from triaxis.sampling.executor import Completion, Executor
    from triaxis.tasks.base import Item, Task

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sampled:
    """What was said: (items, branches) throughout."""

    texts: list[list[str]]
    answers: list[list[str]]  # canonical, "" where unreadable
    right: Bools
    forwards: Floats
    confidence: Floats  # mean log probability of the tokens

    @property
    def score(self) -> Floats:
        """(items,): share of branches that are right."""
        return np.asarray(self.right.mean(1), dtype=float)

    @property
    def ballots(self) -> Ballots:
        return Ballots(self.answers, self.right, confidence=np.exp(self.confidence))


@dataclass(frozen=True, eq=False)
class Bench:
    """An executor, a task and the folder their completions are kept in."""

    executor: Executor
    task: Task
    store: Path

    def sample(
        self, items: Sequence[Item], decode: Decode, *, branches: int = 1, seed: int = 0, adapter: str = ""
    ) -> Sampled:
        """Complete the bare question of each item `branches` times; what is stored is not sampled again."""
        spec = self._spec(decode, adapter)
        rows = self._rows(spec, items, decode, branches, seed, adapter)
        path = self.store / identity(spec) / "rows.sqlite"
        held = _held(path)
        missing = [r for r in rows if r.id not in held]
        if missing:
            with Store(path, write=True) as store:
                self._complete(store, missing, items, decode, adapter)
            held = _held(path)
        return _arrange(self.task, [held[r.id] for r in rows], items, branches)

    def _spec(self, decode: Decode, adapter: str) -> dict[str, object]:
        return {
            "executor": self.executor.fingerprint, "engine": ENGINE, "task": self.task.revision,
            "decode": decode.card(), "adapter": Schedule.parse(adapter).card(),
        }  # fmt: skip

    def _rows(
        self, spec: Mapping[str, object], items: Sequence[Item], decode: Decode, branches: int, seed: int, adapter: str
    ) -> list[Row]:
        name = adapter or "base"
        out = []
        for item in items:
            for branch in range(branches):
                draw = [seed, branch] if decode.draws else [0, 0]  # greedy branches are one completion
                row_id = identity({**spec, "item": item.id, "draw": draw})
                out.append(Row(row_id, name, item.id, draw[1], draw[0], "", item.question, "", 0, 0, ended=False))
        return out

    def _complete(self, store: Store, rows: Sequence[Row], items: Sequence[Item], decode: Decode, adapter: str) -> None:
        executor = self.executor.with_adapters(adapter)
        question = {i.id: i.question for i in items}
        unique = list({r.id: r for r in rows}.values())

        def keep(places: list[int], made: list[Completion]) -> None:
            store.append(
                replace(
                    unique[k], text=c.text, tokens=c.forward_tokens, forwards=c.forwards, ended=c.ended,
                    length=c.length, confidence=c.confidence,
                )
                for k, c in zip(places, made, strict=True)
            )  # fmt: skip

        prompts = [executor.prompt_ids(question[r.item]) for r in unique]
        executor.complete(prompts, [stream_key(r.seed, r.item, r.branch) for r in unique], decode, keep)


def _held(path: Path) -> dict[str, Row]:
    """The rows of a store by id; none where it was not begun."""
    if not path.is_file():
        return {}
    with Store(path, write=False) as store:
        return {r.id: r for r in store.rows()}


def _arrange(task: Task, rows: Sequence[Row], items: Sequence[Item], branches: int) -> Sampled:
    each = [item for item in items for _ in range(branches)]
    grades = grade_many(task, [r.text for r in rows], each)
    shape = (len(items), branches)

    def folded(values: Sequence[str]) -> list[list[str]]:
        return [list(values[k : k + branches]) for k in range(0, len(values), branches)]

    return Sampled(
        folded([r.text for r in rows]), folded([g.answer for g in grades]),
        np.array([g.verdict == "right" for g in grades]).reshape(shape),
        np.array([float(r.forwards) for r in rows]).reshape(shape),
        np.array([r.confidence for r in rows]).reshape(shape),
    )  # fmt: skip
