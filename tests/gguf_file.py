"""Writes a tiny GGUF file: a Llama of two layers with random weights and a byte vocabulary, for the real llama.cpp."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WIDTH, HEADS, LAYERS, FFN, CONTEXT = 32, 2, 2, 64, 256
WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁plus", "▁is"]
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _field(name: str, value: object) -> bytes:
    """One field: text, a whole number, a fraction, or a list of one of them."""
    codes = {str: (8, _text), int: (4, lambda v: struct.pack("<I", v)), float: (6, lambda v: struct.pack("<f", v))}
    if isinstance(value, list):
        kind, code = codes[type(value[0])]
        kind = 5 if kind == 4 else kind  # token types are signed
        return _text(name) + struct.pack("<IIQ", 9, kind, len(value)) + b"".join(map(code, value))
    kind, code = codes[type(value)]
    return _text(name) + struct.pack("<I", kind) + code(value)  # type: ignore[operator]


def _tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(WORDS), WIDTH), "output.weight": (len(WORDS), WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.attn_{n}.weight": (WIDTH, WIDTH) for n in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{n}.weight": (FFN, WIDTH) for n in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down.weight": (WIDTH, FFN)}
    made = {n: draw.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}
    norms = ["output_norm.weight", *(f"blk.{i}.{n}_norm.weight" for i in range(LAYERS) for n in ("attn", "ffn"))]
    return made | {n: np.ones(WIDTH, np.float32) for n in norms}


def parameters() -> int:
    return sum(t.size for t in _tensors().values())


def write_gguf(path: Path, template: str = TEMPLATE) -> Path:
    """A file that llama.cpp loads; without a template it is a base model."""
    fields: dict[str, object] = {
        "general.architecture": "llama", "general.name": "made-up", "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH, "llama.block_count": LAYERS, "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS, "llama.vocab_size": len(WORDS),
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -3.0],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, 1, 1, 1],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip
    if template:
        fields["tokenizer.chat_template"] = template
    tensors = _tensors()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    head += b"".join(_field(n, v) for n, v in fields.items())
    body = b""
    for name, t in tensors.items():
        head += _text(name) + struct.pack("<I", t.ndim) + struct.pack(f"<{t.ndim}Q", *t.shape[::-1])
        head += struct.pack("<IQ", 0, len(body))
        body += t.tobytes() + b"\0" * (-t.nbytes % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path
