"""A folder as a planner: any Hugging Face causal language model, from safetensors, without remote code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triaxis.errors import UserError
from triaxis.limits import open_safetensors
from triaxis.models.folder import find_folder, fingerprint, open_tokenizer, read_config, weight_files
from triaxis.models.writer import Writer, Writing, Written
from triaxis.streams import uniform


@dataclass(frozen=True)
class CausalPlanner(Writer):
    """A Hugging Face causal language model. Made by `load_planner`.

    Decoding is what `Writing` says and nothing else: penalties and cut-offs of generation_config.json are not applied.
    """

    ends: frozenset[int]  # ids that end a plan
    model: Any
    tokenizer: Any
    batch: int = 64  # rows in one forward pass

    def _complete(
        self, prompts: Sequence[str], keys: Sequence[int], writing: Writing
    ) -> Iterator[tuple[list[int], list[Written]]]:
        rows = [self._encode(p, writing) for p in prompts]
        self._check(max(map(len, rows)), writing)
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            yield places, self._batch([rows[i] for i in places], [keys[i] for i in places], writing)

    def _encode(self, prompt: str, writing: Writing) -> list[int]:
        if not self.tokenizer.chat_template:
            ids: list[int] = self.tokenizer(writing.plain(prompt))["input_ids"]
            return ids
        chat = [{"role": "system", "content": writing.system}] if writing.system else []
        chat.append({"role": "user", "content": prompt})
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError as e:
            raise UserError(
                f"planner {self.name!r}: its chat template refuses the chat ({e}); leave system out"
            ) from None
        if prompt.strip() not in text:
            raise UserError(f"planner {self.name!r}: its chat template drops the question; leave system out")
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _check(self, width: int, writing: Writing) -> None:
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context and width + writing.budget > context:
            over = (
                f"a question has {width} tokens; with {writing.budget} for the plan it exceeds the context of {context}"
            )
            raise UserError(f"planner {self.name!r}: {over}; use shorter items or another planner")

    def _batch(self, rows: Sequence[Sequence[int]], keys: Sequence[int], writing: Writing) -> list[Written]:
        import torch

        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        stops = _Stops(writing, self._text, width, len(rows))
        made = self.model.generate(
            input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device),
            max_new_tokens=writing.budget, do_sample=False, eos_token_id=sorted(self.ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=[_Draws(keys, writing.temperature, width)] if writing.temperature else [],
            stopping_criteria=[stops] if writing.stop else [],
        )  # fmt: skip
        new = made[:, width:].tolist()
        return [self._read(len(row), i, at, writing) for row, i, at in zip(rows, new, stops.at, strict=True)]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _read(self, prompt: int, ids: list[int], stopped: int | None, writing: Writing) -> Written:
        """The plan in the new ids of one row, which go on with padding once it has ended."""
        end = next((i for i, token in enumerate(ids[:stopped]) if token in self.ends), None)
        tokens = end if end is not None else len(ids) if stopped is None else stopped
        forwards = tokens + (end is not None)  # the end mark took a pass too
        text = writing.cut(self._text(ids[:tokens])).strip()
        truncated = end is None and stopped is None
        return Written(text, tokens, truncated, forwards, prompt + forwards - 1)


class _Draws:
    """Chooses each row's next token by inverting its distribution at that row's own draw (a logits processor)."""

    def __init__(self, keys: Sequence[int], temperature: float, width: int) -> None:
        self.keys, self.temperature, self.width = keys, temperature, width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """scores (B, V); minus infinity everywhere but at the token drawn."""
        import torch

        step = input_ids.shape[1] - self.width
        total_BV = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
        draws_B = torch.tensor([uniform(k, step) for k in self.keys], dtype=torch.float64, device=scores.device)
        # the last sum is 1 only up to rounding; right=True never falls on a token of probability 0
        chosen = torch.searchsorted(total_BV, draws_B[:, None] * total_BV[:, -1:], right=True)
        return torch.full_like(scores, -math.inf).scatter(1, chosen.clamp(max=scores.shape[1] - 1), 0.0)


class _Stops:
    """Ends a row once its text holds a stop string, and keeps after how many tokens (a stopping criterion)."""

    def __init__(self, writing: Writing, text: Callable[[Sequence[int]], str], width: int, rows: int) -> None:
        self.stop, self.text, self.width = writing.stop, text, width
        self.at: list[int | None] = [None] * rows

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        for i, ids in enumerate(input_ids[:, self.width :].tolist()):
            if self.at[i] is None and any(s in self.text(ids) for s in self.stop):
                self.at[i] = len(ids)
        return torch.tensor([a is not None for a in self.at], device=input_ids.device)


def open_folder(spec: str, writing: Writing, device: str | None = None) -> CausalPlanner:
    """The planner in a folder, or a shipped one, always in fp32. UserError where it cannot be used."""
    folder: Path = find_folder(spec, "planner")
    fields = read_config(folder)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if not isinstance(fields.get(name, 1), int):  # transformers' own message names it from version 5 on
            raise UserError(f"{folder / 'config.json'}: {name}={str(fields[name])[:40]!r} is no whole number")
    shapes = _shapes(weight_files(folder))  # refuses pickles and broken files before transformers sees the folder
    if (folder / "tokenizer.json").is_file():
        open_tokenizer(folder)
    from huggingface_hub.errors import StrictDataclassError

    # what transformers and its parts raise on a folder they cannot use; there is no common base class
    foreign = (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, ImportError,
        StrictDataclassError,
    )  # fmt: skip
    try:
        with _quiet():
            model, tokenizer = _open(folder, shapes)
    except foreign as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        raise UserError(f"planner {spec!r} cannot be used: {reason[:300]}") from None
    parameters = sum(p.numel() for p in model.parameters())
    ends = _plain_decoding(model)
    where = "cpu"
    if device is not None:
        from triaxis.models.load import find_device

        where = find_device(device).type
        model.to(device)
    turns = "chat" if tokenizer.chat_template else "plain"
    batch = CausalPlanner.batch * (1 if where == "cpu" else 4)
    return CausalPlanner(
        spec, parameters, f"{fingerprint(folder)}/{turns}/fp32-{where}", writing, ends, model, tokenizer, batch
    )


def _plain_decoding(model: Any) -> frozenset[int]:
    """The ids that end a text; everything else that generation_config.json asks for is taken out of the model."""
    from transformers import GenerationConfig

    found = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return frozenset([] if found is None else [found] if isinstance(found, int) else found)


def _shapes(paths: Sequence[Path]) -> list[tuple[int, ...]]:
    """The shapes of all tensors, from the files' headers."""
    found = []
    for path in paths:
        try:
            with open_safetensors(path) as f:
                found += [tuple(f.get_slice(name).get_shape()) for name in f.keys()]  # noqa: SIM118 - not a dict
        except (ValueError, OSError) as e:
            reason = " ".join(str(e).split())
            raise UserError(f"{path}: not a readable safetensors file ({reason}); download it again") from None
    return found


def _open(folder: Path, shapes: Sequence[tuple[int, ...]]) -> tuple[Any, Any]:
    """The model and tokenizer. ValueError where transformers would load something else than the folder describes.

    transformers fills what a checkpoint lacks with random numbers, of whatever size the config asks for; so the
    config is held against the files first, on the meta device, where nothing is allocated.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    causal: Any = AutoModelForCausalLM
    options = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(str(folder), **options)
    if not 0 < config.num_hidden_layers <= len(shapes):
        raise ValueError(f"num_hidden_layers={config.num_hidden_layers}, but the files hold {len(shapes)} tensors")
    with torch.device("meta"):
        skeleton = causal.from_config(config)
    kind, named = type(skeleton).__name__, config.architectures or []
    if named and kind not in named:
        raise ValueError(f"it is a {named[0]}, no causal language model")
    wanted, held = sum(p.numel() for p in skeleton.parameters()), sum(math.prod(s) for s in shapes)
    if wanted > held:
        raise ValueError(f"config.json describes {wanted:,} parameters, the files hold {held:,}")
    model, info = causal.from_pretrained(
        str(folder), use_safetensors=True, dtype=torch.float32, output_loading_info=True,
        ignore_mismatched_sizes=True, **options,
    )  # fmt: skip
    for what in ("missing", "unexpected", "mismatched"):
        if names := sorted(str(key) for key in info[f"{what}_keys"]):
            raise ValueError(f"{len(names)} tensors are {what}, such as {names[0]}")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left", **options)
    if not tokenizer.chat_template and not (folder / "tokenizer_config.json").is_file():
        # a base model says that it has no turns by a tokenizer_config.json without them; here a file may be missing
        raise ValueError("no tokenizer_config.json and no chat template; give an instruction-tuned model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ValueError("its tokenizer has neither a padding nor an end token")
    return model.eval(), tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and reports of transformers, whose errors become our one line; restored afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
