"""Rows and estimates -> one self-contained HTML page, and tables for a terminal. Imports no torch.

`render(folder)` re-makes a study's page from its files; `write_report` writes one from objects.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triaxis.store import Store

__all__ = ["current", "render", "write_report"]


def current(folder: Path) -> bool:
    """Whether folder/report.html was made of the files that are there now, by the code that is there now.

    By a stamp in the page and not by times of change, which a clock that jumps puts out of order. A sealed study's page
    stands as it is.
    """
    from triaxis.errors import UserError
    from triaxis.store import SEAL

    path = Path(folder) / "report.html"
    try:
        with path.open("rb") as f:
            f.seek(-min(path.stat().st_size, 100), io.SEEK_END)
            return (path.parent / SEAL).exists() or f.read().endswith(_stamp(Path(folder)).encode())
    except (OSError, UserError):
        return False


def _stamp(folder: Path) -> str:
    """The last line of a page: a hash of what it is made of."""
    from triaxis.registry.sights import FILE
    from triaxis.store import TABLES, Store

    with Store(folder / "rows.sqlite", write=False) as store:
        tallies = [str(store.tally(table)) for table in TABLES]
    code = (p for p in sorted(Path(__file__).parent.rglob("*.*")) if p.suffix != ".pyc")
    digest = hashlib.sha256(" ".join(tallies).encode())
    for path in (folder / "summary.json", folder / "protocol.json", FILE, *code):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"<!-- made of {digest.hexdigest()[:32]} -->\n"


def render(folder: Path, workers: int = 1) -> Path:
    """Write folder/report.html again from summary.json, protocol.json and rows.sqlite; the path of the page.

    workers: processes that read a large store (`gather`). UserError where a file is missing, damaged, or of another
    study than the others.
    """
    from triaxis.report.load import load, no_collection

    summary, protocol, store = load(Path(folder))
    path = Path(folder) / "report.html"
    with store, no_collection():
        write_report(summary, protocol, store, path, _stamp(Path(folder)), workers)
    return path


def write_report(
    summary: Mapping[str, Any],
    protocol: Mapping[str, Any],
    store: Store | None,
    path: Path,
    stamp: str = "",
    workers: int = 1,
) -> None:
    """Write one self-contained page of less than 3 MB to `path`, replacing it in one move.

    summary, protocol: the objects of summary.json and protocol.json. store: open, for the items that flipped; None
    leaves that section out. stamp: a comment that ends the page. workers: as `render`.
    UserError where the store is damaged or not graded, or `path` cannot be written.
    """
    from triaxis.report.load import flips_of, write_text
    from triaxis.report.page import page

    flips = None if store is None else flips_of(store, protocol, workers)
    write_text(Path(path), page(summary, protocol, flips) + stamp)
