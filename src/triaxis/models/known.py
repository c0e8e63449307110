"""What a first layer projects, looked up: it depends on the token alone, and a small vocabulary has few. CPU only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_KNOWN = 2048  # tokens of a vocabulary whose first projections are kept

Stamp = list[tuple[Tensor, tuple[int, float]]]  # tensors, each with its version and its sum


class First(Protocol):
    """The first layer, as far as it matters here (`parts.Layer`)."""

    parts: ClassVar[Mapping[str, str]]

    def part(self, role: str) -> nn.Module: ...
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


class Known:
    """Queries, keys and values of every token, and the weights they were made of."""

    def __init__(self) -> None:
        self.stamp: Stamp = []
        self.tables: list[Tensor] = []

    def of(self, weight_VD: Tensor, first: First, ids_BQ: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """(B, Q, heads * E) each; None where they are to be computed. weight_VD: the embedding's."""
        on_cpu = weight_VD.device.type == "cpu" and not torch.is_grad_enabled()
        if not on_cpu or len(weight_VD) > MOST_KNOWN or "q" not in first.parts:
            return None
        norm, projects = first.part("norm1"), [first.part(r) for r in "qkv"]
        if not all(type(m) is nn.Linear or getattr(m, "off", False) for m in projects):  # an adapter that is on
            return None
        linear = [cast(nn.Linear, getattr(m, "base", m)) for m in projects]
        given = (weight_VD, norm.weight, *(m.weight for m in linear), *(m.bias for m in linear))
        made_of = [cast(Tensor, t) for t in given if t is not None]
        if any(type(t) is not nn.Parameter or t.requires_grad or t.is_inference() for t in made_of):
            return None  # such as weights that lie on several processes
        stamp = [(t, (t._version, float(t.sum()))) for t in made_of]  # `data` can be written without a new version
        if not _same(self.stamp, stamp):
            self.tables = [t[0].contiguous() for t in first.project(cast(Tensor, norm(weight_VD)[None]))]
            self.stamp = stamp
        q, k, v = (F.embedding(ids_BQ, t) for t in self.tables)
        return q, k, v


def _same(held: Stamp, now: Stamp) -> bool:
    """Whether these are the tensors that were there, and nobody has written into them."""
    return len(held) == len(now) and all(a is b and v == w for (a, v), (b, w) in zip(held, now, strict=True))
