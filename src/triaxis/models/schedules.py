"""Adapter schedules: which adapters are on at which moment of denoising, as text, as data, and as the loop's hook.

A schedule is text: terms joined by "+", each NAME[@when,...][*scale]. `when`: all, first:N, last:N, block:I or
block:I-J, step:I or step:I-J (within a block), masked:LO-HI (share of the response still hidden), alone (while it is
on, it replaces the terms before it). "prefix@all+commit@last:3*0.5". Several `when` of one term must all hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from triaxis.errors import UserError, lookup
from triaxis.models.adapters import Gate, Mounted, adapter_fingerprint, find_adapter


class Standing(Protocol):
    """What a schedule needs of `sampling.denoise.Moment`: numbers, blocks and steps of the rows of a pass."""

    @property
    def rows(self) -> list[int]: ...
    @property
    def block(self) -> list[int]: ...
    @property
    def blocks(self) -> int: ...
    @property
    def step(self) -> list[int]: ...
    @property
    def masked(self) -> Callable[[], list[float]]: ...


class At(NamedTuple):
    """Where one row stands: block of blocks, step within the block, share of the response still hidden."""

    block: int
    blocks: int
    step: int
    masked: float


@dataclass(frozen=True, slots=True)
class When:
    """One clause of a term: its kind and its bounds, both ends included."""

    kind: str
    low: float = 0
    high: float = 0

    def holds(self, at: At) -> bool:
        return _HOLDS[self.kind](self, at)


_HOLDS: Mapping[str, Callable[[When, At], bool]] = {
    "all": lambda w, at: True,
    "alone": lambda w, at: True,
    "first": lambda w, at: at.block < w.low,
    "last": lambda w, at: at.block >= at.blocks - w.low,
    "block": lambda w, at: w.low <= at.block <= w.high,
    "step": lambda w, at: w.low <= at.step <= w.high,
    "masked": lambda w, at: w.low <= at.masked <= w.high,
}
_GRAMMAR = "NAME[@all|first:N|last:N|block:I-J|step:I-J|masked:LO-HI|alone,...][*SCALE], joined by +"


@dataclass(frozen=True, slots=True)
class Term:
    """One adapter of a schedule, when it is on, and its factor."""

    adapter: str
    when: tuple[When, ...]
    scale: float = 1.0

    def on(self, at: At) -> bool:
        return all(w.holds(at) for w in self.when)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which adapters are on at which moment. Made from text by `parse`."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, spec: str) -> Schedule:
        """UserError that names the part that cannot be read."""
        return cls(tuple(_term(part, spec) for part in spec.split("+")) if spec.strip() else ())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(t.adapter for t in self.terms))

    @property
    def by_row(self) -> bool:
        """Whether rows at one block and step may differ under this schedule."""
        return any(w.kind == "masked" for t in self.terms for w in t.when)

    @property
    def by_block(self) -> bool:
        """Whether rows at different blocks differ under this schedule."""
        return any(w.kind in ("first", "last", "block") for t in self.terms for w in t.when)

    def check(self, blocks: int, steps: int) -> None:
        """UserError for a clause that would never hold in `blocks` blocks of `steps` steps: never a silent no-op."""
        for term in self.terms:
            for w in term.when:
                most = {"block": blocks, "step": steps}.get(w.kind)
                if most is not None and w.low >= most:
                    raise UserError(
                        f"adapter {term.adapter!r} is on in {w.kind} {w.low:g}, but decoding has {w.kind}s 0 to "
                        f"{most - 1}; it would never be on"
                    )

    def gate(self, at: At, names: Sequence[str]) -> Gate:
        """The factor of each named adapter at one moment. Terms of one adapter add up."""
        gates = dict.fromkeys(names, 0.0)
        for term in self.terms:
            if term.on(at):
                if any(w.kind == "alone" for w in term.when):
                    gates = dict.fromkeys(names, 0.0)
                gates[term.adapter] += term.scale
        return tuple(gates.values())

    def card(self) -> list[dict[str, Any]]:
        """The schedule as plain data, with each adapter's fingerprint: what can change a row."""
        return [
            {
                "adapter": adapter_fingerprint(find_adapter(t.adapter)),
                "when": [[w.kind, w.low, w.high] for w in t.when],
                "scale": t.scale,
            }
            for t in self.terms
        ]


def _term(part: str, spec: str) -> Term:
    head, star, factor = part.strip().rpartition("*") if "*" in part else (part.strip(), "", "")
    name, _, clauses = head.partition("@")
    if not name.strip():
        raise UserError(f"adapter schedule {spec!r}: a term without a name; write {_GRAMMAR}")
    try:
        scale = float(factor) if star else 1.0
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise UserError(f"adapter schedule {spec!r}: scale {factor!r} is not a number; write {_GRAMMAR}")
    return Term(name.strip(), tuple(_when(c.strip(), spec) for c in (clauses or "all").split(",")), scale)


def _when(clause: str, spec: str) -> When:
    kind, colon, bounds = clause.partition(":")
    lookup(f"clause (adapter schedule {spec!r})", _HOLDS, kind)
    if kind in ("all", "alone"):
        low = high = 0.0
        good = not colon
    else:
        ends = bounds.split("-") if kind in ("block", "step", "masked") else [bounds]
        try:
            low, high = float(ends[0]), float(ends[-1])
        except ValueError:
            low = high = math.nan
        whole = kind == "masked" or (low.is_integer() and high.is_integer())
        good = len(ends) <= 2 and low <= high and whole and (kind not in ("first", "last") or low >= 1)
    if not good:
        raise UserError(f"adapter schedule {spec!r}: cannot read {clause!r}; write {_GRAMMAR}")
    return When(kind, low, high)


def conductor(mounted: Mounted, schedules: Sequence[Schedule]) -> Callable[[Standing], None]:
    """The hook that sets the switch before every forward pass; schedules: one a row of the batch."""
    distinct = dict.fromkeys(schedules)
    by_share = any(s.by_row for s in distinct)
    device = next(mounted.network.parameters()).device
    sent: dict[tuple[Gate, ...], Tensor] = {}  # the last ones on the device: sending waits for the passes before

    def before(m: Standing) -> None:
        """Set the switch for the pass of rows that stand there."""
        masked = m.masked() if by_share else [1.0] * len(m.rows)
        stand = [
            (schedules[r], At(b, m.blocks, s, x)) for r, b, s, x in zip(m.rows, m.block, m.step, masked, strict=True)
        ]
        known = {pair: pair[0].gate(pair[1], mounted.names) for pair in dict.fromkeys(stand)}
        gates = tuple(known[pair] for pair in stand)
        if len(set(gates)) == 1:
            mounted.switch.set(gates[:1])
            return
        if gates not in sent:
            sent.clear()
            sent[gates] = torch.tensor(gates, device=device)
        mounted.switch.gate, mounted.switch.rows = None, sent[gates]

    return before
