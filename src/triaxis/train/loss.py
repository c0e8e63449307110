"""The masked-diffusion loss and the ways of drawing its masks.

Knows nothing of tasks or optimisers. Source: LLaDA (arXiv:2502.09992, eq. 3, GUIDELINES.md for the
response-only form).

B rows, L canvas tokens, R response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from triaxis.errors import UserError, suggest


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


# ---------------------------------------------------------------- adapters


Draw = Literal["iid", "stratified", "antithetic"]
Weight = Literal["1/p", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How response tokens are hidden, and what a hidden token counts.

    Each row draws its own p ~ U(low, high) and hides each response token with probability p. draw: "iid"; "stratified"
    takes one p from each of B equal parts of the range; "antithetic" pairs u with 1 - u. Both leave every row's own
    distribution as it is and shrink the spread of a batch. weight: "1/p" is LLaDA's likelihood bound, "uniform" a mean
    over scored tokens. block_share: of the rows masked as block decoding meets them (earlier blocks clean, later ones
    hidden, the current one, drawn among those of the loss span, partly).
    """

    low: float = 0.1
    high: float = 0.5
    weight: Weight = "1/p"
    draw: Draw = "iid"
    block_share: float = 0.0
    block: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1 or self.high == 0:
            raise UserError(f"p_mask range {self.low}..{self.high} must lie in 0..1, low first")
        if self.weight == "1/p" and self.low <= 0:
            raise UserError("p_mask range from 0 with weights 1/p is unbounded; give a low end such as 0.05")
        for name, allowed in (("weight", get_args(Weight)), ("draw", get_args(Draw))):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"{name} {getattr(self, name)!r} is unknown{suggest(str(getattr(self, name)), allowed)}"
                )
        if not 0 <= self.block_share <= 1 or self.block < 1:
            raise UserError(f"block_share={self.block_share} must be 0..1 and block={self.block} at least 1")


class Masks(NamedTuple):
    """Masks of one batch. hidden: (B, R) bool. weights: (B, R) float, 0 where not scored. total: what to divide by."""

    hidden: Tensor
    weights: Tensor
    total: Tensor

    def rows(self, index: Tensor) -> Scored:
        """Those of some rows, ready for the loss. Found on the CPU, so that a GPU's host never waits for a count."""
        weights = self.weights[index].flatten()
        spots = weights.nonzero().flatten()
        return Scored(self.hidden[index], spots, weights[spots])


class Scored(NamedTuple):
    """What is hidden, (B, R) bool, and of the N scored tokens the places in the flattened (B, R) and the weights."""

    hidden: Tensor
    spots: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Scored:
        return Scored(*(sent(t, device) for t in self))


def sent(t: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; on its way to a GPU nobody waits for it."""
    return t.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else t.to(device)


def levels(rows: int, m: Masking, generator: torch.Generator) -> Tensor:
    """The masking probability of each row, (B,)."""
    u = torch.rand(rows, generator=generator)
    if m.draw == "stratified":
        u = (torch.randperm(rows, generator=generator) + u) / rows
    elif m.draw == "antithetic":
        half = (rows + 1) // 2
        u = torch.cat((u[:half], 1 - u[: rows - half]))
    return m.low + (m.high - m.low) * u


def mask_batch(span_BR: Tensor, m: Masking, generator: torch.Generator) -> Masks:
    """Draw one batch's masks. span_BR: bool, the tokens that may be scored; hidden tokens outside it are context.

    A row in which nothing of the span was hidden would teach nothing: one token of its span is hidden and scored.
    """
    rows, response = span_BR.shape
    p = levels(rows, m, generator)[:, None]
    noise = torch.rand(rows, response, generator=generator)
    draw = torch.rand(rows, 2, generator=generator)
    place = (torch.arange(response)[None] // m.block).expand(rows, -1)
    by_block = draw[:, :1] < m.block_share
    current = place.gather(1, _any_of(span_BR, draw[:, 1]))  # the block of one span token, drawn uniformly
    inside = place == current
    hidden = torch.where(by_block, (place > current) | (inside & (noise < p)), noise < p)
    may = span_BR & (inside | ~by_block)
    scored = hidden & may
    first = torch.zeros_like(may).scatter_(1, _any_of(may, noise[:, 0]), True)
    scored = scored | (first & ~scored.any(1, keepdim=True))
    weights = scored / p if m.weight == "1/p" else scored.float()
    total = may.sum() if m.weight == "1/p" else scored.sum()
    return Masks(hidden | scored, weights.float(), total.float())


def _any_of(of_BR: Tensor, u_B: Tensor) -> Tensor:
    """The place of one true entry a row, (B, 1), chosen by u in [0, 1). Every row has one."""
    count = of_BR.sum(1)
    wanted = (u_B * count).long().clamp(max=count - 1)[:, None] + 1
    return (of_BR.cumsum(1) == wanted).long().argmax(1, keepdim=True)


def scored_loss(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """Weighted sum of the cross-entropies of the scored tokens, in float32; divide by `Masks.total`."""
    return (F.cross_entropy(logits_NV.float(), targets_N, reduction="none") * weights_N).sum()
