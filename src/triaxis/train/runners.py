"""Who computes a training step: one process, or several that `accelerate launch` or `torchrun` started.

Only the adapter is trained, so a step's gradients are small (84 MB for rank 8 on all of LLaDA-8B) and are summed in one
go at its end. The frozen weights are held whole by every process, or in parts (sharded.py). Knows nothing of data or
losses.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from os import environ

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from triaxis.models.parts import Canvas, Layer, RunLayer
from triaxis.sampling.compiled import VERSIONS, Compiled

PATIENCE = timedelta(hours=12)  # how long a process waits for another one, which may be sampling


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
