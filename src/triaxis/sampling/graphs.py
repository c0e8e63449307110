"""A denoising step as one CUDA graph: launched once, no word from the host in between.

Decoding at batch 1 to 16 is bound by launches, not by arithmetic, unless the whole step (trunk, head, noise,
confidence, commitment) is one graph. There is one graph a form (`Form`), a handful in a study; rows sit in its tensors
while it works on them (seats.py). Layers and the choice of tokens run in few kernels or compiled (compiled.py).

What is graphed: a fixed schedule, bidirectional networks, no guidance. Adapters that switch are graphed too: which are
on is a tensor, one factor a row and adapter, written before each replay; a pass with all off has a graph without
them. Everything else runs step by step through the same functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from triaxis.models.adapters import Gate, Switch, switch_of
from triaxis.models.parts import Decoder, Memory
from triaxis.sampling.compiled import Layers, cause_of, in_kernels
from triaxis.sampling.fused import Fused
from triaxis.sampling.rows import Rows
from triaxis.sampling.schedule import Decode
from triaxis.sampling.seats import CHANGED, Seating, Seats, Size

ROOM = 256  # a shared memory is made for widths up to the next multiple of this
ASKED = 8  # with a cache, so many positions more or less whose logits are made are another graph


class Form(NamedTuple):
    """What steps must have in common to be one graph."""

    size: Size
    kind: str  # "full": the whole canvas, whatever the cache; else the cache's name
    gated: bool  # adapters may be on
    asked: int  # positions of a row whose logits are made


# rows, span, tokens to commit, memory, places, positions asked
Body = Callable[[Rows, Tensor, Tensor, Memory | None, Tensor | None, int], None]


@dataclass(slots=True)
class Graphs:
    """The graphs of one network and protocol."""

    network: Decoder
    d: Decode  # but for its steps
    body: Body  # a whole step on tensors, in place
    record: Callable[[Callable[[], None], Graphs], Callable[[], None]]  # makes something to replay of something to run
    switch: Switch | None = None  # of the adapters mounted on the network
    seating: Seating = field(default_factory=Seating)
    made: dict[Form, Callable[[], None]] = field(default_factory=dict)
    memories: dict[tuple[int, int], Memory] = field(default_factory=dict)
    sent: dict[Gate, Tensor] = field(default_factory=dict)  # factors of the adapters on the device, (1, A)
    flat: Tensor | None = None  # what the memories are parts of
    pool: Any = None

    def step(self, rows: Rows, span_BK: Tensor, count: int, full: bool, hidden: int, passes: int) -> None:
        """One of the `passes` a block takes: over all rows, in place, with the adapters as the switch says.

        full: compute the whole canvas; else what the cache does not hold. hidden: positions of a row's block that no
        pass has committed; with a dual cache, logits are made for little more than those. (Where a network commits the
        mask token itself, more are hidden than are counted, and the last of them may wait for a later pass.)
        """
        gates = self._gates(len(rows.at), span_BK.device)
        kind, asked = "full" if full else self.d.cache, span_BK.shape[1]
        if kind == "dual":  # elsewhere a pass costs so much more that a graph for each would not pay
            asked = min(asked, -(-hidden // ASKED) * ASKED)
        run = self.network.run_layer
        packs = self.d.cache == "none" and isinstance(run, Fused) and run.packs
        seats = self.seating.find(rows, span_BK, packs, passes)
        form = Form(seats.size, kind, gates is not None, asked)
        seats.seat(rows, span_BK, count, gates)
        if form not in self.made:
            self.made[form] = self._capture(seats, form)
        if isinstance(run, Fused):
            run.claim()
        self.made[form]()

    def _capture(self, seats: Seats, form: Form) -> Callable[[], None]:
        memory = None
        if self.d.cache != "none":
            size = form.size.rows, form.size.width
            memory = self.memories.setdefault(size, self._memory(seats.rows.canvas))

        def run() -> None:
            places = None if form.kind in ("full", "none") else self._places(seats.span)
            with _gated(self.switch, seats.gates if form.gated else None):
                self.body(seats.rows, seats.span, seats.count, memory, places, form.asked)

        before = {name: getattr(seats.rows, name).clone() for name in CHANGED}
        try:
            return self.record(run, self)  # which runs it, and may fail after that
        finally:
            for name, value in before.items():
                getattr(seats.rows, name).copy_(value)

    def _gates(self, rows: int, device: torch.device) -> Tensor | None:
        """What the switch says, as one factor a row and adapter, (B, A) float32; None where all are off.

        Factors that all rows share are sent to the device once: sending waits for the steps before.
        """
        if self.switch is None or self.switch.gate is None:
            return None if self.switch is None else self.switch.rows
        gate = self.switch.gate
        if gate not in self.sent:
            self.sent[gate] = torch.tensor([gate], device=device)
        return self.sent[gate].expand(rows, -1)

    def _memory(self, canvas_BL: Tensor) -> Memory:
        """Room for a canvas, in one buffer that all graphs share: they run in turn, and a block begins by writing it.

        Made wider than asked, so that slowly growing widths do not each need a buffer (older graphs keep theirs).
        """
        s, (rows, width) = self.network.shape, canvas_BL.shape
        need = 2 * s.layers * rows * s.kv_heads * width * s.head_width
        if self.flat is None or self.flat.numel() < need:
            room = need // width * (-(-width // ROOM) * ROOM)
            self.flat = torch.zeros(room, dtype=self.network.dtype, device=canvas_BL.device)
        # Token by token, as flash attention wants it where rows are padded. Layers of ours write a token's keys and
        # values by one product (`joined`); compiled ones take tensors that interleave for one and compute nonsense.
        if in_kernels(self.network):
            parts = self.flat[:need].view(s.layers, rows, width, 2, s.kv_heads, s.head_width).permute(0, 3, 1, 4, 2, 5)
        else:
            parts = self.flat[:need].view(s.layers, 2, rows, width, s.kv_heads, s.head_width).transpose(3, 4)
        return Memory(tuple((p[0], p[1]) for p in parts))

    def memory_of(self, rows: Rows) -> Memory | None:
        """A copy of what is kept of these rows, who sit here; None where nothing is."""
        at = self.seating.at
        memory = None if at is None else self.memories.get((at.size.rows, at.size.width))
        if memory is None:
            return None
        count, width = rows.canvas.shape
        return Memory(tuple((k[:count, :, :width].clone(), v[:count, :, :width].clone()) for k, v in memory.pairs))

    def _places(self, span_BK: Tensor) -> Tensor:
        """The block (a dual cache), and the position before it where logits are shifted."""
        back = self.network.shape.shift
        return torch.cat((span_BK[:, :1] - back, span_BK), dim=1) if back else span_BK


@contextmanager
def _gated(switch: Switch | None, gates_BA: Tensor | None) -> Iterator[None]:
    """The adapters read their factors from `gates_BA`; None: they are off."""
    if switch is None:
        yield
        return
    before = switch.gate, switch.rows
    switch.gate, switch.rows = None, gates_BA
    try:
        yield
    finally:
        switch.gate, switch.rows = before


def cuda_graph(run: Callable[[], None], graphs: Graphs) -> Callable[[], None]:
    """Run `run` once and record it as a CUDA graph.

    Memory of all graphs of one network and protocol is shared: they run in turn.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # compile, choose algorithms, allocate
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    if graphs.pool is None:
        graphs.pool = torch.cuda.graph_pool_handle()
    with torch.cuda.graph(graph, pool=graphs.pool):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


# ---------------------------------------------------------------- which network and protocol


class _Known(dict[object, Graphs | None]):
    """The graphs of one network by protocol. They hold the network, so it holds them, and they go together.

    Who loads a network frees such circles first (`load_checkpoint`); a copied network has graphs of its own.
    """

    def __deepcopy__(self, memo: object) -> _Known:
        return _Known()


def _known(network: Decoder) -> _Known:
    held: _Known = vars(network).setdefault("_graphs", _Known())
    return held


def graphs_of(network: Decoder, d: Decode, mask_id: int, body: Body) -> Graphs | None:
    """The graphs of a network and protocol, kept as long as the network; None where steps cannot be graphed."""
    if network.synchronises or network.shape.attend_block or d.by_confidence or d.cfg_scale > 0 or d.cache == "prefix":
        return None
    known = _known(network)
    where = next(network.parameters()).data_ptr()  # moved weights need new graphs
    key = (d.temperature, d.remasking, d.cache, d.block_length, d.gen_length, mask_id, where)  # not the steps
    if key not in known:
        known[key] = Graphs(network, d, body, cuda_graph, switch_of(network))
    return known[key]


def release(network: Decoder) -> None:
    """Give back what the network's graphs hold: they keep the memory of the largest batch they were made for."""
    for graphs in filter(None, _known(network).values()):
        graphs.made.clear()
        graphs.seating = Seating()
        graphs.memories.clear()
        graphs.flat = graphs.pool = None


def give_up(network: Decoder, error: Exception) -> None:
    """After a failed capture or kernel: this network's steps run one after the other, by the layers as written."""
    warnings.warn(f"CUDA graphs and our own kernels are off: {cause_of(error)}", RuntimeWarning, stacklevel=2)
    known = _known(network)
    for key in known:
        known[key] = None
    network.synchronises = True
    if in_kernels(network):  # which may be what failed
        network.run_layer = Layers(switch_of(network))
