"""The row store: one SQLite file in WAL mode. Rows are appended once, never overwritten.

A row's id is the hash of everything that can change it, so two different runs can share a file without
overwriting each other, and a killed run goes on with what is missing. Grades are a second pass in their
own table. Every row carries a checksum that is looked at whenever it is read, and every table a tally of them, so that
a row the disk changed or lost is refused and never counted. Knows nothing of models, tasks or statistics.

Beside it, what else is done with a study's files: older schemas (`migrations.py`), protocol cards, damage undone
(`salvage.py`), seals, other programs' formats (`exchange.py`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

from triaxis.errors import UserError
from triaxis.store.checksums import Tally, checksum
from triaxis.store.migrations import COLUMNS, migrate, set_meta

SCHEMA = "3"
SEAL = "seal.json"  # in a study's folder: the manifest of a sealed study (`seals.py`)
LONGEST = 64 << 20  # bytes of one value, such as a prompt or a trace
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One completion of one (item, condition, branch)."""

    id: str
    condition: str
    item: str
    branch: int
    seed: int
    plan: str  # id of the plan shown, "" if none
    prompt: str
    text: str
    tokens: int  # canvas tokens read by the forward passes
    forwards: int
    ended: bool  # an end mark was committed; False: truncated by the canvas
    length: int = 0  # tokens of the answer, end marks not counted
    confidence: float = 0.0  # mean log probability of those tokens when they were committed
    trace: str = ""  # JSON: "order", the step that committed each token; "path", [text, steps] as predicted on the way


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One plan, made once and shared by every arm that shows it."""

    id: str
    item: str
    source: str
    seed: int
    text: str
    tokens: int
    truncated: bool
    detail: str  # what else its source says of it, as JSON


@dataclass(frozen=True, slots=True)
class GradeRow:
    """The grade of one row by one grader version."""

    row: str
    verdict: str
    answer: str
    how: str
    second: int  # second grader: 1 right, 0 wrong, -1 not asked


def identity(spec: Mapping[str, object]) -> str:
    """Sixteen hex digits over a spec of plain data; key order does not matter."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


TABLES: Mapping[str, Any] = {"rows": Row, "plans": PlanRow, "grades": GradeRow}
_NAMES = {kind: name for name, kind in TABLES.items()}
_SQL = {"str": "TEXT", "int": "INTEGER", "bool": "INTEGER", "float": "REAL"}
_PYTHON: Mapping[str, type] = {"str": str, "int": int, "bool": int, "float": float}  # as SQLite gives them back
_KINDS: Mapping[Any, tuple[type, ...]] = {
    kind: tuple(_PYTHON[str(f.type)] for f in fields(kind)) for kind in TABLES.values()
}
_BOOLS: Mapping[Any, tuple[int, ...]] = {
    kind: tuple(i for i, f in enumerate(fields(kind)) if f.type == "bool") for kind in TABLES.values()
}
_VALUES: Mapping[Any, attrgetter[tuple[Any, ...]]] = {
    kind: attrgetter(*(f.name for f in fields(kind))) for kind in TABLES.values()
}
# not OR IGNORE, which would also drop a row that breaks NOT NULL
_INSERT: Mapping[Any, str] = {
    kind: f"INSERT INTO {name} VALUES ({'?, ' * len(fields(kind))}?) ON CONFLICT ({fields(kind)[0].name}) DO NOTHING"
    for name, kind in TABLES.items()
}


def _columns(table: str) -> tuple[str, ...]:
    return (*((f.name for f in fields(TABLES[table])) if table in TABLES else ("key", "value")), "checksum")


def _create(table: str) -> str:
    kinds = {f.name: _SQL[str(f.type)] for f in fields(TABLES[table])} if table in TABLES else {}
    default = {"checksum": "INTEGER"}
    columns = [f"{name} {kinds.get(name, default.get(name, 'TEXT'))} NOT NULL" for name in _columns(table)]
    columns[0] += " PRIMARY KEY"
    # rows and plans stand in the order of their coming: in that of their hashes each would dirty another page, and a
    # value of more than a quarter page would take a page of its own
    return f"CREATE TABLE {table} ({', '.join(columns)})" + ("" if table in ("rows", "plans") else " WITHOUT ROWID")


def plain(row: Row | PlanRow | GradeRow) -> tuple[Any, ...]:
    """A row's values as SQLite will give them back: booleans as 0 and 1, floats as floats, no negative zero."""
    values = zip(_VALUES[type(row)](row), _KINDS[type(row)], strict=True)
    return tuple([v if made is str or v is None else made(v) + 0 for v, made in values])


class Store:
    """An open store. One writer at a time: a second writer on the same folder is refused, and any on a sealed one."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open `path`; with `write`, create it if needed and lock its folder.

        A store of an older schema is migrated by the first writer; a reader leaves the file as it is and reads a
        migrated copy. UserError if it is no store of ours, and then nothing in it has been changed.
        """
        self.path = path
        if not write and not path.is_file():
            raise UserError(f"{path}: there is no such file; give the folder of a finished or running study")
        if write:
            refuse_sealed(path.parent)
        else:
            _roll_back(path)
        with ExitStack() as opened:
            if write:
                opened.enter_context(lock(path.parent))
            try:
                self._db = opened.enter_context(closing(_connect(path, write=write)))
                schema = self._schema(_another(write))
                if write:
                    opened.enter_context(_wal(self._db))
                    self._create() if not schema else self._migrate(schema)
                elif not schema:
                    raise UserError(f"{path}: no study was started there yet; give the folder of a study")
                elif schema != SCHEMA:
                    self._db = opened.enter_context(closing(_migrated(self._db, schema)))
            except (sqlite3.Error, UnicodeDecodeError) as e:
                raise UserError(_said(e, "not a triaxis row store", path, _another(write))) from None
            self._opened = opened.pop_all()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _schema(self, remedy: str) -> str:
        """The schema of the file, "" while it is empty. UserError where it is not ours, before anything is written."""
        tables = sorted(name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        if not tables:
            return ""
        if not {"meta", *TABLES} <= set(tables):
            raise UserError(f"{self.path}: not a triaxis row store (it holds {', '.join(tables)}); {remedy}")
        held = {t: tuple(str(c[1]) for c in self._db.execute(f"PRAGMA table_info({t})")) for t in ("meta", *TABLES)}
        found = None
        if held["meta"][:2] == ("key", "value"):
            found = next(iter(self._db.execute("SELECT value FROM meta WHERE key = 'schema'")), ("none",))[0]
            if found != SCHEMA and found not in COLUMNS:
                raise UserError(f"{self.path}: store schema {found} is not {SCHEMA}; use the triaxis that made it")
        known = COLUMNS.get(str(found)) or {t: _columns(t) for t in ("meta", *TABLES)}
        for name, columns in known.items():
            if held[name] != columns:
                raise UserError(f"{self.path}: not a triaxis row store (its table {name} has other columns); {remedy}")
        return str(found)

    def _create(self) -> None:
        with self._transaction():
            for name in (*TABLES, "meta"):
                self._db.execute(_create(name))
            for name in TABLES:
                set_meta(self._db, f"tally:{name}", str(Tally()))
            set_meta(self._db, "schema", SCHEMA)

    def _migrate(self, schema: str) -> None:
        if schema != SCHEMA:
            with self._transaction():
                migrate(self._db, schema)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, durable when it ends. UserError where the disk is full or the file cannot be written."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as e:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if isinstance(e, sqlite3.Error):
                safe = "rows already written are safe: free space, then run again"
                raise UserError(_said(e, "could not write", self.path, safe)) from None
            raise

    def ask(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        """What SQLite answers to a query, unchecked. UserError where the file is damaged."""
        try:
            yield from self._db.execute(query, values)
        except (sqlite3.Error, UnicodeDecodeError) as e:
            remedy = "restore it from a copy, or run in another folder"
            raise UserError(_said(e, "could not be read", self.path, remedy)) from None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reading inside sees the store of one moment, whatever another process appends."""
        list(self.ask("BEGIN"))
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._db.execute("COMMIT")

    def append(self, rows: Iterable[Row | PlanRow | GradeRow], **meta: str) -> None:
        """Append in one transaction, durable when this returns. A row that is there already stays as it is.

        meta: values set in the same transaction; a transaction of their own would wait for the disk once more.
        """
        with self._transaction():
            self._add(rows)
            for key, value in meta.items():
                set_meta(self._db, key, value)

    def replace_grades(self, grades: Iterable[GradeRow]) -> None:
        """Replace all grades in one transaction: grading is a second pass over stored text."""
        with self._transaction():
            self._db.execute("DELETE FROM grades")
            set_meta(self._db, "tally:grades", str(Tally()))
            self._add(grades)

    def _add(self, rows: Iterable[Row | PlanRow | GradeRow]) -> None:
        added: dict[str, list[int]] = {}
        for row in rows:
            values = plain(row)
            made = checksum(values)
            if self._db.execute(_INSERT[type(row)], (*values, made)).rowcount:
                added.setdefault(_NAMES[type(row)], []).append(made)
        for table, sums in added.items():
            set_meta(self._db, f"tally:{table}", str(self.tally(table).plus(sums)))

    def tally(self, table: str) -> Tally:
        """How many rows of a table were acknowledged, and the sum of their checksums. UserError where it is damaged."""
        try:
            return Tally.parse(self.get(f"tally:{table}") or "")
        except ValueError:
            raise UserError(f"{self.path}: its count of {table} is damaged; {_repair(self.path)}") from None

    def row_ids(self) -> set[str]:
        """Ids of all rows present. Of the rows and not of their index: by a damaged entry a row would be made twice."""
        return {id for (id,) in self.ask("SELECT id FROM rows NOT INDEXED")}

    def rows(self, condition: str | None = None) -> list[Row]:
        """All rows, or those of one condition, ordered by condition, item, seed and branch."""
        return list(self.stream(condition))

    def stream(self, condition: str | None = None) -> Iterator[Row]:
        """As `rows`, one at a time, so that memory does not grow with the study."""
        where, values = ("", ()) if condition is None else ("WHERE condition = ? ", (condition,))
        return self._sound(Row, f"{where}ORDER BY condition, item, seed, branch, id", *values)

    def places(self, *, ungraded: bool = False) -> Sequence[int]:
        """Where all rows stand, or those without a grade, in the order of their coming; in a store open for writing."""
        where = "WHERE id NOT IN (SELECT row FROM grades)" if ungraded else ""
        return array("q", (place for (place,) in self.ask(f"SELECT rowid FROM rows NOT INDEXED {where}")))

    def at(self, places: Sequence[int]) -> list[Row]:
        """The rows at not more than 999 places."""
        return list(self._sound(Row, f"WHERE rowid IN ({', '.join(map(str, places))})"))

    def plans(self) -> dict[str, PlanRow]:
        """All plans by id."""
        return {p.id: p for p in self._sound(PlanRow, "ORDER BY id")}

    def grades(self) -> dict[str, GradeRow]:
        """All grades by row id."""
        return {g.row: g for g in self._sound(GradeRow, "ORDER BY row")}

    def values(self, table: str) -> Iterator[tuple[Any, ...]]:
        """Values of every row of a table as SQLite keeps them, in the order of their ids. Errors as `rows`."""
        for *found, held in self.ask(f"SELECT * FROM {table} ORDER BY 1"):
            self._check(TABLES[table], found, held)
            yield tuple(found)

    def graded(self) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...] | None]]:
        """Values of every row as SQLite keeps them, in the order of `rows`, each with those of its grade."""
        width = len(_columns("rows"))
        order = "ORDER BY condition, item, seed, branch, id"
        for found in self.ask(f"SELECT * FROM rows LEFT JOIN grades ON grades.row = rows.id {order}"):
            row, grade = found[: width - 1], found[width:-1]
            self._check(Row, row, found[width - 1])
            if grade[0] is None:
                yield row, None
            else:
                self._check(GradeRow, grade, found[-1])
                yield row, grade

    def _check(self, kind: Callable[..., object], values: Sequence[Any], held: object) -> None:
        if not sound(kind, values, held):
            raise UserError(f"{self.path}: {damaged(kind, values)} is damaged; {_repair(self.path)}")

    def _sound(self, kind: Callable[..., T], clause: str, *values: str) -> Iterator[T]:
        """Rows of a table. UserError at the first whose checksum is not that of its values."""
        for *found, held in self.ask(f"SELECT * FROM {_NAMES[kind]} {clause}", *values):
            self._check(kind, found, held)
            yield made(kind, found)

    def meta(self) -> dict[str, str]:
        """All meta values by key."""
        found = self.ask("SELECT key FROM meta ORDER BY key")
        return {str(key): self.get(str(key)) or "" for (key,) in list(found)}

    def get(self, key: str) -> str | None:
        """A meta value. UserError where its checksum is not its own."""
        for value, held in self.ask("SELECT value, checksum FROM meta WHERE key = ?", key):
            if held != checksum((key, value)):
                raise UserError(f"{self.path}: its entry {key!r} is damaged; {_repair(self.path)}")
            return str(value)
        return None

    def set(self, key: str, value: str) -> None:
        """Set a meta value."""
        with self._transaction():
            set_meta(self._db, key, value)


def sound(kind: Callable[..., object], values: Sequence[Any], held: object) -> bool:
    """Whether values are of their columns' kinds, which SQLite does not see to, and have this checksum."""
    return tuple(map(type, values)) == _KINDS[kind] and held == checksum(values)


def made(kind: Callable[..., T], values: Sequence[Any]) -> T:
    """A row from its columns; SQLite has no booleans."""
    plain = list(values)
    for at in _BOOLS[kind]:
        plain[at] = bool(plain[at])
    return kind(*plain)


def damaged(kind: Callable[..., object], values: Sequence[Any]) -> str:
    """What a damaged row says of itself: "row 'ab' of condition 'none', item 'i'"."""
    names = {Row: "of condition {1!r}, item {2!r}, branch {3}", PlanRow: "of item {1!r}, source {2!r}", GradeRow: ""}
    return f"{_NAMES[kind].removesuffix('s')} {values[0]!r} {names[kind].format(*values)}".rstrip()  # type: ignore[index]


def refuse_sealed(folder: Path) -> None:
    """UserError where a folder, or the one it lies in, holds a sealed study, into which nothing is written."""
    for place in (folder, folder.parent):
        if (place / SEAL).exists():
            raise UserError(
                f"{place} is sealed and nothing is written into it; work on a copy without {SEAL}, or choose another "
                "folder"
            )


def _another(write: bool) -> str:
    return "choose another --out" if write else "give the folder of a study"


def _repair(path: Path) -> str:
    return f"run triaxis verify {path.parent} --repair, then run the study again"


# what SQLite's error codes begin with -> the next move; a folder's name is filled in
_MOVES: Mapping[str, str] = {
    "SQLITE_CORRUPT": "run triaxis verify {folder} --repair, then run the study again",
    "SQLITE_NOTADB": "{remedy}; if it was a store, run triaxis verify {folder} --repair",
    "SQLITE_FULL": "rows already written are safe: free space, then run again",
    "SQLITE_IOERR": "rows already written are safe: free space, then run again",
    "SQLITE_READONLY": "copy {folder} to where you may write, or choose another --out",
    "SQLITE_CANTOPEN": "{remedy}; if {folder} cannot be written, copy it to where you may write",
    "SQLITE_BUSY": "another program has it open: wait for it, then run again",
}


def _said(e: Exception, what: str, path: Path, remedy: str) -> str:
    """What SQLite says, and the next move: "FILE: could not write (disk full); free space, then run again"."""
    name = "SQLITE_CORRUPT" if isinstance(e, UnicodeDecodeError) else str(getattr(e, "sqlite_errorname", ""))
    move = next((m for code, m in _MOVES.items() if name.startswith(code)), "{remedy}")
    return f"{path}: {what} ({e}); {move.format(folder=path.parent, remedy=remedy)}"


def _roll_back(path: Path) -> None:
    """What a power cut left half changed in the file is undone, as the next writer would do it; a reader could not."""
    if path.with_name(f"{path.name}-journal").exists() and not (path.parent / SEAL).exists():
        with suppress(UserError, sqlite3.Error), lock(path.parent), closing(_connect(path, write=True)) as db:
            db.execute("SELECT 1 FROM sqlite_master").fetchall()


def _migrated(db: sqlite3.Connection, schema: str) -> sqlite3.Connection:
    """A copy of an older store in a temporary file of SQLite's own, migrated; gone when it is closed."""
    copy = sqlite3.connect("", isolation_level=None)
    copy.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    copy.execute("PRAGMA trusted_schema=OFF")
    db.backup(copy)
    migrate(copy, schema)
    copy.execute("PRAGMA query_only=ON")
    return copy


def _connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """A connection without implicit transactions."""
    quoted = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    db = sqlite3.connect(f"file:{quoted}?mode={'rwc' if write else 'ro'}", uri=True, isolation_level=None)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    db.execute("PRAGMA trusted_schema=OFF")  # what a file from elsewhere defines calls no function with side effects
    return db


@contextmanager
def _wal(db: sqlite3.Connection) -> Iterator[None]:
    """Write-ahead logging while a writer is at work; afterwards one file again, to copy or to read on any medium."""
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    yield
    with suppress(sqlite3.Error):  # a reader is at work: the next writer will do it
        db.execute("PRAGMA busy_timeout=0")
        db.execute("PRAGMA journal_mode=DELETE")


def lock(folder: Path) -> TextIO:
    """An exclusive lock on a folder, held until closed; freed by the system when the process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a")
    except OSError as e:
        raise UserError(f"{folder}: cannot write there ({e.strerror}); choose another --out") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise UserError(f"{folder}: another run is writing there; wait for it or choose another --out") from None
    return handle
