"""The decoding protocol as data, and how many tokens each denoising step commits.

Knows nothing of networks. Sources: LLaDA generate.py (get_num_transfer_tokens); Fast-dLLM (arXiv:2505.22618) for the
caches, the threshold and the factor.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from triaxis.errors import UserError, suggest

ENGINE = "exact-1"  # part of every row's identity: change it when the same inputs may give other tokens
_CHOICES = {
    "remasking": ("low_confidence", "random"),
    "cache": ("none", "prefix", "dual"),
    "stop": ("canvas", "eos_block"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """How a completion is denoised. Lengths are tokens; `steps` counts the whole completion, not a block.

    temperature: 0 is greedy; above, Gumbel noise on the logits. remasking: which positions stay hidden.
    cfg_scale: classifier-free guidance, u + (s + 1)(c - u). stop: "canvas" denoises everything,
    "eos_block" ends a row after the block in which its end mark was committed and fills the rest with
    end marks.

    Approximate modes (other tokens than the exact loop's; `exact` is False and every report says so):
    threshold: a pass commits every token of at least this probability, and the most probable one at least; `steps` is
    not looked at. factor: a pass commits the n most probable tokens, n the largest with (n + 1)(1 - p_n) <= factor; at
    least one (Fast-dLLM's code also takes the last hidden token where it alone fails; its paper, and this, do not).
    cache: the first pass of a block computes the whole canvas and keeps its keys and values; the others compute the
    block and what follows ("prefix") or the block only ("dual") and read the rest from there. refresh: with a cache,
    compute everything again at every `refresh`-th pass of a block; 0: at its first pass only.
    Raises UserError when made with an impossible value.
    """

    gen_length: int = 128
    block_length: int = 32
    steps: int = 64
    temperature: float = 0.0
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    cfg_scale: float = 0.0
    threshold: float | None = None
    cache: Literal["none", "prefix", "dual"] = "none"
    stop: Literal["canvas", "eos_block"] = "canvas"
    factor: float | None = None
    refresh: int = 0

    def __post_init__(self) -> None:
        for name in ("gen_length", "block_length", "steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"decode {name}={value!r} must be a whole number of at least 1")
        if self.gen_length % self.block_length:
            fits = max(1, self.gen_length // self.block_length) * self.block_length
            raise UserError(
                f"gen_length={self.gen_length} is not a multiple of block_length={self.block_length}; try {fits}"
            )
        if self.steps % self.blocks or self.steps > self.gen_length:
            raise UserError(
                f"steps={self.steps} must be a multiple of the {self.blocks} blocks and at most "
                f"gen_length={self.gen_length}; try {self._near_steps()}"
            )
        for name in ("temperature", "cfg_scale"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1000:
                raise UserError(f"decode {name}={value!r} must be a number from 0 to 1000")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(f"decode {name}={value!r} is unknown{suggest(str(value), allowed)}")
        self._check_approximate()

    def _check_approximate(self) -> None:
        for name, most in (("threshold", 1), ("factor", 1000)):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most
            ):
                raise UserError(f"decode {name}={value!r} must be None or a number above 0 and at most {most}")
        if self.threshold is not None and self.factor is not None:
            raise UserError(f"decode threshold={self.threshold!r} and factor={self.factor!r} exclude each other")
        if self.by_confidence and self.remasking == "random":
            raise UserError("decode threshold and factor go by confidence; use remasking='low_confidence' with them")
        if not isinstance(self.refresh, int) or isinstance(self.refresh, bool) or self.refresh < 0:
            raise UserError(f"decode refresh={self.refresh!r} must be a whole number of passes, 0 for never")
        if self.refresh and self.cache == "none":
            raise UserError(f"decode refresh={self.refresh} needs a cache; use cache='prefix' or 'dual' with it")

    def _near_steps(self) -> int:
        whole = self.steps // self.blocks * self.blocks
        return min(self.gen_length, max(self.blocks, whole))

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length

    @property
    def by_confidence(self) -> bool:
        """Whether the number of tokens a pass commits is found at run time, not by the schedule."""
        return self.threshold is not None or self.factor is not None

    @property
    def exact(self) -> bool:
        """Whether this is the reference loop, token for token: no cache, no threshold, no factor."""
        return self.cache == "none" and not self.by_confidence

    @property
    def draws(self) -> bool:
        """Whether a completion depends on its random stream."""
        return self.temperature > 0 or self.remasking == "random"

    def commits(self, masks: int) -> list[int]:
        """Tokens to commit at each step of a block with `masks` hidden tokens: the remainder goes to the first steps.

        (32 masks, 5 steps) -> [7, 7, 6, 6, 6].
        """
        steps = self.steps // self.blocks
        base, extra = divmod(masks, steps)
        return [base + (s < extra) for s in range(steps)]

    def card(self) -> dict[str, object]:
        """The fields as plain data, for hashing and printing."""
        return asdict(self)
