"""The block denoising loop: prompts in, committed tokens out, with the work counted.

Exact with respect to LLaDA generate.py at temperature 0 (parity tests), and cheaper without changing a
token: logits are made for the current block only, the last layer runs there only, rows whose end mark
is committed leave. Knows networks only by `hidden` and `head`.

B rows, L canvas tokens, K block tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from triaxis.models.parts import Decoder, Memory, Shape
from triaxis.sampling.cache import Keeper, Plan
from triaxis.sampling.graphs import Graphs, compile_layers, give_up, graphs_of, pick
from triaxis.sampling.noise import ORDER, uniforms, with_noise
from triaxis.sampling.schedule import Decode


class Network(Protocol):
    """What the loop needs of a diffusion network."""

    shape: Shape

    @property
    def dtype(self) -> torch.dtype: ...
    def hidden(
        self, ids_BL: Tensor, valid_BL: Tensor | None = None, select_BK: Tensor | None = None,
        memory: Memory | None = None, places_BQ: Tensor | None = None,
    ) -> Tensor: ...  # fmt: skip
    def head(self, hidden: Tensor) -> Tensor: ...


class Denoised(NamedTuple):
    """One finished row: its gen_length tokens, whether an end mark is among them, and what it cost."""

    ids: list[int]
    ended: bool
    forwards: int  # forward passes this row took part in
    tokens: int  # canvas positions those passes computed for this row, prompt included; with a cache, fewer
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
    """Rows at work. Right-padded, so that every row's positions count from its own column 0."""

    where: Tensor  # (B,) index into the caller's rows
    canvas: Tensor  # (B, L)
    prompt: Tensor  # (B,) prompt lengths
    start: Tensor  # (B,) first position of the first block: the prompt's end, or before it where blocks are aligned
    end: Tensor  # (B,) what follows the last block
    valid: Tensor | None  # (B, L), None when nothing is padded
    keys: Tensor  # (B,) random stream keys
    forwards: Tensor  # (B,) passes taken part in
    tokens: Tensor  # (B,) positions those passes computed
    order: Tensor  # (B, L) step that committed each position, -1 before
    chances: Tensor  # (B, L) float32

    def take(self, rows_B: Tensor) -> _Rows:
        """Those rows, as a copy. rows_B: numbers or a mask."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return _Rows(**{name: None if value is None else value[rows_B] for name, value in values})  # type: ignore[arg-type]

    def put(self, rows_B: Tensor, part: _Rows) -> None:
        """Write back what a pass changed."""
        for name in ("canvas", "forwards", "tokens", "order", "chances"):
            getattr(self, name)[rows_B] = getattr(part, name)


def _lay_out(
    prompts: Sequence[Sequence[int]], keys: Sequence[int], d: Decode, mask_id: int, device: torch.device, aligned: bool
) -> _Rows:
    """Prompts and masks. aligned: blocks count from position 0, so the first may begin inside the prompt."""
    k = d.block_length
    lengths = [len(p) for p in prompts]
    starts = [n // k * k if aligned else n for n in lengths]
    ends = [s + -(-(n + d.gen_length - s) // k) * k for s, n in zip(starts, lengths, strict=True)]
    width = max(ends)
    canvas = torch.tensor([[*p, *[mask_id] * (width - len(p))] for p in prompts], device=device)
    end = torch.tensor(ends, device=device)
    valid = None if min(ends) == width else torch.arange(width, device=device)[None] < end[:, None]
    everyone = torch.arange(len(prompts), device=device)
    return _Rows(
        everyone, canvas, torch.tensor(lengths, device=device), torch.tensor(starts, device=device), end, valid,
        torch.tensor(keys, device=device), torch.zeros_like(everyone), torch.zeros_like(everyone),
        torch.full_like(canvas, -1), torch.zeros(canvas.shape, device=device),
    )  # fmt: skip


def _logits(network: Network, rows: _Rows, select_BK: Tensor, d: Decode, mask_id: int, plan: Plan) -> Tensor:
    """Logits of the block, (B, K, V), guided when cfg_scale > 0: the second pass has the prompt hidden."""
    memory, places = plan
    if d.cfg_scale == 0:
        return network.head(network.hidden(rows.canvas, rows.valid, select_BK, memory, places))
    place = torch.arange(rows.canvas.shape[1], device=rows.canvas.device)[None]
    blind = torch.where(place < rows.prompt[:, None], mask_id, rows.canvas)
    valid, canvas, select, places = (
        None if t is None else torch.cat(t)
        for t in (
            None if rows.valid is None else (rows.valid, rows.valid), (rows.canvas, blind), (select_BK, select_BK),
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
) -> list[Denoised]:
    """Complete each prompt with its own random stream, in order. A row does not depend on its batch mates.

    before: called before every forward pass; adapters are switched there. watch: predict the whole response at
    every step and keep it (`Denoised.path`), which pays for the head on all of it. graphed: on a GPU, run steps as CUDA
    graphs where they can be.
    """
    aligned = network.shape.attend_block > 0
    rows = _lay_out(prompts, keys, d, mask_id, device, aligned)
    job = _Job(network, d, mask_id, aligned, before, watch, Keeper.of(d, network.shape, network.dtype, watch))
    if graphed and isinstance(network, Decoder):
        job.graphs = _graphs(network, device, job)
    ends = torch.tensor(list(eos_ids), device=device)
    out: list[Denoised | None] = [None] * len(prompts)
    block = 0
    while len(rows.where):
        job.block(rows, block)
        block += 1
        stop = rows.start + block * d.block_length
        leave = stop >= rows.end
        if d.stop == "eos_block":
            place = torch.arange(rows.canvas.shape[1], device=device)[None]
            mine = (place >= rows.prompt[:, None]) & (place < stop[:, None])
            leave = leave | (torch.isin(rows.canvas, ends) & mine).any(1)
        if leave.any():
            _retire(rows.take(leave), block, job, ends, out)
            rows = rows.take(~leave)
            job.keeper.keep(~leave)
    return [row for row in out if row is not None]


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

    def block(self, rows: _Rows, block: int) -> None:
        """Denoise one block of every row. Rows that have none hidden any more wait for the others without a pass."""
        d, k = self.d, self.d.block_length
        counts = d.commits(k)
        ragged = d.by_confidence or self.aligned
        span = rows.start[:, None] + block * k + torch.arange(k, device=rows.where.device)
        for step in range(k if d.by_confidence else len(counts)):
            at, part, mine = None, rows, span
            if ragged:
                hidden = (rows.canvas.gather(1, span) == self.mask_id).any(1)
                if not hidden.any():
                    break
                if not hidden.all():
                    at = hidden.nonzero()[:, 0]
                    part, mine = rows.take(at), span[at]
            count = 0 if d.by_confidence else counts[step]
            if self.graphs is not None and self.graphed_step(rows, span, (block, step, count)):
                continue
            self.step(part, mine, at, (block, step, count))
            if at is not None:
                rows.put(at, part)

    def step(self, rows: _Rows, span_BK: Tensor, at: Tensor | None, now: tuple[int, int, int]) -> None:
        """One forward pass: commit tokens of the block and note when and how likely they were. Changes `rows`."""
        d, (block, step, count) = self.d, now
        self.announce(rows, block, step)
        select = wanted = self.hidden_of(rows, span_BK) if step else span_BK
        if self.watch:
            reach = d.gen_length + (d.block_length if self.aligned else 0)
            wanted = rows.start[:, None] + torch.arange(reach, device=select.device)
            wanted = wanted.clamp(max=rows.canvas.shape[1] - 1)
        plan = self.keeper.plan(rows.canvas, rows.start, rows.end, block, step, at)
        logits = _logits(self.network, rows, wanted, d, self.mask_id, plan)
        mine = logits
        if self.watch:
            spots = select - rows.start[:, None]
            mine = logits.gather(1, spots[..., None].expand(-1, -1, logits.shape[-1]))
        rows.tokens += self.passes * (rows.end if plan.places_BQ is None else plan.places_BQ.shape[1])
        self.commit(rows, select, mine, count)
        if self.watch:
            spots = (rows.prompt - rows.start)[:, None] + torch.arange(d.gen_length, device=select.device)
            response = rows.canvas.gather(1, rows.start[:, None] + spots)
            seen = torch.where(response == self.mask_id, logits.argmax(-1).gather(1, spots), response)
            for where, ids in zip(rows.where.tolist(), seen.tolist(), strict=True):
                self.paths.setdefault(where, []).append(ids)

    def announce(self, rows: _Rows, block: int, step: int) -> None:
        """Tell `before` where the batch stands."""
        if self.before is None:
            return
        d = self.d
        masks = (rows.canvas == self.mask_id) & (rows.order < 0)
        place = torch.arange(masks.shape[1], device=masks.device)[None]
        masks &= (place >= rows.prompt[:, None]) & (place < (rows.prompt + d.gen_length)[:, None])
        share = masks.sum(1) / d.gen_length
        self.before(Moment(min(block, d.blocks - 1), d.blocks, step, d.steps // d.blocks, rows.where, share))

    def graphed_step(self, rows: _Rows, span_BK: Tensor, now: tuple[int, int, int]) -> bool:
        """A step as a CUDA graph; False where that failed, and the step is still to do."""
        block, step, count = now
        assert self.graphs is not None
        self.announce(rows, block, step)
        full = step == 0 or (self.d.refresh > 0 and step % self.d.refresh == 0)
        try:
            self.graphs.step(rows, span_BK, count, full and self.d.cache != "none")
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            give_up(self.graphs.network, e)
            self.graphs = None
            return False
        return True

    def whole_step(
        self, rows: _Rows, span_BK: Tensor, count: Tensor, memory: Memory | None, places_BQ: Tensor | None
    ) -> None:
        """A step on tensors alone, in place: what a graph records."""
        logits = self.network.head(self.network.hidden(rows.canvas, rows.valid, span_BK, memory, places_BQ))
        rows.tokens += rows.end if places_BQ is None else places_BQ.shape[1]
        self.commit(rows, span_BK, logits, count)

    def hidden_of(self, rows: _Rows, span_BK: Tensor) -> Tensor:
        """The hidden positions of the block, lowest first; rows with fewer than others get some that are not.

        On a GPU the whole block: to know how many are hidden, the host would wait for it at every step.
        """
        if span_BK.is_cuda:
            return span_BK
        hidden = rows.canvas.gather(1, span_BK) == self.mask_id
        most = int(hidden.sum(1).max())
        return span_BK.gather(1, hidden.byte().argsort(dim=1, descending=True, stable=True)[:, :most])

    def commit(self, rows: _Rows, select_BK: Tensor, logits_BKV: Tensor, count: int | Tensor) -> None:
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


def _retire(rows: _Rows, blocks: int, job: _Job, ends: Tensor, out: list[Denoised | None]) -> None:
    """Write rows that leave to `out`: tokens denoised so far, end marks for what was not."""
    d = job.d
    response = rows.prompt[:, None] + torch.arange(d.gen_length, device=ends.device)
    done = response < (rows.start + blocks * d.block_length)[:, None]
    texts = torch.where(done, rows.canvas.gather(1, response), ends[0])
    ended = (torch.isin(texts, ends) & done).any(1)
    marks = zip(
        rows.where.tolist(), texts.tolist(), ended.tolist(), rows.forwards.tolist(), rows.tokens.tolist(),
        rows.order.gather(1, response).tolist(), rows.chances.gather(1, response).tolist(), strict=True,
    )  # fmt: skip
    for where, ids, end, forwards, tokens, order, chances in marks:
        out[where] = Denoised(ids, end, forwards, tokens, order, chances, job.paths.get(where, []))
