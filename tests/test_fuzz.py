"""A short run of the fuzzer over every reader: hypothesis draws the changes. The long one is tests/fuzz/run.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from fuzz.mutate import SHAPES, mutate
from fuzz.readers import READERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError

SLOW = (
    "arguments",
    "summary",
    "protocol",
    "tokenizer",
    "compare",
    "preset",
    "store-cells",
    "export-jsonl",
    "export-parquet",
    "rows-inspect",
    "store-report",
)  # tens of milliseconds each
EXAMPLES = 40


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    return tuple(bytes(s) for s in READERS[name].seeds())


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda name: tmp_path_factory.mktemp(name))


def test_the_table_is_sound() -> None:
    assert {r.shape for r in READERS.values()} <= set(SHAPES)
    assert all(r.weight > 0 for r in READERS.values())


READY = [name for name, reader in READERS.items() if reader.ready]


@pytest.mark.slow
@pytest.mark.parametrize("name", READY)
def test_a_real_file_is_read(name: str, scratch: Callable[[str], Path]) -> None:
    read = 0
    for seed in seeds(name):
        try:
            READERS[name].run(seed, scratch(name))
            read += 1
        except UserError:
            continue
    assert read, "every seed is refused: the mutants of it are refused at the door as well"


@pytest.mark.parametrize("name", READY)
def test_a_damaged_or_hostile_file_is_refused_in_one_line(name: str, scratch: Callable[[str], Path]) -> None:
    reader = READERS[name]

    @settings(
        max_examples=EXAMPLES // 5 if name in SLOW else EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32 - 1), st.integers(0, 7))
    def run(dice: int, which: int) -> None:
        rng = random.Random(dice)
        data = mutate(reader.shape, seeds(name)[which % len(seeds(name))], rng)
        try:
            reader.run(data, scratch(name))
        except UserError as e:
            message = str(e)
            assert message.isprintable()
            assert 0 < len(message) <= 1000

    run()
