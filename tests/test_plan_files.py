"""Bank files: what is written is read, what is damaged is refused with its line, and a bank stands for its planner."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.cli import main
from triaxis.errors import UserError
from triaxis.models.writer import Planner, Written
from triaxis.plans import bank, build, files
from triaxis.plans.files import Bank, BankRow, Manifest
from triaxis.plans.sources import Maker
from triaxis.sampling.executor import Executor
from triaxis.store import PlanRow, Store
from triaxis.tasks import load_task

TASK = load_task("gradeschool")
ITEMS = TASK.items(5)
MANIFEST = Manifest(task=TASK.name, revision=TASK.revision, planner="scribe", identity="scribe-1", parameters=1000)


@dataclass
class Scribe:
    """Stands where a planner does, and counts what it is asked."""

    name: str = "scribe"
    identity: str = "scribe-1"
    parameters: int | None = 1000
    stops_after: int = 10**9
    asked: list[str] = field(default_factory=list)

    def write(self, questions: Sequence[str]) -> list[Written]:
        if len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        self.asked += questions
        return [Written(f"{len(q)} plus 1.\u2028{q}", 5, len(q) % 2 == 0) for q in questions]


def rows_of(planner: Scribe, n: int = 5) -> list[BankRow]:
    items = TASK.items(n)
    return [files.bank_row(i, w) for i, w in zip(items, planner.write([i.question for i in items]), strict=True)]


@pytest.fixture
def made(tmp_path: Path) -> Bank:
    found = Bank(MANIFEST, rows_of(Scribe()), tmp_path / "b.jsonl")
    files.write_bank(found)
    return found


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


# --- the file ---

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
some_rows = st.lists(
    st.builds(BankRow, item=texts, text=texts, tokens=st.integers(0, 99), truncated=st.booleans(), leaks=st.booleans()),
    max_size=5, unique_by=lambda r: r.item,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(some_rows, texts, st.dictionaries(texts, st.integers() | texts, max_size=3), st.sampled_from(files.SUFFIXES))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[BankRow], planner: str, decoding: dict[str, Any], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("bank") / f"b{suffix}"
    written = Bank(replace(MANIFEST, planner=planner, decoding=decoding), rows, path)
    files.write_bank(written)
    first = path.read_bytes()
    assert files.read_bank(path) == written
    files.write_bank(files.read_bank(path))
    assert path.read_bytes() == first, "same bank, same bytes"


def spoil(lines: list[str], at: int, **changes: object) -> list[str]:
    found = json.loads(lines[at - 1]) | changes
    return [*lines[: at - 1], json.dumps({k: v for k, v in found.items() if v is not ...}), *lines[at:]]


SPOILED: Mapping[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a text": (lambda ls: spoil(ls, 3, text="12 plus 8."), ":1: the manifest's checksum "),
    "a lost line": (lambda ls: ls[:-1], ":1: the manifest promises 5 plans, there are 4"),
    "a line twice": (lambda ls: [*ls, ls[2]], f":7: item {ITEMS[1].id!r} stands on line 3 already"),
    "unknown field": (lambda ls: spoil(ls, 4, txt="x"), ":4: unknown field 'txt'; did you mean 'text'?"),
    "missing field": (lambda ls: spoil(ls, 2, tokens=...), ":2: field 'tokens' is missing; a BankRow needs it"),
    "wrong type": (lambda ls: spoil(ls, 2, tokens="5"), ":2: field 'tokens' is '5', expected int"),
    "true is no number": (lambda ls: spoil(ls, 2, tokens=True), ":2: field 'tokens' is True, expected int"),
    "half a character": (lambda ls: spoil(ls, 2, text="\ud800"), ":2: field 'text' is '\\ud800', expected str"),
    "no JSON": (lambda ls: [*ls[:2], "{", *ls[3:]], ":3: not JSON"),
    "no object": (lambda ls: [*ls[:2], "[1]", *ls[3:]], ":3: expected a JSON object, found list"),
    "no manifest": (lambda ls: ls[1:], ":1: this is no bank of format 1"),
    "later format": (lambda ls: spoil(ls, 1, bank=2), ":1: this is no bank of format 1"),
    "unknown in manifest": (lambda ls: spoil(ls, 1, plannr="x"), ":1: unknown field 'plannr'; did you mean 'planner'?"),
    "manifest without planner": (lambda ls: spoil(ls, 1, planner=...), ":1: field 'planner' is missing"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_bank_is_refused_with_its_line(made: Bank, case: str) -> None:
    change, message = SPOILED[case]
    lines = made.path.read_text(encoding="utf-8").split("\n")[:-1]
    made.path.write_text("\n".join([*change(lines), ""]), encoding="utf-8")
    with pytest.raises(UserError) as e:
        files.read_bank(made.path)
    assert str(e.value).startswith(str(made.path) + message)
    assert "\n" not in str(e.value)


def test_a_file_that_is_no_bank_or_cut_off_is_refused(made: Bank, tmp_path: Path) -> None:
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"b\.jsonl:6: the file ends in the middle of a line"):
        files.read_bank(made.path)
    made.path.write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.jsonl:1: the file is empty"):
        files.read_bank(made.path)
    packed = tmp_path / "c.jsonl.gz"
    for raw in (gzip.compress(whole)[:-9], b"no gzip"):
        packed.write_bytes(raw)
        with pytest.raises(UserError, match="not a readable bank"):
            files.read_bank(packed)
    with pytest.raises(UserError, match="not a readable bank"):
        files.read_bank(tmp_path / "none.jsonl")


def test_a_bank_is_checked_against_its_task(made: Bank) -> None:
    files.check_bank(made, TASK)
    with pytest.raises(UserError, match=r"b\.jsonl:1: its plans are for task 'gradeschool' revision .*, not 'gsm8k'"):
        files.check_bank(made, load_task("gsm8k"))
    strange = replace(made, rows=[*made.rows[:1], replace(made.rows[1], item="gradeschool-test-9999")])
    with pytest.raises(UserError, match=r"b\.jsonl:3: task 'gradeschool' has no item 'gradeschool-test-9999' in split"):
        files.check_bank(strange, TASK)
    lying = replace(made, rows=[replace(made.rows[0], leaks=not made.rows[0].leaks)])
    with pytest.raises(UserError, match=r"b\.jsonl:2: leaks is (True|False), but read from the plan it is"):
        files.check_bank(lying, TASK)


def test_a_bank_is_not_written_under_another_name_or_with_doubles(made: Bank, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plans\.txt: a bank is named"):
        files.write_bank(replace(made, path=tmp_path / "plans.txt"))
    with pytest.raises(UserError, match="1 items have two plans"):
        files.write_bank(replace(made, rows=[*made.rows, made.rows[0]]))


# --- a bank in place of a planner ---


def maker(tiny: Executor, n: int = 5, **planners: Scribe) -> Maker:
    table: dict[str, Callable[[], Planner]] = {k: lambda p=p: p for k, p in planners.items()}  # type: ignore[misc]
    return Maker(TASK, TASK.items(n), tiny, table, 0)


def test_a_bank_stands_where_a_planner_does(tiny: Executor, made: Bank, tmp_path: Path) -> None:
    name = f"file:{made.path}"
    scribe, from_file = maker(tiny, scribe=Scribe()), maker(tiny)
    for kind in ("true", "filler", "numbers", "shuffle-steps", "truncate-6", "counterfactual"):
        assert [p.text for p in from_file.make(f"{kind}:{name}", ITEMS)] == [
            p.text for p in scribe.make(f"{kind}:scribe", ITEMS)
        ], kind
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        plans = bank.fill(store, from_file, [f"true:{name}"])
    assert [plans[f"true:{name}", i.id].text for i in ITEMS] == [r.text for r in made.rows]
    planner = from_file.planner(name)
    assert (planner.name, planner.parameters) == (name, 1000)
    assert [w.text for w in planner.write([i.question for i in ITEMS[::-1]])] == [r.text for r in made.rows[::-1]]


def test_a_changed_bank_is_another_planner(tiny: Executor, made: Bank) -> None:
    name = f"file:{made.path}"
    before = bank.plan_id(maker(tiny), f"true:{name}", ITEMS[0])
    files.write_bank(replace(made, rows=[replace(made.rows[0], text="12 plus 9."), *made.rows[1:]]))
    assert bank.plan_id(maker(tiny), f"true:{name}", ITEMS[0]) != before


def test_what_a_bank_cannot_give(tiny: Executor, made: Bank) -> None:
    name = f"file:{made.path}"
    more = maker(tiny, n=8)
    with pytest.raises(UserError, match=rf"b\.jsonl' has no plan of item {more.items[5].id} \(3 of 8 are missing\)"):
        more.make(f"true:{name}", more.items)
    with pytest.raises(UserError, match=r"holds plans for task 'gradeschool' revision .*, this is 'gsm8k'"):
        replace(more, task=load_task("gsm8k")).make(f"true:{name}", more.items[:1])
    with pytest.raises(UserError, match="no bank file and no bank named 'nowhere'"):
        more.make("true:file:nowhere", more.items)
    planner = files.open_bank(name)
    with pytest.raises(UserError, match=r"no plan for a question that is not its task's: 'How many\?'"):
        planner.write(["How many?"])
    with pytest.raises(UserError, match="completes no prompts"):
        planner.complete(["How many?"])


def test_the_shipped_banks_are_sound_and_small() -> None:
    shipped = {name: path for name, path in files.shipped().items() if path.parent != files.LOCAL}
    assert {"tiny-planner-s", "tiny-planner-m", "tiny-planner-l"} <= set(shipped)
    for name in shipped:
        held = files.open_bank(f"file:{name}").bank
        files.check_bank(held, load_task(held.manifest.task))
        assert "build" in held.manifest.command
    assert sum(path.stat().st_size for path in shipped.values()) < 1_000_000


def test_the_tiny_planners_banks_are_found_by_name_and_hold_their_plans(planners: Mapping[str, Planner]) -> None:
    for size, planner in planners.items():
        shipped = files.open_bank(f"file:tiny-planner-{size}")
        assert shipped.parameters == planner.parameters
        model, now = (identity.split("/")[0] for identity in (shipped.bank.manifest.identity, planner.identity))
        assert model == now, f"tiny-planner-{size} was trained anew: delete its bank and run the manifest's command"
        assert {i.id for i in TASK.items()} == set(shipped.bank.plans), "whatever the seed, no planner is needed"
        items = TASK.items(6)
        assert shipped.plans(items, TASK) == [
            Written(w.text, w.tokens, w.truncated) for w in planner.write([i.question for i in items])
        ]


# --- building ---


def test_a_build_makes_each_plan_once(tmp_path: Path) -> None:
    path, scribe = tmp_path / "b.jsonl.gz", Scribe()
    first = build.build(scribe, TASK, 5, path, command="c")  # type: ignore[arg-type]
    assert sorted(first.rows, key=lambda r: r.item) == list(first.rows)
    assert (first.manifest.parameters, first.manifest.command, len(scribe.asked)) == (1000, "c", 5)
    raw, when = path.read_bytes(), path.stat().st_mtime_ns
    assert build.build(scribe, TASK, 5, path, command="again") == first  # type: ignore[arg-type]
    assert len(scribe.asked) == 5
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (raw, when)
    more = build.build(scribe, TASK, 9, path)  # type: ignore[arg-type]
    assert len(scribe.asked) == 9
    assert set(first.rows) < set(more.rows)
    assert [p.name for p in tmp_path.iterdir()] == ["b.jsonl.gz"]
    files.check_bank(files.read_bank(path), TASK)


def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    path, whole = tmp_path / "b.jsonl", tmp_path / "whole.jsonl"
    n = 2 * bank.PART + 3
    build.build(Scribe(), TASK, n, whole)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        build.build(Scribe(stops_after=bank.PART), TASK, n, path)  # type: ignore[arg-type]
    assert not path.exists()
    scratch = tmp_path / "b.jsonl.unfinished"
    scratch.write_bytes(scratch.read_bytes() + b'{"item": "gradeschool-te')  # killed in the middle of a line
    with pytest.raises(
        UserError, match=r"b\.jsonl\.unfinished holds a bank of another identity \('scribe-1', not 'x'\)"
    ):
        build.build(Scribe(identity="x"), TASK, n, path)  # type: ignore[arg-type]
    later = Scribe()
    build.build(later, TASK, n, path)  # type: ignore[arg-type]
    assert len(later.asked) == n - bank.PART
    assert path.read_bytes() == whole.read_bytes()
    assert not scratch.exists()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_a_scratch_file_cut_anywhere_is_taken_up(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "b.jsonl"
    with pytest.raises(KeyboardInterrupt):
        build.build(Scribe(stops_after=1), TASK, bank.PART + 1, path)  # type: ignore[arg-type]
    scratch = folder / "b.jsonl.unfinished"
    raw = scratch.read_bytes()
    kept = raw[: cut % (len(raw) + 1)]
    scratch.write_bytes(kept)
    later = Scribe()
    build.build(later, TASK, bank.PART + 1, path)  # type: ignore[arg-type]
    assert len(later.asked) == bank.PART + 1 - max(0, kept.count(b"\n") - 1)
    files.check_bank(files.read_bank(path), TASK)


def test_a_build_does_not_overwrite_another_bank(made: Bank, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a bank of another identity"):
        build.build(Scribe(identity="scribe-2"), TASK, 5, made.path)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a bank is named NAME"):
        build.build(Scribe(), TASK, 5, tmp_path / "b.txt")  # type: ignore[arg-type]
    assert files.read_bank(made.path) == made


@pytest.mark.slow
def test_a_build_killed_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    command = ["plans", "build", "--planner", "tiny-planner-s", "--n", "400", "--out", "b.jsonl"]
    program = f"from triaxis.cli import main; main({command!r})"
    rng, acknowledged = random.Random(7), 0
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        time.sleep(rng.uniform(3, 9))
        child.send_signal(signal.SIGKILL)
        child.wait()
        scratch = tmp_path / "b.jsonl.unfinished"
        now = scratch.read_bytes().count(b"\n") if scratch.exists() else 0
        assert now >= acknowledged or (tmp_path / "b.jsonl").exists(), "what was on the disk stays there"
        acknowledged = now
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    assert len(files.read_bank(tmp_path / "b.jsonl").rows) == 400


# --- studies ---


@pytest.fixture
def study(tmp_path: Path, tiny: Executor) -> Path:
    """A study's store with the plans of "scribe" for the first five items, and its protocol."""
    folder = tmp_path / "study"
    protocol = {
        "planners": [{"name": "scribe", "identity": "scribe-1", "parameters": 1000}],
        "task": {"name": TASK.name, "revision": TASK.revision},
        "seeds": [0],
    }
    with Store(folder / "rows.sqlite", write=True) as store:
        store.set("protocol", json.dumps(protocol))
        bank.fill(store, maker(tiny, scribe=Scribe()), ["true:scribe"])
    return folder


def stored(folder: Path) -> dict[str, PlanRow]:
    with Store(folder / "rows.sqlite", write=False) as store:
        return store.plans()


def test_what_is_exported_is_what_is_imported(study: Path, tmp_path: Path, tiny: Executor) -> None:
    out = build.export(study, "scribe", tmp_path / "out.jsonl", TASK)
    assert set(out.rows) == set(rows_of(Scribe()))
    assert asdict(out.manifest)["parameters"] == 1000
    empty = tmp_path / "empty"
    with Store(study / "rows.sqlite", write=False) as a, Store(empty / "rows.sqlite", write=True) as b:
        b.set("protocol", a.get("protocol") or "")
    assert build.put(files.read_bank(out.path), TASK, empty) == 5
    assert stored(empty) == stored(study), "row by row what the study would have made"
    assert build.put(out, TASK, empty) == 0
    scribe = Scribe()
    with Store(empty / "rows.sqlite", write=True) as store:
        bank.fill(store, maker(tiny, scribe=scribe), ["true:scribe", "filler:scribe"])
    assert not scribe.asked, "the imported plans are used instead of the planner"


def test_what_cannot_be_exported_or_imported(study: Path, made: Bank, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=r"no planner of the study in .* named 'scrib'; did you mean 'scribe'"):
        build.export(study, "scrib", out, TASK)
    with pytest.raises(UserError, match="there is no such file"):
        build.export(tmp_path / "nowhere", "scribe", out, TASK)
    other = replace(made, manifest=replace(made.manifest, identity="scribe-2"))
    with pytest.raises(UserError, match=r"no planner of the study in .* is 'scribe' \(scribe-2\); start a study with"):
        build.put(other, TASK, study)
    assert not out.exists()


# --- the commands ---


def test_the_commands(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "plans", "export", study, "--planner", "scribe", "--out", "out.jsonl.gz", "--json")
    assert (code, json.loads(out)["items"]) == (0, 5)
    code, out, _ = run(capsys, "plans", "check", "out.jsonl.gz", "--json")
    assert (code, json.loads(out)["sound"]) == (0, True)
    code, out, _ = run(capsys, "plans", "import", "out.jsonl.gz", "--into", study, "--json")
    assert (code, json.loads(out)["new"]) == (0, 0)
    code, out, _ = run(capsys, "plans", "import", "out.jsonl.gz", "--name", "mine")
    assert code == 0
    assert "use it as planner file:mine" in out
    code, out, _ = run(capsys, "plans", "show", "mine", "--json", "--n", 2)
    shown = json.loads(out)
    assert (code, shown["rates"]["n"], len(shown["plans"])) == (0, 5, 2)
    assert set(shown["plans"][0]) >= {"item", "text", "truncated", "leaks", "implied", "steps_right"}
    code, _, err = run(capsys, "plans", "import", "mine", "--name", "../x")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = run(capsys, "plans", "import", "mine")
    assert code == 2
    assert "needs one place" in err
    code, _, err = run(capsys, "plans", "check", "out.jsonl")
    assert (code, err.count("\n")) == (2, 1)
    assert "no bank file and no bank named 'out.jsonl'" in err


def test_show_makes_plans_of_any_source(tiny: Executor, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plans", "show", "counterfactual:gold", "--n", 3, "--of", 20)
    assert code == 0
    assert out.count("implies") == 3
    assert "of 20 plans: truncated 0.0%, leaks 0.0%" in out
    code, out, _ = run(capsys, "plans", "show", "truncate-5:gold", "--of", 10, "--json")
    shown = json.loads(out)
    assert shown["rates"]["truncated"] == 1.0
    assert all(p["tokens"] == 5 for p in shown["plans"])


def test_build_by_command_is_the_planners_plans(
    tmp_path: Path, planners: Mapping[str, Planner], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.jsonl"
    asked = ("plans", "build", "--planner", "tiny-planner-s", "--n", 4)
    code, out, _ = run(capsys, *asked, "--out", path, "--json")
    assert (code, json.loads(out)["items"]) == (0, 4)
    held = files.read_bank(path)
    items = TASK.items(4)
    written = planners["s"].write([i.question for i in items])
    assert [held.plans[i.id].text for i in items] == [w.text for w in written]
    assert held.manifest.command == (
        "triaxis plans build --planner tiny-planner-s --task gradeschool --split test --n 4 --seed 0 --out s.jsonl"
    )
    assert held.manifest.identity == planners["s"].identity
    short = tmp_path / "short.jsonl"
    code, _, _ = run(capsys, *asked, "--out", short, "--plan-set", "budget=3")
    cut = files.read_bank(short)
    assert code == 0
    assert {(r.tokens, r.truncated) for r in cut.rows} == {(3, True)}
    assert cut.manifest.decoding["budget"] == 3
    assert cut.manifest.command.endswith("--plan-set budget=3")
    code, _, err = run(capsys, *asked, "--out", path, "--plan-set", "budget=3")
    assert code == 2
    assert "holds a bank of another identity" in err
    code, _, err = run(capsys, "plans", "build", "--planner", "tiny-planner-x", "--n", 4, "--out", path)
    assert (code, err.count("\n")) == (2, 1)
