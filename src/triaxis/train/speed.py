"""How fast an adapter is trained: the loop of `fit.py` on a model shape with random weights, tokens a second.

    python -m triaxis.train.speed --shape llada-8b                     # one GPU; no download, no further packages
    torchrun --nproc_per_node 2 -m triaxis.train.speed --shape llada-8b   # the same in two processes

Rows are of one length, prompt and canvas, random ids; rank 8 on all seven matrices, bf16 base, dropout as published.
The first steps of a case (compilation, allocation) are not timed. The ceiling is a large matrix product in the same
run. Operations are counted by `triaxis.cost.training_flops`. What the published recipes take follows from the tokens a
second measured at their own batch.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from triaxis.cost import dollars, training_flops
from triaxis.errors import UserError, lookup, script
from triaxis.models.card import card
from triaxis.models.load import Checkpoint, find_device
from triaxis.models.quantise import four_bit
from triaxis.models.targets import choose
from triaxis.sampling.executor import Executor
from triaxis.sampling.speed import SHAPES, ceiling, clock, random_network, say, sizes
from triaxis.train.data import Dataset, Encoded, Span
from triaxis.train.fit import LOG_EVERY, Fitted, fit
from triaxis.train.recipes import RECIPES, Recipe
from triaxis.train.runners import leave, own_device, started

ROWS, CANVAS, BLOCK = 512, 128, 32  # tokens of a row, of its response, of a block
PUBLISHED = {
    "prefix": "recipe of prefix repair",
    "consensus": "recipe of consensus",
}  # recipe -> the case it is timed in


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table. batch: rows a step for each process; 0: the recipe's own. changes: of the recipe."""

    name: str
    recipe: str = "prefix"
    batch: int = 0
    changes: tuple[tuple[str, object], ...] = ()
    sharded: bool = False  # frozen weights in parts; needs several processes
    four_bit: bool = False  # frozen weights as NF4; needs bitsandbytes


FAST = (("compiled", True),)
CASES = (
    Case(name="compiled", batch=16, changes=FAST),
    Case(name="recipe of prefix repair"),
    Case(name="recipe of consensus", recipe="consensus"),
    Case(name="as written", batch=16),
    Case(name="compiled, layers recomputed", batch=16, changes=(*FAST, ("recompute", True))),
    Case(name="4-bit base, layers recomputed", batch=16, changes=(("recompute", True),), four_bit=True),
    Case(name="frozen weights in parts", batch=16, changes=FAST, sharded=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One case. batch: rows a step over all processes; accumulate: parts a process computes them in, as memory allows.

    share: useful operations of the measured ceiling (of all processes' GPUs); share_with_repeats: those computed twice
    included. memory_gb: the most that one process held.
    """

    name: str
    batch: int
    accumulate: int
    seconds: float  # a step
    tokens_per_second: float
    share: float
    share_with_repeats: float
    memory_gb: float | None


@dataclass(slots=True)
class Report:
    """What a run found, in the order it found it."""

    device: str
    shape: str
    processes: int
    row_tokens: int
    base_gb: float
    ceiling_tflops: float = 0.0
    tokens_per_second: float = 0.0  # of the quickest case
    timings: list[Timing] = field(default_factory=list)
    recipes: list[dict[str, Any]] = field(default_factory=list)
    kernels: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- what is trained


def executor_of(
    shape: str, device: torch.device, layers: int | None = None, dtype: torch.dtype | None = None
) -> Executor:
    """An executor of random weights: bf16 on a GPU, float32 on a CPU, unless `dtype` says."""
    config = lookup("shape", SHAPES, shape)
    config = replace(config, n_layers=min(layers or config.n_layers, config.n_layers))
    network = random_network(config, device, dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32))
    return Executor(Checkpoint(f"{shape}, random", Path("."), card("llada"), config, network, "random"))


def rows_of(executor: Executor, tokens: int, count: int) -> Dataset:
    """Rows of random ids, each with a prompt and a full canvas."""
    c = executor.checkpoint.config
    canvas = min(CANVAS, tokens // 2)
    made = torch.randint(0, c.mask_token_id - 300, (count, tokens - 1), generator=torch.Generator().manual_seed(3))
    split = tokens - canvas
    rows = tuple(
        Encoded(tuple(r[:split]), tuple(r[split:]), (canvas - 5, canvas - 1), str(k), "random")
        for k, r in enumerate(made.tolist())
    )
    eos = c.eos_token_id
    return Dataset(rows, canvas, min(BLOCK, canvas), eos, eos, c.mask_token_id, Span(), "fill")


def recipe_of(case: Case, processes: int, steps: int) -> Recipe:
    base = RECIPES[case.recipe]
    batch = case.batch * processes or base.batch
    return replace(base, steps=steps, batch=batch, warmup=0, every=10**9, **dict(case.changes))  # type: ignore[arg-type]


# ---------------------------------------------------------------- timing


class Watch:
    """Times the steps after the first ones, and their memory; `fit` calls it with its progress, the device being done.

    What the first steps hold besides (weights before they are in parts, the compiler's trials) is not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seen = device, list[tuple[int, float]]()

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self.seen and self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.seen.append((done, clock(self.device)))

    @property
    def seconds(self) -> float:
        (first, began), (last, ended) = self.seen[0], self.seen[-1]
        return (ended - began) / (last - first)

    @property
    def memory_gb(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None


@dataclass(slots=True)
class Bench:
    """One executor of random weights and the ways to train beside it."""

    shape: str
    device: torch.device
    tokens: int = ROWS
    layers: int | None = None
    steps: int = 2 * LOG_EVERY
    dtype: torch.dtype | None = None
    executor: Executor | None = None

    def network_of(self, case: Case) -> Executor:
        return quantised(self.fresh(again=True, keep=False)) if case.four_bit else self.fresh()

    def fresh(self, again: bool = False, keep: bool = True) -> Executor:
        """The executor; `again`: made anew, the old one gone before."""
        if again or self.executor is None:
            self.executor = None
            self.clear()
            made = executor_of(self.shape, self.device, self.layers, self.dtype)
            if not keep:
                return made
            self.executor = made
        return self.executor

    def time(self, case: Case, ceiling_tflops: float) -> Timing:
        """Train by a case; the rows of a step in as few parts as fit the memory. RuntimeError as torch raises it."""
        recipe = recipe_of(case, started(), self.steps)
        while True:
            try:
                return self._time(case, recipe, ceiling_tflops)
            except torch.OutOfMemoryError:
                if started() > 1 or recipe.accumulate >= recipe.batch:
                    raise
            recipe = replace(recipe, accumulate=2 * recipe.accumulate)
            self.clear()

    def _time(self, case: Case, recipe: Recipe, ceiling_tflops: float) -> Timing:
        executor, watch = self.network_of(case), Watch(self.device)
        self.train(executor, recipe, watch, case.sharded)
        memory = watch.memory_gb
        if case.sharded:
            self.executor = None  # its weights are given up
        useful, repeated = self.operations(executor, recipe)
        peak = watch.seconds * started() * ceiling_tflops * 1e12
        self.clear()
        return Timing(
            name=case.name, batch=recipe.batch, accumulate=recipe.accumulate, seconds=watch.seconds,
            tokens_per_second=recipe.batch * self.tokens / watch.seconds, share=useful / peak,
            share_with_repeats=(useful + repeated) / peak, memory_gb=memory,
        )  # fmt: skip

    def train(self, executor: Executor, recipe: Recipe, note: Any, sharded: bool = False) -> Fitted:
        """The real loop, its files in a folder that is thrown away."""
        with tempfile.TemporaryDirectory() as folder:
            return fit(executor, recipe, self.rows(executor), Path(folder) / "a", note=note, sharded=sharded)

    def rows(self, executor: Executor) -> Dataset:
        return rows_of(executor, self.tokens, 64)

    def operations(self, executor: Executor, recipe: Recipe) -> tuple[int, int]:
        """Of one step: useful ones, and those of layers computed again."""
        config = executor.checkpoint.config
        network, data = executor.checkpoint.network, self.rows(executor)
        modules = [cast(nn.Linear, network.get_submodule(n)) for n in choose(network, recipe.targets, recipe.layers)]
        low_rank = sum(recipe.rank * (m.in_features + m.out_features) for m in modules)
        first = round(recipe.layers[0] * config.shape.layers)
        scored = round(data.response * (recipe.low + recipe.high) / 2)
        w = training_flops(sizes(config), self.tokens, scored, low_rank, config.shape.layers - first)  # type: ignore[arg-type]
        return recipe.batch * w.useful, recipe.batch * (w.trunk if recipe.recompute else 0)

    def clear(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def quantised(executor: Executor) -> Executor:
    """The executor with the matrices of its layers as NF4. UserError without bitsandbytes."""
    network = executor.checkpoint.network
    put = four_bit(network, executor.name)
    for layer in network.layers():
        layer.unfuse()  # weights that lie side by side would be held as a whole
    for name, weight in list(network.named_parameters()):
        if weight.dim() == 2:
            put(network, name, weight.detach())
    return executor


def kernels(bench: Bench, case: Case, most: int = 16) -> Iterator[dict[str, Any]]:
    """Where a GPU's time goes: its kernels of some steps, the longest first, as shares."""
    from torch.profiler import ProfilerActivity, profile

    recipe = recipe_of(case, started(), LOG_EVERY + 2)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        bench.train(bench.network_of(case), recipe, lambda *_: None)
    found = sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)
    whole = sum(e.self_device_time_total for e in found)
    for e in found[:most]:
        yield {"kernel": e.key[:90], "share": round(e.self_device_time_total / whole, 4), "calls": e.count}


# ---------------------------------------------------------------- the whole


def of_shape(
    shape: str, *, device: torch.device, quick: bool = False, budget: float = 75.0, names: Sequence[str] = (),
    price: float | None = None, tokens: int = ROWS, profiled: bool = False,
) -> Report:  # fmt: skip
    """Time a shape. A case that fails is noted and left out; none starts after `budget` seconds."""
    began, gpu = time.monotonic(), device.type == "cuda"
    bench = Bench(shape, device, tokens, 4 if quick else None)
    executor = bench.network_of(CASES[0])
    network = executor.checkpoint.network
    where = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    base = sum(p.numel() * p.element_size() for p in network.parameters()) / 1e9
    report = Report(f"{where}, torch {torch.__version__}", shape, started(), tokens, base)
    report.ceiling_tflops = ceiling(device, network.dtype, 8192 if gpu else 1024) / 1e12
    say(f"{report.device}: {report.ceiling_tflops:.3g} TFLOP/s in a large matrix product")
    del executor, network
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        for case in CASES:
            if (names and case.name not in names) or case.sharded > (started() > 1) or case.four_bit > gpu:
                continue
            if started() == 1 and time.monotonic() - began > budget:  # several must agree, and have no budget
                report.notes.append(f"{case.name}: left out, {budget:.0f} s were over")
                continue
            _time_case(bench, case, report)
        if profiled and gpu:
            report.kernels = list(kernels(bench, CASES[0]))
    report.notes += sorted({str(w.message) for w in caught if w.category is RuntimeWarning})
    report.tokens_per_second = max((t.tokens_per_second for t in report.timings), default=0.0)
    report.recipes = list(costs(report, price))
    return report


def _time_case(bench: Bench, case: Case, report: Report) -> None:
    try:
        found = bench.time(case, report.ceiling_tflops)
    except (RuntimeError, UserError) as e:
        if started() > 1:
            raise  # the others wait for this one
        report.notes.append(f"{case.name}: failed, {' '.join(str(e).split())[:200]}")
        say(report.notes[-1])
        bench.clear()
        return
    report.timings.append(found)
    say(f"{case.name}: {found.tokens_per_second:.0f} tokens/s, {found.share:.0%} of the ceiling")


def costs(report: Report, price: float | None) -> Iterator[dict[str, Any]]:
    """What the published recipes take here: steps x batch x tokens a row, at the tokens a second of their own case."""
    found = {t.name: t for t in report.timings}
    for name, case in PUBLISHED.items():
        if case in found:
            recipe = RECIPES[name]
            tokens = recipe.steps * recipe.batch * report.row_tokens
            seconds = tokens / found[case].tokens_per_second
            yield {
                "recipe": name, "steps": recipe.steps, "batch": recipe.batch, "tokens": tokens,
                "hours": seconds / 3600, "dollars": dollars(seconds, price),
            }  # fmt: skip


def table(report: Report) -> str:
    """A Markdown table of the timings, then the recipes."""
    ends = f"{report.processes} processes; ceiling {report.ceiling_tflops:.4g} TFLOP/s a process"
    lines = [f"{report.device}; {report.shape}; rows of {report.row_tokens} tokens; {ends}", ""]
    lines.append("| | rows a step | parts | tokens/s | of the ceiling | with repeats | GB a process |")
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for t in report.timings:
        memory = "" if t.memory_gb is None else f"{t.memory_gb:.1f}"
        lines.append(
            f"| {t.name} | {t.batch} | {t.accumulate} | {t.tokens_per_second:,.0f} | {t.share:.0%} | "
            f"{t.share_with_repeats:.0%} | {memory} |"
        )
    for r in report.recipes:
        money = "" if r["dollars"] is None else f", {r['dollars']:.2f} dollars"
        lines.append(f"\n{r['recipe']}: {r['steps']} steps of {r['batch']} rows: {r['hours']:.2f} h{money}")
    lines += [f"\n{k['share']:.1%} {k['kernel']} x {k['calls']}" for k in report.kernels]
    return "\n".join([*lines, *report.notes])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description="Tokens a second of adapter training at a model shape.")
    parser.add_argument("--shape", default="llada-8b", choices=sorted(SHAPES))
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--quick", action="store_true", help="four layers: does everything run?")
    parser.add_argument("--budget", type=float, default=75.0, help="start no new case after so many seconds")
    parser.add_argument("--case", action="append", default=[], choices=[c.name for c in CASES], help="only these")
    parser.add_argument("--row-tokens", type=int, default=ROWS, help="prompt and response of a row")
    parser.add_argument("--price-per-hour", type=float, help="dollars of the machine")
    parser.add_argument("--profile", action="store_true", help="also list the longest kernels")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Time a shape without the rest of the package's dependencies."""
    a = parse(argv)
    report = of_shape(
        a.shape, device=own_device(find_device(a.device)), quick=a.quick, budget=a.budget, names=a.case,
        price=a.price_per_hour, tokens=a.row_tokens, profiled=a.profile,
    )  # fmt: skip
    if leave():
        sys.stdout.write((json.dumps(asdict(report)) if a.json else table(report)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(script(main))
