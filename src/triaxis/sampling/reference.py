"""LLaDA's generate.py and network as published, plainly: what the engine is measured against. Nothing else uses it.

The network: one product a matrix, the norm written out in float32, rotary tables applied in float32, logits of every
position. The loop: whole-canvas logits at every step, float64 noise over the whole vocabulary, a full softmax, a `topk`
per row, and rows of one prompt length. `bench speed` times it and checks that both give the same tokens at T=0.
Source: https://github.com/ML-GSAI/LLaDA, generate.py, and modeling_llada.py of GSAI-ML/LLaDA-8B-Instruct (Nie et al.,
arXiv:2502.09992).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from triaxis.models.llada import LladaNetwork
from triaxis.sampling.schedule import Decode


class Logits(Protocol):
    """Ids, (B, L), to logits, (B, L, V)."""

    def __call__(self, ids_BL: Tensor, /) -> Tensor: ...


class PlainLlada:
    """The published forward pass over the weights of one of our networks, in LLaDA's tensor names."""

    def __init__(self, network: LladaNetwork) -> None:
        self.c = network.config
        self.w = {n.removeprefix("model.transformer."): t for n, t in network.state_dict().items()}

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        kind = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        out: Tensor = self.w[f"{name}.weight"] * (x * torch.rsqrt(variance + self.c.rms_norm_eps)).to(kind)
        return out

    def _rotate(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        full = x.float()
        b, h, n, e = full.shape
        first, second = full.view(b, h, n, 2, e // 2).unbind(dim=-2)
        return (full * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)

    def _attention(self, x: Tensor, at: str, sin: Tensor, cos: Tensor) -> Tensor:
        c, (b, n, _) = self.c, x.shape
        q = self._linear(x, f"{at}q_proj").view(b, n, c.n_heads, -1).transpose(1, 2)
        k = self._linear(x, f"{at}k_proj").view(b, n, c.kv_heads, -1).transpose(1, 2)
        v = self._linear(x, f"{at}v_proj").view(b, n, c.kv_heads, -1).transpose(1, 2)
        q, k = self._rotate(q, sin, cos), self._rotate(k, sin, cos)
        if c.kv_heads != c.n_heads:
            k, v = (t.repeat_interleave(c.n_heads // c.kv_heads, dim=1) for t in (k, v))
        a = F.scaled_dot_product_attention(q, k, v)
        return self._linear(a.transpose(1, 2).contiguous().view(b, n, -1), f"{at}attn_out")

    def __call__(self, ids_BL: Tensor, /) -> Tensor:
        c, n = self.c, ids_BL.shape[1]
        frequencies = 1.0 / c.rope_theta ** (
            torch.arange(0, c.head_width, 2, device=ids_BL.device).float() / c.head_width
        )
        angles = torch.outer(torch.arange(n, device=ids_BL.device).float(), frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        sin, cos = angles.sin()[None, None], angles.cos()[None, None]
        x = F.embedding(ids_BL, self.w["wte.weight"])
        for layer in range(c.n_layers):
            at = f"blocks.{layer}."
            x = x + self._attention(self._norm(x, f"{at}attn_norm"), at, sin, cos)
            h = self._norm(x, f"{at}ff_norm")
            x = x + self._linear(
                F.silu(self._linear(h, f"{at}ff_proj")) * self._linear(h, f"{at}up_proj"), f"{at}ff_out"
            )
        x = self._norm(x, "ln_f")
        return F.linear(x, self.w["wte.weight"]) if c.weight_tying else self._linear(x, "ff_out")


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
