"""Rows at work: how prompts enter a running batch, what is kept of each, and what is handed back when one leaves.

Rows are right-padded, so that every row's positions count from its own column 0. What only the device needs is in
tensors; where a row stands is known to the host as well, so that it need not ask. B rows, L canvas tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from triaxis.sampling.schedule import Decode


class Denoised(NamedTuple):
    """One finished row: its gen_length tokens, whether an end mark is among them, and what it cost."""

    ids: list[int]
    ended: bool
    forwards: int  # forward passes this row took part in
    tokens: int  # canvas positions those passes computed for this row, prompt included; with a cache, fewer
    order: list[int]  # step that committed each position, -1 where the row left before
    chances: list[float]  # probability of each token when it was committed, 0 where it was not
    path: list[list[int]]  # with `watch`: the whole response as predicted at each step


@dataclass(slots=True)
class Place:
    """Where one row stands. Shared by all copies of the row."""

    row: int  # the caller's number
    blocks: int  # in all; one more than the protocol's where the first begins inside the prompt
    block: int = 0  # blocks that are done
    step: int = 0  # passes of the block at work


@dataclass(slots=True, weakref_slot=True)
class Rows:
    """Rows of one batch."""

    at: list[Place]
    ends: list[int]  # what follows each row's last block
    canvas: Tensor  # (B, L)
    prompt: Tensor  # (B,) prompt lengths
    start: Tensor  # (B,) first position of the first block: the prompt's end, or before it where blocks are aligned
    first: Tensor  # (B,) first position of the block at work
    end: Tensor  # (B,) `ends`
    keys: Tensor  # (B,) random stream keys
    forwards: Tensor  # (B,) passes taken part in
    tokens: Tensor  # (B,) positions those passes computed
    order: Tensor  # (B, L) step that committed each position, -1 before
    chances: Tensor  # (B, L) float32
    packed: int = 0  # tokens that a pass computes where rows lie one after the other; 0: it computes the padded canvas

    @property
    def width(self) -> int:
        return self.canvas.shape[1]

    @property
    def padded(self) -> bool:
        return min(self.ends) < self.width

    @property
    def lengths(self) -> Tensor | None:
        """(B,) canvas tokens of each row, what `Decoder.hidden` takes; None when nothing is padded."""
        return self.end if self.padded else None

    def take(self, picked: Sequence[int]) -> Rows:
        """Those rows, as a copy."""
        index = torch.tensor(picked, dtype=torch.long, device=self.canvas.device)
        values = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "packed")
        picked_of: dict[str, Any] = {
            name: [value[i] for i in picked] if isinstance(value, list) else value[index] for name, value in values
        }
        return Rows(**picked_of)

    def put(self, rows_B: Tensor, part: Rows) -> None:
        """Write back what a pass changed."""
        for name in ("canvas", "forwards", "tokens", "order", "chances"):
            getattr(self, name)[rows_B] = getattr(part, name)

    def join(self, other: Rows, mask_id: int) -> Rows:
        """These rows and those, on one width."""
        width = max(self.width, other.width)
        fill = {"canvas": mask_id, "order": -1, "chances": 0}
        joined: dict[str, object] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name in fill:
                mine, theirs = (F.pad(t, (0, width - t.shape[1]), value=fill[f.name]) for t in (mine, theirs))
            if f.name != "packed":
                joined[f.name] = mine + theirs if isinstance(mine, list) else torch.cat((mine, theirs))
        return Rows(**joined)  # type: ignore[arg-type]

    def advance(self, over: Sequence[bool], k: int) -> None:
        """Those rows begin their next block of k tokens."""
        self.first += k if all(over) else k * torch.tensor(over, device=self.first.device)
        for place in (p for p, o in zip(self.at, over, strict=True) if o):
            place.block, place.step = place.block + 1, 0


@dataclass(frozen=True, slots=True)
class Layout:
    """How prompts become rows. aligned: blocks count from position 0, so the first may begin inside the prompt."""

    d: Decode
    mask_id: int
    device: torch.device
    aligned: bool

    def start(self, prompt: Sequence[int]) -> int:
        k = self.d.block_length
        return len(prompt) // k * k if self.aligned else len(prompt)

    def end(self, prompt: Sequence[int]) -> int:
        """What follows the last block; a row's canvas has so many tokens."""
        start, k = self.start(prompt), self.d.block_length
        return start + -(-(len(prompt) + self.d.gen_length - start) // k) * k

    def rows(self, numbers: Sequence[int], prompts: Sequence[Sequence[int]], keys: Sequence[int]) -> Rows:
        """Prompts and masks. numbers: the caller's, one a prompt."""
        starts, ends = [self.start(p) for p in prompts], [self.end(p) for p in prompts]
        width, k = max(ends), self.d.block_length
        canvas = torch.tensor([[*p, *[self.mask_id] * (width - len(p))] for p in prompts], device=self.device)
        lengths, start, end, key = torch.tensor([[*map(len, prompts)], starts, ends, keys], device=self.device)
        places = [Place(n, (e - s) // k) for n, s, e in zip(numbers, starts, ends, strict=True)]
        return Rows(
            places, ends, canvas, lengths, start, start.clone(), end, key,
            torch.zeros_like(end), torch.zeros_like(end), torch.full_like(canvas, -1),
            torch.zeros(canvas.shape, device=self.device),
        )  # fmt: skip


@dataclass(slots=True)
class Queue:
    """Prompts that wait, in the caller's order, and the room they wait for."""

    prompts: Sequence[Sequence[int]]
    keys: Sequence[int]
    layout: Layout
    room: int  # canvas tokens of one pass, padding included; 0: no bound
    sizes: Sequence[int] = ()  # numbers of rows that cost no filling, rising
    next: int = 0

    def __bool__(self) -> bool:
        return self.next < len(self.prompts)

    def enter(self, rows: Rows | None) -> Rows:
        """The rows and as many more as there is room for, at least one in all."""
        count, width = (0, 0) if rows is None else (len(rows.at), rows.width)
        first = self.next
        while self and self._fits(count + 1, max(width, self.layout.end(self.prompts[self.next]))):
            width = max(width, self.layout.end(self.prompts[self.next]))
            count, self.next = count + 1, self.next + 1
        if first == self.next:
            assert rows is not None
            return rows
        new = slice(first, self.next)
        fresh = self.layout.rows(range(first, self.next), self.prompts[new], self.keys[new])
        return fresh if rows is None else rows.join(fresh, self.layout.mask_id)

    def _fits(self, count: int, width: int) -> bool:
        return not self.room or count == 1 or count <= most_rows(self.room, width, self.sizes)


def most_rows(room: int, width: int, sizes: Sequence[int]) -> int:
    """Rows of that width that a pass of `room` tokens takes: the largest number that costs no filling."""
    most = room // width
    return max((s for s in sizes if s <= most), default=most)


def results(rows: Rows, d: Decode, ends: Tensor, paths: dict[int, list[list[int]]]) -> dict[int, Denoised]:
    """Rows that leave: tokens denoised so far, end marks for what was not. ends: the family's, the config's first."""
    response = rows.prompt[:, None] + torch.arange(d.gen_length, device=ends.device)
    done = response < rows.first[:, None]
    texts = torch.where(done, rows.canvas.gather(1, response), ends[0])
    ended = (torch.isin(texts, ends) & done).any(1)
    marks = zip(
        rows.at, texts.tolist(), ended.tolist(), rows.forwards.tolist(), rows.tokens.tolist(),
        rows.order.gather(1, response).tolist(), rows.chances.gather(1, response).tolist(), strict=True,
    )  # fmt: skip
    return {
        at.row: Denoised(ids, end, forwards, tokens, order, chances, paths.pop(at.row, []))
        for at, ids, end, forwards, tokens, order, chances in marks
    }
