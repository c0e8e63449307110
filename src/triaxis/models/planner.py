"""AR planners: a causal language model that writes a plan for a question.

Runs any Llama-style Hugging Face checkpoint folder (safetensors, no remote code) through transformers;
batched, left-padded, greedy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from triaxis.errors import UserError
from triaxis.models.folder import find_folder, fingerprint, open_tokenizer, read_config, weight_files


class Written(NamedTuple):
    """A plan as written: its text, its length in the planner's tokens, and whether the budget cut it."""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Planner:
    """A loaded planner. `identity` names everything that can change its plans."""

    name: str
    parameters: int
    identity: str
    budget: int  # new tokens at most
    ends: frozenset[int]  # ids that end a plan
    model: Any
    tokenizer: Any

    def write(self, questions: Sequence[str], batch: int = 64) -> list[Written]:
        """One greedy plan a question, in order. A row's plan does not depend on its batch mates.

        UserError where a question and the budget exceed the planner's context.
        """
        order = sorted(range(len(questions)), key=lambda i: (len(questions[i]), i))
        out: list[Written | None] = [None] * len(questions)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            for i, written in zip(rows, self._write([questions[i] for i in rows]), strict=True):
                out[i] = written
        return [w for w in out if w is not None]

    def _write(self, questions: Sequence[str]) -> list[Written]:
        chats = [[{"role": "user", "content": q}] for q in questions]
        texts = [self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        encoded = self.tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
        )
        width = encoded["input_ids"].shape[1]
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context and width + self.budget > context:
            over = f"a question has {width} tokens; with {self.budget} for the plan it exceeds the context of {context}"
            raise UserError(f"planner {self.name!r}: {over}; use shorter items or another planner")
        made = self.model.generate(**encoded, max_new_tokens=self.budget, do_sample=False)
        return [self._read(ids) for ids in made[:, width:].tolist()]

    def _read(self, ids: list[int]) -> Written:
        stop = next((i for i, token in enumerate(ids) if token in self.ends), None)
        text = self.tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
        return Written(text, len(ids) if stop is None else stop, stop is None)


def load_planner(spec: str, *, budget: int = 64) -> Planner:
    """Load a shipped planner or a folder. UserError where it is not a readable, complete causal language model."""
    folder: Path = find_folder(spec, "planner")
    read_config(folder)
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
    found = model.generation_config.eos_token_id
    ends = frozenset([] if found is None else [found] if isinstance(found, int) else found)
    return Planner(spec, parameters, f"{fingerprint(folder)}/greedy/{budget}", budget, ends, model, tokenizer)


def _shapes(paths: Sequence[Path]) -> list[tuple[int, ...]]:
    """The shapes of all tensors, from the files' headers."""
    from safetensors import SafetensorError, safe_open

    found = []
    for path in paths:
        try:
            with safe_open(path, "pt") as f:
                found += [tuple(f.get_slice(name).get_shape()) for name in f.keys()]  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as e:
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
    if not tokenizer.chat_template:
        raise ValueError("its tokenizer has no chat template; give an instruction-tuned model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
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
