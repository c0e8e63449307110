"""Memory of the other GPUs of a host, opened by this process (CUDA IPC).

Handles travel through the processes' own group as JSON: nothing is unpickled. torch opens such memory under the number
of the GPU it is on (`torch.multiprocessing`), and then queues copies there, in a context that takes turns with its
owner's: seen on two H200, they were slower than NCCL. Opened under the reader's own number, it is copied by the
reader's stream.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# No way between two GPUs, memory of a kind that cannot be shared, or a torch whose own functions have changed.
UNABLE = (RuntimeError, AttributeError, TypeError, ValueError)


def parts_of_all(mine: list[Tensor]) -> list[list[Tensor]] | None:
    """Every process's byte tensors, by place in `mine` and rank, readable here; None where any process cannot read.

    Owners must not change them, nor let go of them before all are done.
    """
    me, here = dist.get_rank(), mine[0].device
    parts: list[list[Tensor]] = [[] for _ in mine]
    try:
        said = json.dumps([handle_of(part) for part in mine])
    except UNABLE:
        said = "[]"
    possible = torch.ones((), device=here)
    for rank, heard in enumerate(map(json.loads, exchange(said, here))):
        try:
            for k, part in enumerate(mine):
                parts[k].append(part if rank == me else open_handle(heard[k], here))
        except (*UNABLE, IndexError):  # the last: it had nothing that could be shared
            possible.zero_()
    dist.all_reduce(possible, dist.ReduceOp.MIN)
    return parts if possible else None


def handle_of(part: Tensor) -> list[object]:
    """What another process needs to find a tensor's bytes, for JSON."""
    shared = part.untyped_storage()._share_cuda_()  # type: ignore[no-untyped-call]
    return [x.hex() if isinstance(x, bytes) else x for x in shared]


def open_handle(said: list[Any], device: torch.device) -> Tensor:
    """The bytes another process told of, as if they were this device's."""
    shared = [bytes.fromhex(x) if isinstance(x, str) else x for x in said[1:]]
    storage = torch.UntypedStorage._new_shared_cuda(device.index, *shared)
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)


def exchange(said: str, device: torch.device) -> list[str]:
    """What every process says, by rank."""
    mine = torch.frombuffer(bytearray(said.encode()), dtype=torch.uint8).to(device)
    length = torch.tensor([len(mine)], device=device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    longest = int(max(lengths))
    all_ = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in lengths]
    dist.all_gather(all_, torch.cat([mine, mine.new_zeros(longest - len(mine))]))
    return [bytes(text[: int(n)].tolist()).decode() for text, n in zip(all_, lengths, strict=True)]
