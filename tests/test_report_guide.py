"""docs/guide.md: its links lead somewhere, its commands exist, and run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli_reference import app, commands
from typer.main import get_command

DOCS = Path(__file__).resolve().parents[1] / "docs"
GUIDE = (DOCS / "guide.md").read_text(encoding="utf-8")
BLOCKS = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.S) for line in block.splitlines() if line]


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_lead_to_files_and_headings(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (DOCS / page).read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = (DOCS / name).resolve() if name else DOCS / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}"


def test_every_command_named_in_the_guide_exists_with_its_options() -> None:
    known = {tuple(path.split()): c for path, c in commands(get_command(app))}
    for line in BLOCKS:
        words = shlex.split(line)
        path = next(p for p in known if tuple(words[: len(p)]) == p)
        options = {o for p in known[path].params for o in (*p.opts, *p.secondary_opts)}
        assert {w for w in words[len(path) :] if w.startswith("--")} <= options, line
    inline = re.findall(r"`(triaxis [a-z ]+)", GUIDE)
    assert inline
    for text in inline:
        words = tuple(text.split())
        assert any(p == words[: len(p)] for p in known), text


@pytest.mark.slow
def test_the_commands_of_the_guide_work(tmp_path: Path) -> None:
    assert len(BLOCKS) >= 12
    for line in BLOCKS:
        program = [sys.executable, "-c", "from triaxis.cli import main; main()", *shlex.split(line)[1:]]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    for made in ("guide/report.html", "trace/trace.html", "guide/tables/effects.csv", "guide/figures/forest1.pdf"):
        assert (tmp_path / "runs" / made).stat().st_size > 100
