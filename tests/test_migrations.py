"""Stores of every older schema: read as they are, migrated by a writer, whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest

from triaxis.store import SCHEMA, TABLES, Row, Store, migrations, plain
from triaxis.study.integrity import verify

OLD = sorted((Path(__file__).parent / "stores").glob("schema-*.sql"))
ODD = Row(
    "odd", "none", "é 数", 2**40, -7, "", "\x00\u2028 '\";--", "\U0001d6fc\r\t\x1b[0m", 0, 2**62, False, 0, -1e-310, ""
)


def test_every_schema_of_the_past_is_recorded() -> None:
    assert {p.stem.removeprefix("schema-") for p in OLD} == set(migrations.STEPS) == set(migrations.COLUMNS)
    assert SCHEMA not in migrations.STEPS


@pytest.mark.parametrize("recorded", OLD, ids=lambda p: p.stem)
def test_an_old_store_is_read_as_it_is_and_migrated_by_a_writer(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(recorded.read_text(encoding="utf-8"))
        names = {t: ", ".join(f.name for f in fields(k)) for t, k in TABLES.items()}
        if recorded.stem == "schema-2":
            db.execute(f"INSERT INTO rows VALUES ({', '.join('?' * 14)})", plain(ODD))
        db.commit()
        held = {t: sorted(db.execute(f"SELECT {names[t]} FROM {t}")) for t in TABLES}
        meta = dict(db.execute("SELECT key, value FROM meta"))
    before = path.read_bytes()
    assert len(held["rows"]) > 10
    with Store(path, write=False) as s:
        assert {t: sorted(s.values(t)) for t in TABLES} == held
    assert path.read_bytes() == before
    with Store(path, write=True) as s:
        assert {t: sorted(s.values(t)) for t in TABLES} == held
        assert {k: v for k, v in s.meta().items() if k in meta and k != "schema"} == {
            k: v for k, v in meta.items() if k != "schema"
        }
        assert s.get("schema") == SCHEMA
        s.append([replace(ODD, id="new", branch=1)])
    with Store(tmp_path / "fresh.sqlite", write=True):
        pass
    made = [schema_of(tmp_path / name) for name in ("rows.sqlite", "fresh.sqlite")]
    assert made[0] == made[1]
    found = {f.code for f in verify(tmp_path).findings if f.severity == "damage"}
    assert found <= {"protocol", "incomplete", "weights", "planner", "task", "items"}  # of the time it was recorded


def schema_of(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name: " ".join(sql.replace('"', "").split()) for name, sql in found}


def test_a_migration_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD[0].read_text(encoding="utf-8"))

    def interrupted(db: sqlite3.Connection, schema: str) -> None:
        migrations.STEPS[schema](db)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("triaxis.store.migrate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Store(path, write=True)
    assert "checksum" not in schema_of(path)["rows"]
    with Store(path, write=True) as s:
        assert len(s.rows()) == 18
