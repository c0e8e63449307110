"""Two or more result files on the same items: is one better, are they equivalent, or can this N not say?

Pairs by item id and refuses what would make the pairing false: unequal item sets, ids that stand for other questions,
items counted twice, a file compared with itself. value = B minus A throughout, gain = items B has right and A wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate.paired import (
    CochranQ,
    Estimate,
    cochran_q,
    e_value,
    finish,
    paired,
    tost,
    wilson,
)
from triaxis.estimate.results import Record, Results
from triaxis.store.protocol import differences as protocol_differences

if TYPE_CHECKING:
    from triaxis.estimate.votes import Vote

Scores = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How to compare. Shares throughout (0.05 = five points)."""

    intersect: bool = False  # unequal item sets: compare the shared items
    repeats: str = "refuse"  # or "average": an item that comes twice without a seed or branch
    vote: bool = False  # score the plurality vote of each item's branches, ties split evenly
    identical: bool = False  # let two equal files through
    margin: float = 0.05
    alpha: float = 0.05
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.repeats not in ("refuse", "average"):
            raise UserError(f"repeats is 'refuse' or 'average', not {self.repeats!r}")


class Side(NamedTuple):
    """One file in a comparison: mean score over the compared items, with Wilson's interval where scores are 0/1."""

    label: str
    accuracy: float
    low: float | None
    high: float | None
    replicates: int  # most branches and seeds an item has
    dropped: int  # items left out because the other side lacks them


class Equal(NamedTuple):
    """TOST at the margin. low and high: the 1 - 2 alpha interval."""

    margin: float
    p: float | None  # None: a difference beyond the margin is impossible
    equivalent: bool
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """B against A on the same items."""

    effect: Estimate
    a: Side
    b: Side
    tost: Equal
    e_value: float  # on the items' signs
    warnings: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The answer in words."""
        e = self.effect
        if e.value:
            what = (
                f"{self.b.label} is {100 * abs(e.value):.1f} points {'above' if e.value > 0 else 'below'} "
                f"{self.a.label}"
            )
        else:
            what = f"{self.b.label} and {self.a.label} have the same mean"
        span = f"{100 * e.level:g} % interval {100 * e.low:+.1f} to {100 * e.high:+.1f}, p = {e.p:.3g}, {e.n} items"
        sees = "no effect of any size" if e.mde80 is None else f"{100 * e.mde80:.1f} points or more"
        return f"{what} ({span}): {e.verdict}. This design sees {sees} with 80 % power."

    def as_dict(self) -> dict[str, Any]:
        """The JSON Effect and everything beside it."""
        sides = {"a": self.a._asdict(), "b": self.b._asdict()}
        more = {"tost": self.tost._asdict(), "e_value": self.e_value, **sides, "warnings": list(self.warnings)}
        return {**self.effect.effect(), "level": self.effect.level, "sentence": self.sentence, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Several comparisons on one set of items; their p_holm are of the family."""

    comparisons: tuple[Comparison, ...]
    cochran: CochranQ | None  # None: scores are not all 0 or 1, or no item is discordant
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        q = None if self.cochran is None else self.cochran._asdict()
        return {
            "effects": [c.as_dict() for c in self.comparisons],
            "cochran_q": q,
            "warnings": list(self.warnings),
        }


def compare(a: Results, b: Results, how: How = How()) -> Comparison:
    """B minus A. UserError where the files cannot be paired, UndefinedEstimate where there is nothing to estimate."""
    return compare_many([a, b], how).comparisons[0]


def compare_many(files: Sequence[Results], how: How = How(), *, against: str = "first") -> Family:
    """Each file against the first, or ("all") every pair; Cochran's Q over all, Holm within the family."""
    if len(files) < 2:
        raise UserError("a comparison needs at least two result files")
    if against not in ("first", "all"):
        raise UserError(f"against is 'first' or 'all', not {against!r}")
    _check_different(files, how)
    scores = [item_scores(f, how) for f in files]
    shared = _shared(files, scores, how)
    _check_questions(files, shared)
    pairs = list(combinations(range(len(files)), 2))
    pairs = [p for p in pairs if p[0] == 0] if against == "first" else pairs
    columns = [np.array([s[item] for item in shared]) for s in scores]
    estimates = [
        paired(columns[j], columns[i], level=how.level, name=f"{files[j].label} vs {files[i].label}") for i, j in pairs
    ]
    finished = finish(estimates, margin=how.margin, alpha=how.alpha)
    sides = [_side(f, s, c, how) for f, s, c in zip(files, scores, columns, strict=True)]
    made = []
    for (i, j), e in zip(pairs, finished, strict=True):
        notes = _notes(files[i], files[j], shared, how)
        evidence = e_value(e.gain or 0, e.loss or 0)
        made.append(Comparison(effect=e, a=sides[i], b=sides[j], tost=_equal(e, how), e_value=evidence, warnings=notes))
    everywhere = tuple(dict.fromkeys(w for c in made for w in c.warnings))
    return Family(comparisons=tuple(made), cochran=_cochran(columns), warnings=everywhere)


def item_scores(results: Results, how: How = How()) -> Scores:
    """One score an item: the mean of its branches and seeds, or their vote. UserError on items counted twice."""
    by_item = _by_item(results)
    if how.repeats == "refuse":
        _check_repeats(results)
    _check_doubled(results)
    if how.vote:
        return _votes(results, by_item)
    return {item: sum(r.score for r in found) / len(found) for item, found in by_item.items()}


def growing(a: Results, b: Results, branches: int) -> tuple[int, int, int]:
    """(gain, loss, n) over the items that both files hold with all their `branches` so far; for watching.

    UserError when an item has more than `branches` scores: its mean would move after it was counted.
    """
    left, right = _complete(a, branches), _complete(b, branches)
    shared = left.keys() & right.keys()
    gain = sum(1 for item in shared if right[item] > left[item] + 1e-12)
    loss = sum(1 for item in shared if right[item] < left[item] - 1e-12)
    return gain, loss, len(shared)


def _complete(results: Results, branches: int) -> Scores:
    by_item: dict[str, list[float]] = {}
    for r in results.records:
        by_item.setdefault(r.item, []).append(r.score)
    most = max(map(len, by_item.values()), default=0)
    if most > branches:
        raise UserError(f"{results.path}: an item has {most} scores, {branches} expected; say how many with --branches")
    return {item: sum(found) / branches for item, found in by_item.items() if len(found) == branches}


# ---------------------------------------------------------------- what makes a pairing false


def _check_different(files: Sequence[Results], how: How) -> None:
    seen: dict[tuple[str, tuple[str, ...]], Results] = {}
    for f in files:
        key = (f.digest, f.conditions)
        if key in seen and not how.identical:
            raise UserError(
                f"{seen[key].path} and {f.path} hold the same results, byte for byte: nothing is compared; "
                "check the paths, or pass --allow-identical"
            )
        seen[key] = f


def _check_repeats(results: Results) -> None:
    seen: dict[tuple[str, str, str], Record] = {}
    for r in results.records:
        key = (r.item, r.seed, r.branch)
        if key not in seen:
            seen[key] = r
            continue
        times = sum(1 for other in results.records if (other.item, other.seed, other.branch) == key)
        first = f" (first on line {seen[key].line})" if results.at(r) != str(results.path) else ""
        what = f"item {r.item!r}" + (f" seed {r.seed}" if r.seed else "") + (f" branch {r.branch}" if r.branch else "")
        raise UserError(
            f"{results.at(r)}: {what} is counted {times} times{first}; drop the repeats, tell them apart by a 'branch' "
            "or 'seed' column, or pass --repeats average"
        )


def _check_doubled(results: Results) -> None:
    """Every question under two or more ids: the same items counted twice, at half the real N."""
    where: dict[str, set[str]] = {}
    for r in results.records:
        if r.question or r.prompt:
            where.setdefault(r.question or r.prompt, set()).add(r.item)
    items = len({r.item for r in results.records})
    if where and items > 1 and all(len(ids) > 1 for ids in where.values()):
        ids = sorted(next(iter(where.values())))[:2]
        raise UserError(
            f"{results.path}: {items} item ids stand for {len(where)} questions, each counted twice or more (such as "
            f"{ids[0]!r} and {ids[1]!r}); keep one id a question"
        )


def _check_questions(files: Sequence[Results], shared: Sequence[str]) -> None:
    """The same id must stand for the same question, where the files hold the question."""
    first = {r.item: r.question for r in files[0].records if r.question}
    for f in files[1:]:
        other = {r.item: r.question for r in f.records if r.question}
        differ = [i for i in shared if first.get(i) and other.get(i) and first[i] != other[i]]
        if differ:
            raise UserError(
                f"{files[0].path} and {f.path}: {len(differ)} of {len(shared)} ids stand for different questions, such "
                f"as {differ[0]!r}; these are not the same items"
            )


def _shared(files: Sequence[Results], scores: Sequence[Scores], how: How) -> list[str]:
    shared = [item for item in scores[0] if all(item in s for s in scores[1:])]
    if all(len(s) == len(shared) for s in scores):
        return shared
    if not shared:
        ids = [next(iter(s)) for s in scores[:2]]
        raise UserError(
            f"no item id is in every file: {files[0].path} has ids like {ids[0]!r}, {files[1].path} like {ids[1]!r}; "
            "name the id column with --id"
        )
    if how.intersect:
        return shared
    union = dict.fromkeys(item for s in scores for item in s)
    parts = []
    for f, s in zip(files, scores, strict=True):
        absent = [item for item in union if item not in s]
        if absent:
            parts.append(f"{f.path} lacks {len(absent)} (such as {absent[0]!r})")
    raise UserError(
        f"the files hold different items: {'; '.join(parts)}; pass --intersect to compare the {len(shared)} shared "
        "items"
    )


# ---------------------------------------------------------------- parts of the answer


def _votes(results: Results, by_item: Mapping[str, Sequence[Record]]) -> Scores:
    """The vote of each (item, seed), averaged over seeds."""
    keys, tally = _tally(results, by_item)
    by_seed: dict[str, list[float]] = {}
    for item, score in zip(keys, tally.score.tolist(), strict=True):
        by_seed.setdefault(item, []).append(score)
    return {item: sum(s) / len(s) for item, s in by_seed.items()}


def _tally(results: Results, by_item: Mapping[str, Sequence[Record]]) -> tuple[list[str], Vote]:
    from triaxis.estimate.diversity import vote

    ballots: dict[tuple[str, str], list[Record]] = {}
    for item, found in by_item.items():
        for r in found:
            if r.answer is None:
                raise UserError(
                    f"{results.at(r)}: a vote needs the answers; expected an 'answer' or 'prediction' column"
                )
            ballots.setdefault((item, r.seed), []).append(r)
    sizes = {len(b) for b in ballots.values()}
    if len(sizes) > 1:
        few = min(ballots, key=lambda k: len(ballots[k]))
        short = f"item {few[0]!r} has {len(ballots[few])} branches, others have {max(sizes)}"
        raise UserError(f"{results.path}: {short}; finish the run")
    answers = [[r.answer or "" for r in b] for b in ballots.values()]
    right = [[r.score == 1 for r in b] for b in ballots.values()]
    try:
        return [item for item, _ in ballots], vote(answers, right, rule="uniform")
    except ValueError as e:
        raise UserError(f"{results.path}: the answers contradict the scores ({e}); see triaxis audit rows") from None


def _tie_notes(f: Results) -> list[str]:
    _, tally = _tally(f, _by_item(f))
    ties = int(tally.tie.sum())
    if not ties:
        return []
    low, high = 100 * float(tally.low_tie.mean()), 100 * float(tally.high_tie.mean())
    return [f"{f.label}: {ties} votes are tied and split evenly; other tie rules give {low:.1f} to {high:.1f} %"]


def _by_item(results: Results) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for r in results.records:
        found.setdefault(r.item, []).append(r)
    return found


def _side(f: Results, scores: Scores, column: np.ndarray[Any, np.dtype[np.float64]], how: How) -> Side:
    counts: dict[str, int] = {}
    for r in f.records:
        counts[r.item] = counts.get(r.item, 0) + 1
    mean, n = float(column.mean()), column.size
    binary = bool(np.isin(column, (0, 1)).all())
    low, high = wilson(int(column.sum()), n, how.level) if binary else (None, None)
    return Side(f.label, mean, low, high, max(counts.values()), len(scores) - n)


def _equal(e: Estimate, how: How) -> Equal:
    """As `finish` decides it: on the counts behind the estimate, in units of their step."""
    tilt = e.n * e.value / e.step
    gain, loss = max(0.0, (e.effective + tilt) / 2), max(0.0, (e.effective - tilt) / 2)
    if how.margin >= e.step:
        return Equal(how.margin, None, True, None, None)
    answer = tost(gain, loss, e.n, how.margin / e.step, how.alpha)
    return Equal(how.margin, answer.p, answer.equivalent, e.step * answer.low, e.step * answer.high)


def _cochran(columns: Sequence[np.ndarray[Any, np.dtype[np.float64]]]) -> CochranQ | None:
    if len(columns) < 3 or not all(np.isin(c, (0, 1)).all() for c in columns):
        return None
    try:
        return cochran_q(np.stack(columns, axis=1))
    except UndefinedEstimate:
        return None


def _notes(a: Results, b: Results, shared: Sequence[str], how: How) -> tuple[str, ...]:
    notes = [f"{f.path}: {note}" for f in (a, b) for note in f.notes]
    notes += [note for f in (a, b) for note in (_tie_notes(f) if how.vote else [])]
    notes += _replicate_notes(a) + _replicate_notes(b)
    kept = set(shared)
    texts = [{(r.item, r.seed, r.branch): r.text for r in f.records if r.item in kept} for f in (a, b)]
    if all(texts[0].values()) and texts[0] == texts[1]:
        notes.append(f"all {len(shared)} items have the same completion in both: what set the two apart did nothing")
    arms = [f.conditions[0] if len(f.conditions) == 1 else "" for f in (a, b)]
    differ = protocol_differences(a.protocol, b.protocol, *arms)
    if differ:
        notes.append("the protocols differ in " + "; ".join(differ) + ": the difference is of both together")
    elif (a.protocol is None) != (b.protocol is None):
        without = a if a.protocol is None else b
        notes.append(f"{without.path} has no protocol card: whether both were decoded alike is not known")
    return tuple(notes)


def _replicate_notes(f: Results) -> list[str]:
    by_item = {item: [r.score for r in found] for item, found in _by_item(f).items()}
    sizes = {len(s) for s in by_item.values()}
    notes = []
    if len(sizes) > 1:
        notes.append(f"{f.label}: items have {min(sizes)} to {max(sizes)} scores each; every item counts once")
    if min(sizes) > 1 and all(len(set(s)) == 1 for s in by_item.values()):
        notes.append(f"{f.label}: the repeats of every item agree: they are no replicates and add nothing")
    twice = _same_question(f)
    if twice:
        notes.append(f"{f.label}: {twice} questions stand under more than one id; their items are not independent")
    return notes


def _same_question(f: Results) -> int:
    where: dict[str, set[str]] = {}
    for r in f.records:
        if r.question or r.prompt:
            where.setdefault(r.question or r.prompt, set()).add(r.item)
    return sum(1 for ids in where.values() if len(ids) > 1)


def relabel(files: Sequence[Results]) -> list[Results]:
    """Labels that tell the files apart: the folder is added where names repeat."""
    labels = [f.label for f in files]
    if len(set(labels)) == len(labels):
        return list(files)
    return [replace(f, label=f"{f.path.parent.name}/{f.label}") for f in files]
