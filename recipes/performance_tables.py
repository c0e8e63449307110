"""Tables of docs/performance.md and docs/scale.md from what the benches printed, docs/measured/*.json.

    python recipes/performance_tables.py [--check]

A page marks where a table goes: `<!-- bench:NAME -->`, or `<!-- bench:NAME/TABLE -->` for another one of the same file,
and `<!-- bench:end -->`. --check: exit 1 where a page would change.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- bench:([\w/-]+) -->\n).*?(<!-- bench:end -->)", re.DOTALL)


def row(*cells: object) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def speed(found: Mapping[str, Any]) -> Iterator[str]:
    """Seconds a sequence, share of the ceiling, and against the same run's own exact decoding and reference."""
    timings = {(t["name"], t["batch"], t["temperature"]): t for t in found["timings"]}
    ceiling = found["ceiling_tflops"]
    yield f"{found['device']}; a large matrix product in the same run: {ceiling:.0f} TFLOP/s."
    yield ""
    yield "| | batch | T | seconds a sequence | of the ceiling | over exact, T=0 | reference over it | GB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for (name, batch, heat), t in timings.items():
        exact, reference = timings.get(("engine", batch, 0.0)), timings.get(("reference", batch, heat))
        share = f"{t['share']:.0%}" if t["share"] else ""
        over = f"{t['seconds'] / exact['seconds']:.3f}" if exact and name != "reference" and t is not exact else ""
        faster = f"{reference['seconds'] / t['seconds']:.2f} x" if reference and name != "reference" else ""
        label = name.replace("engine, ", "").replace("engine", "exact")
        yield row(label, batch, f"{heat:g}", f"{t['seconds']:.4f}", share, over, faster, f"{t['memory_gb']:.1f}")
    if found["agreement"]:
        yield ""
        yield from (f"- {way}: {share:.1%} of tokens equal" for way, share in found["agreement"].items())


def wanted(found: Mapping[str, Any]) -> Iterator[str]:
    """What was asked for, beside what this run measured."""
    timings = {(t["name"], t["batch"], t["temperature"]): t for t in found["timings"]}

    def seconds(name: str, batch: int, heat: float = 0.0) -> float:
        return float(timings[name, batch, heat]["seconds"])

    def share(name: str, batch: int) -> str:
        return f"{timings[name, batch, 0.0]['share']:.1%}"

    def over(one: str, other: str, batch: int, digits: int = 2) -> str:
        return f"{seconds(one, batch) / seconds(other, batch):.{digits}f}"

    exact, dual = "engine", "engine, dual cache"
    heat = ", ".join(f"{seconds(exact, n, 0.7) / seconds(exact, n):.3f}" for n in (16, 1))
    yield "| | wanted | this run |"
    yield "| --- | ---: | ---: |"
    yield row("exact, batch 16 and 64, of the ceiling", "80 %", f"{share(exact, 16)}, {share(exact, 64)}")
    yield row("exact, batch 16, against the reference at 16", "1.55", over("reference", exact, 16))
    yield row("exact alone, against the reference alone", "6", over("reference", exact, 1))
    yield row("T=.7 over T=0, batch 16 and alone", "1.05", heat)
    yield row("ragged prompts, of the ceiling on useful tokens", "75 %", share("engine, ragged prompts", 16))
    yield row("adapters on over off, batch 16", "1.08", over("engine, adapter on", exact, 16, 3))
    yield row("dual cache against exact, batch 16 and 64", "5.5", f"{over(exact, dual, 16)}, {over(exact, dual, 64)}")


def training(found: Mapping[str, Any]) -> Iterator[str]:
    """Tokens a second of adapter training."""
    yield f"{found['device']}; {found['ceiling_tflops']:.0f} TFLOP/s; rows of {found['row_tokens']} tokens."
    yield ""
    yield "| | rows a step | tokens/s | of the ceiling | with what is computed twice | GB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for t in found["timings"]:
        shares = f"{t['share']:.0%}", f"{t['share_with_repeats']:.0%}"
        yield row(t["name"], t["batch"], f"{t['tokens_per_second']:,.0f}", *shares, f"{t['memory_gb']:.1f}")


def recipes(found: Mapping[str, Any]) -> Iterator[str]:
    """What the published recipes take at the speed of their own batch."""
    yield "| recipe | steps of rows | million tokens | minutes | dollars at 2.99 an hour |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for r in found["recipes"]:
        size = f"{r['steps']:,} of {r['batch']}"
        yield row(r["recipe"], size, f"{r['tokens'] / 1e6:.2f}", f"{60 * r['hours']:.1f}", f"{2.99 * r['hours']:.2f}")


def training_scale(found: Mapping[str, Any]) -> Iterator[str]:
    """The same global batch on one and two GPUs."""
    yield f"{found['device']}; {found['shape']}, {found['rows_a_step']} rows of {found['row_tokens']} tokens a step;"
    yield f"started by {found['launcher']}; {found['rounds']} rounds of one GPU, then two."
    yield ""
    yield "| | layers | GPUs | tokens/s | ratio (each round) | GB a GPU |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for t in found["runs"]:
        how, speed_ = "compiled" if t["compiled"] else "as written", f"{t['tokens_per_second']:,.0f}"
        ratio = f"{t['ratio']:.2f} ({', '.join(f'{r:.2f}' for r in t['ratios'])})" if t["processes"] > 1 else "1"
        yield row(t["way"], how, t["processes"], speed_, ratio, f"{t['memory_gb']:.1f}")
    yield ""
    yield "| adapters after four steps, against one process | " + " | ".join(found["differences"]) + " |"
    yield "| --- |" + " ---: |" * len(found["differences"])
    for way in next(iter(found["differences"].values())):
        yield row(way, *(f"{apart[way]:.2g}" for apart in found["differences"].values()))


def study_scale(found: Mapping[str, Any]) -> Iterator[str]:
    """A study's rows by one worker, by all, and by all with one killed; what the model makes of it."""
    a, kind = found["arguments"], found["arguments"]["backends"]
    got, m = found[kind], found[kind]["parts"]
    yield f"{found['machine']}; {a['shape']}, random weights; `--compute {kind}`;"
    yield f"{got['rows']} rows of 128 new tokens in {a['steps']} steps, {a['chunk']} rows a chunk."
    yield ""
    yield "| workers | seconds | rows/s | ratio | rows equal to the first pass |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for p, equal in zip(got["passes"], [got["rows"], *got["equal_rows"]], strict=True):
        who = f"{p['workers']}, one killed on the way" if p["killed"] else p["workers"]
        ratio = f"{got['passes'][0]['seconds'] / p['seconds']:.2f}"
        yield row(who, f"{p['seconds']:.2f}", f"{p['rows_per_second']:.2f}", ratio, f"{equal} of {got['rows']}")
    yield ""
    yield f"Workers ready after {got['ready_seconds']:.1f} s,"
    yield f"compiled and captured after {got['warm_seconds']:.1f} s more;"
    yield f"a chunk takes {m['chunk_mean']:.2f} s (deviation {m['chunk_spread']:.2f}),"
    yield f"the driver {m['driver_per_row'] * 1e3:.2f} ms a row; {got['restarts']} worker restarted,"
    yield f"{got['lost_or_doubled']} rows lost or doubled. Predicted from these parts:"
    yield ""
    yield "| workers | 250,000 rows, hours | ratio | efficiency | this run, predicted | measured |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for p in got["predicted"]:
        both = [f"{p[n]:.2f} s" if n in p else "" for n in ("this_run", "measured")]
        yield row(p["workers"], f"{p['hours']:.2f}", f"{p['ratio']:.2f}", f"{p['efficiency']:.1%}", *both)


def study_lost(found: Mapping[str, Any]) -> Iterator[str]:
    """The model beside what was measured, and what workers wait for in it."""
    kind = found["arguments"]["backends"]
    got = found[kind]
    ratio = {p["workers"]: got["passes"][0]["seconds"] / p["seconds"] for p in got["passes"] if not p["killed"]}
    lost = list(got["predicted"][0]["lost"])
    yield f"`--compute {kind}`, {found['machine']}, {found['arguments']['shape']}:"
    yield ""
    yield "| GPUs | measured ratio | predicted for 250,000 rows | " + " | ".join(f"lost to {n}" for n in lost) + " |"
    yield "| ---: | ---: | ---: |" + " ---: |" * len(lost)
    for p in got["predicted"]:
        measured = f"{ratio[p['workers']]:.2f}" if p["workers"] in ratio else ""
        yield row(p["workers"], measured, f"{p['ratio']:.2f}", *(f"{p['lost'][n]:.2%}" for n in lost))


def original(found: Mapping[str, Any]) -> Iterator[str]:
    """What the original study costs at its shape."""
    guess = found["predicted"]
    yield f"{found['machine']}; {found['items']} items, {found['rows']:,} rows of 128 new tokens in 64 steps,"
    yield f"{found['canvas_tokens']:.0f} tokens a canvas in the mean."
    yield ""
    yield "| | seconds | a row | TFLOP/s | dollars at 2.99 an hour |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, one in (("predicted by `--dry-run` from four items", guess), ("measured", found)):
        each, work = f"{one['seconds'] / one['rows']:.4f}", f"{guess['flops'] / one['seconds'] / 1e12:.0f}"
        yield row(name, f"{one['seconds']:.1f}", each, work, f"{one['dollars']:.2f}")


def running(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Rows that enter a running batch, and those that wait for its end."""
    yield "| mode | rows | rows a batch | seconds a row, waiting | running | waiting over running |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for one in found:
        mode = {"none": "exact", "dual": "dual cache"}[one["cache"]] + f", T={one['temperature']:g}"
        each = one["seconds a sequence"]
        times = f"{each['waiting']:.4f}", f"{each['running']:.4f}", f"{one['faster']:.2f}"
        yield row(mode, one["rows"], one["batch"], *times)


TABLES: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "speed-h200": speed, "speed-h200/wanted": wanted, "original": original, "running": running,
    "train-speed": training, "train-speed/recipes": recipes, "train-scale": training_scale,
    "train-scale-16": training_scale,
    "scale-processes": study_scale, "scale-ray": study_scale, "scale-processes/lost": study_lost,
    "scale-ray/lost": study_lost,
}  # fmt: skip


def written(text: str) -> str:
    """A page with its tables as measured."""

    def table(mark: re.Match[str]) -> str:
        found = json.loads(
            (ROOT / "docs" / "measured" / f"{mark[2].partition('/')[0]}.json").read_text(encoding="utf-8")
        )
        return mark[1] + "\n".join(TABLES[mark[2]](found)) + "\n" + mark[3]

    return MARKED.sub(table, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page would change")
    check: bool = parser.parse_args().check
    stale = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = written(before)
        if after != before:
            stale.append(page.name)
            if not check:
                page.write_text(after, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main())
