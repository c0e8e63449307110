"""What all planners have in common: how one writes, what it wrote, its identity, random streams, shared work."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from triaxis.errors import UserError, override
from triaxis.streams import stream_key

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
