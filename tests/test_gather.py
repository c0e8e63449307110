"""Columns of a store: the same from objects, from one process and from several; what is damaged is refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_study import write_study

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate.columns import Columns, Part, arranged, join, objects, once, read, reading
from triaxis.estimate.marks import Continues
from triaxis.report import render
from triaxis.store import SEAL, Store
from triaxis.study import gather, kept
from triaxis.study.summary import summarise


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, n=12)
    return folder


def protocol(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "protocol.json").read_text())
    found["decode"]["remasking"] = "low_confidence"
    return found


def same(a: Columns, b: Columns) -> bool:
    """Columns compared by what they stand for: codes of words may differ."""
    assert (list(a.conditions), list(a.items)) == (list(b.conditions), list(b.items))
    for name in (f.name for f in fields(Part) if f.name != "words"):
        x, y = getattr(a.rows, name), getattr(b.rows, name)
        if name in ("plan", "answer"):
            x, y = np.array(a.rows.words)[x], np.array(b.rows.words)[y]
        assert np.array_equal(x, y), name
    return True


def test_objects_one_process_and_several_give_the_same(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = protocol(study)["conditions"]
    with Store(study / "rows.sqlite", write=False) as store:
        plans, rows = store.plans(), store.rows()
        how = reading(cards, lambda plan: plans[plan].text if plan in plans else "")
        values = list(objects(reversed(rows), store.grades()))
        made = arranged(read(values, how))
        assert len(made.rows) == len(rows)
        assert same(made, gather.gather(store, cards))
        assert same(made, arranged(join([read(values[::2], how), read([], how), read(values[1::2], how)])))
        monkeypatch.setattr(gather, "LARGE", 1)
        assert same(made, gather.gather(store, cards, workers=2))


def test_a_summary_is_the_same_byte_for_byte_however_it_is_read(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(study / "rows.sqlite", write=False) as store:
        one = json.dumps(summarise(store, protocol(study)))
        monkeypatch.setattr(gather, "LARGE", 1)
        assert json.dumps(summarise(store, protocol(study), workers=2)) == one


def test_rows_are_fetched_by_id_with_their_grades(study: Path) -> None:
    with Store(study / "rows.sqlite", write=False) as store:
        rows, grades = store.rows()[5:9], store.grades()
        assert gather.fetch(store, [r.id for r in rows]) == [(r, grades[r.id]) for r in rows]
        with pytest.raises(UserError, match="1 rows vanished"):
            gather.fetch(store, ["no such row"])


@pytest.mark.parametrize("table", ["rows", "grades"])
def test_a_damaged_row_is_refused(table: str, study: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.sqlite").write_bytes((study / "rows.sqlite").read_bytes())
    column = {"rows": "text", "grades": "verdict"}[table]
    db = sqlite3.connect(tmp_path / "rows.sqlite")
    key = {"rows": "id", "grades": "row"}[table]
    db.execute(f"UPDATE {table} SET {column} = 'right!' WHERE {key} = (SELECT max({key}) FROM {table})")
    db.commit()
    db.close()
    with Store(tmp_path / "rows.sqlite", write=False) as store, pytest.raises(UserError, match="is damaged"):
        gather.gather(store, protocol(study)["conditions"])


def test_rows_without_grades_are_counted(study: Path, tmp_path: Path) -> None:
    cards = protocol(study)["conditions"]
    with Store(study / "rows.sqlite", write=False) as old, Store(tmp_path / "rows.sqlite", write=True) as store:
        rows, grades = old.rows(), old.grades()
        store.append([*rows, *old.plans().values()])
        store.append(list(grades.values())[3:])
        columns = gather.gather(store, cards)
        assert len(columns.ungraded()) == 3
        with pytest.raises(UndefinedEstimate, match=f"3 of {len(rows)} rows are not graded"):
            gather.tabled(store, columns, cards, 12)


def test_what_ran_once_counts_once(study: Path) -> None:
    """By hand: distinct (prompt, protocol, stream), where conditions at temperature 0 have no stream."""
    with Store(study / "rows.sqlite", write=False) as store:
        rows = store.rows()
        columns = gather.gather(store, protocol(study)["conditions"])
    warm = {"vote", "vote-plan-empty"}
    keys = {(r.prompt, r.condition in warm, (r.item, r.branch) if r.condition in warm else None) for r in rows}
    ran = once(columns, lambda name, branch: ("warm" if name in warm else "cold", name in warm))
    assert len(ran) == len(keys) < len(rows)


def test_openers_are_found_as_they_stand() -> None:
    """Openers are texts, not patterns."""
    goes_on = Continues(("Plan (a+b):", "<plan>"), {"p": "add 3 and 4. stop"}.get)  # type: ignore[arg-type]
    assert goes_on("so Plan (a+b): 7", "", "marked")
    assert not goes_on("so Plan aab: 7", "", "marked")
    assert goes_on("we add  3 AND 4", "p", "none")
    assert not goes_on("we add 3 and 4", "p", "marked")
    assert not Continues((), lambda _: "")("anything", "", "none")


# ---------------------------------------------------------------- columns that are kept


@pytest.fixture
def large(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, which now counts as a large one."""
    monkeypatch.setattr(gather, "LARGE", 1)
    for name in ("rows.sqlite", "protocol.json", "summary.json"):
        (tmp_path / name).write_bytes((study / name).read_bytes())
    return tmp_path


def columns(folder: Path, **how: Any) -> Columns:
    with Store(folder / "rows.sqlite", write=False) as store:
        return gather.gather(store, protocol(folder)["conditions"], **how)


def test_columns_are_taken_from_the_file_beside_the_store(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = columns(large)
    assert not (large / kept.FILE).exists()
    columns(large, keep=True)
    monkeypatch.setattr(gather, "_part", None)  # the rows are not read again
    assert same(read, columns(large))


def test_a_report_is_the_same_byte_for_byte_from_kept_columns(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render(large)
    page = (large / "report.html").read_bytes()
    monkeypatch.setattr(gather, "_part", None)
    render(large)
    assert (large / "report.html").read_bytes() == page


def _more_rows(folder: Path) -> None:
    with Store(folder / "rows.sqlite", write=True) as store:
        row = store.rows()[0]
        store.append([replace(row, id="new", item="another")])


def _other_grades(folder: Path) -> None:
    with Store(folder / "rows.sqlite", write=True) as store:
        store.replace_grades([replace(g, verdict="wrong") for g in store.grades().values()])


def _cut_short(folder: Path) -> None:
    path = folder / kept.FILE
    path.write_bytes(path.read_bytes()[:-9])


def _one_byte(folder: Path) -> None:
    path = folder / kept.FILE
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def _rubbish(folder: Path) -> None:
    (folder / kept.FILE).write_bytes(b"\xff" * 100)


def _forged(folder: Path) -> None:
    """A file with a right stamp and a right hash whose codes stand for no words."""
    with Store(folder / "rows.sqlite", write=False) as store:
        cards = protocol(folder)["conditions"]
        found, stamp = gather.gather(store, cards), kept.stamp(store, cards)
    found.rows.answer[0] = len(found.rows.words)
    kept.keep(found, folder, stamp)


@pytest.mark.parametrize("change", [_more_rows, _other_grades, _cut_short, _one_byte, _rubbish, _forged])
def test_kept_columns_that_are_not_the_stores_are_not_taken(change: Callable[[Path], None], large: Path) -> None:
    columns(large, keep=True)
    change(large)
    with Store(large / "rows.sqlite", write=False) as store:
        cards = protocol(large)["conditions"]
        assert kept.load(large, kept.stamp(store, cards)) is None
        assert same(columns(large), arranged(gather._part(store, cards)))


def test_nothing_is_kept_where_nothing_may_be_written(large: Path) -> None:
    (large / SEAL).write_text("{}")
    columns(large, keep=True)
    assert sorted(p.name for p in large.iterdir() if "columns" in p.name) == []
