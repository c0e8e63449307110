"""What a GPU runs in few kernels: layers, and the choice of tokens; compiled where no kernel of ours serves.

Whatever fails, a compiler or a kernel, the same functions run without it, and one warning gives the cause.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from triaxis.models.adapters import Switch, switch_of
from triaxis.models.parts import Canvas, Decoder, Layer
from triaxis.sampling.fused import Fused, fused_layers
from triaxis.sampling.noise import with_noise

VERSIONS = 64  # of one compiled function


def in_kernels(network: Decoder) -> bool:
    """Whether the network's layers run in kernels of ours."""
    return isinstance(network.run_layer, Fused)


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


def can_do_without(error: Exception) -> bool:
    """Whether an error may be a compiler's, a kernel's or a capture's, so that the same functions run without it."""
    return isinstance(error, _FAILURES) or type(error).__module__.partition(".")[0] in ("triton", "torch")


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
            if not can_do_without(e):
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
