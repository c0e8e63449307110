"""Claims as printed, from a user's CSV or YAML table or from the registry's papers.

Numbers stay the text they were printed as ("74.0", "37/50"): their decimals say how they were rounded. Knows files and
registry entries; what the numbers can carry is for `table` to say.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triaxis.errors import UserError, suggest
from triaxis.estimate.audit import ImpossibleCount, parse_count
from triaxis.limits import parse_yaml, read_text
from triaxis.registry.records import Claim, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One row of a table as printed. `value` and `baseline` are text ("74.0", "37/50"), percentages unless a count."""

    where: str  # "line 3", "L1 claim 12"
    name: str
    family: str = ""
    value: str
    n: int | None = None
    baseline: str | None = None
    baseline_name: str = ""
    baseline_n: int | None = None  # None: the same n
    claimed_n: int | None = None  # where the publication says another n than its rows
    repeats: int | None = None
    gain: int | None = None
    loss: int | None = None
    p: float | None = None
    countable: bool = True  # False: a mean of runs, points, a ratio: no count stands behind it
    why_not: str = ""
    task: str = ""
    label: str = ""  # provenance, shown beside the claim


_COLUMNS = {
    **dict.fromkeys(("name", "condition", "treatment_name"), "name"),
    **dict.fromkeys(("value", "treatment", "accuracy"), "value"),
    **dict.fromkeys(("baseline_name", "baseline_condition"), "baseline_name"),
    **{
        k: k
        for k in ("family", "task", "n", "baseline", "baseline_n", "claimed_n", "repeats", "gain", "loss", "p", "note")
    },
}
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")  # not isdigit(), to which "\u00b2" is a digit
_WHOLE = ("n", "baseline_n", "claimed_n", "repeats", "gain", "loss")


def read_table(path: Path) -> list[Published]:
    """Claims of a CSV (header: name,value,n,baseline,...) or a YAML list of them. UserError: file, row, field."""
    try:
        text = read_text(path, "settings")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; expected a CSV or YAML table of claims") from None
    rows = _yaml_rows(path, text) if path.suffix in (".yaml", ".yml", ".json") else _csv_rows(path, text)
    claims = [_published(path, where, row) for where, row in rows]
    if not claims:
        raise UserError(f"{path}: no claims in it; expected rows with name, value, n, baseline")
    return claims


def _csv_rows(path: Path, text: str) -> Iterable[tuple[str, dict[str, Any]]]:
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=header.count))
    names: list[str] = []
    for cells in reader:
        if not any(c.strip() for c in cells):
            continue
        if not names:
            names = [c.strip() for c in cells]
            continue
        if len(cells) != len(names):
            raise UserError(f"{path}: line {reader.line_num} has {len(cells)} columns, the header has {len(names)}")
        given = {k: c.strip() for k, c in zip(names, cells, strict=True) if c.strip()}
        yield f"line {reader.line_num}", given


def _yaml_rows(path: Path, text: str) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        document = parse_yaml(text)  # every scalar stays as printed ("74.0")
    except ImportError:
        raise UserError(f"{path}: reading YAML needs PyYAML (pip install pyyaml); or save the table as CSV") from None
    except ValueError as e:
        raise UserError(f"{path}: not YAML ({e})") from None
    rows = document.get("claims") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of claims, or one under 'claims:'")
    for at, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: claim {at} is {row!r}; expected fields such as name, value, n, baseline")
        yield f"claim {at}", {str(k): v for k, v in row.items() if v not in ("", "null", "~")}


def _published(path: Path, where: str, row: dict[str, Any]) -> Published:
    given: dict[str, Any] = {}
    for name, value in row.items():
        if name not in _COLUMNS:
            raise UserError(f"{path}: {where}: unknown column {name!r}{suggest(name, _COLUMNS)}")
        if not isinstance(value, str):
            raise UserError(f"{path}: {where}: {name} is {value!r}; expected one value")
        given[_COLUMNS[name]] = value
    given.pop("note", None)
    for name in ("name", "value"):
        if name not in given:
            raise UserError(f"{path}: {where}: no {name!r}; a claim needs a name and a value")
    for name in _WHOLE:
        if name in given:
            given[name] = _whole(path, where, name, given[name])
    if "p" in given:
        given["p"] = _p_value(path, where, given["p"])
    try:
        if given.get("n") or "/" in given["value"]:
            parse_count(given["value"], given.get("n"), bare_percent=True)
    except ImpossibleCount:
        pass  # a finding, not an unusable file
    except UserError as e:
        raise UserError(f"{path}: {where}: {e}") from None
    size = parse_n(given["value"])
    return Published(where=where, **{"n": size, **given} if size else given)


def parse_n(text: str) -> int | None:
    """The N that "37/50" carries."""
    tail = text.rpartition("/")[2].strip() if "/" in text else ""
    return int(tail) if _WHOLE_NUMBER.fullmatch(tail) else None


def _whole(path: Path, where: str, name: str, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise UserError(f"{path}: {where}: {name} is {text!r}; expected a whole number")
    return int(text)


def _p_value(path: Path, where: str, text: str) -> float:
    try:
        p = float(text)
    except ValueError:
        p = math.nan
    if not 0 <= p <= 1:
        raise UserError(f"{path}: {where}: p is {text!r}; expected a number from 0 to 1")
    return p


# ---------------------------------------------------------------- the registry's papers as tables


def from_paper(entry: Paper) -> list[Published]:
    """A registry entry's claims. A family is the claims of one table of the paper."""
    return [_from_claim(entry, i, c) for i, c in enumerate(entry.claims, 1)]


def _from_claim(entry: Paper, at: int, c: Claim) -> Published:
    decimals = max([_decimals(v) for o in entry.claims if o.source == c.source for v in _shares(o)], default=0)
    why_not = ""
    if not c.is_share:
        mean = f"a mean of {c.averaged_over}" if c.averaged_over else f"in {c.unit.replace('_', ' ')}"
        why_not = (
            f"{mean}: not a count of N items" if c.value is not None else "several numbers, none of them a difference"
        )
    return Published(
        where=f"{entry.id} claim {at}",
        name=c.condition,
        family=f"{entry.id} {c.source or ''}".strip(),
        value=_printed(c.value, decimals),
        n=c.n,
        baseline=None if c.baseline is None else _printed(c.baseline, decimals),
        baseline_name=c.baseline_condition or "",
        baseline_n=c.baseline_n,
        claimed_n=c.claimed_n,
        repeats=c.repeats,
        gain=c.gain,
        loss=c.loss,
        p=c.mcnemar_exact_p,
        countable=c.is_share,
        why_not=why_not,
        task=c.task,
        label=entry.label,
    )


def _shares(c: Claim) -> list[float]:
    return [v for v in (c.value, c.baseline) if v is not None] if c.is_share else []


def _decimals(value: float) -> int:
    """Decimals as printed: a whole number may have been printed without any, so a table's others decide."""
    return 0 if value == int(value) else len(repr(value).partition(".")[2])


def _printed(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{max(decimals, _decimals(value))}f}"
