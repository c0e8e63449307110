"""How different the branches of an item are as texts, and in the order in which their tokens were committed.

Knows texts and commit steps; knows nothing of answers, models or files. Results are per item, shape (items,). All of
them need at least two branches an item (`autoregressiveness` one); what does not exist raises UndefinedEstimate.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from triaxis.errors import UndefinedEstimate, lookup
from triaxis.estimate.paired import Estimate, cluster_mean
from triaxis.estimate.votes import Bools, Floats

Texts = Sequence[Sequence[str]]

UNITS: dict[str, Callable[[str], Sequence[Hashable]]] = {"character": str, "token": str.split}


# ---------------------------------------------------------------- texts


def levenshtein(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn a into b.

    Bit-parallel, one machine operation a column however long `a` is (Python's integers have no width), after the
    common ends are cut off. Source: Myers 1999, J. ACM 46:395-415, in the form of Hyyro 2003.
    """
    a, b = _differing(a, b)
    if not a or not b:
        return len(a) + len(b)
    places: dict[Hashable, int] = {}
    for i, symbol in enumerate(a):
        places[symbol] = places.get(symbol, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)  # vertical differences of +1 and -1, as bits
    for symbol in b:
        match = places.get(symbol, 0)
        vertical = match | down
        horizontal = (((match & up) + up) ^ up) | match
        plus, minus = down | (full & ~(horizontal | up)), up & horizontal
        distance += bool(plus & last) - bool(minus & last)
        plus, minus = (plus << 1 | 1) & full, (minus << 1) & full
        up, down = minus | (full & ~(vertical | plus)), plus & vertical
    return distance


def _differing(a: Sequence[Hashable], b: Sequence[Hashable]) -> tuple[Sequence[Hashable], Sequence[Hashable]]:
    """a and b without their common beginning and end."""
    start, most = 0, min(len(a), len(b))
    while start < most and a[start] == b[start]:
        start += 1
    end = 0
    while end < most - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return a[start : len(a) - end], b[start : len(b) - end]


def edit_distance(texts: Texts, *, unit: str = "token") -> Floats:
    """Mean edit distance of an item's branch pairs over the longer text's length, (items,) in [0, 1].

    unit: "token" (split at white space) or "character". Two empty texts are at distance 0.
    """
    split = lookup("text unit", UNITS, unit)
    _several(texts)
    found = []
    for row in texts:
        pieces = {text: split(text) for text in row}
        pairs = list(combinations(row, 2))
        far = {}
        for a, b in {(min(p), max(p)) for p in pairs if p[0] != p[1]}:  # branches often agree word for word
            longest = max(len(pieces[a]), len(pieces[b]))
            far[a, b] = levenshtein(pieces[a], pieces[b]) / longest if longest else 0.0
        found.append(sum(far[min(p), max(p)] for p in pairs if p[0] != p[1]) / len(pairs))
    return np.array(found)


def distinct_n(texts: Texts, n: int = 2, *, unit: str = "token") -> Floats:
    """Distinct n-grams over all n-grams of an item's branches together, (items,) in (0, 1].

    A branch shorter than n is one gram, itself, so that empty branches count as repeats and no item is undefined.
    Source: Li 2016, arXiv:1510.03055 (distinct-1, distinct-2), taken within an item.
    """
    split = lookup("text unit", UNITS, unit)
    _several(texts, least=1)
    if n < 1:
        raise UndefinedEstimate(f"distinct-{n}: n must be at least 1")
    found = []
    for row in texts:
        grams = [tuple(t[i : i + n]) for t in map(split, row) for i in range(max(1, len(t) - n + 1))]
        found.append(len(set(grams)) / len(grams))
    return np.array(found)


def embedding_distance(texts: Texts, embed: Callable[[list[str]], ArrayLike]) -> Floats:
    """Mean cosine distance of an item's branch pairs, (items,) in [0, 2]; 0 for equal texts.

    embed: distinct texts -> (texts, width) vectors, called once; any sentence encoder, none is shipped. Raises
    UndefinedEstimate where it returns another shape, or a vector that is 0 or not finite.
    """
    k = _several(texts)
    place = {text: i for i, text in enumerate(dict.fromkeys(t for row in texts for t in row))}
    vectors = np.asarray(embed(list(place)), dtype=np.float64)
    if vectors.ndim != 2 or vectors.shape[0] != len(place):
        raise UndefinedEstimate(f"embed gave shape {vectors.shape} for {len(place)} texts; expected (texts, width)")
    sizes = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(sizes) | (sizes == 0))
    if bad.size:
        raise UndefinedEstimate(f"embed gave no direction to {list(place)[bad[0]]!r}: its vector is 0 or not finite")
    unit = vectors / sizes[:, None]
    one, other = np.triu_indices(k, 1)
    found = []
    for row in texts:
        at = np.array([place[t] for t in row])
        near = np.where(at[one] == at[other], 1.0, (unit[at[one]] * unit[at[other]]).sum(axis=1))
        found.append(float(np.clip(1 - near, 0, 2).mean()))
    return np.array(found)


def _several(rows: Sequence[Sequence[object]], least: int = 2) -> int:
    """Branches an item; UndefinedEstimate for too few, ValueError for ragged items."""
    if len(rows) == 0 or len(rows[0]) < least:
        raise UndefinedEstimate(f"at least one item with {least} branches is needed; sample more branches")
    for item, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"item {item} has {len(row)} branches, item 0 has {len(rows[0])}")
    return len(rows[0])


# ---------------------------------------------------------------- decoding order


def order_agreement(commits: ArrayLike, *, block_length: int | None = None) -> Floats:
    """Mean Kendall tau-b of the commit orders of an item's branch pairs, (items,) in [-1, 1]; 1: one order.

    commits: (items, branches, places) integers, the step at which each place of the response was committed; negative:
    never (behind the end of the text). Places that both branches committed are compared. block_length: compare only
    places of one block, since blocks are decoded in order by construction and would agree without any choice.
    Raises UndefinedEstimate where no branch pair of an item has a tau (one place, or all committed at one step).
    """
    return _all_defined(_agreement(_commits(commits), block_length))


def _agreement(steps: NDArray[np.int64], block_length: int | None) -> Floats:
    """`order_agreement`, NaN where undefined."""
    if steps.shape[1] < 2:
        raise UndefinedEstimate("decoding order of one branch agrees with nothing; sample at least two branches")
    one, other = np.triu_indices(steps.shape[1], 1)
    signs = _Signs(steps.shape[2], block_length)
    return np.array([_mean_tau(signs.taus(row, row)[one, other]) for row in steps])


def order_diversity(commits: ArrayLike, *, block_length: int | None = None) -> Floats:
    """(1 - tau) / 2 of `order_agreement`, in [0, 1]: how far the branches' decoding orders are apart."""
    return (1 - order_agreement(commits, block_length=block_length)) / 2


def autoregressiveness(commits: ArrayLike, *, block_length: int | None = None) -> Floats:
    """Mean Kendall tau-b of commit step against place over an item's branches, (items,); 1: left to right.

    Arguments and refusals as `order_agreement`; block_length looks inside blocks only.
    """
    return _all_defined(_along(_commits(commits), block_length))


def _along(steps: NDArray[np.int64], block_length: int | None) -> Floats:
    """`autoregressiveness`, NaN where undefined."""
    signs = _Signs(steps.shape[2], block_length)
    left_to_right = np.arange(steps.shape[2])[None]
    return np.array([_mean_tau(signs.taus(row, left_to_right)[:, 0]) for row in steps])


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b of two rankings of the same places, ties allowed. UndefinedEstimate where one is constant.

    Source: Kendall 1945, Biometrika 33:239-251.
    """
    a, b = np.asarray(x), np.asarray(y)
    if a.shape != b.shape or a.ndim != 1:
        raise UndefinedEstimate(f"rankings of shapes {a.shape} and {b.shape} are not of the same places")
    if a.size and (a.min() < 0 or b.min() < 0):
        raise UndefinedEstimate("ranks are at least 0")
    tau = float(_Signs(a.size, None).taus(a[None], b[None])[0, 0])
    if np.isnan(tau):
        raise UndefinedEstimate("tau of a constant ranking is 0/0")
    return tau


class _Signs:
    """Signs of step differences over all pairs of places: tau-b of many rankings is then a matrix product."""

    def __init__(self, places: int, block_length: int | None) -> None:
        if block_length is not None and block_length < 1:
            raise UndefinedEstimate(f"block_length={block_length} must be at least 1")
        self.one, self.other = np.triu_indices(places, 1)
        if block_length is not None:
            same = self.one // block_length == self.other // block_length
            self.one, self.other = self.one[same], self.other[same]

    def _of(self, steps: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """(rankings, pairs) signs, 0 for ties and places never committed, and which pairs were committed."""
        a, b = steps[:, self.one], steps[:, self.other]
        there = ((a >= 0) & (b >= 0)).astype(np.float64)
        return np.sign(a - b) * there, there

    def taus(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> Floats:
        """tau-b of each ranking of x with each of y, (rankings of x, rankings of y); NaN where undefined."""
        (sx, there_x), (sy, there_y) = self._of(x), self._of(y)
        untied = ((sx**2) @ there_y.T) * (there_x @ (sy**2).T)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(untied > 0, (sx @ sy.T) / np.sqrt(untied), np.nan)


def _mean_tau(taus: Floats) -> float:
    """Mean over the pairs that have a tau; NaN where none has."""
    known: Bools = ~np.isnan(taus)
    return float(taus[known].mean()) if known.any() else float("nan")


def _all_defined(taus: Floats) -> Floats:
    undefined = np.flatnonzero(np.isnan(taus))
    if undefined.size:
        raise UndefinedEstimate(
            f"item {undefined[0]}: no decoding order to compare: fewer than two commit steps among shared places"
        )
    return taus


def padded(orders: Sequence[Sequence[Sequence[int]]]) -> NDArray[np.int64]:
    """Commit steps [item][branch] -> step of each place of its text, as `commits`: -1 behind the end."""
    branches = _several(orders, least=1)
    places = max([1, *(len(row) for item in orders for row in item)])
    steps = np.full((len(orders), branches, places), -1, dtype=np.int64)
    for i, item in enumerate(orders):
        for j, row in enumerate(item):
            steps[i, j, : len(row)] = row
    return steps


def _commits(commits: ArrayLike) -> NDArray[np.int64]:
    steps = np.asarray(commits)
    if steps.ndim != 3 or steps.size == 0 or not np.issubdtype(steps.dtype, np.integer):
        raise UndefinedEstimate(f"commits of shape {steps.shape}; expected whole numbers (items, branches, places)")
    return steps.astype(np.int64)


# ---------------------------------------------------------------- everything at once


def metrics(
    texts: Texts,
    orders: Sequence[Sequence[Sequence[int]]] | None = None,
    *,
    block_length: int | None = None,
    embed: Callable[[list[str]], ArrayLike] | None = None,
) -> dict[str, Estimate]:
    """Every measure here with its interval by item: edit distances, distinct-1 and -2, and those of the orders given.

    orders: [item][branch] -> commit step of each place of the text (see `padded`). Items without a decoding order (a
    text of one place, or committed at one step) are left out of the two order measures, whose n says how many have
    one; the measure is missing where fewer than two have. Raises UndefinedEstimate for one branch or one item.
    """
    found = {
        "edit distance, tokens": cluster_mean(edit_distance(texts), bounds=(0.0, 1.0)),
        "edit distance, characters": cluster_mean(edit_distance(texts, unit="character"), bounds=(0.0, 1.0)),
        "distinct-1": cluster_mean(distinct_n(texts, 1), bounds=(0.0, 1.0)),
        "distinct-2": cluster_mean(distinct_n(texts, 2), bounds=(0.0, 1.0)),
    }
    if embed is not None:
        found["embedding distance"] = cluster_mean(embedding_distance(texts, embed), bounds=(0.0, 2.0))
    if orders is not None:
        steps = padded(orders)
        both = {
            "order agreement": _agreement(steps, block_length),
            "autoregressiveness": _along(steps, block_length),
        }
        for name, taus in both.items():
            known = taus[~np.isnan(taus)]
            if known.size > 1:
                found[name] = cluster_mean(np.clip(known, -1, 1), bounds=(-1.0, 1.0))
    return {name: replace(e, name=name) for name, e in found.items()}
