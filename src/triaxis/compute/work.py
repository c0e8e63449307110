"""What every worker does, wherever it is: make its state once, then answer chunks. Imports no backend."""

from __future__ import annotations

import os
import traceback
from typing import Any

from triaxis.compute import Crew, Event, Failure, Place, Ready, Result
from triaxis.errors import UserError, out_of_memory


def failure(e: BaseException) -> Failure:
    """What went wrong, in words that can cross to another process."""
    if isinstance(e, UserError):
        return Failure("user", str(e))
    kind = "memory" if out_of_memory(e) else "bug"
    return Failure(kind, "".join(traceback.format_exception(e)))


def begin(crew: Crew, place: Place) -> tuple[Any, Event]:
    """(state, event): the state made, or why it could not be."""
    try:
        return crew.factory(place), Ready(os.getpid())
    except Exception as e:  # whatever it is, the driver says it
        return None, failure(e)


def answer(crew: Crew, state: Any, common: Any, items: tuple[Any, ...]) -> Event:
    """The event of one chunk."""
    try:
        values = crew.work(state, common, items)
        if len(values) != len(items):
            raise RuntimeError(f"{len(values)} results for {len(items)} items")
        return Result(values)
    except Exception as e:  # whatever it is, the driver decides
        return failure(e)
