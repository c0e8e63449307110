"""Four and eight bits: the network of the rounded weights, rows of their own, adapters, refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import triaxis
from triaxis.errors import UserError
from triaxis.models.load import load_checkpoint


def test_eight_bits_are_the_network_of_the_rounded_weights(folder: Path) -> None:
    """To the bit; the projections of the layers are half of bf16."""
    from triaxis.models.quantise import Int8Linear

    whole, small = load_checkpoint(str(folder), dtype="bf16"), load_checkpoint(str(folder), dtype="8bit")
    assert small.fingerprint == f"{whole.fingerprint}-int8"
    held = [sum(p.numel() * p.element_size() for p in x.network.parameters()) for x in (whole, small)]
    layers = {n: p for n, p in whole.network.named_parameters() if ".blocks." in n and p.dim() == 2}
    assert held[0] - held[1] == sum(p.numel() for p in layers.values())
    changed = 0
    for name, layer in small.network.named_modules():
        if isinstance(layer, Int8Linear):
            plain = layers.pop(f"{name}.weight")
            rounded = layer.weight.to(torch.bfloat16) * layer.factor.to(torch.bfloat16)
            assert ((rounded.float() - plain.float()).abs() <= layer.factor * 0.5 + plain.abs().float() / 100).all()
            changed += int((rounded != plain).any())
            plain.copy_(rounded)
    assert not layers
    assert changed
    ids = torch.arange(5, 45).view(2, 20)
    with torch.inference_mode():
        assert torch.equal(whole.network(ids), small.network(ids))


@pytest.mark.parametrize(
    ("dtype", "quantize", "found"), [(None, None, None), ("bf16", None, "bf16"), (None, "8bit", "8bit")]
)
def test_quantize_is_a_dtype(dtype: str | None, quantize: str | None, found: str | None) -> None:
    from triaxis.cli.options import bits

    assert bits(dtype, quantize) == found
    with pytest.raises(UserError, match="--dtype fp32 and --quantize 4bit exclude each other"):
        bits("fp32", "4bit")
    with pytest.raises(UserError, match="no number of bits named '5bit'; did you mean"):
        bits(None, "5bit")


def test_a_study_in_eight_bits_has_rows_of_its_own(tmp_path: Path) -> None:
    from triaxis.cli import main
    from triaxis.store import Store

    ids = {}
    for name, more in (("plain", ["--dtype", "bf16"]), ("small", ["--quantize", "8bit"])):
        folder = tmp_path / name
        command = ["diagnose", "--n", "2", "--conditions", "none", "--planners", "", "--set", "steps=6", "--out"]
        with pytest.raises(SystemExit) as done:
            main([*command, str(folder), "--rows-only", "--json", *more])
        assert done.value.code == 0
        with Store(folder / "rows.sqlite", write=False) as store:
            ids[name] = store.row_ids()
    assert len(ids["small"]) == 2
    assert not ids["plain"] & ids["small"]


@pytest.mark.slow
def test_four_bits_are_the_network_of_the_rounded_weights() -> None:
    """The projections of the layers are NF4 and four times smaller than bf16; the rest is as it was."""
    pytest.importorskip("bitsandbytes", reason="pip install triaxis[quantize]")
    from bitsandbytes.functional import dequantize_4bit

    whole, small = load_checkpoint("tiny", dtype="bf16"), load_checkpoint("tiny", dtype="4bit")
    assert small.fingerprint == f"{whole.fingerprint}-nf4"
    assert small.network.dtype == torch.bfloat16
    held = [sum(p.numel() * p.element_size() for p in x.network.parameters()) for x in (whole, small)]
    layers = sum(p.numel() * 2 for n, p in whole.network.named_parameters() if ".blocks." in n and p.dim() == 2)
    assert held[1] == pytest.approx(held[0] - layers * 3 / 4, rel=0.02)
    for name, layer in small.network.named_modules():
        if type(layer).__name__ == "Linear4bit":
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)  # type: ignore[union-attr, arg-type]
            plain = whole.network.get_submodule(name).weight
            assert 0.02 < (weight - plain).abs().mean() / plain.abs().mean() < 0.15  # type: ignore[operator]
            plain.copy_(weight)  # type: ignore[operator]
    ids = torch.arange(5, 45).view(2, 20)
    with torch.inference_mode():
        a, b = (x.network(ids).float() for x in (whole, small))
    assert torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("dtype", ["8bit", "4bit"])
def test_a_quantised_executor_takes_adapters(tmp_path: Path, dtype: str) -> None:
    if dtype == "4bit":
        pytest.importorskip("bitsandbytes", reason="pip install triaxis[quantize]")
    from triaxis.models.adapters import linear_names, save_adapter

    executor = triaxis.load_executor("tiny", dtype=dtype)
    network, pairs = executor.checkpoint.network, {}
    for name in (n for n in linear_names(network) if n.endswith("q_proj")):
        layer = network.get_submodule(name)
        pairs[name] = (torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2))  # type: ignore[arg-type, call-overload]
    save_adapter(tmp_path / "a", pairs, {"r": 2, "lora_alpha": 2, "target_modules": list(pairs)}, {})
    prompts = [executor.prompt_ids("Tom has 3 pens. How many pens are there?"), executor.prompt_ids("2+3")]
    quick = triaxis.Decode(gen_length=8, block_length=8, steps=4)
    plain = executor.generate_ids(prompts, quick)
    assert executor.with_adapters(str(tmp_path / "a")).generate_ids(prompts, quick) != plain
    assert executor.generate_ids(prompts, quick) == plain


def test_four_bits_of_a_width_that_bitsandbytes_gets_wrong_are_refused(folder: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install triaxis[quantize]")
    with pytest.raises(UserError, match="multiple of 64, not 160"):
        load_checkpoint(str(folder), dtype="4bit", device="cpu")


def test_four_bits_without_the_package_or_for_experts_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triaxis.models.quantise import four_bit

    network = load_checkpoint(str(folder)).network
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="needs bitsandbytes"):
        load_checkpoint(str(folder), dtype="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=None))
    monkeypatch.setattr(network, "synchronises", True)
    with pytest.raises(UserError, match="not for a mixture of experts; use bf16"):
        four_bit(network, "x")
