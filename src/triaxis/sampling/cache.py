"""Which canvas positions a pass computes, and which it takes from keys and values kept before.

Three policies. No cache: everything, every pass. Prefix and dual (Fast-dLLM, arXiv:2505.22618; approximate): everything
at the first pass of a block, then the block and what follows, or the block only. Block-causal networks (SDAR, LLaDA2):
exact, because a finished block sees nothing that comes after it; its keys and values are made once, together with the
first pass of the next block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from triaxis.models.parts import Decoder, Memory, Shape
from triaxis.sampling.schedule import Decode

CPU_TOKENS = 3072  # of one batch: more no longer fit a cache of megabytes, fewer pay more for each operation
GPU_TOKENS = 65536  # on an H100 a sequence takes as long at 64 rows as at 16: more would be memory for nothing
SHARE = 0.8  # of the free memory: the rest is for what the allocator cannot use and kernels want


class Plan(NamedTuple):
    """One pass: where keys and values are kept (None: nowhere) and what is computed (None: the whole canvas)."""

    memory: Memory | None
    places_BQ: Tensor | None


@dataclass(slots=True)
class Keeper:
    """Plans the passes of a batch and holds its memory."""

    d: Decode
    shape: Shape
    dtype: torch.dtype
    keeps: bool  # False: every pass computes everything
    memory: Memory | None = None
    _part: tuple[Tensor, Memory] | None = None  # rows still open in this block, and their memory

    @classmethod
    def of(cls, d: Decode, shape: Shape, dtype: torch.dtype, watch: bool) -> Keeper:
        return cls(d, shape, dtype, (d.cache != "none" or shape.attend_block > 0) and not watch)

    def plan(self, canvas_BL: Tensor, first_B: Tensor, ends_B: Tensor, step: int, open_B: Tensor | None) -> Plan:
        """The pass at `step` of the rows' blocks, for all rows or those numbered `open_B`.

        canvas_BL, first_B, ends_B: canvas, first position of the block at work, and of what follows the last, of those
        rows.
        """
        if not self.keeps:
            return Plan(None, None)
        if step == 0:
            self._part = None
        if self._full(step):
            both = torch.cat((canvas_BL, canvas_BL)) if self.d.cfg_scale > 0 else canvas_BL
            self.memory = Memory.empty(self.shape, both, self.dtype)
            self._part = None if open_B is None else (open_B, self.memory)
            return Plan(self.memory, None)
        return Plan(self._of(open_B), self._places(first_B, ends_B, step))

    def keep(self, stay: Sequence[int]) -> None:
        """Forget the rows that left, between blocks. A mode that computes everything at a block's start forgets all."""
        self._part = None
        if self.shape.attend_block and self.memory is not None and stay:
            rows = torch.tensor(stay, device=self.memory.pairs[0][0].device)
            self.memory = self.memory.take(self._both(rows, self.memory))
        else:
            self.memory = None

    def _full(self, step: int) -> bool:
        if self.memory is None:  # a batch begins, or what would be read was not kept
            return True
        if self.shape.attend_block:
            return False
        return step == 0 or (self.d.refresh > 0 and step % self.d.refresh == 0)

    def _both(self, rows_B: Tensor, memory: Memory) -> Tensor:
        """Those rows of a memory; with guidance the second half of it holds their passes without the prompt."""
        if self.d.cfg_scale == 0:
            return rows_B
        return torch.cat((rows_B, rows_B + memory.pairs[0][0].shape[0] // 2))

    def _of(self, open_B: Tensor | None) -> Memory:
        """The memory of the open rows. Those that wait need theirs again no sooner than the next block rewrites it."""
        assert self.memory is not None
        if open_B is None:
            return self.memory
        before = self._part
        if before is None or not torch.equal(before[0], open_B):
            source = self.memory if before is None else before[1]
            rows = open_B if before is None else torch.searchsorted(before[0], open_B)
            self._part = (open_B, source.take(self._both(rows, source)))
        assert self._part is not None
        return self._part[1]

    def _places(self, first_B: Tensor, ends_B: Tensor, step: int) -> Tensor:
        """Consecutive positions to compute, (B, Q); a network that shifts needs the one before the block too."""
        k = self.d.block_length
        back = self.shape.shift + (k if self.shape.attend_block and step == 0 else 0)
        count = k
        if self.d.cache == "prefix" and not self.shape.attend_block:
            count = int(ends_B[0] - first_B[0])  # the same in every row
        return (first_B - back)[:, None] + torch.arange(count + back, device=first_B.device)


def bytes_a_token(network: Decoder, vocabulary: int, d: Decode, length: int) -> int:
    """Memory a canvas token takes in a pass, in bytes, without gradients; length: tokens of a row's canvas.

    Of a layer at work: states, queries, keys, values, attention's output, three widths of the feed-forward part. Of the
    head: a row's block of logits, with the float64 copy that noise takes where the kernel cannot be had. Kept keys and
    values, where there is a cache.
    """
    s, item = network.shape, network.dtype.itemsize
    gates = [m.out_features for n, m in network.named_modules() if n.endswith(("ff_proj", "gate_proj", "gate"))
             and isinstance(m, torch.nn.Linear)]  # fmt: skip
    inner = max(gates, default=4 * s.width)
    layer = item * (6 * s.width + (2 * s.heads + 4 * s.kv_heads) * s.head_width + 3 * inner)
    logits = d.block_length * vocabulary * (item + 4 + (8 if d.temperature > 0 else 0)) // length
    kept = 2 * item * s.layers * s.kv_heads * s.head_width if d.cache != "none" or s.attend_block else 0
    return (layer + logits + kept) * (2 if d.cfg_scale > 0 else 1)


def fitting_tokens(network: Decoder, vocabulary: int, d: Decode, length: int) -> int:
    """Canvas tokens of one batch, padding included: as many as free memory has room for, at most what pays.

    On a GPU, free memory is what the driver has and what torch's allocator holds unused. At least one row; where even
    that does not fit, the run says so. If the estimate is too high, a batch that does not fit is halved.
    """
    device = next(network.parameters()).device
    if device.type != "cuda":
        return CPU_TOKENS
    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fitting = int(free * SHARE) // bytes_a_token(network, vocabulary, d, length)
    return max(length, min(GPU_TOKENS, fitting))
