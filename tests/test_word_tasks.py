"""SVAMP by families, and the generated `wordproblems`: answers, splits, levels, and what no text may contain."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import pytest

from triaxis.plans.read import evaluate, gold_plan, steps
from triaxis.tasks import load_task
from triaxis.tasks import svamp as svamp_module
from triaxis.tasks.gradeschool import Dice, is_test
from triaxis.tasks.wordproblems import LEVELS, draw, problems
from triaxis.tasks.wordproblems_text import SCHEMES, Scheme

SCAFFOLDS = ("plan:", "<plan>", "step by step", "hint:", "draft:", "solution plan", "note:")


# --- SVAMP ---------------------------------------------------------------------------------------------------


def test_svamp_splits_hold_whole_families() -> None:
    found = svamp_module.families(svamp_module.rows())
    assert svamp_module.choose_test(found) == (files("triaxis.tasks") / "data/svamp/test_ids.txt").read_text().split()
    task = load_task("svamp")
    test, train = ({i.id for i in task.items(split=s)} for s in ("test", "train"))
    assert (len(test), len(train), len(test | train)) == (353, 647, 1000)
    assert all(len({name in test for name in family}) == 1 for family in found)
    assert len(found) > 100


@pytest.mark.parametrize(
    ("equation", "steps"),
    [
        ("( 76.0 - 25.0 )", ("76-25=51",)),
        ("( ( 3.0 + 5.0 ) + 2.0 )", ("3+5=8", "8+2=10")),
        ("( 6.0 - ( 3.0 * 1.5 ) )", ("3*3/2=9/2", "6-9/2=3/2")),
        ("8.0", ()),
    ],
)
def test_svamp_equations(equation: str, steps: tuple[str, ...]) -> None:
    assert svamp_module.calculations(equation) == steps


def test_svamp_answers_follow_from_their_equations() -> None:
    """All but the one row whose published answer contradicts its published equation."""
    task = load_task("svamp")
    items = [*task.items(), *task.items(split="train")]
    off = [i.id for i in items if i.steps and i.steps[-1].rpartition("=")[2] != i.answer]
    assert off == ["chal-680"]
    assert all(gold_plan(i) for i in items)  # the studies' gold plans need one of every item
    assert next(i for i in items if i.id == "chal-1").question.startswith("Each pack of dvds costs 76 dollars.")


def test_svamp_is_licensed() -> None:
    folder = files("triaxis.tasks") / "data" / "svamp"
    assert "MIT License" in (folder / "LICENSE").read_text()
    assert (folder / "SVAMP.json.gz").read_bytes()[4:8] == bytes(4)  # gzip's mtime


# --- wordproblems --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_calculations_are_right_and_their_numbers_are_told(level: int) -> None:
    for p in itertools.islice(problems("train", "test", (level,)), 400):
        assert level == 4 or len(p.calculations) == level
        assert 1 <= len(p.calculations) <= 4
        known = {str(r) for *_, r in p.calculations}
        said = _numbers(p.question) | known | {"2", "3", "12"}  # half, twice, an average of three, a dozen
        for a, op, b, c in p.calculations:
            assert evaluate(f"{a}{op}{b}") == c > 0
            assert {str(a), str(b)} <= said, p
        assert not re.search(r"[{}$](?!\d)", p.question), p.question
        assert p.question[0].isupper() or p.question[0].isdigit()
        assert p.question.endswith(("?", "."))
        assert " 1 " not in f" {p.question} ", p.question  # nothing is counted as "1 keys"


def _numbers(text: str) -> set[str]:
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    spoken = {str(words.index(w) + 1) for w in re.findall(r"[a-z]+", text.lower()) if w in words}
    return set(re.findall(r"\d+", text)) | spoken


@pytest.mark.slow
def test_no_test_calculations_occur_in_training() -> None:
    task = load_task("wordproblems")
    test = {i.steps for i in task.items()}
    assert len(test) == len(task.items()) == 1500
    for split, side in (("train", False), ("test", True)):
        for p in itertools.islice(problems(split, "anything"), 1500):
            assert is_test(p.skeleton) is side
    assert not test & {p.steps for p in itertools.islice(problems("train", "many"), 20_000)}


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.calculations} {s.parts[0][0][:20]}")
def test_wordings_name_only_what_a_scheme_has(scheme: Scheme) -> None:
    """Every number of the calculations is told by every choice of wordings, and nothing else is asked for."""
    words = {"n", "m", "p", "P", "t", "t1", "u", "g", "g1", "w"}
    needed = set(re.findall(r"[a-d]", scheme.calculations))
    told = [[set(re.findall(r"\{(\w+)\}", w)) for w in part] for part in scheme.parts]
    assert all(named <= words | set(scheme.ranges) for part in told for named in part)
    for choice in itertools.product(*told):
        assert needed <= set().union(*choice), choice


def test_questions_are_varied() -> None:
    seen = {p.question for p in itertools.islice(problems("train", "variety"), 20_000)}
    assert len(seen) > 19_900
    assert len({re.sub(r"\d+", "#", q) for q in seen}) > 15_000


def test_no_scaffold_under_test_occurs() -> None:
    for p in itertools.islice(problems("train", "scaffolds", LEVELS), 5000):
        assert not any(s in p.question.lower() for s in SCAFFOLDS)


def test_gold_plans_can_be_read() -> None:
    for item in load_task("wordproblems").items(300):
        plan = gold_plan(item)
        assert [s.expression for s in steps(plan)] == [s.partition("=")[0] for s in item.steps]


def test_draws_do_not_change() -> None:
    """The generator is part of the task's revision: change that when a draw changes."""
    p = next(problems("test", "items"))
    assert (load_task("wordproblems").revision, p.question, p.steps) == (
        "wordproblems-1-wordproblems", PINNED[0], PINNED[1],
    )  # fmt: skip
    assert draw(Dice("a"), 2) == draw(Dice("a"), 2)


PINNED = (
    "Lena sold 44 ribbons. 48 ribbons remain. How many ribbons were there in the beginning?",
    ("44+48=92",),
)
