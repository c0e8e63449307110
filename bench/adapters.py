"""Speed of adapters on the tiny executor: decoding with one on against the base, the training loop against a bare one.

    python bench/adapters.py [--json]

Prints two ratios, each the median over alternating repetitions: decode (adapter on / base, seconds; at most 1.15 is
wanted) and train (our steps a second / a hand-written loop's on the same batches, masks and layers; at least 0.9).
Seconds are processor time of one thread, which other work on the machine disturbs less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import triaxis as tx
from triaxis.conditions import Prompt
from triaxis.errors import script
from triaxis.models.adapters import save_adapter, target_pattern
from triaxis.models.targets import choose
from triaxis.train.data import Dataset, Example, Span, collate, encode
from triaxis.train.fit import attach, fit
from triaxis.train.loss import Masking, mask_batch
from triaxis.train.recipes import Recipe

STEPS = 20  # the first half is not timed
RECIPE = Recipe(rate=1e-3, steps=STEPS, batch=32, warmup=1, every=10**6, low=0.1, high=0.9, weight="uniform", dropout=0)


def random_adapter(executor: tx.Executor, folder: Path) -> str:
    g = torch.Generator().manual_seed(0)
    network = executor.checkpoint.network
    pairs = {}
    for name in choose(network, ["all"]):
        layer = network.get_submodule(name)
        pairs[name] = (
            torch.randn(8, layer.in_features, generator=g),
            0.001 * torch.randn(layer.out_features, 8, generator=g),
        )
    save_adapter(folder, pairs, {"r": 8, "lora_alpha": 16, "target_modules": target_pattern(list(pairs))}, {})
    return str(folder)


def decoding(executor: tx.Executor, folder: Path, repeats: int) -> float:
    """Seconds with an adapter on all matrices over seconds without, per forward pass that ran."""
    on = executor.with_adapters(random_adapter(executor, folder))
    items = tx.load_task("gradeschool").items(24)
    prompts = [executor.prompt_ids(i.question) for i in items]
    decode = tx.Decode(gen_length=48, block_length=8, steps=24, stop="canvas")  # the same passes for both

    def seconds(e: tx.Executor) -> float:
        began = time.process_time()
        e.generate_ids(prompts, decode)
        return time.process_time() - began

    seconds(executor), seconds(on)
    return statistics.median(seconds(on) / seconds(executor) for _ in range(repeats))


def rows(executor: tx.Executor) -> Dataset:
    items = tx.load_task("gradeschool").items(256, split="train")
    made = [Example(i.id, "none", Prompt(i.question), i.solution) for i in items]
    return encode(executor, made, response=48, block=8, span=Span(), end="fill")


def bare(executor: tx.Executor, data: Dataset) -> float:
    """Seconds of steps written out by hand: same layers, batches and masks; no checkpoints, no logs, no checks."""
    trained, layers = attach(executor, RECIPE)
    network = trained.checkpoint.network.train()
    weights = [p for layer in layers.values() for p in (layer.a, layer.b)]
    optimiser = torch.optim.AdamW(weights, lr=1e-3)
    masking = Masking(low=0.1, high=0.9, weight="uniform", block=8)
    order = data.order(0, 0, RECIPE.batch)
    began = 0.0
    for step in range(STEPS):
        began = time.process_time() if step == STEPS // 2 else began
        b = collate(data, order[step % len(order)].tolist())
        m = mask_batch(b.span, masking, torch.Generator().manual_seed(step))
        noisy = b.ids.scatter(1, b.where, torch.where(m.hidden, data.mask, b.targets))
        scored = m.weights > 0
        states = network.hidden(noisy, b.valid, b.where)
        loss = F.cross_entropy(network.head(states[scored]), b.targets[scored])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
    return time.process_time() - began


def ours(executor: tx.Executor, data: Dataset, folder: Path) -> float:
    """Seconds of as many steps of the loop that ships."""
    seen: dict[int, float] = {}
    fit(executor, RECIPE, data, folder, note=lambda stage, done, total: seen.setdefault(done, time.process_time()))
    return seen[STEPS] - seen[STEPS // 2]


def training(executor: tx.Executor, folder: Path, repeats: int) -> float:
    """Our steps a second over the bare loop's, attaching, the first steps and saving included in neither."""
    data = rows(executor)
    return statistics.median(bare(executor, data) / ours(executor, data, folder / f"fit{k}") for k in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    executor = tx.load_executor("tiny", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "decode": decoding(executor, Path(folder) / "adapter", args.repeats),
            "train": training(executor, Path(folder), args.repeats),
        }
    if args.json:
        sys.stdout.write(json.dumps({"ratios": found}) + "\n")
    else:
        sys.stdout.write("".join(f"{name}: {value:.3f}\n" for name, value in found.items()))


if __name__ == "__main__":
    sys.exit(script(main))
