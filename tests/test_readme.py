"""The README's commands, run as they stand. The set-up line itself is run by .ci/run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def commands() -> list[list[str]]:
    lines = blocks("sh")[2].splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_the_setup_is_two_commands() -> None:
    setup, test = blocks("sh")[:2]
    assert len(setup.strip().splitlines()) == len(test.strip().splitlines()) == 1
    assert setup.rstrip().endswith("triaxis diagnose --out runs/first")
    assert test.strip() == 'pytest -m "not slow"'


@pytest.mark.slow
def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    assert len(commands()) >= 5
    for command in commands():
        assert command[0] == "triaxis"
        program = [sys.executable, "-c", "from triaxis.cli import main; main()", *command[1:]]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert (tmp_path / "runs/more/report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_python_of_the_readme_works(tmp_path: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "####" in done.stdout
    assert "Estimate(" in done.stdout
