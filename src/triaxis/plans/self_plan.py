"""The executor as its own planner, "self": the diffusion model completes the planning prompt, then reads its plan.

Adapters are off while it plans, so that one plan serves every arm, with and without a repair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from triaxis.models.writer import Writer, Writing, Written
from triaxis.sampling.executor import Completion, Executor
from triaxis.sampling.schedule import ENGINE, Decode
from triaxis.store import identity

_PART = 64  # prompts handed over at once: what an interruption can cost


@dataclass(frozen=True)
class ExecutorPlanner(Writer):
    """A diffusion executor that writes plans. Made by `self_planner`."""

    executor: Executor

    def decode(self, writing: Writing) -> Decode:
        """The family's default protocol at the length of the budget, rounded up to whole blocks."""
        base = self.executor.default_decode()
        blocks = -(-writing.budget // base.block_length)
        return replace(
            base, gen_length=blocks * base.block_length, steps=blocks * (base.steps // base.blocks),
            temperature=writing.temperature,
        )  # fmt: skip

    def _complete(
        self, prompts: Sequence[str], keys: Sequence[int], writing: Writing
    ) -> Iterator[tuple[list[int], list[Written]]]:
        rows = [self.executor.prompt_ids(p, system=writing.system) for p in prompts]
        for start in range(0, len(rows), _PART):
            part = range(start, min(start + _PART, len(rows)))
            found: dict[int, Written] = {}

            def keep(
                places: list[int], made: list[Completion], start: int = start, found: dict[int, Written] = found
            ) -> None:
                found.update({start + i: self._read(c, writing) for i, c in zip(places, made, strict=True)})

            self.executor.complete([rows[i] for i in part], [keys[i] for i in part], self.decode(writing), keep)
            yield list(part), [found[i] for i in part]

    def _read(self, c: Completion, writing: Writing) -> Written:
        tokens = min(c.length, writing.budget)
        whole = self.executor.text(c.token_ids[:tokens])
        text = writing.cut(whole)
        if text != whole:  # a stop string ended it
            return Written(text.strip(), len(self.executor.encode(text)), False, c.forwards, c.forward_tokens)
        truncated = not c.ended or c.length > writing.budget
        return Written(text.strip(), tokens, truncated, c.forwards, c.forward_tokens)


def self_planner(executor: Executor, writing: Writing | None = None) -> ExecutorPlanner:
    """The executor, its adapters off, as the planner "self"."""
    base = executor.with_adapters("")
    weights = next(base.checkpoint.network.parameters())
    kind = f"{str(weights.dtype).removeprefix('torch.')}-{weights.device.type}"
    told = f"{base.fingerprint}/{kind}/{ENGINE}/{identity(base.default_decode().card())[:8]}"
    return ExecutorPlanner("self", base.parameters, told, writing or Writing(), base)
