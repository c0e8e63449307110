"""Readers of foreign data: result files, rows and logs of other harnesses."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fuzz.readers.base import TESTS, put


def results(data: bytes, place: Path, name: str = "results.jsonl") -> None:
    from triaxis.cli.published import _same_answer
    from triaxis.estimate.results import read
    from triaxis.estimate.rows import audit_rows

    audit_rows(read(put(place, name, data)), same=_same_answer).as_dict()


def watched(data: bytes, place: Path) -> None:
    from triaxis.estimate.results import Columns, read

    read(put(place, "growing.jsonl", data), Columns(unfinished=True))


def compared(data: bytes, place: Path) -> None:
    """Two files at once, cut at the first empty line."""
    from triaxis.estimate.compare import How, compare_many, relabel
    from triaxis.estimate.results import open_spec

    for name, part in zip(("a.jsonl", "b.jsonl"), [*data.split(b"\n\n", 1), b""][:2], strict=True):
        put(place, name, part)
    compare_many(relabel([open_spec(str(place / n)) for n in ("a.jsonl", "b.jsonl")]), How()).as_dict()


def jsonl_rows() -> list[bytes]:
    rows = [
        {"id": f"q{i}", "condition": c, "seed": 0, "branch": i % 2, "correct": i % 3 == 0, "prediction": str(i),
         "gold": "3", "truncated": False, "question": f"What is {i}?", "text": "so #### 3"}
        for i in range(4) for c in ("none", "hint")
    ]  # fmt: skip
    whole = json.dumps(rows).encode()
    return [b"".join(json.dumps(r).encode() + b"\n" for r in rows), whole, b'{"id": "q1", "correct": true}\n']


def lm_eval() -> list[bytes]:
    def row(i: int, name: str) -> dict[str, Any]:
        doc = {"question": "How many?", "answer": "#### 4"}
        return {
            "doc_id": i, "doc": doc, "target": "4", "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": []}}},
            "resps": [["4"]], "filtered_resps": ["4"], "filter": name, "metrics": ["exact_match"], "doc_hash": "ab",
            "prompt_hash": "cd", "target_hash": "ef", "exact_match": float(i % 2),
        }  # fmt: skip

    one = b"".join(json.dumps(row(i, "none")).encode() + b"\n" for i in range(3))
    two = b"".join(json.dumps(row(i, n)).encode() + b"\n" for i in range(2) for n in ("strict", "flexible"))
    return [one, two]


def csv() -> list[bytes]:
    return [
        b"id,correct,seed,branch,condition\nq1,true,0,0,none\nq2,0.5,0,0,none\nq1,wrong,0,0,hint\nq2,right,0,0,hint\n",
        b'item\tscore\tprediction\tgold\nq1\t1\t"75.00"\t75\nq2\t0\t3 1/2\t3.5\n', b"id;acc\n1;0\n2;1\n",
    ]  # fmt: skip


def inspect(data: bytes, place: Path) -> None:
    """By content a zip archive or JSON, whatever the name."""
    results(data, place, "log.eval" if data.startswith(b"PK") else "log.json")


def inspect_seeds() -> list[bytes]:
    sys.path.insert(0, str(TESTS))
    from test_compare import inspect_log

    place = Path(tempfile.mkdtemp())
    return [Path(inspect_log(place / name, "CIP")).read_bytes() for name in ("a.json", "a.eval")]
