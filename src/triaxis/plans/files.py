"""Plan bank files: plans that were made once, as one file to keep, to share and to use instead of their planner.

A bank is JSON Lines, plain (`.jsonl`) or compressed (`.jsonl.gz`). Its first line is the manifest: whose plans they
are, for which task, how they were made, how many there are and a sha256 over the bytes of all lines that follow. One
file and not two, because a manifest beside its rows is the part that gets lost when a bank is copied, and because the
rows can then be read front to back with the manifest known. Every further line is one plan.

Knows nothing of models: whoever makes plans hands them over as rows.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from triaxis.errors import UserError, suggest
from triaxis.limits import BROKEN, gunzip, parse_json, read_bytes, unpack_error
from triaxis.models.writer import Written
from triaxis.plans import read
from triaxis.tasks import load_task
from triaxis.tasks.base import Item, Task

FORMAT = 1
PREFIX = "file:"  # a planner of this name is a bank
SUFFIXES = (".jsonl", ".jsonl.gz")
LOCAL = Path("banks")  # where `plans import --name` puts a bank, and where a name is looked for first
R = TypeVar("R")
_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "bool": (bool,), "int | None": (int, type(None)), "Mapping[str, object]": (dict,),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What must be known of a bank to use it in place of its planner, beside its plans."""

    task: str
    revision: str  # the task's data
    split: str = "test"
    planner: str
    identity: str  # of the planner: names everything that can change its plans
    parameters: int | None = None  # of the planner, where known
    prompt: str = "1"  # version of the planning prompt
    decoding: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    command: str = ""  # what made it


@dataclass(frozen=True, slots=True, kw_only=True)
class BankRow:
    """One plan: its length in the planner's tokens, whether the budget cut it, whether it states the answer."""

    item: str
    text: str
    tokens: int
    truncated: bool
    leaks: bool


@dataclass(frozen=True)
class Bank:
    """A bank as read or about to be written. Row k stands on line k + 2 of `path`."""

    manifest: Manifest
    rows: Sequence[BankRow]
    path: Path

    @cached_property
    def body(self) -> bytes:
        """The bytes of all row lines, over which the checksum is made."""
        return b"".join(map(row_line, self.rows))

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @cached_property
    def plans(self) -> Mapping[str, BankRow]:
        """The rows by item id."""
        return {r.item: r for r in self.rows}


def row_line(row: BankRow) -> bytes:
    """The line of one row."""
    return (json.dumps(asdict(row), ensure_ascii=False) + "\n").encode()


def bank_row(item: Item, plan: Written) -> BankRow:
    """The row of one plan, with its leak flag."""
    leaks = read.leaks(plan.text, item.answer)
    return BankRow(item=item.id, text=plan.text, tokens=plan.tokens, truncated=plan.truncated, leaks=leaks)


def write_bank(bank: Bank) -> None:
    """Write a bank to its path by replacing the file in one move; same bank, same bytes.

    UserError where the name is not that of a bank, a row is there twice, or the disk refuses.
    """
    if not bank.path.name.endswith(SUFFIXES):
        raise UserError(f"{bank.path}: a bank is named NAME.jsonl or NAME.jsonl.gz")
    if len(bank.plans) != len(bank.rows):
        raise UserError(f"{bank.path}: {len(bank.rows) - len(bank.plans)} items have two plans; give one plan an item")
    head = {"bank": FORMAT, "items": len(bank.rows), **asdict(bank.manifest), "sha256": bank.sha256}
    raw = (json.dumps(head, ensure_ascii=False) + "\n").encode() + bank.body
    scratch = bank.path.with_name(bank.path.name + ".writing")
    try:
        bank.path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(gzip.compress(raw, 9, mtime=0) if bank.path.suffix == ".gz" else raw)
        scratch.replace(bank.path)
    except OSError as e:
        raise UserError(f"{bank.path}: cannot write ({e.strerror}); choose another --out") from None


def read_bank(path: Path) -> Bank:
    """The bank of a file, whole and undamaged. UserError "FILE:LINE: ..." at the first line that is not as it must be.

    Checked: the manifest, every field of every row, items named twice, the number of rows and the checksum. Whether the
    items are the task's is asked by `check_bank`, which needs the task.
    """
    lines = _lines(path)
    if not lines:
        raise UserError(f"{path}:1: the file is empty; a bank begins with its manifest")
    head = _object(path, 1, lines[0])
    if head.pop("bank", None) != FORMAT:
        raise UserError(f"{path}:1: this is no bank of format {FORMAT}; its first line must be a manifest")
    count, checksum = head.pop("items", None), head.pop("sha256", None)
    manifest = _made(path, 1, Manifest, head)
    rows = _rows(path, lines)
    if count != len(rows):
        raise UserError(f"{path}:1: the manifest promises {count} plans, there are {len(rows)}; get the file again")
    found = hashlib.sha256(b"".join(line + b"\n" for line in lines[1:])).hexdigest()
    if checksum != found:
        raise UserError(
            f"{path}:1: the manifest's checksum {str(checksum)[:12]} is not that of the rows, {found[:12]}: something "
            "was changed; get the file again, or export it anew"
        )
    return Bank(manifest, rows, path)


def read_rows(path: Path, lines: Sequence[bytes]) -> tuple[Manifest, list[BankRow]]:
    """The manifest and rows of an unfinished bank, whose manifest promises neither a count nor a checksum."""
    return _made(path, 1, Manifest, _object(path, 1, lines[0])), _rows(path, lines)


def _rows(path: Path, lines: Sequence[bytes]) -> list[BankRow]:
    """The rows below a manifest. UserError with the line of the first that is none, or whose item was there already."""
    rows: list[BankRow] = []
    line_of: dict[str, int] = {}
    for at, line in enumerate(lines[1:], 2):
        row = _made(path, at, BankRow, _object(path, at, line))
        if row.item in line_of:
            raise UserError(f"{path}:{at}: item {row.item!r} stands on line {line_of[row.item]} already; keep one plan")
        line_of[row.item] = at
        rows.append(row)
    return rows


def check_bank(bank: Bank, task: Task) -> None:
    """UserError where the bank is not of this task: another task or revision, an unknown item, a wrong leak flag."""
    m = bank.manifest
    if (m.task, m.revision) != (task.name, task.revision):
        raise UserError(
            f"{bank.path}:1: its plans are for task {m.task!r} revision {m.revision[:25]}, not {task.name!r} revision "
            f"{task.revision[:25]}; use a bank of that task"
        )
    known = {item.id: item for item in task.items(split=m.split)}
    for at, row in enumerate(bank.rows, 2):
        if row.item not in known:
            raise UserError(f"{bank.path}:{at}: task {task.name!r} has no item {row.item!r} in split {m.split!r}")
        if row.leaks != (says := read.leaks(row.text, known[row.item].answer)):
            raise UserError(f"{bank.path}:{at}: leaks is {row.leaks}, but read from the plan it is {says}; export anew")


def shipped() -> Mapping[str, Path]:
    """Banks found by name: those in ./banks, then those of the package."""
    places = (Path(str(files("triaxis.plans").joinpath("banks"))), LOCAL)
    found = [p for place in places if place.is_dir() for p in sorted(place.iterdir()) if p.name.endswith(SUFFIXES)]
    return {p.name.removesuffix(".gz").removesuffix(".jsonl"): p for p in found}


def find_bank(spec: str) -> Path:
    """The file of a bank: a path, or a name in ./banks or in the package, with or without "file:" before it.

    UserError with the nearest name. Reads nothing.
    """
    name = spec.removeprefix(PREFIX)
    if name.endswith(SUFFIXES) and Path(name).expanduser().is_file():
        return Path(name).expanduser()
    known = shipped()
    if name not in known:
        raise UserError(f"no bank file and no bank named {name!r}{suggest(name, known)}")
    return known[name]


@dataclass(frozen=True)
class BankPlanner:
    """A bank where a planner can stand: its plans come from the file. `name` is "file:PATH" or "file:NAME"."""

    name: str
    bank: Bank

    @property
    def parameters(self) -> int | None:
        """Of the planner that wrote the plans; None where the manifest does not say."""
        return self.bank.manifest.parameters

    @property
    def identity(self) -> str:
        """Covers the plans themselves, so that a changed bank is another planner."""
        return f"bank/{self.bank.sha256[:16]}"

    def plans(self, items: Sequence[Item], task: Task) -> list[Written]:
        """The stored plans of items, in order. UserError for another task's bank or an item it does not hold."""
        m = self.bank.manifest
        if (m.task, m.revision) != (task.name, task.revision):
            raise UserError(
                f"bank {self.name!r} holds plans for task {m.task!r} revision {m.revision[:25]}, this is {task.name!r} "
                f"revision {task.revision[:25]}; use a bank of this task"
            )
        held = self.bank.plans
        lacking = [i.id for i in items if i.id not in held]
        if lacking:
            raise UserError(
                f"bank {self.name!r} has no plan of item {lacking[0]} ({len(lacking)} of {len(items)} are missing); "
                "use fewer items, or a bank that holds them"
            )
        return [Written(held[i.id].text, held[i.id].tokens, held[i.id].truncated) for i in items]

    def write(self, questions: Sequence[str]) -> list[Written]:
        """One stored plan a question, in order, for whoever asks a planner; the questions must be the task's."""
        task = load_task(self.bank.manifest.task)
        by_question = {item.question: item for item in task.items(split=self.bank.manifest.split)}
        strange = next((q for q in questions if q not in by_question), None)
        if strange is not None:
            raise UserError(f"bank {self.name!r} has no plan for a question that is not its task's: {strange[:40]!r}")
        return self.plans([by_question[q] for q in questions], task)

    def complete(self, prompts: Sequence[str], *settings: object, **named: object) -> list[Written]:
        """A bank answers no prompt but its task's questions. Always UserError."""
        raise UserError(f"bank {self.name!r} holds plans and completes no prompts; leave out the arms that ask for it")


def open_bank(spec: str) -> BankPlanner:
    """The bank called `spec` ("file:PATH", "file:NAME" or without "file:") as a planner. UserError if unusable."""
    return BankPlanner(spec, read_bank(find_bank(spec)))


def _lines(path: Path) -> list[bytes]:
    """The lines of a file without their ends. UserError where it cannot be read or ends in the middle of a line."""
    try:
        raw = read_bytes(path, "bank")
        raw = gunzip(raw, path, "bank") if path.suffix == ".gz" else raw
    except BROKEN as e:
        raise UserError(f"{path}: not a readable bank ({unpack_error(e)}); give a .jsonl or .jsonl.gz file") from None
    *lines, rest = raw.split(b"\n")  # bytes: a plan may hold U+2028
    if rest:
        raise UserError(f"{path}:{len(lines) + 1}: the file ends in the middle of a line; get it again")
    return lines


def _object(path: Path, at: int, line: bytes) -> dict[str, Any]:
    try:
        found = parse_json(line)
    except ValueError as e:
        raise UserError(f"{path}:{at}: not JSON ({e}); get the file again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}:{at}: expected a JSON object, found {type(found).__name__}")
    return found


def _made(path: Path, at: int, kind: type[R], found: Mapping[str, Any]) -> R:
    """A manifest or row of a line's fields; UserError for an unknown, missing or mistyped one."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name in found:
        if name not in known:
            raise UserError(f"{path}:{at}: unknown field {name!r}{suggest(name, known)}")
    for name, f in known.items():
        if name not in found:
            if f.default is MISSING and f.default_factory is MISSING:
                raise UserError(f"{path}:{at}: field {name!r} is missing; a {kind.__name__} needs it")
        elif not _fits(found[name], str(f.type)):
            raise UserError(f"{path}:{at}: field {name!r} is {found[name]!r}, expected {f.type}")
    return kind(**found)


def _fits(value: object, kind: str) -> bool:
    """Whether a JSON value is of the type a field is declared with; true and false are no numbers.

    JSON can spell half a surrogate pair, which is no text and which no store takes.
    """
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        return False
    return isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
