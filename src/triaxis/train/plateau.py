"""The plateau doctor: why does a distilled adapter stop improving, and is that a limit of the method at all?

Trains the factorial of block coverage, loss span, capacity, layer range and data size with several training seeds,
evaluates every cell on the same items, and reads main effects and interactions from contrasts within each item. A line
that is flat across capacity is no evidence of impossibility while another factor moves it, or while the adapter is on
only where the answer has long been decided; both are measured here and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from triaxis.errors import UserError, lookup
from triaxis.estimate.factorial import Attribution, attribute
from triaxis.estimate.paired import Estimate, contrast, finish, paired
from triaxis.estimate.votes import majority, oracle_vote
from triaxis.sampling.schedule import Decode
from triaxis.streams import stream_key
from triaxis.train.distil import (
    MIXTURE,
    Distil,
    Headroom,
    Regime,
    Sorted,
    agreement,
    consensus_data,
    find_regime,
    mix,
    refusal,
    sort_items,
)
from triaxis.train.doctor import block_shift
from triaxis.train.fit import Note, fit
from triaxis.train.sampled import Bench, Floats, Sampled

if TYPE_CHECKING:
    from triaxis.tasks.base import Item
    from triaxis.train.recipes import Recipe

# factor -> its levels, the poorer one first
FACTORS: Mapping[str, tuple[str, str]] = {
    "coverage": ("last:1", "all"),
    "span": ("answer", "response"),
    "rank": ("8", "32"),
    "layers": ("0.75-1", "0-1"),
    "data": ("0.25", "1"),
}
# what is said of a factor whose richer level helps
LIMITS: Mapping[str, str] = {
    "coverage": "placement-limited",
    "span": "supervision-limited",
    "rank": "capacity-limited",
    "layers": "capacity-limited",
    "data": "data-limited",
}
FLIPS = 0.05  # share of answers changed right and wrong together, from which errors can mask gains
DECIDED = 0.9  # share of items from which a block counts as the one where answers are decided
Cell = tuple[str, ...]


def design(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The chosen factors in the table's order. UserError for an unknown one or fewer than two."""
    for name in names:
        lookup("factor", FACTORS, name)
    chosen = {f: levels for f, levels in FACTORS.items() if f in names}
    if len(chosen) < 2:
        raise UserError(f"{len(chosen)} factor named; a factorial needs at least 2 of {', '.join(FACTORS)}")
    return chosen


def recipe_of(base: Recipe, level: Mapping[str, str], seed: int) -> Recipe:
    """The recipe of a cell; alpha follows the rank, so that capacity is not a learning rate."""
    changes: dict[str, Any] = {"seed": seed}
    if "rank" in level:
        changes |= {"rank": int(level["rank"]), "alpha": base.alpha * int(level["rank"]) / base.rank}
    if "layers" in level:
        low, high = (float(x) for x in level["layers"].split("-"))
        changes["layers"] = (low, high)
    if "span" in level:
        changes["span"] = level["span"]
    return replace(base, **changes)


def _fewer(rows: Sequence[Sorted], share: float) -> list[Sorted]:
    """The first share of every bucket."""
    parts = ([r for r in rows if r.bucket == b] for b in MIXTURE)
    return [r for part in parts for r in part[: max(1, round(share * len(part)))]]


# ---------------------------------------------------------------- where the answer is decided


class Decided(NamedTuple):
    """Of one block: share of items whose answer stays when the blocks before it are clamped and the rest re-sampled."""

    block: int
    same: float
    low: float
    high: float


def decided(bench: Bench, items: Sequence[Item], decode: Decode, *, draws: int = 3, heat: float = 0.7) -> list[Decided]:
    """For each block: clamp the greedy completion up to it, re-sample the rest, and see how often the answer stays.

    Blocks count from 0: block 0 clamps nothing, block `blocks` would clamp everything. The re-sampling is exact: the
    clamped tokens become part of the prompt, which a bidirectional executor reads as the same canvas.
    """
    from triaxis.estimate.paired import cluster_mean
    from triaxis.tasks.grading import grade_many

    executor = bench.executor
    prompts = [executor.prompt_ids(i.question) for i in items]
    greedy = executor.generate_ids(prompts, replace(decode, temperature=0.0))
    answers = [g.answer for g in grade_many(bench.task, [executor.text(g) for g in greedy], items)]
    out = []
    for block in range(decode.blocks):
        start = block * decode.block_length
        rest = replace(
            decode, gen_length=decode.gen_length - start, temperature=heat,
            steps=decode.steps // decode.blocks * (decode.blocks - block),
        )  # fmt: skip
        work = [(i, d) for i in range(len(items)) for d in range(draws)]
        clamped = [[*prompts[i], *greedy[i][:start]] for i, _ in work]
        keys = [stream_key("decided", d, items[i].id, block) for i, d in work]
        rows = executor.denoise(clamped, keys, rest)
        texts = [executor.text([*greedy[i][:start], *row.ids]) for (i, _), row in zip(work, rows, strict=True)]
        said = grade_many(bench.task, texts, [items[i] for i, _ in work])
        same = [g.answer == answers[i] for g, (i, _) in zip(said, work, strict=True)]
        e = cluster_mean(np.array(same, dtype=float).reshape(len(items), draws), bounds=(0, 1))
        out.append(Decided(block, e.value, e.low, e.high))
    return out


def earliest(found: Sequence[Decided]) -> int | None:
    """The first block before which the answer of most items is decided, None where none is."""
    return next((d.block for d in found if d.same >= DECIDED), None)


# ---------------------------------------------------------------- the verdict


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reading of the factorial, and what it rests on."""

    name: str
    reason: str


def _points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def verdicts(
    effects: Mapping[str, Estimate], over_greedy: Estimate, to_target: Estimate, gain: float, loss: float
) -> list[Verdict]:
    """What the plateau is due to. effects: main effect of each factor, richer level minus poorer.

    over_greedy and to_target: the richest cell minus greedy and minus the target (the vote, or the oracle for gold
    labels). gain, loss: shares of answers that the richest cell changes to right and to wrong.
    """
    close = to_target.verdict == "lift" or to_target.verdict.startswith("equivalent")
    if close and over_greedy.verdict == "lift":
        return [Verdict("at target", f"the richest cell is {_points(to_target)} from the target")]
    found = [
        Verdict(LIMITS[name], f"the richer level of {name} is worth {_points(e)}")
        for name, e in sorted(effects.items(), key=lambda pair: -pair[1].value)
        if e.verdict == "lift"
    ]
    unmet = over_greedy.verdict == "drop" or (not found and over_greedy.verdict != "lift")
    if unmet and min(gain, loss) > 0 and gain + loss >= FLIPS:
        changed = f"{100 * gain:.1f} % of the answers become right and {100 * loss:.1f} % become wrong"
        found.append(Verdict("masked errors", f"{changed}: gains are there and are eaten up"))
    if found:
        return found
    least = max((e.mde80 for e in effects.values() if e.mde80 is not None), default=None)
    see = "" if least is None else f"; with this N an effect of {100 * least:.1f} points would have been seen"
    return [Verdict("not resolved", f"no factor moves the richest cell that this N can show{see}")]


def capacity_note(
    effects: Mapping[str, Estimate], simple: Mapping[str, Estimate], found: Sequence[Decided], blocks: int
) -> str:
    """Whether a line flat across capacity would say anything, in words. simple: effect of rank in the poorest and the
    richest surrounding."""
    rank = effects.get("rank")
    if rank is None:
        return "capacity was not varied: nothing is said about it"
    if rank.verdict == "lift":
        return f"capacity helps ({_points(rank)}): the line is not flat"
    movers = [n for n, e in effects.items() if n != "rank" and e.verdict == "lift"]
    parts = [f"the line across capacity {slope(rank.verdict)} ({_points(rank)})"]
    if movers:
        parts.append(f"but {', '.join(movers)} move it, so what capacity cannot do another choice can")
    late = next((d for d in found if d.block == blocks - 1), None)
    if late is not None and late.same >= 0.5:
        where = f"{100 * late.same:.0f} % of the answers are decided before the last block begins"
        parts.append(f"{where}: an adapter that is on only there cannot change them at any size")
    parts += [f"capacity is worth {_points(e)} in the {where} cell" for where, e in simple.items()]
    return "; ".join([*parts, "that is therefore not evidence of impossibility"])


def slope(verdict: str) -> str:
    """What a line across capacity does that does not rise."""
    return "falls" if verdict == "drop" else "is flat"


# ---------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True)
class _Trained:
    """What one trained cell said on the tests, by training seed."""

    level: Mapping[str, str]
    said: tuple[Sampled, ...]
    folders: tuple[Path, ...]

    @property
    def score(self) -> Floats:
        return np.asarray(np.mean([s.score for s in self.said], axis=0), dtype=float)


def diagnose(
    bench: Bench, d: Distil, out: Path, *, factors: Sequence[str] = tuple(FACTORS), probes: int = 40,
    note: Note | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train and evaluate the factorial in `out` (resumable) and say what limits the adapter.

    Refused as distillation is, where the regime has no headroom: nothing can be told from a target that is not there.
    """
    f = lay_out(bench, d, out, factors)
    if isinstance(f, dict):
        return f
    many = f.regime.decode(bench.executor.default_decode(), branch=True)
    cells = f.trained(note)
    greedy, branches = bench.sample(f.tests, f.one), bench.sample(f.tests, many, branches=d.k)
    target = (majority if d.label == "vote" else oracle_vote)(branches.ballots).score
    known = decided(bench, f.tests[:probes], f.one)
    found = _told(d, f.chosen, f.tried)
    return {**found, "regime": f.regime.name, "data": f.report, "n": len(f.tests), "seeds": list(d.seeds),
            **_read(bench, f.chosen, cells, greedy, target, known, f.one, f.tests[:8])}  # fmt: skip


def lay_out(bench: Bench, d: Distil, out: Path, factors: Sequence[str] = tuple(FACTORS)) -> Factorial | dict[str, Any]:
    """The factorial before anything is trained; where the regime has no headroom, the refusal as plain data."""
    chosen = design(factors)
    items = bench.task.items(d.items, split="train", seed=0)
    regime, tried = find_regime(bench, d, items)
    if regime is None:
        return {**_told(d, chosen, tried), "refused": refusal(tried, d.label)}
    rows, report = _mixture(bench, d, regime, items)
    return Factorial(bench, d, chosen, out, regime, rows, report, tried)


def _told(d: Distil, chosen: Mapping[str, tuple[str, str]], tried: Sequence[Headroom]) -> dict[str, Any]:
    return {"label": d.label, "headroom": [h.as_dict() for h in tried], "factors": chosen}


def _mixture(bench: Bench, d: Distil, regime: Regime, items: Sequence[Item]) -> tuple[list[Sorted], dict[str, Any]]:
    base = bench.executor.default_decode()
    greedy = bench.sample(items, regime.decode(base))
    branches = bench.sample(items, regime.decode(base, branch=True), branches=d.k)
    rows = sort_items(items, greedy, branches, d.label)
    return mix(rows), agreement(rows, greedy, branches)


@dataclass(frozen=True, eq=False)
class Factorial:
    """A factorial with everything its cells share: the regime, the mixture, the items. Made by `lay_out`."""

    bench: Bench
    d: Distil
    chosen: Mapping[str, tuple[str, str]]
    out: Path
    regime: Regime
    rows: Sequence[Sorted]
    report: Mapping[str, Any]
    tried: Sequence[Headroom]

    @property
    def cells(self) -> list[dict[str, str]]:
        """The level of every factor, by cell."""
        return [dict(zip(self.chosen, cell, strict=True)) for cell in product(*self.chosen.values())]

    @property
    def one(self) -> Decode:
        return self.regime.decode(self.bench.executor.default_decode())

    @cached_property
    def items(self) -> Sequence[Item]:
        return self.bench.task.items(self.d.items, split="train", seed=0)

    @cached_property
    def tests(self) -> Sequence[Item]:
        return self.bench.task.items(self.d.n, seed=0)

    def cell(self, level: Mapping[str, str], seed: int, note: Note | None = None) -> tuple[Path, Sampled]:
        """Train one cell with one seed and sample the tests; coverage is a matter of the schedule alone, so cells that
        differ only in it share an adapter. Cells of other adapters may be made side by side."""
        recipe = recipe_of(self.d.recipe, level, seed)
        part = _fewer(self.rows, float(level.get("data", "1")))
        data, held = consensus_data(self.bench, self.items, part, recipe)
        name = "_".join(f"{k}-{v}" for k, v in level.items() if k != "coverage") or "one"
        folder = self.out / "cells" / f"{name}_s{seed}"
        card = {"kind": "consensus", "label": self.d.label, "cell": name}
        fit(self.bench.executor, recipe, data, folder, held=held, card=card, note=note, tracker=self.d.tracker)
        return folder, self.bench.sample(self.tests, self.one, adapter=f"{folder}@{level.get('coverage', 'all')}")

    def trained(self, note: Note | None = None) -> dict[Cell, _Trained]:
        """Every cell with every seed; what is there is not made again."""
        made = {}
        for level in self.cells:
            done = [self.cell(level, seed, note) for seed in self.d.seeds]
            made[tuple(level.values())] = _Trained(level, tuple(s for _, s in done), tuple(f for f, _ in done))
        return made


def _read(
    bench: Bench, chosen: Mapping[str, tuple[str, str]], cells: Mapping[Cell, _Trained], greedy: Sampled,
    target: Floats, known: Sequence[Decided], one: Decode, probes: Sequence[Item],
) -> dict[str, Any]:  # fmt: skip
    ids = [str(i) for i in range(len(target))]
    scores = {cell: dict(zip(ids, t.score.tolist(), strict=True)) for cell, t in cells.items()}
    a: Attribution = attribute(chosen, scores)
    mains = {e.factors[0]: e.estimate for e in a.effects if len(e.factors) == 1}
    rich = cells[tuple(levels[-1] for levels in chosen.values())]
    over, to = finish([paired(rich.score, greedy.score, name="richest cell minus greedy"),
                       paired(rich.score, target, name="richest cell minus target")])  # fmt: skip
    flips = {" ".join(cell): _flips(greedy, t) for cell, t in cells.items()}
    best = flips[" ".join(tuple(levels[-1] for levels in chosen.values()))]
    simple = _simple(chosen, cells, "rank") if "rank" in chosen else {}
    prompts = [bench.executor.prompt_ids(i.question) for i in probes]
    shift = block_shift(bench.executor, prompts, one, f"{rich.folders[0]}@{rich.level.get('coverage', 'all')}")
    return {
        **a.as_dict(),
        "by_seed": _by_seed(chosen, cells),
        "over_greedy": over.effect(), "to_target": to.effect(), "flips": flips,
        "decided": [x._asdict() for x in known], "earliest_decided": earliest(known),
        "shift": [s._asdict() for s in shift],
        "verdicts": [asdict(v) for v in verdicts(mains, over, to, best["gain"], best["loss"])],
        "capacity": capacity_note(mains, simple, known, one.blocks),
    }  # fmt: skip


def _simple(chosen: Mapping[str, tuple[str, str]], cells: Mapping[Cell, _Trained], factor: str) -> dict[str, Estimate]:
    """The effect of one factor with all others at their poorer, and at their richer level."""
    out = {}
    for k, where in ((0, "poorest"), (1, "richest")):
        low, high = (tuple(levels[side if name == factor else k] for name, levels in chosen.items()) for side in (0, 1))
        out[where] = paired(cells[high].score, cells[low].score, name=f"{factor} in the {where} cell")
    return out


def _by_seed(chosen: Mapping[str, tuple[str, str]], cells: Mapping[Cell, _Trained]) -> dict[str, list[float]]:
    """Each main effect by training seed: the interval is over items, this is the spread over trainings."""
    order = list(cells)
    out = {}
    for at, (name, levels) in enumerate(chosen.items()):
        weights = np.array([1.0 if cell[at] == levels[1] else -1.0 for cell in order]) / (len(order) / 2)
        seeds = range(len(cells[order[0]].said))
        out[name] = [contrast(weights, np.stack([cells[c].said[s].score for c in order], axis=1)).value for s in seeds]
    return out


def _flips(greedy: Sampled, t: _Trained) -> dict[str, float]:
    """Shares of texts and answers that differ from greedy, and of answers that become right and wrong, over seeds."""
    pairs = [(s, i) for s in t.said for i in range(len(greedy.texts))]
    return {
        "text": float(np.mean([s.texts[i][0] != greedy.texts[i][0] for s, i in pairs])),
        "answer": float(np.mean([s.answers[i][0] != greedy.answers[i][0] for s, i in pairs])),
        "gain": float(np.mean([(s.right & ~greedy.right).mean() for s in t.said])),
        "loss": float(np.mean([(~s.right & greedy.right).mean() for s in t.said])),
    }
