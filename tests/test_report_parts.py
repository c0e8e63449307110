"""The parts of the report that some studies have: grids, corruptions, pipelines, costs, failures. Of every preset."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_study import write_study
from rich.console import Console
from test_report import Tags, load

from triaxis.report import render, words
from triaxis.report.answer import answers
from triaxis.report.load import schema
from triaxis.report.markdown import markdown
from triaxis.report.page import commands
from triaxis.report.sections import cost, every_effect
from triaxis.report.terminal import print_summary

AXES = ("brittleness", "trust", "diversity")


@pytest.fixture(scope="module", params=["original", "factorial", "trust", "diversity", "think-first"])
def preset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of each shipped preset; the largest planner only."""
    folder = tmp_path_factory.mktemp(request.param)
    planners = {} if request.param in ("factorial", "diversity") else {"s": 100_000, "l": 1_600_000}
    write_study(folder, 12, planners, preset=request.param)
    render(folder)
    return folder


def test_every_preset_fits_the_schema_and_shows_every_effect(preset: Path) -> None:
    summary = load(preset)
    jsonschema.validate(summary, schema(), cls=jsonschema.Draft202012Validator)
    html = (preset / "report.html").read_text(encoding="utf-8")
    page = Tags(html)
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["href"] and a["href"][1:] in ids for t, a in page.tags if t == "a")
    cells = [re.sub(r"<[^>]*>", "", row) for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", html, re.S)]
    for _, e in every_effect(summary):
        line = words.points(e["value"]) + words.span(e["low"], e["high"]) + str(e["n"])
        assert any(line in cell for cell in cells), e["name"]
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=160))
    for _, e in every_effect(summary):
        assert words.span(e["low"], e["high"]).replace(words.MINUS, "-") in out.getvalue()
    assert markdown(summary).count("\n| ") >= len(summary["conditions"]) + len(list(every_effect(summary)))


def test_parts_are_there_where_their_data_is(preset: Path) -> None:
    axes, html = load(preset)["axes"], (preset / "report.html").read_text(encoding="utf-8")
    ids = {a["id"] for _, a in Tags(html).tags if "id" in a}
    figures = {i.removesuffix("-wide") for i in ids if i and i.endswith("-wide")}
    assert ("pipelines" in ids) == bool(axes.get("pipelines")) == ("pipelines" in figures)
    grids = len(axes.get("factorial", ()))
    assert {f"grid-{k}" for k in range(1, grids + 1)} == {i for i in ids if i and i.startswith("grid-")}
    assert {f"design{k}-levels" for k in range(1, grids + 1)} <= figures
    assert ("pareto" in figures) == bool(axes["diversity"])
    assert ("forest2c" in figures) == any(p["corruptions"] for p in (axes["trust"] or {"planners": []})["planners"])
    assert ("Not measured" in html) == (not all(axes[k] or (k == "brittleness" and grids) for k in AXES))
    text = Tags(html).text
    for d in axes.get("factorial", ()):
        for m in d["levels"]:
            assert f"{m['factor']} = {m['level']}" in text
    for p in (axes["diversity"] or {"pareto": []})["pareto"]:
        assert p["name"] in text
    for c in ((axes["diversity"] or {"changes": {}})["changes"]).values():
        assert c["reason"] in text


@pytest.mark.slow
def test_the_commands_of_a_page_recompute_its_effects(tmp_path: Path) -> None:
    """Each command is run as it stands; what it prints is on the page, and every paired effect is printed by one."""
    summary = write_study(tmp_path, 40)
    protocol = json.loads((tmp_path / "protocol.json").read_text(encoding="utf-8"))
    printed = []
    for command in (c for found in commands(summary, protocol).values() for c in found):
        argv = [str(tmp_path) + w.removeprefix("DIR") if w.startswith("DIR") else w for w in shlex.split(command)[1:]]
        program = [sys.executable, "-c", "from triaxis.cli import main; main()", *argv, "--json"]
        said = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
        printed += said.get("effects", [said])
    axes = summary["axes"]
    planners = axes["trust"]["planners"]
    shown = [*axes["brittleness"]["effects"], *axes["diversity"]["effects"]]
    shown += [p[key] for p in planners for key in ("content", "scaffold", "net", "gold_lift") if p[key]]
    shown += [e for p in planners for e in p["corruptions"].values()]
    key = ("value", "low", "high", "p", "n", "gain", "loss")
    on_page, by_command = ({tuple(round(e[k], 9) for k in key) for e in found} for found in (shown, printed))
    assert len(on_page) > 15
    assert by_command == on_page


def test_the_answer_to_a_grid_names_its_cost_and_its_factors(tmp_path: Path) -> None:
    summary = write_study(tmp_path, 60, {}, preset="factorial")
    answer = answers(summary)[0]
    assert "means over the shapes of a grid" in answer.sentence
    assert "placement=reply" in answer.sentence  # the made-up study has it thirty points lower
    assert answer.verdict != "not measured"


def test_costs_that_are_known_are_shown_and_others_left_out() -> None:
    known: dict[str, Any] = {"seconds": 7325.0, "forwards": 12, "tokens": 3400, "dollars": None}
    assert [row[0] for row in cost(known).rows] == [
        "time of sampling and planning",
        "forward passes",
        "tokens they read",
    ]
    spent = {"forwards": 5, "tokens": 60, "requests": 0}
    found = dict(cost({**known, "flops": 5_600_000_000_000_000, "dollars": 0.0123, "planning": spent}).rows)
    assert found["operations of the executor"] == "5.6 PFLOP"
    assert found["dollars"] == "0.0123"
    assert found["time of sampling and planning"] == "2 h 02 min"
    assert found["planners' forward passes to write plans"] == "5"
    assert "requests to endpoints" not in found


def test_failures_are_shown_with_their_differences(tmp_path: Path) -> None:
    summary = write_study(tmp_path, 30, conditions=("hint", "plan-empty"))
    for c in summary["conditions"]:
        c |= {"continued": 0.25, "flooded": 0.0} if c["name"] == "hint" else {}
    summary["conditions"][1]["lost"] = {"items": 7, "format": 3}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    html = render(tmp_path).read_text(encoding="utf-8")
    (row,) = re.findall(r'<tr><th scope="row">hint</th>(?:(?!</tr>).)*3 of 7</td></tr>', html)
    assert ">25.0<" in row
    table = html[html.index('id="failures"') :]
    assert ">plan goes on</a>" in table
    assert ">flooded</a>" not in table  # a kind that never occurs has no column
    assert re.search(r"\d+ of \d+ differences from the baseline are resolved", table)
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=120))
    assert "plan goes on" in out.getvalue()
    assert "3 of 7" in out.getvalue()
