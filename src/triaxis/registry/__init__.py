"""Published claims about hybrid AR/diffusion pipelines, shipped as data: one JSON file a paper, in papers/.

To contribute an entry, add one file:
1. Copy the entry nearest to yours to papers/<id>-<arxiv id>.json, with an id no other entry has (L23, ...).
2. State where the numbers come from: provenance ["full_text"] only if you read each of them in the paper's own
   text; "abstract", "secondary" (another paper, a summary) or "repository" otherwise. All but full text is
   shown as unverified, everywhere.
3. Fill `setup`. A variable the paper does not state stays null: null means "not stated", never "the default".
4. One claim per published number: the value exactly as printed (percent), what it is compared to, n, and the
   table. A number that is a mean of runs says so in `averaged_over`. Several numbers go into `values`.
   `axes` says what this experiment measures, if less than the paper does. `note` is for your own remarks.
5. Run `pytest tests/test_registry.py`. A broken entry gives one line: file, field, what was expected.
paper.schema.json describes every field and works in any editor that knows JSON Schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from triaxis.errors import UserError, lookup
from triaxis.limits import parse_json, read_text
from triaxis.registry.records import AXES, Baseline, Cell, Claim, Fact, Factorial, Paper, Rule, Setup
from triaxis.registry.schema import check, fail

__all__ = [
    "AXES",
    "Baseline",
    "Claim",
    "Discordance",
    "Fact",
    "Factorial",
    "Paper",
    "Rule",
    "Setup",
    "as_dict",
    "baselines",
    "claims",
    "default_discordance",
    "discordances",
    "load",
    "paper",
    "papers",
    "validate",
]

HERE = Path(__file__).parent


@cache
def papers(folder: Path | None = None) -> tuple[Paper, ...]:
    """Every entry of `folder` (default: the shipped ones), in the order of their ids. Read once."""
    found: dict[str, tuple[Paper, str]] = {}
    for path in sorted((folder or HERE / "papers").glob("*.json")):
        entry = load(path)
        if entry.id in found:
            raise UserError(f"{path.name}: id: {entry.id!r} is taken by {found[entry.id][1]}; choose another")
        if not path.name.startswith(f"{entry.id}-"):
            raise UserError(f"{path.name}: id: the file name must begin with '{entry.id}-'")
        found[entry.id] = (entry, path.name)
    return tuple(sorted((p for p, _ in found.values()), key=_order))


def paper(id: str) -> Paper:
    """The shipped entry with this id ("L1") or arXiv number. Raises UserError with the nearest id."""
    table = {p.id: p for p in papers()}
    for p in papers():
        if id == p.arxiv:
            return p
    return lookup("paper in the registry", table, id)


def claims(axis: str | None = None) -> tuple[tuple[Paper, Claim], ...]:
    """Every shipped claim with its paper (whose `label` belongs beside it); of one axis if named.

    `axis` is "A1" or "brittleness", and so on. A claim that measures two axes at once is in both.
    """
    names = {**{a: a for a in AXES}, **{name: a for a, name in AXES.items()}}
    wanted = None if axis is None else lookup("axis", names, axis)
    return tuple((p, c) for p in papers() for c in p.claims if wanted is None or wanted in p.axes_of(c))


def baselines() -> tuple[Baseline, ...]:
    """Published GSM8K accuracies (percent) of one checkpoint, LLaDA-8B-Instruct, under different protocols."""
    document = _read(HERE / "baselines.json")
    check(document, _schema()["$defs"]["baselines"], _schema())
    return tuple(Baseline(**row) for row in document["rows"])


# ---------------------------------------------------------------- discordance, for power


@dataclass(frozen=True)
class Discordance:
    """Share in [0, 1] of items right in exactly one of two conditions, and where it was published."""

    value: float
    n: int | None
    task: str
    source: str
    label: str
    note: str | None  # how it was derived, where it is not printed as such


def discordances() -> tuple[Discordance, ...]:
    """Every discordance the registry knows: stated, or (gain + loss) / n of the rows."""
    found = []
    for p, c in claims():
        counted = None if c.gain is None or c.loss is None or not c.n else (c.gain + c.loss) / c.n
        share = counted if c.discordance is None else c.discordance
        if share is not None:
            parts = "".join(f", {name} {value:g} %" for name, value in c.values.items())
            source = f"{p.citation}, {c.source or 'no table'}: {c.condition}, {c.task} N={c.n}{parts}"
            found.append(Discordance(share, c.n, c.task, source, p.label, c.note))
    return tuple(found)


def default_discordance(task: str = "GSM8K") -> Discordance:
    """What a power calculation assumes unless told: the verified discordance of `task` with the most items."""
    verified = [d for d in discordances() if d.label.startswith("verified")]
    table = {d.task: d for d in sorted(verified, key=lambda d: d.n or 0)}
    return lookup("task with a verified discordance", table, task)


# ---------------------------------------------------------------- reading and checking


def load(path: Path) -> Paper:
    """The entry in one file. Raises UserError with file, field and what was expected."""
    return validate(_read(path), path.name)


def validate(document: object, filename: str) -> Paper:
    """The checked record of a parsed entry; `filename` only names it in errors."""
    try:
        check(document, _schema(), _schema())
        assert isinstance(document, dict)  # the schema's own type
        record = _record(document)
        _check_sense(record)
    except UserError as error:
        raise UserError(f"{filename}: {error}") from None
    return record


def as_dict(entry: Paper) -> dict[str, Any]:
    """`entry` as plain JSON data; what is not stated is left out where the schema lets it.

    validate(as_dict(entry), ...) == entry.
    """
    document: dict[str, Any] = json.loads(json.dumps(asdict(entry)))
    return _prune(document, _schema())


def _read(path: Path) -> Any:
    try:
        return parse_json(read_text(path, "settings"), object_pairs_hook=_no_repeats, parse_constant=_no_constants)
    except json.JSONDecodeError as error:
        raise UserError(f"{path.name}: line {error.lineno} is not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path.name}: not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path.name}: {error}") from None


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"field {name!r} is given twice in one object")
    return dict(pairs)


def _no_constants(name: str) -> float:
    raise ValueError(f"{name} is not a number; write null for what is not stated")


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = parse_json((HERE / "paper.schema.json").read_text(encoding="utf-8"))
    return schema


def _order(entry: Paper) -> tuple[str, int, str]:
    digits = entry.id[1:].rstrip("abcdefghijklmnopqrstuvwxyz")
    return entry.id[0], int(digits), entry.id


def _frozen(value: object) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _fields(document: Mapping[str, object]) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in document.items()}


def _record(document: dict[str, Any]) -> Paper:
    crossed = []
    for f in document.get("factorials", ()):
        levels = {name: _frozen(values) for name, values in f["factors"].items()}
        cells = tuple(Cell(**_fields(c)) for c in f["cells"])
        crossed.append(Factorial(**_fields(f) | {"factors": levels, "cells": cells}))
    parts: dict[str, Any] = {
        "setup": Setup(**_fields(document["setup"])),
        "claims": tuple(Claim(**_fields(c)) for c in document["claims"]),
        "rules": tuple(Rule(**_fields(r)) for r in document.get("rules", ())),
        "factorials": tuple(crossed),
        "facts": tuple(Fact(**_fields(f)) for f in document.get("facts", ())),
    }
    return Paper(**_fields(document) | parts)


def _check_sense(entry: Paper) -> None:
    """What the schema cannot say. An impossible percentage is NOT refused: it is as published, and for the audit."""
    known = {f.name for f in fields(Setup)}
    for name in entry.setup_notes:
        lookup("design variable (setup_notes)", dict.fromkeys(known), name)
    for i, c in enumerate(entry.claims):
        _check_claim(c, f"claims[{i}]")
    for i, r in enumerate(entry.rules):
        if (r.comparison == "within") != (r.margin is not None):
            raise fail(f"rules[{i}].margin", "a number for 'within' and null for the others", r.margin)
    for i, f in enumerate(entry.factorials):
        wanted = sorted(repr(dict(zip(f.factors, levels, strict=True))) for levels in product(*f.factors.values()))
        given = sorted(repr({name: c.levels.get(name) for name in f.factors}) for c in f.cells)
        if wanted != given:
            raise UserError(
                f"factorials[{i}].cells: expected one cell for each of {len(wanted)} combinations of levels"
            )


def _check_claim(c: Claim, where: str) -> None:
    if c.value is None and not c.values:
        raise fail(f"{where}.value", "a number, or several in 'values'", c.value)
    shares: Iterable[tuple[str, float | None]] = [("value", c.value), ("baseline", c.baseline), *c.values.items()]
    for name, share in shares:
        if c.unit == "percent" and share is not None and not 0 <= share <= 100:
            raise fail(f"{where}.{name}", "a percentage from 0 to 100", share)
    if (c.baseline is None) != (c.baseline_condition is None):
        raise fail(f"{where}.baseline_condition", "a name exactly where there is a baseline", c.baseline_condition)
    if (c.gain is None) != (c.loss is None):
        raise fail(f"{where}.loss", "gain and loss together or neither", c.loss)
    if c.gain is not None and c.loss is not None and c.n is not None and c.gain + c.loss > c.n:
        raise fail(f"{where}.gain", f"gain + loss of at most n = {c.n}", c.gain + c.loss)


def _prune(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Drop null and empty fields the schema does not require, at every depth."""
    fields_of, required = schema.get("properties", {}), schema.get("required", [])
    kept: dict[str, Any] = {}
    for name, value in document.items():
        part = fields_of.get(name, {})
        part = _schema()["$defs"].get(
            part.get("$ref", part.get("items", {}).get("$ref", "")).removeprefix("#/$defs/"), part
        )
        if isinstance(value, dict) and "properties" in part:
            value = _prune(value, part)
        elif isinstance(value, list) and "properties" in part:
            value = [_prune(v, part) for v in value]
        if name in required or value not in (None, {}, []) or (value == [] and name == "axes"):
            kept[name] = value
    return kept
