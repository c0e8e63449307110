"""Recipes of published studies: their commands exist with those options, for both families, and the tiny one runs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli_reference import app, commands
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("original_study", "think_first")
SHORT = {
    "N": "6", "ITEMS": "8", "VOTED": "8", "SEEDS": "0", "PLANNERS": "tiny-planner-s", "VOTED_SET": "--set steps=2",
    "PREFIX_SET": "--set steps=2 --set batch=4 --no-control --conditions none,hint",
}  # fmt: skip


def start(script: str, family: str, folder: Path, program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe with `program` (lines of sh) in the place of triaxis."""
    shim = folder / "bin" / "triaxis"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
    shim.chmod(0o755)
    everything = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", **env}
    line = ["bash", str(ROOT / "recipes" / script / "run.sh"), family]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=everything, check=False, timeout=550)


@pytest.mark.parametrize("family", ["tiny", "llada"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_of_a_recipe_exists_with_its_options(script: str, family: str, tmp_path: Path) -> None:
    known = {tuple(path.split()): c for path, c in commands(get_command(app))}
    done = start(script, family, tmp_path, f'echo triaxis "$@" >> {tmp_path}/said')
    assert done.returncode == 0, done.stderr
    said = [shlex.split(line) for line in (tmp_path / "said").read_text(encoding="utf-8").splitlines()]
    assert len(said) >= 6
    for words in said:
        path = next(p for p in known if tuple(words[: len(p)]) == p)
        context = known[path].make_context(" ".join(path), words[len(path) :], resilient_parsing=False)
        assert context.params
    assert {words[words.index("--n") + 1] for words in said if "--n" in words} == {said[0][said[0].index("--n") + 1]}


@pytest.mark.parametrize("machine", ["24gb", "80gb"])
def test_the_recipe_of_a_machine_is_made_of_commands_that_exist(machine: str, tmp_path: Path) -> None:
    known = {tuple(path.split()): c for path, c in commands(get_command(app))}
    done = start("llada", machine, tmp_path, f'echo triaxis "$@" >> {tmp_path}/said')
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "said").read_text(encoding="utf-8").replace("--case 4-bit base, layers recomputed", "--case x")
    said = [shlex.split(line) for line in lines.splitlines()]
    for words in said:
        path = next(p for p in sorted(known, key=len, reverse=True) if tuple(words[: len(p)]) == p)
        known[path].make_context(" ".join(path), words[len(path) :], resilient_parsing=False)
    trained = [w for w in said if w[1:3] in (["train", "prefix"], ["train", "trust"]) or w[1] == "distill"]
    assert len(trained) == 4
    assert all(("4bit" in w) == (machine == "24gb") for w in trained)
    alone = start("llada", machine, tmp_path, f'echo triaxis "$@" >> {tmp_path}/cost', ONLY="cost")
    assert (alone.returncode, (tmp_path / "cost").read_text().count("\n")) == (0, 4)


@pytest.mark.parametrize("script", SCRIPTS)
def test_another_family_is_refused_in_one_line(script: str, tmp_path: Path) -> None:
    done = start(script, "gpt", tmp_path, "exit 99")
    assert (done.returncode, done.stderr) == (2, "run.sh: first word: tiny or llada\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "made"),
    [
        ("original_study", "base/report.html prefix/repair.md consensus/distillation.md factorial/diagnosis.md"),
        ("think_first", "wrapper/report.html grid/report.html"),
    ],
)
def test_a_recipe_runs_on_the_tiny_family(script: str, made: str, tmp_path: Path) -> None:
    call = "from triaxis.cli import main; main()"
    done = start(script, "tiny", tmp_path, f"exec {shlex.quote(sys.executable)} -c '{call}' \"$@\"", **SHORT)
    assert done.returncode == 0, done.stderr[-2000:]
    (out,) = (tmp_path / "runs").iterdir()
    for name in made.split():
        assert (out / name).stat().st_size > 100, name
