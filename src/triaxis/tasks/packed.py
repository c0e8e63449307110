"""Published data files shipped in the package, gzipped, each held against the checksum its SOURCES.tsv names.

The bytes are the source's own, compressed with `gzip.compress(raw, 9, mtime=0)`; the sha256 are of the raw bytes.
"""

from __future__ import annotations

import hashlib
from importlib.resources.abc import Traversable

from triaxis.errors import UserError
from triaxis.limits import BROKEN, gunzip


def read_packed(folder: Traversable, file: str, of: str) -> bytes:
    """The raw bytes of `file`, equal to the published ones. UserError, naming the data set `of`, if it is damaged."""
    name = f"{file}.gz"
    remedy = f"reinstall triaxis ({folder / name})"
    try:
        raw = gunzip((folder / name).read_bytes(), name, "bank")
    except FileNotFoundError:
        raise UserError(f"{of}'s {name} is missing from this installation; {remedy}") from None
    except BROKEN as error:
        raise UserError(f"{of}'s {name} is damaged and does not decompress ({error}); {remedy}") from None
    want, got = checksums(folder, of)[file], hashlib.sha256(raw).hexdigest()
    if got != want:
        raise UserError(f"{of}'s {name} is damaged: sha256 {got[:12]}…, expected {want[:12]}…; {remedy}")
    return raw


def checksums(folder: Traversable, of: str) -> dict[str, str]:
    """File -> sha256 of the raw bytes, from SOURCES.tsv beside the data."""
    try:
        lines = (folder / "SOURCES.tsv").read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{of}'s data are missing from this installation; reinstall triaxis ({folder})") from None
    header, *rows = (line.split("\t") for line in lines)
    table = [dict(zip(header, row, strict=True)) for row in rows]
    return {row["file"]: row["sha256"] for row in table}
