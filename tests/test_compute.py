"""The pool: every item's result comes once, whatever happens to the workers. No models here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pool_work
import pytest

from triaxis.compute import Chunk, Compute, Crew, backend, on_ray
from triaxis.compute.pool import AHEAD, Pool, WorkerFault
from triaxis.compute.processes import visible
from triaxis.errors import UserError

PROCESSES = Compute(kind="processes", workers=2)


@contextmanager
def pool(compute: Compute, work: Callable[..., Any], factory: Callable[..., Any] = pool_work.state) -> Iterator[Pool]:
    made = backend(compute)
    try:
        with Pool(made, {"crew": Crew(factory, work)}, compute.timeout) as opened:
            yield opened
    finally:
        made.close()


def results(opened: Pool, common: object, items: range, size: int = 4) -> dict[str, Any]:
    """Submit everything, wait for everything: results by tag. A tag that came twice fails."""
    found: dict[str, Any] = {}
    for start in range(0, len(items), size):
        part = tuple(items[start : start + size])
        opened.submit(Chunk("crew", common, part, tuple(f"tag {i}" for i in part)))
    while opened.busy:
        done = opened.next()
        for tag, value in zip(done.chunk.tags, done.results, strict=True):
            assert tag not in found
            found[tag] = value
    return found


@pytest.mark.parametrize("compute", [Compute(), PROCESSES], ids=lambda c: c.kind)
def test_every_item_comes_back_once_with_its_tag(compute: Compute) -> None:
    with pool(compute, pool_work.square) as opened:
        assert results(opened, 3, range(10)) == {f"tag {i}": 3 * i * i for i in range(10)}
        assert results(opened, 2, range(3)) == {f"tag {i}": 2 * i * i for i in range(3)}  # the pool goes on
        assert len(opened.counts.seconds) == 4
        assert not opened.counts.deaths


def test_workers_share_the_work_and_make_their_state_once() -> None:
    with pool(PROCESSES, pool_work.who) as opened:
        opened.ready()
        pids = set(opened.pids("crew"))
        found = results(opened, 0.02, range(12), size=1)
        assert {pid for _, pid, _ in found.values()} == pids
        assert len(pids) == 2
        assert os.getpid() not in pids
        opened.active["crew"] = 1
        assert len({pid for _, pid, _ in results(opened, 0.02, range(6), size=1).values()}) == 1
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)  # ended with the pool


def test_there_is_room_for_a_few_chunks_a_worker() -> None:
    with pool(PROCESSES, pool_work.who) as opened:
        taken = 0
        while opened.room("crew"):
            opened.submit(Chunk("crew", 0.0, (1,), (1,)))
            taken += 1
        assert taken == 2 * AHEAD
        opened.next()
        assert opened.room("crew")


# ---------------------------------------------------------------- what goes wrong


def test_a_chunk_of_a_killed_worker_is_done_by_another(tmp_path: Path) -> None:
    with pool(PROCESSES, pool_work.killed_once) as opened:
        assert results(opened, tmp_path, range(12)) == {f"tag {i}": i for i in range(12)}
        assert (opened.counts.deaths, opened.counts.restarts, opened.counts.splits) == (1, 1, 0)
        assert "SIGKILL" in opened.counts.reasons[0]


def test_an_idle_worker_that_was_killed_is_replaced() -> None:
    with pool(PROCESSES, pool_work.square) as opened:
        opened.ready()
        for pid in opened.pids("crew"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        assert results(opened, 1, range(8)) == {f"tag {i}": i * i for i in range(8)}
        assert opened.counts.deaths == 2


@pytest.mark.slow
def test_an_item_that_kills_every_worker_ends_the_run_and_the_others_came_back() -> None:
    with pool(PROCESSES, pool_work.poison) as opened:
        found: list[int] = []
        opened.submit(Chunk("crew", None, tuple(range(8)), tuple(range(8))))

        def drain() -> None:
            while True:
                found.extend(opened.next().results)

        with pytest.raises(UserError, match=r"one item cost 3 workers .*SIGKILL"):
            drain()
        assert len(found) == len(set(found)) >= 4  # the halves without it
        assert 7 not in found


def test_a_worker_that_hangs_is_given_up(tmp_path: Path) -> None:
    slow = Compute(kind="processes", workers=1, timeout=1.0)
    with pool(slow, pool_work.hangs_once) as opened:
        assert results(opened, tmp_path, range(3)) == {f"tag {i}": i for i in range(3)}
        assert "longer than 1 s" in opened.counts.reasons[0]


@pytest.mark.parametrize("compute", [Compute(), PROCESSES], ids=lambda c: c.kind)
def test_a_chunk_too_large_for_the_memory_is_halved(compute: Compute) -> None:
    with pool(compute, pool_work.small_memory) as opened:
        assert results(opened, 3, range(20), size=10) == {f"tag {i}": i for i in range(20)}
        assert opened.counts.splits == 6  # 10 -> 5 + 5 -> 2 + 3 each
        assert not opened.counts.deaths
        with pytest.raises(UserError, match="out of memory with a single item"):
            results(opened, 0, range(2))


@pytest.mark.parametrize("compute", [Compute(), PROCESSES], ids=lambda c: c.kind)
def test_errors_cross_over(compute: Compute) -> None:
    with pool(compute, pool_work.square, pool_work.no_state) as opened, pytest.raises(UserError, match="no such model"):
        results(opened, 1, range(3))
    with (
        pool(compute, pool_work.square, pool_work.too_large) as opened,
        pytest.raises(UserError, match=r"got ready .*16 GB"),
    ):
        results(opened, 1, range(3))
    with pool(compute, pool_work.broken) as opened, pytest.raises(WorkerFault, match="our own mistake") as fault:
        results(opened, 1, range(3))
    assert "in broken" in str(fault.value)  # with the worker's traceback
    with pool(compute, pool_work.too_few) as opened, pytest.raises(WorkerFault, match="1 results for 3 items"):
        results(opened, 1, range(3))


@pytest.mark.slow
def test_workers_that_always_die_at_their_start_end_the_run() -> None:
    one = Compute(kind="processes", workers=1)
    with (
        pool(one, pool_work.square, pool_work.dies_at_start) as opened,
        pytest.raises(UserError, match=r"workers died 4 times with no result .*SIGKILL"),
    ):
        results(opened, 1, range(3))


@pytest.mark.slow
def test_a_script_without_a_main_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import triaxis as tx\n"
        "tx.Study(n=2, planners=(), conditions=('none',)).run('out', compute=tx.Compute(kind='processes', workers=1))\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "a script needs its commands under if __name__ == '__main__'" in done.stderr.splitlines()[-1]


def test_workers_end_when_the_driver_is_killed() -> None:
    program = """
import time, pool_work
from triaxis.compute import Chunk, Compute, Crew, backend
from triaxis.compute.pool import Pool
if __name__ == "__main__":
    with Pool(backend(Compute(kind="processes", workers=2)), {"crew": Crew(pool_work.state, pool_work.who)}) as opened:
        opened.ready()
        opened.submit(Chunk("crew", 600.0, (1,), (1,)))
        print(*opened.pids("crew"), flush=True)
        opened.next()
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=env, text=True) as driver:
        assert driver.stdout is not None
        pids = [int(p) for p in driver.stdout.readline().split()]
        driver.kill()
    assert len(pids) == 2
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "proceses"}, "did you mean 'processes'"),
        ({"workers": -1}, "workers=-1 is not sensible"),
        ({"helpers": 0}, "whole number from 1 up"),
        ({"timeout": 0}, "seconds above 0"),
        ({"kind": "processes", "address": "auto"}, "is a Ray cluster's"),
        ({"workers": 2}, "'here' is one worker"),
        ({"kind": "ray", "devices": ("cuda:0",)}, "Ray places"),
        ({"kind": "processes", "devices": ("gpu",)}, "no device named 'gpu'"),
        ({"kind": "processes", "devices": ("cuda:x",)}, "no device named"),
        ({"kind": "processes", "devices": ("cpu", "cuda:0")}, "rows that differ"),
        ({"kind": "processes", "workers": 1, "devices": ("cuda:0", "cuda:1")}, "at least one worker a device"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Compute(**fields)


def test_a_worker_sees_the_gpu_that_the_driver_calls_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible(1) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7f")
    assert (visible(0), visible(1)) == ("5", "GPU-7f")
    with pytest.raises(UserError, match="names 2 GPUs"):
        visible(2)


# ---------------------------------------------------------------- Ray


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # its workers must find pool_work
    return pytest.importorskip("ray", reason="pip install triaxis[ray]")


@pytest.mark.slow
def test_on_ray_every_item_comes_back_whatever_dies(ray: Any, tmp_path: Path) -> None:
    with pool(Compute(kind="ray", workers=2), pool_work.killed_once) as opened:
        assert results(opened, tmp_path, range(12)) == {f"tag {i}": i for i in range(12)}
        assert opened.counts.deaths == 1
    assert not ray.is_initialized()  # what was started here has ended


@pytest.mark.slow
def test_ray_prints_nothing_where_results_are_printed(ray: Any, tmp_path: Path) -> None:
    program = """
import sys, time, pool_work
from pathlib import Path
from triaxis.compute import Chunk, Compute, Crew, backend
from triaxis.compute.pool import Pool
made = backend(Compute(kind="ray", workers=1))
with Pool(made, {"crew": Crew(pool_work.state, pool_work.killed_once)}) as opened:
    opened.submit(Chunk("crew", Path(sys.argv[1]), (7,), (7,)))
    print(opened.next().results, opened.counts.deaths)
    time.sleep(5)  # Ray's own word on a dead worker comes late
made.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[7] 1\n"


@pytest.mark.slow
def test_on_ray_errors_and_memory(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "JOINING", 1.0)
    ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    try:
        one = Compute(kind="ray", workers=1)
        with pool(one, pool_work.small_memory) as opened:
            assert results(opened, 3, range(10), size=10) == {f"tag {i}": i for i in range(10)}
        with pool(one, pool_work.square, pool_work.no_state) as opened, pytest.raises(UserError, match="no such model"):
            results(opened, 1, range(3))
        with pytest.raises(UserError, match="5000 workers, but the Ray cluster has 2 CPUs"):
            pool(Compute(kind="ray", workers=5000), pool_work.square).__enter__()
        gpu = {"crew": Crew(pool_work.state, pool_work.square, gpu=True)}
        with pytest.raises(UserError, match="2 workers with a GPU each, but the Ray cluster has 0"):
            Pool(backend(Compute(kind="ray", workers=2)), gpu)
        assert ray.is_initialized()  # it was there before
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "is it running there"), ("ray://x:1", "is not auto or host:port"), ("nowhere", "host:port")],
)
def test_a_cluster_that_is_not_there(address: str, message: str) -> None:
    pytest.importorskip("ray", reason="pip install triaxis[ray]")
    with pytest.raises(UserError, match=message):
        backend(Compute(kind="ray", address=address))


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'triaxis\[ray\]'"):
        on_ray.the_ray()
