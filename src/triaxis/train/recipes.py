"""Training recipes of adapters as data, the published ones among them. Knows nothing of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from triaxis.errors import UserError, lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one adapter is trained. Unknown or impossible settings raise UserError when made.

    targets: names within a layer, or "all", "attention", "ffn". layers: share of the depth, (0.75, 1) is the last
    quarter. batch: rows a step over all processes; accumulate: parts a step is computed in. rate rises over `warmup`
    steps and falls to zero as a cosine. low, high, weight, draw, block_share: see `train.loss.Masking`. span: response,
    answer, block:I-J. end: "fill" scores every end mark, "one" the first. every: steps between checkpoints and held-out
    evaluations. patience: evaluations without a better held-out loss before it stops; 0 never stops.
    """

    targets: tuple[str, ...] = ("all",)
    layers: tuple[float, float] = (0.0, 1.0)
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    rate: float = 5e-5
    steps: int = 5000
    batch: int = 4
    accumulate: int = 1
    warmup: int = 200
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.01
    low: float = 0.1
    high: float = 0.5
    weight: str = "1/p"
    draw: str = "iid"
    block_share: float = 0.0
    span: str = "response"
    end: str = "fill"
    every: int = 250
    patience: int = 0
    recompute: bool = False  # recompute layers in the backward pass: less memory, a third more time
    compiled: bool = False  # compile the layers: a minute at the start, then faster on a GPU; another dropout stream
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"rank": 1, "steps": 1, "batch": 1, "accumulate": 1, "warmup": 0, "every": 1, "patience": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise UserError(f"training {name}={value!r} must be a whole number of at least {low}")
        for name in ("rate", "alpha", "clip"):
            if not (isinstance(getattr(self, name), int | float) and 0 < getattr(self, name) < math.inf):
                raise UserError(f"training {name}={getattr(self, name)!r} must be a positive number")
        if self.batch % self.accumulate:
            raise UserError(f"training batch={self.batch} does not split into accumulate={self.accumulate} equal parts")
        if not 0 <= self.dropout < 1 or not 0 <= self.decay < 1:
            raise UserError(f"training dropout={self.dropout} and decay={self.decay} must be at least 0 and below 1")
        if not 0 <= self.layers[0] < self.layers[1] <= 1:
            raise UserError(f"training layers={self.layers} must be a range within 0..1, low first")
        lookup("end rule", {"fill": None, "one": None}, self.end)

    def learning_rate(self, step: int) -> float:
        """The rate of step `step`, counted from 0: linear warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def card(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


# The study's (LLaDA-8B): prefix robustness and consensus. The tiny ones: docs/log.md says how they were found.
RECIPES: Mapping[str, Recipe] = {
    "prefix": Recipe(),
    "consensus": Recipe(targets=("ffn",), layers=(0.75, 1.0), low=0.3, high=0.9, steps=270, warmup=20, span="answer"),
    "tiny-prefix": Recipe(
        rate=2e-3, steps=400, batch=64, warmup=20, low=0.0, high=1.0, weight="uniform", block_share=0.5, every=100
    ),
    "tiny-trust": Recipe(
        rate=2e-3, steps=400, batch=64, warmup=20, low=0.0, high=1.0, weight="uniform", block_share=0.5, every=100
    ),
    "tiny-consensus": Recipe(
        targets=("ffn",), layers=(0.5, 1.0), rate=1e-3, steps=200, batch=32, warmup=20, low=0.3, high=0.9,
        weight="uniform", every=50,
    ),
    "small-prefix": Recipe(
        rate=1e-3, steps=200, batch=64, warmup=20, low=0.0, high=1.0, weight="uniform", block_share=0.5, every=100
    ),
    "small-trust": Recipe(
        rate=1e-3, steps=200, batch=64, warmup=20, low=0.0, high=1.0, weight="uniform", block_share=0.5, every=100
    ),
    "small-consensus": Recipe(
        targets=("ffn",), layers=(0.75, 1.0), rate=1e-3, steps=150, batch=32, warmup=15, low=0.3, high=0.9,
        weight="uniform", every=50,
    ),
}  # fmt: skip


def default_recipe(kind: str, family: str) -> Recipe:
    """The recipe of a kind ("prefix", "trust", "consensus") for an executor's family."""
    own = f"{family}-{kind}"
    return lookup("recipe", RECIPES, own if own in RECIPES else "prefix" if kind == "trust" else kind)
