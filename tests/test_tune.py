"""What a study will take and what it may be quickened by: --dry-run, --price-per-hour, tune and --speed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triaxis.cli import main
from triaxis.cli.scale import forecast
from triaxis.cli.tune import changes_of, place_of, speed_settings
from triaxis.cost import layer_weights
from triaxis.errors import UserError
from triaxis.models.load import sizes_of
from triaxis.sampling.executor import Executor
from triaxis.study import Study

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]
SMALL = ("--planners", "", "--conditions", "plan-empty", "--set", "steps=6")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as e:
            main(list(argv))
        seen = capsys.readouterr()
        return int(e.value.code or 0), seen.out, seen.err

    return call


# --- cost ---


def test_a_forecast_has_the_forwards_of_the_study(tmp_path: Path) -> None:
    """Where rows stop at the canvas's end, passes are known: the forecast must be exact in them."""
    study = Study(n=8, planners=(), conditions=("plan-empty",), decode={"steps": 6, "stop": "canvas"})
    found = forecast(study, price_per_hour=3600.0)
    cost = study.run(tmp_path / "s")["cost"]
    assert found.forwards == cost["forwards"]
    assert found.tokens == pytest.approx(cost["tokens"], rel=0.1)
    assert found.rows == 16  # the condition, and the baseline it is paired with
    assert found.dollars == pytest.approx(found.seconds, abs=0.1)
    assert 0 < found.memory_gb["weights"] < found.memory_gb["peak"]
    assert 0.001 < found.memory_gb["batch"] < found.memory_gb["peak"]
    assert found.flops == pytest.approx(cost["flops"], rel=0.1)
    assert found.flops > 2 * found.tokens * 1e5


def test_sizes_give_the_networks_weights(tiny: Executor) -> None:
    config, network = tiny.checkpoint.config, tiny.checkpoint.network
    s = sizes_of(config)
    blocks = sum(p.numel() for n, p in network.named_parameters() if ".blocks." in n and p.dim() == 2)
    assert s.layers * layer_weights(s) == blocks


def test_a_dry_run_keeps_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("diagnose", *SMALL, "--n", "50", "--dry-run", "--price-per-hour", "2.5", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["items"], found["rows"], found["calibration"]["items"]) == (50, 100, 4)
    assert found["dollars"] == pytest.approx(found["seconds"] / 3600 * 2.5, rel=0.1)
    assert not list(tmp_path.iterdir())
    code, out, _ = run("diagnose", *SMALL, "--n", "2", "--dry-run")
    assert code == 0
    assert "2 items, 4 rows: about" in out
    assert "dollars" not in out


def test_a_price_makes_dollars_and_grading_again_keeps_them(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "s")
    argv = ("diagnose", *SMALL, "--n", "4", "--out", folder, "--json")
    assert json.loads(run(*argv)[1])["cost"]["dollars"] is None
    cost = json.loads(run(*argv, "--price-per-hour", "3600")[1])["cost"]
    assert cost["dollars"] == pytest.approx(cost["seconds"], abs=0.1)
    assert cost["dollars"] > 0
    assert "dollars" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    again = json.loads(run("grade", folder, "--json")[1])
    assert again["cost"] == cost
    assert run("diagnose", *SMALL, "--price-per-hour", "-1")[0] == 2


def test_operations_are_counted_from_the_sizes_that_a_store_keeps(run: Run, tmp_path: Path, tiny: Executor) -> None:
    from triaxis.cost import work_flops
    from triaxis.store import Store

    folder = tmp_path / "s"
    argv = ("diagnose", *SMALL, "--n", "4", "--out", str(folder), "--json")
    cost = json.loads(run(*argv)[1])["cost"]
    sizes = sizes_of(tiny.checkpoint.config)
    assert cost["flops"] == work_flops(sizes, cost["forwards"], cost["tokens"], tiny.default_decode().block_length) > 0
    assert f"{cost['flops'] / 1e9:.1f} GFLOP" in (folder / "report.html").read_text(encoding="utf-8")
    with Store(folder / "rows.sqlite", write=True) as store:
        store.set("sizes", '{"width": "many"}')
    code, _, err = run("grade", str(folder))
    assert code == 2
    assert "the executor's sizes are damaged" in err


# --- speed ---


def test_tune_measures_and_diagnose_uses_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("diagnose", "--speed", "balanced", "--n", "4")
    assert (code, out) == (2, "")
    assert "run triaxis tune --executor tiny --task gradeschool" in err
    code, out, _ = run("tune", "--n", "6", "--modes", "threshold .7;dual", "--margin", "0.9", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found["presets"]) == {"exact", "balanced", "fast"}
    held = json.loads(place_of("tiny", "gradeschool").read_text(encoding="utf-8"))
    assert held["presets"] == found["presets"]
    fields: dict[str, Any] = changes_of(found["presets"], "fast")
    assert speed_settings("fast", "tiny", "gradeschool") == fields
    assert fields, "with a margin of 90 points some mode qualifies"
    code, out, _ = run("diagnose", *SMALL[:4], "--n", "4", "--speed", "fast", "--out", "s", "--json")
    assert code == 0
    decode = json.loads((tmp_path / "s" / "protocol.json").read_text(encoding="utf-8"))["decode"]
    assert {k: decode[k] for k in fields} == fields
    held["fingerprint"] = "other"
    place_of("tiny", "gradeschool").write_text(json.dumps(held), encoding="utf-8")
    with pytest.raises(UserError, match="measured with other weights or other data; run triaxis tune"):
        speed_settings("fast", "tiny", "gradeschool")
    place_of("tiny", "gradeschool").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="not a file of triaxis tune"):
        speed_settings("fast", "tiny", "gradeschool")


def test_speed_is_one_of_three() -> None:
    assert speed_settings("exact", "nowhere", "nothing") == {}
    with pytest.raises(UserError, match="no speed named 'fsat'; did you mean 'fast'"):
        speed_settings("fsat", "tiny", "gradeschool")
