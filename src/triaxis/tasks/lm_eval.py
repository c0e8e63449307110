"""`lm-eval:NAME` and `lm-eval:FILE.yaml`: a task of lm-evaluation-harness read as one of ours (extra `lm-eval`).

The harness loads the data, writes the question, filters the answer out of a completion and scores it. A name may end in
"/FILTER" where a task has several ("lm-eval:gsm8k/flexible-extract"); the first counts otherwise. Only tasks whose
answer is written (`generate_until`) can be read. The question is `doc_to_text` alone, without the harness's description
and shots: placing text around the question is what a condition does. Right is a first metric of 1, unreadable a text in
which the filter finds nothing.

A YAML file is a stranger's: it is read as data, a `!function` (Python code) is refused, and its templates are rendered
in Jinja's sandbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from triaxis.errors import UserError, lookup
from triaxis.limits import parse_yaml, read_text
from triaxis.tasks.base import Grade, Item
from triaxis.tasks.gsm8k import parse_answer
from triaxis.tasks.listed import ListTask

_YAML = (".yaml", ".yml")
_NOTHING = ("", "[invalid]")  # what the harness's filters give where they find nothing
_FIELDS = ("dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split", "output_type",
           "doc_to_text", "doc_to_target", "generation_kwargs", "filter_list", "metric_list", "metadata")  # fmt: skip
_UNUSED = ("task", "tag", "group", "description", "num_fewshot", "fewshot_split", "fewshot_config", "training_split",
           "target_delimiter", "fewshot_delimiter", "repeats", "should_decontaminate",
           "doc_to_decontamination_query")  # fmt: skip
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, LookupError)


@dataclass(slots=True)
class HarnessTask(ListTask):
    """A task of the harness. Satisfies `tasks.base.Task`."""

    task: Any = None
    ensemble: Any = None  # the chain of filters that reads an answer
    metric: str = ""
    docs: dict[str, Any] = field(default_factory=dict, repr=False)

    def grade(self, text: str, item: Item) -> Grade:
        """Grade by the harness's own filter and first metric."""
        self._split("test")  # where it was not asked for its items yet
        doc = self.docs[item.id]
        until = self.task.config.generation_kwargs.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            text = text.split(stop)[0] if stop else text
        answer = self._answer(doc, text)
        if answer.strip() in _NOTHING:
            return Grade("unreadable", "", "none")
        return Grade("right" if _value(self.task, doc, answer, self.metric) == 1 else "wrong", answer.strip(), "marked")

    def _answer(self, doc: Any, text: str) -> str:
        request = import_module("lm_eval.api.instance").Instance("generate_until", doc, ("", {}), 0)
        request.resps = [text]
        self.ensemble.apply([request])
        found = request.filtered_resps[self.ensemble.name]
        return str(found[0] if isinstance(found, list) and found else found)


def lm_eval(spec: str) -> HarnessTask:
    """The task called `spec`: NAME, NAME/FILTER, FILE.yaml or FILE.yaml/FILTER, with the one split "test".

    Its revision hashes the task's settings and its documents. UserError without the harness, for a task that is not
    written text, or whose first metric does not give 1 to its own gold answer.
    """
    where = f"task 'lm-eval:{spec}'"
    try:
        tasks = import_module("lm_eval.tasks")
    except ImportError as e:
        raise UserError(f"{where} needs lm-evaluation-harness ({e}); run pip install 'triaxis[lm-eval]'") from None
    name, wanted = _parts(spec)
    try:
        task, settings = _from_file(Path(name)) if name.endswith(_YAML) else _by_name(tasks, name)
        docs = list(task.test_docs() if task.has_test_docs() else task.validation_docs())
    except _BROKEN as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        raise UserError(f"{where} does not load ({reason}); is its data here, or within reach?") from None
    if task.OUTPUT_TYPE != "generate_until":
        raise UserError(f"{where} is {task.OUTPUT_TYPE}; only generate_until has an answer that is written")
    if not docs:
        raise UserError(f"{where} has no documents in its test split; give its data")
    filters = {e.name: e for e in task._filters}
    ensemble = lookup("filter", filters, wanted) if wanted else next(iter(filters.values()))
    metric = next(iter(task._metric_fn_list))
    _check_gold(where, task, docs[0], metric)
    text = json.dumps([settings, docs, ensemble.name], sort_keys=True, default=str)
    revision = hashlib.sha256(text.encode()).hexdigest()[:12]
    made = HarnessTask(f"lm-eval:{spec}", revision, {}, task=task, ensemble=ensemble, metric=metric)
    made.splits = {"test": partial(_items, made, Path(name).stem, docs)}
    return made


def _parts(spec: str) -> tuple[str, str]:
    """Name and filter. A file is a file even where its name has a slash."""
    head, slash, last = spec.rpartition("/")
    if slash and (head.endswith((".yaml", ".yml")) or Path(spec).suffix not in (".yaml", ".yml")):
        return head, last
    return spec, ""


def _items(made: HarnessTask, stem: str, docs: Sequence[Any]) -> Sequence[Item]:
    items = []
    for at, doc in enumerate(docs, 1):
        target = _target(made.task, doc)
        answer, solution, steps = parse_answer(target) if "####" in target else (target, "", ())
        item = Item(f"{stem}-{at:05d}", str(made.task.doc_to_text(doc)).strip(), answer.strip(), solution, steps)
        made.docs[item.id] = doc
        items.append(item)
    return items


def _target(task: Any, doc: Any) -> str:
    target = task.doc_to_target(doc)
    return str(target[0] if isinstance(target, list) and target else target)


def _value(task: Any, doc: Any, answer: str, metric: str) -> object:
    """The metric of one answer; None where the harness cannot compute it."""
    try:
        return task.process_results(doc, [answer]).get(metric)
    except _BROKEN:
        return None


def _check_gold(where: str, task: Any, doc: Any, metric: str) -> None:
    value = _value(task, doc, _target(task, doc), metric)
    if value != 1:
        raise UserError(
            f"{where}: its first metric {metric!r} gives {value!r} to its own gold answer; only a metric that is 1 for "
            "right can grade items, such as exact_match"
        )


def _by_name(tasks: Any, name: str) -> tuple[Any, object]:
    """The task of the installed harness, and what its revision is made of."""
    manager = tasks.TaskManager()
    lookup("lm-eval task", dict.fromkeys(manager.all_tasks), name)
    new = hasattr(manager, "load")  # from 0.4.12; what both give for one task is the task by its name
    task = (manager.load([name])["tasks"] if new else manager.load_task_or_group([name])).get(name)
    if task is None or isinstance(task, Mapping):
        raise UserError(f"lm-eval task {name!r} is a group; give one of its tasks")
    return task, task.dump_config()


# ---------------------------------------------------------------- a task in a file


def _from_file(path: Path) -> tuple[Any, object]:
    """The task of a file, and what its revision is made of."""
    try:
        text = read_text(path, "settings")
    except OSError as e:
        raise UserError(f"{path}: cannot read ({e.strerror}); give a task's YAML file as lm-eval:FILE.yaml") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; give a task's YAML file as lm-eval:FILE.yaml") from None
    if "!function" in text or "\ninclude:" in f"\n{text}":
        raise UserError(f"{path}: holds !function or include, which lead to Python code; write the task out without")
    try:
        given = parse_yaml(text)
    except ValueError as e:
        raise UserError(f"{path}: not readable YAML ({e})") from None
    if not isinstance(given, dict) or not {"dataset_path", "doc_to_text", "doc_to_target"} <= given.keys():
        raise UserError(f"{path}: no task of lm-eval; it needs dataset_path, doc_to_text and doc_to_target")
    foreign = [k for k in given if k not in (*_FIELDS, *_UNUSED)]
    if foreign:
        raise UserError(f"{path}: unknown setting {foreign[0]!r}; known are {', '.join(_FIELDS)}")
    config = {k: _plain(v) for k, v in given.items() if k in _FIELDS}
    _refuse_code(path, config)
    for part in ("doc_to_text", "doc_to_target"):
        config[part] = _renderer(path, str(config[part]))
    return import_module("lm_eval.api.task").ConfigurableTask(config={"task": path.stem, **config}), given


def _plain(value: Any, name: str = "") -> Any:
    """What the harness expects of YAML's scalars, which were read as text."""
    if isinstance(value, dict):
        return {k: _plain(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if name == "group_select" and value.lstrip("-").isdecimal():
        return int(value)
    return {"true": True, "false": False, "null": None}.get(value, value)


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    """UserError for settings through which the harness or its libraries would run code from elsewhere."""
    text = json.dumps([config.get("dataset_kwargs"), config.get("metric_list")])
    if "trust_remote_code" in text or "hf_evaluate" in text or str(config["dataset_path"]).endswith(".py"):
        raise UserError(
            f"{path}: trust_remote_code, hf_evaluate and data sets that are scripts are not used; leave out"
        )
    known = import_module("lm_eval.api.registry").METRIC_REGISTRY
    import_module("lm_eval.api.metrics")
    metrics = config.get("metric_list") or []
    if not isinstance(metrics, list):
        raise UserError(f"{path}: metric_list is {metrics!r}; write a list of metrics")
    for metric in metrics:
        lookup(f"metric ({path})", known, str(metric.get("metric") if isinstance(metric, dict) else metric))


def _renderer(path: Path, template: str) -> Callable[[Mapping[str, Any]], str]:
    """A template of a document, in the sandbox; a bare name is a field."""

    def refuse(e: Exception) -> UserError:
        return UserError(f"{path}: template {template[:80]!r} cannot be rendered ({str(e) or type(e).__name__})")

    try:
        made = import_module("jinja2.sandbox").ImmutableSandboxedEnvironment().from_string(template)
    except Exception as e:  # of the template's syntax, or its depth
        raise refuse(e) from None

    def render(doc: Mapping[str, Any]) -> str:
        try:
            return str(doc[template] if template in doc else made.render(**doc))
        except Exception as e:  # a template can do arithmetic, and so raise anything
            raise refuse(e) from None

    return render
