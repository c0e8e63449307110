"""What a repair did: the studies before and after it and with its control, compared item by item.

Pure: reads rows and grades of finished studies, loads no model. Several training seeds are replicates: an item's score
is its mean over them, and every difference is shown by seed too, because the interval is over items only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triaxis.errors import UserError
from triaxis.estimate.arms import Floats, Table, arrange
from triaxis.estimate.paired import Estimate, contrast, finish, paired
from triaxis.report.load import load, write_text
from triaxis.report.words import p_value, points, span

MARGIN = 0.05


@dataclass(frozen=True)
class Arm:
    """One state of the executor: a study for each training seed (one, where nothing was trained)."""

    name: str
    tables: tuple[Table, ...]

    def score(self, condition: str) -> Floats:
        """(items,): what the condition answers, mean over training seeds."""
        return np.asarray(np.mean([t.outcome(condition) for t in self.tables], axis=0), dtype=float)

    def effect(self, condition: str, against: str) -> list[float]:
        """The mean effect of a condition by training seed."""
        return [float((t.outcome(condition) - t.outcome(against)).mean()) for t in self.tables]


def read_arm(name: str, folders: Sequence[Path]) -> Arm:
    """The finished studies of one arm. UserError where one is not finished or they are of different items."""
    tables = []
    for folder in folders:
        summary, protocol, store = load(folder)
        with store:
            n = int(summary["study"]["n"])
            tables.append(arrange(store.rows(), store.grades(), store.plans(), protocol["conditions"], n))
    if len({t.items for t in tables}) != 1:
        raise UserError(f"the studies of arm {name!r} are of different items; run them with the same n and seed")
    return Arm(name, tuple(tables))


def repair(before: Arm, after: Arm, control: Arm | None, seen: Sequence[str], margin: float = MARGIN) -> dict[str, Any]:
    """Every comparison as plain data, and the verdicts. seen: conditions whose scaffold was trained on.

    UserError where the arms cover different items.
    """
    arms = [a for a in (before, after, control) if a is not None]
    if len({a.tables[0].items for a in arms}) != 1:
        raise UserError("before, after and control are of different items; run them with the same n and seed")
    table = before.tables[0]
    empty = table.role("brittleness")
    brittle = _brittleness(before, after, control, empty, margin)
    others = [a for a in arms if a is not after]
    rows = [(c, after.score(c), a.score(c), a.name) for c in table.conditions for a in others]
    made: dict[str, Any] = {
        "n": len(table.items), "training_seeds": len(after.tables), "margin": margin,
        "accuracy": _family(rows, margin),
        "brittleness": brittle,
        "trust": _trust(before, after, control, margin),
        "diversity": _diversity(before, after, margin),
        "seen": [c for c in empty if c in seen],
        "held_out": [c for c in empty if c not in seen],
    }  # fmt: skip
    made["verdicts"] = {
        "repaired on what it saw": _verdict(before, after, control, made["seen"], margin),
        "generalises": _verdict(before, after, control, made["held_out"], margin),
    }
    return made


def _family(rows: Sequence[tuple[str, Floats, Floats, str]], margin: float) -> list[dict[str, Any]]:
    found = finish([paired(a, b, name=f"{name}: after minus {of}") for name, a, b, of in rows], margin=margin)
    return [
        {**e.effect(), "condition": name, "against": of, "was": float(b.mean()), "now": float(a.mean())}
        for e, (name, a, b, of) in zip(found, rows, strict=True)
    ]


def _change(a: Arm, b: Arm, condition: str, against: str, label: str) -> Estimate:
    """(condition - against) in arm a minus the same in arm b, by item."""
    columns = [a.score(condition), a.score(against), b.score(condition), b.score(against)]
    return contrast([1, -1, -1, 1], np.stack(columns, axis=1), name=label)


def _brittleness(
    before: Arm, after: Arm, control: Arm | None, names: Sequence[str], margin: float
) -> list[dict[str, Any]]:
    """The cost of each empty scaffold before, after, and how much it changed against before and against the control."""
    base = before.tables[0].baseline
    rows: list[tuple[str, str, Estimate, list[float]]] = []
    for c in names:
        for arm in (before, after, *((control,) if control else ())):
            e = paired(arm.score(c), arm.score(base), name=f"{c}, {arm.name}")
            rows.append((c, arm.name, e, arm.effect(c, base)))
        others = [before, *((control,) if control else ())]
        for other in others:
            e = _change(after, other, c, base, f"{c}, after minus {other.name}")
            rows.append((c, f"after minus {other.name}", e, []))
    found = finish([e for *_, e, _ in rows], margin=margin) if rows else []
    return [
        {**e.effect(), "condition": c, "of": of, "by_seed": by} for e, (c, of, _, by) in zip(found, rows, strict=True)
    ]


def _trust(before: Arm, after: Arm, control: Arm | None, margin: float) -> list[dict[str, Any]]:
    """Each plan against what it is compared with, before and after, and the change."""
    table = before.tables[0]
    rows: list[tuple[str, str, Estimate]] = []
    for c in table.role("trust"):
        against = str(table.conditions[c]["against"])
        if c.startswith("filler-as"):
            continue  # the content-free twin is what a plan is compared with, not an effect
        arms = (before, after, *((control,) if control else ()))
        label = f"{c} vs {against}"
        rows += [(c, a.name, paired(a.score(c), a.score(against), name=f"{label}, {a.name}")) for a in arms]
        rows.append((c, "after minus before", _change(after, before, c, against, f"{c} vs {against}, change")))
    found = finish([e for *_, e in rows], margin=margin) if rows else []
    return [{**e.effect(), "condition": c, "of": of} for e, (c, of, _) in zip(found, rows, strict=True)]


def _diversity(before: Arm, after: Arm, margin: float) -> list[dict[str, Any]]:
    """What the repair did to the vote, one branch and the oracle, and to the number of different answers."""
    out = []
    for c in before.tables[0].role("diversity"):
        family = finish(
            [
                paired(after.score(c), before.score(c), name=f"vote of {c}"),
                paired(_mean(after, c, "branch"), _mean(before, c, "branch"), name=f"one branch of {c}"),
                paired(_mean(after, c, "oracle"), _mean(before, c, "oracle"), name=f"oracle of {c}"),
            ],
            margin=margin,
        )
        unique = [float(_mean(arm, c, "unique").mean()) for arm in (before, after)]
        out.append({"condition": c, "effects": [e.effect() for e in family], "unique": unique})
    return out


def _mean(arm: Arm, condition: str, what: str) -> Floats:
    def one(t: Table) -> Floats:
        right = t.right(condition)
        if what == "branch":
            return np.asarray(right.mean(1), dtype=float)
        if what == "oracle":
            return np.asarray(right.any(1), dtype=float)
        return np.array([float(len({a for a in row if a})) for row in t.answers(condition)])

    return np.asarray(np.mean([one(t) for t in arm.tables], axis=0), dtype=float)


def _verdict(before: Arm, after: Arm, control: Arm | None, names: Sequence[str], margin: float) -> dict[str, Any]:
    """Whether a group of scaffolds still costs accuracy, and whether that is more than training as such has done."""
    if not names:
        return {"verdict": "not tested: the evaluation has no such scaffold", "conditions": []}
    base = before.tables[0].baseline
    left = finish([paired(after.score(c), after.score(base), name=c) for c in names], margin=margin)
    drops = [e.name for e in left if e.verdict == "drop"]
    open_ = [e.name for e in left if e.verdict.startswith("not resolved")]
    said = f"no: {', '.join(drops)} still cost accuracy" if drops else "not resolved at this N" if open_ else "yes"
    out: dict[str, Any] = {"conditions": list(names), "left": [e.effect() for e in left]}
    for other in (before, control):
        if other is None:
            continue
        mean = np.stack([_mean_score(a, names) - a.score(base) for a in (after, other)])
        both = (mean + 1) / 2  # into [0, 1]: a difference of two effects, halved
        e = finish([contrast([2, -2], both.T, name=f"mean effect, after minus {other.name}")], margin=margin)[0]
        out[f"change against {other.name}"] = e.effect()
        if other is control and said == "yes" and e.verdict != "lift":
            said = "not told apart from training on bare prompts"
    return {"verdict": said, **out}


def _mean_score(arm: Arm, names: Sequence[str]) -> Floats:
    return np.asarray(np.mean([arm.score(c) for c in names], axis=0), dtype=float)


# ---------------------------------------------------------------- text


def markdown(found: Mapping[str, Any]) -> str:
    """The comparison as Markdown tables."""
    seeds = found["training_seeds"]
    head = (
        f"N = {found['n']} items, {seeds} training seed{'s' if seeds != 1 else ''}, margin {points(found['margin'])}."
    )
    said = [f"- **{name}**: {v['verdict']}" for name, v in found["verdicts"].items()]
    accuracy = [
        [r["condition"], r["against"], points(r["was"], sign=False), points(r["now"], sign=False), *_effect(r)]
        for r in found["accuracy"]
    ]
    brittle = [
        [r["condition"], "seen" if r["condition"] in found["seen"] else "held out", r["of"], *_effect(r),
         ", ".join(points(v) for v in r["by_seed"])]
        for r in found["brittleness"]
    ]  # fmt: skip
    trust = [[r["condition"], r["of"], *_effect(r)] for r in found["trust"]]
    votes = [[e["name"], *_effect(e)] for d in found["diversity"] for e in d["effects"]]
    unique = [
        f"{d['condition']}: {d['unique'][0]:.2f} -> {d['unique'][1]:.2f} different answers" for d in found["diversity"]
    ]
    parts = [
        head, "\n".join(said),
        "### Accuracy\n" + grid(["condition", "against", "was, %", "now, %", *EFFECT], accuracy),
        "### Cost of empty scaffolds\n" + grid(["scaffold", "in training", "of", *EFFECT, "by seed"], brittle),
        "### Use of the plan's content\n" + grid(["plan", "of", *EFFECT], trust),
        "### Vote and diversity, after minus before\n" + grid(["what", *EFFECT], votes), *unique,
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


EFFECT = ("points", "95 % interval", "p (Holm)", "verdict")


def _effect(e: Mapping[str, Any]) -> list[str]:
    p = e["p_holm"]
    shown = "" if p is None else p_value(p)
    return [points(e["value"]), span(e["low"], e["high"]), shown, e["verdict"]]


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def write(found: Mapping[str, Any], out: Path, name: str = "repair") -> Path:
    """Write NAME.json and NAME.md into `out`; the Markdown file's path."""
    write_text(out / f"{name}.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    write_text(out / f"{name}.md", markdown(found))
    return out / f"{name}.md"
