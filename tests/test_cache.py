"""Which positions a pass computes, and the memory it writes: `sampling/cache.py` and `models/parts.py`."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from triaxis.models.parts import Memory, Shape
from triaxis.sampling.cache import Keeper
from triaxis.sampling.executor import Executor
from triaxis.sampling.schedule import Decode

SHAPE = Shape(width=8, layers=2, heads=2, kv_heads=1, head_width=4, theta=100.0, eps=1e-5, max_length=64)
CANVAS = torch.zeros(2, 30, dtype=torch.long)
STARTS, ENDS = torch.tensor([6, 4]), torch.tensor([30, 28])


def keeper(shape: Shape = SHAPE, **changes: object) -> Keeper:
    d = Decode(gen_length=24, block_length=8, steps=12, **changes)  # type: ignore[arg-type]
    return Keeper.of(d, shape, torch.float32, watch=False)


def computed(k: Keeper, block: int, step: int) -> list[list[int]] | None:
    """First and last position and count of each row, None for the whole canvas."""
    places = k.plan(CANVAS, STARTS + 8 * block, ENDS, step, None).places_BQ
    return None if places is None else [[int(r[0]), int(r[-1]), len(r)] for r in places]


def with_shape(**changes: int) -> Shape:
    return replace(SHAPE, **changes)  # type: ignore[arg-type]


def test_no_cache_keeps_nothing_and_computes_everything() -> None:
    plan = keeper().plan(CANVAS, STARTS + 8, ENDS, 2, None)
    assert plan == (None, None)


@pytest.mark.parametrize(
    ("cache", "places"),
    [("prefix", [[[14, 29, 16], [12, 27, 16]], [[22, 29, 8], [20, 27, 8]]]),
     ("dual", [[[14, 21, 8], [12, 19, 8]], [[22, 29, 8], [20, 27, 8]]])],
)  # fmt: skip
def test_a_cache_computes_everything_at_a_blocks_start_and_its_part_then(cache: str, places: list[object]) -> None:
    k = keeper(cache=cache)
    for block, expected in enumerate(places, start=1):
        assert computed(k, block, 0) is None
        assert computed(k, block, 1) == expected
        assert computed(k, block, 2) == expected


def test_a_refresh_computes_everything_again() -> None:
    k = keeper(cache="dual", refresh=2)
    assert [computed(k, 0, s) is None for s in range(5)] == [True, False, True, False, True]


def test_a_shifted_network_computes_the_position_before_the_block_too() -> None:
    k = keeper(with_shape(shift=1), cache="dual")
    assert computed(k, 1, 0) is None
    assert computed(k, 1, 1) == [[13, 21, 9], [11, 19, 9]]


def test_a_block_causal_network_computes_a_finished_block_once_more_with_the_next() -> None:
    k = keeper(with_shape(attend_block=4))
    assert computed(k, 0, 0) is None
    assert computed(k, 0, 1) == [[6, 13, 8], [4, 11, 8]]
    assert computed(k, 1, 0) == [[6, 21, 16], [4, 19, 16]]
    assert computed(k, 1, 1) == [[14, 21, 8], [12, 19, 8]]


def test_rows_that_wait_keep_their_memory_and_rows_that_leave_lose_it() -> None:
    k = keeper(with_shape(attend_block=4))
    whole = k.plan(CANVAS, STARTS, ENDS, 0, None).memory
    assert whole is not None
    for row, (key, value) in enumerate(whole.pairs):
        key.copy_(torch.arange(2)[:, None, None, None] + 10 * row)
        value.copy_(key)
    k.plan(CANVAS, STARTS, ENDS, 1, None)
    one = torch.tensor([1])
    part = k.plan(CANVAS[one], STARTS[one], ENDS[one], 2, one).memory
    assert part is not None
    assert [float(key.mean()) for key, _ in part.pairs] == [1.0, 11.0]
    assert k.plan(CANVAS, STARTS + 8, ENDS, 0, None).memory is whole
    k.keep([1])
    left = k.plan(CANVAS[one], STARTS[one] + 8, ENDS[one], 1, None).memory
    assert left is not None
    assert [float(key.mean()) for key, _ in left.pairs] == [1.0, 11.0]


def test_memory_has_room_for_the_canvas_and_starts_at_zero() -> None:
    memory = Memory.empty(SHAPE, CANVAS, torch.bfloat16)
    assert len(memory.pairs) == 2
    assert {t.shape for pair in memory.pairs for t in pair} == {(2, 1, 30, 4)}
    assert {t.dtype for pair in memory.pairs for t in pair} == {torch.bfloat16}
    assert not any(t.any() for pair in memory.pairs for t in pair)


@pytest.mark.parametrize("last", [0, 1])
def test_open_rows_shrink_again_from_the_rows_open_before(last: int) -> None:
    k = keeper(cache="dual")
    three = CANVAS[:1].expand(3, -1)
    starts, ends = torch.tensor([6, 5, 4]), torch.tensor([30, 29, 28])
    whole = k.plan(three, starts, ends, 0, None).memory
    assert whole is not None
    for pair in whole.pairs:
        for t in pair:
            t.copy_(torch.arange(3)[:, None, None, None])
    two = torch.tensor([0, 2])
    k.plan(three[two], starts[two], ends[two], 1, two)
    one = two[last : last + 1]
    part = k.plan(three[one], starts[one], ends[one], 2, one).memory
    assert part is not None
    assert part.pairs[0][0].shape[0] == 1
    assert float(part.pairs[0][0].mean()) == float(one)


# --- room ---


def test_the_batch_follows_the_free_memory(parity: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the memory functions of a GPU replaced; at LLaDA-8B's shape a row of 278 tokens takes some 50 MB."""
    from triaxis.models.llada import LladaNetwork
    from triaxis.sampling import cache as module
    from triaxis.sampling.speed import SHAPES

    with torch.device("meta"):
        network = LladaNetwork(SHAPES["llada-8b"]).to(torch.bfloat16)
    d, vocabulary = Decode(gen_length=128, block_length=32, steps=64), 126464
    exact = module.bytes_a_token(network, vocabulary, d, 278)
    assert 30e6 < 278 * exact < 100e6
    dual = module.bytes_a_token(network, vocabulary, replace(d, cache="dual"), 278)
    assert dual - exact == 2 * 2 * 32 * 4096, "keys and values of 32 layers in bf16"
    assert module.bytes_a_token(network, vocabulary, replace(d, cfg_scale=1.0), 278) == 2 * exact
    assert module.fitting_tokens(parity.checkpoint.network, 256, d, 278) == module.CPU_TOKENS
    gpu = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]), shape=network.shape,
                          dtype=network.dtype, named_modules=network.named_modules)  # fmt: skip
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * 10**9)
    for free, wanted in ((60e9, 65536), (4e9, int(5e9 * 0.8) // exact), (-1e9, 278)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (int(free), 0))
        assert module.fitting_tokens(gpu, vocabulary, d, 278) == wanted  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(4e9), 0))
    small = module.fitting_tokens(gpu, vocabulary, replace(d, cache="dual"), 278)  # type: ignore[arg-type]
    assert small < int(5e9 * 0.8) // exact
