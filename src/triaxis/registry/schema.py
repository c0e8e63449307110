"""Checks a parsed JSON document against the small part of JSON Schema that paper.schema.json uses.

Knows nothing of papers. In place of the jsonschema package because the registry must import in milliseconds
and answer with one line; a test holds the two to the same verdicts.
"""

from __future__ import annotations

import re
from typing import Any

from triaxis.errors import UserError, suggest

_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "object": ("an object", (dict,)),
    "array": ("a list", (list,)),
    "string": ("text", (str,)),
    "number": ("a number", (int, float)),
    "integer": ("a whole number", (int,)),
    "boolean": ("true or false", (bool,)),
    "null": ("null", (type(None),)),
}
_HANDLED = {
    *("$ref", "type", "enum", "const", "pattern", "minLength", "minimum", "maximum", "items", "minItems"),
    *("uniqueItems", "properties", "required", "additionalProperties"),
    *("description", "title", "$schema", "$defs"),
}


def check(value: object, schema: dict[str, Any], root: dict[str, Any], where: str = "") -> None:
    """Raise UserError '<where>: expected ..., got ...' at the first place where `value` breaks `schema`."""
    if unknown := set(schema) - _HANDLED:
        raise ValueError(f"schema keywords this checker does not know: {sorted(unknown)}")
    if "$ref" in schema:
        target = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        check(value, target, root, where)
    _check_kind(value, schema, where)
    if isinstance(value, str):
        _check_text(value, schema, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(value, schema, where)
    elif isinstance(value, list):
        _check_list(value, schema, root, where)
    elif isinstance(value, dict):
        _check_object(value, schema, root, where)


def fail(where: str, expected: str, value: object) -> UserError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return UserError(f"{where or 'the entry'}: expected {expected}, got {shown}")


def _is(value: object, kind: str) -> bool:
    types = _KINDS[kind][1]
    return isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))


def _check_kind(value: object, schema: dict[str, Any], where: str) -> None:
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, k) for k in kinds):
        raise fail(where, " or ".join(_KINDS[k][0] for k in kinds), value)
    allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if allowed is not None and not any(_same(value, a) for a in allowed):
        raise fail(where, "one of " + ", ".join(_json(a) for a in allowed), value)


def _same(a: object, b: object) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _json(value: object) -> str:
    return "null" if value is None else str(value)


def _check_text(value: str, schema: dict[str, Any], where: str) -> None:
    if len(value) < schema.get("minLength", 0):
        raise fail(where, f"text of at least {schema['minLength']} characters", value)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        raise fail(where, f"text of the form {schema['pattern']}", value)


def _check_number(value: float, schema: dict[str, Any], where: str) -> None:
    if value != value or value in (float("inf"), float("-inf")):
        raise fail(where, "a finite number", value)
    if value < schema.get("minimum", value) or value > schema.get("maximum", value):
        raise fail(where, f"a number from {schema.get('minimum', '-inf')} to {schema.get('maximum', 'inf')}", value)


def _check_list(value: list[object], schema: dict[str, Any], root: dict[str, Any], where: str) -> None:
    if len(value) < schema.get("minItems", 0):
        raise fail(where, f"a list of at least {schema['minItems']}", value)
    if schema.get("uniqueItems") and any(v in value[:i] for i, v in enumerate(value)):
        raise fail(where, "a list without repeats", value)
    if "items" in schema:
        for i, entry in enumerate(value):
            check(entry, schema["items"], root, f"{where}[{i}]")


def _check_object(value: dict[str, object], schema: dict[str, Any], root: dict[str, Any], where: str) -> None:
    fields, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in fields and extra is False:
            raise UserError(f"{where or 'the entry'}: unknown field {name!r}{suggest(name, fields)}")
    for name in schema.get("required", ()):
        if name not in value:
            note = fields[name].get("description") or root["$defs"].get(_name(fields[name]), {}).get("description", "")
            raise UserError(f"{prefix}{name}: missing{f' ({note})' if note else ''}")
    for name, entry in value.items():
        if name in fields:
            check(entry, fields[name], root, f"{prefix}{name}")
        elif isinstance(extra, dict):
            check(entry, extra, root, f"{prefix}{name}")


def _name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).removeprefix("#/$defs/")
