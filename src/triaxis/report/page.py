"""The report as one HTML page that needs nothing but itself: no network, no fonts, one short script.

Arranges what the summary, the protocol card and the flips hold; computes no number. Every text is escaped by the
template engine, and the page's own content policy lets no script run but ours, whose hash it names.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from triaxis.report import sections, words
from triaxis.report.answer import adapted, answers, method_of, sorted_warnings
from triaxis.report.browse import browse, shown_line
from triaxis.report.embed import embedded, markup, read, script_hash
from triaxis.report.flips import Flips
from triaxis.report.ink import PRINTED
from triaxis.report.parts import parts

if TYPE_CHECKING:
    from jinja2 import Environment

Json = Mapping[str, Any]
SCRIPTS = ("sections.js", "downloads.js", "flips.js")
TEXT = 2000  # characters of one value of the protocol card


class Card(NamedTuple):
    """A part of the protocol: a table where it has columns, else (name, value) lines."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


def page(summary: Json, protocol: Json, flips: Flips | None) -> str:
    """The whole page. `flips` is None where no rows are at hand."""
    engine = templates()
    shown = None if flips is None else browse(flips)
    script = "".join(map(read, SCRIPTS))
    study = summary["study"]
    tests = dict.fromkeys(e["method"] for _, e in sections.every_effect(summary))
    return engine.get_template("report.html.j2").render(
        title=f"{study['executor']} on {study['task']}",
        facts=_facts(study),
        answers=[*answers(summary), *adapted(summary)],
        warnings=sorted_warnings(summary),
        **parts(summary),
        conditions=_conditions(summary, protocol),
        commands=commands(summary, protocol),
        flips=[] if shown is None else shown.pairs,
        shown_line="" if shown is None else shown_line(shown),
        data=None if shown is None else markup(embedded(shown.data)),
        inks=markup(embedded(PRINTED)),
        cards=cards(protocol),
        protocol_hash=protocol["protocol_hash"],
        tests=list(tests),
        footer=_footer(protocol),
        level=words.LEVEL,
        style=markup(read("style.css")),
        script=markup(script),
        script_hash=script_hash(script),
    )


# ---------------------------------------------------------------- words around the numbers


def _facts(study: Json) -> str:
    planners = words.several(study["planners"]) if study["planners"] else "none"
    seeds = ", ".join(str(s) for s in study["seeds"])
    one = "" if len(study["seeds"]) == 1 else "s"
    parts = (f"{study['n']} items", f"planners {planners}", f"seed{one} {seeds}", f"protocol {study['protocol_hash']}")
    return " \u00b7 ".join(parts)


def _conditions(summary: Json, protocol: Json) -> list[Json]:
    roles = {c["name"]: str(c.get("role", "")) for c in protocol["conditions"]}
    return [{**c, "role": roles.get(c["name"], "")} for c in summary["conditions"]]


_SECTIONS = {"brittleness": "axis1", "trust": "axis2", "diversity": "axis3", "pipeline": "pipelines"}


def commands(summary: Json, protocol: Json) -> dict[str, list[str]]:
    """The commands that recompute a section's effects, one for all arms compared with the same other arm."""
    groups: dict[str, dict[tuple[str, bool], list[str]]] = {name: {} for name in (*_SECTIONS.values(), "adapters")}
    votes = {c["name"]: c.get("branches", 1) > 1 for c in protocol["conditions"]}
    adapted = summary["axes"].get("adapters", {"effects": ()})["effects"]
    pairs = [("adapters", e["against"], e["condition"]) for e in adapted]
    for section, against, name in dict.fromkeys([*pairs, *_pairs(protocol["conditions"])]):
        groups[section].setdefault((against, votes.get(name, False)), []).append(name)
    return {name: [_compare(a, names, vote) for (a, vote), names in found.items()] for name, found in groups.items()}


def _pairs(cards: Sequence[Json]) -> Iterator[tuple[str, str, str]]:
    """(section, other arm, arm) of what cards compare, and of true plans with the bare question and the gold plan."""
    base = next((c for c in cards if c.get("role") == "baseline"), {"name": ""})
    same = [c for c in cards if c.get("adapter", "") == base.get("adapter", "")]
    for c in same:
        section = _SECTIONS.get(str(c.get("role", "")))
        if section and c.get("against"):
            yield section, str(c["against"]), c["name"]
    true = [c for c in same if c.get("role") == "trust" and c.get("kind") == "true"]
    for c in true if base["name"] else ():
        yield "axis2", base["name"], c["name"]
    gold = next((c["name"] for c in true if c.get("plan") == "gold"), None)
    for c in true if gold else ():
        if c["name"] != gold:
            yield "axis2", c["name"], str(gold)


def _compare(against: str, names: Sequence[str], vote: bool) -> str:
    arms = " ".join(shlex.quote(f"DIR:{n}") for n in (against, *names))
    return f"triaxis compare {arms}{' --vote' if vote else ''}"


def _footer(protocol: Json) -> str:
    made = protocol.get("versions")
    version = made.get("triaxis", "") if isinstance(made, dict) else ""
    return f"Written by triaxis {version} from rows.sqlite, summary.json and protocol.json in the folder of this page."


# ---------------------------------------------------------------- protocol card


def cards(protocol: Json) -> list[Card]:
    """All of the protocol, whatever keys it has: plain values first, then a card for each object or list of objects."""
    plain: list[tuple[str, str]] = []
    found: list[Card] = []
    for key, value in protocol.items():
        if isinstance(value, dict) and value:
            found.append(Card(key, (), [(k, _value(v)) for k, v in _flat(value).items()]))
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            found.append(_table(key, [_flat(v) for v in value]))
        else:
            plain.append((key, _value(value)))
    return [Card("", (), plain), *found]


def _table(title: str, lines: Sequence[Mapping[str, Any]]) -> Card:
    """Columns that are empty in every line are left out."""
    columns = [
        c for c in dict.fromkeys(k for line in lines for k in line) if any(_is_said(line.get(c)) for line in lines)
    ]
    cells = [[_value(line.get(c, "")) if _is_said(line.get(c)) else "" for c in columns] for line in lines]
    return Card(title, columns, cells if columns else ())


def _is_said(value: object) -> bool:
    return value is not None and value != ""


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = inner
    return found


def _value(value: object) -> str:
    """A value as text; a text whose spaces matter in quotes, so that they can be seen."""
    if value is None or value == "" or value == [] or value == {}:
        return words.DASH
    if isinstance(value, str):
        shown = value if value == value.strip() and "\n" not in value else json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool):
        shown = "yes" if value else "no"
    elif isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        shown = ", ".join(_value(v) for v in value)
    else:
        shown = json.dumps(value, ensure_ascii=False)
    return words.clip(shown, TEXT)


# ---------------------------------------------------------------- template engine


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The template engine: everything is escaped, and characters that act on text are shown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        loader=PackageLoader("triaxis.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=shown,
    )  # fmt: skip
    made.filters |= {"points": words.points, "p_value": words.p_value, "size": words.size, "number": words.number}
    made.filters["count"] = lambda x: words.number(x, 0)
    made.filters |= {"how": method_of, "tight": words.tight}
    made.globals |= {"span": words.span, "level": words.LEVEL, "unbroken": words.unbroken}
    return made
