"""Numbers and verdicts as words: shares become points, small p become bounds, verdicts become colours.

Knows the Effect of the summary and nothing of HTML or terminals. All text here uses a true minus sign;
`terminal.py` puts it back to a hyphen so that numbers can be copied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["drop", "lift", "same", "open"]
MINUS = "\u2212"
DASH = "\u2013"  # stands for a number that does not exist
LEVEL = "95 %"  # of every interval made by triaxis.estimate
SMALLEST_P = 1e-3  # below it a bound is shown

# C0 and C1 controls but tab and newline, and the marks that change the reading direction of what follows them.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def number(x: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A number with a true minus, zero never signed; a dash where there is none."""
    if x is None:
        return DASH
    text = f"{x:{'+' if sign else ''},.{digits}f}"
    if not any(c in "123456789" for c in text):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def operations(count: int) -> str:
    """Floating-point operations in the unit that leaves one to three digits before the point."""
    units = (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9))
    unit, size = next((u for u in units if count >= u[1]), units[-1])
    return f"{number(count / size)} {unit}"


def points(share: float | None, *, sign: bool = True) -> str:
    """A share in percentage points (0.05 is +5.0)."""
    return number(None if share is None else 100 * share, sign=sign)


def span(low: float | None, high: float | None, *, sign: bool = True) -> str:
    """An interval of shares, in points."""
    if low is None or high is None:
        return DASH
    return f"[{points(low, sign=sign)}, {points(high, sign=sign)}]"


def p_value(p: float | None) -> str:
    """Three decimals, or the bound below them."""
    if p is None:
        return DASH
    return f"< {SMALLEST_P:.3f}" if p < SMALLEST_P else f"{p:.3f}"


def size(parameters: float | None) -> str:
    """A parameter count such as 1.6M."""
    if parameters is None:
        return DASH
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{name}"
    return f"{parameters:g}"


def duration(seconds: float) -> str:
    """Seconds as 2 h 05 min, 3 min 07 s or 41 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def kind(verdict: str) -> Kind:
    """Which of the four things a verdict says."""
    if verdict in ("drop", "lift"):
        return "drop" if verdict == "drop" else "lift"
    return "same" if verdict.startswith("equivalent") else "open"


def stated(effect: Mapping[str, Any]) -> str:
    """'+8.0 points [+2.1, +13.9]', to be broken over lines in its middle only."""
    return f"{unbroken(points(effect['value']) + ' points')} {unbroken(span(effect['low'], effect['high']))}"


def unbroken(text: str) -> str:
    """The text on one line of a page: its spaces do not break."""
    return text.replace(" ", "\u00a0")


_SPAN = re.compile(r"\[[^\s\[\],]+, [^\s\[\],]+\]")


def tight(text: str) -> str:
    """The text with every interval in it on one line; between a value and its interval it may break."""
    return _SPAN.sub(lambda m: unbroken(m[0]), text)


def several(names: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def visible(text: str) -> str:
    """Text whose control, direction-changing and unpaired characters can be seen instead of acting."""
    return _HIDDEN.sub(lambda m: chr(0x2400 + ord(m[0])) if ord(m[0]) < 0x20 else "\ufffd", text)


def clip(text: str, most: int) -> str:
    """At most `most` characters of its beginning and end; what is left out is counted."""
    if len(text) <= most:
        return visible(text)
    head, tail = most * 2 // 3, most - most * 2 // 3
    left_out = f"\n[\u2026 {len(text) - most:,} characters left out here; rows.sqlite holds them all \u2026]\n"
    return visible(text[:head]) + left_out + visible(text[-tail:])
