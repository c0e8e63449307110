"""Settings of a decoding: how many tokens a step commits, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triaxis.errors import UserError, override
from triaxis.sampling.schedule import Decode


def test_a_schedule_with_a_remainder() -> None:
    assert Decode(gen_length=32, block_length=32, steps=5).commits(32) == [7, 7, 6, 6, 6]
    assert Decode(gen_length=32, block_length=16, steps=20).commits(16) == [2] * 6 + [1] * 4


@given(st.data())
def test_commits_sum_to_the_masks_and_never_increase(data: st.DataObject) -> None:
    block = data.draw(st.integers(1, 128))
    blocks = data.draw(st.integers(1, 8))
    steps = data.draw(st.integers(1, block))
    commits = Decode(gen_length=block * blocks, block_length=block, steps=steps * blocks).commits(block)
    assert len(commits) == steps
    assert sum(commits) == block
    assert commits == sorted(commits, reverse=True)
    assert commits[-1] > 0
    assert commits[0] - commits[-1] <= 1


BAD_DECODE: list[tuple[dict[str, Any], str, str]] = [
    ({"gen_length": 0}, "gen_length=0", "at least 1"),
    ({"gen_length": -32}, "gen_length=-32", "at least 1"),
    ({"gen_length": 32.0}, "gen_length=32.0", "whole number"),
    ({"gen_length": "32"}, "gen_length='32'", "whole number"),
    ({"gen_length": True, "block_length": 1, "steps": 1}, "gen_length=True", "whole number"),
    ({"block_length": 0}, "block_length=0", "at least 1"),
    ({"gen_length": 100, "block_length": 32}, "gen_length=100", "try 96"),
    ({"gen_length": 16, "block_length": 32}, "gen_length=16", "try 32"),
    ({"steps": None}, "steps=None", "whole number"),
    ({"steps": 63}, "steps=63", "try 60"),
    ({"steps": 2}, "steps=2", "try 4"),
    ({"steps": 256}, "steps=256", "try 128"),
    ({"temperature": -0.1}, "temperature=-0.1", "from 0 to"),
    ({"temperature": float("nan")}, "temperature=nan", "number"),
    ({"temperature": float("inf")}, "temperature=inf", "from 0 to"),
    ({"temperature": 10**400}, "temperature=1000", "from 0 to"),
    ({"temperature": "0.7"}, "temperature='0.7'", "number"),
    ({"temperature": True}, "temperature=True", "number"),
    ({"cfg_scale": -1}, "cfg_scale=-1", "from 0 to"),
    ({"cfg_scale": None}, "cfg_scale=None", "number"),
    ({"remasking": "low_confidance"}, "remasking='low_confidance'", "did you mean 'low_confidence'"),
    ({"remasking": None}, "remasking=None", "known: low_confidence, random"),
    ({"stop": "eos-block"}, "stop='eos-block'", "did you mean 'eos_block'"),
    ({"cache": "Prefix"}, "cache='Prefix'", "did you mean 'prefix'"),
    ({"threshold": 0.0}, "threshold=0.0", "above 0 and at most 1"),
    ({"threshold": 1.5}, "threshold=1.5", "above 0 and at most 1"),
    ({"threshold": "0.9"}, "threshold='0.9'", "None or a number"),
    ({"threshold": True}, "threshold=True", "None or a number"),
    ({"factor": float("nan")}, "factor=nan", "None or a number"),
    ({"factor": -1}, "factor=-1", "None or a number"),
    ({"factor": 1.0, "threshold": 0.9}, "threshold=0.9 and factor=1.0", "exclude"),
    ({"threshold": 0.9, "remasking": "random"}, "threshold", "use remasking='low_confidence'"),
    ({"refresh": -1, "cache": "dual"}, "refresh=-1", "whole number"),
    ({"refresh": 2.0, "cache": "dual"}, "refresh=2.0", "whole number"),
    ({"refresh": 2}, "refresh=2", "use cache='prefix' or 'dual'"),
]


@pytest.mark.parametrize(("changes", "value", "move"), BAD_DECODE, ids=[str(c)[:40] for c, *_ in BAD_DECODE])
def test_a_bad_setting_is_refused_with_its_value_and_the_next_move(
    changes: dict[str, Any], value: str, move: str
) -> None:
    for make in (lambda: Decode(**changes), lambda: override(Decode(), changes)):
        with pytest.raises(UserError) as refused:
            make()
        message = str(refused.value)
        assert value in message
        assert move in message
        assert "\n" not in message


@pytest.mark.parametrize("changes", [c for c, _, move in BAD_DECODE if "try" in move], ids=str)
def test_the_value_a_message_proposes_is_accepted(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refused:
        Decode(**changes)
    message = str(refused.value)
    name, proposed = message.split("=")[0], int(message.rsplit("try ", 1)[1])
    steps = {} if name == "steps" else {"steps": proposed // changes["block_length"]}
    Decode(**{**changes, name: proposed, **steps})


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="unknown setting 'step' of Decode; did you mean 'steps'"):
        override(Decode(), {"step": 3})


def test_decode_is_frozen_and_hashable_and_prints_all_its_fields() -> None:
    d = Decode()
    with pytest.raises(AttributeError):
        d.steps = 3  # type: ignore[misc]
    assert d in {Decode(): 1}
    assert list(d.card()) == ["gen_length", "block_length", "steps", "temperature", "remasking", "cfg_scale",
                              "threshold", "cache", "stop", "factor", "refresh"]  # fmt: skip
