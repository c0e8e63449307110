"""Power cuts, by replaying the system calls of a real run up to a moment and losing what was not synced.

A run is traced with strace, with every byte it writes. For a cut at operation k, of all operations before it: what a
file held when it was last synced is on the disk; of each later write, the part in every sector of 512 bytes is there or
not, at random; a change of length is there or not. Names (files made, removed, renamed) come in order up to a random
one, at least to the last sync of anything, as journaling file systems keep them. The shared-memory file is no part of
it: it does not outlive a machine.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from triaxis.study import Study

SECTOR = 512
CALLS = (
    "openat,open,creat,close,write,pwrite64,pwritev,ftruncate,fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2,"
    "mkdir,lseek"
)
PROGRAM = """
import json, os, sys
sys.path[:0] = {path!r}
from lab import _run
from triaxis.study import Study
from pathlib import Path
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT)
said = _run(Study.from_spec(json.loads({spec!r})), Path({out!r}), log, lambda: None, None)
assert said == "done", said
"""


class Operation(NamedTuple):
    """One thing a run did. kind: write, length, sync, make, folder, remove, rename, or rows (acknowledged)."""

    kind: str
    path: str
    at: int = 0
    data: bytes = b""


@dataclass
class _File:
    """A file as it is while it is replayed. pending: what was done since its last sync."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

    def sync(self) -> None:
        self.synced, self.pending = self.content(lambda: True), []

    def content(self, keep: object) -> bytearray:
        """With those pending changes that `keep()` says."""
        data = bytearray(self.synced)
        for op in self.pending:
            if op.kind == "length":
                if keep():  # type: ignore[operator]
                    del data[op.at :]
                    data.extend(bytes(op.at - len(data)))
                continue
            for start in range(0, len(op.data), SECTOR):
                if keep():  # type: ignore[operator]
                    part, at = op.data[start : start + SECTOR], op.at + start
                    data.extend(bytes(max(0, at + len(part) - len(data))))
                    data[at : at + len(part)] = part
        return data


@dataclass(frozen=True)
class Recorded:
    """A traced run: everything it did below its folder, in order."""

    operations: list[Operation]

    @property
    def first(self) -> int:
        """The first operation on the store."""
        return next(k for k, op in enumerate(self.operations) if op.path.endswith("rows.sqlite"))

    def crash(self, at: int, out: Path, rng: random.Random) -> set[str]:
        """Make the folder as a cut before operation `at` leaves it; ids of the rows acknowledged by then."""
        rows: set[str] = set()
        names: list[Operation] = []  # since the last sync
        files: dict[str, _File] = {}
        disk: dict[str, _File] = {}  # names on the disk
        for op in self.operations[:at]:
            if op.kind == "rows":
                rows |= set(json.loads(op.data))
            elif op.kind == "sync":
                _apply(names, disk, files)
                names = []
                if op.path in files:
                    files[op.path].sync()
            elif op.kind in ("write", "length"):
                files.setdefault(op.path, _File()).pending.append(op)
            else:
                names.append(op)
                _apply([op], files, files)
        _apply(names[: rng.randrange(len(names) + 1)], disk, files)
        out.mkdir(parents=True)
        chance = rng.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for name, file in disk.items():
            if not name.endswith("-shm"):
                (out / name).write_bytes(file.content(lambda: rng.random() < chance))
        return rows


def _apply(names: list[Operation], disk: dict[str, _File], files: dict[str, _File]) -> None:
    for op in names:
        if op.kind == "make":
            disk.setdefault(op.path, files.setdefault(op.path, _File()))
        elif op.kind == "remove":
            disk.pop(op.path, None)
        elif op.kind == "rename":
            held = disk.pop(op.path, None)
            if held is not None:
                disk[op.data.decode()] = held


# ---------------------------------------------------------------- recording


def recorded(study: Study, home: Path) -> Recorded:
    """Run the study once under strace."""
    out, log, trace = home / "traced", home / "traced.log", home / "trace"
    program = PROGRAM.format(
        path=[str(Path(__file__).parent), str(Path(__file__).parents[1])], spec=json.dumps(study.spec()), out=str(out),
        log=str(log),
    )  # fmt: skip
    command = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-s",
        "100000000",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    ]
    subprocess.run([*command, sys.executable, "-c", program], check=True, env=os.environ)
    found = list(_operations(trace.read_text(errors="replace").splitlines(), str(out), str(log)))
    trace.unlink()
    assert sum(op.kind == "rows" for op in found) > 3
    return Recorded(found)


_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_NAMING = ("openat", "open", "creat", "unlink", "unlinkat", "rename", "renameat", "renameat2")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


def _joined(lines: list[str]) -> list[str]:
    """Calls of several threads that strace printed in two parts, as one, at the place where they ended."""
    open_: dict[str, str] = {}
    found = []
    for line in lines:
        if m := _UNFINISHED.match(line):
            open_[m[1]] = f"{m[1]} {m[2]}({m[3]}"
        elif (m := _RESUMED.match(line)) and m[1] in open_:
            found.append(open_.pop(m[1]) + m[3])
        else:
            found.append(line)
    return found


def _text(hexed: str) -> bytes:
    return bytes.fromhex(hexed.replace("\\x", ""))


def _operations(lines: list[str], out: str, log: str):  # type: ignore[no-untyped-def]
    places: dict[int, int] = {}  # descriptor -> place in the file
    known: set[str] = set()
    for line in _joined(lines):
        m = _CALL.match(line)
        if not m or int(m[3]) < 0:
            continue
        call, arguments, result = m[1], m[2], int(m[3])
        strings = [_text(s).decode("utf-8", "replace") for s in _STRING.findall(arguments)] if call in _NAMING else []
        if call in ("openat", "open", "creat"):
            places[result] = 0
            name = _below(strings[0], out)
            if name is not None and "O_CREAT" in arguments and name not in known:
                known.add(name)
                yield Operation("make", name)
            if name is not None and "O_TRUNC" in arguments:
                yield Operation("length", name, 0)
        elif call in ("unlink", "unlinkat"):
            if (name := _below(strings[0], out)) is not None:
                known.discard(name)
                yield Operation("remove", name)
        elif call.startswith("rename"):
            if (name := _below(strings[0], out)) is not None:
                other = _below(strings[1], out) or ""
                known.discard(name)
                known.add(other)
                yield Operation("rename", name, 0, other.encode())
        elif call != "mkdir":
            yield from _on_descriptor(call, arguments, result, places, out, log)


def _below(path: str, out: str) -> str | None:
    return path[len(out) + 1 :] if path.startswith(out + "/") else None


_FD = re.compile(r"^(\d+)<([^>]*)>(?:, (.*))?$", re.S)


def _on_descriptor(call: str, arguments: str, result: int, places: dict[int, int], out: str, log: str):  # type: ignore[no-untyped-def]
    m = _FD.match(arguments)
    if not m:
        return
    number, path, rest = int(m[1]), m[2], m[3] or ""
    path = _text(path).decode("utf-8", "replace") if path.startswith("\\x") else path
    name = _below(path, out)
    if call == "write":
        data = _text(_STRING.match(rest)[1])[:result]  # type: ignore[index]
        at = places.get(number, 0)
        places[number] = at + result
        if path == log:
            kind, what = json.loads(data)
            if kind == "rows":
                yield Operation("rows", "", 0, json.dumps(what).encode())
        elif name is not None:
            yield Operation("write", name, at, data)
    elif call == "lseek":
        places[number] = result
    elif call in ("fsync", "fdatasync") and (name is not None or path == out):
        yield Operation("sync", name or "")
    elif call == "pwrite64" and name is not None:
        data, at = re.match(r'"((?:\\x[0-9a-f]{2})*)", \d+, (\d+)', rest).groups()  # type: ignore[union-attr]
        yield Operation("write", name, int(at), _text(data)[:result])
    elif call == "ftruncate" and name is not None:
        yield Operation("length", name, int(rest.rpartition(", ")[2] or rest))
    elif call == "pwritev" and name is not None:
        raise ValueError(f"{name} was written by pwritev, which is not read here")
