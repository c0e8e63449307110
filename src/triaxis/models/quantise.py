"""Projections of a dense network's layers in 8 or 4 bits; embedding, norms and output layer stay as they are.

8 bits: weights as integers with one factor an output, rounded to nearest, written here. Activations are not quantised,
so a row does not depend on its batch mates, as it would with the outlier columns of LLM.int8() (arXiv:2208.07339).
4 bits: NF4 (QLoRA, arXiv:2305.14314), by bitsandbytes (extra `quantize`). Either is another model than the one it was
made from, with another fingerprint; it saves memory and not time: weights are made whole again in every product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaxis.errors import UserError
from triaxis.models.parts import Decoder
from triaxis.models.random import put_plain

QUANTISED = {"8bit": "-int8", "4bit": "-nf4"}  # dtype -> what it adds to the fingerprint
BLOCK = 64  # weights that share a factor in NF4
Place = Callable[[nn.Module, str, Tensor], None]


class Int8Linear(nn.Linear):
    """y = x (factor W)^T, W in int8. weight: (outputs, inputs); factor: (outputs, 1) float32."""

    factor: Tensor

    @classmethod
    def of(cls, value: Tensor, bias: nn.Parameter | None) -> Int8Linear:
        """The layer of a weight, on the weight's device."""
        with torch.device("meta"):
            made = cls(value.shape[1], value.shape[0], bias=False)
        most = value.abs().amax(1, keepdim=True).float().clamp(min=1e-12)
        whole = (value.float() * (127 / most)).round().to(torch.int8)
        made.weight, made.bias = nn.Parameter(whole, requires_grad=False), bias  # type: ignore[assignment]
        made.register_buffer("factor", most / 127, persistent=False)
        return made

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) * self.factor.to(x.dtype), self.bias)


def quantised(network: Decoder, dtype: str, where: str) -> Place:
    """Puts the projections of the layers in as `dtype` ("8bit", "4bit") says, one at a time, and the rest as it is.

    UserError for a mixture of experts, whose experts are no linear layers here, and for 4bit without bitsandbytes.
    """
    make = Int8Linear.of if dtype == "8bit" else _four_bit()
    if network.synchronises:
        raise UserError(f"{where}: dtype {dtype!r} is for dense networks, not for a mixture of experts; use bf16")
    parts = {id(m) for m in _projections(network)}

    def put(root: nn.Module, name: str, value: Tensor) -> None:
        parent, _, last = name.rpartition(".")
        old = root.get_submodule(parent)
        if last != "weight" or id(old) not in parts:
            return put_plain(root, name, value)
        above, _, leaf = parent.rpartition(".")
        setattr(root.get_submodule(above), leaf, make(value, old.bias))  # type: ignore[arg-type]

    return put


def four_bit(network: Decoder, where: str) -> Place:
    """`quantised` with "4bit"."""
    return quantised(network, "4bit", where)


def _projections(network: Decoder) -> Iterable[nn.Linear]:
    return (m for layer in network.layers() for role in layer.parts if isinstance(m := layer.part(role), nn.Linear))


def _four_bit() -> Callable[[Tensor, Any], nn.Module]:
    try:
        bnb = import_module("bitsandbytes").nn
    except (ImportError, OSError, RuntimeError) as e:
        raise UserError(
            f"dtype '4bit' needs bitsandbytes ({e}); run pip install 'triaxis[quantize]', or use 8bit"
        ) from None

    def make(value: Tensor, bias: nn.Parameter | None) -> nn.Module:
        """One weight as NF4, on its device. UserError on a CPU for widths that bitsandbytes gets wrong there."""
        if value.device.type == "cpu" and value.shape[1] % BLOCK:  # seen with 0.50: twice the error it should have
            raise UserError(
                f"dtype '4bit' on a CPU is for layers whose width is a multiple of {BLOCK}, not {value.shape[1]}: "
                "bitsandbytes gets others wrong there; use 8bit"
            )
        with torch.device("meta"):
            new = bnb.Linear4bit(
                value.shape[1], value.shape[0], bias=bias is not None, compute_dtype=value.dtype, quant_type="nf4"
            )
        new.support_avx512bf16_for_cpu = False  # it would lay weights out anew under whoever shares them
        new.weight = bnb.Params4bit(value, requires_grad=False, quant_type="nf4", module=new).to(value.device)
        new.bias = bias
        return new  # type: ignore[no-any-return]

    return make
