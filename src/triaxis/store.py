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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from types import TracebackType

from triaxis.errors import UserError

SCHEMA = 1


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
_SQL = {"str": "TEXT", "int": "INTEGER", "bool": "INTEGER"}


def _create(table: str) -> str:
    columns = [f"{f.name} {_SQL[str(f.type)]} NOT NULL" for f in fields(_TABLES[table])]
    columns[0] += " PRIMARY KEY"
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}) WITHOUT ROWID"


class Store:
    """An open store. One writer at a time: a second writer on the same folder is refused."""

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open `path`; with `write`, create it if needed and lock its folder. UserError if it is no store of ours."""
        self.path = path
        self._lock = _lock(path) if write else None
        if not write and not path.is_file():
            raise UserError(f"{path}: there is no such file; give the folder of a finished or running study")
        try:
            mode = "rwc" if write else "ro"
            self._db = sqlite3.connect(f"file:{_quoted(path)}?mode={mode}", uri=True, isolation_level=None)
            if write:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                for table in _TABLES:
                    self._db.execute(_create(table))
                self._db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
            found = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except sqlite3.Error as e:
            raise UserError(f"{path}: not a triaxis row store ({e}); choose another --out") from None
        if found is None or found[0] != str(SCHEMA):
            raise UserError(f"{path}: store schema {found and found[0]} is not {SCHEMA}; use the triaxis that made it")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    def append(self, rows: Iterable[Row | PlanRow | GradeRow]) -> None:
        """Append in one transaction, durable when this returns. A row that is there already stays as it is."""
        tables = {kind: name for name, kind in _TABLES.items()}
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for row in rows:
                values = astuple(row)
                marks = ", ".join("?" * len(values))
                self._db.execute(f"INSERT OR IGNORE INTO {tables[type(row)]} VALUES ({marks})", values)
            self._db.execute("COMMIT")
        except sqlite3.Error as e:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise UserError(
                f"{self.path}: could not write ({e}); rows already written are safe: free space, then run again"
            ) from None

    def replace_grades(self, grades: Sequence[GradeRow]) -> None:
        """Replace all grades in one transaction: grading is a second pass over stored text."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("DELETE FROM grades")
            cursor.executemany("INSERT INTO grades VALUES (?, ?, ?, ?, ?)", [astuple(g) for g in grades])
            cursor.execute("COMMIT")

    def row_ids(self) -> set[str]:
        """Ids of all rows present."""
        return {r[0] for r in self._db.execute("SELECT id FROM rows")}

    def rows(self) -> list[Row]:
        """All rows, ordered by condition, item, seed and branch."""
        query = "SELECT * FROM rows ORDER BY condition, item, seed, branch"
        return [Row(*r[:-1], bool(r[-1])) for r in self._db.execute(query)]

    def plans(self) -> dict[str, PlanRow]:
        """All plans by id."""
        query = self._db.execute("SELECT * FROM plans ORDER BY id")
        return {r[0]: PlanRow(*r[:6], bool(r[6]), r[7]) for r in query}

    def grades(self) -> dict[str, GradeRow]:
        """All grades by row id."""
        return {r[0]: GradeRow(*r) for r in self._db.execute("SELECT * FROM grades")}

    def get(self, key: str) -> str | None:
        """A meta value."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def set(self, key: str, value: str) -> None:
        """Set a meta value."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def as_dicts(self) -> list[dict[str, object]]:
        """Rows as plain dicts, for export and tests."""
        return [asdict(r) for r in self.rows()]


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _lock(path: Path):  # type: ignore[no-untyped-def]
    """An exclusive lock beside the store, held until closed; freed by the system when the process dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = (path.parent / ".lock").open("a")
    except OSError as e:
        raise UserError(f"{path.parent}: cannot write there ({e.strerror}); choose another --out") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise UserError(f"{path.parent}: another run is writing there; wait for it or choose another --out") from None
    return handle
