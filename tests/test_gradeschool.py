"""The generated task and what the tiny family is trained on: right, disjoint, deterministic, free of the scaffolds."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from triaxis.conditions import default_conditions, load_preset
from triaxis.plans import read
from triaxis.plans.corrupt import NEUTRAL
from triaxis.tasks import load_task
from triaxis.tasks.base import Item
from triaxis.tasks.gradeschool import MAX_SOLUTION_CHARS, MAX_VALUE, Dice, Problem, is_test, plan_text, problems
from triaxis.train.families import tiny_data
from triaxis.train.families.tiny_data import Example, executor_examples, planner_examples

STREAM = 20_000
BANNED = ("Plan:", "Hint:", "<plan>", "step by step", "Let's think", "Solution Plan")
SPLITS = {"test": 2400, "train": 4000}


@cache
def stream(key: str, size: int = STREAM) -> list[tuple[Problem, Example]]:
    """The first executor examples of a training seed, each with its problem."""
    solved = itertools.islice(problems("train", f"executor/{key}"), 1, None)
    return list(itertools.islice(zip(solved, executor_examples(key), strict=False), size))


def skeleton(item: Item) -> tuple[str, ...]:
    return tuple(step.split("=")[0] for step in item.steps)


def evaluated(step: str) -> int:
    """The right side of "12+7=19", worked out here."""
    a, op, b = re.fullmatch(r"(\d+)([-+*/])(\d+)=\d+", step).groups()  # type: ignore[union-attr]
    x, y = int(a), int(b)
    assert op != "/" or x % y == 0
    return {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[op]


# --- items ---


def test_sizes_names_and_revision() -> None:
    task = load_task("gradeschool")
    for split, size in SPLITS.items():
        items = task.items(split=split)
        assert len(items) == size
        assert len({i.id for i in items}) == size
        assert len({skeleton(i) for i in items}) == size, "distinct problems"
    assert len({i.question for i in task.items()}) == SPLITS["test"]


@pytest.mark.slow
def test_items_are_the_same_every_time() -> None:
    """The shipped models are trained on this stream; a change of a single word would be another task."""
    from triaxis.store import identity

    def digest(rows: object) -> str:
        return identity({"rows": str(rows)})

    first = [[(p.question, p.steps, p.plan) for p in itertools.islice(problems("train", "k"), 300)] for _ in "ab"]
    assert first[0] == first[1]
    task = load_task("gradeschool")
    assert task.revision == "gradeschool-1"
    items = sorted(task.items(), key=lambda i: i.id)
    assert digest([(i.id, i.question, i.answer, i.solution, i.steps, i.meta) for i in items]) == "a692de7f6181809d"
    assert digest([(e.prompt, e.response) for _, e in stream("2")]) == "07d5fd829f9132b3"
    assert digest([(e.prompt, e.response) for e in itertools.islice(planner_examples("0"), 2000)]) == "f6fa2d4efa81acd9"


@pytest.mark.parametrize("split", SPLITS)
def test_every_calculation_is_right_and_leads_to_the_answer(split: str) -> None:
    for item in load_task("gradeschool").items(split=split):
        results = [evaluated(step) for step in item.steps]
        assert [int(step.split("=")[1]) for step in item.steps] == results
        assert all(1 <= r <= MAX_VALUE for r in results)
        assert item.answer == str(results[-1])
        assert item.solution == "\n".join((*item.steps, f"#### {item.answer}"))
        assert len(item.solution) <= MAX_SOLUTION_CHARS


@pytest.mark.parametrize("split", SPLITS)
def test_the_question_tells_the_calculations(split: str) -> None:
    """Every number a step needs is in the question or is a result before it, and no other number is there."""
    for item in load_task("gradeschool").items(split=split):
        told = Counter(re.findall(r"\d+", item.question))
        known, used = set(), Counter[str]()
        for step in item.steps:
            left, _, right = re.split(r"([-+*/])", step.split("=")[0])
            for number in (left, right):
                if number not in known or told[number] > used[number]:
                    assert told[number], (item.question, step)
                    used[number] += 1
            known.add(step.split("=")[1])
        assert set(told) == set(used), item.question


def test_each_step_uses_the_result_of_the_one_before() -> None:
    for item in load_task("gradeschool").items():
        for before, after in itertools.pairwise(item.steps):
            assert before.split("=")[1] in re.split(r"[-+*/=]", after)[:2]


@pytest.mark.slow
def test_all_difficulties_are_there() -> None:
    """Streams take them in turn; distinct one-step problems of the test side run out first (see `gradeschool`)."""
    counts = Counter(len(i.steps) for i in load_task("gradeschool").items())
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) >= 300
    assert max(counts[n] for n in (2, 3, 4)) < 1.1 * min(counts[n] for n in (2, 3, 4))
    assert Counter(len(p.steps) for p, _ in stream("2")) == dict.fromkeys((1, 2, 3, 4), STREAM // 4)


def test_language_varies() -> None:
    items = load_task("gradeschool").items(500)
    shapes = {re.sub(r"\d+", "N", i.question) for i in items}
    assert len(shapes) > 480
    assert Counter(i.question.split()[0] for i in items).most_common(1)[0][1] < 250


def test_gold_solutions_and_plans_read_back() -> None:
    task = load_task("gradeschool")
    for item in task.items(600):
        assert task.grade(item.solution, item).verdict == "right"
        plan = read.gold_plan(item)
        assert read.follows(plan, item.steps) is True
        assert read.implied_answer(plan) == item.answer
        assert dict(item.meta)["steps"] == str(len(item.steps))


def test_a_plan_states_the_last_result_only_where_it_may() -> None:
    calculations = ((12, "+", 7, 19), (19, "*", 2, 38))
    assert plan_text(calculations, True) == "12 plus 7 is 19, then 19 times 2 is 38."
    assert plan_text(calculations, False) == "12 plus 7 is 19, then 19 times 2."
    for p, _ in stream("2")[:500]:
        assert p.leaks == (read.steps(p.plan)[-1].result is not None)


# --- train and test ---


def test_train_and_test_share_no_skeleton() -> None:
    test = {skeleton(i) for i in load_task("gradeschool").items()}
    assert all(is_test(s) for s in test)
    trained = {p.skeleton for p, _ in stream("2")}
    trained |= {p.skeleton for p in itertools.islice(problems("train", "planner/0"), STREAM)}
    trained |= {skeleton(i) for i in load_task("gradeschool").items(split="train")}
    assert len(trained) > STREAM
    assert not trained & test
    assert not any(map(is_test, trained))


# --- the executor's training prompts ---


def test_no_scaffold_under_test_was_seen() -> None:
    arms = [*default_conditions(()), *load_preset("factorial").conditions(())]
    scaffolds = {c.scaffold.name: c.scaffold for c in arms}.values()
    fixed = {part for s in scaffolds for part in (*s.template.split("{plan}"), s.closed) if part.strip()}
    assert "Plan: " in fixed
    for text in (*BANNED, *(part.strip() for part in fixed), NEUTRAL.strip()[:40]):
        hits = [e.prompt for _, e in stream("2") if text.lower() in e.prompt.lower()]
        assert not hits, (text, hits[:2])


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_no_scaffold_under_test_was_seen_in_all_that_was_trained_on(seed: str) -> None:
    for example in itertools.islice(executor_examples(seed), 300_000):
        assert not any(text.lower() in example.prompt.lower() for text in BANNED)


def test_every_token_of_a_scaffold_but_one_was_seen_in_an_ordinary_role() -> None:
    """Else a scaffold would measure untrained embeddings.

    The one is the lone space at the end of "Plan: ": in training every space belongs to the word after it.
    """
    from triaxis.models.folder import find_folder, open_tokenizer

    tokenizer = open_tokenizer(find_folder("tiny", "executor"))
    prompts = tokenizer.encode_batch([e.prompt for _, e in stream("2")[:10_000]])
    seen = set(itertools.chain.from_iterable(x.ids for x in prompts))
    unseen = set()
    arms = [*default_conditions(()), *load_preset("factorial").conditions(())]
    for scaffold in {c.scaffold.name: c.scaffold for c in arms}.values():
        for plan in (NEUTRAL.strip(), "12 plus 7 is 19.") if scaffold.shows_plan else (None,):
            prompt = scaffold.render("Tom has 3 pens.", plan)
            shown = tokenizer.encode(f"{prompt.user}\n{prompt.reply}")
            unseen |= {token for token, i in zip(shown.tokens, shown.ids, strict=True) if i not in seen}
    assert unseen <= {"Ġ"}


def test_the_target_is_always_the_right_solution() -> None:
    assert all(e.response == p.solution for p, e in stream("2"))


def notes() -> list[tuple[Problem, str, bool]]:
    """(problem, note, whether it stands after the question) of every prompt that has one."""
    found = []
    for p, e in stream("2"):
        rest = e.prompt.removeprefix(p.question)
        if rest and rest != e.prompt:
            found.append((p, rest[1:], True))
        elif rest:
            found.append((p, e.prompt.removesuffix(p.question)[:-1], False))
    return found


def near(share: float, expected: float, n: int) -> bool:
    """Within four standard errors."""
    return bool(abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n))


def test_notes_are_as_declared() -> None:
    found = notes()
    assert near(len(found) / STREAM, tiny_data.NOTE_SHARE, STREAM)
    assert near(sum(after for *_, after in found) / len(found), 0.5, len(found))
    for opener in ("Note: ", "Note "):
        assert near(sum(n.startswith(opener) for _, n, _ in found) / len(found), 1 / 3, len(found))


def test_the_share_of_wrong_notes_is_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made wrong by the declared share; a little fewer show it, because not every notation tells every number."""
    spoiled, spoil = [], tiny_data.spoil
    monkeypatch.setattr(tiny_data, "spoil", lambda p, dice: spoiled.append(spoil(p, dice)) or spoiled[-1])
    size = 8000
    made = list(itertools.islice(executor_examples("2"), size))
    assert made == [e for _, e in stream("2")[:size]]
    expected = tiny_data.NOTE_SHARE * (1 - tiny_data.OTHER_SHARE) * tiny_data.WRONG_SHARE
    assert near(len(spoiled) / size, expected, size)

    def right(p: Problem) -> set[str]:
        dice = Dice("any")
        texts = {notation(p, dice) for notation in set(tiny_data.NOTATIONS)}
        return texts | {plan_text(p.calculations, leaks) for leaks in (True, False)}

    found = notes()
    wrong = sum(note.removeprefix("Note: ").removeprefix("Note ") not in right(p) for p, note, _ in found) / len(found)
    made_wrong = 1 - (1 - tiny_data.OTHER_SHARE) * (1 - tiny_data.WRONG_SHARE)
    assert made_wrong - 0.05 < wrong < made_wrong


def test_a_spoiled_note_differs_in_one_number_of_one_calculation() -> None:
    dice = Dice("spoil")
    for p, _ in stream("2")[:500]:
        changed = tiny_data.spoil(p, dice)
        pairs = zip(p.calculations, changed.calculations, strict=True)
        differences = [(a, b) for before, after in pairs for a, b in zip(before, after, strict=True) if a != b]
        assert len(differences) == 1
        assert all(isinstance(x, int) for x in differences[0])
        assert changed.question == p.question
