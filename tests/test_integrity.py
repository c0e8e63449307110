"""verify, seal, repair, export and import: a study is what was written, or it says what is not."""

from __future__ import annotations

import json
import math
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from triaxis.cli import main
from triaxis.errors import UserError
from triaxis.report.study import Study
from triaxis.store import TABLES, GradeRow, PlanRow, Row, Store
from triaxis.store.checksums import Tally, checksum
from triaxis.store.exchange import GRADED, export_jsonl, export_parquet, import_store, plans_beside, read_export
from triaxis.store.salvage import salvage
from triaxis.study.integrity import mend, seal, verify

pytestmark = pytest.mark.usefixtures("one_thread")
STUDY = Study(n=3, planners=(), conditions=("gold-plan", "vote"), decode={"steps": 6})
ODD = Row(
    "odd",
    "none",
    "é 数",
    2**40,
    -7,
    "",
    "\x00\u2028 '\";--",
    "\U0001d6fc\n\r\t\x1b[0m",
    0,
    2**62,
    False,
    0,
    -1e-310,
    "",
)


@pytest.fixture(scope="module")
def done(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study; read only."""
    folder = tmp_path_factory.mktemp("integrity") / "done"
    STUDY.run(folder)
    return folder


@pytest.fixture
def mine(done: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, to change."""
    return Path(shutil.copytree(done, tmp_path / "mine"))


def contents(folder: Path) -> tuple[Any, ...]:
    with Store(folder / "rows.sqlite", write=False) as s:
        return s.rows(), s.plans(), s.grades()


def change(folder: Path, statement: str, *values: object) -> None:
    """Change the store as somebody would who knows nothing of checksums."""
    with closing(sqlite3.connect(folder / "rows.sqlite")) as db:
        db.execute(statement, values)
        db.commit()


def codes(folder: Path, **how: Any) -> list[tuple[str, str]]:
    return [(f.code, f.where) for f in verify(folder, **how).findings if f.severity == "damage"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


# ---------------------------------------------------------------- verify


def test_a_finished_study_is_sound(done: Path) -> None:
    found = verify(done, full=True)
    assert (found.ok, found.findings) == (True, ())
    rows, plans, grades = contents(done)
    assert found.counts == {"rows": len(rows), "plans": len(plans), "grades": len(grades)}
    assert "identities" in found.checked


@pytest.mark.parametrize("table", TABLES)
def test_any_changed_value_is_found_and_named(table: str, mine: Path) -> None:
    """Every column of every table, one at a time."""
    key = fields(TABLES[table])[0].name
    for f in fields(TABLES[table]):
        value = {"str": "another", "int": 77, "bool": 1, "float": -0.5}[str(f.type)]
        with closing(sqlite3.connect(mine / "rows.sqlite")) as db:
            first, was = db.execute(f"SELECT min({key}), {f.name} FROM {table}").fetchone()
        value = 1 - was if f.type == "bool" else value
        change(mine, f"UPDATE {table} SET {f.name} = ? WHERE {key} = ?", value, first)
        assert ("checksum", table) in codes(mine), f.name
        change(mine, f"UPDATE {table} SET {f.name} = ? WHERE {key} = ?", was, value if f.name == key else first)
    assert codes(mine) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE meta SET value = '9' WHERE key = 'items'", ("checksum", "meta")),
        ("UPDATE meta SET checksum = 0 WHERE key = 'protocol'", ("checksum", "meta")),
        ("DELETE FROM rows WHERE condition = 'vote' AND branch = 3", ("tally", "rows")),
        ("DELETE FROM rows WHERE condition = 'vote' AND branch = 3", ("incomplete", "rows")),
        ("DELETE FROM rows WHERE condition = 'vote' AND branch = 3", ("orphan", "grades")),
        ("DELETE FROM plans WHERE source = 'gold'", ("orphan", "rows")),
    ],
)
def test_what_vanishes_or_changes_in_the_store_is_found(statement: str, expected: tuple[str, str], mine: Path) -> None:
    change(mine, statement)
    assert expected in codes(mine)


def test_rows_are_refused_where_they_are_read_not_only_by_verify(mine: Path) -> None:
    """A report, a comparison and a resumed run read the same rows: none counts a damaged one."""
    change(mine, "UPDATE rows SET text = '#### 1' WHERE id = (SELECT max(id) FROM rows)")
    (mine / "summary.json").unlink()
    for command in (["grade", str(mine)], ["diagnose", "--resume", "--out", str(mine)]):
        assert run(*command) == 2
    with pytest.raises(UserError, match=r"row '\w+' of condition .* is damaged; run triaxis verify .* --repair"):
        STUDY.run(mine)


@pytest.mark.parametrize("name", ["protocol.json", "summary.json"])
def test_files_beside_the_store_are_compared_with_it(name: str, mine: Path) -> None:
    held = json.loads((mine / name).read_text())
    (held if name == "protocol.json" else held["study"])["protocol_hash"] = "0" * 16
    (mine / name).write_text(json.dumps(held))
    assert codes(mine) == [("file", name)]
    (mine / name).write_text("{")
    assert codes(mine) == [("file", name)]


def test_a_card_that_was_changed_with_its_checksum_gives_other_hashes(mine: Path) -> None:
    with Store(mine / "rows.sqlite", write=True) as s:
        card = json.loads(s.get("protocol") or "")
        card["decode"]["steps"] = 12
        s.set("protocol", json.dumps(card))
    assert ("protocol", "meta") in codes(mine)


def test_weights_planners_data_are_compared_with_what_they_were(mine: Path) -> None:
    def spoiled(change: Callable[[dict[str, Any]], object]) -> list[tuple[str, str]]:
        with Store(mine / "rows.sqlite", write=True) as s:
            held = s.get("protocol") or ""
            card = json.loads(held)
            change(card)
            s.set("protocol", json.dumps(card))
            found = codes(mine)
            s.set("protocol", held)
        return found

    assert ("weights", "tiny") in spoiled(lambda c: c["executor"].update(fingerprint="000000000000"))
    shipped, bank, asked = "tiny-planner-s", "file:tiny-planner-s", "openai:m@http://127.0.0.1:1/v1"
    for name, found in ((shipped, True), (bank, True), (asked, False)):  # an endpoint is out of reach: a note
        planner = {"name": name, "identity": "bank/00", "parameters": 1}
        assert (("planner", name) in spoiled(lambda c, p=planner: c.update(planners=[p]))) == found  # type: ignore[misc]
    assert ("task", "gradeschool") in spoiled(lambda c: c["task"].update(revision="another"))
    assert ("items", "gradeschool") in spoiled(lambda c: c.update(items_hash="00"))
    assert codes(mine) == []


def test_a_row_of_another_study_is_found_by_making_every_id_anew(mine: Path) -> None:
    """Its checksum is right, so only the models can tell."""
    with Store(mine / "rows.sqlite", write=True) as s:
        row = next(r for r in s.rows() if r.condition == "vote")
        s.append([replace(row, id="f" * 16, branch=9)])
    assert codes(mine) == []
    assert codes(mine, full=True) == [("identity", "rows")]


def test_a_study_that_is_being_written_is_looked_at_as_of_one_moment(mine: Path) -> None:
    """Rows that come in between the rows and their tally are no damage."""
    with Store(mine / "rows.sqlite", write=True) as writer, Store(mine / "rows.sqlite", write=False) as reader:
        with reader.snapshot():
            before = len(reader.rows())
            writer.append([ODD])
            assert (reader.tally("rows").rows, len(reader.rows())) == (before, before)
        assert reader.tally("rows").rows == len(reader.rows()) == before + 1


def test_exit_codes_and_json(done: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", str(done), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["findings"], told["rows"]) == (True, [], len(contents(done)[0]))
    change(mine, "UPDATE rows SET forwards = 1 WHERE id = (SELECT min(id) FROM rows)")
    assert run("verify", str(mine)) == 1
    out = capsys.readouterr().out
    assert "damage: rows: row " in out
    assert "not sound" in out
    assert run("verify", str(tmp_path / "nothing")) == 2
    (tmp_path / "rows.sqlite").write_text("no database, at some length " * 9)
    assert run("verify", str(tmp_path)) == 2


# ---------------------------------------------------------------- repair


@pytest.mark.slow
def test_flipped_bytes_cost_the_rows_they_hit_and_a_resumed_run_makes_exactly_those(done: Path, tmp_path: Path) -> None:
    whole = contents(done)
    sound = (done / "rows.sqlite").read_bytes()
    rng, hurt = random.Random(1), 0
    for k in range(8):
        folder = Path(shutil.copytree(done, tmp_path / str(k)))
        data = bytearray(sound)
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / "rows.sqlite").write_bytes(data)
        kept = salvage(folder / "rows.sqlite")
        for row in kept.rows.values():
            assert row in whole[0]
        if codes(folder):
            hurt += 1
            mended = mend(folder)
            assert mended is not None
            assert mended.kept.read_bytes() == data
            assert contents(folder)[0] == [r for r in whole[0] if r.id in kept.rows]
        if k < 2:
            STUDY.run(folder)
            assert contents(folder) == whole
            assert verify(folder).ok
    assert hurt >= 4


def test_a_store_whose_header_is_gone_is_repaired(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = contents(mine)
    data = bytearray((mine / "rows.sqlite").read_bytes())
    data[:100] = bytes(100)
    (mine / "rows.sqlite").write_bytes(data)
    assert run("verify", str(mine)) == 1
    assert "unreadable" not in capsys.readouterr().err
    assert run("verify", str(mine), "--repair") == 0
    assert f"{len(whole[0])} rows kept, 0 lost" in capsys.readouterr().out
    STUDY.run(mine)
    assert contents(mine) == whole
    assert run("verify", str(mine)) == 0


def test_nothing_is_repaired_where_nothing_is_damaged(mine: Path) -> None:
    before = (mine / "rows.sqlite").read_bytes()
    assert mend(mine) is None
    assert (mine / "rows.sqlite").read_bytes() == before


# ---------------------------------------------------------------- seals


def test_a_sealed_study_is_read_and_not_written(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = seal(mine)
    capsys.readouterr()
    before = {p.name: p.read_bytes() for p in mine.iterdir()}
    assert verify(mine, seal=digest).ok
    for command in (
        ["grade", str(mine)], ["seal", str(mine)], ["export", str(mine), "--jsonl", str(mine / "x.jsonl")],
        ["report", str(mine), "--csv"],
        ["diagnose", "--out", str(mine), "--n", "4", "--planners", "", "--conditions", "none"],
    ):  # fmt: skip
        assert run(*command) == 2, command
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{mine} is sealed and nothing is written into it" in said, command
    for command in (["report", str(mine)], ["report", str(mine), "--markdown"]):
        assert run(*command) == 0
    assert STUDY.run(mine)  # finished: only read
    assert {p.name: p.read_bytes() for p in mine.iterdir()} == before


def test_what_changes_after_sealing_is_named(mine: Path) -> None:
    digest = seal(mine)
    row = contents(mine)[0][0]
    values = list(vars_of(replace(row, text="#### 1")))
    change(mine, "UPDATE rows SET text = ?, checksum = ? WHERE id = ?", "#### 1", checksum(values), row.id)
    (mine / "report.html").write_text("another")
    (mine / "added.txt").write_text("x")
    told = {(f.where, f.message) for f in verify(mine).findings if f.code == "seal"}
    assert {
        ("rows.sqlite", "was changed after the study was sealed"),
        ("rows", f"row {row.id!r} was changed"),
        ("report.html", "was changed after the study was sealed"),
        ("added.txt", "was added after the study was sealed"),
    } <= told
    (mine / "seal.json").unlink()
    with pytest.raises(UserError, match=r"not sealed: rows: .* rows were written"):  # the tally tells
        seal(mine)
    assert ("seal", "seal.json") in codes(mine, seal=digest)


def vars_of(row: Row) -> list[object]:
    return [int(v) if isinstance(v, bool) else v for v in (getattr(row, f.name) for f in fields(Row))]


def test_an_unfinished_study_is_not_sealed(mine: Path) -> None:
    (mine / "summary.json").unlink()
    with pytest.raises(UserError, match=r"not sealed: summary.json: not there: the study has not ended"):
        seal(mine)
    assert not (mine / "seal.json").exists()


# ---------------------------------------------------------------- export, import


def filled(folder: Path, *rows: Row | PlanRow) -> Path:
    with Store(folder / "rows.sqlite", write=True) as s:
        s.append(rows)
        s.replace_grades([GradeRow("odd", "unreadable", "", "none", -1)])
        s.set("note", "é\u2028\x00")
    return folder


PLAN = PlanRow("p", "é", "gold", -1, "\x00", 0, True, '{"a": 1}')
EXPORTS: dict[str, Callable[[Store, Path], Any]] = {"a.parquet": export_parquet, "a.jsonl": export_jsonl}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_store_comes_back_exactly(name: str, done: Path, tmp_path: Path) -> None:
    more = [replace(ODD, id=f"x{k}", confidence=v) for k, v in enumerate((math.inf, -math.inf, 0.1 + 0.2, 5e-324, 3.0))]
    folders = done, filled(tmp_path / "odd", ODD, PLAN, *more)
    for k, folder in enumerate(folders):
        with Store(folder / "rows.sqlite", write=False) as s:
            EXPORTS[name](s, tmp_path / name)
            meta = s.meta()
        import_store(tmp_path / name, tmp_path / f"{k}{name}")
        assert contents(tmp_path / f"{k}{name}") == contents(folder)
        with Store(tmp_path / f"{k}{name}" / "rows.sqlite", write=False) as s:
            assert s.meta() == meta
    assert run("import", str(tmp_path / name), "--out", str(done)) == 2


def test_parquet_has_a_column_a_field_and_null_for_no_grade(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = filled(tmp_path, ODD, PLAN, replace(ODD, id="ungraded"))
    with Store(folder / "rows.sqlite", write=False) as s:
        assert export_parquet(s, tmp_path / "a.parquet") == {"rows": 2, "plans": 1}
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == [*(f.name for f in fields(Row)), *GRADED]
    assert table.column("verdict").to_pylist() == ["unreadable", None]
    assert [str(table.schema.field(n).type) for n in ("id", "branch", "ended", "confidence")] == [
        "string", "int64", "bool", "double",
    ]  # fmt: skip
    assert parquet.read_table(plans_beside(tmp_path / "a.parquet")).num_rows == 1


@pytest.mark.parametrize("name", EXPORTS)
def test_a_changed_export_is_refused_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    folder = filled(tmp_path / "s", ODD, PLAN, replace(ODD, id="b", text="a plain answer"))
    with Store(folder / "rows.sqlite", write=False) as s:
        EXPORTS[name](s, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    if name == "a.jsonl":
        swaps = [(b"a plain answer", b"a plain axswer"), (b"a plain answer", b"\\ud800"), (b"1099511627776", b"9" * 30)]
        spoiled = [*(data.replace(*swap) for swap in swaps), data.rpartition(b"\n{")[0] + b"\n", data[:-20]]
    else:
        spoiled = [data[: len(data) // 2], data[:-9] + b"x" * 9, b""]
    for bad in spoiled:
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(UserError) as e:
            import_store(tmp_path / name, tmp_path / "out")
        assert str(tmp_path / name) in str(e.value)
        assert not (tmp_path / "out" / "rows.sqlite").exists()
    assert [p.name for p in (tmp_path / "out").glob("*")] in ([], [".lock"])


def test_flipped_bytes_of_a_parquet_file_never_import_as_something_else(tmp_path: Path) -> None:
    folder = filled(tmp_path / "s", ODD, PLAN, *(replace(ODD, id=f"b{k}") for k in range(40)))
    path = tmp_path / "a.parquet"
    with Store(folder / "rows.sqlite", write=False) as s:
        export_parquet(s, path)
    data, rng, refused = path.read_bytes(), random.Random(2), 0
    for k in range(24):
        bad = bytearray(data)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            import_store(path, tmp_path / f"o{k}")
        except UserError:
            refused += 1
        else:
            assert contents(tmp_path / f"o{k}") == contents(folder)
    assert refused > 8


def test_exports_name_what_is_wrong(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    assert run("export", str(done)) == 2
    with Store(done / "rows.sqlite", write=False) as s:
        with pytest.raises(UserError, match=r"is named NAME\.parquet"):
            export_parquet(s, tmp_path / "a.csv")
        with pytest.raises(UserError, match="cannot write"):
            export_jsonl(s, tmp_path / "no" / "folder" / "a.jsonl")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UserError, match=r"pip install 'triaxis\[parquet\]'"):
            export_parquet(s, tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(UserError, match="not an export of a study"):
        list(read_export(tmp_path / "b.jsonl")) or import_store(tmp_path / "b.jsonl", tmp_path / "o")


# ---------------------------------------------------------------- checksums


def test_checksums_tell_values_apart_and_their_tally_counts() -> None:
    lists = [
        ("a", "b"),
        ("ab", ""),
        ("", "ab"),
        ("1:a", "b"),
        ("a", 1),
        ("a", 1.0),
        ("a", -1),
        ("b", "a"),
        ("a", "b", ""),
    ]
    assert len({checksum(v) for v in lists}) == len(lists)
    tally = Tally().plus([3, -5])
    assert tally == Tally().plus([-5]).plus([3])
    assert Tally.parse(str(tally)) == tally
    assert Tally().plus([3, 3, -5, -5]) != tally


def test_a_tally_counts_what_was_added_and_not_what_was_there(tmp_path: Path) -> None:
    with Store(tmp_path / "rows.sqlite", write=True) as s:
        for _ in range(3):
            s.append([ODD, PLAN, replace(ODD, id="b")])
        s.replace_grades([GradeRow("odd", "right", "1", "marked", 1)])
        assert [s.tally(t).rows for t in TABLES] == [2, 1, 1]
        s.replace_grades([])
        assert s.tally("grades") == Tally()
    assert verify(tmp_path).ok
