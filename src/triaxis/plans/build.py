"""Making banks: from a planner, plan by plan, and from and into the store of a study.

`build` goes on where it stopped: every part of the plans is appended to a scratch file beside the bank and is on the
disk before the next part is asked for, so a kill at any moment costs one part at most, and nothing is asked for twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from triaxis.errors import UserError, lookup
from triaxis.limits import parse_json, plain_name
from triaxis.models.writer import Planner
from triaxis.plans.bank import PART, detail, planner_plan_id
from triaxis.plans.files import (
    LOCAL,
    SUFFIXES,
    Bank,
    BankPlanner,
    BankRow,
    Manifest,
    bank_row,
    check_bank,
    read_bank,
    read_rows,
    row_line,
    write_bank,
)
from triaxis.plans.sources import Plan
from triaxis.store import PlanRow, Store
from triaxis.store.protocol import PLANS, read_protocol
from triaxis.tasks.base import Item, Task

Progress = Callable[[str, int, int], None]  # (stage, done, total)


def manifest_of(planner: Planner | BankPlanner, task: Task, *, split: str = "test", seed: int = 0) -> Manifest:
    """What a bank of this planner's plans says of them. A bank as planner passes on what it knows itself."""
    if isinstance(planner, BankPlanner):
        return planner.bank.manifest
    writing = getattr(planner, "writing", None)
    settings = asdict(writing) if is_dataclass(writing) and not isinstance(writing, type) else {}
    return Manifest(
        task=task.name, revision=task.revision, split=split, planner=planner.name, identity=planner.identity,
        parameters=planner.parameters, prompt=str(settings.pop("version", "1")),
        decoding=json.loads(json.dumps(settings)), seed=seed,
    )  # fmt: skip


def build(
    planner: Planner | BankPlanner, task: Task, n: int | None, path: Path, *, split: str = "test", seed: int = 0,
    command: str = "", progress: Progress = lambda stage, done, total: None,
) -> Bank:  # fmt: skip
    """Make the plans of the task's first `n` items (all if None) in the order of `seed`, and write them as a bank.

    What the bank or its scratch file already holds is kept and not asked for again; a larger n extends a bank. The
    rows stand in the order of their ids, so the file does not depend on how it came about.

    UserError where `path` holds the bank of another planner or task, or another build is writing there.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"--out {path}: a bank is named NAME.jsonl or NAME.jsonl.gz")
    items = task.items(n, split=split, seed=seed)
    manifest = replace(manifest_of(planner, task, split=split, seed=seed), command=command)
    with _scratch(path, manifest) as (scratch, rows):
        missing = [i for i in items if i.id not in rows]
        if not missing and path.is_file() and not scratch.tell():
            return read_bank(path)  # nothing to add: the file stays as it is
        for start in range(0, len(missing), PART):
            progress("planning", len(items) - len(missing) + start, len(items))
            part = missing[start : start + PART]
            if isinstance(planner, BankPlanner):
                made = planner.plans(part, task)
            else:
                made = planner.write([i.question for i in part])
            found = [bank_row(i, w) for i, w in zip(part, made, strict=True)]
            if not scratch.tell():
                scratch.write(_head(manifest))
            scratch.write(b"".join(map(row_line, found)))
            scratch.flush()
            os.fsync(scratch.fileno())
            rows |= {r.item: r for r in found}
        bank = Bank(manifest, [rows[i] for i in sorted(rows)], path)
        write_bank(bank)
        _scratch_path(path).unlink()
    progress("planning", len(items), len(items))
    return bank


def _scratch_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")


def _head(manifest: Manifest) -> bytes:
    return (json.dumps({**asdict(manifest), "command": ""}, ensure_ascii=False) + "\n").encode()


@contextmanager
def _scratch(path: Path, manifest: Manifest) -> Iterator[tuple[BinaryIO, dict[str, BankRow]]]:
    """The scratch file, locked and open at its end, and the rows it and the bank hold. A cut-off line is dropped."""
    place, rows = _scratch_path(path), dict[str, BankRow]()
    if path.is_file():
        held = read_bank(path)
        _same(path, held.manifest, manifest)
        rows |= held.plans
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("a+b")
    except OSError as e:
        raise UserError(f"{place}: cannot write ({e.strerror}); choose another --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{place}: another build is writing there; wait for it or choose another --out") from None
        file.seek(0)
        raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        file.truncate(len(whole))
        file.seek(len(whole))
        if whole:
            began, unfinished = read_rows(place, whole.split(b"\n")[:-1])
            _same(place, began, manifest)
            rows |= {r.item: r for r in unfinished}
        try:
            yield file, rows
        except OSError as e:
            safe = "plans already made are safe: free space, then run again"
            raise UserError(f"{place}: could not write ({e.strerror}); {safe}") from None
        finally:
            if not file.closed and not file.tell():
                place.unlink(missing_ok=True)  # nothing was begun


def _same(path: Path, held: Manifest, now: Manifest) -> None:
    for name in ("task", "revision", "split", "identity"):
        was, here = getattr(held, name), getattr(now, name)
        if was != here:
            raise UserError(f"{path} holds a bank of another {name} ({was!r}, not {here!r}); choose another --out")


def export(folder: Path, planner: str, path: Path, task: Task, command: str = "") -> Bank:
    """Write the plans that a study's store holds of one of its planners as a bank. UserError if it holds none."""
    protocol, plans = _study(folder)
    cards = {p["name"]: p for p in protocol["planners"]}
    card = lookup(f"planner of the study in {folder}", cards, planner)
    if task.revision != protocol["task"]["revision"]:
        was = protocol["task"]["revision"]
        raise UserError(f"{folder}: task {task.name!r} is now revision {task.revision}, its plans are of {was}")
    seed = protocol["seeds"][0]
    rows = []
    for item in sorted(task.items(), key=lambda i: i.id):
        row = plans.get(planner_plan_id(task, planner, card["identity"], seed, item.id))
        if row is not None:
            leaks = bool(parse_json(row.detail)["leaks"])
            rows.append(BankRow(item=item.id, text=row.text, tokens=row.tokens, truncated=row.truncated, leaks=leaks))
    if not rows:
        raise UserError(f"{folder}: its store holds no plans of planner {planner!r} yet; run the study first")
    writing = dict(card.get("writing") or {})
    manifest = Manifest(
        task=task.name, revision=task.revision, planner=planner, identity=card["identity"],
        parameters=card["parameters"], prompt=str(writing.pop("version", "1")), decoding=writing, seed=seed,
        command=command,
    )  # fmt: skip
    bank = Bank(manifest, rows, path)
    write_bank(bank)
    return bank


def put(bank: Bank, task: Task, folder: Path) -> int:
    """Put a checked bank's plans into a study's store, where they stand for its planner's; how many were new.

    UserError where no planner of the study is the bank's, by identity: then the bank is another planner, "file:PATH".
    """
    check_bank(bank, task)
    protocol, plans = _study(folder)
    names = [p["name"] for p in protocol["planners"] if p["identity"] == bank.manifest.identity]
    if not names:
        raise UserError(
            f"{bank.path}: no planner of the study in {folder} is {bank.manifest.planner!r} "
            f"({bank.manifest.identity}); "
            f"start a study with --planners file:{bank.path} to use the bank as a planner of its own"
        )
    known = {item.id: item for item in task.items(split=bank.manifest.split)}
    seed = protocol["seeds"][0]
    rows = []
    for name in names:
        for r in bank.rows:
            made = planner_plan_id(task, name, bank.manifest.identity, seed, r.item)
            told = detail(r.text, known[r.item])
            rows.append(PlanRow(made, r.item, f"true:{name}", seed, r.text, r.tokens, r.truncated, told))
    with Store(folder / "rows.sqlite", write=True) as store:
        store.append(rows)
    return sum(r.id not in plans for r in rows)


def copy(bank: Bank, task: Task, name: str) -> Path:
    """Copy a checked bank into ./banks, where "file:NAME" finds it. UserError for a name that is no file name."""
    check_bank(bank, task)
    if not plain_name(name) or name.endswith(SUFFIXES):
        raise UserError(f"--name {name!r} must be a plain name such as my-planner, without folder and ending")
    path = LOCAL / f"{name}.jsonl.gz"
    if path.is_file() and read_bank(path).sha256 != bank.sha256:
        raise UserError(f"{path} holds other plans; choose another --name, or delete it")
    write_bank(replace(bank, path=path))
    return path


def _study(folder: Path) -> tuple[dict[str, Any], Mapping[str, PlanRow]]:
    """The protocol and the plans of a study's folder. UserError if no study was started there."""
    with Store(folder / "rows.sqlite", write=False) as store:
        held, plans = store.get("protocol"), store.plans()
    if held is None:
        raise UserError(f"{folder}: no study was started there; run triaxis diagnose --out {folder}")
    return read_protocol(held, folder, PLANS), plans


def flags(plan: Plan, item: Item) -> dict[str, Any]:
    """One plan with what it says of itself, as plain data: its detail, its text, its length and whether it was cut."""
    told = parse_json(detail(plan.text, item, plan.implied, plan.unchanged))
    return {"item": item.id, "text": plan.text, "tokens": plan.tokens, "truncated": plan.truncated, **told}


def rates(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over `flags`: n and the shares truncated, leaking, unchanged and with right steps.

    `steps_right` is a share of the plans it is known of, and None where it is known of none.
    """
    n = len(told)
    known = [f["steps_right"] for f in told if f["steps_right"] is not None]
    counts = {name: sum(bool(f.get(name)) for f in told) for name in ("truncated", "leaks", "unchanged")}
    shares = {name: count / n if n else None for name, count in counts.items()}
    return {"n": n, **shares, "steps_right": sum(known) / len(known) if known else None}
