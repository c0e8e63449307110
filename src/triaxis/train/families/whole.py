"""Training of all weights of a network in mixed precision, within a budget of minutes; resumable.

The network computes in its own precision (bf16 on a GPU) while the optimiser holds float32 masters, so that small steps
are not rounded away. The rate follows whichever runs out first, the steps or the minutes: a run cut short by its budget
still ends at rate zero. Knows nothing of what is learnt.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from triaxis.errors import UserError
from triaxis.limits import open_safetensors, parse_json, read_text

LOG_EVERY = 20
Step = tuple[int, Callable[[], Tensor], int]  # its number, what computes its loss, the tokens it reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a network is trained. rate rises over `warmup` steps and falls as a cosine to zero.

    minutes: a budget of computing time, over all invocations; 0 is none. every: steps between checkpoints.
    UserError where no such training is possible.
    """

    steps: int
    batch: int = 256
    rate: float = 6e-4
    warmup: int = 100
    decay: float = 0.01
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    seed: int = 0
    every: int = 2000
    minutes: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("seed", 0), ("every", 1), ("minutes", 0)):
            if getattr(self, name) < least:
                raise UserError(f"training {name}={getattr(self, name)} is too small; use {least} or more")
        if not 0 < self.rate < 1:
            raise UserError(f"training rate={self.rate} must lie between 0 and 1")

    def progress(self, step: int, seconds: float) -> float:
        """The share that is done, 0 to 1: of the steps or of the minutes, whichever is further."""
        timed = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, timed))

    def learning_rate(self, step: int, seconds: float) -> float:
        """The rate of step `step`, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * self.progress(step, seconds)))


class Trained(NamedTuple):
    """What a run did. tokens: read in all, padding included. stopped: "steps" or "minutes"."""

    step: int
    seconds: float
    tokens: int
    stopped: str
    loss: float


class Masters:
    """Float32 copies of the weights, which the optimiser works on; the weights themselves where they are float32."""

    def __init__(self, network: nn.Module, course: Course) -> None:
        self.weights = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.own = {n: p if p.dtype == torch.float32 else p.detach().float() for n, p in self.weights.items()}
        self.rounded = [n for n, p in self.weights.items() if self.own[n] is not p]
        for n in self.rounded:
            self.own[n].grad = torch.zeros_like(self.own[n])
        fused = next(iter(self.own.values())).is_cuda
        self.optimiser = torch.optim.AdamW(
            self.own.values(), lr=course.rate, betas=course.betas, weight_decay=course.decay, fused=fused
        )

    def step(self, rate: float, clip: float) -> None:
        """One step with the gradients of the weights, which are then forgotten."""
        if self.rounded:
            grads = [cast(Tensor, self.own[n].grad) for n in self.rounded]
            torch._foreach_copy_(grads, [cast(Tensor, self.weights[n].grad) for n in self.rounded])
            for n in self.rounded:
                self.weights[n].grad = None
        nn.utils.clip_grad_norm_(self.own.values(), clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if not self.rounded:
            self.optimiser.zero_grad()
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the weights."""
        if self.rounded:
            torch._foreach_copy_([self.weights[n] for n in self.rounded], [self.own[n] for n in self.rounded])

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name."""
        out = {f"w/{n}": p.detach() for n, p in self.own.items()}
        for n, p in self.own.items():
            out |= {f"o/{k}/{n}": v for k, v in self.optimiser.state[p].items()}
        return out

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a `state`."""
        for n, p in self.own.items():
            p.copy_(tensors[f"w/{n}"])
            found = {k: tensors[f"o/{k}/{n}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            self.optimiser.state[p] = {
                k: v.to(p.device) if k != "step" or self.optimiser.defaults["fused"] else v for k, v in found.items()
            }
        self.publish()


def fit(
    network: nn.Module, steps_from: Callable[[int], Iterator[Step]], course: Course, out: Path,
    identity: Mapping[str, Any], say: Callable[[str], None] = print,
) -> Trained:  # fmt: skip
    """Train `network` in place, or go on from the checkpoint in `out`; writes log.jsonl and checkpoint.safetensors.

    steps_from: the steps from a number on, without end. identity: what a checkpoint must share to be gone on with. A
    run that has ended is not gone on with. UserError for a checkpoint of other training or a loss that is no number.
    """
    masters = Masters(network, course)
    identity = json.loads(json.dumps({**identity, "course": {**asdict(course), "every": 0}}))
    at = _restore(masters, out, identity)
    if at.stopped:
        return at
    network.train()
    sums, since, began = torch.zeros((), device=next(network.parameters()).device), 0, time.monotonic() - at.seconds
    for step, loss_of, tokens in steps_from(at.step):
        rate = course.learning_rate(step, time.monotonic() - began)
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        masters.step(rate, course.clip)
        sums += loss.detach()
        since += 1
        done, spent = step + 1, at.tokens + tokens
        at = at._replace(step=done, tokens=spent)
        ends = done == course.steps
        if done % LOG_EVERY == 0 or ends or done <= 2:
            mean = float(sums) / since  # waits for the device, so the clock is right
            seconds = time.monotonic() - began
            ends = ends or course.progress(done, seconds) >= 1
            at = at._replace(seconds=seconds, loss=mean, stopped=_why(course, done) if ends else "")
            _log(
                out,
                {"step": done, "loss": round(mean, 4), "rate": rate, "tokens": spent, "seconds": round(seconds, 1)},
                say,
            )
            _check(mean, done, out, rate)
            sums.zero_()
            since = 0
        if ends or done % course.every == 0:
            at = at._replace(seconds=time.monotonic() - began)
            _save(masters, out, identity, at)
        if ends:
            break
    network.eval()
    return at


def _why(course: Course, step: int) -> str:
    return "steps" if step >= course.steps else "minutes"


def _check(loss: float, step: int, out: Path, rate: float) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"training {out.name}: the loss is {loss} at step {step}, rate {rate:g}; lower --rate, use another --out"
        )


def _log(out: Path, line: Mapping[str, Any], say: Callable[[str], None]) -> None:
    with (out / "log.jsonl").open("a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")
    say(f"{out.name} {json.dumps(line)}")


def _save(masters: Masters, out: Path, identity: Mapping[str, Any], at: Trained) -> None:
    scratch = out / "checkpoint.partial"
    tensors = {k: v.cpu().contiguous() for k, v in masters.state().items()}
    save_file(tensors, scratch, metadata={"identity": json.dumps(identity), "at": json.dumps(at._asdict())})
    scratch.replace(out / "checkpoint.safetensors")


def _restore(masters: Masters, out: Path, identity: Mapping[str, Any]) -> Trained:
    """Take up a checkpoint if there is one; log lines after it are dropped."""
    out.mkdir(parents=True, exist_ok=True)
    path, log, at = out / "checkpoint.safetensors", out / "log.jsonl", Trained(0, 0.0, 0, "", math.nan)
    if path.exists():
        try:
            with open_safetensors(path) as f:
                metadata, tensors = f.metadata() or {}, {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
            held, at = parse_json(metadata["identity"]), Trained(**parse_json(metadata["at"]))
        except (OSError, KeyError, ValueError, TypeError) as e:
            raise UserError(f"{path}: not a readable checkpoint ({e}); delete it to begin again") from None
        if held != identity:
            raise UserError(f"{path}: training was begun with {_difference(held, identity)}; choose another --out")
        masters.load(tensors)
    if log.exists():
        whole = [line for line in read_text(log, "log").splitlines(keepends=True) if line.endswith("\n")]
        log.write_text("".join(line for line in whole if parse_json(line)["step"] <= at.step))
    return at


def _difference(held: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """The first setting that differs."""
    for key in (*held, *mine):
        was, now = held.get(key), mine.get(key)
        if was != now:
            if isinstance(was, Mapping) and isinstance(now, Mapping):
                return _difference(was, now)
            return f"{key}={was}, not {now}"
    return "other settings"
