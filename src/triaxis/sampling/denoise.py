"""The block denoising loop: prompts in, committed tokens out, with the work counted.

Exact with respect to LLaDA generate.py at temperature 0 (parity tests), and cheaper without changing a
token: logits are made for the current block only, the last layer runs there only, rows whose end mark
is committed leave and others enter in their place. Knows networks only by `hidden` and `head`.

Rows leave between blocks, so new ones enter there: all rows of a batch are at the same step of their own block, and the
host knows where each stands without asking the device. Where the schedule does not fix how many passes a block takes
(threshold, factor), every row goes on by itself, and rows leave and enter after any pass.

B rows, L canvas tokens, K block tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from triaxis.models.parts import Decoder, Memory, Shape
from triaxis.sampling.cache import Keeper, Plan
from triaxis.sampling.compiled import can_do_without, compile_layers, in_kernels, pick
from triaxis.sampling.graphs import Graphs, give_up, graphs_of
from triaxis.sampling.noise import ORDER, uniforms, with_noise
from triaxis.sampling.rows import Denoised, Layout, Queue, Rows, results
from triaxis.sampling.schedule import Decode
from triaxis.sampling.seats import SIZES


class Network(Protocol):
    """What the loop needs of a diffusion network."""

    shape: Shape

    @property
    def dtype(self) -> torch.dtype: ...
    def hidden(
        self, ids_BL: Tensor, valid: Tensor | None = None, select_BK: Tensor | None = None,
        memory: Memory | None = None, places_BQ: Tensor | None = None, packed: int = 0,
    ) -> Tensor: ...  # fmt: skip
    def head(self, hidden: Tensor) -> Tensor: ...


class Moment(NamedTuple):
    """Where the rows of a batch stand, just before a forward pass."""

    rows: list[int]  # the caller's row numbers
    block: list[int]  # of each row
    blocks: int
    step: list[int]  # of each row, within its block
    steps: int  # a block
    masked: Callable[[], list[float]]  # share of each response still hidden; asking waits for the device


def _logits(network: Network, rows: Rows, select_BK: Tensor, d: Decode, mask_id: int, plan: Plan) -> Tensor:
    """Logits of the block, (B, K, V), guided when cfg_scale > 0: the second pass has the prompt hidden."""
    memory, places = plan
    if d.cfg_scale == 0:
        return network.head(network.hidden(rows.canvas, rows.lengths, select_BK, memory, places))
    place = torch.arange(rows.canvas.shape[1], device=rows.canvas.device)[None]
    blind = torch.where(place < rows.prompt[:, None], mask_id, rows.canvas)
    valid, canvas, select, places = (
        None if t is None else torch.cat(t)
        for t in (
            None if rows.lengths is None else (rows.lengths, rows.lengths),
            (rows.canvas, blind), (select_BK, select_BK),
            None if places is None else (places, places),
        )
    )  # fmt: skip
    assert canvas is not None
    seen, unseen = network.head(network.hidden(canvas, valid, select, memory, places)).chunk(2)
    return unseen + (d.cfg_scale + 1) * (seen - unseen)


def choose(
    logits_BKV: Tensor, keys_B: Tensor, step: int | Tensor, places_BK: Tensor, d: Decode
) -> tuple[Tensor, Tensor, Tensor]:
    """The token wanted at each position, its rank in the order of commitment, and its probability, each (B, K).

    Gumbel-max in float64 as generate.py does: argmax of exp(l) / (-log u)^T, written l - T log(-log u).
    The probability is the un-noised softmax in float32; with low-confidence remasking it is the rank.
    """
    if logits_BKV.is_cuda:
        ids, chance = pick(
            logits_BKV, keys_B, torch.as_tensor(step, device=logits_BKV.device), places_BK, d.temperature
        )
    else:
        noisy = with_noise(logits_BKV, keys_B, step, places_BK, d.temperature) if d.temperature > 0 else logits_BKV
        ids = noisy.argmax(-1)
        chance = logits_BKV.float().softmax(-1).gather(-1, ids[..., None])[..., 0]
    if d.remasking == "random":
        return ids, uniforms(keys_B, ORDER, step, places_BK, 1)[..., 0].float(), chance
    return ids, chance, chance


def commit(block_BK: Tensor, ids_BK: Tensor, confidence_BK: Tensor, count: int | Tensor, mask_id: int) -> Tensor:
    """The block after its `count` most confident hidden positions took their token; ties go to the lowest position."""
    hidden = block_BK == mask_id
    ranked = torch.where(hidden, confidence_BK, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    first = (torch.arange(order.shape[1], device=order.device) < count).expand_as(order)
    chosen = torch.zeros_like(hidden).scatter_(1, order, first) & hidden
    return torch.where(chosen, ids_BK, block_BK)


def commit_sure(block_BK: Tensor, ids_BK: Tensor, chance_BK: Tensor, d: Decode, mask_id: int) -> Tensor:
    """The block after every hidden position sure enough took its token, the surest one at any rate (`Decode`)."""
    hidden = block_BK == mask_id
    ranked = torch.where(hidden, chance_BK, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    place = torch.arange(ranked.shape[1], device=ranked.device)
    if d.factor is not None:
        enough = (place + 2) * (1 - ranked.gather(1, order)) <= d.factor  # place + 1 tokens so far
    else:
        enough = ranked.gather(1, order) >= (d.threshold or 0.0)
    chosen = torch.zeros_like(hidden).scatter_(1, order, enough | (place == 0)) & hidden
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
    graphed: bool = True,
    room: int = 0,
    mix: bool = True,
    done: Callable[[dict[int, Denoised]], None] | None = None,
) -> list[Denoised]:
    """Complete each prompt with its own random stream, in order. A row does not depend on its batch mates.

    before: called before every forward pass; adapters are switched there. watch: predict the whole response at
    every step and keep it (`Denoised.path`), which pays for the head on all of it. graphed: on a GPU, run steps as CUDA
    graphs where they can be. room: canvas tokens of one pass, padding included, but at least one row; other prompts
    wait in their order and enter as rows leave; 0: all at once. mix: whether rows may share passes with rows at other
    blocks; if not, prompts enter when the batch before is through. done: called with each set of rows that leaves.
    """
    layout = Layout(d, mask_id, device, network.shape.attend_block > 0)
    job = _Job(network, d, mask_id, layout.aligned, before, watch, Keeper.of(d, network.shape, network.dtype, watch))
    if graphed and isinstance(network, Decoder):
        job.graphs = _graphs(network, device, job)
    queue = Queue(prompts, keys, layout, room, SIZES if job.graphs else ())
    mix = mix and mixes(d, network.shape)
    ends = torch.tensor(list(eos_ids), device=device)
    out: dict[int, Denoised] = {}
    rows: Rows | None = None
    while queue or rows is not None:
        rows = queue.enter(rows) if mix or rows is None else rows
        job.block(rows, alone=mix and d.by_confidence)
        leave = _leaving(rows, d, ends)
        if not any(leave):
            continue
        gone = results(rows.take([i for i, x in enumerate(leave) if x]), d, ends, job.paths)
        out.update(gone)
        if done is not None:
            done(gone)
        stay = [i for i, x in enumerate(leave) if not x]
        job.keeper.keep(stay)
        rows = rows.take(stay) if stay else None
    return [out[i] for i in range(len(prompts))]


def mixes(d: Decode, shape: Shape) -> bool:
    """Whether rows at different blocks can share a pass.

    Not where what is kept of the canvas, or how much of it is computed, follows from the batch's block: block-causal
    networks, a prefix cache, a cache whose blocks take as many passes as they need.
    """
    return not shape.attend_block and (d.cache == "none" or (d.cache == "dual" and not d.by_confidence))


def _leaving(rows: Rows, d: Decode, ends: Tensor) -> list[bool]:
    """Which rows are finished. The device is asked between blocks, and only where an end mark stops a row."""
    leave = [p.block >= p.blocks for p in rows.at]
    if d.stop == "canvas" or all(leave) or all(p.step for p in rows.at):
        return leave
    place = torch.arange(rows.width, device=ends.device)[None]
    mine = (place >= rows.prompt[:, None]) & (place < rows.first[:, None])
    marked = (torch.isin(rows.canvas, ends) & mine).any(1).tolist()
    return [a or b for a, b in zip(leave, marked, strict=True)]


def _graphs(network: Decoder, device: torch.device, job: _Job) -> Graphs | None:
    """On a GPU: compile the layers, and make a step one graph where it can be."""
    if device.type != "cuda":
        return None
    compile_layers(network)
    graphs = None if job.watch else graphs_of(network, job.d, job.mask_id, job.whole_step)
    if graphs is not None and graphs.switch is None and job.before is not None:
        return None  # whatever is done before a pass, a graph would not see it
    return graphs


@dataclass(slots=True)
class _Job:
    """One call of `denoise`: what does not change while its rows do."""

    network: Network
    d: Decode
    mask_id: int
    aligned: bool
    before: Callable[[Moment], None] | None
    watch: bool
    keeper: Keeper
    paths: dict[int, list[list[int]]] = field(default_factory=dict)  # with watch: row -> prediction at each step
    graphs: Graphs | None = None

    @property
    def passes(self) -> int:
        """Passes a step takes."""
        return 2 if self.d.cfg_scale > 0 else 1

    def block(self, rows: Rows, alone: bool) -> None:
        """Denoise a block of every row; alone: one pass, after which each row that is through its block goes on."""
        k, over = self.d.block_length, [True] * len(rows.at)
        span = rows.first[:, None] + torch.arange(k, device=rows.first.device)
        if alone:
            self.step(rows, span, None, 0)
            over = [not h or p.step >= k for h, p in zip(self.hidden_left(rows, span), rows.at, strict=True)]
        elif self.d.by_confidence or self.aligned:
            self.ragged_block(rows, span)
        else:
            hidden = k
            for count in self.d.commits(k):
                if self.graphs is None or not self.graphed_step(rows, span, count, hidden):
                    self.step(rows, span, None, count)
                hidden -= count
        rows.advance(over, k)

    def ragged_block(self, rows: Rows, span_BK: Tensor) -> None:
        """A block whose rows need unlike numbers of passes: those with none hidden wait for the others without one."""
        counts = [0] * self.d.block_length if self.d.by_confidence else self.d.commits(self.d.block_length)
        for count in counts:
            hidden = [i for i, h in enumerate(self.hidden_left(rows, span_BK)) if h]
            if not hidden:
                return
            if len(hidden) == len(rows.at):
                self.step(rows, span_BK, None, count)
                continue
            at = torch.tensor(hidden, device=span_BK.device)
            part = rows.take(hidden)
            self.step(part, span_BK[at], at, count)
            rows.put(at, part)

    def hidden_left(self, rows: Rows, span_BK: Tensor) -> list[bool]:
        """Whether each row has hidden positions in its block."""
        left: list[bool] = (rows.canvas.gather(1, span_BK) == self.mask_id).any(1).tolist()
        return left

    def step(self, rows: Rows, span_BK: Tensor, at: Tensor | None, count: int) -> None:
        """One forward pass: commit tokens of the block and note when and how likely they were. Changes `rows`."""
        d = self.d
        self.announce(rows)
        select = wanted = self.hidden_of(rows, span_BK) if any(p.step for p in rows.at) else span_BK
        if self.watch:
            reach = d.gen_length + (d.block_length if self.aligned else 0)
            wanted = rows.start[:, None] + torch.arange(reach, device=select.device)
            wanted = wanted.clamp(max=rows.width - 1)
        plan = self.keeper.plan(rows.canvas, rows.first, rows.end, rows.at[0].step, at)
        mine = logits = self.logits(rows, wanted, plan)
        if self.watch:
            spots = select - rows.start[:, None]
            mine = logits.gather(1, spots[..., None].expand(-1, -1, logits.shape[-1]))
        rows.tokens += self.passes * (rows.end if plan.places_BQ is None else plan.places_BQ.shape[1])
        self.commit(rows, select, mine, count)
        for place in rows.at:
            place.step += 1
        if self.watch:
            self.note(rows, logits)

    def logits(self, rows: Rows, wanted_BK: Tensor, plan: Plan) -> Tensor:
        """Logits at those positions; where a kernel fails, from the layers without it."""
        try:
            return _logits(self.network, rows, wanted_BK, self.d, self.mask_id, plan)
        except torch.OutOfMemoryError:
            raise
        except Exception as e:
            if not (isinstance(self.network, Decoder) and in_kernels(self.network) and can_do_without(e)):
                raise
            give_up(self.network, e)
            self.graphs = None
            return _logits(self.network, rows, wanted_BK, self.d, self.mask_id, plan)

    def note(self, rows: Rows, logits_BWV: Tensor) -> None:
        """The response as predicted: what is committed, and the most probable tokens elsewhere."""
        spots = (rows.prompt - rows.start)[:, None] + torch.arange(self.d.gen_length, device=logits_BWV.device)
        response = rows.canvas.gather(1, rows.start[:, None] + spots)
        seen = torch.where(response == self.mask_id, logits_BWV.argmax(-1).gather(1, spots), response)
        for place, ids in zip(rows.at, seen.tolist(), strict=True):
            self.paths.setdefault(place.row, []).append(ids)

    def announce(self, rows: Rows) -> None:
        """Tell `before` where the rows stand."""
        if self.before is None:
            return
        d = self.d
        self.before(
            Moment(
                [p.row for p in rows.at], [min(p.block, d.blocks - 1) for p in rows.at], d.blocks,
                [p.step for p in rows.at], d.steps // d.blocks, partial(self.masked, rows),
            )
        )  # fmt: skip

    def masked(self, rows: Rows) -> list[float]:
        """Share of each response still hidden."""
        masks = (rows.canvas == self.mask_id) & (rows.order < 0)
        place = torch.arange(rows.width, device=masks.device)[None]
        masks &= (place >= rows.prompt[:, None]) & (place < (rows.prompt + self.d.gen_length)[:, None])
        share: list[float] = (masks.sum(1) / self.d.gen_length).tolist()
        return share

    def graphed_step(self, rows: Rows, span_BK: Tensor, count: int, hidden: int) -> bool:
        """A step as a CUDA graph; False where that failed, and the step is still to do."""
        step = rows.at[0].step
        assert self.graphs is not None
        self.announce(rows)
        full = step == 0 or (self.d.refresh > 0 and step % self.d.refresh == 0)
        try:
            passes = self.d.steps // self.d.blocks
            self.graphs.step(rows, span_BK, count, full and self.d.cache != "none", hidden, passes)
        except torch.OutOfMemoryError:
            raise
        except Exception as e:  # of a capture or a kernel
            if not can_do_without(e):
                raise
            if not full:  # the block goes on with what it has kept
                self.keeper.memory = self.graphs.memory_of(rows)
            give_up(self.graphs.network, e)
            self.graphs = None
            return False
        for place in rows.at:
            place.step += 1
        return True

    def whole_step(
        self, rows: Rows, span_BK: Tensor, count: Tensor, memory: Memory | None, places_BQ: Tensor | None, asked: int
    ) -> None:
        """A step on tensors alone, in place: what a graph records. asked: the hidden positions of a row are no more."""
        select = span_BK if asked == span_BK.shape[1] else self.first_hidden(rows, span_BK, asked)
        hidden = self.network.hidden(rows.canvas, rows.lengths, select, memory, places_BQ, rows.packed)
        logits = self.network.head(hidden)
        rows.tokens += rows.end if places_BQ is None else places_BQ.shape[1]
        self.commit(rows, select, logits, count)

    def hidden_of(self, rows: Rows, span_BK: Tensor) -> Tensor:
        """The hidden positions of the block, lowest first; rows with fewer than others get some that are not.

        On a GPU the whole block: to know how many are hidden, the host would wait for it at every step.
        """
        if span_BK.is_cuda:
            return span_BK
        most = int((rows.canvas.gather(1, span_BK) == self.mask_id).sum(1).max())
        return self.first_hidden(rows, span_BK, most)

    def first_hidden(self, rows: Rows, span_BK: Tensor, most: int) -> Tensor:
        """So many positions of the block: the hidden ones, lowest first, then others."""
        hidden = rows.canvas.gather(1, span_BK) == self.mask_id
        return span_BK.gather(1, hidden.byte().argsort(dim=1, descending=True, stable=True)[:, :most])

    def commit(self, rows: Rows, select_BK: Tensor, logits_BKV: Tensor, count: int | Tensor) -> None:
        """Choose and commit at the selected positions. A row's step is the number of its passes so far."""
        step_B1 = (rows.forwards // self.passes)[:, None]
        ids, rank, chance = choose(logits_BKV, rows.keys, step_B1, select_BK - rows.prompt[:, None], self.d)
        rows.forwards += self.passes
        was = rows.canvas.gather(1, select_BK)
        if self.d.by_confidence:
            now = commit_sure(was, ids, chance, self.d, self.mask_id)
        else:
            now = commit(was, ids, rank, count, self.mask_id)
        fresh = now != was
        rows.canvas.scatter_(1, select_BK, now)
        rows.order.scatter_(1, select_BK, torch.where(fresh, step_B1, rows.order.gather(1, select_BK)))
        rows.chances.scatter_(1, select_BK, torch.where(fresh, chance, rows.chances.gather(1, select_BK)))
