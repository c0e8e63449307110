"""The choice of a token as one Triton kernel: noise, argmax and softmax in one reading of the logits. GPU only.

Inductor does not take splitmix64 on int64; by hand it is short, in uint64. The draws are those of `noise.py` bit for
bit, so a row has the same random numbers on a CPU and a GPU. Imported late: torch for CPUs brings no Triton.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from triaxis.sampling.noise import TOKENS

triton: Any = import_module("triton")
tl: Any = import_module("triton.language")
PROGRAMS = 1024  # wanted at least: a few for each multiprocessor; a row of logits is split among them
BLOCK = 1024

# Above 2^63, so that Triton takes them as uint64, whose shifts are logical.
GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
M1 = tl.constexpr(0xBF58476D1CE4E5B9)
M2 = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _mix(x):  # type: ignore[no-untyped-def]
    x = x + GOLDEN
    x = (x ^ (x >> 30)) * M1
    x = (x ^ (x >> 27)) * M2
    return x ^ (x >> 31)


@triton.jit  # type: ignore[untyped-decorator]
def _scan(  # type: ignore[no-untyped-def]
    logits, keys, steps, places, heat, best, where, most, total, width, part, K: tl.constexpr, SPLIT: tl.constexpr,
    STREAM: tl.constexpr, NOISE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One part of one position's logits: the best noisy logit and its id, the greatest logit and the sum of exp."""
    row, share = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, SIZE).to(tl.int64)
    if NOISE:
        key = tl.load(keys + row // K).to(tl.uint64)
        place = tl.load(places + row).to(tl.uint64)
        step = (tl.load(steps + row // K) * 8 + STREAM).to(tl.uint64)
        base = _mix(_mix(_mix(key) + place) + step)
        t = tl.load(heat)  # a float64 tensor: scalars come as float32
    top = tl.full([SIZE], float("-inf"), tl.float64)
    top_at = tl.zeros([SIZE], tl.int64)
    high = tl.full([SIZE], -1e30, tl.float32)  # finite: -inf less -inf is no number
    mass = tl.zeros([SIZE], tl.float32)
    first = share.to(tl.int64) * part
    last = tl.minimum(first + part, width)
    for start in range(first, last, SIZE):
        at = start + lane
        x = tl.load(logits + row.to(tl.int64) * width + at, mask=at < last, other=float("-inf")).to(tl.float32)
        wanted = x.to(tl.float64)
        if NOISE:
            bits = (_mix(base + at.to(tl.uint64) * GOLDEN) >> 12).to(tl.int64)
            u = (bits.to(tl.float64) + 0.5) * 2.220446049250313e-16  # 2^-52, exact in any width
            wanted = wanted - t * tl.log(-tl.log(u))
        better = wanted > top  # a tie keeps the earlier one
        top, top_at = tl.where(better, wanted, top), tl.where(better, at, top_at)
        now = tl.maximum(high, x)
        mass = mass * tl.exp(high - now) + tl.exp(x - now)
        high = now
    out = row * SPLIT + share
    peak, ceiling = tl.max(top, 0), tl.max(high, 0)
    tl.store(best + out, peak)
    tl.store(where + out, tl.min(tl.where(top == peak, top_at, width), 0))
    tl.store(most + out, ceiling)
    tl.store(total + out, tl.sum(mass * tl.exp(high - ceiling), 0))


def pick(logits_BKV: Tensor, keys_B: Tensor, step: Tensor, places_BK: Tensor, heat: float) -> tuple[Tensor, Tensor]:
    """As `graphs.picked`: the argmax of the logits with noise, (B, K), and its softmax without, float32."""
    b, k, width = logits_BKV.shape
    split = max(1, min(32, PROGRAMS // (b * k)))
    part = -(-width // (split * BLOCK)) * BLOCK
    device = logits_BKV.device
    logits = logits_BKV.contiguous()
    steps = step.reshape(-1).expand(b).contiguous()
    best = torch.empty((b, k, split), dtype=torch.float64, device=device)
    where = torch.empty((b, k, split), dtype=torch.long, device=device)
    most, total = (torch.empty((b, k, split), dtype=torch.float32, device=device) for _ in range(2))
    t = torch.full((1,), heat, dtype=torch.float64, device=device)
    _scan[(b * k, split)](
        logits, keys_B.contiguous(), steps, places_BK.contiguous(), t, best, where, most, total, width, part,
        K=k, SPLIT=split, STREAM=TOKENS, NOISE=heat > 0, SIZE=BLOCK,
    )  # fmt: skip
    peak = best.amax(-1, keepdim=True)
    ids = torch.where(best == peak, where, width).amin(-1)  # the lowest id of the best, also where parts tie
    ids = ids.clamp(max=width - 1)  # logits that are no numbers have no best; an id outside would be another error
    high = most.amax(-1, keepdim=True)
    mass = (total * (most - high).exp()).sum(-1)
    chosen = logits.gather(-1, ids[..., None])[..., 0].float()
    return ids, (chosen - high[..., 0]).exp() / mass


# ---------------------------------------------------------------- what a layer does between its products
#
# Each reads and writes its tensors once. Arithmetic is in float32 and rounded where the layer's own functions round
# (models/parts.py), so that a layer of these is a layer of those up to the order of sums.


@triton.jit  # type: ignore[untyped-decorator]
def _norm(x, weight, out, x_row, out_row, eps, WIDTH: tl.constexpr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, SIZE)
    inside = lane < WIDTH
    v = tl.load(x + row * x_row + lane, mask=inside, other=0.0).to(tl.float32)
    v = v * tl.rsqrt(tl.sum(v * v, 0) / WIDTH + eps)
    kind = out.dtype.element_ty
    w = tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + lane, (v.to(kind).to(tl.float32) * w).to(kind), mask=inside)


def norm(x_TD: Tensor, weight: Tensor, eps: float, out_TD: Tensor) -> None:
    """RMSNorm of each row into `out_TD`, whose rows may lie further apart than they are wide."""
    rows, width = x_TD.shape
    size = triton.next_power_of_2(width)
    _norm[(rows,)](
        x_TD, weight, out_TD, x_TD.stride(0), out_TD.stride(0), eps, WIDTH=width, SIZE=size,
        num_warps=8 if size >= 4096 else 4,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(  # type: ignore[no-untyped-def]
    x, cos, sin, x_row, table_batch, table_row, tokens, heads, head_width,
    HALF: tl.constexpr, HEADS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    lane, head = tl.arange(0, LANES), tl.arange(0, HEADS)
    turns = lane < HALF
    here = (row // tokens) * table_batch + (row % tokens) * table_row + lane
    c1, s1 = tl.load(cos + here, mask=turns), tl.load(sin + here, mask=turns)
    c2, s2 = tl.load(cos + here + HALF, mask=turns), tl.load(sin + here + HALF, mask=turns)
    at = x + row.to(tl.int64) * x_row + head[:, None] * head_width + lane[None]
    inside = (head < heads)[:, None] & turns[None]
    kind = x.dtype.element_ty
    left = tl.load(at, mask=inside).to(tl.float32)
    right = tl.load(at + HALF, mask=inside).to(tl.float32)
    tl.store(at, (left * c1[None] - right * s1[None]).to(kind), mask=inside)
    tl.store(at + HALF, (right * c2[None] + left * s2[None]).to(kind), mask=inside)


def rotate_(x_BQN: Tensor, heads: int, head_width: int, cos: Tensor, sin: Tensor) -> None:
    """Rotate the first `heads` heads of every token in place. cos, sin: (Q, E) or (B, 1, Q, E), as in `Canvas`."""
    b, q, _ = x_BQN.shape
    half = cos.shape[-1] // 2
    _rotate[(b * q,)](
        x_BQN, cos, sin, x_BQN.stride(1), cos.stride(0) if cos.dim() == 4 else 0, cos.stride(-2), q, heads, head_width,
        HALF=half, HEADS=triton.next_power_of_2(heads), LANES=triton.next_power_of_2(half), num_warps=8,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(x, out, x_row, out_row, WIDTH: tl.constexpr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = lane < WIDTH
    kind = out.dtype.element_ty
    gate = tl.load(x + row * x_row + lane, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_row + WIDTH + lane, mask=inside, other=0.0).to(tl.float32)
    gated = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    tl.store(out + row * out_row + lane, (gated * up).to(kind), mask=inside)


def swiglu(gate_up_BQF: Tensor, out_BQF: Tensor) -> None:
    """silu(gate) * up of gate and up side by side, (B, Q, 2 F), into (B, Q, F), whose rows may lie further apart."""
    b, q, both = gate_up_BQF.shape
    width = both // 2
    size = min(2048, triton.next_power_of_2(width))
    _swiglu[(b * q, triton.cdiv(width, size))](
        gate_up_BQF, out_BQF, gate_up_BQF.stride(1), out_BQF.stride(1), WIDTH=width, SIZE=size
    )


@triton.jit  # type: ignore[untyped-decorator]
def _remember(  # type: ignore[no-untyped-def]
    k, v, keys, values, places, k_row, v_row, m_batch, m_head, m_place, tokens, heads, head_width,
    HEADS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    lane, head = tl.arange(0, LANES), tl.arange(0, HEADS)
    inside = (head < heads)[:, None] & (lane < head_width)[None]
    at = head[:, None] * head_width + lane[None]
    wide = row.to(tl.int64)
    to = (row // tokens).to(tl.int64) * m_batch + tl.load(places + row) * m_place + head[:, None] * m_head + lane[None]
    tl.store(keys + to, tl.load(k + wide * k_row + at, mask=inside), mask=inside)
    tl.store(values + to, tl.load(v + wide * v_row + at, mask=inside), mask=inside)


def remember(k_BQGE: Tensor, v_BQGE: Tensor, kept: tuple[Tensor, Tensor], places_BQ: Tensor) -> None:
    """Write keys and values at their places into a layer's memory, (B, G, L, E)."""
    b, q, heads, width = k_BQGE.shape
    keys, values = kept
    assert keys.stride() == values.stride()
    _remember[(b * q,)](
        k_BQGE, v_BQGE, keys, values, places_BQ.contiguous(), k_BQGE.stride(1), v_BQGE.stride(1), keys.stride(0),
        keys.stride(1), keys.stride(2), q, heads, width,
        HEADS=triton.next_power_of_2(heads), LANES=triton.next_power_of_2(width),
    )  # fmt: skip
