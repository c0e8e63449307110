"""What went wrong with the format of completions, beside every accuracy, so that it is not read as reasoning.

Each kind is a flag of one completion; its rate and its paired difference from the baseline are by item. A completion
may have several. Knows stored rows and grades only: an end mark inside a text is not seen here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from triaxis.estimate.arms import MARGIN, Bools, Floats, Table
from triaxis.estimate.paired import Estimate, cluster_mean, finish, paired, wilson
from triaxis.store import GradeRow, Row

FLOOR = 3  # tokens: an answer and its mark need as many; less before the end mark is an early end
_STEP = re.compile(r"[.;\n]+")
_STEP_WORDS = 3  # a piece of a plan that counts when it comes back in a completion has at least as many words


class Kind(NamedTuple):
    """One kind of failure: its heading, and what a completion that has it does."""

    label: str
    says: str


# in the order of `Context.flags`
KINDS: Mapping[str, Kind] = {
    "truncated": Kind("cut", "reached the end of the canvas without an end mark"),
    "unreadable": Kind("unread", "has no readable answer"),
    "early_end": Kind("early end", f"ended after fewer than {FLOOR} tokens"),
    "flooded": Kind("flooded", "is end marks from its first place on"),
    "continued": Kind("plan goes on", "goes on with the scaffold or repeats the plan instead of answering"),
    "disagree": Kind("graders differ", "is graded otherwise by the second grader"),
}


@dataclass(frozen=True, slots=True)
class Context:
    """What is needed beside a row: the openers of the study's scaffolds, and the text of each plan by its id."""

    openers: tuple[str, ...]
    plans: Mapping[str, str]

    def flags(self, row: Row, grade: GradeRow) -> tuple[float, ...]:
        """Whether a completion has each of the `KINDS`, as 0 and 1; NaN where that is not known."""
        empty = not row.text.strip()
        return (
            not row.ended,
            grade.verdict == "unreadable",
            row.ended and (empty or 0 < row.length < FLOOR),
            row.ended and empty,
            self.continues(row, grade),
            math.nan if grade.second < 0 else (grade.verdict == "right") != bool(grade.second),
        )

    def continues(self, row: Row, grade: GradeRow) -> bool:
        """Whether a completion goes on with the scaffold: it writes an opener, or repeats a step of the plan it was
        shown and marks no answer."""
        for opener in self.openers:
            if opener in row.text:
                return True
        if grade.how == "marked" or not row.plan:
            return False
        return _repeats(row.text, self.plans.get(row.plan, ""))


FORMAT = ("truncated", "unreadable", "early_end", "continued")  # a wrong answer with one of these is a format failure
DUPLICATES = "duplicates"  # of an item's branches, beside the kinds


def condition_rows(t: Table) -> list[dict[str, Any]]:
    """One line a condition, stages of a chain left out: accuracy with its interval, failure rates, mean costs.

    "failures" holds the paired difference of each rate from the baseline (duplicates: from the condition named in
    `against`), Holm within a condition; a rate that is 0 on both sides is left out. "lost" counts the items that the
    baseline has right and the condition has not, and those of them with a format failure (`FORMAT`). forwards and
    tokens are means a completion.
    """
    context = _context(t)
    flags = {name: _flags(t, name, context) for name in t.rows}
    return [_line(t, name, flags) for name in t.rows if t.conditions[name]["role"] != "stage"]


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
    return Context(tuple(dict.fromkeys(found)), {id: plan.text for id, plan in t.plans.items()})


def _repeats(text: str, plan: str) -> bool:
    """Whether a text holds a step of the plan word for word, of at least three words."""
    shown = _plain(text)
    steps = map(_plain, _STEP.split(plan))
    return any(step in shown for step in steps if len(step.split()) >= _STEP_WORDS)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _flags(t: Table, name: str, context: Context) -> dict[str, Floats]:
    """(items, completions) of every kind."""
    table = np.array(t.each(name, context.flags), dtype=float)
    return {kind: table[..., k] for k, kind in enumerate(KINDS)}


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

    found = [d.duplicates for d in t.summaries(name) if d.duplicates is not None]
    return np.asarray(np.mean(np.stack(found), axis=0), dtype=np.float64)


def _lost(t: Table, name: str, flags: Mapping[str, Floats]) -> dict[str, int]:
    lost: Bools = t.score(name) < t.score(t.baseline)
    failed = np.any([flags[kind].astype(bool) & ~t.right(name) for kind in FORMAT], axis=0).any(axis=1)
    return {"items": int(lost.sum()), "format": int((lost & failed).sum())}
