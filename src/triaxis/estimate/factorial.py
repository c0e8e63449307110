"""Which factor did it: main effects and interactions of a crossed design, from contrasts within each item.

Every cell answers the same items, so each item has its own effect of each factor, and its interaction: a difference
of differences. A cell that was never run is refused, by name: without it the effects are not identified, whatever the
other cells say. Any number of factors and levels; 2x2, 2^k and planner by adapter are the common ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate.paired import Estimate, contrast, finish

Levels: TypeAlias = tuple[str, ...]
Factors: TypeAlias = Mapping[str, Sequence[str]]
Cells: TypeAlias = Mapping[Levels, Mapping[str, float]]
_MOST_FACTORS = 5  # 31 effects; more is a fishing trip


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One effect. `factors`: those it is of, one for a main effect, several for an interaction."""

    factors: tuple[str, ...]
    levels: tuple[str, ...]  # each against its factor's first level
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """All effects of a design, Holm over them, and the cells behind them."""

    factors: Mapping[str, tuple[str, ...]]
    cells: Mapping[Levels, float]  # mean score
    n: int
    effects: tuple[Effect, ...]

    def as_dict(self) -> dict[str, Any]:
        cells = [{"levels": dict(zip(self.factors, c, strict=True)), "accuracy": v} for c, v in self.cells.items()]
        effects = [{**e.estimate.effect(), "factors": list(e.factors), "levels": list(e.levels)} for e in self.effects]
        factors = {k: list(v) for k, v in self.factors.items()}
        return {"factors": factors, "n": self.n, "cells": cells, "effects": effects}


def attribute(factors: Factors, cells: Cells, *, margin: float = 0.05, alpha: float = 0.05) -> Attribution:
    """Main effects and interactions of every order, each level against its factor's first.

    factors: name -> levels. cells: one per combination (in the order of the factors), item -> score in [0, 1].
    A main effect is the mean difference over all levels of the other factors; an interaction is the difference of
    differences (how much more the first factor does at one level of the second than at its first), averaged over the
    rest. Shares: 0.05 = five points. UserError names every cell that was never run, and items a cell lacks.
    """
    _check_design(factors, cells)
    items = sorted(next(iter(cells.values())))
    order = list(product(*factors.values()))
    matrix = np.array([[cells[cell][item] for cell in order] for item in items], dtype=float)
    found, estimates = [], []
    for of in _subsets(list(factors)):
        for chosen in product(*(factors[f][1:] for f in of)):
            weights = _weights(factors, order, of, chosen)
            estimates.append(contrast(weights, matrix, name=_name(factors, of, chosen)))
            found.append((of, chosen))
    finished = finish(estimates, margin=margin, alpha=alpha)
    effects = [Effect(factors=of, levels=at, estimate=e) for (of, at), e in zip(found, finished, strict=True)]
    means = dict(zip(order, matrix.mean(axis=0).tolist(), strict=True))
    levels = {k: tuple(v) for k, v in factors.items()}
    return Attribution(factors=levels, cells=means, n=len(items), effects=tuple(effects))


def missing_cells(factors: Factors, cells: Cells) -> list[Levels]:
    """The combinations that were never run."""
    return [cell for cell in product(*factors.values()) if not cells.get(cell)]


def _check_design(factors: Factors, cells: Cells) -> None:
    if not 2 <= len(factors) <= _MOST_FACTORS:
        raise UserError(f"{len(factors)} factors; attribution takes 2 to {_MOST_FACTORS}")
    for name, levels in factors.items():
        if len(levels) < 2:
            raise UserError(f"factor {name!r} has one level ({', '.join(levels)}): nothing was varied")
    owed = missing_cells(factors, cells)
    if owed:
        named = "; ".join(", ".join(f"{f}={v}" for f, v in zip(factors, cell, strict=True)) for cell in owed)
        raise UserError(f"{len(owed)} cell{'s' if len(owed) > 1 else ''} never run: {named}; run it, then attribute")
    first = set(next(iter(cells.values())))
    for cell in product(*factors.values()):
        lacking = first ^ set(cells[cell])
        if lacking:
            where = ", ".join(f"{f}={v}" for f, v in zip(factors, cell, strict=True))
            raise UserError(
                f"cell {where} has other items ({len(lacking)} differ, such as {min(lacking)!r}); run the same items"
            )


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [of for size in range(1, len(names) + 1) for of in combinations(names, size)]


def _weights(
    factors: Factors, order: Sequence[Levels], of: Sequence[str], chosen: Sequence[str]
) -> npt.NDArray[np.float64]:
    """+1 at the chosen level and -1 at the first for factors the effect is of; the mean over all levels of the rest."""
    picked = dict(zip(of, chosen, strict=True))
    weights = np.ones(len(order))
    for at, (name, levels) in enumerate(factors.items()):
        here = [cell[at] for cell in order]
        if name in picked:
            weights *= [1.0 if v == picked[name] else -1.0 if v == levels[0] else 0.0 for v in here]
        else:
            weights /= len(levels)
    return weights


def _name(factors: Factors, of: Sequence[str], chosen: Sequence[str]) -> str:
    return " x ".join(f"{f}={v}" if len(factors[f]) > 2 else f for f, v in zip(of, chosen, strict=True))


# ---------------------------------------------------------------- the same question, asked of a model


class Term(NamedTuple):
    """One coefficient on the log-odds scale."""

    name: str
    log_odds: float
    low: float
    high: float
    p: float


def mixed_check(factors: Factors, cells: Cells, *, method: str = "gee") -> list[Term]:
    """The same effects as log-odds, with items as clusters: a check that the sign does not hang on the scale.

    method: "gee" (binomial, exchangeable within items) or "conditional" (conditional logit, which drops items that are
    all right or all wrong). Scores must be 0 or 1. Contrasts are half-coded, so that a main effect is at the mean of
    the other factors. Needs statsmodels (the extra `stats`). Raises UndefinedEstimate where the fit does not exist, as
    when one cell is all right. Source: Liang & Zeger 1986; Chamberlain 1980.
    """
    _check_design(factors, cells)
    if method not in ("gee", "conditional"):
        raise UserError(f"no check called {method!r}; known: gee, conditional")
    items, order = sorted(next(iter(cells.values()))), list(product(*factors.values()))
    y = np.array([cells[cell][item] for item in items for cell in order])
    if not np.isin(y, (0, 1)).all():
        raise UndefinedEstimate("the mixed-effect check needs scores of 0 or 1, one a cell and item")
    for cell in order:
        if len(set(cells[cell].values())) == 1:
            where = ", ".join(f"{f}={v}" for f, v in zip(factors, cell, strict=True))
            raise UndefinedEstimate(f"cell {where} is all right or all wrong: its log-odds are infinite")
    names, design = _design(factors, order)
    x = np.tile(design, (len(items), 1))
    groups = np.repeat(np.arange(len(items)), len(order))
    fitted = _gee(y, x, groups) if method == "gee" else _conditional(y, x, groups)
    beta, error = fitted
    if not (np.isfinite(beta).all() and np.isfinite(error).all() and error.max(initial=0) < 1e3):
        raise UndefinedEstimate("the model has no finite fit on these items")
    from scipy import special

    half = 1.959963984540054 * error
    p = 2 * special.ndtr(-np.abs(beta / error))
    rows = zip(names, beta, beta - half, beta + half, p, strict=True)
    return [Term(n, float(b), float(lo), float(hi), float(q)) for n, b, lo, hi, q in rows]


def _design(factors: Factors, order: Sequence[Levels]) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Half-coded columns: a level is +1/2 where it holds, -1/2 at the first level; interactions are products."""
    names, columns = [], []
    at = {name: i for i, name in enumerate(factors)}
    for of in _subsets(list(factors)):
        for chosen in product(*(factors[f][1:] for f in of)):
            column = np.ones(len(order))
            for f, level in zip(of, chosen, strict=True):
                k = len(factors[f])
                column *= [(1.0 if cell[at[f]] == level else 0.0) - 1.0 / k for cell in order]
            names.append(_name(factors, of, chosen))
            columns.append(column)
    return names, np.stack(columns, axis=1)


Fit: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _statsmodels(module: str) -> Any:
    try:
        return import_module(f"statsmodels.{module}")
    except ImportError:
        raise UserError("the mixed-effect check needs statsmodels; pip install 'triaxis[stats]'") from None


def _gee(y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> Fit:
    gee = _statsmodels("genmod.generalized_estimating_equations")
    family, within = _statsmodels("genmod.families"), _statsmodels("genmod.cov_struct")
    full = np.column_stack([np.ones(len(y)), x])
    model = gee.GEE(y, full, groups=groups, family=family.Binomial(), cov_struct=within.Exchangeable())
    import warnings

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a fit that does not converge is told by its numbers, below
        fit = model.fit()
    return np.asarray(fit.params, float)[1:], np.asarray(fit.bse, float)[1:]


def _conditional(y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> Fit:
    models = _statsmodels("discrete.conditional_models")
    by_item = y.reshape(-1, int(np.sum(groups == 0)))
    mixed = np.repeat((by_item.min(axis=1) == 0) & (by_item.max(axis=1) == 1), by_item.shape[1])
    if not mixed.any():
        raise UndefinedEstimate("every item is all right or all wrong: a conditional logit has nothing to go on")
    import warnings

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fit = models.ConditionalLogit(y[mixed], x[mixed], groups=groups[mixed]).fit(disp=0)
    return np.asarray(fit.params, float), np.asarray(fit.bse, float)
