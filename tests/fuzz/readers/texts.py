"""Readers of foreign data: plans, tasks and completions."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from fuzz.readers.base import HOME, put, suppress_user


def bank(data: bytes, place: Path, name: str = "bank.jsonl") -> None:
    from triaxis.plans.files import check_bank, read_bank
    from triaxis.tasks import load_task

    bank = read_bank(put(place, name, data))
    with suppress_user():
        check_bank(bank, load_task("gradeschool"))


def bank_seeds() -> list[bytes]:
    from triaxis.plans.files import Bank, read_bank, write_bank

    found = []
    for name in ("tiny-planner-s", "smollm2-gsm8k"):
        bank = read_bank(HOME / "plans" / "banks" / f"{name}.jsonl.gz")
        path = Path(tempfile.mkdtemp()) / "short.jsonl"
        write_bank(Bank(bank.manifest, bank.rows[:4], path))
        found.append(path.read_bytes())
    return found


def grade(data: bytes, place: Path) -> None:
    """A completion and a gold answer, cut at the first line's end; and what plans are read for."""
    from triaxis.plans import read
    from triaxis.tasks.grading import canonical, grade

    gold, _, text = data.decode("utf-8", "replace").partition("\n")
    grade(text, gold), grade(text, gold, fallback=True), canonical(text), read.leaks(text, gold)


def task(data: bytes, place: Path) -> None:
    from triaxis.tasks.jsonl import jsonl

    jsonl(put(place, "items.jsonl", data)).items()


def harness_task(data: bytes, place: Path) -> None:
    """A task file of lm-evaluation-harness, up to where the harness itself takes over."""
    import lm_eval.api.task as harness

    from triaxis.tasks import lm_eval

    path, real = put(place, "t.yaml", data), harness.ConfigurableTask
    harness.ConfigurableTask = dict
    try:
        made, _ = lm_eval._from_file(path)
    finally:
        harness.ConfigurableTask = real
    for name in ("doc_to_text", "doc_to_target"):
        made["config"][name]({"question": "7 + 12?", "answer": "#### 19"})


def task_seeds() -> list[bytes]:
    rows: list[dict[str, Any]] = [
        {"question": "What is 12+7?", "answer": "19", "solution": "12+7=19\n#### 19", "steps": ["12+7=19"]},
        {"problem": "Half of 3?", "target": 1.5, "id": "b"},
        {"prompt": "How many?", "answer": "He has 3*6=<<3*6=18>>18.\n#### 18"},
    ]
    return [b"".join(json.dumps(r).encode() + b"\n" for r in rows)]
