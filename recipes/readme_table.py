"""Put the table of the README's own run into the README.

python recipes/readme_table.py runs/first
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from triaxis.errors import script
from triaxis.report.markdown import markdown

COLUMNS = ("axis", "effect", "points", "95 % interval", "n", "p (Holm)", "verdict")
ROWS = re.compile(r"hint|plan-empty.*|filler.*|(content|net)\[.*|vote minus one branch")


def chosen(table: str) -> Iterator[str]:
    """The effects that answer the three questions, of the table of all effects."""
    head, rule, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in table.splitlines())
    places = [head.index(name) for name in COLUMNS]
    for row in (head, rule, *(r for r in rows if ROWS.fullmatch(r[1]))):
        yield f"| {' | '.join(row[i] for i in places)} |"


def main() -> None:
    """Replace the part of README.md between the table marks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="its folder")
    path = Path(__file__).resolve().parents[1] / "README.md"
    summary = json.loads((parser.parse_args().study / "summary.json").read_text(encoding="utf-8"))
    table = "\n".join(chosen(markdown(summary).split("\n\n")[1]))  # arms, then effects; the report has the rest
    head, rest = path.read_text(encoding="utf-8").split("<!-- table:begin -->")
    tail = rest.split("<!-- table:end -->")[1]
    path.write_text(f"{head}<!-- table:begin -->\n{table}\n<!-- table:end -->{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(script(main))
