"""Training data of an adapter: prompts in the evaluation's own template, targets, loss spans, and batches.

Knows the executor's tokenizer and template, nothing of optimisers. The padding rule: the response fills the canvas of
the decoding protocol (`gen_length` tokens); after the text stands the family's end of turn, and end-of-text marks
fill the rest, as in the executor's own completions. `end` says whether all of them are scored ("fill") or only the
first ("one").
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from triaxis.errors import UserError
from triaxis.train.loss import sent

if TYPE_CHECKING:
    from triaxis.conditions import Prompt
    from triaxis.sampling.executor import Executor

End = Literal["fill", "one"]


@dataclass(frozen=True, slots=True)
class Example:
    """One training row as text: what is shown, the response wanted, and where it comes from.

    tier: the scaffold or bucket it stands for; item: the training item.
    """

    item: str
    tier: str
    shown: Prompt
    response: str


class Encoded(NamedTuple):
    """One row as ids: the prompt, the response's text, and the half-open token span of its final answer."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    answer: tuple[int, int]
    item: str
    tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which response tokens the loss is on: "response", "answer", or the blocks low..high, both included."""

    kind: str = "response"
    low: int = 0
    high: int = 0

    @classmethod
    def parse(cls, text: str) -> Span:
        """UserError for anything but response, answer, block:I or block:I-J."""
        found = re.fullmatch(r"(response|answer)|block:(\d+)(?:-(\d+))?", text)
        if found is None or (found[3] and int(found[3]) < int(found[2])):
            raise UserError(f"loss span {text!r} cannot be read; use response, answer, block:I or block:I-J")
        if found[1]:
            return cls(kind=found[1])
        return cls(kind="block", low=int(found[2]), high=int(found[3] or found[2]))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Encoded rows for one canvas. `left_out`: rows whose response does not fit it; they are counted, never cut."""

    rows: tuple[Encoded, ...]
    response: int  # canvas tokens
    block: int
    stop: int  # the first end mark: the family's end of turn where it has one
    eos: int  # the end marks after it
    mask: int
    span: Span
    end: End
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tiers(self) -> dict[str, int]:
        """Rows by tier."""
        names = [r.tier for r in self.rows]
        return {t: names.count(t) for t in dict.fromkeys(names)}

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits over every row and every rule that decides what is scored."""
        rules = [self.response, self.block, self.stop, self.eos, self.mask, asdict(self.span), self.end]
        text = json.dumps([rules, self.rows])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def order(self, seed: int, epoch: int, batch: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Row numbers of every batch of an epoch, (batches, batch): rows of like length share a batch.

        A data set smaller than a batch is repeated.
        """
        n = len(self.rows)
        rng = np.random.default_rng((seed, epoch))
        everyone = rng.permutation(n) if n >= batch else rng.permutation(np.resize(np.arange(n), batch))
        count = len(everyone) // batch
        kept = everyone[: count * batch]
        lengths = np.array([len(r.prompt) for r in self.rows])
        wide = 16 * batch  # sorted within a stretch, so that an epoch is still in random order
        groups = [g[np.argsort(lengths[g], kind="stable")] for g in np.split(kept, range(wide, len(kept), wide))]
        made = np.concatenate(groups).reshape(count, batch)
        return made[rng.permutation(count)].astype(np.int64)


class Batch(NamedTuple):
    """Padded rows. ids: (B, L) with the true response in place. where: (B, R) columns of the response."""

    ids: Tensor
    valid: Tensor | None  # (B, L) bool; None: all rows are of one length
    where: Tensor
    targets: Tensor
    span: Tensor  # (B, R) bool, what may be scored

    def to(self, device: torch.device) -> Batch:
        return Batch(*(None if t is None else sent(t, device) for t in self))  # type: ignore[arg-type]

    def rows(self, index: Tensor) -> Batch:
        """Some of the rows, no wider than they need."""
        assert self.valid is not None
        valid = self.valid[index]
        valid = valid[:, : int(valid.sum(1).max())]
        whole = None if bool(valid.all()) else valid
        return Batch(self.ids[index, : valid.shape[1]], whole, *(t[index] for t in self[2:]))


def collate(data: Dataset, rows: Sequence[int]) -> Batch:
    """The rows as tensors on the CPU, padded on the right."""
    chosen = [data.rows[i] for i in rows]
    width = max(len(r.prompt) for r in chosen) + data.response
    full = [(*r.response, data.stop, *[data.eos] * (data.response - len(r.response) - 1)) for r in chosen]
    lines = [(*r.prompt, *f, *[data.eos] * (width - len(r.prompt) - len(f))) for r, f in zip(chosen, full, strict=True)]
    prompt = torch.tensor([len(r.prompt) for r in chosen])
    valid = torch.arange(width)[None] < (prompt + data.response)[:, None]
    where = prompt[:, None] + torch.arange(data.response)[None]
    return Batch(torch.tensor(lines), valid, where, torch.tensor(full), _spans(data, chosen))


def _spans(data: Dataset, rows: Sequence[Encoded]) -> Tensor:
    place = torch.arange(data.response)[None]
    length = torch.tensor([len(r.response) for r in rows])[:, None]
    content: Tensor = place <= length
    content = content if data.end == "one" else torch.ones_like(content)
    if data.span.kind == "response":
        return content
    if data.span.kind == "answer":  # the answer's tokens and the first end mark: where the answer stops is part of it
        low, high = torch.tensor([r.answer for r in rows]).T
        answer: Tensor = (place >= low[:, None]) & (place < high[:, None]) | (place == length)
        return answer
    window: Tensor = (place // data.block >= data.span.low) & (place // data.block <= data.span.high)
    return window & content


def answer_offset(text: str) -> int:
    """Where the final answer begins in a response: at its last "####" line, else at its last number."""
    mark = text.rfind("####")
    if mark >= 0:
        return mark
    numbers = list(re.finditer(r"-?\d[\d,.]*", text))
    return numbers[-1].start() if numbers else 0


def encode(
    executor: Executor, examples: Iterable[Example], *, response: int, block: int, span: Span, end: End
) -> Dataset:
    """Encode examples in the executor's own chat template.

    response, block: the decoding protocol's gen_length and block_length. UserError where nothing is left, the window of
    blocks holds no text of any row, or a prompt and the canvas exceed the context.
    """
    config = executor.checkpoint.config
    rows: list[Encoded] = []
    left_out = 0
    for e in examples:
        executor.tokenizer.encode_special_tokens = True  # text that spells a special token is ordinary text
        coded = executor.tokenizer.encode(e.response, add_special_tokens=False)
        if len(coded.ids) + 1 > response:
            left_out += 1
            continue
        at = answer_offset(e.response)
        first = next((i for i, (_, stop) in enumerate(coded.offsets) if stop > at), len(coded.ids))
        prompt = tuple(executor.prompt_ids(e.shown.user, e.shown.reply, e.shown.system))
        if len(prompt) + response > config.max_sequence_length:
            raise UserError(
                f"training row of {e.item} (tier {e.tier}) has {len(prompt)} prompt and {response} response tokens, "
                f"more than the context of {config.max_sequence_length}; leave out that tier or lower gen_length"
            )
        rows.append(Encoded(prompt, tuple(coded.ids), (first, len(coded.ids)), e.item, e.tier))
    if not rows:
        raise UserError(
            f"no training row: {left_out} had responses longer than gen_length={response}; raise gen_length"
        )
    eos, stop = executor.end_ids[0], executor.end_ids[-1]
    return _within_span(Dataset(tuple(rows), response, block, stop, eos, config.mask_token_id, span, end, left_out))


def _within_span(data: Dataset) -> Dataset:
    """Rows of which the loss span holds something; a window of late blocks passes short rows by."""
    some = _spans(data, data.rows).any(1).tolist()
    rows = tuple(r for r, ok in zip(data.rows, some, strict=True) if ok)
    if not rows:
        raise UserError(
            f"loss span block:{data.span.low}-{data.span.high} holds no token of any row; choose other blocks"
        )
    return replace(data, rows=rows, left_out=data.left_out + len(data.rows) - len(rows))
