"""docs/your-model.md: every command of ours parses, with the options that exist today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from triaxis.cli import app, main

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "your-model.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.S) for line in block.splitlines()
    if line.startswith("triaxis ")
]  # fmt: skip


@pytest.fixture(scope="module")
def root() -> Any:
    with pytest.raises(SystemExit):
        main(["power", "--n", "200", "--discordance", ".26", "--json"])  # registers the commands
    return typer.main.get_command(app)


@pytest.mark.parametrize("line", LINES, ids=lambda s: s[8:40])
def test_the_command_parses(root: Any, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command, context = root, root.make_context("triaxis", list(words))
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
        assert command.name == name


def test_there_are_commands_for_each_machine() -> None:
    assert len(LINES) >= 12
    for words in (
        "--quantize 4bit",
        "--quantize 8bit",
        "--task lm-eval:",
        "--device cuda:1",
        "--dry-run",
        "--speed balanced",
        "plans build",
        "tune",
    ):
        assert any(words in line for line in LINES), words


def test_a_command_that_is_wrong_is_seen(root: Any) -> None:
    with pytest.raises(Exception, match="No such option"):
        test_the_command_parses(root, "triaxis diagnose --exectuor models/x")


@pytest.mark.slow
def test_banks_made_as_the_page_says_serve_the_study_of_the_page(tmp_path: Path) -> None:
    bank = tmp_path / "s.jsonl"
    built = ["plans", "build", "--planner", "tiny-planner-s", "--task", "gradeschool", "--n", "4", "--out", str(bank)]
    study = ["diagnose", "--planners", f"file:{bank}", "--n", "4", "--out", str(tmp_path / "study")]
    for argv in (built, study):
        with pytest.raises(SystemExit) as done:
            main(argv)
        assert not done.value.code, argv
    assert (tmp_path / "study" / "report.html").stat().st_size > 10_000
