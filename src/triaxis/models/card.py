"""Family cards: what a diffusion model family needs beyond its weights, as data.

One TOML file a family in `families/`. Knows nothing of tensors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from triaxis.errors import lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyCard:
    """A model family: its network, chat template, end marks, default decoding and citation.

    The prompt is start + system (if any) + content (with the user's text in its place) + reply. Template text is encoded
    with special tokens on, the user's text with them off, so text cannot forge a turn.
    """

    name: str
    network: str
    citation: str
    start: str
    content: str
    reply: str
    system: str = ""  # a system turn with {content} in it, between start and content; "": the family has none
    ends: tuple[str, ...]
    decode: Mapping[str, object]


@cache
def cards() -> Mapping[str, FamilyCard]:
    """All family cards by name."""
    found = {}
    for path in files("triaxis.models").joinpath("families").iterdir():
        if path.name.endswith(".toml"):
            name = path.name.removesuffix(".toml")
            fields = tomllib.loads(path.read_text(encoding="utf-8"))
            fields["ends"] = tuple(fields["ends"])
            found[name] = FamilyCard(name=name, **fields)
    return found


def card(name: str) -> FamilyCard:
    """The card of a family. UserError with the nearest name."""
    return lookup("model family", cards(), name)
