"""The original study's published tables, audited from their marginals alone, as one page.

    python recipes/retro_audit/retro_audit.py --out page.html

Every number on the page is computed here from the registry entry O1, which holds what was published and nothing else;
a test forbids results typed into this file or its template. Knows no rows: what only rows can show is listed as such.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triaxis import __version__, registry
from triaxis.errors import script
from triaxis.estimate import landscape
from triaxis.estimate.audit import ClaimAudit, assumed_discordance, claim, parse_count
from triaxis.estimate.claims import Published, from_paper
from triaxis.estimate.prereg import published
from triaxis.estimate.rows import cell_name
from triaxis.estimate.table import RowAudit, TableAudit, audit_table
from triaxis.registry.records import Cell, Factorial, Paper

HERE = Path(__file__).parent
ENTRY = "O1"

# What the entry's caveats say, by a word of each: is it visible in the tables, and what sees it in a run.
SEEN: dict[str, tuple[str, str]] = {
    "base rows": ("yes: the counts lie on too coarse a grid (The base table)", "triaxis audit table"),
    "every base -> LoRA delta": ("yes: the two rows have another N (The adapters)", "triaxis compare refuses the pair"),
    "counts the same": (
        "partly: the grid says that N is smaller; that items are counted twice, only the rows show",
        "triaxis audit rows; a row's identity names its planner",
    ),
    "silently matched": ("no", "triaxis doctor: adapter coverage, and a probe whether it fires"),
    "replaced the prefix adapter": ("no", "triaxis doctor: which adapters are active in which block"),
    "was never run": ("yes: an empty cell (The factorial)", "triaxis factorial; triaxis audit rows --factors"),
    "pre-registered rules": ("yes: the rules applied literally (The rules)", "triaxis prereg check"),
    "chat template": ("no", "triaxis doctor: training and evaluation prompts side by side"),
    "mid-sentence": ("no", "the share of truncated plans, stored with each plan"),
    "truncation or no-answer": ("yes: no such column is published", "triaxis audit rows: both shares by condition"),
    "compared as strings": ("no", "triaxis audit rows: string against number"),
    "ties in the vote": ("yes, once the tied votes are known (The vote)", "triaxis audit rows: tie bounds"),
    "unique-answer": (
        "no: the published count does not split right from wrong",
        "the diversity axis of triaxis diagnose, which does",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What an incomplete two-by-two leaves open. Percent and points."""

    name: str
    factors: Sequence[str]
    cells: Sequence[tuple[str, float | None]]
    missing: str
    neutral: float  # the missing cell's accuracy at which there is no interaction
    low: float  # interaction if the missing cell were all right, all wrong
    high: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "page.html")
    out: Path = parser.parse_args().out
    out.write_text(page(registry.paper(ENTRY)), encoding="utf-8")
    print(out)


def page(entry: Paper) -> str:
    """The whole page. Raises KeyError for a caveat nobody said how to see."""
    table = audit_table(from_paper(entry))
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(points=points, percent=percent, p=p_words, share=share)
    return environment.get_template("page.html.jinja").render(
        entry=entry,
        version=__version__,
        assumed=assumed_discordance(),
        caveats=[(text, *_seen(text)) for text in entry.caveats],
        coarse=[f for f in table.findings if f.code == "doubling"],
        stated=[f for r in table.rows for f in r.findings if f.code in ("claimed-n", "counted-twice")],
        base=list(_paired(table, "base table")),
        apart=[r for r in table.rows if r.audit is not None and not r.audit.paired],
        between=list(_between(entry)),
        consensus=list(_paired(table, "consensus adapter table")),
        diversity=list(_paired(table, "diversity")),
        rules=[(r, published(r)) for r in entry.rules],
        gaps=[_gap(f) for f in entry.factorials],
        vote=_vote(entry, table),
        findings=landscape.beside(entry),
        counted=[c for c in entry.claims if c.unit == "count"],
        forest=_forest([(r.published.name, r.audit) for r in table.rows if r.audit is not None]),
    )


def _seen(caveat: str) -> tuple[str, str]:
    for word, seen in SEEN.items():
        if word in caveat:
            return seen
    raise KeyError(f"no check is named for the caveat {caveat!r}")


def _paired(table: TableAudit, source: str) -> Iterator[RowAudit]:
    for row in table.rows:
        if row.published.family.endswith(source) and row.audit is not None and row.audit.paired:
            yield row


def _between(entry: Paper) -> Iterator[ClaimAudit]:
    """The two adapters under one condition: both at the larger N, so these can be paired, though nobody printed it."""
    printed = {p.name: p for p in from_paper(entry)}
    for name, first in printed.items():
        second = printed.get(name.replace(" v2 ", " v3 ", 1))
        if name.startswith("prefix LoRA v2 ") and second is not None:
            yield _claim(first, second, name.removeprefix("prefix LoRA v2 "))


def _claim(baseline: Published, treatment: Published, name: str) -> ClaimAudit:
    left = parse_count(baseline.value, baseline.n, bare_percent=True)
    return claim(left, parse_count(treatment.value, treatment.n, bare_percent=True), name=name)


def _gap(crossed: Factorial) -> Gap:
    """The interaction of a two-by-two with one empty cell, as a function of that cell."""
    names = list(crossed.factors)
    (missing,) = crossed.missing
    opposite = next(c for c in crossed.cells if all(c.levels[f] != missing.levels[f] for f in names))
    beside = [c for c in crossed.cells if c is not missing and c is not opposite]
    known = _value(opposite) - sum(_value(c) for c in beside)
    # An interaction is (last, last) - (last, first) - (first, last) + (first, first).
    sign = 1 if len({crossed.factors[f].index(missing.levels[f]) for f in names}) == 1 else -1
    ends = sorted((sign * (known + 100), sign * known))
    return Gap(
        name=crossed.name,
        factors=names,
        cells=[(_cell(names, c), c.value) for c in crossed.cells],
        missing=_cell(names, missing),
        neutral=-known,
        low=ends[0],
        high=ends[1],
    )


def _cell(names: Sequence[str], cell: Cell) -> str:
    return cell_name(names, [cell.levels[f] for f in names])


def _value(cell: Cell) -> float:
    assert cell.value is not None
    return cell.value


def _vote(entry: Paper, table: TableAudit) -> dict[str, Any]:
    facts = {f.name: f for f in entry.facts}
    gains = [r for r in table.rows if r.published.name.endswith("cmaj") and r.audit is not None]
    return {"ties": facts["vote_ties"], "span": facts["vote_tie_span"], "gains": gains}


# ---------------------------------------------------------------- how numbers are written


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def percent(value: float | None) -> str:
    return "never run" if value is None else f"{value:.1f}"


def share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}"


def p_words(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"


def _forest(rows: Sequence[tuple[str, ClaimAudit]]) -> dict[str, Any]:
    """Coordinates of the figure: one line a claim, in a box of unit width."""
    reach = max(abs(end) for _, a in rows for end in (a.low, a.high))

    def at(value: float) -> float:
        return round(100 * (value / reach + 1) / 2, 2)

    lines = [{"name": n, "audit": a, "low": at(a.low), "mid": at(a.value), "high": at(a.high)} for n, a in rows]
    return {"lines": lines, "reach": reach}


if __name__ == "__main__":
    sys.exit(script(main))
