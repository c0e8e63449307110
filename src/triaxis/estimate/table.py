"""A published table, claim by claim: what each can carry, and what the table as a whole gives away.

One engine for a user's CSV or YAML and for the registry's papers. Each claim is audited on its own (`audit.claim`),
Holm runs over its family at both ends of its range of p, and the rows are looked at together: other N in one row,
counts that cannot be, counts that look doubled, numbers that appear twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import special

from triaxis.errors import UserError
from triaxis.estimate.audit import Assumed, ClaimAudit, Count, ImpossibleCount, assumed_discordance, claim, parse_count
from triaxis.estimate.claims import Published
from triaxis.estimate.paired import holm, mcnemar

_RARE = 0.02  # below this chance a common divisor of the counts is reported
_TIMES = (2, 3, 4, 5)  # how often items are looked for to have been counted


class Finding(NamedTuple):
    """Something a reader must know. severity: error (a number cannot stand), warning, note."""

    code: str
    severity: str
    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAudit:
    """One row: its claim's audit where it has a baseline and an N, and Holm's p at both ends of the range."""

    published: Published
    audit: ClaimAudit | None
    p_min_holm: float | None
    p_max_holm: float | None
    verdict: str
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        p = self.published
        found: dict[str, Any] = {"where": p.where, "name": p.name, "family": p.family, "label": p.label}
        found |= {"value": p.value, "baseline": p.baseline, "n": p.n, "baseline_n": p.baseline_n or p.n}
        found |= {"p_min_holm": self.p_min_holm, "p_max_holm": self.p_max_holm, "verdict": self.verdict}
        audit = None if self.audit is None else self.audit.as_dict()
        return {**found, "audit": audit, "findings": [f._asdict() for f in self.findings]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableAudit:
    """What the audit of a table found, row by row and of the whole, and what it assumed."""

    rows: tuple[RowAudit, ...]
    findings: tuple[Finding, ...]  # of the table as a whole
    assumed: Assumed

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        return (*(f for r in self.rows for f in r.findings), *self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "claims": [r.as_dict() for r in self.rows],
            "findings": [f._asdict() for f in self.findings],
            "discordance_assumed": self.assumed.share,
            "discordance_source": self.assumed.source,
        }


def audit_table(claims: Sequence[Published], *, assumed: Assumed | None = None, alpha: float = 0.05) -> TableAudit:
    """Every claim, Holm by family, and what shows only across rows."""
    known = assumed or assumed_discordance()
    drafts = [_draft(c, known, alpha) for c in claims]
    lows: list[float | None] = [None] * len(drafts)
    highs: list[float | None] = [None] * len(drafts)
    for family in dict.fromkeys(c.family for c in claims):
        members = [i for i, c in enumerate(claims) if c.family == family]
        ranges = [_p_range(drafts[i][0], claims[i]) for i in members]
        for i, low, high in zip(members, holm([r[0] for r in ranges]), holm([r[1] for r in ranges]), strict=True):
            lows[i], highs[i] = low, high
    rows = []
    for c, (audit, findings), low, high in zip(claims, drafts, lows, highs, strict=True):
        verdict = _verdict(c, audit, low, high, alpha)
        rows.append(
            RowAudit(
                published=c, audit=audit, p_min_holm=low, p_max_holm=high, verdict=verdict, findings=tuple(findings)
            )
        )
    across = [*_doubled(claims), *_twice(claims), *_mixed_n(claims)]
    return TableAudit(rows=tuple(rows), findings=tuple(across), assumed=known)


# ---------------------------------------------------------------- one row


def _draft(c: Published, known: Assumed, alpha: float) -> tuple[ClaimAudit | None, list[Finding]]:
    findings = _stated_findings(c)
    if not c.countable:
        if c.why_not:
            findings.append(Finding("not-a-count", "note", c.where, c.why_not))
        return None, findings
    value = _count(c, c.value, c.n, findings, "value")
    baseline = None if c.baseline is None else _count(c, c.baseline, c.baseline_n or c.n, findings, "baseline")
    if value is None or baseline is None:
        return None, findings
    audit = claim(baseline, value, name=c.name, assumed=known, alpha=alpha)
    if not audit.paired:
        text = (
            f"{value.n} items against {baseline.n} in {c.baseline_name or 'the baseline'}: other problems, not a "
            "paired difference"
        )
        findings.append(Finding("different-items", "error", c.where, text))
    findings += _discordant_findings(c, audit)
    return audit, findings


def _count(c: Published, text: str, n: int | None, findings: list[Finding], what: str) -> Count | None:
    if n is None and "/" not in text and " of " not in text:
        if what == "value":
            findings.append(Finding("no-n", "warning", c.where, "N is not stated: nothing can be tested"))
        return None
    try:
        return parse_count(text, n, bare_percent=True)
    except ImpossibleCount as e:
        findings.append(Finding("impossible-count", "error", c.where, f"{what} {e}"))
    except UserError as e:
        raise UserError(f"{c.where}: {what}: {e}") from None
    return None


def _stated_findings(c: Published) -> list[Finding]:
    found = []
    if c.claimed_n is not None and c.n is not None and c.claimed_n != c.n:
        text = f"published as N={c.claimed_n}, its rows are {c.n} items"
        found.append(Finding("claimed-n", "error", c.where, text))
    if c.repeats and c.repeats > 1:
        text = (
            f"each of {c.n} items is counted {c.repeats} times: the N behind it is {c.n}, not {c.repeats * (c.n or 0)}"
        )
        found.append(Finding("counted-twice", "error", c.where, text))
    return found


def _discordant_findings(c: Published, audit: ClaimAudit) -> list[Finding]:
    """Published gain, loss and p against the marginals and each other."""
    found = []
    if c.gain is not None and c.loss is not None and audit.paired:
        spread = {t - b for b in _counts(audit.baseline) for t in _counts(audit.treatment)}
        if c.gain - c.loss not in spread:
            text = (
                f"gain {c.gain} and loss {c.loss} do not give the difference of {audit.treatment.best} and "
                f"{audit.baseline.best}"
            )
            found.append(Finding("counts-disagree", "error", c.where, text))
        exact = mcnemar(c.gain, c.loss)
        if c.p is not None and abs(exact - c.p) > _half_unit(c.p):
            text = f"p is printed as {c.p:g}; gain {c.gain} and loss {c.loss} give {exact:.3g} (exact McNemar)"
            found.append(Finding("p-disagrees", "warning", c.where, text))
    elif c.p is not None and audit.p_min is not None and audit.p_max is not None:
        half = _half_unit(c.p)
        if not audit.p_min - half <= c.p <= audit.p_max + half:
            text = f"p is printed as {c.p:g}; every pairing of the counts gives {audit.p_min:.3g} to {audit.p_max:.3g}"
            found.append(Finding("p-disagrees", "error", c.where, text))
    return found


def _counts(count: Count) -> range:
    return range(count.low, count.high + 1)


def _half_unit(printed: float) -> float:
    text = f"{printed:.10f}".rstrip("0")
    return float(0.5 * 10 ** -len(text.partition(".")[2]) + 1e-12)


def _p_range(audit: ClaimAudit | None, c: Published) -> tuple[float | None, float | None]:
    if audit is None or not audit.paired:
        return None, None
    if c.gain is not None and c.loss is not None:
        p = mcnemar(c.gain, c.loss)
        return p, p
    return audit.p_min, audit.p_max


def _verdict(c: Published, audit: ClaimAudit | None, low: float | None, high: float | None, alpha: float) -> str:
    if audit is None:
        return "no paired claim" if c.baseline is None else "cannot be tested"
    if not audit.paired or low is None or high is None:
        return audit.verdict
    word = "drop" if audit.value < 0 else "lift"
    if low > alpha:
        return "not resolved" if low == high else "not resolved by any pairing"
    if high <= alpha:
        return word if low == high else f"{word} whatever the pairing"
    return "depends on the pairing"


# ---------------------------------------------------------------- across rows


def _doubled(claims: Sequence[Published]) -> list[Finding]:
    """Counts of one N that are multiples of q far too often: as if N were n / q, or each item were counted q times.

    Each count is one by chance with probability 1 / q; the chance reported is the binomial tail times the q's tried.
    N as the publication says it; a condition counts once, however many rows repeat it as their baseline.
    """
    found = []
    for (n, family), printed in _printed_counts(claims, claimed=True).items():
        counts = {name: c.low for name, c in printed.items() if c.low == c.high}
        tried = [q for q in _TIMES if n % q == 0]
        if len(counts) < 3 or not tried:
            continue
        hits = {q: [name for name, k in counts.items() if k % q == 0] for q in tried}
        tails = {q: len(tried) * float(special.bdtrc(len(hits[q]) - 1, len(counts), 1 / q)) for q in tried if hits[q]}
        q = min(tails, key=lambda q: tails[q], default=0)
        if q and tails[q] <= _RARE:
            text = (
                f"{len(hits[q])} of {len(counts)} counts out of {n} ({', '.join(hits[q])}) are multiples of {q} "
                "(chance "
                f"{tails[q]:.2g}): as if N were {n // q}, or each item were counted {q} times"
            )
            found.append(Finding("doubling", "warning", family or "table", text))
    return found + _exact_doubles(claims) + _multiple_n(claims)


def _printed_counts(claims: Sequence[Published], *, claimed: bool) -> dict[tuple[int, str], dict[str, Count]]:
    """By (N, family): condition -> count, where the print determines it; by the N claimed or by that of the rows."""
    groups: dict[tuple[int, str], dict[str, Count]] = {}
    for c in claims:
        if not c.countable:
            continue
        n = (c.claimed_n if claimed else None) or c.n
        both = [(c.name, c.value, n)]
        if c.baseline is not None:
            both.append((c.baseline_name or "baseline", c.baseline, c.baseline_n or n))
        for name, text, size in both:
            try:
                count = parse_count(text, size, bare_percent=True)
            except UserError:  # impossible, or without N: reported on its own row
                continue
            groups.setdefault((count.n, c.family), {}).setdefault(name, count)
    return groups


def _exact_doubles(claims: Sequence[Published]) -> list[Finding]:
    """One condition printed as k of n and as q k of q n."""
    seen: dict[tuple[str, int], tuple[Count, str]] = {}
    found = []
    for (_, family), printed in _printed_counts(claims, claimed=False).items():
        for name, count in printed.items():
            for (other_name, _), (other, where) in list(seen.items()):
                small, large = sorted((other, count), key=lambda c: c.n)
                times = large.n // small.n
                if other_name == name and times > 1 and (large.n, large.best) == (times * small.n, times * small.best):
                    text = (
                        f"{name}: {large.best}/{large.n} is exactly {times} x {small.best}/{small.n} ({where}): the "
                        "same "
                        f"items counted {times} times?"
                    )
                    found.append(Finding("doubling", "warning", family or "table", text))
            seen.setdefault((name, count.n), (count, family or "table"))
    return found


def _multiple_n(claims: Sequence[Published]) -> list[Finding]:
    """One row with exactly q times the N of the others in its table, and a count that is a multiple of q."""
    found = []
    by_family: dict[str, dict[str, Count]] = {}
    for (_, family), printed in _printed_counts(claims, claimed=False).items():
        by_family.setdefault(family, {}).update(printed)
    for family, rows in by_family.items():
        sizes = [c.n for c in rows.values()]
        usual = max(sizes, key=lambda n: (sizes.count(n), -n))
        for name, c in rows.items():
            q = c.n // usual
            if sizes.count(usual) > 1 and q > 1 and c.n == q * usual and c.low == c.high and c.low % q == 0:
                text = (
                    f"{name}: N={c.n} is exactly {q} x the N={usual} of the other rows and {c.low} a multiple of {q} "
                    "(chance "
                    f"{1 / q:.2g}): the same items counted {q} times?"
                )
                found.append(Finding("doubling", "warning", family or "table", text))
    return found


def _twice(claims: Sequence[Published]) -> list[Finding]:
    """The same two numbers under two names: a copied row, one run shown twice, or an arm that did nothing."""
    seen: dict[tuple[str, str, str, int | None], Published] = {}
    found = []
    for c in claims:
        if c.baseline is None or not c.countable:
            continue
        key = (c.task, c.value, c.baseline, c.n)
        first = seen.setdefault(key, c)
        if first is not c:
            text = (
                f"{c.baseline} -> {c.value} stands under {first.name!r} ({first.where}) and {c.name!r}: a copied row, "
                "or one run shown twice"
            )
            found.append(Finding("same-numbers", "note", c.where, text))
    return found


def _mixed_n(claims: Sequence[Published]) -> list[Finding]:
    found = []
    for family in dict.fromkeys(c.family for c in claims):
        sizes: dict[int, int] = {}
        for c in claims:
            if c.family == family and c.countable:
                for n in {c.n, c.baseline_n or c.n} - {None}:
                    sizes[int(n or 0)] = sizes.get(int(n or 0), 0) + 1
        tasks = {c.task for c in claims if c.family == family}
        if len(sizes) > 1 and len(tasks) <= 1:
            parts = ", ".join(f"N={n} ({k})" for n, k in sorted(sizes.items()))
            text = f"rows of one table have different N: {parts}; rows of different N are of different items"
            found.append(Finding("mixed-n", "warning", family or "table", text))
    return found
