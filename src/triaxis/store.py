"""The row store: one SQLite file in WAL mode. Rows are appended once, never overwritten.

A row's id is the hash of everything that can change it, so two different runs can share a file without
overwriting each other, and a killed run goes on with what is missing. Grades are a second pass in their
own table. Knows nothing of models, tasks or statistics.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

from triaxis.errors import UserError

SCHEMA = "2"
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


_TABLES = {"rows": Row, "plans": PlanRow, "grades": GradeRow}
_NAMES = {kind: name for name, kind in _TABLES.items()}
_KINDS: Mapping[Any, tuple[type, ...]] = {
    kind: tuple({"str": str, "float": float}.get(str(f.type), int) for f in fields(kind)) for kind in _TABLES.values()
}
_BOOLS: Mapping[Any, frozenset[int]] = {
    kind: frozenset(i for i, f in enumerate(fields(kind)) if f.type == "bool") for kind in _TABLES.values()
}
_SQL = {"str": "TEXT", "int": "INTEGER", "bool": "INTEGER", "float": "REAL"}


def _create(name: str, kind: type[Row | PlanRow | GradeRow]) -> str:
    columns = [f"{f.name} {_SQL[str(f.type)]} NOT NULL" for f in fields(kind)]
    columns[0] += " PRIMARY KEY"
    return f"CREATE TABLE {name} ({', '.join(columns)}) WITHOUT ROWID"


def _insert(row: Row | PlanRow | GradeRow) -> tuple[str, tuple[object, ...]]:
    values = astuple(row)
    marks = ", ".join("?" * len(values))
    key = fields(row)[0].name  # not OR IGNORE, which would also drop a row that breaks NOT NULL
    return f"INSERT INTO {_NAMES[type(row)]} VALUES ({marks}) ON CONFLICT ({key}) DO NOTHING", values


class Store:
    """An open store. One writer at a time: a second writer on the same folder is refused."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open `path`; with `write`, create it if needed and lock its folder.

        UserError if it is no store of ours, and then nothing in it has been changed.
        """
        self.path = path
        if not write and not path.is_file():
            raise UserError(f"{path}: there is no such file; give the folder of a finished or running study")
        with ExitStack() as opened:
            if write:
                opened.enter_context(_lock(path.parent))
            try:
                self._db = opened.enter_context(closing(_connect(path, write=write)))
                new = self._is_new(_another(write))
                if write:
                    opened.enter_context(_wal(self._db))
                if write and new:
                    self._create()
                elif new:
                    raise UserError(f"{path}: no study was started there yet; give the folder of a study")
            except (sqlite3.Error, UnicodeDecodeError) as e:
                raise UserError(f"{path}: not a triaxis row store ({e}); {_another(write)}") from None
            self._opened = opened.pop_all()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _is_new(self, remedy: str) -> bool:
        """Whether the file is still empty. UserError where it is not ours, before anything is written."""
        tables = sorted(name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        if tables and not {"meta", *_TABLES} <= set(tables):
            raise UserError(f"{self.path}: not a triaxis row store (it holds {', '.join(tables)}); {remedy}")
        for name, kind in _TABLES.items() if tables else ():
            held = [str(c[1]) for c in self._db.execute(f"PRAGMA table_info({name})")]
            if held != [f.name for f in fields(kind)]:
                raise UserError(f"{self.path}: not a triaxis row store (its table {name} has other columns); {remedy}")
        found = self.get("schema") if tables else SCHEMA
        if found != SCHEMA:
            raise UserError(f"{self.path}: store schema {found} is not {SCHEMA}; use the triaxis that made it")
        return not tables

    def _create(self) -> None:
        with self._transaction():
            for name, kind in _TABLES.items():
                self._db.execute(_create(name, kind))
            self._db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._db.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA,))

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
                raise UserError(f"{self.path}: could not write ({e}); {safe}") from None
            raise

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as e:
            raise UserError(
                f"{self.path}: could not be read ({e}); restore it from a copy, or run in another folder"
            ) from None

    def append(self, rows: Iterable[Row | PlanRow | GradeRow]) -> None:
        """Append in one transaction, durable when this returns. A row that is there already stays as it is."""
        with self._transaction():
            for row in rows:
                self._db.execute(*_insert(row))

    def replace_grades(self, grades: Iterable[GradeRow]) -> None:
        """Replace all grades in one transaction: grading is a second pass over stored text."""
        with self._transaction():
            self._db.execute("DELETE FROM grades")
            for grade in grades:
                self._db.execute(*_insert(grade))

    def row_ids(self) -> set[str]:
        """Ids of all rows present."""
        return {id for (id,) in self._read("SELECT id FROM rows")}

    def rows(self, condition: str | None = None) -> list[Row]:
        """All rows, or those of one condition, ordered by condition, item, seed and branch."""
        where, values = ("", ()) if condition is None else ("WHERE condition = ? ", (condition,))
        found = self._read(f"SELECT * FROM rows {where}ORDER BY condition, item, seed, branch, id", *values)
        return [_made(Row, values) for values in found]

    def plans(self) -> dict[str, PlanRow]:
        """All plans by id."""
        return {values[0]: _made(PlanRow, values) for values in self._read("SELECT * FROM plans ORDER BY id")}

    def grades(self) -> dict[str, GradeRow]:
        """All grades by row id."""
        return {values[0]: _made(GradeRow, values) for values in self._read("SELECT * FROM grades ORDER BY row")}

    def get(self, key: str) -> str | None:
        """A meta value."""
        found = self._read("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0][0]) if found else None

    def set(self, key: str, value: str) -> None:
        """Set a meta value."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _made(kind: Callable[..., T], values: Sequence[Any]) -> T:
    """A row from its columns; SQLite has no booleans."""
    if tuple(map(type, values)) != _KINDS[kind]:  # SQLite keeps no column to its type
        raise UserError(f"row {values[0]!r}: a column holds another kind of value; restore the store from a copy")
    return kind(*(bool(v) if at in _BOOLS[kind] else v for at, v in enumerate(values)))


def _another(write: bool) -> str:
    return "choose another --out" if write else "give the folder of a study"


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


def _lock(folder: Path) -> TextIO:
    """An exclusive lock beside the store, held until closed; freed by the system when the process dies."""
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
