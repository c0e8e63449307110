"""The repairs recipe: units over processes, archives, and the section of the findings made of results."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from unit_works import WORKS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "repairs"))

import archive  # noqa: E402
import findings  # noqa: E402
import pool  # noqa: E402
from pool import DONE, FAILED, LATE, SKIPPED, Plan, Unit, run_units  # noqa: E402

# ---------------------------------------------------------------- units


def test_units_wait_for_what_they_need() -> None:
    plan = Plan([Unit("b", "w", after=("a",)), Unit("a", "w"), Unit("c", "w", after=("b",), last=True)])
    assert [plan.next(), plan.next()] == [plan.units[1], None]
    plan.became["a"] = DONE
    assert plan.next() == plan.units[0]
    plan.became["b"] = FAILED
    assert plan.next() == plan.units[2]  # it collects whatever became of the others


def test_what_hangs_on_a_failure_is_skipped_and_named() -> None:
    plan = Plan([Unit("a", "w"), Unit("b", "w", after=("a",)), Unit("c", "w", after=("b",))])
    plan.next()
    plan.became["a"] = FAILED
    assert plan.next() is None
    assert (plan.became["b"], plan.became["c"]) == (SKIPPED, SKIPPED)
    assert plan.over


def test_spare_processes_take_what_runs_anywhere_from_the_end() -> None:
    units = [Unit("a", "w"), Unit("b", "w", anywhere=True), Unit("c", "w", anywhere=True)]
    plan = Plan(units)
    assert [plan.next(spare=True), plan.next(), plan.next(spare=True)] == [units[2], units[0], units[1]]


def test_when_time_is_up_only_what_collects_is_left() -> None:
    plan = Plan([Unit("a", "w"), Unit("b", "w"), Unit("c", "w", after=("a", "b"), last=True)])
    plan.next()
    plan.stop()
    assert (plan.became["a"], plan.became["b"]) == (LATE, LATE)
    assert plan.next() == plan.units[2]


def test_failures_and_time_cost_no_more_than_what_hangs_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    ended = {"dies", "fails", "good"}  # the minutes are up once these have ended, however slow the machine is
    clock = lambda: 1000.0 * (ended <= {line.partition(":")[0] for line in said})  # noqa: E731
    monkeypatch.setattr(pool, "say", said.append)
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=clock))
    units = [
        Unit("dies", "die"), Unit("fails", "fail"), Unit("after", "write", ("no",), after=("fails",)),
        Unit("good", "write", ("yes",)), Unit("long", "sleep", anywhere=True),
        Unit("told", "collect", after=("dies", "after", "good", "long"), last=True),
    ]  # fmt: skip
    became = run_units(units, WORKS, tmp_path, devices=["d"], spares=1, minutes=1)
    assert became == {
        "dies": FAILED, "fails": FAILED, "after": SKIPPED, "good": DONE, "long": LATE, "told": DONE
    }  # fmt: skip
    assert (tmp_path / "yes").read_text() == "d"
    assert not (tmp_path / "no").exists()
    assert "'good': 'done'" in (tmp_path / "told").read_text()
    assert any("its process died" in line for line in said)
    assert any("ValueError: as it should" in line for line in said)


# ---------------------------------------------------------------- archives


def test_an_archive_holds_rows_as_text_and_leaves_them_out_where_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triaxis.store import Row, Store

    home = tmp_path / "out" / "studies" / "a"
    with Store(home / "rows.sqlite", write=True) as store:
        store.append([Row("id", "none", "i1", 0, 0, "", "a prompt", "4+4=8", 3, 2, ended=True)])
    (home / "card.json").write_text("{}")
    archive.pack(tmp_path / "kept", "a.tar.xz", tmp_path / "out", [home, tmp_path / "out" / "absent.json"])
    with tarfile.open(tmp_path / "kept" / "a.tar.xz") as made:
        assert made.getnames() == ["studies/a/card.json", "studies/a/rows.jsonl"]
        file = made.extractfile("studies/a/rows.jsonl")
        assert file is not None
        assert b'["none","i1",0,0,"4+4=8"' in file.read()
    monkeypatch.setattr(archive, "MOST", 200)
    archive.pack(tmp_path / "kept", "a.tar.xz", tmp_path / "out", [home])
    with tarfile.open(tmp_path / "kept" / "a.tar.xz") as made:
        assert made.getnames() == ["studies/a/card.json"]
    assert pool.say is archive.say


# ---------------------------------------------------------------- findings


@pytest.mark.parametrize("name", findings.NAMES)
def test_the_findings_are_made_of_the_results(name: str) -> None:
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    held = text.split(f"<!-- repair-{name}:begin -->\n")[1].split(f"\n<!-- repair-{name}:end -->")[0]
    assert held == findings.section(name)


@pytest.mark.parametrize("kind", ["prefix", "trust", "consensus"])
def test_a_shipped_adapter_fits_the_tiny_executor_and_is_small(kind: str) -> None:
    import triaxis
    from triaxis.models.adapters import read_adapter, shipped_adapters

    folder = shipped_adapters()[kind]
    assert {f.name for f in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "card.json"}
    assert sum(f.stat().st_size for f in folder.iterdir()) < 400_000
    card = read_adapter(kind).card
    executor = triaxis.load_executor("tiny")
    assert card["base"]["fingerprint"] == executor.fingerprint
    assert card["kind"] == kind
    assert "/" not in str(card["base"]["name"])
    prompt = [executor.prompt_ids("Tom has 12 pens. Tom finds 7 more pens. How many pens are there?")]
    decode = executor.default_decode()
    assert executor.with_adapters(kind).generate_ids(prompt, decode)


# ---------------------------------------------------------------- bad input, as a user meets it


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line a command says before it ends with 2."""
    from triaxis.cli import main

    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    out = capsys.readouterr()
    assert (stop.value.code, out.out, len(out.err.strip().splitlines())) == (2, "", 1), out.err
    return out.err


def test_an_adapter_of_another_family_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from triaxis.models.adapters import save_adapter

    pairs = {"model.layers.0.self_attn.q_proj": (torch.zeros(4, 128), torch.zeros(128, 4))}
    config = {"r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "Dream-org/Dream-v0-Instruct-7B"}
    save_adapter(tmp_path / "dream", pairs, config, {})
    said = refused(capsys, "diagnose", "--adapter", str(tmp_path / "dream"), "--n", "4", "--out", str(tmp_path / "out"))
    assert "made for Dream-org/Dream-v0-Instruct-7B" in said
    assert not (tmp_path / "out").exists()
    said = refused(capsys, "diagnose", "--adapter", "prefixx", "--n", "4", "--out", str(tmp_path / "out"))
    assert "did you mean 'prefix'" in said


def test_a_task_without_rationales_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = tmp_path / "mine.jsonl"
    rows = [{"question": f"Tom has {k} pens. How many pens are there?", "answer": str(k)} for k in range(1, 5)]
    items.write_text("".join(json.dumps({**r, "split": "train" if k else "test"}) + "\n" for k, r in enumerate(rows)))
    words = ["--task", f"jsonl:{items}", "--planners", "", "--items", "3", "--n", "1", "--out", str(tmp_path / "out")]
    assert "has no worked solution to learn from" in refused(capsys, "train", "prefix", *words)
