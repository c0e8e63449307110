"""AR planners: a language model that writes a plan for a question, or completes any prompt.

A planner is named by a spec: a shipped name or a folder (any Hugging Face causal language model: safetensors, no
remote code), "openai:MODEL@http://host:port/v1" (`endpoint.py`), "gguf:FILE" (`gguf.py`). "self" and "file:" stand
above this module, in plans/. What is common to all kinds is here: settings, identity, random streams, shared work.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from triaxis.errors import UserError, override, suggest
from triaxis.limits import open_safetensors
from triaxis.models.folder import find_folder, fingerprint, home, open_tokenizer, read_config, weight_files

if TYPE_CHECKING:
    from typing import Self

# asks an instruction-tuned model for a plan; the tiny planners know nothing but plans and are asked the bare question
PLAN_PROMPT = (
    "Write a short plan for solving this problem: at most three steps, each with its calculation. "
    "Do not solve it and do not write the final answer.\n\nProblem: {question}"
)


class Written(NamedTuple):
    """A plan as written, and what it cost.

    tokens: its length in the planner's tokens, as the planner counts them. truncated: the budget cut it.
    forwards: passes of the planner's network (one a token). forward_tokens: tokens those passes read, prompt included.
    requests: requests sent to an endpoint for it, repeated ones included. Zero where a source does not know them.
    Texts that were the same work, done once, each count it whole.
    """

    text: str
    tokens: int
    truncated: bool
    forwards: int = 0
    forward_tokens: int = 0
    requests: int = 0


Done = Callable[[list[int], list[Written]], None]  # (places in the list of questions, their plans), after each batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a planner writes. Part of its identity.

    budget: new tokens at most. temperature: 0 is greedy. seed: with the question it names a random stream; unused at
    temperature 0. stop: strings that end a plan and are not part of it. system: a system message, empty for none.
    prompt: the user message, with {question} in it. version: changes the identity when nothing here shows a change.
    """

    budget: int = 64
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    system: str = ""
    prompt: str = "{question}"
    version: str = "1"

    def __post_init__(self) -> None:
        whole = {"budget": (self.budget, 1), "seed": (self.seed, 0)}
        for name, (value, least) in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{name}={value!r} of a planner is not sensible; give a whole number from {least} up")
        heat = self.temperature
        if isinstance(heat, bool) or not isinstance(heat, int | float) or not (0 <= heat < math.inf):
            raise UserError(f"temperature={heat!r} of a planner is not sensible; give a number from 0 up")
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise UserError(f"stop={self.stop!r} of a planner is not sensible; give a tuple of non-empty strings")
        for name, text in {"system": self.system, "prompt": self.prompt, "version": self.version}.items():
            if not isinstance(text, str):
                raise UserError(f"{name}={text!r} of a planner is not text")
        if self.prompt.count("{question}") != 1:
            raise UserError(f"prompt={self.prompt!r} of a planner must hold {{question}} once, where the problem goes")

    def user(self, question: str) -> str:
        """The user message for one question."""
        return self.prompt.replace("{question}", question)  # not format: questions hold braces

    def plain(self, prompt: str) -> str:
        """System message and prompt as one text, for models that know no turns."""
        return f"{self.system}\n\n{prompt}" if self.system else prompt

    @property
    def identity(self) -> str:
        """Short, readable, and different for every setting that can change a plan."""
        told = replace(self, temperature=float(self.temperature), seed=self.seed if self.temperature else 0)
        digest = hashlib.sha256(json.dumps(asdict(told), sort_keys=True).encode()).hexdigest()[:8]
        heat = f"T{self.temperature:g}" if self.temperature else "greedy"
        return f"{heat}/{self.budget}/v{self.version}/{digest}"

    def cut(self, text: str) -> str:
        """Text up to the first stop string."""
        return text[: min((p for p in map(text.find, self.stop) if p >= 0), default=len(text))]


class Planner(Protocol):
    """What a study needs of a planner."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> int | None:
        """Number of parameters; None where it is not known, and then the planner is left out of effects by size."""
        ...

    @property
    def identity(self) -> str:
        """Names everything that can change its plans."""
        ...

    def write(self, questions: Sequence[str]) -> list[Written]:
        """One plan a question, in order."""
        ...


def stream_key(*parts: object) -> int:
    """A 63-bit key from what names a random stream, such as (seed, question)."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def uniform(key: int, step: int) -> float:
    """The draw in [0, 1) of one stream at one step. A hash, so that it depends on nothing else, torch included."""
    digest = hashlib.sha256(f"{key}/{step}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53


@dataclass(frozen=True)
class Writer(ABC):
    """A planner that runs a model, of whatever kind, and can complete any prompt with it.

    model_id names everything about the model that can change its text; the settings are added to it.
    """

    name: str
    parameters: int | None
    model_id: str
    writing: Writing

    @property
    def identity(self) -> str:
        return f"{self.model_id}/{self.writing.identity}"

    @property
    def budget(self) -> int:
        return self.writing.budget

    def using(self, **changes: object) -> Self:
        """The same model under changed settings, such as budget=100."""
        return replace(self, writing=override(self.writing, changes))

    def write(self, questions: Sequence[str], done: Done | None = None) -> list[Written]:
        """One plan a question, in order; `done(places, plans)` is called with each batch as it comes.

        A plan depends on its question and the settings, not on its batch or order. UserError where a question and
        the budget exceed the model's context, or an endpoint gives no usable answer; what `done` had is then safe.
        """
        keys = [stream_key(self.writing.seed, q) for q in questions]
        return self.complete([self.writing.user(q) for q in questions], keys, done=done)

    def complete(
        self, prompts: Sequence[str], keys: Sequence[int] | None = None, *, done: Done | None = None, **changes: object
    ) -> list[Written]:
        """Complete user messages as they are (`Writing.prompt` is not applied), in order.

        keys: one random stream a prompt (see `stream_key`); by default that of the seed and the prompt. Unused at
        temperature 0. changes: settings of this call, such as budget=256; `using(**changes).identity` names them.
        """
        writing = override(self.writing, changes)
        streams = [stream_key(writing.seed, p) for p in prompts] if keys is None else keys
        if len(streams) != len(prompts):
            raise UserError(f"{len(prompts)} prompts but {len(streams)} keys; give one key a prompt")
        shared: dict[tuple[str, int], list[int]] = {}  # identical work is done once
        for i, (prompt, key) in enumerate(zip(prompts, streams, strict=True)):
            shared.setdefault((prompt, key if writing.temperature else 0), []).append(i)
        found: dict[int, Written] = {}
        places = list(shared.values())
        for part, made in self._complete([p for p, _ in shared], [k for _, k in shared], writing) if shared else ():
            batch = {i: w for k, w in zip(part, made, strict=True) for i in places[k]}
            found |= batch
            if done is not None:
                done(list(batch), list(batch.values()))
        return [found[i] for i in range(len(prompts))]

    @abstractmethod
    def _complete(
        self, prompts: Sequence[str], keys: Sequence[int], writing: Writing
    ) -> Iterator[tuple[list[int], list[Written]]]:
        """(places, completions) of distinct prompts, batch by batch, in any order."""


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


class Kind(NamedTuple):
    """A kind of planner: how its spec is checked without loading anything, and how it is opened."""

    check: Callable[[str], object]
    open: Callable[[str, Writing], Writer]


def _endpoint() -> Kind:
    from triaxis.models.endpoint import open_endpoint, parse

    return Kind(parse, open_endpoint)


def _gguf() -> Kind:
    from triaxis.models.gguf import find_file, open_gguf

    return Kind(find_file, open_gguf)


KINDS: Mapping[str, Callable[[], Kind]] = {"openai": _endpoint, "gguf": _gguf}
ABOVE = ("self", "file")  # kinds that need more than a model; plans/ opens them


def check_planner(spec: str) -> str:
    """The kind of a spec: a prefix, "self", or "" for a shipped name or a folder. Loads nothing, asks no server.

    UserError for an unknown prefix or name, or where what follows the prefix cannot be; a bank is not looked for.
    """
    prefix, colon, _ = spec.partition(":")
    if spec == "self":
        return spec
    if not colon or os.path.isdir(home(spec)):  # a folder may have a colon in its name
        find_folder(spec, "planner")
        return ""
    if prefix not in (*KINDS, "file"):
        raise UserError(f"no kind of planner named {prefix!r}{suggest(prefix, (*KINDS, *ABOVE))}")
    if prefix in KINDS:
        KINDS[prefix]().check(spec)
    return prefix


def load_planner(spec: str, writing: Writing | None = None, *, device: str | None = None, **changes: object) -> Writer:
    """Open a planner by its spec (see the top of this file). UserError where it cannot be used.

    writing, changes: its settings, such as budget=100. device: where a folder's network runs, "cpu" (default) or
    "cuda"; always in fp32, because in bf16 a plan would change with its batch mates.
    """
    settings = override(writing or Writing(), changes)
    kind = check_planner(spec)
    if kind in ABOVE:
        raise UserError(f"planner {spec!r} is known to studies and plan banks only; load a model here")
    return KINDS[kind]().open(spec, settings) if kind else _load_folder(spec, settings, device)


def _load_folder(spec: str, writing: Writing, device: str | None) -> CausalPlanner:
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
