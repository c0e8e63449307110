"""Random streams by what names them: no draw depends on batches, order or workers. Imports nothing of ours."""

from __future__ import annotations

import hashlib


def stream_key(*parts: object) -> int:
    """A 63-bit key from what names a random stream, such as (seed, question)."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def uniform(key: int, step: int) -> float:
    """The draw in [0, 1) of one stream at one step. A hash, so that it depends on nothing else, torch included."""
    digest = hashlib.sha256(f"{key}/{step}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53
