"""Predictions applied literally, metrics by name, and when they were made."""

from __future__ import annotations

import hashlib
import json

import pytest

from triaxis import registry
from triaxis.errors import UserError
from triaxis.estimate import prereg
from triaxis.estimate.prereg import Prediction, check, decide, find, load, standing


def effect(name="empty", value=-0.08, low=-0.2, high=0.05, verdict="not resolved at this N", n=50, gain=5, loss=9):
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "gain": gain,
        "loss": loss,
        "verdict": verdict,
    }


def summary(**effects):
    return {
        "study": {"n": 50},
        "conditions": [
            {"name": "none", "n": 50, "accuracy": 0.79, "low": 0.65, "high": 0.88},
            {"name": "plan[tiny-planner-l]", "n": 50, "accuracy": 0.81, "low": 0.7, "high": 0.9},
        ],
        "axes": {
            "brittleness": {"effects": [effect(), effect("hint", **effects)], "worst": "empty"},
            "trust": {"planners": [{"planner": "small", "content": effect("c", value=0.1)}], "slope": None},
            "diversity": {"vote": 0.815, "pass_at_k": [0.6, 0.7]},
        },
        "cost": {"tokens": 12345},
    }


def rule(comparison="at_least", metric="accuracy[none]", **more):
    return Prediction(name="r", metric=metric, comparison=comparison, **more)


def outcome(rule_, **effects):
    return check([rule_], summary(**effects))[0].outcome


def test_the_rules_of_the_original_study_fail_literally():
    assert [prereg.published(r) for r in registry.paper("O1").rules] == ["FAILS", "FAILS"]
    assert [r.called for r in registry.paper("O1").rules] == ["HOLDS", "HOLDS"]
    assert decide("at_least", 79.0, 80.0) == "FAILS"
    assert decide("within", 81.5, 80.0, 1.0) == "FAILS"
    assert decide("within", 0.81, 0.80, 0.01) == "HOLDS"  # binary fractions make it 0.010000000000000009
    assert decide("at_least", 0.8, 0.80) == "HOLDS"
    assert (decide("above", 0.8, 0.8), decide("below", 0.8, 0.8)) == ("FAILS", "FAILS")


def test_point_rules_take_the_number_as_it_is():
    assert outcome(rule(target=0.80)) == "FAILS"  # 79.0 against >= 80
    assert outcome(rule(target=0.79)) == "HOLDS"
    assert outcome(rule("at_most", target=0.79)) == "HOLDS"
    assert outcome(rule("within", target=0.80, margin=0.01, metric="axes.diversity.vote")) == "FAILS"


def test_interval_rules_ask_for_the_whole_interval():
    assert outcome(rule(target=0.60, rule="interval")) == "HOLDS"
    assert outcome(rule(target=0.80, rule="interval")) == "NOT RESOLVED"
    assert outcome(rule(target=0.95, rule="interval")) == "FAILS"
    assert outcome(rule("within", target=0.77, margin=0.2, rule="interval")) == "HOLDS"
    assert outcome(rule("within", target=0.77, margin=0.01, rule="interval")) == "NOT RESOLVED"
    assert outcome(rule("within", target=0.5, margin=0.01, rule="interval")) == "FAILS"


@pytest.mark.parametrize(
    ("verdict", "lift", "drop"),
    [
        ("lift", "HOLDS", "FAILS"),
        ("drop", "FAILS", "HOLDS"),
        ("equivalent within 5 points", "FAILS", "FAILS"),
        ("not resolved at this N", "NOT RESOLVED", "NOT RESOLVED"),
    ],
)
def test_directions_follow_the_effects_own_verdict(verdict, lift, drop):
    metric = "axes.brittleness.effects[hint]"
    assert outcome(rule("lift", metric), verdict=verdict) == lift
    assert outcome(rule("drop", metric + ".value"), verdict=verdict) == drop


def test_equivalence_is_tosts_where_the_counts_allow():
    metric = "axes.brittleness.effects[hint]"
    none = {"value": 0.0, "gain": 0, "loss": 0, "n": 200, "low": -0.019, "high": 0.019}
    assert outcome(rule("equivalent", metric, margin=0.014), **none) == "HOLDS"  # 90 % interval +-1.33 points
    assert outcome(rule("equivalent", metric, margin=0.013), **none) == "NOT RESOLVED"
    far = {"value": -0.4, "gain": 0, "loss": 80, "n": 200, "low": -0.47, "high": -0.33}
    assert outcome(rule("equivalent", metric, margin=0.05), **far) == "FAILS"
    graded = {"value": 0.011, "gain": 9, "loss": 3, "n": 200, "low": -0.01, "high": 0.03}
    assert outcome(rule("equivalent", metric, margin=0.04), **graded) == "HOLDS"  # the 95 % interval decides


def test_a_smaller_run_than_predicted_resolves_nothing():
    assert outcome(rule(target=0.5, n=200)) == "NOT RESOLVED"
    assert outcome(rule(target=0.5, n=50)) == "HOLDS"


def test_what_the_run_does_not_have_is_not_resolved():
    assert outcome(rule(metric="accuracy[gone]", target=0.5)) == "NOT RESOLVED"
    assert outcome(rule("lift", metric="axes.trust.slope")) == "NOT RESOLVED"
    assert outcome(rule("lift", metric="axes.trust.planners[large].content")) == "NOT RESOLVED"


def test_metrics_are_found_by_name():
    s = summary()
    assert find("accuracy[plan[tiny-planner-l]]", s).value == 0.81
    assert find("conditions[plan[tiny-planner-l]].accuracy", s) == find("accuracy[plan[tiny-planner-l]]", s)
    assert find("axes.brittleness.effects[0]", s).value == -0.08
    assert find("axes.trust.planners[small].content", s).effect["name"] == "c"
    assert find("axes.diversity.pass_at_k[1]", s).value == 0.7
    assert find("cost.tokens", s).value == 12345
    assert find("accuracy[none]", s)[1:4] == (0.65, 0.88, 50)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("axes.britleness.effects[hint]", "no 'britleness'; did you mean 'brittleness'"),
        ("axes.brittleness.worst", "is 'empty', not a number"),
        ("axes.brittleness", "names a group"),
        ("axes..x", "is not a path"),
        ("axes[", "is not a path"),
    ],
)
def test_a_metric_no_summary_has_is_an_error(metric, expected):
    with pytest.raises(UserError, match=expected):
        check([rule(metric=metric, target=0.5)], summary())


def test_percent_for_a_share_is_caught():
    with pytest.raises(UserError, match=r"target 80, but accuracy\[none\] is a share; write 0.8"):
        check([rule(target=80)], summary())
    assert outcome(rule("at_most", metric="cost.tokens", target=20000)) == "HOLDS"


# --- the file ----------------------------------------------------------------------------------------------------


def test_the_template_is_valid_and_round_trips(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(prereg.TEMPLATE.format(name="p.toml"))
    found = load(path)
    assert [p.comparison for p in found.predictions] == ["equivalent", "at_least"]
    assert found.digest == prereg.digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_signs_are_understood(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('[[prediction]]\nname = "a"\nmetric = "accuracy[none]"\ncomparison = ">="\ntarget = 0.8\n')
    assert load(path).predictions[0].words == "accuracy[none] >= 0.8"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no predictions"),
        ("title = [", "not TOML"),
        ("titel = 1", "unknown field 'titel'; did you mean 'title'"),
        ("[[prediction]]\nname='a'\nmetric='m'", "prediction 1: no comparison"),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='atleast'", "did you mean 'at_least'"),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='at_least'", "needs a target"),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='within'\ntarget=1", "needs a margin"),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='lift'\nmargin=1", "takes no margin"),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='lift'\ntarget=1", "takes no target"),
        (
            "[[prediction]]\nname='a'\nmetric='m'\ncomparison='at_least'\ntarget='80'",
            "target is '80'; expected a number",
        ),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='at_least'\ntarget=1\nn=1.5", "n is 1.5; expected a whole"),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='lift'\ntargt=1", "unknown field 'targt'"),
        ("[[prediction]]\nname='a'\nmetric='m'\ncomparison='lift'\n" * 2, "two predictions are named 'a'"),
    ],
)
def test_a_bad_file_names_the_prediction_and_the_field(tmp_path, text, expected):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        load(path)
    assert "p.toml" in str(error.value)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="triaxis prereg new"):
        load(tmp_path / "none.toml")


# --- when --------------------------------------------------------------------------------------------------------


def test_the_stamp_says_whether_rows_were_there_first(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(prereg.TEMPLATE.format(name="p.toml"))
    digest = prereg.digest(path)
    before = prereg.stamp(path, rows_before=0, stamped_at="2026-01-01T00:00:00Z")
    assert set(json.loads(before)) == {"hash", "stamped_at", "rows_before", "file", "text"}
    assert standing(digest, before) == (True, "stamped on 2026-01-01T00:00:00Z, before the first row")
    after = standing(digest, prereg.stamp(path, rows_before=12, stamped_at="2026-01-02"))
    assert not after.before
    assert after.words.startswith("WRITTEN AFTER: 12 rows")
    path.write_text(path.read_text() + "\n")
    assert standing(prereg.digest(path), before).words.startswith("CHANGED")
    assert standing(digest, None).words.startswith("NOT STAMPED")
