"""Networks in Hugging Face's tensor trees: Dream (Qwen2), SDAR (Qwen3), LLaDA-MoE, LLaDA2, and adapted Qwen and Llama.

One network, told apart by data: a family card says which tree, which norms and biases, whether logits are shifted and
who sees whom; config.json gives the sizes. Tested against transformers' own Qwen2, Qwen3, Llama and mixture models.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor, nn

from triaxis.errors import UserError
from triaxis.models.moe import Experts, Mixture, Mlp
from triaxis.models.parts import Decoder, Embedding, Layer, RMSNorm, Shape

# our name -> the names config.json may give it; the first one present counts
_NAMES: Mapping[str, tuple[str, ...]] = {
    "width": ("hidden_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "head_width": ("head_dim",),
    "ffn": ("intermediate_size", "dense_intermediate_size"),
    "vocab_size": ("vocab_size",),
    "max_sequence_length": ("max_position_embeddings",),
    "theta": ("rope_theta",),
    "eps": ("rms_norm_eps",),
    "tied": ("tie_word_embeddings",),
    "mask_token_id": ("mask_token_id", "mask_id"),
    "eos_token_id": ("eos_token_id",),
    "qkv_bias": ("attention_bias", "use_qkv_bias"),
    "qk_norm": ("qk_layernorm", "use_qk_norm"),
    "attend_block": ("block_size",),
    "shift": ("shift",),
    "rotary": ("partial_rotary_factor",),
    "experts": ("num_experts", "num_local_experts"),
    "experts_chosen": ("num_experts_per_tok",),
    "expert_size": ("expert_intermediate_size", "moe_intermediate_size"),
    "normed": ("norm_topk_prob",),
    "groups": ("n_group",),
    "group_chosen": ("topk_group",),
    "scale": ("routed_scaling_factor",),
    "shared": ("num_shared_experts",),
    "first_dense": ("first_k_dense_replace",),
}
# field -> range; whole numbers where both ends are int
_RANGES: Mapping[str, tuple[float, float]] = {
    "width": (2, 65536), "layers": (1, 1024), "heads": (1, 1024), "kv_heads": (1, 1024), "head_width": (2, 4096),
    "ffn": (1, 1 << 20), "vocab_size": (2, 1 << 22), "max_sequence_length": (2, 1 << 24), "theta": (1.0, 1e12),
    "eps": (1e-12, 0.1), "mask_token_id": (0, 1 << 22), "eos_token_id": (0, 1 << 22), "attend_block": (0, 4096),
    "rotary": (0.01, 1.0), "experts": (0, 4096), "experts_chosen": (0, 4096), "expert_size": (0, 1 << 20),
    "groups": (1, 4096), "group_chosen": (1, 4096), "scale": (0.0, 1000.0), "shared": (0, 64),
    "first_dense": (0, 1024), "shift": (0, 1),
}  # fmt: skip
# what would be another network, silently
_ONLY: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("silu", None),
    "use_sliding_window": (False, None),
    "use_bias": (False, None),
    "mlp_bias": (False, None),
}
_TREES = ("hf", "llada2")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Sizes and habits of a network in Hugging Face's tree. Made by `read` from config.json and the family card."""

    width: int
    layers: int
    heads: int
    ffn: int
    vocab_size: int
    max_sequence_length: int
    mask_token_id: int
    eos_token_id: int
    theta: float
    eps: float
    kv_heads: int = 0
    head_width: int = 0
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    shift: int = 0
    attend_block: int = 0
    rotary: float = 1.0
    tree: str = "hf"
    score: str = "softmax"
    experts: int = 0
    experts_chosen: int = 0
    expert_size: int = 0
    normed: bool = False
    groups: int = 1
    group_chosen: int = 1
    scale: float = 1.0
    shared: int = 0
    first_dense: int = 0

    @classmethod
    def read(cls, fields: Mapping[str, object], where: str, card: Mapping[str, object]) -> DecoderConfig:
        """Take config.json's fields, the card's where it has none. UserError that names a field and its value.

        Fields the card gives with a trailing "!" (such as "shift!") are the family's and not config.json's to change.
        """
        for name, allowed in _ONLY.items():
            if fields.get(name) not in allowed:
                raise UserError(f"{where}: {name}={reprlib.repr(fields[name])} is not supported; expected {allowed[0]}")
        given = _given(fields, where)
        fixed = {n.removesuffix("!"): v for n, v in card.items() if n.endswith("!")}
        taken = {**{n: v for n, v in card.items() if not n.endswith("!")}, **given, **fixed}
        for name in cls.__dataclass_fields__:
            if name not in taken and cls.__dataclass_fields__[name].default.__class__.__name__ == "_MISSING_TYPE":
                raise UserError(
                    f"{where}: config field {_NAMES[name][0]!r} is missing; it is another kind of checkpoint"
                )
        for name, value in taken.items():
            _check(cls, name, value, where)
        config = cls(**taken)  # type: ignore[arg-type]
        config._check_sizes(where)
        return config

    def _check_sizes(self, where: str) -> None:
        if self.heads % (self.kv_heads or self.heads):
            raise UserError(
                f"{where}: num_attention_heads={self.heads} is not a multiple of the {self.kv_heads} kv heads"
            )
        if (self.head_width == 0 and self.width % self.heads) or self.head_size % 2:
            raise UserError(f"{where}: hidden_size={self.width} does not split into {self.heads} even heads")
        for name in ("mask_token_id", "eos_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise UserError(
                    f"{where}: {name}={getattr(self, name)} is outside the {self.vocab_size} embedding rows"
                )
        if self.mask_token_id == self.eos_token_id:
            raise UserError(f"{where}: mask_token_id and eos_token_id are both {self.mask_token_id}; they must differ")
        if self.experts and not (0 < self.experts_chosen <= self.experts and self.expert_size):
            raise UserError(
                f"{where}: num_experts_per_tok={self.experts_chosen} of num_experts={self.experts} is not sensible"
            )
        if self.experts and (self.experts % self.groups or self.group_chosen > self.groups):
            raise UserError(f"{where}: n_group={self.groups}, topk_group={self.group_chosen} do not split the experts")

    @property
    def rows(self) -> int:
        return self.vocab_size

    @property
    def head_size(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def shape(self) -> Shape:
        return Shape(
            width=self.width, layers=self.layers, heads=self.heads, kv_heads=self.kv_heads or self.heads,
            head_width=self.head_size, theta=self.theta, eps=self.eps, max_length=self.max_sequence_length,
            rotary=int(self.head_size * self.rotary), attend_block=self.attend_block, shift=self.shift,
        )  # fmt: skip

    def mixture(self, layer: int) -> Experts | None:
        if not self.experts or layer < self.first_dense:
            return None
        return Experts(
            number=self.experts, chosen=self.experts_chosen, size=self.expert_size, score=self.score,  # type: ignore[arg-type]
            normed=self.normed, groups=self.groups, group_chosen=self.group_chosen, scale=self.scale,
            shared=self.shared, first_dense=self.first_dense,
        )  # fmt: skip


def _given(fields: Mapping[str, object], where: str) -> dict[str, object]:
    """config.json in our names. transformers 5 keeps theta and partial rotary under rope_parameters."""
    rope: dict[str, object] = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = fields.get(key)
        if isinstance(value, Mapping):
            kind = value.get("rope_type", value.get("type", "default"))
            if kind != "default":
                raise UserError(f"{where}: {key} of type {reprlib.repr(kind)} is not supported; only plain rotary is")
            rope |= value
    flat = {**rope, **{n: v for n, v in fields.items() if v is not None}}
    found = {
        ours: next(flat[t] for t in theirs if t in flat)
        for ours, theirs in _NAMES.items()
        if any(t in flat for t in theirs)
    }
    eos = found.get("eos_token_id")
    if isinstance(eos, list) and eos:
        found["eos_token_id"] = eos[0]
    return found


def _check(cls: type[DecoderConfig], name: str, value: object, where: str) -> None:
    shown = _NAMES.get(name, (name,))[0]
    if name in ("tree", "score"):
        ok, wanted = value in (*_TREES, "softmax", "sigmoid"), "a known word"
    elif cls.__dataclass_fields__[name].type == "bool":
        ok, wanted = isinstance(value, bool), "true or false"
    else:
        low, high = _RANGES[name]
        types = int if cls.__dataclass_fields__[name].type == "int" else (int, float)
        ok = isinstance(value, types) and not isinstance(value, bool) and low <= value <= high
        wanted = f"{'a whole number' if types is int else 'a number'} from {low} to {high}"
    if not ok:
        raise UserError(f"{where}: config field {shown}={reprlib.repr(value)} is not sensible; expected {wanted}")


class _Attention(nn.Module):
    """The attention tensors under their names; `Layer` computes with them."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        s = c.shape
        self.q_proj = nn.Linear(s.width, s.heads * s.head_width, bias=c.qkv_bias)
        self.k_proj = nn.Linear(s.width, s.kv_heads * s.head_width, bias=c.qkv_bias)
        self.v_proj = nn.Linear(s.width, s.kv_heads * s.head_width, bias=c.qkv_bias)
        self.o_proj = nn.Linear(s.heads * s.head_width, s.width, bias=False)
        if c.qk_norm:
            self.q_norm = RMSNorm(s.head_width, c.eps)
            self.k_norm = RMSNorm(s.head_width, c.eps)


class _FusedAttention(nn.Module):
    """LLaDA2's: one projection for q, k and v."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        s = c.shape
        self.query_key_value = nn.Linear(s.width, (s.heads + 2 * s.kv_heads) * s.head_width, bias=c.qkv_bias)
        self.dense = nn.Linear(s.heads * s.head_width, s.width, bias=False)
        if c.qk_norm:
            self.query_layernorm = RMSNorm(s.head_width, c.eps)
            self.key_layernorm = RMSNorm(s.head_width, c.eps)


_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}
_MLP = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_HF = {f"{r}": f"self_attn.{r}_proj" for r in "qkv"} | {"out": "self_attn.o_proj"}
_LLADA2 = {"qkv": "attention.query_key_value", "out": "attention.dense"}


class DecoderLayer(Layer):
    """One layer in Hugging Face's names: Qwen2, Qwen3, Llama, LLaDA-MoE."""

    place: ClassVar[tuple[str, type[nn.Module]]] = ("self_attn", _Attention)
    names: ClassVar[Mapping[str, str]] = _HF
    qk_names: ClassVar[Mapping[str, str]] = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}

    def __init__(self, c: DecoderConfig, number: int) -> None:
        super().__init__(c.shape)
        place, made = self.place
        self.add_module(place, made(c))
        self.input_layernorm = RMSNorm(c.width, c.eps)
        self.post_attention_layernorm = RMSNorm(c.width, c.eps)
        mixture = c.mixture(number)
        self.mlp = Mixture(c.width, mixture) if mixture else Mlp(c.width, c.ffn)
        self.parts = {  # type: ignore[misc]
            **_NORMS, **self.names, **(self.qk_names if c.qk_norm else {}), **({} if mixture else _MLP),
        }  # fmt: skip

    def feed(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.mlp(h)) if isinstance(self.mlp, Mixture) else super().feed(h)


class Llada2Layer(DecoderLayer):
    """LLaDA2's layer: its own attention names, q, k and v in one projection."""

    place: ClassVar[tuple[str, type[nn.Module]]] = ("attention", _FusedAttention)
    names: ClassVar[Mapping[str, str]] = _LLADA2
    qk_names: ClassVar[Mapping[str, str]] = {
        "q_norm": "attention.query_layernorm",
        "k_norm": "attention.key_layernorm",
    }

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.part("qkv")(x))

    def queries(self, x: Tensor) -> Tensor:
        return self.project(x)[0]

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.project(x)[1:]


_LAYERS: Mapping[str, type[DecoderLayer]] = {"hf": DecoderLayer, "llada2": Llada2Layer}
_EMBEDDINGS = {"hf": "embed_tokens", "llada2": "word_embeddings"}


class DecoderNetwork(Decoder):
    """model.{embed_tokens, layers.N.*, norm}, lm_head; LLaDA2 calls the embedding word_embeddings."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config.shape)
        self.config = config
        self.synchronises = config.experts > 0  # the host asks how many tokens each expert has
        layer = _LAYERS[config.tree]
        self.model = nn.ModuleDict(
            {
                _EMBEDDINGS[config.tree]: Embedding(config.rows, config.width),
                "layers": nn.ModuleList(layer(config, n) for n in range(config.layers)),
                "norm": RMSNorm(config.width, config.eps),
            }
        )
        if not config.tied:
            self.lm_head = nn.Linear(config.width, config.rows, bias=False)

    def embedding(self) -> nn.Module:
        return self.model[_EMBEDDINGS[self.config.tree]]

    def layers(self) -> Iterable[Layer]:
        return cast(Iterable[Layer], self.model["layers"])

    def final_norm(self) -> nn.Module:
        return self.model["norm"]

    def head_module(self) -> nn.Module | None:
        return None if self.config.tied else self.lm_head
