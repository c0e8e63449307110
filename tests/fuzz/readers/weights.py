"""Readers of foreign data: checkpoints, adapters, GGUF files."""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from fuzz.readers.base import TESTS, TINY, Seeds, put, suppress_user


def config(data: bytes, place: Path) -> None:
    """config.json up to the network of the meta device."""
    from triaxis.models.card import card_of
    from triaxis.models.folder import read_config
    from triaxis.models.load import build_network

    path = put(place, "config.json", data)
    fields = read_config(place)
    if not (place / "tokenizer.json").exists():
        put(place, "tokenizer.json", (TINY / "tiny-2" / "tokenizer.json").read_bytes())
    build_network(card_of(fields, str(path)), fields, place)


def config_seeds() -> list[bytes]:
    found = [(TINY / "tiny-2" / "config.json").read_bytes(), (TESTS / "parity/llada_tiny/config.json").read_bytes()]
    shape = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 128, "rope_theta": 1e4,
        "rms_norm_eps": 1e-6, "mask_token_id": 60, "eos_token_id": 61, "num_experts": 4, "num_experts_per_tok": 2,
        "expert_intermediate_size": 16, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, "block_size": 4, "pad_token_id": 61,
    }  # fmt: skip
    kinds = {"Dream": "Dream", "sdar": "SDARForCausalLM", "llada": "LLaDAMoEModelLM", "llada2_moe": "LLaDA2MoeModelLM"}
    return found + [json.dumps({**shape, "model_type": k, "architectures": [a]}).encode() for k, a in kinds.items()]


@cache
def safetensors() -> bytes:
    import torch
    from safetensors.torch import save

    made = {f"model.layers.0.self_attn.{n}.weight": torch.ones(4, 4) for n in ("q_proj", "k_proj")}
    return save({**made, "model.norm.weight": torch.ones(4, dtype=torch.bfloat16)}, metadata={"format": "pt"})


def header(data: bytes, place: Path) -> None:
    from triaxis.models.causal import _shapes
    from triaxis.models.load import _tensors

    path = put(place, "model.safetensors", data)
    with suppress_user():
        _shapes([path])
    for _ in _tensors([path]):
        pass


def index(data: bytes, place: Path) -> None:
    from triaxis.models.folder import weight_files

    put(place, "model.safetensors.index.json", data)
    put(place, "model-00001-of-00002.safetensors", b"")
    for path in weight_files(place):
        assert path.resolve().parent == place.resolve(), f"a shard outside its folder: {path}"


def tokenizer(data: bytes, place: Path) -> None:
    from triaxis.models.folder import open_tokenizer

    put(place, "tokenizer.json", data)
    found = open_tokenizer(place)
    checkpoint = SimpleNamespace(folder=place)
    from triaxis.sampling.executor import Executor

    Executor.encode(SimpleNamespace(tokenizer=found, checkpoint=checkpoint), "Tom has 12 pens.")  # type: ignore[arg-type]


@cache
def adapter_files() -> Mapping[str, bytes]:
    import torch

    from triaxis.models.adapters import save_adapter

    place = Path(tempfile.mkdtemp())
    pairs = {f"model.layers.{i}.q_proj": (torch.ones(2, 8), torch.zeros(8, 2)) for i in range(2)}
    config = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "alpha_pattern": {"q_proj": 8}}
    save_adapter(place, pairs, config, {"recipe": {"name": "x"}, "base": {"fingerprint": "ab"}})
    return {p.name: p.read_bytes() for p in place.iterdir()}


def adapter(name: str) -> Callable[[bytes, Path], None]:
    def run(data: bytes, place: Path) -> None:
        from triaxis.models.adapters import adapter_fingerprint, read_adapter

        for other, content in {**adapter_files(), name: data}.items():
            put(place, other, content)
        with suppress_user():
            adapter_fingerprint(place)
        read_adapter(str(place))

    return run


def resume(data: bytes, place: Path) -> None:
    """A checkpoint of an interrupted training: what `--out` finds there."""
    from triaxis.train.fit import _held_step

    put(place, "checkpoint.safetensors", data)
    _held_step(place)


def resume_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    metadata = {"identity": json.dumps({"recipe": {"rank": 2}}), "state": json.dumps({"step": 3, "best": 0.5})}
    return [save({"w/x": torch.ones(2)}, metadata=metadata)]


def gguf(data: bytes, place: Path) -> None:
    from triaxis.models.gguf import read_header, read_layout

    path = put(place, "model.gguf", data)
    with suppress_user():
        _ = read_header(path).context
    read_layout(path)


def gguf_seeds() -> list[bytes]:
    sys.path.insert(0, str(TESTS))
    from gguf_file import write_gguf

    from triaxis.models.gguf import read_layout

    path = write_gguf(Path(tempfile.mkdtemp()) / "a.gguf")
    whole, end = path.read_bytes(), read_layout(path).end
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    field = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    tensor = text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 0)
    return [whole[: end + 64], b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + field + tensor + bytes(64)]


def adapter_seeds(name: str) -> Seeds:
    return lambda: [adapter_files()[name]]
