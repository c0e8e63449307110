"""What stands beside a study's numbers: the arms without an adapter, the predictions, the published claims."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from made_study import HOSTILE, simulate, summarise, write_study
from rich.console import Console

from triaxis.errors import UserError
from triaxis.estimate import axes, prereg
from triaxis.estimate.adapters import pairs
from triaxis.registry.sights import sights
from triaxis.report import render
from triaxis.report.answer import adapted
from triaxis.report.load import schema
from triaxis.report.standing import published, scorecard
from triaxis.report.terminal import print_summary

PRESET = """
[[scaffold]]
name = "empty"
template = "Plan: "
[[condition]]
name = "none"
role = "baseline"
[[condition]]
name = "plan-empty"
scaffold = "empty"
role = "brittleness"
[[condition]]
name = "vote"
role = "diversity"
branches = 5
decode = {temperature = 0.7}
[[condition]]
name = "none+prefix"
role = "brittleness"
adapter = "prefix@last:3"
[[condition]]
name = "plan-empty+prefix"
scaffold = "empty"
role = "brittleness"
adapter = "prefix@last:3"
[[condition]]
name = "vote+prefix"
role = "diversity"
branches = 5
decode = {temperature = 0.7}
adapter = "prefix@last:3"
[[condition]]
name = "alone+other"
role = "brittleness"
adapter = "other"
decode = {steps = 8}
"""
RULES = """
title = "what it should show"
[[prediction]]
name = "the vote reaches nothing"
metric = "axes.diversity.vote"
comparison = "at_least"
target = 0.0
[[prediction]]
name = "the question alone is always right"
metric = "accuracy[none]"
comparison = "at_least"
target = 1.0
[[prediction]]
name = "no summary has it"
metric = "axes.nonsense"
comparison = "lift"
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("preset") / "adapters.toml"
    path.write_text('title = "arms with and without"\nsource = "a test"\n' + PRESET, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def summary(preset: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(summarise(*simulate(40, {}, preset=preset), {})))
    return found


def test_arms_that_differ_in_the_adapter_alone_are_paired(preset: str, summary: dict[str, Any]) -> None:
    rows, grades, plans, cards = simulate(40, {}, preset=preset)
    t = axes.arrange(rows, grades, plans, cards, 40)
    assert [p[:2] for p in pairs(t)] == [
        ("none+prefix", "none"), ("plan-empty+prefix", "plan-empty"), ("vote+prefix", "vote"),
    ]  # fmt: skip
    jsonschema.validate(summary, schema(), cls=jsonschema.Draft202012Validator)
    found = summary["axes"]["adapters"]
    for e in found["effects"]:
        want = float(np.mean(t.outcome(e["condition"]) - t.outcome(e["against"])))
        assert e["effect"]["value"] == pytest.approx(want) == pytest.approx(e["now"] - e["was"])
    (cost,) = found["costs"]
    assert cost["condition"] == "plan-empty+prefix"
    assert cost["change"]["value"] == pytest.approx(cost["after"]["value"] - cost["before"]["value"])
    assert list(found["changes"]) == ["vote+prefix"]
    # what an adapter and a shape do together is no effect of the shape
    assert [e["name"] for e in summary["axes"]["brittleness"]["effects"]] == ["plan-empty"]


def test_adapters_have_an_answer_of_their_own(summary: dict[str, Any]) -> None:
    held = json.loads(json.dumps(summary))
    found = held["axes"]["adapters"]
    for e, verdict in zip(found["effects"], ("drop", "not resolved at this N", "drop"), strict=True):
        e["effect"] |= {"verdict": verdict}
    found["costs"][0]["change"] |= {"verdict": "lift"}
    (answer,) = adapted(held)
    assert (answer.anchor, answer.verdict) == ("adapters", "drop in 2 of 3")
    assert answer.sentence.startswith("Of 3 arms with an adapter, 2 lose accuracy (largest: ")
    assert "Of 1 effect of a scaffold or plan, all 1 " not in answer.sentence
    assert "1 rises (plan-empty+prefix, " in answer.sentence


def test_without_such_arms_there_is_no_such_part() -> None:
    found = summarise(*simulate(20, {}, conditions=("none", "hint")), {})
    assert adapted(found) == []
    assert "adapters" not in found["axes"]
    assert "prereg" not in found


def test_predictions_are_shown_as_they_were_stamped(tmp_path: Path, summary: dict[str, Any]) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES, encoding="utf-8")
    stamp = prereg.stamp(rules, rows_before=0, stamped_at="2026-05-01")
    rules.unlink()  # the study needs the file no more
    found = prereg.scorecard(stamp, summary)
    assert found["before"]
    assert [o["outcome"] for o in found["outcomes"]] == ["HOLDS", "FAILS", "NOT RESOLVED"]
    assert "nonsense" in found["outcomes"][2]["why"]
    jsonschema.validate({**summary, "prereg": found}, schema(), cls=jsonschema.Draft202012Validator)
    assert scorecard(found)["said"] == "1 HOLDS, 1 FAILS, 1 NOT RESOLVED"  # type: ignore[index]
    late = json.loads(stamp) | {"rows_before": 3}
    assert not prereg.scorecard(json.dumps(late), summary)["before"]
    forged = json.loads(stamp) | {"text": RULES.replace("1.0", "0.1")}
    assert prereg.scorecard(json.dumps(forged), summary)["standing"].startswith("CHANGED")
    bare = {k: v for k, v in json.loads(stamp).items() if k not in ("text", "file")}
    assert prereg.scorecard(json.dumps(bare), summary)["outcomes"] == []


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not TOML"):
        prereg.stamp(tmp_path / "rules.toml", rows_before=0, stamped_at="now")


def test_published_claims_stand_with_their_provenance(summary: dict[str, Any]) -> None:
    found = published(summary)
    assert [p["name"] for p in found] == ["brittleness", "diversity"]
    for p, axis in zip(found, ("A1", "A3"), strict=True):
        assert len(p["table"].rows) == p["claims"] == len(sights()[axis])
        for row, c in zip(p["table"].rows, sights()[axis], strict=True):
            assert row[1] == c["label"]
        assert "Published, unverified" in p["figure"]


def test_the_page_shows_all_of_it_as_text(tmp_path: Path, preset: str, summary: dict[str, Any]) -> None:
    write_study(tmp_path, 20, {}, preset=preset)
    (tmp_path / "rules.toml").write_text(RULES.replace("what it should show", "<b>bold</b>"), encoding="utf-8")
    held = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    card = prereg.scorecard(prereg.stamp(tmp_path / "rules.toml", rows_before=0, stamped_at="now"), held)
    card["outcomes"][0]["name"] = HOSTILE[0]
    (tmp_path / "summary.json").write_text(json.dumps({**held, "prereg": card}), encoding="utf-8")
    page = render(tmp_path).read_text(encoding="utf-8")
    for part in ("adapters", "predictions", "published"):
        assert f'<section id="{part}">' in page
    assert "<b>bold</b>" not in page
    assert "alert('x')</script>" not in page
    shown = html.unescape(page)
    for command in (
        "DIR:none DIR:plan-empty\n",
        "DIR:plan-empty DIR:plan-empty+prefix\n",
        "DIR:vote DIR:vote+prefix --vote\n",
    ):
        assert f"triaxis compare {command}" in shown


def test_the_terminal_tells_them_too(summary: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES, encoding="utf-8")
    card = prereg.scorecard(prereg.stamp(tmp_path / "rules.toml", rows_before=0, stamped_at="now"), summary)
    out = io.StringIO()
    print_summary({**summary, "prereg": card}, Console(file=out, width=140))
    assert "vote+prefix minus vote" in out.getvalue()
    assert "FAILS  the question alone is always right" in out.getvalue()
