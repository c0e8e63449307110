"""Evidence as coloured text on a terminal: tables, one sentence in words, warnings. Computes nothing.

Every string that comes from a file is a rich `Text`, never markup: condition names hold square brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from triaxis.estimate.audit import ClaimAudit
from triaxis.estimate.compare import Comparison, Family, Side
from triaxis.estimate.factorial import Attribution, Term
from triaxis.estimate.landscape import Clash, PaperAudit, Sight, Variable
from triaxis.estimate.prereg import Outcome, Standing
from triaxis.estimate.rows import RowsAudit
from triaxis.estimate.sequential import Look
from triaxis.estimate.table import Finding, TableAudit
from triaxis.registry.records import AXES, Paper
from triaxis.report.words import visible

_WIDE = 130  # columns of what is piped or logged
_BAR = 25  # characters of a forest row, odd: the middle is zero
_COLOURS = {
    "drop": "red",
    "FAILS": "red",
    "lift": "green",
    "HOLDS": "green",
    "equivalent": "cyan",
    "error": "red",
    "warning": "yellow",
    "note": "dim",
}


class Harmless(Console):
    """A console whose terminal obeys rich alone: control characters of names and answers are shown."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for s in super().render(renderable, options):
            yield s if s.control or s.text.isprintable() else s._replace(text=visible(s.text))


def console() -> Console:
    """Standard output; wide where it is no terminal, so that a pipe or a log gets whole rows."""
    made = Harmless(highlight=False)
    return made if made.is_terminal else Harmless(highlight=False, width=_WIDE)


def say(text: str, style: str = "") -> None:
    console().print(Text(text, style=style), soft_wrap=True)


def colour(verdict: str) -> Text:
    style = next((c for word, c in _COLOURS.items() if verdict.startswith(word)), "yellow")
    return Text(verdict, style=style)


def points(share: float | None, sign: bool = True) -> str:
    return "" if share is None else f"{100 * share:{'+' if sign else ''}.1f}"


def p_text(p: float | None) -> str:
    return "" if p is None else f"{p:.1e}" if 0 < p < 0.0001 else f"{p:.4f}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns whose name begins with ">" are flushed right, those with "=" are never broken."""
    made = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None)
    for name in columns:
        right, whole = name.startswith(">"), name.startswith((">", "="))
        made.add_column(name.lstrip(">="), justify="right" if right else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    console().print(made)


def findings(found: Sequence[Finding], *, notes: bool = True, most: int = 4) -> None:
    """At most `most` of a kind; the rest is counted."""
    for severity in ("error", "warning", "note") if notes else ("error", "warning"):
        for code in dict.fromkeys(f.code for f in found if f.severity == severity):
            of = [f for f in found if (f.code, f.severity) == (code, severity)]
            lines = [f"{code}: {f.where}: {f.message}" for f in of[:most]]
            lines += [f"{code}: ... and {len(of) - most} more like these (--json shows all)"] if len(of) > most else []
            for line in lines:
                console().print(Text(f"{severity:8s}", style=_COLOURS[severity]) + Text(line), soft_wrap=True)


def warnings(texts: Sequence[str]) -> None:
    for text in texts:
        say(f"warning  {text}", "yellow")


# ---------------------------------------------------------------- compare, power


def family(found: Family) -> None:
    """Accuracies of the files, then every comparison with its verdict."""
    sides = list(dict.fromkeys(side for c in found.comparisons for side in (c.a, c.b)))
    level = f">{100 * found.comparisons[0].effect.level:g} % interval"
    table("", ("file", ">mean %", level, ">per item", ">dropped"), [_side(s) for s in sides])
    names = ("comparison", ">points", level, ">gain", ">loss", ">n", ">p", ">mid-p", ">Holm", ">e-value", ">MDE")
    table("", (*names, "verdict"), [_effect(c) for c in found.comparisons])
    for c in found.comparisons if len(found.comparisons) == 1 else ():
        say(c.sentence)
        t = c.tost
        span = (
            "" if t.low is None or t.high is None else f": interval {points(t.low)} to {points(t.high)}, p = {t.p:.3g}"
        )
        say(
            f"Equivalent within {100 * t.margin:g} points (TOST): {'yes' if t.equivalent else 'no'}{span}. "
            f"{c.effect.method}."
        )
    if found.cochran is not None:
        q = found.cochran
        say(f"Cochran's Q over all {len(sides)} files: {q.q:.2f} on {q.df} degrees of freedom, p = {q.p:.3g}.")
    warnings(found.warnings)


def _side(s: Side) -> Sequence[object]:
    span = "" if s.low is None or s.high is None else f"{points(s.low, False)} to {points(s.high, False)}"
    return s.label, points(s.accuracy, False), span, s.replicates, s.dropped or ""


def _effect(c: Comparison) -> Sequence[object]:
    e = c.effect
    cells = (e.name, points(e.value), f"{points(e.low)} to {points(e.high)}", e.gain, e.loss, e.n)
    ps = (p_text(e.p), p_text(e.p_midp), p_text(e.p_holm), f"{c.e_value:.3g}", points(e.mde80, False))
    return *cells, *ps, colour(e.verdict)


def looks(names: Sequence[str], found: Sequence[Look | None], stopped: str, alpha: float) -> None:
    """Where a sequential comparison stands at each look."""
    rows: list[Sequence[object]] = []
    for name, at in zip(names, found, strict=True):
        if at is None:
            rows.append((name, 0, "", "", "", "", "", colour("no shared item yet")))
            continue
        word = ("drop" if at.value < 0 else "lift") if at.resolved else "not resolved"
        span = f"{points(at.low)} to {points(at.high)}"
        rows.append((name, at.n, at.gain, at.loss, points(at.value), span, f"{at.e:.3g}", colour(word)))
    table("", ("comparison", ">n", ">gain", ">loss", ">points", ">anytime interval", ">e-value", "verdict"), rows)
    needed = f"An e-value of {len(names) / alpha:g} resolves" if names else "Nothing was read"
    say(f"Stopped: {stopped}. {needed}; interval and e-value hold at every look.")


def power(found: Mapping[str, Any], ladder: Sequence[tuple[int, float | None]]) -> None:
    """What a design can see, or how many items an effect needs."""
    d, at = (
        100 * found["discordance"],
        f"{100 * found['power']:g} % power, alpha {found['alpha']:g}, {found['test']} McNemar",
    )
    say(f"Discordance {d:.3g} % of items ({found['discordance_source']}); {at}.")
    if "mde80" in found:
        say(f"{found['n']} items see a difference of {100 * found['mde80']:.1f} points or more.", "bold")
        if found["equivalence_margin80"] is not None:
            say(
                f"{found['n']} items can show equivalence within {100 * found['equivalence_margin80']:.1f} points or "
                "more."
            )
    if "n80" in found:
        size = f"{100 * abs(found['effect']):g} points"
        say(f"A difference of {size} needs {found['n80']} items.", "bold")
        say(f"(exact sum; Connor's normal formula, which most published tables use, says {found['n80_normal']})")
    if "power_at_n" in found:
        say(
            f"{found['n']} items see {100 * abs(found['effect']):g} points with power {100 * found['power_at_n']:.1f} "
            "%."
        )
    if "n_equivalence80" in found:
        say(f"Equivalence within {100 * found['margin']:g} points needs {found['n_equivalence80']} items.", "bold")
    if "power_equivalence_at_n" in found:
        say(f"{found['n']} items show it with power {100 * found['power_equivalence_at_n']:.1f} %.")
    table("", (">items", ">sees (points)"), [(n, points(e, False) or "nothing") for n, e in ladder])


# ---------------------------------------------------------------- audit


def claim(a: ClaimAudit) -> None:
    """What one published claim's numbers can say."""
    rows = []
    for name, c in (("baseline", a.baseline), ("treatment", a.treatment)):
        low, high = c.interval()
        count = f"{c.low}" if c.low == c.high else f"{c.low} to {c.high}"
        rows.append(
            (name, f"{count} of {c.n}", points(c.share, False), f"{points(low, False)} to {points(high, False)}")
        )
    table("", ("", ">right", ">%", ">exact 95 %"), rows)
    facts: list[tuple[str, str]] = [("difference (points)", f"{points(a.value)} ({points(a.low)} to {points(a.high)})")]
    if a.paired:
        facts += _paired_facts(a)
    else:
        facts.append(("p, two independent samples", p_text(a.p_unpaired)))
    mde = "nothing" if a.mde80 is None else f"{points(a.mde80, False)} points or more"
    facts.append((f"N={a.n} sees (80 % power)", mde))
    needs = (
        "any N: there is no difference"
        if not a.value
        else f"{a.n80:,} items"
        if a.n80
        else "more than 10 million items"
    )
    facts.append(("to see this difference", f"{needs} (paired)"))
    table("", ("", ""), facts)
    console().print(colour(a.verdict), soft_wrap=True)
    say(a.sentence)
    say(f"Discordance assumed: {a.assumed.share:.3g} ({a.assumed.source})", "dim")


def _paired_facts(a: ClaimAudit) -> list[tuple[str, str]]:
    needed = a.discordance_needed
    limit = "at none" if needed is None else f"only if at most {100 * needed:.1f} % of the items changed"
    spread = f"{100 * (a.discordance_min or 0):.1f} to {100 * (a.discordance_max or 0):.1f} %"
    return [
        ("exact p over all pairings", f"{p_text(a.p_min)} to {p_text(a.p_max)}"),
        (f"p at {100 * (a.discordance_used or 0):.1f} % changed items", p_text(a.p_assumed)),
        ("items that may have changed", spread),
        (f"p <= {a.alpha:g}", limit),
    ]


def table_audit(found: TableAudit) -> None:
    """The claims of one table, and what they share."""
    rows = []
    for r in found.rows:
        p, a = r.published, r.audit
        value = None if a is None else points(a.value)
        ps = "" if r.p_min_holm is None else f"{p_text(r.p_min_holm)} to {p_text(r.p_max_holm)}"
        sees = "" if a is None or a.mde80 is None else points(a.mde80, False)
        rows.append((p.name, p.baseline, p.value, p.n, value, ps, sees, "" if a is None else a.n80, colour(r.verdict)))
    names = ("claim", ">baseline", ">value", ">N", ">points", ">Holm p, all pairings", ">MDE", ">N for it", "verdict")
    table("", names, rows)
    labels = sorted({r.published.label for r in found.rows if r.published.label})
    if labels:
        say("Numbers: " + "; ".join(labels), "dim")
    findings(found.all_findings)
    say(f"Discordance assumed: {found.assumed.share:.3g} ({found.assumed.source})", "dim")


def rows_audit(found: RowsAudit) -> None:
    """What rows of another harness hold and lack."""
    rows = []
    for c in found.conditions:
        vote = (
            ""
            if c.vote is None
            else f"{points(c.vote, False)} ({points(c.vote_low_tie, False)} to {points(c.vote_high_tie, False)})"
        )
        cells = (c.name or "all rows", c.items, c.rows, points(c.accuracy, False))
        rows.append((*cells, points(c.unreadable, False), points(c.truncated, False), vote, c.ties))
    names = ("condition", ">items", ">rows", ">mean %", ">unreadable %", ">cut off %", ">vote % (ties)", ">ties")
    table("", names, rows)
    findings(found.findings)
    if not found.findings:
        say("Nothing found: no repeats, no disagreeing grades, no missing cells.", "green")


# ---------------------------------------------------------------- registry


def papers(found: Sequence[Paper]) -> None:
    rows = [(p.id, p.citation, ", ".join(AXES[a] for a in p.axes), len(p.claims), provenance(p.label)) for p in found]
    table("", ("id", "study", "axes", ">claims", "provenance"), rows)


def provenance(label: str) -> Text:
    return Text(label, style="green" if label.startswith("verified") else "yellow")


def paper(p: Paper, setup: Mapping[str, str]) -> None:
    """One registry entry with its claims."""
    console().print(Text(f"{p.id}  {p.citation}  ", style="bold") + provenance(p.label))
    if p.provenance_note:
        say(p.provenance_note, "dim")
    say("Measures: " + (", ".join(AXES[a] for a in p.axes) or "none of the axes"))
    say("Fixed: " + "; ".join(f"{k} = {v}" for k, v in setup.items()))
    rows = []
    for c in p.claims:
        value = c.value if c.value is not None else ", ".join(f"{k} {v:g}" for k, v in c.values.items())
        axes = ", ".join(AXES[a] for a in p.axes_of(c)) or "-"
        rows.append((c.condition, c.task, c.metric, c.unit, value, c.baseline, c.n, axes, c.source))
    table("", ("condition", "task", "metric", "unit", ">value", ">baseline", ">N", "axis", "source"), rows)
    for text in p.caveats:
        say(f"- {text}")


def registry_audit(found: Sequence[PaperAudit]) -> None:
    """Every claim of the registry with its verdict."""
    for a in found:
        console().print(Text(f"\n{a.paper.id}  {a.paper.citation}  ", style="bold") + provenance(a.paper.label))
        fixed = a.sights[0].fixed if a.sights else {}
        say("fixes: " + ("; ".join(f"{k} = {_short(v)}" for k, v in fixed.items()) or "nothing it states"), "dim")
        tested = [s for s in a.sights if s.points is not None]
        if tested:
            sights(tested)
        else:
            say("no claim with a baseline", "dim")
        findings(a.findings, notes=False)


def sights(found: Sequence[Sight]) -> None:
    names = ("condition", "task", "axis", ">N", ">points", ">all pairings", ">Holm p", "verdict")
    table("", names, [_sight_row(s) for s in found])


def line_up(found: Sequence[Sight]) -> None:
    """A forest of differences, then what each study fixed."""
    reach = max([5.0, *(abs(v) for s in found for v in (s.points, s.low, s.high) if v is not None)])
    reach = min(reach, 40.0)
    head = "=" + f"-{reach:.0f}".ljust(_BAR // 2) + "0" + f"+{reach:.0f}".rjust(_BAR // 2)
    names = ("id", "condition", "task", "executor", ">N", ">points", head, "verdict", "numbers")
    table("", names, [_forest_row(s, reach) for s in found])
    for id in dict.fromkeys(s.paper for s in found):
        first = next(s for s in found if s.paper == id)
        fixed = "; ".join(f"{k} = {_short(v)}" for k, v in first.fixed.items() if k != "executor")
        say(f"{id} ({first.label}): {fixed or 'states no design variable'}")
    say("Bar: what the published numbers allow, over all pairings; a study's own interval.", "dim")


def _sight_row(s: Sight) -> Sequence[object]:
    axes = "+".join(AXES[a] for a in s.axes) or "none"
    ps = "" if s.p_min is None or s.p_max is None else _range(s.p_min, s.p_max)
    value = "" if s.points is None else f"{s.points:+.1f}"
    return s.condition, s.task, axes, s.n, value, _span(s), ps, colour(s.verdict)


def _forest_row(s: Sight, reach: float) -> Sequence[object]:
    value = "" if s.points is None else f"{s.points:+.1f}"
    known = provenance(s.label.partition(" ")[0])
    executor = s.executor.rpartition("/")[2]
    return s.paper, s.condition, s.task, executor, s.n, value, _forest(s, reach), colour(s.verdict), known


def _span(s: Sight) -> str:
    return "" if s.low is None or s.high is None else f"{s.low:+.1f} to {s.high:+.1f}"


def _range(low: float, high: float) -> str:
    return p_text(low) if low == high else f"{p_text(low)} to {p_text(high)}"


def _forest(s: Sight, reach: float) -> Text:
    cells = [" "] * _BAR
    middle = _BAR // 2

    def at(value: float) -> int:
        return middle + round(max(-1.0, min(1.0, value / reach)) * middle)

    if s.low is not None and s.high is not None:
        for i in range(at(s.low), at(s.high) + 1):
            cells[i] = "-"
    cells[middle] = "|"
    if s.points is not None:
        cells[at(s.points)] = "●"
    return Text("".join(cells))


def contradictions(
    across: Sequence[Clash], inside: Sequence[Clash], rows: Sequence[Variable], labels: Mapping[str, str]
) -> None:
    """Claims that disagree, and the settings in which they differ."""
    say("\nContradictions: studies whose claims of one axis and task point in opposite directions", "bold")
    if not across:
        say("none")
    for c in across:
        say(f"{AXES[c.axis]}, {c.task}: {c.up} ({labels[c.up]}) gains, {c.down} ({labels[c.down]}) loses", "bold")
        say(f"  {c.up}: {'; '.join(c.up_claims[:3])}{' ...' if len(c.up_claims) > 3 else ''}")
        say(f"  {c.down}: {'; '.join(c.down_claims[:3])}{' ...' if len(c.down_claims) > 3 else ''}")
        say(f"  differ in: {', '.join(c.differ) or 'nothing both state'}; not stated by both: {', '.join(c.unstated)}")
    for c in inside:
        say(
            f"within {c.up}: {AXES[c.axis]}, {c.task}: both signs ({len(c.up_claims)} up, {len(c.down_claims)} down)",
            "dim",
        )
    if across:
        cells = [(v.name, v.differ, v.unstated, v.same, _values(v.up), _values(v.down)) for v in rows]
        names = ("design variable", ">differs", ">not stated", ">same", "where it gains", "where it loses")
        table(f"\nDesign variables over the {len(across)} contradictions", names, cells)


def _values(values: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{_short(v)} ({', '.join(ids)})" for v, ids in values.items())


def _short(text: str) -> str:
    flat = " ".join(text.replace("\n", "\\n").split())
    return flat if len(flat) <= 48 else flat[:45] + "..."


# ---------------------------------------------------------------- prereg, factorial


def outcomes(title: str, standing: Standing, found: Sequence[Outcome]) -> None:
    say(title, "bold")
    say(standing.words, "green" if standing.before else "red")
    rows = [
        (o.name, o.rule, "" if o.observed is None else f"{o.observed:.4g}", o.n, colour(o.outcome), o.why)
        for o in found
    ]
    table("", ("prediction", "rule", ">observed", ">n", "outcome", "why"), rows)


def attribution(found: Attribution, check: Sequence[Term] | None) -> None:
    """Main effects and interaction of a 2x2."""
    cells = [
        (", ".join(f"{f}={v}" for f, v in zip(found.factors, c, strict=True)), points(m, False))
        for c, m in found.cells.items()
    ]
    table("", ("cell", ">mean %"), cells)
    rows = []
    for x in found.effects:
        e = x.estimate
        kind = "main effect" if len(x.factors) == 1 else "interaction"
        span = f"{points(e.low)} to {points(e.high)}"
        rows.append(
            (
                e.name,
                kind,
                points(e.value),
                span,
                p_text(e.p),
                p_text(e.p_holm),
                points(e.mde80, False),
                colour(e.verdict),
            )
        )
    table(
        f"{found.n} items, each in every cell",
        ("effect", "", ">points", ">95 %", ">p", ">Holm", ">MDE", "verdict"),
        rows,
    )
    if check is not None:
        terms = [(t.name, f"{t.log_odds:+.2f}", f"{t.low:+.2f} to {t.high:+.2f}", p_text(t.p)) for t in check]
        table("The same as log-odds (items as clusters)", ("effect", ">log-odds", ">95 %", ">p"), terms)
