"""bench speed and bench agreement: what they print, and that what they measure is what they say."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triaxis.cost import Sizes, decode_flops, dollars, forward_flops, layer_weights, work_flops
from triaxis.errors import UserError, override
from triaxis.estimate.paired import paired
from triaxis.models.llada import LladaConfig
from triaxis.sampling import speed
from triaxis.sampling.agreement import MODES, Row, agreement, modes_of, presets, verdict
from triaxis.sampling.cache import CPU_TOKENS
from triaxis.sampling.executor import Executor
from triaxis.sampling.reference import PlainLlada, generate, get_num_transfer_tokens
from triaxis.sampling.rows import most_rows
from triaxis.sampling.schedule import Decode
from triaxis.sampling.seats import SIZES

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        from triaxis.cli import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            main(list(argv))
        seen = capsys.readouterr()
        return int(e.value.code or 0), seen.out, seen.err

    return call


# --- the reference ---


def test_the_plain_network_has_the_engines_logits(parity: Executor) -> None:
    network = parity.checkpoint.network
    ids = torch.randint(0, 256, (2, 19), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PlainLlada(network)(ids), network(ids), atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]


def test_the_plain_network_groups_heads_and_has_biases() -> None:
    config = LladaConfig(
        d_model=24, n_heads=6, n_kv_heads=2, n_layers=2, mlp_hidden_size=40, vocab_size=50, mask_token_id=48,
        eos_token_id=49, max_sequence_length=64, rope_theta=500.0, rms_norm_eps=1e-5, weight_tying=True,
        include_qkv_bias=True,
    )  # fmt: skip
    network = speed.random_network(config, torch.device("cpu"), torch.float32)
    ids = torch.arange(11)[None]
    torch.testing.assert_close(PlainLlada(network)(ids), network(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("steps", "block"), [(16, 32), (20, 16), (8, 8)])
def test_the_plain_loop_gives_the_engines_tokens(parity: Executor, steps: int, block: int) -> None:
    d = Decode(gen_length=32, block_length=block, steps=steps)
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
    found = generate(PlainLlada(parity.checkpoint.network), torch.tensor(prompts), d, 250).tolist()  # type: ignore[arg-type]
    assert found == parity.generate_ids(prompts, d)


@given(st.integers(1, 40), st.integers(1, 12))
def test_its_schedule_is_ours(masks: int, steps: int) -> None:
    steps = min(steps, masks)
    counts = get_num_transfer_tokens(torch.ones(1, masks, dtype=torch.bool), steps)[0].tolist()
    assert counts == Decode(gen_length=masks, block_length=masks, steps=steps).commits(masks)


def test_its_draws_follow_the_temperature(parity: Executor) -> None:
    torch.manual_seed(0)
    d = Decode(gen_length=8, block_length=8, steps=8, temperature=1.0)
    model = PlainLlada(parity.checkpoint.network)  # type: ignore[arg-type]
    seen = {tuple(generate(model, torch.tensor([[3, 1, 4]]), d, 250)[0].tolist()) for _ in range(4)}
    assert len(seen) == 4


# --- cost ---

LLADA = Sizes(width=4096, layers=32, heads=32, kv_heads=32, head_width=128, ffn=12288, vocabulary=126464)


def test_operations_of_the_published_setting() -> None:
    """253 TFLOP a sequence: trunk 248, attention 3, head on the block 2."""
    assert decode_flops(LLADA, 150, 128, 32, 64) == pytest.approx(253e12, rel=0.005)
    assert 64 * forward_flops(LLADA, 278, 0, 0) == pytest.approx(248e12, rel=0.005)
    assert 32 * layer_weights(LLADA) + 2 * 4096 * 126464 == pytest.approx(8.0e9, rel=0.02), "8B parameters"


@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
def test_operations_are_those_of_the_matrices(layers: int, computed: int, seen: int, logits: int) -> None:
    s = Sizes(width=12, layers=layers, heads=4, kv_heads=2, head_width=6, ffn=20, vocabulary=31)
    count = 0
    for _ in range(layers):
        shapes = [(12, 24), (12, 12), (12, 12), (24, 12), (12, 20), (12, 20), (20, 12)]
        count += sum(2 * computed * a * b for a, b in shapes)
        count += 2 * (2 * 4 * computed * seen * 6)  # scores, and their product with the values
    assert forward_flops(s, computed, seen, logits) == count + 2 * logits * 12 * 31


def test_operations_counted_from_rows_are_those_of_the_protocol() -> None:
    """Rows know their passes and positions: exact where prompts have one length, and nothing for no pass."""
    assert work_flops(LLADA, 3 * 64, 3 * 64 * 278, 32) == 3 * decode_flops(LLADA, 150, 128, 32, 64)
    mixed = decode_flops(LLADA, 100, 128, 32, 64) + decode_flops(LLADA, 200, 128, 32, 64)
    assert work_flops(LLADA, 128, 64 * (228 + 328), 32) == pytest.approx(mixed, rel=0.001)
    assert work_flops(LLADA, 0, 0, 32) == 0


def test_dollars() -> None:
    assert dollars(1800, 3.0) == 1.5
    assert dollars(1800, None) is None


# --- speed ---


@pytest.mark.slow
def test_speed_prints_its_ratios(run: Run) -> None:
    code, out, _ = run("bench", "speed", "--quick", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"vs_reference_b1", "vs_reference_batched"} <= set(found["ratios"])
    assert all(r > 0 for r in found["ratios"].values())
    assert found["agreement"] == {"tokens equal to the reference at T=0": 1.0}
    assert {(t["name"], t["temperature"]) for t in found["timings"]} >= {("engine", 0.0), ("engine", 0.7)}
    code, out, _ = run("bench", "speed", "--quick")
    assert code == 0
    assert "vs_reference_batched: " in out


def test_ratios_are_the_worse_of_the_temperatures(tiny: Executor) -> None:
    timed = speed.Report("cpu", "tiny", {})
    for heat, one, many, engine in ((0.0, 8.0, 4.0, 2.0), (0.7, 9.0, 2.0, 1.5)):
        for name, batch, seconds in (
            ("reference one at a time", 1, one), ("reference batched", 3, many), ("engine", 3, engine),
            ("engine, whole canvas", 3, 2 * engine),
        ):  # fmt: skip
            timed.timings.append(speed.Timing(name, batch, heat, seconds))
    speed._ratios(timed, 3, (0.0, 0.7))
    assert timed.ratios == {
        "vs_reference_b1": 4.0, "vs_reference_batched": 1.33, "vs_reference_b1_canvas": 2.0,
        "vs_reference_batched_canvas": 0.67,
    }  # fmt: skip


@pytest.mark.slow
def test_a_shape_with_random_weights_runs_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(speed.SHAPES["small"], n_layers=1, d_model=32, mlp_hidden_size=48)
    monkeypatch.setitem(speed.SHAPES, "small", small)
    monkeypatch.setattr(speed, "PROMPT", 12)
    report = speed.of_shape("small", device=torch.device("cpu"), quick=True)
    automatic = CPU_TOKENS // (12 + speed.PROTOCOL.gen_length)  # rows, as an executor takes them by itself
    assert [(t.name, t.batch, t.temperature) for t in report.timings] == [
        (c.name, c.batch or automatic, c.temperature) for c in speed.QUICK
    ]
    ragged = next(t for t in report.timings if "ragged" in t.name)
    assert ragged.share is not None
    assert ragged.share > 0
    assert report.ratios["vs_reference_b1"] > 0
    assert set(report.agreement.values()) == {1.0}
    assert all("float32, 1 layers" in name for name in report.agreement)
    assert any("quick" in note for note in report.notes)
    assert all(t.share is None or t.share > 0 for t in report.timings)
    late = speed.of_shape("small", device=torch.device("cpu"), quick=True, budget=-1.0)
    assert not late.timings
    assert all("left out" in note for note in late.notes[1:])


def test_an_automatic_batch_of_a_gpu_needs_no_filling() -> None:
    assert most_rows(65536, 278, SIZES) == 224
    assert most_rows(65536, 278, ()) == 235
    assert most_rows(278, 278, SIZES) == 1


def test_ragged_prompts_are_of_like_lengths_and_within_bounds() -> None:
    small = replace(speed.SHAPES["small"], n_layers=1, d_model=32, mlp_hidden_size=48)
    bench = speed._Bench(small, torch.device("cpu"), torch.float32, speed.PROTOCOL)
    lengths = [len(p) for p in bench.ragged(64)]
    assert lengths == sorted(lengths)
    assert 60 <= lengths[0] < 80
    assert 200 < lengths[-1] <= 300
    assert 100 < sum(lengths) / 64 < 160


@pytest.mark.slow
def test_a_case_that_fails_is_noted_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(speed.SHAPES, "small", replace(speed.SHAPES["small"], n_layers=1, d_model=32))
    monkeypatch.setattr(speed, "PROMPT", 5)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(speed, "with_adapter", fails)
    report = speed.of_shape("small", device=torch.device("cpu"), quick=True)
    assert "engine, adapter on at 4: failed, no kernel for this" in report.notes
    assert len(report.timings) == len(speed.QUICK) - 1


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--shape", "lada-8b"), "no shape named 'lada-8b'; did you mean 'llada-8b'?"),
        (("--n", "1"), "give at least 2 prompts"),
        (("--n", "5000"), "prompts of one length; give at most that"),
        (("--rounds", "0"), "1 round"),
        (("--shape", "llada-8b", "--device", "cuda:99"), "device 'cuda:99' is not here"),
    ],
)
def test_bad_speed_options_are_one_line(run: Run, argv: tuple[str, ...], part: str) -> None:
    code, out, err = run("bench", "speed", *argv)
    assert (code, out) == (2, "")
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_bench_needs_no_command_line_packages() -> None:
    """It runs on a machine with torch, safetensors and tokenizers only."""
    program = """
import sys
for name in ("typer", "rich", "transformers", "peft", "math_verify", "matplotlib", "scipy", "jinja2", "yaml"):
    sys.modules[name] = None
from triaxis.sampling.speed import main
try:
    main(["--help"])
except SystemExit as e:
    sys.exit(e.code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]


# --- agreement ---


def graded(executor: Executor, n: int) -> tuple[list[list[int]], Callable[[int, str], tuple[str, bool]]]:
    import triaxis

    task = triaxis.load_task("gradeschool")
    items = task.items(n, seed=4)

    def grade(i: int, text: str) -> tuple[str, bool]:
        found = task.grade(text, items[i])
        return found.answer, found.verdict == "right"

    return [executor.prompt_ids(item.question) for item in items], grade


def test_agreement_counts_what_changed(tiny: Executor) -> None:
    prompts, grade = graded(tiny, 6)
    d = tiny.default_decode()
    same, dual = agreement(tiny, prompts, d, grade, modes=("dual", "half the steps"))
    assert (same.mode, dual.mode) == ("dual", "half the steps")
    exact = tiny.denoise(prompts, [0] * 6, d)
    changed = tiny.denoise(prompts, [0] * 6, override(d, {"cache": "dual"}))
    ends = set(tiny.end_ids)
    lengths = [next((i + 1 for i, t in enumerate(r.ids) if t in ends), len(r.ids)) for r in exact]
    pairs = [a != b for r, s, n in zip(exact, changed, lengths, strict=True) for a, b in zip(r.ids[:n], s.ids[:n])]  # noqa: B905
    assert same.tokens_changed == pytest.approx(sum(pairs) / len(pairs))
    scores = [[float(grade(i, tiny.text(r.ids))[1]) for i, r in enumerate(rows)] for rows in (changed, exact)]
    assert same.effect.value == pytest.approx(paired(*scores).value)
    assert same.passes == pytest.approx(sum(r.forwards for r in exact) / sum(r.forwards for r in changed))
    assert same.computed > 1.5
    assert dual.passes > 1.4


def test_modes_fit_the_executor(tiny: Executor) -> None:
    d = tiny.default_decode()
    assert set(modes_of(tiny, d)) == {*MODES, "half the steps"}
    assert all(not m.exact for n, m in modes_of(tiny, d).items() if n != "half the steps")
    assert "half the steps" not in modes_of(tiny, replace(d, steps=d.blocks))
    with pytest.raises(UserError, match="no mode named 'duel'"):
        modes_of(tiny, d, ["duel"])


def row(name: str, bound: float, high: float, faster: float) -> Row:
    effect = replace(paired([1, 0, 1], [1, 1, 0]), high=high)
    d = Decode(threshold=faster / 100).card()
    return Row(name, d, 0.0, 0, effect, bound, verdict(bound, high, 0.05), faster, 1.0, 1.0)


def test_presets_follow_the_evidence() -> None:
    rows = [row("a", -0.01, 0.02, 2.0), row("b", -0.2, 0.1, 3.0), row("c", -0.3, -0.1, 9.0), row("d", -0.02, 0.1, 1.5)]
    assert [r.verdict for r in rows] == [
        "not inferior within 0.05", "not resolved at this N", "worse", "not inferior within 0.05"
    ]  # fmt: skip
    chosen = presets(rows, Decode())
    assert chosen["exact"] == Decode().card()
    assert chosen["balanced"] == rows[0].decode
    assert chosen["fast"] == rows[1].decode
    slow = [row("e", 0.0, 0.1, 0.9)]
    assert presets(slow, Decode())["balanced"] == Decode().card()


def test_agreement_prints_a_table_or_json(run: Run) -> None:
    options = ("--n", "4", "--modes", "dual; threshold .9", "--set", "steps=12")
    code, out, err = run("bench", "agreement", *options, "--json")
    found = json.loads(out)
    assert code == 0
    assert [m["mode"] for m in found["modes"]] == ["dual", "threshold .9"]
    assert set(found["presets"]) == {"exact", "balanced", "fast"}
    assert found["modes"][0]["effect"]["n"] == 4
    assert "of tokens changed" in err
    code, out, _ = run("bench", "agreement", *options)
    assert code == 0
    assert out.count("\n") == 4


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--n", "1"), "1 prompts are too few"),
        (("--n", "4", "--margin", "5"), "--margin 5 is not a share"),
        (("--n", "4", "--modes", "duel"), "no mode named 'duel'; known: prefix, dual"),
        (("--n", "4", "--set", "cache=dual"), "agreement is measured against the exact protocol"),
        (("--n", "4", "--executor", "tinny"), "did you mean 'tiny'?"),
    ],
)
def test_bad_agreement_options_are_one_line(run: Run, argv: tuple[str, ...], part: str) -> None:
    code, out, err = run("bench", "agreement", *argv)
    assert (code, out) == (2, "")
    assert part in err
    assert err.count("\n") == 1


def test_equal_shares() -> None:
    dice = random.Random(0)
    a: list[list[Any]] = [[dice.randrange(3) for _ in range(7)] for _ in range(4)]
    b = [[dice.randrange(3) for _ in range(7)] for _ in range(4)]
    same = sum(a[i][j] == b[i][j] for i in range(4) for j in range(7))
    assert speed.share_equal(a, b) == same / 28
