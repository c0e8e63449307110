"""Tasks through `load_task`, shipped, from a file and from other packages."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.tasks import TASKS, load_task
from triaxis.tasks.base import Item, Task
from triaxis.tasks.gsm8k import read_checked

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TASKS))
def test_built_in_tasks(name: str) -> None:
    task: Task = load_task(name)
    fifty = task.items(50)
    assert task.name == name
    assert list(task.items(100)[:50]) == list(fifty) == list(task.items(50))
    assert list(task.items()[:100]) == list(task.items(100))
    assert list(task.items(50, seed=1)) != list(fifty)
    assert len({item.id for item in task.items()}) == len(task.items())
    for item in fifty:
        assert item.solution.endswith(f"#### {item.answer}")
        assert task.grade(item.solution, item).verdict == "right"
    assert load_task(name).revision == task.revision
    size = len(task.items())
    with pytest.raises(UserError, match=f"n={size + 1}.* has {size} items.*use 1 to {size}"):
        task.items(size + 1)
    with pytest.raises(UserError, match="n=0"):
        task.items(0)
    with pytest.raises(UserError, match="no split 'tests'; did you mean 'test'"):
        task.items(split="tests")


def test_gsm8k_items_are_the_published_ones() -> None:
    task = load_task("gsm8k")
    by_id = {item.id: item for item in task.items()}
    first = by_id["gsm8k-test-0001"]
    assert len(by_id) == 1319
    assert len(task.items(split="train")) == 7473
    assert not {item.question for item in task.items(split="train")} & {item.question for item in task.items()}
    assert first.question.startswith("Janet’s ducks lay 16 eggs")
    assert (first.answer, first.steps) == ("18", ("16-3-4=9", "9*2=18"))
    assert first.solution.startswith("Janet sells 16 - 3 - 4 = 9 duck eggs a day.\n")
    assert task.revision == "3730d312f6e3-17f347dc5147"
    for item in [*by_id.values(), *task.items(split="train")]:
        assert item.answer.removeprefix("-").isdigit(), item
        assert "<<" not in item.solution
        assert task.grade(item.solution, item).verdict == "right"


def test_gsm8k_data_are_deterministic_and_licensed() -> None:
    folder = files("triaxis.tasks") / "data" / "gsm8k"
    assert "MIT License" in (folder / "LICENSE").read_text()
    for split, rows in {"test": 1319, "train": 7473}.items():
        packed = (folder / f"{split}.jsonl.gz").read_bytes()
        assert packed[4:8] == bytes(4)  # gzip's mtime
        assert read_checked(folder, split).count(b"\n") == rows


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _alter(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"18", b"19", 1)))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "missing"),
        (_cut, "damaged"),
        (_alter, "damaged: sha256 .* expected 3730d312f6e3"),
        (lambda path: path.with_name("SOURCES.tsv").unlink(), "missing"),
    ],
)
def test_damaged_gsm8k_is_refused(tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    folder = tmp_path / "gsm8k"
    shutil.copytree(str(files("triaxis.tasks") / "data" / "gsm8k"), folder)
    damage(folder / "test.jsonl.gz")
    with pytest.raises(UserError, match=f"(?s){says}.*reinstall triaxis"):
        read_checked(folder, "test")


# --- a user's own items --------------------------------------------------------------------------------------

GOOD = '{"question": "1+1?", "answer": 2}'


def _write(path: Path, *lines: str | bytes) -> str:
    path.write_bytes(b"\n".join(line.encode("utf-8") if isinstance(line, str) else line for line in lines))
    return f"jsonl:{path}"


def test_jsonl_items_for_training_are_in_no_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"question": f"{k}?", "answer": k, "solution": "as asked", "split": s}
        for k, s in enumerate(("train", "", "train"))
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = load_task(f"jsonl:{path}")
    assert [i.id for i in task.items()] == ["mine-0002"]
    assert {i.id for i in task.items(split="train")} == {"mine-0001", "mine-0003"}
    path.write_text("".join(json.dumps(r) + "\n" for r in rows[::2]))
    with pytest.raises(UserError, match='no items but those with "split": "train"'):
        load_task(f"jsonl:{path}")
    path.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(UserError, match="no split 'train'"):
        load_task(f"jsonl:{path}").items(1, split="train")


def test_jsonl(tmp_path: Path) -> None:
    spec = _write(
        tmp_path / "mine.jsonl",
        b"\xef\xbb\xbf" + GOOD.encode(),
        "",
        '{"id": "b", "problem": "2*3?", "target": "6 eggs", "rationale": "2*3=6", "steps": ["2*3=6"], "more": [1]}\r',
        '{"id": 7, "prompt": "Half?", "answer": 0.50, "solution": "It is half.\\n#### 1/2", "steps": null}',
        '{"question": "Ducks?", "answer": "16-3=<<16-3=13>>13 eggs\\n#### 1,013"}',
        '{"question": "Capital of France?", "answer": "Paris"}',
    )
    task = load_task(spec)
    items = {item.id: item for item in task.items()}
    assert set(items) == {"mine-0001", "b", "7", "mine-0004", "mine-0005"}
    assert items["b"] == Item("b", "2*3?", "6 eggs", "2*3=6\n#### 6 eggs", ("2*3=6",))
    assert items["7"].answer == "0.50"
    assert items["7"].solution == "It is half.\n#### 1/2"
    ducks = items["mine-0004"]
    assert (ducks.answer, ducks.solution, ducks.steps) == ("1013", "16-3=13 eggs\n#### 1013", ("16-3=13",))
    assert task.grade("#### paris", items["mine-0005"]).verdict == "right"
    assert task.grade("#### 6", items["b"]).verdict == "right"
    assert load_task(spec).revision == task.revision
    assert task.revision != load_task(_write(tmp_path / "mine.jsonl", GOOD)).revision
    with pytest.raises(UserError, match="no split 'train'"):
        task.items(split="train")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not json", r"not JSON .*expected one JSON object a line"),
        ("{", r"not JSON"),
        ('{"question": "a", "answer": "1"} {}', r"not JSON"),
        ("[1, 2]", "expected a JSON object with question and answer, found a list"),
        ("3", "found a number"),
        ('{"answer": "1", "text": "?"}', r"no field 'question' \(or problem, prompt\); found answer, text"),
        ('{"question": "a"}', r"no field 'answer' \(or target\); found question"),
        ("{}", "found none"),
        ('{"question": "a", "answer": null}', "no field 'answer'"),
        ('{"question": "a", "answer": true}', "'answer' is true or false; expected text or a number"),
        ('{"question": "a", "answer": ["1"]}', "'answer' is a list"),
        ('{"question": "a", "answer": {"x": 1}}', "'answer' is an object"),
        ('{"question": 3, "answer": "1"}', "'question' is a number; expected text"),
        ('{"question": "  ", "answer": "1"}', "'question' is empty"),
        ('{"question": "a", "answer": " "}', "'answer' is empty"),
        ('{"question": "a", "answer": "####"}', "answer is empty"),
        ('{"question": "a", "answer": "."}', "answer is empty"),
        ('{"question": "a", "answer": NaN}', "NaN"),
        ('{"question": "a", "answer": 1e400}', "beyond"),
        ('{"question": "a", "answer": ' + "9" * 5000 + "}", "unreadable JSON"),
        ('{"question": "a", "answer": "1", "id": []}', "'id' is a list"),
        ('{"question": "a", "answer": "1", "solution": 5}', "'solution' is a number"),
        ('{"question": "a", "answer": "1", "steps": "1+1=2"}', "'steps' is not a list of texts"),
        ('{"question": "a", "answer": "1", "steps": [2]}', "'steps' is not a list of texts"),
        ('{"question": "\\ud800", "answer": "1"}', "surrogate"),
        ('{"question": "a", "answer": "1", "id": "x-0001"}', "id 'x-0001' is already that of line 1"),
        (b'{"question": "caf\xe9", "answer": "1"}', r"not UTF-8 \(byte 18"),
        ("[" * 100_000, "unreadable JSON"),
        ('{"question": "' + "a" * 1_000_000 + '", "answer": "1"}', "longer than 1,000,000 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_unreadable_line_is_named(tmp_path: Path, line: str | bytes, says: str) -> None:
    path = tmp_path / "x.jsonl"
    spec = _write(path, GOOD, "", line, GOOD)
    with pytest.raises(UserError, match=says) as raised:
        load_task(spec)
    assert str(raised.value).startswith(f"{path}:3: ")
    assert "\n" not in str(raised.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for spec, says in {
        f"jsonl:{tmp_path / 'none.jsonl'}": "no file .*none.jsonl",
        f"jsonl:{tmp_path}": "is a folder",
        "jsonl:": "use jsonl:FILE",
        "jsonl": "use jsonl:FILE",
        "jsonl:a\0b": "cannot read",
        _write(tmp_path / "empty.jsonl", ""): "has no items; expected lines such as",
        _write(tmp_path / "bom.jsonl", b"\xef\xbb\xbf\n\n"): "has no items",
        _write(tmp_path / "wide.jsonl", GOOD.encode("utf-16")): "wide.jsonl:1: not UTF-8",
    }.items():
        with pytest.raises(UserError, match=says):
            load_task(spec)


@quick
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["question", "answer", "id", "steps"]), st.integers() | st.text()), max_size=3
    )
)
def test_any_json_lines_are_items_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, rows: list[object]) -> None:
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    try:
        outcome = f"{path} {len(load_task(f'jsonl:{path}').items()) == len(rows)}"
    except UserError as error:
        outcome = str(error)
    assert str(path) in outcome
    assert "False" not in outcome


# --- finding tasks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gsm8", "no task named 'gsm8'; did you mean 'gsm8k'?"),
        ("GradeSchool", "did you mean 'gradeschool'?"),
        ("jsnl:items", "did you mean 'jsonl:FILE'?"),
        ("zzz", "known: gradeschool, gsm8k, jsonl:FILE"),
        ("", "known: "),
        ("items.jsonl", "use jsonl:items.jsonl"),
    ],
)
def test_unknown_task(spec: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        load_task(spec)
    assert says in str(raised.value)


STRANGER = """
from triaxis.tasks.base import Item
from triaxis.tasks.listed import ListTask
def make():
    return ListTask("abacus", "r1", {"test": lambda: [Item("a", "1+1?", "2")]})
def broken():
    return object()
"""


def test_strangers_tasks_come_through_the_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abacus_tasks.py").write_text(STRANGER)
    info = tmp_path / "abacus_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus-tasks\nVersion: 1.0\n")
    points = ["abacus = abacus_tasks:make", "broken = abacus_tasks:broken", "gone = abacus_tasks:gone"]
    points += ["absent = no_such_module:make", "gsm8k = abacus_tasks:make"]
    (info / "entry_points.txt").write_text("[triaxis.tasks]\n" + "\n".join(points))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_task("abacus").items()[0].question == "1+1?"
    assert load_task("gsm8k").name == "gsm8k"
    with pytest.raises(UserError, match="did you mean 'abacus'"):
        load_task("abacos")
    with pytest.raises(UserError, match=r"'broken' of package abacus-tasks .* is no task: it lacks name, revision"):
        load_task("broken")
    for name in ("gone", "absent"):
        with pytest.raises(UserError, match=f"'{name}' of package abacus-tasks .* does not load"):
            load_task(name)


def test_importing_tasks_loads_nothing_heavy() -> None:
    code = (
        "import sys, triaxis.tasks; print([m for m in ('math_verify', 'sympy', 'torch', 'numpy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
