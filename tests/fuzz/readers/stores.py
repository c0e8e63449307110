"""Readers of foreign data: stores, their exports and seals."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.readers.base import TESTS, put, suppress_user


@cache
def study() -> Path:
    """A small made-up study's folder, for the whole run of the process."""
    sys.path.insert(0, str(TESTS))
    from made_study import write_study

    folder = Path(tempfile.mkdtemp(prefix="study-"))
    write_study(folder, n=3, planners={"tiny-planner-s": 100_000}, conditions=("none", "plan-empty", "gold-plan"))
    db = sqlite3.connect(folder / "rows.sqlite")
    db.execute("PRAGMA page_size=512")
    db.execute("VACUUM")
    from triaxis.store import Store
    from triaxis.study import Study

    protocol = json.dumps({**json.loads((folder / "protocol.json").read_text()), "spec": Study().spec()})
    (folder / "protocol.json").write_text(protocol)
    db.commit()
    db.close()
    with Store(folder / "rows.sqlite", write=True) as store:
        store.set("protocol", protocol)
        store.set("prereg", '{"hash": "ab", "stamped_at": "now", "rows_before": 0}')
    return folder


def store(data: bytes, place: Path) -> None:
    """The file as bytes: pages and headers damaged."""
    from triaxis.estimate.results import read
    from triaxis.store import Store

    path = put(place, "rows.sqlite", data)
    with Store(path, write=False) as store:
        store.rows(), store.plans(), store.grades(), store.get("protocol")
    read(path)


def salvaged(data: bytes, place: Path) -> None:
    """A damaged store read page by page; a row that comes back is one that was written."""
    from triaxis.store.salvage import salvage

    found = salvage(put(place, "rows.sqlite", data))
    known = _written()
    assert all(known.get(id) == row for id, row in found.rows.items())


@cache
def columns() -> tuple[bytes, Any]:
    """The study's columns as they are kept, and the study's cards."""
    from triaxis.store import Store
    from triaxis.study import kept
    from triaxis.study.gather import gather

    cards = json.loads((study() / "protocol.json").read_text())["conditions"]
    with Store(study() / "rows.sqlite", write=False) as store, tempfile.TemporaryDirectory() as folder:
        kept.keep(gather(store, cards), Path(folder), "stamp")
        return (Path(folder) / kept.FILE).read_bytes(), cards


def kept(data: bytes, place: Path) -> None:
    """Kept columns, those too that were changed together with their hash: numbers may be wrong, nothing may break."""
    from triaxis.estimate.columns import once
    from triaxis.study import kept

    put(place, kept.FILE, data)
    kept.load(place, "stamp")
    digest, held = kept._digest, sha256_of(data)
    kept._digest = lambda arrays: held  # type: ignore[assignment]
    try:
        found = kept.load(place, "stamp")
    finally:
        kept._digest = digest
    if found is not None:
        found.of, found.ungraded(), found.ids(slice(0, 9)), once(found, lambda name, branch: (name, False))


def sha256_of(data: bytes) -> str:
    """The hash that a safetensors file's metadata holds; "" where there is none."""
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        length = int.from_bytes(data[:8], "little")
        return str(json.loads(data[8 : 8 + length])["__metadata__"]["sha256"])
    return ""


@cache
def _written() -> Mapping[str, Any]:
    from triaxis.store import Store

    with Store(study() / "rows.sqlite", write=False) as store:
        return {r.id: r for r in store.rows()}


def exported(data: bytes, place: Path, name: str) -> None:
    """An export with changes: read as it was, or refused."""
    from triaxis.store import Store
    from triaxis.store.exchange import import_store, plans_beside

    path = put(place, name, data)
    if name.endswith("parquet"):
        put(place, plans_beside(path).name, export("plans.parquet"))
    out = place / "imported"
    shutil.rmtree(out, ignore_errors=True)
    import_store(path, out)
    with Store(out / "rows.sqlite", write=False) as store:
        assert {r.id: r for r in store.rows()} == _written()


@cache
def export(name: str) -> bytes:
    from triaxis.store import Store
    from triaxis.store.exchange import export_jsonl, export_parquet

    place = Path(tempfile.mkdtemp(prefix="export-"))
    with Store(study() / "rows.sqlite", write=False) as store:
        export_jsonl(store, place / "a.jsonl")
        if name.endswith("parquet"):
            export_parquet(store, place / "a.parquet")
    return (place / f"a.{name}").read_bytes()


def manifest(data: bytes, place: Path) -> None:
    from triaxis.store import Store
    from triaxis.store.seals import SUMS, differences

    (kind, _, rest) = data.partition(b"\n")
    put(place, "seal.json" if kind == b"0" else SUMS, rest)
    if kind != b"0":
        files = {"rows.sqlite": {"bytes": 0, "sha256": ""}}
        put(place, "seal.json", json.dumps({"seal": 1, "files": files, "tables": {}}).encode())
    put(place, "rows.sqlite", (study() / "rows.sqlite").read_bytes())
    with Store(place / "rows.sqlite", write=False) as store:
        list(differences(store, place, "ab"))


def manifest_seeds() -> list[bytes]:
    from triaxis.store import Store
    from triaxis.store.seals import _sums

    with Store(study() / "rows.sqlite", write=False) as store:
        sums = "\n".join(_sums(store))
    entry = {"bytes": 3, "sha256": "ab" * 32}
    manifest = {"seal": 1, "triaxis": "0", "tables": {"rows": "3 ab"}, "files": {"rows.sqlite": entry, "x": entry}}
    return [b"0\n" + json.dumps(manifest).encode(), b"1\n" + sums.encode()]


def cells(data: bytes, place: Path) -> None:
    """SQLite keeps no column to its type: a JSON list of [table, column, value] is written into a sound store."""
    from triaxis.cli.published import _same_answer
    from triaxis.estimate.prereg import standing
    from triaxis.estimate.results import read
    from triaxis.estimate.rows import audit_rows
    from triaxis.store import Store
    from triaxis.study import Study
    from triaxis.study.summary import held_protocol, summarise

    path = _spoiled(data, place)
    if path is None:
        return
    with suppress_user():
        audit_rows(read(path), same=_same_answer).as_dict()
    with suppress_user():
        Study.reopen(place)
    with Store(path, write=False) as store:
        with suppress_user():
            standing("ab", store.get("prereg"))
        with suppress_user():
            protocol = held_protocol(place)
            summarise(store, protocol)
        store.plans()


def _spoiled(data: bytes, place: Path) -> Path | None:
    """A sound store with some values changed; None where the changes themselves are none."""
    path = put(place, "rows.sqlite", (study() / "rows.sqlite").read_bytes())
    db = sqlite3.connect(path, isolation_level=None)
    try:
        _spoil_cells(db, json.loads(data))
    except (ValueError, TypeError, KeyError, sqlite3.Error, RecursionError, OverflowError):
        return None
    finally:
        db.close()
    return path


def reported(data: bytes, place: Path) -> None:
    """The page of a study whose store was changed."""
    from triaxis.report import render

    for name in ("summary.json", "protocol.json"):
        put(place, name, (study() / name).read_bytes())
    if _spoiled(data, place):
        render(place)


def _spoil_cells(db: sqlite3.Connection, changes: Any) -> None:
    from triaxis.store.checksums import checksum

    db.create_function("checksum", -1, lambda *values: checksum(values))
    columns = {t: [c[1] for c in db.execute(f"PRAGMA table_info({t})")] for t in ("rows", "plans", "grades", "meta")}
    for table, column, value in changes:
        name = columns[str(table)][int(column) % len(columns[str(table)])]
        plain = json.dumps(value) if isinstance(value, dict | list) else value
        raw = plain.encode("utf-8", "surrogatepass") if isinstance(plain, str) and "\ud800" in plain else plain
        key = columns[table][0]
        first = f"{key} = (SELECT min({key}) FROM {table})"
        db.execute(f"UPDATE {table} SET {name} = ? WHERE {first}", (raw,))
        if name != "checksum":  # of a hostile file they are right; without this every change would end at them
            db.execute(f"UPDATE {table} SET checksum = checksum({', '.join(columns[table][:-1])}) WHERE {first}")


def cell_seeds() -> list[bytes]:
    found = [[t, c, v] for t in ("rows", "plans", "grades", "meta") for c in range(14) for v in ("x", 1)]
    protocol = json.loads((study() / "protocol.json").read_text())
    return [b"[]", *(json.dumps([f]).encode() for f in found[::5]), json.dumps([["meta", 1, protocol]]).encode()]
