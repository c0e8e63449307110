"""Approximate modes against Fast-dLLM's records and its rules; steps as graphs; memory that runs out."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_sampling import EOS, FAST, MASK, decode_of
from torch import Tensor

from triaxis.errors import UserError, override
from triaxis.models.adapters import share
from triaxis.models.parts import Layer
from triaxis.sampling.denoise import choose, commit_sure
from triaxis.sampling.executor import Executor, load_executor
from triaxis.sampling.schedule import Decode


@pytest.mark.parametrize("record", FAST, ids=lambda r: r["sampler"])
def test_recorded_approximate_completions_token_for_token(parity: Executor, record: dict[str, Any]) -> None:
    """Fast-dLLM v1's own code: prefix cache, dual cache, threshold, with the passes it counted."""
    d = decode_of(record)
    [row] = parity.denoise(record["prompt"], [0], d)
    assert [row.ids] == record["output"]
    assert row.forwards == record["nfe"]
    assert not d.exact


def test_the_approximate_records_are_of_three_modes_and_differ_from_the_exact_loop(parity: Executor) -> None:
    assert len({(decode_of(r).cache, decode_of(r).threshold) for r in FAST}) == 3
    exact = replace(decode_of(FAST[0]), cache="none")
    assert exact.exact
    assert parity.generate_ids(FAST[0]["prompt"], exact) not in [r["output"] for r in FAST]


# --- approximate modes: where they must agree with the exact loop, and what they commit ---

SAME: dict[str, dict[str, Any]] = {
    "everything again at every pass": {"refresh": 1},
    "one pass a block": {"steps": 3},
}


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
@pytest.mark.parametrize("more", [{}, {"temperature": 0.7}, {"cfg_scale": 0.6}], ids=["T=0", "T=0.7", "guided"])
def test_a_cache_that_is_never_stale_is_exact(
    parity: Executor, cache: str, changes: dict[str, Any], more: dict[str, Any]
) -> None:
    prompts = [[7, 3], [9, 9, 1, 2, 40], [5] * 11]
    d = override(Decode(gen_length=24, block_length=8, steps=12), {"cache": cache, **changes, **more})
    exact = replace(d, cache="none", refresh=0)
    assert parity.generate_ids(prompts, d) == parity.generate_ids(prompts, exact)


def test_a_refresh_lies_between_a_stale_cache_and_the_exact_loop(parity: Executor) -> None:
    prompts, d = [[7, 3, n] for n in range(12)], Decode(gen_length=32, block_length=16, steps=32, cache="dual")
    exact = parity.generate_ids(prompts, replace(d, cache="none"))

    def changed(refresh: int) -> int:
        rows = parity.generate_ids(prompts, replace(d, refresh=refresh))
        return sum(a != b for x, y in zip(rows, exact, strict=True) for a, b in zip(x, y, strict=True))

    counts = {r: changed(r) for r in (0, 8, 2, 1)}
    assert counts[1] == 0
    assert counts[0] > counts[2] > 0
    assert counts[0] > counts[8]


def brute(block: list[int], ids: list[int], chances: list[float], d: Decode, mask: int) -> list[int]:
    """Fast-dLLM's rules from its paper, one row, token by token."""
    hidden = [i for i, t in enumerate(block) if t == mask]
    order = sorted(hidden, key=lambda i: (-chances[i], i))
    if d.threshold is not None:
        take = {i for i in order if chances[i] >= d.threshold} | set(order[:1])
    else:
        assert d.factor is not None
        fits = [n for n in range(1, len(order) + 1) if (n + 1) * (1 - chances[order[n - 1]]) <= d.factor]
        take = set(order[: max([1, *fits])])
    return [ids[i] if i in take else t for i, t in enumerate(block)]


@given(st.data())
def test_what_a_threshold_and_a_factor_commit(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 9))
    block = data.draw(st.lists(st.sampled_from([99, 99, 1]), min_size=size, max_size=size))
    chances = data.draw(st.lists(st.sampled_from([0.125, 0.5, 0.75, 0.875, 1.0]), min_size=size, max_size=size))
    level = data.draw(st.sampled_from([0.25, 0.5, 1.0, 1.5]))
    d = Decode(factor=level) if data.draw(st.booleans()) else Decode(threshold=min(level, 1.0))
    ids = list(range(10, 10 + size))
    found = commit_sure(torch.tensor([block]), torch.tensor([ids]), torch.tensor([chances]), d, 99)
    assert found.tolist() == [brute(block, ids, chances, d, 99)]


def test_a_low_threshold_commits_a_block_a_pass_and_a_high_one_a_token_a_pass(parity: Executor) -> None:
    prompt, d = [[5, 6, 7]], Decode(gen_length=24, block_length=8, steps=24)
    [low] = parity.denoise(prompt, [0], replace(d, threshold=1e-9))
    [high] = parity.denoise(prompt, [0], replace(d, threshold=1.0))
    assert low.ids == parity.generate_ids(prompt, replace(d, steps=3))[0]
    assert low.forwards == 3
    assert high.ids == parity.generate_ids(prompt, d)[0]
    assert high.forwards == 24


# --- a step as one graph, with a recorder that just runs it again ---


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.7}, {"remasking": "random"}, {"cache": "dual"}, {"cache": "dual", "refresh": 2},
     {"stop": "eos_block"}, {"cache": "dual", "block_length": 24}],
    ids=str,
)  # fmt: skip
def test_graphed_steps_are_the_plain_ones(
    parity: Executor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Filled rows and widths, tensors of a graph's own, places of a cache: all but the recording itself."""
    from triaxis.sampling import denoise as module
    from triaxis.sampling.graphs import Graphs

    d = override(Decode(gen_length=24, block_length=8, steps=9), changes)
    network, made = parity.checkpoint.network, []

    def graphs(network: Any, device: object, job: Any) -> Graphs:
        if not made:
            made.append(Graphs(network, d, job.whole_step, lambda run, _: run))
        return made[0]

    free = parity.generate_ids([[5, 6, 7]], d)[0]

    def rows(prompts: list[list[int]]) -> list[Any]:
        return module.denoise(
            network, prompts, list(range(len(prompts))), d, mask_id=MASK, eos_ids=[EOS, free[3]],
            device=torch.device("cpu"),
        )  # fmt: skip

    dice = random.Random(2)
    batches = [[[5, 6, 7]], [[dice.randrange(250) for _ in range(n)] for n in (4, 9, 8, 3, 30, 8, 1)], [[1] * 8] * 2]
    plain = [rows(b) for b in batches]
    monkeypatch.setattr(module, "_graphs", graphs)
    graphed = [rows(b) for b in batches]
    for a, b in zip(chain(*graphed), chain(*plain), strict=True):
        assert (a.ids, a.ended, a.forwards, a.tokens, a.order) == (b.ids, b.ended, b.forwards, b.tokens, b.order)
        assert a.chances == pytest.approx(b.chances, abs=1e-5)
    sizes = {form.size.rows for form in made[0].made}
    assert 7 not in sizes
    assert 8 in sizes, "seven rows run as eight"
    widths = {(f.size.width, f.size.padded) for f in made[0].made}
    assert widths >= {(27, False), (56, True), (32, False)}, "ragged ones padded"
    held = {k.untyped_storage().data_ptr() for m in made[0].memories.values() for k, _ in m.pairs}
    assert len(held) == (2 if d.cache == "dual" else 0), "one row's memory, then one that serves all"
    asked = {form.asked for form in made[0].made if form.kind == "dual"}
    assert asked == ({8, 16, 24} if d.block_length == 24 else {8} if d.cache == "dual" else set())


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_adapters_that_switch_are_graphed(
    tiny: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: str
) -> None:
    """Which adapters are on is written into a tensor before each replay; rows of a batch may differ."""
    from triaxis.models.adapters import linear_names, save_adapter, switch_of
    from triaxis.sampling import denoise as module
    from triaxis.sampling.graphs import Graphs

    g, network = torch.Generator().manual_seed(1), tiny.checkpoint.network
    for name, only in (("first", "ff_"), ("second", "q_proj")):
        pairs = {}
        for module_name in (n for n in linear_names(network) if ".blocks." in n and only in n):
            up, down = network.get_submodule(module_name).weight.shape  # type: ignore[misc, union-attr]
            pairs[module_name] = (torch.randn(2, down, generator=g) * 0.1, torch.randn(up, 2, generator=g))
        save_adapter(tmp_path / name, pairs, {"r": 2, "lora_alpha": 2, "target_modules": list(pairs)}, {})
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    specs = [f"{first}@last:2", "", f"{second}@all*0.5", f"{first}@masked:0.5-1+{second}@first:1"]
    executor = tiny.with_adapters("", *specs[2:], specs[0])
    d = override(tiny.default_decode(), {"cache": cache})
    prompts = [executor.prompt_ids(text) for text in ("2+3", "What is 7 less 4?", "Tom has 3.", "9")]
    plain = executor.denoise(prompts, [0] * 4, d, specs) + executor.denoise(prompts, [0] * 4, d, [specs[0]] * 4)
    made: list[Graphs] = []

    def graphs(network: Any, device: object, job: Any) -> Graphs:
        if not made:
            made.append(Graphs(network, d, job.whole_step, lambda run, _: run, switch_of(network)))
        return made[0]

    monkeypatch.setattr(module, "_graphs", graphs)
    found = executor.denoise(prompts, [0] * 4, d, specs) + executor.denoise(prompts, [0] * 4, d, [specs[0]] * 4)
    assert [r.ids for r in found] == [r.ids for r in plain]
    base = tiny.denoise(prompts, [0] * 4, d)
    assert [r.ids for r in base] != [r.ids for r in plain[:4]], "the adapters do something"
    assert {form.gated for form in made[0].made} == {True, False}, (
        "a pass with all adapters off has a graph without them"
    )


def test_each_kind_of_pass_has_a_compiled_function_of_its_own(
    parity: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of one function would meet torch's limit: those of another kind count for themselves."""

    from triaxis.sampling import compiled

    made: list[Any] = []
    monkeypatch.setattr(compiled, "_LAYERS", {})
    monkeypatch.setattr(compiled.Compiled.__init__, "__defaults__", (lambda f: made.append(f) or f,))
    network = parity.checkpoint.network
    monkeypatch.setattr(network, "run_layer", compiled.Layers(None))
    prompts = [[5, 6, 7], [1] * 9]
    for changes in ({}, {"cache": "dual"}, {"cache": "prefix"}):
        d = override(Decode(gen_length=24, block_length=8, steps=9), changes)
        found = parity.generate_ids(prompts, d)
        monkeypatch.setattr(network, "run_layer", Layer.__call__)
        assert found == parity.generate_ids(prompts, d)
        monkeypatch.setattr(network, "run_layer", compiled.Layers(None))
    assert len(made) == len(compiled._LAYERS) == 6  # last or not; no cache, a whole pass, a part: all with a mask
    assert len({f.__code__ for f in made}) == 6


@pytest.mark.slow
def test_layers_with_and_without_adapters_compile_whole_and_once(
    tiny: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through torch's own tracer, which refuses what it cannot take: one graph a kind of pass, and the same tokens."""
    from functools import partial

    from torch._dynamo.utils import counters

    from triaxis.models.adapters import linear_names, save_adapter, switch_of
    from triaxis.sampling import compiled, graphs
    from triaxis.sampling import denoise as module

    g, network, pairs = torch.Generator().manual_seed(1), tiny.checkpoint.network, {}
    for name in (n for n in linear_names(network) if ".blocks." in n):
        up, down = network.get_submodule(name).weight.shape  # type: ignore[misc, union-attr]
        pairs[name] = (torch.randn(2, down, generator=g) * 0.1, torch.randn(up, 2, generator=g) * 0.3)
    save_adapter(tmp_path / "a", pairs, {"r": 2, "lora_alpha": 2, "target_modules": list(pairs)}, {})
    executor = tiny.with_adapters(f"{tmp_path / 'a'}@last:2")
    d = replace(tiny.default_decode(), steps=12, cache="dual", stop="canvas")
    prompts = [tiny.prompt_ids(text) for text in ("2+3", "What is 7 less 4?", "Tom has 3.")]
    plain = executor.generate_ids(prompts, d)

    def graphed(network: Any, device: object, job: Any) -> graphs.Graphs:
        compiled.compile_layers(network)
        return graphs.Graphs(network, job.d, job.whole_step, lambda run, _: run, switch_of(network))

    whole = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(compiled, "_LAYERS", {})
    monkeypatch.setattr(compiled.Compiled.__init__, "__defaults__", (whole,))
    monkeypatch.setattr(module, "_graphs", graphed)
    torch._dynamo.reset()
    before = counters["stats"]["unique_graphs"]
    assert executor.generate_ids(prompts, d) == plain
    assert not any(c.failed for c in compiled._LAYERS.values())
    assert counters["stats"]["unique_graphs"] - before == len(compiled._LAYERS) == 8
    assert not counters["graph_break"]


def test_the_cause_of_a_compilers_failure_is_shown() -> None:
    from triaxis.sampling.compiled import cause_of

    text = "SubprocException: An exception occurred in a subprocess:\n\nName=triton_red\nTraceback:\n  File x\n"
    text += "triton.compiler.errors.CompilationError: at 3:4: unsupported shift\n\nSet TORCHDYNAMO_VERBOSE=1 for more"
    assert cause_of(RuntimeError(text)).endswith("(triton.compiler.errors.CompilationError: at 3:4: unsupported shift)")
    assert cause_of(RuntimeError("no compiler\nhere")) == "RuntimeError (no compiler here)"


@pytest.mark.slow
def test_the_kernel_by_hand_is_the_plain_choice() -> None:
    """Triton's interpreter runs it on a CPU, in a process of its own: kernels are made for one or the other."""
    pytest.importorskip("triton", reason="comes with torch's CUDA builds")
    program = """
import torch
from triaxis.sampling import kernels
from triaxis.sampling.compiled import picked
generator = torch.Generator().manual_seed(0)
keys, places = torch.tensor([3, 2**62 + 5]), torch.arange(2).expand(2, 2) - 1
kernels.PROGRAMS = 8
for width, heat in ((50, 0.0), (1024, 1.3), (2500, 0.7)):
    logits = (torch.randn(2, 2, width, generator=generator) * 4).round(decimals=1 if heat else 0)
    step = torch.tensor([[0], [7]])
    ids, chance = kernels.pick(logits, keys, step, places, heat)
    wanted, likely = picked(logits, keys, step, places, heat)
    assert torch.equal(ids, wanted), (width, heat)
    torch.testing.assert_close(chance, likely)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]


def test_what_cannot_be_graphed_is_not() -> None:
    from triaxis.models.llada import LladaConfig, LladaNetwork
    from triaxis.sampling.graphs import graphs_of

    config = LladaConfig(
        d_model=8, n_heads=2, n_layers=1, mlp_hidden_size=8, vocab_size=20, mask_token_id=18, eos_token_id=19,
        max_sequence_length=64, rope_theta=500.0, rms_norm_eps=1e-5,
    )  # fmt: skip
    network, body = LladaNetwork(config), lambda *_: None
    first = graphs_of(network, Decode(), 18, body)
    assert first is not None
    assert graphs_of(network, Decode(steps=32), 18, body) is first, "the steps are no part of a graph"
    assert graphs_of(network, Decode(temperature=0.5), 18, body) is not first
    for changes in ({"threshold": 0.9}, {"cfg_scale": 1.0}, {"cache": "prefix"}):
        assert graphs_of(network, override(Decode(), changes), 18, body) is None
    network.synchronises = True
    assert graphs_of(network, Decode(), 18, body) is None


def test_a_network_and_its_graphs_go_when_nothing_else_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from triaxis.sampling import denoise, graphs

    def graphed(network: Any, device: object, job: Any) -> graphs.Graphs:
        made = graphs.graphs_of(network, job.d, job.mask_id, job.whole_step)
        assert made is not None
        made.record = lambda run, _: run
        return made

    monkeypatch.setattr(denoise, "_graphs", graphed)
    executor = load_executor("tiny", device="cpu")
    d, mask = replace(executor.default_decode(), steps=6), executor.checkpoint.config.mask_token_id
    executor.generate_ids([executor.prompt_ids("Tom has 3 apples.")], d)
    network = executor.checkpoint.network
    made = graphs.graphs_of(network, d, mask, lambda *_: None)
    assert made is not None
    assert made.made  # those of the row above
    mounted = share(network)
    assert graphs.graphs_of(mounted, d, mask, made.body) is not made  # type: ignore[arg-type]
    held = ref(network), ref(mounted)
    del network, mounted, executor, made
    gc.collect()
    assert [h() for h in held] == [None, None]


def test_the_compiled_choice_is_the_plain_one() -> None:
    from triaxis.sampling.compiled import picked

    logits = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(1)) * 5
    keys, places, step = torch.tensor([3, 4, 5]), torch.arange(4).expand(3, 4), torch.tensor([[0], [2], [7]])
    for heat in (0.0, 0.9):
        ids, chance = picked(logits, keys, step, places, heat)
        wanted, _, likely = choose(logits, keys, step, places, Decode(temperature=heat))
        assert torch.equal(ids, wanted)
        torch.testing.assert_close(chance, likely)


def test_a_compiler_that_fails_leaves_the_plain_function_and_one_warning() -> None:
    from triaxis.sampling.compiled import Compiled

    doubled = Compiled(lambda x: 2 * x, "doubling")

    def broken(x: int) -> int:
        raise RuntimeError("no compiler\nhere")

    doubled.fast = broken
    with pytest.warns(RuntimeWarning, match=r"doubling run uncompiled: RuntimeError \(no compiler here\)"):
        assert doubled(2) == 4
    assert doubled(3) == 6


def test_out_of_memory_halves_the_batch_and_loses_no_row(parity: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, d = [[n, 1] for n in range(1, 12)], Decode(gen_length=8, block_length=8, steps=4)
    wanted = parity.generate_ids(prompts, d)
    hidden, tried = parity.checkpoint.network.hidden, []

    def small(most: int) -> Callable[..., Tensor]:
        def run(ids: Tensor, *rest: Any) -> Tensor:
            tried.append(len(ids))
            if len(ids) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return hidden(ids, *rest)

        return run

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # of all that pytest holds, at every halving
    monkeypatch.setattr(parity.checkpoint.network, "hidden", small(3))
    assert parity.generate_ids(prompts, d) == wanted
    assert tried[:3] == [11, 5, 2]
    monkeypatch.setattr(parity.checkpoint.network, "hidden", small(0))
    with pytest.raises(UserError, match=r"out of memory with one row of 10 tokens; use bf16, a shorter gen_length"):
        parity.generate_ids(prompts, d)
