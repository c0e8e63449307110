"""tune: which approximate modes your task allows, measured, and kept for `triaxis diagnose --speed`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from triaxis.cli import app, print_json
from triaxis.cli.options import Dtype, Json, Quantize, bits
from triaxis.errors import UserError, lookup, override
from triaxis.limits import parse_json, read_text

if TYPE_CHECKING:
    from triaxis.sampling.agreement import Row
    from triaxis.sampling.executor import Executor
    from triaxis.sampling.schedule import Decode
    from triaxis.tasks.base import Item, Task

SPEEDS = ("exact", "balanced", "fast")
HOME = Path("tuned")


def place_of(executor: str, task: str) -> Path:
    """Where the measurement of an executor on a task is kept: tuned/<executor>-<task>.json."""
    name = "".join(c if c.isalnum() or c in ".-" else "-" for c in f"{Path(executor).name}-{task}")
    return HOME / f"{name[-120:]}.json"


def grader(task: Task, items: Sequence[Item]) -> Callable[[int, str], tuple[str, bool]]:
    """Prompt number and text to the answer read and whether it is right."""

    def grade(number: int, text: str) -> tuple[str, bool]:
        found = task.grade(text, items[number])
        return found.answer, found.verdict == "right"

    return grade


class Measured(NamedTuple):
    """Every mode asked for, on one executor and task."""

    executor: Executor
    task: Task
    n: int
    decode: Decode  # the exact protocol they were measured against
    rows: list[Row]


def measure(
    executor: str, task: str, *, n: int, seed: int, margin: float, modes: str, setting: list[str] | None,
    device: str | None, dtype: str | None,
) -> Measured:  # fmt: skip
    """Each approximate mode beside the exact protocol, on the same items. UserError for what cannot be measured."""
    from triaxis.cli.options import settings
    from triaxis.sampling.agreement import agreement
    from triaxis.sampling.executor import load_executor
    from triaxis.sampling.speed import say
    from triaxis.tasks import load_task

    if not 0 < margin < 1:
        raise UserError(f"--margin {margin:g} is not a share between 0 and 1; write five points as 0.05")
    known, loaded = load_task(task), load_executor(executor, device=device, dtype=dtype)
    items = known.items(n, seed=seed)
    decode = override(loaded.default_decode(), settings(setting or []))
    prompts = [loaded.prompt_ids(item.question) for item in items]
    names = [m.strip() for m in modes.split(";") if m.strip()]
    rows = agreement(loaded, prompts, decode, grader(known, items), margin=margin, modes=names, say=say)
    return Measured(loaded, known, len(items), decode, rows)


@app.command()
def tune(
    executor: Annotated[str, typer.Option(help="'tiny', a checkpoint folder or a hub id.")] = "tiny",
    task: Annotated[str, typer.Option(help="gradeschool, gsm8k, jsonl:FILE or lm-eval:NAME.")] = "gradeschool",
    n: Annotated[int, typer.Option(help="Items; 200 or more resolve five points.")] = 200,
    seed: Annotated[int, typer.Option(help="Which items.")] = 0,
    margin: Annotated[float, typer.Option(help="Points of accuracy given up at most, a share: 0.05 = five.")] = 0.05,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A decoding setting, such as steps=48.")] = None,
    modes: Annotated[str, typer.Option(help="Semicolon-separated modes; default: all.")] = "",
    out: Annotated[Path | None, typer.Option(help="File; default: tuned/<executor>-<task>.json.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    json_: Json = False,
) -> None:
    """Measure every approximate mode on your task and keep what --speed balanced and fast mean there."""
    from triaxis.sampling.agreement import presets

    m = measure(
        executor, task, n=n, seed=seed, margin=margin, modes=modes, setting=setting, device=device,
        dtype=bits(dtype, quantize),
    )  # fmt: skip
    found = {
        **_identity(m.executor, task, m.task.revision), "n": m.n, "margin": margin,
        "presets": presets(m.rows, m.decode), "modes": [r.plain() for r in m.rows],
    }  # fmt: skip
    path = out or place_of(executor, task)
    _write(path, found)
    if json_:
        print_json({**found, "file": str(path)})
        return
    for speed in SPEEDS:
        changes = changes_of(found["presets"], speed)
        line = " ".join(f"--set {k}={v}" for k, v in changes.items()) or "the exact protocol"
        sys.stdout.write(f"{speed}: {line}\n")
    sys.stdout.write(f"{path}: use it with triaxis diagnose --speed balanced\n")


def _identity(executor: Executor, task: str, revision: str) -> dict[str, Any]:
    return {"schema": 1, "executor": executor.name, "fingerprint": executor.fingerprint, "task": task,
            "revision": revision}  # fmt: skip


def _write(path: Path, found: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as e:
        raise UserError(f"{path}: cannot write ({e.strerror}); choose another --out") from None


def changes_of(presets: Mapping[str, Mapping[str, object]], speed: str) -> dict[str, object]:
    """The settings a preset changes in the exact protocol it was measured against."""
    exact = presets["exact"]
    return {k: v for k, v in presets[speed].items() if v != exact[k]}


def speed_settings(speed: str, executor: str, task: str) -> dict[str, object]:
    """What --speed changes in the decoding: nothing for "exact", else what `triaxis tune` found for both.

    UserError where it was not measured, or for other weights or other data than are here now.
    """
    lookup("speed", dict.fromkeys(SPEEDS), speed)
    if speed == "exact":
        return {}
    from triaxis.models.folder import find_checkpoint, fingerprint
    from triaxis.tasks import load_task

    path, again = place_of(executor, task), f"run triaxis tune --executor {executor} --task {task}"
    try:
        found = parse_json(read_text(path, "settings"))
        held, presets = (found["fingerprint"], found["revision"]), found["presets"]
        changes = changes_of(presets, speed)
    except FileNotFoundError:
        raise UserError(f"--speed {speed}: not measured for this executor and task ({path}); {again}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a file of triaxis tune; {again}") from None
    if held != (fingerprint(find_checkpoint(executor, "executor")[0]), load_task(task).revision):
        raise UserError(f"{path}: measured with other weights or other data; {again}")
    return changes
