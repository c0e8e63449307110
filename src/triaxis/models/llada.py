"""The LLaDA network, natively: a bidirectional Llama-style transformer with LLaDA's own tensor names.

Reads LLaDA's config.json fields. Knows nothing of tokenizers, prompts or sampling. Building it changes
no global torch setting. Source: LLaDA (arXiv:2502.09992), modeling_llada.py; parity is tested against
logits recorded from it.

Shape suffixes: B rows, L canvas tokens, K selected positions, D width, H heads, G key/value heads,
E head width, V vocabulary.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaxis.errors import UserError

# What no tensor's shape can confirm, and the sizes: never guessed, because a guess would be another model.
_REQUIRED = (
    "d_model", "n_heads", "n_layers", "mlp_hidden_size", "vocab_size", "mask_token_id", "eos_token_id",
    "max_sequence_length", "rope_theta", "rms_norm_eps", "activation_type", "block_type", "layer_norm_type", "rope",
)  # fmt: skip
# field -> the value this network implements; another one would be a silently different model
_ONLY: Mapping[str, object] = {
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "include_bias": False,
    "multi_query_attention": False,
    "clip_qkv": None,
}
_RANGES: Mapping[str, tuple[float, float]] = {
    "d_model": (2, 65536),
    "n_heads": (1, 1024),
    "n_kv_heads": (1, 1024),
    "n_layers": (1, 1024),
    "mlp_hidden_size": (1, 1 << 20),
    "vocab_size": (2, 1 << 22),
    "embedding_size": (0, 1 << 22),
    "mask_token_id": (0, 1 << 22),
    "eos_token_id": (0, 1 << 22),
    "max_sequence_length": (2, 1 << 24),
    "rope_theta": (1.0, 1e12),
    "rms_norm_eps": (1e-12, 0.1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LladaConfig:
    """Sizes of a LLaDA network, in the names of its config.json."""

    d_model: int
    n_heads: int
    n_layers: int
    mlp_hidden_size: int
    vocab_size: int
    mask_token_id: int
    eos_token_id: int
    max_sequence_length: int
    rope_theta: float
    rms_norm_eps: float
    n_kv_heads: int = 0  # 0: as many as n_heads
    embedding_size: int = 0  # rows of the embedding; 0: vocab_size
    weight_tying: bool = False
    include_qkv_bias: bool = False

    @classmethod
    def read(cls, fields: Mapping[str, object], where: str) -> LladaConfig:
        """Check and take the fields of a config.json found at `where`. Raises UserError naming the field."""
        for name in _REQUIRED:
            if fields.get(name) is None:
                raise UserError(f"{where}: config field {name!r} is missing; give a LLaDA checkpoint")
        for name, wanted in _ONLY.items():
            if fields.get(name) is not None and fields[name] != wanted:
                raise UserError(f"{where}: {name}={reprlib.repr(fields[name])} is not supported; expected {wanted!r}")
        taken = {n: fields[n] for n in cls.__dataclass_fields__ if fields.get(n) is not None}
        for name, value in taken.items():
            _check_field(name, value, where)
        config = cls(**taken)  # type: ignore[arg-type]
        config._check_sizes(where)
        return config

    def _check_sizes(self, where: str) -> None:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise UserError(f"{where}: d_model={self.d_model} does not split into n_heads={self.n_heads} even heads")
        if self.n_heads % self.kv_heads:
            raise UserError(f"{where}: n_heads={self.n_heads} is not a multiple of n_kv_heads={self.kv_heads}")
        if self.rows < self.vocab_size:
            raise UserError(f"{where}: embedding_size={self.rows} is below vocab_size={self.vocab_size}")
        for name in ("mask_token_id", "eos_token_id"):
            if not 0 <= getattr(self, name) < self.rows:
                raise UserError(f"{where}: {name}={getattr(self, name)} is outside the {self.rows} embedding rows")
        if self.mask_token_id == self.eos_token_id:
            raise UserError(f"{where}: mask_token_id and eos_token_id are both {self.mask_token_id}; they must differ")

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def rows(self) -> int:
        return self.embedding_size or self.vocab_size

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads


def _check_field(name: str, value: object, where: str) -> None:
    kind = LladaConfig.__dataclass_fields__[name].type
    if kind == "bool":
        ok, wanted = isinstance(value, bool), "true or false"
    else:
        low, high = _RANGES[name]
        types = int if kind == "int" else (int, float)
        ok = isinstance(value, types) and not isinstance(value, bool) and low <= value <= high
        wanted = f"{'a whole number' if kind == 'int' else 'a number'} from {low} to {high}"
    if not ok:
        raise UserError(f"{where}: config field {name}={reprlib.repr(value)} is not sensible; expected {wanted}")


def rope_tables(length: int, head_width: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, (length, head_width) float32: rotary embedding in the half-split convention (arXiv:2104.09864)."""
    powers = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), 1.0 / theta**powers)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHLE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads by position in float32 (rope_full_precision); cos and sin broadcast over (B, H, L, E)."""
    x = x_BHLE.float()
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).to(x_BHLE.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm computed in float32 (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype)


@dataclass(frozen=True, slots=True)
class Canvas:
    """What every layer needs to know of the canvas: rotary tables and who may be attended to.

    cos, sin: (L, E). keys_B11L: bool, False at padding; None when nothing is padded.
    """

    cos: Tensor
    sin: Tensor
    keys_B11L: Tensor | None


class LladaBlock(nn.Module):
    """Pre-norm attention (bidirectional, grouped key/value heads) and SwiGLU, in LLaDA's names."""

    def __init__(self, c: LladaConfig) -> None:
        super().__init__()
        kv_width = c.kv_heads * c.head_width
        self.n_heads, self.kv_heads, self.head_width = c.n_heads, c.kv_heads, c.head_width
        self.attn_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.ff_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.q_proj = nn.Linear(c.d_model, c.d_model, bias=c.include_qkv_bias)
        self.k_proj = nn.Linear(c.d_model, kv_width, bias=c.include_qkv_bias)
        self.v_proj = nn.Linear(c.d_model, kv_width, bias=c.include_qkv_bias)
        self.attn_out = nn.Linear(c.d_model, c.d_model, bias=False)
        self.ff_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(c.mlp_hidden_size, c.d_model, bias=False)

    def forward(self, x_BLD: Tensor, canvas: Canvas, select_BK: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D); with `select_BK`, queries, output and MLP run at those positions only: (B, K, D)."""
        normed = self.attn_norm(x_BLD)
        asked, rest, cos_q, sin_q = normed, x_BLD, canvas.cos, canvas.sin
        if select_BK is not None:
            index = select_BK[..., None].expand(-1, -1, x_BLD.shape[-1])
            asked, rest = normed.gather(1, index), x_BLD.gather(1, index)
            cos_q, sin_q = canvas.cos[select_BK][:, None], canvas.sin[select_BK][:, None]
        q = rotate(self._heads(self.q_proj(asked), self.n_heads), cos_q, sin_q)
        k = rotate(self._heads(self.k_proj(normed), self.kv_heads), canvas.cos, canvas.sin)
        v = self._heads(self.v_proj(normed), self.kv_heads)
        grouped = self.kv_heads != self.n_heads
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=canvas.keys_B11L, enable_gqa=grouped)
        x: Tensor = rest + self.attn_out(a.transpose(1, 2).flatten(2))
        h = self.ff_norm(x)
        out: Tensor = x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))
        return out

    def _heads(self, x_BLD: Tensor, heads: int) -> Tensor:
        return x_BLD.reshape(*x_BLD.shape[:2], heads, self.head_width).transpose(1, 2)


class Embedding(nn.Embedding):
    """As torch's, without drawing values where there is nothing to hold them: that imports torch._dynamo, 2 s."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class LladaNetwork(nn.Module):
    """The whole network. `forward` gives logits; `hidden` + `head` let a sampler pay for a block's logits only."""

    def __init__(self, config: LladaConfig) -> None:
        super().__init__()
        self.config = config
        parts = {
            "wte": Embedding(config.rows, config.d_model),
            "blocks": nn.ModuleList(LladaBlock(config) for _ in range(config.n_layers)),
            "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
        }
        if not config.weight_tying:
            parts["ff_out"] = nn.Linear(config.d_model, config.rows, bias=False)
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(parts)})
        self._rope: tuple[Tensor, Tensor] | None = None

    def _trunk(self) -> nn.ModuleDict:
        trunk = self.model["transformer"]
        assert isinstance(trunk, nn.ModuleDict)
        return trunk

    def _tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._rope is None or self._rope[0].device != device or self._rope[0].shape[0] < length:
            size = max(length, min(1024, self.config.max_sequence_length))
            with torch.inference_mode(False):  # kept tables must serve training too
                self._rope = rope_tables(size, self.config.head_width, self.config.rope_theta, device)
        cos, sin = self._rope
        return cos[:length], sin[:length]

    def hidden(self, ids_BL: Tensor, valid_BL: Tensor | None = None, select_BK: Tensor | None = None) -> Tensor:
        """Normed final states, (B, L, D), or (B, K, D) at `select_BK`.

        valid_BL: bool, False at padding (any side; positions count from the row's column 0). Exact: the last
        layer runs queries, output and MLP at the selected positions only, which no other position reads.
        """
        cos, sin = self._tables(ids_BL.shape[1], ids_BL.device)
        keys = None if valid_BL is None else valid_BL[:, None, None, :]
        trunk = self._trunk()
        x = trunk["wte"](ids_BL)
        canvas = Canvas(cos, sin, keys)
        blocks = trunk["blocks"]
        assert isinstance(blocks, nn.ModuleList)
        for number, block in enumerate(blocks):
            x = block(x, canvas, select_BK if number == len(blocks) - 1 else None)
        out: Tensor = trunk["ln_f"](x)
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the embedding rows, (..., V)."""
        trunk = self._trunk()
        if self.config.weight_tying:
            return F.linear(hidden, trunk["wte"].weight)  # type: ignore[arg-type]
        out: Tensor = trunk["ff_out"](hidden)
        return out

    def forward(self, ids_BL: Tensor, valid_BL: Tensor | None = None, select_BK: Tensor | None = None) -> Tensor:
        """Logits, (B, L, V) or (B, K, V)."""
        return self.head(self.hidden(ids_BL, valid_BL, select_BK))
