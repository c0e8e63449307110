"""Columns of a large store, kept in a file beside it so that its next reading is one of a file and not of every row.

The file is a copy: what it was made of stands in it, and where that is no longer so, or anything about the file is not
as it should be, the rows are read again. Its name begins with a dot, so a seal does not hold it. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from triaxis.errors import UserError
from triaxis.estimate import columns, marks
from triaxis.estimate.columns import ARRAYS, CODED, DTYPES, Columns, Part
from triaxis.limits import open_safetensors, parse_json
from triaxis.store import TABLES, Store, refuse_sealed

FILE = ".columns.safetensors"


def stamp(store: Store, cards: Sequence[Mapping[str, Any]]) -> str:
    """A hash of what columns are made of: checksums of all rows, the conditions' cards, the code that reads them."""
    digest = hashlib.sha256(json.dumps([[str(store.tally(t)) for t in TABLES], cards], sort_keys=True).encode())
    for module in (columns, marks):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def load(folder: Path, stamp: str) -> Columns | None:
    """The columns that were kept under this stamp; None where there are none, or not whole and unchanged."""
    try:
        with open_safetensors(folder / FILE, "np") as f:
            held = f.metadata() or {}
            if held.get("stamp") != stamp:
                return None
            arrays = {name: f.get_tensor(name) for name in (*ARRAYS, "names")}
        if held.get("sha256") != _digest(arrays):
            return None
        words, conditions, items = parse_json(arrays.pop("names").tobytes())
        if not (arrays["id"] < 128).all():
            raise ValueError("ids are hexadecimal digits")
        arrays["id"] = arrays["id"].view(f"S{arrays['id'].shape[1]}")[:, 0]
        found = Columns(Part(words, **arrays), conditions, items)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError):
        return None
    return found if _whole(found) else None


def keep(found: Columns, folder: Path, stamp: str) -> None:
    """Keep columns for the next reading. Nothing happens where the folder is sealed or cannot be written."""
    arrays = {name: getattr(found.rows, name) for name in ARRAYS}
    arrays["id"] = arrays["id"].view(np.uint8).reshape(len(found.rows), -1)
    names = json.dumps([list(found.rows.words), list(found.conditions), list(found.items)])
    arrays["names"] = np.frombuffer(names.encode(), dtype=np.uint8)
    scratch = folder / f"{FILE}.partial"
    with suppress(OSError, UserError):
        refuse_sealed(folder)
        try:
            _write(arrays, scratch, {"stamp": stamp, "sha256": _digest(arrays)})
            if (folder / "rows.sqlite").exists():
                shutil.copymode(folder / "rows.sqlite", scratch)  # who may read the rows may read this
            scratch.replace(folder / FILE)
        finally:
            scratch.unlink(missing_ok=True)


def _write(arrays: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path, metadata)
    except SafetensorError as e:  # a full disk
        raise OSError(str(e)) from None


def _digest(arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _whole(found: Columns) -> bool:
    """Whether every array has an entry of its kind for each row, and every code a word."""
    n, rows = len(found.rows), found.rows
    named = {"condition": found.conditions, "item": found.items}
    return (
        all(type(w) is str for words in (rows.words, found.conditions, found.items) for w in words)
        and all(getattr(rows, name).shape == (n,) for name in ARRAYS)
        and all(getattr(rows, name).dtype == DTYPES[name] for name in ARRAYS if name != "id")
        and all(_within(getattr(rows, name), len(named.get(name, rows.words))) for name in CODED)
    )


def _within(codes: Any, end: int) -> bool:
    return not len(codes) or (int(codes.min()) >= 0 and int(codes.max()) < end)
