"""Who computes a training step: one process, or several that `accelerate launch` or `torchrun` started.

Only the adapter is trained, so a step's gradients are small (84 MB for rank 8 on all of LLaDA-8B) and are summed in one
go at its end. The frozen weights are held whole by every process, or, with `sharded`, those of the layers in equal
parts, gathered layer by layer as they are needed. Knows nothing of data or losses.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from os import environ
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from triaxis.errors import UserError
from triaxis.models.parts import Canvas, Decoder, Layer, RunLayer
from triaxis.models.quantise import QUANTISED
from triaxis.sampling.compiled import VERSIONS, Compiled

PATIENCE = timedelta(hours=12)  # how long a process waits for another one, which may be sampling
BUFFERS = 2  # for whole layers, where frozen weights are in parts: of the layer that computes and of the next one
GATHER = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name since torch 2.13
ALIGNED = 256  # bytes; where a weight begins in them


class Alone:
    """One process. `device`: where it computes."""

    main, processes, index = True, 1, 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def gpus(self) -> list[int]:
        """The number of its GPU, if it has one."""
        if self.device.type != "cuda":
            return []
        return [torch.cuda.current_device() if self.device.index is None else self.device.index]

    def share(self, weights: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over the processes."""

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over the processes."""
        return value

    def wait(self) -> None:
        """Until all processes are here."""


class Together(Alone):
    """One of several processes. Each computes parts of a step and takes the same optimiser step."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        self.processes, self.index = dist.get_world_size(), dist.get_rank()
        self.main = self.index == 0

    def share(self, weights: Iterable[nn.Parameter]) -> None:
        given = [p.grad for p in weights if p.grad is not None]
        flat = torch.cat([g.flatten() for g in given])
        dist.all_reduce(flat)
        for g, part in zip(given, torch.split(flat, [g.numel() for g in given]), strict=True):
            g.copy_(part.view_as(g))

    def total(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value

    def wait(self) -> None:
        dist.barrier(device_ids=self.gpus or None)


def started() -> int:
    """How many processes were started together, this one included."""
    return int(environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is."""
    return int(environ.get("RANK", "0"))


def own_device(device: torch.device) -> torch.device:
    """The device of this process: with several, each has a GPU of its own."""
    if device.type == "cuda" and started() > 1:
        return torch.device("cuda", int(environ.get("LOCAL_RANK", "0")))
    return device


def runner_on(device: torch.device) -> Alone:
    """The runner of this process."""
    return Together(device) if started() > 1 else Alone(device)


def leave() -> bool:
    """Part from the other processes; whether this is the one that reports."""
    main = not dist.is_initialized() or dist.get_rank() == 0
    if dist.is_initialized():
        dist.destroy_process_group()
    return main


# ---------------------------------------------------------------- how a layer is run


def way_of_running(compiled: bool, recompute: bool, dynamic: bool | None = None) -> RunLayer:
    """Layers as written, or compiled; with `recompute` the backward pass computes them again from their input.

    dynamic: compiled for all widths at once, where it is known that they vary.
    """
    run: RunLayer = _written
    if compiled:
        from torch import _dynamo

        _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, VERSIONS)
        run = partial(_fast, Compiled(_written, "the layers", partial(torch.compile, dynamic=dynamic)))
    return partial(_again, run) if recompute else run


def _written(
    layer: Layer, x: Tensor, canvas: Canvas, select: Tensor | None, kept: tuple[Tensor, Tensor] | None
) -> Tensor:
    out: Tensor = layer(x, canvas, select, kept)
    return out


def _fast(
    fast: RunLayer, layer: Layer, x: Tensor, canvas: Canvas, select: Tensor | None, kept: tuple[Tensor, Tensor] | None
) -> Tensor:
    """One compiled version, of half a minute, serves all layers: where another were needed, the layer runs as written.

    That is the last layer, which computes the response's positions only, and everything without gradients. The first
    layer's input is asked for a gradient it has no use for: below 1 % of the work of 32 layers.
    """
    if select is not None or not torch.is_grad_enabled():
        return _written(layer, x, canvas, select, kept)
    return fast(layer, x if x.requires_grad else x.detach().requires_grad_(), canvas, select, kept)


def _again(run: RunLayer, layer: Layer, x: Tensor, *given: object) -> Tensor:
    if not torch.is_grad_enabled():
        return run(layer, x, *given)  # type: ignore[arg-type]
    with set_checkpoint_early_stop(False):  # it stops by an exception, which `Compiled` would take for the compiler's
        out: Tensor = checkpoint(run, layer, x, *given, use_reentrant=False)
    return out


# ---------------------------------------------------------------- frozen weights in parts


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
    saved in the forward pass is there again when the backward pass comes to it. While one layer computes, the weights
    of the next one come, in either direction. Gathering copies nothing else (torch's `fully_shard` does).
    """

    def __init__(self, network: Decoder, base: Decoder) -> None:
        self.run, self.number = network.run_layer, {layer: k for k, layer in enumerate(network.layers())}
        self.mine, laid, n = list[Tensor](), list[list[_Place]](), dist.get_world_size()
        for mine, its in zip(self.number, base.layers(), strict=True):
            mine.unfuse()
            its.unfuse()
            part, places = _split(mine)
            _give_up(its)
            for p in places:
                p.owner._parameters[p.name] = None  # freed before the next layer is split
            self.mine.append(part)
            laid.append(places)
        longest = n * max(len(part) for part in self.mine)
        buffers = [self.mine[0].new_empty(longest) for _ in range(BUFFERS)]
        self.whole = [buffers[k % BUFFERS][: n * len(part)] for k, part in enumerate(self.mine)]
        for whole, places in zip(self.whole, laid, strict=True):
            for p in places:  # `.data`: autograd must not count the gathering as a change of what it saved
                p.owner._parameters[p.name] = nn.Parameter(_weight(whole, p).data, requires_grad=False)
        self.held: list[int] = [-1] * BUFFERS  # the layer whose weights are in each buffer, or on their way there
        self.coming: list[dist.Work | None] = [None] * BUFFERS

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
            self.coming[place] = GATHER(self.whole[k], self.mine[k], async_op=True)


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
    """Where a weight lies in its layer's bytes."""

    owner: nn.Module
    name: str
    start: int
    shape: torch.Size
    dtype: torch.dtype
    nbytes: int


def _split(layer: nn.Module) -> tuple[Tensor, list[_Place]]:
    """This process's part of the bytes of a layer's frozen weights, and where each lies in all of them."""
    places, at = list[_Place](), 0
    for owner in layer.modules():
        for name, w in owner._parameters.items():
            if w is not None and not w.requires_grad:
                if type(w) is not nn.Parameter:
                    raise UserError(
                        f"weights of type {type(w).__name__} cannot be held in parts; train without sharded"
                    )
                places.append(_Place(owner, name, at, w.shape, w.dtype, w.nbytes))
                at += -(-w.nbytes // ALIGNED) * ALIGNED
    n = dist.get_world_size()
    size = -(-at // (n * ALIGNED)) * ALIGNED
    whole = torch.zeros(n * size, dtype=torch.uint8, device=next(layer.parameters()).device)
    for p in places:
        _weight(whole, p).copy_(cast(Tensor, p.owner._parameters[p.name]))
    return whole.view(n, size)[dist.get_rank()].clone(), places


def _weight(whole: Tensor, p: _Place) -> Tensor:
    return whole[p.start : p.start + p.nbytes].view(p.dtype).view(p.shape)


def _give_up(module: nn.Module) -> None:
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)
