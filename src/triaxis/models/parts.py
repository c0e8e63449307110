"""What every decoder network here is made of: rotary tables, norm, attention over a canvas, memory, the trunk.

A family's file names its tensors and says how a layer projects; this file says what attention does. Knows nothing of
config files, tokenizers or sampling. Building a network changes no global torch setting.

Shape suffixes: B rows, L canvas tokens, Q tokens a pass computes, K selected positions, D width, H heads,
G key/value heads, E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from triaxis.models.known import Known


class NetworkConfig(Protocol):
    """What sampling and training need to know of any network's config."""

    @property
    def mask_token_id(self) -> int: ...
    @property
    def eos_token_id(self) -> int: ...
    @property
    def max_sequence_length(self) -> int: ...
    @property
    def rows(self) -> int: ...  # embedding rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes and habits of a trunk, whatever its family calls them."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    theta: float
    eps: float
    max_length: int
    rotary: int = 0  # dimensions of a head that turn; 0: all
    attend_block: int = 0  # 0: everyone sees everyone; n: blocks of n positions, from position 0, see no later block
    shift: int = 0  # 1: the logits of position p are made of the state of position p - 1


def rope_tables(length: int, head_width: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, (length, head_width) float32: rotary embedding in the half-split convention (arXiv:2104.09864)."""
    powers = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), 1.0 / theta**powers)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


# Columns kept free beside weights that lie side by side (1.6 % of LLaDA-8B's layers): adapters write their B there
# (sampling/fused.py).
ROOM_BESIDE = 64


def added(fresh: Tensor, other: Tensor) -> Tensor:
    """fresh + other, into `fresh` (a tensor nobody else holds) where no gradient is wanted: the same bits, less memory.

    On a CPU, allocating and reading temporaries took a quarter of a forward pass.
    """
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


def times(fresh: Tensor, other: Tensor) -> Tensor:
    """fresh * other, in the same way."""
    return fresh * other if torch.is_grad_enabled() else fresh.mul_(other)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; `gate` is fresh."""
    return F.silu(gate) * up if torch.is_grad_enabled() else F.silu(gate, inplace=True).mul_(up)


def rotate(x_BHLE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads by position in float32 (rope_full_precision); cos and sin broadcast over (B, H, L, E).

    Tables narrower than a head turn its first dimensions and leave the others (partial rotary).
    """
    turning, still = x_BHLE, None
    if cos.shape[-1] != x_BHLE.shape[-1]:
        turning, still = x_BHLE[..., : cos.shape[-1]], x_BHLE[..., cos.shape[-1] :]
    x = turning.float()
    half = x.shape[-1] // 2
    turned = x * cos
    if torch.is_grad_enabled():
        left, right = x.chunk(2, dim=-1)
        turned = turned + torch.cat((-right, left), dim=-1) * sin
    else:  # the same sums without the temporaries
        turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    turned = turned.to(x_BHLE.dtype)
    return turned if still is None else torch.cat((turned, still), dim=-1)


class RMSNorm(nn.Module):
    """Root-mean-square norm computed in float32 (arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
            return times(F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype), self.weight)
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # one reading of x; rms_norm makes three
        scaled: Tensor = x * length.pow_(2).mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()
        return scaled.mul_(self.weight)


class Embedding(nn.Embedding):
    """As torch's, without drawing values where there is nothing to hold them: that imports torch._dynamo, 2 s."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


@dataclass(frozen=True, slots=True)
class Memory:
    """Keys (rotated) and values of a canvas, one pair a layer, (B, G, L, E). Passes write what they compute into it."""

    pairs: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def empty(cls, shape: Shape, ids_BL: Tensor, dtype: torch.dtype) -> Memory:
        """Room for a canvas. Zeros: what nobody may see is still multiplied by its weight, 0."""
        size = (ids_BL.shape[0], shape.kv_heads, ids_BL.shape[1], shape.head_width)
        make = partial(torch.zeros, size, dtype=dtype, device=ids_BL.device)
        return cls(tuple((make(), make()) for _ in range(shape.layers)))

    def take(self, rows_B: Tensor) -> Memory:
        """A copy that holds those rows only."""
        return Memory(tuple((k[rows_B], v[rows_B]) for k, v in self.pairs))


def joined(kept: tuple[Tensor, Tensor]) -> Tensor | None:
    """A layer's keys and values as one tensor, (B, L, 2 G E), where a token's keys lie before its values; else None."""
    keys, (b, g, length, e) = kept[0], kept[0].shape
    strides = (2 * g * e * length, e, 2 * g * e, 1)
    apart = kept[1].data_ptr() - keys.data_ptr()
    if any(t.stride() != strides for t in kept) or apart != g * e * keys.element_size():
        return None
    return keys.as_strided((b, length, 2 * g * e), (strides[0], strides[2], 1))


def _remember(kept: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], places_BQ: Tensor | None) -> None:
    """Write new keys and values at `places_BQ`, or all of them.

    By index_put_, not scatter_: Inductor writes the former in place, and copies the whole memory for the latter.
    """
    where: tuple[Tensor, ...] = ()
    if places_BQ is not None:
        rows = torch.arange(len(places_BQ), device=places_BQ.device)[:, None, None]
        heads = torch.arange(new[0].shape[1], device=places_BQ.device)[None, :, None]
        where = (rows, heads, places_BQ[:, None, :])
    for stored, made in zip(kept, new, strict=True):
        if places_BQ is None:
            stored.copy_(made)
        else:
            stored.index_put_(where, made)


TILE = 128  # queries that flash attention takes at once: of a longest row that is a multiple, nothing beyond is written


class Packed(NamedTuple):
    """Rows that lie one after the other without padding, as one row of T tokens. GPU only (sampling/fused.py)."""

    starts: Tensor  # (B + 2,) int32, where each row begins; what fills up the pass is a row of its own
    rows_T: Tensor  # (T,) the row of each token; of what fills up, the last
    width: int  # no row is longer, but what fills up may be, and is then computed to there; a multiple of TILE


class Canvas(NamedTuple):
    """What every layer needs to know of one pass.

    cos, sin: (Q, E) or (B, 1, Q, E). mask: bool, broadcasts over (B, H, Q, L), False where nobody may look; None:
    everyone sees everything. places_BQ: where the computed positions stand in the canvas; None: they are all of it.
    lengths_B: int32; where given, `mask` says no more than that rows are padded on the right to so many positions.
    packed: the rows are in one; then cos and sin are (1, 1, T, E).
    known: what the first layer projects, (B, Q, heads * E) each, where it was looked up.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None = None
    places_BQ: Tensor | None = None
    lengths_B: Tensor | None = None
    packed: Packed | None = None
    known: tuple[Tensor, Tensor, Tensor] | None = None


def at_places(table: Tensor, select_BK: Tensor) -> Tensor:
    """Rows of a (Q, E) or (B, 1, Q, E) table at positions, (B, 1, K, E)."""
    if table.dim() == 2:
        return table[select_BK][:, None]
    return table.gather(2, select_BK[:, None, :, None].expand(-1, -1, -1, table.shape[-1]))


class Layer(nn.Module):
    """One pre-norm transformer layer. A family names its parts; attention is here.

    `parts` maps the roles q, k, v, out, gate, up, down, norm1, norm2 (and q_norm, k_norm) to module names inside the
    layer. Modules are looked up at each call, so that a wrapper put in place of a projection is used.
    """

    parts: ClassVar[Mapping[str, str]]
    # Weights of q, k, v (of gate, up; of down) in one tensor each, with ROOM_BESIDE more columns; those of the modules
    # are views of it. Buffers, because whoever copies a module tree and shares its tensors then shares these too.
    qkv: Tensor | None
    qkv_bias: Tensor | None
    gate_up: Tensor | None
    down: Tensor | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        for name in ("qkv", "qkv_bias", "gate_up", "down"):
            self.register_buffer(name, None, persistent=False)

    def part(self, role: str) -> nn.Module:
        return self.get_submodule(self.parts[role])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, L, heads * E) each."""
        if self.qkv is not None and self.plain("q", "k", "v"):
            return self.split(F.linear(x, self.qkv[:, : x.shape[-1]], self.qkv_bias))
        return self.part("q")(x), self.part("k")(x), self.part("v")(x)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.shape
        q, k, v = torch.split(qkv, [c.heads * c.head_width, *[c.kv_heads * c.head_width] * 2], dim=-1)
        return q, k, v

    def queries(self, x: Tensor) -> Tensor:
        """Queries alone, where fewer positions ask than are asked."""
        out: Tensor = self.part("q")(x)
        return out

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c = self.shape
        if self.qkv is not None and self.plain("k", "v"):
            start = c.heads * c.head_width
            bias = None if self.qkv_bias is None else self.qkv_bias[start:]
            k, v = F.linear(x, self.qkv[start:, : x.shape[-1]], bias).chunk(2, dim=-1)
            return k, v
        return self.part("k")(x), self.part("v")(x)

    def feed(self, h: Tensor) -> Tensor:
        """The feed-forward part: SwiGLU."""
        if self.gate_up is not None and self.plain("gate", "up"):
            gate, up = F.linear(h, self.gate_up[:, : h.shape[-1]]).chunk(2, dim=-1)
        else:
            gate, up = self.part("gate")(h), self.part("up")(h)
        out: Tensor = self.part("down")(swiglu(gate, up))
        return out

    def plain(self, *roles: str) -> bool:
        """Whether those parts are bare linear layers without gradients: only then may their weights be used as one."""
        found = [self.part(r) for r in roles]
        return all(type(m) is nn.Linear and not m.weight.requires_grad for m in found)

    def fuse(self) -> None:
        """Lay the weights of q, k, v (and gate, up) side by side in one tensor each; the modules keep views of it."""
        if "k" in self.parts and self.plain("q", "k", "v"):
            self.qkv, self.qkv_bias = _fused([cast(nn.Linear, self.part(r)) for r in "qkv"])
        if "gate" in self.parts and self.plain("gate", "up"):
            self.gate_up, _ = _fused([cast(nn.Linear, self.part(r)) for r in ("gate", "up")])
        if "down" in self.parts and self.plain("down"):
            self.down, _ = _fused([cast(nn.Linear, self.part("down"))])

    def unfuse(self) -> None:
        """Forget the fused tensors; the modules keep their weights."""
        self.qkv = self.qkv_bias = self.gate_up = self.down = None

    def _heads(self, x: Tensor, heads: int, norm: str) -> Tensor:
        split = x.reshape(*x.shape[:-1], heads, self.shape.head_width)
        if norm in self.parts:
            split = self.part(norm)(split)
        return split.transpose(1, 2)

    def forward(
        self, x_BQD: Tensor, canvas: Canvas, select_BK: Tensor | None = None,
        kept: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """(B, Q, D) -> (B, Q, D); with `select_BK`, queries, output and MLP run at those positions only: (B, K, D).

        kept: this layer's keys and values of the whole canvas; what is computed is written there, the rest is read.
        """
        c, cos_q, sin_q, mask, rest = self.shape, canvas.cos, canvas.sin, canvas.mask, x_BQD
        normed = self.part("norm1")(x_BQD) if canvas.known is None else x_BQD
        if canvas.known is not None:
            q, k, v = canvas.known
        elif select_BK is None:
            q, k, v = self.project(normed)
        else:
            index = select_BK[..., None].expand(-1, -1, x_BQD.shape[-1])
            rest = x_BQD.gather(1, index)
            cos_q, sin_q = at_places(cos_q, select_BK), at_places(sin_q, select_BK)
            if mask is not None and mask.shape[2] > 1:
                mask = at_places(mask.expand(len(select_BK), -1, -1, -1), select_BK)
            q = self.queries(normed.gather(1, index))
            k, v = self.keys_values(normed)
        q = rotate(self._heads(q, c.heads, "q_norm"), cos_q, sin_q)
        k = rotate(self._heads(k, c.kv_heads, "k_norm"), canvas.cos, canvas.sin)
        v = self._heads(v, c.kv_heads, "")
        if kept is not None:
            _remember(kept, (k, v), canvas.places_BQ)
            k, v = kept
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=c.kv_heads != c.heads)
        x = added(cast(Tensor, self.part("out")(a.transpose(1, 2).flatten(2))), rest)
        return added(self.feed(self.part("norm2")(x)), x)


def _fused(modules: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    with torch.inference_mode(False), torch.no_grad():
        inputs, rows, like = modules[0].in_features, sum(m.out_features for m in modules), modules[0].weight
        weight = torch.zeros(rows, inputs + ROOM_BESIDE, dtype=like.dtype, device=like.device)
        torch.cat([m.weight for m in modules], out=weight[:, :inputs])
        bias = torch.cat([m.bias for m in modules]) if modules[0].bias is not None else None
        start = 0
        for m in modules:
            end = start + m.out_features
            m.weight = nn.Parameter(weight[start:end, :inputs], requires_grad=False)
            if bias is not None:
                m.bias = nn.Parameter(bias[start:end], requires_grad=False)
            start = end
    return weight, bias


RunLayer = Callable[[Layer, Tensor, Canvas, Tensor | None, tuple[Tensor, Tensor] | None], Tensor]


class Decoder(nn.Module):
    """The whole network. `forward` gives logits; `hidden` + `head` let a sampler pay for a block's logits only."""

    shape: Shape

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.synchronises = False  # whether a pass makes the host wait for the device: then it cannot be a CUDA graph
        self.waits = False  # set where adapters are mounted beside the layers
        self.run_layer: RunLayer = Layer.__call__  # replaced where a compiled one pays
        self._rope: tuple[Tensor, Tensor] | None = None
        self._outgrown: list[tuple[Tensor, Tensor]] = []
        self._known = Known()

    @property
    def dtype(self) -> torch.dtype:
        """Of the states, and so of the keys and values."""
        return next(self.parameters()).dtype

    # What a family's file provides.
    def embedding(self) -> nn.Module:
        """Token ids to states."""
        raise NotImplementedError

    def layers(self) -> Iterable[Layer]:
        """In the order of the forward pass."""
        raise NotImplementedError

    def final_norm(self) -> nn.Module:
        """What the last layer's states go through before the head."""
        raise NotImplementedError

    def head_module(self) -> nn.Module | None:
        """The output layer; None where the embedding serves as it."""
        raise NotImplementedError

    def fuse(self) -> None:
        """Use one product for q, k, v and one for gate and up where nothing wraps them. No second copy stays.

        Pays on a GPU. On a CPU the parts of the wide result are not contiguous, and what follows is slower for it.
        """
        for layer in self.layers():
            layer.fuse()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Decoder:
        """Moving or converting a module parts the modules' weights from the fused ones: fuse again afterwards."""
        fused = [layer for layer in self.layers() if layer.qkv is not None or layer.gate_up is not None]
        self.run_layer = Layer.__call__  # another one may hold the weights as they were
        for layer in fused:
            layer.unfuse()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for layer in fused:
            layer.fuse()
        return self

    def tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary tables of the first `length` positions, kept and grown as needed."""
        if self._rope is None or self._rope[0].device != device or self._rope[0].shape[0] < length:
            size = max(length, min(1024, self.shape.max_length))
            if self._rope is not None:
                self._outgrown.append(self._rope)  # a CUDA graph may still read them
            with torch.inference_mode(False):  # kept tables must serve training too
                self._rope = rope_tables(size, self.shape.rotary or self.shape.head_width, self.shape.theta, device)
        cos, sin = self._rope
        return cos[:length], sin[:length]

    def hidden(
        self, ids_BL: Tensor, valid: Tensor | None = None, select_BK: Tensor | None = None,
        memory: Memory | None = None, places_BQ: Tensor | None = None, packed: int = 0,
    ) -> Tensor:  # fmt: skip
        """Normed final states, (B, L, D), or (B, K, D) at the canvas positions `select_BK`.

        valid: (B, L) bool, False at padding (any side; positions count from the row's column 0), or (B,) int, where
        padding is on the right and each row has so many positions: the quicker form on a GPU. Exact: the last
        layer runs queries, output and MLP at the selected positions only, which no other position reads.
        memory: keys and values are written there. places_BQ: compute those positions only (consecutive in each row,
        the selected ones among them) and take the rest from `memory`, which a pass without places has filled.
        A network that shifts its logits is given the positions whose logits are wanted, and takes the states before.
        packed: compute so many tokens, at least those that the rows have together, in place of the padded canvas; with
        lengths and a selection only, and with layers that can (`packs`).
        """
        if packed:
            assert valid is not None
            assert select_BK is not None
            return self._hidden_packed(ids_BL, valid, select_BK, packed)
        cos, sin = self.tables(ids_BL.shape[1], ids_BL.device)
        if places_BQ is not None:
            ids, cos, sin = ids_BL.gather(1, places_BQ), cos[places_BQ][:, None], sin[places_BQ][:, None]
        else:
            ids = ids_BL
        lengths = None
        if valid is not None and valid.dim() == 1:
            lengths = None if self.shape.attend_block else valid.int()
            valid = torch.arange(ids_BL.shape[1], device=ids_BL.device) < valid[:, None]
        canvas = Canvas(cos, sin, self._mask(ids_BL, valid, places_BQ), places_BQ, lengths)
        spots = None if select_BK is None else (select_BK - self.shape.shift).clamp(min=0)
        if spots is not None and places_BQ is not None:
            spots = spots - places_BQ[:, :1]
        x = self._through(ids, canvas, spots, memory)
        if select_BK is None and self.shape.shift:
            x = torch.cat((x[:, :1], x[:, :-1]), dim=1)
        out: Tensor = self.final_norm()(x)
        return out

    def _through(self, ids_BQ: Tensor, canvas: Canvas, spots_BK: Tensor | None, memory: Memory | None) -> Tensor:
        """Embedding and layers; the last one at the spots only."""
        x, layers = cast(Tensor, self.embedding()(ids_BQ)), list(self.layers())
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            seen = canvas
            if not (number or last) and self.run_layer is Layer.__call__:  # a compiled layer is one function for all
                seen = canvas._replace(known=self._known.of(cast(Tensor, self.embedding().weight), layer, ids_BQ))
            x = self.run_layer(layer, x, seen, spots_BK if last else None, memory.pairs[number] if memory else None)
        return x

    def _hidden_packed(self, ids_BL: Tensor, lengths_B: Tensor, select_BK: Tensor, tokens: int) -> Tensor:
        """As `hidden` at the selected positions, (B, K, D), through one row of `tokens` tokens."""
        (b, width), device = ids_BL.shape, ids_BL.device
        starts = F.pad(lengths_B.cumsum(0), (1, 0))
        token = torch.arange(tokens, device=device)
        row = torch.searchsorted(starts[1:], token, right=True)
        place = (token - starts[row]).clamp(max=width - 1)
        row = row.clamp(max=b - 1)
        cos, sin = (t[place][None, None] for t in self.tables(width, device))
        ends = F.pad(starts, (0, 1), value=tokens).int()
        canvas = Canvas(cos, sin, packed=Packed(ends, row, -(-width // TILE) * TILE))
        spots = starts[:-1, None] + (select_BK - self.shape.shift).clamp(min=0)
        x = self._through(ids_BL[row, place][None], canvas, spots.clamp(max=tokens - 1).view(1, -1), None)
        out: Tensor = self.final_norm()(x)
        return out.view(b, -1, out.shape[-1])

    def _mask(self, ids_BL: Tensor, valid_BL: Tensor | None, places_BQ: Tensor | None) -> Tensor | None:
        keys = None if valid_BL is None else valid_BL[:, None, None, :]
        n = self.shape.attend_block
        if not n:
            return keys
        place = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        asking = place[None] if places_BQ is None else places_BQ
        seen = ((asking // n)[:, :, None] >= (place // n)[None, None])[:, None]
        return seen if keys is None else seen & keys

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the embedding rows, (..., V)."""
        module = self.head_module()
        if module is None:
            return F.linear(hidden, self.embedding().weight)  # type: ignore[arg-type]
        out: Tensor = module(hidden)
        return out

    def forward(self, ids_BL: Tensor, valid: Tensor | None = None, select_BK: Tensor | None = None) -> Tensor:
        """Logits, (B, L, V) or (B, K, V)."""
        return self.head(self.hidden(ids_BL, valid, select_BK))
