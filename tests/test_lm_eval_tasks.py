"""`lm-eval:NAME` and `lm-eval:FILE.yaml` as tasks: small local ones, no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="pip install triaxis[lm-eval]")

from triaxis.errors import UserError
from triaxis.tasks import load_task

DOCS = [
    {"question": "Tom has 3 pens and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    {"question": "Ana has 9 cups and loses 2. How many?", "answer": "9 - 2 = <<9-2=7>>7\n#### 7"},
    {"question": "There are 5 boxes of 6. How many?", "answer": "5 * 6 = <<5*6=30>>30\n#### 30"},
]
YAML = r"""
task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: DATA}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer.split('####')[-1].strip()}}"
generation_kwargs:
  until: ["Question:", "</s>"]
  do_sample: false
filter_list:
  - name: strict
    filter:
      - {function: regex, regex_pattern: "#### (-?[0-9]+)"}
      - {function: take_first}
  - name: last
    filter:
      - {function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata:
  version: 1.0
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    data = tmp_path / "docs.jsonl"
    data.write_text("".join(json.dumps(d) + "\n" for d in DOCS), encoding="utf-8")
    path = tmp_path / "sums.yaml"
    path.write_text(YAML.replace("DATA", str(data)), encoding="utf-8")
    return path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_file_is_a_task(file: Path) -> None:
    task = load_task(f"lm-eval:{file}")
    items = sorted(task.items(), key=lambda i: i.id)
    assert [i.id for i in items] == ["sums-00001", "sums-00002", "sums-00003"]
    assert items[0].question == "Question: Tom has 3 pens and buys 4. How many?\nAnswer:"
    assert [i.answer for i in items] == ["7", "7", "30"]
    graded = [
        task.grade(text, items[2]) for text in ("5 * 6\n#### 30", "it is #### 31", "30", "#### 3 Question: #### 30")
    ]
    assert [(g.verdict, g.answer) for g in graded] == [
        ("right", "30"), ("wrong", "31"), ("unreadable", ""), ("wrong", "3")
    ]  # fmt: skip
    last = load_task(f"lm-eval:{file}/last")
    assert [last.grade(text, items[2]).verdict for text in ("30", "or 31", "none")] == ["right", "wrong", "unreadable"]
    assert len({task.revision, last.revision}) == 2
    assert load_task(f"lm-eval:{file}").revision == task.revision
    change(file, "Answer:", "Reply:")
    assert load_task(f"lm-eval:{file}").revision != task.revision


def test_a_gold_text_becomes_answer_solution_and_steps(file: Path) -> None:
    change(file, "\"{{answer.split('####')[-1].strip()}}\"", "answer")
    change(file, "higher_is_better: true", 'higher_is_better: true, regexes_to_ignore: ["(?s).*#### "]')
    task = load_task(f"lm-eval:{file}")
    item = next(i for i in task.items() if i.answer == "30")
    assert item.solution == "5 * 6 = 30\n#### 30"
    assert item.steps == ("5*6=30",)
    assert task.grade("so\n#### 30", item).verdict == "right"


def test_a_study_on_a_harness_task(file: Path, tmp_path: Path) -> None:
    from triaxis.study import Study

    found = Study(
        task=f"lm-eval:{file}/last", n=3, planners=(), conditions=("none", "plan-empty"), decode={"steps": 6}
    ).run(tmp_path / "out")
    assert found["study"]["task"] == f"lm-eval:{file}/last"
    assert [c["n"] for c in found["conditions"]] == [3, 3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("doc_to_text: \"Question: {{question}}\\nAnswer:\"", "doc_to_text: !function utils.text", "holds !function"),
     ("task: sums", "include: other.yaml", "holds !function or include"),
     ("output_type: generate_until", "output_type: multiple_choice", "multiple_choice; only generate_until"),
     ("metric: exact_match", "metric: perplexity", "gives .* to its own gold answer"),
     ("metric: exact_match", "metric: exact_mtch", "did you mean 'exact_match'"),
     ("{{question}}", "{{question.__class__.__mro__}}", "cannot be rendered"),
     ("{{question}}", "{{question", "cannot be rendered"),
     ("{{question}}", "{{'x' * 10**15}}", r"cannot be rendered \(MemoryError\)"),
     ("{{question}}", "{{nothing.there}}", "cannot be rendered"),
     ("test_split: test", "test_split: test\nprocess_docs: utils.x", "unknown setting 'process_docs'"),
     ("dataset_path: json", "dataset_path: json.py", "data sets that are scripts are not used"),
     ("test_split: test", "test_split: dev", "does not load"),
     ("task: sums", "task: [sums", "not readable YAML")],
)  # fmt: skip
def test_files_that_are_no_task_for_us(file: Path, old: str, new: str, message: str) -> None:
    change(file, old, new)
    with pytest.raises(UserError, match=message):
        load_task(f"lm-eval:{file}").items()


def test_words_of_refusal(file: Path) -> None:
    for spec, message in (
        ("lm-eval:", "use lm-eval:NAME or lm-eval:FILE.yaml"),
        (f"lm-eval:{file}/frist", "no filter named 'frist'"),
        ("lm-eval:nowhere.yaml", "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            load_task(spec)


@pytest.mark.slow  # the harness reads all its files for its names
def test_a_task_of_the_harness_without_its_data_is_one_line(file: Path) -> None:
    with pytest.raises(UserError, match="no lm-eval task named 'gsm9k'; did you mean"):
        load_task("lm-eval:gsm9k")
    with pytest.raises(UserError, match=r"task 'lm-eval:gsm8k' does not load \(.*is its data here, or within reach"):
        load_task("lm-eval:gsm8k")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("gsm8k", "so\n#### {}"),
        ("gsm8k/flexible-extract", "it is {} pens"),
        ("gsm8k_cot_zeroshot", "The answer is {}."),
    ],
)
def test_a_task_of_the_installed_harness(file: Path, monkeypatch: pytest.MonkeyPatch, spec: str, text: str) -> None:
    """Its own settings on three documents instead of the hub's."""
    import datasets

    made = datasets.Dataset.from_list(DOCS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=made, test=made))
    task = load_task(f"lm-eval:{spec}")
    items = sorted(task.items(), key=lambda i: i.id)
    assert [i.answer for i in items] == ["7", "7", "30"]
    assert DOCS[2]["question"] in items[2].question
    assert [task.grade(text.format(x), items[2]).verdict for x in ("30", "31", "many")] == [
        "right", "wrong", "unreadable"
    ]  # fmt: skip
