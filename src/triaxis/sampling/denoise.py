"""The block denoising loop: prompts in, committed tokens out, with the work counted.

Exact with respect to LLaDA generate.py at temperature 0 (parity tests), and cheaper without changing a
token: logits are made for the current block only, the last layer runs there only, rows whose end mark
is committed leave. Knows networks only by `hidden` and `head`.

B rows, L canvas tokens, K block tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    order: list[int]  # step that committed each position, -1 where the row left before
    chances: list[float]  # probability of each token when it was committed, 0 where it was not
    path: list[list[int]]  # with `watch`: the whole response as predicted at each step


class Moment(NamedTuple):
    """Where the denoising of a batch stands, just before a forward pass."""

    block: int
    blocks: int
    step: int  # within the block
    steps: int  # a block
    rows: Tensor  # (B,) the caller's row numbers
    masked_B: Tensor  # (B,) share of the response still hidden, float32


@dataclass(slots=True)
class _Rows:
    """The rows still at work. Right-padded, so that every row's positions count from its own column 0."""

    where: Tensor  # (B,) index into the caller's rows
    canvas: Tensor  # (B, L)
    prompt: Tensor  # (B,) prompt lengths
    valid: Tensor | None  # (B, L), None when nothing is padded
    keys: Tensor  # (B,) random stream keys
    order: Tensor  # (B, R) step that committed each response position, -1 before
    chances: Tensor  # (B, R) float32
    path: list[Tensor] = field(default_factory=list)  # of each step, (B, R)

    def keep(self, stay_B: Tensor) -> None:
        self.where, self.canvas, self.prompt = self.where[stay_B], self.canvas[stay_B], self.prompt[stay_B]
        self.keys, self.order, self.chances = self.keys[stay_B], self.order[stay_B], self.chances[stay_B]
        self.path = [step_BR[stay_B] for step_BR in self.path]
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
    order = torch.full((len(prompts), d.gen_length), -1, device=device)
    chances = torch.zeros(len(prompts), d.gen_length, device=device)
    canvas, streams = torch.tensor(rows, device=device), torch.tensor(keys, device=device)
    return _Rows(everyone, canvas, prompt, valid, streams, order, chances)


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


def choose(
    logits_BKV: Tensor, keys_B: Tensor, step: int, places_BK: Tensor, d: Decode
) -> tuple[Tensor, Tensor, Tensor]:
    """The token wanted at each position, its rank in the order of commitment, and its probability, each (B, K).

    Gumbel-max in float64 as generate.py does: argmax of exp(l) / (-log u)^T, written l - T log(-log u).
    The probability is the un-noised softmax in float32; with low-confidence remasking it is the rank.
    """
    if d.temperature > 0:
        u = uniforms(keys_B, TOKENS, step, places_BK, logits_BKV.shape[-1])
        ids = (logits_BKV.double() - d.temperature * torch.log(-torch.log(u))).argmax(-1)
    else:
        ids = logits_BKV.argmax(-1)
    chance = logits_BKV.float().softmax(-1).gather(-1, ids[..., None])[..., 0]
    if d.remasking == "random":
        return ids, uniforms(keys_B, ORDER, step, places_BK, 1)[..., 0].float(), chance
    return ids, chance, chance


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
    before: Callable[[Moment], None] | None = None,
    watch: bool = False,
) -> list[Denoised]:
    """Complete each prompt with its own random stream, in order. A row does not depend on its batch mates.

    before: called before every forward pass; adapters are switched there. watch: predict the whole response at
    every step and keep it (`Denoised.path`), which pays for the head on all of it.
    """
    rows = _lay_out(prompts, keys, d, mask_id, device)
    ends = torch.tensor(list(eos_ids), device=device)
    out: list[Denoised | None] = [None] * len(prompts)
    forwards = 0
    offsets = torch.arange(d.gen_length if watch else d.block_length, device=device)[None]
    for block in range(d.blocks):
        for step, count in enumerate(d.commits(d.block_length)):
            if before is not None:
                hidden = (rows.order < 0).float().mean(1)
                before(Moment(block, d.blocks, step, d.steps // d.blocks, rows.where, hidden))
            _step(network, rows, offsets, (block, step, count), d, mask_id)
            forwards += 2 if d.cfg_scale > 0 else 1
        span = slice(block * d.block_length, (block + 1) * d.block_length)
        done = rows.canvas.gather(1, rows.prompt[:, None] + torch.arange(span.start, span.stop, device=device))
        ended = torch.isin(done, ends).any(1)
        leave = torch.ones_like(ended) if block + 1 == d.blocks else ended & (d.stop == "eos_block")
        if leave.any():
            _retire(rows, leave, span.stop, forwards, d, ends, out)
            rows.keep(~leave)
            if not len(rows.where):
                break
    return [row for row in out if row is not None]


def _step(
    network: Network, rows: _Rows, offsets: Tensor, at: tuple[int, int, int], d: Decode, mask_id: int
) -> None:
    """One forward pass: commit the block's most confident tokens and note when and how likely they were."""
    block, step, count = at
    whole = offsets.shape[1] > d.block_length  # watched: logits of the whole response, of which the block is a part
    places = offsets if whole else offsets + block * d.block_length
    logits = _logits(network, rows, rows.prompt[:, None] + places, d, mask_id)
    number = block * (d.steps // d.blocks) + step
    span = slice(block * d.block_length, (block + 1) * d.block_length)
    mine = logits[:, span] if whole else logits
    spots = places[:, span] if whole else places
    select = rows.prompt[:, None] + spots
    ids, rank, chance = choose(mine, rows.keys, number, spots.expand_as(select), d)
    was = rows.canvas.gather(1, select)
    now = commit(was, ids, rank, count, mask_id)
    fresh = now != was
    rows.order[:, span] = torch.where(fresh, number, rows.order[:, span])
    rows.chances[:, span] = torch.where(fresh, chance, rows.chances[:, span])
    rows.canvas = rows.canvas.scatter(1, select, now)
    if whole:
        response = rows.canvas.gather(1, rows.prompt[:, None] + places)
        rows.path.append(torch.where(response == mask_id, logits.argmax(-1), response))


def _retire(
    rows: _Rows, leave_B: Tensor, done: int, forwards: int, d: Decode, ends: Tensor, out: list[Denoised | None]
) -> None:
    """Write the leaving rows to `out`: tokens denoised so far, end marks for what was not."""
    select = rows.prompt[leave_B][:, None] + torch.arange(done, device=leave_B.device)[None]
    texts = rows.canvas[leave_B].gather(1, select)
    filler = [int(ends[0])] * (d.gen_length - done)
    path = torch.stack(rows.path, 1)[leave_B].tolist() if rows.path else [[]] * len(texts)
    marks = zip(
        rows.where[leave_B].tolist(), texts.tolist(), torch.isin(texts, ends).any(1).tolist(),
        rows.prompt[leave_B].tolist(), rows.order[leave_B].tolist(), rows.chances[leave_B].tolist(), path, strict=True,
    )  # fmt: skip
    for where, ids, end, prompt, order, chances, steps in marks:
        out[where] = Denoised(
            ids + filler, end, forwards, forwards * (prompt + d.gen_length), order, chances, steps
        )
