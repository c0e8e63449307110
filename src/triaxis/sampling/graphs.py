"""A denoising step as one CUDA graph: launched once, no word from the host in between.

Decoding at batch 1 to 16 is bound by launches, not by arithmetic, unless the whole step (trunk, head, noise,
confidence, commitment) is one graph. One graph a form (`Form`): rows are filled up to a few numbers, rows of unlike
length lie one after the other without padding and their tokens are filled up by a thirty-second, so that a study needs
a handful. A row's tokens do not depend on the filling: filled positions are seen by none, filled rows are thrown away.
Layers run in few kernels (fused.py), those of another kind and the choice of tokens are compiled (Inductor); where that
fails, the same code runs uncompiled, and a warning says so.

What is graphed: a fixed schedule, bidirectional networks, no guidance. Adapters that switch are graphed too: which are
on is a tensor, one factor a row and adapter, written before each replay; a pass with all off has a graph without
them. Everything else runs step by step through the same functions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from triaxis.models.adapters import Gate, LoraLinear, Switch
from triaxis.models.parts import Canvas, Decoder, Layer, Memory, fill_of
from triaxis.sampling.fused import Fused, fused_layers
from triaxis.sampling.noise import with_noise
from triaxis.sampling.rows import Rows
from triaxis.sampling.schedule import Decode

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224, 256)
VERSIONS = 64  # of one compiled function
ROOM = 256  # a shared memory is made for widths up to the next multiple of this
WIDTH = 8  # widths of ragged canvases are multiples of this
PACKED_WIDTH = 64  # and of those whose rows lie one after the other: there it costs nothing
_STATE = ("canvas", "prompt", "end", "keys", "forwards", "tokens", "order", "chances")


class Form(NamedTuple):
    """What steps must have in common to be one graph."""

    rows: int  # filled up
    width: int  # filled up
    padded: bool
    packed: int  # tokens of a pass where rows lie one after the other, filled up; 0: they do not
    kind: str  # "full": the whole canvas, whatever the cache; else the cache's name
    gated: bool  # adapters may be on


@dataclass(slots=True)
class Graphed:
    """One captured step and the tensors it reads and writes."""

    rows: Rows  # its own, whose tensors the graph works on
    span: Tensor  # (B, K) positions of the block
    count: Tensor  # (1,) tokens to commit
    gates: Tensor | None = None  # (B, A) factors of the adapters; None: a step without
    replay: Callable[[], None] | None = None


Body = Callable[[Rows, Tensor, Tensor, Memory | None, Tensor | None], None]  # rows, span, count, memory, places


@dataclass(slots=True)
class Graphs:
    """The graphs of one network and protocol."""

    network: Decoder
    d: Decode
    body: Body  # a whole step on tensors, in place
    record: Callable[[Callable[[], None], Graphs], Callable[[], None]]  # makes something to replay of something to run
    switch: Switch | None = None  # of the adapters mounted on the network
    made: dict[Form, Graphed] = field(default_factory=dict)
    memories: dict[tuple[int, int], Memory] = field(default_factory=dict)
    sent: dict[Gate, Tensor] = field(default_factory=dict)  # factors of the adapters on the device, (1, A)
    flat: Tensor | None = None  # what the memories are parts of
    pool: Any = None

    def step(self, rows: Rows, span_BK: Tensor, count: int, full: bool) -> None:
        """One pass over all rows, in place, with the adapters as the switch says.

        full: compute the whole canvas; else what the cache does not hold.
        """
        gates = self._gates(len(rows.at), span_BK.device)
        form = self._form(rows, "full" if full else self.d.cache, gates is not None)
        graphed = self.made.get(form)
        if graphed is None:
            graphed = self.made[form] = self._capture(rows, span_BK, form, gates)
        _load(graphed, rows, span_BK, count, gates)
        assert graphed.replay is not None
        if isinstance(self.network.run_layer, Fused):
            self.network.run_layer.claim()
        graphed.replay()
        n, length = rows.canvas.shape
        for name in ("canvas", "forwards", "tokens", "order", "chances"):
            value = getattr(graphed.rows, name)
            getattr(rows, name).copy_(value[:n, :length] if value.dim() == 2 else value[:n])

    def _form(self, rows: Rows, kind: str, gated: bool) -> Form:
        """Rows of one length are not filled up in width; others lie one after the other where layers take them so."""
        size = next((s for s in SIZES if s >= len(rows.at)), len(rows.at))
        run = self.network.run_layer
        if not rows.padded:
            return Form(size, rows.width, False, 0, kind, gated)
        if kind != "none" or not (isinstance(run, Fused) and run.packs):
            return Form(size, -(-rows.width // WIDTH) * WIDTH, True, 0, kind, gated)
        tokens = sum(rows.ends)
        fill = fill_of(tokens)
        return Form(size, -(-rows.width // PACKED_WIDTH) * PACKED_WIDTH, True, -(-tokens // fill) * fill, kind, gated)

    def _capture(self, rows: Rows, span_BK: Tensor, form: Form, gates_BA: Tensor | None) -> Graphed:
        graphed = _static(rows, span_BK, form)
        size, width, kind = form.rows, form.width, form.kind
        if gates_BA is not None:
            graphed.gates = torch.zeros((size, gates_BA.shape[1]), device=gates_BA.device)
        _load(graphed, rows, span_BK, 1, gates_BA)
        memory = None
        if self.d.cache != "none":
            memory = self.memories.setdefault((size, width), self._memory(graphed.rows.canvas))

        def run() -> None:
            places = None if kind in ("full", "none") else self._places(graphed)
            with _gated(self.switch, graphed.gates):
                self.body(graphed.rows, graphed.span, graphed.count, memory, places)

        graphed.replay = self.record(run, self)
        return graphed

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
        # token by token, as flash attention wants it where rows are padded
        parts = self.flat[:need].view(s.layers, 2, rows, width, s.kv_heads, s.head_width).transpose(3, 4)
        return Memory(tuple((p[0], p[1]) for p in parts))

    def _places(self, graphed: Graphed) -> Tensor:
        """The block (a dual cache), and the position before it where logits are shifted."""
        back = self.network.shape.shift
        if not back:
            return graphed.span
        return torch.cat((graphed.span[:, :1] - back, graphed.span), dim=1)


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


def switch_of(network: Decoder) -> Switch | None:
    """The switch of the adapters mounted on a network; None where there are none."""
    found = (m.switch for m in network.modules() if isinstance(m, LoraLinear))
    return next(found, None)


def cuda_graph(run: Callable[[], None], graphs: Graphs) -> Callable[[], None]:
    """Record `run` as a CUDA graph. Memory of all graphs of one network and protocol is shared: they run in turn."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compile, choose algorithms, allocate
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    if graphs.pool is None:
        graphs.pool = torch.cuda.graph_pool_handle()
    with torch.cuda.graph(graph, pool=graphs.pool):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def _static(rows: Rows, span_BK: Tensor, form: Form) -> Graphed:
    """Tensors of a graph's own, of the filled size."""
    size, width = form.rows, form.width

    def like(t: Tensor) -> Tensor:
        return torch.zeros((size, width) if t.dim() == 2 else (size,), dtype=t.dtype, device=t.device)

    made = rows.take([0])
    for name in _STATE:
        setattr(made, name, like(getattr(rows, name)))
    device = span_BK.device
    made.ends = [0 if form.padded else width]  # of its rows the host knows no more than whether they are padded
    made.packed = form.packed
    span = torch.zeros((size, span_BK.shape[1]), dtype=torch.long, device=device)
    return Graphed(made, span, torch.ones(1, dtype=torch.long, device=device))


def _load(graphed: Graphed, rows: Rows, span_BK: Tensor, count: int, gates_BA: Tensor | None) -> None:
    """Copy the rows in; what fills the size up is the first row again, without tokens where rows are packed."""
    if graphed.gates is not None and gates_BA is not None:
        graphed.gates[: len(gates_BA)].copy_(gates_BA)
        graphed.gates[len(gates_BA) :].copy_(gates_BA[:1].expand_as(graphed.gates[len(gates_BA) :]))
    n, length = rows.canvas.shape
    for name in _STATE:
        mine, given = getattr(graphed.rows, name), getattr(rows, name)
        target = mine[:, :length] if mine.dim() == 2 else mine
        target[:n].copy_(given)
        if n < len(mine):
            target[n:].copy_(given[:1].expand_as(target[n:]))
    graphed.span[:n].copy_(span_BK)
    graphed.span[n:].copy_(span_BK[:1].expand_as(graphed.span[n:]))
    graphed.count.fill_(count)
    if graphed.rows.packed:  # what fills the size up takes no tokens
        graphed.rows.end[n:] = 0


# ---------------------------------------------------------------- which network and protocol

_KNOWN: WeakKeyDictionary[Decoder, dict[object, Graphs | None]] = WeakKeyDictionary()


def graphs_of(network: Decoder, d: Decode, mask_id: int, body: Body) -> Graphs | None:
    """The graphs of a network and protocol, kept while the network lives; None where steps cannot be graphed."""
    if network.synchronises or network.shape.attend_block or d.by_confidence or d.cfg_scale > 0 or d.cache == "prefix":
        return None
    known = _KNOWN.setdefault(network, {})
    where = next(network.parameters()).data_ptr()  # moved weights need new graphs
    key = (d.temperature, d.remasking, d.cache, d.block_length, d.gen_length, mask_id, where)  # not the steps
    if key not in known:
        known[key] = Graphs(network, d, body, cuda_graph, switch_of(network))
    return known[key]


def release(network: Decoder) -> None:
    """Give back what the network's graphs hold: they keep the memory of the largest batch they were made for."""
    for graphs in filter(None, _KNOWN.get(network, {}).values()):
        graphs.made.clear()
        graphs.memories.clear()
        graphs.flat = graphs.pool = None


def give_up(network: Decoder, error: Exception) -> None:
    """After a failed capture: this network's steps run one kernel after the other."""
    warnings.warn(f"CUDA graphs are off: {cause_of(error)}", RuntimeWarning, stacklevel=2)
    known = _KNOWN.setdefault(network, {})
    for key in known:
        known[key] = None
    network.synchronises = True
    if isinstance(network.run_layer, Fused):  # its kernels may be what failed
        network.run_layer = Layers(switch_of(network))


# ---------------------------------------------------------------- compiled parts


def sure_of(logits_BKV: Tensor, ids_BK: Tensor) -> Tensor:
    """Softmax in float32 at the chosen tokens, (B, K), with no copy of the logits once compiled."""
    x = logits_BKV.float()
    most = x.amax(-1, keepdim=True)
    chosen = x.gather(-1, ids_BK[..., None])
    return ((chosen - most).exp() / (x - most).exp().sum(-1, keepdim=True))[..., 0]


def picked(logits_BKV: Tensor, keys_B: Tensor, step: Tensor, places_BK: Tensor, heat: float) -> tuple[Tensor, Tensor]:
    """Tokens and their probabilities: the argmax of the logits with noise, and the softmax without."""
    ids = with_noise(logits_BKV, keys_B, step, places_BK, heat).argmax(-1) if heat > 0 else logits_BKV.argmax(-1)
    return ids, sure_of(logits_BKV, ids)


_RAISED = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Failure)\b.*")
_FAILURES = (RuntimeError, ImportError, OSError, AttributeError, TypeError, ValueError)


def cause_of(error: Exception, most: int = 240) -> str:
    """One line: the error's class and the last cause in its text, which may be the output of a compiling process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _RAISED.match(line)]
    reason = named[-1] if len(lines) > 1 and named else " ".join(lines)
    return f"{type(error).__name__} ({' '.join(reason.split())[:most]})"


class Compiled:
    """A function compiled when first called; uncompiled, with one warning, where the compiler fails.

    make: what compiles it; by default Inductor, where a second shape makes the sizes symbolic, and no more versions.
    """

    def __init__(
        self, plain: Callable[..., Any], what: str, make: Callable[[Any], Callable[..., Any]] = torch.compile
    ) -> None:
        self.plain, self.what, self.make = plain, what, make
        self.fast: Callable[..., Any] | None = None
        self.failed = False

    def __call__(self, *args: Any) -> Any:
        if self.failed:
            return self.plain(*args)
        try:
            if self.fast is None:
                self.fast = self.make(self.plain)
            return self.fast(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as e:  # of a compiler, whose classes are many; the same function runs without it
            if not isinstance(e, _FAILURES) and type(e).__module__.partition(".")[0] not in ("triton", "torch"):
                raise
            self.failed = True
            warnings.warn(f"{self.what} run uncompiled: {cause_of(e)}", RuntimeWarning, stacklevel=2)
            return self.plain(*args)


def _by_hand(_: object) -> Callable[..., Any]:
    from triaxis.sampling import kernels  # Triton: not everywhere

    return kernels.pick


# The kernel written by hand, then Inductor (which fails on int64 noise with some versions), then plain.
pick = Compiled(Compiled(picked, "noise and confidence"), "noise and confidence by the kernel", _by_hand)


def compile_layers(network: Decoder) -> None:
    """Run the network's layers in few kernels (fused.py), or where they are of another kind through compiled functions.

    Of those, all layers and networks share the versions.
    """
    if network.run_layer is Layer.__call__ and not network.synchronises:
        from torch import _dynamo

        _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, VERSIONS)
        switch = switch_of(network)
        network.run_layer = fused_layers(network, switch) or Layers(switch)


_LAYERS: dict[tuple[bool, ...], Compiled] = {}


class Layers:
    """Layers through one compiled function for each kind of pass.

    Kinds: with or without a selection (the last layer), kept keys and values, a mask, places, adapters that are on. To
    one function they would be versions beyond torch's limit, after which it silently runs layers uncompiled (seen on
    an H100: "expected type of 'select' to be a tensor, found NoneType"). torch keeps versions by code object, so each
    kind has its own.
    """

    def __init__(self, switch: Switch | None) -> None:
        self.switch = switch

    def __call__(self, layer: Layer, x: Tensor, canvas: Canvas, select: Tensor | None, kept: Any) -> Tensor:
        switch = self.switch
        if switch is not None and switch.gate is not None:  # factors as numbers: a version for each
            return _layer(layer, x, canvas, select, kept)
        given = (select, kept, canvas.mask, canvas.places_BQ, None if switch is None else switch.rows)
        kind = (switch is not None, *(g is not None for g in given))
        if kind not in _LAYERS:
            name = "layer_" + "".join(str(int(k)) for k in kind)
            code = _layer.__code__.replace(co_name=name)
            _LAYERS[kind] = Compiled(FunctionType(code, globals(), name), "the layers")
        out: Tensor = _LAYERS[kind](layer, x, canvas, select, kept)
        return out


def _layer(layer: Any, x: Tensor, canvas: Any, select: Tensor | None, kept: Any) -> Tensor:
    out: Tensor = layer.forward(x, canvas, select, kept)
    return out
