"""Result files of every kind, what makes a pairing false, and the numbers against `paired` itself."""

from __future__ import annotations

import gc
import json
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.estimate.cells import columns, named
from triaxis.estimate.compare import How, compare, compare_many, growing, item_scores, protocol_differences, relabel
from triaxis.estimate.paired import UndefinedEstimate, cochran_q, holm, paired, tango, tost
from triaxis.estimate.results import Columns, open_spec, read, score_of
from triaxis.store import GradeRow, Row, Store


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def scored(scores, **more):
    return [{"id": f"q{i}", "correct": s, **more} for i, s in enumerate(scores)]


@pytest.fixture
def pair(tmp_path):
    """37 and 33 of 50, with 5 gained and 9 lost."""
    a = [1] * 28 + [1] * 9 + [0] * 5 + [0] * 8
    b = [1] * 28 + [0] * 9 + [1] * 5 + [0] * 8
    return write(tmp_path / "a.jsonl", scored(a)), write(tmp_path / "b.jsonl", scored(b))


def store(folder, verdicts, *, graded=True):
    """A store with {condition: {item: [verdict a branch]}}; "r", "w" or "u"."""
    folder.mkdir(exist_ok=True)
    words = {"r": "right", "w": "wrong", "u": "unreadable"}
    with Store(folder / "rows.sqlite", write=True) as s:
        for condition, items in verdicts.items():
            for item, marks in items.items():
                for branch, mark in enumerate(marks):
                    id = f"{folder.name}-{condition}-{item}-{branch}"
                    s.append([Row(id, condition, item, branch, 0, "", f"{condition} {item}", f"t{branch}", 9, 3, True)])
                    if graded:
                        answer = "" if mark == "u" else "7" if mark == "r" else f"{branch + 8}"
                        s.append([GradeRow(id, words[mark], answer, "marked", -1)])
    return folder


# --- the numbers -------------------------------------------------------------------------------------------------


def test_check_values_of_a_comparison(pair):
    found = compare(open_spec(str(pair[0])), open_spec(str(pair[1])))
    e = found.effect
    assert (e.gain, e.loss, e.n) == (5, 9, 50)
    assert e.value == pytest.approx(-0.08)
    assert e.p == pytest.approx(0.424, abs=5e-4)
    assert e.p_midp == pytest.approx(0.302, abs=5e-4)
    assert (e.low, e.high) == tango(5, 9, 50)
    assert found.e_value == pytest.approx(0.55, abs=0.01)
    assert e.verdict == "not resolved at this N"
    assert found.tost.p == tost(5, 9, 50, 0.05).p
    assert (found.a.accuracy, found.b.accuracy) == (0.74, 0.66)


def test_the_json_effect_has_the_contracts_keys(pair):
    found = compare(open_spec(str(pair[0])), open_spec(str(pair[1]))).as_dict()
    keys = {"name", "value", "low", "high", "p", "p_holm", "n", "gain", "loss", "mde80", "verdict", "p_midp"}
    assert keys <= set(found)
    json.dumps(found, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.randoms(use_true_random=False))
def test_a_comparison_is_paired_by_id_whatever_the_order(tmp_path_factory, scores, rng: random.Random):
    folder = tmp_path_factory.mktemp("order")
    a = write(folder / "a.jsonl", scored([bool(x) for x, _ in scores], side="a"))
    rows = scored([bool(y) for _, y in scores], side="b")
    rng.shuffle(rows)
    b = write(folder / "b.jsonl", rows)
    found = compare(read(a), read(b)).effect
    direct = paired([y for _, y in scores], [x for x, _ in scores])
    assert (found.value, found.low, found.high, found.p) == (direct.value, direct.low, direct.high, direct.p)
    assert (found.gain, found.loss) == (direct.gain, direct.loss)


def test_branches_are_averaged_within_items(tmp_path):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2, (30, 5)) for _ in range(2))
    files = [
        write(
            tmp_path / f"{n}.jsonl",
            [{"id": i, "branch": k, "score": int(x[i, k])} for i in range(30) for k in range(5)],
        )
        for n, x in (("a", a), ("b", b))
    ]
    found = compare(*map(read, files)).effect
    direct = paired(b, a)
    assert found.n == 30
    assert (found.value, found.low, found.high, found.p) == (direct.value, direct.low, direct.high, direct.p)
    assert "cluster bootstrap" in found.method


def test_several_files_have_cochrans_q_and_holm(tmp_path):
    rng = np.random.default_rng(1)
    x = (rng.random((60, 4)) < (0.5, 0.55, 0.7, 0.75)).astype(int)
    files = [read(write(tmp_path / f"{k}.jsonl", scored(x[:, k].tolist()))) for k in range(4)]
    found = compare_many(files)
    assert [c.effect.name for c in found.comparisons] == [f"{k}.jsonl vs 0.jsonl" for k in (1, 2, 3)]
    assert found.cochran == cochran_q(x)
    assert [c.effect.p_holm for c in found.comparisons] == holm([c.effect.p for c in found.comparisons])
    assert len(compare_many(files, against="all").comparisons) == 6
    with pytest.raises(UserError, match="'first' or 'all'"):
        compare_many(files, against="last")


def test_votes_are_scored_per_item(tmp_path):
    rows = [
        {"id": i, "branch": k, "answer": a, "correct": a == "7"}
        for i, answers in enumerate(["778", "788", "789", "777"])
        for k, a in enumerate(answers)
    ]
    results = read(write(tmp_path / "v.jsonl", rows))
    assert item_scores(results, How(vote=True)) == {"0": 1, "1": 0, "2": pytest.approx(1 / 3), "3": 1}
    assert item_scores(results)["0"] == pytest.approx(2 / 3)
    bare = read(write(tmp_path / "bare.jsonl", [{"id": i, "answer": "7", "correct": 1} for i in range(4)]))
    assert any(
        "1 votes are tied" in w and "50.0 to 75.0 %" in w for w in compare(bare, results, How(vote=True)).warnings
    )
    with pytest.raises(UserError, match="has 2 branches, others have 3"):
        item_scores(read(write(tmp_path / "w.jsonl", rows[:-1])), How(vote=True))
    with pytest.raises(UserError, match="a vote needs the answers"):
        item_scores(read(write(tmp_path / "x.jsonl", scored([1, 0]))), How(vote=True))


def test_ten_thousand_items_take_under_a_second(tmp_path):
    rng = random.Random(2)
    base = [{"id": i, "correct": rng.random() < 0.7, "question": f"what is {i}?", "answer": "x"} for i in range(10_000)]
    a = write(tmp_path / "a.jsonl", base)
    b = write(tmp_path / "b.jsonl", [{**r, "correct": rng.random() < 0.72} for r in base])
    gc.freeze()  # what three thousand tests left behind is nothing a user's process would look through
    took = []
    for _ in range(3):
        started = time.process_time()
        compare(read(a), read(b))
        took.append(time.process_time() - started)
    gc.unfreeze()
    assert min(took) < 1.0


# --- what makes a pairing false ----------------------------------------------------------------------------------


def test_unequal_item_sets_are_refused_and_intersected_on_demand(tmp_path):
    a = read(write(tmp_path / "a.jsonl", scored([1, 0, 1, 0, 1])))
    b = read(write(tmp_path / "b.jsonl", [{"id": f"q{i}", "correct": 1} for i in (1, 2, 3, 9)]))
    with pytest.raises(
        UserError, match=r"a\.jsonl lacks 1 \(such as 'q9'\).*b\.jsonl lacks 2 .*--intersect.* 3 shared"
    ):
        compare(a, b)
    found = compare(a, b, How(intersect=True))
    assert (found.effect.n, found.a.dropped, found.b.dropped) == (3, 2, 1)


def test_files_without_a_shared_id_say_what_their_ids_look_like(tmp_path):
    a, b = write(tmp_path / "a.jsonl", scored([1, 0])), write(tmp_path / "b.jsonl", [{"id": 5, "correct": 1}])
    with pytest.raises(UserError, match=r"ids like 'q0'.*like '5'.*--id"):
        compare(read(a), read(b), How(intersect=True))


def test_items_counted_twice_are_refused_with_their_lines(tmp_path):
    a = write(tmp_path / "a.jsonl", [*scored([1, 0, 1]), {"id": "q1", "correct": 0}])
    with pytest.raises(UserError, match=r"a\.jsonl: line 4: item 'q1' is counted 2 times \(first on line 2\)"):
        item_scores(read(a))
    assert item_scores(read(a), How(repeats="average"))["q1"] == 0


def test_every_question_under_two_ids_is_refused(tmp_path):
    rows = [{"id": i, "question": f"what is {i % 5}?", "correct": 1} for i in range(10)]
    with pytest.raises(UserError, match="10 item ids stand for 5 questions"):
        item_scores(read(write(tmp_path / "a.jsonl", rows)))


def test_ids_that_stand_for_other_questions_are_refused(tmp_path):
    a = write(tmp_path / "a.jsonl", [{"id": i, "question": f"what is {i}?", "correct": 1} for i in range(4)])
    b = write(tmp_path / "b.jsonl", [{"id": i, "question": f"what is {i + 1}?", "correct": 0} for i in range(4)])
    with pytest.raises(UserError, match="4 of 4 ids stand for different questions"):
        compare(read(a), read(b))


def test_a_file_is_not_compared_with_itself(tmp_path, pair):
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(pair[0].read_bytes())
    with pytest.raises(UserError, match="byte for byte"):
        compare(read(pair[0]), read(copy))
    assert compare(read(pair[0]), read(copy), How(identical=True)).effect.value == 0


def test_an_arm_that_did_nothing_is_warned_about(tmp_path):
    a = write(tmp_path / "a.jsonl", scored([1, 0, 1], text="same", arm="a"))
    b = write(tmp_path / "b.jsonl", scored([1, 0, 1], text="same", arm="b"))
    assert "did nothing" in compare(read(a), read(b)).warnings[0]


def test_repeats_that_agree_are_called_no_replicates(tmp_path):
    files = [
        write(tmp_path / f"{n}.jsonl", [{"id": i, "seed": s, "correct": (i + k) % 2} for i in range(6) for s in (0, 1)])
        for k, n in enumerate("ab")
    ]
    assert any("add nothing" in w for w in compare(*map(read, files)).warnings)


def test_differing_protocols_are_named(tmp_path):
    cards = [{"decode": {"steps": s, "temperature": 0}, "study_hash": str(s), "n": s} for s in (64, 128)]
    files = []
    for k, card in enumerate(cards):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "protocol.json").write_text(json.dumps(card))
        files.append(read(write(folder / "rows.jsonl", scored([k, 1, 0]))))
    assert protocol_differences(*cards) == ["decode.steps (64, 128)"]
    assert any("decode.steps (64, 128)" in w for w in compare(*files).warnings)
    bare = read(write(tmp_path / "bare.jsonl", scored([1, 1, 1])))
    assert any("bare.jsonl has no protocol card" in w for w in compare(files[0], bare).warnings)


def test_one_item_is_undefined_not_zero(tmp_path):
    a, b = write(tmp_path / "a.jsonl", scored([1])), write(tmp_path / "b.jsonl", scored([0]))
    with pytest.raises(UndefinedEstimate, match="needs at least 2"):
        compare(read(a), read(b))


# --- readers -----------------------------------------------------------------------------------------------------


def test_scores_are_read_as_written():
    words = {"right": 1, "C": 1, "true": 1, "0.25": 0.25, "I": 0, "unreadable": 0, "P": 0.5, "N": 0, "Wrong": 0}
    assert {w: score_of(w) for w in words} == words
    assert [score_of(v) for v in (True, 0, 0.5)] == [1, 0, 0.5]
    assert [score_of(v) for v in (74, -1, None, float("nan"), "maybe", [1], {"a": 1})] == [None] * 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ('{"id": 1, "correct": 1}\n{"id": 2,\n', "line 2 is not JSON"),
        ('{"id": 1, "correct": 1}\n[1]\n', "line 2 is not an object"),
        ('{"id": 1, "correct": 1}\n{"id": 2, "correct": null}\n', "line 2: correct is None; expected true, false or"),
        ('{"id": 1, "correct": 74}\n', "line 1: correct is 74; expected"),
        ('{"id": 1, "correct": NaN}\n', "line 1: correct is nan"),
        ('{"correct": 1}\n', "line 1: no item id"),
        ('{"id": 1, "grade": 1}\n', "line 1: no score; expected a column called correct"),
        ('{"a": 1}', "no item id"),
        ('{\n"a": 1\n}', "one JSON object, not a list"),
        ("[1, 2]", "entry 1 is not an object"),
        ("id,correct\n1,1\n2\n", "line 3 has 1 columns, the header has 2"),
        ("hello\nworld\n", "line 1 is neither JSON nor a CSV header"),
        ('id,correct\n1,"1\n', "not CSV"),
        ("id,correct\n", "no result in the file"),
    ],
)
def test_a_bad_file_is_one_line_with_file_and_line(tmp_path, text, expected):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        read(path)
    assert "bad.txt" in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_name_the_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"id": 1, "correct": 1}\n{"id": "\xff"}\n')
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        read(path)


def test_csv_tsv_json_lists_and_jsonl_read_alike(tmp_path):
    expected = [("1", 1.0), ("2", 0.0)]
    texts = {
        "a.csv": "id,verdict\n1,right\n2,unreadable\n",
        "a.tsv": "id\tcorrect\n1\ttrue\n2\tfalse\n",
        "semi.csv": "\ufeffitem;score\n1;1\n\n2;0\n",
        "a.json": '[{"id": 1, "correct": true},\n {"id": 2, "correct": false}]',
        "a.jsonl": '{"doc_id": 1, "exact_match": 1.0}\n\n{"doc_id": 2, "exact_match": 0.0}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert [(r.item, r.score) for r in read(tmp_path / name).records] == expected, name
    assert read(tmp_path / "a.csv").records[1].answer == ""


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"key": "x", "ok": True, "id": 1, "correct": False}])
    assert read(path, Columns(item="key", metric="ok")).records[0][1:3] == ("x", 1.0)
    with pytest.raises(UserError, match="no 'okk'; did you mean 'ok'"):
        read(path, Columns(metric="okk"))


def lm_eval(tmp_path, metrics=("exact_match",), filters=("strict-match", "flexible-extract")):
    rows = [
        {"doc_id": i, "doc": {}, "target": "7", "resps": [["x"]], "filter": f, "metrics": list(metrics),
         "doc_hash": f"h{i}", **{m: float(i % (k + 2) == 0) for m in metrics}}
        for k, f in enumerate(filters) for i in range(6)
    ]  # fmt: skip
    return write(tmp_path / "samples_gsm8k.jsonl", rows)


def test_lm_eval_samples_are_one_filter_never_both(tmp_path):
    path = lm_eval(tmp_path)
    with pytest.raises(
        UserError, match=r"2 answer filters \(strict-match, flexible-extract\); choose one with --filter"
    ):
        read(path)
    strict = read(path, Columns(filter="strict-match"))
    assert (strict.kind, len(strict.records)) == ("lm-eval", 6)
    assert sum(r.score for r in strict.records) == 3
    assert strict.records[0].question
    with pytest.raises(UserError, match="did you mean 'strict-match'"):
        read(path, Columns(filter="strict"))
    two = lm_eval(tmp_path, ("acc", "acc_norm"), ("none",))
    with pytest.raises(UserError, match=r"2 metrics \(acc, acc_norm\)"):
        read(two)
    assert len(read(two, Columns(metric="acc_norm")).records) == 6


def test_our_store_is_read_by_condition(tmp_path):
    folder = store(tmp_path / "s", {"none": {"1": "r", "2": "w", "3": "u"}, "plan[x]": {"1": "r", "2": "r", "3": "w"}})
    with pytest.raises(UserError, match=r"holds 2 conditions; name one, as .*:none \(known: none, plan\[x\]\)"):
        open_spec(str(folder))
    a, b = open_spec(f"{folder}:none"), open_spec(f"{folder / 'rows.sqlite'}:plan[x]")
    assert (compare(a, b).effect.gain, compare(a, b).effect.loss) == (1, 0)
    assert [r.answer for r in a.records] == ["7", "8", ""]
    with pytest.raises(UserError, match="did you mean 'none'"):
        open_spec(f"{folder}:nine")
    with pytest.raises(UserError, match="byte for byte"):
        compare(a, open_spec(str(folder), condition="none"))


def test_a_store_without_grades_or_rows_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="1 of 1 rows are not graded; run triaxis grade"):
        read(store(tmp_path / "ungraded", {"none": {"1": "r"}}, graded=False))
    with pytest.raises(UserError, match="holds no rows"):
        read(store(tmp_path / "empty", {}))
    (tmp_path / "no").mkdir()
    with pytest.raises(UserError, match=r"no rows\.sqlite there"):
        read(tmp_path / "no")
    lm_eval(tmp_path / "no")
    with pytest.raises(UserError, match=r"name one of its files, such as .*samples_gsm8k\.jsonl"):
        read(tmp_path / "no")


def test_a_store_of_branches_votes(tmp_path):
    folder = store(tmp_path / "s", {"vote": {"1": "rrw", "2": "rww", "3": "uur"}})
    results = open_spec(str(folder))
    assert item_scores(results, How(vote=True)) == {"1": 1, "2": pytest.approx(1 / 3), "3": 1}


def test_inspect_logs_need_the_package_or_are_read(tmp_path):
    path = tmp_path / "x.eval"
    path.write_bytes(b"PK\x03\x04 nothing")
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"pip install 'triaxis\[inspect\]'"):
            read(path)
        return
    with pytest.raises(UserError, match="inspect_ai cannot read this log"):
        read(path)
    a, b = inspect_log(tmp_path / "a.eval", "CCIPN"), inspect_log(tmp_path / "b.eval", "CICC ")
    assert [r.score for r in read(a).records] == [1, 1, 0, 0.5, 0]
    with pytest.raises(UserError, match="lacks 1"):
        compare(read(a), read(b))
    found = compare(read(a), read(b), How(intersect=True))
    assert (found.effect.n, found.effect.value) == (4, pytest.approx(0.125))
    assert any("without a score" in w for w in found.warnings)


def inspect_log(path, values):
    log = pytest.importorskip("inspect_ai.log")
    from inspect_ai.scorer import Score

    samples = [
        log.EvalSample(
            id=f"q{i}",
            epoch=1,
            input=f"what is {i}",
            target="1",
            scores={"match": Score(value=v)} if v.strip() else None,
        )
        for i, v in enumerate(values)
    ]
    spec = log.EvalSpec(
        created="2026-01-01T00:00:00+00:00", task="t", dataset=log.EvalDataset(), model="m", config=log.EvalConfig()
    )
    log.write_eval_log(log.EvalLog(status="success", eval=spec, samples=samples), str(path))
    return path


def test_labels_tell_equal_names_apart(tmp_path):
    for name in "xy":
        (tmp_path / name).mkdir()
    files = [read(write(tmp_path / n / "rows.jsonl", scored([1, k]))) for k, n in enumerate("xy")]
    assert [f.label for f in relabel(files)] == ["x/rows.jsonl", "y/rows.jsonl"]


# --- growing files, cells ----------------------------------------------------------------------------------------


def test_a_growing_file_counts_only_finished_lines_and_items(tmp_path):
    a = write(tmp_path / "a.jsonl", scored([1, 0, 1]))
    b = tmp_path / "b.jsonl"
    b.write_text('{"id": "q0", "correct": 0}\n{"id": "q1", "corr')
    late = Columns(unfinished=True)
    assert growing(read(a, late), read(b, late), 1) == (0, 1, 1)
    (tmp_path / "none.jsonl").write_text("")
    assert growing(read(a, late), read(tmp_path / "none.jsonl", late), 1) == (0, 0, 0)
    twice = write(
        tmp_path / "c.jsonl", [{"id": "q0", "branch": k, "correct": 1} for k in range(2)] + scored([1, 0])[1:]
    )
    assert growing(read(twice, late), read(twice, late), 2) == (0, 0, 1)
    with pytest.raises(UserError, match="say how many with --branches"):
        growing(read(a, late), read(twice, late), 1)


def test_cells_come_from_columns_or_from_files(tmp_path):
    rows = [
        {"id": i, "planner": p, "adapter": a, "correct": (i + k) % 2}
        for k, (p, a) in enumerate((p, a) for p in ("no", "yes") for a in ("no", "yes"))
        for i in range(4)
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    factors, cells = columns(str(path), "planner,adapter", Columns())
    assert factors == {"planner": ("no", "yes"), "adapter": ("no", "yes")}
    files = [write(tmp_path / f"{p}{a}.jsonl", scored(list(cells[p, a].values()))) for p, a in cells]
    specs = [f"{f}@planner={p},adapter={a}" for f, (p, a) in zip(files, cells, strict=True)]
    assert named(specs, Columns())[0] == factors
    with pytest.raises(UserError, match="no column 'plan'; did you mean 'planner'"):
        columns(str(path), "plan", Columns())
    with pytest.raises(UserError, match="given twice"):
        named([specs[0], specs[0]], Columns())
    with pytest.raises(UserError, match="expected FILE@factor=level"):
        named(["x.jsonl"], Columns())
    with pytest.raises(UserError, match="the first cell has planner, adapter"):
        named([specs[0], f"{files[1]}@planner=yes"], Columns())
