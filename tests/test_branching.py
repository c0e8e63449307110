"""`triaxis diversity`: what it measures, that it resumes, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triaxis.branching import Branching, arm, arm_name, ballots, embedder, reranked, table, temporal_votes
from triaxis.errors import UserError
from triaxis.plans.judge import score
from triaxis.store import Store

FAST = {"steps": 6, "stop": "eos_block"}
SMALL = Branching(n=4, k=3, temperatures=(0.5, 1.5), decode=FAST, after="tiny-1", budget=3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    folder = tmp_path_factory.mktemp("branching")
    SMALL.run(folder)
    return folder


@pytest.fixture
def found(home: Path) -> Mapping[str, Any]:
    return dict(json.loads((home / "diversity.json").read_text()))


def test_every_arm_has_every_metric_with_its_interval(found: Mapping[str, Any]) -> None:
    for side in ("before", "after"):
        assert list(found[side]) == ["vote@0.5", "vote@1.5"]
        for measured in found[side].values():
            for e in (*measured["metrics"].values(), *measured["votes"].values()):
                assert e["low"] <= e["value"] <= e["high"]
            assert measured["votes"]["oracle"]["value"] >= measured["votes"]["majority, ties split"]["value"]
            assert measured["quorum"]["exact"]["flip_rate"]["value"] == 0
            assert 0 <= measured["quorum"]["exact"]["saved"] < 1
    assert set(found["changes"]) == {"vote@0.5", "vote@1.5"}
    assert found["control"]["verdict"] in ("implicit temperature", "other trajectories", "not resolved")
    assert 2 <= len(found["control"]["trials"]) <= 3


def test_the_numbers_are_those_of_the_rows(home: Path, found: Mapping[str, Any]) -> None:
    t = table(home / "before")
    with Store(home / "before" / "rows.sqlite", write=False) as store:
        grades = store.grades()
        rows = store.rows("vote@0.5")
    right = sum(grades[r.id].verdict == "right" for r in rows) / len(rows)
    assert found["before"]["vote@0.5"]["metrics"]["per_branch"]["value"] == pytest.approx(right)
    b = ballots(t, "vote@0.5")
    assert (b.items, b.branches) == (4, 3)
    assert (b.measured("confidence") <= 1).all()


def test_the_last_step_of_a_watched_pass_is_its_answer(home: Path, found: Mapping[str, Any]) -> None:
    with Store(home / "before" / "rows.sqlite", write=False) as store:
        watched, plain = store.rows("watched"), store.rows("none")
    for row, other in zip(watched, plain, strict=True):
        trace = json.loads(row.trace)
        assert row.text == other.text == trace["path"][-1][0]
        assert sum(steps for _, steps in trace["path"]) == row.forwards
    assert set(found["temporal"]["before"]) == {"fixed", "linear", "exponential"}


def test_a_second_run_samples_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, found: Mapping[str, Any]) -> None:
    monkeypatch.setattr("triaxis.sampling.executor.Executor.complete", None)
    assert json.loads(json.dumps(SMALL.run(home))) == found


def test_bad_settings(home: Path) -> None:
    with pytest.raises(UserError, match="k=1 and temperatures"):
        Branching(k=1)
    with pytest.raises(UserError, match="temperatures above 0"):
        Branching(temperatures=(0.0, 1.0))
    with pytest.raises(UserError, match="kept no trajectory"):
        temporal_votes(table(home / "before"), arm_name(0.5), "gradeschool")


def test_a_judge_reranks_the_branches(home: Path) -> None:
    """The tiny planner is no judge: whatever it says is neither yes nor no, so reranking is the vote's luck, stated."""
    r = reranked(table(home / "before"), arm_name(1.5), "gradeschool", "tiny-planner-s")
    assert [e["name"] for e in r["effects"]] == ["rerank minus vote", "rerank minus one branch", "oracle minus rerank"]
    assert r["effects"][2]["value"] >= 0


def test_what_a_judge_says() -> None:
    assert [score(t) for t in ("Yes.", "no, because", "NO", "it may be", "")] == [1.0, 0.0, 0.0, 0.5, 0.5]


def test_embeddings_are_an_extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"needs sentence-transformers: pip install triaxis\[embeddings\]"):
        embedder("some-model")
    length = SimpleNamespace(encode=lambda texts: [[float(len(t)), 1.0] for t in texts])
    fake = SimpleNamespace(SentenceTransformer=lambda name, **_: length)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    found = arm(table(home / "before"), arm_name(1.5), embedder("some-model"))["trajectory"]["embedding distance"]
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 2
