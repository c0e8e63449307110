"""Published claims as differences in points by axis, as `estimate/landscape.py` audited them, read in milliseconds.

sights.json is made from papers/ by `python tests/test_sights.py`; a test compares. A page that shows them then needs
neither SciPy nor the half second that the audit of every claim takes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from triaxis.limits import parse_json

FILE = Path(__file__).parent / "sights.json"


@cache
def sights() -> dict[str, list[dict[str, Any]]]:
    """By axis ("A1"), least first: paper, citation, label (its provenance), condition, task, executor, points, low and
    high (over all pairings its numbers allow), n, verdict, fixed (design variables it states)."""
    found: dict[str, list[dict[str, Any]]] = parse_json(FILE.read_text(encoding="utf-8"))
    return found
