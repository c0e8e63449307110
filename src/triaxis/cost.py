"""What decoding costs: floating-point operations from a model's sizes, and dollars from seconds. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A decoder's sizes, in units of weights and tokens."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int  # hidden units a token goes through: of the chosen and the shared experts in a mixture
    vocabulary: int


def layer_weights(s: Sizes) -> int:
    """Weights a token is multiplied by in one layer: q, k, v, out, gate, up, down."""
    attention = s.width * s.head_width * (2 * s.heads + 2 * s.kv_heads)
    return attention + 3 * s.width * s.ffn


def forward_flops(s: Sizes, computed: int, seen: int, logits: int) -> int:
    """Operations of one pass over one row.

    computed: positions that go through the trunk; seen: positions their attention reads; logits: positions that go
    through the head. A weight costs two operations a token, a multiplication and an addition, as in Kaplan et al. 2020
    (arXiv:2001.08361, section 2.1, where the forward pass is 2 N + 2 n_layer n_ctx d_attn a token); attention is
    counted with both of its products, 4 * heads * head_width * seen a token and layer, in both directions, so without
    the half that a causal mask saves. Norms, softmax and rotary are left out: below 1 % at these sizes. What an exact
    engine saves in the last layer is not taken off either, so a share of a machine's ceiling is a share of useful work.
    """
    trunk = 2 * s.layers * layer_weights(s) * computed
    attention = 4 * s.layers * s.heads * s.head_width * computed * seen
    return trunk + attention + 2 * s.width * s.vocabulary * logits


def decode_flops(s: Sizes, prompt: int, gen_length: int, block_length: int, steps: int) -> int:
    """Operations of one exact completion: every step reads the whole canvas and makes the logits of one block."""
    canvas = prompt + gen_length
    return steps * forward_flops(s, canvas, canvas, block_length)


class TrainingWork(NamedTuple):
    """Operations of one training row. useful: what any implementation must do; trunk: one more pass of the layers."""

    useful: int
    trunk: int


def training_flops(s: Sizes, tokens: int, scored: int, low_rank: int, deep: int) -> TrainingWork:
    """Operations of training adapters beside frozen weights on one row of `tokens`.

    scored: tokens with a loss, which alone go through the head; low_rank: weights of the adapters; deep: layers the
    gradient goes back through, from the last one. A frozen weight costs 2 operations a token forward and 2 on the way
    back (its input's gradient; it has none of its own), so 4 where full training has 6; an adapter's weight 6;
    attention's products are two forward and four back. Norms, activations, dropout and the optimiser are left out, and
    what is saved in the first and last layer is not taken off.
    """
    forward = forward_flops(s, tokens, tokens, scored)
    back = forward_flops(s, tokens, tokens, 0) * deep // s.layers + 2 * s.width * s.vocabulary * scored
    back += 4 * deep * s.heads * s.head_width * tokens * tokens
    trunk = forward_flops(s, tokens, tokens, 0) + 2 * low_rank * tokens
    return TrainingWork(forward + back + 6 * low_rank * tokens, trunk)


def work_flops(s: Sizes, forwards: int, tokens: int, logits: int) -> int:
    """Operations of passes that were counted as they ran (rows know theirs).

    forwards: passes of a row, summed; tokens: positions those passes computed; logits: positions a pass made logits
    for. Attention is taken over the mean canvas, tokens / forwards: below 0.1 % off where prompts differ in length by a
    half (attention is 1 % of the whole); with a cache, which computes less than it reads, it is counted too low.
    """
    if not forwards:
        return 0
    return forward_flops(s, tokens, tokens // forwards, forwards * logits)


def dollars(seconds: float, price_per_hour: float | None) -> float | None:
    """What the seconds cost; None without a price."""
    return None if price_per_hour is None else seconds / 3600 * price_per_hour
