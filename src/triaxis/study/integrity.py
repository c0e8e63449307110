"""Whether a study is what was written: `verify` looks, `seal` fixes a finished study, both by data and never by trust.

A check is a function that yields findings; `CHECKS` lists them. Each reads files and the store alone, but for
`identities`, which loads the models to make every row's id and prompt anew. What cannot be reached here (an endpoint, a
hub) is a note and no damage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from triaxis.errors import UserError
from triaxis.limits import check_form, parse_json, read_text
from triaxis.store import SEAL, TABLES, Store, damaged, identity, lock, refuse_sealed, sound
from triaxis.store.checksums import Tally
from triaxis.store.protocol import hashes, read_protocol
from triaxis.store.salvage import Salvaged, repair, salvage
from triaxis.store.seals import differences, digest_of, write_manifest

NAMED = 5  # findings of one kind that are spelled out


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. severity: "damage", or "note" for what is no fault of the study."""

    code: str
    where: str
    message: str
    severity: str = "damage"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found. counts: sound rows of each table. seal: sha256 of the manifest, "" where there is none."""

    folder: Path
    counts: Mapping[str, int]
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    seal: str

    @property
    def ok(self) -> bool:
        return not any(f.severity == "damage" for f in self.findings)

    def plain(self) -> dict[str, Any]:
        """As one JSON object."""
        found = [asdict(f) for f in self.findings]
        return {"ok": self.ok, **self.counts, "checked": list(self.checked), "findings": found, "seal": self.seal}


@dataclass
class Look:
    """One look at a folder: what its checks share."""

    folder: Path
    store: Store
    counts: dict[str, int] = field(default_factory=dict)

    @cached_property
    def protocol(self) -> dict[str, Any] | None:
        """The store's protocol card; None where there is none, or it is damaged and a check has said so."""
        with suppress(UserError):
            held = self.store.get("protocol")
            return None if held is None else read_protocol(held, self.folder)
        return None

    def file(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder; None without it. ValueError where it is damaged."""
        try:
            found = parse_json(read_text(self.folder / name, "card"))
        except FileNotFoundError:
            return None
        except OSError as e:
            raise ValueError(e.strerror or str(e)) from None
        check_form(found, {}, "it")
        return dict(found)


Findings = Iterator[Finding]


def verify(folder: Path, *, full: bool = False, seal: str = "") -> Verdict:
    """Look at everything of a study. full: also make every row's id anew, which loads the models. seal: the sha256 that
    `seal` printed; with it a manifest that was made anew is found too.

    UserError where the folder holds no store of ours at all.
    """
    path = folder / "rows.sqlite"
    try:
        store = Store(path, write=False)
    except UserError as e:
        if not path.is_file() or not (left := salvage(path)).rows:
            raise
        found = (Finding("unreadable", path.name, _plain(e, path)), *_lost(folder, left))
        return Verdict(folder, {"rows": len(left.rows)}, found, ("store",), digest_of(folder))
    with store, store.snapshot():
        look, findings = Look(folder, store), list[Finding]()
        checks = {**CHECKS, **({"identities": identities} if full else {})}
        for check in checks.values():
            findings += check(look)
        if seal or (folder / SEAL).exists():
            findings += (Finding("seal", *told) for told in differences(store, folder, seal))
        return Verdict(folder, look.counts, tuple(findings), tuple(checks), digest_of(folder))


def _plain(e: UserError, path: Path) -> str:
    return str(e).removeprefix(f"{path}: ").partition("; ")[0]


# ---------------------------------------------------------------- the store


def rows(look: Look) -> Findings:
    """Every row, plan and grade by its checksum, and each table by its tally."""
    unread = False
    for table, kind in TABLES.items():
        tally, bad = Tally(), list[str]()
        try:
            for *values, held in look.store.ask(f"SELECT * FROM {table}"):
                if sound(kind, values, held):
                    tally = tally.plus((held,))
                else:
                    bad.append(damaged(kind, values))
        except UserError as e:
            unread = True
            yield Finding("unreadable", table, _plain(e, look.store.path))
        look.counts[table] = tally.rows
        yield from (Finding("checksum", table, f"{text} is damaged") for text in bad[:NAMED])
        if len(bad) > NAMED:
            yield Finding("checksum", table, f"{len(bad) - NAMED} more {table} are damaged")
        with suppress(UserError):  # entries have a check of their own
            if not unread and not bad and (held := look.store.tally(table)) != tally:
                yield Finding("tally", table, f"{held.rows} {table} were written, {tally.rows} of the same are there")
    if unread:
        yield from _lost(look.folder, salvage(look.store.path))


def _lost(folder: Path, left: Salvaged) -> Findings:
    """What a damaged store has lost, as far as it can be known."""
    if left.acknowledged is not None and left.acknowledged > len(left.rows):
        lost = left.acknowledged - len(left.rows)
        yield Finding("lost", "rows", f"{lost} of {left.acknowledged} rows are lost; the others can be repaired")
    with suppress(UserError):
        held = left.meta.get("protocol")
        card = None if held is None else read_protocol(held, folder)
        cells = {(r.condition, r.item, r.seed, r.branch) for r in left.rows.values()}
        absent = [] if card is None else list(islice(_absent(card, cells), 1000))
        named = ", ".join(_cell(c) for c in absent[:NAMED])
        if absent:
            yield Finding("absent", "rows", f"{len(absent)} rows are not there or not made yet ({named})", "note")


def _absent(card: Mapping[str, Any], cells: set[tuple[str, str, int, int]]) -> Iterator[tuple[str, str, int, int]]:
    """Rows that a whole study would have and that are not there, for the items that are."""
    for item in sorted({item for _, item, _, _ in cells}):
        for c in card["conditions"]:
            for seed in card["seeds"][: max(1, c["completions"] // c["branches"])]:
                for branch in range(c["branches"]):
                    if (c["name"], item, seed, branch) not in cells:
                        yield c["name"], item, seed, branch


def _cell(cell: tuple[str, str, int, int]) -> str:
    condition, item, seed, branch = cell
    return f"{condition} of {item}, seed {seed}, branch {branch}"


def entries(look: Look) -> Findings:
    """The store's other entries by their checksums."""
    for (key,) in list(look.store.ask("SELECT key FROM meta ORDER BY key")):
        try:
            look.store.get(str(key))
        except UserError as e:
            yield Finding("checksum", "meta", _plain(e, look.store.path))


def structure(look: Look) -> Findings:
    """SQLite's own check of its pages and trees."""
    try:
        told = [str(line) for (line,) in look.store.ask(f"PRAGMA integrity_check({NAMED})")]
    except UserError as e:
        told = [_plain(e, look.store.path)]
    yield from (Finding("structure", "rows.sqlite", " ".join(line.split())[:200]) for line in told if line != "ok")


_REFERENCES = (  # code, where, what is said of the one thing the query gives
    ("orphan", "grades", "the grade of row {0!r} is of no row", "SELECT row FROM grades WHERE row NOT IN (SELECT id "
     "FROM rows)"),
    ("orphan", "rows", "plan {0!r} of a row is not there", "SELECT DISTINCT plan FROM rows WHERE plan != '' AND plan "
     "NOT IN (SELECT id FROM plans)"),
)  # fmt: skip
_DOUBLED = (
    "doubled", "rows", "condition {0!r}, item {1!r}, seed {2}, branch {3} is there {4} times",
    "SELECT condition, item, seed, branch, count(*) FROM rows GROUP BY 1, 2, 3, 4 HAVING count(*) > 1",
)  # fmt: skip


def references(look: Look) -> Findings:
    """Grades of rows, plans of rows; in a study, one row a cell."""
    for code, where, text, query in (*_REFERENCES, *([_DOUBLED] if look.protocol else [])):
        with suppress(UserError):  # an unreadable table has been named
            for values in look.store.ask(f"{query} LIMIT {NAMED}"):
                yield Finding(code, where, text.format(*values))


# ---------------------------------------------------------------- the cards


def protocol(look: Look) -> Findings:
    """The protocol card against its own hashes, and the files beside the store against it."""
    try:
        held = look.store.get("protocol")
        card = None if held is None else read_protocol(held, look.folder)
    except UserError as e:
        yield Finding("protocol", "meta", str(e))
        return
    if card is None:
        yield Finding("protocol", "meta", "no study was started there", "note")
        return
    for name, made in hashes(card).items():
        if card[name] != made:
            yield Finding("protocol", "meta", f"its card says {name} {card[name]}, but its fields give {made}")
    expected = {"protocol.json": card, "summary.json": {"study": {"protocol_hash": card["protocol_hash"]}}}
    for name, wanted in expected.items():
        try:
            beside = look.file(name)
        except ValueError as e:
            yield Finding("file", name, f"damaged ({e}); triaxis grade makes it again")
            continue
        if beside is None:
            yield Finding("file", name, "not there: the study has not ended", "note")
        elif not _holds(beside, wanted):
            yield Finding("file", name, "of another study or changed: it is not as the store says")


def _holds(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(k in value and _holds(value[k], v) for k, v in wanted.items())
    return bool(value == wanted)


def complete(look: Look) -> Findings:
    """A study with a summary has every row of its design."""
    card = look.protocol
    if card is None:
        return
    n = card["n"]
    with suppress(UserError, ValueError):
        n = int(look.store.get("items") or n)
    wanted = n * sum(c["completions"] for c in card["conditions"])
    there = look.counts.get("rows", 0)
    if there < wanted:
        ended = (look.folder / "summary.json").exists()
        text = f"{there} of {wanted} rows are there; triaxis diagnose --resume --out {look.folder} makes the others"
        yield Finding("incomplete", "rows", text, "damage" if ended else "note")


# ---------------------------------------------------------------- what rows were made of


def sources(look: Look) -> Findings:
    """Weights, planners, banks, data and adapters as they are here now, where they can be reached without a network."""
    card = look.protocol
    if card is None:
        return
    model, task = card["executor"], card["task"]
    asked: list[tuple[str, str, str, Callable[[], str | None]]] = [
        ("weights", model["name"], model.get("fingerprint", ""), partial(_weights, model["name"])),
        ("task", task["name"], task["revision"], partial(_task, card["spec"])),
        ("items", task["name"], card.get("items_hash", ""), partial(_items, card["spec"])),
        *(("planner", p["name"], p["identity"], partial(_planner, p["name"])) for p in card["planners"]),
        *(("adapter", spec, was, partial(_adapter, spec)) for spec, was in card.get("adapters", {}).items()),
    ]
    for code, name, was, ask in asked:
        try:
            now = ask()
        except (UserError, OSError) as e:
            yield Finding(code, name, f"cannot be reached here ({e})", "note")
            continue
        if now is None:
            yield Finding(code, name, "not asked: it is not on this machine", "note")
        elif not was.startswith(now):
            yield Finding(code, name, f"was {was[:40]} when the rows were made, is {now[:40]} here")


def _weights(name: str) -> str:
    from triaxis.models.folder import find_folder, fingerprint

    return fingerprint(find_folder(name, "executor"))


def _task(spec: Mapping[str, Any]) -> str:
    from triaxis.tasks import load_task

    return load_task(spec["task"]).revision


def _items(spec: Mapping[str, Any]) -> str:
    from triaxis.tasks import load_task

    chosen = load_task(spec["task"]).items(spec["n"], seed=spec["seeds"][0])
    return identity({"items": [i.id for i in chosen]})


def _planner(name: str) -> str | None:
    """How a planner's identity begins: with the fingerprint of its folder, or its whole bank."""
    from triaxis.models.folder import find_folder, fingerprint
    from triaxis.models.planner import check_planner
    from triaxis.plans.files import open_bank

    kind = check_planner(name)
    if not kind:
        return fingerprint(find_folder(name, "planner"))
    return open_bank(name).identity if kind == "file" else None


def _adapter(spec: str) -> str:
    from triaxis.models.schedules import Schedule  # torch: only where there is an adapter

    return identity({"schedule": Schedule.parse(spec).card()})


def identities(look: Look) -> Findings:
    """Every row's id and prompt made anew from the models, the items and the plans; loads the models."""
    from triaxis.conditions import in_order
    from triaxis.study import Study, prepare
    from triaxis.study.jobs import jobs

    if look.protocol is None:
        return
    try:
        arms = prepare(Study.from_spec(look.protocol["spec"])).arms
        stored = {r.id: r for r in look.store.rows()}
        bank = {(p.source, p.item): p for p in look.store.plans().values()}
    except UserError as e:
        yield Finding("identity", "rows", f"cannot be made anew ({e})", "note")
        return
    for c in (c for table in in_order(arms.table) for c in table):
        if c.plan and any((c.plan, i.id) not in bank for i in arms.items):
            continue  # not planned yet; a row of it would be left over below
        for job in jobs(arms, c, bank):
            row = stored.pop(job.row.id, None)
            if row is not None and (row.prompt, row.plan) != (job.row.prompt, job.row.plan):
                yield Finding("identity", "rows", f"row {row.id!r} has another prompt or plan than its id says")
    for row in islice(stored.values(), NAMED):
        cell = _cell((row.condition, row.item, row.seed, row.branch))
        yield Finding("identity", "rows", f"row {row.id!r} ({cell}) is not of this study as it would be made here")
    if len(stored) > NAMED:
        yield Finding("identity", "rows", f"{len(stored) - NAMED} more rows are not of this study as made here")


CHECKS: Mapping[str, Callable[[Look], Findings]] = {
    "rows": rows, "entries": entries, "structure": structure, "references": references, "protocol": protocol,
    "complete": complete, "sources": sources,
}  # fmt: skip


# ---------------------------------------------------------------- repair


@dataclass(frozen=True, slots=True)
class Mended:
    """What a repair kept. lost: rows that were written and are gone; None where the store no longer says."""

    folder: Path
    rows: int
    lost: int | None
    kept: Path  # the damaged store

    def plain(self) -> dict[str, Any]:
        return {"rows": self.rows, "lost": self.lost, "damaged": str(self.kept)}

    def line(self) -> str:
        lost = "an unknown number" if self.lost is None else str(self.lost)
        return (
            f"repaired: {self.rows} rows kept, {lost} lost; the damaged store is {self.kept}. Make what is missing: "
            f"triaxis diagnose --resume --out {self.folder}\n"
        )


def mend(folder: Path) -> Mended | None:
    """Put a new store with every sound row in the place of a damaged one; None where the store itself is sound.

    The summary goes, so that a resumed run makes it anew. UserError where nothing sound is left, or as `repair`.
    """
    path = folder / "rows.sqlite"
    with suppress(UserError), Store(path, write=False) as store, store.snapshot():
        look = Look(folder, store)
        if not any(f.severity == "damage" for check in (rows, entries, structure) for f in check(look)):
            return None
    left = salvage(path)
    if not left.rows:
        raise UserError(f"{path}: nothing sound is left of it; restore it from a copy, or run in another folder")
    if "protocol" not in left.meta:
        left.meta |= _card_beside(folder)
    kept = repair(path, left)
    if left.acknowledged != len(left.rows) or len(left.grades) != len(left.rows):
        (folder / "summary.json").unlink(missing_ok=True)
    lost = None if left.acknowledged is None else max(0, left.acknowledged - len(left.rows))
    return Mended(folder, len(left.rows), lost, kept)


def _card_beside(folder: Path) -> dict[str, str]:
    """The protocol card that protocol.json holds, if it is whole: its fields give its hashes."""
    with suppress(UserError, ValueError, OSError, KeyError):
        text = read_text(folder / "protocol.json", "card")
        card = read_protocol(text, folder)
        if hashes(card).items() <= card.items():
            return {"protocol": json.dumps(card, ensure_ascii=False)}
    return {}


# ---------------------------------------------------------------- seals


def seal(folder: Path) -> str:
    """Seal a finished study: write a manifest with the sha256 of every file, after which nothing of ours writes into
    the folder. Its own sha256 in hex, to be kept elsewhere: whoever can change the study can also make a new manifest.

    UserError where the study is sealed already, has not ended, is damaged, or another run is writing there.
    """
    refuse_sealed(folder)
    with Store(folder / "rows.sqlite", write=True):
        pass  # of the newest schema from here on, and one file
    for f in verify(folder).findings:
        if f.severity == "damage" or f.code in ("incomplete", "file", "protocol"):
            raise UserError(f"{folder}: not sealed: {f.where}: {f.message}")
    with lock(folder), Store(folder / "rows.sqlite", write=False) as store:
        write_manifest(store, folder)
    return digest_of(folder)
