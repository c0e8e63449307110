"""How fast decoding is: the engine against the plain reference loop, in one process, as ratios.

Two kinds of subject: the shipped tiny executor on its own prompts (a CPU's measure), and a model shape with random
weights on one GPU (`--shape llada-8b`), which needs no download and nothing but torch, safetensors and tokenizers:
`python -m triaxis.sampling.speed --shape llada-8b`. Times are the best of several interleaved rounds.

Operations are counted by `triaxis.cost` (useful work); the ceiling is a large matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from triaxis.cost import Sizes, decode_flops
from triaxis.errors import UserError, lookup, script
from triaxis.models.adapters import Adapter, Mounted, Pair, mount
from triaxis.models.llada import LladaConfig, LladaNetwork
from triaxis.models.load import find_device
from triaxis.models.quantise import four_bit
from triaxis.models.random import fill_random, put_plain
from triaxis.sampling.cache import fitting_tokens
from triaxis.sampling.denoise import denoise
from triaxis.sampling.reference import PlainLlada, generate
from triaxis.sampling.rows import most_rows
from triaxis.sampling.schedule import Decode
from triaxis.sampling.seats import SIZES
from triaxis.streams import stream_key

SHAPES: dict[str, LladaConfig] = {
    name: LladaConfig(
        d_model=width, n_heads=heads, n_layers=layers, mlp_hidden_size=ffn, vocab_size=vocab, embedding_size=vocab,
        mask_token_id=vocab - 128, eos_token_id=vocab - 383, max_sequence_length=4096, rope_theta=5e5,
        rms_norm_eps=1e-5,
    )
    for name, (width, heads, layers, ffn, vocab) in {
        "llada-8b": (4096, 32, 32, 12288, 126464),
        "llada-1b": (2048, 16, 16, 6144, 126464),
        "small": (256, 4, 4, 768, 2048),
    }.items()
}  # fmt: skip
PROTOCOL = Decode(gen_length=128, block_length=32, steps=64)  # of the published study
PROMPT = 150


@dataclass(frozen=True, slots=True)
class Timing:
    """One way of decoding, timed. seconds: a sequence."""

    name: str
    batch: int
    temperature: float
    seconds: float
    share: float | None = None  # of the measured ceiling
    memory_gb: float | None = None


@dataclass(slots=True)
class Report:
    """What a run found, in the order it found it."""

    device: str
    shape: str
    protocol: dict[str, object]
    ceiling_tflops: float = 0.0
    timings: list[Timing] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "timings": [asdict(t) for t in self.timings]}

    def seconds(self, name: str, batch: int, temperature: float) -> float:
        return next(t.seconds for t in self.timings if (t.name, t.batch, t.temperature) == (name, batch, temperature))


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_of(runs: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of each, the least of several rounds in turn: whatever else the machine does then hits all of them."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock(device)
            run()
            best[name] = min(best[name], clock(device) - start)
    return best


def ceiling(device: torch.device, dtype: torch.dtype, size: int, rounds: int = 8) -> float:
    """Operations a second of a square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = best_of({"": lambda: [a @ b for _ in range(4)]}, rounds, device)[""]
    return 4 * 2 * size**3 / best


def sizes(c: LladaConfig) -> Sizes:
    return Sizes(
        width=c.d_model, layers=c.n_layers, heads=c.n_heads, kv_heads=c.kv_heads, head_width=c.head_width,
        ffn=c.mlp_hidden_size, vocabulary=c.rows,
    )  # fmt: skip


# ---------------------------------------------------------------- a trained executor on its own prompts


def against_reference(
    network: LladaNetwork, prompts: Sequence[Sequence[int]], d: Decode, eos_ids: Sequence[int],
    *, rounds: int = 5, temperatures: Sequence[float] = (0.0, 0.7), shape: str = "tiny",
) -> Report:  # fmt: skip
    """The engine against the reference loop one prompt at a time and batched, on prompts of one length.

    `ratios` are the lower of the temperatures' and are taken with `d.stop` as it is: stopping a row after the block of
    its end mark changes no text. Those ending in "_canvas" decode every canvas to its end.
    """
    if len({len(p) for p in prompts}) != 1:
        raise UserError("the reference loop takes prompts of one length; give prompts of one length")
    device = next(network.parameters()).device
    report = Report(str(device), shape, d.card())
    model, batch = PlainLlada(network), torch.tensor(prompts, device=device)
    keys = [stream_key("speed", i) for i in range(len(prompts))]
    mask = network.config.mask_token_id

    def engine(decode: Decode) -> list[list[int]]:
        rows = denoise(network, prompts, keys, decode, mask_id=mask, eos_ids=eos_ids, device=device)
        return [r.ids for r in rows]

    few = min(4, len(prompts))
    for temperature in temperatures:
        now = replace(d, temperature=temperature)
        full = replace(now, stop="canvas")
        runs: dict[str, Callable[[], object]] = {
            "reference one at a time": partial(_one_by_one, model, batch[:few], now, mask),
            "reference batched": partial(generate, model, batch, now, mask),
            "engine": partial(engine, now),
            "engine, whole canvas": partial(engine, full),
        }
        for name, seconds in best_of(runs, rounds, device).items():
            count = few if name.endswith("time") else len(prompts)
            report.timings.append(Timing(name, 1 if name.endswith("time") else count, temperature, seconds / count))
            say(f"T={temperature:g} {name}: {seconds / count * 1e3:.1f} ms a sequence")
    wanted = generate(model, batch, replace(d, temperature=0.0), mask).tolist()
    report.agreement["tokens equal to the reference at T=0"] = share_equal(
        engine(replace(d, temperature=0.0, stop="canvas")), wanted
    )
    _ratios(report, len(prompts), temperatures)
    return report


def _one_by_one(model: PlainLlada, batch: Tensor, d: Decode, mask: int) -> None:
    for row in batch:
        generate(model, row[None], d, mask)


def _ratios(report: Report, batch: int, temperatures: Sequence[float]) -> None:
    for suffix, name in (("", "engine"), ("_canvas", "engine, whole canvas")):
        for key, reference, size in (
            ("vs_reference_b1", "reference one at a time", 1),
            ("vs_reference_batched", "reference batched", batch),
        ):
            found = [report.seconds(reference, size, t) / report.seconds(name, batch, t) for t in temperatures]
            report.ratios[key + suffix] = round(min(found), 2)


def share_equal(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> float:
    """Share of positions with the same token."""
    pairs = [x == y for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True)]
    return sum(pairs) / len(pairs)


# ---------------------------------------------------------------- a shape with random weights


def random_network(
    config: LladaConfig, device: torch.device, dtype: torch.dtype, seed: int = 0, *, quantised: bool = False
) -> LladaNetwork:
    """A network of that shape, weights normal with deviation .02, norms 1. Made on the device.

    quantised: the layers' projections in NF4; UserError without bitsandbytes.
    """
    with torch.device("meta"):
        network = LladaNetwork(config)
    fill_random(network, seed, dtype, device, four_bit(network, "the network") if quantised else put_plain)
    network.eval()
    if device.type == "cuda":
        network.fuse()
    return network


def with_adapter(network: LladaNetwork, rank: int = 8) -> Mounted:
    """The network with one random adapter beside all seven matrices of every layer, not merged."""
    from pathlib import Path

    pairs = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and ".blocks." in name:
            down, up = module.in_features, module.out_features
            pairs[name] = Pair(torch.randn(rank, down) * 0.01, torch.randn(up, rank) * 0.01, 2.0)
    return mount(network, [Adapter("speed", Path("."), pairs, {}, {})], "the network")


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    name: str
    batch: int  # 0: as many rows as an executor takes by itself
    temperature: float = 0.0
    changes: tuple[tuple[str, object], ...] = ()
    reference: bool = False
    ragged: int = 0  # so many prompts of unlike lengths, in batches of like lengths, as a study has them
    adapter: bool = False  # one beside every matrix, set before each pass as a study's schedule does
    four_bit: bool = False  # the layers' projections in NF4 (bitsandbytes)


DUAL = (("cache", "dual"),)
CASES = (
    Case("reference", 1, reference=True), Case("reference", 5, reference=True), Case("reference", 16, reference=True),
    Case("reference", 1, 0.7, reference=True), Case("reference", 16, 0.7, reference=True),
    Case("engine", 1), Case("engine", 5), Case("engine", 16), Case("engine", 64),
    Case("engine", 1, 0.7), Case("engine", 16, 0.7),
    Case("engine, dual cache", 1, changes=DUAL), Case("engine, dual cache", 16, changes=DUAL),
    Case("engine, dual cache", 64, changes=DUAL),
    Case("engine, adapter on", 1, adapter=True), Case("engine, adapter on", 16, adapter=True),
    Case("engine, ragged prompts", 16, ragged=64),
    Case("engine, prefix cache", 16, changes=(("cache", "prefix"),)),
    Case("engine, 4-bit", 1, four_bit=True), Case("engine, 4-bit", 16, four_bit=True),
    Case("engine, automatic", 0),
)  # fmt: skip
QUICK = (Case("reference", 1, reference=True), Case("reference", 4, reference=True), Case("engine", 1),
         Case("engine", 4), Case("engine", 4, 0.7), Case("engine, dual cache", 4, changes=DUAL),
         Case("engine, adapter on", 4, adapter=True), Case("engine, ragged prompts", 4, ragged=8),
         Case("engine, automatic", 0))  # fmt: skip


def of_shape(shape: str, *, device: torch.device, quick: bool = False, budget: float = 420.0) -> Report:
    """Time a shape with random weights. A case that fails is noted and left out; none starts after `budget` seconds."""
    config, d = lookup("shape", SHAPES, shape), PROTOCOL
    if quick:
        config, d = replace(config, n_layers=min(4, config.n_layers)), replace(d, steps=16)
    gpu = device.type == "cuda"
    dtype, began = torch.bfloat16 if gpu else torch.float32, time.monotonic()
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    report = Report(f"{name}, torch {torch.__version__}", shape, d.card())
    if quick:
        report.notes.append(f"quick: {config.n_layers} layers and {d.steps} steps; seconds are not the shape's")
    report.ceiling_tflops = ceiling(device, dtype, 8192 if gpu else 1024) / 1e12
    say(f"{report.device}: {report.ceiling_tflops:.3g} TFLOP/s in a large matrix product")
    bench = _Bench(config, device, dtype, d)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        for case in QUICK if quick else CASES:
            if time.monotonic() - began > budget:
                report.notes.append(f"{case.name} at {case.batch}: left out, {budget:.0f} s were over")
                continue
            try:
                timing = bench.time(case, report.ceiling_tflops)
            except (RuntimeError, UserError) as e:
                report.notes.append(f"{case.name} at {case.batch}: failed, {' '.join(str(e).split())[:200]}")
                say(report.notes[-1])
                continue
            report.timings.append(timing)
            share = f", {timing.share:.0%} of the ceiling" if timing.share else ""
            say(f"{case.name} T={case.temperature:g} batch {timing.batch}: {timing.seconds:.4f} s a sequence{share}")
    report.notes += sorted({str(w.message) for w in caught if w.category is RuntimeWarning})
    _shape_ratios(report)
    try:
        report.agreement = bench.agreement()
    except RuntimeError as e:
        report.notes.append(f"agreement: failed, {' '.join(str(e).split())[:200]}")
    return report


def _shape_ratios(report: Report) -> None:
    found = {(t.name, t.batch, t.temperature): t.seconds for t in report.timings}
    most = max((b for n, b, t in found if n == "reference" and t == 0), default=0)
    alone, batched = found.get(("reference", 1, 0.0)), found.get(("reference", most, 0.0))
    for (name, batch, heat), seconds in found.items():
        if name == "reference":
            continue
        label = f"{name}, batch {batch}, T={heat:g}"
        reference, plain = found.get(("reference", batch, heat)), found.get(("engine", batch, 0.0))
        if reference:
            report.ratios[f"{label}: vs reference at the same batch"] = round(reference / seconds, 2)
        if plain and (name, heat) != ("engine", 0.0):
            report.ratios[f"{label}: seconds over exact at T=0"] = round(seconds / plain, 3)
    best = min((s for (n, _, t), s in found.items() if n == "engine" and t == 0), default=None)
    if best and alone and batched:
        report.ratios["vs_reference_b1"] = round(alone / best, 2)
        report.ratios["vs_reference_batched"] = round(batched / best, 2)


class _Bench:
    """One network of random weights, its prompts, and the ways to decode them."""

    def __init__(self, config: LladaConfig, device: torch.device, dtype: torch.dtype, d: Decode) -> None:
        self.config, self.device, self.d = config, device, d
        self.network = random_network(config, device, dtype)
        self.model = PlainLlada(self.network)
        self.mounted: Mounted | None = None
        self.small: LladaNetwork | None = None
        generator = torch.Generator().manual_seed(1)
        self.prompts = torch.randint(0, config.mask_token_id - 300, (256, PROMPT), generator=generator)

    def reference(self, batch: int, d: Decode) -> Tensor:
        return generate(self.model, self.prompts[:batch].to(self.device), d, self.config.mask_token_id)

    def engine(self, batch: int, d: Decode, *, adapter: bool = False, graphed: bool = True) -> list[list[int]]:
        return self.decode(self.prompts[:batch].tolist(), d, adapter, graphed)

    def decode(
        self, prompts: Sequence[Sequence[int]], d: Decode, adapter: bool = False, graphed: bool = True,
        quantised: LladaNetwork | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """The tokens. adapter: with one on; graphed: as a GPU does it; quantised: by that network in place of ours."""
        network, before = self.network if quantised is None else quantised, None
        if adapter:
            self.mounted = mounted = self.mounted or with_adapter(self.network)
            network, before = mounted.network, lambda _: mounted.switch.set([(1.0,)])
        rows = denoise(
            network, prompts, [stream_key("speed", i) for i in range(len(prompts))], d,
            mask_id=self.config.mask_token_id, eos_ids=[self.config.eos_token_id], device=self.device, before=before,
            graphed=graphed,
        )  # fmt: skip
        return [r.ids for r in rows]

    def ragged(self, count: int) -> list[list[int]]:
        """Prompts shortest first, their lengths log-normal about 120 and within 60 to 300, as of word problems."""
        draws = torch.randn(count, generator=torch.Generator().manual_seed(2))
        lengths = (4.8 + 0.4 * draws).exp().clamp(60, 300).long().clamp(max=2 * PROMPT)
        both = torch.cat((self.prompts, self.prompts.roll(1, 0)), 1)
        return sorted((both[i, :n].tolist() for i, n in enumerate(lengths.tolist())), key=len)

    def automatic(self, d: Decode) -> int:
        """Rows of a batch as an executor chooses it."""
        length = PROMPT + d.gen_length
        room = fitting_tokens(self.network, self.config.rows, d, length)
        return min(len(self.prompts), most_rows(room, length, SIZES if self.device.type == "cuda" else ()))

    def time(self, case: Case, ceiling_tflops: float) -> Timing:
        """Run a case, first for what is done once, then for the time; the answer says how many rows a batch had."""
        d = replace(self.d, temperature=case.temperature, **dict(case.changes))  # type: ignore[arg-type]
        # What compiles, captures and fills allocators; with a cache a block's passes are several graphs.
        short = replace(d, steps=2 * d.blocks) if d.cache == "none" else d

        batch = case.batch or self.automatic(d)
        prompts = self.ragged(case.ragged) if case.ragged else self.prompts[:batch].tolist()
        small = self.quantised() if case.four_bit else None

        def run(protocol: Decode) -> None:
            if case.reference:
                self.reference(batch, protocol)
                return
            for at in range(0, len(prompts), batch):
                self.decode(prompts[at : at + batch], protocol, case.adapter, quantised=small)

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        run(short)
        seconds = best_of({"": lambda: run(d)}, 2 if batch < 16 else 1, self.device)[""] / len(prompts)
        work = [decode_flops(sizes(self.config), len(p), d.gen_length, d.block_length, d.steps) for p in prompts]
        flops = sum(work) / len(work)  # of useful tokens: padding is not work
        share = flops / seconds / (ceiling_tflops * 1e12) if d.exact else None
        memory = torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None
        return Timing(case.name, batch, case.temperature, seconds, share, memory)

    def quantised(self) -> LladaNetwork:
        """The shape in four bits, made once."""
        if self.small is None:
            self.small = random_network(self.config, self.device, self.network.dtype, quantised=True)
        return self.small

    def agreement(self) -> dict[str, float]:
        """Tokens that agree between ways that are the same arithmetic in another order.

        Random weights are a hard case in bf16: the best logits of a position tie within a rounding, and one token that
        differs changes every later one. Four layers in float32 are the test: there all ways must agree.
        """
        found = self._agreement(self.network.dtype)
        if self.device.type == "cuda":
            config = replace(self.config, n_layers=min(4, self.config.n_layers))
            small = _Bench(config, self.device, torch.float32, self.d)
            found |= small._agreement(torch.float32)
        return found

    def _agreement(self, dtype: torch.dtype) -> dict[str, float]:
        label = f"{str(dtype).removeprefix('torch.')}, {self.config.n_layers} layers"
        d = replace(self.d, steps=2 * self.d.blocks)
        plain = self.engine(4, d, graphed=False)
        return {
            f"graphed and step by step ({label})": share_equal(self.engine(4, d), plain),
            f"step by step and the reference ({label})": share_equal(plain, self.reference(4, d).tolist()),
            f"alone and in a batch of 4 ({label})": share_equal(self.engine(1, d), self.engine(4, d)[:1]),
        }


def table(report: Report) -> str:
    """A Markdown table of the timings, then the ratios."""
    top = f"; ceiling {report.ceiling_tflops:.4g} TFLOP/s" if report.ceiling_tflops else ""
    lines = [f"{report.device}; {report.shape}{top}", "", "| | batch | T | s a sequence | of the ceiling | GB |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for t in report.timings:
        share = f"{t.share:.0%}" if t.share else ""
        memory = f"{t.memory_gb:.1f}" if t.memory_gb else ""
        lines.append(f"| {t.name} | {t.batch} | {t.temperature:g} | {t.seconds:.4f} | {share} | {memory} |")
    lines += ["", *(f"{k}: {v:.2f} x" for k, v in report.ratios.items())]
    lines += [f"{k}: {v:.1%} of tokens equal" for k, v in report.agreement.items()]
    return "\n".join([*lines, *report.notes])


def main(argv: Sequence[str] | None = None) -> int:
    """Time a shape without the rest of the package's dependencies."""
    parser = argparse.ArgumentParser(description="Seconds a sequence of a model shape with random weights.")
    parser.add_argument("--shape", default="llada-8b", choices=sorted(SHAPES))
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--quick", action="store_true", help="few layers and steps: does everything run?")
    parser.add_argument("--budget", type=float, default=420.0, help="start no new case after so many seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
    asked = parser.parse_args(argv)
    report = of_shape(asked.shape, device=find_device(asked.device), quick=asked.quick, budget=asked.budget)
    sys.stdout.write((json.dumps(report.plain()) if asked.json else table(report)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(script(main))
