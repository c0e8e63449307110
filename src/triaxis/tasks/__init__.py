"""Tasks by name: the built-in ones, `jsonl:FILE`, `lm-eval:NAME`, and those of the entry-point group `triaxis.tasks`.

Each loader imports its module when called, so importing this package costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from triaxis.errors import UserError, lookup

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from triaxis.tasks.base import Task

ENTRY_POINTS = "triaxis.tasks"


def _gradeschool() -> Task:
    from triaxis.tasks.gradeschool import gradeschool

    return gradeschool()


def _gsm8k() -> Task:
    from triaxis.tasks.gsm8k import gsm8k

    return gsm8k()


def _svamp() -> Task:
    from triaxis.tasks.svamp import svamp

    return svamp()


def _wordproblems(level: int | None = None) -> Task:
    from triaxis.tasks.wordproblems import wordproblems

    return wordproblems(level)


TASKS: dict[str, Callable[[], Task]] = {
    "gradeschool": _gradeschool,
    "gsm8k": _gsm8k,
    "svamp": _svamp,
    "wordproblems": _wordproblems,
    **{f"wordproblems-{level}": partial(_wordproblems, level) for level in (1, 2, 3, 4)},
}


def load_task(spec: str) -> Task:
    """The task called `spec`: a name in TASKS, "jsonl:FILE", "lm-eval:NAME", or one some installed package registers.

    A package registers a task as an entry point of the group "triaxis.tasks" that names a function without
    arguments returning a `tasks.base.Task`. Built-in names win. UserError for an unknown name or an unusable file.
    """
    if spec in TASKS:
        return TASKS[spec]()
    kind, colon, path = spec.partition(":")
    if kind == "jsonl":
        if not path:
            raise UserError("task 'jsonl' needs a file; use jsonl:FILE")
        from triaxis.tasks.jsonl import jsonl

        return jsonl(path)
    if kind == "lm-eval":
        if not path:
            raise UserError("task 'lm-eval' needs a name; use lm-eval:NAME or lm-eval:FILE.yaml")
        from triaxis.tasks.lm_eval import lm_eval

        return lm_eval(path)
    others = _registered()
    if spec in others:
        return _load(others[spec])
    if not colon and (spec.endswith((".jsonl", ".json")) or Path(spec).is_file()):
        raise UserError(f"no task named {spec!r}; for a file of your own items use jsonl:{spec}")
    lookup("task", dict.fromkeys([*TASKS, *others, "jsonl:FILE", "lm-eval:NAME"]), spec)
    raise AssertionError(spec)  # lookup raised


def _registered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load(point: EntryPoint) -> Task:
    source = f"task {point.name!r} of package {point.dist.name if point.dist else '?'} ({point.value})"
    try:
        make = point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"{source} does not load: {error}") from None
    task: Task = make()
    missing = [part for part in ("name", "revision", "items", "grade") if not hasattr(task, part)]
    if missing:
        raise UserError(f"{source} is no task: it lacks {', '.join(missing)}; see triaxis.tasks.base.Task")
    return task
