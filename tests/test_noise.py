"""The draws of the sampler: their distribution, and what they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from triaxis.sampling.denoise import choose
from triaxis.sampling.noise import ORDER, TOKENS, uniforms
from triaxis.sampling.schedule import Decode
from triaxis.streams import stream_key


def test_draws_are_uniform_and_strictly_inside_the_unit_interval() -> None:
    keys = torch.tensor([stream_key("a", i) for i in range(20)])
    u = uniforms(keys, TOKENS, 3, torch.arange(10).expand(20, 10), 500).flatten().numpy()
    assert u.dtype == np.float64
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 0.01
    assert len(np.unique(u)) == u.size


def test_the_largest_draw_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """-log(-log 1) would be infinite and that token would always win."""
    import triaxis.sampling.noise as noise

    for bits, low, high in ((-1, 1 - 1e-15, 1.0), (0, 0.0, 1e-15)):
        monkeypatch.setattr(noise, "mix", lambda x, bits=bits: torch.full_like(x, bits))
        u = float(uniforms(torch.tensor([1]), TOKENS, 0, torch.tensor([[0]]), 1))
        assert low < u < high


def test_draws_do_not_correlate_along_any_index() -> None:
    keys = torch.tensor([stream_key("b", i) for i in range(12)])
    places = torch.arange(16).expand(12, 16)
    u = np.stack([uniforms(keys, stream, s, places, 32).numpy() for stream in (TOKENS, ORDER) for s in range(8)])
    u = u.reshape(2, 8, 12, 16, 32)  # stream, step, key, place, token
    for axis, name in enumerate(("stream", "step", "key", "place", "token")):
        for lag in (1, 2, 5):
            if lag >= u.shape[axis]:
                continue
            a, b = np.take(u, range(lag, u.shape[axis]), axis), np.take(u, range(u.shape[axis] - lag), axis)
            r = np.corrcoef(a.ravel(), b.ravel())[0, 1]
            assert abs(r) < 4.5 / a.size**0.5, (name, lag, r)


def test_a_draw_depends_on_its_own_row_and_place_only() -> None:
    keys = torch.tensor([5, 6, 7])
    places = torch.tensor([[0, 1, 2, 3]]).expand(3, 4)
    u = uniforms(keys, TOKENS, 2, places, 6)
    assert torch.equal(uniforms(keys[1:2], TOKENS, 2, places[:1, 2:], 6)[0], u[1, 2:])
    assert torch.equal(uniforms(keys, TOKENS, 2, places, 3), u[..., :3])
    assert not torch.equal(uniforms(keys, TOKENS, 3, places, 6), u)
    assert not torch.equal(uniforms(keys, ORDER, 2, places, 6), u)


def test_stream_keys_are_distinct_and_stable() -> None:
    keys = {stream_key(seed, f"item-{i}", branch) for seed in range(5) for i in range(50) for branch in range(5)}
    assert len(keys) == 1250
    assert all(0 <= k < 1 << 63 for k in keys)
    assert stream_key(0, "gradeschool-test-0000", 0) == 6153991092703708167


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gumbel_max_draws_from_the_softmax_at_that_temperature(temperature: float) -> None:
    rows, logits = 6000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    keys = torch.tensor([stream_key("g", i) for i in range(rows)])
    d = Decode(temperature=temperature)
    ids, _, _ = choose(logits.expand(rows, 1, 5), keys, 4, torch.zeros(rows, 1, dtype=torch.long), d)
    expected = torch.softmax(logits.double() / temperature, -1).numpy() * rows
    observed = np.bincount(ids.flatten().numpy(), minlength=5)
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_confidence_is_the_probability_without_noise() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    places = torch.arange(3).expand(2, 3)
    for temperature in (0.0, 3.0):
        ids, confidence, _ = choose(logits, torch.tensor([1, 2]), 0, places, Decode(temperature=temperature))
        torch.testing.assert_close(confidence, logits.softmax(-1).gather(-1, ids[..., None])[..., 0])
