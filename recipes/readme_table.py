"""Put the tables of the README's own run into the README.

python recipes/readme_table.py runs/first
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from triaxis.report.markdown import markdown


def main() -> None:
    """Replace the part of README.md between the table marks."""
    path = Path(__file__).resolve().parents[1] / "README.md"
    summary = json.loads((Path(sys.argv[1]) / "summary.json").read_text(encoding="utf-8"))
    table = "\n\n".join(markdown(summary).split("\n\n")[:2])  # arms and effects; the report has the rest
    head, rest = path.read_text(encoding="utf-8").split("<!-- table:begin -->")
    tail = rest.split("<!-- table:end -->")[1]
    path.write_text(f"{head}<!-- table:begin -->\n{table}\n<!-- table:end -->{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
