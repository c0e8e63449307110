"""Errors a user can act on, and the helpers that make and show them: name lookup, settings override, a script's exit.

Knows nothing of models, tasks or statistics. Everything may import it; it imports nothing of ours.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")


LONGEST = 1000  # characters of a message


def readable(text: str) -> str:
    """One line: white space as single spaces, control characters spelled out, the middle left out where it is long."""
    line = " ".join(text.split())
    line = line if line.isprintable() else "".join(c if c.isprintable() else _spelled(c) for c in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 305]} ... {line[-300:]}"


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()


class UserError(Exception):
    """Unusable input. The message is one line that names the thing, the value and the next move.

    The command line prints it without a traceback and exits 2. What it repeats of a foreign file is made harmless: no
    character that acts on a terminal, no more than a screen of it.
    """

    def __str__(self) -> str:
        return readable(super().__str__())


class UndefinedEstimate(UserError, ValueError):
    """The number asked for does not exist for these inputs. Raised instead of returning 0.0 or NaN."""


def out_of_memory(e: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, a GPU's, or torch's on a CPU, which has no class of its own.

    By names and words, so that nobody has to import torch to ask.
    """
    named = any(c.__name__ in ("MemoryError", "OutOfMemoryError") for c in type(e).__mro__)
    return named or (isinstance(e, RuntimeError) and "can't allocate memory" in str(e))


NO_MEMORY = "out of memory; what was written is safe: run the same command again with less beside it, or on more memory"


def suggest(name: str, known: Iterable[str]) -> str:
    """'; did you mean 'x'?' for the nearest known name, else '; known: a, b, c'."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {next(n for n in names if n.lower() == near[0])!r}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}" if names else ""


def lookup(kind: str, table: Mapping[str, T], name: str) -> T:
    """The entry called `name`. Raises UserError with the nearest known name."""
    try:
        return table[name]
    except KeyError:
        raise UserError(f"no {kind} named {name!r}{suggest(name, table)}") from None


def override(settings: S, changes: Mapping[str, object]) -> S:
    """A copy of the frozen dataclass `settings` with `changes`; unknown names are refused."""
    known = [f.name for f in dataclasses.fields(settings)]  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise UserError(f"unknown setting {name!r} of {type(settings).__name__}{suggest(name, known)}")
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def script(main: Callable[[], int | None]) -> int:
    """Run a script; its exit code. A UserError, or a file that fails, is one line on stderr and 2."""
    try:
        return main() or 0
    except (UserError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
