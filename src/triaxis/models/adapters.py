"""Low-rank adapters beside a network's linear layers. When they are on, `models/schedules.py` says.

y = W x + sum over adapters a of gate[a, row] * scale_a * B_a (A_a x). The base weights are shared with the network the
adapters were mounted on and are never written, so they are the same bits after any number of switches. In bf16 nothing
is summed into a weight; a small fp32 layer keeps the sum W + scale B A of the adapters that are on beside W, because
there the second product costs more than it is worth. Files are peft's own (adapter_config.json,
adapter_model.safetensors), read without peft.

Source: LoRA, arXiv:2106.09685. B rows, L tokens, A adapters, R ranks of all adapters of a layer.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaxis.errors import UserError, suggest
from triaxis.limits import bounded_pattern, check_form, open_safetensors, parse_json, read_bytes
from triaxis.models.parts import Layer

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "card.json"
_PREFIX = "base_model.model."  # peft wraps the network twice
_KEY = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")
# peft options that change the arithmetic: value this code implements
_ONLY: Mapping[str, object] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "lora_bias": False,
    "trainable_token_indices": None,
}
_NUMBERS = {"lora_alpha?": (float, None), "alpha_pattern?": ({"*": float}, None)}
Gate = tuple[float, ...]  # one factor an adapter; 0 is off
_SMALL = 1 << 18  # weights of a layer up to which an fp32 sum is kept beside it


class Pair(NamedTuple):
    """One module's update, scale * B A."""

    a: Tensor  # (r, inputs)
    b: Tensor  # (outputs, r)
    scale: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter as read from its folder: the modules it names, by full name in the base network."""

    name: str
    folder: Path
    pairs: Mapping[str, Pair]
    config: Mapping[str, Any]
    card: Mapping[str, Any]  # ours; empty for an adapter made elsewhere

    @property
    def parameters(self) -> int:
        return sum(p.a.numel() + p.b.numel() for p in self.pairs.values())


# ---------------------------------------------------------------- files


def shipped_adapters() -> dict[str, Path]:
    """Adapters that come with the package, by name."""
    home = Path(str(files("triaxis.models").joinpath("tiny", "adapters")))
    return {p.name: p for p in sorted(home.iterdir()) if (p / CONFIG).is_file()} if home.is_dir() else {}


def find_adapter(spec: str) -> Path:
    """The folder of a shipped adapter or of a path. UserError with the nearest name."""
    known = shipped_adapters()
    if spec in known:
        return known[spec]
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        raise UserError(f"no adapter named {spec!r} and no such folder{suggest(spec, known)}")
    return folder


def adapter_fingerprint(folder: Path) -> str:
    """Twelve hex digits over the files that decide what an adapter does. UserError where one is missing."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with _opened(folder / name) as f:
            digest.update(name.encode() + hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()[:12]


def _opened(path: Path) -> BufferedReader:
    """A file of an adapter, open for reading. UserError that says what is there instead."""
    try:
        return path.open("rb")
    except (OSError, ValueError):
        pickles = [p.name for p in path.parent.glob("*.bin")] if path.parent.is_dir() else []
        hint = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise UserError(f"{path.parent}: there is no {path.name}{hint}; give a folder saved by peft") from None


def _json(path: Path) -> dict[str, Any]:
    _opened(path).close()
    try:
        fields = parse_json(read_bytes(path, "settings"))
    except ValueError as e:
        raise UserError(f"{path}: not readable JSON ({e}); save the adapter again") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    return fields


def read_tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Module name -> {"A": (r, inputs), "B": (outputs, r)} of an adapter folder. UserError for a foreign tensor."""
    path = folder / WEIGHTS
    _opened(path).close()
    found: dict[str, dict[str, Tensor]] = {}
    try:
        with open_safetensors(path) as f:
            for key in f.keys():  # noqa: SIM118 - not a dict
                named = _KEY.match(key)
                if named is None:
                    raise UserError(f"{path}: tensor {key!r} is no LoRA matrix; only plain LoRA adapters are read")
                found.setdefault(named[1], {})[named[2]] = f.get_tensor(key)
    except (ValueError, OSError) as e:
        raise UserError(f"{path}: not a readable safetensors file ({e}); save the adapter again") from None
    half = [m for m, t in found.items() if len(t) < 2]
    if half or not found:
        what = f"{half[0]!r} has only one of its two matrices" if half else "it holds no LoRA matrix"
        raise UserError(f"{path}: {what}; save the adapter again")
    return found


def read_adapter(spec: str) -> Adapter:
    """Read an adapter folder in peft's format. UserError for what is not plain LoRA, or is damaged."""
    folder = find_adapter(spec)
    config = _json(folder / CONFIG)
    for name, wanted in _ONLY.items():
        if config.get(name) not in (wanted, None) and config[name]:
            raise UserError(f"{folder / CONFIG}: {name}={config[name]!r} is not supported; expected {wanted!r}")
    tensors = read_tensors(folder)
    try:
        check_form(config, _NUMBERS, "the configuration")
        pairs = {m: Pair(t["A"], t["B"], _scale(config, m, t["A"].shape[0])) for m, t in tensors.items()}
    except (ValueError, IndexError, re.error) as e:
        raise UserError(f"{folder / CONFIG}: not a LoRA configuration ({e}); save the adapter again") from None
    for module, pair in pairs.items():
        if pair.a.dim() != 2 or pair.b.dim() != 2 or pair.a.shape[0] != pair.b.shape[1]:
            raise UserError(
                f"{folder}: matrices of {module!r} have shapes {pair.a.shape}, {pair.b.shape}; damaged file"
            )
    card = _json(folder / CARD) if (folder / CARD).is_file() else {}
    return Adapter(spec, folder, pairs, config, card)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) with rsLoRA; peft's alpha_pattern overrides by module."""
    alpha = float(config.get("lora_alpha") or rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({bounded_pattern(pattern)})$", module):
            alpha = float(value)
    if not math.isfinite(alpha):
        raise ValueError(f"lora_alpha={alpha}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def save_adapter(
    folder: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], config: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Write module -> (A, B) in peft's format with our card. UserError on a full disk; then no file is half written."""
    from safetensors.torch import save

    tensors = {}
    for module, (a, b) in pairs.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = a.detach().float().cpu().contiguous()
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = b.detach().float().cpu().contiguous()
    whole = {**peft_config(), **config}
    for name, content in (
        (WEIGHTS, save(tensors, metadata={"format": "pt"})),
        (CARD, json.dumps(card, indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n"),
        (CONFIG, json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"),  # last: it makes the folder an adapter
    ):
        replace_file(folder / name, content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file by replacing it in one move. UserError where the disk is full; then the old file is as it was."""
    scratch = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as e:
        scratch.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot write ({e.strerror}); what was there before is whole; free space, run again"
        ) from None


def peft_config() -> dict[str, Any]:
    """What every adapter_config.json of ours says; peft fills in the rest."""
    return {"peft_type": "LORA", "task_type": None, "bias": "none", "inference_mode": True, "fan_in_fan_out": False}


_LAYERED = re.compile(r"^(.+)\.(\d+)\.([^.]+)$")


def target_pattern(modules: Sequence[str]) -> str | list[str]:
    """What to write as peft's target_modules so that it attaches to just these: a pattern, or the full names.

    "model.transformer.blocks.(2|3).(ff_proj|up_proj)", with the dots escaped.
    """
    split = [found.groups() for m in modules if (found := _LAYERED.match(m))]
    places, layers, leaves = (list(dict.fromkeys(x)) for x in zip(*split, strict=True)) if split else ([], [], [])
    if len(split) < len(modules) or len(places) != 1 or len(set(modules)) != len(layers) * len(leaves):
        return sorted(modules)
    return rf"{re.escape(places[0])}\.({'|'.join(layers)})\.({'|'.join(leaves)})"


# ---------------------------------------------------------------- layers


class Switch:
    """Which adapters are on, for every layer of one network: a Gate for all rows, a (B, A) tensor, or None for off."""

    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.rows: Tensor | None = None

    def set(self, gates: Sequence[Gate], device: torch.device | None = None) -> None:
        """One gate for all rows, or one a row. Rows that agree take the cheaper path."""
        first = gates[0]
        if all(g == first for g in gates):
            self.gate, self.rows = (first if any(first) else None), None
        else:
            self.gate, self.rows = None, torch.tensor(gates, device=device)

    def off(self) -> None:
        self.gate = self.rows = None


class LoraLinear(nn.Module):
    """A linear layer with adapters beside it. `base` is the layer of the network they were mounted on."""

    def __init__(self, base: nn.Linear, pairs: Mapping[int, Pair], switch: Switch) -> None:
        super().__init__()
        self.base, self.switch = base, switch
        like = base.weight
        dtype = like.dtype if like.is_floating_point() else torch.bfloat16  # a quantised base computes in bf16
        self.pairs = {
            k: Pair(p.a.to(like.device, dtype), p.b.to(like.device, dtype), p.scale) for k, p in pairs.items()
        }
        self.ready: dict[Gate, tuple[Tensor, ...]] = {}
        self.ranks = torch.tensor([k for k, p in self.pairs.items() for _ in range(len(p.a))], device=like.device)
        self.down = torch.cat([p.a for p in self.pairs.values()])  # (R, inputs)
        self.up = torch.cat([p.scale * p.b for p in self.pairs.values()], 1)  # (outputs, R)

    @property
    def off(self) -> bool:
        """Whether this is the base layer and nothing else in the pass at work."""
        return self.switch.gate is None and self.switch.rows is None

    def _on(self, gate: Gate) -> tuple[Tensor, ...]:
        """Of the adapters that are on: (W + B A,) for a small fp32 layer, else (A, B) transposed; () where none is."""
        if gate not in self.ready:
            on = [(p.a, gate[k] * p.scale * p.b) for k, p in self.pairs.items() if gate[k]]
            made: tuple[Tensor, ...] = ()
            if on:
                down, up = torch.cat([a for a, _ in on]), torch.cat([b for _, b in on], 1)
                weight = self.base.weight
                small = weight.dtype == torch.float32 and weight.numel() <= _SMALL
                made = (weight + up @ down,) if small else (down.T, up.T.contiguous())
            self.ready[gate] = made
        return self.ready[gate]

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., inputs) -> (B, ..., outputs), with what the switch says is on."""
        if self.switch.gate is not None:
            on = self._on(self.switch.gate)
            if len(on) == 1:
                return F.linear(x, on[0], self.base.bias)
            y: Tensor = self.base(x)
            return torch.addmm(y.flatten(0, -2), x.flatten(0, -2) @ on[0], on[1]).view(y.shape) if on else y
        y = self.base(x)
        if self.switch.rows is not None:
            gates = self.switch.rows[:, self.ranks].to(x.dtype)  # (B, R)
            gates = gates.repeat(x.shape[0] // gates.shape[0], *[1] * (x.dim() - 2), 1)  # guidance doubles the rows
            return y + F.linear(F.linear(x, self.down) * gates.view(x.shape[0], *[1] * (x.dim() - 2), -1), self.up)
        return y


@dataclass(frozen=True, eq=False)
class Mounted:
    """A network with adapters beside its layers. It shares every parameter with the network it was made from."""

    base: Any  # the network they were mounted on, of its own class
    network: Any  # the same class, with adapters
    names: tuple[str, ...]
    switch: Switch = field(default_factory=Switch)

    @contextmanager
    def on(self, **scales: float) -> Iterator[Any]:
        """The named adapters on with these factors for all rows; off again afterwards, also on an error."""
        with self.gated([tuple(scales.get(n, 0.0) for n in self.names)]) as network:
            yield network

    @contextmanager
    def gated(self, gates: Sequence[Gate]) -> Iterator[Any]:
        """One gate for all rows, or one a row."""
        before = self.switch.gate, self.switch.rows
        self.switch.set(gates, next(self.network.parameters()).device)
        try:
            yield self.network
        finally:
            self.switch.gate, self.switch.rows = before


def share(network: nn.Module) -> nn.Module:
    """A copy of the module tree that holds the same parameter and buffer tensors."""
    kept: dict[int, Any] = {id(t): t for t in (*network.parameters(), *network.buffers())}
    run = getattr(network, "run_layer", None)
    kept[id(run)] = run  # a compiled function cannot be copied
    made = copy.deepcopy(network, kept)
    if run is not None:  # layers that change under the loop's hands are neither compiled nor captured
        made.run_layer, made.waits = Layer.__call__, True  # type: ignore[assignment]
    return made


def swap(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place called `name`."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def linear_names(network: nn.Module) -> list[str]:
    """Full names of the linear layers, in order."""
    return [n for n, m in network.named_modules() if isinstance(m, nn.Linear)]


def mount(network: nn.Module, adapters: Sequence[Adapter], where: str) -> Mounted:
    """`network` with adapters beside its layers, all off; `network` itself is not changed.

    where: what the network is called in messages. UserError where an adapter does not fit it: a module that is not
    there, another shape, or fewer modules than the adapter's own recipe names.
    """
    linear = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    for adapter in adapters:
        _check_fit(adapter, linear, where)
    mounted = Mounted(network, share(network), tuple(a.name for a in adapters))
    for name in dict.fromkeys(m for a in adapters for m in a.pairs):
        base = mounted.network.get_submodule(name)
        assert isinstance(base, nn.Linear)
        pairs = {k: a.pairs[name] for k, a in enumerate(adapters) if name in a.pairs}
        swap(mounted.network, name, LoraLinear(base, pairs, mounted.switch))
    mounted.network.eval().requires_grad_(False)
    return mounted


def _check_fit(adapter: Adapter, linear: Mapping[str, nn.Linear], where: str) -> None:
    absent = [m for m in adapter.pairs if m not in linear]
    if absent:
        short = ", ".join(dict.fromkeys(m.rsplit(".", 1)[-1] for m in absent[:40]))
        base = (
            adapter.card.get("base", {}).get("name") or adapter.config.get("base_model_name_or_path") or "another model"
        )
        raise UserError(
            f"adapter {adapter.name!r} targets {len(absent)} modules absent from {where} ({short[:80]}); it was made "
            f"for {base}; use that executor, or see triaxis doctor --adapter {adapter.folder}"
        )
    for name, pair in adapter.pairs.items():
        base_layer = linear[name]
        if (pair.b.shape[0], pair.a.shape[1]) != (base_layer.out_features, base_layer.in_features):
            raise UserError(
                f"adapter {adapter.name!r}: {name} is {pair.a.shape[1]} -> {pair.b.shape[0]}, in {where} it is "
                f"{base_layer.in_features} -> {base_layer.out_features}; it belongs to another model"
            )
    owed = missing_targets(adapter)
    if owed:
        raise UserError(
            f"adapter {adapter.name!r} names the targets {', '.join(owed)} but has no matrices for them; it was "
            f"attached to fewer modules than its recipe says: see triaxis doctor --adapter {adapter.folder}"
        )


def missing_targets(adapter: Adapter) -> list[str]:
    """Targets that the adapter's own configuration or card names and for which it holds no matrices."""
    named = adapter.config.get("target_modules")
    targets = named if isinstance(named, list) else []
    owed = [t for t in targets if not any(m == t or m.endswith(f".{t}") for m in adapter.pairs)]
    return owed + [m for m in adapter.card.get("coverage", {}).get("modules", []) if m not in adapter.pairs]


def switch_of(network: nn.Module) -> Switch | None:
    """The switch of the adapters mounted on a network; None where there are none."""
    found = (m.switch for m in network.modules() if isinstance(m, LoraLinear))
    return next(found, None)
