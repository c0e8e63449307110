"""What two published accuracies can and cannot say, when the per-item results are not published.

A printed accuracy is a count of right answers (`Count`), or several counts where rounding hides which. Two counts of
the same n items leave open how many items changed: the paired exact p is therefore a range over ALL pairings that the
marginals allow (Frechet bounds). Knows counts and percentages; `table` knows rows of them; neither knows files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate.paired import clopper_pearson, mcnemar, tango, wilson
from triaxis.estimate.power import mde80, n80

_MOST_PAIRS = 4096  # count pairs a rounding may leave before only its extremes are tried


class ImpossibleCount(UserError):
    """No whole count of n items rounds to the printed percentage."""


@dataclass(frozen=True, slots=True)
class Count:
    """Right answers of n items: low = high where the print determines it."""

    low: int
    high: int
    n: int
    printed: str

    @property
    def best(self) -> int:
        return (self.low + self.high) // 2

    @property
    def share(self) -> float:
        return self.best / self.n

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Exact (Clopper-Pearson), over every count the print allows."""
        return clopper_pearson(self.low, self.n, level)[0], clopper_pearson(self.high, self.n, level)[1]

    def as_dict(self) -> dict[str, Any]:
        low, high = self.interval()
        counts = [self.low, self.high]
        return {"count": self.best, "counts": counts, "n": self.n, "share": self.share, "low": low, "high": high}


MOST_ITEMS = 1_000_000  # of a published accuracy: every pairing of that many is computed
_LONGEST = 60  # characters of a printed accuracy; more digits than that are none
_SHARE = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<percent>%|percent\b)?\s*(?:(?:/|@|of|n\s*=)\s*(?P<n>[0-9]+))?\s*", re.I
)


def parse_count(text: str, n: int | None = None, *, bare_percent: bool = False) -> Count:
    """Read "37/50", "74%/50", "74.0 % of 50", or "74.0%" with n given.

    A whole number over n is a count; with % or a decimal point it is a percentage, whose decimals say how it was
    rounded. A number alone is refused as ambiguous unless `bare_percent`. Raises ImpossibleCount (GRIM: Brown &
    Heathers 2017) where no whole count rounds to it, UserError where the text is unusable.
    """
    found = _SHARE.fullmatch(text.strip())
    if not found or len(text) > _LONGEST:
        raise UserError(f"{text!r} is not an accuracy; write 37/50 or 74.0%/50")
    size = int(found["n"]) if found["n"] else n
    if size is None or size < 1:
        raise UserError(f"{text!r} does not say of how many items; write it as {text.strip()}/50 or pass --n")
    if size > MOST_ITEMS:
        raise UserError(f"{text!r}: {size} items are more than any benchmark has, {MOST_ITEMS:,} at most; check N")
    if found["n"] and n is not None and n != size:
        raise UserError(f"{text!r} says N={size}, --n says {n}; give one of them")
    number, percent = found["number"], bool(found["percent"]) or "." in found["number"]
    if not percent and not found["n"] and not bare_percent:
        raise UserError(f"{text!r} is a count or a percentage; write {number}/{size} or {number}%")
    if percent or (bare_percent and not found["n"]):
        return _from_percent(number, size)
    if int(number) > size:
        raise UserError(f"{text!r}: {number} right of {size} items; for a percentage write {number}%/{size}")
    return Count(int(number), int(number), size, text.strip())


def _from_percent(number: str, n: int) -> Count:
    if Fraction(number) > 100:
        raise UserError(f"{number} % is not a share; expected 0 to 100")
    decimals = len(number.partition(".")[2])
    half = Fraction(1, 2 * 10**decimals)  # both ends inclusive: half up and half even both occur in print
    low = math.ceil((Fraction(number) - half) * n / 100)
    high = math.floor((Fraction(number) + half) * n / 100)
    low, high = max(0, low), min(n, high)
    if low > high:
        below = math.floor(Fraction(number) * n / 100)
        near = " and ".join(f"{k}/{n} is {100 * k / n:.{max(1, decimals)}f} %" for k in (below, min(n, below + 1)))
        raise ImpossibleCount(
            f"{number} % of {n} is impossible: no whole count rounds to it ({near}); check N or the number"
        )
    return Count(low, high, n, f"{number}% of {n}")


def possible(number: str, n: int) -> bool:
    """Can a count of n items be printed as this percentage?"""
    try:
        _from_percent(number, n)
    except ImpossibleCount:
        return False
    return True


# ---------------------------------------------------------------- all pairings


class Pairing(NamedTuple):
    """How many items changed: treatment right and baseline wrong, and the reverse."""

    gain: int
    loss: int


def pairings(baseline: int, treatment: int, n: int) -> tuple[Pairing, Pairing]:
    """The pairing with the fewest and the one with the most discordant items that the marginals allow.

    The exact p grows from the first to the second and takes its smallest and largest value there: a pair of opposite
    changes more leaves the difference and adds one gain and one loss, and P(Bin(m, 1/2) <= k) <= P(Bin(m + 2, 1/2)
    <= k + 1) for k < m / 2, since the term lost, P(k) / 4, is at most the term won, P(k + 1) / 4.
    """
    for count in (baseline, treatment):
        if n < 1 or not 0 <= count <= n:
            raise UndefinedEstimate(f"{count} of {n} is not a count of right answers")
    most_shared, least_shared = min(baseline, treatment), max(0, baseline + treatment - n)
    few = Pairing(treatment - most_shared, baseline - most_shared)
    many = Pairing(treatment - least_shared, baseline - least_shared)
    return few, many


def p_range(baseline: int, treatment: int, n: int) -> tuple[float, float]:
    """Smallest and largest exact two-sided McNemar p over all pairings of two counts of the same n items."""
    few, many = pairings(baseline, treatment, n)
    return mcnemar(*few), mcnemar(*many)


def most_discordant(baseline: int, treatment: int, n: int, alpha: float = 0.05) -> int | None:
    """The most discordant items at which the difference still has p <= alpha; None if no pairing has."""
    few, many = pairings(baseline, treatment, n)
    extra = np.arange(many.gain - few.gain + 1)  # pairs of opposite changes
    m = few.gain + few.loss + 2 * extra
    p = np.minimum(1.0, 2 * special.bdtr(min(few) + extra, m, 0.5))
    good = m[p <= alpha]
    return int(good[-1]) if good.size else None


# ---------------------------------------------------------------- one claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """The discordance taken where none is published, and where it comes from."""

    share: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAudit:
    """A claim "treatment against baseline", as far as its marginals go. Shares throughout.

    paired is False where the two numbers are of different N, hence of different items: p_min and p_max are then None,
    and p_unpaired, low, high and mde80 are of two independent samples.
    """

    name: str
    baseline: Count
    treatment: Count
    paired: bool
    value: float
    low: float  # over all pairings
    high: float
    p_min: float | None
    p_max: float | None
    p_assumed: float | None  # at the assumed discordance
    p_unpaired: float | None
    discordance_min: float | None
    discordance_max: float | None
    discordance_needed: float | None  # significant up to this share of changed items; None: at none
    assumed: Assumed
    discordance_used: float | None  # the assumed one, moved into what the marginals allow
    mde80: float | None
    n80: int | None
    alpha: float
    verdict: str
    sentence: str

    @property
    def n(self) -> int:
        return self.treatment.n

    def as_dict(self) -> dict[str, Any]:
        names = ("name", "value", "low", "high", "p_min", "p_max", "p_assumed", "p_unpaired", "n", "mde80", "n80")
        more = ("discordance_min", "discordance_max", "discordance_needed", "discordance_used", "alpha", "paired")
        found = {key: getattr(self, key) for key in (*names, *more, "verdict", "sentence")}
        found |= {"discordance_assumed": self.assumed.share, "discordance_source": self.assumed.source}
        return {**found, "baseline": self.baseline.as_dict(), "treatment": self.treatment.as_dict()}


def assumed_discordance(task: str = "GSM8K") -> Assumed:
    """The registry's default for a power calculation."""
    from triaxis.registry import default_discordance

    found = default_discordance(task)
    derived = f" ({found.note})" if found.note else ""
    return Assumed(share=found.value, source=f"{found.source}{derived}; {found.label}")


def claim(
    baseline: Count, treatment: Count, *, name: str = "", assumed: Assumed | None = None, alpha: float = 0.05
) -> ClaimAudit:
    """Audit "treatment against baseline". Different N is not an error here: it is what the audit then says."""
    if not 0 < alpha < 1:
        raise UndefinedEstimate(f"alpha={alpha} is not a share between 0 and 1; write 5 % as 0.05")
    known = assumed or assumed_discordance()
    if not 0 < known.share <= 1:
        raise UndefinedEstimate(f"discordance={known.share} is not a share in (0, 1]; write 26 % as 0.26")
    if baseline.n != treatment.n:
        return _unpaired(baseline, treatment, name, known, alpha)
    n, pairs = treatment.n, _count_pairs(baseline, treatment)
    ranges = [p_range(b, t, n) for b, t in pairs]
    p_min, p_max = min(r[0] for r in ranges), max(r[1] for r in ranges)
    spans = [tango(*at, n) for b, t in pairs for at in pairings(b, t, n)] if len(pairs) < 50 else _outer(pairs, n)
    few, many = pairings(baseline.best, treatment.best, n)
    value = (treatment.best - baseline.best) / n
    needed = most_discordant(baseline.best, treatment.best, n, alpha)
    d_min, d_max = sum(few) / n, sum(many) / n
    used = min(max(known.share, d_min), d_max)
    at = _pairing_at(few, many, used * n)
    verdict, sentence = _judge(value, n, p_min, p_max, needed, alpha)
    return ClaimAudit(
        name=name,
        baseline=baseline,
        treatment=treatment,
        paired=True,
        value=value,
        low=min(s[0] for s in spans),
        high=max(s[1] for s in spans),
        p_min=p_min,
        p_max=p_max,
        p_assumed=mcnemar(*at),
        p_unpaired=None,
        discordance_min=d_min,
        discordance_max=d_max,
        discordance_needed=None if needed is None else needed / n,
        assumed=known,
        discordance_used=used,
        mde80=_mde(n, used, alpha),
        n80=_needed_n(value, used, alpha),
        alpha=alpha,
        verdict=verdict,
        sentence=sentence,
    )


def _count_pairs(baseline: Count, treatment: Count) -> list[tuple[int, int]]:
    """Every pair of counts the print allows; where there are too many, those at the edges and the closest."""
    lefts, rights = range(baseline.low, baseline.high + 1), range(treatment.low, treatment.high + 1)
    if len(lefts) * len(rights) <= _MOST_PAIRS:
        return [(b, t) for b in lefts for t in rights]
    closest = [(b, min(max(b, treatment.low), treatment.high)) for b in lefts]
    return [(b, t) for b in (lefts[0], lefts[-1]) for t in (rights[0], rights[-1])] + closest


def _outer(pairs: list[tuple[int, int]], n: int) -> list[tuple[float, float]]:
    lowest, highest = min(pairs, key=lambda p: p[1] - p[0]), max(pairs, key=lambda p: p[1] - p[0])
    return [tango(*at, n) for b, t in (lowest, highest) for at in pairings(b, t, n)]


def _pairing_at(few: Pairing, many: Pairing, discordant: float) -> Pairing:
    """The possible pairing with about that many discordant items."""
    extra = round((discordant - sum(few)) / 2)
    extra = min(max(extra, 0), many.gain - few.gain)
    return Pairing(few.gain + extra, few.loss + extra)


def _judge(value: float, n: int, p_min: float, p_max: float, needed: int | None, alpha: float) -> tuple[str, str]:
    points = f"{abs(100 * value):.1f} points {'up' if value > 0 else 'down'}" if value else "no difference"
    if p_min > alpha:
        text = (
            f"{points} of {n}: no pairing of these counts gives p below {p_min:.3g}; the claim is not resolved at this "
            "N"
        )
        return "not resolved by any pairing", text
    word = "drop" if value < 0 else "lift"
    if p_max <= alpha:
        return (
            f"{word} whatever the pairing",
            f"{points} of {n}: p is at most {p_max:.3g} however the items pair; a {word}",
        )
    share = "" if needed is None else f", and only if at most {needed} of {n} items changed"
    text = (
        f"{points} of {n}: p lies between {p_min:.3g} and {p_max:.3g}; a {word} only under some pairings{share}; the "
        "per-item results decide"
    )
    return "depends on the pairing", text


def _mde(n: int, discordance: float, alpha: float) -> float | None:
    try:
        return mde80(n, discordance, alpha=alpha)
    except UndefinedEstimate:  # fewer than five items see nothing
        return None


def _needed_n(value: float, discordance: float, alpha: float) -> int | None:
    try:
        return n80(value, max(discordance, abs(value)), alpha=alpha) if value else None
    except UndefinedEstimate:  # more items than any benchmark has
        return None


# ---------------------------------------------------------------- different items


def _unpaired(baseline: Count, treatment: Count, name: str, known: Assumed, alpha: float) -> ClaimAudit:
    value = treatment.share - baseline.share
    low, high = newcombe(treatment.best, treatment.n, baseline.best, baseline.n)
    p = fisher(treatment.best, treatment.n, baseline.best, baseline.n)
    spread = math.sqrt(sum(c.share * (1 - c.share) / c.n for c in (baseline, treatment)))
    z = float(special.ndtri(1 - alpha / 2) + special.ndtri(0.8))
    used = max(known.share, abs(value))
    sentence = (
        f"{100 * value:+.1f} points, but {baseline.n} items against {treatment.n}: other problems, so nothing can be "
        f"paired; as two independent samples p is {p:.2g} ({100 * low:+.1f} to {100 * high:+.1f} points)"
    )
    return ClaimAudit(
        name=name,
        baseline=baseline,
        treatment=treatment,
        paired=False,
        value=value,
        low=low,
        high=high,
        p_min=None,
        p_max=None,
        p_assumed=None,
        p_unpaired=p,
        discordance_min=None,
        discordance_max=None,
        discordance_needed=None,
        assumed=known,
        discordance_used=used,
        mde80=z * spread or None,
        n80=_needed_n(value, used, alpha),
        alpha=alpha,
        verdict="different items",
        sentence=sentence,
    )


def newcombe(k1: int, n1: int, k2: int, n2: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of k1/n1 - k2/n2 for independent samples, from Wilson's. Source: Newcombe 1998, method 10."""
    (l1, u1), (l2, u2), p1, p2 = wilson(k1, n1, level), wilson(k2, n2, level), k1 / n1, k2 / n2
    below, above = math.hypot(p1 - l1, u2 - p2), math.hypot(u1 - p1, p2 - l2)
    return p1 - p2 - below, p1 - p2 + above


def fisher(k1: int, n1: int, k2: int, n2: int) -> float:
    """Fisher's exact two-sided p of two independent counts: all tables no likelier than the one seen."""
    total, right = n1 + n2, k1 + k2
    x = np.arange(max(0, right - n2), min(n1, right) + 1)

    def ways(n: int, k: Any) -> Any:
        return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)

    log_p = ways(n1, x) + ways(n2, right - x) - ways(total, right)
    seen = log_p[k1 - x[0]]
    return float(min(1.0, np.exp(log_p[log_p <= seen + 1e-9]).sum()))
