"""A made-up study with the true shapes of rows, plans, grades, summary and protocol, for tests of the report."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from triaxis.conditions import Condition, load_preset, select
from triaxis.estimate import axes
from triaxis.store import GradeRow, PlanRow, Row, Store, identity

HOSTILE = (
    "</script><script>alert('x')</script>",
    "<img src=http://evil.example/x.png onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>&amp;{{ 7*7 }}{% raw %}",
    "</pre></details></main><style>*{display:none}</style>",
    "日本語 𝛼 é \u202eright-to-left \x00\x1b[31m",
)
PLANNERS = {"tiny-planner-s": 100_000, "tiny-planner-m": 400_000, "tiny-planner-l": 1_600_000}
# Chance of a right answer; the numbers only have to make effects of every kind.
SKILL = {
    "none": 0.74,
    "hint": 0.71,
    "plan-empty": 0.52,
    "xml-open": 0.75,
    "gold-plan": 0.93,
    "other-plan": 0.45,
    "wrong-plan": 0.3,
}


def simulate(
    n: int,
    planners: dict[str, int],
    conditions: tuple[str, ...] = (),
    extra: str = "",
    seed: int = 0,
    preset: str = "quick",
) -> tuple[list[Row], dict[str, GradeRow], dict[str, PlanRow], list[dict[str, Any]]]:
    """Rows, grades, plans and condition cards of a made-up study with true shapes. `extra` goes into every text."""
    rng = random.Random(seed)
    table = load_preset(preset).conditions(planners)
    table = select(table, conditions) if conditions else table
    rows: list[Row] = []
    grades: dict[str, GradeRow] = {}
    plans: dict[str, PlanRow] = {}
    for i in range(n):
        item, a, b, c = f"item-{i:04d}", rng.randint(5, 60), rng.randint(5, 60), rng.randint(2, 9)
        question = (
            f"A baker makes {a} loaves in the morning and {b} loaves in the afternoon. Each loaf sells for {c} "
            f"coins. How many coins does the baker get when every loaf is sold? {extra}"
        )
        ease = rng.random()
        for condition in table:
            plan = _plan(rng, condition, item, (a, b, c), extra)
            if plan is not None:
                plans[plan.id] = plan
            user = condition.scaffold.render(question, plan.text if plan else None).shown
            for branch in range(condition.branches):
                row, grade = _row(rng, condition, item, branch, user, plan, (a, b, c), ease, extra)
                rows.append(row)
                grades[row.id] = grade
    return rows, grades, plans, [{**c.card(), "completions": c.branches} for c in table]


def _plan(rng: random.Random, c: Condition, item: str, abc: tuple[int, int, int], extra: str) -> PlanRow | None:
    if not c.plan:
        return None
    total, (a, b, k) = (abc[0] + abc[1]) * abc[2], abc
    likely = {"s": 0.3, "m": 0.6, "l": 0.9}.get(c.planner[-1:], 0.5)
    good = c.plan == "gold" or (c.kind in ("true", "") and rng.random() < likely)
    if c.kind in ("filler", "random", "dots"):
        text, implied = " ".join(["and so on"] * 4), None
    else:
        implied = total if good else total + rng.randint(1, 9)
        text = f"{a} plus {b} is {a + b}; {a + b} times {k} is {implied} {extra}"
    detail = {
        "implied": implied and str(implied), "steps_right": None if implied is None else good, "gold": str(total),
        "leaks": good and rng.random() < 0.5,
    }  # fmt: skip
    return PlanRow(
        identity({"i": item, "s": c.plan}), item, c.plan, 0, text, len(text.split()), False, json.dumps(detail)
    )


def _row(
    rng: random.Random, c: Condition, item: str, branch: int, user: str, plan: PlanRow | None,
    abc: tuple[int, int, int], ease: float, extra: str,
) -> tuple[Row, GradeRow]:  # fmt: skip
    skill = SKILL.get(c.name, 0.72)
    if c.kind == "true" and plan is not None:
        skill = 0.93 if json.loads(plan.detail)["steps_right"] else 0.6
    if c.branches > 1:
        skill = 0.62
    skill -= {"before": 0.1, "reply": 0.3}.get(c.scaffold.placement, 0) if c.role == "factorial" else 0
    chance = min(1.0, max(0.0, skill + (ease - 0.5)))
    total = (abc[0] + abc[1]) * abc[2]
    unreadable = rng.random() < 0.03
    right = not unreadable and rng.random() < chance
    answer = "" if unreadable else str(total if right else total + rng.randint(1, 3))
    text = f"{abc[0]} + {abc[1]} = {abc[0] + abc[1]}\n{abc[0] + abc[1]} * {abc[2]} = {answer}\n{extra}\n#### {answer}"
    key = identity({"c": c.name, "i": item, "b": branch})
    row = Row(key, c.name, item, branch, 0, plan.id if plan else "", user, text, 9000, 64, rng.random() > 0.02)
    row = replace(
        row, length=20, tokens=900 if c.writer else 9000, trace=json.dumps({"order": rng.sample(range(20), 20)})
    )
    verdict = "unreadable" if unreadable else "right" if right else "wrong"
    return row, GradeRow(key, verdict, answer, "none" if unreadable else "marked", int(right))


def summarise(rows: Any, grades: Any, plans: Any, cards: Any, planners: dict[str, int]) -> dict[str, Any]:
    t = axes.arrange(rows, grades, plans, cards, len({r.item for r in rows}))
    lines, found = axes.condition_rows(t), axes.axes(t, planners)
    return {
        "schema": 1,
        "study": {
            "executor": "tiny", "planners": list(planners), "task": "gradeschool", "n": len(t.items), "seeds": [0],
            "protocol_hash": "0123456789abcdef",
        },
        "conditions": lines,
        "axes": found,
        "cost": {
            "seconds": 123.4, "forwards": sum(r.forwards for r in rows), "tokens": sum(r.tokens for r in rows),
            "dollars": None,
        },
        "warnings": axes.warnings(t, lines, found),
    }  # fmt: skip


def protocol_of(cards: list[dict[str, Any]], planners: dict[str, int], n: int) -> dict[str, Any]:
    return {
        "protocol_hash": "0123456789abcdef",
        "study_hash": "fedcba9876543210",
        "executor": {
            "name": "tiny", "fingerprint": "aa11", "family": "tiny", "parameters": 931_000, "dtype": "float32",
            "device": "cpu", "start": "<bos>", "system": "", "content": "{text}\n", "reply": "Answer: ",
            "ends": ["<eos>"],
        },
        "decode": {
            "gen_length": 48, "block_length": 16, "steps": 24, "temperature": 0.0, "threshold": None, "stop": "canvas",
        },
        "task": {"name": "gradeschool", "revision": "r1", "grader": "numeric-1", "fallback": False},
        "planners": [{"name": k, "identity": "bb22", "parameters": v} for k, v in planners.items()],
        "conditions": cards,
        "seeds": [0],
        "n": n,
        "items_hash": "cc33",
        "engine": "exact-1",
        "versions": {"triaxis": "0.1.0", "torch": "2.9.0"},
    }  # fmt: skip


def write_study(folder: Path, n: int = 40, planners: dict[str, int] | None = None, **options: Any) -> dict[str, Any]:
    """A study's folder as triaxis diagnose leaves it, without the page; the summary."""
    planners = PLANNERS if planners is None else planners
    rows, grades, plans, cards = simulate(n, planners, **options)
    summary = json.loads(json.dumps(summarise(rows, grades, plans, cards, planners)))
    folder.mkdir(parents=True, exist_ok=True)
    with Store(folder / "rows.sqlite", write=True) as store:
        store.append([*rows, *plans.values()])
        store.replace_grades(list(grades.values()))
    for name, value in (("summary", summary), ("protocol", protocol_of(cards, planners, n))):
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return summary
