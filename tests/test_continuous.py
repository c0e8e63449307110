"""Rows that finish leave a running batch and others enter: the same rows as alone, in fewer and fuller passes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sampling import EOS, MASK

from triaxis.errors import override
from triaxis.models.adapters import linear_names, save_adapter
from triaxis.sampling import denoise as module
from triaxis.sampling.denoise import Moment, denoise, mixes
from triaxis.sampling.executor import Executor
from triaxis.sampling.graphs import Graphs
from triaxis.sampling.rows import Denoised, Layout, Queue
from triaxis.sampling.schedule import Decode

BASE = Decode(gen_length=24, block_length=8, steps=9, stop="eos_block")
DICE = random.Random(5)
PROMPTS = sorted(([DICE.randrange(1, 200) for _ in range(DICE.randrange(1, 20))] for _ in range(14)), key=len)
ROOM = 130  # three or four rows


class Seen:
    """What each pass was given."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = []
        self.left: list[list[int]] = []

    def before(self, moment: Moment) -> None:
        self.blocks.append(moment.block)

    def done(self, rows: dict[int, Denoised]) -> None:
        self.left.append(list(rows))


def run(network: Any, d: Decode, marks: list[int], seen: Seen, **more: Any) -> list[Denoised]:
    return denoise(
        network, PROMPTS, range(len(PROMPTS)), d, mask_id=MASK, eos_ids=[EOS, *marks], device=torch.device("cpu"),
        **{"before": seen.before, "done": seen.done, **more},
    )  # fmt: skip


def marks_of(network: Any, d: Decode) -> list[int]:
    """Tokens of first and second blocks, so that taken for end marks they end rows at unlike blocks."""
    free = run(network, replace(d, stop="canvas"), [], Seen())
    return [free[1].ids[2], free[4].ids[12], free[9].ids[1]]


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.7}, {"remasking": "random"}, {"cfg_scale": 0.6}, {"threshold": 0.05}, {"factor": 1.0},
     {"threshold": 0.05, "temperature": 0.7}, {"cache": "dual"}, {"cache": "dual", "refresh": 2},
     {"cache": "dual", "cfg_scale": 0.6}],
    ids=str,
)  # fmt: skip
def test_a_row_is_what_it_is_alone_and_passes_are_fewer(parity: Executor, changes: dict[str, Any]) -> None:
    d, network = override(BASE, changes), parity.checkpoint.network
    marks = marks_of(network, d)
    alone, together, fixed, all_at_once = Seen(), Seen(), Seen(), Seen()
    wanted = run(network, d, marks, alone, room=1)
    assert all(len(b) == 1 for b in alone.blocks)
    found = run(network, d, marks, together, room=ROOM)
    for a, b in zip(found, wanted, strict=True):
        assert (a.ids, a.ended, a.forwards, a.tokens, a.order) == (b.ids, b.ended, b.forwards, b.tokens, b.order)
        assert a.chances == pytest.approx(b.chances, abs=1e-4)
    assert len({r.forwards for r in wanted}) > 1, "no row left before another; the test shows nothing"
    assert any(len(set(b)) > 1 for b in together.blocks), "rows at different blocks shared passes"
    assert sorted(i for rows in together.left for i in rows) == list(range(len(PROMPTS)))
    assert [r.ids for r in run(network, d, marks, fixed, room=ROOM, mix=False)] == [r.ids for r in wanted]
    assert len(together.blocks) < len(fixed.blocks) < len(alone.blocks)
    assert [r.ids for r in run(network, d, marks, all_at_once)] == [r.ids for r in wanted]


@pytest.mark.parametrize("changes", [{"cache": "prefix"}, {"cache": "dual", "threshold": 0.05}], ids=str)
def test_where_rows_cannot_mix_the_next_batch_waits_for_the_last(parity: Executor, changes: dict[str, Any]) -> None:
    d, network, seen = override(BASE, changes), parity.checkpoint.network, Seen()
    assert not mixes(d, network.shape)
    marks = marks_of(network, d)
    wanted = run(network, d, marks, Seen(), room=1)
    assert [r.ids for r in run(network, d, marks, seen, room=ROOM)] == [r.ids for r in wanted]
    assert all(len(set(b)) == 1 for b in seen.blocks)
    assert len(seen.left) > 4


def test_a_watched_row_has_its_own_path_in_a_running_batch(parity: Executor) -> None:
    network = parity.checkpoint.network
    marks = marks_of(network, BASE)
    wanted = run(network, BASE, marks, Seen(), room=1, watch=True)
    found = run(network, BASE, marks, Seen(), room=ROOM, watch=True)
    assert [r.path for r in found] == [r.path for r in wanted]
    assert all(len(r.path) == r.forwards for r in found)


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.7}, {"cache": "dual"}, {"cache": "dual", "refresh": 2}], ids=str
)
def test_graphed_steps_serve_rows_at_different_blocks(
    parity: Executor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """With a recorder that just runs the step again; full batches are of sizes that need no filling."""
    d, network, made = override(BASE, changes), parity.checkpoint.network, []
    marks = marks_of(network, d)
    wanted, seen = run(network, d, marks, Seen(), room=1), Seen()

    def graphs(network: Any, device: object, job: Any) -> Graphs:
        made.append(Graphs(network, d, job.whole_step, lambda run, _: run))
        return made[0]

    monkeypatch.setattr(module, "_graphs", graphs)
    found = run(network, d, marks, seen, room=300)
    assert [(r.ids, r.order) for r in found] == [(r.ids, r.order) for r in wanted]
    assert any(len(set(b)) > 1 for b in seen.blocks)
    assert max(map(len, seen.blocks)) in (6, 8), "7 would run as 8"


def test_adapters_by_row_and_by_block_in_a_running_batch(tiny: Executor, tmp_path: Path) -> None:
    g, network, pairs = torch.Generator().manual_seed(1), tiny.checkpoint.network, {}
    for name in (n for n in linear_names(network) if ".blocks." in n):
        up, down = network.get_submodule(name).weight.shape  # type: ignore[misc, union-attr]
        pairs[name] = (torch.randn(2, down, generator=g) * 0.1, torch.randn(up, 2, generator=g))
    save_adapter(tmp_path / "a", pairs, {"r": 2, "lora_alpha": 2, "target_modules": list(pairs)}, {})
    name = str(tmp_path / "a")
    kinds = ["", f"{name}@last:2", f"{name}@masked:0.5-1*0.5", f"{name}@step:0-1", name]
    executor = tiny.with_adapters("", *kinds[1:])
    prompts = [tiny.prompt_ids(f"Tom has {n} pens. How many pens are there?"[: 20 + n]) for n in range(2, 17)]
    specs = [kinds[i % 5] for i in range(len(prompts))]
    d = replace(tiny.default_decode(), steps=12, stop="eos_block")
    keys = list(range(len(prompts)))
    few = replace(executor, batch_tokens=260).denoise(prompts, keys, d, specs)
    alone = replace(executor, batch_tokens=1).denoise(prompts, keys, d, specs)
    assert [r.ids for r in few] == [r.ids for r in alone]
    assert len({r.forwards for r in alone}) > 1
    assert [r.ids for r in alone] != [r.ids for r in tiny.denoise(prompts, keys, d)], "the adapters do something"
    late = replace(tiny.with_adapters(kinds[1]), batch_tokens=260)  # one schedule by block: rows do not mix
    assert [r.ids for r in late.denoise(prompts, keys, d)] == [
        r.ids for r in executor.denoise(prompts, keys, d, [kinds[1]] * len(prompts))
    ]


def test_the_host_knows_where_rows_stand_without_asking(parity: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every answer from the device waits for it: with a fixed schedule, one question a block for end marks."""
    network, d, asked = parity.checkpoint.network, replace(BASE, steps=24), []
    marks, plain = marks_of(network, d), torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: asked.append(1) or plain(t))
    for name in ("item", "__bool__", "__int__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, f=original: asked.append(1) or f(t))
    monkeypatch.setattr(module._Job, "hidden_of", lambda self, rows, span: span)  # as on a GPU
    seen = Seen()
    run(network, d, marks, seen, room=ROOM)
    results = 6 * len(seen.left)  # what is handed back of rows that leave
    assert len(asked) - results <= len(seen.blocks) // 8
    asked.clear()
    full = Seen()
    run(network, replace(d, stop="canvas"), marks, full, room=ROOM)
    assert len(asked) == 6 * len(full.left)


def test_the_queue_fills_the_room_and_lets_one_row_in_at_any_rate() -> None:
    layout = Layout(BASE, MASK, torch.device("cpu"), aligned=False)
    prompts = [[1] * n for n in (1, 2, 3, 40)]
    queue = Queue(prompts, [0] * 4, layout, room=80)
    rows = queue.enter(None)
    assert [p.row for p in rows.at] == [0, 1]  # three would be 3 x 27
    assert rows.padded
    assert queue.enter(rows) is rows
    rows = queue.enter(rows.take([1]))
    assert [p.row for p in rows.at] == [1, 2]
    assert rows.ends == [26, 27]
    assert rows.lengths is not None
    assert rows.lengths.tolist() == rows.ends
    last = queue.enter(None)
    assert last.ends == [64]
    assert not last.padded
    assert not queue
    sized = Queue([[1]] * 9, [0] * 9, layout, room=25 * 7, sizes=(1, 2, 4, 8))
    assert len(sized.enter(None).at) == 4
