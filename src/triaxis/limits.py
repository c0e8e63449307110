"""How much of a foreign file is read, and how: sizes, counts and depth in one place, below every reader.

A file from elsewhere may be larger than memory, a few kilobytes that unpack to gigabytes, brackets nested too deep for
any code that walks them, or an alias that stands for a billion others. So every reader of this package takes its bytes
and its JSON, TOML, YAML, gzip and safetensors from here, and none opens them otherwise (tests/test_security.py looks).
Nothing here executes or unpickles anything. Imports nothing of ours but the errors.

What is over a limit raises UserError, one line that names the file, the limit and the next move; what is not of its
format raises ValueError, which the reader turns into its own line; a file that cannot be opened raises OSError.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import tomllib
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from triaxis.errors import UserError

MIB: Final = 1 << 20
# what a file is for -> the most bytes of it that are read, after unpacking. Ample for any honest one
MOST: Final = {
    "settings": 4 * MIB,  # config.json, presets, predictions, registry entries, adapter cards, tables of claims
    "tokenizer": 128 * MIB,  # the largest published ones are about 35 MB
    "index": 64 * MIB,  # model.safetensors.index.json: a line a tensor
    "card": 64 * MIB,  # protocol.json, summary.json
    "trace": 512 * MIB,
    "bank": 512 * MIB,
    "log": 512 * MIB,  # of a training
    "results": 2048 * MIB,  # logs of other harnesses hold every prompt
}
DEPTH: Final = 64  # brackets within brackets, in JSON, TOML and YAML
NODES: Final = 200_000  # of a YAML document
MEMBERS: Final = 100_000  # of an archive
HEADER: Final = 64 * MIB  # of a safetensors file: a hundred bytes a tensor; of a Parquet file: its footer
GROUP: Final = 4096 * MIB  # of a Parquet file: one row group, unpacked


def _over(path: Path | str, what: str) -> UserError:
    return UserError(f"{path}: {what}; it is damaged or was not made for this: get the file again, or make it smaller")


# ---------------------------------------------------------------- bytes


def read_bytes(path: Path, kind: str) -> bytes:
    """The whole file, if it has at most MOST[kind] bytes. Never reads more than that, of a device either.

    UserError where it is larger, OSError where it cannot be read. A path with a NUL byte is no path: also OSError.
    """
    most = MOST[kind]
    try:
        with path.open("rb") as f:
            data = f.read(most + 1)
    except ValueError as e:
        raise OSError(22, f"no file name: {e}") from None
    if len(data) > most:
        raise _over(path, f"larger than the {_size(most)} that are read of such a file ({kind})")
    return data


def read_text(path: Path, kind: str) -> str:
    """As `read_bytes`, as UTF-8 text without a byte order mark. UnicodeDecodeError, a ValueError, for other bytes."""
    return read_bytes(path, kind).decode("utf-8-sig")


def lines(text: str) -> list[str]:
    """The lines of a JSON Lines file: only \\n ends one, because a text inside may hold U+2028."""
    return text.removesuffix("\n").split("\n") if text else []


def gunzip(data: bytes, path: Path | str, kind: str) -> bytes:
    """Unpacked bytes of a gzip file, at most MOST[kind]: unpacking stops there. UserError beyond; OSError, EOFError or
    zlib.error where it is damaged.
    """
    import gzip

    most = MOST[kind]
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as f:
        raw = f.read(most + 1)
    if len(raw) > most:
        raise _over(path, f"unpacks to more than {_size(most)}")
    return raw


def _size(count: int) -> str:
    return f"{count / MIB:,.0f} MiB"


# ---------------------------------------------------------------- formats


def parse_json(data: str | bytes, **hooks: Callable[..., Any]) -> Any:
    """A JSON value of at most DEPTH levels. hooks: parse_constant and the like of json.loads.

    ValueError for what is not JSON, is nested deeper, or holds a number too long to read.
    """
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    try:
        found = json.loads(text, **hooks)  # type: ignore[arg-type]
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None
    if text.count("[") + text.count("{") > DEPTH:
        _walk(found)
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document of at most DEPTH levels. ValueError for anything else."""
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None
    _walk(found)
    return found


def _walk(value: Any) -> None:
    """ValueError where lists and tables stand deeper than DEPTH. Without recursion: it is what is being checked."""
    level: list[Any] = [value]
    for _ in range(DEPTH):
        level = [inner for v in level for inner in _inside(v) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEPTH} levels")


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def parse_yaml(text: str) -> Any:
    """A YAML document whose scalars stay the text they were printed as. ValueError for what is not YAML, for aliases
    (a few of them can stand for a billion values), and beyond NODES values or DEPTH levels. Makes no objects.

    ImportError without PyYAML.
    """
    import yaml

    depth, count = 0, 0
    try:
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            count += 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it holds an alias (*name); write the value out")
            if count > NODES or depth > DEPTH:
                raise ValueError(f"more than {NODES:,} values, or nested deeper than {DEPTH} levels")
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as e:
        raise ValueError(" ".join(str(e).split())) from None
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None


def check_form(value: Any, form: Any, where: str = "it") -> None:
    """ValueError at the first place where parsed JSON is not of a form.

    form: a type (int also counts as float; numbers are finite and within 64 bits), a tuple of alternatives, of which
    None may be one, a list with the form of its entries, or a dict of the forms of its fields, where a name that ends
    in "?" may be missing and "*" is the form of all values.
    """
    if isinstance(form, tuple):
        form = next((f for f in form if _fits(value, f)), form[0])
    if not _fits(value, form):
        raise ValueError(f"{where} is {_kind(value)}")
    elif isinstance(form, list):
        for i, inner in enumerate(value):
            check_form(inner, form[0], f"{where}[{i}]")
    elif isinstance(form, dict):
        for name, inner in form.items():
            key = name.removesuffix("?")
            if name == "*":
                for k, v in value.items():
                    check_form(v, inner, f"{where}.{k}"[:200])
            elif key in value:
                check_form(value[key], inner, f"{where}.{key}")
            elif key == name:
                raise ValueError(f"{where} has no {name}")


def _fits(value: Any, form: Any) -> bool:
    if form is None:
        return value is None
    if isinstance(form, tuple):
        return any(_fits(value, f) for f in form)
    if form is object:
        return True
    kind = type(form) if isinstance(form, list | dict) else form
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):
        return kind in (int, float) and abs(value) < 1 << 63
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", str: "text", type(None): "null"}
    return names.get(type(value), "a number") + " of another kind than is written there"


@contextmanager
def open_safetensors(path: Path, framework: str = "pt") -> Iterator[Any]:
    """`safetensors.safe_open` as torch tensors, or NumPy arrays ("np"), once the header is within HEADER and the file.

    Tensors cannot be larger than the file. OSError where it cannot be read, ValueError where it is damaged, while it is
    opened and while it is read.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
    if length > HEADER:
        raise ValueError(f"a header of {length:,} bytes, of which at most {_size(HEADER)} are read")
    try:
        with safe_open(path, framework) as opened:
            yield opened
    except SafetensorError as e:
        raise ValueError(" ".join(str(e).split())) from None


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`, once its footer is within HEADER and no row group over GROUP bytes.

    OSError where it cannot be read, ValueError where it is no Parquet file, UserError over a limit or without pyarrow.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs the package pyarrow: pip install 'triaxis[parquet]'") from None
    with path.open("rb") as f:
        f.seek(max(0, f.seek(0, io.SEEK_END) - 8))
        length, mark = struct.unpack("<I4s", f.read(8).rjust(8, b"\0"))
    if mark != b"PAR1":
        raise ValueError("no Parquet file")
    if length > HEADER:
        raise _over(path, f"a footer of {length:,} bytes, of which at most {_size(HEADER)} are read")
    try:
        bounded = {"thrift_string_size_limit": HEADER, "thrift_container_size_limit": 10**6}
        names = pyarrow.parquet.ParquetFile(path, **bounded).schema_arrow.names
        opened = pyarrow.parquet.ParquetFile(path, read_dictionary=names, **bounded)  # texts stay as small as they are
        groups = [opened.metadata.row_group(i).total_byte_size for i in range(opened.metadata.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(" ".join(str(e).split())) from None
    if groups and max(groups) > GROUP:
        raise _over(path, f"a row group unpacks to {max(groups):,} bytes, of which {_size(GROUP)} are read")
    return opened


def parquet_records(opened: Any, path: Path, rows: int = 10_000) -> Iterator[dict[str, Any]]:
    """Records of a file of `open_parquet`, `rows` at a time. A text that many rows share is held once.

    A few kilobytes can name one long text a million times: UserError once the texts come to more than a thousand times
    the file, and 256 MiB. ValueError where it is damaged.
    """
    import pyarrow

    most, total = max(256 * MIB, 1000 * path.stat().st_size), 0
    try:
        for batch in opened.iter_batches(batch_size=rows):
            columns = [_column(c) for c in batch.columns]
            total += sum(size for _, size in columns)
            if total > most:
                raise _over(path, f"its texts come to more than {_size(most)}, a thousand times the file")
            for values in zip(*(found for found, _ in columns), strict=True):
                yield dict(zip(batch.schema.names, values, strict=True))
    except pyarrow.ArrowException as e:
        raise ValueError(" ".join(str(e).split())) from None


def _column(column: Any) -> tuple[list[Any], int]:
    """Values of a column, and the bytes that they would take if each had its own."""
    if not hasattr(column, "dictionary"):
        return column.to_pylist(), column.nbytes
    words = column.dictionary.to_pylist()
    lengths = [len(w) if isinstance(w, str | bytes) else 8 for w in words]
    places = column.indices.to_pylist()
    return [None if p is None else words[p] for p in places], sum(lengths[p] for p in places if p is not None)


def stream_lines(path: Path, most: int = 64 * MIB) -> Iterator[bytes]:
    """Lines of a file one at a time, without their \\n, each of at most `most` bytes. UserError over it; OSError."""
    with path.open("rb") as f:
        while line := f.readline(most + 1):
            if len(line) > most:
                raise _over(path, f"a line of more than {_size(most)}")
            yield line.removesuffix(b"\n")


def check_zip(path: Path, kind: str) -> None:
    """UserError where an archive promises to unpack to more than MOST[kind] bytes or 100,000 members. Unpacks nothing.

    ValueError where it is no archive.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [m.file_size for m in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OverflowError, struct.error) as e:
        raise ValueError(f"no whole archive: {e}") from None
    if len(sizes) > MEMBERS or sum(sizes) > MOST[kind]:
        raise _over(path, f"unpacks to {sum(sizes):,} bytes in {len(sizes):,} files, more than are read")


def unpack_error(e: Exception) -> str:
    """What a damaged gzip file says, in words."""
    return str(getattr(e, "strerror", None) or e)


BROKEN: Final = (OSError, EOFError, zlib.error)  # what `gunzip` raises on a damaged file


# ---------------------------------------------------------------- names and patterns


def bounded_pattern(pattern: str) -> str:
    """A regular expression from elsewhere, for module names: ValueError where matching it could take exponential time
    (a repeated group, a back reference) or a high power of the name's length.
    """
    if len(pattern) > 1000 or len(re.findall(r"[*+{]", pattern)) > 6:
        raise ValueError("a pattern with more than 1,000 characters or 6 repetitions")
    if re.search(r"\)[*+{]|\\[1-9]|\(\?P=", pattern):
        raise ValueError("a pattern with a repeated group or a back reference")
    return pattern


def plain_name(name: str) -> bool:
    """Whether a name from elsewhere names a file in a folder and leads nowhere else: no separator, no dots, no NUL."""
    return (
        bool(name)
        and Path(name).name == name
        and name not in (".", "..")
        and "\\" not in name
        and "\x00" not in name
        and len(name.encode("utf-8", "replace")) <= 200
    )


def read_card(path: Path, remedy: str = "give the folder of a finished study") -> dict[str, Any]:
    """A study's summary.json or protocol.json. UserError where it is not one JSON object of finite numbers."""
    try:
        found = parse_json(read_text(path, "card"), parse_constant=_refuse)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; {remedy}") from None
    except OSError as e:
        raise UserError(f"{path}: cannot read ({e.strerror})") from None
    except ValueError as e:
        raise UserError(f"{path}: damaged, not JSON ({e}); {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged, not a JSON object; {remedy}")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
