"""Store schemas of the past, and the step from each to the next.

A step is frozen once a version that wrote the newer schema is out: it knows both by their SQL and takes nothing from
the store above it, which knows the newest schema only. `tests/stores/` holds a recorded store of every schema; each is
opened, migrated and compared in tests. To change the schema: record a store of the old one, raise SCHEMA in
`__init__.py`, add a step and the old columns here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from types import MappingProxyType

from triaxis.store.checksums import Tally, checksum

Step = Callable[[sqlite3.Connection], None]

# schema -> table -> columns, so that a file that only says it is of a schema is told from one that is
COLUMNS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "2": {
            "rows": (
                "id", "condition", "item", "branch", "seed", "plan", "prompt", "text", "tokens", "forwards", "ended",
                "length", "confidence", "trace",
            ),
            "plans": ("id", "item", "source", "seed", "text", "tokens", "truncated", "detail"),
            "grades": ("row", "verdict", "answer", "how", "second"),
            "meta": ("key", "value"),
        }
    }
)  # fmt: skip

_SQL_3 = {
    "rows": "id TEXT NOT NULL PRIMARY KEY, condition TEXT NOT NULL, item TEXT NOT NULL, branch INTEGER NOT NULL, "
    "seed INTEGER NOT NULL, plan TEXT NOT NULL, prompt TEXT NOT NULL, text TEXT NOT NULL, tokens INTEGER NOT NULL, "
    "forwards INTEGER NOT NULL, ended INTEGER NOT NULL, length INTEGER NOT NULL, confidence REAL NOT NULL, "
    "trace TEXT NOT NULL, checksum INTEGER NOT NULL",
    "plans": "id TEXT NOT NULL PRIMARY KEY, item TEXT NOT NULL, source TEXT NOT NULL, seed INTEGER NOT NULL, "
    "text TEXT NOT NULL, tokens INTEGER NOT NULL, truncated INTEGER NOT NULL, detail TEXT NOT NULL, "
    "checksum INTEGER NOT NULL",
    "grades": "row TEXT NOT NULL PRIMARY KEY, verdict TEXT NOT NULL, answer TEXT NOT NULL, how TEXT NOT NULL, "
    "second INTEGER NOT NULL, checksum INTEGER NOT NULL",
    "meta": "key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL",
}

_BY_ROWID = ("rows", "plans")


def _to_3(db: sqlite3.Connection) -> None:
    """Schema 3 adds a checksum to every row of every table, and the tally of each table to meta. Rows and plans stand
    in the order in which they came."""
    db.create_function("checksum_3", -1, lambda *values: checksum(values), deterministic=True)
    for table, columns in COLUMNS["2"].items():
        names = ", ".join(columns)
        db.execute(f"ALTER TABLE {table} RENAME TO {table}_2")
        db.execute(f"CREATE TABLE {table} ({_SQL_3[table]})" + ("" if table in _BY_ROWID else " WITHOUT ROWID"))
        db.execute(f"INSERT INTO {table} SELECT {names}, checksum_3({names}) FROM {table}_2")
        db.execute(f"DROP TABLE {table}_2")
    for table in ("rows", "plans", "grades"):
        tally = Tally().plus(one for (one,) in db.execute(f"SELECT checksum FROM {table}"))
        set_meta(db, f"tally:{table}", str(tally))
    set_meta(db, "schema", "3")


def set_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    """A value of meta as schema 3 keeps it."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, checksum((key, value))))


STEPS: Mapping[str, Step] = MappingProxyType({"2": _to_3})  # schema -> the step to the next one


def migrate(db: sqlite3.Connection, schema: str) -> None:
    """Every step from `schema` to the newest, inside the caller's transaction. sqlite3.Error where it is damaged."""
    while schema in STEPS:
        STEPS[schema](db)
        (schema,) = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
