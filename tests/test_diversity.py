"""Votes, pass@k, maj@k and spread against literal brute force over subsets, and the corners named in the docs."""

from __future__ import annotations

import time
from collections import Counter
from itertools import combinations
from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.estimate import diversity as dv
from triaxis.estimate.paired import UndefinedEstimate

SYMBOLS = ["", "a", "b", "c", "d", "e"]
GOOD = {"a", "b"}  # two right strings: a grader may accept forms that were not merged


def grade(rows):
    return np.array([[a in GOOD for a in row] for row in rows])


def brute_vote(row):
    """(uniform, worst, best) by the words of the docstring."""
    votes = Counter(a for a in row if a)
    if not votes:
        return 0.0, 0.0, 0.0
    tied = [a for a, v in votes.items() if v == max(votes.values())]
    ok = [a in GOOD for a in tied]
    return sum(ok) / len(ok), float(all(ok)), float(any(ok))


rows_of = st.integers(1, 7).flatmap(
    lambda k: st.lists(st.lists(st.sampled_from(SYMBOLS), min_size=k, max_size=k), min_size=1, max_size=3)
)


# ---------------------------------------------------------------- vote


@given(rows_of)
@settings(max_examples=150, deadline=None)
def test_vote_is_the_plurality_with_its_tie_bounds(rows):
    v = dv.vote(rows, grade(rows))
    for i, row in enumerate(rows):
        assert (v.score[i], v.low_tie[i], v.high_tie[i]) == pytest.approx(brute_vote(row))
        ranked = [*sorted(Counter(a for a in row if a).values(), reverse=True), 0, 0]
        assert v.margin[i] == ranked[0] - ranked[1]
        assert v.tie[i] == (ranked[0] > 0 and ranked[0] == ranked[1])


@given(rows_of, st.sampled_from(["first", "shortest", "confidence"]), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_rule_lies_between_the_tie_bounds(rows, rule, seed):
    key = None if rule == "first" else np.random.default_rng(seed).integers(1, 4, (len(rows), len(rows[0])))
    v = dv.vote(rows, grade(rows), rule=rule, key=key)
    assert set(v.score) <= {0.0, 1.0}
    assert (v.low_tie <= v.score).all()
    assert (v.score <= v.high_tie).all()
    assert list(v.score) == [float(w in GOOD) for w in v.winner]


def test_tie_rules_by_hand():
    rows = [["x", "a", "", "a", "x"]]
    right = grade(rows)
    assert dv.vote(rows, right).score == [0.5]
    assert dv.vote(rows, right, rule="first").winner == ("x",)
    assert dv.vote(rows, right, rule="shortest", key=[[9, 5, 1, 9, 9]]).winner == ("a",)
    assert dv.vote(rows, right, rule="shortest", key=[[5, 5, 1, 9, 9]]).winner == ("x",)  # equal: the first
    assert dv.vote(rows, right, rule="confidence", key=[[0.2, 0.1, 0.9, 0.1, 0.7]]).winner == ("x",)


def test_an_unreadable_plurality_does_not_win():
    rows = [["", "", "", "a"], ["", "", "", ""]]
    v = dv.vote(rows, grade(rows))
    assert v.winner == ("a", "")
    assert list(v.score) == list(v.low_tie) == list(v.high_tie) == [1.0, 0.0]
    assert list(v.margin) == [1.0, 0.0]
    assert not v.tie.any()


def test_weighted_vote_ties_up_to_rounding():
    rows = [["a", "a", "a", "x"]]
    v = dv.vote(rows, grade(rows), weights=[[0.1, 0.1, 0.1, 0.3]])  # 0.1 + 0.1 + 0.1 != 0.3 in floats
    assert v.tie[0]
    assert v.score[0] == 0.5
    assert dv.vote(rows, grade(rows), weights=[[0.1, 0.1, 0.1, 0.4]]).winner == ("x",)


def test_contradictory_input_is_refused_with_the_item():
    with pytest.raises(ValueError, match="item 1 has 1 branches, item 0 has 2"):
        dv.vote([["a", "b"], ["a"]], [[True, True], [True, True]])
    with pytest.raises(ValueError, match="item 0: an unreadable branch is marked right"):
        dv.vote([["", "a"]], [[True, True]])
    with pytest.raises(ValueError, match="item 0: answer 'a' is marked both right and wrong"):
        dv.vote([["a", "a"]], [[True, False]])
    with pytest.raises(ValueError, match="right is"):
        dv.vote([["a", "a"]], [[True]])
    with pytest.raises(ValueError, match="true and false"):
        dv.oracle([[0.5, float("nan")]])
    with pytest.raises(UserError, match="did you mean 'shortest'"):
        dv.vote([["a"]], [[True]], rule="shorter")
    with pytest.raises(ValueError, match="needs key"):
        dv.vote([["a"]], [[True]], rule="shortest")
    with pytest.raises(ValueError, match="takes no key"):
        dv.vote([["a"]], [[True]], key=[[1]])
    with pytest.raises(ValueError, match="finite"):
        dv.vote([["a"]], [[True]], weights=[[float("nan")]])
    with pytest.raises(ValueError, match="negative"):
        dv.vote([["a"]], [[True]], weights=[[-1]])


# ---------------------------------------------------------------- pass@k and maj@k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
@settings(max_examples=100, deadline=None)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_branch(nck):
    n, c, k = nck
    hits = [any(i < c for i in subset) for subset in combinations(range(n), k)]
    assert float(dv.pass_at_k(c, n, k)) == pytest.approx(np.mean(hits), abs=1e-12)


def test_pass_at_k_broadcasts_and_stays_stable_when_large():
    assert dv.pass_at_k([0, 1, 5], 5, 2).tolist() == pytest.approx([0.0, 0.4, 1.0])
    n, c, k = 100_000, 3, 1_000
    assert float(dv.pass_at_k(c, n, k)) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)
    curve = dv.pass_curve([[True, False, False], [False, False, False]])
    assert np.allclose(curve, [[1 / 3, 2 / 3, 1.0], [0.0, 0.0, 0.0]])
    assert (curve[1] == 0).all()  # exactly
    with pytest.raises(UndefinedEstimate, match="pass@6"):
        dv.pass_at_k(1, 5, 6)
    with pytest.raises(ValueError, match="0 <= c <= n"):
        dv.pass_at_k(6, 5, 1)
    with pytest.raises(ValueError, match="whole numbers"):
        dv.pass_at_k(1.5, 5, 1)
    with pytest.raises(UndefinedEstimate):
        dv.pass_at_k([], [], 1)


@given(rows_of)
@settings(max_examples=120, deadline=None)
def test_maj_at_k_is_the_mean_vote_over_all_subsets(rows):
    curve = dv.maj_curve(rows, grade(rows))
    for i, row in enumerate(rows):
        for k in range(1, len(row) + 1):
            brute = np.mean([brute_vote(s) for s in combinations(row, k)], axis=0)
            got = [curve.score[i, k - 1], curve.low_tie[i, k - 1], curve.high_tie[i, k - 1]]
            assert got == pytest.approx(list(brute), abs=1e-12)


@given(rows_of)
@settings(max_examples=60, deadline=None)
def test_maj_curve_ends_agree_with_accuracy_and_the_vote(rows):
    right = grade(rows)
    curve, v = dv.maj_curve(rows, right), dv.vote(rows, right)
    assert np.allclose(curve.score[:, 0], right.mean(axis=1))
    assert np.allclose(curve.score[:, -1], v.score)
    assert np.allclose(curve.low_tie[:, -1], v.low_tie)
    assert np.allclose(curve.high_tie[:, -1], v.high_tie)
    assert (curve.high_tie <= dv.pass_curve(right) + 1e-12).all()


def test_maj_at_2_is_maj_at_1_only_where_every_branch_is_readable():
    readable = [["a", "x", "x", "y"], ["a", "a", "a", "z"]]
    curve = dv.maj_curve(readable, grade(readable)).score
    assert np.allclose(curve[:, 1], curve[:, 0])
    with_blank = dv.maj_curve([["a", ""]], [[True, False]]).score
    assert with_blank.tolist() == [[0.5, 1.0]]  # the unreadable branch has no vote


def test_maj_at_k_bounds_and_refusals():
    one = dv.maj_at_k([["a", "x", "y"]], [[True, False, False]], 3)
    assert (one.score[0], one.low_tie[0], one.high_tie[0]) == pytest.approx((1 / 3, 0.0, 1.0))
    with pytest.raises(UndefinedEstimate, match="maj@4"):
        dv.maj_at_k([["a", "x", "y"]], [[True, False, False]], 4)
    with pytest.raises(ValueError, match="at least 1"):
        dv.maj_at_k([["a"]], [[True]], 0)


def sample(n, k, seed=0):
    rng = np.random.default_rng(seed)
    rows = [[SYMBOLS[j] for j in rng.choice(6, k, p=rng.dirichlet(np.ones(6)))] for _ in range(n)]
    return rows, grade(rows)


def test_sixteen_branches_of_300_items_take_a_second_or_so():
    rows, right = sample(300, 16)
    dv._majority_curve.cache_clear()
    start = time.process_time()
    curve = dv.maj_curve(rows, right)
    assert time.process_time() - start < 4.0
    i = 0  # one item against the literal subsets, C(16, 5) = 4,368
    brute = np.mean([brute_vote(s) for s in combinations(rows[i], 5)], axis=0)
    assert [a[i, 4] for a in curve] == pytest.approx(list(brute))


# ---------------------------------------------------------------- spread


@given(rows_of)
@settings(max_examples=100, deadline=None)
def test_spread_against_brute_force(rows):
    unique = dv.unique_count(rows, grade(rows))
    assert unique.total.tolist() == [len(set(r) - {""}) for r in rows]
    assert unique.right.tolist() == [len(set(r) & GOOD) for r in rows]
    assert (unique.total == unique.right + unique.wrong).all()
    assert dv.oracle(grade(rows)).tolist() == [bool(set(r) & GOOD) for r in rows]
    k = len(rows[0])
    if k < 2:
        return
    differ = [np.mean([a != b for a, b in combinations(r, 2)]) for r in rows]
    assert dv.pairwise_disagreement(rows).tolist() == pytest.approx(differ)
    assert dv.all_equal(rows).tolist() == [len(set(r)) == 1 and r[0] != "" for r in rows]
    plug_in = [-sum(c / k * log(c / k) for c in Counter(r).values()) for r in rows]
    assert dv.entropy(rows, miller_madow=False).tolist() == pytest.approx(plug_in)
    extra = [(len(set(r)) - 1) / (2 * k) for r in rows]
    assert dv.entropy(rows).tolist() == pytest.approx([p + e for p, e in zip(plug_in, extra, strict=True)])


def test_miller_madow_is_nearer_to_the_truth_than_the_plug_in():
    draws = np.random.default_rng(1).choice(4, (4000, 8))  # uniform over 4 answers: log 4 nats
    rows = [[SYMBOLS[1 + j] for j in row] for row in draws]
    bias = [dv.entropy(rows, miller_madow=on).mean() - log(4) for on in (True, False)]
    assert abs(bias[0]) < 0.07 < 0.2 < abs(bias[1])


def test_all_unreadable_is_defined_everywhere():
    rows = [["", "", ""]]
    s = dv.summary(rows, grade(rows))
    assert (s.per_branch[0], s.vote.score[0], s.oracle[0], s.unreadable[0]) == (0, 0, 0, 1)
    assert (s.unique.total[0], s.entropy[0], s.disagreement[0], s.all_equal[0]) == (0, 0, 0, 0)
    assert s.pass_at_k.tolist() == s.maj_at_k.score.tolist() == s.maj_at_k.high_tie.tolist() == [[0, 0, 0]]


def test_one_branch_has_no_spread_and_nothing_is_undefined():
    s = dv.summary([["a"], [""]], [[True], [False]])
    assert s.branches == 1
    assert s.entropy is s.disagreement is s.all_equal is None
    assert s.vote.score.tolist() == s.per_branch.tolist() == [1.0, 0.0]
    assert s.maj_at_k.score.tolist() == s.pass_at_k.tolist() == [[1.0], [0.0]]
    for measure in (dv.entropy, dv.pairwise_disagreement, dv.all_equal):
        with pytest.raises(UndefinedEstimate, match="one branch"):
            measure([["a"]])
    for rows, right in (([], []), ([[]], [[]])):
        with pytest.raises(UndefinedEstimate, match="at least one item"):
            dv.summary(rows, right)
        with pytest.raises(UndefinedEstimate):
            dv.oracle(right)


def test_summary_holds_what_the_functions_give():
    rows, right = sample(40, 5)
    s = dv.summary(rows, right, rule="first")
    assert s.vote.score.tolist() == dv.vote(rows, right, rule="first").score.tolist()
    assert s.maj_at_k.score.tolist() == dv.maj_curve(rows, right).score.tolist()
    assert s.entropy.tolist() == dv.entropy(rows).tolist()
    assert s.unreadable.mean() == pytest.approx(np.mean([a == "" for r in rows for a in r]))
    assert s.pass_at_k.shape == s.maj_at_k.low_tie.shape == (40, 5)
    assert (s.pass_at_k[:, -1] == s.oracle).all()
