"""`jsonl:FILE`: a user's own items, one JSON object a line, checked line by line before anything runs.

Fields: question (or problem, prompt) and answer (or target), both required, the first name present counts;
id, solution (or rationale) and steps if known; "split": "train" keeps an item for training adapters and out of every
evaluation; any other is ignored. An answer is text or a number, or a whole
GSM8K gold text "... #### 18", which is then split into answer, solution and steps. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

from triaxis.errors import UserError
from triaxis.limits import parse_json
from triaxis.tasks import grading
from triaxis.tasks.base import Item
from triaxis.tasks.gsm8k import parse_answer
from triaxis.tasks.listed import ListTask

LONGEST_LINE: Final = 1_000_000  # bytes; a longer one is almost surely not JSON Lines
QUESTION: Final = ("question", "problem", "prompt")
ANSWER: Final = ("answer", "target")
SOLUTION: Final = ("solution", "rationale")


def jsonl(path: str | Path) -> ListTask:
    """The task of one file. Its revision is the sha256 of the file's bytes.

    Its items are the split "test"; those that say so are the split "train", where there are any. Raises UserError
    "FILE:LINE: ..." at the first line that is not an item.
    """
    path = Path(path)
    digest = hashlib.sha256()
    items: dict[str, list[Item]] = {"test": [], "train": []}
    line_of: dict[str, int] = {}
    for at, raw in _lines(path):
        digest.update(raw)
        if not raw.removeprefix(b"\xef\xbb\xbf" if at == 1 else b"").strip():
            continue
        try:
            row = _parse(raw, first=at == 1)
            item = _item(row, default_id=f"{path.stem}-{len(line_of) + 1:04d}")
            if item.id in line_of:
                raise UserError(f"id {item.id!r} is already that of line {line_of[item.id]}; ids must differ")
        except UserError as error:
            raise UserError(f"{path}:{at}: {error}") from None
        line_of[item.id] = at
        items["train" if row.get("split") == "train" else "test"].append(item)
    if not items["test"]:
        why = ' but those with "split": "train"' if items["train"] else ""
        raise UserError(f'{path} has no items{why}; expected lines such as {{"question": "...", "answer": "42"}}')
    splits = {name: (lambda found=found: found) for name, found in items.items() if found}
    return ListTask(f"jsonl:{path}", digest.hexdigest()[:12], splits)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, raw line) of the file, without ever holding a line longer than the limit."""
    try:
        with path.open("rb") as file:
            at = 0
            while raw := file.readline(LONGEST_LINE + 1):
                at += 1
                if len(raw) > LONGEST_LINE:
                    raise UserError(f"{path}:{at}: line longer than {LONGEST_LINE:,} bytes; expected one item a line")
                yield at, raw
    except FileNotFoundError:
        raise UserError(f"no file {path}; give the path of a JSON Lines file as jsonl:FILE") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a JSON Lines file in it as jsonl:FILE") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        raise UserError(f"cannot read {str(path)!r}: {error}") from None


def _parse(raw: bytes, *, first: bool) -> dict[str, object]:
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from None
    try:
        row = parse_json(text, parse_float=Decimal, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON ({error.msg}, column {error.colno}); expected one JSON object a line") from None
    except ValueError as error:  # an integer of over 4,300 digits; brackets nested too deep
        raise UserError(f"unreadable JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"expected a JSON object with question and answer, found {_kind(row)}")
    return row


def _item(row: dict[str, object], *, default_id: str) -> Item:
    question = _text(row, QUESTION)
    answer = _text(row, ANSWER, numbers=True)
    solution = _text(row, SOLUTION, needed=False)
    steps = _steps(row.get("steps"))
    if "####" in answer and not solution:
        answer, solution, annotated = parse_answer(answer)
        steps = steps or annotated
    if not answer.strip(" .,;:!?*_\"'"):
        raise UserError("the answer is empty")
    if solution and grading.grade(solution, answer).verdict != "right":
        solution = f"{solution.rstrip()}\n#### {answer}"  # Item promises a solution that ends in the marked answer
    return Item(_text(row, ("id",), numbers=True, needed=False) or default_id, question, answer, solution, steps)


def _text(row: dict[str, object], names: tuple[str, ...], *, numbers: bool = False, needed: bool = True) -> str:
    """The stripped text of the first field present; null counts as absent."""
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        if not needed:
            return ""
        other = f" (or {', '.join(names[1:])})"
        raise UserError(f"no field {names[0]!r}{other}; found {', '.join(sorted(row)[:8]) or 'none'}")
    value = row[name]
    if numbers and isinstance(value, int | Decimal) and not isinstance(value, bool):
        return _number(name, value)
    if not isinstance(value, str):
        raise UserError(f"field {name!r} is {_kind(value)}; expected text{' or a number' if numbers else ''}")
    if needed and not value.strip():
        raise UserError(f"field {name!r} is empty")
    return _sound(name, value).strip()


def _number(name: str, value: int | Decimal) -> str:
    if grading.number(str(value)) is None:
        raise UserError(f"field {name!r} is a number beyond what the grader reads (10^120)")
    return str(value)


def _steps(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(step, str) for step in value):
        raise UserError("field 'steps' is not a list of texts; expected calculations such as [\"12+7=19\"]")
    return tuple(_sound("steps", step) for step in value)


def _sound(name: str, value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"field {name!r} holds half of a surrogate pair (such as \\ud800); write it whole") from None
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", str: "text", type(None): "null"}
    return names.get(type(value), "a number")
