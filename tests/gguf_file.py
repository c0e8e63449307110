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
    return assemble(path, fields, {n: (t.shape, 0, t.tobytes()) for n, t in _tensors().items()})


def assemble(path: Path, fields: dict[str, object], tensors: dict[str, tuple[tuple[int, ...], int, bytes]]) -> Path:
    """A file of these fields and tensors: (shape as torch has it, kind, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    head += b"".join(_field(n, v) for n, v in fields.items())
    body = b""
    for name, (shape, kind, data) in tensors.items():
        head += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", kind, len(body))
        body += data + b"\0" * (-len(data) % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<empty_output>")


def smollm_words() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE vocabulary of SmolLM2's kind."""
    from tokenizers import pre_tokenizers

    merges = ["Ġ t", "h e", "Ġt he", "a n", "Ġ a", "i s", "# #", "## ##"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIALS, *letters, *(m.replace(" ", "") for m in merges)], merges


def write_smollm(path: Path, *, width: int = 64, kinds: tuple[int, int] = (0, 0), seed: int = 0) -> Path:
    """A tiny file of SmolLM2's kind: gpt2/smollm tokenizer, tied head, grouped heads. kinds: of embedding, matrices.

    Kind 0 is float32, 3 is Q4_1, 8 is Q8_0 (those with random bytes and small scales).
    """
    tokens, merges = smollm_words()
    heads, kv, layers, ffn = 4, 2, 3, 96
    fields: dict[str, object] = {
        "general.architecture": "llama", "general.name": "made-up", "llama.context_length": 1024,
        "llama.embedding_length": width, "llama.block_count": layers, "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads, "llama.attention.head_count_kv": kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.dimension_count": width // heads,
        "llama.rope.freq_base": 10000.0, "llama.vocab_size": len(tokens), "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2, "tokenizer.chat_template": CHATML,
    }  # fmt: skip
    half = kv * width // heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    for i in range(layers):
        parts = {"q": width, "k": half, "v": half, "output": width}
        shapes |= {f"blk.{i}.attn_{n}.weight": (rows, width) for n, rows in parts.items()}
        shapes |= {f"blk.{i}.ffn_{n}.weight": (ffn, width) for n in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down.weight": (width, ffn), f"blk.{i}.attn_norm.weight": (width,)}
        shapes |= {f"blk.{i}.ffn_norm.weight": (width,)}
    draw, made = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        kind = 0 if len(shape) == 1 else kinds[name != "token_embd.weight"]
        made[name] = (shape, kind, random_tensor(draw, shape, kind))
    return assemble(path, fields, made)


def random_tensor(draw: np.random.Generator, shape: tuple[int, ...], kind: int) -> bytes:
    """Bytes of a tensor: ones for a norm, normal values for float32, random blocks for a quantised kind."""
    if len(shape) == 1:
        return np.ones(shape, np.float32).tobytes()
    if kind == 0:
        return draw.normal(0, 0.2, shape).astype(np.float32).tobytes()
    blocks = int(np.prod(shape)) // 32
    scale = draw.uniform(0.001, 0.003, (blocks, 1)).astype(np.float16)
    if kind == 8:
        values = draw.integers(-100, 100, (blocks, 32)).astype(np.int8)
        return np.concatenate((scale.view(np.uint8).reshape(blocks, 2), values.view(np.uint8)), 1).tobytes()
    least = np.float16(-8) * scale
    packed = draw.integers(0, 256, (blocks, 16)).astype(np.uint8)
    head = [x.view(np.uint8).reshape(blocks, 2) for x in (scale, least)]
    return np.concatenate((*head, packed), 1).tobytes()
