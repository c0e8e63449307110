"""The tutorial and the guide: links lead somewhere, commands exist and run as they stand, outputs are what they print.

python tests/test_guide.py        # runs the commands of every page of PAGES and writes their outputs into it
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli_reference import app, commands
from typer.main import get_command

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("tutorial.md", "guide.md", "original-study.md", "think-first.md")
# commands, and under them what the last one printed; keep: the lines shown, all where it is not given
BLOCK = re.compile(
    r"```sh\n(?P<commands>.*?)```\n(?:<!-- output(?:: (?P<keep>.*?))? -->\n```text\n(?P<shown>.*?)```\n)?", re.S
)
NUMBER = re.compile(r"[+−-]?\d[\d.,]*(?:e[+-]?\d+)?")
NO_MODEL = {"power", "audit", "registry", "doctor"}  # their outputs are the same everywhere, to the last digit


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def lines_of(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip()]


ALL = [line for page in PAGES for m in BLOCK.finditer(text_of(page)) for line in lines_of(m["commands"])]


def anchors(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    heads = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    return heads | set(re.findall(r'id="([^"]+)"', text))


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_lead_to_files_and_headings(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        if name.startswith("example/"):  # made by the site's build, which checks that they are there
            continue
        path = (DOCS / name).resolve() if name else DOCS / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}"


def test_every_command_named_on_the_pages_exists_with_its_options() -> None:
    known = {tuple(path.split()): c for path, c in commands(get_command(app))}
    assert len(ALL) >= 12
    for line in ALL:
        words = shlex.split(line, comments=True)
        path = next(p for p in known if tuple(words[: len(p)]) == p)
        options = {o for p in known[path].params for o in (*p.opts, *p.secondary_opts)}
        assert {w for w in words[len(path) :] if w.startswith("--")} <= options, line
    inline = [text for page in PAGES for text in re.findall(r"`(triaxis [a-z ]+)", text_of(page))]
    assert inline
    for text in inline:
        words = tuple(text.split())
        assert any(p == words[: len(p)] for p in known), text


# ---------------------------------------------------------------- running them


def run(line: str, folder: Path) -> str:
    """What a command prints; it exits 0, or 1 where its comment says so."""
    program = [sys.executable, "-c", "from triaxis.cli import main; main()", *shlex.split(line, comments=True)[1:]]
    wide = line.split()[1] in NO_MODEL and "registry" in line  # tables of many columns; a page scrolls
    env = {**os.environ, "COLUMNS": "170" if wide else "100", "NO_COLOR": "1"}
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=400, env=env, check=False)
    assert done.returncode == (1 if "# exits 1" in line else 0), f"{line}: {done.stderr}"
    return done.stdout


def kept(printed: str, keep: str | None) -> list[str]:
    """The lines shown, with "..." for those left out between them."""
    shown: list[str] = []
    for line in (text.rstrip() for text in printed.splitlines()):
        if line.strip() and (keep is None or re.search(keep, line)):
            shown.append(line)
        elif keep is not None and line.strip() and shown and shown[-1] != "...":
            shown.append("...")
    return shown[:-1] if shown and shown[-1] == "..." else shown


def outputs(page: str, folder: Path) -> Iterator[tuple[re.Match[str], str, list[str] | None]]:
    """Each block of a page, its last command, and the lines it is to show (None: no output stands under it)."""
    for block in BLOCK.finditer(text_of(page)):
        printed = [run(line, folder) for line in lines_of(block["commands"])]
        shown = None if block["shown"] is None else kept(printed[-1], block["keep"])
        yield block, lines_of(block["commands"])[-1], shown


def plain(lines: list[str], exact: bool) -> list[str]:
    """Lines to be compared: white space apart, and without digits where a model made them."""
    return [" ".join((line if exact else NUMBER.sub("#", line)).split()) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run_and_print_what_the_page_shows(page: str, tmp_path: Path) -> None:
    seen = 0
    for block, command, shown in outputs(page, tmp_path):
        if shown is not None:
            exact = command.split()[1] in NO_MODEL
            assert plain(lines_of(block["shown"]), exact) == plain(shown, exact), command
            seen += len(shown)
    assert seen > 5
    if page == "tutorial.md":
        for made in ("guide/report.html", "trace/trace.html", "guide/tables/effects.csv", "guide/figures/forest1.pdf"):
            assert (tmp_path / "runs" / made).stat().st_size > 100


def write(page: str) -> None:
    """Put the outputs of a page's commands into it."""
    with tempfile.TemporaryDirectory() as folder:
        text = text_of(page)
        for block, _, shown in outputs(page, Path(folder)):
            if shown:
                old = block[0]
                head = old[: old.index("```text\n")] + "```text\n"
                text = text.replace(old, "\n".join([head + shown[0], *shown[1:], "```\n"]), 1)
        (DOCS / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        write(name)
