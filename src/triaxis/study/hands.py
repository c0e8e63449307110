"""What workers of a study hold and do: models, each loaded once; completions and plans, chunk by chunk.

Everything here is sent to other processes and machines, or runs there. The driver's side is `spread.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from triaxis.compute import Place
from triaxis.errors import UserError
from triaxis.models.writer import Planner, Writer, Writing, Written

if TYPE_CHECKING:
    from triaxis.sampling.executor import Completion, Executor
    from triaxis.sampling.schedule import Decode


@dataclass(frozen=True, slots=True)
class Cast:
    """The models of a study by name. card: what the executor must turn out to be; None for workers without one."""

    executor: str
    dtype: str | None
    planners: tuple[str, ...]
    writing: Mapping[str, object]
    card: Mapping[str, Any] | None


@dataclass
class Models:
    """What a worker holds. The executor is loaded at once, a planner when it is first asked for."""

    cast: Cast
    place: Place
    executor: Executor | None
    adapted: dict[str, Executor] = field(default_factory=dict)  # by adapter schedule

    def with_adapters(self, spec: str) -> Executor:
        assert self.executor is not None
        if spec not in self.adapted:
            self.adapted[spec] = self.executor.with_adapters(spec) if spec else self.executor
        return self.adapted[spec]

    @cached_property
    def planners(self) -> Mapping[str, Callable[[], Planner]]:
        from triaxis.plans.sources import planner_table

        return planner_table(self.cast.planners, self.executor, self.cast.writing, device=self.place.device)

    def planner(self, name: str) -> Writer:
        found = self.planners[name]()
        assert isinstance(found, Writer)  # banks are the driver's
        return found


def load(cast: Cast, place: Place) -> Models:
    """The models of a worker. UserError where what it loads is not what the driver described."""
    import torch

    if place.threads:
        torch.set_num_threads(place.threads)
    if cast.card is None:
        return Models(cast, place, None)
    from triaxis.sampling.executor import load_executor
    from triaxis.study.jobs import executor_card

    executor = load_executor(cast.executor, dtype=cast.dtype, device=place.device)
    here = executor_card(executor)
    for name, wanted in cast.card.items():
        if here[name] != wanted:
            raise UserError(
                f"a worker's executor {cast.executor!r} has {name} {here[name]!r}, the driver's {wanted!r}; give all "
                "machines the same files and devices"
            )
    return Models(cast, place, executor)


def work(models: Models, common: Any, items: tuple[Any, ...]) -> Sequence[Any]:
    """What a crew does with a chunk: whatever its common part says."""
    found: Sequence[Any] = common.run(models, items)
    return found


class Work(NamedTuple):
    """A prompt of the executor's, and its stream key (0 where nothing is drawn)."""

    ids: tuple[int, ...]
    key: int


@dataclass(frozen=True, slots=True)
class Completing:
    """Items are `Work`; results are completions."""

    decode: Decode
    watch: bool
    adapter: str

    def run(self, models: Models, items: Sequence[Work]) -> list[Completion]:
        """The completions of the items, in their order."""
        found: dict[int, Completion] = {}

        def take(places: list[int], made: list[Completion]) -> None:
            found.update(zip(places, made, strict=True))

        executor = models.with_adapters(self.adapter)
        executor.complete([w.ids for w in items], [w.key for w in items], self.decode, take, watch=self.watch)
        return [found[i] for i in range(len(items))]


@dataclass(frozen=True, slots=True)
class Asking:
    """Items are (user message, stream key) for one planner under these settings; results are what it wrote."""

    planner: str
    writing: Writing

    def run(self, models: Models, items: Sequence[tuple[str, int]]) -> list[Written]:
        planner = replace(models.planner(self.planner), writing=self.writing)
        return planner.complete([prompt for prompt, _ in items], [key for _, key in items])


@dataclass(frozen=True, slots=True)
class Introducing:
    """Items are names of planners; results are what a driver must know of them."""

    def run(self, models: Models, items: Sequence[str]) -> list[tuple[str, int | None, str, Writing]]:
        found = [models.planner(name) for name in items]
        return [(p.name, p.parameters, p.model_id, p.writing) for p in found]
