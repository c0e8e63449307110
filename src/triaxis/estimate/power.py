"""How large an effect a paired design can see, by exact sums over the trinomial; no simulation.

A design compares two arms on the same `n` items with 0/1 scores. `discordance` is the share of items on which the
arms disagree, `effect` the difference of their accuracies; both are shares (0.08 = eight points). The number m of
discordant items is Bin(n, discordance), and of those Bin(m, (1 + effect / discordance) / 2) favour one arm, so every
power below is a finite sum (binomial tails under 1e-12 are left out).

Knows nothing of rows or estimates. `paired` imports this file, never the reverse, which is why the score statistic
that both need lives here. SciPy's `special` only: `stats` and `optimize` double the import time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from triaxis.errors import UndefinedEstimate as UndefinedEstimate

Test = Literal["midp", "exact"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MOST_ITEMS = 10_000_000  # a search for N gives up above this: no benchmark is larger
_NO_EFFECT = "effect 0 needs an infinite N; to show that there is no effect, use n_equivalence"
_BLOCK = 1024  # rejection boundaries are cached in blocks of this many values of m


def power(n: int, discordance: float, effect: float, *, alpha: float = 0.05, test: Test = "midp") -> float:
    """Probability in [0, 1] that McNemar's test on `n` items gives p <= alpha; two-sided, exact sum.

    At effect 0 it is the test's true size. Raises UndefinedEstimate when |effect| > discordance (arms cannot differ
    by more than the share of items on which they disagree). Source: Fagerland, Lydersen & Laake 2013 for the tests.
    """
    _check(n=n, discordance=discordance, alpha=alpha, test=test)
    _check_effect(effect, discordance)
    return float(_power_at(np.array([n]), discordance, abs(effect), alpha, test)[0])


def mde80(n: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05, test: Test = "midp") -> float:
    """Smallest effect (a share) that `n` items show with probability `power` (80 % unless told).

    Where even effect = discordance would be missed, the true discordance is taken to grow with the effect (all
    discordant items on one side), so a design that saw no discordant item still has an answer: 3.3 points for 200
    items. Raises UndefinedEstimate when no effect at all can be seen (n < 5 for mid-p, n < 6 for exact).
    """
    _check(n=n, discordance=discordance, alpha=alpha, test=test, power=power)
    return _mde(int(n), float(discordance), float(power), float(alpha), test)


def n80(effect: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05, test: Test = "midp") -> int:
    """Items needed: the smallest N from which the power is at least `power` at N and at every larger size.

    The power of a discrete test is a saw-tooth in N; a smaller N may reach `power` by luck of the boundary and lose it
    again one item later, and is not returned. Raises UndefinedEstimate for effect 0, |effect| > discordance, or an
    answer above MOST_ITEMS.
    """
    _check(discordance=discordance, alpha=alpha, test=test, power=power)
    _check_effect(effect, discordance)
    size = abs(effect)
    if size == 0:
        raise UndefinedEstimate(_NO_EFFECT)
    return _smallest_n(
        lambda ns: _power_at(ns, discordance, size, alpha, test),
        guess=n80_normal(size, discordance, power=power, alpha=alpha),
        slack=_slack(size, discordance),
        target=power,
    )


def n80_normal(effect: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items needed by Connor's normal formula: what published sample-size tables print; `n80` is the exact answer.

    The two differ by a few items (8 points at discordance 0.26: 317 here, 315 exactly), more when N is small.
    Source: Connor 1987, Biometrics 43:207-211.
    """
    _check(discordance=discordance, alpha=alpha, power=power)
    _check_effect(effect, discordance)
    if effect == 0:
        raise UndefinedEstimate(_NO_EFFECT)
    null, alternative = _z(1 - alpha / 2) * math.sqrt(discordance), _z(power) * math.sqrt(discordance - effect**2)
    return math.ceil(((null + alternative) / effect) ** 2)


def power_equivalence(n: int, discordance: float, margin: float, *, alpha: float = 0.05) -> float:
    """Probability in [0, 1] that TOST calls two arms of equal accuracy equivalent within `margin` (a share).

    The test is the one of `paired.tost`: Tango's score test at +margin and -margin, each at `alpha`.
    """
    _check(n=n, discordance=discordance, alpha=alpha, margin=margin)
    return _equivalence_at(n, discordance, margin, alpha)


def n_equivalence(margin: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items from which two arms of equal accuracy are called equivalent within `margin` with probability `power`.

    As `n80`: the smallest N that also holds for every larger one.
    """
    _check(discordance=discordance, alpha=alpha, power=power, margin=margin)
    z = _z(1 - alpha) + _z((1 + power) / 2)
    return _smallest_n(
        lambda ns: np.array([_equivalence_at(int(n), discordance, margin, alpha) for n in ns]),
        guess=max(z * z * discordance / margin**2, 4 / margin),
        slack=_slack(margin, discordance),
        target=power,
    )


def mde_equivalence(n: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest margin (a share) within which `n` items show equivalence with probability `power`, no true effect.

    Right to 1e-6. Raises UndefinedEstimate when not even a margin of 100 points is reached.
    """
    _check(n=n, discordance=discordance, alpha=alpha, power=power)
    low, high = 0.0, 1 - 1e-9
    if _equivalence_at(n, discordance, high, alpha) < power:
        raise UndefinedEstimate(f"{n} items cannot show equivalence within any margin with power {power:g}")
    while high - low > 1e-6:  # a step function of the margin: bisection, not a smooth root finder
        middle = (low + high) / 2
        if _equivalence_at(n, discordance, middle, alpha) >= power:
            high = middle
        else:
            low = middle
    return high


def score_z(gain: npt.ArrayLike, loss: npt.ArrayLike, n: npt.ArrayLike, delta: npt.ArrayLike) -> FloatArray:
    """Tango's score statistic for H0: mean difference = delta; broadcasts, standard normal under H0.

    Positive when the data lie above `delta` (in [-1, 1]); counts may be fractional. Falls as delta grows. At delta 0 it
    is McNemar's (gain - loss) / sqrt(gain + loss). Source: Tango 1998, Statistics in Medicine 17:891-908.
    """
    flip = np.asarray(delta, float) < 0  # T(b, c, -d) = -T(c, b, d): one branch, and exact symmetry under swapping
    b = np.where(flip, loss, gain).astype(float)
    c = np.where(flip, gain, loss).astype(float)
    size, d = np.asarray(n, float), np.abs(np.asarray(delta, float))
    # q is the restricted maximum-likelihood share of losses, the positive root of 2n q^2 + linear q - loss d (1-d) = 0
    linear = (2 * size - b + c) * d - b - c
    product = c * d * (1 - d)
    root = np.sqrt(linear**2 + 8 * size * product)
    with np.errstate(divide="ignore", invalid="ignore"):  # two forms of the root; each cancels where the other holds
        q = np.where(linear <= 0, (root - linear) / (4 * size), 2 * product / (linear + root))
        distance = b - c - size * d
        z = distance / np.sqrt(size * (2 * q + d * (1 - d)))
    z = np.where(distance == 0, 0.0, z)
    return np.where(flip, -z, z)


def _z(quantile: float) -> float:
    return float(special.ndtri(quantile))


def _check(
    *,
    n: int = 2,
    discordance: float = 0.0,
    alpha: float = 0.05,
    test: str = "midp",
    power: float = 0.8,
    margin: float = 0.05,
) -> None:
    if n < 1 or n != int(n):
        raise UndefinedEstimate(f"n={n} is not a number of items; it must be a whole number of at least 1")
    if not 0 <= discordance <= 1:
        raise UndefinedEstimate(f"discordance={discordance} is not a share in [0, 1]; write 26 % as 0.26")
    for name, value in (("alpha", alpha), ("power", power), ("margin", margin)):
        if not 0 < value < 1:
            raise UndefinedEstimate(f"{name}={value} is not a share between 0 and 1; write 5 % as 0.05")
    if test not in ("midp", "exact"):
        raise UndefinedEstimate(f"no test named {test!r}; known: midp, exact")


def _check_effect(effect: float, discordance: float) -> None:
    if not abs(effect) <= discordance:
        raise UndefinedEstimate(
            f"effect {effect:g} is larger than the discordance {discordance:g}: two arms differ by at most the share "
            f"of items on which they disagree; use a discordance of at least {abs(effect):g}"
        )


def _binomial_pmf(k: IntArray, n: IntArray, p: float) -> FloatArray:
    """0 where k > n."""
    rest = np.maximum(n - k, 0)
    log_ways = special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(rest + 1.0)
    return np.where(k <= n, np.exp(log_ways + special.xlogy(k, p) + special.xlog1py(rest, -p)), 0.0)


def _likely(n: int, p: float) -> tuple[int, int]:
    """Range of Bin(n, p) outside which less than 1e-12 lies (Bernstein's bound)."""
    reach = 8 * math.sqrt(n * p * (1 - p)) + 10
    return max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))


@lru_cache(maxsize=1024)
def _boundary_block(block: int, alpha: float, test: Test) -> IntArray:
    """For each m of the block, the largest min(gain, loss) that is rejected; -1 where nothing is."""
    m = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
    low, high = np.full(m.size, -1), m // 2 + 1  # low is rejected, high is not
    while np.any(high - low > 1):
        middle = (low + high) // 2
        at = np.maximum(middle, 0)
        p = 2 * special.bdtr(at, m, 0.5)
        if test == "midp":
            p -= _binomial_pmf(at, m, 0.5)
        rejected = (middle < 0) | (p <= alpha)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    low.flags.writeable = False  # shared by every caller through the cache
    return low


def _boundaries(first: int, last: int, alpha: float, test: Test) -> IntArray:
    start = first // _BLOCK
    blocks = [_boundary_block(block, alpha, test) for block in range(start, last // _BLOCK + 1)]
    return np.concatenate(blocks)[first - start * _BLOCK : last + 1 - start * _BLOCK]


def _power_at(ns: IntArray, discordance: float, effect: float, alpha: float, test: Test) -> FloatArray:
    """Power for every n of `ns` (increasing); P(reject | m) does not depend on n, so it is computed once."""
    if discordance == 0:
        return np.zeros(ns.size)
    first, last = _likely(int(ns[0]), discordance)[0], _likely(int(ns[-1]), discordance)[1]
    m, bound = np.arange(first, last + 1), _boundaries(first, last, alpha, test)
    share, at = (1 + effect / discordance) / 2, np.maximum(bound, 0)
    reject = np.where(bound < 0, 0.0, special.bdtr(at, m, share) + special.bdtr(at, m, 1 - share))
    return np.minimum(_binomial_pmf(m[None, :], ns[:, None], discordance) @ reject, 1.0)


@lru_cache(maxsize=4096)
def _mde(n: int, discordance: float, power: float, alpha: float, test: Test) -> float:
    def excess(effect: float) -> float:
        return float(_power_at(np.array([n]), max(discordance, effect), effect, alpha, test)[0]) - power

    if discordance > 0 and excess(discordance) >= 0:  # two smooth pieces, joined at the discordance
        guess = (_z(1 - alpha / 2) + _z(power)) * math.sqrt(discordance / n)  # nearly always within 10 %
        near = [(effect, excess(effect)) for effect in (0.9 * guess, 1.1 * guess) if effect < discordance]
        low = max([0.0, *(effect for effect, above in near if above < 0)])
        return _root(excess, low, min([discordance, *(effect for effect, above in near if above >= 0)]))
    if excess(1.0) < 0:
        raise UndefinedEstimate(f"{n} items cannot show any effect with power {power:g} at alpha {alpha:g}: add items")
    return _root(excess, discordance, 1.0)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Where the rising `f` crosses 0 between low and high, right to 1e-8, by the Illinois rule.

    Ours, because importing scipy.optimize costs more time than all the roots of a study.
    """
    at_low, at_high, side = f(low), f(high), 0
    if at_low >= 0:
        return low
    while high - low > 1e-8:
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        if not low < middle < high:
            middle = (low + high) / 2
        value = f(middle)
        if abs(value) < 1e-9:
            return middle
        if value > 0:
            high, at_high = middle, value
            at_low = at_low / 2 if side > 0 else at_low
        else:
            low, at_low = middle, value
            at_high = at_high / 2 if side < 0 else at_high
        side = 1 if value > 0 else -1
    return high


def _slack(effect: float, discordance: float) -> int:
    """How many sizes in a row must suffice before a search for N stops: longer than one tooth of the saw.

    One tooth is at most 4 / effect items long (all items discordant); the binomial spread of m blurs teeth of its beat
    period, about sqrt(m), by exp(-19 (1 - discordance)).
    """
    return 16 + math.ceil(8 / effect * math.exp(-19 * (1 - discordance)))


def _smallest_n(at: Callable[[IntArray], FloatArray], *, guess: float, slack: int, target: float) -> int:
    """First N at which `at` reaches the target and keeps it for `slack` sizes; `at` takes increasing sizes."""

    def enough(n: int) -> bool:
        return bool(at(np.array([n]))[0] >= target)

    if guess > MOST_ITEMS:
        raise UndefinedEstimate(f"more than {MOST_ITEMS:,} items would be needed; ask for a larger effect or margin")
    low = high = math.ceil(guess)
    step = 2 + high // 50  # the normal formula is seldom off by more than 2 %
    while low > 0 and enough(low):
        low, step = max(0, low - step), 2 * step
    while not enough(high):
        low, high, step = high, high + step, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    while True:
        ahead = np.arange(high, high + slack + 1)
        short = ahead[at(ahead) < target]
        if not short.size:
            return high
        high = int(short[-1]) + 1


def _equivalence_at(n: int, discordance: float, margin: float, alpha: float) -> float:
    """Power of TOST at true effect 0: for each m, the losses that pass are those from a bound to m minus it."""
    first, last = _likely(n, discordance)
    m, critical = np.arange(first, last + 1), _z(1 - alpha)
    # Smallest loss that passes at +margin; by symmetry the same count of gains passes at -margin.
    low, high = np.full(m.size, -1), m // 2 + 1  # low fails, high passes (m // 2 + 1 stands for "none")
    while np.any(high - low > 1):
        middle = np.maximum((low + high) // 2, 0)
        passed = score_z(m - middle, middle, n, margin) <= -critical
        open_ = high - low > 1
        high, low = np.where(open_ & passed, middle, high), np.where(open_ & ~passed, middle, low)
    inside = np.where(high == 0, 1.0, 1 - 2 * special.bdtr(np.maximum(high - 1, 0), m, 0.5))
    inside = np.where(high > m // 2, 0.0, inside)
    return float(np.clip(_binomial_pmf(m, np.array(n), discordance) @ inside, 0.0, 1.0))
