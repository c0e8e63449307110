"""Plans: reading them, corrupting them, and making each of them once."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.models.writer import Planner, Written
from triaxis.plans import bank, corrupt, read
from triaxis.plans.sources import EDITS, Maker
from triaxis.sampling.executor import Executor
from triaxis.store import Store
from triaxis.tasks import load_task
from triaxis.tasks.base import Item
from triaxis.tasks.listed import ListTask

quick = settings(max_examples=150, deadline=None)
PLAN = "12 plus 7 is 19, then 19 times 2 is 38."


# --- reading ---

READINGS: list[tuple[str, list[tuple[str, ...]], str | None]] = [
    (PLAN, [("12+7", "19"), ("19*2", "38")], "38"),
    ("12+7=19, 19*2=38.", [("12+7", "19"), ("19*2", "38")], "38"),
    ("12+7=19,19*2=38.", [("12+7", "19"), ("19*2", "38")], "38"),
    ("12 + 7 = 19\n19 x 2", [("12+7", "19"), ("19*2", "38")], "38"),
    ("12 minus 7", [("12-7", "5")], "5"),
    ("5-3=2", [("5-3", "2")], "2"),
    ("3 − 5", [("3-5", "-2")], "-2"),
    ("7 divided by 2", [("7/2", "7/2")], "7/2"),
    ("7 ÷ 0", [("7/0", "")], None),
    ("2.5 × 4 equals 10", [("2.5*4", "10")], "10"),
    ("12 plus 7 is 99.", [("12+7", "99")], "99"),
    ("12 plus 7 is -5.", [("12+7", "-5")], "-5"),
    ("done.12 plus 7 is 19.Then", [("12+7", "19")], "19"),
    ("She sells 16 - 3 - 4 = 9 eggs for 9 * 2 = $18.", [("16-3-4", "9"), ("9*2", "18")], "18"),
    ("2 + 3 * 4", [("2+3*4", "14")], "14"),
    ("20 - 10 / 4 - 1", [("20-10/4-1", "33/2")], "33/2"),
    ("$1,200 / 2 = $600", [("1200/2", "600")], "600"),
    ("12 miles + 3 miles = 15 miles / 3 miles/hour", [("12+3", "15")], "15"),
    ("12 added to 7 makes 19, then 19 split into 2", [("12+7", "19"), ("19/2", "19/2")], "19/2"),
    ("Tom has 12 and Mia has 7 and they play", [], None),
    ("First 19, then 38.", [], None),
    ("", [], None),
    ("Plan: think about 12 pens", [], None),
    ("1234567890123 + 4", [], None),
    ("3.12345678 + 4", [], None),
    ("4 + 1234567890123", [], None),
]


@pytest.mark.parametrize(("plan", "steps", "answer"), READINGS, ids=[p[:25] for p, *_ in READINGS])
def test_what_a_plan_says(plan: str, steps: list[tuple[str, ...]], answer: str | None) -> None:
    found = [(s.expression, s.value or "") for s in read.steps(plan)]
    assert found == steps
    assert read.implied_answer(plan) == answer


@quick
@given(st.text())
def test_reading_never_fails(plan: str) -> None:
    read.implied_answer(plan)
    read.follows(plan, ("1+1=2",))
    read.leaks(plan, "3.5")
    read.leaks(plan, plan)
    read.evaluate(plan)


def test_a_plan_follows_the_gold_steps_or_not() -> None:
    gold = ("12+7=19", "19*2=38")
    assert read.follows(PLAN, gold) is True
    assert read.follows("12 plus 7 is 19, then 19 times 2.", gold) is True, "the last result may be left open"
    assert read.follows("12 plus 7, then 19 times 2.", gold) is True
    assert read.follows("12 plus 7 is 18, then 19 times 2.", gold) is False
    assert read.follows("12 plus 7 is 19, then 19 times 2 is 39.", gold) is False
    assert read.follows("12 plus 7 is 19, then 19 times 3.", gold) is False
    assert read.follows("7 plus 12 is 19, then 19 times 2.", gold) is False
    assert read.follows("12 plus 7 is 19.", gold) is False
    assert read.follows(PLAN + " 38 plus 1.", gold) is False
    assert read.follows("", gold) is False
    assert read.follows(PLAN, ()) is None


@pytest.mark.parametrize(
    ("plan", "answer", "leaks"),
    [
        (PLAN, "38", True),
        (PLAN, "3", False),
        (PLAN, "8", False),
        ("19 times 2.", "38", False),
        ("it is 38", "38", True),
        ("it is 3.8 or 380 or 138", "38", False),
        ("it is 38.5", "38", False),
        ("it is 2.5.", "2.5", True),
        ("it is 215", "2.5", False),
        ("38, as said", "38", True),
    ],
)
def test_a_plan_leaks_an_answer_it_states(plan: str, answer: str, leaks: bool) -> None:
    assert read.leaks(plan, answer) is leaks


def test_the_gold_plan_is_the_items_or_its_solution_without_the_marked_answer() -> None:
    item = Item("a", "q", "5", "2+3=5\n#### 5")
    assert read.gold_plan(item) == "2+3=5"
    assert read.gold_plan(replace(item, meta=(("plan", "2 plus 3."),))) == "2 plus 3."
    assert read.gold_plan(replace(item, solution="")) == ""


# --- corruptions ---


@quick
@given(st.text(alphabet="0123456789 .,plus", max_size=40) | st.text(max_size=40), st.integers(0, 50))
@example("a 7 b", 0)
@example("0", 3)
@example("007", 3)
@example("9" * 400 + " and 5", 0)
@example("٣", 1)
def test_numbers_changes_one_number_and_nothing_else(plan: str, seed: int) -> None:
    changed = corrupt.numbers(plan, f"k/{seed}")
    assert corrupt.numbers(plan, f"k/{seed}") == changed
    before, after = re.split(r"(\d+)", plan), re.split(r"(\d+)", changed)
    if not any(len(n) <= 15 for n in before[1::2]):
        assert changed == plan
        return
    differing = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert len(differing) == 1
    old, new = before[differing[0]], after[differing[0]]
    assert len(old) == len(new)
    assert int(old) != int(new)
    assert int(new) > 0


def test_numbers_reaches_every_number_and_many_values() -> None:
    changed = {corrupt.numbers("12 plus 7", str(i)) for i in range(600)}
    assert {c for c in changed if c.startswith("12 ")} == {f"12 plus {n}" for n in (1, 2, 3, 4, 5, 6, 8, 9)}
    firsts = {int(c.split()[0]) for c in changed if c.endswith(" 7")}
    assert firsts <= set(range(10, 100)) - {12}
    assert {10, 99} <= firsts
    assert len(firsts) > 70


@pytest.fixture(scope="module")
def words(tiny: Executor) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    return tiny.encode, lambda ids: str(tiny.tokenizer.decode(ids))


def test_filler_has_the_length_it_is_asked_for(words: tuple[Callable[[str], list[int]], Callable[..., str]]) -> None:
    encode, decode = words
    for length in range(120):
        text = corrupt.filler(length, encode, decode)
        assert len(encode(text)) == length
        assert not read.steps(text)
        assert not re.search(r"\d", text)
        assert (corrupt.NEUTRAL * 10).strip().startswith(text), "whole sentences, one space apart"


def test_filler_of_a_tokenizer_of_letters() -> None:
    assert corrupt.filler(11, lambda t: [ord(c) for c in t], lambda ids: "".join(map(chr, ids))) == "The weather"
    assert len(corrupt.filler(500, lambda t: [ord(c) for c in t], lambda ids: "".join(map(chr, ids)))) in (499, 500)


# --- the bank ---


@dataclass
class Scribe:
    """Stands where a planner does: writes a plan of the question, and counts."""

    identity: str = "scribe-1"
    asked: list[str] = field(default_factory=list)

    def write(self, questions: Sequence[str]) -> list[Written]:
        self.asked += questions
        return [Written(f"{len(q)} plus 1, because {q}", 5, len(q) % 2 == 0) for q in questions]


def maker(tiny: Executor, scribe: Scribe, n: int = 6, seed: int = 0) -> Maker:
    task = load_task("gradeschool")
    planner: Callable[[], Planner] = lambda: scribe  # type: ignore[assignment, return-value]  # noqa: E731
    return Maker(task, task.items(n), tiny, {"scribe": planner}, seed)


ALL = ("gold", "true:scribe", "filler:scribe", "numbers:scribe", "filler:gold", "other:gold", "numbers:gold")


def test_every_plan_is_made_once_and_shared(tiny: Executor, tmp_path: Path) -> None:
    scribe = Scribe()
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        first = bank.fill(store, maker(tiny, scribe), ALL)
        assert len(scribe.asked) == 6, "once an item, for the plan and all that is made of it"
        again = bank.fill(store, maker(tiny, scribe), ALL)
        assert len(scribe.asked) == 6, "a second fill makes nothing"
        assert again == first
        assert len(store.plans()) == len(ALL) * 6
        more = bank.fill(store, maker(tiny, scribe, n=9), ALL)
        assert len(scribe.asked) == 9, "only what is missing"
        assert {k: more[k] for k in first} == first


def test_edits_are_made_from_the_stored_plan(tiny: Executor, tmp_path: Path) -> None:
    """A resumed study must not ask the planner again for the plan a twin is measured by."""
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        bank.fill(store, maker(tiny, Scribe()), ["true:scribe"])
        later = Scribe()
        bank.fill(store, maker(tiny, later), ["true:scribe", "filler:scribe"])
        assert not later.asked


def test_what_a_plan_row_says(tiny: Executor, tmp_path: Path) -> None:
    m = maker(tiny, Scribe())
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        plans = bank.fill(store, m, ("gold", "true:scribe"))
    for item in m.items:
        gold, row = plans["gold", item.id], plans["true:scribe", item.id]
        detail = json.loads(gold.detail)
        assert gold.text == read.gold_plan(item)
        assert gold.tokens == len(tiny.encode(gold.text))
        assert detail == {
            "implied": item.answer,
            "steps_right": True,
            "leaks": read.leaks(gold.text, item.answer),
            "gold": item.answer,
        }
        assert (row.tokens, row.truncated) == (5, len(item.question) % 2 == 0)
        assert json.loads(row.detail)["steps_right"] is False


def test_the_id_of_a_plan_covers_what_can_change_it(tiny: Executor) -> None:
    base = maker(tiny, Scribe())
    item = base.items[0]
    ids = [
        bank.plan_id(m, source, i)
        for m in (base, maker(tiny, Scribe(), seed=1), maker(tiny, Scribe("scribe-2")))
        for source in ("true:scribe", "filler:scribe", "numbers:scribe", "truncate-5:scribe", "truncate-6:scribe")
        for i in base.items[:2]
    ]
    assert len(set(ids)) == len(ids)
    other = replace(base, executor=replace(tiny, checkpoint=replace(tiny.checkpoint, fingerprint="another")))
    for source, depends in (
        ("gold", True), ("filler:scribe", True), ("random-12", True), ("truncate-5:scribe", True), ("other:gold", True),
        ("true:scribe", False), ("negate:scribe", False),
    ):  # fmt: skip
        assert (bank.plan_id(base, source, item) != bank.plan_id(other, source, item)) is depends, source
    assert bank.plan_id(base, "gold", item) == bank.plan_id(maker(tiny, Scribe(), n=50), "gold", item)


def test_edits_that_cannot_change_a_plan_say_so(tiny: Executor, tmp_path: Path) -> None:
    """Brute force: the detail says unchanged exactly where the text is the origin's, for every kind of edit."""
    m = maker(tiny, Scribe(), n=12)
    kinds = [f"{k}-9" if k == "truncate" else k for k in EDITS]
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        plans = bank.fill(store, m, ["gold", *(f"{k}:gold" for k in kinds)])
    said = {k: json.loads(row.detail).get("unchanged") for k, row in plans.items()}
    same = {(s, i): row.text == plans["gold", i].text for (s, i), row in plans.items() if s != "gold"}
    assert {k: bool(said[k]) for k in same} == same
    assert set(said.values()) == {None, True}, "stated only where it is so"
    alone = [k[1] for k, is_same in same.items() if k[0] == "drop-step:gold" and is_same]
    assert alone == [i.id for i in m.items if len(i.steps) == 1], "a plan of one step keeps it"


def test_a_counterfactual_row_implies_the_answer_it_was_made_for(tiny: Executor, tmp_path: Path) -> None:
    task = load_task("gsm8k")
    m = replace(maker(tiny, Scribe()), task=task, items=task.items(25))
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        plans = bank.fill(store, m, ["gold", "counterfactual:gold"])
    told = {i.id: json.loads(plans["counterfactual:gold", i.id].detail) for i in m.items}
    changed = {i: d for i, d in told.items() if "unchanged" not in d}
    assert len(changed) > 12
    for item, d in changed.items():
        assert d["implied"] != d["gold"]
        assert not d["leaks"]
        assert read.leaks(plans["counterfactual:gold", item].text, d["implied"])
        assert d["steps_right"] is not True
    gold = [json.loads(plans["gold", i.id].detail)["steps_right"] for i in m.items]
    assert set(gold) == {True, None}, "a gold plan is right, or its text cannot be read in full"


def test_a_fixed_filler_is_of_no_plan(tiny: Executor) -> None:
    m = maker(tiny, Scribe())
    for kind in ("filler", "random", "dots"):
        plans = m.make(f"{kind}-12", m.items)
        assert {(len(tiny.encode(p.text)), p.tokens, p.unchanged) for p in plans} == {(12, 12, False)}
    assert len({p.text for p in m.make("random-12", m.items)}) == len(m.items), "drawn for each item"


def test_a_truncated_plan_is_measured_in_the_executors_tokens(tiny: Executor) -> None:
    m = maker(tiny, Scribe(), n=20)
    for cut, plan in zip(m.make("truncate-8:gold", m.items), m.make("gold", m.items), strict=True):
        assert plan.text.startswith(cut.text)
        assert cut.tokens == len(tiny.encode(cut.text)) == min(8, plan.tokens)
        assert cut.truncated is (plan.tokens > 8)


# --- sources ---


def test_another_items_plan_does_not_depend_on_n_or_order(tiny: Executor) -> None:
    small, large = maker(tiny, Scribe(), n=5), maker(tiny, Scribe(), n=200)
    a = small.make("other:gold", small.items)
    b = dict(zip([i.id for i in large.items], large.make("other:gold", large.items), strict=True))
    assert a == [b[i.id] for i in small.items]
    assert a == small.make("other:gold", small.items[::-1])[::-1]
    assert all(w.text != read.gold_plan(i) for w, i in zip(a, small.items, strict=True))


def test_every_plan_serves_as_the_other_of_one_item(tiny: Executor) -> None:
    task = load_task("gradeschool")
    everyone = replace(maker(tiny, Scribe()), items=task.items())
    plans = sorted(w.text for w in everyone.make("other:gold", task.items()))
    assert plans == sorted(read.gold_plan(i) for i in task.items())


def test_a_filler_is_as_long_as_the_plan_it_stands_for(tiny: Executor) -> None:
    m = maker(tiny, Scribe(), n=30)
    for twin, plan in zip(m.make("filler:gold", m.items), m.make("gold", m.items), strict=True):
        assert twin.tokens == plan.tokens == len(tiny.encode(twin.text))


def test_numbers_are_seeded_by_study_and_item(tiny: Executor) -> None:
    m, again = maker(tiny, Scribe(), n=20), maker(tiny, Scribe(), n=20, seed=1)
    assert m.make("numbers:gold", m.items) == m.make("numbers:gold", m.items)
    assert m.make("numbers:gold", m.items) != again.make("numbers:gold", m.items)


def test_true_gold_is_gold(tiny: Executor) -> None:
    m = maker(tiny, Scribe())
    assert m.make("true:gold", m.items) == m.make("gold", m.items)


def test_sources_that_cannot_be(tiny: Executor) -> None:
    m = maker(tiny, Scribe())
    with pytest.raises(UserError, match="no plan source named 'fillr'; did you mean 'filler'"):
        m.make("fillr:gold", m.items)
    for source, message in (
        ("truncate:gold", "needs a length in executor tokens, such as truncate-8:gold"),
        ("filler-12:gold", "a filler of a fixed length has no origin; write 'filler-12'"),
        ("negate", "needs the plan it is made of, such as negate:gold"),
        ("true", "needs the plan it is made of, such as true:gold"),
        ("negate-3:gold", "no plan source named 'negate-3'; did you mean 'negate'"),
        ("randm-3", "no plan source named 'randm'; did you mean 'random'"),
        ("gold-3", "'gold' takes no length"),
    ):
        with pytest.raises(UserError, match=message):
            m.make(source, m.items)
    with pytest.raises(UserError, match="no planner named 'scrib'; did you mean 'scribe'"):
        m.make("true:scrib", m.items)
    bare = Item("x", "What?", "5")
    lone = replace(m, task=ListTask("lone", "1", {"test": lambda: [bare]}), items=[bare])
    with pytest.raises(UserError, match="x of task 'lone' has no solution to plan from; leave out the gold arms"):
        lone.make("gold", [bare])
    with pytest.raises(UserError, match="task 'lone' has one item, so there is no other item's plan"):
        lone.make("other:scribe", [bare])


def test_an_answer_with_a_large_exponent_is_no_number() -> None:
    """Found by fuzzing: ten to the ten millionth was computed to ask whether a plan states it."""
    began = time.process_time()
    assert not read.leaks("it is 19", "19191e9991919")
    assert read.leaks("it is 1e9999999", "1e9999999")  # as text
    assert time.process_time() - began < 1
