"""Frozen weights in parts: each of several processes holds one, and layers gather theirs as they are needed."""

from __future__ import annotations

from os import environ
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from triaxis.errors import UserError
from triaxis.models.parts import Decoder, Layer
from triaxis.models.quantise import QUANTISED
from triaxis.train.peers import parts_of_all

BUFFERS = 2  # for whole layers: the one that computes and the next one
ALIGNED = 256  # bytes; where a weight begins in them


def check_sharded(processes: int, dtype: str | None = None) -> None:
    """UserError where there are no processes to share the weights, or weights that cannot be shared."""
    if processes == 1:
        raise UserError("sharded training needs several processes; start it with accelerate launch or torchrun")
    if dtype in QUANTISED:
        raise UserError(f"weights in {dtype} cannot be held in parts; give dtype bf16, or leave out sharded")


def shard(network: Decoder, base: Decoder) -> None:
    """Leave every process an equal part of the frozen weights of `network`'s layers; all else stays whole.

    `base`, the network it shares its weights with, gives them up layer by layer and cannot be used any more: this is
    what makes room.
    """
    network.run_layer = _InParts(network, base)


class _InParts:
    """Runs the layers of a network whose frozen weights are gathered into one of two buffers while they are used.

    A layer's weights are views of its buffer once and for all: layer k always has buffer k modulo two, so what autograd
    saved in the forward pass is there again when the backward pass comes to it. They lie there as they lay before, side
    by side where they did, so that products are the same. While one layer computes, the weights of the next one come,
    in either direction: between GPUs of one host by their copy engines, which takes no multiprocessor from that layer.
    Nothing else is copied (torch's `fully_shard` does).
    """

    def __init__(self, network: Decoder, base: Decoder) -> None:
        self.run, self.number = network.run_layer, {layer: k for k, layer in enumerate(network.layers())}
        self.mine, laid, n = list[Tensor](), list[list[_Place]](), dist.get_world_size()
        for mine, its in zip(self.number, base.layers(), strict=True):
            places, size = _places(mine)
            self.mine.append(_part(places, size))
            laid.append(places)
            its.unfuse()
            _give_up(its)
            for p in places:
                p.table[p.name] = None  # freed before the next layer is split
        longest = n * max(len(part) for part in self.mine)
        buffers = [self.mine[0].new_empty(longest) for _ in range(BUFFERS)]
        self.whole = [buffers[k % BUFFERS][: n * len(part)] for k, part in enumerate(self.mine)]
        for whole, places in zip(self.whole, laid, strict=True):
            for p in places:  # `.data`: autograd must not count the gathering as a change of what it saved
                weight = p.of(whole).data
                p.table[p.name] = nn.Parameter(weight, requires_grad=False) if p.parameter else weight
        self.held: list[int] = [-1] * BUFFERS  # the layer whose weights are in each buffer, or on their way there
        self.coming: list[_Coming | None] = [None] * BUFFERS
        self.bring = _way(self.mine)

    def __call__(self, layer: Layer, x: Tensor, *given: object) -> Tensor:
        k = self.number[layer]
        self.need(k, k + 1)
        out = self.run(layer, x, *given)  # type: ignore[arg-type]
        return _Passed.apply(out, self, k) if out.requires_grad else out  # type: ignore[no-untyped-call]

    def need(self, k: int, next_: int) -> None:
        """Whatever is queued from now on finds layer k's weights; those of the next one are on their way."""
        self._fetch(k)
        if (work := self.coming[k % BUFFERS]) is not None:
            work.wait()  # the device's stream, not the host
            self.coming[k % BUFFERS] = None
        if 0 <= next_ < len(self.mine):
            self._fetch(next_)

    def _fetch(self, k: int) -> None:
        """Gathering waits for what is queued by now, so for the last use of the buffer."""
        place = k % BUFFERS
        if self.held[place] != k:
            self.held[place] = k
            self.coming[place] = self.bring(self.whole[k], k)


class _Coming(Protocol):
    """Weights on their way."""

    def wait(self) -> object:
        """The device's current stream waits for them, not the host."""


class _Bring(Protocol):
    """A way to fill `whole` with layer k's weights once everything queued by now is done."""

    def __call__(self, whole: Tensor, k: int) -> _Coming | None: ...


class _Gathered:
    """All processes at once, by their backend's collective."""

    def __init__(self, mine: list[Tensor]) -> None:
        self.mine = mine

    def __call__(self, whole: Tensor, k: int) -> dist.Work | None:
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before 2.13
        work: dist.Work | None = gather(whole, self.mine[k], async_op=True)
        return work


class _Read:
    """Each process for itself, out of the other GPUs' memory. Frozen weights do not change, so none waits for another.

    parts: of each layer, by rank; those of other processes are their memory.
    """

    def __init__(self, parts: list[list[Tensor]]) -> None:
        n = dist.get_world_size()
        self.parts, self.stream = parts, torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.order = [(dist.get_rank() + k) % n for k in range(n)]  # not all out of the same GPU

    def __call__(self, whole: Tensor, k: int) -> torch.cuda.Event:
        size = len(self.parts[k][0])
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for r in self.order:
                whole[r * size :][:size].copy_(self.parts[k][r], non_blocking=True)
            arrived: torch.cuda.Event = self.stream.record_event()
        return arrived


def _way(mine: list[Tensor]) -> _Bring:
    """How the other processes' parts come here."""
    one_host = environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE")
    if mine[0].device.type != "cuda" or not one_host:
        return _Gathered(mine)
    parts = parts_of_all(mine)
    torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]  # what was shared by a training before this one
    return _Gathered(mine) if parts is None else _Read(parts)


class _Passed(torch.autograd.Function):
    """The output of a layer as it is; on the way back the layer's weights are asked for before it needs them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: _InParts, k: int) -> Tensor:
        ctx.layers, ctx.k = layers, k
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.layers.need(ctx.k, ctx.k - 1)
        return grad, None, None


class _Place(NamedTuple):
    """Where a frozen tensor lies in the bytes of its layer."""

    table: dict[str, Any]  # of its module, where it is `name`
    name: str
    parameter: bool  # else a buffer
    start: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def of(self, whole: Tensor) -> Tensor:
        """The tensor in those bytes."""
        return whole.view(self.dtype).as_strided(self.shape, self.stride, self.start // self.dtype.itemsize)


def _places(layer: nn.Module) -> tuple[list[_Place], int]:
    """The frozen tensors of a layer in one row of bytes, and its length; tensors of one storage lie as there."""
    frozen = [
        (table, name, t)
        for m in layer.modules()
        for table in (m._parameters, m._buffers)
        for name, t in table.items()
        if t is not None and t.numel() and not t.requires_grad
    ]
    used: dict[int, tuple[int, int]] = {}  # storage -> the bytes of it that are used
    for _, _, t in frozen:
        if type(t) not in (nn.Parameter, Tensor):
            raise UserError(f"weights of type {type(t).__name__} cannot be held in parts; train without sharded")
        low, high = used.get(_storage(t), _span(t))
        first, last = _span(t)
        used[_storage(t)] = min(first, low), max(last, high)
    shift, size = dict[int, int](), 0
    for key, (low, high) in used.items():
        shift[key] = size - low
        size += -(-(high - low) // ALIGNED) * ALIGNED
    places = [
        _Place(table, name, isinstance(t, nn.Parameter), shift[_storage(t)] + _span(t)[0], t.shape, t.stride(), t.dtype)
        for table, name, t in frozen
    ]
    return places, size


def _storage(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _span(t: Tensor) -> tuple[int, int]:
    """The first byte of its storage that a tensor uses, and the one after its last."""
    first = int(t.storage_offset())
    last = first + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True)) + 1
    return first * t.itemsize, last * t.itemsize


def _part(places: list[_Place], size: int) -> Tensor:
    """This process's part of those bytes, filled up to parts of one length."""
    n = dist.get_world_size()
    each = -(-size // (n * ALIGNED)) * ALIGNED
    whole = torch.zeros(n * each, dtype=torch.uint8, device=places[0].table[places[0].name].device)
    for p in places:
        p.of(whole).copy_(p.table[p.name])
    return whole.view(n, each)[dist.get_rank()].clone()


def _give_up(module: nn.Module) -> None:
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)
