"""The flips as data for the page's browser: every text once, sides shared by comparisons, as many as fit.

The page's script renders an item when it is opened; thousands of them cost what the open ones cost.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from triaxis.report import words
from triaxis.report.embed import embedded
from triaxis.report.flips import Flips, Pair, Side

ROOM = 1_900_000  # bytes of the data on the page


_FIELDS = [f.name for f in fields(Side)]


class Shown(NamedTuple):
    """A comparison with how many of its flips, and of its listed items that did not flip, are on the page."""

    pair: Pair
    flipped: int
    others: int


class Browse(NamedTuple):
    pairs: list[Shown]
    data: dict[str, Any]


class _Pool:
    """Texts by number, each held once, and the bytes they take."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.bytes = 0

    def __call__(self, text: str) -> int:
        if text not in self.texts:
            self.texts[text] = len(self.texts)
            self.bytes += _size(text)
        return self.texts[text]


def browse(flips: Flips) -> Browse:
    """As many items as fit, taken evenly from the comparisons, flips first.

    A flip is [item, way, flags, question, gold, old side, new side], a side the fields of `Side` in their order; texts
    are numbers of `texts`.
    """
    pool, sides = _Pool(), dict[tuple[str, str], int]()
    records: list[list[list[Any]]] = [[] for _ in flips.pairs]
    held: list[list[Any]] = []
    used = 0
    for place, flip in flips:
        numbers = []
        for side in (flip.old, flip.new):
            key = (side.condition, flip.item)
            if key not in sides:
                sides[key] = len(held)
                held.append(_side(side, pool))
                used += _size(held[-1])
            numbers.append(sides[key])
        texts = [
            pool(words.visible(t)) for t in (flip.item, flip.direction, " ".join(flip.flags), flip.question, flip.gold)
        ]
        used += _size([*texts, *numbers])
        if used + pool.bytes > ROOM:
            break
        records[place].append([*texts, *numbers])
    same = pool("same")
    flipped = [sum(r[1] != same for r in found) for found in records]
    pairs = [Shown(p, n, len(r) - n) for p, n, r in zip(flips.pairs, flipped, records, strict=True)]
    return Browse(pairs, {"texts": list(pool.texts), "sides": held, "pairs": records})


def _size(value: object) -> int:
    """Bytes on the page, with the comma after it."""
    return len(embedded(value).encode(errors="replace")) + 1


def _side(side: Side, pool: _Pool) -> list[Any]:
    *values, votes = (getattr(side, name) for name in _FIELDS)
    plain = [pool(words.visible(x)) if isinstance(x, str) else [pool(words.visible(t)) for t in x] for x in values]
    return [*plain, [[pool(words.visible(a)), pool(v), n] for a, v, n in votes]]


def shown_line(found: Browse) -> str:
    """What of all flips is on the page."""
    total, here = sum(len(s.pair.items) for s in found.pairs), sum(s.flipped for s in found.pairs)
    listed = f" {words.number(sum(s.others for s in found.pairs), 0)} items that did not flip are listed."
    if here == total:
        return f"All {words.number(total, 0)} flips are here.{listed}"
    return (
        f"{words.number(here, 0)} of {words.number(total, 0)} flips are here, as many of each comparison as far as it "
        f"goes; rows.sqlite holds all of them.{listed}"
    )
