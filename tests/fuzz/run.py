"""Fuzz every reader of foreign files: `python tests/fuzz/run.py --executions 1000000`; one with `--reader NAME`.

Each reader runs in a process of its own under atheris (libFuzzer, guided by the coverage of this package), fed by the
mutators of `mutate.py` and by libFuzzer's; with `--engine plain`, which needs no atheris, by the mutators alone. A
finding is anything but a return or a UserError of one readable line: its input is kept under --findings, once a place
in the code, and the run goes on. Prints a table of executions and findings, and appends it to --log. Exit code 1 where
there is a finding.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.mutate import mutate
from fuzz.readers import READERS, Reader

SLOW = 3.0  # seconds of computing of one execution that make it a finding
LONGEST = 1500  # characters of a message
MEMORY = 6 << 30  # bytes of address space of one reader's process


class Judge:
    """Runs a reader on inputs and keeps what it should not have done."""

    def __init__(self, name: str, findings: Path) -> None:
        self.name, self.findings = name, findings
        self.reader: Reader = READERS[name]
        self.count = self.refused = 0
        self.seen: dict[str, str] = {}
        base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
        self.place = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=base))

    def one(self, data: bytes) -> None:
        from triaxis.errors import UserError

        self.count += 1
        began = time.process_time()  # not the clock: the machine may be busy
        try:
            self.reader.run(data, self.place)
        except UserError as e:
            self.refused += 1
            if len(str(e)) > LONGEST or not str(e).strip():
                self.keep(data, f"long message, {signature(e)[0]}", str(e)[:300])
        except KeyboardInterrupt:
            raise
        except BaseException as e:
            self.keep(data, *signature(e))
        if (took := time.process_time() - began) > SLOW:
            self.keep(data, "slow", f"{took:.1f} s")

    def keep(self, data: bytes, where: str, told: str) -> None:
        if where in self.seen:
            return
        self.seen[where] = told
        name = f"{self.name}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"
        self.findings.mkdir(parents=True, exist_ok=True)
        (self.findings / f"{name}.input").write_bytes(data)
        (self.findings / f"{name}.txt").write_text(f"{where}\n{told}\n", errors="replace")

    def report(self) -> dict[str, Any]:
        return {"executions": self.count, "refused": self.refused, "findings": self.seen}


def signature(e: BaseException) -> tuple[str, str]:
    """Kind and last place in this package, and the whole story."""
    frames = traceback.extract_tb(e.__traceback__)
    ours = [f for f in frames if "/triaxis/" in f.filename] or frames
    last = ours[-1]
    text = "".join(traceback.format_exception(e))
    return f"{type(e).__name__} at {Path(last.filename).name}:{last.lineno} ({last.name})", text[-3000:]


def child(args: argparse.Namespace) -> None:
    """One reader, in this process. Counts go to args.counts, now and then and at the end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    engine = args.engine
    if engine != "plain":
        import atheris

        with atheris.instrument_imports(include=["triaxis"], enable_loader_override=False):
            judge = warm(args)
    else:
        judge = warm(args)
    began, told = time.monotonic(), 0

    def one(data: bytes) -> None:
        nonlocal told
        judge.one(data)
        now = int(time.monotonic() - began)
        if judge.count >= args.executions or now > told:
            told = now
            args.counts.write_text(json.dumps(judge.report()))

    shape, rng = judge.reader.shape, random.Random(args.seed)
    seeds = [bytes(s) for s in judge.reader.seeds()]
    if engine == "plain":
        for _ in range(args.executions):
            one(mutate(shape, rng.choice(seeds), rng))
            if time.monotonic() - began > args.seconds:
                break
        args.counts.write_text(json.dumps(judge.report()))
        return
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for i, s in enumerate(seeds):
        (corpus / f"{i}").write_bytes(s)

    def change(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        base = dice.choice(seeds) if dice.random() < 0.3 else bytes(data)
        return mutate(shape, base, dice)[:most]

    flags = [f"-runs={args.executions}", f"-max_total_time={args.seconds}", f"-seed={args.seed}", "-verbosity=0"]
    args.findings.mkdir(parents=True, exist_ok=True)
    flags += [
        "-max_len=200000",
        "-rss_limit_mb=0",
        "-timeout=60",
        "-print_final_stats=0",
        f"-artifact_prefix={args.findings}/{args.child}-",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()  # leaves the process when it has done


def warm(args: argparse.Namespace) -> Judge:
    """Imports happen here, so that they are instrumented and are not taken for slow inputs."""
    import torch

    torch.set_num_threads(1)
    judge = Judge(args.child, args.findings)
    seeds = judge.reader.seeds()
    for data in seeds:
        judge.one(bytes(data))
    judge.seen.pop("slow", None)  # imports
    if judge.refused + len(judge.seen) >= len(seeds):
        raise SystemExit(f"no seed of {judge.name} is read: {judge.seen}")
    judge.count = judge.refused = 0
    return judge


def parent(args: argparse.Namespace) -> int:
    names = [n for n in args.reader or READERS if READERS[n].ready]
    for name in set(args.reader or READERS) - set(names):
        print(f"{name}: left out, needs the package {READERS[name].needs}")
    total = sum(READERS[n].weight for n in names)
    done: dict[str, dict[str, Any]] = {}
    for name in names:
        counts = Path(tempfile.mkdtemp()) / "counts.json"
        share = round(args.executions * READERS[name].weight / total)
        command = [sys.executable, __file__, "--child", name, "--executions", str(share), "--engine", args.engine]
        command += ["--counts", str(counts), "--findings", str(args.findings), "--seed", str(args.seed)]
        began = time.monotonic()
        with tempfile.TemporaryFile() as noise:
            code = subprocess.run([*command, "--seconds", str(args.seconds)], stdout=noise, stderr=noise).returncode
            noise.seek(0)
            tail = noise.read()[-2000:].decode(errors="replace")
        told = json.loads(counts.read_text()) if counts.exists() else {"executions": 0, "refused": 0, "findings": {}}
        if code or not counts.exists():
            told["findings"][f"the process ended with {code}"] = tail
        done[name] = {**told, "seconds": time.monotonic() - began}
        found = "; ".join(told["findings"]) or "nothing found"
        print(f"{name}: {told['executions']:,} executions, {told['refused']:,} refused, {found}", flush=True)
    text = table(done, args)
    print(text)
    if args.log:
        with args.log.open("a", encoding="utf-8") as f:
            f.write(text)
    return int(any(d["findings"] for d in done.values()))


def table(done: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    whole = sum(d["executions"] for d in done.values())
    found = sum(len(d["findings"]) for d in done.values())
    lines = [
        f"\n**Fuzzing, {date.today()}** ({args.engine}, seed {args.seed}): {whole:,} executions over {len(done)} "
        f"readers, {found} findings.\n",
        "| reader | executions | refused cleanly | findings | seconds |", "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name, d in done.items():
        lines.append(f"| {name} | {d['executions']:,} | {d['refused']:,} | {len(d['findings'])} | {d['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--executions", type=int, default=10_000, help="of all readers together, or of those named")
    p.add_argument("--reader", action="append", choices=list(READERS), help="may be given several times; default: all")
    p.add_argument("--engine", choices=("atheris", "plain"), default="atheris")
    p.add_argument("--seconds", type=int, default=600, help="at most, of one reader")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where inputs that found something go")
    p.add_argument("--log", type=Path, help="file the table is appended to")
    p.add_argument("--child", help=argparse.SUPPRESS)
    p.add_argument("--counts", type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        child(args)
        return 0
    return parent(args)


if __name__ == "__main__":
    sys.exit(main())
