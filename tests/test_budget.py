"""Hours and dollars of a training follow from a throughput that was measured or given, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from triaxis.cli import main
from triaxis.conditions import load_preset
from triaxis.errors import UserError
from triaxis.train.budget import PRESET, budget, given, judged, measured
from triaxis.train.recipes import RECIPES


def report(path: Path, **changes: Any) -> Path:
    timings = [
        {"name": "compiled", "tokens_per_second": 2000.0, "batch": 4},
        {"name": "4-bit", "tokens_per_second": 500},
    ]
    path.write_text(json.dumps({"device": "a GPU", "row_tokens": 500, "timings": timings, **changes}))
    return path


def test_hours_are_tokens_over_tokens_a_second() -> None:
    found = budget(RECIPES["prefix"], given(1000.0, 360.0), adapters=2, sequences=7200, sequence_seconds=0.5, price=2.0)
    assert found.tokens == 2 * 5000 * 4 * 360
    assert found.training_hours == pytest.approx(4.0)
    assert found.decoding_hours == pytest.approx(1.0)
    assert (found.hours, found.dollars) == (pytest.approx(5.0), pytest.approx(10.0))
    bare = budget(RECIPES["prefix"], given(1000.0, 360.0), adapters=2, sequences=7200)
    assert (bare.decoding_hours, bare.dollars) == (None, None)
    assert "no time given" in bare.lines()


def test_the_speed_is_that_of_the_case(tmp_path: Path) -> None:
    path = report(tmp_path / "bench.json")
    assert measured(path, "compiled")[:2] == (2000.0, 500.0)
    assert measured(path, "4-bit", 300.0)[:2] == (500.0, 300.0)
    assert measured(path, "4-bit").source == "'4-bit' on a GPU, bench.json"


def test_sequences_are_those_of_the_judgement() -> None:
    table = load_preset(PRESET).conditions(["p"])
    rows = sum(c.branches for c in table)
    common = {"control": True, "asked": 50, "k": 5, "blocks": 2}
    assert judged("prefix", ["p"], 10, 3, **common) == rows * 10 * (1 + 6)  # type: ignore[arg-type]
    assert judged("prefix", ["p"], 10, 3, **{**common, "control": False}) == rows * 10 * 4  # type: ignore[arg-type]
    assert judged("consensus", [], 10, 3, **common) == 50 * 6 + 10 * 8 + 3 * 2 * 10 * 6  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"timings": []}, "no case 'compiled' was timed"),
        ({"timings": [{"name": "compild", "tokens_per_second": 1.0}]}, "did you mean 'compild'"),
        ({"row_tokens": None}, "no report of triaxis bench train"),
        ({"timings": [{"name": "compiled", "tokens_per_second": 0}]}, "give a positive number"),
    ],
)
def test_a_report_that_cannot_be_used_is_one_line(spoil: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        measured(report(tmp_path / "bench.json", **spoil), "compiled")


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        main(["train", "cost", *words])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = str(report(tmp_path / "bench.json"))
    code, out, _ = told(capsys, "consensus", "--bench", bench, "--price-per-hour", "3", "--seeds", "0,1", "--json")
    found = json.loads(out)
    assert (code, found["adapters"], found["steps"]) == (0, 2, RECIPES["consensus"].steps)
    assert found["dollars"] == pytest.approx(3 * found["tokens"] / 2000 / 3600)
    code, out, _ = told(capsys, "prefix", "--tokens-per-second", "100", "--row-tokens", "400", "--set", "steps=10")
    assert (code, "10 steps x 4 rows" in out) == (0, True)
    for words in (
        ["prefix"],
        ["prefix", "--tokens-per-second", "100"],
        ["prefix", "--bench", str(tmp_path / "none.json")],
    ):
        code, out, err = told(capsys, *words)
        assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
