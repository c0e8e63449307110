"""The shipped tiny family: what it weighs, its tokenizer, its planners, and that it does what the axes need."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import triaxis
from triaxis.errors import UserError
from triaxis.models.folder import SHIPPED, find_folder
from triaxis.models.writer import Planner
from triaxis.plans import read
from triaxis.sampling.executor import Executor
from triaxis.tasks.base import Item

SPECIALS = ("<|mask|>", "<|eos|>", "<|user|>", "<|assistant|>")
EVERYONE = [(kind, name) for kind, names in SHIPPED.items() for name in names]


@cache
def items(n: int = 60) -> Sequence[Item]:
    return triaxis.load_task("gradeschool").items(n, seed=7)


def accuracy(executor: Executor, prompts: Sequence[str], asked: Sequence[Item]) -> float:
    """Share of right answers at the default protocol."""
    task = triaxis.load_task("gradeschool")
    found = executor.generate_ids([executor.prompt_ids(p) for p in prompts], executor.default_decode())
    verdicts = [task.grade(executor.text(ids), item).verdict for ids, item in zip(found, asked, strict=True)]
    return verdicts.count("right") / len(asked)


# --- what is shipped ---


def test_the_family_is_small_and_complete() -> None:
    home = find_folder("tiny", "executor").parent
    assert sum(p.stat().st_size for p in home.rglob("*") if p.is_file()) < 16e6
    assert not [p for p in home.rglob("*") if p.is_file() and p.suffix not in {".json", ".safetensors"}]
    for kind, name in EVERYONE:
        folder = find_folder(name, kind)
        assert json.loads((folder / "recipe.json").read_text())["steps"] > 0


def test_sizes(tiny: Executor, planners: Mapping[str, Planner]) -> None:
    assert 0.7e6 < tiny.parameters < 1.3e6
    s, m, l = (planners[size].parameters for size in "sml")  # noqa: E741
    assert s < 0.2e6 < m < 0.6e6 < 1.2e6 < l < 2e6
    assert len({planners[size].identity for size in "sml"}) == 3


def test_one_tokenizer_for_all() -> None:
    assert len({(find_folder(name, kind) / "tokenizer.json").read_bytes() for kind, name in EVERYONE}) == 1


@pytest.mark.slow
def test_the_shipped_tokenizer_is_what_the_script_makes() -> None:
    from triaxis.train.families.tiny_data import train_tokenizer

    made = json.loads(train_tokenizer().to_str())
    assert made == json.loads((find_folder("tiny", "executor") / "tokenizer.json").read_text())


# --- the tokenizer ---


@settings(max_examples=200, deadline=None)
@given(st.text())
@example("")
@example(" ")
@example("Plan: \n\n  12 plus 7\t\r\n#### 19 ")
@example("é ß 漢字 🙂 \u0000 \ud7ff \u200b")
@example("<|eos|><|mask|> <|user|>")
def test_tokens_lose_nothing_and_users_make_no_special_token(tiny: Executor, text: str) -> None:
    ids = tiny.encode(text)
    assert tiny.tokenizer.decode(ids, skip_special_tokens=False) == text
    assert not set(ids) & {tiny.tokenizer.token_to_id(t) for t in SPECIALS}


def test_special_tokens_of_the_template_are_single(tiny: Executor) -> None:
    assert [tiny.encode(t, special=True) for t in SPECIALS] == [[0], [1], [2], [3]]
    config = tiny.checkpoint.config
    assert (config.mask_token_id, config.eos_token_id) == (0, 1)
    assert tiny.tokenizer.get_vocab_size() == config.vocab_size == config.rows


def test_digits_are_single_tokens(tiny: Executor) -> None:
    assert len(tiny.encode("12+7=19")) == 7


def test_every_test_item_fits_the_canvas(tiny: Executor) -> None:
    decode = tiny.default_decode()
    for item in triaxis.load_task("gradeschool").items():
        assert len(tiny.encode("\n" + item.solution)) < decode.gen_length
        assert len(tiny.prompt_ids(item.question)) + decode.gen_length < tiny.checkpoint.config.max_sequence_length


# --- the planners ---


def right_plans(planner: Planner) -> float:
    written = planner.write([i.question for i in items()])
    return sum(read.follows(w.text, i.steps) is True for w, i in zip(written, items(), strict=True)) / len(written)


@pytest.mark.slow
def test_plan_quality_rises_with_size(planners: Mapping[str, Planner]) -> None:
    s, m, l = (right_plans(planners[size]) for size in "sml")  # noqa: E741
    assert s + 0.2 < m
    assert m + 0.1 < l
    assert s < 0.5
    assert l > 0.8


def test_a_plan_does_not_depend_on_its_batch(planners: Mapping[str, Planner]) -> None:
    questions, planner = [i.question for i in items()[:6]], planners["s"]
    alone = [planner.write([q])[0] for q in questions]
    assert planner.write(questions) == alone
    assert replace(planner, batch=3).write(questions[::-1]) == alone[::-1]
    assert planner.write([]) == []


def test_a_planner_says_what_it_spent(planners: Mapping[str, Planner]) -> None:
    planner = planners["l"]
    [whole] = planner.write([items()[0].question])
    assert not whole.truncated
    assert 0 < whole.tokens < planner.budget
    assert whole.tokens == len(planner.tokenizer(whole.text, add_special_tokens=False)["input_ids"])
    [cut] = planner.using(budget=4).write([items()[0].question])
    assert cut.truncated
    assert cut.tokens == 4
    assert whole.text.startswith(cut.text)


def test_a_question_beyond_the_context_is_refused(planners: Mapping[str, Planner]) -> None:
    with pytest.raises(UserError, match=r"planner 'tiny-planner-s': a question has .* exceeds the context of 512"):
        planners["s"].write(["short", "3 pens " * 300])


def test_several_end_marks(planners: Mapping[str, Planner]) -> None:
    """Llama 3 and others list more than one."""
    planner = planners["l"]
    [whole] = planner.write([items()[0].question])
    comma = planner.tokenizer("12, then", add_special_tokens=False)["input_ids"][2]
    stop = replace(planner, ends=planner.ends | {comma}).write([items()[0].question])[0]
    assert stop.text == whole.text.split(",")[0]
    assert not stop.truncated


# --- the executor: room in both directions, and notes that are used ---


def test_accuracy_leaves_room_in_both_directions(tiny: Executor) -> None:
    asked = items()[:40]
    assert 0.5 < accuracy(tiny, [i.question for i in asked], asked) < 0.9


def with_note(note: Callable[[Item], str]) -> list[str]:
    """Prompts in the form of training, a note after the question."""
    return [f"{i.question}\nNote: {note(i)}" for i in items()[:20]]


@pytest.mark.slow
def test_the_content_of_a_note_is_used(tiny: Executor) -> None:
    everyone = triaxis.load_task("gradeschool").items()
    donors = {i.id: d for i, d in zip(items(), reversed(everyone), strict=False)}
    gold = accuracy(tiny, with_note(read.gold_plan), items()[:20])
    other = accuracy(tiny, with_note(lambda i: read.gold_plan(donors[i.id])), items()[:20])
    assert gold > other + 0.15
    assert gold > 0.7


@pytest.mark.slow
@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 0.55, 0.8), ("tiny-0", 0.65, 0.92), ("tiny-1", 0.45, 0.75)])
def test_accuracy_of_every_seed(one_thread: None, name: str, low: float, high: float) -> None:
    asked = items(250)
    assert low < accuracy(triaxis.load_executor(name), [i.question for i in asked], asked) < high
