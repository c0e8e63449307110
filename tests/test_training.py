"""The training of the tiny family: masks, batches, a stopped run that goes on, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.models.llada import LladaConfig, LladaNetwork
from triaxis.train.families import tiny
from triaxis.train.families.tiny import EXECUTOR, Recipe, batches, fit, recipe_of
from triaxis.train.families.tiny_data import (
    RESPONSE,
    Example,
    Tokens,
    executor_examples,
    tokenise,
    train_tokenizer,
)
from triaxis.train.loss import draw_masks, masked_cross_entropy

MICRO = Recipe(steps=6, batch=4, rate=1e-2, warmup=2, examples=40)


@pytest.fixture(scope="module")
def tokenizer(one_thread: None) -> Any:
    """The script's tokenizer, of fewer words."""
    return train_tokenizer(examples=300, least=5)


@pytest.fixture(scope="module")
def tokens(tokenizer: Any) -> Tokens:
    stream = executor_examples("test")
    return tokenise(tokenizer, [next(stream) for _ in range(MICRO.examples)], RESPONSE)


def network(tokenizer: Any, seed: int = 0) -> LladaNetwork:
    fields = tiny.executor_config(tokenizer.get_vocab_size(), 0, 1)
    fields |= {"d_model": 16, "n_heads": 2, "n_kv_heads": 2, "n_layers": 1, "mlp_hidden_size": 24}
    torch.manual_seed(seed)
    made = LladaNetwork(LladaConfig.read(fields, "test"))
    tiny.initialise(made, 1)
    return made


# --- masks ---


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(1, 12), st.lists(st.integers(1, 24), min_size=1, max_size=8))
def test_masks_hide_what_they_score_and_teach_in_every_row(
    seed: int, share: float, block: int, content: list[int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, scored = draw_masks(torch.tensor(content), 24, block, generator, block_share=share)
    assert hidden.shape == scored.shape == (len(content), 24)
    assert not (scored & ~hidden).any()
    assert scored.any(1).all()


def test_block_masks_are_what_decoding_meets() -> None:
    content = torch.tensor([9, 16, 17, 24] * 50)
    hidden, scored = draw_masks(content, 24, 8, torch.Generator().manual_seed(0), block_share=1.0)
    seen, partly = set(), 0
    for row, (h, s) in enumerate(zip(hidden.tolist(), scored.tolist(), strict=True)):
        current = {place // 8 for place in range(24) if s[place]}
        assert len(current) == 1, "the loss is on one block"
        block = current.pop()
        assert block * 8 < content[row], "which holds content"
        assert not any(h[: block * 8]), "earlier blocks are clean"
        assert all(h[(block + 1) * 8 :]), "later ones hidden"
        assert s[block * 8 : block * 8 + 8] == h[block * 8 : block * 8 + 8]
        seen.add(block)
        partly += not all(s[block * 8 : block * 8 + 8])
    assert seen == {0, 1, 2}
    assert partly > 150, "the current block is hidden partly"


def test_uniform_masks_cover_all_rates_and_score_all_they_hide() -> None:
    rows = 4000
    hidden, scored = draw_masks(torch.full((rows,), 24), 24, 8, torch.Generator().manual_seed(0), block_share=0.0)
    assert torch.equal(hidden, scored)
    shares = hidden.float().mean(1)
    assert abs(float(shares.mean()) - 0.5) < 0.02
    assert abs(float((shares < 0.25).float().mean()) - 0.25) < 0.03


def test_loss_is_the_mean_cross_entropy() -> None:
    logits, targets = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 6])
    expected = -logits.log_softmax(-1)[range(5), targets].mean()
    torch.testing.assert_close(masked_cross_entropy(logits, targets), expected)
    assert masked_cross_entropy(logits.bfloat16(), targets).dtype is torch.float32


def test_the_executor_loss_is_on_hidden_response_tokens_only(tokenizer: Any, tokens: Tokens) -> None:
    """Checked against the loss worked out from whole logits; the prompt is never hidden."""
    net = network(tokenizer)
    [(step, ids, prompt, total)] = list(batches(tokens, replace(MICRO, steps=1), 0))
    loss = tiny.executor_loss(net, 0, 1, MICRO)(step, ids, prompt, total)
    where = prompt[:, None] + torch.arange(RESPONSE)
    targets = ids.gather(1, where)
    generator = torch.Generator().manual_seed(MICRO.seed * 1_000_003 + step)
    content = (targets != 1).sum(1) + 1
    hidden, scored = draw_masks(content, RESPONSE, tiny.BLOCK, generator, block_share=MICRO.block_share)
    terms = []
    for row in range(len(ids)):
        seen = ids[row, : total[row]].clone()
        seen[where[row][hidden[row]]] = 0
        logits = net(seen[None])[0, where[row]]
        terms.append(F.cross_entropy(logits[scored[row]], targets[row][scored[row]], reduction="sum"))
    torch.testing.assert_close(loss, sum(terms) / scored.sum(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, tiny.executor_loss(net, 0, 1, MICRO)(step, ids, prompt, total))


# --- batches ---


def plain_tokens(rows: int) -> Tokens:
    total = np.arange(3, 3 + rows, dtype=np.int32) % 11 + 3
    return Tokens(np.arange(rows * 14, dtype=np.uint16).reshape(rows, 14), np.full(rows, 2, np.int32), total)


@pytest.mark.parametrize("rows", [5, 79, 80, 200, 333])
def test_an_epoch_shows_no_row_twice_and_nearly_all(rows: int) -> None:
    recipe = Recipe(steps=10**6, batch=5, examples=rows)
    wide = min(16, rows // 5)
    per_epoch = rows // (5 * wide) * wide
    first = []
    for step, ids, prompt, total in batches(plain_tokens(rows), recipe, 0):
        if step == per_epoch:
            break
        assert ids.shape == (5, int(total.max()))
        assert prompt.tolist() == [2] * 5
        first += ids[:, 0].tolist()
    assert len(first) == len(set(first)) == per_epoch * 5
    assert rows - len(first) < 5 * wide


@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 40])
def test_batches_from_a_step_on_are_those_of_the_whole_run(start: int) -> None:
    recipe, data = Recipe(steps=50, batch=5, examples=100), plain_tokens(100)
    whole = {step: ids for step, ids, *_ in batches(data, recipe, 0)}
    assert sorted(whole) == list(range(50))
    rest = {step: ids for step, ids, *_ in batches(data, recipe, start)}
    assert sorted(rest) == list(range(start, 50))
    assert all(torch.equal(rest[s], whole[s]) for s in rest)
    other = {step: ids for step, ids, *_ in batches(data, replace(recipe, seed=1), 0)}
    assert any(other[s].tolist() != whole[s].tolist() for s in whole)


def test_a_finished_run_has_no_batches_left() -> None:
    assert not list(batches(plain_tokens(100), Recipe(steps=7, batch=5, examples=100), 7))


def test_tokens_are_prompt_response_and_end_marks(tokenizer: Any) -> None:
    made = tokenise(tokenizer, [Example("3 pens", "3+4=7"), Example("a much longer prompt", "1")], 10)
    eos, user, assistant = (tokenizer.token_to_id(t) for t in ("<|eos|>", "<|user|>", "<|assistant|>"))
    row = made.ids[0, : made.total[0]].tolist()
    assert row[0] == user
    assert row[made.prompt[0] - 1] == assistant
    assert tokenizer.decode(row[made.prompt[0] :]).strip() == "3+4=7"
    assert row[-5:] == [eos] * 5
    assert (made.total - made.prompt).tolist() == [10, 10]
    planned = tokenise(tokenizer, [Example("3 pens", "3+4=7")], None)
    assert planned.ids[0].tolist() == [*row[: made.prompt[0]], *row[made.prompt[0] : made.prompt[0] + 5], eos]


# --- a run that was stopped ---


def run(out: Path, tokenizer: Any, tokens: Tokens, recipe: Recipe = MICRO, stop: int | None = None) -> LladaNetwork:
    """Train a tiny network with a checkpoint each step; `stop` kills the run when that step begins."""
    net = network(tokenizer)
    inner = tiny.executor_loss(net, 0, 1, recipe)

    def loss(step: int, *batch: Any) -> torch.Tensor:
        if step == stop:
            raise KeyboardInterrupt
        return inner(step, *batch)

    fit(net, loss, tokens, recipe, out, every=3)
    return net


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, tokenizer: Any, tokens: Tokens) -> None:
    whole = run(tmp_path / "whole", tokenizer, tokens).state_dict()
    untrained = network(tokenizer).state_dict()
    assert all(not torch.equal(whole[n], untrained[n]) for n in whole)
    for stop in (2, 3, 5):  # before, at and after the checkpoint at 3 steps
        out = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            run(out, tokenizer, tokens, stop=stop)
        assert (out / "checkpoint.safetensors").exists() is (stop >= 3)
        again = run(out, tokenizer, tokens).state_dict()
        assert all(torch.equal(whole[n], again[n]) for n in whole)
        once_more = run(out, tokenizer, tokens, stop=0).state_dict()  # finished: nothing is trained
        assert all(torch.equal(whole[n], once_more[n]) for n in whole)


def test_a_seed_is_another_run(tmp_path: Path, tokenizer: Any, tokens: Tokens) -> None:
    a, b = (run(tmp_path / str(s), tokenizer, tokens, replace(MICRO, seed=s)).state_dict() for s in (0, 1))
    assert any(not torch.equal(a[n], b[n]) for n in a)


def test_another_recipe_or_a_damaged_checkpoint_is_refused(tmp_path: Path, tokenizer: Any, tokens: Tokens) -> None:
    run(tmp_path, tokenizer, tokens)
    with pytest.raises(UserError, match="was begun with steps=6, not 9; choose another --out"):
        run(tmp_path, tokenizer, tokens, replace(MICRO, steps=9))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"not a readable checkpoint .* delete it to begin again"):
        run(tmp_path, tokenizer, tokens)


def test_the_log_of_a_stopped_run_reads_as_one(tmp_path: Path, tokenizer: Any, tokens: Tokens) -> None:
    log = tmp_path / "log.jsonl"
    run(tmp_path, tokenizer, tokens)
    log.write_text('{"step": 2, "loss": 1}\n{"step": 6, "loss": 1}\n{"step": 7, "loss": 1}\n{"step": 8, "lo')
    run(tmp_path, tokenizer, tokens)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [2, 6]


@pytest.mark.slow
def test_training_learns(tmp_path: Path, tokenizer: Any, tokens: Tokens) -> None:
    """A hundred steps on forty examples: the loss falls, and the log says so."""
    recipe = replace(MICRO, steps=200)
    run(tmp_path, tokenizer, tokens, recipe)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [100, 200]
    assert lines[1]["loss"] < 0.8 * lines[0]["loss"]


# --- what is written ---


def test_a_trained_executor_is_an_ordinary_checkpoint(tmp_path: Path, tokenizer: Any) -> None:
    import triaxis

    recipe = replace(MICRO, steps=1, batch=2)
    tiny.train_executor(tmp_path / "e", tokenizer, recipe, "cpu")
    executor = triaxis.load_executor(str(tmp_path / "e"))
    assert executor.checkpoint.family.name == "tiny"
    assert len(executor.generate_ids([executor.prompt_ids("Tom has 3 pens.")], executor.default_decode())[0]) == 48
    assert json.loads((tmp_path / "e" / "recipe.json").read_text())["steps"] == 1


def test_a_trained_planner_is_an_ordinary_checkpoint(tmp_path: Path, tokenizer: Any) -> None:
    import triaxis

    tiny.train_planner(tmp_path / "p", tokenizer, replace(MICRO, steps=1, batch=2), "cpu", (16, 1, 2, 24))
    planner = triaxis.load_planner(str(tmp_path / "p"), budget=3)
    assert planner.write(["Tom has 3 pens."])[0].tokens <= 3


def test_the_scripts_make_the_shipped_configs() -> None:
    from triaxis.models.folder import find_folder, read_config

    assert tiny.executor_config(471, 0, 1) == read_config(find_folder("tiny", "executor"))
    for name, size in tiny.PLANNERS.items():
        folder = find_folder(name, "planner")
        assert tiny.planner_config(size, 471, 1) == read_config(folder)
        assert json.loads((folder / "recipe.json").read_text()) == {**vars_of(recipe_of(name)), "seed": 0}
    for seed in (0, 1, 2):
        recipe = json.loads((find_folder(f"tiny-{seed}", "executor") / "recipe.json").read_text())
        assert recipe == {**vars_of(EXECUTOR), "seed": seed}


def vars_of(recipe: Recipe) -> dict[str, object]:
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}


# --- the command ---

BAD_ARGUMENTS: list[tuple[list[str], str]] = [
    (["--steps", "0"], "training steps=0 is too small; use 1 or more"),
    (["--steps", "-3"], "training steps=-3 is too small"),
    (["--examples", "100"], "training examples=100 is too small; use 256 or more"),
    (["--seed", "-1"], "training seed=-1 is too small"),
    (["--device", "gpu"], "no device named 'gpu'"),
    (["--device", "cuda:77"], "device 'cuda:77' is not here"),
]


@pytest.mark.parametrize(("arguments", "part"), BAD_ARGUMENTS, ids=[" ".join(a) for a, _ in BAD_ARGUMENTS])
def test_bad_arguments_are_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert tiny.main(["--out", str(tmp_path / "new"), *arguments]) == 2
    said = capsys.readouterr()
    assert part in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [["--only", "planner"], ["--steps", "many"], [], ["--out"]])
def test_arguments_that_do_not_parse_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = [] if arguments in ([], ["--out"]) else ["--out", "x"]
    with pytest.raises(SystemExit) as stopped:
        tiny.main([*out, *arguments])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny, "train_tokenizer", lambda: tokenizer)
    (tmp_path / "file").write_text("")
    arguments = ["--out", str(tmp_path / "file"), "--only", "executor", "--steps", "1", "--examples", "256"]
    assert tiny.main(arguments) == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_trains_and_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "triaxis.train.families.tiny",
        "--steps",
        "1",
        "--examples",
        "256",
        "--device",
        "cpu",
    ]
    for _ in range(2):
        done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny-0", *sorted(tiny.PLANNERS)]
    changed = subprocess.run(
        [*command, "--out", str(tmp_path), "--steps", "2"], capture_output=True, text=True, timeout=400
    )
    assert changed.returncode == 2
    assert "was begun with steps=1, not 2" in changed.stderr
    assert "Traceback" not in changed.stderr
