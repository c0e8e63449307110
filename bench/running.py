"""Rows that enter a running batch against batches that wait for their last row: one process, in turn, as ratios.

    python bench/running.py --shape tiny [--rows 200] [--room 1536]
    python bench/running.py [--shape llada-8b] [--rows 96] [--batch 16] [--steps 64] [--cache dual] [--rounds 2]

The tiny executor on its own task counts passes, which is exact on any machine. The other shapes are timed with random
weights and prompts of unlike lengths. Tokens of a first run serve as end marks: a quarter of the rows ends in each
of the first three blocks, the rest not at all. On a GPU also how often the host waited for the device, as torch's
synchronisation warnings count it, in a run whose graphs are made.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from triaxis.errors import override, script
from triaxis.sampling.denoise import Moment, denoise
from triaxis.sampling.speed import PROTOCOL, SHAPES, best_of, random_network, share_equal

MODES: dict[str, dict[str, object]] = {
    "exact, T=0": {}, "exact, T=0.7": {"temperature": 0.7}, "threshold 0.9": {"threshold": 0.9},
    "dual cache": {"cache": "dual"},
}  # fmt: skip


def note(passes: list[int], moment: Moment) -> None:
    passes.append(len(moment.rows))


def counted(rows: int, room: int) -> None:
    """The tiny executor on its own task: passes and rows a pass, as a Markdown table."""
    from triaxis.sampling.executor import load_executor
    from triaxis.tasks import load_task

    executor = load_executor("tiny", device="cpu", dtype="fp32")
    prompts = sorted((executor.prompt_ids(i.question) for i in load_task("gradeschool").items(rows)), key=len)
    print(f"{rows} rows, at most {room} canvas tokens a pass, stop='eos_block'.\n")
    print("| mode | passes, waiting | running | ratio | rows a pass, waiting | running | same tokens |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for mode, changes in MODES.items():
        d = override(executor.default_decode(), {"stop": "eos_block", **changes})
        passes: dict[bool, list[int]] = {True: [], False: []}
        made = {
            mix: denoise(
                executor.checkpoint.network, prompts, range(rows), d, eos_ids=executor.end_ids, room=room, mix=mix,
                mask_id=executor.checkpoint.config.mask_token_id, device=torch.device("cpu"),
                before=partial(note, passes[mix]),
            )
            for mix in (False, True)
        }  # fmt: skip
        count = {mix: len(p) for mix, p in passes.items()}
        mean = {mix: sum(p) / len(p) for mix, p in passes.items()}
        same = [r.ids for r in made[True]] == [r.ids for r in made[False]]
        print(
            f"| {mode} | {count[False]} | {count[True]} | {count[True] / count[False]:.2f} | {mean[False]:.1f} "
            f"| {mean[True]:.1f} | {'yes' if same else 'NO'} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llada-8b", choices=("tiny", *SHAPES))
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--cache", default="none", choices=("none", "dual"))
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--room", type=int, default=1536, help="Of the tiny executor.")
    a = parser.parse_args()
    if a.shape == "tiny":
        return counted(a.rows, a.room)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = SHAPES[a.shape]
    network = random_network(config, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    d = replace(PROTOCOL, steps=a.steps, temperature=a.temperature, cache=a.cache)
    lengths = [100 + 7 * n % 60 for n in range(a.rows)]
    draws = torch.randint(0, config.mask_token_id - 300, (a.rows, 160), generator=torch.Generator().manual_seed(1))
    prompts = sorted((draws[i, :n].tolist() for i, n in enumerate(lengths)), key=len)
    passes: list[int] = []

    def run(marks: list[int], protocol: Any, mix: bool) -> Any:
        passes.clear()
        return denoise(
            network, prompts, range(a.rows), protocol, mask_id=config.mask_token_id,
            eos_ids=[config.eos_token_id, *marks], device=device, room=a.batch * (160 + d.gen_length), mix=mix,
            before=(lambda m: passes.append(len(m.rows))) if device.type == "cpu" else None,
        )  # fmt: skip

    free = run([], d, True)
    k = d.block_length
    marks = [free[i].ids[(i % 4) * k + k // 2] for i in range(a.rows) if i % 4 < 3]
    stopping = replace(d, stop="eos_block")
    rows = {mix: run(marks, stopping, mix) for mix in (True, False)}
    found: dict[str, Any] = {"device": str(device), **vars(a), "forwards": sum(r.forwards for r in rows[True])}
    found["canvas forwards"] = sum(r.forwards for r in free)
    found["tokens equal"] = share_equal([r.ids for r in rows[True]], [r.ids for r in rows[False]])
    if device.type == "cpu":
        for mix in (True, False):
            run(marks, stopping, mix)
            found[f"passes, {'running' if mix else 'waiting'}"] = len(passes)
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            run(marks, stopping, True)
            torch.cuda.set_sync_debug_mode("default")
        found["waits"] = sum("synchroni" in str(w.message) for w in caught)
    ways: dict[str, Callable[[], object]] = {
        "running": partial(run, marks, stopping, True),
        "waiting": partial(run, marks, stopping, False),
    }
    seconds = best_of(ways, a.rounds, device)
    found["seconds a sequence"] = {way: s / a.rows for way, s in seconds.items()}
    found["faster"] = seconds["waiting"] / seconds["running"]
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(script(main))
