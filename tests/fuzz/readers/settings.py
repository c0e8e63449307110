"""Readers of foreign data: settings people write, and what a page is made of."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from fuzz.readers import stores
from fuzz.readers.base import HOME, TINY, put, suppress_user


def preset(data: bytes, place: Path) -> None:
    from triaxis.conditions import in_order, load_preset

    found = load_preset(str(put(place, "mine.toml", data)))
    table = found.conditions(["tiny-planner-s"])
    in_order(table)
    for c in table:
        c.card(), c.scaffold.render("What?", "a plan" if c.scaffold.shows_plan else None)


def prereg(data: bytes, place: Path) -> None:
    from triaxis.estimate import prereg

    found = prereg.load(put(place, "predictions.toml", data))
    prereg.check(found.predictions, json.loads((stores.study() / "summary.json").read_text()))


def prereg_seeds() -> list[bytes]:
    from triaxis.estimate.prereg import TEMPLATE

    return [TEMPLATE.format(name="x.toml").encode()]


def stamp(data: bytes, place: Path) -> None:
    """What a store holds of the predictions stamped into it; the hash is made right for the text, where it is one."""
    from triaxis.estimate.prereg import scorecard

    with suppress(ValueError, TypeError, RecursionError):
        mark = json.loads(data)
        text = mark["text"].encode() if isinstance(mark, dict) and isinstance(mark.get("text"), str) else b""
        data = json.dumps({**mark, "hash": sha256(text).hexdigest()}).encode() if text else data
    scorecard(data.decode("utf-8", "replace"), json.loads((stores.study() / "summary.json").read_text()))


def stamp_seeds() -> list[bytes]:
    from triaxis.estimate.prereg import stamp

    path = put(Path(tempfile.mkdtemp()), "p.toml", prereg_seeds()[0])
    return [stamp(path, rows_before=0, stamped_at="2026-01-01").encode()]


def claims(data: bytes, place: Path, name: str = "claims.csv") -> None:
    from triaxis.estimate.claims import read_table
    from triaxis.estimate.table import audit_table

    audit_table(read_table(put(place, name, data))).as_dict()


def schedule(data: bytes, place: Path) -> None:
    from triaxis.models.schedules import At, Schedule

    found = Schedule.parse(data.decode("utf-8", "replace"))
    found.check(4, 8)
    found.gate(At(1, 4, 2, 0.5), found.names)


def registry(data: bytes, place: Path) -> None:
    from triaxis.estimate.landscape import audit_registry
    from triaxis.registry import as_dict, load

    entry = load(put(place, "S1-x.json", data))
    as_dict(entry)
    audit_registry([entry])


def registry_seeds() -> list[bytes]:
    found = sorted((HOME / "registry" / "papers").glob("*.json"), key=lambda p: p.stat().st_size)
    return [p.read_bytes() for p in (*found[:3], found[len(found) // 2])]


def trace(data: bytes, place: Path) -> None:
    from triaxis.tracing import alarms, divergence, read_jsonl

    found = read_jsonl(put(place, "t.jsonl", data))
    alarms(found), divergence(found, found)


def trace_seeds() -> list[bytes]:
    from triaxis.tracing import Commit, Guess, Step, Trace, to_jsonl

    steps = (Step(0, 0, {}, (Commit(0, 5, 0.9, 0.1, ((5, 0.9), (6, 0.1))),), (Guess(1, 5, 0.5, 1.0),)),)
    decode = {"temperature": 0.0, "remasking": "low_confidence", "gen_length": 2}
    made = Trace("a", "tiny", "ab", "", "Q", decode, 0, "x", (5, 6), True, 1, 0.1, {5: "x", 6: "y"}, steps)
    return [to_jsonl(made).encode()]


def tuned(data: bytes, place: Path) -> None:
    from triaxis.cli import tune

    path, old = put(place, "tune.json", data), tune.place_of
    tune.place_of = lambda executor, task: path  # type: ignore[assignment]
    try:
        tune.speed_settings(tune.SPEEDS[-1], "tiny", "gradeschool")
    finally:
        tune.place_of = old


def tuned_seeds() -> list[bytes]:
    from triaxis.cli.tune import SPEEDS
    from triaxis.models.folder import fingerprint
    from triaxis.tasks import load_task

    cheap = {"steps": 24, "threshold": 0.9}
    held = {"fingerprint": fingerprint(TINY / "tiny-2"), "revision": load_task("gradeschool").revision}
    presets = {"exact": {"steps": 48, "threshold": None}, **dict.fromkeys(SPEEDS[1:], cheap)}
    return [json.dumps({**held, "presets": presets}).encode()]


def summary(data: bytes, place: Path) -> None:
    from triaxis.registry.from_study import from_study
    from triaxis.report.load import cards
    from triaxis.report.page import page
    from triaxis.report.serve import Site

    put(place, "summary.json", data)
    put(place, "protocol.json", (stores.study() / "protocol.json").read_bytes())
    with suppress_user():
        from_study(place, id="S1")
    for asked in ("/", "/compare?a=0&b=0"):
        Site([place]).answer(asked)
    summary, protocol = cards(place)
    page(summary, protocol, None)


def protocol(data: bytes, place: Path) -> None:
    from triaxis.report.page import page

    put(place, "protocol.json", data)
    put(place, "summary.json", (stores.study() / "summary.json").read_bytes())
    from triaxis.registry.from_study import from_study
    from triaxis.report.load import cards

    with suppress_user():
        from_study(place, id="S1")
    summary, protocol = cards(place)
    page(summary, protocol, None)


def asked(data: bytes, place: Path) -> None:
    from triaxis.report.serve import Site

    (place / "s").mkdir(exist_ok=True)
    put(place, "secret", b"the secret")
    put(place / "s", "summary.json", (stores.study() / "summary.json").read_bytes())
    answer = Site([place / "s"]).answer(data.decode("latin-1"))
    assert b"the secret" not in answer.body, "a file outside the folder was served"
