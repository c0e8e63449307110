"""What went wrong with the format of completions, beside every accuracy, so that it is not read as reasoning.

Each kind is a flag of one completion; its rate and its paired difference from the baseline are by item. A completion
may have several. Knows stored rows and grades only: an end mark inside a text is not seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from triaxis.estimate.arms import MARGIN, Bools, Floats, Table
from triaxis.estimate.marks import FLOOR as FLOOR
from triaxis.estimate.marks import KINDS as KINDS
from triaxis.estimate.paired import Estimate, cluster_mean, finish, paired, wilson

FORMAT = ("truncated", "unreadable", "early_end", "continued")  # a wrong answer with one of these is a format failure
DUPLICATES = "duplicates"  # of an item's branches, beside the kinds


def condition_rows(t: Table) -> list[dict[str, Any]]:
    """One line a condition, stages of a chain left out: accuracy with its interval, failure rates, mean costs.

    "failures" holds the paired difference of each rate from the baseline (duplicates: from the condition named in
    `against`), Holm within a condition; a rate that is 0 on both sides is left out. "lost" counts the items that the
    baseline has right and the condition has not, and those of them with a format failure (`FORMAT`). forwards and
    tokens are means a completion.
    """
    flags = {name: _flags(t, name) for name in t.conditions}
    return [_line(t, name, flags) for name in t.conditions if t.conditions[name]["role"] != "stage"]


def _line(t: Table, name: str, flags: Mapping[str, Mapping[str, Floats]]) -> dict[str, Any]:
    right, rows, at = t.right(name), t.columns.rows, t.columns.of[name]
    if right.shape[1] == 1:
        low, high = wilson(int(right.sum()), len(right))
    else:
        e = cluster_mean(right.astype(float), bounds=(0.0, 1.0))
        low, high = e.low, e.high
    rates = {kind: _mean(x) for kind, x in flags[name].items()}
    doubled = _duplicates(t, name)
    return {
        "name": name,
        "n": len(right),
        "accuracy": float(right.mean()),
        "low": float(low),
        "high": float(high),
        **rates,
        DUPLICATES: None if doubled is None else float(doubled.mean()),
        "forwards": int(rows.forwards[at].sum()) / right.size,
        "tokens": int(rows.tokens[at].sum()) / right.size,
        "failures": {} if name == t.baseline else _differences(t, name, flags),
        "lost": None if name == t.baseline else _lost(t, name, flags[name]),
    }


def _mean(x: Floats) -> float | None:
    known = x[~np.isnan(x)]
    return float(known.mean()) if known.size else None


def _flags(t: Table, name: str) -> dict[str, Floats]:
    """(items, completions) of every kind, as 0 and 1; NaN where that is not known."""
    at = t.columns.of[name]
    found = {kind: t.columns.kind(kind, at).astype(float) for kind in KINDS}
    found["disagree"][~t.columns.asked(at)] = np.nan
    return {kind: x.reshape(len(t.items), -1) for kind, x in found.items()}


def _differences(t: Table, name: str, flags: Mapping[str, Mapping[str, Floats]]) -> dict[str, Any]:
    found: dict[str, Estimate] = {}
    for kind, here in flags[name].items():
        mine, base = here.mean(axis=1), flags[t.baseline][kind].mean(axis=1)
        known = ~(np.isnan(mine) | np.isnan(base))
        if known.sum() >= 2 and (mine[known].any() or base[known].any()):
            found[kind] = paired(mine[known], base[known], name=f"{KINDS[kind].label}[{name}]")
    mine_twice, base_twice = _duplicates(t, name), _duplicates(t, str(t.conditions[name]["against"]))
    if mine_twice is not None and base_twice is not None:
        found[DUPLICATES] = paired(mine_twice, base_twice, name=f"{DUPLICATES}[{name}]")
    return dict(zip(found, (e.effect() for e in finish(list(found.values()), margin=MARGIN)), strict=True))


def _duplicates(t: Table, name: str) -> Floats | None:
    """(items,): share of an item's branches that repeat the text of an earlier one; None without several branches."""
    if name not in t.conditions or t.branches(name) < 2:
        return None

    found = [x for x in t.duplicates(name) if x is not None]
    return np.asarray(np.mean(np.stack(found), axis=0), dtype=np.float64)


def _lost(t: Table, name: str, flags: Mapping[str, Floats]) -> dict[str, int]:
    lost: Bools = t.score(name) < t.score(t.baseline)
    failed = np.any([flags[kind].astype(bool) & ~t.right(name) for kind in FORMAT], axis=0).any(axis=1)
    return {"items": int(lost.sum()), "format": int((lost & failed).sum())}
