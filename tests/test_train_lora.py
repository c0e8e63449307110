"""The training loop of adapters: masks, spans, resuming, alarms, and what is left after a failure."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triaxis.conditions import Prompt
from triaxis.errors import UserError
from triaxis.models.adapters import read_adapter
from triaxis.models.targets import choose, linears, meant, pattern, resolve
from triaxis.store import lock
from triaxis.tasks.gradeschool import gradeschool
from triaxis.train import fit as loop
from triaxis.train.data import Dataset, Example, Span, answer_offset, collate, encode
from triaxis.train.fit import attach, fit, held_loss
from triaxis.train.loss import Masking, levels, mask_batch, masked_cross_entropy, scored_loss
from triaxis.train.recipes import RECIPES, Recipe
from triaxis.train.scale import difference, update

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor

SMALL = Recipe(
    rank=2, rate=5e-3, steps=8, batch=4, warmup=2, every=4, low=0.1, high=0.9, dropout=0.1, targets=("ffn",)
)  # fmt: skip


def dataset(executor: Executor, n: int = 12, span: str = "response", end: Any = "fill", start: int = 0) -> Dataset:
    items = gradeschool().items(60, split="train")[start : start + n]
    rows = [Example(i.id, "none", Prompt(i.question), i.solution) for i in items]
    return encode(executor, rows, response=48, block=8, span=Span.parse(span), end=end)


@pytest.fixture(scope="module")
def data(tiny: Executor) -> Dataset:
    return dataset(tiny)


@pytest.fixture(scope="module")
def held(tiny: Executor) -> Dataset:
    return dataset(tiny, 6, start=40)


# ---------------------------------------------------------------- masks and spans


SPANS = st.integers(1, 5).flatmap(
    lambda b: st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=b, max_size=b)
)


@settings(max_examples=60)
@given(SPANS, st.sampled_from(["iid", "stratified", "antithetic"]), st.sampled_from(["1/p", "uniform"]),
       st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 10**6))  # fmt: skip
def test_only_hidden_tokens_of_the_span_are_scored(
    spans: list[list[bool]], draw: Any, weight: Any, share: float, seed: int
) -> None:
    span = torch.tensor(spans)
    span[:, 3] = True  # every row has a token to score
    m = Masking(low=0.2, high=0.7, draw=draw, weight=weight, block_share=share, block=4)
    masks = mask_batch(span, m, torch.Generator().manual_seed(seed))
    scored = masks.weights > 0
    assert not (scored & ~span).any()
    assert not (scored & ~masks.hidden).any()
    assert scored.any(1).all()
    again = mask_batch(span, m, torch.Generator().manual_seed(seed))
    assert torch.equal(masks.hidden, again.hidden)
    if weight == "uniform":
        assert masks.total == scored.sum()
        assert set(masks.weights.unique().tolist()) <= {0.0, 1.0}
    if share == 1.0:  # as block decoding meets it: all after the scored block hidden, nothing before
        place = torch.arange(12) // 4
        for row in range(len(span)):
            current = place[scored[row]][0]
            assert (place[scored[row]] == current).all()
            assert masks.hidden[row][place > current].all()
            assert not masks.hidden[row][place < current].any()


@pytest.mark.parametrize("draw", ["iid", "stratified", "antithetic"])
def test_every_way_of_drawing_p_keeps_its_distribution(draw: Any) -> None:
    m = Masking(low=0.2, high=0.6, draw=draw)
    g = torch.Generator().manual_seed(0)
    drawn = torch.stack([levels(8, m, g) for _ in range(2000)])
    assert drawn.min() >= 0.2
    assert drawn.max() <= 0.6
    assert torch.allclose(drawn.mean(0), torch.full((8,), 0.4), atol=0.012)  # each row on its own
    spread = drawn.mean(1).std()
    iid = 0.4 / math.sqrt(12) / math.sqrt(8)
    assert (abs(spread / iid - 1) < 0.1) if draw == "iid" else (spread < 0.3 * iid)


def test_weights_one_over_p_are_an_unbiased_sum_over_the_span() -> None:
    span = torch.tensor([[True] * 6 + [False] * 4])
    m = Masking(low=0.5, high=0.9)
    g = torch.Generator().manual_seed(1)
    draws = [mask_batch(span, m, g) for _ in range(4000)]
    means = torch.stack([d.weights[0] / d.total for d in draws]).mean(0)
    assert torch.allclose(means[:6], torch.full((6,), 1 / 6), atol=0.01)
    assert (means[6:] == 0).all()


def test_spans_of_a_response(tiny: Executor) -> None:
    whole, one = dataset(tiny, 3), dataset(tiny, 3, end="one")
    answer, late = dataset(tiny, 3, "answer"), dataset(tiny, 3, "block:1-1", "one")
    for k, row in enumerate(whole.rows):
        n = len(row.response)
        assert collate(whole, [k]).span.sum() == 48
        assert collate(one, [k]).span[0].nonzero().flatten().tolist() == list(range(n + 1))
        scored = collate(answer, [k]).span[0]
        text = tiny.tokenizer.decode([t for t, s in zip(row.response, scored.tolist(), strict=False) if s])
        assert text.strip() == tiny.tokenizer.decode(list(row.response)).rsplit("\n", 1)[-1]
        assert scored.nonzero().max() == n  # where the answer stops is part of it
    assert all((collate(late, [k]).span[0].nonzero() // 8 == 1).all() for k in range(len(late.rows)))
    batch = collate(whole, [0, 1, 2])
    assert torch.equal(batch.ids.gather(1, batch.where), batch.targets)
    assert answer_offset("a 3\n#### 14") == 4
    assert answer_offset("so it is 14.") == 9


def test_rows_that_do_not_fit_are_counted_and_empty_data_is_refused(tiny: Executor) -> None:
    rows = [Example("a", "none", Prompt("How many?"), "1+1=2\n#### 2"), Example("b", "none", Prompt("x"), "1+" * 60)]
    made = encode(tiny, rows, response=48, block=8, span=Span(), end="fill")
    assert (len(made), made.left_out, made.tiers) == (1, 1, {"none": 1})
    with pytest.raises(UserError, match="longer than gen_length"):
        encode(tiny, rows[1:], response=48, block=8, span=Span(), end="fill")
    with pytest.raises(UserError, match="holds no token"):
        encode(tiny, rows, response=48, block=8, span=Span.parse("block:5"), end="one")
    with pytest.raises(UserError, match="cannot be read"):
        Span.parse("blocks:2")


@pytest.mark.parametrize(("n", "batch"), [(3, 4), (9, 4), (130, 4)])
def test_an_epoch_takes_every_row_once(tiny: Executor, data: Dataset, n: int, batch: int) -> None:
    many = replace(data, rows=tuple(data.rows[k % 12] for k in range(n)))
    order = many.order(0, 0, batch)
    counts = [int((order == k).sum()) for k in range(n)]
    if n >= batch:
        assert max(counts) == 1
        assert sum(counts) == n // batch * batch
    else:
        assert min(counts) >= 1
    if n > batch:
        assert (many.order(0, 1, batch) != order).any()


# ---------------------------------------------------------------- targets


def test_targets_never_mean_the_head(tiny: Executor) -> None:
    found = linears(tiny.checkpoint.network)
    assert found.outside == ("model.transformer.ff_out",)
    assert "model.transformer.ff_out" in resolve(found, ["ff_out"])  # the trap
    assert "model.transformer.ff_out" not in resolve(found, pattern(found, ["ff_out"]))
    assert len(choose(tiny.checkpoint.network, ["ffn"], (0.75, 1.0))) == 3
    assert meant(found, "o_proj") == "attn_out"
    with pytest.raises(UserError, match="did you mean 'attn_out'"):
        choose(tiny.checkpoint.network, ["q_proj", "o_proj"])


# ---------------------------------------------------------------- the loop


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{m}.{k}": t for m, p in read_adapter(str(folder)).pairs.items() for k, t in (("a", p.a), ("b", p.b))}


def test_what_is_trained_is_what_decodes(tiny: Executor, data: Dataset, held: Dataset, tmp_path: Path) -> None:
    done = fit(tiny, SMALL, data, tmp_path / "a", held=held, card={"kind": "test"})
    losses = [line["held_loss"] for line in done.log if "held_loss" in line]
    assert done.held_loss == pytest.approx(min(losses[1:]), abs=1e-5)
    mounted = tiny.with_adapters(str(tmp_path / "a"))
    masking = Masking(low=0.1, high=0.9, block=8)
    assert mounted.adapters is not None
    with mounted.adapters.gated([(1.0,)]) as network:
        assert held_loss(network, held, masking) == pytest.approx(done.held_loss, rel=1e-5)
    assert held_loss(tiny.checkpoint.network, held, masking) == pytest.approx(losses[0], rel=1e-4)
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert card["data"]["hash"] == data.fingerprint
    assert card["coverage"]["names"] == ["ff_proj", "up_proj", "ff_out"]
    assert len(card["coverage"]["modules"]) == 12
    assert card["base"]["fingerprint"] == tiny.fingerprint
    assert all(not p.requires_grad for p in tiny.checkpoint.network.parameters())


class Killed(BaseException):
    pass


def killed_after(step: int) -> Any:
    def note(stage: str, done: int, total: int) -> None:
        if done >= step:
            raise Killed

    return note


@pytest.mark.parametrize("killed_at", [5, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_bits(
    tiny: Executor, data: Dataset, held: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    recipe = replace(SMALL, steps=12, accumulate=2)
    whole = fit(tiny, recipe, data, tmp_path / "whole", held=held)
    with pytest.raises(Killed):
        fit(tiny, recipe, data, tmp_path / "cut", held=held, note=killed_after(killed_at))
    (tmp_path / "cut" / "log.jsonl").open("a").write('{"step": 99, "lo')  # a line half written
    resumed = fit(tiny, recipe, data, tmp_path / "cut", held=held)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(t.abs().sum() > 0 for k, t in one.items() if k.endswith(".b"))
    plain = [{k: v for k, v in line.items() if k != "seconds"} for line in whole.log]
    assert plain == [{k: v for k, v in line.items() if k != "seconds"} for line in resumed.log]
    again = fit(tiny, recipe, data, tmp_path / "cut", held=held)  # finished: nothing is trained
    assert again.log == resumed.log


def test_two_runs_do_not_train_into_one_folder(tiny: Executor, data: Dataset, tmp_path: Path) -> None:
    """Processes outlive a launcher that is killed; the same command again must not write beside them."""
    with lock(tmp_path / "x"), pytest.raises(UserError, match="x: another run is writing there; wait for it"):
        fit(tiny, SMALL, data, tmp_path / "x")
    assert [p.name for p in (tmp_path / "x").iterdir()] == [".lock"]
    assert fit(tiny, replace(SMALL, steps=1), data, tmp_path / "x").stopped == "steps"


def test_another_training_does_not_go_on_with_a_checkpoint(tiny: Executor, data: Dataset, tmp_path: Path) -> None:
    fit(tiny, replace(SMALL, steps=4), data, tmp_path)
    with pytest.raises(UserError, match=r"rate=0\.005, not 0\.1"):
        fit(tiny, replace(SMALL, steps=4, rate=0.1), data, tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        fit(tiny, replace(SMALL, steps=4), data, tmp_path)


def test_accumulating_changes_nothing_but_rounding(tiny: Executor, data: Dataset, tmp_path: Path) -> None:
    recipe = replace(SMALL, steps=1, dropout=0.0, warmup=0, rate=1e-3)
    fit(tiny, recipe, data, tmp_path / "one")
    fit(tiny, replace(recipe, accumulate=4), data, tmp_path / "four")
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    assert all(torch.allclose(one[k], four[k], atol=1e-5) for k in one)


def test_recomputing_layers_changes_nothing_but_rounding(tiny: Executor, data: Dataset, tmp_path: Path) -> None:
    fit(tiny, replace(SMALL, steps=2), data, tmp_path / "kept")
    fit(tiny, replace(SMALL, steps=2, recompute=True), data, tmp_path / "again")
    one, two = weights(tmp_path / "kept"), weights(tmp_path / "again")
    assert all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)


def test_the_step_is_what_a_written_out_step_is(tiny: Executor, data: Dataset, tmp_path: Path) -> None:
    """One step against autograd on the plain formula: merged weights, its own masking loop, its own AdamW step."""
    recipe = replace(SMALL, steps=1, dropout=0.0, warmup=0, decay=0.0, clip=1e9, weight="uniform")
    fit(tiny, recipe, data, tmp_path)
    trained, layers = attach(tiny, recipe)
    batch = collate(data, data.order(0, 0, 4)[0].tolist())
    key = loop.stream_key("train", 0, 0)
    masking = Masking(low=0.1, high=0.9, weight="uniform", block=8)
    masks = mask_batch(batch.span, masking, torch.Generator().manual_seed(key))
    noisy = batch.ids.scatter(1, batch.where, torch.where(masks.hidden, data.mask, batch.targets))
    logits = trained.checkpoint.network(noisy, batch.valid).gather(
        1, batch.where[..., None].expand(-1, -1, tiny.checkpoint.config.rows)
    )
    scored = masks.weights > 0
    loss = masked_cross_entropy(logits[scored], batch.targets[scored])
    loss.backward()  # type: ignore[no-untyped-call]
    done = weights(tmp_path)
    for name, layer in layers.items():  # B begins at 0, so its first AdamW step is -rate * sign(gradient)
        assert layer.b.grad is not None
        clear = layer.b.grad.abs() > 1e-5
        moved = done[f"{name}.b"][clear]
        torch.testing.assert_close(moved, -0.005 * layer.b.grad[clear].sign(), atol=1e-4, rtol=0.02)
    same = scored_loss(logits[scored], batch.targets[scored], masks.weights[scored]) / masks.total
    assert same.item() == pytest.approx(loss.item(), rel=1e-5)


def test_it_stops_early_and_keeps_the_best(tiny: Executor, data: Dataset, held: Dataset, tmp_path: Path) -> None:
    wild = replace(SMALL, steps=40, rate=0.3, every=2, patience=2)
    done = fit(tiny, wild, data, tmp_path, held=held)
    losses = [line["held_loss"] for line in done.log if "held_loss" in line]
    assert done.stopped == "early"
    assert len(losses) < 21
    assert done.held_loss == pytest.approx(min(losses[1:]), abs=1e-5)


def test_a_probe_can_stop_a_collapse(tiny: Executor, data: Dataset, tmp_path: Path) -> None:
    seen: list[int] = []

    def probe(executor: Executor, step: int) -> Mapping[str, float]:
        seen.append(step)
        assert executor.denoise([executor.prompt_ids("How many?")], [0], executor.default_decode())
        return {"alarm": float(step >= 4), "repetition": 0.5}

    done = fit(tiny, SMALL, data, tmp_path, probe=probe)
    assert (done.stopped, seen, done.step) == ("collapse", [0, 4], 4)
    assert done.log[-1]["repetition"] == 0.5


def test_a_loss_that_is_no_number_leaves_the_checkpoint_whole(tiny: Executor, data: Dataset, tmp_path: Path) -> None:
    fit(tiny, replace(SMALL, steps=4), data, tmp_path / "good")
    with pytest.raises(UserError, match=r"the loss is nan at step \d+ with rate=1e\+30"):
        fit(tiny, replace(SMALL, rate=1e30, clip=1e30, every=2), data, tmp_path / "bad")
    assert not (tmp_path / "bad" / "adapter_config.json").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20 kB: what a full disk looks like to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_nothing_is_half_written(
    tiny: Executor, data: Dataset, tmp_path: Path, small_files: None
) -> None:
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot write \(File too large\)"):
        fit(tiny, SMALL, data, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "log.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch": 5, "accumulate": 2}, "does not split"),
        ({"layers": (1.0, 0.5)}, "range within"),
        ({"rate": math.nan}, "rate=nan"),
        ({"end": "two"}, "end rule"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **changes)


def test_the_rate_rises_and_falls() -> None:
    r = RECIPES["prefix"]
    rates = [r.learning_rate(s) for s in range(r.steps)]
    assert rates[0] == pytest.approx(r.rate / 200)
    assert max(rates) == pytest.approx(r.rate, rel=1e-3)
    assert rates[-1] < 1e-3 * r.rate
    assert rates[2600] == pytest.approx(r.rate / 2, rel=1e-2)


SHARED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
import triaxis
from tests.test_train_lora import SMALL, dataset
from triaxis.train.fit import fit
tiny = triaxis.load_executor("tiny", device="cpu")
out, parts, sharded, recompute = sys.argv[1:]
tiny.checkpoint.network.fuse()  # as on a GPU: weights are views of wider tensors
recipe = replace(SMALL, steps=3, accumulate=int(parts), recompute=recompute == "True")
fit(tiny, recipe, dataset(tiny), Path(out), held=dataset(tiny, 6, start=40), sharded=sharded == "True")
"""
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def shared(script: Path, out: Path, launch: list[str], parts: int, sharded: bool = False, again: bool = False) -> None:
    """Three steps in processes that `launch` starts."""
    script.write_text(SHARED)
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    given = [str(out), str(parts), str(sharded), str(again)]
    done = subprocess.run([*launch, str(script), *given], env=environment, timeout=180, cwd=root)
    assert done.returncode == 0


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """One process computes in two parts what two compute in one each: the same rows, masks and dropout."""
    script = tmp_path / "shared.py"
    shared(script, tmp_path / "one", [sys.executable], 2)
    shared(script, tmp_path / "two", TWO, 1)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(t.abs().max() > 1e-3 for k, t in two.items() if k.endswith(".b"))


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_frozen_weights_in_parts_train_the_same_adapter(tmp_path: Path, again: bool) -> None:
    script = tmp_path / "shared.py"
    shared(script, tmp_path / "one", [sys.executable], 2, again=again)
    shared(script, tmp_path / "two", TWO, 1, sharded=True, again=again)
    one, two = (update(tmp_path / n) for n in ("one", "two"))
    assert difference(one, two) == 0  # weights lie as they lay: the same products


REACHED = """
import sys
import torch
import torch.distributed as dist
from triaxis.train import peers
dist.init_process_group("gloo")
me = dist.get_rank()
mine = [torch.full((3,), 10 * k + me, dtype=torch.uint8) for k in range(2)]
def told(part):
    if me == 1 and sys.argv[1] == "one cannot":
        raise RuntimeError("memory of a kind that is not shared")
    if sys.argv[1] == "another torch":
        raise AttributeError("no such function")
    return part.tolist() + [255] * me  # messages of unlike length
peers.handle_of = told
peers.open_handle = lambda heard, device: torch.tensor(heard[:3], dtype=torch.uint8)
found = peers.parts_of_all(mine)
if sys.argv[1] != "all can":
    assert found is None
else:
    assert [[part.tolist() for part in ranks] for ranks in found] == [[[0] * 3, [1] * 3], [[10] * 3, [11] * 3]]
    assert all(ranks[me] is part for ranks, part in zip(found, mine))
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["all can", "one cannot", "another torch"])
def test_parts_are_read_where_every_process_can_read_them(tmp_path: Path, case: str) -> None:
    """On a GPU they are the others' memory. Where a process cannot share or reach it, all gather."""
    (tmp_path / "reached.py").write_text(REACHED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*TWO, str(tmp_path / "reached.py"), case], env=environment, timeout=120, check=True)


@pytest.mark.parametrize(
    ("changes", "sharded", "message"),
    [({"accumulate": 4}, True, "needs several processes"), ({"batch": 6, "accumulate": 2}, False, "")],
)
def test_what_cannot_be_split_is_refused(
    tiny: Executor, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any],
    sharded: bool, message: str,
) -> None:  # fmt: skip
    class Four(loop.Alone):
        processes = 4

    if not message:
        monkeypatch.setattr(loop, "runner_on", Four)
        message = r"batch=6 does not split into 8 equal parts \(accumulate=2, processes=4\)"
    with pytest.raises(UserError, match=message):
        fit(tiny, replace(SMALL, **changes), data, tmp_path, sharded=sharded)


@pytest.mark.slow
def test_the_command_shares_its_training_over_processes(tmp_path: Path) -> None:
    """Started twice by torchrun, `train prefix` gives what one process gives that computes two parts of a step."""
    command = [str(Path(sys.executable).with_name("triaxis")), "train", "prefix", "--items", "8", "--n", "4"]
    command += ["--no-control", "--conditions", "none,hint", "--device", "cpu"]
    command += [x for s in ("steps=4", "batch=4", "warmup=0") for x in ("--set", s)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = {}
    for name, launch, parts, more in (
        ("one", [], 2, []), ("two", [*TWO, "--"], 1, []), ("parts", [*TWO, "--"], 1, ["--sharded"]),
    ):  # fmt: skip
        given = ["--out", str(tmp_path / name), "--set", f"accumulate={parts}", "--json", *more]
        done = subprocess.run([*launch, *command, *given], env=environment, timeout=500, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        made[name] = json.loads(done.stdout)
    one, two, parts_ = (weights(tmp_path / n / "adapters" / "prefix-s0") for n in made)
    assert all(torch.equal(one[k], two[k]) and torch.equal(one[k], parts_[k]) for k in one)
    assert made["one"]["kind"] == made["two"]["kind"] == made["parts"]["kind"] == "prefix"


@pytest.mark.parametrize(
    ("more", "processes", "message"),
    [([], "1", "needs several processes"), (["--dtype", "4bit"], "2", "weights in 4bit cannot be held in parts")],
)
def test_what_cannot_be_sharded_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str],
    processes: str, message: str,
) -> None:  # fmt: skip
    from triaxis.cli import main

    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(SystemExit) as e:
        main(["train", "prefix", "--sharded", "--out", str(tmp_path / "new"), *more])
    assert e.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
