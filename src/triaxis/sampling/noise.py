"""Random numbers that depend on (stream key, step, position, token) and on nothing else.

A counter-based generator: splitmix64 (Steele, Lea, Flood 2014) over the counter. There is no state to
share, so a row's draws do not change with its batch, its order, its device or its worker.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKENS, ORDER = 1, 2  # streams: noise on the logits, noise on the order of commitment


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


_GOLDEN, _M1, _M2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical shift; torch shifts int64 arithmetically


def mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, wrapping."""
    x = x + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _M1
    x = (x ^ _shifted(x, 27)) * _M2
    return x ^ _shifted(x, 31)


def uniforms(keys_B: Tensor, stream: int, step: int | Tensor, places_BK: Tensor, width: int) -> Tensor:
    """Uniform draws in (0, 1), float64, (B, K, width): one per row, place in the completion and token."""
    base = mix(mix(mix(keys_B)[:, None] + places_BK) + (step * 8 + stream))
    cells = base[..., None] + torch.arange(width, device=keys_B.device) * _GOLDEN
    return (_shifted(mix(cells), 12).double() + 0.5) * 2.0**-52  # 52 bits: with 53 the largest would round to 1


def with_noise(logits_BKV: Tensor, keys_B: Tensor, step: int | Tensor, places_BK: Tensor, heat: float) -> Tensor:
    """Logits with Gumbel noise in float64, as generate.py has it: exp(l) / (-log u)^T, written l - T log(-log u)."""
    u = uniforms(keys_B, TOKENS, step, places_BK, logits_BKV.shape[-1])
    return logits_BKV.double() - heat * torch.log(-torch.log(u))
