"""AR planners: a language model that writes a plan for a question, or completes any prompt.

A planner is named by a spec: a shipped name or a folder (`causal.py`), "openai:MODEL@http://host:port/v1"
(`endpoint.py`), "gguf:FILE" (`gguf.py`). "self" and "file:" stand above this module, in plans/. What is common to all
kinds is in `writer.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from triaxis.errors import UserError, override, suggest
from triaxis.models.folder import find_folder, home
from triaxis.models.writer import Writer, Writing


class Kind(NamedTuple):
    """A kind of planner: how its spec is checked without loading anything, and how it is opened."""

    check: Callable[[str], object]
    open: Callable[[str, Writing], Writer]


def _endpoint() -> Kind:
    from triaxis.models.endpoint import open_endpoint, parse

    return Kind(parse, open_endpoint)


def _gguf() -> Kind:
    from triaxis.models.gguf import find_file, open_gguf

    return Kind(find_file, open_gguf)


KINDS: Mapping[str, Callable[[], Kind]] = {"openai": _endpoint, "gguf": _gguf}
ABOVE = ("self", "file")  # kinds that need more than a model; plans/ opens them


def check_planner(spec: str) -> str:
    """The kind of a spec: a prefix, "self", or "" for a shipped name or a folder. Loads nothing, asks no server.

    UserError for an unknown prefix or name, or where what follows the prefix cannot be; a bank is not looked for.
    """
    prefix, colon, _ = spec.partition(":")
    if spec == "self":
        return spec
    if not colon or os.path.isdir(home(spec)):  # a folder may have a colon in its name
        find_folder(spec, "planner")
        return ""
    if prefix not in (*KINDS, "file"):
        raise UserError(f"no kind of planner named {prefix!r}{suggest(prefix, (*KINDS, *ABOVE))}")
    if prefix in KINDS:
        KINDS[prefix]().check(spec)
    return prefix


def load_planner(spec: str, writing: Writing | None = None, *, device: str | None = None, **changes: object) -> Writer:
    """Open a planner by its spec (see the top of this file). UserError where it cannot be used.

    writing, changes: its settings, such as budget=100. device: where a folder's network runs, "cpu" (default) or
    "cuda"; always in fp32, because in bf16 a plan would change with its batch mates.
    """
    settings = override(writing or Writing(), changes)
    kind = check_planner(spec)
    if kind in ABOVE:
        raise UserError(f"planner {spec!r} is known to studies and plan banks only; load a model here")
    if kind:
        return KINDS[kind]().open(spec, settings)
    from triaxis.models.causal import open_folder

    return open_folder(spec, settings, device)
