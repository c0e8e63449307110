"""Errors that say what to type."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from triaxis.errors import UndefinedEstimate, UserError, lookup, override, suggest


@dataclass(frozen=True)
class Settings:
    steps: int = 64
    temperature: float = 0.0


def test_suggest_names_the_nearest() -> None:
    assert suggest("gsm8", ["gradeschool", "gsm8k"]) == "; did you mean 'gsm8k'?"
    assert suggest("GSM8K", ["gsm8k"]) == "; did you mean 'gsm8k'?"
    assert suggest("Tiny", ["TINY"]) == "; did you mean 'TINY'?"


def test_suggest_lists_what_is_known_when_nothing_is_near() -> None:
    assert suggest("zzz", ["b", "a"]) == "; known: a, b"
    assert suggest("zzz", [f"name{i:02d}" for i in range(20)]).endswith("name11, ...")
    assert suggest("zzz", []) == ""


def test_lookup() -> None:
    assert lookup("task", {"gsm8k": 1}, "gsm8k") == 1
    with pytest.raises(UserError, match="no task named 'gsm8'; did you mean 'gsm8k'"):
        lookup("task", {"gsm8k": 1}, "gsm8")


def test_override_refuses_unknown_names() -> None:
    assert override(Settings(), {"steps": 3}) == Settings(3)
    assert override(Settings(), {}) == Settings()
    with pytest.raises(UserError, match="unknown setting 'step' of Settings; did you mean 'steps'"):
        override(Settings(), {"step": 3})


def test_an_undefined_estimate_is_for_the_user_and_a_value_error() -> None:
    assert issubclass(UndefinedEstimate, UserError)
    assert issubclass(UndefinedEstimate, ValueError)
    from triaxis.estimate import paired, power

    assert paired.UndefinedEstimate is power.UndefinedEstimate is UndefinedEstimate
