"""What a page carries besides its text: data as JSON and one script, both safe inside HTML."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

_HTML = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def embedded(value: object) -> str:
    """JSON that ends no element and opens none: for the inside of <script type="application/json">."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_HTML)


def script_hash(script: str) -> str:
    """The SHA-256 by which a content policy lets this script run and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def markup(text: str) -> Any:
    """Text of our own making that the template must not escape."""
    from markupsafe import Markup

    return Markup(text)


def read(name: str) -> str:
    """A file of the templates folder."""
    return (resources.files("triaxis.report") / "templates" / name).read_text(encoding="utf-8")
