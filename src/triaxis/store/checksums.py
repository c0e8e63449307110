"""Checksums of rows, and running totals of them: what tells a stored row from one that a disk has changed.

A checksum is 64 bits of sha256 over a row's values in the order of their columns. It finds accidents, each with a
chance of 2^-64 of being missed; against somebody who means to change a study there is the seal (`seals.py`), which
hashes whole files. Imports nothing of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

_MOD = 1 << 64


def checksum(values: Iterable[object]) -> int:
    """Signed 64 bits over texts, whole numbers and floats, as SQLite keeps them (no booleans).

    Lengths stand before the values, so that no two lists of texts are spelled alike; floats are spelled exactly.
    """
    spelled = "".join([f"{len(t)}:{t}" for t in map(str, values)])
    return int.from_bytes(hashlib.sha256(spelled.encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


class Tally(NamedTuple):
    """How many rows were written, and the sum of their checksums modulo 2^64: the order does not matter.

    A row that vanishes, comes twice or changes together with its checksum makes another tally.
    """

    rows: int = 0
    total: int = 0

    def plus(self, sums: Iterable[int]) -> Tally:
        """With these checksums too."""
        rows, total = self
        for one in sums:
            rows, total = rows + 1, (total + one) % _MOD
        return Tally(rows, total)

    def __str__(self) -> str:
        return f"{self.rows} {self.total:016x}"

    @classmethod
    def parse(cls, text: str) -> Tally:
        """From what `str` gives. ValueError for anything else."""
        rows, total = text.split(" ")
        return cls(int(rows), int(total, 16))
