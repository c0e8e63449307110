"""Mixture-of-experts feed-forward: which experts a token takes, and their sum. Correct first: one product an expert.

Sources: LLaDA-MoE (arXiv:2509.24389; softmax router, weights not renormalised) and LLaDA2.0 (inclusionAI, tech report;
sigmoid router with a bias that chooses but does not weigh, group-limited choice as in DeepSeek-V3, arXiv:2412.19437).

T tokens, N experts, X experts a token, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaxis.models.parts import swiglu


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Sizes and rules of a mixture of experts."""

    number: int
    chosen: int  # a token
    size: int  # hidden units of one
    score: Literal["softmax", "sigmoid"] = "softmax"
    normed: bool = False  # weights of the chosen experts add up to 1
    groups: int = 1  # the choice falls in `group_chosen` of these groups
    group_chosen: int = 1
    scale: float = 1.0
    shared: int = 0  # experts every token takes, as one of shared * size units
    first_dense: int = 0  # layers before the first mixture


class Mlp(nn.Module):
    """SwiGLU under Hugging Face's names."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, size, bias=False)
        self.up_proj = nn.Linear(width, size, bias=False)
        self.down_proj = nn.Linear(size, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return out


class Router(nn.Module):
    """Which experts each token takes and with what weight. Scores are float32 whatever the weights are."""

    def __init__(self, width: int, e: Experts) -> None:
        super().__init__()
        self.rules = e
        self.weight = nn.Parameter(torch.empty(e.number, width))
        if e.score == "sigmoid":
            self.expert_bias = nn.Parameter(torch.empty(e.number))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Experts, (T, X), and weights, (T, X) float32."""
        e = self.rules
        if e.score == "softmax":
            scores = F.linear(x_TD, self.weight).float().softmax(-1)
            ranked = scores
        else:
            scores = F.linear(x_TD.float(), self.weight.float()).sigmoid()
            ranked = self._limited(scores + self.expert_bias.float())
        experts = ranked.topk(e.chosen, dim=-1).indices
        weights = scores.gather(1, experts)
        if e.normed and e.chosen > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return experts, weights * e.scale

    def _limited(self, scores_TN: Tensor) -> Tensor:
        """-inf outside the best groups; a group is as good as the sum of its two best experts."""
        e = self.rules
        if e.groups == 1:
            return scores_TN
        grouped = scores_TN.view(len(scores_TN), e.groups, -1)
        worth = grouped.topk(2, dim=-1).values.sum(-1)
        kept = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, worth.topk(e.group_chosen, dim=-1).indices, True)
        return grouped.masked_fill(~kept[..., None], -torch.inf).flatten(1)


class Mixture(nn.Module):
    """The feed-forward part of a mixture layer: gate, experts, shared_experts."""

    def __init__(self, width: int, e: Experts) -> None:
        super().__init__()
        self.gate = Router(width, e)
        self.experts = nn.ModuleList(Mlp(width, e.size) for _ in range(e.number))
        self.shared_experts = Mlp(width, e.size * e.shared) if e.shared else None

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Each token through its experts, expert by expert, summed in float32, and through the shared one."""
        x = x_BLD.flatten(0, 1)
        experts, weights = self.gate(x)
        out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        order = experts.flatten().argsort(stable=True)  # tokens of one expert side by side, in their order
        counts = experts.flatten().bincount(minlength=len(self.experts)).tolist()
        tokens, scales = order // experts.shape[1], weights.flatten()[order]
        start = 0
        for expert, count in zip(self.experts, counts, strict=True):
            if count:
                mine = tokens[start : start + count]
                made = cast(Tensor, expert(x[mine])).float() * scales[start : start + count, None]
                out.index_add_(0, mine, made)
            start += count
        out = out.to(x.dtype)
        if self.shared_experts is not None:
            out = out + self.shared_experts(x)
        return out.view_as(x_BLD)
