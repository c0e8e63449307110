"""GSM8K (arXiv:2110.14168), test and train, shipped in the package under its MIT licence.

Knows the shape of its files and the checksums they must have. The files are openai/grade-school-math's own bytes,
compressed with `gzip.compress(raw, 9, mtime=0)`; the sha256 in SOURCES.tsv are of the uncompressed bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from functools import cache, partial
from importlib.resources import files
from importlib.resources.abc import Traversable

from triaxis.errors import UserError
from triaxis.tasks.base import Item
from triaxis.tasks.listed import ListTask

SPLITS = ("test", "train")
_ANNOTATION = re.compile(r"<<([^<>]*)>>")


def gsm8k() -> ListTask:
    """The task. Its revision names the checksums of both splits, so either file's change is a new revision."""
    known = _checksums(_folder())
    revision = "-".join(known[split][:12] for split in SPLITS)
    return ListTask("gsm8k", revision, {split: partial(load, split) for split in SPLITS})


@cache
def load(split: str) -> tuple[Item, ...]:
    """The items of a split in file order, ids gsm8k-test-0001 and on. UserError if the file is not as published."""
    rows = (json.loads(line) for line in read_checked(_folder(), split).splitlines())  # bytes: \n only, no U+2028
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
    name = f"{split}.jsonl.gz"
    remedy = f"reinstall triaxis ({folder / name})"
    try:
        raw = gzip.decompress((folder / name).read_bytes())
    except FileNotFoundError:
        raise UserError(f"GSM8K's {name} is missing from this installation; {remedy}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"GSM8K's {name} is damaged and does not decompress ({error}); {remedy}") from None
    want, got = _checksums(folder)[split], hashlib.sha256(raw).hexdigest()
    if got != want:
        raise UserError(f"GSM8K's {name} is damaged: sha256 {got[:12]}…, expected {want[:12]}…; {remedy}")
    return raw


def _checksums(folder: Traversable) -> dict[str, str]:
    """Split -> sha256 of the uncompressed bytes, from SOURCES.tsv beside the data."""
    try:
        lines = (folder / "SOURCES.tsv").read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"GSM8K's data are missing from this installation; reinstall triaxis ({folder})") from None
    header, *rows = (line.split("\t") for line in lines)
    table = [dict(zip(header, row, strict=True)) for row in rows]
    return {row["file"].removesuffix(".jsonl"): row["sha256"] for row in table}


def _folder() -> Traversable:
    return files("triaxis.tasks") / "data" / "gsm8k"
