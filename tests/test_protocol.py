"""Two protocol cards: what differs, in words."""

from __future__ import annotations

import copy
from typing import Any

from triaxis.store.protocol import differences, first_difference

CARD: dict[str, Any] = {
    "protocol_hash": "a",
    "decode": {"steps": 64, "temperature": 0.0},
    "executor": {"name": "tiny", "fingerprint": "x"},
    "task": {"grader": "numeric-1"},
    "conditions": [{"name": "hint", "role": "brittleness", "scaffold": {"template": "Think.", "placement": "after"}}],
    "n": 100,
}


def changed(**paths: Any) -> dict[str, Any]:
    card = copy.deepcopy(CARD)
    for path, value in paths.items():
        *outer, last = path.split("__")
        at = card
        for key in outer:
            at = at[key]
        at[last] = value
    return card


def test_every_differing_field_is_named_and_the_sample_and_hashes_are_not() -> None:
    other = changed(decode__steps=128, task__grader="numeric-2", protocol_hash="b", executor__fingerprint="y", n=50)
    assert differences(CARD, other) == ["decode.steps (64, 128)", "task.grader (numeric-1, numeric-2)"]
    assert differences(CARD, CARD) == []
    assert differences(CARD, None) == []
    less = changed()
    del less["decode"]["temperature"]
    assert differences(CARD, less) == ["decode.temperature (0.0, not stated)"]


def test_conditions_of_one_name_are_compared_and_others_are_not() -> None:
    other = changed(conditions=[{**CARD["conditions"][0], "scaffold": {"template": "Plan:", "placement": "after"}}])
    assert differences(CARD, other, "hint", "hint") == ["hint scaffold.template (Think., Plan:)"]
    assert differences(CARD, other, "hint", "none") == []
    assert differences(CARD, other) == []
    assert differences(CARD, other, "gone", "gone") == []


def test_the_first_difference_names_its_path() -> None:
    assert first_difference(CARD, changed(decode__steps=12)) == "its decode steps is 64, here 12"
    more = changed(conditions=[*CARD["conditions"], {"name": "none"}])
    assert first_difference(CARD, more) == "its conditions is ['hint'], here ['hint', 'none']"
    assert first_difference(CARD, CARD) == "its protocol differs"
