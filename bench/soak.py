"""A soak test: studies killed at random, resumed and compared with runs that nobody disturbed, for an hour.

    nice python bench/soak.py [--minutes 60] [--seed 0] [--n 20] [--workers 2]

Every run is a process of its own, forked from one that has imported everything and computed nothing. It is ended by
SIGKILL, SIGTERM, SIGINT, or stopped for a while and then killed, at moments drawn from the seed; now and then a second
run is started on the same folder, which must be refused, and a reader holds the store open through the kill. After
every end the rows that the run had acknowledged must be there, and none that was there before may have changed. A
study that reached its end is compared with the undisturbed one: rows, plans, grades and summary. With
--workers the rows are made by processes of the run, and workers are killed too: the run must go on. Prints a line a
minute and one JSON object at the end; exit code 1 where anything was lost, doubled or different.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import math_verify  # noqa: F401 - imported once, before the forks

from triaxis.compute import Compute
from triaxis.errors import UserError, script
from triaxis.estimate import axes  # noqa: F401
from triaxis.plans import bank  # noqa: F401
from triaxis.sampling import executor  # noqa: F401
from triaxis.store import Row, Store
from triaxis.study import Study

ENDS = {"kill": 8, "terminate": 1, "interrupt": 1, "stop and kill": 2}  # how a run is ended: how often of twelve
SIGNALS = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
CONFIDENCE = list(Row.__dataclass_fields__).index("confidence")  # its last digits depend on the batch
Held = dict[str, tuple[Any, ...]]


@dataclass
class Count:
    """What was done and what was found."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)
            print(f"WRONG: {what}", file=sys.stderr, flush=True)


def studies(n: int, key: int) -> Iterator[Study]:
    """Small studies without end: plans of planners, branches under several seeds, chains of stages."""
    while True:
        yield Study(n=n, seeds=(key, key + 1), conditions=())
        yield Study(n=n, seeds=(key,), preset="diversity", planners=())
        yield Study(n=n, seeds=(key,), preset="original", planners=("tiny-planner-l",))
        key += 2


# ---------------------------------------------------------------- runs


def start(task: Callable[[], object], log: Path) -> int:
    """The process id of a forked child that does the task; 0 done, 2 refused with one line in `log`, 1 broken."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        task()
        code = 0
    except UserError as e:
        log.write_text(str(e))
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        log.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def running(study: Study, folder: Path, acknowledged: Path, workers: int) -> Callable[[], object]:
    """The study's run, which writes down the id of every row once it is told that the row is stored."""

    def run() -> None:
        file = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        compute = Compute(kind="processes", workers=workers) if workers else None
        study.run(folder, seen=lambda arms, rows: os.write(file, "".join(f"{r.id}\n" for r in rows).encode()),
                  compute=compute)  # fmt: skip

    return run


def ended(pid: int, within: float) -> int | None:
    """The exit code of a child (negative: the signal), None where it is still at work after `within` seconds."""
    limit = time.monotonic() + within
    while time.monotonic() < limit:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def end(pid: int, how: str) -> int:
    """End a child; its exit code. A signal that it may handle is followed by SIGKILL after a minute."""
    if how == "stop and kill":
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
    os.kill(pid, SIGNALS.get(how, signal.SIGKILL))
    code = ended(pid, 60)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        code = ended(pid, 60)
    assert code is not None, f"process {pid} outlived SIGKILL"
    return code


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# ---------------------------------------------------------------- what is there


def held(folder: Path) -> dict[str, Held]:
    """Rows, plans and grades by id, as they are in the store; nothing where no store was made yet."""
    if not (folder / "rows.sqlite").is_file():
        return {"rows": {}, "plans": {}, "grades": {}}
    with suppress_unmade(), Store(folder / "rows.sqlite", write=False) as store:
        rows = {r.id: astuple(r) for r in store.rows()}
        plans = {k: astuple(p) for k, p in store.plans().items()}
        return {"rows": rows, "plans": plans, "grades": {k: astuple(g) for k, g in store.grades().items()}}
    return {"rows": {}, "plans": {}, "grades": {}}


@contextmanager
def suppress_unmade() -> Iterator[None]:
    """A run that was killed before it made its tables leaves an empty file, which a reader refuses."""
    try:
        yield
    except UserError as e:
        if "no study was started" not in str(e):
            raise


def summary(folder: Path) -> dict[str, Any]:
    """summary.json without the seconds, which are not the same twice."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return {**found, "cost": {k: v for k, v in found["cost"].items() if k != "seconds"}}


def compare(a: dict[str, Held], b: dict[str, Held], count: Count, name: str) -> None:
    """Whole study against undisturbed study; confidences may differ in the third decimal, by batch."""
    for table in ("rows", "plans", "grades"):
        count.check(a[table].keys() == b[table].keys(), f"{name}: other {table} than undisturbed")
        for key in a[table].keys() & b[table].keys():
            x, y = list(a[table][key]), list(b[table][key])
            if table == "rows":
                near = abs(x[CONFIDENCE] - y[CONFIDENCE]) < 2e-3
                count.done["confidences that differ in the last digit"] += near and x[CONFIDENCE] != y[CONFIDENCE]
                x[CONFIDENCE] = y[CONFIDENCE] if near else x[CONFIDENCE]
            count.check(x == y, f"{name}: {table} {key} differs from undisturbed")
    places = Counter(r[1:5] for r in a["rows"].values())  # condition, item, branch, seed
    count.check(not places or max(places.values()) == 1, f"{name}: a place is filled twice")
    count.done["rows compared"] += len(a["rows"])


# ---------------------------------------------------------------- the soak


@dataclass
class Soak:
    """One hour: where, how long, and what was counted."""

    place: Path
    until: float
    rng: random.Random
    count: Count = field(default_factory=Count)
    workers: int = 0
    said: float = 0.0

    def study(self, study: Study, name: str) -> None:
        """One study undisturbed, then the same one disturbed until it is whole, then both compared."""
        whole, folder = self.place / f"{name}-whole", self.place / name
        began = time.monotonic()
        code = ended(start(lambda: study.run(whole), self.place / "log"), 1200)
        self.count.check(code == 0, f"{name}: the undisturbed run ended with {code}: {self.log('log')}")
        took, before = time.monotonic() - began, held(folder)
        while not self.once(study, folder, name, took, before) and time.monotonic() < self.until:
            before, took = held(folder), 1.05 * took  # a machine that got busier must not keep a study from its end
            self.say()
        if time.monotonic() < self.until:
            compare(held(folder), held(whole), self.count, name)
            self.count.check(summary(folder) == summary(whole), f"{name}: another summary than undisturbed")
            self.count.done["studies compared"] += 1
        for path in (whole, folder) if not self.count.wrong else ():
            shutil.rmtree(path, ignore_errors=True)
        (self.place / "acknowledged").unlink(missing_ok=True)

    def once(self, study: Study, folder: Path, name: str, took: float, before: dict[str, Held]) -> bool:
        """One run, disturbed; whether it came to its end by itself."""
        file = self.place / "acknowledged"
        pid = start(running(study, folder, file, self.workers), self.place / "log")
        reader = start(lambda: reading(folder), self.place / "reader-log") if self.rng.random() < 0.2 else 0
        code = ended(pid, self.rng.uniform(0, 0.8 * took))
        if code is None and self.workers and self.rng.random() < 0.6:
            code = self.lose_workers(pid, took)
        self.count.done["runs"] += 1
        self.count.done["resumes"] += bool(before["rows"])
        beside = code is None and self.rng.random() < 0.1
        if beside:
            self.second(study, folder, pid)
        if code is None:
            how = self.rng.choices(list(ENDS), list(ENDS.values()))[0]
            code = end(pid, how)
            self.count.done[how] += 1
        if reader:
            end(reader, "kill")
            self.count.done["readers through the end"] += 1
        late = beside and code == 2 and "another run is writing there" in self.log("log")  # the second was quicker
        self.count.done["first runs refused for the second"] += late
        self.count.check(late or code in (0, -9, -15, 130), f"{name}: a run ended with {code}: {self.log('log')}")
        self.look(name, before, held(folder), file)
        return code == 0

    def lose_workers(self, pid: int, took: float) -> int | None:
        """Kill one to three workers of a run, some time apart; its exit code where it ends meanwhile."""
        for _ in range(self.rng.randint(1, 3)):
            workers = [w for w in children(pid) if b"spawn_main" in command(w)]
            if workers:
                with suppress(ProcessLookupError):
                    os.kill(self.rng.choice(workers), signal.SIGKILL)
                    self.count.done["workers killed"] += 1
            code = ended(pid, self.rng.uniform(0, 0.3 * took))
            if code is not None:
                return code
        return None

    def second(self, study: Study, folder: Path, first: int) -> None:
        """Another run on a folder where one is at work: refused in one line, unless the first has ended meanwhile."""
        pid = start(lambda: study.run(folder), self.place / "second-log")
        code = ended(pid, 60)
        if code is None:
            code = end(pid, "kill")
        alive = os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        if alive and (folder / ".lock").exists() and code != -9:
            refused = code == 2 and "another run is writing there" in self.log("second-log")
            self.count.check(refused, f"a second run on one folder ended with {code}: {self.log('second-log')}")
            self.count.done["second runs refused"] += refused

    def look(self, name: str, before: dict[str, Held], now: dict[str, Held], file: Path) -> None:
        """Nothing acknowledged is lost, nothing that was there has changed."""
        said = set(file.read_text().splitlines()) if file.exists() else set()
        lost = said - now["rows"].keys()
        self.count.done["acknowledged rows looked for"] += len(said)
        self.count.done["acknowledged rows lost"] += len(lost)
        self.count.check(not lost, f"{name}: {len(lost)} acknowledged rows are lost")
        for table in ("rows", "plans"):
            changed = sum(now[table].get(k) != v for k, v in before[table].items())
            self.count.check(not changed, f"{name}: {changed} {table} changed or vanished")

    def log(self, name: str) -> str:
        path = self.place / name
        return path.read_text().strip().splitlines()[-1][:300] if path.exists() else "no message"

    def say(self) -> None:
        if time.monotonic() - self.said > 60:
            self.said = time.monotonic()
            left = (self.until - time.monotonic()) / 60
            print(f"{left:5.1f} min left; wrong {len(self.count.wrong)}; {dict(self.count.done)}", flush=True)


def reading(folder: Path) -> None:
    """Read the store over and over, as a watching terminal would."""
    while True:
        with suppress(UserError):
            held(folder)
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=20, help="items a study")
    parser.add_argument("--workers", type=int, default=0, help="processes that make the rows; 0: the run itself")
    a = parser.parse_args()
    began = time.monotonic()
    soak = Soak(
        Path(tempfile.mkdtemp(prefix="triaxis-soak-")), began + 60 * a.minutes, random.Random(a.seed), workers=a.workers
    )
    for at, study in enumerate(studies(a.n, a.seed)):
        if time.monotonic() >= soak.until:
            break
        soak.study(study, f"study{at}")
    counts = {**soak.count.done, "minutes": round((time.monotonic() - began) / 60, 1), "wrong": soak.count.wrong}
    if not soak.count.wrong:
        shutil.rmtree(soak.place)
    print(json.dumps(counts, indent=1))
    return int(bool(soak.count.wrong))


if __name__ == "__main__":
    sys.exit(script(main))
