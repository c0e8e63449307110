"""The repairs' results as the section of docs/findings.md, and the adapters that ship; from what `run.py` wrote.

    python recipes/repairs/findings.py keep  --out runs/repairs    # results/*.json from OUT, the shipped adapters
    python recipes/repairs/findings.py write                       # docs/findings.md from results/*.json

OUT is the folder of `run.py`, or one in which its archives were unpacked. The adapter that ships is of the training
seed with the least held-out loss (rows of training items kept apart); what the tests say is not looked at for it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from triaxis.errors import script
from triaxis.models.adapters import CARD, CONFIG, WEIGHTS
from triaxis.report.repair import grid
from triaxis.report.words import p_value, points, span
from triaxis.train.plateau import slope, verdicts

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
SHIPPED = ROOT / "src" / "triaxis" / "models" / "tiny" / "adapters"
NAMES = ("prefix", "trust", "distil-vote", "distil-gold", "factorial")
ARMS, CHANGES = ("before", "after", "control"), ("after − before", "after − control")
Json = Mapping[str, Any]


def keep(out: Path) -> None:
    """Copy results and the adapters that ship out of a run."""
    RESULTS.mkdir(exist_ok=True)
    for name in NAMES:
        found = next((f for f in (out / f"{name}.json", out / "repairs" / f"{name}.json") if f.is_file()), None)
        if found is not None:
            told = json.loads(found.read_text(encoding="utf-8"))
            told.pop("adapters", None)  # folders of the machine it ran on
            if name == "factorial":
                told["verdicts"] = read_again(told)
                rank = next(e["verdict"] for e in told["effects"] if e["factors"] == ["rank"])
                told["capacity"] = told["capacity"].replace("is flat", slope(rank), 1)
            (RESULTS / f"{name}.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
    homes = {"prefix": out / "repairs" / "adapters", "trust": out / "repairs" / "adapters"}
    homes["consensus"] = next((out / d for d in ("vote", "gold") if list((out / d).glob("consensus-s*"))), out / "vote")
    for kind, home in homes.items():
        if folders := [f for f in sorted(home.glob(f"{kind}-s*")) if (f / CONFIG).is_file()]:
            ship(min(folders, key=held_loss), SHIPPED / kind)


def read_again(told: Json) -> list[dict[str, str]]:
    """The verdicts by today's rules, of the stored effects."""
    effects = {e["factors"][0]: SimpleNamespace(**e) for e in told["effects"] if len(e["factors"]) == 1}
    over, to = SimpleNamespace(**told["over_greedy"]), SimpleNamespace(**told["to_target"])
    rich = told["flips"][" ".join(levels[-1] for levels in told["factors"].values())]
    return [asdict(v) for v in verdicts(effects, over, to, rich["gain"], rich["loss"])]  # type: ignore[arg-type]


def held_loss(folder: Path) -> float:
    return float(json.loads((folder / CARD).read_text(encoding="utf-8"))["training"]["held_loss"])


def ship(folder: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG, CARD):
        shutil.copyfile(folder / name, to / name)
    print(f"{to.name}: {folder.name}, held-out loss {held_loss(folder):.4f}")


# ---------------------------------------------------------------- tables


def effect(e: Json) -> str:
    """Points with their interval; bold where resolved after Holm."""
    text = f"{points(e['value'])} {span(e['low'], e['high'])}"
    return f"**{text}**" if e["p_holm"] is not None and e["p_holm"] < 0.05 else text


def seeds_of(values: Sequence[float]) -> str:
    return ", ".join(points(v) for v in values)


def repair(found: Json) -> Iterator[str]:
    """Verdicts; what empty scaffolds cost before, after and in the control; every arm; content; votes."""
    yield (
        f"N = {found['n']} items, {found['training_seeds']} training seeds of the adapter and of its control (as many "
        f"steps on bare prompts only). Margin of equivalence {100 * found['margin']:.0f} points. Intervals are over "
        "items, of the mean over seeds; the columns by seed are the spread over trainings.\n"
    )
    for name, v in found["verdicts"].items():
        changes = [f"{effect(v[k])} against {k.split()[-1]}" for k in v if k.startswith("change against")]
        mean = f"; mean effect {', '.join(changes)}" if changes else ""
        yield f"- **{name}** ({', '.join(v['conditions']) or 'none'}): {v['verdict']}{mean}"
    heads = ["cost of an empty scaffold", "in training", *ARMS, "after, by seed", "control, by seed"]
    yield "\n" + grid(heads, list(_brittle(found)))
    yield "\n" + grid(["arm, % right", "before", "control", "after", *CHANGES], list(_arms(found)))
    yield "\n" + grid(["use of the plan's content", *ARMS, CHANGES[0]], list(_content(found)))
    votes = [[e["name"], effect(e), e["verdict"]] for d in found["diversity"] for e in d["effects"]]
    yield "\n" + grid(["vote and branches, after − before", "points", "verdict"], votes) + "\n"
    yield "; ".join(
        f"different answers of {d['condition']}: {d['unique'][0]:.2f} before, {d['unique'][1]:.2f} after"
        for d in found["diversity"]
    )


def _brittle(found: Json) -> Iterator[list[str]]:
    held = {(r["condition"], r["of"]): r for r in found["brittleness"]}
    for c in dict.fromkeys(r["condition"] for r in found["brittleness"]):
        cells = [effect(held[c, of]) for of in ("before", "after", "control")]
        spread = [seeds_of(held[c, of]["by_seed"]) for of in ("after", "control")]
        yield [c, "seen" if c in found["seen"] else "held out", *cells, *spread]


def _arms(found: Json) -> Iterator[list[str]]:
    held = {(r["condition"], r["against"]): r for r in found["accuracy"]}
    for c in dict.fromkeys(r["condition"] for r in found["accuracy"]):
        before, control = held[c, "before"], held[c, "control"]
        shares = [f"{100 * x:.1f}" for x in (before["was"], control["was"], before["now"])]
        yield [c, *shares, effect(before), effect(control)]


def _content(found: Json) -> Iterator[list[str]]:
    held = {(r["condition"], r["of"]): r for r in found["trust"]}
    for c in dict.fromkeys(r["condition"] for r in found["trust"]):
        yield [c, *(effect(held[c, of]) for of in ("before", "after", "control", "after minus before"))]


def headroom(found: Json) -> str:
    shown = ("greedy", "branch", "vote", "oracle")
    lines = [
        [h["regime"], *(f"{100 * h[k]:.1f}" for k in shown), effect(h["vote_minus_greedy"])] for h in found["headroom"]
    ]
    return grid(["training items, % right: regime", *shown, "vote − greedy"], lines)


def distilled(found: Json) -> Iterator[str]:
    """Headroom, data, and every line at its cost."""
    yield headroom(found) + "\n"
    if "refused" in found:
        yield f"Refused: {found['refused']}."
        return
    data = found["data"]
    mixture = ", ".join(f"{k} {v}" for k, v in data["mixture"].items())
    used = sum(data["mixture"].values())
    yield f"Trained on {used} of {data['items']} items ({mixture}); N = {found['n']}, regime {found['regime']}.\n"
    yield grid(
        ["what", "right, %", "forwards an item"],
        [[x["name"], f"{100 * x['accuracy']:.1f}", f"{x['forwards']:.1f}"] for x in found["lines"]],
    )
    yield "\n" + grid(
        ["difference", "points", "verdict", "p (Holm)"],
        [[e["name"], effect(e), e["verdict"], p_value(e["p_holm"])] for e in found["effects"]],
    )


def factorial(found: Json) -> Iterator[str]:
    """Verdict, main effects with their spread over seeds, pairs that are resolved, cells, where answers are decided."""
    yield headroom(found) + "\n"
    if "refused" in found:
        yield f"Refused: {found['refused']}."
        return
    yield f"N = {found['n']}, {len(found['seeds'])} training seeds, {len(found['cells'])} cells.\n"
    yield from (f"- **{v['name']}**: {v['reason']}" for v in found["verdicts"])
    yield f"- {found['capacity']}"
    mains = [e for e in found["effects"] if len(e["factors"]) == 1]
    pairs = [e for e in found["effects"] if len(e["factors"]) == 2]
    lines = [
        [e["name"], " → ".join(found["factors"][e["name"]]), effect(e), seeds_of(found["by_seed"][e["name"]])]
        for e in mains
    ]
    yield "\n" + grid(["richer minus poorer level", "levels", "points", "by seed"], lines)
    yield "\n" + grid(["interaction", "points"], [[e["name"], effect(e)] for e in pairs])
    yield (
        f"\nThe richest cell minus greedy {effect(found['over_greedy'])}, minus its target "
        f"{effect(found['to_target'])}.\n"
    )
    yield grid([*found["factors"], "right, %", "answers changed, %", "to right, %", "to wrong, %"], list(_cells(found)))
    yield ""
    yield grid(
        ["before block", *(str(d["block"]) for d in found["decided"])],
        [["answers that stay, %", *(f"{100 * d['same']:.0f}" for d in found["decided"])]],
    )


def _cells(found: Json) -> Iterator[list[str]]:
    for c in found["cells"]:
        levels = list(c["levels"].values())
        flips = found["flips"][" ".join(levels)]
        yield [*levels, *(f"{100 * x:.1f}" for x in (c["accuracy"], flips["answer"], flips["gain"], flips["loss"]))]


TABLES = {"prefix": repair, "trust": repair, "distil-vote": distilled, "distil-gold": distilled, "factorial": factorial}


def section(name: str) -> str:
    """The text between the marks of one study."""
    return "\n".join(TABLES[name](json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))))


def write() -> None:
    path = ROOT / "docs" / "findings.md"
    text = path.read_text(encoding="utf-8")
    for name in NAMES:
        if (RESULTS / f"{name}.json").is_file():
            head, rest = text.split(f"<!-- repair-{name}:begin -->")
            tail = rest.split(f"<!-- repair-{name}:end -->")[1]
            text = f"{head}<!-- repair-{name}:begin -->\n{section(name)}\n<!-- repair-{name}:end -->{tail}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["keep", "write"])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "repairs")
    a = parser.parse_args()
    keep(a.out) if a.what == "keep" else write()


if __name__ == "__main__":
    sys.exit(script(main))
