"""The three axes against brute force: every number of a summary computed a second time, from plain lists.

Intervals and MDE are those of `estimate/paired.py` and `estimate/power.py`, which have brute-force tests of their
own; here they are called with scores arranged a second time. Everything else is done by hand below.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from triaxis.conditions import Condition, default_conditions, select
from triaxis.errors import UndefinedEstimate
from triaxis.estimate import axes
from triaxis.estimate.paired import cluster_mean, paired, wilson
from triaxis.estimate.power import mde80
from triaxis.store import GradeRow, PlanRow, Row

PARAMETERS = {"s": 100_000, "m": 400_000, "l": 1_600_000}
N = 12


class World:
    """Made-up rows of a study, and the same outcomes as plain lists."""

    def __init__(self, table: Sequence[Condition], n: int = N, seeds: tuple[int, ...] = (0,), key: int = 0) -> None:
        rng = random.Random(key)
        self.cards = [self.card(c, seeds) for c in table]
        self.rows: list[Row] = []
        self.grades: dict[str, GradeRow] = {}
        self.plans: dict[str, PlanRow] = {}
        self.items = [f"item-{i:02d}" for i in range(n)]
        for condition, item in itertools.product(table, self.items):
            plan = self.plan(rng, condition, item)
            used = seeds if dict(condition.decode) else seeds[:1]
            for seed, branch in itertools.product(used, range(condition.branches)):
                answer = rng.choice(["4", "4", "4", "4", "5", "6", ""])  # "4" is right, "" unreadable
                id = f"{condition.name}/{item}/{seed}/{branch}"
                ended, forwards, tokens = rng.random() < 0.9, rng.randint(3, 9), rng.randint(50, 90)
                self.rows.append(Row(id, condition.name, item, branch, seed, plan, "q", "t", tokens, forwards, ended))
                verdict = {"4": "right", "": "unreadable"}.get(answer, "wrong")
                how = "none" if not answer else rng.choice(["marked"] * 5 + ["fallback"])
                self.grades[id] = GradeRow(id, verdict, answer, how, rng.choice([0, 1, 1, 1, -1]))
        rng.shuffle(self.rows)

    @staticmethod
    def card(c: Condition, seeds: tuple[int, ...]) -> dict[str, Any]:
        return {**c.card(), "completions": c.branches * (len(seeds) if dict(c.decode) else 1)}

    def plan(self, rng: random.Random, condition: Condition, item: str) -> str:
        if not condition.plan:
            return ""
        id = f"{condition.plan}/{item}"
        detail = {
            "implied": rng.choice(["4", "5", None]),
            "steps_right": rng.choice([True, False, None]),
            "leaks": False,
            "gold": "4",
        }
        self.plans.setdefault(id, PlanRow(id, item, condition.plan, 0, "add", 3, False, json.dumps(detail)))
        return id

    def of(self, condition: str, item: str) -> list[Row]:
        found = [r for r in self.rows if r.condition == condition and r.item == item]
        return sorted(found, key=lambda r: (r.seed, r.branch))

    def answers(self, condition: str) -> list[list[str]]:
        return [[self.grades[r.id].answer for r in self.of(condition, item)] for item in self.items]

    def score(self, condition: str) -> list[float]:
        return [sum(a == "4" for a in row) / len(row) for row in self.answers(condition)]

    def table(self) -> axes.Table:
        return axes.arrange(self.rows, self.grades, self.plans, self.cards, len(self.items))


def full(key: int = 0, seeds: tuple[int, ...] = (0,)) -> World:
    return World(default_conditions(PARAMETERS), seeds=seeds, key=key)


# ---------------------------------------------------------------- by hand


def mcnemar(gain: int, loss: int) -> float:
    n = gain + loss
    tail = sum(math.comb(n, k) for k in range(min(gain, loss) + 1)) / 2**n
    return min(1.0, 2 * tail)


def holm(ps: list[float]) -> list[float]:
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    out, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        out[i] = least
    return out


def check_family(effects: list[dict[str, Any]], pairs: list[tuple[list[float], list[float]]]) -> None:
    """Effects of one family against the scores (a, b) they compare; value = a minus b."""
    ps = []
    for e, (a, b) in zip(effects, pairs, strict=True):
        assert e["n"] == len(a)
        assert e["value"] == pytest.approx(sum(x - y for x, y in zip(a, b, strict=True)) / len(a))
        again = paired(a, b)
        gain, loss = sum(x > y for x, y in zip(a, b, strict=True)), sum(x < y for x, y in zip(a, b, strict=True))
        assert (e["gain"], e["loss"]) == (gain, loss)
        if set(a) | set(b) <= {0.0, 1.0}:
            assert e["p"] == pytest.approx(mcnemar(gain, loss))
            assert e["mde80"] == pytest.approx(mde80(len(a), (gain + loss) / len(a)))
        else:
            assert e["p"] == again.p
        assert (e["low"], e["high"]) == (again.low, again.high)
        assert e["low"] <= e["value"] <= e["high"]
        ps.append(e["p"])
    assert [e["p_holm"] for e in effects] == pytest.approx(holm(ps))
    for e in effects:
        if e["p_holm"] <= 0.05:
            assert e["verdict"] == ("drop" if e["value"] < 0 else "lift")
        else:
            assert e["verdict"] in ("not resolved at this N", "equivalent within 5 points")


def vote(answers: list[str]) -> tuple[float, float, float, bool]:
    """(expected score, worst, best, tied) of a plurality vote; "4" is right and unreadable ones have no vote."""
    counts = Counter(a for a in answers if a)
    if not counts:
        return 0.0, 0.0, 0.0, False
    top = [a for a, k in counts.items() if k == max(counts.values())]
    return ("4" in top) / len(top), float(top == ["4"]), float("4" in top), len(top) > 1


# ---------------------------------------------------------------- the conditions


@pytest.mark.parametrize("key", range(3))
def test_condition_lines(key: int) -> None:
    w = full(key)
    lines = axes.condition_rows(w.table())
    assert [x["name"] for x in lines] == [c["name"] for c in w.cards]
    for line in lines:
        rows = [r for item in w.items for r in w.of(line["name"], item)]
        grades = [w.grades[r.id] for r in rows]
        assert line["n"] == N
        assert line["accuracy"] == pytest.approx(sum(g.verdict == "right" for g in grades) / len(rows))
        assert line["unreadable"] == pytest.approx(sum(g.verdict == "unreadable" for g in grades) / len(rows))
        assert line["truncated"] == pytest.approx(sum(not r.ended for r in rows) / len(rows))
        assert line["forwards"] == pytest.approx(sum(r.forwards for r in rows) / len(rows))
        assert line["tokens"] == pytest.approx(sum(r.tokens for r in rows) / len(rows))
        score = w.score(line["name"])
        if len(rows) == N:
            assert (line["low"], line["high"]) == wilson(int(sum(score)), N)
        else:
            e = cluster_mean(score, bounds=(0, 1))
            assert (line["low"], line["high"]) == (e.low, e.high)
        assert 0 <= line["low"] <= line["accuracy"] <= line["high"] <= 1


# ---------------------------------------------------------------- axis 1


@pytest.mark.parametrize("key", range(3))
def test_brittleness(key: int) -> None:
    w = full(key)
    found = axes.brittleness(w.table())
    assert found is not None
    names = ["hint", "plan-empty", "plan-empty-before", "xml-open", "filler", "filler-before"]
    assert [e["name"] for e in found["effects"]] == names
    check_family(found["effects"], [(w.score(n), w.score("none")) for n in names])
    assert found["worst"] == min(names, key=lambda n: sum(w.score(n)))
    means = {n: sum(w.score(n)) / N for n in ["none", *names]}
    spread = found["spread"]
    assert spread["value"] == pytest.approx(max(means.values()) - min(means.values()))
    assert spread["n"] == N
    assert spread["p"] == pytest.approx(cochran([w.score(n) for n in ["none", *names]]))
    assert 0 <= spread["low"] <= spread["high"] <= 1
    best, worst = max(means, key=lambda n: means[n]), min(means, key=lambda n: means[n])
    pairs = list(zip(w.score(best), w.score(worst), strict=True))
    assert (spread["gain"], spread["loss"]) == (sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))


def cochran(scores: list[list[float]]) -> float:
    from scipy.stats import chi2

    k, columns, rows = len(scores), [sum(s) for s in scores], [sum(x) for x in zip(*scores, strict=True)]
    total = sum(columns)
    q = (k - 1) * (k * sum(c * c for c in columns) - total**2) / (k * total - sum(r * r for r in rows))
    return float(chi2.sf(q, k - 1))


def test_a_known_drop_is_called_a_drop() -> None:
    w = World(select(default_conditions(()), ["hint", "plan-empty"]), n=30)
    for row in w.rows:
        right = row.condition != "plan-empty" or row.item < "item-10"
        w.grades[row.id] = GradeRow(row.id, "right" if right else "wrong", "4" if right else "5", "marked", -1)
    found = axes.brittleness(w.table())
    assert found is not None
    hint, empty = found["effects"]
    assert (empty["value"], empty["gain"], empty["loss"], empty["verdict"]) == (-2 / 3, 0, 20, "drop")
    assert empty["p"] == pytest.approx(2 / 2**20)
    assert empty["p_holm"] == pytest.approx(4 / 2**20)
    assert (hint["value"], hint["p"], hint["gain"], hint["loss"]) == (0, 1, 0, 0)
    assert found["worst"] == "plan-empty"
    assert found["spread"]["value"] == pytest.approx(2 / 3)
    assert found["spread"]["verdict"] == "drop"


def test_shapes_that_never_differ() -> None:
    w = World(select(default_conditions(()), ["hint", "plan-empty"]), n=30)
    for row in w.rows:
        w.grades[row.id] = GradeRow(row.id, "right", "4", "marked", -1)
    found = axes.brittleness(w.table())
    assert found is not None
    assert (found["spread"]["value"], found["spread"]["p"]) == (0, None)
    assert found["spread"]["verdict"] == "not resolved at this N"


# ---------------------------------------------------------------- axis 2


@pytest.mark.parametrize("key", range(3))
def test_trust(key: int) -> None:
    w = full(key)
    found = axes.trust(w.table(), PARAMETERS)
    assert found is not None
    assert [p["planner"] for p in found["planners"]] == ["gold", "s", "m", "l"]
    effects, pairs = [], []
    for p in found["planners"]:
        gold = p["planner"] == "gold"
        plan, twin = ("gold-plan", "filler") if gold else (f"plan[{p['planner']}]", f"filler-as[{p['planner']}]")
        assert p["parameters"] == PARAMETERS.get(p["planner"])
        assert set(p["corruptions"]) == ({"other", "numbers"} if gold else set())
        effects += [p["content"], p["scaffold"], *p["corruptions"].values()]
        pairs += [(w.score(plan), w.score(twin)), (w.score(twin), w.score("none"))]
        if gold:
            pairs += [(w.score("other-plan"), w.score(plan)), (w.score("wrong-plan"), w.score(plan))]
        check_rates(w, plan, p)
    check_family(effects, pairs)
    by_planner = [sum(w.score(f"plan[{p}]")) / N - sum(w.score(f"filler-as[{p}]")) / N for p in PARAMETERS]
    slope = np.polyfit([math.log10(x) for x in PARAMETERS.values()], by_planner, 1)[0]
    assert found["slope"]["value"] == pytest.approx(slope)
    assert found["slope"]["low"] <= found["slope"]["value"] <= found["slope"]["high"]


def check_rates(w: World, plan: str, found: dict[str, Any]) -> None:
    shown = [(w.of(plan, item)[0], json.loads(w.plans[w.of(plan, item)[0].plan].detail)) for item in w.items]
    same = [w.grades[row.id].answer == d["implied"] for row, d in shown if d["implied"] is not None]
    follow = [w.grades[row.id].answer == d["implied"] for row, d in shown if d["implied"] not in (None, d["gold"])]
    steps = [d["steps_right"] for _, d in shown if d["steps_right"] is not None]
    assert found["copy_rate"] == pytest.approx(sum(same) / len(same))
    assert found["follow_rate"] == pytest.approx(sum(follow) / len(follow))
    assert found["plan_quality"] == pytest.approx(sum(steps) / len(steps))


def test_rates_without_plans_that_say_anything_are_none() -> None:
    w = World(select(default_conditions(("s",)), ["plan[s]"]))
    silent = json.dumps({"implied": None, "steps_right": None, "leaks": False, "gold": "4"})
    w.plans = {k: replace(p, detail=silent) for k, p in w.plans.items()}
    found = axes.trust(w.table(), {"s": 100})
    assert found is not None
    (only,) = found["planners"]
    assert (only["copy_rate"], only["follow_rate"], only["plan_quality"]) == (None, None, None)
    assert found["slope"] is None  # one size has no slope


def test_planners_of_one_size_have_no_slope() -> None:
    w = World(default_conditions(("a", "b")))
    found = axes.trust(w.table(), {"a": 100, "b": 100})
    assert found is not None
    assert found["slope"] is None


# ---------------------------------------------------------------- axis 3


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (3, 1, 2)])
def test_diversity(seeds: tuple[int, ...]) -> None:
    """Several seeds are several votes of five branches each, averaged; not one vote of more branches."""
    w = full(5, seeds)
    found = axes.diversity_axis(w.table())
    assert found is not None
    check_branches(w, "vote", len(seeds), found)
    assert list(found["scaffolded"]) == ["vote-plan-empty"]
    check_branches(w, "vote-plan-empty", len(seeds), found["scaffolded"]["vote-plan-empty"])
    voted, scaffolded = vote_scores(w, "vote"), vote_scores(w, "vote-plan-empty")
    assert [e["name"] for e in (found["useful"], *found["effects"])] == [
        "vote minus one branch",
        "vote of vote-plan-empty minus vote of vote",
        "vote minus greedy",
    ]
    pairs = [(voted, w.score("vote")), (scaffolded, voted), (voted, w.score("none"))]
    check_family([found["useful"], *found["effects"]], pairs)


def groups(row: list[str]) -> list[list[str]]:
    return [row[k : k + 5] for k in range(0, len(row), 5)]


def vote_scores(w: World, name: str) -> list[float]:
    return [float(np.mean([vote(g)[0] for g in groups(row)])) for row in w.answers(name)]


def check_branches(w: World, name: str, seeds: int, found: dict[str, Any]) -> None:
    answers = w.answers(name)
    votes = [vote(g) for row in answers for g in groups(row)]
    assert len(votes) == N * seeds
    flat = [g for row in answers for g in groups(row)]
    assert found["branches"] == 5
    assert found["tie_rule"] == "uniform"
    assert found["ties"] == sum(v[3] for v in votes)
    assert found["per_branch"] == pytest.approx(np.mean([a == "4" for row in answers for a in row]))
    for place, key in enumerate(("vote", "vote_low_tie", "vote_high_tie")):
        assert found[key] == pytest.approx(np.mean([v[place] for v in votes]))
    assert found["oracle"] == pytest.approx(np.mean(["4" in g for g in flat]))
    assert found["unique"] == pytest.approx(np.mean([len(set(g) - {""}) for g in flat]))
    assert found["entropy"] == pytest.approx(np.mean([entropy(g) for g in flat]))
    assert len(found["pass_at_k"]) == len(found["pass_at_k_interval"]) == 5
    for k, (value, (low, high)) in enumerate(zip(found["pass_at_k"], found["pass_at_k_interval"], strict=True), 1):
        by_item = [np.mean(["4" in c for c in itertools.combinations(row, k)]) for row in answers]
        assert value == pytest.approx(np.mean(by_item))
        assert 0 <= low <= value <= high <= 1
    e = cluster_mean(vote_scores(w, name), bounds=(0, 1))
    assert found["vote_interval"] == [e.low, e.high]


def entropy(branches: list[str]) -> float:
    """In nats, with Miller and Madow's correction; unreadable is an outcome."""
    counts = Counter(branches).values()
    k = len(branches)
    return -sum(c / k * math.log(c / k) for c in counts) + (len(counts) - 1) / (2 * k)


def test_several_seeds_everywhere() -> None:
    """A study sampled at temperature > 0 has as many completions of every arm as seeds; items stay the unit."""
    hot = [replace(c, decode=(("temperature", 0.7),)) for c in default_conditions(PARAMETERS)]
    w = World(hot, seeds=(0, 1, 2), key=9)
    t = w.table()
    found = axes.axes(t, PARAMETERS)
    names = [e["name"] for e in found["brittleness"]["effects"]]
    check_family(found["brittleness"]["effects"], [(w.score(n), w.score("none")) for n in names])
    means = [sum(w.score(n)) / N for n in ["none", *names]]
    assert found["brittleness"]["spread"]["value"] == pytest.approx(max(means) - min(means))
    greedy = found["diversity"]["effects"][-1]
    assert greedy["name"] == "vote minus none"  # sampled: not greedy
    assert greedy["value"] == pytest.approx(np.mean(vote_scores(w, "vote")) - sum(w.score("none")) / N)
    assert all(line["n"] == N for line in axes.condition_rows(t))
    assert list(axes.warnings(t, axes.condition_rows(t), found))


@pytest.mark.parametrize("n", [2, 3, 12])
@pytest.mark.parametrize(("verdict", "answer"), [("right", "4"), ("wrong", "5"), ("unreadable", "")])
def test_worlds_without_any_difference(n: int, verdict: str, answer: str) -> None:
    """Nothing differs, so every effect is 0 and none is resolved; nothing is undefined and nothing fails."""
    w = World(default_conditions(PARAMETERS), n=n)
    w.grades = {id: GradeRow(id, verdict, answer, "marked", -1) for id in w.grades}
    t = w.table()
    found = axes.axes(t, PARAMETERS)
    effects = found["brittleness"]["effects"] + [p["content"] for p in found["trust"]["planners"]]
    for e in [*effects, found["trust"]["slope"], found["diversity"]["useful"], *found["diversity"]["effects"]]:
        assert (e["value"], e["p"], e["verdict"]) == (0, 1, "not resolved at this N")
        assert e["low"] < 0 < e["high"]
    assert found["diversity"]["vote"] == (verdict == "right")
    assert found["diversity"]["ties"] == 0
    assert axes.warnings(t, axes.condition_rows(t), found)


# ---------------------------------------------------------------- subsets and refusals


@pytest.mark.parametrize(
    ("names", "present"),
    [
        (["none"], set()),
        (["none", "hint"], {"brittleness"}),
        (["vote"], {"diversity"}),
        (["plan[s]"], {"trust"}),
        (["gold-plan"], {"brittleness", "trust"}),  # the gold plan's twin is a shape of axis 1
    ],
)
def test_an_axis_that_was_not_run_is_null(names: list[str], present: set[str]) -> None:
    w = World(select(default_conditions(("s",)), names))
    found = axes.axes(w.table(), {"s": 100})
    assert {k for k, v in found.items() if v is not None} == present
    assert set(found) == {"brittleness", "trust", "diversity"}


def test_missing_rows_are_refused() -> None:
    w = World(select(default_conditions(()), ["hint", "vote"]))
    whole = list(w.rows)
    cut = [
        [r for r in whole if r.id != "hint/item-03/0/0"],  # one row
        [r for r in whole if r.id != "vote/item-03/0/4"],  # one branch
        [r for r in whole if r.branch != 4],  # the same branch of every item
        [r for r in whole if r.item != "item-03"],  # one item everywhere
        [r for r in whole if r.condition != "hint"],  # one condition
        [],
    ]
    for rows in cut:
        w.rows = rows
        with pytest.raises(
            UndefinedEstimate, match=r"condition '.*' has all its rows for \d+ of 12 items; run the study"
        ):
            w.table()
    w.rows = whole
    assert len(w.table().items) == N
    del w.grades["hint/item-03/0/0"]
    with pytest.raises(UndefinedEstimate, match="1 of 84 rows are not graded; run triaxis grade first"):
        w.table()


def test_rows_of_other_conditions_do_not_count() -> None:
    table = select(default_conditions(()), ["hint"])
    w = World(default_conditions(()))
    t = axes.arrange(w.rows, w.grades, w.plans, [w.card(c, (0,)) for c in table], N)
    assert list(t.conditions) == ["none", "hint"]
    assert not [x for x in axes.warnings(t, axes.condition_rows(t), axes.axes(t, {})) if "vote" in x]


# ---------------------------------------------------------------- warnings


def quiet(names: list[str], n: int = 60) -> World:
    """A world without anything to warn of: all right, all read, both graders agree."""
    w = World(select(default_conditions(("s",)), names), n=n)
    w.rows = [replace(r, ended=True) for r in w.rows]
    w.grades = {r.id: GradeRow(r.id, "right", "4", "marked", 1) for r in w.rows}
    return w


def warned(w: World) -> list[str]:
    t = w.table()
    return axes.warnings(t, axes.condition_rows(t), axes.axes(t, {"s": 100}))


def test_nothing_to_warn_of() -> None:
    assert warned(quiet(["hint", "vote", "plan[s]"])) == []


def test_truncated_and_unreadable_from_two_percent() -> None:
    w = quiet(["hint"], n=100)
    w.rows = [replace(r, ended=r.id != "hint/item-03/0/0") for r in w.rows]
    assert warned(w) == []  # 1 %
    w.rows = [replace(r, ended=r.condition != "hint" or r.item not in ("item-03", "item-04")) for r in w.rows]
    assert warned(w) == ["hint: 2.0% of the completions hit the end of the canvas; read its accuracy with that in mind"]
    w = quiet(["hint"], n=100)
    for i in (3, 4, 5):
        id = f"none/item-{i:02d}/0/0"
        w.grades[id] = GradeRow(id, "unreadable", "", "none", 0)
    assert warned(w)[0] == "none: 3.0% of the completions had no readable answer; read its accuracy with that in mind"


def test_ties() -> None:
    w = quiet(["vote"])
    for branch, answer in enumerate(["4", "4", "5", "5", "6"]):
        id = f"vote/item-07/0/{branch}"
        w.grades[id] = GradeRow(id, "right" if answer == "4" else "wrong", answer, "marked", int(answer == "4"))
    assert warned(w)[0] == "vote: 1 of 60 votes are tied; how ties are broken moves it by 1.7 points"


def test_the_second_grader_and_the_fallback() -> None:
    w = quiet(["hint"])
    for i, second in enumerate([0, 0, -1]):
        id = f"hint/item-{i:02d}/0/0"
        w.grades[id] = replace(w.grades[id], second=second, how="fallback")
    assert warned(w) == [
        "the second grader (math-verify) disagrees on 2 of 119 completions",
        "3 answers were read by the fallback rule (last number), not from a mark",
    ]


def test_low_power() -> None:
    w = quiet(["hint", "plan-empty"], n=20)
    for i in range(10):
        id = f"{'hint' if i < 5 else 'none'}/item-{i:02d}/0/0"
        w.grades[id] = GradeRow(id, "wrong", "5", "marked", 0)
    (line,) = warned(w)
    points = 100 * mde80(20, 10 / 20), 100 * mde80(20, 5 / 20)
    assert line == (
        "low power: 2 of 2 main effects of axis 1 are not resolved at n=20; "
        f"with 80 % power the design sees effects from {min(points):.0f} to {max(points):.0f} points"
    )


def test_low_power_where_nothing_can_be_seen() -> None:
    assert warned(quiet(["hint"], n=4)) == [
        "low power: 1 of 1 main effects of axis 1 are not resolved at n=4; "
        "with 80 % power the design sees no effect of any size"
    ]
