"""A study's store as files for other programs, and back, exactly: Parquet or JSON Lines.

Parquet: FILE.parquet holds one record a row, with the columns of `Row` and then those of its grade (`GRADED`), which
are null where it has none; FILE.plans.parquet holds the plans, with the columns of `PlanRow`. Everything else of the
store (protocol card, tallies, seconds) is the JSON object "triaxis" in FILE's own metadata. Rows lie ordered by
condition, item, seed and branch, so that one condition is a run of row groups.

JSON Lines: the first line is {"triaxis": "study", "format": 1, "meta": {...}}, then one line a plan and a row, each
with its "table"; a row holds its grade's columns, null where it has none. An infinite confidence is spelled Infinity,
as Python does.

Reading back makes a new store and compares its tallies with those in the file, so that what is not exactly what was
exported is refused. Knows stores and files only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from triaxis.errors import UserError
from triaxis.limits import open_parquet, parquet_records, parse_json, stream_lines
from triaxis.store import SCHEMA, TABLES, GradeRow, PlanRow, Row, Store, lock, refuse_sealed

FORMAT = 1
PART = 10_000  # rows in memory at once
GROUP = 100_000  # rows of a Parquet row group
PARQUET = {"str": "string", "int": "int64", "bool": "bool", "float": "double"}
GRADED = ("verdict", "answer", "how", "second")  # of the grade, beside the row's own columns
_COLUMNS: Mapping[str, Mapping[str, str]] = {t: {f.name: str(f.type) for f in fields(k)} for t, k in TABLES.items()}
_ROWS = {**_COLUMNS["rows"], **{name: _COLUMNS["grades"][name] for name in GRADED}}
_WIDTH = len(_COLUMNS["rows"])
Record = tuple[Any, ...]


def plans_beside(path: Path) -> Path:
    """Where the plans of a Parquet export lie: a.parquet -> a.plans.parquet."""
    return path.with_name(f"{path.stem}.plans{path.suffix}")


# ---------------------------------------------------------------- writing


def export_parquet(store: Store, path: Path) -> dict[str, int]:
    """Write FILE.parquet and FILE.plans.parquet, each by replacing it in one move; rows and plans written.

    UserError without pyarrow, where a stored row is damaged, and where the disk refuses.
    """
    if path.suffix != ".parquet":
        raise UserError(f"{path}: a Parquet export is named NAME.parquet")
    with _replacing(path) as rows, _replacing(plans_beside(path)) as plans, store.snapshot():
        return {
            "rows": _write_table(rows, _ROWS, _records(store), _head(store)),
            "plans": _write_table(plans, _COLUMNS["plans"], store.values("plans"), {}),
        }


def export_jsonl(store: Store, path: Path) -> dict[str, int]:
    """Write one JSON Lines file by replacing it in one move; rows and plans written. Errors as `export_parquet`."""
    counts = {"plans": 0, "rows": 0}
    tables: list[tuple[str, Mapping[str, str], Iterable[Record]]] = [
        ("plans", _COLUMNS["plans"], store.values("plans")),
        ("rows", _ROWS, _records(store)),
    ]
    with _replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="\n") as f, store.snapshot():
        f.write(json.dumps({"triaxis": "study", **_head(store)}, ensure_ascii=False) + "\n")
        for table, columns, records in tables:
            bools = [name for name, kind in columns.items() if kind == "bool"]
            for record in records:
                line = {"table": table, **dict(zip(columns, record, strict=True))}
                line |= {name: bool(line[name]) for name in bools}
                f.write(json.dumps(line, ensure_ascii=False) + "\n")
                counts[table] += 1
    return counts


def _head(store: Store) -> dict[str, Any]:
    return {"format": FORMAT, "meta": store.meta()}


def _records(store: Store) -> Iterator[Record]:
    """Every row's values, then its grade's. UserError where grades are of no row."""
    graded = 0
    for row, grade in store.graded():
        graded += grade is not None
        yield (*row, *(grade[1:] if grade else (None,) * len(GRADED)))
    if graded != (held := store.tally("grades").rows):
        raise UserError(f"{store.path}: {held - graded} grades are of no row; run triaxis grade {store.path.parent}")


def _write_table(path: Path, columns: Mapping[str, str], records: Iterator[Record], head: Mapping[str, Any]) -> int:
    arrow, parquet = _pyarrow()
    schema = arrow.schema(
        [(name, arrow.type_for_alias(PARQUET[kind])) for name, kind in columns.items()],
        metadata={"triaxis": json.dumps(head, ensure_ascii=False)} if head else None,
    )
    count = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while part := list(islice(records, GROUP)):
            count += len(part)
            arrays = [_array(arrow, values, f.type) for values, f in zip(zip(*part, strict=True), schema, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema), row_group_size=GROUP)
    return count


def _array(arrow: Any, values: Sequence[Any], kind: Any) -> Any:
    return arrow.array(values, arrow.int64()).cast(kind) if kind == arrow.bool_() else arrow.array(values, kind)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs the package pyarrow: pip install 'triaxis[parquet]', or use --jsonl") from None
    return pyarrow, pyarrow.parquet


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A scratch file that becomes `path` in one move once it is whole, and is gone otherwise."""
    refuse_sealed(path.parent)
    scratch = path.with_name(path.name + ".writing")
    try:
        yield scratch
        scratch.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot write ({e.strerror or e}); free space or choose another place") from None
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


# ---------------------------------------------------------------- reading


def read_head(path: Path) -> dict[str, str]:
    """What a store exported to a file says of itself: its meta values. UserError where the file is no such export."""
    try:
        if path.suffix == ".parquet":
            head = (open_parquet(path).schema_arrow.metadata or {}).get(b"triaxis", b"")
        else:
            head = next(stream_lines(path), b"")
        found = parse_json(head)
        meta = found["meta"]
        if found["format"] != FORMAT or not all(isinstance(v, str) for v in meta.values()):
            raise ValueError(f"format {found['format']!r}")
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: not an export of a study ({e}); make one with triaxis export") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from None
    if meta.get("schema") != SCHEMA:
        raise UserError(f"{path}: exported from store schema {meta.get('schema')}, not {SCHEMA}; export it again")
    return dict(meta)


def read_export(path: Path) -> Iterator[PlanRow | Row | GradeRow]:
    """Everything a file of `export_parquet` or `export_jsonl` holds, plans first. UserError where it is damaged."""
    read: Callable[[Path], Iterator[tuple[str, dict[str, Any]]]] = (
        _parquet_records if path.suffix == ".parquet" else _jsonl_records
    )
    try:
        for table, values in read(path):
            yield from _made(table, values)
    except (ValueError, LookupError, TypeError) as e:
        raise UserError(f"{path}: damaged ({' '.join(str(e).split())[:200]}); export the study again") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e}); export the study again") from None


def import_store(source: Path, folder: Path) -> dict[str, int]:
    """Make folder/rows.sqlite of an export; rows and plans in it. All or nothing.

    UserError where the folder holds a store, the file is damaged, or its rows are not those that were exported.
    """
    meta, target = read_head(source), folder / "rows.sqlite"
    if target.exists():
        raise UserError(f"{folder} holds a study already; choose another --out")
    with lock(folder), TemporaryDirectory(prefix=".importing-", dir=folder) as scratch:
        with Store(Path(scratch) / "rows.sqlite", write=True) as store:
            records = read_export(source)
            while part := list(islice(records, PART)):
                store.append(part)
            for table in TABLES:
                held, found = meta.get(f"tally:{table}"), store.tally(table)
                if held != str(found):
                    raise UserError(
                        f"{source}: its {table} are not those that were exported ({found.rows} here, "
                        f"{str(held).split(' ')[0]} then); export the study again"
                    )
            for key in meta.keys() - {"schema", *(f"tally:{t}" for t in TABLES)}:
                store.set(key, meta[key])
            counts = {"rows": store.tally("rows").rows, "plans": store.tally("plans").rows}
        store.path.rename(target)
    return counts


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for table, file, columns in (("plans", plans_beside(path), _COLUMNS["plans"]), ("rows", path, _ROWS)):
        opened = open_parquet(file)
        if tuple(opened.schema_arrow.names) != tuple(columns):
            raise ValueError(f"{file.name} has other columns")
        yield from ((table, values) for values in parquet_records(opened, file, PART))


def _jsonl_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for at, line in enumerate(stream_lines(path), 1):
        if at == 1:
            continue
        try:
            values = parse_json(line)
            table = values.pop("table")
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise ValueError(f"line {at}: {e}") from None
        if table not in ("plans", "rows") or tuple(values) != tuple(_ROWS if table == "rows" else _COLUMNS["plans"]):
            raise ValueError(f"line {at} has other fields")
        yield table, values


def _made(table: str, values: Mapping[str, Any]) -> Iterator[PlanRow | Row | GradeRow]:
    columns = _ROWS if table == "rows" else _COLUMNS["plans"]
    graded = table == "rows" and values["verdict"] is not None
    for name, kind in columns.items():
        if type(values[name]).__name__ != kind and not (name in GRADED and values[name] is None and not graded):
            raise ValueError(f"{table.removesuffix('s')} {values['id']!r}: {name} is another kind of value")
        if kind == "int" and values[name] is not None and not -1 << 63 <= values[name] < 1 << 63:
            raise ValueError(f"{table.removesuffix('s')} {values['id']!r}: {name} is out of range")
        if kind == "str" and values[name] is not None:
            values[name].encode()  # half of a surrogate pair is no text
    if table == "plans":
        yield PlanRow(**values)
        return
    yield Row(*list(values.values())[:_WIDTH])
    if graded:
        yield GradeRow(values["id"], *(values[name] for name in GRADED))
