"""What fuzzing found, one line a finding: the reader, an input that crashed it, and how it must end now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzz.readers import READERS, stores, weights

from triaxis.errors import UserError

NINES = "9" * 5000
REFUSED, READ = True, False


def changed(document: bytes | str, **fields: Any) -> bytes:
    return json.dumps({**json.loads(document), **fields}).encode()


def cells(*change: Any) -> bytes:
    return json.dumps([change]).encode()


def trace(**fields: Any) -> bytes:
    head, step, *_ = READERS["trace"].seeds()[0].split(b"\n")
    return head + b"\n" + changed(step, **fields) + b"\n"


def config(**fields: Any) -> bytes:
    return changed(weights.adapter_files()["adapter_config.json"], **fields)


def preset(text: str) -> bytes:
    return b'[[condition]]\nname = "none"\nrole = "baseline"\n' + text.encode()


def harness_task(old: str, new: str) -> bytes:
    return READERS["task-lm-eval"].seeds()[0].replace(old.encode(), new.encode())


def prereg(more: str) -> bytes:
    return b'[[prediction]]\nname = "x"\nmetric = "axes.diversity.vote"\ncomparison = "at_least"\n' + more.encode()


FINDINGS = {
    "a long foreign value fills the screen": ("rows-csv", f"id,correct\nq1,{NINES}\n".encode(), REFUSED),
    "a table's name of other bytes than UTF-8": ("store-pages", None, REFUSED),
    "a text where a number belongs": ("store-cells", cells("grades", 4, "x"), READ),
    "a damaged protocol card": ("store-cells", cells("meta", 1, {"spec": 1}), READ),
    "another alpha": ("adapter-config", config(lora_alpha=[1]), REFUSED),
    "an infinite alpha": ("adapter-config", config(lora_alpha=10**400), REFUSED),
    "alphas that are no object": ("adapter-config", config(alpha_pattern=[1]), REFUSED),
    "an alpha for no pattern": ("adapter-config", config(alpha_pattern={"(": 1}), REFUSED),
    "a pattern without end": ("adapter-config", config(alpha_pattern={"(a+)+": 1}), REFUSED),
    "no metadata": ("resume", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", READ),
    "a number of 5,000 digits in TOML": ("preset", preset(f"branches = {NINES}"), REFUSED),
    "a superscript length": ("preset", preset('[[grid]]\nname = "g"\nlevels = {length = ["\u00b2"]}'), REFUSED),
    "a grid without end": (
        "preset", preset('[[grid]]\nname = "g"\nlevels = {length = [' + "1," * 3000 + "]}"), REFUSED),
    "conditions that are a text": ("preset", b'condition = "x"', REFUSED),
    "an arm that is a number": ("preset", preset("[[condition]]\nname = 3"), REFUSED),
    "settings that are a list": ("preset", preset("[[condition]]\nname = 'a'\nrole='trust'\ndecode = [1]"), REFUSED),
    "a scaffold that is a truth": ("preset", preset("[[scaffold]]\nname = 'a'\ntemplate = true"), REFUSED),
    "a target beyond all floats": ("prereg", prereg(f"target = {'9' * 400}"), REFUSED),
    "a target that is no number": ("prereg", prereg("target = nan"), REFUSED),
    "5,000 digits in a prediction": ("prereg", prereg(f"target = {NINES}"), REFUSED),
    "a superscript N": ("claims-csv", "name,value,n\nx,74.0,\u00b2\n".encode(), REFUSED),
    "digits of another script": ("claims-csv", "name,value\nx,\u0663/\u0665\n".encode(), REFUSED),
    "an accuracy of 5,000 digits": ("claims-csv", f"name,value,n\nx,{NINES}.0,50\n".encode(), REFUSED),
    "two thousand million items": ("claims-yaml", b'[{"name": "x", "value": "74.0", "n": "2147483648"}]', REFUSED),
    "N of thirty digits": ("arguments", b"audit\nclaim\n--baseline\n37/50\n--treatment\n33/" + b"1" * 30, READ),
    "an alias": ("claims-yaml", b"- &a {name: x, value: 37/50}\n- *a\n", REFUSED),
    "a trace without decoding": ("trace", b'{"schema": 1}\n', REFUSED),
    "a commit without alternatives": ("trace", trace(commits=[[0, 5, 0.9, 0.1]]), REFUSED),
    "a chance that is a text": ("trace", trace(commits=[[0, 5, "x", 0.1, [[5, 0.9]]]]), REFUSED),
    "an infinite chance": ("trace", trace(left=[[1, 5, 10**400, 1.0]]), REFUSED),
    "a place that is a list": ("trace", trace(commits=[[[0], 5, 0.9, 0.1, [[5, 0.9]]]]), REFUSED),
    "no account of that name": ("planner-spec", b"~\x00", REFUSED),
    "a template nested too deep": ("training-data", b"{{ " + b"(" * 5000, READ),
    "metrics that are no list":
        ("task-lm-eval", harness_task("\n  - {metric: exact_match, ignore_case: true}", " 7"), REFUSED),
    "a template that divides by zero": ("task-lm-eval", harness_task("{{question}}", "{{ 1 // 0 }}"), REFUSED),
    "a template of the harness nested too deep":
        ("task-lm-eval", harness_task("{{question}}", "{{ " + "(" * 5000), REFUSED),
    "a task that is no text": ("task-lm-eval", harness_task("json", "json\xfd").replace(b"\xc3\xbd", b"\xfd"), REFUSED),
    "ten to the ten millionth": ("completion", b"19191e9991919\nso 19", READ),
}  # fmt: skip


@pytest.mark.parametrize("finding", FINDINGS)
def test_what_was_found_stays_fixed(finding: str, tmp_path: Path) -> None:
    name, data, refused = FINDINGS[finding]
    if not READERS[name].ready:
        pytest.skip(f"needs the package {READERS[name].needs}")
    if data is None:
        data = (stores.study() / "rows.sqlite").read_bytes().replace(b"grades", b"gra\xff\xfes")
    if not refused:
        READERS[name].run(data, tmp_path)
        return
    with pytest.raises(UserError) as told:
        READERS[name].run(data, tmp_path)
    assert len(str(told.value)) <= 1000


def test_a_page_of_a_summary_whose_shapes_have_no_intervals(tmp_path: Path) -> None:
    summary = json.loads((stores.study() / "summary.json").read_text())
    summary["axes"]["brittleness"]["simultaneous"]["intervals"] = {}
    with pytest.raises(UserError, match="lacks its simultaneous interval"):
        READERS["summary"].run(json.dumps(summary).encode(), tmp_path)


def test_a_protocol_card_of_empty_objects_has_a_page(tmp_path: Path) -> None:
    protocol = json.loads((stores.study() / "protocol.json").read_text()) | {"extra": [{}, {}]}
    READERS["protocol"].run(json.dumps(protocol).encode(), tmp_path)


@pytest.mark.parametrize("command", ["compare", "simulate", "report", "audit rows"])
def test_a_name_that_no_file_can_have_is_one_line(command: str, tmp_path: Path) -> None:
    READERS["arguments"].run("\n".join([*command.split(), "9" * 5000, "9" * 5000][:3]).encode(), tmp_path)


def test_the_seeds_of_stores_change_values() -> None:
    assert len(stores.cell_seeds()) > 20
