"""What the `small` family is trained on: word problems with their calculations, as text and as token arrays.

Three sources: GSM8K's train split (its annotated calculations), SVAMP's train families, and generated problems. Most
published problems are shown with other numbers (small_varied.py), so that what is learnt is what is asked. The response
is always the calculations, one a line, and "#### N". As with the tiny family, some prompts of the executor carry a note
upstream wrote: opened by "Note:", "Note" or nothing, never by a scaffold under test, and a declared share of the notes
is wrong while the target stays right. The planner's copy learns plans in words under the study's own prompt, and the
solution to the bare question.

A chunk of rows depends on (kind, seed, number of the chunk) alone, so any number of workers makes the same corpus.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from triaxis.errors import UserError
from triaxis.limits import parse_json, read_text
from triaxis.models.card import card
from triaxis.models.folder import open_tokenizer
from triaxis.models.writer import PLAN_PROMPT
from triaxis.tasks.base import Item
from triaxis.tasks.gradeschool import WORDS, Dice
from triaxis.tasks.grading import canonical
from triaxis.tasks.wordproblems import problems
from triaxis.train.families.small_varied import Template, template, vary

CHUNK = 4096  # rows
RESPONSE = 64  # tokens of the canvas the executor is trained for, end mark included
LEVELS = (1, 1, 2, 2, 3, 3, 4)  # of the generated problems, in turn
GSM8K_SHARE, SVAMP_SHARE = 0.30, 0.12  # of the rows; the others are generated
VARIED_SHARE = 0.75  # of the published problems: with other numbers, where that can be done
NOTE_SHARE = 0.25  # of the executor's prompts
WRONG_SHARE = 0.15  # of the notes: one number changed
OTHER_SHARE = 0.05  # of the notes: another problem's
PLAN_SHARE = 0.6  # of the planner's rows: asked for a plan; else for the solution
OPENERS = ("Note: ", "Note ", "")
END, FILL = "<|im_end|>", "<|endoftext|>"


class Source(NamedTuple):
    """One problem: its question, its calculations ("12+7=19") and its answer."""

    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def solution(self) -> str:
        return "\n".join((*self.steps, f"#### {self.answer}"))


class Pair(NamedTuple):
    """One training row as text."""

    prompt: str
    response: str


# ---------------------------------------------------------------- text


def usable(item: Item) -> Source | None:
    """A task's item by its calculations; None where they do not end in its answer."""
    steps = tuple(_ROUND.sub(r"\1", s.replace(" ", "")) for s in item.steps)
    if not steps or canonical(steps[-1].rpartition("=")[2]) != canonical(item.answer):
        return None
    return Source(item.question, steps, item.answer)


_ROUND = re.compile(r"(\d)\.0+(?!\d)")


@cache
def published(name: str) -> tuple[Source, ...]:
    """The usable train items of "gsm8k" or "svamp", in file order."""
    from triaxis.tasks import gsm8k, svamp

    load = {"gsm8k": gsm8k.load, "svamp": svamp.load}[name]
    return tuple(s for i in load("train") if (s := usable(i)) is not None)


@cache
def templates(name: str) -> tuple[Template | None, ...]:
    """How the published items can be varied; None for those that cannot."""
    return tuple(template(s.question, s.steps) for s in published(name))


def shown(name: str, dice: Dice) -> Source:
    """One published problem, mostly with other numbers."""
    at = dice.below(len(published(name)))
    made = templates(name)[at]
    if made is not None and dice.chance(VARIED_SHARE) and (varied := vary(made, dice)) is not None:
        return Source(*varied)
    return published(name)[at]


def sources(key: str) -> Iterator[Source]:
    """An endless mixture of the three sources."""
    dice, made = Dice(f"small/{key}"), problems("train", f"small/{key}", LEVELS)
    while True:
        draw = dice.below(1000) / 1000
        name = "gsm8k" if draw < GSM8K_SHARE else "svamp" if draw < GSM8K_SHARE + SVAMP_SHARE else ""
        if name:
            yield shown(name, dice)
        else:
            p = next(made)
            yield Source(p.question, p.steps, p.answer)


def in_words(steps: Sequence[str]) -> str:
    """A plan of calculations: "12+7=19", "19*2=38" -> "12 plus 7 is 19, then 19 times 2." The last result is open."""
    parts = [_spoken(s) for s in steps]
    return ", then ".join([*parts[:-1], parts[-1].rpartition(" is ")[0]]) + "."


def _spoken(step: str) -> str:
    """One calculation in words; a minus that is a number's own sign stays."""
    text = re.sub(r"(?<=[\d)%])([-+*/])", lambda m: f" {WORDS[m[1]]} ", step)
    return text.replace("=", " is ")


def _results(steps: Sequence[str]) -> str:
    return "First " + ", then ".join(s.rpartition("=")[2] for s in steps) + "."


def _operations(steps: Sequence[str]) -> str:
    return ", then ".join(_spoken(s).rpartition(" is ")[0] for s in steps) + "."


def _equations(steps: Sequence[str]) -> str:
    return ", ".join(steps) + "."


NOTATIONS = (*[_equations] * 6, *[_results] * 3, *[_operations] * 3, *[in_words] * 8)


def spoiled(steps: Sequence[str], dice: Dice) -> tuple[str, ...]:
    """The calculations with one of their numbers replaced by another."""
    row = dice.below(len(steps))
    numbers = list(re.finditer(r"\d+", steps[row]))
    at = numbers[dice.below(len(numbers))]
    new = dice.between(2, max(99, int(at[0])))
    changed = steps[row][: at.start()] + str(new if new != int(at[0]) else new + 1) + steps[row][at.end() :]
    return (*steps[:row], changed, *steps[row + 1 :])


def executor_pairs(key: str) -> Iterator[Pair]:
    """Endless rows of the executor: the question, sometimes with a note, and the calculations."""
    dice, stream = Dice(f"small-notes/{key}"), sources(f"executor/{key}")
    before = next(stream)
    for s in stream:
        prompt = s.question
        if dice.chance(NOTE_SHARE):
            other = dice.chance(OTHER_SHARE)
            steps = before.steps if other else spoiled(s.steps, dice) if dice.chance(WRONG_SHARE) else s.steps
            note = dice.pick(OPENERS) + NOTATIONS[dice.below(len(NOTATIONS))](steps)
            gap = dice.pick(("\n\n", "\n", " "))
            prompt = f"{s.question}{gap}{note}" if dice.chance(0.5) else f"{note}{gap}{s.question}"
        yield Pair(prompt, s.solution)
        before = s


def planner_pairs(key: str) -> Iterator[Pair]:
    """Endless rows of the planner: a plan under the study's prompt, or the calculations of the bare question."""
    dice = Dice(f"small-plans/{key}")
    for s in sources(f"planner/{key}"):
        if dice.chance(PLAN_SHARE):
            yield Pair(PLAN_PROMPT.replace("{question}", s.question), in_words(s.steps))
        else:
            yield Pair(s.question, s.solution)


PAIRS = {"executor": executor_pairs, "planner": planner_pairs}


# ---------------------------------------------------------------- tokens


@dataclass(frozen=True, slots=True)
class Corpus:
    """Rows of tokens laid end to end. starts, prompt, total: (N,); a row is ids[start : start + total].

    total counts the prompt, the response and its end mark. fill: what stands after it. left_out: rows whose response
    does not fit `RESPONSE` tokens.
    """

    ids: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    prompt: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    fill: int
    left_out: int

    def __len__(self) -> int:
        return len(self.total)

    def take(self, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
        """The rows padded with `fill` to `width`, (B, width)."""
        place = np.arange(width)[None]
        inside = place < self.total[rows][:, None]
        return np.where(inside, self.ids[np.where(inside, self.starts[rows][:, None] + place, 0)], self.fill).astype(
            np.int64
        )


def make_corpus(folder: Path, kind: str, rows: int, seed: int, workers: int = 1) -> Corpus:
    """At least `rows` rows of "executor" or "planner" in the tokens of `folder`. UserError for an unusable folder."""
    open_tokenizer(folder)
    numbers = range(-(-rows // CHUNK))
    size = min(CHUNK, rows)
    jobs = [(str(folder), kind, seed, n, size) for n in numbers]
    if workers <= 1 or len(jobs) == 1:
        made = [_chunk(j) for j in jobs]
    else:
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            made = list(pool.map(_chunk, jobs))
    ids = np.concatenate([m[0] for m in made])
    prompt, total = (np.concatenate([m[k] for m in made]).astype(np.int64) for k in (1, 2))
    fill = cast(int, open_tokenizer(folder).token_to_id(FILL))
    return Corpus(ids, np.cumsum(total) - total, prompt, total, fill, sum(m[3] for m in made))


Chunk = tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.int64], int]


def _chunk(job: tuple[str, str, int, int, int]) -> Chunk:
    """One chunk: ids, prompt lengths, total lengths, rows left out. Runs in a worker."""
    folder, kind, seed, number, size = job
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = open_tokenizer(Path(folder))
    before, after = (_template(Path(folder)) if kind == "planner" else _turns()).split("{content}")
    tokenizer.encode_special_tokens = False
    head, tail = (tokenizer.encode(t, add_special_tokens=False).ids for t in (before, after))
    end = tokenizer.token_to_id(END)
    if end is None:
        raise UserError(f"{folder}: its tokenizer has no {END}; it is another model than SmolLM2's")
    stream = PAIRS[kind](f"{seed}/{number}")
    pairs = [next(stream) for _ in range(size)]
    tokenizer.encode_special_tokens = True  # text that spells a special token is ordinary text
    asked = tokenizer.encode_batch_fast([p.prompt for p in pairs], add_special_tokens=False)
    said = tokenizer.encode_batch_fast([p.response for p in pairs], add_special_tokens=False)
    kept = [(q.ids, a.ids) for q, a in zip(asked, said, strict=True) if len(a.ids) < RESPONSE]
    flat = [t for q, a in kept for t in (*head, *q, *tail, *a, end)]
    prompt = np.array([len(head) + len(q) + len(tail) for q, _ in kept])
    total = prompt + np.array([len(a) + 1 for _, a in kept])
    return np.array(flat, dtype=np.uint16), prompt, total, len(pairs) - len(kept)


def _turns() -> str:
    """The executor's turns, as its family card has them."""
    c = card("small")
    return c.start + c.content + c.reply


def _template(folder: Path) -> str:
    """The planner's turns around {content}, as its own chat template renders them."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    chat = parse_json(read_text(folder / "tokenizer_config.json", "tokenizer"))["chat_template"]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers renders them
    text: str = env.from_string(chat).render(
        messages=[{"role": "user", "content": "{content}"}], add_generation_prompt=True
    )
    return text


# ---------------------------------------------------------------- batches


def groups(corpus: Corpus, response: int, least: int, step: int = 32) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """(width, row numbers), wide ones first: rows by the canvas they need, prompt + `response` or more.

    Widths are multiples of `step`. A group of fewer than `least` rows takes in the next narrower one: every width is
    another shape to compile, and padding is cheaper than a rare shape.
    """
    wide = -(-np.maximum(corpus.prompt + response, corpus.total) // step) * step
    found: list[tuple[int, npt.NDArray[np.int64]]] = []
    for width in sorted(set(wide.tolist()), reverse=True):
        rows = np.flatnonzero(wide == width)
        if found and len(found[-1][1]) < least:
            found[-1] = (found[-1][0], np.concatenate((found[-1][1], rows)))
        else:
            found.append((width, rows))
    if len(found) > 1 and len(found[-1][1]) < least:
        (width, rows), (_, narrow) = found[-2:]
        found[-2:] = [(width, np.concatenate((rows, narrow)))]
    return found


def batches(
    corpus: Corpus, batch: int, response: int, seed: int, start: int
) -> Iterator[tuple[int, npt.NDArray[np.int64], int]]:
    """(step, row numbers, width) without end from step `start` on. All rows of a batch have one width."""
    everyone = groups(corpus, response, least=max(4 * batch, len(corpus) // 50))
    epoch, step = 0, 0
    while True:
        rng = np.random.default_rng((seed, epoch))
        cut: list[tuple[npt.NDArray[np.int64], int]] = []
        for width, rows in everyone:
            count = max(1, len(rows) // batch)
            order = np.resize(rng.permutation(rows), count * batch)  # a corpus smaller than a batch is repeated
            cut += [(part, width) for part in np.split(order, count)]
        for at in rng.permutation(len(cut)):
            if step >= start:
                yield step, *cut[at]
            step += 1
        epoch += 1
