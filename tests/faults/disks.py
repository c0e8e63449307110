"""Faults of disks: full, too small, read-only, cut off from power, damaged. Mounts need root; see `lacking`."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from crashes import Recorded, recorded
from kinds import somewhen
from lab import Child, Lab, contents, start

from triaxis.errors import UserError
from triaxis.store.salvage import salvage
from triaxis.study.integrity import mend, verify

ROOT = os.geteuid() == 0


@cache
def can_mount() -> bool:
    return ROOT and not subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode


def lacking(name: str) -> str:
    """What a fault needs and this machine lacks."""
    if name in ("full disk", "read-only folder", "disk image") and not can_mount():
        return "mounts need root"
    if name == "disk image" and not shutil.which("mkfs.ext4"):
        return "no mkfs.ext4"
    if name == "Ray node killed" and find_spec("ray") is None:
        return "pip install 'triaxis[ray]'"
    if name == "power cut" and not shutil.which("strace"):
        return "no strace"
    return ""


@contextmanager
def mounted(place: Path, *how: str) -> Iterator[Path]:
    """A mount at place/disk, gone afterwards."""
    disk = place / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", *how, str(disk)], check=True, capture_output=True)
    try:
        yield disk
    finally:
        for _ in range(50):
            if not subprocess.run(["umount", str(disk)], capture_output=True, check=False).returncode:
                break
            time.sleep(0.1)


# ---------------------------------------------------------------- full, read-only


def full_disk(lab: Lab) -> None:
    """A file system of a few hundred kilobytes fills up; then it is made larger."""
    size = lab.rng.randrange(24, 220)
    with mounted(lab.place, "-t", "tmpfs", "-o", f"size={size}k", "tmpfs") as disk:
        out = disk / "study"
        child = start(lab.study, out).wait()
        lab.hit(child.said != "done")
        lab.note(child)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        lab.after(child, folder=out)
        lab.finish(out)


def small_files(lab: Lab) -> None:
    """A limit on the size of a file, as a quota or an old file system has one; later it is gone."""
    size = lab.rng.randrange(4, 160) << 10
    child = lab.start(before=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))).wait()
    lab.hit(child.said != "done")
    lab.note(child)
    lab.after(child)
    lab.finish()


def read_only(lab: Lab) -> None:
    """The folder of a half-done study cannot be written: a read-only mount, which root cannot write either."""
    half = lab.start()
    somewhen(lab, half)
    half.kill()
    lab.out.mkdir(exist_ok=True)
    with mounted(lab.place, "--bind", "-o", "ro", str(lab.out)) as disk:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)
        before = {p.name: p.read_bytes() for p in disk.iterdir()}
        child = start(lab.study, disk).wait()
        refused = lab.note(child).startswith("refused")
        lab.hit(refused)
        lab.count.unclear += not refused
        lab.count.changed += before != {p.name: p.read_bytes() for p in disk.iterdir()}
    lab.after(half)
    lab.finish()


# ---------------------------------------------------------------- power


def power_cut(lab: Lab) -> None:
    """The power fails at a random system call of a recorded run: what was not synced is there, or not, or torn."""
    run = _recorded(lab)
    at = lab.rng.randrange(run.first, len(run.operations))
    for _ in range(3):
        asked = run.crash(at, lab.out, lab.rng)
        ghost = _ghost(asked, lab.place)
        lab.hit()
        lab.after(ghost)
        if not verify_or_new(lab.out):
            lab.count.silent += 1
        lab.finish()
        shutil.rmtree(lab.out)
        at = min(len(run.operations) - 1, at + lab.rng.randrange(0, 30))


def verify_or_new(folder: Path) -> bool:
    """Whether what is there is sound, or nothing was ever started there."""
    try:
        return verify(folder).ok
    except UserError as e:
        return "there is no such file" in str(e) or "no study was started there yet" in str(e)


def _ghost(ids: set[str], place: Path) -> Child:
    """Stands for a run of which only its acknowledged rows are known."""
    import json

    log = place / "ghost.log"
    log.write_text(json.dumps(["rows", sorted(ids)]) + "\n")
    return Child(0, log, 9)


_RECORDINGS: dict[Path, Recorded] = {}  # by the undisturbed run of the same study


def _recorded(lab: Lab) -> Recorded:
    assert lab.whole is not None
    if lab.whole not in _RECORDINGS:
        _RECORDINGS[lab.whole] = recorded(lab.study, lab.whole.parent)
    return _RECORDINGS[lab.whole]


def snapshot(lab: Lab) -> None:
    """A copy of the files of a stopped run, its log's end torn off or overwritten beyond what was acknowledged."""
    child = lab.start()
    somewhen(lab, child)
    os.kill(child.pid, signal.SIGSTOP)
    asked, copy = child.acknowledged, lab.place / "copy"
    if lab.out.exists():
        shutil.copytree(lab.out, copy, ignore=shutil.ignore_patterns("*-shm"))
    child.kill()
    log = copy / "rows.sqlite-wal"
    lab.hit(log.is_file())
    if log.is_file():
        with log.open("r+b") as f:
            end = f.seek(0, os.SEEK_END)
            f.write(lab.rng.randbytes(lab.rng.randrange(0, 9000)))  # the next frames, half written
            f.truncate(lab.rng.randrange(end, f.tell() + 1))
    lab.after(_ghost(asked, lab.place), folder=copy)
    lab.finish(copy)


def disk_image(lab: Lab) -> None:
    """A whole ext4 file system is copied while a run writes to it, and the copy mounted: its journal is played."""
    image, copy = lab.place / "image", lab.place / "copied"
    with image.open("wb") as f:
        f.truncate(12 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "has_journal", str(image)], check=True, capture_output=True)
    with mounted(lab.place, "-o", "loop,commit=1", str(image)) as disk:
        child = start(lab.study, disk / "study")
        somewhen(lab, child)
        os.kill(child.pid, signal.SIGSTOP)
        asked = child.acknowledged
        lab.hit(not child.said)
        shutil.copyfile(image, copy)
        child.kill()
    with mounted(lab.place, "-o", "loop", str(copy)) as disk:
        lab.after(_ghost(asked, lab.place), folder=disk / "study")
        lab.finish(disk / "study")


# ---------------------------------------------------------------- damage


def damaged_page(lab: Lab) -> None:
    """Bytes of the database change: flipped bits, a page of zeros, a page of another place, an end that is gone."""
    half = lab.rng.random() < 0.4
    if half:
        child = lab.start()
        somewhen(lab, child)
        child.kill()
        if not (lab.out / "rows.sqlite").is_file() or (lab.out / "rows.sqlite-wal").exists():
            start(lab.study, lab.out).wait()  # its log is played; the study is whole then
    else:
        assert lab.whole is not None
        shutil.copytree(lab.whole, lab.out)
    path = lab.out / "rows.sqlite"
    before = path.read_bytes()
    data = bytearray(before)
    lab.rng.choice(_DAMAGE)(lab, data)
    path.write_bytes(data)
    lab.hit(data != before)
    try:
        found = verify(lab.out)
        sound = found.ok
    except UserError as e:
        lab.count.said[f"verify: {e}".replace(str(lab.place), "PLACE")[:120]] += 1
        sound = False
    try:
        same = contents(lab.out) == lab.wanted
    except UserError:
        same = False
    lab.count.silent += sound and not same
    if not sound:
        _repaired(lab)
    lab.finish()


def _repaired(lab: Lab) -> None:
    """What a repair keeps is as it was, and what it says is lost is what is missing."""
    path = lab.out / "rows.sqlite"
    left = salvage(path)
    known = {r.id: r for r in lab.wanted[0]}
    lab.count.changed += sum(known.get(k) != r for k, r in left.rows.items())
    try:
        mended = mend(lab.out)
    except UserError as e:
        lab.count.said[f"repair: {e}".replace(str(lab.place), "PLACE")[:120]] += 1
        shutil.rmtree(lab.out)  # as the message says: run anew
        return
    if mended is not None and mended.lost is not None:
        lab.count.silent += mended.lost != len(known) - len(left.rows)


def _bits(lab: Lab, data: bytearray) -> None:
    for _ in range(lab.rng.choice((1, 1, 4, 40))):
        data[lab.rng.randrange(len(data))] ^= 1 << lab.rng.randrange(8)


def _zeros(lab: Lab, data: bytearray) -> None:
    at = lab.rng.randrange(len(data) // 4096) * 4096
    data[at : at + 4096] = bytes(4096)


def _elsewhere(lab: Lab, data: bytearray) -> None:
    a, b = (lab.rng.randrange(len(data) // 4096) * 4096 for _ in range(2))
    data[a : a + 4096] = data[b : b + 4096]


def _cut(lab: Lab, data: bytearray) -> None:
    del data[lab.rng.randrange(512, len(data)) :]


_DAMAGE = (_bits, _bits, _zeros, _elsewhere, _cut)
FAULTS: dict[str, Callable[[Lab], None]] = {
    "power cut": power_cut,
    "snapshot with a torn log": snapshot,
    "disk image": disk_image,
    "full disk": full_disk,
    "file size limit": small_files,
    "read-only folder": read_only,
    "damaged page": damaged_page,
}
