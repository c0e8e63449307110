"""Makes damaged and hostile inputs of real ones: bytes, and the values inside JSON, text and binary headers.

Bytes alone seldom get past a parser; a file that parses and means nonsense does. So half of all changes keep the
format's frame (JSON stays JSON, a length stays the length, a checksum stays right) and spoil what stands in it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import struct
import tomllib
import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]
_HUGE = int("9" * 400)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1e308, -1e308, 5e-324, 0.5, 2**31, 2**63, 2**64, _HUGE, -_HUGE, float("nan"),
    float("inf"), "", " ", "0", "-1", "1e999", "nan", "\u00b2", "\u0663", "\ud800", "\u202e", "\x00", "\x1b[31m", "\n",
    "a" * 300, "9" * 5000, "../../etc/passwd", "/dev/zero", "<script>alert(1)</script>", "{plan}", "{question}", "{",
    "37/50", "74.0%/50", "1/0", "right", [], {}, [[]], [{}], {"": {}}, [None], [0], ["x"], {"x": None}, {"A": [1]},
)  # fmt: skip
TOKENS: tuple[str, ...] = (
    "", "0", "-1", "1", "1e999", "nan", "inf", "\u00b2", "\u0663", "\u00bd", "9" * 5000, "1/0", "0/0", "50/37", "37/50",
    "100.1%", "-0.0", "true", "null", "[]", "{}", "[[", "]]", '"', "'", "'''", "\\", "\x00", "\ufeff", "\u2028",
    "\u202e", "\x1b[2J", "../..", "/dev/zero", "a" * 300, "{plan}", "{planner}", "{question.__class__}", "{0}", "%s",
    "*", "&a", "*a",
    "!!python/object/apply:os.system [x]", "<<: *a", ",", "\t", ";", "=", ":", "@", "+", "-", "--", "--json", "#",
    "1" * 30, "[" * 200, "(" * 50, "1979-05-27", "0x7f", "1_000", "|", ">", "?", "^", "9**9**9", "\\boxed{", "####",
)  # fmt: skip


def _spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every node below the root."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, ...]] = []
    for key, inner in pairs:
        found += [(*path, key), *_spots(inner, (*path, key))]
    return found


def spoil(value: Any, rng: random.Random) -> Any:
    """A JSON value with one node replaced, dropped, doubled, renamed, or taken from another place."""
    spots = _spots(value)
    if not spots or rng.random() < 0.02:
        return deepcopy(rng.choice(VALUES))
    path = rng.choice(spots)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    last = path[-1]
    what = rng.random()
    if what < 0.55:
        holder[last] = deepcopy(rng.choice(VALUES))
    elif what < 0.7:
        del holder[last]
    elif what < 0.8:
        other = value
        for key in rng.choice(spots):
            other = other[key]
        holder[last] = deepcopy(other)
    elif isinstance(holder, dict):
        holder[rng.choice(["", "x", "schema", "name", "0", str(last) + "s", "\ud800"])] = holder.pop(last)
    else:
        holder.insert(last, deepcopy(holder[last]))
    return value


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


def raw(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(5)
        if what == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif what == 1:
            out[at:at] = bytes(rng.choices((0, 1, 34, 44, 91, 123, 127, 128, 192, 255), k=rng.randint(1, 8)))
        elif what == 2:
            del out[at : at + rng.randint(1, 1 + len(out) // 4)]
        elif what == 3:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        elif at + 8 <= len(out):
            out[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1, len(out))))
    return bytes(out)


def as_json(data: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = spoil(value, rng)
    return dumps(value).encode()


def as_lines(data: bytes, rng: random.Random) -> bytes:
    """JSON Lines: one line spoiled, dropped, doubled or moved."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    what = rng.random()
    if what < 0.7:
        lines[at] = as_json(lines[at], rng)
    elif what < 0.8:
        del lines[at]
    else:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    return b"\n".join(lines)


_TOKEN = re.compile(r"[\w.]+|[^\w\s]|\n")


def as_text(data: bytes, rng: random.Random) -> bytes:
    """Words and marks exchanged, lines dropped, doubled and moved: TOML, CSV, YAML, arguments."""
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = list(_TOKEN.finditer(text))
        if not found:
            return rng.choice(TOKENS).encode("utf-8", "replace")
        spot, what = rng.choice(found), rng.random()
        if what < 0.6:
            new = rng.choice(TOKENS)
        elif what < 0.75:
            new = rng.choice(found)[0]
        elif what < 0.85:
            new = spot[0] * 2
        else:
            lines = text.split("\n")
            line = lines.pop(rng.randrange(len(lines)))
            if what < 0.95:
                lines[(at := rng.randrange(len(lines) + 1)) : at] = [line, line][: rng.randint(1, 2)]
            text = "\n".join(lines)
            continue
        text = text[: spot.start()] + new + text[spot.end() :]
    return text.encode("utf-8", "replace")


def as_toml(data: bytes, rng: random.Random) -> bytes:
    """Half the time the document's values spoiled and written as inline tables, else its words."""
    try:
        value = json.loads(json.dumps(tomllib.loads(data.decode()), default=str))
    except (ValueError, RecursionError):
        return as_text(data, rng)
    if rng.random() < 0.5:
        return as_text(data, rng)
    for _ in range(rng.choice((1, 1, 2))):
        value = spoil(value, rng)
    if not isinstance(value, dict):
        return b"x = " + _inline(value).encode()
    return "".join(f"{dumps(k)} = {_inline(v)}\n" for k, v in value.items()).encode()


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return "''" if value is None else dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def as_yaml(data: bytes, rng: random.Random) -> bytes:
    """JSON is YAML: the values spoiled and written so, half the time; else its words."""
    import yaml

    try:
        value = yaml.load(data.decode(), Loader=yaml.BaseLoader)
        return as_json(json.dumps(value).encode(), rng) if rng.random() < 0.5 else as_text(data, rng)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return as_text(data, rng)


def as_bank(data: bytes, rng: random.Random) -> bytes:
    """A plan bank whose count and checksum are made right again, so that its rows are read."""
    head, _, body = as_lines(data, rng).partition(b"\n")
    try:
        told = json.loads(head)
        told |= {"items": body.count(b"\n"), "sha256": hashlib.sha256(body).hexdigest()}
    except (ValueError, TypeError, RecursionError):
        return head + b"\n" + body
    return dumps(told).encode() + b"\n" + body


def as_packed_bank(data: bytes, rng: random.Random) -> bytes:
    try:
        plain = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return raw(data, rng)
    return gzip.compress(as_bank(plain, rng), 1, mtime=0)


def as_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The JSON header spoiled, its length right again."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= len(data) - 8:
        return raw(data, rng)
    header = as_json(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


SHAPES: Mapping[str, Mutator] = {
    "bytes": raw,
    "json": as_json,
    "lines": as_lines,
    "text": as_text,
    "toml": as_toml,
    "yaml": as_yaml,
    "bank": as_bank,
    "packed": as_packed_bank,
    "safetensors": as_safetensors,
}


def mutate(shape: str, data: bytes, rng: random.Random) -> bytes:
    """One changed input. A quarter of the changes are plain bytes, whatever the shape."""
    return raw(data, rng) if rng.random() < 0.25 else SHAPES[shape](data, rng)
