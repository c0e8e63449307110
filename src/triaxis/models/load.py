"""Read a diffusion checkpoint folder: config.json and safetensors, one file or sharded. Nothing else is read.

No remote code, no pickle: a folder with only .bin or .pt weights is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from triaxis.errors import UserError, suggest
from triaxis.models.card import FamilyCard, card
from triaxis.models.llada import LladaConfig, LladaNetwork

# shipped name -> folder; "tiny" is the executor of training seed 2 (docs/tiny.md says why that one)
SHIPPED = {
    "executor": {"tiny": "tiny-2", "tiny-0": "tiny-0", "tiny-1": "tiny-1", "tiny-2": "tiny-2"},
    "planner": {n: n for n in ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_BY_MODEL_TYPE = {"llada": "llada"}  # config.json's model_type -> family, where no "triaxis_family" says more


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded network with what identifies it. `fingerprint` hashes config and weights."""

    name: str
    folder: Path
    family: FamilyCard
    config: LladaConfig
    network: LladaNetwork
    fingerprint: str


def find_folder(spec: str, kind: str) -> Path:
    """The folder of a shipped model or of a path. UserError with the nearest name."""
    if spec in SHIPPED[kind]:
        return Path(str(files("triaxis.models").joinpath("tiny", SHIPPED[kind][spec])))
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    raise UserError(f"no {kind} named {spec!r} and no such folder{suggest(spec, SHIPPED[kind])}")


def read_config(folder: Path) -> dict[str, object]:
    """config.json as a dict. UserError if it is missing or not a JSON object."""
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: there is no config.json; give a checkpoint folder") from None
    except (ValueError, OSError) as e:
        raise UserError(f"{path}: not readable JSON ({e})") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    return fields


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sharded or single."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{index}: expected a JSON object with a weight_map of tensor name to file") from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"{index}: {name!r} is not the name of a safetensors file in the same folder")
            if not (folder / name).is_file():
                raise UserError(f"{folder}: the shard {name} named in {index.name} is missing; download it again")
        return [folder / n for n in names]
    others = [p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    hint = f"; {others[0]} is a pickle, which is never read: convert it to safetensors" if others else ""
    raise UserError(f"{folder}: no model.safetensors and no model.safetensors.index.json{hint}")


def fingerprint(folder: Path) -> str:
    """Twelve hex digits over config.json and every weight file's bytes."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        with path.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()[:12]


def _tensors(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        try:
            with safe_open(path, "pt") as f:
                for name in f.keys():  # noqa: SIM118 - not a dict
                    yield name, f.get_tensor(name)
        except (SafetensorError, OSError) as e:
            raise UserError(f"{path}: not a readable safetensors file ({e}); download or save it again") from None


def fill(
    network: nn.Module, paths: list[Path], dtype: torch.dtype, device: torch.device, ignore: tuple[str, ...]
) -> None:
    """Move the checkpoint's tensors into a network built on the meta device, one at a time.

    UserError that names the first tensors that are missing, foreign or of another shape.
    """
    wanted: Mapping[str, Tensor] = network.state_dict()
    given: dict[str, Tensor] = {}
    for name, tensor in _tensors(paths):
        if name in ignore:
            continue
        if name not in wanted:
            raise UserError(
                f"{paths[0].parent}: tensor {name!r} does not belong to this network{suggest(name, wanted)}"
            )
        if wanted[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, the config says {tuple(wanted[name].shape)}"
            raise UserError(f"{paths[0].parent}: tensor {name!r} has shape {shapes}")
        given[name] = tensor.to(device=device, dtype=dtype)
    missing = [n for n in wanted if n not in given]
    if missing:
        raise UserError(f"{paths[0].parent}: {len(missing)} tensors are missing, first {', '.join(missing[:3])}")
    network.load_state_dict(given, assign=True)


def load_checkpoint(spec: str, *, dtype: str | None = None, device: str | None = None) -> Checkpoint:
    """Load a shipped executor or a checkpoint folder. fp32 on a CPU and bf16 on a GPU unless `dtype` says."""
    folder = find_folder(spec, "executor")
    fields = read_config(folder)
    where = str(folder / "config.json")
    family = fields.get("triaxis_family") or _BY_MODEL_TYPE.get(str(fields.get("model_type")))
    if not isinstance(family, str):
        known = ", ".join(sorted(_BY_MODEL_TYPE))
        raise UserError(
            f"{where}: model_type={fields.get('model_type')!r} is no known diffusion family; known: {known}"
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind = dtype or ("fp32" if place.type == "cpu" else "bf16")
    if kind not in DTYPES:
        raise UserError(f"dtype {kind!r} is unknown{suggest(kind, DTYPES)}")
    config = LladaConfig.read(fields, where)
    with torch.device("meta"):
        network = LladaNetwork(config)
    tied = ("model.transformer.ff_out.weight",) if config.weight_tying else ()
    fill(network, weight_files(folder), DTYPES[kind], place, tied)
    network.eval().requires_grad_(False)
    return Checkpoint(spec, folder, card(family), config, network, fingerprint(folder))
