"""A Ray cluster of two nodes of one CPU each, simulated on this machine, in a process of its own.

Prints its address; "kill" on stdin ends the second node at once, and the end of stdin ends the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """(address of the cluster, what kills its second node)."""
    env = {**os.environ, "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=env,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None

        def kill() -> None:
            process.stdin.write("kill\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            assert _answer(process) == "killed"

        address = _answer(process)
        try:
            yield address, kill
        finally:
            process.stdin.close()
            process.wait(60)


def _answer(process: subprocess.Popen[str]) -> str:
    """The next line that is ours: Ray may print as well."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("cluster: "):
            return line.removeprefix("cluster: ").strip()
    raise AssertionError("the cluster ended")


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1, num_gpus=0)
    print("cluster:", cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
        print("cluster: killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
