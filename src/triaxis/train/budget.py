"""Hours and dollars of training and judging adapters, computed from a throughput that was measured. No torch.

The throughput comes from `triaxis bench train --json` on the machine in question, or is given; nothing here knows how
fast any machine is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from triaxis.conditions import load_preset
from triaxis.cost import dollars
from triaxis.errors import UserError, suggest
from triaxis.limits import check_form, parse_json, read_text
from triaxis.train.recipes import Recipe

PRESET = str(Path(__file__).with_name("repairs.toml"))
_REPORT = {"timings": [{"name": str, "tokens_per_second": float}], "row_tokens": int, "device": str}


class Speed(NamedTuple):
    """Tokens a second of training, tokens of a row, and where both come from."""

    tokens_per_second: float
    row_tokens: float
    source: str


def given(tokens_per_second: float, row_tokens: float) -> Speed:
    """A speed as the user says. UserError unless both are positive numbers."""
    for name, value in (("tokens a second", tokens_per_second), ("tokens a row", row_tokens)):
        if not 0 < value < math.inf:
            raise UserError(f"{name} of {value!r}: give a positive number")
    return Speed(tokens_per_second, row_tokens, "as given")


def measured(path: Path, case: str, row_tokens: float | None = None) -> Speed:
    """The speed of one case in a report of `triaxis bench train --json`. UserError names the cases it has."""
    try:
        report = parse_json(read_text(path, "settings"))
        check_form(report, _REPORT, "the report")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); write it with triaxis bench train --json") from None
    except ValueError as e:
        raise UserError(f"{path}: no report of triaxis bench train --json ({e})") from None
    found = {t["name"]: float(t["tokens_per_second"]) for t in report["timings"]}
    if case not in found:
        raise UserError(f"{path}: no case {case!r} was timed{suggest(case, found)}; --case names one")
    source = f"{case!r} on {report['device']}, {path.name}"
    return given(found[case], row_tokens or float(report["row_tokens"]))._replace(source=source)


def judged(
    kind: str, planners: Sequence[str], n: int, seeds: int, *, control: bool, asked: int, k: int, blocks: int
) -> int:
    """Sequences that are decoded for the data and the judgement of a kind of adapter."""
    if kind == "consensus":
        single = n * (3 + k) + asked * (1 + k)  # greedy, two more temperatures and the branches; the training items
        return single + seeds * blocks * n * (1 + k)
    an_item = sum(c.branches for c in load_preset(PRESET).conditions(planners))
    return an_item * n * (1 + seeds * (2 if control else 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What it takes. Hours of decoding are None where no time a sequence is given, and are then in no sum."""

    adapters: int
    steps: int
    batch: int
    tokens: int
    tokens_per_second: float
    source: str
    training_hours: float
    sequences: int
    decoding_hours: float | None
    hours: float
    dollars: float | None

    def lines(self) -> str:
        """The same in words."""
        train = (
            f"training: {self.adapters} adapters x {self.steps} steps x {self.batch} rows, {self.tokens / 1e6:.1f} M "
            f"tokens at {self.tokens_per_second:,.0f} a second ({self.source}): {self.training_hours:.2f} h\n"
        )
        time = "no time given (--sequence-seconds)" if self.decoding_hours is None else f"{self.decoding_hours:.2f} h"
        cost = "" if self.dollars is None else f", {self.dollars:.2f} dollars"
        return f"{train}decoding: {self.sequences:,} sequences: {time}\nin all: {self.hours:.2f} h{cost}\n"


def budget(
    recipe: Recipe, speed: Speed, *, adapters: int, sequences: int, sequence_seconds: float | None = None,
    price: float | None = None,
) -> Budget:  # fmt: skip
    """Hours and dollars of `adapters` trainings by a recipe and of decoding `sequences`."""
    tokens = round(adapters * recipe.steps * recipe.batch * speed.row_tokens)
    training = tokens / speed.tokens_per_second
    decoding = None if sequence_seconds is None else sequences * sequence_seconds
    seconds = training + (decoding or 0.0)
    return Budget(
        adapters=adapters, steps=recipe.steps, batch=recipe.batch, tokens=tokens,
        tokens_per_second=speed.tokens_per_second, source=speed.source, training_hours=training / 3600,
        sequences=sequences, decoding_hours=None if decoding is None else decoding / 3600, hours=seconds / 3600,
        dollars=dollars(seconds, price),
    )  # fmt: skip
