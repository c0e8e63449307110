"""Sizes, counts and depth of foreign files: each limit holds, in one line and without reading further."""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from triaxis import limits
from triaxis.errors import UserError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of file may have 1,000 bytes."""
    monkeypatch.setattr(limits, "MOST", dict.fromkeys(limits.MOST, 1000))


def test_a_file_over_its_size_is_not_read(tmp_path: Path, small: None) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b" " * 1000)
    assert len(limits.read_bytes(path, "settings")) == 1000
    path.write_bytes(b" " * 1001)
    with pytest.raises(
        UserError, match=r"a\.json: larger than .* that are read of such a file \(settings\); .*smaller"
    ):
        limits.read_bytes(path, "settings")


def test_a_device_without_end_is_not_read_to_its_end(small: None) -> None:
    with pytest.raises(UserError, match="larger than"):
        limits.read_bytes(Path("/dev/zero"), "settings")


def test_no_path_is_an_operating_system_error() -> None:
    with pytest.raises(OSError, match="no file name"):
        limits.read_bytes(Path("a\x00b"), "settings")


def test_a_bomb_is_unpacked_to_its_limit_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST", limits.MOST | {"bank": 1 << 20})
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as f:
        for _ in range(200):
            f.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match="unpacks to more than 1 MiB"):
        limits.gunzip(packed.getvalue(), "b.gz", "bank")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert limits.gunzip(gzip.compress(b"ab") + gzip.compress(b"c"), "b.gz", "bank") == b"abc"


def test_a_bank_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triaxis.plans.files import read_bank

    monkeypatch.setattr(limits, "MOST", limits.MOST | {"bank": 1 << 16})
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(UserError, match="unpacks to more than"):
        read_bank(path)


@pytest.mark.parametrize("mark", ["[", '{"a":'])
def test_json_is_as_deep_as_it_may_be_and_no_deeper(mark: str) -> None:
    def nested(levels: int) -> str:
        return mark * (levels - 1) + ("[]" if mark == "[" else "{}") + ("]" if mark == "[" else "}") * (levels - 1)

    limits.parse_json(nested(limits.DEPTH))
    for levels in (limits.DEPTH + 1, 100_000):
        with pytest.raises(ValueError, match="nested deeper than 64"):
            limits.parse_json(nested(levels))


def test_brackets_in_strings_are_not_levels() -> None:
    value = {"a": "[" * 500, "b": '"{\\' * 100}
    assert limits.parse_json(json.dumps(value)) == value
    assert limits.parse_json("\ufeff[1]".encode()) == [1]


def test_numbers_are_as_long_as_python_reads_them() -> None:
    with pytest.raises(ValueError, match="4300"):
        limits.parse_json("9" * 5000)
    assert sys.get_int_max_str_digits() == 4300


@pytest.mark.parametrize("text", ["a = " + "[" * 3000, "a = " + "[" * 100 + "]" * 100, ".".join("a" * 200) + " = 1"])
def test_toml_is_not_deep(text: str) -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        limits.parse_toml(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &x [1, 1]\nb: [*x, *x]", "alias"),
        ("a: " + "[" * 100 + "]" * 100, "nested deeper"),
        ("a: [" + "1," * 2001 + "]", "more than 2,000"),
        ("a: [", "expected"),
    ],
)
def test_yaml_has_limits(text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODES", 2000)
    with pytest.raises(ValueError, match=told):
        limits.parse_yaml(text)


def test_yaml_makes_no_objects() -> None:
    assert limits.parse_yaml("a: !!python/object/apply:os.getcwd []") == {"a": []}


def test_a_header_longer_than_its_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", limits.HEADER + 1) + b"{}")
    with pytest.raises(ValueError, match="a header of 67,108,865 bytes"), limits.open_safetensors(path):
        pass


@pytest.mark.parametrize(
    ("value", "form", "told"),
    [
        ({"a": 1}, {"a": int, "b?": str}, ""),
        ({"a": True}, {"a": int}, "it.a is true or false"),
        ({"a": 1 << 63}, {"a": int}, "it.a is a number of another kind"),
        ({"a": float("inf")}, {"a": float}, "it.a"),
        ({"a": None}, {"a": (float, None)}, ""),
        ({"a": {"k": "x"}}, {"a": ({"*": float}, None)}, r"it.a.k is text"),
        ({}, {"a": int}, "it has no a"),
        ([{"a": 1}, {"a": "1"}], [{"a": int}], r"it\[1\].a is text"),
        ({"a": [10**30]}, {"a": [object]}, ""),
    ],
)
def test_forms(value: object, form: object, told: str) -> None:
    if not told:
        limits.check_form(value, form)
        return
    with pytest.raises(ValueError, match=told):
        limits.check_form(value, form)


@pytest.mark.parametrize("name", ["a", "my-planner", "x.y", "\u65e5\u672c"])
def test_plain_names(name: str) -> None:
    assert limits.plain_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\\b", "a\x00", "x" * 201, "a/"])
def test_names_that_lead_elsewhere(name: str) -> None:
    assert not limits.plain_name(name)


@pytest.mark.parametrize("pattern", [r".*\.layers\.\d+\.(?:.*\.)?(q_proj|k_proj)", "q_proj", "model.layers.[0-9].*"])
def test_patterns_of_adapters(pattern: str) -> None:
    assert limits.bounded_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*)\\1", "a*" * 7, "x" * 1001, "(a){9}"])
def test_patterns_that_never_end(pattern: str) -> None:
    with pytest.raises(ValueError, match="a pattern with"):
        limits.bounded_pattern(pattern)


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, small: None) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b" " * 1000)
    limits.check_zip(path, "results")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.json", b" ")
    with pytest.raises(UserError, match="unpacks to 1,001 bytes in 2 files"):
        limits.check_zip(path, "results")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="no whole archive"):
        limits.check_zip(path, "results")


def test_a_small_parquet_file_does_not_become_a_large_memory(tmp_path: Path) -> None:
    """Ten thousand rows that name one text of a megabyte: 28 kilobytes, ten gigabytes unpacked."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    shared = arrow.DictionaryArray.from_arrays(arrow.array([0] * 10_000, arrow.int32()), arrow.array(["x" * 10**6]))
    table = arrow.table({"id": list(range(10_000)), "text": shared})
    for path, kept in ((tmp_path / "dictionary.parquet", True), (tmp_path / "plain.parquet", False)):
        parquet.write_table(table, path, compression="zstd", store_schema=kept)
        assert path.stat().st_size < 100_000
        with pytest.raises(UserError, match="a thousand times the file"):
            list(limits.parquet_records(limits.open_parquet(path), path))


def test_records_of_a_parquet_file_are_those_written(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"a": ["x", None, "x", "\u2028"] * 50, "b": list(range(200)), "c": [0.5] * 200, "d": [True, False] * 100}
    for kept in (True, False):
        parquet.write_table(arrow.table(columns), tmp_path / "a.parquet", use_dictionary=kept)
        found = list(
            limits.parquet_records(limits.open_parquet(tmp_path / "a.parquet"), tmp_path / "a.parquet", rows=7)
        )
        assert found == [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
