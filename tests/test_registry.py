"""The registry: every shipped entry is valid and complete, and a broken one gives one clear line."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from dataclasses import fields

import pytest

from triaxis import registry
from triaxis.errors import UserError
from triaxis.registry import records, schema

SHIPPED = sorted((registry.HERE / "papers").glob("*.json"))
SCHEMA = json.loads((registry.HERE / "paper.schema.json").read_text())

# What the seed held, counted from it once: claims of each paper, and its 300 numbers as one digest.
SEED_CLAIMS = {
    **{"L1": 53, "L2": 5, "L3": 2, "L4": 2, "L5": 7, "L6": 1, "L7": 1, "L8": 0, "L9": 2, "L10": 5, "L11": 3, "L12": 2},
    **{"L13": 1, "L14": 0, "L15": 0, "L16": 0, "L17": 0, "L17b": 0, "L18": 0, "L18b": 0, "L18c": 0, "L19": 25},
}
SEED_NUMBERS = "782c06c1b4ecf830"


def document(stem="L1-"):
    return json.loads(next(p for p in SHIPPED if p.name.startswith(stem)).read_text())


def numbers(value):
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from numbers(part)


# ---------------------------------------------------------------- what ships


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_file_is_a_valid_entry_and_survives_a_round_trip(path):
    entry = registry.load(path)
    assert registry.validate(registry.as_dict(entry), path.name) == entry
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(path.read_text()))


def test_nothing_of_the_seed_is_lost():
    counts = {p.id: len(p.claims) for p in registry.papers()}
    assert {k: v for k, v in counts.items() if k != "O1"} == SEED_CLAIMS
    assert sum(SEED_CLAIMS.values()) == 109
    seed = sorted(n for p in SHIPPED if p.name.startswith("L") for n in numbers(json.loads(p.read_text())["claims"]))
    assert len(seed) == 300
    assert hashlib.sha256(json.dumps(seed).encode()).hexdigest()[:16] == SEED_NUMBERS
    assert len(registry.baselines()) == 16
    assert (min(b.value for b in registry.baselines()), max(b.value for b in registry.baselines())) == (24.72, 79.3)


def test_there_are_22_papers_and_the_original_study():
    entries = registry.papers()
    assert len(entries) == 23
    assert len(registry.claims()) == 109 + 29
    assert [p.id for p in entries][:3] == ["L1", "L2", "L3"]  # not L1, L10, L11
    assert len({p.arxiv for p in entries if p.arxiv}) == 21
    for p in entries:  # two entries about the same runs name each other
        assert p.same_study is None or registry.paper(p.same_study).same_study == p.id


def test_only_full_text_is_called_verified():
    labels = {p.id: p.label for p in registry.papers()}
    assert [id for id, label in labels.items() if label.startswith("verified")] == ["L1"]
    assert labels["L1"] == "verified (full text)"
    assert labels["L11"] == "unverified (secondary)"
    assert labels["L2"] == "unverified (abstract + secondary)"
    assert labels["L19"] == "unverified (repository)"
    assert labels["O1"] == "unverified (secondary)"


def test_default_discordance_comes_from_the_data_with_its_source():
    known = registry.default_discordance()
    assert (known.value, known.n, known.task) == (0.232, 1319, "GSM8K")
    assert "arXiv:2603.13243" in known.source
    assert "T7" in known.source
    assert "rescue 71.4 %, retention 92.3 %" in known.source
    assert known.label == "verified (full text)"
    for task, baseline in (("GSM8K", 0.756), ("MATH500", 0.358), ("Countdown", 0.191)):  # as derived from rescue
        row = next(c for _, c in registry.claims() if c.task == task and "rescue" in c.values)
        derived = (1 - baseline) * row.values["rescue"] / 100 + baseline * (1 - row.values["retention"] / 100)
        assert registry.default_discordance(task).value == pytest.approx(derived, abs=0.001)
    with pytest.raises(UserError, match="no task with a verified discordance named 'gsm8k'; did you mean 'GSM8K'"):
        registry.default_discordance("gsm8k")


def test_counted_gains_and_losses_explain_the_published_difference():
    counted = [c for _, c in registry.claims() if c.gain is not None]
    assert len(counted) == 7
    for c in counted:
        assert c.delta == pytest.approx(100 * (c.gain - c.loss) / c.n)


def test_axes_of_claims():
    total = len(registry.claims())
    by_axis = {axis: len(registry.claims(axis)) for axis in registry.AXES}
    assert all(0 < n < total for n in by_axis.values())
    assert len(registry.claims("trust")) == by_axis["A2"]
    assert all("A1" in p.axes_of(c) for p, c in registry.claims("brittleness"))
    protocol_only = [c for p, c in registry.claims() if p.id == "L1" and p.axes_of(c) == ()]
    assert len(protocol_only) == 2
    with pytest.raises(UserError, match="did you mean 'brittleness'"):
        registry.claims("britleness")


def test_the_original_study_carries_what_its_audit_needs():
    study = registry.paper("O1")
    rows = {c.condition: c for c in study.claims}
    assert {c.n for name, c in rows.items() if name.startswith("base c") and name != "base cmaj"} == {50}
    assert {c.n for name, c in rows.items() if name.startswith("prefix LoRA v")} == {200}
    assert (rows["base c2empty"].delta, rows["base c2empty"].claimed_n) == (-8.0, 200)
    assert (rows["prefix LoRA v2 c2empty"].n, rows["prefix LoRA v2 c2empty"].baseline_n) == (200, 50)
    assert rows["base c3p 1.5B"].repeats == 2
    (square,) = study.factorials
    assert [c.levels for c in square.missing] == [{"n_blocks": 1, "loss": "answer-span"}]
    assert [(r.comparison, r.target, r.margin, r.observed, r.called) for r in study.rules] == [
        ("at_least", 80.0, None, 79.0, "HOLDS"),
        ("within", 80.0, 1.0, 81.5, "HOLDS"),
    ]
    facts = {f.name: (f.value, f.n) for f in study.facts}
    assert facts["vote_ties"] == (20, 200)
    assert facts["vote_tie_span"] == (6.5, 200)


def test_shares_that_a_count_audit_may_test():
    by_metric = {c.condition: c.is_share for p, c in registry.claims() if p.id in ("L1", "L4", "L5")}
    assert by_metric["hybrid Sonnet plan"]
    assert not by_metric["plan budget150"]  # a mean of five seeds
    assert not by_metric["planned diffusion"]  # a speed-up


def test_a_paper_is_found_by_id_or_arxiv_number():
    assert registry.paper("L1") is registry.paper("2603.13243")
    with pytest.raises(UserError, match="no paper in the registry named 'L17x'; did you mean 'L17"):
        registry.paper("L17x")


# ---------------------------------------------------------------- broken entries


def broken(change):
    entry = document()
    change(entry)
    return entry


BROKEN = {
    "claims[2].value: expected a number or null, got '85.7'": lambda d: d["claims"][2].update(value="85.7"),
    "claims[0]: unknown field 'basline'; did you mean 'baseline'?": lambda d: d["claims"][0].update(basline=1),
    "claims[0].source: missing (table or section, such as T2)": lambda d: d["claims"][0].pop("source"),
    "claims[1].n: expected a whole number or null, got 13.5": lambda d: d["claims"][1].update(n=13.5),
    "claims[1].n: expected a number from 0 to inf, got -1": lambda d: d["claims"][1].update(n=-1),
    "claims[1].value: expected a percentage from 0 to 100, got 101": lambda d: d["claims"][1].update(value=101),
    "claims[1].value: expected a finite number, got nan": lambda d: d["claims"][1].update(value=float("nan")),
    "claims[1].value: expected a number, or several in 'values', got None": lambda d: d["claims"][1].update(value=None),
    "claims[0].baseline_condition: expected a name exactly where there is a baseline, got None": (
        lambda d: d["claims"][0].update(baseline_condition=None)
    ),
    "claims[0].loss: expected gain and loss together or neither, got None": lambda d: d["claims"][0].update(gain=1),
    "claims[0].gain: expected gain + loss of at most n = 1319, got 1400": (
        lambda d: d["claims"][0].update(gain=700, loss=700)
    ),
    "provenance[0]: expected one of full_text, secondary, abstract, repository, got 'fulltext'": (
        lambda d: d.update(provenance=["fulltext"])
    ),
    "provenance: expected a list, got 'full_text'": lambda d: d.update(provenance="full_text"),
    "provenance: expected a list of at least 1, got []": lambda d: d.update(provenance=[]),
    "axes: expected a list without repeats, got ['A1', 'A1']": lambda d: d.update(axes=["A1", "A1"]),
    "id: expected text of the form ^[A-Z][0-9]+[a-z]?$, got 'first'": lambda d: d.update(id="first"),
    "schema: expected one of 1, got 2": lambda d: d.update(schema=2),
    "setup: unknown field 'gen_len'; did you mean 'gen_length'?": lambda d: d["setup"].update(gen_len=128),
    "setup.steps: expected text or a number or true or false or a list or null, got {}": (
        lambda d: d["setup"].update(steps={})
    ),
    "no design variable (setup_notes) named 'step'; did you mean 'steps'?": (
        lambda d: d.update(setup_notes={"step": "64"})
    ),
    "rules[0].margin: expected a number for 'within' and null for the others, got None": (
        lambda d: d.update(rules=[document("O1-")["rules"][1] | {"margin": None}])
    ),
    "factorials[0].cells: expected one cell for each of 4 combinations of levels": (
        lambda d: d.update(factorials=[document("O1-")["factorials"][0] | {"cells": []}])
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_entry_gives_one_line_with_file_field_and_what_was_expected(message):
    with pytest.raises(UserError) as caught:
        registry.validate(broken(BROKEN[message]), "mine.json")
    assert str(caught.value) == f"mine.json: {message}"


def test_an_entry_that_is_no_object_is_refused():
    with pytest.raises(UserError, match=r"mine.json: the entry: expected an object, got \[\]"):
        registry.validate([], "mine.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "L1",\n "title" }', "X1.json: line 2 is not JSON: Expecting ':' delimiter"),
        ('{"id": "L1", "id": "L2"}', "X1.json: field 'id' is given twice in one object"),
        ('{"id": NaN}', "X1.json: NaN is not a number; write null for what is not stated"),
    ],
)
def test_unreadable_files_name_the_line(tmp_path, text, message):
    (tmp_path / "X1.json").write_text(text)
    with pytest.raises(UserError) as caught:
        registry.load(tmp_path / "X1.json")
    assert str(caught.value) == message
    with pytest.raises(UserError, match="cannot be read: No such file"):
        registry.load(tmp_path / "none.json")
    (tmp_path / "X1.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="not UTF-8"):
        registry.load(tmp_path / "X1.json")


def test_a_folder_of_entries_refuses_a_taken_id_and_a_foreign_name(tmp_path):
    (tmp_path / "L1-mine.json").write_text(json.dumps(document()))
    assert [p.id for p in registry.papers(tmp_path)] == ["L1"]
    second = tmp_path / "second"
    second.mkdir()
    (second / "L1-a.json").write_text(json.dumps(document()))
    (second / "L1-b.json").write_text(json.dumps(document()))
    with pytest.raises(UserError, match=r"L1-b.json: id: 'L1' is taken by L1-a.json; choose another"):
        registry.papers(second)
    (second / "L1-b.json").unlink()
    (second / "L1-a.json").rename(second / "L2-a.json")
    with pytest.raises(UserError, match=r"L2-a.json: id: the file name must begin with 'L1-'"):
        registry.papers(second)


# ---------------------------------------------------------------- the schema, the records and the checker agree


def test_records_have_the_fields_of_the_schema():
    defs = SCHEMA["$defs"]
    pairs = [(records.Paper, SCHEMA), (records.Setup, defs["setup"]), (records.Claim, defs["claim"])]
    pairs += [(records.Rule, defs["rule"]), (records.Factorial, defs["factorial"]), (records.Cell, defs["cell"])]
    pairs += [(records.Fact, defs["fact"]), (records.Baseline, defs["baseline"])]
    for record, part in pairs:
        assert [f.name for f in fields(record)] == list(part["properties"]), record
        assert set(part.get("required", [])) <= set(part["properties"])


@pytest.mark.slow
def test_the_checker_agrees_with_jsonschema_on_mutated_entries():
    jsonschema = pytest.importorskip("jsonschema")
    reference = jsonschema.Draft202012Validator(SCHEMA)
    values = [None, True, -1, 0.5, 300, "", "text", [], ["A1"], ["A1", "A1"], [None], {}, {"x": 1}, {"x": "y"}]
    original = document("O1-")
    for part in ("claims", "rules", "facts", "caveats"):
        original[part] = original[part][:1]
    original["setup"] = {k: original["setup"][k] for k in ("executor", "planner", "placement")}
    refused = 0
    for path in list(paths(original)):
        for value in [*values, KeyError]:
            mutant = copy.deepcopy(original)
            holder = mutant
            for step in path[:-1]:
                holder = holder[step]
            if value is KeyError:
                del holder[path[-1]]
            else:
                holder[path[-1]] = value
            try:
                schema.check(mutant, SCHEMA, SCHEMA)
                ours = True
            except UserError:
                ours, refused = False, refused + 1
            assert ours == reference.is_valid(mutant), (path, value)
    assert refused > 300


def paths(value, at=()):
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in steps:
        yield (*at, step)
        yield from paths(part, (*at, step))


def test_importing_the_registry_is_light():
    heavy = "('numpy', 'scipy', 'torch', 'jsonschema')"
    code = f"import sys, triaxis.registry; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
