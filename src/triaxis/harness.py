"""Our executors as a model of lm-evaluation-harness: `--model triaxis` (extra `lm-eval`).

    python -m triaxis.harness run --model triaxis --model_args executor=PATH,steps=128 --tasks gsm8k

or `import triaxis.harness` before `lm_eval.simple_evaluate(model="triaxis", model_args="executor=tiny")`.
Arguments: executor, device, dtype, adapters, seed, mc, greedy, and every field of `Decode` (the family's default
protocol otherwise).

`generate_until` puts the context into the family's chat prompt and decodes one canvas (the harness's max_gen_toks does
not change its length; temperature counts where the harness samples). `loglikelihood` is **not** a likelihood: a masked
diffusion model has none in closed form. It is a Monte Carlo estimate of its lower bound (LLaDA, arXiv:2502.09992, eq. 6
in the form of its get_log_likelihood.py), on the raw context, without a chat prompt: compare it among continuations and
among masked diffusion models, not with an autoregressive model's. For one token it is exact.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from triaxis.errors import UserError, override
from triaxis.sampling.executor import Completion, Executor, load_executor
from triaxis.sampling.schedule import Decode
from triaxis.streams import stream_key

try:
    LM: Any = import_module("lm_eval.api.model").LM
    register_model: Any = import_module("lm_eval.api.registry").register_model
except ImportError as e:
    raise UserError(f"lm-evaluation-harness cannot be imported ({e}); run pip install 'triaxis[lm-eval]'") from None


def bound(executor: Executor, context: Sequence[int], continuation: Sequence[int], *, mc: int, seed: int = 0) -> float:
    """Monte Carlo estimate of a lower bound of log p(continuation | context), in nats.

    Each of `mc` draws hides k of the l tokens, k uniform on 1..l (stratified), and adds l / k times the log
    probabilities of the hidden ones given the rest. The expectation is at most the log likelihood; the estimate itself
    may lie on either side. Draws depend on the tokens and the seed only. Source: arXiv:2502.09992, eq. 6.
    UserError for networks that attend in blocks: they were not trained to fill masks seen from both sides.
    """
    network, config = executor.checkpoint.network, executor.checkpoint.config
    if network.shape.attend_block:
        raise UserError(f"executor {executor.name!r} attends in blocks; this bound is for bidirectional networks only")
    length, whole = len(continuation), [*context, *continuation]
    if not length:
        return 0.0
    if len(whole) > config.max_sequence_length:
        raise UserError(
            f"{len(whole)} tokens exceed the context of {config.max_sequence_length} of executor {executor.name!r}; "
            "use fewer shots"
        )
    device = next(network.parameters()).device
    hidden_ML, counts_M = _draws(length, mc, stream_key("bound", seed, *whole))
    ids = torch.tensor(whole, device=device)
    rows = max(1, (65536 if device.type == "cuda" else 4096) // len(whole))
    total = 0.0
    for part, counts in zip(torch.split(hidden_ML, rows), torch.split(counts_M, rows), strict=True):
        total += float((_hidden_log_probs(network, ids, part.to(device), config.mask_token_id) * length / counts).sum())
    return total / mc


def _draws(length: int, mc: int, key: int) -> tuple[Tensor, Tensor]:
    """Which tokens each draw hides, (mc, length), and how many, (mc,) float64."""
    generator = torch.Generator().manual_seed(key)
    start = int(torch.randint(length, (1,), generator=generator))
    counts = 1 + (start + torch.arange(mc) * length // mc) % length
    order = torch.rand(mc, length, generator=generator).argsort(1).argsort(1)
    return order < counts[:, None], counts.double()


@torch.inference_mode()
def _hidden_log_probs(network: Any, ids_L: Tensor, hidden_ML: Tensor, mask_id: int) -> Tensor:
    """Sum of the log probabilities of each draw's hidden tokens, (M,) float64, on the CPU."""
    m, length = hidden_ML.shape
    target = ids_L[-length:].expand(m, -1)
    canvas = ids_L.repeat(m, 1)
    canvas[:, -length:] = torch.where(hidden_ML, mask_id, target)
    places = torch.arange(len(ids_L) - length, len(ids_L), device=ids_L.device).expand(m, -1)
    logits = network(canvas, None, places).float()
    found = F.log_softmax(logits, -1).gather(-1, target[..., None])[..., 0]
    return (found * hidden_ML).sum(1).double().cpu()


@register_model("triaxis")
class TriaxisLM(LM):  # type: ignore[misc]
    """A diffusion executor under lm-evaluation-harness.

    mc: draws of the likelihood bound a continuation. greedy: also decode each continuation, a pass a token, to say
    whether it is the greedy one (lambada needs it); else False is reported.
    """

    def __init__(
        self, executor: str = "tiny", device: str | None = None, dtype: str | None = None, adapters: str = "",
        seed: int = 0, mc: int = 128, greedy: bool = False, batch_size: object = None,
        max_batch_size: object = None, **decode: object,
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(mc, int) or mc < 1:
            raise UserError(f"mc={mc!r} must be a whole number of at least 1")
        if device and device.startswith("cuda") and not torch.cuda.is_available():  # the harness's default, unasked
            warnings.warn(f"there is no GPU for device {device!r}: running on the CPU", RuntimeWarning, stacklevel=2)
            device = None
        self.executor = load_executor(executor, dtype=dtype, device=device, adapters=adapters)
        self.decode: Decode = override(self.executor.default_decode(), decode)
        self.seed, self.mc, self.greedy = seed, mc, bool(greedy)

    @property
    def tokenizer_name(self) -> str:
        """Part of the harness's cache key."""
        return f"{self.executor.name}-{self.executor.fingerprint}"

    def apply_chat_template(self, chat_history: object, add_generation_prompt: bool = True) -> str:
        raise UserError("generate_until uses the family's chat prompt already; leave out --apply_chat_template")

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """One canvas a request, cut at the first of its stop strings."""
        asked = [(r.args[0], dict(r.args[1])) for r in requests]
        groups: dict[float, list[int]] = defaultdict(list)
        for i, (_, options) in enumerate(asked):
            heat = float(options.get("temperature") or 0.0) if options.get("do_sample") else self.decode.temperature
            groups[heat].append(i)
        texts = [""] * len(asked)
        for heat, members in groups.items():
            prompts = [self.executor.prompt_ids(asked[i][0]) for i in members]
            keys = [stream_key("lm-eval", self.seed, i) for i in members]

            def done(places: list[int], found: list[Completion], members: list[int] = members) -> None:
                for place, completion in zip(places, found, strict=True):
                    texts[members[place]] = completion.text

            self.executor.complete(prompts, keys, override(self.decode, {"temperature": heat}), done)
        return [_cut(text, options.get("until")) for text, (_, options) in zip(texts, asked, strict=True)]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(bound in nats, whether the continuation is the greedy one) of each (context, continuation)."""
        pairs = [self._pair(*r.args) for r in requests]
        greedy = self._greedy(pairs) if self.greedy else [False] * len(pairs)
        found = [bound(self.executor, c, t, mc=self.mc, seed=self.seed) for c, t in pairs]
        return list(zip(found, greedy, strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The bound of whole texts, without a context."""
        texts = [self.executor.encode(r.args[0]) for r in requests]
        return [bound(self.executor, [], ids, mc=self.mc, seed=self.seed) for ids in texts]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both; spaces at the context's end belong to the continuation, as the harness has it."""
        bare = context.rstrip()
        first = self.executor.encode(bare)
        whole = self.executor.encode(context + continuation)
        if whole[: len(first)] != first:  # a token reaches over the border
            return first, self.executor.encode(context[len(bare) :] + continuation)
        return first, whole[len(first) :]

    def _greedy(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        """Whether one token a pass, the surest first, gives the continuation."""
        groups: dict[int, list[int]] = defaultdict(list)
        for i, (_, target) in enumerate(pairs):
            groups[len(target)].append(i)
        found = [False] * len(pairs)
        for length, members in groups.items():
            d = Decode(gen_length=length, block_length=length, steps=length)
            made = self.executor.generate_ids([pairs[i][0] or [self.executor.end_ids[0]] for i in members], d)
            for i, ids in zip(members, made, strict=True):
                found[i] = ids == pairs[i][1]
        return found


def _cut(text: str, until: object) -> str:
    stops = [until] if isinstance(until, str) else list(until or [])  # type: ignore[call-overload]
    places = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def main() -> None:
    """lm-evaluation-harness's own command line, with `--model triaxis` known to it."""
    try:
        import_module("lm_eval.__main__").cli_evaluate()
    except UserError as e:
        sys.stderr.write(f"triaxis: {e}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
