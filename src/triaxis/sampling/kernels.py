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
KEYS, STAGES, WARPS = 32, 3, 2  # of attention to what is kept: keys read at once, such tiles under way, warps

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


@triton.jit(do_not_specialize=["part", "each"])  # type: ignore[untyped-decorator]
def _scan(  # type: ignore[no-untyped-def]
    logits, keys, steps, places, heat, best, where, most, total, width, part, each,
    STREAM: tl.constexpr, NOISE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One part of one position's logits: the best noisy logit and its id, the greatest logit and the sum of exp.

    each: positions of a row. No number that differs between batches is a constant: every version takes a second.
    """
    row, share = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, SIZE).to(tl.int64)
    if NOISE:
        key = tl.load(keys + row // each).to(tl.uint64)
        place = tl.load(places + row).to(tl.uint64)
        step = (tl.load(steps + row // each) * 8 + STREAM).to(tl.uint64)
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
    out = row * tl.num_programs(1) + share
    peak, ceiling = tl.max(top, 0), tl.max(high, 0)
    tl.store(best + out, peak)
    tl.store(where + out, tl.min(tl.where(top == peak, top_at, width), 0))
    tl.store(most + out, ceiling)
    tl.store(total + out, tl.sum(mass * tl.exp(high - ceiling), 0))


def pick(logits_BKV: Tensor, keys_B: Tensor, step: Tensor, places_BK: Tensor, heat: float) -> tuple[Tensor, Tensor]:
    """As `compiled.picked`: the argmax of the logits with noise, (B, K), and its softmax without, float32."""
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
        k, STREAM=TOKENS, NOISE=heat > 0, SIZE=BLOCK,
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


@triton.jit
def _turned(at, c, s, inside, half):  # type: ignore[no-untyped-def]
    """Both halves of heads, the first at `at`, rotated and rounded. c, s: of either half, which are the same."""
    left = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
    kind = at.dtype.element_ty
    return (left * c - right * s).to(kind), (right * c + left * s).to(kind)


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def _rotate(  # type: ignore[no-untyped-def]
    x, cos, sin, x_row, table_batch, table_row, tokens, heads, head_width,
    HALF: tl.constexpr, HEADS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    lane, head = tl.arange(0, LANES)[None], tl.arange(0, HEADS)[:, None]
    inside = (head < heads) & (lane < HALF)
    table = (row // tokens) * table_batch + (row % tokens) * table_row + lane
    at = x + row.to(tl.int64) * x_row + head * head_width + lane
    c, s = tl.load(cos + table, mask=lane < HALF, other=0.0), tl.load(sin + table, mask=lane < HALF, other=0.0)
    left, right = _turned(at, c, s, inside, HALF)
    tl.store(at, left, mask=inside)
    tl.store(at + HALF, right, mask=inside)


def rotate_(x_BQN: Tensor, heads: int, head_width: int, cos: Tensor, sin: Tensor) -> None:
    """Rotate the first `heads` heads of every token in place.

    cos, sin: (Q, E) or (B, 1, Q, E), as in `Canvas`; their halves are the same (`rope_tables`), and the first is read.
    """
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


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    q1, q2, k1, k2, v1, v2, open_N, most, mass, sum1, sum2, scale,
):  # fmt: skip
    """One tile of keys: the running maximum, the sum of exponentials and the sums of values of each query."""
    s = tl.dot(q1, tl.trans(k1), input_precision="ieee") + tl.dot(q2, tl.trans(k2), input_precision="ieee")
    s = tl.where(open_N[None], s * scale, float("-inf"))
    now = tl.maximum(most, tl.max(s, 1))
    old = tl.exp2(most - now)
    p = tl.exp2(s - now[:, None])
    mass = mass * old + tl.sum(p, 1)
    p = p.to(v1.dtype)
    sum1 = sum1 * old[:, None] + tl.dot(p, v1, input_precision="ieee")
    sum2 = sum2 * old[:, None] + tl.dot(p, v2, input_precision="ieee")
    return now, mass, sum1, sum2


@triton.jit(do_not_specialize=["asking", "fresh", "width", "groups"])  # type: ignore[untyped-decorator]
def _attend_kept(  # type: ignore[no-untyped-def]
    q, kv, keys, values, cos_q, sin_q, cos_k, sin_k, places, lengths, out,
    q_row, kv_row, q_batch, q_table, k_batch, k_table, m_batch, m_head, m_place, asking, fresh, width, groups, scale,
    HEADS: tl.constexpr, EACH: tl.constexpr, HALF: tl.constexpr, LANES: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, PADDED: tl.constexpr, SAME: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)  # neighbours read the heads of one token
    group = head // EACH
    ask, near, lane = tl.program_id(2) * M + tl.arange(0, M), tl.arange(0, N), tl.arange(0, LANES)[None]
    asks = (ask < asking)[:, None] & (lane < HALF)
    turn = row * q_batch + ask[:, None] * q_table + lane
    from_q = q + (row * asking + ask[:, None]) * q_row + head * (2 * HALF) + lane
    c, s = tl.load(cos_q + turn, mask=asks, other=0.0), tl.load(sin_q + turn, mask=asks, other=0.0)
    q1, q2 = _turned(from_q, c, s, asks, HALF)
    most, mass = tl.full([M], -1e30, tl.float32), tl.zeros([M], tl.float32)  # finite: -inf less -inf is no number
    sum1, sum2 = tl.zeros([M, LANES], tl.float32), tl.zeros([M, LANES], tl.float32)
    for start in tl.range(0, fresh, N, num_stages=1):
        open_N = start + near < fresh
        inside = open_N[:, None] & (lane < HALF)
        if SAME:
            k_c, k_s = c, s
        else:
            k_turn = row * k_batch + (start + near)[:, None] * k_table + lane
            k_c, k_s = tl.load(cos_k + k_turn, mask=inside, other=0.0), tl.load(sin_k + k_turn, mask=inside, other=0.0)
        at = kv + (row * fresh + start + near[:, None]) * kv_row + group * (2 * HALF) + lane
        k1, k2 = _turned(at, k_c, k_s, inside, HALF)
        v_at = at + groups * (2 * HALF)
        v1, v2 = tl.load(v_at, mask=inside, other=0.0), tl.load(v_at + HALF, mask=inside, other=0.0)
        most, mass, sum1, sum2 = _tile(q1, q2, k1, k2, v1, v2, open_N, most, mass, sum1, sum2, scale)
    first = tl.load(places + row * fresh)
    end = width
    if PADDED:
        end = tl.minimum(tl.load(lengths + row), width)
    here = row * m_batch + group * m_head + lane
    for start in range(0, end - fresh, N):
        open_N = start + near < end - fresh
        place = start + near + tl.where(start + near < first, 0, fresh)
        inside = open_N[:, None] & (lane < HALF)
        spot = here + place[:, None] * m_place
        k1, k2 = tl.load(keys + spot, mask=inside, other=0.0), tl.load(keys + spot + HALF, mask=inside, other=0.0)
        v1, v2 = tl.load(values + spot, mask=inside, other=0.0), tl.load(values + spot + HALF, mask=inside, other=0.0)
        most, mass, sum1, sum2 = _tile(q1, q2, k1, k2, v1, v2, open_N, most, mass, sum1, sum2, scale)
    to = out + ((row * asking + ask[:, None]) * HEADS + head) * (2 * HALF) + lane
    kind = out.dtype.element_ty
    tl.store(to, (sum1 / mass[:, None]).to(kind), mask=asks)
    tl.store(to + HALF, (sum2 / mass[:, None]).to(kind), mask=asks)


def attend_kept(
    q_BKN: Tensor, kv_BQN: Tensor, kept: tuple[Tensor, Tensor], places_BQ: Tensor, lengths_B: Tensor | None,
    asked: tuple[Tensor, Tensor], seen: tuple[Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """Attention of few queries: to fresh keys at consecutive places, and to what is kept everywhere else.

    Queries, and keys and values side by side, come as products made them and are rotated as they are read (asked, seen:
    cos and sin, (B, 1, K, E) and (B, 1, Q, E)); so nothing is written but the output, (B, K, H * E). lengths_B: where
    given, no more positions than that are seen.
    """
    (b, asking, wide), fresh, (keys, values) = q_BKN.shape, kv_BQN.shape[1], kept
    groups, width, half = keys.shape[1], keys.shape[2], keys.shape[3] // 2
    heads = wide // (2 * half)
    assert keys.stride() == values.stride()
    out = q_BKN.new_empty(b, asking, wide)
    strides = (t.stride(i) for t in (asked[0], seen[0]) for i in (0, 2))
    m = 32 if asking <= 32 else 64  # few versions: each takes a second to compile
    _attend_kept[(heads, b, triton.cdiv(asking, m))](
        q_BKN, kv_BQN, keys, values, *asked, *seen, places_BQ.contiguous(),
        places_BQ if lengths_B is None else lengths_B, out, q_BKN.stride(1), kv_BQN.stride(1), *strides,
        keys.stride(0), keys.stride(1), keys.stride(2), asking, fresh, width, groups,
        (2 * half) ** -0.5 * 1.4426950408889634,  # exponentials are of 2
        HEADS=heads, EACH=heads // groups, HALF=half, LANES=max(16, triton.next_power_of_2(half)), M=m, N=KEYS,
        PADDED=lengths_B is not None, SAME=asked[0] is seen[0] and asking <= m == KEYS,
        num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return out
