"""Protocol cards checked and compared: pure functions of plain data, below everything that writes or reads a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from triaxis.errors import UserError
from triaxis.limits import check_form, parse_json
from triaxis.store import identity

_STUDY = ("n", "seeds", "task", "executor", "decode", "planners", "conditions", "adapters", "engine", "items_hash")
_SAMPLE = (
    "conditions",
    "planners",
    "seeds",
    "n",
    "spec",
    "left_out",
)  # names the arms and the sample rather than the protocol
_ARM = ("scaffold", "plan", "branches", "decode", "writer", "variants", "adapter")  # what makes a condition's rows
_ABSENT = object()


# what code that goes on with a study, or sums it up, takes from its protocol card
_CHANGES = {"temperature?": float, "remasking?": str}
_CARD = {
    "name": str, "completions": int, "branches": int, "decode": _CHANGES, "variants": [{"decode": _CHANGES}],
    "writer": str, "adapter": str, "watch": bool, "plan": str, "role": str,
}  # fmt: skip
PLANS = {
    "seeds": [int], "task": {"name": str, "revision": str},
    "planners": [{"name": str, "identity": str, "parameters": (int, None)}],
}  # fmt: skip
STUDY = {
    **PLANS, "spec": {"task": str, "n": int, "seeds": [int]}, "study_hash": str, "protocol_hash": str, "n": int,
    "conditions": [_CARD], "decode": {"temperature": float, "remasking": str}, "executor": {"name": str},
    "left_out?": {"*": str},
}  # fmt: skip


def hashes(card: Mapping[str, Any]) -> dict[str, str]:
    """The two hashes of a protocol card, from its other fields. `protocol_hash` covers how text becomes a row,
    `study_hash` also which rows a study has. KeyError where a field is missing.
    """
    how = {key: card[key] for key in ("executor", "decode", "task", "engine")}
    rows = {key: card[key] for key in ("planners", "conditions", "seeds", "n", "items_hash")}
    adapters = {"adapters": card["adapters"]} if "adapters" in card else {}
    return {"protocol_hash": identity(how), "study_hash": identity({**how, **rows, **adapters})}


def read_protocol(held: str, folder: Path, form: Mapping[str, Any] = STUDY) -> dict[str, Any]:
    """The protocol card that a store holds as JSON. UserError where it lacks what is needed of it, or is damaged."""
    try:
        card = parse_json(held)
        check_form(card, form, "it")
    except ValueError as e:
        raise UserError(f"{folder}: its protocol card is damaged ({e}); restore the store from a copy") from None
    return dict(card)


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two studies' cards differ, in words: "its decode steps is 24, here 12"."""
    for key in _STUDY:
        was, here, what = before.get(key), now.get(key), key
        while was != here:
            if isinstance(was, list) and isinstance(here, list) and all(isinstance(x, dict) for x in was + here):
                was, here = {x["name"]: x for x in was}, {x["name"]: x for x in here}
                if list(was) != list(here):
                    was, here = list(was), list(here)
            if not (isinstance(was, dict) and isinstance(here, dict)):
                return f"its {what} is {was!r}, here {here!r}"
            part = next(k for k in {**was, **here} if was.get(k) != here.get(k))
            was, here, what = was.get(part), here.get(part), f"{what} {part}"
    return "its protocol differs"


def differences(
    a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, condition_a: str = "", condition_b: str = ""
) -> list[str]:
    """'decode.steps (64, 128)' for every field on which two protocol cards differ; [] where one has no card.

    Left out: hashes, and what names the arms and the sample (conditions, planners, seeds, n). Where both sides are
    conditions of one name, what differs between their cards (scaffold text, plan, decoding) is named too.
    """
    if a is None or b is None:
        return []
    found = list(_fields(*({k: v for k, v in card.items() if k not in _SAMPLE} for card in (a, b))))
    if condition_a == condition_b:
        cards = [_card(p, condition_a) for p in (a, b)]
        if all(cards):
            found += [f"{condition_a} {text}" for text in _fields(*cards)]
    return found


def _card(protocol: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    listed = protocol.get("conditions")
    cards = listed if isinstance(listed, list) else []
    found = next((c for c in cards if isinstance(c, dict) and c.get("name") == name), {})
    return {k: found[k] for k in _ARM if k in found}


def _fields(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    left, right = dict(_flat(a)), dict(_flat(b))
    for key in dict.fromkeys([*left, *right]):
        if key.endswith(("hash", "digest", "fingerprint", "_at")):
            continue
        if left.get(key, _ABSENT) != right.get(key, _ABSENT):
            yield f"{key} ({_brief(left.get(key, 'not stated'))}, {_brief(right.get(key, 'not stated'))})"


def _brief(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def _flat(card: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in card.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
