"""A study on several workers has the rows of a study in one process, whatever happens on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from triaxis import store
from triaxis.cli import main
from triaxis.compute import Chunk, Compute, Place
from triaxis.errors import UserError, script
from triaxis.models.load import describe_checkpoint, load_checkpoint
from triaxis.models.random import write_random
from triaxis.sampling.executor import Executor
from triaxis.sampling.speed import SHAPES
from triaxis.store import PlanRow, Row, Store
from triaxis.study import Study, spread
from triaxis.study.hands import Cast, Work, load
from triaxis.study.jobs import PART, executor_card

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = {"steps": 12}
SMALL = Study(
    n=5, planners=("tiny-planner-s",), conditions=("plan-empty", "plan[tiny-planner-s]", "vote"), decode=FAST
)  # fmt: skip
WHOLE = Study(n=8, decode=FAST)


def contents(folder: Path) -> tuple[Any, ...]:
    """Everything of a study but its timing."""
    with Store(folder / "rows.sqlite", write=False) as held:
        rows = held.rows(), held.plans(), held.grades()
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["cost"].pop("seconds")
    return (*rows, summary, json.loads((folder / "protocol.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def plain(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SMALL, run in the plain way."""
    folder = tmp_path_factory.mktemp("spread") / "plain"
    SMALL.run(folder)
    return folder


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WHOLE, run in the plain way."""
    folder = tmp_path_factory.mktemp("spread") / "whole"
    WHOLE.run(folder)
    return folder


# ---------------------------------------------------------------- the driver, in one process


def test_chunks_here_make_the_rows_of_the_plain_way(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[type] = []
    append = store.Store.append

    def watched(self: Store, rows: Any, **meta: str) -> None:
        made = list(rows)
        kinds.extend(type(r) for r in made)
        append(self, made, **meta)

    monkeypatch.setattr(store.Store, "append", watched)
    monkeypatch.setattr(spread, "PLANNED", 2)
    told: list[tuple[str, int, int]] = []
    SMALL.run(tmp_path, lambda *t: told.append(t), compute=Compute(chunk=4))
    assert contents(tmp_path) == contents(plain)
    last = len(kinds) - 1 - kinds[::-1].index(PlanRow)
    assert Row in kinds[:last]  # rows were made before the last plan was written
    sampled = [done for stage, done, _ in told if stage == "sampling"]
    assert sampled == sorted(sampled)
    assert sampled[-1] == len(contents(plain)[0])


@pytest.mark.slow
def test_a_study_goes_on_with_its_missing_rows_only(plain: Path, tmp_path: Path) -> None:
    SMALL.run(tmp_path)
    with Store(tmp_path / "rows.sqlite", write=True) as held:
        rows, plans = held.rows(), held.plans()
        lost = {r.id for r in rows if r.condition == "vote" and r.branch == 2}
        meta = held.get("protocol")
    os.remove(tmp_path / "rows.sqlite")
    with Store(tmp_path / "rows.sqlite", write=True) as held:
        held.set("protocol", str(meta))
        held.append(plans.values())
        held.append(r for r in rows if r.id not in lost)
    seen: list[Row] = []
    SMALL.run(tmp_path, seen=lambda _, made: seen.extend(made), compute="here")
    assert sorted(r.id for r in seen) == sorted(r.id for r in rows)  # those there first, then the others, each once
    assert {r.id for r in seen[-len(lost) :]} == lost
    assert contents(tmp_path) == contents(plain)


def test_chunks_depend_on_the_study_alone() -> None:
    """Which rows share a chunk is the same whatever is there already: on a GPU it can change a row's last digits."""
    with _opened(replace(SMALL, planners=(), conditions=("none", "plan-empty", "vote"))) as (arms, units):
        unit = units[0]
        everything = list(spread.chunks(arms, unit, {}, set(), 6))
        jobs = [j for c in everything for js in c.tags for j in js]
        assert len(jobs) == len({j.row.id for j in jobs}) == 5 * (1 + 1 + 5)
        assert all(isinstance(i, Work) for c in everything for i in c.items)
        assert all(len(c.items) <= 6 for c in everything)
        there = {j.row.id for c in everything[1:] for js in c.tags for j in js}
        assert list(spread.chunks(arms, unit, {}, there, 6)) == everything[:1]
        lengths = [[len(i.ids) for i in c.items] for c in everything]
        assert all(one == sorted(one) for one in lengths)
        tokens = [sum(one) + len(one) * c.common.decode.gen_length for one, c in zip(lengths, everything, strict=True)]
        assert tokens == sorted(tokens, reverse=True)  # what takes longest first: steps are the same in all


def test_units_without_a_planner_come_first_and_have_more_items() -> None:
    with _opened(SMALL) as (arms, units):
        assert [u.planner for u in units] == ["", "tiny-planner-s"]
        assert {c.name for c in units[1].table} == {"plan[tiny-planner-s]", "filler-as[tiny-planner-s]"}
        assert spread.PLANNED < PART
        assert all(len(u.items) == 5 for u in units)
        assert arms.executor.checkpoint.elsewhere == "cpu"  # described, not loaded
        assert next(arms.executor.checkpoint.network.parameters()).is_meta


def _opened(study: Study) -> Any:
    from contextlib import contextmanager

    from triaxis.study import opened

    @contextmanager
    def made() -> Iterator[Any]:
        with opened(study, compute="here") as (s, _):
            yield s.arms, list(spread.units(s.arms, s.arms.table))

    return made()


def test_a_worker_that_loads_another_model_is_refused(parity: Executor) -> None:
    card = {**executor_card(parity), "fingerprint": "0123456789ab"}
    with pytest.raises(UserError, match=r"has fingerprint .*, the driver's '0123456789ab'; give all machines the same"):
        load(Cast(parity.name, None, (), {}, card), Place())


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (replace(SMALL, dtype="4bit"), "'4bit' runs in one process"),
        (replace(SMALL, device="cuda"), "there are no GPUs for workers"),
        (replace(SMALL, device="tpu"), "no device named 'tpu'"),
        (replace(SMALL, adapter="nowhere@all"), "nowhere"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(study: Study, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        study.run(tmp_path / "out", compute="here")
    assert not (tmp_path / "out").exists()


def test_the_options_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", "--workers", "2"])
    assert ended.value.code == 2
    assert "need --compute processes or ray" in capsys.readouterr().err


# ---------------------------------------------------------------- checkpoints without weights


def test_a_described_checkpoint_is_the_loaded_one_without_weights(tiny: Executor, tmp_path: Path) -> None:
    for spec in ("tiny", str(write_random(tmp_path / "random", SHAPES["small"]))):
        loaded, told = Executor(load_checkpoint(spec)), Executor(describe_checkpoint(spec))
        assert executor_card(told) == executor_card(loaded)
        assert told.prompt_ids("How many?") == loaded.prompt_ids("How many?")
    gpu = executor_card(Executor(describe_checkpoint("tiny", kind="cuda")))
    assert (gpu["device"], gpu["dtype"]) == ("cuda", "bfloat16")


def test_random_weights_are_equal_wherever_they_are_drawn(tmp_path: Path) -> None:
    config = replace(SHAPES["small"], n_layers=1, d_model=32, n_heads=2, mlp_hidden_size=48)
    folder = write_random(tmp_path / "a", config)
    one, two = (load_checkpoint(str(folder)) for _ in range(2))
    other = load_checkpoint(str(write_random(tmp_path / "b", config, seed=1)))
    states = [{k: v.sum().item() for k, v in c.network.state_dict().items()} for c in (one, two, other)]
    assert states[0] == states[1] != states[2]
    assert one.fingerprint == two.fingerprint != other.fingerprint
    executor = Executor(one)
    words = executor.text(range(400, 600))
    assert "w599" in words  # every id has a text
    with pytest.raises(UserError, match="vocabulary of 40 is below"):
        write_random(tmp_path / "c", replace(config, vocab_size=40, embedding_size=40))
    text = (folder / "config.json").read_text(encoding="utf-8").replace('"random_weights": 0', '"random_weights": -1')
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="random_weights must be a whole number"):
        load_checkpoint(str(folder))
    huge = write_random(tmp_path / "d", replace(config, d_model=65536, mlp_hidden_size=1 << 20, n_layers=64))
    with pytest.raises(UserError, match=r"random weights of .* GB do not fit"):
        load_checkpoint(str(huge))


# ---------------------------------------------------------------- processes


class Killer:
    """Kills a worker process of this one when so many rows are there, once for each number."""

    def __init__(self, *at: int) -> None:
        self.at, self.killed = list(at), 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "sampling" and self.at and done >= self.at[0]:
            self.at.pop(0)
            workers = multiprocessing.active_children()
            os.kill(int(workers[self.killed % len(workers)].pid or 0), signal.SIGKILL)
            self.killed += 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_processes_make_the_rows_of_the_plain_way(workers: int, whole: Path, tmp_path: Path) -> None:
    WHOLE.run(tmp_path, compute=Compute(kind="processes", workers=workers))
    assert contents(tmp_path) == contents(whole)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_killing_workers_loses_and_doubles_nothing(whole: Path, tmp_path: Path) -> None:
    killer = Killer(1, 60, 120)  # executors and the planner in turn
    seen: list[str] = []
    WHOLE.run(
        tmp_path, killer, seen=lambda _, rows: seen.extend(r.id for r in rows),
        compute=Compute(kind="processes", workers=2, chunk=8),
    )  # fmt: skip
    assert killer.killed == 3
    assert contents(tmp_path) == contents(whole)
    assert len(seen) == len(set(seen)) == len(contents(whole)[0])


@pytest.mark.slow
def test_the_command_on_processes_goes_on_in_the_plain_way(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that ends in the middle, the rest without workers: the same study."""

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "sampling" and done > 40:
            raise Stop

    with pytest.raises(Stop):
        WHOLE.run(tmp_path, stop, compute=Compute(kind="processes", workers=2, chunk=8))
    assert not multiprocessing.active_children()
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", "--resume", "--out", str(tmp_path), "--compute", "processes", "--workers", "2", "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["study"]["n"] == 8
    assert contents(tmp_path) == contents(whole)


@pytest.mark.slow
def test_stages_and_writers_on_processes(tmp_path: Path) -> None:
    """AR chains: planners that answer, arms that show answers, "self" planning on the executor's workers."""
    study = Study(n=3, preset="original", planners=("tiny-planner-m", "self"), decode=FAST)
    study.run(tmp_path / "plain")
    study.run(tmp_path / "spread", compute=Compute(kind="processes", workers=2, chunk=4))
    assert contents(tmp_path / "spread") == contents(tmp_path / "plain")


# ---------------------------------------------------------------- Ray


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, simulated on this machine."""
    ray = pytest.importorskip("ray", reason="pip install triaxis[ray]")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1, num_gpus=0)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_two_nodes_of_a_ray_cluster_make_the_rows_of_the_plain_way(whole: Path, tmp_path: Path, cluster: Any) -> None:
    WHOLE.run(tmp_path, compute=Compute(kind="ray", workers=3, address=cluster.address))
    assert contents(tmp_path) == contents(whole)


def parent(pid: int) -> int:
    """The process that started it, of a Ray worker its node's; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.slow
def test_killing_a_worker_and_a_node_of_ray_loses_and_doubles_nothing(
    whole: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[Any] = []
    submit = spread.Pool.submit

    def watched(self: Any, chunk: Chunk) -> None:
        pools.append(self)
        submit(self, chunk)

    monkeypatch.setattr(spread.Pool, "submit", watched)
    second = cluster.second.all_processes["raylet"][0].process.pid
    told: list[str] = []

    def fault(stage: str, done: int, total: int) -> None:
        here = {pid: parent(pid) == second for pid in pools[-1].pids("executor")} if pools and done else {}
        if not told and False in here.values():
            told.append("worker")  # on the first node
            os.kill(next(pid for pid, there in here.items() if not there), signal.SIGKILL)
        elif len(told) == 1 and True in here.values() and done >= 60:
            told.append("node")
            cluster.remove_node(cluster.second, allow_graceful=False)

    seen: list[str] = []
    WHOLE.run(
        tmp_path, fault, seen=lambda _, rows: seen.extend(r.id for r in rows),
        compute=Compute(kind="ray", workers=2, address=cluster.address, chunk=8),
    )  # fmt: skip
    assert told == ["worker", "node"]
    assert pools[-1].counts.deaths >= 2
    assert contents(tmp_path) == contents(whole)
    assert len(seen) == len(set(seen)) == len(contents(whole)[0])


# ---------------------------------------------------------------- the bench


@pytest.mark.slow
def test_the_bench_of_scale_says_what_it_measured() -> None:
    script = Path(__file__).resolve().parents[1] / "bench" / "scale.py"
    options = {"shape": "small", "items": 2, "steps": 4, "chunk": 2, "device": "cpu", "gpus": 8}
    command = [sys.executable, str(script), *(f"--{k}={v}" for k, v in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["processes"]
    assert found["identical"]
    assert (found["rows"], found["equal_rows"], found["lost_or_doubled"], found["restarts"]) == (8, [8, 8], 0, 1)
    assert [(p["workers"], p["killed"], p["deaths"]) for p in found["passes"]] == [(1, 0, 0), (2, 0, 0), (2, 1, 1)]
    assert [p["workers"] for p in found["predicted"]] == [1, 2, 8]
    ratios = [p["ratio"] for p in found["predicted"]]
    assert ratios == sorted(ratios)
    assert ratios[0] == 1
    assert found["predicted"][0]["this_run"] == pytest.approx(found["predicted"][0]["measured"], rel=0.3)


@pytest.mark.parametrize("word", ["workers=0", "chunk=0", "gpus=0", "steps=7", "backends=nope"])
def test_the_bench_of_scale_refuses_what_measures_nothing(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = runpy.run_path(str(Path(__file__).resolve().parents[1] / "bench" / "scale.py"))
    monkeypatch.setattr(sys, "argv", ["scale", "--shape=small", "--items=2", "--device=cpu", f"--{word}"])
    assert script(command["main"]) == 2
    assert word.partition("=")[2] in capsys.readouterr().err.splitlines()[-1]
