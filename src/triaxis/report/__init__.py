"""Rows and estimates -> one self-contained HTML page, and tables for a terminal. Imports no torch.

`render(folder)` re-makes a study's page from its files; `write_report` writes one from objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triaxis.store import Store

__all__ = ["current", "render", "write_report"]


def current(folder: Path) -> bool:
    """Whether folder/report.html is newer than the files it is made of and than the code that makes it."""
    from triaxis.registry.sights import FILE

    home = Path(__file__).parent
    held = (Path(folder) / n for n in ("summary.json", "protocol.json", "rows.sqlite"))
    sources = [*held, FILE, *home.rglob("*.*")]
    try:
        made = (Path(folder) / "report.html").stat().st_mtime_ns
        return all(made >= p.stat().st_mtime_ns for p in sources if p.suffix != ".pyc")
    except OSError:
        return False


def render(folder: Path) -> Path:
    """Write folder/report.html again from summary.json, protocol.json and rows.sqlite; the path of the page.

    UserError where a file is missing, damaged, or of another study than the others.
    """
    from triaxis.report.load import load, no_collection

    summary, protocol, store = load(Path(folder))
    path = Path(folder) / "report.html"
    with store, no_collection():
        write_report(summary, protocol, store, path)
    return path


def write_report(summary: Mapping[str, Any], protocol: Mapping[str, Any], store: Store | None, path: Path) -> None:
    """Write one self-contained page of less than 3 MB to `path`, replacing it in one move.

    summary, protocol: the objects of summary.json and protocol.json. store: open, for the items that flipped; None
    leaves that section out. UserError where the store is damaged or not graded, or `path` cannot be written.
    """
    from triaxis.report.load import flips_of, write_text
    from triaxis.report.page import page

    flips = None if store is None else flips_of(store, protocol)
    write_text(Path(path), page(summary, protocol, flips))
