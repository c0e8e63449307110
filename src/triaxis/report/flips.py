"""Items whose outcome differs between a condition and the one it is compared with: what to look at first.

Reads rows, grades, plans and condition cards; knows nothing of HTML. An item's score is its vote, averaged over
seeds, so a condition of one branch scores as in axes 1 and 2 and one of several as in axis 3; gained and lost items
therefore are the `gain` and `loss` of the effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from triaxis.errors import UserError
from triaxis.limits import parse_json
from triaxis.report.words import clip, number
from triaxis.store import GradeRow, PlanRow, Row

FLAGS = ("tie", "unreadable", "truncated")  # a tied vote; a branch that could not be read; one cut by the canvas
LONGEST = 1500  # characters of any one text; its middle is left out beyond them


@dataclass(frozen=True, slots=True)
class Side:
    """What one condition showed for one item and what came back."""

    condition: str
    before: str  # text put before the question
    after: str  # text put after it
    prompt: str  # the whole prompt, only where it does not hold the bare question
    plan: str  # the plan's text, only where the prompt does not hold it as it is
    plan_notes: Sequence[str]
    text: str
    verdict: str
    answer: str
    outcome: str  # the answer that counts, or those that tie
    notes: Sequence[str]
    votes: Sequence[tuple[str, str, int]]  # answer, verdict, branches; empty for one branch


@dataclass(frozen=True, slots=True)
class Flip:
    """One item under a condition and under the one it is compared with. `gold` is "" where no plan states it."""

    item: str
    direction: Literal["gained", "lost", "same"]
    flags: Sequence[str]  # of FLAGS, on either side
    question: str
    gold: str
    old: Side
    new: Side


@dataclass(frozen=True, slots=True)
class Pair:
    """A condition against the one its card names, with the items that flipped, in order of their ids.

    `others`: items that did not flip, but with one of FLAGS on either side.
    """

    condition: str
    against: str
    n: int
    gained: int
    lost: int
    items: Sequence[str]
    others: Sequence[str]


class Flips:
    """The flips of a study. Counts are made at once, the texts of a flip when it is asked for."""

    def __init__(
        self,
        rows: Sequence[Row],
        grades: Mapping[str, GradeRow],
        plans: Mapping[str, PlanRow],
        cards: Sequence[Mapping[str, Any]],
    ) -> None:
        self.grades, self.plans = grades, plans
        self.rows: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in sorted(rows, key=lambda r: (r.item, r.seed, r.branch)):
            if row.id not in grades:
                raise UserError(
                    f"row {row.id} of condition {row.condition!r} has no grade; run triaxis grade on the folder first"
                )
            self.rows[row.condition][row.item].append(row)
        self.bare = next((str(c["name"]) for c in cards if c.get("role") == "baseline"), "none")
        self.branches = {str(c["name"]): int(c.get("branches", 1)) for c in cards}
        self.scores = {name: self._scores(name) for name in self.rows}
        compared = [(str(c["name"]), str(c.get("against", ""))) for c in cards if c.get("role") != "stage"]
        self.pairs = [self._pair(a, b) for a, b in compared if a != b and a in self.scores and b in self.scores]

    def __iter__(self) -> Iterator[tuple[int, Flip]]:
        """(pair, flip): the first of every pair, then the second of every pair, and so on: any prefix is fair.

        Items that did not flip come after all that did.
        """
        for which in ("items", "others"):
            found = [getattr(p, which) for p in self.pairs]
            for depth in range(max(map(len, found), default=0)):
                for place, items in enumerate(found):
                    if depth < len(items):
                        yield place, self._flip(self.pairs[place], items[depth])

    def _scores(self, condition: str) -> dict[str, float]:
        size = self.branches.get(condition, 1)
        if size == 1 and all(len(rows) == 1 for rows in self.rows[condition].values()):
            return {i: float(self.grades[rows[0].id].verdict == "right") for i, rows in self.rows[condition].items()}
        graded = {i: [self.grades[r.id] for r in rows] for i, rows in self.rows[condition].items()}
        by_seed = {i: [g[k : k + size] for k in range(0, len(g), size)] for i, g in graded.items()}
        return {i: sum(map(_vote, seeds)) / len(seeds) for i, seeds in by_seed.items()}

    def _pair(self, condition: str, against: str) -> Pair:
        new, old = self.scores[condition], self.scores[against]
        both = sorted(new.keys() & old.keys())
        changed = [i for i in both if new[i] != old[i]]
        gained = sum(new[i] > old[i] for i in changed)
        marked = self._flags[condition].keys() | self._flags[against].keys()
        others = [i for i in both if i in marked and new[i] == old[i]]
        return Pair(condition, against, len(both), gained, len(changed) - gained, changed, others)

    def _flip(self, pair: Pair, item: str) -> Flip:
        question = self._question(item, pair.against)
        new, old = (self._side(name, item, question) for name in (pair.condition, pair.against))
        change = self.scores[pair.condition][item] - self.scores[pair.against][item]
        way: Literal["gained", "lost", "same"] = "gained" if change > 0 else "lost" if change < 0 else "same"
        marked = {f for name in (pair.condition, pair.against) for f in self._flags[name].get(item, ())}
        return Flip(
            item, way, [f for f in FLAGS if f in marked], clip(question, LONGEST), self._gold.get(item, ""), old, new
        )

    def _question(self, item: str, against: str) -> str:
        bare = self.rows.get(self.bare, {}).get(item) or self.rows[against][item]
        return bare[0].prompt

    @cached_property
    def _flags(self) -> dict[str, dict[str, set[str]]]:
        """condition -> item -> its flags; items without any are left out."""
        found: dict[str, dict[str, set[str]]] = {}
        for name, items in self.rows.items():
            found[name] = mine = {}
            for item, rows in items.items():
                flags = {"truncated"} if any(not r.ended for r in rows) else set()
                if any(self.grades[r.id].verdict == "unreadable" for r in rows):
                    flags.add("unreadable")
                if len(rows) > 1 and len(_tied(_votes([self.grades[r.id] for r in rows]))) > 1:
                    flags.add("tie")
                if flags:
                    mine[item] = flags
        return found

    @cached_property
    def _gold(self) -> dict[str, str]:
        """The expected answer by item, as the plans' own notes state it."""
        return {p.item: str(gold) for p in self.plans.values() if (gold := _detail(p).get("gold")) is not None}

    def _side(self, condition: str, item: str, question: str) -> Side:
        rows = self.rows[condition][item]
        votes = _votes([self.grades[r.id] for r in rows]) if len(rows) > 1 else []
        shown = next(r for r in rows if not votes or self.grades[r.id].answer == votes[0][0])
        grade, plan = self.grades[shown.id], self.plans.get(shown.plan)
        before, found, after = shown.prompt.partition(question or "\0")
        return Side(
            condition=condition,
            before=clip(before.strip("\n"), LONGEST) if found else "",
            after=clip(after.strip("\n"), LONGEST) if found else "",
            prompt="" if found else clip(shown.prompt, LONGEST),
            plan=clip(plan.text, LONGEST) if plan and plan.text not in shown.prompt else "",
            plan_notes=_plan_notes(plan) if plan else [],
            text=clip(shown.text, LONGEST),
            verdict=grade.verdict,
            answer=grade.answer,
            outcome=" / ".join(_tied(votes) or [grade.answer or "unreadable"]),
            notes=[*_notes(shown, grade), *(["tied vote"] if len(_tied(votes)) > 1 else [])],
            votes=votes,
        )


def _votes(grades: Sequence[GradeRow]) -> list[tuple[str, str, int]]:
    """(answer, verdict, branches), most voted first, unreadable last."""
    counts: dict[tuple[str, str], int] = {}
    for g in grades:
        counts[g.answer, g.verdict] = counts.get((g.answer, g.verdict), 0) + 1
    ordered = sorted(counts.items(), key=lambda c: (c[0][0] == "", -c[1]))
    return [(answer, verdict, count) for (answer, verdict), count in ordered]


def _vote(grades: Sequence[GradeRow]) -> float:
    """The share of the most voted answers that are right: the "uniform" tie rule of triaxis.estimate.diversity.

    Written again here because that module brings SciPy, whose import is as long as all of this.
    """
    votes = _votes(grades)
    tied = [verdict for answer, verdict, count in votes if answer != "" and count == votes[0][2]]
    return tied.count("right") / len(tied) if tied else 0.0


def _tied(votes: Sequence[tuple[str, str, int]]) -> list[str]:
    """The most voted readable answers; none for a single branch."""
    return [answer for answer, _, count in votes if answer != "" and count == votes[0][2]]


def _notes(row: Row, grade: GradeRow) -> list[str]:
    notes = {"marked": "marked answer", "fallback": "read by the fallback rule", "none": "no answer found"}
    found = [notes.get(grade.how, grade.how)]
    if not row.ended:
        found.append("truncated by the canvas")
    if grade.second >= 0 and bool(grade.second) != (grade.verdict == "right"):
        found.append("the second grader disagrees")
    return found


def _plan_notes(plan: PlanRow) -> list[str]:
    detail = _detail(plan)
    found = [plan.source, f"{number(plan.tokens, 0)} tokens"]
    if plan.truncated:
        found.append("cut at its limit")
    if detail.get("implied") is not None:  # it has calculations; a filler has none
        found += (
            [] if detail.get("steps_right") is None else ["steps right" if detail["steps_right"] else "steps wrong"]
        )
        found.append(f"implies {detail['implied']}")
    if detail.get("leaks"):
        found.append("states the answer")
    return found


def _detail(plan: PlanRow) -> dict[str, Any]:
    """What the plan's source says of it; nothing where that is not an object."""
    try:
        found = parse_json(plan.detail)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
