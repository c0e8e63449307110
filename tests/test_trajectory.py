"""Text distances and decoding orders against brute force, scipy, and by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate import trajectory as tr
from triaxis.estimate import votes
from triaxis.tasks import load_task

words = st.text(alphabet="abc ", max_size=12)
texts_of = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.lists(words, min_size=k, max_size=k), min_size=1, max_size=3)
)


def slow_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


@given(st.text(alphabet="abc", max_size=80), st.text(alphabet="abc", max_size=80))
@settings(max_examples=200, deadline=None)
def test_levenshtein_is_the_textbook_one(a, b):
    assert tr.levenshtein(a, b) == slow_distance(a, b)
    assert tr.levenshtein(list(a), list(b)) == tr.levenshtein(b, a)


def test_levenshtein_by_hand():
    assert tr.levenshtein("kitten", "sitting") == 3
    assert tr.levenshtein("", "abc") == 3
    assert tr.levenshtein([1, 2, 3], [2, 3, 4]) == 2


@given(texts_of, st.sampled_from(["token", "character"]))
@settings(max_examples=100, deadline=None)
def test_edit_distance_is_the_mean_over_pairs(texts, unit):
    split = str.split if unit == "token" else list
    for got, row in zip(tr.edit_distance(texts, unit=unit), texts, strict=True):
        pairs = [(split(a), split(b)) for a, b in combinations(row, 2)]
        far = [slow_distance(a, b) / max(len(a), len(b), 1) for a, b in pairs]
        assert got == pytest.approx(np.mean(far))
        assert 0 <= got <= 1


def test_edit_distance_of_a_thousand_items_is_quick():
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghij 0123456789"))
    texts = [["".join(rng.choice(letters, 240)) for _ in range(5)] for _ in range(100)]
    start = time.process_time()
    tr.edit_distance(texts, unit="character")
    assert (time.process_time() - start) * 10 < 10  # unrelated texts, the worst case


@given(texts_of, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_distinct_n_counts_grams(texts, n):
    for got, row in zip(tr.distinct_n(texts, n), texts, strict=True):
        grams = []
        for t in map(str.split, row):
            grams += [" ".join(t[i : i + n]) for i in range(len(t) - n + 1)] or [" ".join(t)]
        assert got == pytest.approx(len(set(grams)) / len(grams))


def test_embedding_distance_takes_any_encoder_and_refuses_nothing_vectors():
    asked = []

    def embed(texts):
        asked.append(texts)
        return [[t.count("a"), t.count("b")] for t in texts]

    far = tr.embedding_distance([["a", "b", "a"], ["ab", "ab", "ab"]], embed)
    assert far.tolist() == pytest.approx([2 / 3, 0.0])
    assert asked == [["a", "b", "ab"]]
    with pytest.raises(UndefinedEstimate, match="no direction to 'c'"):
        tr.embedding_distance([["a", "c"]], embed)
    with pytest.raises(UndefinedEstimate, match="expected"):
        tr.embedding_distance([["a", "b"]], lambda texts: [1.0])


def test_one_branch_ragged_items_and_unknown_units_are_refused():
    for call in (tr.edit_distance, lambda t: tr.embedding_distance(t, lambda x: x)):
        with pytest.raises(UndefinedEstimate, match="2 branches"):
            call([["a"]])
        with pytest.raises(UndefinedEstimate):
            call([])
    with pytest.raises(ValueError, match="item 1 has 1 branches"):
        tr.edit_distance([["a", "b"], ["a"]])
    with pytest.raises(UserError, match="did you mean 'token'"):
        tr.edit_distance([["a", "b"]], unit="tokens")
    with pytest.raises(UndefinedEstimate, match="distinct-0"):
        tr.distinct_n([["a", "b"]], 0)


# ---------------------------------------------------------------- decoding order

steps_of = st.integers(2, 3).flatmap(
    lambda k: st.integers(2, 9).flatmap(
        lambda n: st.lists(
            st.lists(st.lists(st.integers(-1, 3), min_size=n, max_size=n), min_size=k, max_size=k),
            min_size=1, max_size=2,
        )
    )
)  # fmt: skip


def slow_tau(x, y, block=None):
    """Over the pairs of places that both committed, in one block; None where undefined."""
    together = untied_x = untied_y = 0
    for i, j in combinations(range(len(x)), 2):
        if min(x[i], x[j], y[i], y[j]) < 0 or (block and i // block != j // block):
            continue
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        together, untied_x, untied_y = together + a * b, untied_x + abs(a), untied_y + abs(b)
    return together / np.sqrt(untied_x * untied_y) if untied_x and untied_y else None


@given(steps_of, st.sampled_from([None, 2, 3]))
@settings(max_examples=120, deadline=None)
def test_orders_against_brute_force(commits, block):
    places = list(range(len(commits[0][0])))
    among = [[slow_tau(a, b, block) for a, b in combinations(item, 2)] for item in commits]
    along = [[slow_tau(a, places, block) for a in item] for item in commits]
    for measure, expected in ((tr.order_agreement, among), (tr.autoregressiveness, along)):
        known = [[t for t in item if t is not None] for item in expected]
        if all(known):
            got = measure(np.array(commits), block_length=block)
            assert got.tolist() == pytest.approx([np.mean(item) for item in known])
        else:
            item = next(i for i, taus in enumerate(known) if not taus)
            with pytest.raises(UndefinedEstimate, match=f"item {item}: no decoding order"):
                measure(np.array(commits), block_length=block)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_tau_b_is_scipys(pairs):
    x, y = zip(*pairs, strict=True)
    reference = kendalltau(x, y).statistic
    if np.isnan(reference):
        with pytest.raises(UndefinedEstimate):
            tr.kendall_tau(x, y)
    else:
        assert tr.kendall_tau(x, y) == pytest.approx(reference, abs=1e-12)


def test_blocks_alone_make_an_order_look_left_to_right():
    backwards = np.array([[[3, 2, 1, 0, 7, 6, 5, 4]] * 2])  # right to left inside blocks of 4
    assert tr.autoregressiveness(backwards)[0] > 0
    assert tr.autoregressiveness(backwards, block_length=4) == [-1]
    assert tr.order_agreement(backwards) == [1]
    assert tr.order_diversity(np.array([[[0, 1, 2], [2, 1, 0]]])) == [1]


def test_order_refusals():
    with pytest.raises(UndefinedEstimate, match="one branch"):
        tr.order_agreement(np.zeros((1, 1, 4), int))
    with pytest.raises(UndefinedEstimate, match="whole numbers"):
        tr.autoregressiveness(np.zeros((1, 2, 4)))
    with pytest.raises(UndefinedEstimate, match="block_length=0"):
        tr.autoregressiveness(np.zeros((1, 2, 4), int), block_length=0)


def test_orders_of_many_items_are_quick():
    commits = np.random.default_rng(0).integers(0, 64, (100, 5, 128))
    start = time.process_time()
    tr.order_agreement(commits)
    assert (time.process_time() - start) * 10 < 20


# ---------------------------------------------------------------- with intervals, and on the shipped executor


def test_metrics_leave_out_items_without_an_order_and_say_so():
    texts = [["a b c", "a c b"], ["a", "a"], ["a b", "b a"]]
    orders = [[[0, 1, 2], [2, 1, 0]], [[0], [0]], [[0, 1], [0, 1]]]
    found = tr.metrics(texts, orders)
    assert (found["order agreement"].value, found["order agreement"].n) == (0.0, 2)
    assert (found["autoregressiveness"].value, found["autoregressiveness"].n) == (0.5, 2)
    assert found["edit distance, tokens"].n == 3
    assert found["edit distance, tokens"].value == pytest.approx(tr.edit_distance(texts).mean())
    assert found["distinct-1"].name == "distinct-1"
    assert "order agreement" not in tr.metrics(texts, [[[0], [0]]] * 3)
    assert "embedding distance" in tr.metrics(texts, embed=lambda ts: [[len(t), 1.0] for t in ts])
    with pytest.raises(UndefinedEstimate, match="item 1: no decoding order"):
        tr.order_agreement(tr.padded(orders))
    assert tr.padded([[[5, 4], []]]).tolist() == [[[5, 4], [-1, -1]]]


def test_the_trajectories_of_tiny_can_be_measured_and_voted_on(tiny):
    task = load_task("gradeschool")
    items = task.items(3, seed=0)
    prompts = [tiny.prompt_ids(i.question) for i in items for _ in range(2)]
    found = {}

    def done(places, completions):
        found.update(zip(places, completions, strict=True))

    tiny.complete(prompts, range(6), replace(tiny.default_decode(), steps=12, temperature=1.2), done, watch=True)
    by_item = [[found[2 * i + b] for b in range(2)] for i in range(3)]
    texts = [[c.text for c in row] for row in by_item]
    m = tr.metrics(texts, [[c.order for c in row] for row in by_item])
    assert m["edit distance, tokens"].n == 3
    assert 0 < m["edit distance, tokens"].value < 1
    assert m["autoregressiveness"].value > 0  # blocks alone see to that
    grades = [[task.grade(t, item) for t in row[0].path] for row, item in zip(by_item, items, strict=True)]
    answers = votes.even_steps([[g.answer for g in row] for row in grades])
    right = votes.even_steps([[g.verdict == "right" for g in row] for row in grades])
    v = votes.elect(votes.Ballots(answers, right), "temporal")
    assert [w in {a for a in row if a} | {""} for w, row in zip(v.winner, answers, strict=True)] == [True] * 3
    assert [row[-1] for row in answers] == [
        task.grade(r[0].text, i).answer for r, i in zip(by_item, items, strict=True)
    ]
    with pytest.raises(UndefinedEstimate, match="trajectory 1 has no step"):
        votes.even_steps([["a"], []])
