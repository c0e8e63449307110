"""Corruptions of a plan, each a pure, seeded function with a declared invariant.

Issue C extends the table; today: another number, and the content-free twin.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

# Neutral text for content-free plans; the tiny executor met its words in ordinary roles.
NEUTRAL = " The weather and the sky are calm and clear today and so it goes all day long."


def numbers(plan: str, key: str) -> str:
    """The plan with one number replaced by another of as many digits (1 to 9 for one digit).

    Invariant: same text outside that number; a plan without a number of at most 15 digits is returned unchanged.
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


def filler(length: int, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> str:
    """Neutral text of `length` executor tokens: the content-free twin of a plan that long.

    Invariant: encode(result) has `length` tokens wherever the tokenizer round-trips, else within one.
    """
    text = NEUTRAL
    while len(ids := encode(text.strip())) < length:
        text += NEUTRAL
    return decode(ids[:length]).strip()
