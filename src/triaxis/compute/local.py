"""The backend in this process: one worker a crew, which works while it is waited for. To debug, and to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triaxis.compute import NO_GPUS, Compute, Crew, Died, Event, Place, Worker, gpus_here
from triaxis.compute.work import answer, begin
from triaxis.errors import UserError


class Inline:
    """A crew's worker; its state is made when it is first waited for."""

    def __init__(self, crew: Crew, place: Place) -> None:
        self.crew, self.place = crew, place
        self.state: Any = None
        self.begun = self.dead = False
        self.given: tuple[Any, tuple[Any, ...]] | None = None

    def send(self, common: Any, items: tuple[Any, ...]) -> None:
        self.given = common, items

    def kill(self) -> None:
        self.dead, self.state = True, None

    def step(self) -> Event:
        """What the worker would say next: that it is ready, or the answer to what it was given."""
        if self.dead:
            return Died("it was given up")
        if not self.begun:
            self.begun = True
            self.state, said = begin(self.crew, self.place)
            return said
        assert self.given is not None
        given, self.given = self.given, None
        return answer(self.crew, self.state, *given)


class Here:
    """The backend `here`: one worker of a crew, in this process and in turn."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute

    def gpus(self) -> int:
        return gpus_here()

    def enlist(self, crews: Mapping[str, Crew]) -> dict[str, int]:
        if any(c.gpu for c in crews.values()) and not self.gpus():
            raise UserError(NO_GPUS)
        return dict.fromkeys(crews, 1)

    def start(self, crew: Crew, number: int) -> Worker:
        given = self.compute.devices[0] if self.compute.devices else "cuda"
        return Inline(crew, Place(given if crew.gpu else "cpu"))

    def wait(self, workers: Sequence[Worker], timeout: float) -> list[tuple[Worker, Event]]:
        for w in workers:
            assert isinstance(w, Inline)
            if not w.begun or w.given is not None or w.dead:
                return [(w, w.step())]
        return []

    def close(self) -> None:
        pass
