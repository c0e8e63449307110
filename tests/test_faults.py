"""The faults of tests/faults in a reduced form, and that its counts would show a loss."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).with_name("faults")))
from crashes import Operation, Recorded
from lab import LONGEST, Child, Count, Lab, contents
from run import faults, rounds, table

from triaxis.errors import UserError
from triaxis.report import current, render
from triaxis.store import Row, Store
from triaxis.study import Study

ROW = Row("r0", "none", "i", 0, 0, "", "q", "t", 1, 1, True)


# ---------------------------------------------------------------- the harness itself


def store(folder: Path, *rows: Row) -> Path:
    with Store(folder / "rows.sqlite", write=True) as s:
        s.append(rows)
    return folder


def said(place: Path, *ids: str) -> Child:
    log = place / "said.log"
    log.write_text(json.dumps(["rows", ids]) + "\n")
    return Child(0, log, 9)


def test_a_lost_a_changed_and_a_doubled_row_are_counted(tmp_path: Path) -> None:
    whole = store(tmp_path / "whole", ROW, replace(ROW, id="r1", branch=1))
    place = tmp_path / "place"
    store(place / "study", ROW, replace(ROW, id="r1", branch=1, text="u"), replace(ROW, id="r2"))
    lab = Lab(place, random.Random(0), Count(), Study(), whole)
    lab.after(said(tmp_path, "r0", "r1", "r5"))
    c = lab.count
    assert (c.acknowledged, c.checked, c.lost, c.changed, c.doubled) == (3, 3, 1, 2, 1)
    assert c.bad == 4
    shutil.rmtree(place)
    lab.after(said(tmp_path, "r0"))
    assert lab.count.lost == 2
    assert "| **all** | 0 | 0 | 4 | 3 | 2 | 1 | 2 | 0 | 0 |" in table({"one": c})


def test_a_cut_keeps_what_was_synced_and_any_part_of_the_rest(tmp_path: Path) -> None:
    run = Recorded(
        [
            Operation("make", "rows.sqlite"), Operation("write", "rows.sqlite", 0, b"a" * 2000),
            Operation("sync", "rows.sqlite"), Operation("rows", "", 0, b'["r0"]'),
            Operation("write", "rows.sqlite", 1000, b"b" * 2000), Operation("make", "late"),
        ]
    )  # fmt: skip
    seen, names = set(), set()
    for k in range(60):
        assert run.crash(6, tmp_path / str(k), random.Random(k)) == {"r0"}
        data = (tmp_path / str(k) / "rows.sqlite").read_bytes()
        assert data[:1000] == b"a" * 1000
        assert set(data[1000:2000]) <= set(b"ab")
        seen.add(data)
        names |= {p.name for p in (tmp_path / str(k)).iterdir()}
    assert len(seen) > 8
    assert b"a" * 2000 in seen
    assert names == {"rows.sqlite", "late"}
    assert run.crash(3, tmp_path / "early", random.Random(0)) == set()


# ---------------------------------------------------------------- the faults


@pytest.mark.slow
@pytest.mark.timeout(2 * 2 * LONGEST)  # two rounds of two runs each; a Ray cluster on a busy machine takes minutes
@pytest.mark.parametrize("name", [name for name, _, _ in faults(None)])
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    [(_, fault, lacks)] = faults([name])
    if lacks:
        pytest.skip(lacks)
    count = rounds({name: fault}, 2, 11, tmp_path)[name]
    assert count.bad == 0, count.said
    assert count.checked > 0


@pytest.fixture
def small(one_thread: None, tmp_path: Path) -> Path:
    Study(n=2, planners=(), conditions=("hint",), decode={"steps": 6}).run(tmp_path / "s")
    return tmp_path / "s"


def test_a_page_is_current_whatever_the_clock_says(small: Path) -> None:
    """A page from a time when the clock was ahead is still made again once the summary has changed."""
    page = render(small)
    for at in (0.0, 4e9):
        os.utime(page, (at, at))
        assert current(small)
    summary = json.loads((small / "summary.json").read_text())
    summary["cost"]["seconds"] = 77.0
    (small / "summary.json").write_text(json.dumps(summary))
    assert not current(small)
    render(small)
    assert current(small)
    with Store(small / "rows.sqlite", write=True) as s:
        s.replace_grades(replace(g, verdict="wrong", answer="0") for g in s.grades().values())
    os.utime(small / "rows.sqlite", (0, 0))
    assert not current(small)


def test_a_row_whose_index_entry_is_damaged_is_not_made_twice(small: Path) -> None:
    """The index of the ids says another id than the row: the row is there, and a resumed run sees it."""
    whole = contents(small)
    first = whole[0][0].id
    path = small / "rows.sqlite"
    data = bytearray(path.read_bytes())
    places = [k for k in range(len(data)) if data.startswith(first.encode(), k)]
    entry = next(k for k in places if data[k // 4096 * 4096] == 10 and b"none" not in data[k : k + 30])
    data[entry] ^= 1
    path.write_bytes(data)
    with Store(path, write=True) as s:
        assert first in s.row_ids()
    (small / "summary.json").unlink()
    Study.reopen(small).run(small)
    assert contents(small)[0] == whole[0]


def test_a_full_folder_says_so_and_not_that_it_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    import triaxis.store

    def full(path: Path, *, write: bool) -> sqlite3.Connection:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(triaxis.store, "_connect", full)
    with pytest.raises(UserError, match=r"disk is full\); rows already written are safe: free space, then run again"):
        Store(tmp_path / "rows.sqlite", write=True)
