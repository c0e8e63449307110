"""Corruptions of a plan as a table: each a pure, seeded function with the invariant it keeps.

A corruption that cannot change a plan returns it unchanged. Its `key` decides every draw, on every platform. They are
those of published controls (shuffled, wrong strategy, perturbed numbers, random tokens: arXiv:2603.13243) and of the
axes: negation, a missing step, other words for the same plan, and twins without content.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from triaxis.errors import UserError
from triaxis.plans import rework

# Neutral text for content-free plans; the tiny executor met its words in ordinary roles.
NEUTRAL = " The weather and the sky are calm and clear today and so it goes all day long."
# Between two steps: ", then", a semicolon, the end of a sentence, a new line.
_BREAK = re.compile(r"(,?\s+then\s+|;\s*|[.!?]+(?:\s+|$)|\s*\n\s*)", re.IGNORECASE)
_COPULA = re.compile(r"=|\b(?:is|are|was|were|equals|has|have|had|will|can|must|should|does|do|did)\b", re.IGNORECASE)
_ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth")
# (what to look for, what to say instead); a sign is put into words only between numbers
_LABELS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        *((rf"\b[Ss]tep {n}\b(?!\.?\d)", word) for n, word in enumerate(_ORDINALS, 1)),
        (r"\bplus\b|(?<=[\d)])\s*\+\s*(?=[$(]?\.?\d)", "added to"),
        (r"\bminus\b|(?<=[\d)])\s*[-−]\s*(?=[$(]?\.?\d)", "less"),
        (r"\btimes\b|(?<=[\d)])\s*(?:\*|×|\bx\b)\s*(?=[$(]?\.?\d)", "multiplied by"),
        (r"\bdivided by\b|(?<=[\d)])\s*(?:÷|/)\s*(?=[$(]?\.?\d)", "split into"),
        (r"(?<=\d )is(?= [-$]?\.?\d)|(?<=[\d)])\s*=\s*(?=[-$]?\.?\d)", "makes"),
        (r"\bthen\b", "after that"),
        (r"\bThen\b", "After that"),
    )
)
# number words and what else would say something about a calculation, kept out of random tokens
_CONTENT = re.compile(
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty"
    r"|seventy|eighty|ninety|hundred|thousand|million|plus|minus|times|divided|half|twice|double|answer|step)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Corruption:
    """`edit(plan, key)` gives the corrupted plan; `keeps` is what it leaves as it was."""

    edit: Callable[[str, str], str]
    keeps: str


@dataclass(frozen=True)
class Tokens:
    """A tokenizer as fillers need it: text to ids and back, and the ids of ordinary vocabulary, no special ones."""

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    ordinary: Callable[[], Sequence[int]]

    @cached_property
    def words(self) -> Sequence[str]:
        """Every vocabulary token that is letters without content, a space before it; no digits, no number words."""
        pieces = {self.decode([i]).strip() for i in self.ordinary()}
        return sorted(f" {p}" for p in pieces if re.fullmatch(r"[^\W\d_]+", p) and not _CONTENT.fullmatch(p))


@dataclass(frozen=True, slots=True)
class Filler:
    """`make(length, tokens, key)` gives text without content of `length` tokens; `keeps` is its invariant."""

    make: Callable[[int, Tokens, str], str]
    keeps: str


def segments(plan: str) -> tuple[list[str], list[str]]:
    """A plan as its steps and what stands around them: gaps[0] + steps[0] + gaps[1] + steps[1] + ... + gaps[-1]."""
    parts = _BREAK.split(plan)  # text, break, text, ...
    steps, gaps = [], [""]
    for k, part in enumerate(parts):
        bare = part.strip()
        if k % 2 or not bare:
            gaps[-1] += part
            continue
        start = part.index(bare)
        gaps[-1] += part[:start]
        steps.append(bare)
        gaps.append(part[start + len(bare) :])
    return steps, gaps


def _join(steps: Sequence[str], gaps: Sequence[str]) -> str:
    return gaps[0] + "".join(step + gap for step, gap in zip(steps, gaps[1:], strict=True))


def _shuffled(parts: Sequence[str], key: str) -> list[str]:
    """The parts in another order, or as they are where every order is the same."""
    new = list(parts)
    rng = random.Random(key)
    if len(set(parts)) > 1:
        while new == list(parts):
            rng.shuffle(new)
    return new


def shuffle_words(plan: str, key: str) -> str:
    """The words of a plan in another order, the space between them where it was."""
    parts = re.split(r"(\s+)", plan)
    places = [k for k in range(0, len(parts), 2) if parts[k]]
    for k, word in zip(places, _shuffled([parts[k] for k in places], key), strict=True):
        parts[k] = word
    return "".join(parts)


def shuffle_steps(plan: str, key: str) -> str:
    """The steps of a plan in another order, what stands between them where it was."""
    steps, gaps = segments(plan)
    return _join(_shuffled(steps, key), gaps)


def drop_step(plan: str, key: str) -> str:
    """The plan without one of its steps; a plan of one step is unchanged.

    The break after the step goes with it. The one before it does where the step is the last, or where a next step that
    begins with "then" would lose its first word to that break.
    """
    steps, gaps = segments(plan)
    if len(steps) < 2:
        return plan
    k = int(random.Random(key).random() * len(steps))
    rest = steps[:k] + steps[k + 1 :]
    without = [_join(rest, gaps[:gone] + gaps[gone + 1 :]) for gone in ((k + 1, k) if k < len(rest) else (k,))]
    return next((new for new in without if segments(new)[0] == rest), without[0])


def negate(plan: str, key: str) -> str:
    """Every step denied: "not" after its first verb or equals sign, or before it where it has none."""
    steps, gaps = segments(plan)

    def denied(step: str) -> str:
        verb = _COPULA.search(step)
        if verb is None:
            return f"not {step}"
        return f"{step[: verb.end()]} not {step[verb.end() :].lstrip()}".rstrip()

    return _join([denied(s) for s in steps], gaps)


def paraphrase(plan: str, key: str) -> str:
    """The plan in other words: "plus" as "added to", "Step 1" as "First"; says the same."""
    for pattern, new in _LABELS:
        plan = pattern.sub(lambda m, new=new: _spaced(m, new), plan)  # type: ignore[misc]
    return plan


def _spaced(m: re.Match[str], new: str) -> str:
    """The new words, apart from the numbers on either side."""
    before = "" if m.start() == 0 or m.string[m.start() - 1].isspace() or not m.string[m.start() - 1].isalnum() else " "
    after = " " if m.end() < len(m.string) and m.string[m.end()] in "-$(.0123456789" else ""
    return before + new + after


def numbers(plan: str, key: str) -> str:
    """The plan with one number replaced by another of as many digits (1 to 9 for one digit).

    A plan without a number of at most 15 digits is returned unchanged.
    """
    rng = random.Random(key)
    found = list(re.finditer(r"(?<!\d)\d{1,15}(?!\d)", plan))
    if not found:
        return plan
    spot = found[int(rng.random() * len(found))]
    old, low = spot.group(), 10 ** (len(spot.group()) - 1)
    new = low + int(rng.random() * (9 * low - 1))
    new += int(new >= int(old))  # skips the old value, so the number always changes
    return plan[: spot.start()] + str(new) + plan[spot.end() :]


CORRUPTIONS: dict[str, Corruption] = {
    "numbers": Corruption(numbers, "the text outside one number, and that number's count of digits"),
    "operators": Corruption(rework.operators, "the text outside one operator and the results that follow from it"),
    "shuffle-words": Corruption(shuffle_words, "the multiset of words, and the space between them"),
    "shuffle-steps": Corruption(shuffle_steps, "the multiset of steps, and what stands between them"),
    "drop-step": Corruption(drop_step, "all steps but one, in their order"),
    "negate": Corruption(negate, "all words in their order; one 'not' a step is added"),
    "paraphrase": Corruption(paraphrase, "all numbers but step labels in their order, and every reading of a step"),
}


def truncate(plan: str, length: int, tokens: Tokens) -> str:
    """The beginning of a plan, of at most `length` tokens; a plan no longer than that is unchanged.

    Invariant: the result is a prefix of the plan; it has `length` tokens wherever the tokenizer round-trips and the
    cut does not fall behind a space, else fewer.
    """
    ids = tokens.encode(plan)
    if len(ids) <= length:
        return plan
    cut = tokens.decode(ids[:length]).rstrip()
    end = len(cut) if plan.startswith(cut) else min(len(cut), len(plan))
    while not plan.startswith(cut) or len(tokens.encode(cut)) > length:
        end -= 1
        cut = plan[:end].rstrip()
    return cut


def filler(length: int, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> str:
    """Neutral text of `length` tokens: the content-free twin of a plan that long.

    Invariant: encode(result) has `length` tokens wherever the tokenizer round-trips, else within one.
    """
    text = NEUTRAL
    while len(ids := encode(text.strip())) < length:
        text += NEUTRAL
    return decode(ids[:length]).strip()


def _drawn(length: int, tokens: Tokens, key: str) -> str:
    rng = random.Random(key)
    words = tokens.words
    return _grown(length, lambda _: words[int(rng.random() * len(words))] if words else "", tokens.encode, "random")


def _dots(length: int, tokens: Tokens, key: str) -> str:
    return _grown(length, lambda tries: (" .", ".")[tries % 2], tokens.encode, "dots")  # "..." may be one token: apart


def _grown(length: int, piece: Callable[[int], str], encode: Callable[[str], list[int]], name: str) -> str:
    """Pieces put together as long as each makes the text exactly one token longer, until it has `length`.

    piece: the next one, by how many did not fit since the last that did. UserError where a thousand do not.
    """
    text, have, tries = "", 0, 0
    while have < length:
        longer = text + piece(tries) if text else piece(tries).lstrip()
        if len(encode(longer)) == have + 1:
            text, have, tries = longer, have + 1, 0
        else:
            tries += 1
        if tries == 1000:
            raise UserError(f"filler {name!r}: the executor's tokenizer has no pieces to make {length} tokens of")
    return text


FILLERS: dict[str, Filler] = {
    "filler": Filler(lambda n, tokens, key: filler(n, tokens.encode, tokens.decode), "the length in executor tokens"),
    "random": Filler(_drawn, "the length in executor tokens, exactly"),
    "dots": Filler(_dots, "the length in executor tokens, exactly"),
}
