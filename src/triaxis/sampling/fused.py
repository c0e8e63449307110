"""A transformer layer on a GPU in nine kernels: four products, attention, and what lies between, each read once.

The layer of models/parts.py with the same arithmetic, laid out for a large batch:

- q, k, v are one product and gate, up another (their weights lie side by side, `Layer.fuse`); the two products that
  end in the residual stream add onto it as they write, so the sum costs no pass of its own and is rounded once;
- norm, rotation and SwiGLU are Triton kernels (kernels.py); rows padded on the right go through flash attention by
  their lengths, which a mask would forbid;
- where keys and values are kept, the product of a whole pass writes them into the memory; a pass of few positions has a
  kernel of its own for attention, which turns queries and fresh keys as it reads them and writes nothing;
- rows of unlike length lie one after the other without padding (`Decoder.hidden`, packed);
- adapters that are on cost little: their low-rank part is the tail of a slightly longer product, [x, g A x] [W, B]^T.
  B lies in columns kept free beside W; W itself is never written. Only attention's output, whose tensor is not ours,
  has a product of its own for them, onto the same sum.

Layers that are not of this kind (experts, norms of heads, quantised weights) run as before; `Fused.of` says which are.
Knows nothing of denoising. B rows, Q positions computed, T = B Q, D width, N outputs, R ranks, A adapters, H heads,
G key/value heads, E head width, L canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaxis.models.adapters import LoraLinear, Switch
from triaxis.models.parts import (
    ROOM_BESIDE,
    Canvas,
    Decoder,
    Layer,
    Packed,
    RMSNorm,
    RunLayer,
    Shape,
    at_places,
    joined,
)

_EVEN = 8  # ranks are filled up to a multiple of this: rows of a product begin at multiples of 16 bytes


class Operations(Protocol):
    """What lies between the products: `kernels` on a GPU; anything that computes the same elsewhere."""

    def norm(self, x_TD: Tensor, weight: Tensor, eps: float, out_TD: Tensor) -> None: ...
    def rotate_(self, x_BQN: Tensor, heads: int, head_width: int, cos: Tensor, sin: Tensor) -> None: ...
    def swiglu(self, gate_up_BQF: Tensor, out_BQF: Tensor) -> None: ...
    def attend_kept(
        self, q_BKN: Tensor, kv_BQN: Tensor, kept: tuple[Tensor, Tensor], places_BQ: Tensor, lengths_B: Tensor | None,
        asked: tuple[Tensor, Tensor], seen: tuple[Tensor, Tensor],
    ) -> Tensor: ...  # fmt: skip


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

    def low(self, x_BQD: Tensor, factors: Tensor, out_BQR: Tensor | None = None) -> Tensor:
        """(B, Q, R), the low-rank part of the product's input, each rank times its factor."""
        return torch.mul(F.linear(x_BQD, self.down), factors, out=out_BQR)


@dataclass(frozen=True, slots=True)
class Weights:
    """One layer's, as its products use them."""

    qkv: Tensor  # (N, inputs + ROOM_BESIDE), as are those of gate and up, and of down
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
        if layer.qkv is None or layer.gate_up is None or layer.down is None or type(layer).feed is not Layer.feed:
            return None
        groups = {"qkv": "qkv", "out": ("out",), "gate_up": ("gate", "up"), "down": ("down",)}
        parts = {name: [layer.part(r) for r in roles] for name, roles in groups.items()}
        if not all(_simple(m) for modules in parts.values() for m in modules):
            return None
        found = {name: Side.of(modules) for name, modules in parts.items()}
        sides = {name: side for name, side in found.items() if side is not None}
        if any(len(side.pattern) > ROOM_BESIDE for name, side in sides.items() if name != "out"):
            return None
        for name, fused in (("qkv", layer.qkv), ("gate_up", layer.gate_up), ("down", layer.down)):
            if _base(parts[name][0]).weight.data_ptr() != fused.data_ptr():  # it holds other weights than the modules
                return None
        norms = layer.part("norm1"), layer.part("norm2")
        if not isinstance(norms[0], RMSNorm) or not isinstance(norms[1], RMSNorm):
            return None
        if any(_base(m).bias is not None for n in ("out", "gate_up", "down") for m in parts[n]):
            return None
        out = _base(parts["out"][0]).weight
        return cls(layer.qkv, layer.qkv_bias, out, layer.gate_up, layer.down, (norms[0], norms[1]), sides)


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
        self.packs = next(iter(layers.values())).out.dtype in HALVES  # whether `Decoder.hidden` may pack rows
        self.factors: dict[tuple[tuple[int, ...], int], Tensor] = {}  # of the pass at work, as are the next two
        self.gates: Tensor | None = None
        self.packed: Packed | None = None

    @classmethod
    def of(
        cls, network: Decoder, switch: Switch | None, ops: Operations, attend: Callable[..., Tensor]
    ) -> Fused | None:
        """None where a layer is of another kind, heads turn in part or not everyone is seen."""
        if network.shape.attend_block or network.shape.rotary not in (0, network.shape.head_width):
            return None
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
            for name, weight in (("qkv", w.qkv), ("gate_up", w.gate_up), ("down", w.down)):
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
        masked = canvas.places_BQ is not None and canvas.mask is not None and canvas.lengths_B is None
        if torch.is_grad_enabled() or masked:  # a mask that says more than lengths
            return layer.forward(x_BQD, canvas, select_BK, kept)
        if layer is self.first:
            self._begin(x_BQD, canvas.packed)
        w = self.layers[layer]
        h = self._normed(x_BQD, w, 0, "qkv")
        a = self._attention(layer.shape, w, h, canvas, select_BK, kept)
        rest = x_BQD
        if select_BK is not None:
            rest = x_BQD.gather(1, select_BK[..., None].expand(-1, -1, x_BQD.shape[-1]))
        flat = rest.view(-1, rest.shape[-1])
        flat.addmm_(a.flatten(0, 1), w.out.T)
        if (side := self._side(w, "out")) is not None:
            flat.addmm_(side.low(a, self._factors(side, a.shape[1])).flatten(0, 1), side.up.T)
        h = self._normed(rest, w, 1, "gate_up")
        wide = F.linear(h, w.gate_up[:, : h.shape[-1]])
        h = self._gated(wide, w)
        flat.addmm_(h.flatten(0, 1), w.down[:, : h.shape[-1]].T)
        return rest

    def _begin(self, x_BQD: Tensor, packed: Packed | None) -> None:
        """The factors of the adapters for this pass, (B, A)."""
        self.factors, self.gates, self.packed = {}, None, packed
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

    def _side(self, w: Weights, product: str) -> Side | None:
        """The adapters beside a product, if any may be on in this pass."""
        return None if self.gates is None else w.sides.get(product)

    def _factors(self, side: Side, tokens: int) -> Tensor:
        """Of each rank: (B, 1, R), or one a token where rows are packed, (1, T, R). tokens: of the product's input."""
        if (side.pattern, tokens) not in self.factors:
            assert self.gates is not None
            found, packed = self.gates[:, side.ranks], self.packed
            if packed is not None:  # the last layer's selected positions lie row by row, as many of each
                whole = tokens == len(packed.rows_T)
                found = found[packed.rows_T] if whole else found.repeat_interleave(tokens // len(found), 0)
            self.factors[side.pattern, tokens] = found[:, None] if packed is None else found[None]
        return self.factors[side.pattern, tokens]

    def _normed(self, x_BQD: Tensor, w: Weights, which: int, product: str) -> Tensor:
        """The normed input of a product, (B, Q, D), or (B, Q, D + R) with the low-rank part of adapters that are on."""
        (b, q, width), norm, side = x_BQD.shape, w.norms[which], self._side(w, product)
        out = x_BQD.new_empty(b, q, width + (0 if side is None else len(side.pattern)))
        self.ops.norm(x_BQD.flatten(0, 1), norm.weight, norm.eps, out.flatten(0, 1)[:, :width])
        return self._with_low(out, width, side)

    def _gated(self, wide_BQF: Tensor, w: Weights) -> Tensor:
        """The gated input of the last product, (B, Q, F), or (B, Q, F + R) in the same way."""
        (b, q, both), side = wide_BQF.shape, self._side(w, "down")
        out = wide_BQF.new_empty(b, q, both // 2 + (0 if side is None else len(side.pattern)))
        self.ops.swiglu(wide_BQF, out[..., : both // 2])
        return self._with_low(out, both // 2, side)

    def _with_low(self, x_BQN: Tensor, width: int, side: Side | None) -> Tensor:
        """`x_BQN` with the low-rank part of its first `width` columns in the others."""
        if side is not None:
            side.low(x_BQN[..., :width], self._factors(side, x_BQN.shape[1]), x_BQN[..., width:])
        return x_BQN

    def _attention(
        self, c: Shape, w: Weights, h: Tensor, canvas: Canvas, select_BK: Tensor | None,
        kept: tuple[Tensor, Tensor] | None,
    ) -> Tensor:  # fmt: skip
        """What the queries see, (B, K, H * E). With places, fresh keys and values are not kept: none reads them later.

        (A later pass has its own of the same positions, or computes the whole canvas.)
        """
        asks, width, seen = c.heads * c.head_width, h.shape[-1], (canvas.cos, canvas.sin)
        asked, weight, bias = seen, w.qkv[:, :width], w.bias
        room = joined(kept) if kept is not None and canvas.places_BQ is None else None
        whole = select_BK is None and room is None  # one product, and one kernel turns its queries and keys
        if whole:
            qkv = F.linear(h, weight, bias)
            q, kv = qkv[..., :asks], qkv[..., asks:]
        else:
            asking = h
            if select_BK is not None:
                asked = at_places(seen[0], select_BK), at_places(seen[1], select_BK)
                asking = h.gather(1, select_BK[..., None].expand(-1, -1, width))
            q = F.linear(asking, weight[:asks], None if bias is None else bias[:asks])
            kv = _product(h, weight[asks:], None if bias is None else bias[asks:], room)
        if canvas.places_BQ is not None:
            assert kept is not None
            return self.ops.attend_kept(q, kv, kept, canvas.places_BQ, canvas.lengths_B, asked, seen)
        if whole:
            self.ops.rotate_(qkv, c.heads + c.kv_heads, c.head_width, *seen)
        else:
            self.ops.rotate_(q, c.heads, c.head_width, *asked)
            self.ops.rotate_(kv, c.kv_heads, c.head_width, *seen)
        k, v = (t.view(*t.shape[:-1], -1, c.head_width) for t in kv.chunk(2, dim=-1))
        if kept is not None and room is None:
            for stored, made in zip(kept, (k, v), strict=True):
                stored.copy_(made.transpose(1, 2))
        return self.attend(q.view(*q.shape[:-1], -1, c.head_width), k, v, canvas)


def _product(x_BQD: Tensor, weight_ND: Tensor, bias: Tensor | None, out_BQN: Tensor | None) -> Tensor:
    """As F.linear, into a tensor where one is given."""
    if out_BQN is None:
        return F.linear(x_BQD, weight_ND, bias)
    x, out = x_BQD.flatten(0, 1), out_BQN.flatten(0, 1)
    if bias is None:
        torch.mm(x, weight_ND.T, out=out)
    else:
        torch.addmm(bias, x, weight_ND.T, out=out)
    return out_BQN


HALVES = (torch.bfloat16, torch.float16)  # what flash attention takes


def attend(q_BKHE: Tensor, k_BLGE: Tensor, v_BLGE: Tensor, canvas: Canvas) -> Tensor:
    """Attention over tokens laid out row by row, (B, K, H * E).

    Flash attention takes no mask. Rows padded on the right are sequences of one length with a number of keys each;
    rows one after the other are sequences of their own lengths.
    """
    (b, asked, heads, width), packed, device = q_BKHE.shape, canvas.packed, q_BKHE.device
    if packed is not None:
        ask = seen = packed.starts
        if asked < len(packed.rows_T):  # the last layer's selected positions; none of what fills up
            each = asked // (len(seen) - 2)
            ask = (torch.arange(len(seen), dtype=torch.int32, device=device) * each).clamp(max=asked)
        spans = (ask, seen, packed.width, packed.width)
    elif canvas.lengths_B is not None and q_BKHE.dtype in HALVES:
        starts = torch.arange(b + 1, dtype=torch.int32, device=device)
        spans = (starts * asked, starts * k_BLGE.shape[1], asked, k_BLGE.shape[1])
    else:
        q, k, v = (t.transpose(1, 2) for t in (q_BKHE, k_BLGE, v_BLGE))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=canvas.mask, enable_gqa=heads != k.shape[1])
        return a.transpose(1, 2).reshape(b, asked, heads * width)
    flat = (t.flatten(0, 1) for t in (q_BKHE, k_BLGE, v_BLGE))
    made = torch.ops.aten._flash_attention_forward(*flat, *spans, 0.0, False, False, seqused_k=canvas.lengths_B)
    out: Tensor = made[0]
    return out.view(b, asked, heads * width)


def fused_layers(network: Decoder, switch: Switch | None) -> RunLayer | None:
    """The layers of a network on a GPU as above; None where they are of another kind or there is no Triton."""
    try:
        from triaxis.sampling import kernels
    except ImportError:
        return None
    return Fused.of(network, switch, kernels, attend)
