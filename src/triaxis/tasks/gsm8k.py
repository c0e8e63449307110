"""GSM8K (arXiv:2110.14168), test and train, shipped in the package under its MIT licence.

Knows the shape of its files; they are openai/grade-school-math's own bytes (see `packed.py`).
"""

from __future__ import annotations

import re
from functools import cache, partial
from importlib.resources import files
from importlib.resources.abc import Traversable

from triaxis.limits import parse_json
from triaxis.tasks.base import Item
from triaxis.tasks.listed import ListTask
from triaxis.tasks.packed import checksums, read_packed

SPLITS = ("test", "train")
_ANNOTATION = re.compile(r"<<([^<>]*)>>")


def gsm8k() -> ListTask:
    """The task. Its revision names the checksums of both splits, so either file's change is a new revision."""
    known = checksums(_folder(), "GSM8K")
    revision = "-".join(known[f"{split}.jsonl"][:12] for split in SPLITS)
    return ListTask("gsm8k", revision, {split: partial(load, split) for split in SPLITS})


@cache
def load(split: str) -> tuple[Item, ...]:
    """The items of a split in file order, ids gsm8k-test-0001 and on. UserError if the file is not as published."""
    rows = (parse_json(line) for line in read_checked(_folder(), split).splitlines())  # bytes: \n only, no U+2028
    return tuple(
        Item(f"gsm8k-{split}-{at:04d}", row["question"], *parse_answer(row["answer"])) for at, row in enumerate(rows, 1)
    )


def parse_answer(gold: str) -> tuple[str, str, tuple[str, ...]]:
    """(answer, solution, steps) of a GSM8K gold text.

    answer: the number after "####" without commas. solution: the rationale without its <<...>> calculator
    annotations, ending "#### answer". steps: the annotations in order, such as "16-3-4=9".
    """
    rationale, _, final = gold.rpartition("####")
    answer = final.strip().replace(",", "")
    solution = f"{_ANNOTATION.sub('', rationale).rstrip()}\n#### {answer}".lstrip("\n")
    return answer, solution, tuple(_ANNOTATION.findall(rationale))


def read_checked(folder: Traversable, split: str) -> bytes:
    """The uncompressed bytes of a split, equal to the published ones. UserError if missing or damaged."""
    return read_packed(folder, f"{split}.jsonl", "GSM8K")


def _folder() -> Traversable:
    return files("triaxis.tasks") / "data" / "gsm8k"
