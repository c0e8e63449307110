"""A checkpoint folder without weights: config.json names a seed, and the weights are drawn from it when it is loaded.

For timing a shape that cannot be had here, and for workers that need equal weights without a file of sixteen
gigabytes. Drawn where the network runs, so a CPU and a GPU draw different ones. Says nothing about any real model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from triaxis.errors import UserError
from triaxis.limits import parse_json
from triaxis.models.folder import RANDOM, SHIPPED, find_folder
from triaxis.models.llada import LladaConfig

_ONLY = {"model_type": "llada", "triaxis_family": "tiny", "activation_type": "silu", "block_type": "llama",
         "layer_norm_type": "rms", "rope": True}  # fmt: skip


def write_random(folder: Path, config: LladaConfig, seed: int = 0) -> Path:
    """Write config.json and tokenizer.json of a network of that shape into `folder`, a few megabytes at most.

    Text is the tiny family's: its prompt, its tokens, and a made-up word for every further id, so that any completion
    can be told from any other. The mask and end marks are the tiny family's too.
    """
    tiny = find_folder(next(iter(SHIPPED["executor"])), "executor")
    text = parse_json((tiny / "tokenizer.json").read_text("utf-8"))
    words = text["model"]["vocab"]
    if len(words) > config.vocab_size:
        raise UserError(
            f"a vocabulary of {config.vocab_size} is below the tiny family's {len(words)}; take a larger one"
        )
    words += [[f"\u0120w{i}", -100.0] for i in range(len(words), config.vocab_size)]
    fields = {**_ONLY, **asdict(config), "mask_token_id": 0, "eos_token_id": 1, RANDOM: seed}
    fields["n_kv_heads"] = config.kv_heads
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(text), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    return folder


def put_plain(network: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in as the parameter of that name."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Parameter(value, requires_grad=False))


def fill_random(
    network: nn.Module, seed: int, dtype: torch.dtype, device: torch.device,
    put: Callable[[nn.Module, str, Tensor], None] = put_plain,
) -> None:  # fmt: skip
    """Weights of a network built on the meta device: normal with deviation .02, norms 1. Made on `device`.

    UserError where it has no memory for them: a few lines of JSON can ask for any size.
    """
    size = sum(p.numel() for p in network.parameters()) * dtype.itemsize
    held = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _memory()
    if size > held:
        raise UserError(
            f"random weights of {size / 1e9:.3g} GB do not fit into {held / 1e9:.3g} GB; take a smaller shape"
        )
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in list(network.named_parameters()):
        made = torch.empty(parameter.shape, dtype=dtype, device=device)
        put(network, name, made.fill_(1.0) if parameter.dim() == 1 else made.normal_(0, 0.02, generator=generator))


def _memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
