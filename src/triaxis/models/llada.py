"""The LLaDA network, natively: a bidirectional Llama-style transformer with LLaDA's own tensor names.

Reads LLaDA's config.json fields. Knows nothing of tokenizers, prompts or sampling. Building it changes
no global torch setting. Source: LLaDA (arXiv:2502.09992), modeling_llada.py; parity is tested against
logits recorded from it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import nn

from triaxis.errors import UserError
from triaxis.models.parts import Decoder, Embedding, Layer, RMSNorm, Shape

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

    @property
    def shape(self) -> Shape:
        return Shape(
            width=self.d_model, layers=self.n_layers, heads=self.n_heads, kv_heads=self.kv_heads,
            head_width=self.head_width, theta=self.rope_theta, eps=self.rms_norm_eps,
            max_length=self.max_sequence_length,
        )  # fmt: skip


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


class LladaBlock(Layer):
    """Pre-norm attention (bidirectional, grouped key/value heads) and SwiGLU, in LLaDA's names."""

    parts: ClassVar[Mapping[str, str]] = {
        "q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "attn_out", "norm1": "attn_norm", "norm2": "ff_norm",
        "gate": "ff_proj", "up": "up_proj", "down": "ff_out",
    }  # fmt: skip

    def __init__(self, c: LladaConfig) -> None:
        super().__init__(c.shape)
        kv_width = c.kv_heads * c.head_width
        self.attn_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.ff_norm = RMSNorm(c.d_model, c.rms_norm_eps)
        self.q_proj = nn.Linear(c.d_model, c.d_model, bias=c.include_qkv_bias)
        self.k_proj = nn.Linear(c.d_model, kv_width, bias=c.include_qkv_bias)
        self.v_proj = nn.Linear(c.d_model, kv_width, bias=c.include_qkv_bias)
        self.attn_out = nn.Linear(c.d_model, c.d_model, bias=False)
        self.ff_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(c.d_model, c.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(c.mlp_hidden_size, c.d_model, bias=False)


class LladaNetwork(Decoder):
    """LLaDA with its own tensor tree, model.transformer.{wte, blocks.N.*, ln_f, ff_out}."""

    def __init__(self, config: LladaConfig) -> None:
        super().__init__(config.shape)
        self.config = config
        parts = {
            "wte": Embedding(config.rows, config.d_model),
            "blocks": nn.ModuleList(LladaBlock(config) for _ in range(config.n_layers)),
            "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
        }
        if not config.weight_tying:
            parts["ff_out"] = nn.Linear(config.d_model, config.rows, bias=False)
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(parts)})

    def _trunk(self) -> nn.ModuleDict:
        trunk = self.model["transformer"]
        assert isinstance(trunk, nn.ModuleDict)
        return trunk

    def embedding(self) -> nn.Module:
        return self._trunk()["wte"]

    def layers(self) -> Iterable[Layer]:
        return cast(Iterable[Layer], self._trunk()["blocks"])

    def final_norm(self) -> nn.Module:
        return self._trunk()["ln_f"]

    def head_module(self) -> nn.Module | None:
        return None if self.config.weight_tying else self._trunk()["ff_out"]
