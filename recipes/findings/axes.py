"""The studies behind docs/findings.md: all factors of the three axes on three training seeds of the tiny executor.

    python recipes/findings/axes.py sample --device cuda      # rows; resumable; minutes on a GPU, hours on two cores
    python recipes/findings/axes.py write                     # grades them and puts the tables into docs/findings.md

`sample --n 100` is the quick form. One process an executor; every study has its own folder under --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from triaxis import branching
from triaxis.errors import script
from triaxis.study import Study
from triaxis.study.summary import regrade

ROOT = Path(__file__).resolve().parents[2]
EXECUTORS = ("tiny-0", "tiny-1", "tiny-2")
PLANNERS = ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")
SIXTEEN = str(Path(__file__).with_name("sixteen.toml").relative_to(ROOT))
STUDIES: Mapping[str, tuple[str, tuple[str, ...], float]] = {  # name: (preset, planners, share of n)
    "quick": ("quick", PLANNERS, 1),
    "factorial": ("factorial", (), 1),
    "trust": ("trust", PLANNERS, 1),
    "original": ("original", PLANNERS, 1),
    "diversity": ("diversity", (), 1),
    "sixteen": (SIXTEEN, (), 0.3),
}


def study(name: str, executor: str, n: int, device: str | None) -> Study:
    preset, planners, share = STUDIES[name]
    return Study(
        executor=executor, preset=preset, planners=planners, n=max(2, int(n * share)), device=device, dtype="fp32"
    )


def sample(executor: str, names: Sequence[str], n: int, device: str | None, out: Path) -> dict[str, int]:
    """Rows of one executor's studies."""
    import torch

    if device is None:
        torch.set_num_threads(1)
    return {name: study(name, executor, n, device).sample(out / f"{name}-{executor}") for name in names}


# ---------------------------------------------------------------- tables


def points(e: Mapping[str, Any] | None) -> str:
    """An effect in points with its interval; bold where it is resolved."""
    if e is None:
        return "-"
    text = f"{100 * e['value']:+.1f} [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}]"
    return f"**{text}**" if e["verdict"] in ("drop", "lift") else text


def percent(c: Mapping[str, Any] | None, value: str = "accuracy") -> str:
    return "-" if c is None else f"{100 * c[value]:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]"


def rows(title: str, names: Sequence[str], cells: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A Markdown table with one column an executor."""
    yield f"| {title} | " + " | ".join(cells) + " |"
    yield "|---|" + "---|" * len(cells)
    for name in names:
        yield f"| {name} | " + " | ".join(column.get(name, "-") for column in cells.values()) + " |"


def table(title: str, summaries: Mapping[str, Any], cell: Any) -> Iterator[str]:
    """`cell(summary)` gives a column's {row: text}; rows in the order they first appear."""
    cells = {executor: dict(cell(s)) for executor, s in summaries.items()}
    yield from rows(title, list(dict.fromkeys(k for column in cells.values() for k in column)), cells)


def quick(s: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    conditions = {c["name"]: c for c in s["conditions"]}
    yield "none, % right", percent(conditions["none"])
    for e in s["axes"]["brittleness"]["effects"]:
        yield e["name"], points(e)


def factorial(s: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for grid in s["axes"]["factorial"]:
        for found in grid["effects"]:
            yield f"{grid['grid']}: {found['effect']['name']}", points(found["effect"])


def trust(s: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    axis = s["axes"]["trust"]
    for p in axis["planners"]:
        name = p["planner"]
        yield f"{name}: content", points(p["content"])
        yield f"{name}: scaffold", points(p["scaffold"])
        yield f"{name}: gold plan minus its plan", points(p["gold_lift"])
        for kind, e in p["corruptions"].items():
            yield f"{name}: {kind} minus true", points(e)
        for rate in ("rescue", "retention", "following"):
            if p.get(rate):
                yield f"{name}: {rate}, %", percent(p[rate], "rate")
    yield "content per tenfold planner size", points(axis["slope"])


def pipelines(s: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    axis = s["axes"]["diversity"]
    several = {e["condition"] for e in s["axes"]["pipelines"]["effects"] if "sc[" in e["condition"]}
    for c in s["conditions"]:
        if not c["name"].startswith(("filler", "c4-")):
            one = c["name"] in several or c["name"] == axis["condition"]
            yield f"{c['name']}, one branch" if one else c["name"], percent(c)
    low, high = axis["vote_interval"]
    yield f"{axis['condition']}, vote of 5", percent({"accuracy": axis["vote"], "low": low, "high": high})
    for e in s["axes"]["pipelines"]["effects"]:
        yield f"{e['condition']} minus {e['against']}, points", points(e["effect"])
    for m in s["axes"]["pipelines"]["matched"]:
        if m["matched"] == "tokens":
            yield (
                f"{m['condition']} minus {m['against']} at equal tokens ({m['branches']}), points",
                points(m["effect"]),
            )


def front(s: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for p in s["axes"]["diversity"]["pareto"]:
        mark = "" if p["dominated_by"] else " *"
        yield p["name"], f"{100 * p['accuracy']:.1f} at {p['tokens'] / 1000:.1f} k{mark}"


def diversity(s: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    axis = s["axes"]["diversity"]
    arms = {axis["condition"]: axis, **axis["scaffolded"]}
    greedy = next(c for c in s["conditions"] if c["name"] == "none")
    yield "greedy", percent(greedy)
    for name, arm in arms.items():
        low, high = (100 * x for x in arm["vote_interval"])
        one, vote, oracle = (100 * arm[k] for k in ("per_branch", "vote", "oracle"))
        ties = f"{100 * arm['vote_low_tie']:.0f}-{100 * arm['vote_high_tie']:.0f}"
        yield name, f"{one:.1f} / {vote:.1f} [{low:.1f}, {high:.1f}] ({ties}) / {oracle:.1f}"
    yield "vote minus greedy (first arm)", points(axis["effects"][-1])
    for name, found in axis["changes"].items():
        yield f"{name} against {found['against']}", found["verdict"]


def curves(s: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    axis = s["axes"]["diversity"]
    for name, arm in {axis["condition"]: axis, **axis["scaffolded"]}.items():
        for k in (1, 3, 5, 9, 16):
            yield (
                f"{name}: pass@{k}, maj@{k}",
                f"{100 * arm['pass_at_k'][k - 1]:.1f}, {100 * arm['maj_at_k'][k - 1]:.1f}",
            )


def votes(folder: Path) -> Iterator[tuple[str, str]]:
    """Every rule over the branches at T=.7, and over the steps of one greedy pass; what a quorum saves."""
    t = branching.table(folder)
    found = branching.arm(t, "vote@0.7")
    for label, e in found["votes"].items():
        yield label, percent(e, "value")
    for weighting, e in branching.temporal_votes(t, "trajectory", "gradeschool").items():
        yield f"temporal, {weighting} (one pass)", percent(e, "value")
    for rule, q in found["quorum"].items():
        flips = f"{100 * q['flip_rate']['value']:.1f} % of votes flip"
        yield f"quorum, {rule}", f"{100 * q['saved']:.1f} % of forwards saved, {flips}"
    for label, e in found["trajectory"].items():
        yield label, f"{e['value']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"


TABLES = {
    "quick": ("axis 1: effect in points [95 %]", quick),
    "factorial": ("axis 1, factors: effect in points [95 %]", factorial),
    "trust": ("axis 2: effect in points [95 %]", trust),
    "original": ("conditions of the original study, % right [95 %]", pipelines),
    "diversity": ("axis 3: one branch / vote [95 %] (tie bounds) / oracle, %", diversity),
    "pareto": ("% right at thousands of forward tokens an item; * not dominated", front),
    "sixteen": ("axis 3: pass@k, maj@k, %", curves),
}


SOURCE = {"pareto": "diversity"}  # tables made of another study's rows


def write(out: Path) -> None:
    """Grade what was sampled and put one table a study between the marks of docs/findings.md."""
    path = ROOT / "docs" / "findings.md"
    text = path.read_text(encoding="utf-8")
    for name, (title, cell) in TABLES.items():
        folders = {e: out / f"{SOURCE.get(name, name)}-{e}" for e in EXECUTORS}
        summaries = {e: _summary(f) for e, f in folders.items() if (f / "rows.sqlite").is_file()}
        if not summaries:
            continue
        n = next(iter(summaries.values()))["study"]["n"]
        lines = [f"N = {n} items, task gradeschool, one study an executor.", "", *table(title, summaries, cell)]
        head, rest = text.split(f"<!-- {name}:begin -->")
        tail = rest.split(f"<!-- {name}:end -->")[1]
        text = "\n".join([f"{head}<!-- {name}:begin -->", *lines, f"<!-- {name}:end -->{tail}"])
    path.write_text(_with_votes(text, out), encoding="utf-8")


def _with_votes(text: str, out: Path) -> str:
    folders = {e: out / f"diversity-{e}" for e in EXECUTORS}
    made = {e: dict(votes(f)) for e, f in folders.items() if (f / "summary.json").is_file()}
    if not made:
        return text
    lines = rows("rules of voting, % right [95 %]", list(next(iter(made.values()))), made)
    head, rest = text.split("<!-- votes:begin -->")
    return "\n".join(
        [f"{head}<!-- votes:begin -->", *lines, f"<!-- votes:end -->{rest.split('<!-- votes:end -->')[1]}"]
    )


def _summary(folder: Path) -> dict[str, Any]:
    if not (folder / "summary.json").is_file():
        print("grading", folder, file=sys.stderr, flush=True)
        return regrade(folder, second=False)
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sample", "write"])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "findings")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--only", default=",".join(STUDIES))
    parser.add_argument("--device")
    a = parser.parse_args()
    if a.what == "write":
        write(a.out)
        return
    names = a.only.split(",")
    with ProcessPoolExecutor(len(EXECUTORS), mp_context=get_context("spawn")) as pool:
        started = {e: pool.submit(sample, e, names, a.n, a.device, a.out) for e in EXECUTORS}
        for executor, rows_made in started.items():
            print(executor, rows_made.result(), flush=True)


if __name__ == "__main__":
    sys.exit(script(main))
