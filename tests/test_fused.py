"""Layers in few kernels (sampling/fused.py) against the layers of models/parts.py, on a CPU: the same tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import triaxis as tx
from triaxis.models.adapters import linear_names, save_adapter, switch_of
from triaxis.models.parts import Canvas, Layer, joined, rotate
from triaxis.sampling import compiled, denoise, fused, graphs
from triaxis.sampling.executor import Executor
from triaxis.sampling.schedule import Decode
from triaxis.sampling.seats import grain_of


def norm(x_TD: Tensor, weight: Tensor, eps: float, out_TD: Tensor) -> None:
    out_TD.copy_(F.rms_norm(x_TD, weight.shape, eps=eps) * weight)


def rotate_(x_BQN: Tensor, heads: int, head_width: int, cos: Tensor, sin: Tensor) -> None:
    part = x_BQN[..., : heads * head_width].unflatten(-1, (heads, head_width))
    part.copy_(rotate(part.transpose(1, 2).clone(), cos, sin).transpose(1, 2))


def swiglu(gate_up_BQF: Tensor, out_BQF: Tensor) -> None:
    gate, up = gate_up_BQF.chunk(2, dim=-1)
    out_BQF.copy_(F.silu(gate) * up)


def attend_kept(
    q_BKN: Tensor, kv_BQN: Tensor, kept: tuple[Tensor, Tensor], places_BQ: Tensor, lengths_B: Tensor | None,
    asked: tuple[Tensor, Tensor], seen: tuple[Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """By writing into a copy of the memory."""
    (_, groups, length, width), (k, v) = kept[0].shape, kv_BQN.chunk(2, dim=-1)
    fresh = rotate(k.unflatten(-1, (groups, width)).transpose(1, 2), *seen), v.unflatten(-1, (groups, width))
    index = places_BQ[:, None, :, None].expand(-1, groups, -1, width)
    keys, values = kept[0].scatter(2, index, fresh[0]), kept[1].scatter(2, index, fresh[1].transpose(1, 2))
    q = rotate(q_BKN.unflatten(-1, (-1, width)).transpose(1, 2), *asked)
    mask = None if lengths_B is None else torch.arange(length) < lengths_B[:, None, None, None]
    a = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=q.shape[1] != groups)
    return a.transpose(1, 2).flatten(2)


def attend_packed(q_BKHE: Tensor, k_BLGE: Tensor, v_BLGE: Tensor, canvas: Canvas) -> Tensor:
    """Row by row where rows are packed; flash attention is not to be had on a CPU."""
    packed = canvas.packed
    if packed is None:
        return fused.attend(q_BKHE, k_BLGE, v_BLGE, canvas)
    (_, asked, heads, width), starts = q_BKHE.shape, packed.starts.tolist()
    ask = (
        starts
        if asked == len(packed.rows_T)
        else [min(asked, i * (asked // (len(starts) - 2))) for i in range(len(starts))]
    )
    out = torch.full((1, asked, heads, width), torch.nan)  # of what nobody computes
    for i in range(len(starts) - 1):
        filling = i == len(starts) - 2
        assert filling or starts[i + 1] - starts[i] <= packed.width
        mine = slice(ask[i], min(ask[i + 1], ask[i] + packed.width) if filling else ask[i + 1])
        q, k, v = (
            t.transpose(1, 2)
            for t in (q_BKHE[:, mine], k_BLGE[:, starts[i] : starts[i + 1]], v_BLGE[:, starts[i] : starts[i + 1]])
        )
        if k.shape[2]:
            out[:, mine] = F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != k.shape[1]).transpose(1, 2)
    return out.flatten(2)


PLAIN: Any = SimpleNamespace(norm=norm, rotate_=rotate_, swiglu=swiglu, attend_kept=attend_kept)
PROTOCOLS: dict[str, dict[str, Any]] = {
    "exact": {}, "dual": {"cache": "dual"}, "prefix": {"cache": "prefix"}, "T=0.7": {"temperature": 0.7},
    "guided": {"cfg_scale": 0.5}, "threshold": {"threshold": 0.9},
}  # fmt: skip


def in_few_kernels(network: Any) -> fused.Fused:
    """The network's layers through `Fused`, with plain operations in place of the kernels."""
    run = fused.Fused.of(network, switch_of(network), PLAIN, attend_packed)
    assert run is not None
    network.run_layer = run
    return run


def packed(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> graphs.Graphs:
    """The same, in steps on tensors of their own as a GPU's graphs are, with rows one after the other."""
    made = graphs.Graphs(executor.checkpoint.network, BASE, None, lambda run, _: run)  # type: ignore[arg-type]

    def of(network: Any, device: object, job: Any) -> graphs.Graphs:
        made.network, made.d, made.body, made.switch = network, job.d, job.whole_step, switch_of(network)
        if not isinstance(network.run_layer, fused.Fused):
            in_few_kernels(network).packs = True
        return made

    monkeypatch.setattr(denoise, "_graphs", of)
    return made


def loaded() -> Executor:
    """An executor of its own whose weights lie side by side, as on a GPU."""
    executor = tx.load_executor("tiny")
    executor.checkpoint.network.fuse()
    return executor


@pytest.mark.parametrize("changes", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_same_tokens_as_the_layers_of_the_network(changes: dict[str, Any]) -> None:
    executor = loaded()
    prompts = [executor.prompt_ids(text) for text in ("2+3", "What is 7 less 4?", "Tom has 3 pens and finds 4.")]
    d = replace(Decode(gen_length=24, block_length=8, steps=12), **changes)
    keys = [5, 6, 7]
    plain = executor.denoise(prompts, keys, d)
    in_few_kernels(executor.checkpoint.network)
    assert [r.ids for r in executor.denoise(prompts, keys, d)] == [r.ids for r in plain]


@pytest.fixture
def adapters(tmp_path: Path) -> Callable[[Executor], list[str]]:
    """Two adapters large enough to change tokens: one beside every matrix, one beside some of them."""

    def make(executor: Executor) -> list[str]:
        g, network = torch.Generator().manual_seed(1), executor.checkpoint.network
        for name, chosen in (("a", ("",)), ("b", ("q_proj", "v_proj", "up_proj", "ff_out"))):
            pairs = {}
            for module in (n for n in linear_names(network) if ".blocks." in n and n.endswith(chosen)):
                up, down = network.get_submodule(module).weight.shape  # type: ignore[misc, union-attr]
                pairs[module] = (torch.randn(3, down, generator=g) * 0.1, torch.randn(up, 3, generator=g) * 0.3)
            save_adapter(tmp_path / name, pairs, {"r": 3, "lora_alpha": 3, "target_modules": list(pairs)}, {})
        return [str(tmp_path / "a"), str(tmp_path / "b")]

    return make


def test_adapters_beside_products_give_the_same_tokens(adapters: Callable[[Executor], list[str]]) -> None:
    base = loaded()
    a, b = adapters(base)
    specs = [f"{a}@last:2", "", f"{a}@all+{b}@first:1", f"{b}@all*0.5"]
    executor = base.with_adapters("", *specs[::2], specs[3])
    prompts = [executor.prompt_ids(text) for text in ("2+3", "What is 7 less 4?", "Tom has 3 pens.", "9-4")]
    d = Decode(gen_length=24, block_length=8, steps=12)
    plain = executor.denoise(prompts, [0] * 4, d, specs)
    weights = {n: p.clone() for n, p in base.checkpoint.network.named_parameters()}
    in_few_kernels(executor.checkpoint.network)
    assert [r.ids for r in executor.denoise(prompts, [0] * 4, d, specs)] == [r.ids for r in plain]
    alike = executor.denoise(prompts, [0] * 4, d, [specs[2]] * 4)
    assert alike[2].ids == plain[2].ids, "one factor for all rows"
    assert alike[0].ids != plain[0].ids, "adapters change tokens"
    assert all(torch.equal(p, weights[n]) for n, p in base.checkpoint.network.named_parameters())


BASE = Decode(gen_length=24, block_length=8, steps=12)
TEXTS = ("2+3", "What is 7 less 4?", "Tom has 3 pens and finds 4. How many pens are there?", "9-4", "5")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_one_after_the_other_give_the_same_tokens(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows; as some leave, the seven that stay fill a graph of eight, of which one takes no tokens."""
    executor = loaded()
    texts = (*TEXTS, "Ann has 12 pens.", "7", "What is 3 more than 8?")
    prompts = [executor.prompt_ids(text) for text in texts]
    d = replace(BASE, temperature=temperature, stop="eos_block")
    plain = executor.denoise(prompts, range(8), d)
    assert len({r.forwards for r in plain}) > 1, "rows leave at different blocks"
    made = packed(executor, monkeypatch)
    found = executor.denoise(prompts, range(8), d)
    assert [(r.ids, r.tokens, r.order) for r in found] == [(r.ids, r.tokens, r.order) for r in plain]
    used = sum(len(p) + d.gen_length for p in prompts)
    first = next(iter(made.made))
    assert used <= first.size.packed < used + grain_of(used) < first.size.rows * first.size.width
    assert all(form.size.packed for form in made.made if form.size.rows > 1)


def test_packed_rows_have_adapters_of_their_own(
    adapters: Callable[[Executor], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = loaded()
    a, b = adapters(base)
    specs = [f"{a}@last:2", "", f"{a}@all+{b}@first:1", f"{b}@all*0.5", f"{a}@all"]
    executor = base.with_adapters("", *(s for s in specs if s))
    prompts = [executor.prompt_ids(text) for text in TEXTS]
    plain = executor.denoise(prompts, [0] * 5, BASE, specs)
    made = packed(executor, monkeypatch)
    assert [r.ids for r in executor.denoise(prompts, [0] * 5, BASE, specs)] == [r.ids for r in plain]
    assert all(form.size.packed for form in made.made)
    assert {form.gated for form in made.made} == {True}


def test_two_networks_of_one_base_take_turns_beside_its_weights(adapters: Callable[[Executor], list[str]]) -> None:
    base = loaded()
    a, b = adapters(base)
    prompt, d = [base.prompt_ids("What is 7 less 4?")], Decode(gen_length=24, block_length=8, steps=12)
    both = [base.with_adapters(f"{name}@all") for name in (a, b)]
    wanted = [e.generate_ids(prompt, d) for e in (base, *both)]
    assert len({str(w) for w in wanted}) == 3
    for executor in (base, *both):
        in_few_kernels(executor.checkpoint.network)
    for _ in range(2):
        assert [e.generate_ids(prompt, d) for e in (base, *both)] == wanted


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_size_is_made_when_filling_up_has_cost_as_much(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows sit where four did, until they have lost as much as a graph of their own is worth."""
    executor, d = loaded(), replace(BASE, cache=cache)
    prompts = [executor.prompt_ids(text) for text in TEXTS[:4]]
    plain = executor.denoise(prompts, range(4), d)
    made = packed(executor, monkeypatch)
    assert [r.ids for r in executor.denoise(prompts, range(4), d)] == [r.ids for r in plain]
    count = len(made.made)
    again = [executor.denoise(prompts[:3], range(3), d)]
    for _ in range(2):  # passes lost are those that were made: one a block here
        executor.denoise(prompts[:3], range(3), replace(d, steps=d.blocks))
    assert len(made.made) == count, "no new graph for so few passes"
    again += [executor.denoise(prompts[:3], range(3), d) for _ in range(8)]
    assert {form.size.rows for form in made.made} == {3, 4}
    assert all([r.ids for r in rows] == [r.ids for r in plain[:3]] for rows in again)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1] * 3], ids=["unlike lengths", "one length"])
def test_a_dual_cache_in_graphs_gives_the_same_tokens(texts: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values are written by their product, and a pass of few positions reads its own beside them."""
    executor = loaded()
    prompts = [executor.prompt_ids(text) for text in texts]
    d = replace(BASE, cache="dual", gen_length=48, block_length=24, temperature=0.7)
    plain = executor.denoise(prompts, range(len(prompts)), d)
    made = packed(executor, monkeypatch)
    found = executor.denoise(prompts, range(len(prompts)), d)
    assert [(r.ids, r.tokens, r.order) for r in found] == [(r.ids, r.tokens, r.order) for r in plain]
    assert {(form.kind, form.asked) for form in made.made} == {
        ("full", 24), ("dual", 24), ("dual", 16), ("dual", 8)
    }  # fmt: skip
    assert all(joined(pair) is not None for memory in made.memories.values() for pair in memory.pairs)


class CompilationError(Exception):
    __module__ = "triton.compiler.errors"


@pytest.mark.parametrize("changes", [{}, {"cache": "dual"}, {"cache": "prefix"}], ids=str)
@pytest.mark.parametrize("graphed", [False, True])
def test_a_kernel_that_fails_is_done_without(
    changes: dict[str, Any], graphed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, d = loaded(), replace(BASE, **changes)
    prompts = [executor.prompt_ids(text) for text in TEXTS]
    wanted = executor.denoise(prompts, range(5), d)
    if graphed and d.cache != "prefix":  # which is never graphed
        packed(executor, monkeypatch)
    monkeypatch.setattr(compiled, "_LAYERS", {})
    monkeypatch.setattr(compiled.Compiled.__init__, "__defaults__", (lambda f: f,))
    network = executor.checkpoint.network
    in_few_kernels(network).ops = SimpleNamespace(**{**vars(PLAIN), "rotate_": lambda *_: refuse()})
    with pytest.warns(RuntimeWarning, match=r"kernels are off: CompilationError \(no such card\)"):
        found = executor.denoise(prompts, range(5), d)
    assert [r.ids for r in found] == [r.ids for r in wanted]
    assert not isinstance(network.run_layer, fused.Fused)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_recording_that_fails_leaves_the_rows_as_they_were(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has run the step by then, on the tensors that the rows sit in."""
    executor, d = loaded(), replace(BASE, cache=cache)
    prompts = [executor.prompt_ids(text) for text in TEXTS]
    wanted = executor.denoise(prompts, range(5), d)
    made, tried = packed(executor, monkeypatch), []

    def record(run: Callable[[], None], _: object) -> Callable[[], None]:
        tried.append(run)
        run()
        if len(tried) > 1 or cache == "none":
            raise RuntimeError("no graphs today")
        return run

    made.record = record
    monkeypatch.setattr(compiled, "_LAYERS", {})
    monkeypatch.setattr(compiled.Compiled.__init__, "__defaults__", (lambda f: f,))
    with pytest.warns(RuntimeWarning, match="no graphs today"):
        found = executor.denoise(prompts, range(5), d)
    assert [(r.ids, r.forwards, r.order) for r in found] == [(r.ids, r.forwards, r.order) for r in wanted]


def refuse() -> None:
    raise CompilationError("no such card")


def test_gradients_go_through_the_layers_as_written() -> None:
    network = loaded().checkpoint.network
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        wanted = network(ids)
    in_few_kernels(network)
    network.embedding().weight.requires_grad_(True)  # type: ignore[union-attr]
    made = network(ids)
    torch.testing.assert_close(made, wanted)
    made.sum().backward()
    assert network.embedding().weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_layers_of_another_kind_are_left_alone() -> None:
    executor = tx.load_executor("tiny")
    network = executor.checkpoint.network
    assert fused.Fused.of(network, None, PLAIN, fused.attend) is None, "weights do not lie side by side"
    network.fuse()
    layer = next(iter(network.layers()))
    assert fused.Weights.of(layer) is not None
    layer.parts = {**layer.parts, "q_norm": "attn_norm"}  # type: ignore[misc]
    assert fused.Weights.of(layer) is None
    run = in_few_kernels(tx_network := loaded().checkpoint.network)
    assert tx_network.run_layer is run
    tx_network.to(torch.float64)
    assert tx_network.run_layer is Layer.__call__, "moved weights are not those that were laid out"


@pytest.mark.slow
def test_the_kernels_compute_what_the_plain_operations_do() -> None:
    """Triton's interpreter runs them on a CPU, in a process of its own."""
    pytest.importorskip("triton", reason="comes with torch's CUDA builds")
    program = """
import torch
from test_fused import PLAIN
from triaxis.models.parts import rope_tables
from triaxis.sampling import kernels
g = torch.Generator().manual_seed(0)
def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
x, weight = torch.randn(5, 40, generator=g), torch.randn(40, generator=g)
wide = [torch.zeros(5, 48), torch.zeros(5, 48)]
for ops, out in zip((kernels, PLAIN), wide):
    ops.norm(x, weight, 1e-5, out[:, :40])
close(*wide)
cos, sin = rope_tables(9, 8, 1e4, x.device)
places = torch.tensor([[1, 3, 4], [0, 5, 8]])
for tables in ((cos[:3], sin[:3]), (cos[places][:, None], sin[places][:, None]), rope_tables(3, 4, 1e4, x.device)):
    made = torch.randn(2, 3, 6 * 8, generator=g)
    both = made.clone(), made.clone()
    for ops, out in zip((kernels, PLAIN), both):
        ops.rotate_(out, 5, 8, *tables)
    close(*both)
    assert not torch.equal(both[0], made) and torch.equal(both[0][..., 40:], made[..., 40:])
h = torch.randn(2, 3, 60, generator=g)
wide = [torch.zeros(2, 3, 34), torch.zeros(2, 3, 34)]
for ops, out in zip((kernels, PLAIN), wide):
    ops.swiglu(h, out[..., :30])
close(*wide)
for heads, groups, width, asks, fresh, length in ((4, 4, 32, 3, 3, 9), (6, 2, 8, 17, 70, 150), (2, 1, 80, 66, 66, 90)):
    cos, sin = rope_tables(length, width, 1e4, x.device)
    for kept in (torch.randn(2, 2, groups, length, width, generator=g),
                 torch.randn(2, length, 2, groups, width, generator=g).permute(2, 0, 3, 1, 4)):
        first = torch.tensor([[length - fresh], [(length - fresh) // 2]])
        places, pick = first + torch.arange(fresh), torch.randperm(fresh, generator=g)[:asks].expand(2, -1)
        made = torch.randn(2, fresh, (heads + 2 * groups) * width, generator=g)
        q, kv = made.gather(1, pick[..., None].expand(-1, -1, heads * width)), made[..., heads * width :]
        tables = [t[places][:, None] for t in (cos, sin)]
        asked = [t.gather(2, pick[:, None, :, None].expand(-1, -1, -1, width)) for t in tables]
        for lengths in (None, torch.tensor([length, (length + fresh) // 2 + 1], dtype=torch.int32)):
            for ask, at in ((q, asked), (made[..., : heads * width], tables)):
                found = [ops.attend_kept(ask, kv, tuple(kept), places, lengths, at, tables) for ops in (kernels, PLAIN)]
                close(*found)
                assert not torch.equal(found[0], torch.zeros_like(found[0]))
"""
    in_another_process(program, TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    """To machine code of a Hopper card, bfloat16 and float32, within its shared memory. Nothing is launched."""
    pytest.importorskip("triton", reason="comes with torch's CUDA builds")
    program = """
import torch
torch.use_deterministic_algorithms(True)  # what nothing was written to is then the same each time
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
class Card:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)
    def get_current_device(self):
        return 0
    def get_current_stream(self, device):
        return 0
driver.set_active(Card())
made = []
def compiled(kernel, grid):
    def run(*args, **more):
        made.append((kernel.__name__, kernel.run(*args, grid=grid, warmup=True, **more).metadata.shared))
    return run
JITFunction.__getitem__ = compiled
from triaxis.sampling import kernels
heads, groups, width, length, fresh = 9, 3, 64, 70, 33
for kind in (torch.bfloat16, torch.float32):
    zeros = lambda *shape: torch.zeros(shape, dtype=kind)
    kernels.norm(zeros(4, 64), zeros(64), 1e-5, zeros(4, 64))
    kernels.swiglu(zeros(1, 2, 128), zeros(1, 2, 64))
    cos, made_of = torch.zeros(length, width), (heads + 2 * groups) * width
    whole, part = zeros(2, length, made_of), zeros(2, fresh, made_of)
    kernels.rotate_(whole, heads + groups, width, cos, cos)
    kept = [zeros(2, length, groups, width).transpose(1, 2) for _ in range(2)]
    places = torch.arange(fresh).expand(2, fresh)
    tables, kv = [cos[places][:, None]] * 2, part[..., heads * width :]
    for lengths in (None, torch.ones(2, dtype=torch.int32)):
        kernels.attend_kept(part[..., : heads * width], kv, kept, places, lengths, tables, tables)
        few = [t[:, :, :16] for t in tables]
        kernels.attend_kept(zeros(2, 16, heads * width), kv, kept, places, lengths, few, tables)
    one = torch.zeros(1, 1, dtype=torch.long)
    for heat in (0.0, 0.7):
        kernels.pick(zeros(1, 4, 500), one[0], one, torch.zeros(1, 4, dtype=torch.long), heat)
assert {name for name, _ in made} == {"_norm", "_swiglu", "_rotate", "_attend_kept", "_scan"}
assert max(shared for _, shared in made) < 227 * 1024
"""
    in_another_process(program)


def in_another_process(program: str, **variables: str) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
