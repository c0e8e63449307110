"""Train the tiny family: one command makes the tokenizer, the executor and the three planners.

    python -m triaxis.train.families.tiny --out work-tiny            # all of it, resumable
    python -m triaxis.train.families.tiny --out work-tiny --only executor --seed 1

Everything is drawn from (seed, step), so a killed run continues exactly where it stopped. Checkpoints
and results are safetensors. Takes minutes on a GPU, hours on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from triaxis.errors import UserError, override, script
from triaxis.limits import open_safetensors, parse_json, read_text
from triaxis.models.llada import LladaConfig, LladaNetwork
from triaxis.models.load import find_device
from triaxis.train.families.tiny_data import (
    ASSISTANT,
    EOS,
    MASK,
    RESPONSE,
    USER,
    Tokens,
    executor_examples,
    planner_examples,
    tokenise,
    train_tokenizer,
)
from triaxis.train.loss import draw_masks, masked_cross_entropy

BLOCK = 8
PLANNERS = {  # name: (width, layers, heads, feed-forward width)
    "tiny-planner-s": (48, 3, 4, 128),
    "tiny-planner-m": (96, 3, 4, 256),
    "tiny-planner-l": (160, 5, 5, 432),
}
# Stopped early on purpose, so that plans are a third, three quarters and nearly all right: at 2,800 steps the two
# larger ones are perfect and axis 2 has nothing to compare.
PLANNER_STEPS = {"tiny-planner-s": 1800, "tiny-planner-m": 1400, "tiny-planner-l": 1100}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one network is trained. `examples` are generated once and reshuffled every epoch.

    UserError where no such training is possible.
    """

    steps: int
    batch: int = 256
    rate: float = 3e-3
    warmup: int = 200
    examples: int = 300_000
    seed: int = 0
    block_share: float = 0.5  # executors: rows masked as block decoding meets them

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 1), ("seed", 0), ("examples", self.batch)):
            if getattr(self, name) < least:
                raise UserError(f"training {name}={getattr(self, name)} is too small; use {least} or more")


EXECUTOR = Recipe(steps=10_000)


def batches(tokens: Tokens, recipe: Recipe, start: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """(step, ids, prompt lengths, total lengths) from step `start` on; rows of like length share a batch."""
    wide = min(16, len(tokens.total) // recipe.batch)  # batches cut from rows sorted together
    groups = len(tokens.total) // (wide * recipe.batch)
    per_epoch = groups * wide
    for epoch in itertools.count(start // per_epoch):
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(tokens.total))
        chunks = [
            g[np.argsort(tokens.total[g], kind="stable")] for g in np.split(order[: per_epoch * recipe.batch], groups)
        ]
        shuffled = np.concatenate(chunks).reshape(per_epoch, recipe.batch)
        shuffled = shuffled[np.random.default_rng((recipe.seed, epoch, 1)).permutation(per_epoch)]
        for at in range(per_epoch):
            step = epoch * per_epoch + at
            if step < start:
                continue
            if step >= recipe.steps:
                return
            rows = shuffled[at]
            width = int(tokens.total[rows].max())
            yield (
                step,
                torch.from_numpy(tokens.ids[rows, :width].astype(np.int64)),
                torch.from_numpy(tokens.prompt[rows].astype(np.int64)),
                torch.from_numpy(tokens.total[rows].astype(np.int64)),
            )


def executor_loss(network: nn.Module, mask_id: int, eos_id: int, recipe: Recipe) -> Callable[..., Tensor]:
    """Loss of one executor batch; masks are drawn from (seed, step)."""

    def loss(step: int, ids: Tensor, prompt: Tensor, total: Tensor) -> Tensor:
        """Of one batch: ids (B, L), lengths of prompts and of rows (B,)."""
        generator = torch.Generator(ids.device).manual_seed(recipe.seed * 1_000_003 + step)
        where = prompt[:, None] + torch.arange(RESPONSE, device=ids.device)[None]
        targets = ids.gather(1, where)
        content = (targets != eos_id).sum(1) + 1
        hidden, scored = draw_masks(content, RESPONSE, BLOCK, generator, block_share=recipe.block_share)
        noisy = ids.scatter(1, where, torch.where(hidden, mask_id, targets))
        valid = torch.arange(ids.shape[1], device=ids.device)[None] < total[:, None]
        states = network.hidden(noisy, valid, where)  # type: ignore[operator]
        return masked_cross_entropy(network.head(states[scored]), targets[scored])  # type: ignore[operator]

    return loss


def planner_loss(network: nn.Module) -> Callable[..., Tensor]:
    """Next-token loss on the plan and its end mark."""

    def loss(step: int, ids: Tensor, prompt: Tensor, total: Tensor) -> Tensor:
        place = torch.arange(ids.shape[1], device=ids.device)[None]
        wanted = (place >= prompt[:, None]) & (place < total[:, None])
        logits = network(input_ids=ids).logits[:, :-1]  # right padding: causal attention never sees it
        return masked_cross_entropy(logits[wanted[:, 1:]], ids[:, 1:][wanted[:, 1:]])

    return loss


def fit(
    network: nn.Module, loss_of: Callable[..., Tensor], tokens: Tokens, recipe: Recipe, out: Path, every: int = 500
) -> None:
    """AdamW with warm-up and linear decay to zero; a checkpoint each `every` steps, a log line each 100.

    Goes on from the checkpoint in `out` if there is one, to the same weights as a run that never stopped.
    """
    device = next(network.parameters()).device
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01)
    start = restore(network, optimiser, recipe, out)
    began, log, kept = time.time(), out / "log.jsonl", torch.zeros((), device=device)
    network.train()
    for step, ids, prompt, total in batches(tokens, recipe, start):
        rate = recipe.rate * min(1.0, (step + 1) / recipe.warmup) * (1 - step / recipe.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = loss_of(step, ids.to(device), prompt.to(device), total.to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        kept += loss.detach()
        if (step + 1) % 100 == 0:
            line = {"step": step + 1, "loss": round(float(kept) / 100, 4), "seconds": round(time.time() - began, 1)}
            with log.open("a") as f:
                f.write(json.dumps(line) + "\n")
            print(out.name, line, flush=True)
            kept.zero_()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            checkpoint(network, optimiser, recipe, step + 1, out)


def checkpoint(network: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, step: int, out: Path) -> None:
    """Weights and optimiser state as one safetensors file, replaced in one move."""
    tensors = {f"w/{n}": p.detach() for n, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        for key, value in optimiser.state[parameter].items():
            tensors[f"o/{key}/{name}"] = value.detach()
    scratch = out / "checkpoint.partial"
    metadata = {"step": str(step), "recipe": json.dumps(asdict(recipe))}
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, scratch, metadata=metadata)
    scratch.replace(out / "checkpoint.safetensors")


def _read_checkpoint(path: Path, recipe: Recipe) -> tuple[int, dict[str, Tensor]]:
    """Step and tensors. UserError if the file is damaged or of another recipe."""
    try:
        with open_safetensors(path) as f:
            metadata, tensors = f.metadata() or {}, {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: not a readable checkpoint ({e}); delete it to begin again") from None
    held = parse_json(metadata.get("recipe", "{}"))
    for name, value in asdict(recipe).items():
        if held.get(name) != value:
            raise UserError(
                f"{path}: training was begun with {name}={held.get(name)}, not {value}; choose another --out"
            )
    return int(metadata["step"]), tensors


def restore(network: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, out: Path) -> int:
    """Take up a checkpoint if there is one; the step to go on from. Log lines after it are dropped."""
    out.mkdir(parents=True, exist_ok=True)
    path, log = out / "checkpoint.safetensors", out / "log.jsonl"
    step, tensors = _read_checkpoint(path, recipe) if path.exists() else (0, {})
    if log.exists():
        lines = read_text(log, "log").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a killed run may have left half of one
        log.write_text("".join(line for line in whole if parse_json(line)["step"] <= step))
    if not tensors:
        return 0
    for name, parameter in network.named_parameters():
        parameter.data.copy_(tensors[f"w/{name}"])
        state: dict[str, Tensor] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"o/{key}/{name}"]
            state[key] = value if key == "step" else value.to(parameter.device)
        optimiser.state[parameter] = state
    return step


def executor_config(vocab: int, mask_id: int, eos_id: int) -> dict[str, Any]:
    """The tiny executor's config.json, in LLaDA's field names."""
    return {
        "model_type": "llada",
        "triaxis_family": "tiny",
        "architectures": ["LLaDAModelLM"],
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "d_model": 128,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 4,
        "mlp_hidden_size": 384,
        "vocab_size": vocab,
        "embedding_size": vocab,
        "max_sequence_length": 512,
        "rope": True,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "weight_tying": False,
        "mask_token_id": mask_id,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
    }


def initialise(network: nn.Module, layers: int) -> None:
    """Normal(0, 0.02), the projections back into the residual stream scaled by 1/sqrt(2 layers)."""
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2:
            back = name.endswith(("attn_out.weight", "blocks.ff_out.weight", "ff_out.weight")) and "blocks" in name
            nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if back else 0.02)


def train_executor(out: Path, tokenizer: Any, recipe: Recipe, device: str) -> None:
    """The executor, written as an ordinary LLaDA checkpoint folder (bf16 weights)."""
    config = executor_config(tokenizer.get_vocab_size(), tokenizer.token_to_id(MASK), tokenizer.token_to_id(EOS))
    torch.manual_seed(recipe.seed)
    network = LladaNetwork(LladaConfig.read(config, "tiny"))
    initialise(network, config["n_layers"])
    network.to(device)
    tokens = tokenise(tokenizer, itertools.islice(executor_examples(f"{recipe.seed}"), recipe.examples), RESPONSE)
    fit(network, executor_loss(network, config["mask_token_id"], config["eos_token_id"], recipe), tokens, recipe, out)
    write_model(out, network.state_dict(), config, tokenizer, recipe)


def planner_config(size: tuple[int, int, int, int], vocab: int, eos_id: int) -> dict[str, Any]:
    """A tiny planner's config.json; `size` is a row of PLANNERS."""
    width, layers, heads, wide = size
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": wide,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
        "hidden_act": "silu",
        "architectures": ["LlamaForCausalLM"],
    }


def train_planner(out: Path, tokenizer: Any, recipe: Recipe, device: str, size: tuple[int, int, int, int]) -> None:
    """One planner, written as an ordinary Llama checkpoint folder (bf16 weights)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = planner_config(size, tokenizer.get_vocab_size(), tokenizer.token_to_id(EOS))
    torch.manual_seed(recipe.seed)
    network: nn.Module = LlamaForCausalLM(LlamaConfig.from_dict(config))
    network.to(device)
    tokens = tokenise(tokenizer, itertools.islice(planner_examples(f"{recipe.seed}"), recipe.examples), None)
    fit(network, planner_loss(network), tokens, recipe, out)
    state = {k: v for k, v in network.state_dict().items() if k != "lm_head.weight"}
    write_model(out, state, config, tokenizer, recipe)
    chat = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": EOS,
        "chat_template": f"{USER}{{{{ messages[0]['content'] }}}}{ASSISTANT}",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(chat, indent=1))


def write_model(out: Path, state: dict[str, Tensor], config: dict[str, Any], tokenizer: Any, recipe: Recipe) -> None:
    """config.json, model.safetensors (bf16), tokenizer.json, recipe.json."""
    tensors = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in state.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["executor", *PLANNERS], help="train just this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="steps in place of the recipe's")
    parser.add_argument("--examples", type=int, help="examples in place of the recipe's")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    return parser.parse_args(argv)


def recipe_of(name: str) -> Recipe:
    """How "executor" or a planner is trained."""
    return EXECUTOR if name == "executor" else Recipe(steps=PLANNER_STEPS[name], rate=2e-3)


def train(a: argparse.Namespace) -> None:
    """Train what the command line asks for. UserError before anything is made if it asks for the impossible."""
    device = str(find_device(a.device))
    torch.backends.cuda.matmul.allow_tf32 = device != "cpu"
    changes = {k: v for k, v in (("steps", a.steps), ("examples", a.examples)) if v is not None}
    names = [a.only] if a.only else ["executor", *PLANNERS]
    recipes = {n: override(recipe_of(n), {"seed": a.seed, **changes}) for n in names}
    a.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    for name, recipe in recipes.items():
        if name == "executor":
            train_executor(a.out / f"tiny-{a.seed}", tokenizer, recipe, device)
        else:
            train_planner(a.out / name, tokenizer, recipe, device, PLANNERS[name])


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 2 unusable input, with one line on stderr."""
    return script(lambda: train(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
