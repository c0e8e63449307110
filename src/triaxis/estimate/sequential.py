"""Looking at a comparison while it grows, without inflating its error: e-values and anytime-valid intervals.

A p-value may be read once, at the N fixed before; an e-value may be read after every item and acted on. The test is
of "gain and loss are equally likely" by the mixture of `paired.e_value`; the interval is for the difference itself.
Both hold whatever the rule for stopping was, as long as the items come in an order that does not depend on the scores.

Knows counts only: no files, no rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from scipy import special

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate.paired import e_value, mcnemar

_PRIOR = 0.5  # Jeffreys' Dirichlet over (gain, loss, neither): Krichevsky & Trofimov 1981


class Look(NamedTuple):
    """One look at a growing comparison. p is for a fixed N only: shown, and not to be acted on."""

    n: int
    gain: int
    loss: int
    value: float  # (gain - loss) / n
    low: float  # anytime-valid interval of the value at 1 - alpha
    high: float
    e: float
    p: float
    resolved: bool


def resolved(gain: int, loss: int, alpha: float = 0.05, *, comparisons: int = 1) -> bool:
    """Has the evidence against "equally likely" reached 1 / alpha? True may be acted on at any time.

    `comparisons`: how many contrasts are watched together; each must then reach comparisons / alpha (Bonferroni), so
    that the chance of any false stop stays at most alpha. Source: Ville's inequality; Grünwald et al. 2024.
    """
    _check(alpha, comparisons)
    return e_value(gain, loss) >= comparisons / alpha


def resolvable(gain: int, loss: int, left: int, alpha: float = 0.05, *, comparisons: int = 1) -> bool:
    """Can `left` more items still resolve it? False: even if all of them went one way, it would stay open."""
    _check(alpha, comparisons)
    best = max(e_value(gain + left, loss), e_value(gain, loss + left))
    return best >= comparisons / alpha


def difference_interval(gain: int, loss: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of the paired difference that holds at all N at once with probability 1 - alpha; in [-1, 1].

    The differences delta whose best trinomial explains the counts within a factor alpha of a Dirichlet(1/2) mixture:
    an e-process for every delta (universal inference), so wider than Tango's interval, which holds at one N.
    Source: Wasserman, Ramdas & Balakrishnan 2020, doi:10.1073/pnas.1922664117, section 8.
    """
    _check(alpha, 1)
    if not (gain >= 0 and loss >= 0 and n >= 1 and gain + loss <= n):
        raise UndefinedEstimate(f"gain {gain} and loss {loss} are not counts of discordant items among {n}")
    least = _mixture(gain, loss, n) + math.log(alpha)

    def inside(delta: float) -> bool:
        return _likelihood(gain, loss, n, delta) >= least

    value = (gain - loss) / n
    return _edge(inside, value, -1.0), _edge(inside, value, 1.0)


def look(gain: int, loss: int, n: int, alpha: float = 0.05, *, comparisons: int = 1) -> Look:
    """Everything one look says."""
    low, high = difference_interval(gain, loss, n, alpha / comparisons)
    done = resolved(gain, loss, alpha, comparisons=comparisons)
    return Look(n, gain, loss, (gain - loss) / n, low, high, e_value(gain, loss), mcnemar(gain, loss), done)


def watch(
    poll: Callable[[], Sequence[tuple[int, int, int]]],
    pause: Callable[[], None],
    *,
    alpha: float = 0.05,
    polls: int | None = None,
) -> Iterator[list[Look | None]]:
    """Looks at growing comparisons until every one is resolved, or `polls` looks were taken.

    poll: (gain, loss, n) of each comparison now, always in the same order; one without an item yet is None in the look.
    """
    taken = 0
    while polls is None or taken < polls:
        counts = poll()
        looks = [look(g, loss, n, alpha, comparisons=len(counts)) if n else None for g, loss, n in counts]
        yield looks
        taken += 1
        if all_resolved(looks):
            return
        if polls is None or taken < polls:
            pause()


def all_resolved(looks: Sequence[Look | None]) -> bool:
    """Is there a look, and is each of them resolved?"""
    return bool(looks) and all(at is not None and at.resolved for at in looks)


def _mixture(gain: int, loss: int, n: int) -> float:
    """Log of the Dirichlet(1/2, 1/2, 1/2) mixture of the counts' likelihood."""
    counts = (gain, loss, n - gain - loss)
    top = sum(float(special.gammaln(c + _PRIOR)) for c in counts) - float(special.gammaln(n + 3 * _PRIOR))
    return top - 3 * math.lgamma(_PRIOR) + math.lgamma(3 * _PRIOR)


def _likelihood(gain: int, loss: int, n: int, delta: float) -> float:
    """Greatest log likelihood of the counts with P(gain) - P(loss) = delta."""
    if delta < 0:
        return _likelihood(loss, gain, n, -delta)
    # q = P(loss) solves 2 n q^2 + linear q - loss delta (1 - delta) = 0 (Tango 1998)
    linear = (2 * n - gain + loss) * delta - gain - loss
    root = math.sqrt(linear**2 + 8 * n * loss * delta * (1 - delta))
    q = min((1 - delta) / 2, max(0.0, (root - linear) / (4 * n)))
    chances = (q + delta, q, max(0.0, 1 - 2 * q - delta))
    counts = (gain, loss, n - gain - loss)
    return sum(c * math.log(p) if p > 0 else -math.inf for c, p in zip(counts, chances, strict=True) if c)


def _edge(inside: Callable[[float], bool], value: float, bound: float) -> float:
    """Where `inside` ends between value (inside) and bound; the bound itself when it is inside."""
    if inside(bound):
        return bound
    kept, lost = value, bound
    while abs(lost - kept) > 1e-9:
        middle = (kept + lost) / 2
        kept, lost = (middle, lost) if inside(middle) else (kept, middle)
    return lost


def _check(alpha: float, comparisons: int) -> None:
    if not 0 < alpha < 1:
        raise UndefinedEstimate(f"alpha={alpha} is not a share between 0 and 1; write 5 % as 0.05")
    if comparisons < 1:
        raise UserError(f"comparisons={comparisons}: at least one comparison is watched")
