"""Reads the files of a study for a report and refuses what is missing, damaged or not of the same study."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.errors import UserError
from triaxis.limits import parse_json, read_card

if TYPE_CHECKING:
    from triaxis.report.flips import Flips
    from triaxis.store import Store


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any], Store]:
    """The summary, the protocol card and the open store of a study's folder."""
    from triaxis.store import Store

    summary, protocol = cards(folder)
    return summary, protocol, Store(folder / "rows.sqlite", write=False)


def cards(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary and the protocol card of a study's folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the folder that triaxis diagnose --out wrote")
    summary = read_card(folder / "summary.json", "run triaxis diagnose to its end, or triaxis grade to make it again")
    protocol = read_card(folder / "protocol.json", "run triaxis diagnose on this folder again to write it")
    check_summary(summary, folder / "summary.json")
    check_protocol(protocol, folder / "protocol.json")
    mine, other = summary["study"]["protocol_hash"], protocol["protocol_hash"]
    if mine != other:
        raise UserError(
            f"{folder}: summary.json is of protocol {mine}, protocol.json is {other}; they are of two studies"
        )
    return summary, protocol


def schema() -> dict[str, Any]:
    """The JSON Schema of summary.json."""
    found = resources.files("triaxis.report") / "summary.schema.json"
    return dict(parse_json(found.read_text(encoding="utf-8")))


def check_summary(summary: dict[str, Any], where: Path | str = "summary") -> None:
    """UserError at the first place where `summary` is not of the form of the schema."""
    from triaxis.registry.schema import check

    form = schema()
    try:
        check(summary, form, form)
    except UserError as e:
        raise UserError(
            f"{where}: not a summary this triaxis can read: {e}; make it again with triaxis grade"
        ) from None
    shapes = summary["axes"]["brittleness"]
    for effect in shapes["effects"] if shapes else ():
        pair = shapes["simultaneous"]["intervals"].get(effect["name"])
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(x, int | float) for x in pair):
            raise UserError(f"{where}: effect {effect['name']!r} lacks its simultaneous interval; run triaxis grade")
    axis = summary["axes"]["diversity"]
    for b in (axis, *axis["scaffolded"].values()) if axis else ():
        if not b["branches"] == len(b["pass_at_k"]) == len(b["pass_at_k_interval"]):
            raise UserError(f"{where}: pass_at_k does not have one value for each of {b['branches']} branches")


def check_protocol(protocol: dict[str, Any], where: Path | str = "protocol") -> None:
    """UserError where what the report needs of the protocol card is not there."""
    cards = protocol.get("conditions")
    if (
        not isinstance(protocol.get("protocol_hash"), str)
        or not isinstance(cards, list)
        or not all(map(_is_card, cards))
    ):
        raise UserError(f"{where}: not a protocol card (it lacks protocol_hash or named conditions)")


def _is_card(card: object) -> bool:
    if not isinstance(card, dict) or not isinstance(card.get("name"), str):
        return False
    branches = card.get("branches", 1)
    return isinstance(branches, int) and branches >= 1


def flips_of(store: Store, protocol: Mapping[str, Any], workers: int = 1) -> Flips:
    """The flips of an open store, which must stay open while they are read. workers: see `gather`."""
    from triaxis.report.flips import Flips
    from triaxis.study.gather import fetch, gather

    cards = protocol["conditions"]
    try:
        return Flips(gather(store, cards, workers, keep=True), store.plans(), cards, partial(fetch, store))
    except (sqlite3.Error, UnicodeDecodeError) as e:
        raise UserError(f"{store.path}: damaged ({e}); restore it from a copy, or run the study again") from None


@contextmanager
def no_collection() -> Iterator[None]:
    """The garbage collector off: importing and drawing make much and drop little, and it took a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by replacing the file in one move."""
    write_bytes(path, text.encode(errors="replace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file in one move. UserError in a sealed study and where the disk refuses."""
    from triaxis.store import refuse_sealed

    refuse_sealed(path.parent)
    scratch = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot write ({e.strerror})") from None
