"""LLaDA's generate.py as published, plainly: what the engine is measured against. Nothing else uses it.

Whole-canvas logits at every step, float64 noise over the whole vocabulary, a full softmax, a `topk` per row, and
rows of one prompt length. `bench speed` times it and checks that both give the same tokens at temperature 0.
Source: https://github.com/ML-GSAI/LLaDA, generate.py (facts of the loop: Nie et al., arXiv:2502.09992).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from triaxis.sampling.schedule import Decode


class Logits(Protocol):
    def __call__(self, ids_BL: Tensor, valid_BL: Tensor | None = None) -> Tensor: ...


def add_gumbel_noise(logits: Tensor, temperature: float) -> Tensor:
    """exp(l) / (-log u)^T in float64 (arXiv:2409.02908: lower precision spoils the draw); T=0 leaves the logits."""
    if temperature == 0:
        return logits
    logits = logits.to(torch.float64)
    noise = torch.rand_like(logits, dtype=torch.float64)
    return logits.exp() / (-torch.log(noise)) ** temperature


def get_num_transfer_tokens(mask_index: Tensor, steps: int) -> Tensor:
    """Tokens to commit at each step, (B, steps): the remainder goes to the first steps."""
    mask_num = mask_index.sum(dim=1, keepdim=True)
    base, remainder = mask_num // steps, mask_num % steps
    counts = torch.zeros(mask_num.size(0), steps, device=mask_index.device, dtype=torch.int64) + base
    for i in range(mask_num.size(0)):
        counts[i, : remainder[i]] += 1
    return counts


@torch.no_grad()
def generate(model: Logits, prompt_BP: Tensor, d: Decode, mask_id: int) -> Tensor:
    """Complete prompts of one length, (B, P) -> (B, gen_length). `d.stop`, guidance and the modes are not looked at."""
    start = prompt_BP.shape[1]
    x = torch.full((len(prompt_BP), start + d.gen_length), mask_id, dtype=torch.long, device=prompt_BP.device)
    x[:, :start] = prompt_BP
    steps = d.steps // d.blocks
    for block in range(d.blocks):
        end = start + (block + 1) * d.block_length
        counts = get_num_transfer_tokens(x[:, end - d.block_length : end] == mask_id, steps)
        for i in range(steps):
            mask_index = x == mask_id
            logits = model(x)
            x0 = torch.argmax(add_gumbel_noise(logits, d.temperature), dim=-1)
            p = F.softmax(logits, dim=-1)
            confidence = torch.squeeze(torch.gather(p, dim=-1, index=torch.unsqueeze(x0, -1)), -1)
            confidence[:, end:] = -torch.inf
            x0 = torch.where(mask_index, x0, x)
            confidence = torch.where(mask_index, confidence, -torch.inf)
            transfer = torch.zeros_like(x0, dtype=torch.bool)
            for j in range(confidence.shape[0]):
                _, chosen = torch.topk(confidence[j], k=int(counts[j, i]))
                transfer[j, chosen] = True
            x[transfer] = x0[transfer]
    return x[:, start:]
