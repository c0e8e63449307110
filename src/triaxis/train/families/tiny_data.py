"""What the tiny family is trained on: gradeschool prompts, upstream notes, the tokenizer, token arrays.

The executor sees notes so that it can learn to use content, but never a scaffold under test: its notes
are opened by "Note:", "Note" or nothing; no training prompt contains "Plan:", "Hint:", "<plan>" or
"step by step" (a test greps the whole stream). A declared share of the notes is wrong while the target
stays right, so that trust can be graded instead of total.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from triaxis.tasks.gradeschool import Dice, Problem, plan_text, problems

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MASK, EOS, USER, ASSISTANT = "<|mask|>", "<|eos|>", "<|user|>", "<|assistant|>"
SPECIALS = (MASK, EOS, USER, ASSISTANT)
RESPONSE = 48  # response tokens of the executor, end marks included

NOTE_SHARE = 0.35  # of the prompts
WRONG_SHARE = 0.12  # of the notes: one number changed
OTHER_SHARE = 0.04  # of the notes: another problem's note
DRAFT_SHARE = 0.25  # of the planners' prompts: with drafts
SOLVE_SHARE = 0.2  # of the others: asked for the solution, not the plan
OPENERS = ("Note: ", "Note ", "")


@dataclass(frozen=True, slots=True)
class Example:
    """One training example as text."""

    prompt: str
    response: str


def _equations(p: Problem, dice: Dice) -> str:
    return ", ".join(f"{a}{op}{b}={c}" for a, op, b, c in p.calculations) + "."


def _results(p: Problem, dice: Dice) -> str:
    return "First " + ", then ".join(str(c) for *_, c in p.calculations) + "."


def _operations(p: Problem, dice: Dice) -> str:
    text = plan_text(p.calculations, leaks=False)
    for *_, result in p.calculations[:-1]:
        text = text.replace(f" is {result},", ",", 1)
    return text


def _sentence(p: Problem, dice: Dice) -> str:
    return plan_text(p.calculations, leaks=dice.chance(0.5))


NOTATIONS = (*[_equations] * 6, *[_results] * 3, *[_operations] * 3, *[_sentence] * 8)  # 30, 15, 15, 40 % of the notes


def spoil(p: Problem, dice: Dice) -> Problem:
    """The problem with one operand or result of one calculation replaced by another number."""
    calculations = [list(c) for c in p.calculations]
    row, column = dice.below(len(calculations)), (0, 2, 3)[dice.below(3)]
    old = calculations[row][column]
    new = dice.between(1, 99)
    calculations[row][column] = new if new != old else new + 1
    return Problem(p.question, tuple((a, o, b, c) for a, o, b, c in calculations), p.leaks)  # type: ignore[misc]


def executor_prompt(p: Problem, other: Problem, dice: Dice) -> str:
    """The user text of one executor example: the question, with or without an upstream note."""
    if not dice.chance(NOTE_SHARE):
        return p.question
    draw = dice.chance(OTHER_SHARE)
    source = other if draw else spoil(p, dice) if dice.chance(WRONG_SHARE) else p
    note = OPENERS[dice.below(len(OPENERS))] + NOTATIONS[dice.below(len(NOTATIONS))](source, dice)
    gap = dice.pick(("\n", " "))
    return f"{p.question}{gap}{note}" if dice.chance(0.5) else f"{note}{gap}{p.question}"


def executor_examples(key: str) -> Iterator[Example]:
    """Endless executor examples: prompt and worked solution ending in "#### N"."""
    dice = Dice(f"executor/{key}")
    stream = problems("train", f"executor/{key}")
    before = next(stream)
    for p in stream:
        yield Example(executor_prompt(p, before, dice), p.solution)
        before = p


def planner_examples(key: str) -> Iterator[Example]:
    """Endless planner examples: mostly question and the gold plan in words.

    The rest makes an AR model of it that can also stand alone or after the executor: the solution itself, and plan or
    solution with one to five drafts before it, two in five of them wrong. Wording as in presets/original.toml.
    """
    dice = Dice(f"planner-skills/{key}")
    for p in problems("train", f"planner/{key}"):
        drafts = 0 if dice.chance(1 - DRAFT_SHARE) else 1 if dice.chance(0.7) else dice.between(2, 5)
        shown = "\n".join((spoil(p, dice) if dice.chance(0.4) else p).solution for _ in range(drafts))
        prompt = f"{p.question}\nDraft: {shown}" if drafts else p.question
        if dice.chance(0.75 if drafts else SOLVE_SHARE):
            yield Example(f"{prompt}\nThe solution:", p.solution)
        else:
            yield Example(prompt, p.plan)


def train_tokenizer(examples: int = 40_000, least: int = 20) -> Tokenizer:
    """A tokenizer whose tokens are the corpus's words and marks, with single digits and bytes for anything else.

    A Unigram model over (piece, log frequency): every piece seen `least` times or more is one token, and the
    256 bytes, given a lower score, spell the rest, so no text is unknown and decoding is lossless. The EM
    trainer of `tokenizers` split frequent words into letters on this small corpus; counting does not.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    pattern = r"\n#### |\n| ?[A-Za-z']+| ?\d| ?[^\sA-Za-z\d]|\s+"
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    plans = (p.plan for p in problems("train", "tokenizer-plans"))
    pairs = itertools.islice(zip(executor_examples("tokenizer"), plans, strict=False), examples)
    texts = itertools.chain.from_iterable((e.prompt, "\n" + e.response, plan) for e, plan in pairs)
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    words = sorted((w for w, c in counts.items() if c >= least), key=lambda w: (-counts[w], w))
    alphabet = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c not in words]
    everything = sum(counts.values())
    vocabulary = [(s, 0.0) for s in SPECIALS]
    vocabulary += [(w, math.log(counts[w] / everything)) for w in words]
    vocabulary += [(c, -20.0) for c in alphabet]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=None, byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return tokenizer


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token arrays: ids (N, L) uint16 padded with EOS on the right, prompt and total lengths (N,)."""

    ids: npt.NDArray[np.uint16]
    prompt: npt.NDArray[np.int32]
    total: npt.NDArray[np.int32]


def tokenise(tokenizer: Tokenizer, examples: Iterable[Example], response: int | None) -> Tokens:
    """Chat-format and encode. With `response`, every response is padded to that many tokens with EOS; else one EOS."""
    vocabulary = tokenizer.get_vocab()
    eos, user, assistant = (vocabulary[t] for t in (EOS, USER, ASSISTANT))
    rows: list[list[int]] = []
    prompts: list[int] = []
    chunk = list(examples)
    asked = tokenizer.encode_batch_fast([e.prompt for e in chunk])
    replied = tokenizer.encode_batch_fast([e.response for e in chunk])
    for question, answer in zip(asked, replied, strict=True):
        head = [user, *question.ids, assistant]
        tail = [*answer.ids, eos]
        if response is not None:
            assert len(tail) <= response, f"a response of {len(tail)} tokens does not fit {response}"
            tail += [eos] * (response - len(tail))
        rows.append(head + tail)
        prompts.append(len(head))
    total = np.array([len(r) for r in rows], dtype=np.int32)
    ids = np.full((len(rows), int(total.max())), eos, dtype=np.uint16)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return Tokens(ids, np.array(prompts, dtype=np.int32), total)
