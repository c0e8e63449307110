"""What several GPUs of one host give to training, and whether they train the same adapter as one.

    python -m triaxis.train.scale --shape llada-8b --processes 2        # two GPUs, about six minutes; no download

The same global batch in one process and in several, once with the frozen weights whole in each (data parallel) and once
in parts, layers as written and, on GPUs, compiled: tokens a second, memory, their ratio. A GPU under its power cap can
be a tenth slower a minute later, so one process and several take turns, in rounds, and each round has its own ratio.

Then a few steps of each in torch's deterministic mode, whose adapters are compared. One process computes as many parts
of a step as there are processes, so parts have the same rows, masks and dropout whoever computes them (`fit._step`);
what is left is the order in which gradients are summed, and whatever a GPU's kernels do not repeat: one process trains
twice, for that. Adam's first steps go by a gradient's sign, so in bf16, where small gradients are noise, adapters
differ by percents; the test is four layers in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from triaxis.errors import UserError, script
from triaxis.limits import parse_json, read_text
from triaxis.models.adapters import read_tensors
from triaxis.models.load import find_device
from triaxis.sampling.speed import SHAPES, say
from triaxis.train.fit import LOG_EVERY, fit
from triaxis.train.recipes import RECIPES, Recipe
from triaxis.train.runners import leave, own_device, started
from triaxis.train.speed import ROWS, Bench, Watch

SAME = 1e-3  # of an adapter's norm: adapters trained in float32 that differ by less are called the same
LAYERS = 4  # of the shape, in float32
STEPS = 4  # of the adapters that are compared
WAYS = {"data parallel": False, "frozen weights in parts": True}
LEAST = {"processes": 2, "rounds": 1, "timed": 1, "rows": 1, "row_tokens": 2}
REPEATED = "one process again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One way to train. compiled: its layers; memory_gb: the most that one process held."""

    way: str
    compiled: bool
    processes: int
    tokens_per_second: float
    seconds: float  # a step
    memory_gb: float | None
    round: int = 0


# ---------------------------------------------------------------- in each process


def work(a: argparse.Namespace) -> None:
    """Train by every way that these processes can; rank 0 writes what it found to a.out."""
    processes = started()
    bench = Bench(a.shape, own_device(find_device(a.device)), a.row_tokens, 4 if a.quick else None)
    batch, parts = a.rows * a.processes, a.processes // processes
    recipe = replace(RECIPES["prefix"], batch=batch, accumulate=parts, warmup=0, every=10**9, steps=a.timed + LOG_EVERY)
    found = []
    for way, sharded in WAYS.items():
        if sharded and processes == 1:
            continue
        for compiled in (False, True) if bench.device.type == "cuda" else (False,):
            watch = Watch(bench.device)
            bench.train(bench.fresh(), replace(recipe, compiled=compiled), watch, sharded)
            ran = Ran(
                way=way, compiled=compiled, processes=processes, seconds=watch.seconds, memory_gb=watch.memory_gb,
                tokens_per_second=batch * a.row_tokens / watch.seconds, round=a.round,
            )  # fmt: skip
            found.append(asdict(ran))
            if sharded:
                bench.executor = None  # its weights are given up
        for kind, made in kinds(bench).items() if a.round == 0 else ():
            _adapter(made, replace(recipe, steps=STEPS), a.out / kind / way, sharded)
            if processes == 1:
                _adapter(made, replace(recipe, steps=STEPS), a.out / kind / REPEATED, sharded)
    if leave():
        (a.out / "ran.json").write_text(json.dumps(found), encoding="utf-8")


def kinds(bench: Bench) -> dict[str, Bench]:
    """What the adapters that are compared are trained beside."""
    if bench.device.type == "cpu":
        return {"float32": bench}
    few = min(LAYERS, bench.layers or LAYERS)
    return {"float32": replace(bench, layers=few, dtype=torch.float32, executor=None), "bfloat16": bench}


def _adapter(bench: Bench, recipe: Recipe, out: Path, sharded: bool) -> None:
    """One adapter in torch's deterministic mode, beside weights made anew."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    executor = bench.fresh(again=True)
    fit(executor, recipe, bench.rows(executor), out, sharded=sharded)
    torch.use_deterministic_algorithms(False)
    bench.executor = None


# ---------------------------------------------------------------- around them


def compare(a: argparse.Namespace) -> dict[str, Any]:
    """Start the processes, one way after the other; everything they found. UserError for numbers that are too small."""
    for name, least in LEAST.items():
        if getattr(a, name) < least:
            raise UserError(f"{name}={getattr(a, name)} is too few to compare anything; give at least {least}")
    with tempfile.TemporaryDirectory() as scratch:
        ran = [
            Ran(**found)
            for k in range(a.rounds)
            for n in (1, a.processes)
            for found in _start(a, Path(scratch) / f"{n}-{k}", n, k)
        ]
        one, many = (Path(scratch) / f"{n}-0" for n in (1, a.processes))
        differences = {f.name: dict(_differences(f, many / f.name)) for f in sorted(one.iterdir()) if f.is_dir()}
    runs = list(_summed(ran))
    where = find_device(a.device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    return {
        "device": f"{a.processes} x {name}, torch {torch.__version__}", "shape": a.shape, "row_tokens": a.row_tokens,
        "rows_a_step": a.rows * a.processes, "launcher": a.launcher, "rounds": a.rounds,
        "timed_steps": a.timed,
        "runs": runs,
        "tokens_per_second": max(r["tokens_per_second"] for r in runs),
        "differences": differences, "tolerance": SAME,
        "same": all(d <= SAME for d in differences["float32"].values()),
    }  # fmt: skip


def _summed(ran: Sequence[Ran]) -> Iterator[dict[str, Any]]:
    """Each way once: over its rounds the mean step and the most memory; its ratio to one process in each round."""
    alone = {(r.compiled, r.round): r.seconds for r in ran if r.processes == 1}
    rounds: dict[tuple[str, bool, int], list[Ran]] = {}
    for r in ran:
        rounds.setdefault((r.way, r.compiled, r.processes), []).append(r)
    for same in rounds.values():
        first, seconds = same[0], fmean(r.seconds for r in same)
        yield asdict(first) | {
            "seconds": seconds, "tokens_per_second": first.tokens_per_second * first.seconds / seconds,
            "memory_gb": max((r.memory_gb for r in same if r.memory_gb), default=None),
            "ratio": fmean(alone[r.compiled, r.round] for r in same) / seconds,
            "ratios": [alone[r.compiled, r.round] / r.seconds for r in same],
        }  # fmt: skip


def _differences(one: Path, many: Path) -> Iterator[tuple[str, float]]:
    """How far the adapters of several processes, and the repeated one of one process, are from that of one process."""
    alone = update(one / "data parallel")
    for way in WAYS:
        yield way, difference(alone, update(many / way))
    yield REPEATED, difference(alone, update(one / REPEATED))


def _start(a: argparse.Namespace, out: Path, processes: int, round_: int) -> list[dict[str, Any]]:
    """Run `work` in so many processes. UserError where it fails."""
    out.mkdir()
    given = {
        "out": out, "shape": a.shape, "processes": a.processes, "rows": a.rows, "row-tokens": a.row_tokens,
        "round": round_, "timed": a.timed, "device": a.device,
    }  # fmt: skip
    options = [x for name, value in given.items() if value is not None for x in (f"--{name}", str(value))]
    command = [*launcher(a.launcher, processes), "-m", "triaxis.train.scale", "--work", *options]
    command += ["--quick"] if a.quick else []
    say(f"{processes} processes, round {round_ + 1} of {a.rounds}")
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1", **os.environ}
    if subprocess.run(command, stdout=sys.stderr, env=environment).returncode:
        raise UserError(f"training in {processes} processes failed; its lines above say why")
    return list(parse_json(read_text(out / "ran.json", "log")))


def launcher(name: str, processes: int) -> list[str]:
    """How processes are started: by torch's own launcher or by accelerate's."""
    if processes == 1:
        return [sys.executable]
    if name == "accelerate":
        return [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
            "--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no",
        ]  # fmt: skip
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def update(folder: Path) -> dict[str, Tensor]:
    """The B matrices of an adapter, which began at zero: what training made."""
    return {name: pair["B"] for name, pair in read_tensors(folder).items()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The norm of the difference of two adapters' B matrices over the norm of the first. Nan-free: neither is zero."""
    apart = sum(float((t - other[n]).square().sum()) for n, t in one.items())
    return float((apart / sum(float(t.square().sum()) for t in one.values())) ** 0.5)


def parse() -> argparse.Namespace:
    """The command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description="Adapter training in one process and in several.")
    parser.add_argument("--shape", default="llada-8b", choices=sorted(SHAPES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8, help="rows of a step that a process computes at once")
    parser.add_argument("--row-tokens", type=int, default=ROWS, help="prompt and response of a row")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--launcher", choices=("torchrun", "accelerate"), default="torchrun")
    parser.add_argument("--quick", action="store_true", help="four layers: does everything run?")
    parser.add_argument("--rounds", type=int, default=2, help="of one process, then several")
    parser.add_argument("--timed", type=int, default=20, help="steps that are timed, after the first ten")
    parser.add_argument("--round", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """One JSON object on stdout; UserError where the processes failed."""
    a = parse()
    if a.work:
        work(a)
    else:
        sys.stdout.write(json.dumps(compare(a)) + "\n")


if __name__ == "__main__":
    sys.exit(script(main))
