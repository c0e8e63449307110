"""The block denoising loop: prompts in, committed tokens out, with the work counted.

Exact with respect to LLaDA generate.py at temperature 0 (parity tests), and cheaper without changing a
token: logits are made for the current block only, the last layer runs there only, rows whose end mark
is committed leave. Knows networks only by `hidden` and `head`.

B rows, L canvas tokens, K block tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from triaxis.sampling.noise import ORDER, TOKENS, uniforms
from triaxis.sampling.schedule import Decode


class Network(Protocol):
    """What the loop needs of a diffusion network."""

    def hidden(self, ids_BL: Tensor, valid_BL: Tensor | None = None, select_BK: Tensor | None = None) -> Tensor: ...
    def head(self, hidden: Tensor) -> Tensor: ...


class Denoised(NamedTuple):
    """One finished row: its gen_length tokens, whether an end mark is among them, and what it cost."""

    ids: list[int]
    ended: bool
    forwards: int  # forward passes this row took part in
    tokens: int  # canvas tokens those passes read for this row, prompt included


@dataclass(slots=True)
class _Rows:
    """The rows still at work. Right-padded, so that every row's positions count from its own column 0."""

    where: Tensor  # (B,) index into the caller's rows
    canvas: Tensor  # (B, L)
    prompt: Tensor  # (B,) prompt lengths
    valid: Tensor | None  # (B, L), None when nothing is padded
    keys: Tensor  # (B,) random stream keys

    def keep(self, stay_B: Tensor) -> None:
        self.where, self.canvas, self.prompt = self.where[stay_B], self.canvas[stay_B], self.prompt[stay_B]
        self.keys = self.keys[stay_B]
        self.valid = None if self.valid is None else self.valid[stay_B]


def _lay_out(
    prompts: Sequence[Sequence[int]], keys: Sequence[int], d: Decode, mask_id: int, device: torch.device
) -> _Rows:
    lengths = [len(p) for p in prompts]
    width = max(lengths) + d.gen_length
    rows = [[*p, *[mask_id] * d.gen_length, *[mask_id] * (width - len(p) - d.gen_length)] for p in prompts]
    prompt = torch.tensor(lengths, device=device)
    place = torch.arange(width, device=device)[None]
    valid = None if min(lengths) == max(lengths) else place < (prompt + d.gen_length)[:, None]
    everyone = torch.arange(len(prompts), device=device)
    return _Rows(everyone, torch.tensor(rows, device=device), prompt, valid, torch.tensor(keys, device=device))


def _logits(network: Network, rows: _Rows, select_BK: Tensor, d: Decode, mask_id: int) -> Tensor:
    """Logits of the block, (B, K, V), guided when cfg_scale > 0: the second pass has the prompt hidden."""
    if d.cfg_scale == 0:
        return network.head(network.hidden(rows.canvas, rows.valid, select_BK))
    place = torch.arange(rows.canvas.shape[1], device=rows.canvas.device)[None]
    blind = torch.where(place < rows.prompt[:, None], mask_id, rows.canvas)
    valid = None if rows.valid is None else torch.cat((rows.valid, rows.valid))
    both = network.head(network.hidden(torch.cat((rows.canvas, blind)), valid, torch.cat((select_BK, select_BK))))
    seen, unseen = both.chunk(2)
    return unseen + (d.cfg_scale + 1) * (seen - unseen)


def choose(logits_BKV: Tensor, keys_B: Tensor, step: int, places_BK: Tensor, d: Decode) -> tuple[Tensor, Tensor]:
    """The token wanted at each position and the confidence in it, both (B, K).

    Gumbel-max in float64 as generate.py does: argmax of exp(l) / (-log u)^T, written l - T log(-log u).
    Confidence is the un-noised softmax probability in float32.
    """
    if d.temperature > 0:
        u = uniforms(keys_B, TOKENS, step, places_BK, logits_BKV.shape[-1])
        ids = (logits_BKV.double() - d.temperature * torch.log(-torch.log(u))).argmax(-1)
    else:
        ids = logits_BKV.argmax(-1)
    if d.remasking == "random":
        return ids, uniforms(keys_B, ORDER, step, places_BK, 1)[..., 0].float()
    return ids, logits_BKV.float().softmax(-1).gather(-1, ids[..., None])[..., 0]


def commit(block_BK: Tensor, ids_BK: Tensor, confidence_BK: Tensor, count: int, mask_id: int) -> Tensor:
    """The block after its `count` most confident hidden positions took their token; ties go to the lowest position."""
    hidden = block_BK == mask_id
    ranked = torch.where(hidden, confidence_BK, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(hidden).scatter_(1, order[:, :count], True) & hidden
    return torch.where(chosen, ids_BK, block_BK)


@torch.inference_mode()
def denoise(
    network: Network,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    d: Decode,
    *,
    mask_id: int,
    eos_ids: Sequence[int],
    device: torch.device,
) -> list[Denoised]:
    """Complete each prompt with its own random stream, in order. A row does not depend on its batch mates."""
    rows = _lay_out(prompts, keys, d, mask_id, device)
    ends = torch.tensor(list(eos_ids), device=device)
    out: list[Denoised | None] = [None] * len(prompts)
    forwards = 0
    passes = 2 if d.cfg_scale > 0 else 1
    offsets = torch.arange(d.block_length, device=device)[None]
    for block in range(d.blocks):
        places = offsets + block * d.block_length
        for step, count in enumerate(d.commits(d.block_length)):
            select = rows.prompt[:, None] + places
            logits = _logits(network, rows, select, d, mask_id)
            number = block * (d.steps // d.blocks) + step
            ids, confidence = choose(logits, rows.keys, number, places.expand_as(select), d)
            now = commit(rows.canvas.gather(1, select), ids, confidence, count, mask_id)
            rows.canvas = rows.canvas.scatter(1, select, now)
            forwards += passes
        last = block + 1 == d.blocks
        ended = torch.isin(rows.canvas.gather(1, select), ends).any(1)
        leave = torch.ones_like(ended) if last else ended & (d.stop == "eos_block")
        if leave.any():
            _retire(rows, leave, (block + 1) * d.block_length, forwards, d, ends, out)
            rows.keep(~leave)
            if not len(rows.where):
                break
    return [row for row in out if row is not None]


def _retire(
    rows: _Rows, leave_B: Tensor, done: int, forwards: int, d: Decode, ends: Tensor, out: list[Denoised | None]
) -> None:
    """Write the leaving rows to `out`: tokens denoised so far, end marks for what was not."""
    select = rows.prompt[leave_B][:, None] + torch.arange(done, device=leave_B.device)[None]
    texts = rows.canvas[leave_B].gather(1, select)
    ended = torch.isin(texts, ends).any(1).tolist()
    filler = [int(ends[0])] * (d.gen_length - done)
    marks = zip(rows.where[leave_B].tolist(), texts.tolist(), ended, rows.prompt[leave_B].tolist(), strict=True)
    for where, ids, end, prompt in marks:
        out[where] = Denoised(ids + filler, end, forwards, forwards * (prompt + d.gen_length))
