"""What is left of a damaged store: every row whose checksum is still its own, read from the file page by page.

SQLite gives up at the first page it cannot follow. Here no page is followed from another but for the overflow chain of
a long row: each page of a table's tree is read by itself, and a row counts only if its checksum is right. So a damaged
page costs the rows on it and no others. Rows and plans are written once and never changed, so that a page SQLite no
longer uses can hold no other version of them; grades and other entries change, and are taken only where SQLite itself
can still read them. File format: https://www.sqlite.org/fileformat2.html. Knows the store only.
"""

from __future__ import annotations

import mmap
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from triaxis.errors import UserError
from triaxis.store import GradeRow, PlanRow, Row, Store, lock, made, refuse_sealed, sound
from triaxis.store.checksums import Tally, checksum

_BAD = (ValueError, IndexError, struct.error, UnicodeDecodeError, OverflowError)
_WIDTHS = {len(fields(kind)) + 1: kind for kind in (Row, PlanRow)}
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type -> bytes
_ONCE = ("protocol", "prereg", "price_per_hour")  # entries that are written once


@dataclass
class Salvaged:
    """Sound rows and plans by id, sound grades of those rows, and the entries that can be trusted."""

    rows: dict[str, Row] = field(default_factory=dict)
    plans: dict[str, PlanRow] = field(default_factory=dict)
    grades: dict[str, GradeRow] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    acknowledged: int | None = None  # rows the store said it had written; None where that is lost too


def salvage(path: Path) -> Salvaged:
    """Everything sound in a store of the newest schema. OSError where the file cannot be read."""
    found, old = Salvaged(), dict[str, str]()
    with path.open("rb") as f, closing(_mapped(f.fileno())) as data:
        pages = _Pages(data, path.with_name(path.name + "-wal"))
        for number in pages.numbers():
            for values in _records(pages, number):
                _take(found, old, values)
    live = _live_meta(path)
    found.meta = {k: v for k, v in old.items() if k in _ONCE} | live
    with suppress(ValueError):
        found.acknowledged = Tally.parse(live.get("tally:rows", old.get("tally:rows", ""))).rows
    found.grades = {k: g for k, g in _live_grades(path).items() if k in found.rows}
    return found


def repair(path: Path, found: Salvaged) -> Path:
    """Put a new store with what was salvaged in the place of a damaged one; where the damaged one is kept.

    UserError where another run is writing there, the study is sealed, or the disk refuses; then nothing has changed.
    """
    refuse_sealed(path.parent)
    whole = len(found.grades) == len(found.rows)
    with lock(path.parent), TemporaryDirectory(prefix=".repairing-", dir=path.parent) as scratch:
        with Store(Path(scratch) / "rows.sqlite", write=True) as store:
            store.append([*found.plans.values(), *found.rows.values()])
            store.replace_grades(found.grades.values())
            for key, value in found.meta.items():
                if key in _ONCE or key == "seconds" or (whole and key in ("grader", "items")):
                    store.set(key, value)
        kept = next(p for p in map(path.with_name, _names()) if not p.exists())
        try:
            for end in ("-wal", "-shm", ""):
                if (beside := path.with_name(path.name + end)).exists():
                    beside.rename(kept.with_name(kept.name + end))
            store.path.rename(path)
        except OSError as e:
            raise UserError(f"{path}: cannot be replaced ({e.strerror}); the damaged store is {kept}") from None
    return kept


def _names() -> Iterator[str]:
    yield "rows.damaged.sqlite"
    yield from (f"rows.damaged-{k}.sqlite" for k in range(2, 1000))


# ---------------------------------------------------------------- what SQLite can still read


def _ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    quoted = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        with closing(sqlite3.connect(f"file:{quoted}?mode=ro", uri=True)) as db:
            db.execute("PRAGMA trusted_schema=OFF")
            return db.execute(query).fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return []


def _live_meta(path: Path) -> dict[str, str]:
    found = _ask(path, "SELECT key, value, checksum FROM meta")
    return {key: value for key, value, held in found if held == checksum((key, value))}


def _live_grades(path: Path) -> dict[str, GradeRow]:
    found = _ask(path, "SELECT * FROM grades")
    return {g[0]: made(GradeRow, g[:-1]) for g in found if sound(GradeRow, g[:-1], g[-1])}


# ---------------------------------------------------------------- pages


def _mapped(handle: int) -> Any:
    try:
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    except ValueError:  # an empty file
        return mmap.mmap(-1, 1)


class _Pages:
    """Pages by number, from 1; what the log of a killed writer holds of them comes first."""

    def __init__(self, data: Any, wal: Path) -> None:
        size = int.from_bytes(data[16:18], "big") if len(data) >= 100 else 0
        self.size = 65536 if size == 1 else size if size in [512 << k for k in range(7)] else 4096
        self.usable = self.size - (data[20] if len(data) > 20 and data[20] <= 32 else 0)
        self.data, self.count = data, len(data) // self.size
        self.log = {} if not wal.is_file() else self._frames(wal.read_bytes())

    def _frames(self, log: bytes) -> dict[int, bytes]:
        salts, step = log[16:24], 24 + self.size
        frames = (log[at : at + step] for at in range(32, len(log) - step + 1, step))
        return {int.from_bytes(f[:4], "big"): f[24:] for f in frames if f[8:16] == salts}

    def numbers(self) -> Iterator[int]:
        yield from sorted({*range(1, self.count + 1), *self.log})

    def __getitem__(self, number: int) -> bytes:
        if number in self.log:
            return self.log[number]
        if not 1 <= number <= self.count:
            raise IndexError(number)
        return bytes(self.data[(number - 1) * self.size : number * self.size])


_INNER, _LEAF, _TABLE = 2, 10, 13  # kinds of pages that hold records: of an index's tree, leaves of a table's


def _records(pages: _Pages, number: int) -> Iterator[list[Any]]:
    """Values of every cell of a page that can be decoded, if it is a page of a tree that holds records."""
    page = pages[number]
    start = 100 if number == 1 else 0
    kind = page[start]
    if kind not in (_INNER, _LEAF, _TABLE):
        return
    first = start + (12 if kind == _INNER else 8)
    for k in range(min(int.from_bytes(page[start + 3 : start + 5], "big"), pages.size // 2)):
        at = int.from_bytes(page[first + 2 * k : first + 2 * k + 2], "big") + (4 if kind == _INNER else 0)
        with suppress(*_BAD):
            yield _decoded(_payload(pages, page, at, kind))


def _payload(pages: _Pages, page: bytes, at: int, kind: int) -> bytes:
    size, at = _varint(page, at)
    if kind == _TABLE:
        _, at = _varint(page, at)  # the rowid
    usable = pages.usable
    if size > 1 << 30:
        raise ValueError(size)
    least = (usable - 12) * 32 // 255 - 23
    most = usable - 35 if kind == _TABLE else (usable - 12) * 64 // 255 - 23
    kept = least + (size - least) % (usable - 4)
    local = size if size <= most else kept if kept <= most else least
    parts, held = [page[at : at + local]], local
    following = int.from_bytes(page[at + local : at + local + 4], "big")
    while held < size:
        more = pages[following]
        following, part = int.from_bytes(more[:4], "big"), more[4:usable]
        parts.append(part)
        held += len(part)
    return b"".join(parts)[:size]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(8):
        byte = data[at + k]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at + k + 1
    return value << 8 | data[at + 8], at + 9


def _decoded(payload: bytes) -> list[Any]:
    """The values of a record. Errors of `_BAD` where it is none."""
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Any] = []
    for kind in kinds:
        size = _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)
        raw, at = payload[at : at + size], at + size
        if len(raw) != size:
            raise ValueError(kind)
        values.append(_value(kind, raw))
    return values


def _count(text: str) -> int:
    return int(text.split(" ")[0]) if text[:1].isdigit() and text.split(" ")[0].isdigit() else -1


def _value(kind: int, raw: bytes) -> Any:
    if kind in _INTEGERS:
        return int.from_bytes(raw, "big", signed=True)
    if kind == 7:
        return struct.unpack(">d", raw)[0]
    if kind in (8, 9):
        return kind - 8
    return raw.decode() if kind >= 12 and kind % 2 else raw if kind >= 12 else None


def _take(found: Salvaged, meta: dict[str, str], values: Sequence[Any]) -> None:
    """Keep a record that is a sound row, plan or entry; anything else is none of ours."""
    *plain, held = values or [None]
    entry = len(values) == 3 and all(isinstance(v, str) for v in plain) and held == checksum(plain)
    if entry and _count(plain[1]) >= _count(meta.get(plain[0], "")):  # old pages are read too: a count only grows
        meta[plain[0]] = plain[1]
    kind = _WIDTHS.get(len(values))
    if kind is None:
        return
    typed = [float(v) if f.type == "float" and type(v) is int else v for f, v in zip(fields(kind), plain, strict=True)]
    if sound(kind, typed, held):
        row: Any = made(kind, typed)
        (found.rows if kind is Row else found.plans)[row.id] = row
