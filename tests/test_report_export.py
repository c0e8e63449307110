"""A report outside of its page: LaTeX and CSV hold every number of the summary, figures are vectors in real colours."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_study import HOSTILE, write_study
from typer.testing import CliRunner

from triaxis.cli import app
from triaxis.cli import study as _registers  # noqa: F401
from triaxis.errors import UserError
from triaxis.report import ink, plots
from triaxis.report.export import latex, tex, write_csv, write_figures
from triaxis.report.markdown import tables
from triaxis.report.sections import every_effect


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, 30)
    return folder


@pytest.fixture(scope="module")
def summary(study: Path) -> dict[str, Any]:
    return dict(json.loads((study / "summary.json").read_text(encoding="utf-8")))


def hostile(summary: dict[str, Any]) -> dict[str, Any]:
    bad = copy.deepcopy(summary)
    for i, c in enumerate(bad["conditions"]):
        c["name"] = HOSTILE[i % len(HOSTILE)] + r" \input{/etc/passwd} & 50% $x$ [b] =1+1"
    bad["axes"]["brittleness"]["effects"][0]["name"] = "=HYPERLINK(1)"
    return bad


def test_latex_has_a_row_for_every_line_and_the_columns_of_its_heads(summary: dict[str, Any]) -> None:
    text = latex(summary)
    for table, found in zip(
        tables(summary), re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, re.S), strict=True
    ):
        spec, body = re.fullmatch(r"\{([lr]+)\}\n(.*)", found, re.S).groups()  # type: ignore[union-attr]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(spec) == len(table.heads)
        assert len(rows) == 1 + len(table.rows)
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(spec) - 1 for row in rows)
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == len(tables(summary))


def test_no_name_acts_in_latex(summary: dict[str, Any]) -> None:
    text = latex(hostile(summary))
    allowed = {
        "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "textbackslash", "textless",
        "textgreater", "textbar", "symbol", "textasciitilde", "textasciicircum", "dots", "usepackage", "footnotesize",
        "setlength", "tabcolsep", "resizebox", "ifdim", "width", "linewidth", "else", "fi",
    }  # fmt: skip
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= allowed
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert len([line for line in text.splitlines() if line.startswith("%")]) == 1


@given(st.text())
def test_tex_leaves_no_special_character_bare(text: str) -> None:
    made = tex(text)
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}",
                  r"\textbar{}", r"\symbol{34}", r"\dots{}", "$-$", "{[}", "{]}", "~"):  # fmt: skip
        made = made.replace(known, "")
    assert not re.search(r"[~^<>|\"\n]|(?<!\\)[{}$&#_%]|\\(?![{}$&#_%])", made)


def test_csv_holds_the_numbers_unrounded_and_no_formula(summary: dict[str, Any], tmp_path: Path) -> None:
    conditions, effects = (
        list(csv.DictReader(p.read_text(encoding="utf-8").splitlines())) for p in write_csv(summary, tmp_path)
    )
    assert [(c["name"], float(c["accuracy"]), int(c["n"])) for c in conditions] == [
        (c["name"], c["accuracy"], c["n"]) for c in summary["conditions"]
    ]
    wanted = [(axis, e["name"], e["value"], e["p_holm"], e["verdict"]) for axis, e in every_effect(summary)]
    assert [(e["axis"], e["name"], float(e["value"]), float(e["p_holm"]), e["verdict"]) for e in effects] == wanted
    _, path = write_csv(hostile(summary), tmp_path)
    assert "'=HYPERLINK(1)" in path.read_text(encoding="utf-8")
    assert not re.search(r"(?m)(?:^|,)\"?[=@]", path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.slow
def test_latex_compiles_and_no_table_is_too_wide(summary: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{head}{latex(summary)}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("kind", [k if k == "svg" else pytest.param(k, marks=pytest.mark.slow) for k in ink.KINDS])
def test_figures_are_vectors_in_the_colours_of_paper(summary: dict[str, Any], tmp_path: Path, kind: str) -> None:
    made = write_figures(summary, tmp_path, kind)
    assert len(made) >= 4
    first = {**summary, "axes": {**summary["axes"], "trust": None, "diversity": None}}
    again = write_figures(first, tmp_path / "again", kind)
    assert [p.read_bytes() for p in again[:2]] == [p.read_bytes() for p in made[:2]]
    figures, behind = made[::2], made[1::2]
    assert [p.suffix for p in behind] == [".csv"] * len(figures)
    with behind[0].open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    effects = summary["axes"]["brittleness"]["effects"]
    assert [(x["label"], float(x["value"]), float(x["low"])) for x in lines] == [
        (e["name"], e["value"], e["low"]) for e in effects
    ]
    for path in figures:
        content = path.read_bytes()
        assert content.startswith(b"%PDF" if kind == "pdf" else b"<?xml")
        if kind == "svg":
            used = set(re.findall(r"#[0-9a-f]{6}\b", content.decode()))
            assert not used & set(ink.INK.values()), path.name
            assert used & set(ink.PRINTED.values())
        else:
            assert b"/Subtype /Image" not in content


def test_the_page_is_the_same_while_files_are_made(summary: dict[str, Any]) -> None:
    groups = [plots.Group("", [plots.Mark("a", 0.1, 0.0, 0.2, kind="lift")])]
    options: dict[str, Any] = {"title": "t", "axis": "x", "name": "f"}
    alone = plots.forest(groups, **options)
    with ink.as_files("svg") as files:
        assert plots.forest(groups, **options) == alone
    assert list(files.made) == list(files.behind) == ["f"]
    with pytest.raises(UserError, match="did you mean 'pdf'"):
        write_figures(summary, Path("nowhere"), "pfd")


@pytest.mark.slow
def test_the_command(study: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(study), "--csv", "--figures", "pdf", "--json"])
    assert done.exit_code == 0, done.output
    files = [Path(f) for f in json.loads(done.stdout)["files"]]
    assert {f.parent for f in files} == {study / "tables", study / "figures"}
    assert all(f.stat().st_size > 100 for f in files)
    done = CliRunner().invoke(app, ["report", str(study), "--latex"])
    assert done.stdout == latex(json.loads((study / "summary.json").read_text(encoding="utf-8")))
    done = CliRunner().invoke(app, ["report", str(study), "--latex", "--markdown"])
    assert isinstance(done.exception, UserError)
