"""The second pass over a study's rows: their grades, the summary made of them, and the files both live in.

Needs no model. A summary is the contract's object, computed from stored rows, grades and plans alone; `regrade` makes
it anew in any folder that holds rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.cost import Sizes, dollars, work_flops
from triaxis.errors import UserError
from triaxis.limits import check_form, parse_json
from triaxis.store import GradeRow, PlanRow, Store, refuse_sealed
from triaxis.store.protocol import STUDY, read_protocol
from triaxis.study.jobs import Progress, silent

if TYPE_CHECKING:
    from triaxis.estimate.columns import Columns
    from triaxis.tasks.base import Item, Task

GRADER = "numeric-1"  # version of the grading rules; grades can be re-made from stored text


def held_protocol(folder: Path, form: Mapping[str, Any] = STUDY) -> dict[str, Any]:
    """The protocol card of the study in a folder. UserError if no study was started there, or it lacks `form`."""
    with Store(folder / "rows.sqlite", write=False) as store:
        held = store.get("protocol")
    if held is None:
        raise UserError(f"{folder}: no study was started there; run triaxis diagnose --out {folder}")
    return read_protocol(held, folder, form)


def grade(
    store: Store, task: Task, items: Sequence[Item], progress: Progress = silent,
    *, second: bool = True, anew: bool = False,
) -> None:  # fmt: skip
    """Grade the stored rows of `items` that have no grade of this grader. Needs no model, and never all rows at once.

    anew: every row; the result replaces all stored grades in one transaction, so a kill leaves the old ones. First
    grades are stored as they are made, and a kill leaves those.
    """
    if store.get("grader") is None and not store.tally("grades").rows:
        store.set("grader", GRADER)
    anew = anew or store.get("grader") != GRADER
    places = store.places(ungraded=not anew)
    made = _grades(store, places, task, {i.id: i for i in items}, second, progress)
    if anew:
        store.replace_grades(chain.from_iterable(made))
        store.set("grader", GRADER)
    else:
        while parts := list(islice(made, _STORED)):
            store.append(chain.from_iterable(parts))
    progress("grading", len(places), len(places))


_TOGETHER = 500  # rows that are read and graded together
_STORED = 10  # such parts that are written together: what a kill costs


def _grades(
    store: Store, places: Sequence[int], task: Task, item: Mapping[str, Item], second: bool, progress: Progress
) -> Iterator[list[GradeRow]]:
    from triaxis.tasks.grading import grade_many

    asked = {None: -1, True: 1, False: 0}
    for start in range(0, len(places), _TOGETHER):
        progress("grading", start, len(places))
        part = [r for r in store.at(places[start : start + _TOGETHER]) if r.item in item]
        graded = grade_many(task, [r.text for r in part], [item[r.item] for r in part], second=second)
        yield [GradeRow(r.id, g.verdict, g.answer, g.how, asked[g.second]) for r, g in zip(part, graded, strict=True)]


def summarise(store: Store, protocol: Mapping[str, Any], workers: int = 1) -> dict[str, Any]:
    """The contract's summary object, from stored rows, grades and plans alone. workers: see `gather`."""
    from triaxis.estimate import axes
    from triaxis.estimate.prereg import scorecard
    from triaxis.study.gather import gather, tabled

    n, columns = int(store.get("items") or protocol["n"]), gather(store, protocol["conditions"], workers, keep=True)
    t = tabled(store, columns, protocol["conditions"], n)
    lines = axes.condition_rows(t)
    seconds, price = float(store.get("seconds") or 0), store.get("price_per_hour")
    paid = dollars(seconds, None if price is None else float(price))
    found = axes.axes(t, {p["name"]: p["parameters"] for p in protocol["planners"]})
    summary = {
        "schema": 1,
        "study": {
            "executor": protocol["executor"]["name"],
            "planners": [p["name"] for p in protocol["planners"]],
            "task": protocol["task"]["name"],
            "n": n,
            "seeds": protocol["seeds"],
            "protocol_hash": protocol["protocol_hash"],
        },
        "conditions": lines,
        "axes": found,
        "cost": {
            "seconds": round(seconds, 1),
            **work(columns, protocol, sizes_held(store)),
            "dollars": paid if paid is None else round(paid, 4),
            "planning": planning(t.plans.values()),
        },
        "warnings": [*_notes(protocol, n), *axes.warnings(t, lines, found)],
    }
    stamped = store.get("prereg")
    return summary if stamped is None else {**summary, "prereg": scorecard(stamped, summary)}


def planning(plans: Iterable[PlanRow]) -> dict[str, int]:
    """What models spent on writing plans: passes of their networks, tokens those read, requests to endpoints."""
    spent = [parse_json(p.detail or "{}").get("cost", {}) for p in plans]
    names = {"forwards": "forwards", "tokens": "forward_tokens", "requests": "requests"}
    return {name: sum(int(s.get(key, 0)) for s in spent) for name, key in names.items()}


def work(columns: Columns, protocol: Mapping[str, Any], sizes: Sizes | None) -> dict[str, Any]:
    """Forwards and tokens of what ran, and the executor's operations (cost.work_flops; None without its sizes).

    Rows with one prompt and one random stream were sampled once and count once.
    """
    from triaxis.estimate.columns import once

    rows, ran = columns.rows, once(columns, protocols(protocol))
    writers = {c["name"] for c in protocol["conditions"] if c["writer"]}
    of_executor = [name not in writers for name in columns.conditions]
    mine = [i for i in ran.tolist() if of_executor[rows.condition[i]]] if writers else ran
    logits = int(protocol["decode"]["block_length"])  # an exact pass makes them for one block
    forwards, tokens = int(rows.forwards[mine].sum()), int(rows.tokens[mine].sum())
    return {
        "forwards": int(rows.forwards[ran].sum()),
        "tokens": int(rows.tokens[ran].sum()),
        "flops": None if sizes is None else work_flops(sizes, forwards, tokens, logits),
    }


SIZES = {f.name: int for f in fields(Sizes)}


def sizes_held(store: Store) -> Sizes | None:
    """Sizes of the study's executor; None for a store from before they were kept. UserError where they are damaged."""
    held = store.get("sizes")
    if held is None:
        return None
    try:
        found = parse_json(held)
        check_form(found, SIZES)
    except ValueError as e:
        raise UserError(f"{store.path}: the executor's sizes are damaged ({e}); restore the file") from None
    return Sizes(**found)


def protocols(protocol: Mapping[str, Any]) -> Callable[[str, int], tuple[str, bool]]:
    """What a completion of (condition, branch) is made by, as text, and whether it draws random numbers."""
    base, cards = protocol["decode"], {c["name"]: c for c in protocol["conditions"]}

    @cache
    def settings(condition: str, branch: int) -> tuple[str, bool]:
        c = cards[condition]
        changed = c["variants"][branch % len(c["variants"])]["decode"] if c["variants"] else {}
        decode = {**base, **c["decode"], **changed}
        key = json.dumps([decode, c["writer"], c["adapter"], c["watch"]], sort_keys=True)
        return key, decode["temperature"] > 0 or decode["remasking"] == "random"

    return settings


def _notes(protocol: Mapping[str, Any], n: int) -> Iterator[str]:
    """What a reader must know of the protocol before reading the numbers."""
    left_out: dict[str, list[str]] = {}
    for name, reason in protocol.get("left_out", {}).items():
        left_out.setdefault(reason, []).append(name)
    for reason, names in left_out.items():
        yield f"left out {', '.join(names)}: {reason}"
    if n < protocol["n"]:
        yield (
            f"stopped at {n} of {protocol['n']} items: every main contrast was resolved, or could not be any more; "
            "intervals and p-values are for a fixed N and read too narrow after an early stop"
        )
    first, *others = protocol["seeds"]
    once = sum(c["completions"] == c["branches"] for c in protocol["conditions"])
    if others and once:
        yield f"{once} conditions ran under seed {first} only: at temperature 0 seeds are no replicates"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON by replacing the file in one move, on the disk before it has its name: a power cut leaves the old one.

    UserError where the folder is sealed or the disk refuses.
    """
    refuse_sealed(path.parent)
    scratch = path.with_suffix(".partial")
    try:
        with scratch.open("w", encoding="utf-8") as f:
            f.write(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
            f.flush()
            os.fsync(f.fileno())
        scratch.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot write ({e.strerror}); rows already written are safe") from None


def regrade(folder: Path, progress: Progress = silent, *, second: bool = True, workers: int = 1) -> dict[str, Any]:
    """Grade a finished study's stored texts again, re-make its summary, and return it. workers: see `gather`."""
    from triaxis.tasks import load_task

    protocol = held_protocol(folder)
    spec = protocol["spec"]
    task = load_task(spec["task"])
    if task.revision != protocol["task"]["revision"]:
        was = protocol["task"]["revision"]
        raise UserError(f"{folder}: task {spec['task']!r} is now revision {task.revision}, its rows are of {was}")
    with Store(folder / "rows.sqlite", write=True) as store:
        grade(store, task, task.items(spec["n"], seed=spec["seeds"][0]), progress, second=second, anew=True)
        summary = summarise(store, protocol, workers)
        write_json(folder / "summary.json", summary)
    if not (folder / "protocol.json").exists():  # rows alone were brought here
        write_json(folder / "protocol.json", protocol)
    return summary
