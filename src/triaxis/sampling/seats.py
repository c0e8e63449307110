"""Where rows sit while graphs work on them: tensors of a few sizes, and which size rows take.

Numbers of rows are filled up to a few, rows of unlike length lie one after the other without padding and their tokens
are filled up by a thirty-second, or by more until a size of their own would have paid. A row's tokens do not depend on
the filling: filled positions are seen by none, filled rows are thrown away. B rows, L canvas tokens, K block tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor

from triaxis.sampling.rows import Rows

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224, 256)
WIDTH = 8  # widths of ragged canvases are multiples of this
PACKED_WIDTH = 128  # and of those whose rows lie one after the other: there it costs nothing
MAKING = 8.0  # passes that a new size is worth: one run before its graph is recorded, and the host's time
CHANGED = ("canvas", "forwards", "tokens", "order", "chances")
_STATE = ("prompt", "end", "keys", *CHANGED)


class Size(NamedTuple):
    """What steps must have in common to work on the same tensors."""

    rows: int  # filled up
    width: int  # filled up
    padded: bool
    packed: int  # tokens of a pass where rows lie one after the other, filled up; 0: they do not

    @property
    def tokens(self) -> int:
        """Of a pass over whole canvases."""
        return self.packed or self.rows * self.width

    def holds(self, other: Size) -> bool:
        """Whether rows of that size could sit here, filled up further."""
        wide = self.width >= other.width if self.padded else self.width == other.width
        alike = (self.padded, self.packed > 0) == (other.padded, other.packed > 0)
        return alike and wide and self.rows >= other.rows and self.packed >= other.packed


@dataclass(slots=True)
class Seats:
    """Tensors of one size that graphs read and write. Rows sit down once and stay until others do."""

    size: Size
    rows: Rows
    span: Tensor  # (B, K) positions of the block
    count: Tensor  # (1,) tokens to commit
    gates: Tensor | None = None  # (B, A) factors of the adapters, from the first step on that may have some on
    owner: Callable[[], Rows | None] = lambda: None  # whose tensors are views of these
    told: tuple[Tensor | None, int] = (None, 0)  # the span and the count that stand there

    @classmethod
    def of(cls, rows: Rows, span_BK: Tensor, size: Size) -> Seats:
        """Empty ones, for rows and spans like those."""
        device = span_BK.device
        made = rows.take([0])
        for name in _STATE:
            t = getattr(rows, name)
            wide = (size.rows, size.width) if t.dim() == 2 else (size.rows,)
            setattr(made, name, torch.zeros(wide, dtype=t.dtype, device=device))
        made.ends = [0 if size.padded else size.width]  # the host knows no more of them than whether they are padded
        made.packed = size.packed
        span = torch.zeros((size.rows, span_BK.shape[1]), dtype=torch.long, device=device)
        return cls(size, made, span, torch.ones(1, dtype=torch.long, device=device))

    def seat(self, rows: Rows, span_BK: Tensor, count: int, gates_BA: Tensor | None) -> None:
        """Let those rows sit here; what fills the size up is the first row again, without tokens where rows are packed.

        From then on the rows' tensors are views of these, so that no step copies anything. Whoever sat here gets up.
        """
        if self.owner() is not rows:
            self._clear()
            for name in _STATE:
                given, mine = getattr(rows, name), getattr(self.rows, name)
                if mine.dim() == 2:
                    mine = mine[:, : given.shape[1]]
                _fill(mine, given)
                if name in CHANGED:
                    setattr(rows, name, mine[: len(given)])
            if self.rows.packed:  # what fills the size up takes no tokens
                self.rows.end[len(rows.at) :] = 0
            self.owner, self.told = ref(rows), (None, 0)
        if self.told[0] is not span_BK:
            _fill(self.span, span_BK)
        if self.told[1] != count:
            self.count.fill_(count)
        self.told = span_BK, count
        if gates_BA is not None:
            if self.gates is None:
                self.gates = torch.zeros((len(self.span), gates_BA.shape[1]), device=gates_BA.device)
            _fill(self.gates, gates_BA)

    def _clear(self) -> None:
        before = self.owner()
        if before is not None:
            for name in CHANGED:
                setattr(before, name, getattr(before, name).clone())


@dataclass(slots=True)
class Seating:
    """The seats there are."""

    seats: dict[Size, Seats] = field(default_factory=dict)
    at: Seats | None = None  # where the rows at work sit
    lost: dict[Size, float] = field(default_factory=dict)  # passes lost by sitting in a larger size than this one

    def find(self, rows: Rows, span_BK: Tensor, packs: bool, passes: int) -> Seats:
        """Seats for the rows; for a whole block the same, because its memory lies by their size. packs: see `size_of`.

        passes: that this block takes; rows that share graphs may take unlike numbers.

        Rows leave and enter, so that sizes are many and their steps few: a size is made when sitting in a larger one
        has cost as much. So no more than twice the least possible is ever lost.
        """
        if self.at is not None and self.at.owner() is rows and self.at.told[0] is span_BK:
            return self.at
        size = size_of(rows, packs)
        if size not in self.seats:
            larger = min((s for s in self.seats if s.holds(size)), key=lambda s: s.tokens, default=None)
            if larger is not None:
                lost = (larger.tokens / size.tokens - 1) * passes
                self.lost[size] = self.lost.get(size, 0.0) + lost
                size = larger if self.lost[size] <= MAKING else size
        if size not in self.seats:
            self.seats[size] = Seats.of(rows, span_BK, size)
        self.at = self.seats[size]
        return self.at


def size_of(rows: Rows, packs: bool) -> Size:
    """The least size for the rows. packs: rows of unlike length lie one after the other.

    Rows of one length are not filled up in width.
    """
    count = next((s for s in SIZES if s >= len(rows.at)), len(rows.at))
    if not rows.padded:
        return Size(count, rows.width, False, 0)
    if not packs:
        return Size(count, -(-rows.width // WIDTH) * WIDTH, True, 0)
    tokens = sum(rows.ends)
    fill = grain_of(tokens)
    return Size(count, -(-rows.width // PACKED_WIDTH) * PACKED_WIDTH, True, -(-tokens // fill) * fill)


def grain_of(tokens: int) -> int:
    """The grain that numbers of packed tokens are filled up to: at most a thirty-second."""
    return max(32, 1 << max(0, tokens.bit_length() - 6))


def _fill(mine: Tensor, given: Tensor) -> None:
    """Rows, and the first of them again up to the end."""
    mine[: len(given)].copy_(given)
    if len(given) < len(mine):
        mine[len(given) :].copy_(given[:1].expand_as(mine[len(given) :]))
