"""Read a diffusion checkpoint folder: config.json and safetensors, one file or sharded. Nothing else is read.

No remote code, no pickle: a folder with only .bin or .pt weights is refused.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from ctypes import CDLL
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from triaxis.cost import Sizes
from triaxis.errors import UserError, suggest
from triaxis.limits import open_safetensors
from triaxis.models.card import FamilyCard, card_of
from triaxis.models.decoder import DecoderConfig, DecoderNetwork
from triaxis.models.folder import RANDOM, added_token, find_checkpoint, fingerprint, read_config, weight_files
from triaxis.models.llada import LladaConfig, LladaNetwork
from triaxis.models.quantise import QUANTISED, Place, quantised
from triaxis.models.random import fill_random, put_plain

_WHOLE = ("expert_bias",)  # stays float32: in bf16 a router's bias would choose other experts
MODULES = 2048  # layers times experts that are built before the files are asked how many tensors they hold
# of what is not quantised
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, **dict.fromkeys(QUANTISED, torch.bfloat16)}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded network with what identifies it. `fingerprint` hashes its files."""

    name: str
    folder: Path
    family: FamilyCard
    config: LladaConfig | DecoderConfig
    network: LladaNetwork | DecoderNetwork
    fingerprint: str
    revision: str = ""  # the hub commit the files are of, where they came from the hub
    elsewhere: str = ""  # the kind of device it runs on, where that is in other processes and there are no weights here


def _tensors(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        try:
            with open_safetensors(path) as f:
                for name in f.keys():  # noqa: SIM118 - not a dict
                    yield name, f.get_tensor(name)
        except (ValueError, OSError) as e:
            reason = " ".join(str(e).split())
            raise UserError(f"{path}: not a readable safetensors file ({reason}); download it again") from None


def _names(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        try:
            with open_safetensors(path) as f:
                yield from f.keys()
        except (ValueError, OSError) as e:
            raise UserError(f"{path}: not a readable safetensors file ({e}); download it again") from None


def fill(
    network: nn.Module, paths: list[Path], dtype: torch.dtype, device: torch.device, ignore: tuple[str, ...],
    put: Place = put_plain,
) -> None:  # fmt: skip
    """Move the checkpoint's tensors into a network built on the meta device, one at a time: no second copy in memory.

    UserError that names the first tensors that are missing, foreign or of another shape or kind.
    """
    folder = paths[0].parent
    wanted: Mapping[str, Tensor] = network.state_dict()
    seen: set[str] = set()
    foreign: list[str] = []
    for name, tensor in _tensors(paths):
        if name in ignore:
            continue
        if name in seen:
            raise UserError(f"{folder}: tensor {name!r} is there twice; take both from one checkpoint")
        if name not in wanted:
            foreign.append(name)
            if len(foreign) == 3:
                break
            continue
        if wanted[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, config.json says {tuple(wanted[name].shape)}"
            raise UserError(f"{folder}: tensor {name!r} has shape {shapes}; take both from one checkpoint")
        if not tensor.is_floating_point():
            raise UserError(f"{folder}: tensor {name!r} is {tensor.dtype}; give weights that are not quantised")
        seen.add(name)
        kind = torch.float32 if name.endswith(_WHOLE) else dtype
        put(network, name, tensor.to(device=device, dtype=kind))
    if foreign:
        names = ", ".join(map(repr, foreign))
        raise UserError(
            f"{folder}: tensor {names} does not belong to the network of config.json; take both from one checkpoint"
        )
    missing = [n for n in wanted if n not in seen]
    if missing:
        names = ", ".join(missing[:3])
        raise UserError(f"{folder}: {len(missing)} tensors are missing, such as {names}; download the checkpoint again")


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


def build_network(
    family: FamilyCard, fields: Mapping[str, object], folder: Path
) -> tuple[LladaConfig | DecoderConfig, LladaNetwork | DecoderNetwork, tuple[str, ...]]:
    """Config and network (on the meta device) of a family, and the tensors a file may hold that are not needed."""
    where = str(folder / "config.json")
    if family.mask and "mask_token_id" not in fields:
        fields = {**fields, "mask_token_id": added_token(folder, family.mask)}
    with torch.device("meta"):
        if family.network == "decoder":
            config = DecoderConfig.read(fields, where, family.config)
            _check_extent(config, folder)
            return config, DecoderNetwork(config), ("lm_head.weight",) if config.tied else ()
        given = {n: v for n, v in fields.items() if v is not None}
        llada = LladaConfig.read({**family.config, **given}, where)
        return llada, LladaNetwork(llada), ("model.transformer.ff_out.weight",) if llada.weight_tying else ()


def _check_extent(config: DecoderConfig, folder: Path) -> None:
    """UserError where config.json asks for far more layers and experts than the files hold tensors: building their
    modules, empty as they are, would take hours."""
    asked = config.layers * max(1, config.experts)
    if asked <= MODULES:
        return
    held = sum(1 for _ in _names(weight_files(folder)))
    if asked > held:
        where = f"{folder / 'config.json'}: layers times experts are {asked:,}"
        raise UserError(f"{where}, the files hold {held:,} tensors; take both from one checkpoint")


def sizes_of(config: LladaConfig | DecoderConfig) -> Sizes:
    """What operations are counted from. A mixture: the chosen and the shared experts of a layer with experts."""
    s = config.shape
    ffn = getattr(config, "mlp_hidden_size", 0) or getattr(config, "ffn", 0)
    if getattr(config, "experts", 0):
        ffn = config.expert_size * (config.experts_chosen + config.shared)  # type: ignore[union-attr]
    return Sizes(
        width=s.width, layers=s.layers, heads=s.heads, kv_heads=s.kv_heads, head_width=s.head_width, ffn=ffn,
        vocabulary=config.rows,
    )  # fmt: skip


# glibc's mallopt(3): which blocks come from the system one by one, and how much is kept at the end of the heap
_KEPT = {"MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20), "MALLOC_TRIM_THRESHOLD_": (-1, 256 << 20)}


@cache
def keep_freed_memory() -> None:
    """On Linux with glibc: up to 256 MB that were freed stay with the process. What the environment says counts first.

    A pass on a CPU makes and drops tensors of megabytes. Given back, every page of the next one was fetched and zeroed
    anew by the system: 22,000 page faults in the 16 passes of a batch of the tiny executor, a sixth of its time.
    """
    mallopt = getattr(CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, (number, size) in _KEPT.items():
            if name not in os.environ:
                mallopt(number, size)


def load_checkpoint(
    spec: str, *, dtype: str | None = None, device: str | None = None, family: str | None = None
) -> Checkpoint:
    """Load a shipped executor, a checkpoint folder, or a hub id ("org/name" or "org/name@revision").

    fp32 on a CPU and bf16 on a GPU unless `dtype` says; "8bit" and "4bit" (extra `quantize`) are other models, with
    other fingerprints (models/quantise.py). family: a card's name, where config.json does not tell (it counts before
    config.json).
    """
    place = find_device(device)
    found, unneeded = _without_weights(spec, dtype, place.type, family)
    kind, network = _dtype(dtype, place.type), found.network
    if place.type == "cuda":
        gc.collect()  # a network that was dropped holds itself by its graphs (sampling/graphs.py), and its memory
    put = quantised(network, kind, spec) if kind in QUANTISED else put_plain
    fields = read_config(found.folder)
    if RANDOM in fields:
        fill_random(network, _seed(fields, found.folder), DTYPES[kind], place)
    else:
        fill(network, weight_files(found.folder), DTYPES[kind], place, unneeded, put)
    network.eval().requires_grad_(False)
    if place.type == "cuda":
        network.fuse()
    else:
        keep_freed_memory()
    return replace(found, fingerprint=found.fingerprint + QUANTISED.get(kind, ""))


def describe_checkpoint(
    spec: str, *, dtype: str | None = None, kind: str = "cpu", family: str | None = None
) -> Checkpoint:
    """The checkpoint as workers elsewhere will load it, on devices of that kind ("cpu" or "cuda"), without its weights.

    Everything that can be asked of it can be; it cannot run. Not for "8bit" and "4bit", whose parameters are others.
    """
    found, _ = _without_weights(spec, dtype, kind, family)
    found.network.to(DTYPES[_dtype(dtype, kind)]).eval().requires_grad_(False)
    return replace(found, elsewhere=kind)


def _without_weights(
    spec: str, dtype: str | None, device_type: str, family: str | None
) -> tuple[Checkpoint, tuple[str, ...]]:
    """A checkpoint whose network is on the meta device, and the tensors of its files that are not needed."""
    folder, revision = find_checkpoint(spec, "executor")
    fields = read_config(folder)
    card = card_of(fields, str(folder / "config.json"), family)
    _dtype(dtype, device_type)
    config, network, unneeded = build_network(card, fields, folder)
    return Checkpoint(spec, folder, card, config, network, fingerprint(folder), revision), unneeded


def _dtype(dtype: str | None, device_type: str) -> str:
    kind = dtype or ("fp32" if device_type == "cpu" else "bf16")
    if kind not in DTYPES:
        raise UserError(f"dtype {kind!r} is unknown{suggest(kind, DTYPES)}")
    return kind


def _seed(fields: Mapping[str, object], folder: Path) -> int:
    seed = fields[RANDOM]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise UserError(f"{folder / 'config.json'}: {RANDOM} must be a whole number from 0 up: the seed of the weights")
    return seed
