"""One training loop for every adapter: LoRA layers beside a frozen executor, the masked-diffusion loss, all processes.

The layers are ours, not peft's, and are saved in peft's format: the network that is trained is then the one that
decodes (no second definition of the update to agree with), and training needs no peft. Several processes are started by
`accelerate launch` or `torchrun` and share a step (`train/runners.py`).

Batches and masks are drawn from (seed, step) and dropout from (seed, step, part), never from a state, so a killed run
goes on to the same weights as one that was never stopped, and a step of `accumulate` parts is the same step whichever
processes compute them. What is written is replaced in one move, so a full disk or a NaN leaves the last checkpoint
whole. Source: LLaDA (arXiv:2502.09992) for the loss, arXiv:2106.09685 for LoRA.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from triaxis.errors import UserError
from triaxis.limits import open_safetensors, parse_json, read_text
from triaxis.models.adapters import replace_file, save_adapter, share, swap
from triaxis.models.targets import choose, coverage
from triaxis.sampling.executor import Executor
from triaxis.store import lock
from triaxis.streams import stream_key
from triaxis.train.data import Batch, Dataset, collate
from triaxis.train.loss import Masking, Scored, mask_batch, scored_loss
from triaxis.train.recipes import Recipe
from triaxis.train.runners import Alone, runner_on, way_of_running
from triaxis.train.sharded import check_sharded, shard
from triaxis.train.trackers import Track, tracking

LOG_EVERY = 10
Probe = Callable[[Executor, int], Mapping[str, float]]  # measures the executor as trained so far, at a step
Note = Callable[[str, int, int], None]


class LoraTrained(nn.Module):
    """A frozen linear layer with one trainable low-rank update beside it: base(x) + alpha/r B A dropout(x)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, alpha / rank, dropout
        bound = 1 / math.sqrt(base.in_features)  # kaiming_uniform_(a=sqrt(5)), as peft and nn.Linear
        start = (2 * torch.rand(rank, base.in_features, generator=generator) - 1) * bound
        device = base.weight.device
        self.a = nn.Parameter(start.to(device))  # fp32 whatever the base is: the steps are small
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        low = F.linear(F.dropout(x, self.dropout, self.training), self.a.to(x.dtype))
        # not addmm, which copies y first: a compiled layer adds where it reads y anyway
        return y + F.linear(low, (self.b * self.scale).to(x.dtype))


class Objective(nn.Module):
    """The network and its loss as one module: what is called as a whole where weights are held in parts."""

    def __init__(self, network: nn.Module, mask_id: int) -> None:
        super().__init__()
        self.network, self.mask_id = network, mask_id

    def forward(self, b: Batch, s: Scored) -> Tensor:
        """Weighted sum of the scored tokens' cross-entropies."""
        noisy = b.ids.scatter(1, b.where, torch.where(s.hidden, self.mask_id, b.targets))
        states = self.network.hidden(noisy, b.valid, b.where)  # type: ignore[operator]
        logits = self.network.head(states.flatten(0, 1).index_select(0, s.spots))  # type: ignore[operator]
        return scored_loss(logits, b.targets.flatten()[s.spots], s.weights)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained adapter. stopped: "steps", "early" (no better held-out loss) or "collapse" (an alarm went off)."""

    folder: Path
    step: int
    stopped: str
    held_loss: float | None
    log: list[dict[str, Any]]


@dataclass
class _Progress:
    """What a run must know to go on, beside weights and optimiser state."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    bad: int = 0
    stopped: str = ""
    kept: dict[str, Tensor] = field(default_factory=dict)  # the best adapter so far


# ---------------------------------------------------------------- the network that is trained


def attach(executor: Executor, recipe: Recipe) -> tuple[Executor, dict[str, LoraTrained]]:
    """The executor with trainable layers (sharing every base weight), and those layers by module name."""
    network = share(executor.checkpoint.network)
    modules = choose(network, recipe.targets, recipe.layers)
    layers: dict[str, LoraTrained] = {}
    for name in modules:
        base = network.get_submodule(name)
        assert isinstance(base, nn.Linear)
        generator = torch.Generator().manual_seed(stream_key("lora", recipe.seed, name))
        layers[name] = LoraTrained(base, recipe.rank, recipe.alpha, recipe.dropout, generator)
        swap(network, name, layers[name])
    network.run_layer = way_of_running(recipe.compiled, recipe.recompute)  # type: ignore[assignment]
    checkpoint = replace(executor.checkpoint, network=network)  # type: ignore[arg-type]
    return replace(executor, checkpoint=checkpoint, adapters=None, schedule=""), layers


# ---------------------------------------------------------------- the loop


@dataclass(frozen=True, eq=False)
class _Fit:
    """One training run with everything it reads."""

    executor: Executor  # as trained
    base: Executor
    layers: Mapping[str, LoraTrained]
    recipe: Recipe
    data: Dataset
    held: Dataset | None
    out: Path
    card: Mapping[str, Any]
    probe: Probe | None
    runner: Alone
    masking: Masking
    track: Track | None = None

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return {f"{n}/{k}": p for n, layer in self.layers.items() for k, p in (("a", layer.a), ("b", layer.b))}

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to go on with the other's checkpoint."""
        return {
            "recipe": self.recipe.card(),
            "data": self.data.fingerprint,
            "held": self.held.fingerprint if self.held else None,
            "base": self.base.fingerprint,
        }


def fit(
    executor: Executor, recipe: Recipe, data: Dataset, out: Path, *, held: Dataset | None = None,
    card: Mapping[str, Any] | None = None, probe: Probe | None = None, note: Note | None = None, sharded: bool = False,
    tracker: str = "",
) -> Fitted:  # fmt: skip
    """Train one adapter into `out` (peft's files, card.json, log.jsonl, checkpoint.safetensors), or go on with it.

    held: rows whose loss is taken under fixed masks every `recipe.every` steps; the adapter with the least is kept.
    probe: measures the executor then; a value "alarm" above 0 stops the run as collapsed. UserError for a checkpoint of
    other training, another run at work in `out`, a loss that is not a number, a full disk: what was written before is
    whole.
    sharded: each of several processes holds a part of the frozen weights. `executor` gives its weights up for it and
    cannot decode afterwards; so there can be no probe.
    tracker: also tell the log's lines to one of `trackers.TRACKERS`; "" is log.jsonl alone.
    """
    trained, layers = attach(executor, recipe)
    runner = runner_on(next(executor.checkpoint.network.parameters()).device)
    _check_split(recipe, runner, sharded, probe)
    masking = Masking(
        low=recipe.low, high=recipe.high, weight=recipe.weight, draw=recipe.draw,  # type: ignore[arg-type]
        block_share=recipe.block_share, block=data.block,
    )  # fmt: skip
    run = _Fit(trained, executor, layers, recipe, data, held, out, card or {}, probe, runner, masking)
    optimiser = torch.optim.AdamW(
        run.weights.values(), lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.decay, foreach=True
    )
    with lock(out) if runner.main else nullcontext():
        at = _restore(run, optimiser)
        if not at.stopped:
            told = tracking(tracker if runner.main else "", out, recipe.card())
            with told as track, torch.enable_grad(), torch.random.fork_rng(devices=runner.gpus):
                objective = Objective(run.executor.checkpoint.network, run.data.mask)
                if sharded:
                    shard(run.executor.checkpoint.network, executor.checkpoint.network)
                _train(replace(run, track=track), objective, optimiser, at, note or (lambda *_: None))
        return _finish(run, at)


def _check_split(recipe: Recipe, runner: Alone, sharded: bool, probe: Probe | None) -> None:
    parts = recipe.accumulate * runner.processes
    if recipe.batch % parts:
        raise UserError(
            f"training batch={recipe.batch} does not split into {parts} equal parts (accumulate={recipe.accumulate}, "
            f"processes={runner.processes}); choose a multiple"
        )
    if sharded:
        check_sharded(runner.processes)
    if sharded and probe is not None:
        raise UserError("sharded training cannot decode on the way; give no probe")


def _train(run: _Fit, objective: Objective, optimiser: torch.optim.Optimizer, at: _Progress, note: Note) -> None:
    sums, began = torch.zeros((), device=run.runner.device), time.monotonic()
    if at.step == 0:
        _evaluate(run, objective, at)
    for step, rows in _batches(run.data, run.recipe, at.step):
        for group in optimiser.param_groups:
            group["lr"] = run.recipe.learning_rate(step)
        sums += _step(run, objective, optimiser, step, rows)
        at.step = step + 1
        ends = at.step == run.recipe.steps
        if at.step % LOG_EVERY == 0 or ends or at.step % run.recipe.every == 0:
            loss = float(sums) / (at.step % LOG_EVERY or LOG_EVERY)  # waits for the device
            _check_loss(run, loss, at.step)
            seconds = round(time.monotonic() - began, 2)
            _log(run, {"step": at.step, "loss": round(loss, 5), "seconds": seconds})
            sums.zero_()
            note("training", at.step, run.recipe.steps)
        if at.step % run.recipe.every == 0 or ends:
            _evaluate(run, objective, at)
            at.stopped = at.stopped or ("steps" if ends else "")
            _save(run, optimiser, at)
            if at.stopped:
                return


def _batches(data: Dataset, recipe: Recipe, start: int) -> Iterator[tuple[int, list[int]]]:
    """(step, row numbers) from step `start` on."""
    per_epoch = max(1, len(data) // recipe.batch)
    order, epoch_held = None, -1
    for step in range(start, recipe.steps):
        epoch, place = divmod(step, per_epoch)
        if epoch != epoch_held:
            order, epoch_held = data.order(recipe.seed, epoch, recipe.batch), epoch
        assert order is not None
        yield step, order[place].tolist()


def _step(run: _Fit, objective: Objective, optimiser: torch.optim.Optimizer, step: int, rows: list[int]) -> Tensor:
    """One optimiser step; the mean loss of its batch.

    Masks are drawn for the whole batch, dropout by part, whoever computes it: part k of n takes every n-th row from k.
    """
    r, runner = run.recipe, run.runner
    batch = collate(run.data, rows)
    masks = mask_batch(batch.span, run.masking, torch.Generator().manual_seed(stream_key("train", r.seed, step)))
    objective.train()
    done = torch.zeros((), device=runner.device)
    parts = r.accumulate * runner.processes
    for k in range(runner.index, parts, runner.processes):
        index = torch.arange(k, len(rows), parts)
        torch.manual_seed(stream_key("dropout", r.seed, step, k))
        loss = objective(batch.rows(index).to(runner.device), masks.rows(index).to(runner.device)) / float(masks.total)
        loss.backward()
        done += loss.detach()
    runner.share(run.weights.values())
    nn.utils.clip_grad_norm_(run.weights.values(), r.clip)
    optimiser.step()
    optimiser.zero_grad()
    return runner.total(done)


def _check_loss(run: _Fit, loss: float, step: int) -> None:
    if math.isfinite(loss):
        return
    kept = f"the checkpoint of step {_held_step(run.out)} is whole" if _held_step(run.out) else "nothing was written"
    raise UserError(
        f"training {run.out.name}: the loss is {loss} at step {step} with rate={run.recipe.rate:g}; {kept}; lower the "
        "rate (--set rate=...) and use another --out"
    )


# ---------------------------------------------------------------- measuring on the way


def held_loss(network: nn.Module, data: Dataset, masking: Masking, *, seed: int = 0, draws: int = 2) -> float:
    """Mean loss on rows kept out of training, under masks that depend on (seed, draw) and nothing else."""
    device = next(network.parameters()).device
    return _mean_loss(Objective(network, data.mask).eval(), device, data, masking, seed, draws)


@torch.no_grad()
def _mean_loss(
    objective: Objective, device: torch.device, data: Dataset, masking: Masking, seed: int = 0, draws: int = 2
) -> float:
    total, count = torch.zeros((), device=device), 0.0
    for draw in range(draws):
        for start in range(0, len(data), 32):
            batch = collate(data, range(start, min(start + 32, len(data))))
            g = torch.Generator().manual_seed(stream_key("held", seed, draw, start))
            masks = mask_batch(batch.span, masking, g)
            everyone = torch.arange(len(batch.ids))
            total += objective(batch.rows(everyone).to(device), masks.rows(everyone).to(device))
            count += float(masks.total)
    return float(total) / count


def _evaluate(run: _Fit, objective: Objective, at: _Progress) -> None:
    """Measure on held-out rows, keep the best adapter, decide whether to stop. All processes decide the same."""
    objective.eval()
    line: dict[str, Any] = {"step": at.step}
    if run.held is not None:
        loss = _agreed(run.runner, _mean_loss(objective, run.runner.device, run.held, run.masking))
        _check_loss(run, loss, at.step)
        line["held_loss"] = round(loss, 5)
        if at.step == 0:
            pass  # the base's own loss, for comparison: an adapter that does nothing is no result
        elif at.best is None or loss < at.best:
            at.best, at.best_step, at.bad = loss, at.step, 0
            at.kept = {k: p.detach().clone() for k, p in run.weights.items()}
        else:
            at.bad += 1
            if run.recipe.patience and at.bad >= run.recipe.patience:
                at.stopped = "early"
    if run.probe is not None:
        found = run.probe(run.executor, at.step)
        line |= {k: round(float(v), 4) for k, v in found.items()}
        if _agreed(run.runner, found.get("alarm", 0)) > 0 and at.step:
            at.stopped = "collapse"
    if len(line) > 1:
        _log(run, line)


def _agreed(runner: Alone, value: float) -> float:
    """The mean over the processes, the same in each."""
    return float(runner.total(torch.tensor(float(value), dtype=torch.float64, device=runner.device))) / runner.processes


def _log(run: _Fit, line: Mapping[str, Any]) -> None:
    if run.runner.main:
        try:
            run.out.mkdir(parents=True, exist_ok=True)
            with (run.out / "log.jsonl").open("a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
        except OSError as e:
            raise UserError(f"{run.out}: cannot write the log ({e.strerror}); the last checkpoint is whole") from None
        if run.track is not None:
            run.track(line)


# ---------------------------------------------------------------- files


def _save(run: _Fit, optimiser: torch.optim.Optimizer, at: _Progress) -> None:
    """Weights, optimiser state and progress as one file, replaced in one move."""
    if not run.runner.main:
        return
    tensors = {f"w/{k}": p.detach() for k, p in run.weights.items()}
    tensors |= {f"best/{k}": t for k, t in at.kept.items()}
    for k, p in run.weights.items():
        tensors |= {f"o/{name}/{k}": v for name, v in optimiser.state[p].items()}
    state = {"step": at.step, "best": at.best, "best_step": at.best_step, "bad": at.bad, "stopped": at.stopped}
    metadata = {"identity": json.dumps(run.identity), "state": json.dumps(state)}
    content = save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata=metadata)
    replace_file(run.out / "checkpoint.safetensors", content)


def _held_step(out: Path) -> int:
    try:
        with open_safetensors(out / "checkpoint.safetensors") as f:
            return int(parse_json(f.metadata()["state"])["step"])
    except (OSError, KeyError, ValueError, TypeError, OverflowError):
        return 0


def _restore(run: _Fit, optimiser: torch.optim.Optimizer) -> _Progress:
    """Take up a checkpoint if there is one. Log lines after it are dropped. UserError for one of other training."""
    path, log = run.out / "checkpoint.safetensors", run.out / "log.jsonl"
    state: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    if path.exists():
        try:
            with open_safetensors(path) as f:
                metadata, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
            held, state = parse_json(metadata["identity"]), parse_json(metadata["state"])
        except (OSError, KeyError, ValueError, TypeError) as e:
            raise UserError(f"{path}: not a readable checkpoint ({e}); delete it to begin again") from None
        _check_same(path, held, json.loads(json.dumps(run.identity)))
    if log.exists() and run.runner.main:
        whole = [line for line in read_text(log, "log").splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in whole if tensors and parse_json(line)["step"] <= state["step"]]
        replace_file(log, "".join(kept).encode())
    if not tensors:
        return _Progress()
    for k, p in run.weights.items():
        p.data.copy_(tensors[f"w/{k}"])
        found = {n: tensors[f"o/{n}/{k}"] for n in ("step", "exp_avg", "exp_avg_sq")}
        optimiser.state[p] = {n: v if n == "step" else v.to(p.device) for n, v in found.items()}
    best = {k.removeprefix("best/"): v.to(run.runner.device) for k, v in tensors.items() if k.startswith("best/")}
    return _Progress(**state, kept=best)


def _check_same(path: Path, held: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    for part, was in held.items():
        now = mine[part]
        if was != now:
            if isinstance(was, dict):
                part = next(k for k in now if was.get(k) != now[k])
                was, now = was.get(part), now[part]
            raise UserError(f"{path}: training was begun with {part}={was}, not {now}; choose another --out")


def _finish(run: _Fit, at: _Progress) -> Fitted:
    """Write the adapter: the best on held-out rows, or the last where there are none."""
    tensors = at.kept or {k: p.detach() for k, p in run.weights.items()}
    pairs = {n: (tensors[f"{n}/a"], tensors[f"{n}/b"]) for n in run.layers}
    where = coverage(run.base.checkpoint.network, list(run.layers))
    config = {
        "r": run.recipe.rank, "lora_alpha": run.recipe.alpha, "lora_dropout": run.recipe.dropout,
        "target_modules": where["pattern"], "base_model_name_or_path": run.base.name,
    }  # fmt: skip
    card = {
        **run.card,
        "base": {"name": run.base.name, "family": run.base.checkpoint.family.name, "fingerprint": run.base.fingerprint},
        "recipe": run.recipe.card(),
        "data": {
            "hash": run.data.fingerprint, "rows": len(run.data), "tiers": run.data.tiers, "left_out": run.data.left_out,
        },
        "coverage": where,
        "canvas": {"gen_length": run.data.response, "block_length": run.data.block, "end": run.data.end},
        "training": {"step": at.best_step if at.kept else at.step, "steps_run": at.step, "stopped": at.stopped,
                     "held_loss": at.best},
    }  # fmt: skip
    if run.runner.main:
        save_adapter(run.out, pairs, config, card)
    run.runner.wait()  # what the others read is written
    log = run.out / "log.jsonl"
    lines = [parse_json(line) for line in read_text(log, "log").splitlines()] if log.exists() else []
    return Fitted(run.out, at.best_step if at.kept else at.step, at.stopped, at.best, lines)
