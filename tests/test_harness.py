"""Executors under lm-evaluation-harness: a small local task, and the likelihood bound against brute force."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="pip install triaxis[lm-eval]")
import torch
from hypothesis import given
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.harness import TriaxisLM, _cut, _draws, bound
from triaxis.sampling.executor import Executor
from triaxis.sampling.schedule import Decode
from triaxis.tasks import load_task

pytestmark = pytest.mark.usefixtures("one_thread")


def requests(*args: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=a) for a in args]


def log_p(executor: Executor, context: list[int], target: list[int], hidden: tuple[bool, ...]) -> float:
    """Log probability of the hidden tokens given everything else, written out."""
    mask = executor.checkpoint.config.mask_token_id
    canvas = context + [mask if h else t for t, h in zip(target, hidden, strict=True)]
    with torch.inference_mode():
        p = executor.checkpoint.network(torch.tensor([canvas]))[0].double().log_softmax(-1)
    return sum(float(p[len(context) + i, t]) for i, t in enumerate(target) if hidden[i])


def test_one_token_is_exact(parity: Executor) -> None:
    for mc in (1, 3):
        assert bound(parity, [5, 6, 7], [9], mc=mc) == pytest.approx(log_p(parity, [5, 6, 7], [9], (True,)), abs=1e-5)


def test_the_bounds_expectation_is_that_of_all_masks(parity: Executor) -> None:
    context, target = [5, 6, 7], [9, 4, 30]
    wanted = 0.0
    for hidden in product((False, True), repeat=3):
        k = sum(hidden)
        if k:
            wanted += log_p(parity, context, target, hidden) * 3 / k / math.comb(3, k) / 3
    found = [bound(parity, context, target, mc=60, seed=s) for s in range(12)]
    mean, spread = sum(found) / 12, (max(found) - min(found)) / 2
    assert mean == pytest.approx(wanted, abs=spread)
    assert spread < abs(wanted) / 10
    assert bound(parity, context, target, mc=8) == bound(parity, context, target, mc=8)
    assert bound(parity, context, [], mc=8) == 0.0


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**40))
def test_draws_hide_as_many_as_they_say_and_every_number_alike(length: int, mc: int, key: int) -> None:
    hidden, counts = _draws(length, mc, key)
    assert hidden.sum(1).tolist() == counts.tolist()
    assert all(1 <= c <= length for c in counts.tolist())
    full, exact = _draws(length, length * 3, key)
    assert sorted(exact.tolist()) == sorted([float(k) for k in range(1, length + 1)] * 3)
    assert full.shape == (3 * length, length)


def test_requests_of_the_harness(tiny: Executor) -> None:
    lm = TriaxisLM(executor="tiny", mc=4, greedy=True, steps=12)
    question = load_task("gradeschool").items(1)[0].question
    ids = tiny.prompt_ids(question)
    [whole] = tiny.generate_ids([ids], lm.decode)
    text = tiny.text(whole)
    cut = text[len(text) // 2]
    made = lm.generate_until(requests((question, {"until": [cut]}), (question, {"until": []})))
    assert made == [text[: text.index(cut)], text]
    hot = lm.generate_until(requests((question, {"do_sample": True, "temperature": 5.0})))
    assert hot != [text]
    context = tiny.encode("Tom has 3")
    best = tiny.generate_ids([context], Decode(gen_length=2, block_length=2, steps=2))[0]
    continuation = str(tiny.tokenizer.decode(best, skip_special_tokens=False))
    (value, greedy), (other, not_greedy) = lm.loglikelihood(
        requests(("Tom has 3", continuation), ("Tom has 3 ", "zebra zebra"))
    )
    assert lm._pair("Tom has 3", continuation) == (context, best), "the continuation reads back as its tokens"
    assert (greedy, not_greedy) == (True, False)
    assert value > other
    assert lm.loglikelihood_rolling(requests(("Tom has 3",)))[0] < 0


def test_words_of_refusal() -> None:
    with pytest.raises(UserError, match="unknown setting 'step' of Decode; did you mean 'steps'"):
        TriaxisLM(executor="tiny", step=3)
    with pytest.raises(UserError, match="mc=0 must be a whole number"):
        TriaxisLM(executor="tiny", mc=0)
    with pytest.raises(UserError, match="leave out --apply_chat_template"):
        TriaxisLM(executor="tiny").apply_chat_template([])
    lm = TriaxisLM(executor="tiny")
    with pytest.raises(UserError, match="exceed the context"):
        bound(lm.executor, [5] * 5000, [5], mc=1)


def test_the_harnesss_default_device_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(RuntimeWarning, match="no GPU for device 'cuda:0'"):
        lm = TriaxisLM(executor="tiny", device="cuda:0")
    assert next(lm.executor.checkpoint.network.parameters()).device.type == "cpu"


def test_where_a_text_is_cut() -> None:
    assert _cut("a b c", ["c", "b"]) == "a "
    assert _cut("a b c", "b") == "a "
    assert _cut("a b c", None) == "a b c"
    assert _cut("a b c", [""]) == "a b c"


@pytest.mark.slow
def test_a_local_task_through_the_harness(tiny: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of request through simple_evaluate; no network. Its score is ours on the same items."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import lm_eval

    task = load_task("gradeschool")
    items, file = task.items(4), tmp_path / "items.jsonl"
    lines = [{"question": i.question, "answer": i.answer, "wrong": str(int(i.answer) + 1)} for i in items]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
    written = {
        "task": "written", **data, "output_type": "generate_until", "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["<never>"], "do_sample": False},
        "filter_list": [{"name": "last", "filter": [
            {"function": "regex", "regex_pattern": "(-?[0-9]+)", "group_select": -1}, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    chosen = {
        "task": "chosen", **data, "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": "{{[answer, wrong]}}", "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    found = lm_eval.simple_evaluate(
        model="triaxis", model_args="executor=tiny,mc=4", tasks=[written, chosen], bootstrap_iters=0,
    )  # fmt: skip
    right = [r.verdict == "right" for r in (task.grade(_answer(tiny, i.question), i) for i in items)]
    assert found["results"]["written"]["exact_match,last"] == sum(right) / 4
    assert 0 <= found["results"]["chosen"]["acc,none"] <= 1


def _answer(executor: Executor, question: str) -> str:
    return executor.text(executor.generate_ids([executor.prompt_ids(question)], executor.default_decode())[0])
