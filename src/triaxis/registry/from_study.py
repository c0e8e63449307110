"""A registry entry from a finished study, so that people can compare notes across executors.

Reads summary.json and protocol.json of a study folder. What the protocol does not state stays null. Every condition
becomes a claim in percent, every effect of an axis a claim in points with its counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from triaxis.errors import UserError
from triaxis.limits import read_card
from triaxis.registry.records import AXES, Claim, Paper, Setup

_PLACES = {"before": "before_question", "after": "after_question"}


def from_study(folder: Path, *, id: str, title: str = "") -> Paper:
    """The entry of a study folder. `id` as in the schema ("S1"). UserError where the folder is no finished study."""
    if not re.fullmatch("[A-Z][0-9]+[a-z]?", id):
        raise UserError(f"--id {id!r} is not of the form S1: one capital letter and a number")
    summary, protocol = read_card(folder / "summary.json"), read_card(folder / "protocol.json")
    study = summary.get("study")
    if not isinstance(study, dict) or "conditions" not in summary or "axes" not in summary:
        raise UserError(f"{folder / 'summary.json'}: not a summary of triaxis diagnose; run the study to its end first")
    try:
        return _entry(summary, protocol, study, id, title or _title(folder, study))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as e:
        raise UserError(
            f"{folder / 'summary.json'}: not as triaxis diagnose writes it ({type(e).__name__}: {e})"
        ) from None


def _title(folder: Path, study: Mapping[str, Any]) -> str:
    return f"triaxis study {folder.resolve().name}: {study.get('executor')} on {study.get('task')}"


def _entry(
    summary: Mapping[str, Any], protocol: Mapping[str, Any], study: Mapping[str, Any], id: str, title: str
) -> Paper:
    task = str(study.get("task", "?"))
    claims = (*_conditions(summary, task), *_effects(summary, task))
    measured = {a for c in claims for a in c.axes or ()}
    return Paper(
        id=id,
        arxiv=None,
        title=title,
        provenance=("repository",),
        provenance_note=f"computed by triaxis from rows; protocol {study.get('protocol_hash')}",
        axes=tuple(a for a in AXES if a in measured),
        setup=_setup(study, protocol),
        claims=claims,
        caveats=tuple(str(w if isinstance(w, str) else json.dumps(w)) for w in summary.get("warnings", ())),
    )


def _setup(study: Mapping[str, Any], protocol: Mapping[str, Any]) -> Setup:
    """Design variables the summary and the protocol card state under their own names, and those of its conditions."""
    known = {f.name for f in fields(Setup)} - {"n", "planner", "executor", "dataset", "seed", "placement"}
    found = {name: _variable(value) for name, value in reversed(list(_leaves(protocol))) if name in known}
    found |= _of_conditions(protocol.get("conditions"))
    more = {"executor": study.get("executor"), "planner": study.get("planners"), "dataset": study.get("task")}
    more |= {"n": study.get("n"), "seed": study.get("seeds")}
    return Setup(**found, **{k: _variable(v) for k, v in more.items()})


def _of_conditions(cards: Any) -> dict[str, Any]:
    """Placements, and the branches of a vote with their temperature, from the condition cards."""
    known = [c for c in cards if isinstance(c, dict)] if isinstance(cards, list) else []
    places = {c["scaffold"].get("placement") for c in known if (c.get("scaffold") or {}).get("template")}
    found: dict[str, Any] = {"placement": tuple(v for k, v in _PLACES.items() if k in places) or None}
    votes = [c for c in known if c.get("branches", 1) > 1]
    if votes:
        found["branches"] = max(c["branches"] for c in votes)
        found["branch_temperature"] = (votes[0].get("decode") or {}).get("temperature")
    return found


def _leaves(card: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in card.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield key, value


def _variable(value: Any) -> Any:
    """A value the schema can hold; None for anything else."""
    if isinstance(value, (list, tuple)):
        parts = tuple(v if isinstance(v, (str, int, float)) else json.dumps(v, sort_keys=True) for v in value)
        return parts[0] if len(parts) == 1 else parts or None
    return value if isinstance(value, (str, int, float, bool)) else None


def _conditions(summary: Mapping[str, Any], task: str) -> Iterator[Claim]:
    for c in summary["conditions"]:
        count = c["accuracy"] * c["n"]
        whole = abs(count - round(count)) < 1e-6
        yield Claim(
            task=task,
            metric="acc",
            unit="percent",
            condition=str(c["name"]),
            value=round(100 * c["accuracy"], 9),
            averaged_over=None if whole else "branches of each item",
            baseline=None,
            baseline_condition=None,
            n=c["n"],
            axes=(),
            source="summary.json",
        )


def _effects(summary: Mapping[str, Any], task: str) -> Iterator[Claim]:
    axes = summary["axes"]
    brittleness, trust, diversity = (axes.get(name) or {} for name in ("brittleness", "trust", "diversity"))
    found = [("A1", "scaffold", e) for e in brittleness.get("effects") or ()]
    for planner in trust.get("planners") or ():
        named = [("content", planner.get("content"))]
        named += sorted((planner.get("corruptions") or {}).items())
        found += [("A2", f"{planner.get('planner')} {what}", e) for what, e in named]
    found += [("A3", "useful diversity", diversity.get("useful"))]
    for axis, what, effect in found:
        if isinstance(effect, dict) and effect.get("value") is not None:
            yield _effect(axis, what, effect, task)


def _effect(axis: str, what: str, e: Mapping[str, Any], task: str) -> Claim:
    gain, loss, n = e.get("gain"), e.get("loss"), e.get("n")
    binary = gain is not None and loss is not None and n and abs((gain - loss) / n - e["value"]) < 1e-9
    ends = {k: round(100 * e[k], 9) for k in ("low", "high") if e.get(k) is not None}
    return Claim(
        task=task,
        metric="paired difference of acc",
        unit="points",
        condition=str(e.get("name") or what),
        value=round(100 * e["value"], 9),
        values=ends,
        baseline=None,
        baseline_condition=None,
        n=n,
        gain=gain if binary else None,
        loss=loss if binary else None,
        mcnemar_exact_p=e.get("p") if binary else None,
        discordance=(gain + loss) / n if binary and gain is not None and loss is not None and n else None,
        axes=(axis,),
        source="summary.json",
        note=f"{what}; verdict: {e.get('verdict')}",
    )
