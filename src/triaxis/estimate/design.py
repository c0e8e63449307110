"""Planning a paired comparison: what N sees which effect. The sums are in `power`; here they are put together.

Knows numbers and, for its default discordance, the registry. Shares throughout (0.08 = eight points).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate.audit import Assumed
from triaxis.estimate.power import (
    Test,
    mde80,
    mde_equivalence,
    n80,
    n80_normal,
    n_equivalence,
    power,
    power_equivalence,
)

LADDER = (50, 100, 200, 500, 1000, 1319, 5000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is known of a design: any of n, effect, margin; the rest is computed."""

    n: int | None = None
    effect: float | None = None
    margin: float | None = None
    discordance: Assumed
    alpha: float = 0.05
    power: float = 0.8
    test: Test = "midp"

    def __post_init__(self) -> None:
        if self.n is None and self.effect is None and self.margin is None:
            raise UserError(
                "say what is known: --n 200 (what effect it sees), --effect 0.08 (what N it needs), or --margin 0.05"
            )


def answer(q: Question) -> dict[str, Any]:
    """Everything that follows. UndefinedEstimate where no N or no effect does."""
    d, at = q.discordance.share, {"alpha": q.alpha, "power": q.power}
    found: dict[str, Any] = {"n": q.n, "effect": q.effect, "margin": q.margin, "discordance": d}
    found |= {"discordance_source": q.discordance.source, **at, "test": q.test}
    if q.n is not None:
        found["mde80"] = mde80(q.n, d, **at, test=q.test)
        found["equivalence_margin80"] = _margin(q)
    if q.effect is not None:
        found["n80"] = n80(q.effect, d, **at, test=q.test)
        found["n80_normal"] = n80_normal(q.effect, d, **at)
        if q.n is not None:
            found["power_at_n"] = power(q.n, d, q.effect, alpha=q.alpha, test=q.test)
    if q.margin is not None:
        found["n_equivalence80"] = n_equivalence(q.margin, d, **at)
        if q.n is not None:
            found["power_equivalence_at_n"] = power_equivalence(q.n, d, q.margin, alpha=q.alpha)
    return found


def _margin(q: Question) -> float | None:
    try:
        return mde_equivalence(q.n or 0, q.discordance.share, power=q.power, alpha=q.alpha)
    except UndefinedEstimate:  # too few items for any margin
        return None


def curve(sizes: Sequence[int], discordance: float, q: Question) -> list[tuple[int, float | None]]:
    """(N, smallest effect seen) for each size; None where no effect is."""
    found: list[tuple[int, float | None]] = []
    for n in sizes:
        try:
            found.append((n, mde80(n, discordance, alpha=q.alpha, power=q.power, test=q.test)))
        except UndefinedEstimate:
            found.append((n, None))
    return found


def plot(q: Question, path: Path) -> None:
    """Effect against N at the discordance, at half and at one and a half of it, as SVG, PNG or PDF."""
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise UserError(f"--plot {path}: expected a name ending in .svg, .png or .pdf")
    from matplotlib.figure import Figure

    known = q.n or (n80(q.effect, q.discordance.share) if q.effect else 200)
    top = max(5000, 2 * known)
    sizes = sorted({round(20 * (top / 20) ** (i / 60)) for i in range(61)})
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for factor, style in ((0.5, ":"), (1.0, "-"), (1.5, "--")):
        d = min(1.0, factor * q.discordance.share)
        seen = [(n, 100 * e) for n, e in curve(sizes, d, q) if e is not None]
        axes.plot(*zip(*seen, strict=True), style, color="#1f5a8a", label=f"{100 * d:.3g} % of items change")
    if q.n is not None:
        axes.axvline(q.n, color="0.6", linewidth=0.8)
        axes.annotate(f"N = {q.n}", (q.n, 1), xycoords=("data", "axes fraction"), va="top", ha="left", fontsize=8)
    if q.effect is not None:
        axes.axhline(100 * abs(q.effect), color="0.6", linewidth=0.8)
    axes.set(xscale="log", xlabel="items (N)", ylabel="smallest effect seen (points)", ylim=(0, None))
    axes.set_title(f"Paired design, {100 * q.power:g} % power, alpha {q.alpha:g}, {q.test} McNemar", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    try:
        figure.savefig(path)
    except OSError as e:
        raise UserError(f"--plot {path}: cannot write there ({e.strerror})") from None
