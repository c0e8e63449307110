"""The items that flipped, as the page holds them: every text of the rows, flags, and never too much of it."""

from __future__ import annotations

import json
import random
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_study import write_study

from triaxis.estimate import columns, diversity
from triaxis.report import render, words
from triaxis.store import Store


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    render(folder)
    return folder


@pytest.fixture(scope="module")
def html(study: Path) -> str:
    return (study / "report.html").read_text(encoding="utf-8")


def load(folder: Path, name: str = "summary") -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def browsed(page: str) -> tuple[list[str], list[list[Any]], list[list[list[Any]]]]:
    """Texts, sides and the flips of every comparison, as the page's script reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data = json.loads(found[1])
    return data["texts"], data["sides"], data["pairs"]


def test_flips_agree_with_gain_and_loss_and_show_both_sides(html: str, study: Path) -> None:
    texts, sides, pairs = browsed(html)
    names = re.findall(r'<details class="pair" data-pair="\d+"><summary><span class="name">(.*?)</span>', html)
    assert len(names) == len(pairs)
    ways = {name: [texts[r[1]] for r in records] for name, records in zip(names, pairs, strict=True)}
    for e in load(study)["axes"]["brittleness"]["effects"]:
        assert (ways[e["name"]].count("gained"), ways[e["name"]].count("lost")) == (e["gain"], e["loss"])
    vote = next(e for e in load(study)["axes"]["diversity"]["effects"] if e["name"] == "vote minus greedy")
    assert f"{vote['gain']} gained" in html
    with Store(study / "rows.sqlite", write=False) as store:
        rows, grades = {(r.condition, r.item): r for r in store.rows()}, store.grades()
    cards = {c["name"]: c for c in load(study, "protocol")["conditions"]}
    for name, records in zip(names, pairs, strict=True):
        if cards[name].get("branches", 1) > 1 or cards[cards[name]["against"]].get("branches", 1) > 1:
            continue
        for r in records:
            both = [rows[c, texts[r[0]]] for c in (cards[name]["against"], name)]
            assert [texts[sides[k][6]] for k in r[5:]] == [words.visible(row.text) for row in both]
            flags = {
                f
                for row in both
                for f, there in (("truncated", not row.ended), ("unreadable", grades[row.id].verdict == "unreadable"))
                if there
            }
            assert set(texts[r[2]].split()) == flags
            assert texts[r[1]] != "same" or flags


def test_votes_of_flips_are_those_of_the_estimates() -> None:
    rng = random.Random(3)
    for branches in (1, 2, 5, 6):
        answers = [[rng.choice(["", "7", "8", "9"]) for _ in range(branches)] for _ in range(200)]
        right = np.array([[a == "7" for a in row] for row in answers])
        codes = np.array([[["", "7", "8", "9"].index(a) for a in row] for row in answers])
        score, tie = columns.vote(codes, right, 0)
        expected = diversity.vote(answers, right)
        assert score.tolist() == expected.score.tolist()
        assert tie.tolist() == expected.tie.tolist()


@pytest.mark.slow
def test_long_texts_are_cut_in_their_middle_and_say_so(tmp_path: Path) -> None:
    write_study(tmp_path, 10, extra="x" * 50_000 + " the end of it")
    page = render(tmp_path).read_text(encoding="utf-8")
    assert "characters left out here" in page
    assert "the end of it" in page
    assert len(page.encode()) < 3_000_000


@pytest.mark.slow
def test_page_of_a_thousand_items_stays_small_and_quick(tmp_path: Path) -> None:
    write_study(tmp_path, 1000)
    subprocess.run(
        [sys.executable, "-c", "import matplotlib.font_manager"], check=True
    )  # builds its cache once a machine
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = f"from pathlib import Path; from triaxis.report import render; render(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 8  # seconds of processor time, 26,000 rows; a guard against a tenfold slip, not a benchmark
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    assert re.search(r"(All [\d,]+|[\d,]+ of [\d,]+) flips are here", page)
    assert all(len(found) > 20 for found in browsed(page)[2])  # every comparison has its share
