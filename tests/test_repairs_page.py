"""docs/repairs.md: every command parses, every schedule and setting that it names exists."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from triaxis.cli import app, main
from triaxis.models.schedules import Schedule
from triaxis.train.recipes import Recipe

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "repairs.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S) for line in block.splitlines()
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
    adapter = context.params.get("adapter")
    if adapter:
        assert Schedule.parse(adapter).names


def test_settings_named_are_settings_of_a_recipe() -> None:
    assert len(LINES) >= 9
    listed = TEXT.split("changes the recipe:")[1].split("`--dtype")[0]
    names = {word.partition("=")[0] for word in re.findall(r"`([a-z]+)(?:=[^`]*)?`", listed)}
    known = {f.name for f in fields(Recipe)}
    assert names - known <= {"uniform", "stratified", "response", "block"}  # values of settings
    assert len(names & known) >= 14
