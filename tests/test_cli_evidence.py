"""The evidence commands from outside: contract keys, exit codes, one clear line for unusable input."""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from triaxis import registry
from triaxis.cli import main
from triaxis.estimate import prereg
from triaxis.store import Row, Store

EFFECT = {"name", "value", "low", "high", "p", "p_holm", "n", "gain", "loss", "mde80", "verdict", "p_midp"}
ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(capsys):
    """(exit code, stdout, stderr) of `triaxis ...`."""

    def call(*argv):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def ask(run):
    """The JSON object a command prints; it must exit 0 and print nothing else on stdout."""

    def call(*argv):
        code, out, err = run(*argv, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def results(path, scores):
    path.write_text("".join(json.dumps({"id": i, "correct": s}) + "\n" for i, s in enumerate(scores)))
    return path


@pytest.fixture
def pair(tmp_path):
    a = results(tmp_path / "a.jsonl", [1] * 37 + [0] * 13)
    return a, results(tmp_path / "b.jsonl", [1] * 28 + [0] * 9 + [1] * 5 + [0] * 8)


# --- the contract ------------------------------------------------------------------------------------------------


def test_compare_prints_one_effect(ask, pair):
    found = ask("compare", *pair)
    assert set(found) >= EFFECT
    assert (found["gain"], found["loss"], found["n"]) == (5, 9, 50)
    assert found["value"] == pytest.approx(-0.08)
    assert found["p"] == pytest.approx(0.424, abs=5e-4)


def test_compare_of_several_files_prints_a_family(ask, pair, tmp_path):
    third = results(tmp_path / "c.jsonl", [0] * 10 + [1] * 40)
    found = ask("compare", *pair, third, "--against", "all")
    assert len(found["effects"]) == 3
    assert all(set(e) >= EFFECT for e in found["effects"])
    assert found["cochran_q"]["df"] == 2


def test_audit_claim_prints_the_range(ask):
    found = ask("audit", "claim", "--baseline", "37/50", "--treatment", "33/50")
    assert {"p_min", "p_max", "value", "mde80", "n80", "verdict"} <= set(found)
    assert found["p_min"] == 0.125
    percent = ask("audit", "claim", "--baseline", "74.0%", "--treatment", "66.0%", "--n", "50")
    assert percent["p_min"] == 0.125
    assert ask("audit", "claim", "--baseline", "134/200", "--treatment", "108/200")["p_max"] == pytest.approx(
        0.0464, abs=1e-4
    )


def test_power_answers_both_ways(ask):
    assert ask("power", "--n", 200, "--discordance", 0.26)["mde80"] == pytest.approx(0.099, abs=5e-4)
    found = ask("power", "--effect", 0.08, "--discordance", 0.26)
    assert (found["n80"], found["n80_normal"]) == (315, 317)
    default = ask("power", "--n", 1319)
    assert default["discordance"] == registry.default_discordance().value
    assert "2603.13243" in default["discordance_source"]
    assert ask("power", "--margin", 0.05, "--discordance", 0.1)["n_equivalence80"] > 100


def test_power_draws(run, tmp_path):
    target = tmp_path / "p.svg"
    code, out, _ = run("power", "--n", 200, "--discordance", 0.26, "--plot", target)
    assert code == 0
    assert "200 items see a difference of 9.9 points or more" in out
    assert target.read_text().lstrip().startswith("<?xml")
    code, _, err = run("power", "--n", 200, "--plot", tmp_path / "p.doc")
    assert (code, ".svg, .png or .pdf" in err) == (2, True)


# --- words for people --------------------------------------------------------------------------------------------


def test_readable_output_says_the_verdict(run, pair):
    code, out, _ = run("compare", *pair)
    assert code == 0
    assert "b.jsonl is 8.0 points below a.jsonl" in out
    assert "not resolved at this N" in " ".join(out.split())
    code, out, _ = run("audit", "claim", "--baseline", "37/50", "--treatment", "33/50")
    assert "no pairing of these counts gives p below 0.125" in out


def test_names_with_brackets_are_shown_as_they_are(run, tmp_path):
    rows = [
        {"id": i, "condition": c, "correct": (i + k) % 2} for k, c in enumerate(("plan[red]", "x")) for i in range(4)
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, out, _ = run("compare", f"{path}:plan[red]", f"{path}:x")
    assert code == 0
    assert "plan[red]" in out


# --- unusable input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("audit", "claim", "--baseline", "74.3%/50", "--treatment", "33/50"), "74.3 % of 50 is impossible"),
        (("audit", "claim", "--baseline", "37", "--treatment", "33/50"), "does not say of how many items"),
        (
            ("audit", "claim", "--baseline", "37/50", "--treatment", "33/50", "--discordance", "26"),
            "write 26 % as 0.26",
        ),
        (("audit", "table", "none.csv"), "none.csv: cannot be read"),
        (("audit", "rows", "none.jsonl"), "none.jsonl: cannot be read"),
        (("audit", "registry", "--paper", "L99"), "no paper in the registry named 'L99'"),
        (("audit", "registry", "--axis", "brittle"), "did you mean 'brittleness'"),
        (("compare", "one.jsonl"), "at least two result files"),
        (("compare", "one.jsonl", "two.jsonl"), "one.jsonl: there is no such file"),
        (("power",), "say what is known"),
        (("power", "--n", "2"), "cannot show any effect"),
        (("power", "--effect", "0.3", "--discordance", "0.2"), "larger than the discordance"),
        (("power", "--n", "200", "--discordance", "26"), "write 26 % as 0.26"),
        (("power", "--n", "200", "--test", "z"), "known: midp, exact"),
        (("power", "--n", "many"), "--n"),
        (("prereg", "check", "none.toml", "."), "none.toml: cannot be read"),
        (("registry", "show", "L0"), "no paper in the registry"),
        (("registry", "add", "nowhere"), "there is no such file; give the folder of a finished study"),
        (("registry", "compare", "--axis", "x"), "no axis named 'x'"),
        (("factorial",), "--factors a,b"),
        (("compare", "--no-such-option"), "no-such-option"),
    ],
)
def test_unusable_input_is_one_line_and_exit_2(run, tmp_path, monkeypatch, argv, expected):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*argv)
    assert code == 2
    assert expected in err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_refused_comparison_names_files_and_the_next_move(run, tmp_path):
    a, b = results(tmp_path / "a.jsonl", [1, 0, 1]), results(tmp_path / "b.jsonl", [1, 0])
    code, _, err = run("compare", a, b)
    assert code == 2
    assert "b.jsonl lacks 1 (such as '2')" in err
    assert "--intersect" in err
    code, out, _ = run("compare", a, b, "--intersect", "--json")
    assert (code, json.loads(out)["a"]["dropped"]) == (0, 1)


# --- audits ------------------------------------------------------------------------------------------------------


def test_audit_rows_compares_answers_as_numbers(ask, tmp_path):
    path = tmp_path / "r.csv"
    path.write_text('id,prediction,gold,correct\n1,75.00,75,0\n2,"1,200",1200,1\n3,$18,#### 18,1\n4,x,3,0\n')
    found = ask("audit", "rows", path)
    texts = [f["message"] for f in found["findings"] if f["code"] == "grading"]
    assert len(texts) == 1
    assert "'75.00' for '75'" in texts[0]


def test_audit_rows_takes_gold_answers_from_a_task(ask, tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": "a", "question": "1+1?", "answer": "2"}\n{"id": "b", "question": "2+2?", "answer": "4"}\n')
    rows = tmp_path / "r.jsonl"
    rows.write_text('{"id": "a", "answer": "2.0", "correct": 0}\n{"id": "b", "answer": "4", "correct": 1}\n')
    found = ask("audit", "rows", rows, "--task", f"jsonl:{items}")
    assert "grading" in {f["code"] for f in found["findings"]}


def test_audit_table_shows_every_finding(run, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("name,value,n,baseline,baseline_n\nhint,68.0,50,74.0,\nlora,70.5,200,74.0,50\nodd,74.3,50,74.0,\n")
    code, out, _ = run("audit", "table", path)
    assert code == 0
    flat = " ".join(out.split())
    assert "74.3 % of 50 is impossible" in flat
    assert "200 items against 50" in flat


def test_audit_registry_marks_what_is_not_verified(run, ask):
    code, out, _ = run("audit", "registry", "--paper", "O1")
    assert code == 0
    assert "unverified (secondary)" in out
    assert "literally it FAILS" in out
    found = ask("audit", "registry")
    assert len(found["papers"]) == len(registry.papers())
    assert found["contradictions"]
    assert {v["name"] for v in found["variables"]} >= {"closed", "placement", "plan_budget"}


# --- studies -----------------------------------------------------------------------------------------------------


def effect(name, value, n=50, gain=5, loss=9, verdict="not resolved at this N"):
    ends = {"low": value - 0.1, "high": value + 0.1, "p": 0.4, "p_holm": 0.8, "mde80": 0.17}
    return {"name": name, "value": value, **ends, "n": n, "gain": gain, "loss": loss, "verdict": verdict}


@pytest.fixture
def study(tmp_path):
    """A finished study's files, as design.md has them."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    conditions = [
        {"name": n, "n": 50, "accuracy": a, "low": a - 0.1, "high": a + 0.1, "unreadable": 0, "truncated": 0}
        for n, a in (("none", 0.74), ("hint", 0.66), ("vote", 0.652))
    ]
    planner = {"planner": "small", "parameters": 10, "content": effect("content[small]", -0.08)}
    planner |= {"scaffold": effect("scaffold[small]", -0.08), "corruptions": {"other": effect("other[small]", -0.08)}}
    summary = {
        "schema": 1,
        "study": {
            "executor": "tiny",
            "planners": ["small"],
            "task": "GSM8K",
            "n": 50,
            "seeds": [0],
            "protocol_hash": "ab",
        },
        "conditions": conditions,
        "axes": {
            "brittleness": {"effects": [effect("hint", -0.08)], "spread": None, "worst": "hint"},
            "trust": {"planners": [planner], "slope": None},
            "diversity": None,
        },
        "cost": {},
        "warnings": ["low power"],
    }
    protocol = {
        "executor": {"name": "tiny", "dtype": "float32"},
        "decode": {"steps": 32, "gen_length": 64, "block_length": 8, "temperature": 0.0},
        "conditions": [
            {"name": "hint", "scaffold": {"template": "x", "placement": "after"}, "branches": 1},
            {
                "name": "vote",
                "scaffold": {"template": "", "placement": "after"},
                "branches": 5,
                "decode": {"temperature": 0.7},
            },
        ],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "protocol.json").write_text(json.dumps(protocol))
    return folder


@pytest.mark.slow
def test_a_study_becomes_an_entry_and_lines_up(ask, run, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = ask("registry", "add", study, "--id", "S7")
    entry = registry.load(Path(made["path"]))
    assert entry.id == "S7"
    assert not entry.verified
    assert (entry.setup.steps, entry.setup.gen_length, entry.setup.dtype) == (32, 64, "float32")
    assert (entry.setup.branches, entry.setup.branch_temperature) == (5, 0.7)
    assert entry.setup.placement == ("after_question",)
    assert entry.setup.closed is None  # not stated, never guessed
    assert {c.condition: c.axes for c in entry.claims if c.unit == "points"} == {
        **{"hint": ("A1",), "content[small]": ("A2",), "other[small]": ("A2",)}
    }
    assert [c.averaged_over for c in entry.claims if c.condition == "vote"] == ["branches of each item"]
    code, _, err = run("registry", "add", study, "--id", "S7")
    assert (code, "left as it is" in err) == (2, True)
    found = ask("registry", "compare", study, "--axis", "brittleness")["claims"]
    ours = [c for c in found if c["paper"].startswith("S")]
    assert [(c["condition"], c["points"], c["verdict"]) for c in ours] == [("hint", -8.0, "not resolved")]
    assert ours[0]["p_min"] == pytest.approx(0.424, abs=5e-4)
    assert [c["points"] for c in found] == sorted(c["points"] for c in found)
    code, out, _ = run("registry", "compare", made["path"], "--axis", "trust")
    assert code == 0
    assert "S7 (unverified (repository)): " in out
    assert re.search(r"^ S7  content\[small\] +GSM8K +tiny +50 +-8\.0 .*●.* not resolved +unverified", out, flags=re.M)


def test_a_broken_study_is_one_line(run, study):
    (study / "summary.json").write_text('{"study": {}, "conditions": [{}], "axes": {}}')
    code, _, err = run("registry", "add", study)
    assert (code, "not as triaxis diagnose writes it" in err) == (2, True)


PREDICTIONS = """
[[prediction]]
name = "reaches 80"
metric = "accuracy[none]"
comparison = ">="
target = {target}

[[prediction]]
name = "a hint hurts"
metric = "axes.brittleness.effects[hint]"
comparison = "drop"
"""


def test_prereg_check_exits_1_when_a_rule_fails(run, study, tmp_path):
    rules = tmp_path / "p.toml"
    rules.write_text(PREDICTIONS.format(target=0.80))
    code, out, _ = run("prereg", "check", rules, study, "--json")
    assert code == 1
    found = json.loads(out)
    assert [o["outcome"] for o in found["outcomes"]] == ["FAILS", "NOT RESOLVED"]
    assert found["made_before"] is False
    assert "NOT STAMPED" in found["standing"]
    rules.write_text(PREDICTIONS.format(target=0.70))
    code, out, _ = run("prereg", "check", rules, study)
    assert code == 0
    assert "HOLDS" in out


def test_prereg_check_reads_the_studys_stamp(run, study, tmp_path):
    rules = tmp_path / "p.toml"
    rules.write_text(PREDICTIONS.format(target=0.70))
    with Store(study / "rows.sqlite", write=True) as store:
        store.append([Row("1", "none", "a", 0, 0, "", "", "", 1, 1, True)])
        store.set("prereg", prereg.stamp(rules, rows_before=1, stamped_at="2026-05-01"))
    assert "WRITTEN AFTER: 1 rows existed" in run("prereg", "check", rules, study)[1]
    with Store(study / "rows.sqlite", write=True) as store:
        store.set("prereg", prereg.stamp(rules, rows_before=0, stamped_at="2026-05-01"))
    assert json.loads(run("prereg", "check", rules, study, "--json")[1])["made_before"] is True


def test_prereg_new_writes_a_valid_file_once(run, tmp_path):
    path = tmp_path / "new.toml"
    assert run("prereg", "new", path)[0] == 0
    assert prereg.load(path).predictions
    code, _, err = run("prereg", "new", path)
    assert (code, "left as it is" in err) == (2, True)


# --- watch, factorial --------------------------------------------------------------------------------------------


def test_watch_stops_when_resolved_or_out_of_polls(ask, tmp_path):
    a = results(tmp_path / "a.jsonl", [1] * 20)
    b = results(tmp_path / "b.jsonl", [0] * 12 + [1] * 8)
    found = ask("compare", a, b, "--watch", "--every", 0, "--polls", 5)
    assert (found["stopped"], found["looks"], found["verdict"]) == ("resolved", 1, "drop")
    assert set(found) >= EFFECT - {"p_midp"}
    few = results(tmp_path / "c.jsonl", [0] * 2 + [1] * 8)
    found = ask("compare", a, few, "--watch", "--every", 0, "--polls", 3)
    assert (found["stopped"], found["looks"], found["n"]) == ("out of polls", 3, 10)
    assert found["verdict"] == "not resolved at this N"


def test_watch_ends_quietly_on_interrupt(run, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    a, b = results(tmp_path / "a.jsonl", [1, 0, 1]), results(tmp_path / "b.jsonl", [1, 1])
    code, out, _ = run("compare", a, b, "--watch")
    assert (code, "Stopped: interrupted" in out) == (0, True)


def test_factorial_attributes_and_names_the_run_owed(ask, run, tmp_path):
    path = tmp_path / "f.csv"
    cells = [(p, a) for p in ("no", "yes") for a in ("off", "on")]
    lines = [f"{i},{p},{a},{int((i * 7 + k * 3) % 5 > 1)}" for k, (p, a) in enumerate(cells) for i in range(20)]
    path.write_text("id,planner,adapter,correct\n" + "\n".join(lines) + "\n")
    found = ask("factorial", path, "--factors", "planner,adapter")
    assert [e["name"] for e in found["effects"]] == ["planner", "adapter", "planner x adapter"]
    assert all(set(e) >= EFFECT for e in found["effects"])
    path.write_text("id,planner,adapter,correct\n" + "\n".join(lines[:60]) + "\n")
    code, _, err = run("factorial", path, "--factors", "planner,adapter")
    assert (code, "never run: planner=yes, adapter=on" in err) == (2, True)


# --- the guide ---------------------------------------------------------------------------------------------------


def rows_csv():
    """Two conditions, one of them with two branches; a string-graded answer, cut-off answers, a repeated row."""
    rows = ["id,branch,condition,prediction,gold,correct,truncated"]
    for i, c in ((i, c) for c in ("bare", "vote") for i in range(6)):
        for b in range(1 if c == "bare" else 2):
            gold = str(10 + i)
            pred = gold + (".00" if i == 2 else "") if (i + b) % 3 else str(90 + i)
            rows.append(f"q{i},{b},{c},{pred},{gold},{int(pred == gold)},{str(c == 'vote' and i < 2).lower()}")
    return [*rows, rows[-1]]


def cells_csv():
    rng = random.Random(3)
    rows = ["id,planner,adapter,correct"]
    for i in range(120):
        ease = rng.gauss(0, 1)
        for p, a in ((p, a) for p in ("no", "yes") for a in ("off", "on")):
            x = ease + 0.9 - (0.9 if p == "yes" else 0) + (0.6 if p == "yes" and a == "on" else 0) + rng.gauss(0, 0.6)
            rows.append(f"q{i},{p},{a},{int(x > 0)}")
    return rows


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / "evidence.md").read_text(), flags=re.S)


@pytest.mark.slow
def test_the_guides_outputs_are_real(run, tmp_path, monkeypatch):
    pytest.importorskip("statsmodels")
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[0], {})
    (tmp_path / "rows.csv").write_text("\n".join(rows_csv()) + "\n")
    (tmp_path / "cells.csv").write_text("\n".join(cells_csv()) + "\n")
    (tmp_path / "owed.csv").write_text("\n".join(r for r in cells_csv() if "yes,on" not in r) + "\n")
    shown = 0
    for command, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks("console")), flags=re.M):
        name, *argv = shlex.split(command)
        if name == "cat":
            (tmp_path / argv[0]).write_text(printed)
            continue
        _, out, err = run(*argv)
        actual = [line.rstrip() for line in (err + out).splitlines()]
        at = 0
        for line in (text.rstrip() for text in printed.splitlines()):
            if line.strip() not in ("", "..."):
                assert line in actual[at:], f"{command}: the guide shows {line!r}"
                at = actual.index(line, at) + 1
                shown += 1
    assert shown > 60


# --- cost --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_of_the_evidence_imports_torch_or_heavy_statistics():
    code = (
        "import sys; from triaxis.cli import evidence, show; from triaxis.estimate import landscape, factorial, "
        "prereg, sequential, design, cells; "
        "bad = {'torch', 'pandas', 'statsmodels', 'scipy.stats', 'matplotlib', 'transformers'}; "
        "sys.exit(str(bad & set(sys.modules)) if bad & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
