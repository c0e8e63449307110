"""The live view: what it shows at the end is what the summary says, a resumed study starts where it stood, and where
there is no terminal there is nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from triaxis.cli.live import Live, Standing
from triaxis.report.study import Study

STUDY = {"n": 5, "conditions": ("none", "hint", "vote")}


def shown(live: Live) -> str:
    console = Console(width=110, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    console.print(live.render())
    return console.export_text()


@pytest.mark.slow
def test_the_last_look_is_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    with Live(price_per_hour=3600.0) as live:
        study: Any = Study(**STUDY)
        summary = study.run(tmp_path, live, seen=live.seen)
        text = shown(live)
    for c in summary["conditions"]:
        standing = live.standings[c["name"]]
        value, low, high = standing.estimate()
        assert value == pytest.approx(c["accuracy"])
        assert low <= value <= high
        assert standing.done == standing.total
        assert c["name"] in text
    assert "dollars" in text
    assert f"{live.forwards:,} forward passes" in text
    with Live() as again:  # rows that were there count, once
        more: Any = Study(**{**STUDY, "conditions": ("none", "hint", "vote")})
        more.sample(tmp_path, again, again.seen)
        more.sample(tmp_path, again, again.seen)
    assert {n: s.done for n, s in again.standings.items()} == {n: s.done for n, s in live.standings.items()}


def test_no_terminal_no_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with Live() as live:
        Study(n=2, conditions=("none", "hint")).run(tmp_path, live, seen=live.seen)
    assert live.standings == {}
    assert capfd.readouterr() == ("", "")


def test_an_item_counts_by_the_share_of_its_branches() -> None:
    s = Standing(8)
    for item, verdicts in {"a": ("right", "wrong"), "b": ("right", "right"), "c": ("unreadable", "wrong")}.items():
        for v in verdicts:
            s.add(item, v)
    assert s.estimate()[0] == pytest.approx(0.5)
    assert (s.done, s.unreadable) == (6, 1)
