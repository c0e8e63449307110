"""Manifests of sealed studies: the sha256 of every file of a folder, and the checksum of every row so that a change can
be named. Knows files and the store only; `study/integrity.py` says when a study may be sealed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from triaxis.errors import UserError
from triaxis.limits import check_form, parse_json, read_text, stream_lines
from triaxis.store import SEAL, TABLES, Store
from triaxis.version import __version__

SUMS = "seal.rows"  # beside the manifest, and named in it
NAMED = 5  # changed rows that are spelled out
_KEYS = {"rows": "id", "plans": "id", "grades": "row"}
_FORM = {"seal": int, "files": {"*": {"bytes": int, "sha256": str}}, "tables": {"*": str}}
Told = tuple[str, str]  # where, and what is said of it
Sum = tuple[tuple[int, bytes], str]  # (table, id) and checksum, in the order in which both lists lie


def write_manifest(store: Store, folder: Path) -> None:
    """Write seal.rows and seal.json; the caller holds the folder's lock. UserError where the disk refuses."""
    try:
        with (folder / SUMS).open("w", encoding="utf-8", newline="\n") as f:
            f.writelines(line + "\n" for line in _sums(store))
        manifest = {
            "seal": 1,
            "triaxis": __version__,
            "tables": {table: str(store.tally(table)) for table in TABLES},
            "files": {name: _entry(folder / name) for name in sorted(_files(folder))},
        }
        scratch = folder / (SEAL + ".partial")
        scratch.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        scratch.replace(folder / SEAL)
    except OSError as e:
        raise UserError(f"{folder}: cannot write its seal ({e.strerror}); the study is as it was") from None


def differences(store: Store, folder: Path, expected: str = "") -> Iterator[Told]:
    """What of a folder is not as its manifest says; expected: the manifest's sha256, or its beginning."""
    if expected and not digest_of(folder).startswith(expected.lower()):
        yield SEAL, f"its sha256 is not {expected[:64]}: it was made anew or taken away"
    try:
        manifest = parse_json(read_text(folder / SEAL, "card"))
        check_form(manifest, _FORM)
    except FileNotFoundError:
        return
    except (ValueError, OSError) as e:
        yield SEAL, f"damaged ({e})"
        return
    there = set(_files(folder))
    for name, entry in manifest["files"].items():
        if name not in there:
            yield name, "was sealed and is not there"
        elif _entry(folder / name) != entry:
            yield name, "was changed after the study was sealed"
            if name == "rows.sqlite":
                yield from _changed_rows(store, folder)
    yield from ((name, "was added after the study was sealed") for name in sorted(there - set(manifest["files"])))


def digest_of(folder: Path) -> str:
    """sha256 of a folder's manifest; "" without one."""
    return str(_entry(folder / SEAL)["sha256"]) if (folder / SEAL).is_file() else ""


def _files(folder: Path) -> Iterator[str]:
    """Names of everything in a study's folder but the manifest and what starts with a dot."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.name != SEAL and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}


# ---------------------------------------------------------------- rows


def _sums(store: Store) -> Iterator[str]:
    """One line a row of every table: table, checksum, id. By id within a table, as SQLite orders bytes."""
    for table in TABLES:
        for key, held in store.ask(f"SELECT {_KEYS[table]}, checksum FROM {table} ORDER BY 1"):
            yield f"{table} {held & (1 << 64) - 1:016x} {json.dumps(key, ensure_ascii=False)}"


def _changed_rows(store: Store, folder: Path) -> Iterator[Told]:
    """Which rows differ from the sealed checksums."""
    then = (line.decode("utf-8", "replace") for line in stream_lines(folder / SUMS))
    try:
        yield from islice(_walk(_split(then), _split(_sums(store))), NAMED)
    except (UserError, OSError, ValueError, LookupError, TypeError) as e:
        yield SUMS, f"the changed rows cannot be named ({e})"


def _split(lines: Iterator[str]) -> Iterator[Sum]:
    order = {table: k for k, table in enumerate(TABLES)}
    for line in lines:
        table, held, key = line.split(" ", 2)
        yield (order[table], str(parse_json(key)).encode()), held


def _walk(then: Iterator[Sum], now: Iterator[Sum]) -> Iterator[Told]:
    """Along both lists at once, in constant memory."""
    a, b = next(then, None), next(now, None)
    while a or b:
        first = min(x[0] for x in (a, b) if x)
        mine, other = a is not None and a[0] == first, b is not None and b[0] == first
        if not (mine and other and a[1] == b[1]):  # type: ignore[index]
            table = list(TABLES)[first[0]]
            how = "was changed" if mine and other else "is gone" if mine else "was added"
            yield table, f"{table.removesuffix('s')} {first[1].decode()!r} {how}"
        a, b = next(then, None) if mine else a, next(now, None) if other else b
