"""Family cards: what a diffusion model family needs beyond its weights, as data.

One TOML file a family in `families/`. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from triaxis.errors import UserError, lookup
from triaxis.limits import parse_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyCard:
    """A model family: its network, chat template, end marks, default decoding and citation.

    The prompt is start + system (if any) + content (with the user's text in its place) + reply. Template text is
    encoded with special tokens on, the user's text with them off, so text cannot forge a turn.
    """

    name: str
    network: str  # "llada" or "decoder"
    citation: str
    start: str
    content: str
    reply: str
    system: str = ""  # a system turn with {content} in it, between start and content; "": the family has none
    ends: tuple[str, ...]
    decode: Mapping[str, object]
    model_types: tuple[str, ...] = ()  # of config.json
    architectures: tuple[str, ...] = ()  # of config.json; they count before model_types
    hub: tuple[str, ...] = ()  # where such checkpoints are
    mask: str = ""  # the mask token's text, where neither config.json nor the card has its id
    head: str = ""  # full name of the output layer: what an adapter should not take by accident
    targets: str = ""  # pattern of the matrices an adapter means by "all"
    config: Mapping[str, object] = field(default_factory=dict)  # what config.json leaves out; "name!" overrides it
    notes: str = ""


_LISTS = ("ends", "model_types", "architectures", "hub")


@cache
def cards() -> Mapping[str, FamilyCard]:
    """All family cards by name."""
    found = {}
    for path in files("triaxis.models").joinpath("families").iterdir():
        if path.name.endswith(".toml"):
            name = path.name.removesuffix(".toml")
            fields = parse_toml(path.read_text(encoding="utf-8"))
            fields |= {n: tuple(fields[n]) for n in _LISTS if n in fields}
            found[name] = FamilyCard(name=name, **fields)
    return found


def card(name: str) -> FamilyCard:
    """The card of a family. UserError with the nearest name."""
    return lookup("model family", cards(), name)


def card_of(fields: Mapping[str, object], where: str, name: str | None = None) -> FamilyCard:
    """The card of a checkpoint: as named, or as its config.json says. UserError where no family matches."""
    name = name or (str(fields["triaxis_family"]) if fields.get("triaxis_family") else None)
    if name is not None:
        return card(name)
    architectures, kind = fields.get("architectures"), fields.get("model_type")
    for architecture in architectures if isinstance(architectures, list) else []:
        for c in cards().values():
            if architecture in c.architectures:
                return c
    for c in cards().values():
        if kind in c.model_types:
            return c
    import reprlib

    known = ", ".join(sorted(t for c in cards().values() for t in c.model_types))
    raise UserError(
        f"{where}: model_type={reprlib.repr(kind)} is no known diffusion family; known: {known}; "
        "or name one of the families: " + ", ".join(sorted(cards()))
    )
