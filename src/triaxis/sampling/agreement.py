"""What an approximate mode costs in answers and saves in time: the same prompts, exact and in that mode.

Tokens changed, answers flipped, accuracy paired by item with a verdict of non-inferiority, passes and seconds saved.
Knows nothing of tasks: a grading function is handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from triaxis.errors import UserError, override
from triaxis.estimate.paired import Estimate, paired, tango
from triaxis.sampling.executor import Completion, Executor
from triaxis.sampling.schedule import Decode
from triaxis.streams import stream_key

# Mode -> what it changes in the exact protocol. "fewer steps" is exact decoding of another, cheaper protocol.
MODES: Mapping[str, Mapping[str, object]] = {
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "dual, refreshed every 2nd pass": {"cache": "dual", "refresh": 2},
    "threshold .95": {"threshold": 0.95},
    "threshold .9": {"threshold": 0.9},
    "threshold .7": {"threshold": 0.7},
    "factor 1": {"factor": 1.0},
    "dual, threshold .9": {"cache": "dual", "threshold": 0.9},
}
Grader = Callable[[int, str], tuple[str, bool]]  # prompt number, text -> answer read, right


@dataclass(frozen=True, slots=True)
class Row:
    """A mode against the exact protocol. effect: accuracy, mode minus exact; bound: its one-sided 95 % bound."""

    mode: str
    decode: dict[str, object]
    tokens_changed: float  # share of the tokens up to exact's end mark
    answers_flipped: int
    effect: Estimate
    bound: float
    verdict: str
    faster: float  # seconds of exact over seconds of the mode
    passes: float  # passes of exact over passes of the mode
    computed: float  # positions exact computed over those the mode computed

    def plain(self) -> dict[str, object]:
        return {**{k: v for k, v in asdict(self).items() if k != "effect"}, "effect": self.effect.effect()}


def modes_of(executor: Executor, decode: Decode, names: Sequence[str] = ()) -> dict[str, Decode]:
    """The modes that make sense for an executor: caches only where it sees in both directions. Unknown names raise."""
    for name in names:
        if name not in MODES and name != "half the steps":
            raise UserError(f"no mode named {name!r}; known: {', '.join([*MODES, 'half the steps'])}")
    causal = executor.checkpoint.network.shape.attend_block > 0
    found = {n: override(decode, c) for n, c in MODES.items() if not (causal and "cache" in c)}
    steps = decode.steps // decode.blocks
    if steps % 2 == 0:
        found["half the steps"] = override(decode, {"steps": decode.steps // 2})
    elif steps > 1:
        found["half the steps"] = override(decode, {"steps": (steps + 1) // 2 * decode.blocks})
    return {n: d for n, d in found.items() if not names or n in names}


def agreement(
    executor: Executor,
    prompts: Sequence[Sequence[int]],
    decode: Decode,
    grade: Grader,
    *,
    margin: float = 0.05,
    modes: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Compare every mode with `decode`, which has to be exact, on the same prompts and random streams.

    margin: a share; a mode is "not inferior within" it when the one-sided 95 % bound of its loss is smaller (Tango's
    interval of the paired difference). Seconds are of one run each, after a warm-up of two prompts.
    """
    if not decode.exact:
        raise UserError("agreement is measured against the exact protocol; leave cache, threshold and factor out")
    if len(prompts) < 2:
        raise UserError(f"{len(prompts)} prompts are too few to compare modes on; give at least 2")
    exact, seconds = _run(executor, prompts, decode)
    graded = [grade(i, c.text) for i, c in enumerate(exact)]
    rows = []
    for name, changed in modes_of(executor, decode, modes).items():
        found, took = _run(executor, prompts, changed)
        rows.append(_row(name, changed, (exact, seconds, graded), (found, took, grade), margin))
        say(f"{name}: {rows[-1].tokens_changed:.1%} of tokens changed, {rows[-1].faster:.2f} x, {rows[-1].verdict}")
    return rows


def _run(executor: Executor, prompts: Sequence[Sequence[int]], decode: Decode) -> tuple[list[Completion], float]:
    keys = [stream_key("agreement", i) for i in range(len(prompts))]
    found: dict[int, Completion] = {}

    def done(places: list[int], completions: list[Completion]) -> None:
        found.update(zip(places, completions, strict=True))

    executor.complete(prompts[:2], keys[:2], decode, done)
    start = time.perf_counter()
    executor.complete(prompts, keys, decode, done)
    return [found[i] for i in range(len(prompts))], time.perf_counter() - start


def _row(
    name: str, d: Decode, exact: tuple[list[Completion], float, list[tuple[str, bool]]],
    mode: tuple[list[Completion], float, Grader], margin: float,
) -> Row:  # fmt: skip
    (a, a_seconds, a_graded), (b, b_seconds, grade) = exact, mode
    b_graded = [grade(i, c.text) for i, c in enumerate(b)]
    pairs = [
        x != y
        for p, q in zip(a, b, strict=True)
        for x, y in list(zip(p.token_ids, q.token_ids, strict=True))[: p.length + 1]
    ]
    effect = paired([float(r) for _, r in b_graded], [float(r) for _, r in a_graded], name=name)
    bound = tango(effect.gain or 0, effect.loss or 0, effect.n, 0.90)[0]
    return Row(
        name, d.card(), sum(pairs) / len(pairs), sum(x != y for (x, _), (y, _) in zip(a_graded, b_graded, strict=True)),
        effect, bound, verdict(bound, effect.high, margin), a_seconds / b_seconds,
        sum(c.forwards for c in a) / sum(c.forwards for c in b),
        sum(c.forward_tokens for c in a) / sum(c.forward_tokens for c in b),
    )  # fmt: skip


def verdict(bound: float, high: float, margin: float) -> str:
    """In words. bound: lower one-sided 95 % bound of the accuracy difference; high: its upper two-sided bound."""
    if bound > -margin:
        return f"not inferior within {margin:.3g}"
    return "worse" if high < 0 else "not resolved at this N"


def presets(rows: Sequence[Row], decode: Decode) -> dict[str, dict[str, object]]:
    """What --speed means on the measured task: exact; balanced and fast, the quickest modes the evidence allows.

    balanced: not inferior within the margin; fast: not shown to be worse. Where no mode qualifies, exact.
    """

    def quickest(kept: list[Row]) -> dict[str, object]:
        best = max(kept, key=lambda r: r.faster, default=None)
        return best.decode if best is not None and best.faster > 1 else decode.card()

    return {
        "exact": decode.card(),
        "balanced": quickest([r for r in rows if r.verdict.startswith("not inferior")]),
        "fast": quickest([r for r in rows if r.verdict != "worse"]),
    }


def table(rows: Sequence[Row], *, timed: bool = True) -> str:
    """Markdown. timed: with seconds, which say little of a machine that did other work beside."""
    head = "| mode | tokens changed | answers flipped | points | 95 % interval | verdict | passes | computed |"
    lines = [head + " faster |" * timed, "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |" + " ---: |" * timed]
    lines += [
        f"| {r.mode} | {r.tokens_changed:.1%} | {r.answers_flipped} of {r.effect.n} | {100 * r.effect.value:+.1f} | "
        f"[{100 * r.effect.low:+.1f}, {100 * r.effect.high:+.1f}] | {r.verdict} | {r.passes:.2f} x | "
        f"{r.computed:.2f} x |" + f" {r.faster:.2f} x |" * timed
        for r in rows
    ]
    return "\n".join(lines)
