"""Which linear layers a list of adapter targets means in a network, and what was probably meant.

Matching is peft's: a text is a pattern that must match the whole name; a list holds names or their last parts. The
language model's head lies outside the layers; in LLaDA it is called ff_out, as is a matrix of every layer, so the bare
name wraps both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from triaxis.errors import UserError, suggest
from triaxis.limits import bounded_pattern
from triaxis.models.adapters import linear_names, target_pattern

_IN_LAYER = re.compile(r"^(.+?)\.(\d+)\.(.+)$")  # the first number is the layer's; an expert's comes after it
# names of one thing in different families
SYNONYMS = (
    frozenset({"o_proj", "attn_out", "dense", "out_proj"}),
    frozenset({"gate_proj", "ff_proj", "w1"}),
    frozenset({"down_proj", "ff_out", "w2"}),
    frozenset({"up_proj", "w3"}),
    frozenset({"q_proj", "query_key_value", "wq"}),
    frozenset({"k_proj", "query_key_value", "wk"}),
    frozenset({"v_proj", "query_key_value", "wv"}),
)
# group -> last parts of its modules' names, in any family
GROUPS: Mapping[str, frozenset[str]] = {
    "attention": frozenset({"q_proj", "k_proj", "v_proj", "attn_out", "o_proj", "query_key_value", "dense"}),
    "ffn": frozenset({"ff_proj", "up_proj", "ff_out", "gate_proj", "down_proj"}),
}
GROUPS = {**GROUPS, "all": GROUPS["attention"] | GROUPS["ffn"]}  # not a mixture's router


@dataclass(frozen=True, slots=True)
class Linears:
    """The linear layers of a network: full name -> its layer's number, and the ones outside any layer."""

    layered: Mapping[str, int]
    outside: tuple[str, ...]

    @property
    def depth(self) -> int:
        return max(self.layered.values()) + 1

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names within a layer, such as q_proj, in the network's order."""
        return tuple(dict.fromkeys(_leaf(m) for m in self.layered))


def _leaf(module: str) -> str:
    return module.rsplit(".", 1)[-1]


def linears(network: nn.Module) -> Linears:
    """The linear layers of `network`."""
    names = linear_names(network)
    layered = {n: int(found[2]) for n in names if (found := _IN_LAYER.match(n))}
    return Linears(layered, tuple(n for n in names if n not in layered))


def matches(target: str, module: str) -> bool:
    """Whether a name of a target list means this module, as peft reads it."""
    return module == target or module.endswith(f".{target}")


def resolve(found: Linears, targets: str | Sequence[str]) -> list[str]:
    """The modules that targets mean, heads included, in the network's order. A text is a pattern."""
    everything = (*found.layered, *found.outside)
    if isinstance(targets, str):
        pattern = _compiled(targets)
        return [m for m in everything if pattern.fullmatch(m)]
    return [m for m in everything if any(matches(t, m) for t in targets)]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(bounded_pattern(pattern))
    except (re.error, ValueError) as e:
        raise UserError(f"target pattern {pattern!r} is no regular expression ({e})") from None


def meant(found: Linears, target: str) -> str:
    """The network's own name of what a target is called elsewhere, "" if there is none."""
    last = target.rsplit(".", 1)[-1]
    return next((n for n in found.leaves for s in SYNONYMS if last in s and n in s and n != last), "")


def pattern(found: Linears, targets: Sequence[str]) -> str:
    """A pattern that means the targets (by any family's names) in every layer, and nothing outside the layers."""
    own = dict.fromkeys(n for t in targets for n in (meant(found, t) or t.rsplit(".", 1)[-1],) if n in found.leaves)
    place = _IN_LAYER.match(next(iter(found.layered), ""))
    root = place[1].rsplit(".", 1)[-1] if place else "layers"
    within = r"(?:.*\.)?" if place and "." in place[3] else ""
    return rf".*\.{root}\.\d+\.{within}({'|'.join(own or found.leaves)})"


def choose(network: nn.Module, targets: Sequence[str], layers: tuple[float, float] = (0.0, 1.0)) -> list[str]:
    """The modules of a recipe: groups ("all", "attention", "ffn") or names within a layer, of a share of the layers.

    layers: (0.75, 1.0) is the last quarter. Never the head. UserError for a target that means nothing here.
    """
    found = linears(network)
    wanted: set[str] = set()
    for target in targets:
        group = set(found.leaves) & GROUPS.get(target, frozenset({target}))
        if not group:
            hint = meant(found, target)
            known = f"; did you mean {hint!r}?" if hint else suggest(target, (*found.leaves, *GROUPS))
            raise UserError(f"target {target!r} matches no linear layer of this network{known}")
        wanted |= group
    low, high = (round(share * found.depth) for share in layers)
    chosen = [m for m, layer in found.layered.items() if _leaf(m) in wanted and low <= layer < high]
    if not chosen:
        raise UserError(f"layers {layers} of {found.depth} hold no module to adapt; widen the range")
    return chosen


def coverage(network: nn.Module, modules: Sequence[str]) -> dict[str, object]:
    """What an adapter's card says of where it sits."""
    found = linears(network)
    leaves = dict.fromkeys(_leaf(m) for m in modules)
    return {
        "modules": list(modules),
        "names": list(leaves),
        "names_of": len(found.leaves),
        "layers": sorted({found.layered[m] for m in modules if m in found.layered}),
        "layers_of": found.depth,
        "pattern": target_pattern(list(modules)),
    }
