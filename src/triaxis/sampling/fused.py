"""A transformer layer on a GPU in nine kernels: four products, attention, and what lies between, each read once.

The layer of models/parts.py with the same arithmetic, laid out for a large batch:

- q, k, v are one product and gate, up another (their weights lie side by side, `Layer.fuse`); the two products that
  end in the residual stream add onto it as they write, so the sum costs no pass of its own and is rounded once;
- norm, rotation and SwiGLU are Triton kernels (kernels.py); rows padded on the right go through flash attention by
  their lengths, which a mask would forbid;
- adapters that are on cost little: for q, k, v and gate, up their low-rank part is the tail of a slightly longer
  product, [x, g A x] [W, B]^T. B lies in columns kept free beside W; W itself is never written. For the two products
  that end in the residual stream it is a product of its own onto the same sum.

Layers that are not of this kind (experts, norms of heads, quantised weights) run as before; `Fused.of` says which are.
Knows nothing of denoising. B rows, Q positions computed, T = B Q, D width, N outputs, R ranks, A adapters, H heads,
G key/value heads, E head width, L canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaxis.models.adapters import LoraLinear, Switch
from triaxis.models.parts import ROOM_BESIDE, Canvas, Decoder, Layer, RMSNorm, RunLayer, at_places

_EVEN = 8  # ranks are filled up to a multiple of this: rows of a product begin at multiples of 16 bytes


class Operations(Protocol):
    """What lies between the products: `kernels` on a GPU; anything that computes the same elsewhere."""

    def norm(self, x_TD: Tensor, weight: Tensor, eps: float, out_TD: Tensor) -> None: ...
    def rotate_(self, x_BQN: Tensor, heads: int, head_width: int, cos: Tensor, sin: Tensor) -> None: ...
    def swiglu(self, gate_up_BQF: Tensor) -> Tensor: ...
    def remember(self, k_BQGE: Tensor, v_BQGE: Tensor, kept: tuple[Tensor, Tensor], places_BQ: Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class Side:
    """The adapters beside one product, all of them: outputs += sum over r of factor[r] (down x)[r] up[:, r]."""

    down: Tensor  # (R, inputs)
    up: Tensor  # (N, R)
    ranks: Tensor  # (R,) which adapter a rank belongs to; what fills up belongs to the first, and is zero
    pattern: tuple[int, ...]  # the same, on the host

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> Side | None:
        """Of the modules whose outputs one product makes side by side; None where no adapter is beside them."""
        sided = [m for m in modules if isinstance(m, LoraLinear)]
        if not sided:
            return None
        ranks = [r for m in sided for r in m.ranks.tolist()]
        fill = -len(ranks) % _EVEN
        like = sided[0].down
        down = torch.cat([m.down for m in sided] + [like.new_zeros(fill, like.shape[1])])
        up = like.new_zeros(sum(_base(m).out_features for m in modules), len(ranks) + fill)
        row = column = 0
        for m in modules:
            if isinstance(m, LoraLinear):
                up[row : row + m.base.out_features, column : column + len(m.ranks)] = m.up
                column += len(m.ranks)
            row += _base(m).out_features
        ranks += [0] * fill
        return cls(down, up, torch.tensor(ranks, device=down.device), tuple(ranks))

    def low(self, x_BQD: Tensor, factors_BR: Tensor, out_BQR: Tensor | None = None) -> Tensor:
        """(B, Q, R), the low-rank part of the product's input, each rank times its factor."""
        return torch.mul(F.linear(x_BQD, self.down), factors_BR[:, None], out=out_BQR)


@dataclass(frozen=True, slots=True)
class Weights:
    """One layer's, as its products use them."""

    qkv: Tensor  # (N, D + ROOM_BESIDE), as are those of gate and up
    bias: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor
    norms: tuple[RMSNorm, RMSNorm]
    sides: dict[str, Side]  # of "qkv", "out", "gate_up", "down", where an adapter is beside them

    @classmethod
    def of(cls, layer: Layer) -> Weights | None:
        """None for a layer of another kind."""
        if not {"q", "k", "v", "out", "gate", "up", "down"} <= set(layer.parts) or "q_norm" in layer.parts:
            return None
        if layer.qkv is None or layer.gate_up is None or type(layer).feed is not Layer.feed:
            return None
        groups = {"qkv": "qkv", "out": ("out",), "gate_up": ("gate", "up"), "down": ("down",)}
        parts = {name: [layer.part(r) for r in roles] for name, roles in groups.items()}
        if not all(_simple(m) for modules in parts.values() for m in modules):
            return None
        found = {name: Side.of(modules) for name, modules in parts.items()}
        sides = {name: side for name, side in found.items() if side is not None}
        if any(len(sides[n].pattern) > ROOM_BESIDE for n in ("qkv", "gate_up") if n in sides):
            return None
        for name, fused in (("qkv", layer.qkv), ("gate_up", layer.gate_up)):
            if _base(parts[name][0]).weight.data_ptr() != fused.data_ptr():  # it holds other weights than the modules
                return None
        norms = layer.part("norm1"), layer.part("norm2")
        if not isinstance(norms[0], RMSNorm) or not isinstance(norms[1], RMSNorm):
            return None
        out, down = (_base(parts[n][0]) for n in ("out", "down"))
        if out.bias is not None or down.bias is not None:
            return None
        return cls(layer.qkv, layer.qkv_bias, out.weight, layer.gate_up, down.weight, (norms[0], norms[1]), sides)


def _base(module: nn.Module) -> nn.Linear:
    found = module.base if isinstance(module, LoraLinear) else module
    assert isinstance(found, nn.Linear)
    return found


def _simple(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (isinstance(module, LoraLinear) and type(module.base) is nn.Linear)


# Who has written the columns beside a weight: adapters of one network at a time.
_TENANTS: WeakValueDictionary[int, Fused] = WeakValueDictionary()


class Fused:
    """Runs the layers of one network; what `Decoder.run_layer` is set to. Made by `of`."""

    def __init__(
        self, layers: dict[Layer, Weights], switch: Switch | None, ops: Operations, attend: Callable[..., Tensor]
    ) -> None:
        self.layers, self.switch, self.ops, self.attend = layers, switch, ops, attend
        self.first = next(iter(layers))
        self.factors: dict[tuple[int, ...], Tensor] = {}  # (B, R), of the pass at work
        self.gates: Tensor | None = None

    @classmethod
    def of(
        cls, network: Decoder, switch: Switch | None, ops: Operations, attend: Callable[..., Tensor]
    ) -> Fused | None:
        """None where a layer is of another kind."""
        found = {layer: Weights.of(layer) for layer in network.layers()}
        layers = {layer: w for layer, w in found.items() if w is not None}
        return cls(layers, switch, ops, attend) if len(layers) == len(found) else None

    def claim(self) -> None:
        """Write this network's adapters beside the weights, if another's stand there. Before each pass or replay."""
        sides = next(iter(self.layers.values())).sides
        where = self.layers[self.first].qkv.data_ptr()
        if not sides or _TENANTS.get(where) is self:
            return
        for w in self.layers.values():
            for name, weight in (("qkv", w.qkv), ("gate_up", w.gate_up)):
                if name in w.sides:
                    side = w.sides[name]
                    width = weight.shape[1] - ROOM_BESIDE
                    weight[:, width : width + len(side.pattern)].copy_(side.up)
        _TENANTS[where] = self

    def __call__(
        self, layer: Layer, x_BQD: Tensor, canvas: Canvas, select_BK: Tensor | None,
        kept: tuple[Tensor, Tensor] | None,
    ) -> Tensor:  # fmt: skip
        """As `Layer.forward`; `x_BQD` is written over, unless a gradient is wanted."""
        if torch.is_grad_enabled():
            return layer.forward(x_BQD, canvas, select_BK, kept)
        if layer is self.first:
            self._begin(x_BQD)
        w, c = self.layers[layer], layer.shape
        h = self._normed(x_BQD, w, 0, "qkv")
        rest, q, k, v = x_BQD, *self._heads(c, w, h, canvas, select_BK)
        if select_BK is not None:
            rest = x_BQD.gather(1, select_BK[..., None].expand(-1, -1, x_BQD.shape[-1]))
        if kept is not None and canvas.places_BQ is not None:
            self.ops.remember(k, v, kept, canvas.places_BQ)
            k, v = (t.transpose(1, 2) for t in kept)
        elif kept is not None:
            for stored, made in zip(kept, (k, v), strict=True):
                stored.copy_(made.transpose(1, 2))
        mask = canvas.mask
        if select_BK is not None and mask is not None and mask.shape[2] > 1:
            mask = at_places(mask.expand(len(select_BK), -1, -1, -1), select_BK)
        self._onto(rest, self.attend(q, k, v, mask, canvas.lengths_B), w.out, w.sides.get("out"))
        h = self._normed(rest, w, 1, "gate_up")
        wide = F.linear(h, w.gate_up[:, : h.shape[-1]])
        self._onto(rest, self.ops.swiglu(wide), w.down, w.sides.get("down"))
        return rest

    def _begin(self, x_BQD: Tensor) -> None:
        """The factors of the adapters for this pass, (B, A)."""
        self.factors, self.gates = {}, None
        if self.switch is None:
            return
        if self.switch.rows is not None:
            self.gates = self.switch.rows
        elif self.switch.gate is not None:
            self.gates = torch.tensor([self.switch.gate], device=x_BQD.device)
        if self.gates is not None:
            self.claim()
            rows = len(x_BQD)  # guidance doubles the rows
            self.gates = self.gates.repeat(rows // len(self.gates), 1) if len(self.gates) < rows else self.gates
            self.gates = self.gates.to(x_BQD.dtype)

    def _factors(self, side: Side) -> Tensor:
        if side.pattern not in self.factors:
            assert self.gates is not None
            self.factors[side.pattern] = self.gates[:, side.ranks]
        return self.factors[side.pattern]

    def _normed(self, x_BQD: Tensor, w: Weights, which: int, product: str) -> Tensor:
        """The normed input of a product, (B, Q, D), or (B, Q, D + R) with the low-rank part of adapters that are on."""
        (b, q, width), norm = x_BQD.shape, w.norms[which]
        side = w.sides.get(product) if self.gates is not None else None
        out = x_BQD.new_empty(b, q, width + (len(side.pattern) if side else 0))
        self.ops.norm(x_BQD.flatten(0, 1), norm.weight, norm.eps, out.flatten(0, 1)[:, :width])
        if side:
            side.low(out[..., :width], self._factors(side), out[..., width:])
        return out

    def _heads(
        self, c: Any, w: Weights, h: Tensor, canvas: Canvas, select_BK: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, K, H, E), keys and values (B, Q, G, E), turned."""
        asks, width = c.heads * c.head_width, h.shape[-1]
        bias = w.bias
        if select_BK is None:
            qkv = F.linear(h, w.qkv[:, :width], bias)
            self.ops.rotate_(qkv, c.heads + c.kv_heads, c.head_width, canvas.cos, canvas.sin)
            q, kv = qkv[..., :asks], qkv[..., asks:]
        else:
            picked = h.gather(1, select_BK[..., None].expand(-1, -1, width))
            q = F.linear(picked, w.qkv[:asks, :width], None if bias is None else bias[:asks])
            self.ops.rotate_(
                q, c.heads, c.head_width, at_places(canvas.cos, select_BK), at_places(canvas.sin, select_BK)
            )
            kv = F.linear(h, w.qkv[asks:, :width], None if bias is None else bias[asks:])
            self.ops.rotate_(kv, c.kv_heads, c.head_width, canvas.cos, canvas.sin)
        k, v = kv.chunk(2, dim=-1)
        split = [t.view(*t.shape[:-1], -1, c.head_width) for t in (q, k, v)]
        return split[0], split[1], split[2]

    def _onto(self, rest_BQD: Tensor, x_BQN: Tensor, weight_DN: Tensor, side: Side | None) -> None:
        """rest += x W^T, and the adapters' part, in place."""
        rest = rest_BQD.view(-1, rest_BQD.shape[-1])
        rest.addmm_(x_BQN.flatten(0, 1), weight_DN.T)
        if side is not None and self.gates is not None:
            rest.addmm_(side.low(x_BQN, self._factors(side)).flatten(0, 1), side.up.T)


def attend(q_BKHE: Tensor, k_BLGE: Tensor, v_BLGE: Tensor, mask: Tensor | None, lengths_B: Tensor | None) -> Tensor:
    """Attention over tokens laid out row by row, (B, K, H * E). lengths_B: int32, of rows padded on the right.

    Flash attention takes no mask, but the number of keys of each row: of sequences of one length here.
    """
    b, asked, heads, width = q_BKHE.shape
    if lengths_B is None or q_BKHE.dtype not in (torch.bfloat16, torch.float16):
        q, k, v = (t.transpose(1, 2) for t in (q_BKHE, k_BLGE, v_BLGE))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=heads != k.shape[1])
        return a.transpose(1, 2).reshape(b, asked, heads * width)
    seen = k_BLGE.shape[1]
    starts = torch.arange(b + 1, dtype=torch.int32, device=q_BKHE.device)
    flat = (t.flatten(0, 1) for t in (q_BKHE, k_BLGE, v_BLGE))  # copies memory that is laid out head by head
    made = torch.ops.aten._flash_attention_forward(
        *flat, starts * asked, starts * seen, asked, seen, 0.0, False, False, seqused_k=lengths_B
    )
    out: Tensor = made[0]
    return out.view(b, asked, heads * width)


def fused_layers(network: Decoder, switch: Switch | None) -> RunLayer | None:
    """The layers of a network on a GPU as above; None where they are of another kind or there is no Triton."""
    try:
        from triaxis.sampling import kernels
    except ImportError:
        return None
    return Fused.of(network, switch, kernels, attend)
