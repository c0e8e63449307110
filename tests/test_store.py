"""The row store: what was acknowledged is there, nothing is written twice, and nothing foreign is touched."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import triaxis.store
from triaxis.errors import UserError
from triaxis.store import GradeRow, PlanRow, Row, Store, identity

ROW = Row("r1", "none", "item-1", 0, 7, "", "2+2?", "It is 4.\n#### 4", 12, 3, True)
PLAN = PlanRow("p1", "item-1", "gold", 7, "add {2} and 2", 5, False, "{}")
GRADE = GradeRow("r1", "right", "4", "marked", 1)


def rows(n: int, start: int = 0) -> list[Row]:
    return [replace(ROW, id=f"r{start + i:05d}", item=f"item-{start + i:05d}", text="x" * 200) for i in range(n)]


# ---------------------------------------------------------------- ids

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
specs = st.dictionaries(st.text(max_size=8), plain, min_size=1, max_size=5)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(spec=specs)
def test_identity_does_not_depend_on_the_order_of_keys(spec: dict[str, object]) -> None:
    assert identity(spec) == identity(dict(reversed(spec.items())))
    assert len(identity(spec)) == 16


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(spec=specs, other=plain, data=st.data())
def test_identity_changes_with_any_field(spec: dict[str, object], other: object, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(spec)))
    # as JSON sees it: 1 and 1.0 and True differ, and 0.0 and -0.0
    changed = {**spec, name: other}
    same = repr(changed[name]) == repr(spec[name]) or _json(changed[name]) == _json(spec[name])
    assert (identity(changed) == identity(spec)) == same
    assert identity({k: v for k, v in spec.items() if k != name}) != identity(spec)
    assert identity({**spec, name + "'": spec[name]}) != identity(spec) or name + "'" in spec


def _json(value: object) -> str:
    import json

    return json.dumps(value, sort_keys=True)


# ---------------------------------------------------------------- appending


def test_what_is_appended_comes_back_in_full(tmp_path: Path) -> None:
    odd = replace(ROW, id="r2", text="\x00 é 数 {} '; DROP TABLE rows; --\u2028", ended=False, prompt="", seed=-3)
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        store.append([ROW, odd])
        store.append([PLAN])
        store.replace_grades([GRADE])
        store.set("k", "v")
        store.set("k", "w")
    with Store(tmp_path / "rows.sqlite", write=False) as store:
        assert store.rows() == [odd, ROW]  # ordered by condition, item, seed, branch
        assert store.plans() == {"p1": PLAN}
        assert store.grades() == {"r1": GRADE}
        assert store.row_ids() == {"r1", "r2"}
        assert (store.get("k"), store.get("nothing")) == ("w", None)


def test_a_row_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        store.append([ROW, PLAN])
        store.append([replace(ROW, text="another"), replace(PLAN, text="another"), replace(ROW, id="r2")])
        store.append([ROW])
        assert {r.id: r.text for r in store.rows()} == {"r1": ROW.text, "r2": ROW.text}
        assert store.plans() == {"p1": PLAN}


def test_an_append_is_whole_or_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Row]:
        yield from rows(3)
        raise KeyboardInterrupt

    broken = [*rows(3), replace(ROW, id="r9", text=None)]  # type: ignore[arg-type]
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        store.append([ROW])
        with pytest.raises(KeyboardInterrupt):
            store.append(interrupted())
        with pytest.raises(UserError, match=r"could not write .*NOT NULL"):  # never dropped in silence
            store.append(broken)
        assert store.row_ids() == {"r1"}
        store.append(rows(3))  # the store goes on
        assert len(store.row_ids()) == 4


def test_grades_are_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        store.replace_grades([GRADE])
        with pytest.raises(UserError, match="could not write"):
            store.replace_grades([replace(GRADE, verdict=None)])  # type: ignore[arg-type]
        assert store.grades() == {"r1": GRADE}
        store.replace_grades([])
        assert store.grades() == {}


# ---------------------------------------------------------------- writers and readers


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with Store(path, write=True) as first:
        first.append([ROW])
        with pytest.raises(UserError, match=r"another run is writing there; wait for it or choose another --out"):
            Store(path, write=True)
        with Store(path, write=False) as reader:
            assert reader.rows() == [ROW]
            first.append(rows(2))
            assert len(reader.rows()) == 3
    with Store(path, write=True) as second:
        assert len(second.rows()) == 3


def test_a_refused_store_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_text("not a database, at some length" * 99)
    for _ in range(2):
        with pytest.raises(UserError, match="not a triaxis row store"):
            Store(path, write=True)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with Store(path, write=True):
        pass
    with Store(path, write=False) as store, pytest.raises(UserError, match="could not write"):
        store.append([ROW])


def test_a_closed_store_is_one_file(tmp_path: Path) -> None:
    """To copy, to mail, to read from a read-only medium."""
    path = tmp_path / "rows.sqlite"
    for _ in range(2):
        with Store(path, write=True) as store:
            store.append([ROW])
            with closing(sqlite3.connect(path)) as other:
                assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with Store(path, write=False) as store:
        store.rows()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "rows.sqlite"]


def test_odd_paths(tmp_path: Path) -> None:
    folder = tmp_path / "a b?c#d%20é'"
    with Store(folder / "rows.sqlite", write=True) as store:
        store.append([ROW])
    with Store(folder / "rows.sqlite", write=False) as store:
        assert store.rows() == [ROW]
    assert (folder / "rows.sqlite").is_file()


# ---------------------------------------------------------------- what is not ours


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE customers (name TEXT)")
        db.execute("INSERT INTO customers VALUES ('Ada')")


def garbage(path: Path) -> None:
    path.write_bytes(b"\x89PNG" + bytes(range(256)) * 20)


def other_rows(path: Path) -> None:
    with sqlite3.connect(path) as db:
        for table in ("rows", "plans", "grades", "meta"):
            db.execute(f"CREATE TABLE {table} (a TEXT)")


@pytest.mark.parametrize("make", [foreign_database, garbage, other_rows])
@pytest.mark.parametrize("write", [True, False])
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, make, write: bool) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "rows.sqlite"
    make(path)
    before = path.read_bytes()
    with pytest.raises(UserError) as e:
        Store(path, write=write)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)
    assert path.read_bytes() == before
    if make is not other_rows:  # that one has our tables' names, and is damaged as far as we can tell
        assert ("choose another --out" if write else "give the folder of a study") in str(e.value)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "rows.sqlite").mkdir()
    with pytest.raises(UserError, match="not a triaxis row store"):
        Store(tmp_path / "rows.sqlite", write=True)
    with pytest.raises(UserError, match="there is no such file"):
        Store(tmp_path / "rows.sqlite", write=False)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"out: cannot write there .*; choose another --out"):
        Store(tmp_path / "out" / "rows.sqlite", write=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file; give the folder of a finished or running study"):
        Store(tmp_path / "rows.sqlite", write=False)
    (tmp_path / "rows.sqlite").touch()
    with pytest.raises(UserError, match="no study was started there yet"):
        Store(tmp_path / "rows.sqlite", write=False)
    with Store(tmp_path / "rows.sqlite", write=True) as store:  # an empty file becomes a store
        assert store.rows() == []


def test_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.sqlite"
    monkeypatch.setattr(triaxis.store, "SCHEMA", "0")
    with Store(path, write=True) as store:
        store.append([ROW])
    monkeypatch.undo()
    for write in (True, False):
        now = triaxis.store.SCHEMA
        with pytest.raises(UserError, match=f"store schema 0 is not {now}; use the triaxis that made it"):
            Store(path, write=write)


def test_a_damaged_store_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with Store(path, write=True) as store:
        store.append(rows(200))
    content = bytearray(path.read_bytes())
    content[-8192:] = bytes(8192)
    path.write_bytes(content)
    with Store(path, write=False) as store, pytest.raises(UserError, match=r"could not be read .*malformed"):
        store.rows()


# ---------------------------------------------------------------- disks and rights


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full once a file has `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    acknowledged = 0
    with Store(path, write=True) as store, largest_file(150_000):
        with pytest.raises(UserError, match=r"could not write .*rows already written are safe: free space"):  # noqa: PT012
            while acknowledged < 5000:
                store.append(rows(50, acknowledged))
                acknowledged += 50
        with pytest.raises(UserError, match="could not write"):
            store.replace_grades(replace(GRADE, row=f"r{i}") for i in range(5000))
    assert 50 <= acknowledged < 5000
    with Store(path, write=True) as store:  # the run goes on where it was
        assert store.row_ids() == {f"r{i:05d}" for i in range(acknowledged)}
        store.append(rows(50, acknowledged))
        assert len(store.rows()) == acknowledged + 50


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write anywhere, so root becomes nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_folder_can_be_read_but_not_written() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store(folder / "rows.sqlite", write=True) as store:
            store.append([ROW])
        folder.chmod(0o555)
        with without_rights():
            with Store(folder / "rows.sqlite", write=False) as store:
                assert store.rows() == [ROW]
            for place in (folder, folder / "new"):
                with pytest.raises(UserError) as e:
                    Store(place / "rows.sqlite", write=True)
                assert str(e.value) == f"{place}: cannot write there (Permission denied); choose another --out"
        folder.chmod(0o755)


def test_a_killed_writer_leaves_what_it_acknowledged(tmp_path: Path) -> None:
    program = """
import sys
from dataclasses import replace
from pathlib import Path
from triaxis.store import Row, Store
row = Row("", "none", "i", 0, 0, "", "q", "t" * 500, 1, 1, True)
with Store(Path(sys.argv[1]) / "rows.sqlite", write=True) as store:
    for start in range(0, 10**6, 7):
        store.append(replace(row, id=f"r{i:07d}") for i in range(start, start + 7))
        print(start + 7, flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= 700:
                    break
            process.kill()
            acknowledged = max([int(line), *map(int, (x for x in process.stdout if x.endswith("\n")))])
        with Store(tmp_path / "rows.sqlite", write=False) as store:
            present = store.row_ids()
        assert len(present) >= acknowledged
        assert len(present) % 7 == 0  # no half batch
        assert present == {f"r{i:07d}" for i in range(len(present))}


def test_a_reader_undoes_what_a_power_cut_left_half_done(tmp_path: Path) -> None:
    """A writer that died while it changed the file itself, its rollback journal beside it."""
    path = tmp_path / "rows.sqlite"
    with Store(path, write=True) as store:
        store.append(rows(200))
    program = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=2")
db.execute("BEGIN")
db.execute("UPDATE rows SET text = 'half done'")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.with_name("rows.sqlite-journal").stat().st_size > 0
    assert b"half done" in path.read_bytes()
    with Store(path, write=False) as store:
        assert store.rows() == rows(200)
