"""Results, adapters and rows of the repairs as archives small enough to carry.

Of a row what cannot be made again is kept: item, condition, branch, seed, text and what it cost. Prompts are the
task's and the plans', ids and grades can be made anew; nothing here does so yet.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pool import say

from triaxis.store import Store

KEPT = (".json", ".jsonl", ".md", "adapter_model.safetensors")
ROW = ("condition", "item", "branch", "seed", "text", "tokens", "forwards", "ended", "length", "confidence")
PLAN = ("id", "item", "source", "seed", "text", "tokens", "truncated", "detail")
MOST = 15_500_000  # bytes of one archive; above it rows are left out, and its log says so


def pack(folder: Path | None, name: str, root: Path, paths: Iterable[Path]) -> None:
    """Write FOLDER/NAME of the paths, with names relative to root; without rows where they would make it too large."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    found = list(paths)
    for rows in (True, False):
        with tarfile.open(folder / f"{name}.partial", "w:xz", preset=6) as archive:
            for at, content in _members(root, found, rows):
                info = tarfile.TarInfo(at)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        size = (folder / f"{name}.partial").stat().st_size
        if size <= MOST:
            break
    (folder / f"{name}.partial").replace(folder / name)
    say(f"{name}: {size / 1e6:.1f} MB{'' if rows else ', rows left out'}")


def _members(root: Path, paths: Iterable[Path], rows: bool) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []:
            at = str(file.relative_to(root))
            if file.name.endswith(KEPT):
                yield at, file.read_bytes()
            elif file.name == "rows.sqlite" and rows:
                with Store(file, write=False) as store:
                    yield at.replace(".sqlite", ".jsonl"), _lines(store.rows(), ROW)
                    if file.parent.name == "before":  # the others show the same plans
                        yield at.replace("rows.sqlite", "plans.jsonl"), _lines(store.plans().values(), PLAN)


def _lines(values: Iterable[object], names: tuple[str, ...]) -> bytes:
    rows = ([getattr(v, n) for n in names] for v in values)
    return "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows).encode()
