"""Alarms of collapse: what a network says on held-out prompts while it is trained.

Training masked-diffusion adapters with the wrong masks ends in repeated bigrams at a falling loss, so the loss is not
enough to hear it. The rates are compared with those of the wanted responses themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor
    from triaxis.train.data import Dataset
    from triaxis.train.fit import Probe

MORE_REPETITION = 0.3  # above the wanted responses' rate: an alarm
LESS_ENTROPY = 0.5  # of the wanted responses' entropy: an alarm


def repetition(ids: Sequence[int]) -> float:
    """Share of a text's bigrams that have occurred in it before; 0 for a text with fewer than two."""
    pairs = list(pairwise(ids))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def entropy(texts: Sequence[Sequence[int]]) -> float:
    """Entropy in bits of the tokens of all texts together; 0 where they hold none."""
    counts = Counter(t for text in texts for t in text)
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values()) if total else 0.0


def rates(texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Mean bigram repetition of the texts, and the entropy of their tokens."""
    return {"repetition": sum(map(repetition, texts)) / len(texts), "entropy": entropy(texts)}


def alarm(now: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Whether texts repeat themselves much more than the wanted ones, or use far fewer tokens."""
    repeats = now["repetition"] > wanted["repetition"] + MORE_REPETITION
    return repeats or now["entropy"] < LESS_ENTROPY * wanted["entropy"]


def watch(executor: Executor, held: Dataset, most: int = 16) -> Probe:
    """A probe for `fit`: decodes up to `most` held-out prompts and sounds the alarm on a collapse."""
    decode = executor.default_decode()
    stride = max(1, len(held) // most)
    rows = held.rows[::stride][:most]
    wanted = rates([r.response for r in rows])
    ends = set(executor.end_ids)

    def probe(trained: Executor, step: int) -> Mapping[str, float]:
        texts = []
        for row in trained.denoise([r.prompt for r in rows], [0] * len(rows), decode):
            cut = next((i for i, t in enumerate(row.ids) if t in ends), len(row.ids))
            texts.append(row.ids[:cut])
        now = rates(texts)
        return {**now, "alarm": float(alarm(now, wanted))}

    return probe
