"""What the documentation site shows that is made, not written: the example report, its trace, the retro audit's page.

A hook of mkdocs (mkdocs.yml names it). The example is the README's own first study, runs/first: used where it is there,
else made by the same command, a minute or two on two cores. Fails the build where a page would ask another host for a
script, a style, a font or an image, or where the example is too large to mail.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
STUDY, TRACE = ROOT / "runs" / "first", ROOT / "runs" / "first-trace"
# an item of that study: right bare, a slip under an empty "Plan: " (in the report's browser: plan-empty, lost)
QUESTION = (
    "Mia has 42 beads. Mia finds 20 more beads. Mia finds 29 more beads. Then Mia loses 12 of them. Mia picks up "
    "another 8. Find the number of beads at the end."
)
MADE = {  # page of the site -> file it is made from
    "example/report.html": STUDY / "report.html",
    "example/trace.html": TRACE / "trace.html",
    "example/summary.json": STUDY / "summary.json",
    "example/retro-audit.html": ROOT / "recipes" / "retro_audit" / "page.html",
}
MOST_BYTES = 3_000_000
ASKS = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
HARMLESS = re.compile(r"rel=[\"']?(?:canonical|edit|prev|next|alternate)\b")


def triaxis(*argv: str) -> None:
    """One triaxis command at the root of the repository; its failure is the build's."""
    program = [sys.executable, "-c", "from triaxis.cli import main; main()", *argv]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PluginError(f"triaxis {' '.join(argv)} exits {done.returncode}: {done.stderr.strip()}")


def make() -> None:
    """The example study and trace: what is not there yet. The report is made again, from the rows, every time."""
    if not (STUDY / "summary.json").exists():
        triaxis("diagnose", "--out", str(STUDY))
    triaxis("report", str(STUDY))
    triaxis("trace", "--question", QUESTION, "--scaffold", "plan-empty", "--against", "bare", "--out", str(TRACE))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the made files, so that links to them are checked as all others are."""
    make()
    for page, path in MADE.items():
        if path.stat().st_size > MOST_BYTES:
            raise PluginError(f"{path} has {path.stat().st_size} bytes; an example has at most {MOST_BYTES}")
        files.append(File.generated(config, page, abs_src_path=str(path)))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """No page may load anything from another host."""
    for page in Path(config.site_dir).rglob("*.html"):
        for tag in ASKS.findall(page.read_text(encoding="utf-8")):
            if not HARMLESS.search(tag):
                raise PluginError(f"{page} would load from another host: {tag}")
