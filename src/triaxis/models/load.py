"""Read a diffusion checkpoint folder: config.json and safetensors, one file or sharded. Nothing else is read.

No remote code, no pickle: a folder with only .bin or .pt weights is refused.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from triaxis.errors import UserError, suggest
from triaxis.models.card import FamilyCard, card
from triaxis.models.folder import find_folder, fingerprint, read_config, weight_files
from triaxis.models.llada import LladaConfig, LladaNetwork

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_BY_MODEL_TYPE = {"llada": "llada"}  # config.json's model_type -> family, where no "triaxis_family" says more


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded network with what identifies it. `fingerprint` hashes its files."""

    name: str
    folder: Path
    family: FamilyCard
    config: LladaConfig
    network: LladaNetwork
    fingerprint: str


def _tensors(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        try:
            with safe_open(path, "pt") as f:
                for name in f.keys():  # noqa: SIM118 - not a dict
                    yield name, f.get_tensor(name)
        except (SafetensorError, OSError) as e:
            reason = " ".join(str(e).split())
            raise UserError(f"{path}: not a readable safetensors file ({reason}); download it again") from None


def fill(
    network: nn.Module, paths: list[Path], dtype: torch.dtype, device: torch.device, ignore: tuple[str, ...]
) -> None:
    """Move the checkpoint's tensors into a network built on the meta device, one at a time.

    UserError that names the first tensors that are missing, foreign or of another shape or kind.
    """
    folder = paths[0].parent
    wanted: Mapping[str, Tensor] = network.state_dict()
    given: dict[str, Tensor] = {}
    for name, tensor in _tensors(paths):
        if name in ignore:
            continue
        if name not in wanted or name in given:
            what = "is there twice" if name in given else "does not belong to the network of config.json"
            raise UserError(f"{folder}: tensor {name!r} {what}; take both from one checkpoint")
        if wanted[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, config.json says {tuple(wanted[name].shape)}"
            raise UserError(f"{folder}: tensor {name!r} has shape {shapes}; take both from one checkpoint")
        if not tensor.is_floating_point():
            raise UserError(f"{folder}: tensor {name!r} is {tensor.dtype}; give weights that are not quantised")
        given[name] = tensor.to(device=device, dtype=dtype)
    missing = [n for n in wanted if n not in given]
    if missing:
        names = ", ".join(missing[:3])
        raise UserError(f"{folder}: {len(missing)} tensors are missing, such as {names}; download the checkpoint again")
    network.load_state_dict(given, assign=True)


def find_device(name: str | None) -> torch.device:
    """The device "cpu", "cuda" or "cuda:1"; by default a GPU if there is one. UserError if it is not here."""
    gpus = torch.cuda.device_count()
    if name is None:
        return torch.device("cuda" if gpus else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UserError(f"no device named {name!r}{suggest(kind, ('cpu', 'cuda'))}")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise UserError(f"device {name!r} is not here: torch sees {gpus} GPUs; use cpu")
    return torch.device(name if kind == "cuda" else "cpu")


def _family(fields: Mapping[str, object], where: str) -> FamilyCard:
    name = fields.get("triaxis_family") or _BY_MODEL_TYPE.get(str(fields.get("model_type")))
    if name is None:
        given = reprlib.repr(fields.get("model_type"))
        known = ", ".join(sorted(_BY_MODEL_TYPE))
        raise UserError(f"{where}: model_type={given} is no known diffusion family; known: {known}")
    return card(str(name))


def load_checkpoint(spec: str, *, dtype: str | None = None, device: str | None = None) -> Checkpoint:
    """Load a shipped executor or a checkpoint folder. fp32 on a CPU and bf16 on a GPU unless `dtype` says."""
    folder = find_folder(spec, "executor")
    fields = read_config(folder)
    where = str(folder / "config.json")
    family = _family(fields, where)
    place = find_device(device)
    kind = dtype or ("fp32" if place.type == "cpu" else "bf16")
    if kind not in DTYPES:
        raise UserError(f"dtype {kind!r} is unknown{suggest(kind, DTYPES)}")
    config = LladaConfig.read(fields, where)
    with torch.device("meta"):
        network = LladaNetwork(config)
    tied = ("model.transformer.ff_out.weight",) if config.weight_tying else ()
    fill(network, weight_files(folder), DTYPES[kind], place, tied)
    network.eval().requires_grad_(False)
    return Checkpoint(spec, folder, family, config, network, fingerprint(folder))
