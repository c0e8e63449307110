"""The executor: a diffusion language model with its tokenizer and chat template, ready to complete prompts."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from triaxis.errors import UserError
from triaxis.models.adapters import Mounted, mount, read_adapter
from triaxis.models.folder import open_tokenizer
from triaxis.models.load import Checkpoint, load_checkpoint
from triaxis.models.schedules import Schedule, conductor
from triaxis.sampling.cache import fitting_tokens
from triaxis.sampling.denoise import denoise
from triaxis.sampling.graphs import release
from triaxis.sampling.rows import Denoised
from triaxis.sampling.schedule import Decode
from triaxis.streams import stream_key

Work = tuple[tuple[int, ...], int, str]  # a prompt, its stream key (0 where nothing is drawn), its adapter schedule


class Completion(NamedTuple):
    """One completion and what it cost. Completions that were the same work, done once, each count it whole."""

    text: str
    token_ids: tuple[int, ...]
    forwards: int  # forward passes this row took part in
    forward_tokens: int  # canvas tokens those passes read for it, prompt included
    ended: bool  # an end mark was committed; False means truncated by the canvas
    length: int  # tokens before the first end mark
    confidence: float  # mean log probability of those tokens when they were committed; 0 without any
    order: tuple[int, ...]  # step that committed each of them
    path: tuple[str, ...]  # with watch: the text as predicted at each step


@dataclass(frozen=True)
class Executor:
    """A loaded diffusion language model. Made by `load_executor`."""

    checkpoint: Checkpoint
    batch_tokens: int = 0  # canvas tokens in one forward pass, padding included; 0: 3,072 on a CPU, what fits on a GPU
    adapters: Mounted | None = None
    schedule: str = ""  # the adapter schedule of every prompt that does not bring its own

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def fingerprint(self) -> str:
        return self.checkpoint.fingerprint

    @cached_property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.checkpoint.network.parameters())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer.json. UserError if it is missing or unreadable, or calls the mask id a plain word."""
        found, mask = open_tokenizer(self.checkpoint.folder), self.checkpoint.config.mask_token_id
        text = found.id_to_token(mask) or ""
        if text and mask not in found.get_added_tokens_decoder() and "mask" not in text.lower():
            marks = [f"{i} ({t})" for i, t in found.get_added_tokens_decoder().items() if "mask" in str(t).lower()]
            known = ", ".join(marks) or "none of its added tokens is a mask"
            raise UserError(
                f"{self.checkpoint.folder}: mask_token_id={mask} is the ordinary token {text!r}; set it in config.json "
                f"to the tokenizer's own: {known}"
            )
        return found

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a completion, the config's eos first."""
        ids = [self.checkpoint.config.eos_token_id]
        if (self.checkpoint.folder / "tokenizer.json").is_file():
            named = (self.tokenizer.token_to_id(t) for t in self.checkpoint.family.ends)
            ids += [i for i in named if i is not None and i not in ids]
        return tuple(ids)

    def with_adapters(self, schedule: str, *others: str) -> Executor:
        """This executor with adapters on as `schedule` says (see models/schedules.py); "" is the base alone.

        others: schedules that single prompts may ask for (`adapters=` of `complete` and `denoise`). The base network is
        shared and never written. UserError for a schedule or an adapter that does not fit.
        """
        specs = (schedule, *others)
        names = tuple(dict.fromkeys(n for s in specs for n in Schedule.parse(s).names))
        base = self.adapters.base if self.adapters else self.checkpoint.network
        if not names:
            return replace(self, checkpoint=replace(self.checkpoint, network=base), adapters=None, schedule="")
        mounted = mount(base, [read_adapter(n) for n in names], f"executor {self.name!r}")
        return replace(
            self, checkpoint=replace(self.checkpoint, network=mounted.network), adapters=mounted, schedule=schedule
        )

    def default_decode(self) -> Decode:
        """The family's default protocol."""
        return Decode(**self.checkpoint.family.decode)  # type: ignore[arg-type]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of text. Unless `special`, text that spells a special token is ordinary text."""
        self.tokenizer.encode_special_tokens = not special
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as e:
            if type(e) is not Exception:  # tokenizers raises the bare class, and nothing else, for its own failures
                raise
            raise UserError(f"{self.checkpoint.folder}: its tokenizer.json cannot encode text ({e})") from None
        return ids

    def prompt_ids(self, user: str, reply: str = "", system: str = "") -> list[int]:
        """The chat prompt of one user message; `reply` is text the response already begins with.

        UserError for a system text where the family has no system turn.
        """
        card = self.checkpoint.family
        before, after = card.content.split("{content}")
        ids = self.encode(card.start, special=True)
        if system:
            if not card.system:
                raise UserError(f"executor {self.name!r}: family {card.name!r} has no system turn; place it elsewhere")
            head, tail = card.system.split("{content}")
            ids += self.encode(head, special=True) + self.encode(system) + self.encode(tail, special=True)
        ids += self.encode(before, special=True) + self.encode(user)
        ids += self.encode(after + card.reply, special=True)
        return ids + (self.encode(reply) if reply else [])

    def text(self, ids: Sequence[int]) -> str:
        """Text up to the first end mark."""
        ends = set(self.end_ids)
        cut = next((i for i, t in enumerate(ids) if t in ends), len(ids))
        return str(self.tokenizer.decode(list(ids[:cut]), skip_special_tokens=False))

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], decode: Decode, seeds: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Complete token prompts; `gen_length` ids each, in order.

        seeds: one random stream a prompt; by default the prompt's place in the list. Unused at temperature 0
        with low-confidence remasking. A result does not depend on its batch. Raises UserError on an empty
        prompt, an id outside the vocabulary, the mask id in a prompt, or a canvas longer than the context.
        """
        streams = range(len(prompts)) if seeds is None else seeds
        if len(streams) != len(prompts):
            raise UserError(f"{len(prompts)} prompts but {len(streams)} seeds; give one seed a prompt")
        keys = [stream_key("ids", s) for s in streams]
        return [row.ids for row in self.denoise(prompts, keys, decode)]

    def complete(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[int], decode: Decode,
        done: Callable[[list[int], list[Completion]], None], watch: bool = False,
        adapters: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Complete token prompts; `done(places, completions)` is called whenever some are finished.

        watch: also predict the whole response at every step (`Completion.path`). adapters: one schedule a prompt, of
        adapters this executor was made with; prompts with different ones share batches.
        """

        def hand_over(places: list[int], rows: list[Denoised]) -> None:
            done(places, [self._completion(r) for r in rows])

        self._run(prompts, keys, decode, hand_over, watch, adapters)

    def _completion(self, r: Denoised) -> Completion:
        ends = set(self.end_ids)
        length = next((i for i, t in enumerate(r.ids) if t in ends), len(r.ids))
        logs = [math.log(max(p, 1e-30)) for p in r.chances[:length]]
        confidence = round(sum(logs) / length, 3) if length else 0.0  # kernels differ by batch far below that
        path = tuple(self.text(ids) for ids in r.path)
        return Completion(
            self.text(r.ids), tuple(r.ids), r.forwards, r.tokens, r.ended, length, confidence,
            tuple(r.order[:length]), path,
        )  # fmt: skip

    def denoise(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[int], decode: Decode,
        adapters: Sequence[str] | None = None,
    ) -> list[Denoised]:  # fmt: skip
        """Complete token prompts with their random stream keys, in order. adapters: as in `complete`."""
        found: dict[int, Denoised] = {}
        take = lambda places, rows: found.update(zip(places, rows, strict=True))  # noqa: E731
        self._run(prompts, keys, decode, take, adapters=adapters)
        return [found[i] for i in range(len(prompts))]

    def _run(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[int], decode: Decode,
        done: Callable[[list[int], list[Denoised]], None], watch: bool = False,
        adapters: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        self._check_protocol(decode, watch)
        for i, prompt in enumerate(prompts):
            self._check(i, prompt, decode)
        specs = [self.schedule] * len(prompts) if adapters is None else adapters
        schedules = self._schedules(specs, decode)
        places: dict[Work, list[int]] = {}  # identical work is done once
        for i, (prompt, key, spec) in enumerate(zip(prompts, keys, specs, strict=True)):
            places.setdefault((tuple(prompt), key if decode.draws else 0, spec), []).append(i)
        room = self.batch_tokens or self._budget(prompts, decode)
        left = dict.fromkeys(sorted(places, key=lambda w: len(w[0])))  # like lengths share passes

        def hand_over(rows: dict[Work, Denoised]) -> None:
            for work in rows:
                del left[work]
            shared = [(i, row) for work, row in rows.items() for i in places[work]]
            done([i for i, _ in shared], [row for _, row in shared])

        while left and not self._denoise(list(left), decode, schedules, room, watch, hand_over):
            first, tokens = next(iter(left)), sum(len(work[0]) + decode.gen_length for work in left)
            if room < 2 * (len(first[0]) + decode.gen_length):
                raise UserError(_too_long(first, decode))
            room = min(room, tokens) // 2  # a row does not depend on its batch

    def _denoise(
        self, works: list[Work], decode: Decode, schedules: dict[str, Schedule], room: int, watch: bool,
        done: Callable[[dict[Work, Denoised]], None],
    ) -> bool:  # fmt: skip
        """Complete that work; False where memory ran out before all of it was handed to `done`."""
        network = self.checkpoint.network
        mine = [schedules[spec] for *_, spec in works]
        # Rows at different blocks would have adapters on for some: dearer than adapters that are off for all of them.
        mix = len(set(mine)) > 1 or not mine[0].by_block
        try:
            denoise(
                network,
                [prompt for prompt, *_ in works],
                [key for _, key, _ in works],
                decode,
                mask_id=self.checkpoint.config.mask_token_id,
                eos_ids=self.end_ids,
                device=next(network.parameters()).device,
                before=None if self.adapters is None else conductor(self.adapters, mine),
                watch=watch,
                room=room,
                mix=mix,
                done=lambda rows: done({works[i]: row for i, row in rows.items()}),
            )
            return True
        except torch.OutOfMemoryError:
            pass  # the error holds the loop's tensors: it has to be gone before they are given back
        release(network)
        gc.collect()  # other networks that were dropped
        torch.cuda.empty_cache()
        return False

    def _schedules(self, specs: Sequence[str], decode: Decode) -> dict[str, Schedule]:
        known = self.adapters.names if self.adapters else ()
        made = {spec: Schedule.parse(spec) for spec in dict.fromkeys(specs)}
        for spec, schedule in made.items():
            schedule.check(decode.blocks, decode.steps // decode.blocks)
            for name in schedule.names:
                if name not in known:
                    raise UserError(f"adapter {name!r} (schedule {spec!r}) is not mounted; use executor.with_adapters")
        return made

    def _budget(self, prompts: Sequence[Sequence[int]], decode: Decode) -> int:
        """Canvas tokens of one forward pass: a CPU is fastest near its cache's size, a GPU takes what fits."""
        longest = max(map(len, prompts), default=0) + decode.gen_length
        return fitting_tokens(self.checkpoint.network, self.checkpoint.config.rows, decode, longest)

    def _check_protocol(self, decode: Decode, watch: bool) -> None:
        block = self.checkpoint.network.shape.attend_block
        if block and decode.block_length % block:
            raise UserError(
                f"executor {self.name!r} attends in blocks of {block}: block_length={decode.block_length} must be a "
                f"multiple of it; try {-(-decode.block_length // block) * block}"
            )
        if block and decode.cache != "none":
            raise UserError(
                f"executor {self.name!r} attends in blocks and has an exact cache of its own; use cache='none', "
                f"not {decode.cache!r}"
            )
        if watch and decode.cache != "none":
            raise UserError(f"watching needs the logits of the whole response; use cache='none', not {decode.cache!r}")

    def _check(self, number: int, prompt: Sequence[int], decode: Decode) -> None:
        config = self.checkpoint.config
        if not prompt:
            raise UserError(f"prompt {number} is empty; give at least one token")
        if not all(isinstance(token, int) and 0 <= token < config.rows for token in prompt):
            raise UserError(f"prompt {number} has a token outside 0..{config.rows - 1}; it is from another tokenizer")
        if config.mask_token_id in prompt:
            raise UserError(f"prompt {number} contains the mask token {config.mask_token_id}; remove it")
        if len(prompt) + decode.gen_length > config.max_sequence_length:
            raise UserError(
                f"prompt {number} has {len(prompt)} tokens; with gen_length={decode.gen_length} it exceeds the context "
                f"of {config.max_sequence_length}; shorten the prompt or gen_length"
            )


def _too_long(work: Work, decode: Decode) -> str:
    tokens = len(work[0]) + decode.gen_length
    return (
        f"out of memory with one row of {tokens} tokens; use bf16, a shorter gen_length, or a device with more memory"
    )


def load_executor(
    spec: str = "tiny",
    *,
    dtype: str | None = None,
    device: str | None = None,
    adapters: str = "",
    family: str | None = None,
) -> Executor:
    """Load an executor: "tiny" (shipped), a folder with config.json and safetensors weights, or a hub id
    ("org/name", "org/name@revision"). family: a card of models/families, where config.json does not tell.

    dtype: "fp32" or "bf16"; by default fp32 on a CPU, bf16 on a GPU. adapters: an adapter schedule, such as
    "prefix@all+commit@last:3". Never runs remote code.
    """
    executor = Executor(load_checkpoint(spec, dtype=dtype, device=device, family=family))
    return executor.with_adapters(adapters) if adapters else executor
