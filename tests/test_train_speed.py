"""bench train: what it counts, what it prints, and that processes started beside it train the same adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from triaxis.cost import Sizes, training_flops
from triaxis.models.adapters import read_tensors
from triaxis.sampling.speed import sizes
from triaxis.train import speed
from triaxis.train.fit import Objective, attach
from triaxis.train.loss import Masking, mask_batch
from triaxis.train.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_operations_of_a_row_by_hand() -> None:
    s = Sizes(width=4, layers=2, heads=1, kv_heads=1, head_width=4, ffn=8, vocabulary=10)
    layer = 4 * 4 * 4 + 3 * 4 * 8
    attention = 2 * 4 * 4 * 6 * 6  # both layers, one way
    whole = training_flops(s, tokens=6, scored=3, low_rank=5, deep=2)
    assert whole.useful == 2 * (2 * 2 * layer * 6) + 3 * attention + 2 * (2 * 4 * 10 * 3) + 6 * 5 * 6
    assert whole.trunk == 2 * 2 * layer * 6 + attention + 2 * 5 * 6
    late = training_flops(s, tokens=6, scored=3, low_rank=5, deep=1)
    assert whole.useful - late.useful == 2 * layer * 6 + attention


def test_the_count_is_what_torch_counts() -> None:
    """A step of the real objective under torch's counter, which sees matrix products."""
    bench = speed.Bench("small", torch.device("cpu"), tokens=64)
    executor, recipe = bench.fresh(), replace(RECIPES["prefix"], low=0.5, high=0.5)
    trained, _ = attach(executor, recipe)
    data = bench.rows(executor)
    from triaxis.train.data import collate

    batch = collate(data, [0, 1])
    masks = mask_batch(batch.span, Masking(low=0.5, high=0.5), torch.Generator().manual_seed(0))
    everyone = torch.arange(2)
    objective = Objective(trained.checkpoint.network, data.mask)
    with FlopCounterMode(display=False) as counted, torch.enable_grad():
        objective(batch.rows(everyone), masks.rows(everyone)).backward()
    c = executor.checkpoint.config
    low_rank = sum(p.numel() for p in trained.checkpoint.network.parameters() if p.requires_grad)
    scored = int((masks.weights > 0).sum()) // 2
    ours = 2 * training_flops(sizes(c), 64, scored, low_rank, c.shape.layers).useful  # type: ignore[arg-type]
    assert (
        0.8 < counted.get_total_flops() / ours <= 1.0
    )  # of 4 layers, half of the last one and the first one's gradient


@pytest.mark.slow
def test_bench_train_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    from triaxis.cli import main

    given = ["--shape", "small", "--quick", "--device", "cpu", "--row-tokens", "24", "--case", "recipe of consensus"]
    with pytest.raises(SystemExit) as e:
        main(["bench", "train", *given, "--price-per-hour", "3", "--json"])
    assert not e.value.code
    found = json.loads(capsys.readouterr().out)
    (line,) = found["timings"]
    assert found["tokens_per_second"] == line["tokens_per_second"] == pytest.approx(4 * 24 / line["seconds"])
    assert 0 < line["share"] == line["share_with_repeats"] < 1
    (cost,) = found["recipes"]
    assert cost["tokens"] == 270 * 4 * 24
    assert cost["hours"] == pytest.approx(cost["tokens"] / found["tokens_per_second"] / 3600)
    assert cost["dollars"] == pytest.approx(3 * cost["hours"])
    with pytest.raises(SystemExit) as e:
        main(["bench", "train", "--case", "quick"])
    assert e.value.code == 2
    assert "no case named 'quick'" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--processes 1", "--rounds 0", "--timed 0", "--rows 0"])
def test_a_comparison_of_too_little_is_refused(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from triaxis.errors import script
    from triaxis.train import scale

    monkeypatch.setattr(sys, "argv", ["scale", *words.split()])
    assert script(scale.main) == 2
    assert "is too few to compare anything; give at least" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_train_the_same_adapter() -> None:
    command = [sys.executable, "-m", "triaxis.train.scale", "--shape", "small", "--quick", "--row-tokens", "48"]
    made = subprocess.run([*command, "--rows", "2"], check=True, timeout=300, capture_output=True)
    found = json.loads(made.stdout)
    assert found["same"]
    assert [(r["way"], r["processes"]) for r in found["runs"]] == [
        ("data parallel", 1), ("data parallel", 2), ("frozen weights in parts", 2),
    ]  # fmt: skip
    assert found["differences"] == {
        "float32": {"data parallel": 0.0, "frozen weights in parts": 0.0, "one process again": 0.0}
    }  # bit for bit on a CPU


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_train_the_same_adapter(tmp_path: Path, recompute: bool) -> None:
    """But for rounding, and for dropout, which is off here: a compiled layer draws it from another stream."""
    from triaxis.train.fit import fit

    bench = speed.Bench("small", torch.device("cpu"), tokens=32, layers=2)
    base = replace(RECIPES["prefix"], steps=2, warmup=0, dropout=0.0, rate=1e-3)
    fit(bench.fresh(), base, bench.rows(bench.fresh()), tmp_path / "a")
    again = replace(base, compiled=True, recompute=recompute)
    fit(bench.fresh(), again, bench.rows(bench.fresh()), tmp_path / "b")
    one, two = read_tensors(tmp_path / "a"), read_tensors(tmp_path / "b")
    assert all(torch.allclose(one[m][k], two[m][k], atol=2e-4) for m in one for k in "AB")
