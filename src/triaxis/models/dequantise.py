"""A Llama model in a GGUF file made into an ordinary folder: safetensors weights and tokenizer.json.

Reads the kinds of tensor that small files use (F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0) with NumPy alone and in one go;
nothing is run by llama.cpp. Knows nothing of prompts or training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triaxis.errors import UserError
from triaxis.models.gguf import read_layout

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
BLOCK = 32  # values that share one scale, in every kind read here
ALIGN = 32


def _half(raw: Bytes, at: int) -> Floats:
    """The 16-bit float at byte `at` of every block, (blocks, 1)."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """32 values of 4 bits from 16 bytes: the low halves first, then the high ones."""
    return np.concatenate((raw & 15, raw >> 4), axis=1)


def _fifth(raw: Bytes) -> Bytes:
    """The fifth bit of 32 values from 4 bytes, in place."""
    return (np.unpackbits(raw, axis=1, bitorder="little") << 4).astype(np.uint8)


def _q4_0(raw: Bytes) -> Floats:
    return _half(raw, 0) * (_nibbles(raw[:, 2:]).astype(np.float32) - 8)


def _q4_1(raw: Bytes) -> Floats:
    return _half(raw, 0) * _nibbles(raw[:, 4:]) + _half(raw, 2)


def _q5_0(raw: Bytes) -> Floats:
    return _half(raw, 0) * ((_nibbles(raw[:, 6:]) | _fifth(raw[:, 2:6])).astype(np.float32) - 16)


def _q5_1(raw: Bytes) -> Floats:
    return _half(raw, 0) * (_nibbles(raw[:, 8:]) | _fifth(raw[:, 4:8])) + _half(raw, 2)


def _q8_0(raw: Bytes) -> Floats:
    return _half(raw, 0) * np.ascontiguousarray(raw[:, 2:]).view(np.int8)


# number in the file -> (bytes of 32 values, how they are read). Source: ggml-common.h, ggml-quants.c.
KINDS: Mapping[int, tuple[int, Callable[[Bytes], Floats]]] = {
    0: (128, lambda raw: raw.view(np.float32)),
    1: (64, lambda raw: raw.view(np.float16).astype(np.float32)),
    2: (18, _q4_0),
    3: (20, _q4_1),
    6: (22, _q5_0),
    7: (24, _q5_1),
    8: (34, _q8_0),
}


@dataclass(frozen=True)
class GgufWeights:
    """An opened file. fields: everything it says of itself, lists included."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]]  # name -> (shape, kind, byte in the file)

    def read(self, name: str) -> Floats:
        """One tensor in float32, in torch's order of dimensions. UserError for a kind that is not read here."""
        shape, kind, at = self.tensors[name]
        if kind not in KINDS:
            raise UserError(
                f"{self.path}: tensor {name!r} is of kind {kind}, which is not read; use a Q4_1 or Q8_0 file"
            )
        size, unpack = KINDS[kind]
        count = int(np.prod(shape))
        blocks = -(-count // BLOCK)
        exact = kind in (0, 1)  # plain floats may end within a block
        take = count * size // BLOCK if exact else blocks * size
        raw = np.fromfile(self.path, np.uint8, take, offset=at)
        if len(raw) != take:
            raise UserError(f"{self.path}: it ends within tensor {name!r}; download it again")
        values = unpack(raw if exact else raw.reshape(blocks, size))
        return values.reshape(-1)[:count].reshape(shape)


def open_weights(path: Path) -> GgufWeights:
    """Open a GGUF file of a Llama model. UserError where it is damaged or of another kind."""
    layout = read_layout(path)
    kind = layout.fields.get("general.architecture")
    if kind != "llama":
        raise UserError(f"{path}: it holds a {kind} model; only llama models are made into folders")
    start = -(-layout.end // int(layout.fields.get("general.alignment", ALIGN))) * ALIGN
    tensors = {name: (shape[::-1], kind, start + at) for name, (shape, kind, at) in layout.tensors.items()}
    return GgufWeights(path, layout.fields, tensors)


# ---------------------------------------------------------------- names and order

_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_name(name: str) -> str:
    """A tensor's name in Hugging Face's tree: "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"."""
    stem, _, last = name.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{last}"
    _, number, part = stem.split(".")
    return f"model.layers.{number}.{_LAYER[part]}.{last}"


def unpermuted(weight: Floats, heads: int) -> Floats:
    """A query or key matrix with each head's rows in the half-split order of rotary embedding.

    GGUF files of Llama models interleave the two halves (convert_hf_to_gguf.py, `permute`); this undoes it.
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def hugging_tensors(w: GgufWeights) -> dict[str, Floats]:
    """All tensors under Hugging Face's names, in its order."""
    heads = {"attn_q": w.fields["llama.attention.head_count"], "attn_k": w.fields["llama.attention.head_count_kv"]}
    out = {}
    for name in w.tensors:
        part = name.split(".")[-2]
        value = w.read(name)
        out[hugging_name(name)] = unpermuted(value, heads[part]) if part in heads else value
    return out


def hugging_config(w: GgufWeights) -> dict[str, Any]:
    """The model's config.json."""
    f = w.fields
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "vocab_size": w.tensors["token_embd.weight"][0][0],
        "hidden_size": f["llama.embedding_length"], "num_hidden_layers": f["llama.block_count"],
        "num_attention_heads": f["llama.attention.head_count"],
        "num_key_value_heads": f["llama.attention.head_count_kv"],
        "intermediate_size": f["llama.feed_forward_length"], "max_position_embeddings": f["llama.context_length"],
        "rms_norm_eps": round(float(f["llama.attention.layer_norm_rms_epsilon"]), 9),
        "rope_theta": float(f["llama.rope.freq_base"]), "tie_word_embeddings": "output.weight" not in w.tensors,
        "bos_token_id": f["tokenizer.ggml.bos_token_id"], "eos_token_id": f["tokenizer.ggml.eos_token_id"],
        "pad_token_id": f["tokenizer.ggml.padding_token_id"],
    }  # fmt: skip


def tokenizer_of(w: GgufWeights) -> Any:
    """The byte-level BPE tokenizer the file describes. UserError for another kind of tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    f = w.fields
    said = (f.get("tokenizer.ggml.model"), f.get("tokenizer.ggml.pre"))
    if said != ("gpt2", "smollm"):
        raise UserError(f"{w.path}: its tokenizer is {said[0]}/{said[1]}; only gpt2/smollm is known")
    tokens: list[str] = f["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ", 1)) for m in f["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, fuse_unk=False))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, f["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return made


def write_folder(w: GgufWeights, out: Path, dtype: str = "bf16") -> None:
    """config.json, model.safetensors, tokenizer.json, tokenizer_config.json: a folder any tool of this field reads."""
    import torch
    from safetensors.torch import save_file

    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    out.mkdir(parents=True, exist_ok=True)
    tensors = {n: torch.from_numpy(np.ascontiguousarray(v)).to(kind) for n, v in hugging_tensors(w).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer, tokens = tokenizer_of(w), w.fields["tokenizer.ggml.tokens"]
    tokenizer.save(str(out / "tokenizer.json"))
    config = hugging_config(w)
    chat = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config["max_position_embeddings"],
        "eos_token": tokens[config["eos_token_id"]], "pad_token": tokens[config["pad_token_id"]],
        "chat_template": w.fields.get("tokenizer.chat_template", ""),
    }  # fmt: skip
    for name, content in {"config.json": config, "tokenizer_config.json": chat}.items():
        (out / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
