"""Vote rules, quorum stops and reranking: against enumeration, by hand, and on scripted and shipped executors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.errors import UndefinedEstimate, UserError
from triaxis.estimate import diversity as dv
from triaxis.estimate import votes
from triaxis.estimate.quorum import Stop, flip_chance
from triaxis.estimate.rerank import gap_closure, rerank
from triaxis.estimate.votes import Ballots, elect
from triaxis.sampling.schedule import Decode
from triaxis.sampling.vote import quorum_vote
from triaxis.streams import stream_key
from triaxis.tasks import load_task

SYMBOLS = ["", "a", "b", "c", "d"]
GOOD = {"a", "b"}


def grade(rows):
    return np.array([[a in GOOD for a in row] for row in rows])


rows_of = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.lists(st.sampled_from(SYMBOLS), min_size=k, max_size=k), min_size=1, max_size=4)
)


def ballots(rows, **more):
    return Ballots(rows, grade(rows), **more)


def winners(row, weights=None):
    """Readable answers with the most weight, in order of appearance."""
    total = Counter()
    for a, w in zip(row, weights or [1] * len(row), strict=True):
        if a:
            total[a] += w
    return [a for a in dict.fromkeys(row) if a and total[a] == max(total.values())]


def share_right(tied):
    return sum(a in GOOD for a in tied) / len(tied) if tied else 0.0


# ---------------------------------------------------------------- the table of rules


@given(rows_of, st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_rule_against_its_words(rows, seed):
    rng = np.random.default_rng(seed)
    shape = (len(rows), len(rows[0]))
    numbers = rng.integers(0, 4, shape)
    b = ballots(rows, confidence=numbers, lengths=numbers)
    found = {
        "majority": elect(b),
        "confidence": elect(b, "confidence"),
        "verifier": elect(b, "verifier", scores=numbers),
        "verifier-weighted": elect(b, "verifier-weighted", scores=numbers),
        "oracle": elect(b, "oracle"),
        "linear": elect(b, "temporal", weighting="linear"),
    }
    steps = list(range(1, shape[1] + 1))  # s / S ranks as s does
    for i, row in enumerate(rows):
        own = numbers[i].tolist()
        best = max((s for a, s in zip(row, own, strict=True) if a), default=0)
        chosen = {a for a, s in zip(row, own, strict=True) if a and s == best}
        expected = {
            "majority": share_right(winners(row)),
            "confidence": share_right(winners(row, own)),
            "verifier": share_right(chosen),
            "verifier-weighted": share_right(winners(row, own)),
            "oracle": float(bool(set(row) & GOOD)),
            "linear": share_right(winners(row, steps)),
        }
        assert {name: v.score[i] for name, v in found.items()} == pytest.approx(expected)
    for v in found.values():
        assert (v.low_tie <= v.score).all()
        assert (v.score <= v.high_tie).all()
        assert (v.score <= found["oracle"].score).all()


def test_unknown_rules_settings_and_missing_numbers_are_refused():
    b = ballots([["a", "c"]])
    with pytest.raises(UserError, match="did you mean 'majority'"):
        elect(b, "majorty")
    with pytest.raises(UserError, match=r"no setting 'tei'.*did you mean 'tie'"):
        elect(b, tei="first")
    with pytest.raises(UserError, match="needs the confidence"):
        elect(b, "confidence")
    with pytest.raises(UserError, match="needs the lengths"):
        elect(b, tie="shortest")
    with pytest.raises(UserError, match="not the steps of 3"):
        elect(b, "temporal", trajectories=3)


def test_tie_rules_read_the_ballots():
    rows = [["c", "a", "", "a", "c"]]
    b = ballots(rows, confidence=[[0.2, 0.9, 0.99, 0.1, 0.7]], lengths=[[3, 5, 1, 5, 9]])
    won = {tie: elect(b, tie=tie).winner[0] for tie in ("first", "confidence", "shortest")}
    assert won == {"first": "c", "confidence": "a", "shortest": "c"}
    assert elect(b).score == [0.5]


def test_unreadable_wins_only_where_declared():
    rows = [["", "", "a"], ["", "", ""], ["a", "a", ""]]
    assert elect(ballots(rows)).winner == ("a", "", "a")
    declared = elect(ballots(rows), unreadable_votes=True)
    assert declared.winner == ("", "", "a")
    assert declared.score.tolist() == [0, 0, 1]
    tied = elect(ballots([["", "a"]]), unreadable_votes=True)
    assert (tied.score[0], tied.low_tie[0], tied.high_tie[0]) == (0.5, 0, 1)
    assert elect(ballots([["a", ""]]), tie="first", unreadable_votes=True).winner == ("a",)
    assert elect(ballots([["", "a"]]), tie="first", unreadable_votes=True).winner == ("",)


def test_numbers_of_unreadable_branches_may_be_missing_and_others_not():
    nan = float("nan")
    b = ballots([["", "a", "c"]], confidence=[[nan, 0.4, 0.6]])
    assert elect(b, "confidence").winner == ("c",)
    with pytest.raises(ValueError, match="confidence must be finite: nan at item 0, branch 1"):
        ballots([["", "a", "c"]], confidence=[[0.1, nan, 0.6]])
    with pytest.raises(ValueError, match="scores must be finite: nan at item 0, branch 1"):
        elect(b, "verifier", scores=lambda i, j: nan)
    with pytest.raises(ValueError, match="not be negative"):
        elect(b, "verifier-weighted", scores=[[0, -1, 0]])
    with pytest.raises(UserError, match=r"confidence -0\.7 cannot weigh"):
        elect(ballots([["a", "c"]], confidence=[[-0.7, -0.1]]), "confidence")
    with pytest.raises(UndefinedEstimate, match="no branches"):
        Ballots([], [])


@pytest.mark.parametrize("rule", list(votes.RULES))
def test_all_unreadable_is_wrong_under_every_rule(rule):
    b = Ballots([["", ""]], [[False, False]], confidence=[[np.nan, np.nan]])
    v = elect(b, rule, **({"scores": lambda i, j: 1 / 0} if rule.startswith("verifier") else {}))
    assert (v.winner, v.score[0], v.low_tie[0], v.high_tie[0], v.margin[0], v.tie[0]) == (("",), 0, 0, 0, 0, False)


# ---------------------------------------------------------------- votes over the trajectory


def test_step_weights_are_the_papers():
    assert votes.step_weights(4, "fixed").tolist() == [1, 1, 1, 1]
    assert votes.step_weights(4, "linear").tolist() == [0.25, 0.5, 0.75, 1]
    w = votes.step_weights(4, "exponential", 5.0)
    assert (w / w[0]).tolist() == pytest.approx(np.exp(5 * np.arange(4) / 4).tolist())
    assert np.isfinite(votes.step_weights(1000, "exponential", 1e4)).all()
    for bad in ((0, 5.0), (4, float("inf")), (4, -1.0)):
        with pytest.raises(UserError, match="alpha"):
            votes.step_weights(bad[0], "linear", bad[1])
    with pytest.raises(UserError, match="did you mean 'linear'"):
        votes.step_weights(4, "linar")


def test_an_overwritten_right_answer_can_be_saved_by_an_even_vote_only():
    rows = [["", "a", "a", "a", "c", "c"]]
    b = ballots(rows)
    assert elect(b, "temporal", weighting="fixed").winner == ("a",)
    assert elect(b, "temporal", weighting="exponential", alpha=5.0).winner == ("c",)
    two = ballots([["", "a", "a", "c", "", "a", "a", "a"]])  # two trajectories of four steps
    assert elect(two, "temporal", trajectories=2).winner == ("a",)


# ---------------------------------------------------------------- quorum


def outcome(row, tie):
    tied = winners(row)
    return tuple(tied[:1]) if tie == "first" else tuple(sorted(tied))


@given(
    st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=4), st.integers(1, 5), st.sampled_from(["first", "uniform"])
)
@settings(max_examples=150, deadline=None)
def test_exact_stops_just_where_no_future_changes_the_outcome(seen, k, tie):
    seen = seen[:k]
    futures = product(["", "a", "b", "c", "new", "newer"], repeat=k - len(seen))
    possible = {outcome([*seen, *rest], tie) for rest in futures}
    settled = Stop(k=k, tie=tie).settled(seen)
    if len(seen) == k:
        assert settled
    else:
        assert settled == (len(possible) == 1)
    assert Stop(k=k, tie=tie, rule="likely", p=1.0).settled(seen) == settled


def urn(seen, k, tie):
    """Chance of a flip by listing every future of the urn."""
    start = winners(seen)
    if not start or (tie != "first" and len(start) > 1):
        return 1.0
    total = 0.0

    def go(row, chance):
        nonlocal total
        if len(row) == k:
            tied = winners(row)
            lost = tied[0] != start[0] if tie == "first" else 1 - (start[0] in tied) / len(tied)
            total += chance * lost
            return
        counts = Counter(row)
        for a in counts:
            go([*row, a], chance * counts[a] / (len(row) + 1))
        go([*row, f"new{len(row)}"], chance / (len(row) + 1))

    go(list(seen), 1.0)
    return total


@given(st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=4), st.sampled_from(["first", "uniform"]))
@settings(max_examples=80, deadline=None)
def test_the_chance_of_a_flip_is_the_urns(seen, tie):
    k = 6
    assert flip_chance(seen, k, tie) == pytest.approx(urn(seen, k, tie), abs=1e-12)


def test_quorum_by_hand():
    assert Stop(k=5).earliest() == 3
    assert Stop(k=4).earliest() == 2  # under "first" a leader that can only be caught is safe
    assert Stop(k=4, tie="uniform").earliest() == 3
    assert flip_chance(["a", "a"], 5) == pytest.approx(1 / 3 * 1 / 4 * 2 / 5)  # three of one new answer
    assert Stop(k=5, rule="likely", p=0.95).earliest() == 2
    assert Stop(k=5, rule="likely", p=0.99).earliest() == 3
    with pytest.raises(UserError, match="at most 32"):
        Stop(k=33, rule="likely")
    with pytest.raises(UserError, match="p=95"):
        Stop(k=5, p=95)
    with pytest.raises(UserError, match="did you mean 'likely'"):
        Stop(k=5, rule="likly")


@given(rows_of, st.sampled_from(["first", "uniform", "confidence", "shortest"]))
@settings(max_examples=100, deadline=None)
def test_an_exact_replay_never_changes_an_outcome(rows, tie):
    numbers = np.random.default_rng(len(rows)).integers(1, 4, (len(rows), len(rows[0])))
    q = votes.quorum(ballots(rows, confidence=numbers, lengths=numbers), tie=tie, forwards=numbers)
    assert q.vote.winner == q.full.winner
    assert q.vote.score.tolist() == q.full.score.tolist()
    assert not q.flips.any()
    assert (q.used >= 1).all()
    used = [sum(n[:u]) for n, u in zip(numbers.tolist(), q.used, strict=True)]
    assert q.saved == pytest.approx(1 - sum(used) / numbers.sum())


def test_a_likely_replay_measures_its_flips():
    rows = [["c", "c", "a", "a", "a"], ["a", "a", "a", "c", "c"], ["a", "c", "a", "c", "a"], ["", "", "", "", ""]]
    q = votes.quorum(ballots(rows), rule="likely", p=0.95)
    assert q.approximate
    assert q.used.tolist() == [2, 2, 5, 5]
    assert q.flips.tolist() == [1, 0, 0, 0]
    rate = q.flip_rate()
    assert (rate.value, "approximate" in rate.name) == (0.25, True)
    assert 0 <= rate.low < 0.25 < rate.high <= 1
    assert q.saved == pytest.approx(1 - 14 / 20)
    assert q.branches_used().value == 3.5
    assert not votes.quorum(ballots(rows)).approximate


def test_likely_flips_about_as_often_as_it_says_under_its_own_urn():
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(1500):
        row = ["a"]
        while len(row) < 5:
            fresh = rng.random() < 1 / (len(row) + 1)
            row.append(f"n{len(row)}" if fresh else row[rng.integers(len(row))])
        rows.append(row)
    q = votes.quorum(Ballots(rows, np.zeros((1500, 5), bool)), rule="likely", p=0.9)
    assert 0 < q.flips.mean() < 0.1
    assert q.saved > votes.quorum(Ballots(rows, np.zeros((1500, 5), bool))).saved


# ---------------------------------------------------------------- reranking


def test_rerank_reports_gap_closure_and_paired_tests():
    rows = [["c", "c", "a"]] * 30 + [["a", "a", "c"]] * 20 + [["c", "c", "c"]] * 10
    good = lambda i, j: float(rows[i][j] == "a" and i % 3 != 0)  # noqa: E731
    b = ballots(rows)
    r = rerank(b, good)
    saved = sum(1 for i in range(30) if i % 3)
    vote, best = 20, 50
    # with every score 0 (i % 3 == 0) the branches tie and are split: 1 / 2 right where two answers stand
    tied = sum(1 for i in range(50) if i % 3 == 0) / 2
    chosen = saved + tied + sum(1 for i in range(30, 50) if i % 3)
    assert r.chosen.score.sum() == pytest.approx(chosen)
    assert r.over_vote.value == pytest.approx((chosen - vote) / 60)
    assert r.headroom.value == pytest.approx((best - chosen) / 60)
    assert r.gap_closure.value == pytest.approx((chosen - vote) / (best - vote))
    assert r.gap_closure.low < r.gap_closure.value < r.gap_closure.high
    assert all(e.p_holm is not None and e.verdict for e in r.estimates)


def test_a_perfect_verifier_closes_the_gap_and_no_gap_has_no_ratio():
    rows = [["c", "c", "a"]] * 20 + [["a", "a", "c"]] * 20
    perfect = rerank(ballots(rows), grade(rows).astype(float))
    assert (perfect.gap_closure.value, perfect.headroom.value) == (1.0, 0.0)
    same = [["a", "a", "c"]] * 5
    assert rerank(ballots(same), [[1, 0, 0]] * 5).gap_closure is None
    with pytest.raises(UndefinedEstimate, match="divide by the gap"):
        gap_closure([1, 0], [1, 0], [1, 0])


# ---------------------------------------------------------------- metrics with intervals, calibration


def test_metrics_have_the_means_and_their_intervals():
    rng = np.random.default_rng(0)
    rows = [[SYMBOLS[j] for j in rng.choice(5, 4)] for _ in range(60)]
    texts = [[f"{a} {rng.integers(2)}" for a in row] for row in rows]
    s = dv.summary(rows, grade(rows), texts=texts)
    found = dv.metrics(s)
    assert set(found) == set(dv.METRICS) | {f"{c}@{k}" for c in ("pass", "maj") for k in (1, 2, 3, 4)}
    assert found["oracle"].value == pytest.approx(s.oracle.mean())
    assert found["pass@4"].value == pytest.approx(s.oracle.mean())
    assert found["maj@1"].value == pytest.approx(s.per_branch.mean())
    assert found["margin"].value == pytest.approx(s.vote.margin.mean() / 4)
    for e in found.values():
        assert e.low <= e.value <= e.high
        assert e.high - e.low > 0.01
        assert e.n == 60
    two = dv.metrics(s, s)
    assert two["vote"].value == found["vote"].value
    assert two["vote"].high == found["vote"].high  # a seed said twice adds nothing
    one = dv.metrics(dv.summary([["a"], ["c"]], [[True], [False]]))
    assert "entropy" not in one
    assert "pass@1" in one
    with pytest.raises(UndefinedEstimate, match="one summary a seed"):
        dv.metrics(s, dv.summary([["a"], ["c"]], [[True], [False]]))


@given(st.lists(st.lists(st.sampled_from(["x", " x", "y", ""]), min_size=3, max_size=3), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_duplicate_rate_counts_repeats(texts):
    for got, row in zip(dv.duplicate_rate(texts), texts, strict=True):
        seen, again = set(), 0
        for t in row:
            again += t.strip() in seen
            seen.add(t.strip())
        assert got == again / 2


@given(rows_of, st.sampled_from(["margin", "share"]))
@settings(max_examples=60, deadline=None)
def test_ece_against_its_definition(rows, stated):
    rows = rows * 2
    c = dv.margin_calibration(rows, grade(rows), stated=stated)
    v, k = dv.vote(rows, grade(rows)), len(rows[0])
    groups = {}
    for i, row in enumerate(rows):
        top = max(Counter(a for a in row if a).values(), default=0)
        said = (v.margin[i] if stated == "margin" else top) / k
        groups.setdefault(Fraction(said).limit_denominator(99), []).append(v.score[i])
    ece = sum(abs(sum(g) - float(said) * len(g)) for said, g in groups.items()) / len(rows)
    assert c.ece.value == pytest.approx(ece)
    assert [lv.n for lv in c.levels] == [len(groups[s]) for s in sorted(groups)]
    assert [lv.stated for lv in c.levels] == pytest.approx([float(s) for s in sorted(groups)])
    assert all(0 <= lv.low <= lv.right + 1e-12 and lv.right <= lv.high + 1e-12 for lv in c.levels)
    assert 0 <= c.ece.low <= c.ece.high <= 1


def test_a_calibrated_vote_is_at_chance_and_an_overconfident_one_is_not():
    rng = np.random.default_rng(5)
    tops = rng.integers(3, 6, 2000)
    rows = [["x"] * t + [f"y{j}" for j in range(5 - t)] for t in tops]
    fair = np.array(
        [[(a == "x") and hit for a in row] for row, hit in zip(rows, rng.random(2000) < tops / 5, strict=True)]
    )
    c = dv.margin_calibration(rows, fair)
    assert c.ece.value < 2 * c.chance
    assert c.ece.low < 0.01
    wrong = dv.margin_calibration(rows, np.zeros((2000, 5)))
    assert wrong.ece.value == pytest.approx(np.mean(tops / 5))
    assert wrong.ece.low > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, -0.1, -0.3])
def test_the_interval_of_the_ece_covers(shift):
    rng, covered = np.random.default_rng(8), 0
    truth = np.mean([abs(max(0, t / 5 + shift) - t / 5) for t in range(2, 6)])
    for _ in range(200):
        tops = rng.integers(2, 6, 100)
        rows = [["x"] * t + [f"y{j}" for j in range(5 - t)] for t in tops]
        hits = rng.random(100) < tops / 5 + shift
        e = dv.margin_calibration(
            rows, [[a == "x" and hit for a in row] for row, hit in zip(rows, hits, strict=True)]
        ).ece
        covered += e.low - 1e-9 <= truth <= e.high + 1e-9
    assert covered >= 182  # 91 %; .95 of 200 has a standard error of 1.5 points


# ---------------------------------------------------------------- sampling in waves


class Script:
    """An executor whose branch b of item i says what `said` holds; a key is 100 * item + branch."""

    def __init__(self, said):
        self.said, self.waves = said, []

    def complete(self, prompts, keys, decode, done):
        self.waves.append(list(keys))
        places = list(range(len(keys)))[::-1]  # batches may come in any order
        for start in range(0, len(places), 3):
            part = places[start : start + 3]
            done(part, [Said(self.said[keys[p] // 100][keys[p] % 100], 10 + keys[p] % 100) for p in part])


class Said(NamedTuple):
    text: str
    forwards: int


DRAWS = Decode(gen_length=8, block_length=8, steps=8, temperature=0.7)


def run_script(said, **settings):
    k = len(said[0])
    executor = Script(said)
    keys = [[100 * i + b for i in range(len(said))] for b in range(k)]
    prompts = [[1]] * len(said)
    run = quorum_vote(executor, prompts, keys, DRAWS, lambda place, text: text.strip("?"), k, **settings)
    return run, executor


@given(rows_of, st.sampled_from(["first", "uniform"]), st.sampled_from(["exact", "likely"]))
@settings(max_examples=80, deadline=None)
def test_waves_do_what_the_replay_says(rows, tie, rule):
    run, _ = run_script(rows, tie=tie, rule=rule, p=0.9)
    k = len(rows[0])
    replay = votes.quorum(ballots(rows), rule=rule, p=0.9, tie=tie, forwards=[[10 + b for b in range(k)]] * len(rows))
    first = run.stop.earliest()
    assert [max(u, first) for u in replay.used.tolist()] == [i.used for i in run.items]
    assert [i.winner for i in run.items] == list(replay.vote.winner)
    assert [i.forwards for i in run.items] == [sum(10 + b for b in range(i.used)) for i in run.items]
    if rule == "exact":
        assert [i.winner for i in run.items] == list(replay.full.winner)


def test_settled_items_are_not_sampled_again():
    run, executor = run_script([["a", "a", "a", "c", "c"], ["c", "a", "c", "?", "c"], ["?", "?", "?", "?", "?"]])
    assert [len(w) for w in executor.waves] == [9, 2, 1]
    assert sorted(executor.waves[1]) == [103, 203]
    assert executor.waves[2] == [204]
    assert [(i.winner, i.used) for i in run.items] == [("a", 3), ("c", 4), ("", 5)]
    assert run.items[1].answers == ("c", "a", "c", "")
    assert run.forwards == 33 + 46 + 60
    assert run.items[0].forwards_saved == 22.0
    assert run.saved == pytest.approx((22 + 11.5) / (22 + 11.5 + 139))
    assert not run.approximate


def test_a_quorum_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="tie rule 'shortest' cannot be kept"):
        run_script([["a", "a"]], tie="shortest")
    with pytest.raises(UserError, match="give k=3 lists of 1 keys"):
        quorum_vote(Script([]), [[1]], [[0]], DRAWS, lambda i, t: t, 3)
    greedy = Decode(gen_length=8, block_length=8, steps=8)
    with pytest.raises(UserError, match="raise temperature"):
        quorum_vote(Script([]), [[1]], [[0], [1]], greedy, lambda i, t: t, 2)


@pytest.mark.slow
def test_on_tiny_a_quorum_of_500_items_keeps_every_winner_and_saves_a_fifth(tiny):
    task = load_task("gradeschool")
    items = task.items(500, seed=0)
    prompts = [tiny.prompt_ids(i.question) for i in items]
    decode = replace(tiny.default_decode(), temperature=0.7)
    keys = [[stream_key(0, i.id, b) for i in items] for b in range(5)]

    def read(place, text):
        return task.grade(text, items[place]).answer

    run = quorum_vote(tiny, prompts, keys, decode, read, 5)
    said, cost = [[""] * 5 for _ in items], [[0] * 5 for _ in items]

    def done(places, completions):
        for place, c in zip(places, completions, strict=True):
            branch, item = divmod(place, 500)
            said[item][branch], cost[item][branch] = read(item, c.text), c.forwards

    tiny.complete(prompts * 5, [key for branch in keys for key in branch], decode, done)
    full = [winners(row)[:1] or [""] for row in said]
    assert [[i.winner] for i in run.items] == full
    total = sum(map(sum, cost))
    print(f"\nquorum, 500 items, k=5: {1 - run.forwards / total:.3f} of {total} forwards saved, told {run.saved:.3f}")
    assert 1 - run.forwards / total >= 0.2
    assert run.saved == pytest.approx(1 - run.forwards / total, abs=0.02)
