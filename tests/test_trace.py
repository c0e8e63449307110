"""Recorded trajectories: the tokens of the loop itself, plain files, and what they give away about ties."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_study import HOSTILE
from typer.testing import CliRunner

from triaxis import tracing
from triaxis.cli import app
from triaxis.cli import bench as _others  # noqa: F401 - an app of one command has no names of commands
from triaxis.cli import trace as _registers  # noqa: F401
from triaxis.conditions import Prompt, Scaffold
from triaxis.errors import UserError
from triaxis.models.adapters import linear_names, save_adapter, target_pattern
from triaxis.report.trace import trace_page
from triaxis.sampling.executor import Executor, load_executor
from triaxis.sampling.schedule import Decode
from triaxis.streams import stream_key
from triaxis.tracing import Trace, alarms, divergence, read_jsonl, record, to_jsonl

QUESTION = "Tom has 12 pens. Tom finds 7 more pens. How many pens are there?"
DECODES = {
    "greedy": Decode(gen_length=32, block_length=8, steps=16),
    "eos": Decode(gen_length=32, block_length=8, steps=32, stop="eos_block"),
    "drawn": Decode(gen_length=16, block_length=8, steps=16, temperature=0.7),
    "random order": Decode(gen_length=16, block_length=16, steps=8, remasking="random"),
    "guided": Decode(gen_length=16, block_length=8, steps=8, cfg_scale=1.0),
    "threshold": Decode(gen_length=32, block_length=8, steps=32, threshold=0.9),
    "cached": Decode(gen_length=32, block_length=8, steps=16, cache="dual"),
}


@pytest.fixture(scope="module")
def executor() -> Executor:
    return load_executor("tiny")


@pytest.fixture(scope="module")
def trace(executor: Executor) -> Trace:
    return record(executor, Prompt(QUESTION), DECODES["greedy"], label="bare")


def adapter_folder(executor: Executor, home: Path) -> str:
    """An adapter with random matrices on the attention outputs."""
    g, pairs = torch.Generator().manual_seed(1), {}
    for name in linear_names(executor.checkpoint.network):
        if ".blocks." in name and name.endswith("attn_out"):
            layer = executor.checkpoint.network.get_submodule(name)
            pairs[name] = (
                torch.randn(4, layer.in_features, generator=g),
                torch.randn(layer.out_features, 4, generator=g),
            )
    config = {"r": 4, "lora_alpha": 8, "target_modules": target_pattern(list(pairs))}
    save_adapter(home / "random", pairs, config, {})
    return str(home / "random")


@pytest.mark.parametrize("name", DECODES)
def test_a_recorded_row_is_the_row_without_a_recorder(executor: Executor, name: str) -> None:
    decode = DECODES[name]
    t = record(executor, Prompt(QUESTION), decode, seed=3)
    (row,) = executor.denoise([executor.prompt_ids(QUESTION)], [stream_key("trace", 3)], decode)
    assert (list(t.ids), t.forwards, t.ended, t.answer) == (row.ids, row.forwards, row.ended, executor.text(row.ids))
    commits = {c.place: (s.number, c.token, c.chance) for s in t.steps for c in s.commits}
    assert commits == {
        p: (o, i, c) for p, (o, i, c) in enumerate(zip(row.order, row.ids, row.chances, strict=True)) if o >= 0
    }
    for s in t.steps:
        assert {c.place // decode.block_length for c in s.commits} == {s.block}
        assert {g.place // decode.block_length for g in s.left} <= {s.block}
        for c in s.commits:
            assert 0 <= c.entropy <= torch.tensor(float(executor.checkpoint.config.rows)).log() + 1e-4
            assert [p for _, p in c.others] == sorted((p for _, p in c.others), reverse=True)
            if decode.temperature == 0:
                assert c.token == c.others[0][0]
                assert c.chance == pytest.approx(c.others[0][1], abs=1e-5)


def test_entropy_and_alternatives_are_those_of_the_logits() -> None:
    """Against the plain formulas, on logits the recorder is shown through a network that only passes them on."""

    class Passing:
        def hidden(self, ids: torch.Tensor, *_: object) -> torch.Tensor:
            return ids

        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden

    torch.manual_seed(0)
    logits = torch.randn(2, 3, 11) * 3
    for scale, wanted in ((0.0, logits[:1]), (1.5, logits[1:] + 2.5 * (logits[:1] - logits[1:]))):
        r = tracing.Recorder(Passing(), scale, top=4)
        shown = logits if scale else logits[:1]
        assert r.head(r.hidden(shown, None, torch.tensor([[5, 6, 7]]))) is shown
        places, entropy, chances, tokens = r.passes[0]
        p = wanted[0].double().exp() / wanted[0].double().exp().sum(-1, keepdim=True)
        assert places.tolist() == [5, 6, 7]
        assert torch.allclose(entropy.double(), -(p * p.log()).sum(-1), atol=1e-5)
        assert torch.equal(tokens, p.argsort(-1, descending=True)[:, :4])
        assert torch.allclose(chances.double(), p.sort(-1, descending=True).values[:, :4], atol=1e-6)


def test_a_file_holds_the_trace_and_damage_is_one_line(trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(to_jsonl(trace), encoding="utf-8")
    back = read_jsonl(path)
    assert to_jsonl(back) == to_jsonl(trace)
    assert alarms(back) == alarms(trace)
    assert divergence(back, trace) == (None, None)
    assert path.stat().st_size < 40_000
    for damage in ("", "[]", '{"schema": 9}', path.read_text()[:-40]):
        (tmp_path / "bad.jsonl").write_text(damage)
        with pytest.raises(UserError, match=r"bad\.jsonl.*triaxis trace"):
            read_jsonl(tmp_path / "bad.jsonl")


def test_divergence_is_the_first_step_and_the_first_place(executor: Executor, trace: Trace) -> None:
    other = record(executor, Scaffold("plan-empty", "Plan: ").render(QUESTION), DECODES["greedy"])
    step, place = divergence(trace, other)
    pairs = [({(c.place, c.token) for c in s.commits}, {(c.place, c.token) for c in o.commits})
             for s, o in zip(trace.steps, other.steps, strict=True)]  # fmt: skip
    assert step is not None
    assert all(a == b for a, b in pairs[:step])
    assert pairs[step][0] != pairs[step][1]
    if place is not None:
        assert trace.ids[:place] == other.ids[:place]
        assert trace.ids[place] != other.ids[place]
    shorter = replace(trace, steps=trace.steps[:-1])
    assert divergence(trace, shorter).step == len(trace.steps) - 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=4), st.integers(1, 4)), max_size=6
    )
)
def test_alarms_against_brute_force(plan: list[tuple[list[float], int]]) -> None:
    steps, order, full = [], [], []
    for number, (chances, count) in enumerate(plan):
        ranked = sorted(chances, reverse=True)
        kept, left = ranked[:count], ranked[count:]
        steps.append(
            tracing.Step(
                number, 0, {}, tuple(tracing.Commit(i, 1, p, 0.0, ((1, p), (2, 0.1))) for i, p in enumerate(kept)),
                tuple(tracing.Guess(9 + i, 1, p, 0.0) for i, p in enumerate(left)),
            )
        )  # fmt: skip
        order += [number] if left and left[0] == kept[-1] else []
        full += [number] if ranked.count(1.0) > count else []
    decode = {"temperature": 0.0, "remasking": "low_confidence"}
    t = Trace("", "", "", "", "", decode, 0, "", (), True, 0, 0.0, {}, tuple(steps))
    found = alarms(t)
    assert list(found.order_ties) == order
    assert list(found.saturated) == full
    assert found.token_ties == ()
    assert found.sure == sum(c.chance == 1.0 for s in steps for c in s.commits)
    assert alarms(replace(t, decode={**decode, "temperature": 1.0})).order_ties == ()


def test_adapters_of_a_step_are_those_the_schedule_says(executor: Executor, tmp_path: Path) -> None:
    spec = adapter_folder(executor, tmp_path)
    decode = Decode(gen_length=32, block_length=8, steps=16)
    t = record(executor.with_adapters(f"{spec}@last:2"), Prompt(QUESTION), decode)
    assert [s.number for s in t.steps if s.adapters] == [s.number for s in t.steps if s.block >= 2]
    assert {tuple(s.adapters.items()) for s in t.steps if s.block >= 2} == {((spec, 1.0),)}


def test_a_useless_top_is_refused(executor: Executor) -> None:
    with pytest.raises(UserError, match="--top 0"):
        record(executor, Prompt(QUESTION), DECODES["greedy"], top=0)


@pytest.mark.slow
def test_recording_costs_less_than_a_tenth(executor: Executor) -> None:
    """Least of several alternating runs, in processor time and with all that is kept: what a busy machine adds falls
    on both."""
    decode = Decode(gen_length=64, block_length=32, steps=64)
    ids = executor.prompt_ids(QUESTION)
    bare, kept = [], []
    for _ in range(8):
        began = time.process_time()
        executor.denoise([ids], [0], decode)
        middle = time.process_time()
        record(executor, Prompt(QUESTION), decode)
        bare.append(middle - began)
        kept.append(time.process_time() - middle)
    assert min(kept) < 1.1 * min(bare), (min(kept), min(bare))
    print(json.dumps({"bare": min(bare), "recorded": min(kept)}))


# ---------------------------------------------------------------- the command and the page


def command(*argv: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["trace", *argv])
    if isinstance(done.exception, UserError):
        return 2, done.output, str(done.exception)
    return done.exit_code, done.output, ""


def test_the_command_writes_files_and_a_page(tmp_path: Path) -> None:
    argv = ("--question", QUESTION, "--plan", "12 + 7 = 19", "--against", "bare", "--out", str(tmp_path), "--json")
    code, out, _ = command(*argv, "--set", "gen_length=16", "--set", "steps=16")
    assert code == 0
    said = json.loads(out)
    traces = [read_jsonl(Path(t["file"])) for t in said["traces"]]
    assert [t.label for t in traces] == ["plan", "bare"]
    assert "Plan: 12 + 7 = 19" in traces[0].prompt
    assert traces[1].prompt == QUESTION
    assert said["divergence"] == divergence(*traces)._asdict()
    assert (tmp_path / "trace.html").read_text(encoding="utf-8") == trace_page(traces)
    code, out, _ = command("--question", QUESTION, "--out", str(tmp_path), "--set", "steps=48")
    assert code == 0
    assert out.startswith("bare: ")
    assert not (tmp_path / "trace-b.jsonl").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--scaffold", "plan"), "give its text with --plan"),
        (("--scaffold", "plan-empy"), "did you mean 'plan-empty'"),
        (("--against", "bare"), "both sides are the same"),
        (("--scaffold", "hint", "--against", "hint"), "both sides are the same"),
        (("--scaffold", "hint", "--against", "base"), "both sides are the same"),
        (("--set", "step=3"), "did you mean 'steps'"),
    ],
)
def test_unusable_input_is_one_line(argv: tuple[str, ...], said: str, tmp_path: Path) -> None:
    code, _, err = command("--question", QUESTION, "--out", str(tmp_path), *argv)
    assert code == 2
    assert said in err
    assert not list(tmp_path.iterdir())


def test_the_page_needs_nothing_else_and_obeys_no_text(trace: Trace) -> None:
    bad = replace(
        trace, label=HOSTILE[0], prompt=HOSTILE[1], answer=HOSTILE[3], texts=dict.fromkeys(trace.texts, HOSTILE[0])
    )
    page = trace_page([bad, trace])
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert page.count("<style>") == 1
    assert not re.search(r'(?:src|href)="(?!#)', page)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    assert data is not None
    held = json.loads(data[1])["traces"][0]["texts"]
    assert set(held.values()) == {HOSTILE[0].replace(" ", "·")}
    with pytest.raises(UserError, match="not 0"):
        trace_page([])
