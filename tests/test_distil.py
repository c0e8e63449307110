"""Distillation and its factorial: headroom first, buckets, mixtures, evaluation at equal cost, honest verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triaxis.cli import main
from triaxis.errors import UserError
from triaxis.estimate.paired import Estimate, finish, paired
from triaxis.sampling.schedule import Decode
from triaxis.tasks.gradeschool import gradeschool
from triaxis.train.distil import (
    MIXTURE,
    REGIMES,
    Distil,
    Sorted,
    distil,
    has_headroom,
    headroom,
    mix,
    sort_item,
)
from triaxis.train.plateau import (
    Decided,
    capacity_note,
    decided,
    design,
    diagnose,
    earliest,
    recipe_of,
    verdicts,
)
from triaxis.train.recipes import RECIPES
from triaxis.train.sampled import Bench
from triaxis.train.watch import alarm, entropy, rates, repetition

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor

QUICK = replace(RECIPES["tiny-consensus"], steps=3, batch=4, every=3, warmup=1)
SMALL = Distil(recipe=QUICK, items=16, n=6, k=3, blocks=(2,), label="gold", regime="random-order", temperatures=(0.5,))


@pytest.fixture
def bench(tiny: Executor, tmp_path: Path) -> Bench:
    return Bench(tiny, gradeschool(), tmp_path / "rows")


# ---------------------------------------------------------------- buckets


@given(st.lists(st.sampled_from(["1", "2", "3", ""]), min_size=6, max_size=6), st.sampled_from(["1", "2", "9"]))
def test_buckets_are_what_they_are_called(answers: list[str], gold: str) -> None:
    rows = [(f"text {i}", a, a == gold) for i, a in enumerate(answers)]
    greedy, branches = rows[0], rows[1:]
    counts = {a: sum(b[1] == a for b in branches) for a in answers[1:] if a}
    top = [a for a, n in counts.items() if n == max(counts.values())]
    by_vote, by_gold = (sort_item("i", greedy, branches, label) for label in ("vote", "gold"))
    if len(top) != 1:
        assert by_vote.bucket == "tied"
    elif top[0] == greedy[1]:
        alike = all(b[1] == greedy[1] for b in branches)
        assert by_vote == ("i", "pure" if alike else "preserve", "text 0")
    else:
        first = next(b for b in branches if b[1] == top[0])
        assert by_vote == ("i", "rescue", first[0])
    if greedy[2]:
        assert by_gold.target == "text 0"
        assert by_gold.bucket in ("pure", "preserve")
    elif any(b[2] for b in branches):
        assert by_gold == ("i", "rescue", next(b[0] for b in branches if b[2]))
    else:
        assert by_gold.bucket == "lost"


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_a_mixture_keeps_its_parts(rescue: int, preserve: int, pure: int, seed: int) -> None:
    sizes = {"rescue": rescue, "preserve": preserve, "pure": pure, "tied": 7}
    rows = [Sorted(f"{b}{i}", b, "t") for b, n in sizes.items() for i in range(n)]
    made = mix(rows, seed=seed)
    counts = {b: sum(r.bucket == b for r in made) for b in sizes}
    assert counts["tied"] == 0
    held = {b: p for b, p in MIXTURE.items() if sizes[b]}
    total = min(sizes[b] / p for b, p in held.items())
    for b, p in held.items():
        assert counts[b] <= sizes[b]
        assert abs(counts[b] - p * total) <= 1
    assert len(set(made)) == len(made)
    assert mix(list(reversed(rows)), seed=seed) == made  # the order of the data is not a choice


def test_an_empty_rescue_bucket_is_refused() -> None:
    with pytest.raises(UserError, match="bucket 'rescue' is empty over 3 items"):
        mix([Sorted(str(i), "pure", "t") for i in range(3)])


# ---------------------------------------------------------------- headroom and the whole


@pytest.mark.slow
def test_headroom_is_the_vote_of_stored_branches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    items = gradeschool().items(8)
    h = headroom(bench, items, REGIMES["default"], 3)
    base = bench.executor.default_decode()
    branches = bench.sample(items, replace(base, temperature=0.7), branches=3)
    score = []
    for answers, right in zip(branches.answers, branches.right.tolist(), strict=True):
        counts = {a: answers.count(a) for a in answers if a}
        top = [a for a in counts if counts[a] == max(counts.values())]
        score.append(
            np.mean([any(r for b, r in zip(answers, right, strict=True) if b == a) for a in top]) if top else 0
        )
    assert h.vote == pytest.approx(np.mean(score))
    assert h.oracle == pytest.approx(branches.right.any(1).mean())
    assert h.over_greedy.value == pytest.approx(h.vote - h.greedy)

    def no_sampling(*_: Any, **__: Any) -> None:
        raise AssertionError("sampled twice")

    monkeypatch.setattr(type(bench.executor), "complete", no_sampling)
    assert headroom(bench, items, REGIMES["default"], 3).as_dict() == h.as_dict()


@pytest.mark.slow
def test_without_headroom_nothing_is_trained(bench: Bench, tmp_path: Path) -> None:
    found = distil(bench, replace(SMALL, label="vote", regime="auto", items=6, k=2), tmp_path)
    assert [h["regime"] for h in found["headroom"]] == list(REGIMES)
    assert "not above greedy in any regime tried (default:" in found["refused"]
    assert "--label gold" in found["refused"]
    assert not list(tmp_path.glob("consensus*"))


def test_gold_labels_count_the_oracle() -> None:
    class Known:
        over_greedy = finish([paired([1, 0, 1, 0], [1, 0, 0, 1])])[0]
        oracle_over_greedy = finish([paired([1] * 20, [0] * 20)])[0]

    known: Any = Known()
    assert has_headroom(known, "gold")
    assert not has_headroom(known, "vote")


@pytest.mark.slow
def test_a_distillation_from_one_end_to_the_other(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triaxis.train.distil.has_headroom", lambda h, label: True)  # 16 items resolve nothing
    found = distil(bench, SMALL, tmp_path)
    names = [line["name"] for line in found["lines"]]
    assert names == ["greedy", "vote", "rerank", "best-temperature", "c2c@2", "cmajc@2"]
    cost = {line["name"]: line["forwards"] for line in found["lines"]}
    assert cost["vote"] > 2 * cost["greedy"]
    assert {e["name"] for e in found["effects"]} >= {"c2c@2 minus greedy", "cmajc@2 minus vote"}
    card = json.loads((tmp_path / "consensus-s0" / "card.json").read_text())
    assert (card["kind"], card["label"], card["regime"]) == ("consensus", "gold", "random-order")
    assert card["coverage"]["names"] == ["ff_proj", "up_proj", "ff_out"]
    assert card["coverage"]["layers"] == [2, 3]
    assert distil(bench, SMALL, tmp_path) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"k": 1}, "k=1"), ({"label": "golt"}, "gold"), ({"regime": "x"}, "regime"), ({"blocks": ()}, "blocks")],
)
def test_impossible_distillations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **changes)


def test_the_command_exits_1_where_nothing_is_to_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["distill", "--items", "4", "--k", "2", "--n", "2", "--out", str(tmp_path), "--json"])
    assert stop.value.code == 1
    assert "refused" in json.loads(capsys.readouterr().out)
    assert "**Refused:**" in (tmp_path / "distillation.md").read_text()


# ---------------------------------------------------------------- the plateau doctor


@pytest.mark.slow
def test_what_is_decided_is_measured_by_clamping(bench: Bench) -> None:
    items = gradeschool().items(4)
    decode = Decode(gen_length=48, block_length=16, steps=24, stop="eos_block")
    found = decided(bench, items, decode, draws=2)
    assert [d.block for d in found] == [0, 1, 2]
    assert found[-1].same >= found[0].same
    cold = decided(bench, items, decode, draws=1, heat=0.0)
    assert all(d.same == 1.0 for d in cold)  # greedy after its own beginning is greedy: the clamp is exact
    assert earliest(cold) == 0
    assert earliest([Decided(0, 0.5, 0, 1)]) is None


def effect(value: float, n: int = 400) -> Estimate:
    """A paired estimate of about `value`, with a tenth of the items discordant beside it."""
    plus, minus = round(n * (0.05 + max(value, 0))), round(n * (0.05 + max(-value, 0)))
    a = [1] * plus + [0] * minus + [1] * (n - plus - minus)
    b = [0] * plus + [1] * minus + [1] * (n - plus - minus)
    return finish([paired(a, b)])[0]


def said(effects: dict[str, float], over: float, to: float, gain: float = 0.0, loss: float = 0.0) -> list[str]:
    made = {k: effect(v) for k, v in effects.items()}
    return [v.name for v in verdicts(made, effect(over), effect(to), gain, loss)]


def test_every_verdict_can_be_reached() -> None:
    flat = {"coverage": 0.0, "span": 0.0, "rank": 0.0}
    assert said({**flat, "coverage": 0.1}, 0.1, -0.2) == ["placement-limited"]
    assert said({**flat, "span": 0.1}, 0.1, -0.2) == ["supervision-limited"]
    assert said({**flat, "rank": 0.1}, 0.1, -0.2) == ["capacity-limited"]
    assert said({"data": 0.1, "span": 0.2}, 0.1, -0.2) == ["supervision-limited", "data-limited"]
    assert said(flat, 0.1, 0.1) == ["at target"]
    assert said(flat, 0.0, -0.2, gain=0.05, loss=0.05) == ["masked errors"]
    assert said(flat, 0.0, -0.2) == ["not resolved"]


def test_a_richest_cell_below_greedy_is_said_beside_what_limits_it() -> None:
    assert said({"data": 0.1}, over=-0.1, to=-0.2, gain=0.06, loss=0.11) == ["data-limited", "masked errors"]
    assert said({"data": 0.1}, over=0.0, to=-0.2, gain=0.06, loss=0.11) == ["data-limited"]


def test_a_flat_line_across_capacity_is_not_called_impossible() -> None:
    late = [Decided(0, 0.4, 0, 1), Decided(1, 0.97, 0.9, 1)]
    effects = {"rank": effect(0.0), "coverage": effect(0.1)}
    text = capacity_note(effects, {"poorest": effect(0.0), "richest": effect(0.08)}, late, 2)
    assert "not evidence of impossibility" in text
    assert "coverage move it" in text
    assert "97 % of the answers are decided before the last block begins" in text
    assert "+8.0" in text
    assert "the line is not flat" in capacity_note({"rank": effect(0.1)}, {}, late, 2)


def test_cells_differ_in_what_they_are_called() -> None:
    base = RECIPES["tiny-consensus"]
    made = recipe_of(base, {"rank": "32", "layers": "0.75-1", "span": "answer", "coverage": "all", "data": "1"}, 3)
    assert (made.rank, made.alpha, made.layers, made.span, made.seed) == (32, 64.0, (0.75, 1.0), "answer", 3)
    with pytest.raises(UserError, match="at least 2"):
        design(["span"])
    with pytest.raises(UserError, match="did you mean 'rank'"):
        design(["rankk", "span"])


@pytest.mark.slow
def test_the_factorial_from_one_end_to_the_other(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triaxis.train.distil.has_headroom", lambda h, label: True)
    d = replace(SMALL, seeds=(0, 1), n=4)
    found = diagnose(bench, d, tmp_path, factors=["coverage", "rank"], probes=2)
    assert len(found["cells"]) == 4
    assert [e["factors"] for e in found["effects"]] == [["coverage"], ["rank"], ["coverage", "rank"]]
    assert all(len(v) == 2 for v in found["by_seed"].values())
    assert len(list((tmp_path / "cells").iterdir())) == 4  # coverage is not trained: two ranks by two seeds
    assert found["verdicts"]
    from triaxis.report.distilled import markdown

    assert "### Verdict" in markdown(found)
    assert diagnose(bench, d, tmp_path, factors=["coverage", "rank"], probes=2) == found


# ---------------------------------------------------------------- alarms


def brute_repetition(ids: Sequence[int]) -> float:
    seen, again = set(), 0
    for pair in pairwise(ids):
        again += pair in seen
        seen.add(pair)
    return again / (len(ids) - 1) if len(ids) > 1 else 0.0


@given(st.lists(st.integers(0, 3), max_size=12))
def test_repetition_counts_bigrams_seen_before(ids: list[int]) -> None:
    assert repetition(ids) == pytest.approx(brute_repetition(ids))


def test_a_collapse_sounds_the_alarm() -> None:
    wanted = rates([[1, 2, 3, 4, 5, 6], [4, 3, 2, 1, 7, 8]])
    assert not alarm(wanted, wanted)
    assert alarm(rates([[1, 2] * 6, [1, 2] * 6]), wanted)
    assert alarm(rates([[], []]), wanted)
    assert entropy([[1, 2, 3, 4]]) == pytest.approx(2.0)
