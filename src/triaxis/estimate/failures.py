"""What went wrong with the format of completions, beside every accuracy, so that it is not read as reasoning.

Each kind is a flag of one completion; its rate and its paired difference from the baseline are by item. A completion
may have several. Knows stored rows and grades only: an end mark inside a text is not seen here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from triaxis.estimate import diversity
from triaxis.estimate.arms import MARGIN, Bools, Floats, Table
from triaxis.estimate.paired import Estimate, cluster_mean, finish, paired, wilson
from triaxis.store import GradeRow, Row

FLOOR = 3  # tokens: an answer and its mark need as many; less before the end mark is an early end
_STEP = re.compile(r"[.;\n]+")
_STEP_WORDS = 3  # a piece of a plan that counts when it comes back in a completion has at least as many words


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of failure: how the report names it, what it is, and its flag of a completion; NaN: not known."""

    label: str
    says: str
    of: Callable[[Row, GradeRow, Context], float]


@dataclass(frozen=True, slots=True)
class Context:
    """What is needed beside a row: the openers of the study's scaffolds, and the pieces of each plan by its id."""

    openers: tuple[str, ...]
    pieces: Mapping[str, Sequence[str]]

    def continues(self, row: Row, grade: GradeRow) -> bool:
        """Whether a completion goes on with the scaffold: it writes an opener, or repeats a step of the plan it was
        shown and marks no answer."""
        if any(o in row.text for o in self.openers):
            return True
        if grade.how == "marked":
            return False
        text = _plain(row.text)
        return any(piece in text for piece in self.pieces.get(row.plan, ()))


KINDS: Mapping[str, Kind] = {
    "truncated": Kind("cut", "reached the end of the canvas without an end mark", lambda r, g, c: not r.ended),
    "unreadable": Kind("unread", "has no readable answer", lambda r, g, c: g.verdict == "unreadable"),
    "early_end": Kind(
        "early end", f"ended after fewer than {FLOOR} tokens",
        lambda r, g, c: r.ended and (not r.text.strip() or 0 < r.length < FLOOR),
    ),
    "flooded": Kind("flooded", "is end marks from its first place on", lambda r, g, c: r.ended and not r.text.strip()),
    "continued": Kind(
        "plan goes on", "goes on with the scaffold or repeats the plan instead of answering",
        lambda r, g, c: c.continues(r, g),
    ),
    "disagree": Kind(
        "graders differ", "is graded otherwise by the second grader",
        lambda r, g, c: np.nan if g.second < 0 else (g.verdict == "right") != bool(g.second),
    ),
}  # fmt: skip
FORMAT = ("truncated", "unreadable", "early_end", "continued")  # a wrong answer with one of these is a format failure
DUPLICATES = "duplicates"  # of an item's branches, beside the kinds


def condition_rows(t: Table) -> list[dict[str, Any]]:
    """One line a condition: accuracy with interval and failure rates; forwards and tokens are means a completion.

    "failures" holds the paired difference of each rate from the baseline (duplicates: from the condition named in
    `against`), Holm within a condition; a rate that is 0 on both sides is left out. "lost" counts the items that the
    baseline has right and the condition has not, and those of them with a format failure (`FORMAT`).
    """
    context = _context(t)
    flags = {name: _flags(t, name, context) for name in t.rows}
    return [_line(t, name, flags) for name in t.rows]


def _line(t: Table, name: str, flags: Mapping[str, Mapping[str, Floats]]) -> dict[str, Any]:
    right, rows = t.right(name), [r for item in t.rows[name] for r in item]
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
        "forwards": sum(r.forwards for r in rows) / len(rows),
        "tokens": sum(r.tokens for r in rows) / len(rows),
        "failures": {} if name == t.baseline else _differences(t, name, flags),
        "lost": None if name == t.baseline else _lost(t, name, flags[name]),
    }


def _mean(x: Floats) -> float | None:
    known = x[~np.isnan(x)]
    return float(known.mean()) if known.size else None


def _context(t: Table) -> Context:
    """Openers of all scaffolds that a plan or its shape stands in, so that a rate means the same in every condition."""
    found = [
        opener
        for card in t.conditions.values()
        if card["role"] not in ("pipeline", "stage")  # what an AR model is asked in is no plan's place
        for opener in [str(card["scaffold"]["template"]).partition("{plan}")[0].strip()]
        if any(c.isalpha() for c in opener) and len(opener) > 2
    ]
    pieces = {id: [p for s in _STEP.split(plan.text) if len((p := _plain(s)).split()) >= _STEP_WORDS]
              for id, plan in t.plans.items()}  # fmt: skip
    return Context(tuple(dict.fromkeys(found)), pieces)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _flags(t: Table, name: str, context: Context) -> dict[str, Floats]:
    """(items, completions) of every kind."""

    def flag(of: Callable[[Row, GradeRow, Context], float]) -> Floats:
        return t.column(name, lambda r, g: of(r, g, context))

    return {key: flag(kind.of) for key, kind in KINDS.items()}


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
    if name not in t.rows or t.branches(name) < 2:
        return None

    def made() -> Floats:
        texts = [[r.text for r in rows] for rows in t.rows[name]]
        by_seed = [diversity.duplicate_rate([row[s] for row in texts]) for s in t.by_seed(name)]
        return np.asarray(np.mean(by_seed, axis=0), dtype=float)

    return t.kept("duplicates", name, made)


def _lost(t: Table, name: str, flags: Mapping[str, Floats]) -> dict[str, int]:
    lost: Bools = t.score(name) < t.score(t.baseline)
    failed = np.any([flags[kind].astype(bool) & ~t.right(name) for kind in FORMAT], axis=0).any(axis=1)
    return {"items": int(lost.sum()), "format": int((lost & failed).sum())}
