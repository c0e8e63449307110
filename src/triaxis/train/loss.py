"""The masked-diffusion loss and the ways of drawing its masks.

Knows nothing of tasks or optimisers. Source: LLaDA (arXiv:2502.09992, eq. 3, GUIDELINES.md for the
response-only form).

B rows, L canvas tokens, R response tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_masks(
    content_B: Tensor, response: int, block: int, generator: torch.Generator, *, block_share: float
) -> tuple[Tensor, Tensor]:
    """Which response tokens to hide and which of the hidden ones to score: two bool tensors, (B, R).

    content_B: response tokens before the padding, end mark included. A share `block_share` of the rows is
    masked as block decoding meets it: earlier blocks clean, later blocks hidden, the current one partly,
    loss on the current block; the current block is drawn among those that hold content. The other rows
    hide every response token with one probability p ~ U(0, 1) and score all hidden ones.
    """
    rows, device = content_B.shape[0], content_B.device
    draw = torch.rand(rows, 3, generator=generator, device=device)
    noise = torch.rand(rows, response, generator=generator, device=device)
    by_block = draw[:, :1] < block_share
    p = draw[:, 1:2]
    place = torch.arange(response, device=device)[None] // block
    blocks = (content_B + block - 1) // block
    current = (draw[:, 2:3] * blocks[:, None]).long()
    uniform = noise < p
    inside = place == current
    hidden_block = (place > current) | (inside & (noise < p))
    hidden = torch.where(by_block, hidden_block, uniform)
    scored = torch.where(by_block, hidden_block & inside, uniform)
    empty = ~scored.any(1, keepdim=True)  # a row that would teach nothing: hide and score the first of its span
    first = torch.zeros_like(inside).scatter_(1, torch.where(by_block, current * block, 0), True)
    return hidden | (empty & first), scored | (empty & first)


def masked_cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross-entropy over the scored tokens, in float32."""
    return F.cross_entropy(logits_NV.float(), targets_N)
