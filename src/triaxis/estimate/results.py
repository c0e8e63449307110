"""Result files -> one score per (item, seed, branch), whoever wrote the file.

Reads: our row store (a study folder or rows.sqlite), JSONL or JSON lists of objects, `lm-eval --log_samples` files,
Inspect logs (.eval or .json, through the inspect_ai package), CSV and TSV. The format is told by content, not by name.
Everything becomes `Record`s; what is wrong with them (repeats, several conditions) is decided later, because an audit
wants to see it and a comparison wants to refuse it. Knows nothing of statistics.

Names understood in JSONL and CSV, the first present wins; `--id` and `--metric` name others:
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from triaxis.errors import UserError, lookup, suggest
from triaxis.limits import check_zip, parse_json, read_bytes, read_text

ITEM = ("id", "item", "item_id", "doc_id", "sample_id", "question_id", "problem_id", "task_id", "qid", "index", "idx")
SCORE = ("correct", "score", "is_correct", "right", "verdict", "accuracy", "acc", "exact_match", "passed", "pass")
SEED = ("seed", "run", "trial")
BRANCH = ("branch", "epoch", "sample", "replicate", "repeat")
CONDITION = ("condition", "arm")
QUESTION = ("question", "problem", "doc_hash")  # the same in every condition
PROMPT = ("prompt", "input", "prompt_hash")  # the same question in the same condition
TEXT = ("text", "completion", "output", "response", "generation", "resps")
PREDICTED = ("prediction", "pred", "predicted", "extracted_answer", "extracted", "parsed")
GOLD = ("gold", "target", "reference", "expected", "gold_answer", "ground_truth", "label")

_WORDS = {
    **dict.fromkeys(("true", "right", "correct", "yes", "c", "pass", "passed"), 1.0),
    **dict.fromkeys(("false", "wrong", "incorrect", "no", "i", "n", "fail", "failed", "unreadable"), 0.0),
    "p": 0.5,  # Inspect's "partially correct"
}


class Record(NamedTuple):
    """One graded completion. "" or None: the file does not say. (A tuple: 10,000 of them in a blink.)"""

    line: int  # 1-based line of the file; position for stores and logs
    item: str
    score: float  # in [0, 1]; an unreadable answer scores 0
    seed: str = ""
    branch: str = ""
    condition: str = ""
    question: str = ""  # digest of the question, comparable across conditions
    prompt: str = ""  # digest of what was shown
    text: str = ""  # digest of the completion
    answer: str | None = None  # what was read from the completion; "" if unreadable
    gold: str | None = None
    ended: bool | None = None  # False: cut off by the length limit
    second: bool | None = None  # the second grader's opinion, where the store holds one
    fields: Mapping[str, Any] = MappingProxyType({})  # the line as it is, for factor columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The records of one file, or of one condition of it."""

    label: str
    path: Path
    kind: str  # store, jsonl, lm-eval, inspect, csv
    records: tuple[Record, ...]
    digest: str  # of the file's bytes, or of a store's rows
    protocol: Mapping[str, Any] | None = None  # the decoding protocol, where one is known
    notes: tuple[str, ...] = ()  # what the reader left out

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r.condition for r in self.records))

    def of(self, condition: str) -> Results:
        """The records of one condition. UserError with the nearest name."""
        lookup(f"condition in {self.path}", dict.fromkeys(self.conditions), condition)
        kept = tuple(r for r in self.records if r.condition == condition)
        return replace(self, label=f"{self.label}:{condition}", records=kept)

    def at(self, record: Record) -> str:
        """Where a record stands, for an error."""
        return f"{self.path}: line {record.line}" if self.kind in ("jsonl", "lm-eval", "csv") else str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns or metrics to read; "" leaves it to the file."""

    item: str = ""
    metric: str = ""  # score column, lm-eval metric, Inspect scorer
    filter: str = ""  # lm-eval answer filter
    unfinished: bool = False  # a file still being written: a last line without its end is not there yet


def read(path: Path, columns: Columns | None = None) -> Results:
    """All records of one file or study folder. UserError names file, line, what was expected and the next move."""
    wanted = columns or Columns()
    if path.is_dir():
        return _study(path, wanted)
    try:
        data = read_bytes(path, "results")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); give a result file or a study folder") from None
    label, digest = path.name, hashlib.sha256(data).hexdigest()
    if data.startswith(b"SQLite format 3\0"):
        return _store(path, path.parent.name or path.name, wanted)
    if data.startswith(b"PK\x03\x04") or path.suffix == ".eval":
        return _inspect(path, label, digest, wanted, zipped=data.startswith(b"PK"))
    text = _text(path, data)
    start = text.lstrip()[:1]
    if not start and wanted.unfinished:
        return Results(label=label, path=path, kind="jsonl", records=(), digest=digest)
    if not start:
        raise UserError(f"{path}: the file is empty; expected one result a line")
    if start in "{[":
        whole = _whole_json(text)
        if isinstance(whole, dict) and {"eval", "samples"} <= set(whole):
            return _inspect(path, label, digest, wanted)
        rows = _json_rows(path, text, whole, wanted)
    else:
        rows = _csv_rows(path, text, wanted)
    kind = "csv" if start not in "{[" else "jsonl"
    notes: tuple[str, ...] = ()
    if rows and kind == "jsonl" and {"doc_id", "filter", "metrics"} <= set(rows[0][1]):
        kind, rows, wanted = "lm-eval", *_one_filter(path, rows, wanted)
    records = tuple(_record(path, line, row, wanted) for line, row in rows)
    if not records and not wanted.unfinished:
        raise UserError(f"{path}: no result in the file; expected one result a line")
    protocol = _card(path.parent)
    return Results(label=label, path=path, kind=kind, records=records, digest=digest, protocol=protocol, notes=notes)


def read_spec(spec: str, columns: Columns | None = None, condition: str = "") -> Results:
    """The results one argument names: FILE, FOLDER, or either with ":CONDITION"; all conditions if none is named."""
    path, named = Path(spec), condition
    if not path.exists() and ":" in spec:
        front, _, tail = spec.rpartition(":")
        if Path(front).exists():
            path, named = Path(front), tail
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    found = read(path, columns)
    return found.of(named) if named else found


def open_spec(spec: str, columns: Columns | None = None, condition: str = "") -> Results:
    """As `read_spec`, of exactly one condition; `condition` is what to take where the argument names none."""
    found = read_spec(spec, columns, condition)
    several = found.conditions
    if len(several) > 1:
        raise UserError(
            f"{found.path} holds {len(several)} conditions; name one, as {found.path}:{several[0]} (known: "
            f"{', '.join(several)})"
        )
    return found


# ---------------------------------------------------------------- our own store


def _study(folder: Path, wanted: Columns) -> Results:
    store = folder / "rows.sqlite"
    if not store.is_file():
        samples = sorted(p.name for pattern in ("samples_*.jsonl", "*.eval") for p in folder.glob(pattern))
        hint = (
            f"name one of its files, such as {folder / samples[0]}"
            if samples
            else "give a result file or a study folder"
        )
        raise UserError(f"{folder}: no rows.sqlite there; {hint}")
    return _store(store, folder.resolve().name, wanted)


def _store(path: Path, label: str, wanted: Columns) -> Results:
    from triaxis.store import Store

    with Store(path, write=False) as store:
        rows, grades = store.rows(), store.grades()
    missing = sum(1 for r in rows if r.id not in grades)
    if wanted.unfinished:
        rows = [r for r in rows if r.id in grades]
    elif missing:
        raise UserError(f"{path}: {missing} of {len(rows)} rows are not graded; run triaxis grade {path.parent} first")
    elif not rows:
        raise UserError(f"{path}: the store holds no rows; finish the study first")
    records = []
    for at, row in enumerate(rows, 1):
        grade = grades[row.id]
        second = None if grade.second < 0 else bool(grade.second)
        made = Record(at, row.item, float(grade.verdict == "right"), str(row.seed), str(row.branch), row.condition)
        made = made._replace(prompt=_digest(row.prompt), text=_digest(row.text), answer=grade.answer)
        records.append(made._replace(ended=row.ended, second=second))
    digest = _digest("\n".join(f"{r.id} {grades[r.id].verdict}" for r in rows))
    return Results(
        label=label, path=path, kind="store", records=tuple(records), digest=digest, protocol=_card(path.parent)
    )


def _card(folder: Path) -> Mapping[str, Any] | None:
    """The protocol card beside a result file, if there is a readable one."""
    try:
        card = parse_json(read_text(folder / "protocol.json", "card"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


# ---------------------------------------------------------------- text files


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise UserError(
            f"{path}: line {line} is not UTF-8 text; expected JSONL, CSV, a triaxis store or an Inspect log"
        ) from None


def _whole_json(text: str) -> Any:
    """The file as one JSON value, or None when it is lines of them."""
    first = text.lstrip().partition("\n")[0].strip()
    if first.endswith("}") and first.startswith("{"):
        return None  # one object a line: do not parse the file twice
    try:
        return parse_json(text)
    except ValueError:
        return None


def _json_rows(path: Path, text: str, whole: Any, wanted: Columns) -> list[tuple[int, dict[str, Any]]]:
    if isinstance(whole, list):
        for at, row in enumerate(whole, 1):
            if not isinstance(row, dict):
                raise UserError(f"{path}: entry {at} is not an object; expected {_EXAMPLE}")
        return list(enumerate(whole, 1))
    if isinstance(whole, dict):
        raise UserError(
            f"{path}: one JSON object, not a list of results; expected one object a line, such as {_EXAMPLE}"
        )
    rows, lines = [], text.split("\n")
    for at, line in enumerate(lines, 1):
        if not line.strip() or (wanted.unfinished and at == len(lines)):
            continue
        try:
            row = parse_json(line)
        except ValueError as e:
            raise UserError(
                f"{path}: line {at} is not JSON ({e}); expected one object a line, such as {_EXAMPLE}"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {at} is not an object; expected one a line, such as {_EXAMPLE}")
        rows.append((at, row))
    return rows


_EXAMPLE = '{"id": "q1", "correct": true}'


def _csv_rows(path: Path, text: str, wanted: Columns) -> list[tuple[int, dict[str, Any]]]:
    header = text.partition("\n")[0]
    delimiter = max(",\t;", key=header.count)
    if header.count(delimiter) == 0:
        raise UserError(
            f"{path}: line 1 is neither JSON nor a CSV header; expected {_EXAMPLE} or columns such as id,correct"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        names = [name.strip() for name in next(reader)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: line 1 names the column {twice!r} twice; rename one")
        for cells in reader:
            if not any(c.strip() for c in cells):
                continue
            if len(cells) != len(names):
                raise UserError(f"{path}: line {reader.line_num} has {len(cells)} columns, the header has {len(names)}")
            rows.append((reader.line_num, dict(zip(names, cells, strict=True))))
    except csv.Error as e:
        raise UserError(f"{path}: line {reader.line_num} is not CSV ({e})") from None
    if wanted.unfinished and rows and not text.endswith("\n"):
        rows.pop()
    return rows


def _one_filter(
    path: Path, rows: list[tuple[int, dict[str, Any]]], wanted: Columns
) -> tuple[list[tuple[int, dict[str, Any]]], Columns]:
    """lm-eval writes a document once per answer filter: one of them is chosen, never both counted."""
    filters = dict.fromkeys(str(row.get("filter")) for _, row in rows)
    name = wanted.filter or (next(iter(filters)) if len(filters) == 1 else "")
    if not name:
        raise UserError(f"{path}: holds {len(filters)} answer filters ({', '.join(filters)}); choose one with --filter")
    lookup(f"filter in {path}", filters, name)
    kept = [(at, row) for at, row in rows if str(row.get("filter")) == name]
    listed = kept[0][1].get("metrics")
    metrics = listed if isinstance(listed, list) else []
    metric = wanted.metric or (str(metrics[0]) if len(metrics) == 1 else "")
    if not metric:
        raise UserError(
            f"{path}: holds {len(metrics)} metrics ({', '.join(map(str, metrics))}); choose one with --metric"
        )
    return kept, replace(wanted, metric=metric)


def _record(path: Path, line: int, row: Mapping[str, Any], wanted: Columns) -> Record:
    item = _first(row, (wanted.item,) if wanted.item else ITEM)
    where = f"{path}: line {line}"
    if item is None or isinstance(item, (dict, list, bool)):
        raise _no_column(where, row, wanted.item or "id", "item id", ITEM, "--id")
    name = wanted.metric or next((k for k in SCORE if k in row), "")
    if name not in row:
        raise _no_column(where, row, wanted.metric or "correct", "score", SCORE, "--metric")
    score = score_of(row[name])
    if score is None:
        raise UserError(
            f"{where}: {name} is {_short(row[name])}; expected true, false or a share from 0 to 1 (an unreadable "
            "answer scores 0)"
        )
    predicted, gold = _answers(row)
    unreadable = str(row[name]).strip().lower() == "unreadable"
    return Record(
        line=line,
        item=str(int(item)) if isinstance(item, float) and item.is_integer() else str(item),
        score=score,
        seed=_word(_first(row, SEED)),
        branch=_word(_first(row, BRANCH)),
        condition=_word(_first(row, CONDITION)),
        question=_digest(_first(row, QUESTION)),
        prompt=_digest(_first(row, PROMPT)),
        text=_digest(_first(row, TEXT)),
        answer="" if unreadable else predicted,
        gold=gold,
        ended=_ended(row),
        fields=row,
    )


def score_of(value: object) -> float | None:
    """A score in [0, 1] from true/false, a number, or a word such as "right", "C", "unreadable"; None if it is none."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS:
            return _WORDS[word]
        try:
            value = float(word)
        except ValueError:
            return None
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:  # false for NaN
        return None
    return float(value)


def _answers(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(predicted, gold). "answer" is the gold where another column holds the prediction, else the prediction."""
    predicted, gold = _first(row, PREDICTED), _first(row, GOLD)
    has_prediction = any(k in row for k in PREDICTED)
    other = row.get("answer")
    if has_prediction:
        gold = other if gold is None else gold
    else:
        predicted = other
    told = has_prediction or "answer" in row
    return (_word(predicted) if told else None), (None if gold is None else _word(gold))


def _ended(row: Mapping[str, Any]) -> bool | None:
    if "ended" in row or "truncated" in row:
        name = "ended" if "ended" in row else "truncated"
        flag = score_of(row[name])
        return None if flag is None else (flag == 1) == (name == "ended")
    reason = _first(row, ("finish_reason", "stop_reason"))
    return None if reason is None else str(reason) not in ("length", "max_tokens")


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value = row.get(name)
        if value is not None:
            return value
    return None


def _word(value: object) -> str:
    return "" if value is None or isinstance(value, (dict, list)) else str(value)


def _digest(value: object) -> str:
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _no_column(
    where: str, row: Mapping[str, Any], name: str, what: str, known: tuple[str, ...], option: str
) -> UserError:
    if name not in known:
        return UserError(f"{where}: no {name!r}{suggest(name, [str(k) for k in row])}")
    return UserError(
        f"{where}: no {what}; expected a column called {', '.join(known[:4])}, or name yours with {option} (found: "
        f"{', '.join(map(str, row)) or 'nothing'})"
    )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


# ---------------------------------------------------------------- Inspect


def _inspect(path: Path, label: str, digest: str, wanted: Columns, *, zipped: bool = False) -> Results:
    """An Inspect log through inspect_ai's own reader; samples without a score (errored) are absent, and counted."""
    try:
        from importlib import import_module

        log = import_module("inspect_ai.log")
    except ImportError:
        raise UserError(
            f"{path} is an Inspect log: reading it needs the inspect_ai package; pip install 'triaxis[inspect]'"
        ) from None
    try:
        if zipped:
            check_zip(path, "results")
    except ValueError as e:
        raise UserError(f"{path}: inspect_ai cannot read this log ({e})") from None
    try:
        header = log.read_eval_log(str(path), header_only=True)
        samples = log.read_eval_log_sample_summaries(str(path))
    except Exception as e:  # whatever a foreign reader raises on a foreign file is one unusable file to us
        raise UserError(f"{path}: inspect_ai cannot read this log ({type(e).__name__}: {e})") from None
    records = tuple(_inspect_records(path, samples, wanted))
    if not records:
        raise UserError(f"{path}: no sample of this log has a score (status {header.status}); score or run it first")
    return Results(
        label=label,
        path=path,
        kind="inspect",
        digest=digest,
        records=records,
        protocol=_inspect_protocol(header.eval),
        notes=_unscored(samples),
    )


def _inspect_records(path: Path, samples: list[Any], wanted: Columns) -> Iterator[Record]:
    for at, sample in enumerate(samples, 1):
        if not sample.scores:
            continue
        name = wanted.metric or (next(iter(sample.scores)) if len(sample.scores) == 1 else "")
        if not name:
            raise UserError(
                f"{path}: {len(sample.scores)} scorers ({', '.join(sample.scores)}); choose one with --metric"
            )
        lookup(f"scorer in {path}", dict.fromkeys(sample.scores), name)
        found = sample.scores[name]
        score = score_of(found.value)
        if score is None:
            raise UserError(
                f"{path}: sample {sample.id}: {name} is {_short(found.value)}; expected C, I, P, N or a share from 0 "
                "to 1"
            )
        question = sample.input if isinstance(sample.input, str) else [str(m) for m in sample.input]
        gold = sample.target if isinstance(sample.target, str) else None
        made = Record(at, str(sample.id), score, branch=str(sample.epoch), question=_digest(question))
        yield made._replace(answer=found.answer, gold=gold)


def _unscored(samples: list[Any]) -> tuple[str, ...]:
    lost = [str(s.id) for s in samples if not s.scores]
    return (
        (f"samples without a score (errored or unfinished) are absent: {len(lost)}, such as {lost[0]!r}",)
        if lost
        else ()
    )


def _inspect_protocol(spec: Any) -> dict[str, Any]:
    """What decided the samples, as far as the log says."""
    plain: Callable[[Any], Any] = lambda model: model.model_dump(exclude_none=True)  # noqa: E731
    return {
        "task": spec.task,
        "task_version": spec.task_version,
        "task_args": spec.task_args,
        "dataset": spec.dataset.name,
        "generate": plain(spec.model_generate_config),
        "config": {k: v for k, v in plain(spec.config).items() if k in ("message_limit", "token_limit")},
    }
