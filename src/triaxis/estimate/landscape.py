"""Published claims and studies side by side: what each measured, what it can carry, and where two contradict.

A `Sight` is one claim seen on one scale: the difference in points, with the range its published numbers allow. Two
studies contradict where their claims of one axis and task point in opposite directions; what they set differently,
or did not state, is what could explain it. Two entries about the same runs are never both counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from triaxis.estimate.audit import Assumed, assumed_discordance
from triaxis.estimate.claims import from_paper
from triaxis.estimate.paired import holm, mcnemar, tango
from triaxis.estimate.prereg import published
from triaxis.estimate.rows import cell_name
from triaxis.estimate.table import Finding, RowAudit, audit_table
from triaxis.registry.records import AXES, Claim, Paper, Setup

# Records of where and how a study ran rather than choices a reader would expect to move the result.
_NOT_DESIGN = ("n", "hardware", "dtype", "batch", "seed", "dataset", "ar_control")
# Metrics whose differences are differences of accuracy, so that their signs can be set against each other.
_ACCURACY = ("acc", "pass@1", "gain", "max acc gain", "paired difference of acc")
DESIGN = tuple(f.name for f in fields(Setup) if f.name not in _NOT_DESIGN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One claim on one scale. Points: 5.0 = five percentage points; None where the claim does not say."""

    paper: str
    label: str  # provenance: belongs beside every number
    where: str
    condition: str
    task: str
    metric: str
    axes: tuple[str, ...]
    executor: str
    points: float | None
    low: float | None  # over all pairings where only marginals are published
    high: float | None
    p_min: float | None
    p_max: float | None
    n: int | None
    mde80: float | None
    n80: int | None
    verdict: str
    fixed: Mapping[str, str]  # design variable -> value, those the study states
    unstated: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "axis_names": [AXES[a] for a in self.axes]}


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperAudit:
    """One entry, every claim re-audited."""

    paper: Paper
    sights: tuple[Sight, ...]
    findings: tuple[Finding, ...]


class Clash(NamedTuple):
    """Two studies whose claims of one axis and task point in opposite directions."""

    axis: str
    task: str
    up: str  # paper id
    down: str
    up_claims: tuple[str, ...]  # condition and points
    down_claims: tuple[str, ...]
    differ: tuple[str, ...]  # design variables both state, with other values
    unstated: tuple[str, ...]  # at least one of the two does not state
    same: tuple[str, ...]


class Variable(NamedTuple):
    """One design variable over all clashes: could it explain them?"""

    name: str
    differ: int  # clashes in which both state it, differently
    unstated: int
    same: int
    up: Mapping[str, tuple[str, ...]]  # value -> papers that claim a gain, where they clash
    down: Mapping[str, tuple[str, ...]]


def audit_registry(papers: Sequence[Paper], *, assumed: Assumed | None = None) -> list[PaperAudit]:
    """Every claim of every entry, re-audited from its published numbers."""
    known = assumed or assumed_discordance()
    found = []
    for entry in papers:
        audit = audit_table(from_paper(entry), assumed=known)
        direct = _direct_p(entry)
        sights = tuple(
            _sight(entry, c, r, direct.get(i)) for i, (c, r) in enumerate(zip(entry.claims, audit.rows, strict=True))
        )
        found.append(PaperAudit(paper=entry, sights=sights, findings=(*audit.all_findings, *beside(entry))))
    return found


def beside(entry: Paper) -> list[Finding]:
    """What an entry says beside its claims: rules applied literally, cells never run, ties that decide a vote."""
    found = []
    for rule in entry.rules:
        literal = published(rule)
        if rule.called is not None and rule.called != literal:
            text = f"called {rule.called} at {rule.observed}; literally it {literal}"
            found.append(Finding("rule", "error", f"{entry.id} rule {rule.name!r}", text))
    for crossed in entry.factorials:
        for cell in crossed.missing:
            names = cell_name(list(crossed.factors), [cell.levels[f] for f in crossed.factors])
            text = f"never run: {names}; main effects and interaction are not identified without it"
            found.append(Finding("missing-cell", "error", f"{entry.id} {crossed.name}", text))
    facts = {f.name: f for f in entry.facts}
    ties = facts.get("vote_ties")
    if ties is not None and ties.n:
        span = facts.get("vote_tie_span")
        moved = "" if span is None else f", {span.value:g} as counted"
        text = f"{ties.value:g} of {ties.n} votes are tied: the tie rule alone moves the vote by up to "
        text += f"{100 * ties.value / ties.n:g} points{moved}"
        found.append(Finding("ties", "warning", entry.id, text))
    return found


def _direct_p(entry: Paper) -> dict[int, float]:
    """Holm's p of claims printed as differences with their counts, by position; a family is one axis."""
    found: dict[int, float] = {}
    for axes in dict.fromkeys(entry.axes_of(c) for c in entry.claims):
        members = [
            (i, mcnemar(c.gain, c.loss))
            for i, c in enumerate(entry.claims)
            if c.unit == "points" and c.gain is not None and c.loss is not None and entry.axes_of(c) == axes
        ]
        found |= {i: p for (i, _), p in zip(members, holm([p for _, p in members]), strict=True) if p is not None}
    return found


def _sight(entry: Paper, c: Claim, row: RowAudit, p_holm: float | None) -> Sight:
    stated_here = stated(entry, c)
    audit = row.audit
    points, low, high = c.delta if c.unit == "percent" else None, None, None
    p_min, p_max, verdict = row.p_min_holm, row.p_max_holm, row.verdict
    if audit is not None:
        low, high = 100 * audit.low, 100 * audit.high
        if audit.paired and c.gain is not None and c.loss is not None:
            low, high = (100 * end for end in tango(c.gain, c.loss, audit.n))
    if c.unit == "points" and c.value is not None:
        points, low, high = c.value, c.values.get("low"), c.values.get("high")
        if p_holm is not None and points is not None:
            p_min = p_max = p_holm
            verdict = ("drop" if points < 0 else "lift") if p_holm <= 0.05 else "not resolved"
        else:
            verdict = "as published; not testable"
    return Sight(
        paper=entry.id,
        label=entry.label,
        where=row.published.where,
        condition=c.condition,
        task=c.task,
        metric=c.metric,
        axes=entry.axes_of(c),
        executor=stated_here.get("executor", ""),
        points=points,
        low=low,
        high=high,
        p_min=p_min,
        p_max=p_max,
        n=c.n,
        mde80=None if audit is None or audit.mde80 is None else 100 * audit.mde80,
        n80=None if audit is None else audit.n80,
        verdict=verdict,
        fixed=stated_here,
        unstated=tuple(v for v in DESIGN if v not in stated_here),
    )


def stated(entry: Paper, c: Claim | None = None) -> dict[str, str]:
    """The design variables the study states, for one claim or as a whole, in words."""
    found = {v: _words(getattr(entry.setup, v)) for v in DESIGN if getattr(entry.setup, v) is not None}
    return found | ({"executor": c.executor} if c and c.executor else {})


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " | ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def line_up(audits: Sequence[PaperAudit], axis: str, task: str = "") -> list[Sight]:
    """Every difference of accuracy on one axis, least first; of two entries about the same runs only one."""
    of = [s for p in _without_copies(audits) for s in p.sights if axis in s.axes and s.metric in _ACCURACY]
    return sorted((s for s in of if s.points is not None and task in ("", s.task)), key=lambda s: s.points or 0.0)


# ---------------------------------------------------------------- contradictions


def clashes(audits: Sequence[PaperAudit], axis: str | None = None) -> list[Clash]:
    """Every pair of studies with opposite signs on one axis and task. Differences of other items are left out."""
    kept = _without_copies(audits)
    found = []
    for a in [axis] if axis else list(AXES):
        tasks = dict.fromkeys(s.task for p in kept for s in p.sights if a in s.axes)
        for task in tasks:
            sides = {p.paper.id: _by_sign(p.sights, a, task) for p in kept}
            for up in kept:
                for down in kept:
                    rises, falls = sides[up.paper.id][0], sides[down.paper.id][1]
                    if up is not down and rises and falls:
                        found.append(_clash(a, task, rises, falls))
    return found


def within(audits: Sequence[PaperAudit], axis: str | None = None) -> list[Clash]:
    """Studies whose own claims of one axis and task point both ways: what varied is in the conditions."""
    found = []
    for p in _without_copies(audits):
        for a in [axis] if axis else list(AXES):
            for task in dict.fromkeys(s.task for s in p.sights if a in s.axes):
                rises, falls = _by_sign(p.sights, a, task)
                if rises and falls:
                    found.append(_clash(a, task, rises, falls))
    return found


def variables(found: Iterable[Clash], audits: Sequence[PaperAudit]) -> list[Variable]:
    """Each design variable: in how many clashes it differs, is unstated, is the same; those that differ most first."""
    every = list(found)
    fixed = {p.paper.id: p.sights[0].fixed for p in audits if p.sights}
    rows = []
    for name in DESIGN:
        differ, unstated, same = (
            sum(name in getattr(c, kind) for c in every) for kind in ("differ", "unstated", "same")
        )
        up = _values([fixed[id].get(name) for id in dict.fromkeys(c.up for c in every)], [c.up for c in every])
        down = _values([fixed[id].get(name) for id in dict.fromkeys(c.down for c in every)], [c.down for c in every])
        rows.append(Variable(name, differ, unstated, same, up, down))
    return sorted(rows, key=lambda v: (-v.differ, v.unstated, v.name))


def _values(values: Sequence[str | None], ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Value -> the papers that have it."""
    found: dict[str, list[str]] = {}
    for value, id in zip(values, dict.fromkeys(ids), strict=True):
        found.setdefault(value or "not stated", []).append(id)
    return {value: tuple(of) for value, of in found.items()}


def _without_copies(audits: Sequence[PaperAudit]) -> list[PaperAudit]:
    """Of entries about the same runs, the one with more claims that have a difference."""
    kept: list[PaperAudit] = []
    for p in sorted(audits, key=lambda p: -sum(s.points is not None for s in p.sights)):
        if p.sights and not any(p.paper.same_study == k.paper.id or k.paper.same_study == p.paper.id for k in kept):
            kept.append(p)
    return sorted(kept, key=lambda p: [q.paper.id for q in audits].index(p.paper.id))


def _by_sign(sights: Sequence[Sight], axis: str, task: str) -> tuple[list[Sight], list[Sight]]:
    of = [s for s in sights if axis in s.axes and s.task == task and s.metric in _ACCURACY]
    fair = [s for s in of if s.points and s.verdict != "different items"]
    return [s for s in fair if (s.points or 0) > 0], [s for s in fair if (s.points or 0) < 0]


def _clash(axis: str, task: str, rises: Sequence[Sight], falls: Sequence[Sight]) -> Clash:
    up, down = rises[0], falls[0]
    both = [v for v in DESIGN if v in up.fixed and v in down.fixed]
    return Clash(
        axis=axis,
        task=task,
        up=up.paper,
        down=down.paper,
        up_claims=tuple(f"{s.condition} {s.points:+.1f} ({s.verdict})" for s in rises),
        down_claims=tuple(f"{s.condition} {s.points:+.1f} ({s.verdict})" for s in falls),
        differ=tuple(v for v in both if not _same(v, up.fixed[v], down.fixed[v])),
        unstated=tuple(v for v in DESIGN if v not in both),
        same=tuple(v for v in both if _same(v, up.fixed[v], down.fixed[v])),
    )


def _same(variable: str, a: str, b: str) -> bool:
    """Equal as written; checkpoints also without their owner ("GSAI-ML/LLaDA-8B-Instruct" is "LLaDA-8B-Instruct")."""
    if variable == "executor":
        return a.rpartition("/")[2].lower() == b.rpartition("/")[2].lower()
    return a == b
