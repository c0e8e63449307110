"""The `small` family on a made-up model of its kind: corpus, losses, training that resumes, folders that load."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_file import write_smollm
from torch import nn

from triaxis.errors import UserError
from triaxis.models.planner import load_planner
from triaxis.models.writer import PLAN_PROMPT
from triaxis.sampling.executor import load_executor
from triaxis.sampling.schedule import Decode
from triaxis.tasks import load_task
from triaxis.tasks.gradeschool import Dice
from triaxis.tasks.grading import grade
from triaxis.train.families import small
from triaxis.train.families.small_data import (
    PAIRS,
    RESPONSE,
    batches,
    groups,
    in_words,
    make_corpus,
    published,
    spoiled,
    templates,
    usable,
)
from triaxis.train.families.small_varied import template, vary
from triaxis.train.families.whole import Course, Masters, fit
from triaxis.train.recipes import default_recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with the prepared source."""
    out = tmp_path_factory.mktemp("small")
    small.prepare(out, str(write_smollm(out / "made.gguf")))
    return out


def run(*words: object) -> int:
    return small.main([str(w) for w in words])


def train(what: str, out: Path, *more: object) -> int:
    return run(
        what, "--out", out, "--steps", 8, "--batch", 4, "--rows", 256, "--warmup", 2, "--workers", 1, "--device", "cpu",
        "--rate", 1e-3, *more,
    )  # fmt: skip


# ---------------------------------------------------------------- data


def test_published_sources_end_in_their_answers() -> None:
    assert 6900 < len(published("gsm8k")) < 7473
    assert len(published("svamp")) == 645  # without the row that contradicts itself and the one without calculation
    for s in (*published("gsm8k"), *published("svamp")):
        assert grade(s.solution, s.answer).verdict == "right"
        assert not re.search(r"\d\.0+(?!\d)", s.solution)
    contradicting = next(i for i in load_task("svamp").items(split="train") if i.id == "chal-680")
    assert usable(contradicting) is None


@pytest.mark.slow
def test_problems_with_other_numbers_are_still_right() -> None:
    """Every calculation is true, the answer is the last one, and only numbers of the question have changed."""
    for name, least in (("gsm8k", 0.7), ("svamp", 0.9)):
        known = [(s, t) for s, t in zip(published(name), templates(name), strict=True) if t is not None]
        pairs = [(s, v) for k, (s, t) in enumerate(known) if (v := vary(t, Dice(f"{name}/{k}"))) is not None]
        assert len(pairs) > least * len(published(name))
        for s, v in pairs[::5]:
            assert re.sub(r"[\d,]+", "#", v.question) == re.sub(r"[\d,]+", "#", s.question)
            assert all(Fraction(eval_plain(step)) == Fraction(step.rpartition("=")[2]) for step in v.steps)
            assert v.steps[-1].endswith(f"={v.answer}")
        assert sum(v.question != s.question for s, v in pairs) > 0.9 * len(pairs)


def eval_plain(step: str) -> Fraction:
    left = re.sub(r"(\d+\.?\d*|\.\d+)", r"Fraction('\1')", step.rpartition("=")[0])
    return Fraction(eval(left, {"Fraction": Fraction}))


@pytest.mark.parametrize(
    ("question", "steps"),
    [
        ("A has 5 and B has 5 pens. How many?", ("5+5=10",)),  # which five?
        ("A has 8 pens, B half as many, C 4. How many?", ("8/2=4", "8+4+4=16")),  # which four?
        ("A saves 40% of 50. How much?", ("50*40%=20",)),  # no plain calculation
        ("It is 3rd of 20%.", ("3*20=60",)),  # nothing that may change
    ],
)
def test_problems_that_cannot_be_varied_are_left_alone(question: str, steps: tuple[str, ...]) -> None:
    assert template(question, steps) is None


def test_no_test_item_is_trained_on() -> None:
    tests = {i.question for name in ("gsm8k", "svamp") for i in load_task(name).items()}
    assert not tests & {s.question for name in ("gsm8k", "svamp") for s in published(name)}


@pytest.mark.parametrize("kind", PAIRS)
def test_training_never_shows_a_scaffold_under_test(kind: str) -> None:
    pairs = list(itertools.islice(PAIRS[kind]("0"), 3000))
    asked = [p.prompt.replace(PLAN_PROMPT.split("{")[0], "") for p in pairs]
    assert not any(s in a for a in asked for s in ("Plan:", "<plan>", "step by step", "Hint:", "Draft:"))
    if kind == "executor":
        noted = [p for p in pairs if "Note" in p.prompt]
        assert 0.1 < len(noted) / len(pairs) < 0.25  # a third of the notes has no opener
        assert all(p.response.rpartition("#### ")[2] for p in pairs)
    else:
        assert 0.5 < sum(p.prompt.startswith("Write a short plan") for p in pairs) / len(pairs) < 0.7


def test_plans_in_words_and_spoiled_steps() -> None:
    assert in_words(("12+7=19", "19*2=38")) == "12 plus 7 is 19, then 19 times 2."
    assert in_words(("3-5=-2",)) == "3 minus 5."
    steps = ("12+7=19", "19*2=38")
    for k in range(50):
        wrong = spoiled(steps, Dice(str(k)))
        assert sum(a != b for a, b in zip(wrong, steps, strict=True)) == 1


def test_a_corpus_is_the_same_for_any_number_of_workers(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triaxis.train.families.small_data.CHUNK", 64)
    one = make_corpus(work / small.SOURCE, "planner", 200, seed=3)
    again = make_corpus(work / small.SOURCE, "planner", 200, seed=3)
    assert len(one) + one.left_out == 256
    assert np.array_equal(one.ids, again.ids)
    other = make_corpus(work / small.SOURCE, "planner", 200, seed=4)
    assert not np.array_equal(one.ids[:500], other.ids[:500])


def test_rows_are_the_executors_own_prompts(work: Path) -> None:
    """What is trained on is what `Executor.prompt_ids` makes, the response, its end of turn, then end marks."""
    assert train("executor", work) == 0
    executor = load_executor(str(work / small.EXECUTOR), device="cpu")
    corpus = make_corpus(work / small.SOURCE, "executor", 64, seed=0)
    pair = next(PAIRS["executor"]("0/0"))
    row = corpus.take(np.array([0]), int(corpus.total[0]) + 3)[0].tolist()
    prompt = executor.prompt_ids(pair.prompt)
    stop, eos = executor.end_ids[-1], executor.end_ids[0]
    assert row == [*prompt, *executor.encode(pair.response), stop, eos, eos, eos]
    assert corpus.prompt[0] == len(prompt)


def test_batches_have_one_width_and_room_for_the_canvas(work: Path) -> None:
    corpus = make_corpus(work / small.SOURCE, "executor", 300, seed=0)
    made = groups(corpus, RESPONSE, least=40)
    assert sorted(np.concatenate([rows for _, rows in made]).tolist()) == list(range(len(corpus)))
    assert all(len(rows) >= 40 for _, rows in made)
    first = list(itertools.islice(batches(corpus, 8, RESPONSE, seed=0, start=0), 60))
    for _, rows, width in first:
        assert (corpus.prompt[rows] + RESPONSE <= width).all()
    later = next(batches(corpus, 8, RESPONSE, seed=0, start=57))
    assert later[0] == 57
    assert np.array_equal(later[1], first[57][1])


# ---------------------------------------------------------------- losses


class _Table(nn.Module):
    """A network whose state at a position is what it is shown there: it can copy, and knows nothing hidden."""

    def __init__(self, size: int, mask: int) -> None:
        super().__init__()
        self.config, self.size = type("Config", (), {"mask_token_id": mask})(), size
        self.seen: list[torch.Tensor] = []

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        self.seen.append(ids)
        return nn.functional.one_hot(ids, self.size).float()

    def head(self, states: torch.Tensor) -> torch.Tensor:
        self.scored = states
        return states * 20


def test_only_hidden_response_tokens_of_reached_blocks_are_scored() -> None:
    mask, generator = 9, torch.Generator().manual_seed(0)
    ids = torch.ones(64, 90, dtype=torch.long)
    prompt, content = torch.randint(5, 20, (64,)), torch.randint(1, 40, (64,))
    net = _Table(10, mask)
    loss = small.diffusion_loss(net, small.hide(ids, prompt, content, mask, generator))  # type: ignore[arg-type]
    shown = net.seen[0]
    place = torch.arange(90)[None] - prompt[:, None]
    assert (shown[place < 0] == 1).all()  # prompts are never hidden
    assert (net.scored.argmax(1) == mask).all()  # every scored token was hidden
    reached = -(-content // small.BLOCK) * small.BLOCK
    most = ((shown == mask) & (place < reached[:, None])).sum()
    assert 0 < len(net.scored) <= most
    assert float(loss) > 10  # what is hidden cannot be known


def test_the_causal_loss_is_that_of_transformers(work: Path) -> None:
    from transformers import AutoModelForCausalLM

    causal: Any = AutoModelForCausalLM
    model = causal.from_pretrained(str(work / small.SOURCE), dtype=torch.float32)
    ids = torch.randint(5, 100, (3, 20))
    prompt, content = torch.tensor([5, 8, 3]), torch.tensor([10, 4, 17])
    labels = ids.clone()
    for row, (p, c) in enumerate(zip(prompt, content, strict=True)):
        labels[row, :p] = labels[row, p + c :] = -100
    wanted = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(small.causal_loss(model, small.following(ids, prompt, content)), wanted)


# ---------------------------------------------------------------- training


def test_half_precision_weights_follow_float32_masters() -> None:
    """Steps smaller than bf16 resolves add up in the masters."""
    torch.manual_seed(0)
    net = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    before = net.weight.detach().clone()
    masters = Masters(net, Course(steps=1000, decay=0.0))
    for _ in range(300):
        net.weight.grad = torch.ones_like(net.weight)
        masters.step(1e-5, clip=1.0)
    moved = before.float() - masters.own["weight"]
    torch.testing.assert_close(moved, torch.full_like(moved, 3e-3), rtol=0.05, atol=0)
    assert net.weight.dtype == torch.bfloat16
    assert not torch.equal(net.weight, before)


def test_the_rate_ends_at_zero_by_steps_or_by_minutes() -> None:
    c = Course(steps=100, warmup=10, rate=1e-3)
    assert c.learning_rate(0, 0) == pytest.approx(1e-4)
    assert c.learning_rate(99, 0) < 1e-6
    timed = Course(steps=10_000, warmup=10, rate=1e-3, minutes=2)
    assert timed.learning_rate(500, 60) == pytest.approx(5e-4)
    assert timed.learning_rate(900, 120) == 0
    with pytest.raises(UserError, match="rate=3"):
        Course(steps=1, rate=3)


def test_training_stops_when_its_minutes_are_over(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    steps = lambda start: ((k, lambda: net(torch.ones(1, 2)).sum() ** 2, 2) for k in itertools.count(start))  # noqa: E731
    done = fit(net, steps, Course(steps=10**7, minutes=0.01, warmup=1), tmp_path, {}, lambda line: None)
    assert done.stopped == "minutes"
    assert 0 < done.step < 10**7
    again = fit(net, steps, Course(steps=10**7, minutes=0.01, warmup=1), tmp_path, {}, lambda line: None)
    assert again == done  # a run that has ended is not gone on with


def test_a_killed_run_ends_at_the_same_weights(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(steps=8, batch=4, warmup=2, every=3, rate=1e-3)
    places = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / small.SOURCE).symlink_to(work / small.SOURCE)
        places[name] = small.parse(["executor", "--out", str(tmp_path / name), "--workers", "1", "--device", "cpu"])
    small.train_executor(tmp_path / "whole", course, 128, places["whole"])
    real, calls = small.diffusion_loss, []

    def dies(*given: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(small, "diffusion_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        small.train_executor(tmp_path / "killed", course, 128, places["killed"])
    small.train_executor(tmp_path / "killed", course, 128, places["killed"])
    assert len(calls) == 6 + 5  # from step 3 on
    one, two = ((tmp_path / n / small.EXECUTOR / "model.safetensors").read_bytes() for n in places)
    assert one == two


def test_other_settings_do_not_go_on_with_a_checkpoint(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / small.SOURCE).symlink_to(work / small.SOURCE)
    assert train("executor", tmp_path) == 0
    assert train("executor", tmp_path, "--shift", 0) == 2
    assert "shift=1, not 0; choose another --out" in capsys.readouterr().err
    assert run("planner", "--out", tmp_path / "nowhere") == 2
    assert "the model is not there; run: python -m triaxis.train.families.small prepare" in capsys.readouterr().err


def test_what_training_makes_is_used_like_any_other_folder(work: Path) -> None:
    assert train("executor", work) == 0
    assert train("planner", work) == 0
    executor = load_executor(str(work / small.EXECUTOR), device="cpu")
    c = executor.checkpoint
    assert (c.family.name, c.network.shape.shift, c.config.mask_token_id) == ("small", 1, 4)
    assert executor.default_decode() == Decode(gen_length=64, block_length=16, steps=32, stop="eos_block")
    assert executor.tokenizer.token_to_id("<|mask|>") == 4
    assert "<|mask|>" not in json.loads((work / small.SOURCE / "tokenizer.json").read_text())["model"]["vocab"]
    made = executor.generate_ids([executor.prompt_ids("5+7?")], executor.default_decode())[0]
    assert len(made) == 64
    assert c.config.mask_token_id not in made
    planner = load_planner(str(work / small.TUNED), budget=8)
    assert planner.write(["What is 5+7?"])[0].tokens <= 8
    assert planner.parameters == load_planner(str(work / small.SOURCE)).parameters
    assert default_recipe("prefix", c.family.name).rate == 1e-3


def test_the_shift_is_the_checkpoints_own(work: Path, tmp_path: Path) -> None:
    """Both settings train and load, and mean different positions of the same states."""
    device = torch.device("cpu")
    nets = [small.open_executor(work / small.SOURCE, tmp_path / str(s), s, device) for s in (0, 1)]
    ids = torch.randint(5, 100, (2, 12))
    with torch.no_grad():
        plain, shifted = (n.hidden(ids) for n in nets)
    torch.testing.assert_close(plain[:, :-1], shifted[:, 1:])


def test_layers_are_kept_from_the_front(tmp_path: Path) -> None:
    write_smollm(tmp_path / "made.gguf")
    assert run("prepare", "--out", tmp_path, "--gguf", tmp_path / "made.gguf", "--layers", 1) == 0
    assert load_planner(str(tmp_path / small.SOURCE), budget=4).complete(["the"])[0].tokens <= 4
    assert run("prepare", "--out", tmp_path, "--gguf", tmp_path / "made.gguf", "--layers", 9) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [(["prepare", "--gguf", "nowhere.gguf"], "no such file"), (["write"], "run the stage eval first")],
)
def test_a_stage_that_cannot_begin_says_why_in_one_line(tmp_path: Path, given: list[str], message: str) -> None:
    script = str(ROOT / "recipes" / "small" / "run.py")
    done = subprocess.run([sys.executable, script, *given, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_whole_recipe_at_toy_scale(tmp_path: Path) -> None:
    """Every stage of recipes/small/run.py on a made-up model, its archive, and the tables made from it elsewhere."""
    gguf, out = write_smollm(tmp_path / "made.gguf"), tmp_path / "small"
    script = str(ROOT / "recipes" / "small" / "run.py")
    common = ["--out", str(out), "--scale", "toy", "--device", "cpu"]
    subprocess.run([sys.executable, script, "all", "--gguf", str(gguf), *common], check=True, timeout=1200)
    studied = json.loads((out / "eval.json").read_text())["studied"]
    assert json.loads((out / "check.json").read_text())["items"] == 2
    assert (out / "studies" / f"axes-{studied[-1]}" / "rows.sqlite").is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["tar", "xf", str(out / "small-results.tar.xz"), "-C", str(elsewhere)], check=True)
    assert not list(elsewhere.rglob("*.safetensors"))
    made = subprocess.run(
        [sys.executable, script, "write", "--out", str(elsewhere), "--scale", "toy"], check=True, timeout=600,
        capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(made.stdout) == {"stage": "write", "done": True, "seconds": json.loads(made.stdout)["seconds"]}
    tables = (elsewhere / "tables.md").read_text()
    assert "## Prefix repair" in tables
    assert "## Consensus distillation" in tables
    assert "## Approximate decoding on" in tables
    assert f"## The three axes on {studied[-1]}" in tables
    assert "| executor | 6 |" in (elsewhere / "card.md").read_text()
