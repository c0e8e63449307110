"""What graded rows give away about themselves: items counted twice, graders that disagree, ties that decide votes,
answers cut off in one condition more than in another, cells that were never run.

Reads `results.Results` as they come, repeats and all. Comparing answers as numbers is handed in (`same`), because
the graders live above this package. Nothing here refuses: everything is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from triaxis.errors import UserError, suggest
from triaxis.estimate.diversity import vote
from triaxis.estimate.paired import wilson
from triaxis.estimate.results import Record, Results
from triaxis.estimate.table import Finding

NOTABLE = 0.05  # a share of cut-off or unreadable answers, or a spread of it, from which it is reported
Same = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionAudit:
    """One condition's rows. Shares in [0, 1]; None where the file does not say."""

    name: str
    rows: int
    items: int
    accuracy: float  # mean over items of the mean over branches
    low: float | None  # Wilson, where every item has one 0/1 score
    high: float | None
    unreadable: float | None
    truncated: float | None
    branches: int  # most rows an item has
    ties: int | None  # votes without a single winner
    vote: float | None
    vote_low_tie: float | None
    vote_high_tie: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsAudit:
    conditions: tuple[ConditionAudit, ...]
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "conditions": [asdict(c) for c in self.conditions],
            "findings": [f._asdict() for f in self.findings],
        }


def audit_rows(results: Results, *, same: Same | None = None, factors: Sequence[str] = ()) -> RowsAudit:
    """Audit every condition of one file. `same(answer, gold)`: are two answers equal as numbers?

    `factors`: columns whose levels are crossed; every combination must have rows. UserError for an unknown column.
    """
    groups: dict[str, list[Record]] = {}
    for r in results.records:
        groups.setdefault(r.condition, []).append(r)
    findings = []
    for name, rows in groups.items():
        findings += _repeats(results, name, rows) + _questions(name, rows) + _uneven(name, _once(rows))
        findings += _contradictions(name, rows)
    findings += _grading(results, same) + _second(results)
    conditions = [_condition(name, rows) for name, rows in groups.items()]
    findings += [f for c in conditions for f in _ties(c)]
    findings += _cut_off(conditions, "truncated", "cut off by the length limit")
    findings += _cut_off(conditions, "unreadable", "unreadable")
    findings += _missing_items(groups) + (_missing_cells(results, factors) if factors else [])
    return RowsAudit(conditions=tuple(conditions), findings=tuple(findings))


# ---------------------------------------------------------------- counted twice


def _repeats(results: Results, name: str, rows: Sequence[Record]) -> list[Finding]:
    seen: dict[tuple[str, str, str], Record] = {}
    again = [r for r in rows if seen.setdefault((r.item, r.seed, r.branch), r) is not r]
    if not again:
        return []
    times, rest = divmod(len(rows), len(seen))
    if rest == 0 and len({(r.item, r.seed, r.branch) for r in again}) == len(seen):
        what = f"every item is counted {times} times: N is {len({r.item for r in rows})}, not {len(rows)}"
    else:
        what = f"{len(again)} of {len(rows)} rows repeat an item, seed and branch and count again"
    changed = sum(1 for r in again if r.score != seen[(r.item, r.seed, r.branch)].score)
    graded = f"; {changed} of the repeats have another score" if changed else ""
    text = f"{what} (such as {again[0].item!r}, {results.at(again[0])}){graded}"
    return [Finding("counted-twice", "error", name or "all rows", text)]


def _questions(name: str, rows: Sequence[Record]) -> list[Finding]:
    where: dict[str, set[str]] = {}
    for r in rows:
        if r.question or r.prompt:
            where.setdefault(r.question or r.prompt, set()).add(r.item)
    several = {q: ids for q, ids in where.items() if len(ids) > 1}
    if not several:
        return []
    ids = sorted(next(iter(several.values())))
    items = len({r.item for r in rows})
    every = len(several) == len(where)
    text = (
        f"{len(several)} questions stand under several ids (such as {ids[0]!r} and {ids[1]!r}): {items} ids, "
        f"{len(where)} questions"
    )
    return [Finding("same-question", "error" if every else "warning", name or "all rows", text)]


def _uneven(name: str, rows: Sequence[Record]) -> list[Finding]:
    counts = _per_item(rows)
    least, most = min(counts.values()), max(counts.values())
    if least == most:
        return []
    few = [item for item, k in counts.items() if k < most]
    text = f"{len(few)} of {len(counts)} items have fewer than {most} rows (such as {few[0]!r} with {counts[few[0]]})"
    return [Finding("uneven-branches", "warning", name or "all rows", text)]


def _once(rows: Sequence[Record]) -> list[Record]:
    """The rows without repeats of an item, seed and branch: the first of each."""
    return list({(r.item, r.seed, r.branch): r for r in reversed(rows)}.values())[::-1]


def _per_item(rows: Sequence[Record]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for r in rows:
        counts[r.item] = counts.get(r.item, 0) + 1
    return counts


# ---------------------------------------------------------------- grading


def _grading(results: Results, same: Same | None) -> list[Finding]:
    """Answers compared as strings ("75.00" is not "75"): by how much does it move the accuracy?"""
    held = [r for r in results.records if r.answer is not None and r.gold is not None]
    if same is None or not held:
        return []
    findings = []
    cache: dict[tuple[str, str], bool] = {}

    def equal(r: Record) -> bool:
        key = (r.answer or "", r.gold or "")
        if key not in cache:
            cache[key] = bool(key[0]) and same(*key)
        return cache[key]

    lost = [r for r in held if equal(r) and r.score == 0]
    won = [r for r in held if not equal(r) and r.score == 1]
    for rows, word in ((lost, "equal as numbers and graded wrong"), (won, "not equal and graded right")):
        if rows:
            r = rows[0]
            text = (
                f"{len(rows)} answers are {word} (such as {r.answer!r} for {r.gold!r}, item {r.item!r}): "
                f"{100 * len(rows) / len(held):.1f} points of accuracy"
            )
            findings.append(Finding("grading", "error", results.label, text))
    strings = [r for r in held if equal(r) and (r.answer or "").strip() != (r.gold or "").strip()]
    if strings and len(strings) != len(lost):
        r = strings[0]
        text = (
            f"{len(strings)} right answers are written in another way (such as {r.answer!r} for {r.gold!r}): compared "
            "as strings they would be wrong"
        )
        findings.append(Finding("string-grading", "note", results.label, text))
    return findings


def _contradictions(name: str, rows: Sequence[Record]) -> list[Finding]:
    """One answer to one item, graded right in one row and wrong in another: no vote can be scored."""
    seen: dict[tuple[str, str], float] = {}
    both = {}
    for r in rows:
        if r.answer and seen.setdefault((r.item, r.answer), r.score) != r.score:
            both[r.item] = r.answer
    if not both:
        return []
    item = next(iter(both))
    text = f"{len(both)} items have an answer graded both right and wrong (such as {both[item]!r}, item {item!r})"
    return [Finding("graded-both-ways", "error", name or "all rows", text)]


def _second(results: Results) -> list[Finding]:
    asked = [r for r in results.records if r.second is not None]
    differ = [r for r in asked if r.second != (r.score == 1)]
    if not differ:
        return []
    r = differ[0]
    text = (
        f"the second grader disagrees on {len(differ)} of {len(asked)} rows (such as item {r.item!r}, answer "
        f"{r.answer!r})"
    )
    return [Finding("second-grader", "warning", results.label, text)]


# ---------------------------------------------------------------- one condition


def _condition(name: str, rows: Sequence[Record]) -> ConditionAudit:
    """Repeats counted once; `rows` as they are."""
    by_item: dict[str, list[float]] = {}
    count, rows = len(rows), _once(rows)
    for r in rows:
        by_item.setdefault(r.item, []).append(r.score)
    means = [sum(s) / len(s) for s in by_item.values()]
    single = all(m in (0.0, 1.0) for m in means)
    low, high = wilson(int(sum(means)), len(means)) if single else (None, None)
    known = [r for r in rows if r.answer is not None]
    told = [r for r in rows if r.ended is not None]
    return ConditionAudit(
        name=name,
        rows=count,
        items=len(by_item),
        accuracy=sum(means) / len(means),
        low=low,
        high=high,
        unreadable=sum(r.answer == "" for r in known) / len(known) if known else None,
        truncated=sum(r.ended is False for r in told) / len(told) if told else None,
        branches=max(map(len, by_item.values())),
        **_vote(rows),
    )


def _vote(rows: Sequence[Record]) -> dict[str, Any]:
    """The vote of each (item, seed), or all None: one branch, uneven branches, no answers, contradictory grades."""
    ballots: dict[tuple[str, str], list[Record]] = {}
    for r in rows:
        ballots.setdefault((r.item, r.seed), []).append(r)
    none: dict[str, Any] = dict.fromkeys(("ties", "vote", "vote_low_tie", "vote_high_tie"))
    sizes = {len(b) for b in ballots.values()}
    if sizes == {1} or len(sizes) > 1 or any(r.answer is None for r in rows):
        return none
    answers = [[r.answer or "" for r in b] for b in ballots.values()]
    right = [[r.score == 1 for r in b] for b in ballots.values()]
    try:
        tally = vote(answers, right)
    except ValueError:  # one answer graded both ways: `_contradictions` says so
        return none
    means = {"vote": tally.score, "vote_low_tie": tally.low_tie, "vote_high_tie": tally.high_tie}
    return {"ties": int(tally.tie.sum()), **{k: float(v.mean()) for k, v in means.items()}}


def _ties(c: ConditionAudit) -> list[Finding]:
    if not c.ties or c.vote_low_tie is None or c.vote_high_tie is None:
        return []
    span = 100 * (c.vote_high_tie - c.vote_low_tie)
    text = (
        f"{c.ties} votes are tied: the tie rule alone moves the vote from {100 * c.vote_low_tie:.1f} to "
        f"{100 * c.vote_high_tie:.1f} % ({span:.1f} points)"
    )
    return [Finding("ties", "warning" if span else "note", c.name or "all rows", text)]


def _cut_off(conditions: Sequence[ConditionAudit], what: str, words: str) -> list[Finding]:
    shares = {c.name or "all rows": getattr(c, what) for c in conditions if getattr(c, what) is not None}
    if not shares:
        return []
    worst, best = max(shares, key=lambda k: shares[k]), min(shares, key=lambda k: shares[k])
    if shares[worst] - shares[best] >= NOTABLE:
        text = (
            f"{100 * shares[worst]:.1f} % of the answers in {worst} are {words}, {100 * shares[best]:.1f} % in {best}: "
            "part of their difference may be this"
        )
        return [Finding(what, "warning", worst, text)]
    if shares[worst] >= NOTABLE:
        return [Finding(what, "warning", worst, f"{100 * shares[worst]:.1f} % of the answers in {worst} are {words}")]
    return []


# ---------------------------------------------------------------- what was never run


def _missing_items(groups: Mapping[str, Sequence[Record]]) -> list[Finding]:
    union = dict.fromkeys(r.item for rows in groups.values() for r in rows)
    findings = []
    for name, rows in groups.items():
        held = {r.item for r in rows}
        absent = [item for item in union if item not in held]
        if absent:
            text = f"{len(absent)} of {len(union)} items were never run in {name} (such as {absent[0]!r})"
            findings.append(Finding("missing-items", "error", name, text))
    return findings


def _missing_cells(results: Results, factors: Sequence[str]) -> list[Finding]:
    known = {k for r in results.records for k in r.fields}
    for name in factors:
        if name not in known:
            raise UserError(f"{results.path}: no column {name!r}{suggest(name, known)}")
    seen = {tuple(str(r.fields.get(f)) for f in factors) for r in results.records}
    levels = [list(dict.fromkeys(str(r.fields.get(f)) for r in results.records)) for f in factors]
    owed = [cell for cell in product(*levels) if cell not in seen]
    return [
        Finding(
            "missing-cell",
            "error",
            results.label,
            f"never run: {cell_name(factors, cell)}; its effects cannot be told apart",
        )
        for cell in owed
    ]


def cell_name(factors: Sequence[str], levels: Sequence[object]) -> str:
    return ", ".join(f"{f}={level}" for f, level in zip(factors, levels, strict=True))
