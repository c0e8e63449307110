"""Adapters beside the network: exact, stackable, switchable by block, step, masked share and row, in peft's format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from triaxis.errors import UserError
from triaxis.models.adapters import (
    adapter_fingerprint,
    linear_names,
    mount,
    read_adapter,
    save_adapter,
    target_pattern,
)
from triaxis.models.schedules import At, Schedule, conductor
from triaxis.sampling.denoise import Moment
from triaxis.sampling.schedule import Decode

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor

DECODE = Decode(gen_length=16, block_length=8, steps=16)
IDS = torch.arange(5, 45).view(2, 20)


@pytest.fixture(scope="module")
def make(tiny: Executor, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """make(seed, size, targets) saves an adapter with random matrices and returns its folder."""
    home = tmp_path_factory.mktemp("adapters")

    def build(seed: int, size: float = 0.3, only: str = "", rank: int = 4, **config: Any) -> str:
        g = torch.Generator().manual_seed(seed)
        pairs = {}
        for name in linear_names(tiny.checkpoint.network):
            if ".blocks." in name and only in name:
                layer = tiny.checkpoint.network.get_submodule(name)
                a = torch.randn(rank, layer.in_features, generator=g) / layer.in_features**0.5  # type: ignore[operator]
                pairs[name] = (a, size * torch.randn(layer.out_features, rank, generator=g))  # type: ignore[call-overload]
        folder = home / f"a{seed}-{size}-{only}-{rank}-{len(config)}"
        targets = target_pattern(list(pairs))
        save_adapter(folder, pairs, {"r": rank, "lora_alpha": 2 * rank, "target_modules": targets, **config}, {})
        return str(folder)

    return build


def logits(network: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = network(ids)
    return out


def merged(executor: Executor, adapters: list[tuple[str, float]]) -> torch.Tensor:
    """Logits of a network with the updates added into copies of its weights: what mounting must come to."""
    import copy

    network = copy.deepcopy(executor.checkpoint.network)
    for spec, gate in adapters:
        for module, pair in read_adapter(spec).pairs.items():
            network.get_submodule(module).weight.data += gate * pair.scale * (pair.b @ pair.a)  # type: ignore[operator]
    return logits(network)


def test_a_stack_is_the_sum_of_the_deltas(tiny: Executor, make: Callable[..., str]) -> None:
    one, two = make(1), make(2, only="ff", rank=3)
    mounted = mount(tiny.checkpoint.network, [read_adapter(one), read_adapter(two)], "tiny")
    for gates in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-0.5, 2.0)):
        with mounted.gated([gates]) as network:
            expected = merged(tiny, list(zip((one, two), gates, strict=True)))
            torch.testing.assert_close(logits(network), expected, atol=2e-4, rtol=2e-4)
    assert torch.equal(logits(mounted.network), logits(tiny.checkpoint.network))  # off: the base itself


def test_rows_with_and_without_adapters_share_a_batch(tiny: Executor, make: Callable[..., str]) -> None:
    one, two = make(1), make(2, only="ff", rank=3)
    mounted = mount(tiny.checkpoint.network, [read_adapter(one), read_adapter(two)], "tiny")
    gates = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.5)]
    ids = torch.arange(5, 85).view(4, 20)
    with mounted.gated(gates) as network:
        mixed = logits(network, ids)
    for row, gate in enumerate(gates):
        with mounted.gated([gate]) as network:
            torch.testing.assert_close(mixed[row : row + 1], logits(network, ids[row : row + 1]), atol=1e-4, rtol=1e-4)


def test_weights_are_the_same_bits_after_a_hundred_switches(tiny: Executor, make: Callable[..., str]) -> None:
    before = {n: p.clone() for n, p in tiny.checkpoint.network.named_parameters()}
    out = logits(tiny.checkpoint.network)
    mounted = mount(tiny.checkpoint.network, [read_adapter(make(1))], "tiny")
    for k in range(100):
        with mounted.gated([(float(k % 3),)]) as network:
            logits(network, IDS[:1, :4])
    shared = dict(mounted.network.named_parameters())
    for name, parameter in tiny.checkpoint.network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert any(parameter is p for p in shared.values())  # shared, not copied
    assert torch.equal(logits(mounted.network), out)


def test_a_failure_leaves_the_switch_as_it_was(tiny: Executor, make: Callable[..., str]) -> None:
    spec = make(1)
    mounted = mount(tiny.checkpoint.network, [read_adapter(spec)], "tiny")
    with pytest.raises(ZeroDivisionError), mounted.on(**{spec: 1.0}):
        raise ZeroDivisionError
    assert torch.equal(logits(mounted.network), logits(tiny.checkpoint.network))


# ---------------------------------------------------------------- decoding


PROMPTS = ("Tom has 12 pens. Tom finds 7 more pens. How many pens are there?", "Ana has 4 cups. Ana buys 9 more cups.")


def decoded(executor: Executor, adapters: list[str] | None = None) -> list[list[int]]:
    prompts = [executor.prompt_ids(PROMPTS[k % 2]) for k in range(4)]
    return [r.ids for r in executor.denoise(prompts, [1, 2, 3, 4], DECODE, adapters)]


def test_decoding_with_a_schedule_equals_decoding_block_by_block(tiny: Executor, make: Callable[..., str]) -> None:
    spec = make(1, size=1.0)
    base, on, late = decoded(tiny), decoded(tiny.with_adapters(spec)), decoded(tiny.with_adapters(f"{spec}@last:1"))
    assert base != on
    assert [r[:8] for r in late] == [r[:8] for r in base]
    assert late != base
    assert decoded(tiny.with_adapters(f"{spec}@first:2")) == on
    assert decoded(tiny.with_adapters(f"{spec}@block:0-0+{spec}@block:1")) == on
    assert decoded(tiny.with_adapters(f"{spec}*0")) == base
    assert decoded(tiny) == base


def test_prompts_may_bring_their_own_schedule(tiny: Executor, make: Callable[..., str]) -> None:
    spec, other = make(1, size=1.0), make(2, size=1.0, only="ff")
    schedules = ["", spec, f"{spec}@last:1+{other}@masked:0.5-1", f"{other}@step:0-3"]
    mounted = tiny.with_adapters("", *schedules)
    together = decoded(mounted, schedules)
    for row, schedule in enumerate(schedules):
        assert together[row] == decoded(tiny.with_adapters(schedule))[row]
    with pytest.raises(UserError, match="is not mounted"):
        decoded(tiny, [spec] * 4)


def test_guidance_doubles_the_rows_and_the_gates(tiny: Executor, make: Callable[..., str]) -> None:
    spec = make(1, size=0.5)
    guided = Decode(gen_length=16, block_length=8, steps=8, cfg_scale=0.5)
    prompts = [tiny.prompt_ids(p) for p in PROMPTS]
    mixed = tiny.with_adapters("", spec).denoise(prompts, [0, 1], guided, ["", spec])
    assert mixed[0].ids == tiny.denoise(prompts, [0, 1], guided)[0].ids
    assert mixed[1].ids == tiny.with_adapters(spec).denoise(prompts, [0, 1], guided)[1].ids


# ---------------------------------------------------------------- schedules


@given(
    st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.integers(1, 6), st.integers(0, 7), st.floats(0, 1),
)  # fmt: skip
def test_clauses_mean_what_they_say(block: tuple[int, int], n: int, step: int, masked: float) -> None:
    blocks, here = block
    at = At(here, blocks, step, masked)
    on = {
        f"a@first:{n}": here in list(range(blocks))[:n],
        f"a@last:{n}": here in list(range(blocks))[-n:],
        f"a@step:{n}": step == n,
        "a@step:2-4": step in (2, 3, 4),
        "a@masked:0.25-0.75": 0.25 <= masked <= 0.75,
        f"a@last:{n},step:2-4": here in list(range(blocks))[-n:] and step in (2, 3, 4),
    }
    for spec, wanted in on.items():
        assert (Schedule.parse(spec).gate(at, ["a"])[0] == 1) is wanted, spec
    stacked = Schedule.parse("a*2+b@alone,last:1*0.5").gate(at, ["a", "b"])
    assert stacked == ((0.0, 0.5) if here == blocks - 1 else (2.0, 0.0))


@pytest.mark.parametrize(
    "spec",
    ["@all", "a@", "a@lst:3", "a@last:0", "a@last:x", "a@block:3-1", "a*x", "a*inf", "a+", "a@all:3", "a@step:1.5"],
)
def test_a_schedule_that_cannot_be_read_is_refused(spec: str) -> None:
    if spec == "a@":
        assert Schedule.parse(spec) == Schedule.parse("a")
        return
    with pytest.raises(UserError, match="schedule"):
        Schedule.parse(spec)


def test_a_clause_that_would_never_hold_is_refused(tiny: Executor, make: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="would never be on"):
        decoded(tiny.with_adapters(f"{make(1)}@block:2"))


def test_masked_share_switches_by_row(tiny: Executor, make: Callable[..., str]) -> None:
    spec = make(1)
    mounted = mount(tiny.checkpoint.network, [read_adapter(spec)], "tiny")
    before = conductor(mounted, [Schedule.parse(f"{spec}@masked:0.5-1")] * 2)
    before(Moment([1, 0], [0, 0], 2, [0, 0], 8, lambda: [0.75, 0.25]))
    assert mounted.switch.rows is not None
    assert mounted.switch.rows.tolist() == [[1.0], [0.0]]


# ---------------------------------------------------------------- files and refusals


@pytest.mark.slow
def test_peft_loads_what_is_saved_and_its_logits_agree(tiny: Executor, make: Callable[..., str]) -> None:
    peft = pytest.importorskip("peft")
    from triaxis.models.adapters import share

    spec = make(3)
    mounted = mount(tiny.checkpoint.network, [read_adapter(spec)], "tiny")
    model = peft.PeftModel.from_pretrained(share(tiny.checkpoint.network), spec)
    with mounted.on(**{spec: 1.0}) as network:
        torch.testing.assert_close(logits(network), logits(model.base_model.model), atol=1e-4, rtol=1e-4)
    attached = [n for n, _ in model.named_modules() if n.endswith(".lora_A")]
    assert len(attached) == len(read_adapter(spec).pairs) == 28


def test_what_peft_saves_is_read(tiny: Executor, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from triaxis.models.adapters import share

    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["ff_proj", "up_proj"], use_rslora=True, alpha_pattern={
        r"blocks\.0\.up_proj": 32}, init_lora_weights=False)  # fmt: skip
    model = peft.get_peft_model(share(tiny.checkpoint.network), config)
    model.save_pretrained(tmp_path)
    mounted = mount(tiny.checkpoint.network, [read_adapter(str(tmp_path))], "tiny")
    with mounted.on(**{str(tmp_path): 1.0}) as network:
        torch.testing.assert_close(logits(network), logits(model.base_model.model), atol=1e-4, rtol=1e-4)


def spoiled(folder: str, into: Path, **changes: Any) -> str:
    import shutil

    shutil.copytree(folder, into)
    path = into / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(into)


def test_an_adapter_that_is_not_what_it_seems_is_refused(
    tiny: Executor, parity: Executor, make: Callable[..., str], tmp_path: Path
) -> None:
    good = make(1, only="up_proj")
    cases = {
        "was attached to fewer modules": {"target_modules": ["up_proj", "gate_proj"]},
        "use_dora": {"use_dora": True},
        "modules_to_save": {"modules_to_save": ["wte"]},
        "peft_type": {"peft_type": "IA3"},
    }
    for k, (message, change) in enumerate(cases.items()):
        with pytest.raises(UserError, match=message):
            tiny.with_adapters(spoiled(good, tmp_path / str(k), **change))
    with pytest.raises(UserError, match="no adapter named"):
        tiny.with_adapters("nowhere")
    with pytest.raises(UserError, match=r"belongs to another model|absent from"):
        parity.with_adapters(make(1))
    with pytest.raises(UserError, match=r"there is no adapter_config\.json"):
        tiny.with_adapters(str(tmp_path))


def test_an_adapter_may_be_larger_than_a_settings_file(make: Callable[..., str]) -> None:
    """Of LLaDA-8B's size, r = 8, it is 45 MB; the limit on settings once refused everything over 4 MiB."""
    folder = make(1, rank=160)
    assert (Path(folder) / "adapter_model.safetensors").stat().st_size > 4 << 20
    assert read_adapter(folder).parameters > 1e6
    assert len(adapter_fingerprint(Path(folder))) == 12


def test_the_fingerprint_follows_the_weights(make: Callable[..., str]) -> None:
    one, two = Path(make(1)), Path(make(2))
    assert adapter_fingerprint(one) != adapter_fingerprint(two)
    assert Schedule.parse(str(one)).card() != Schedule.parse(f"{one}@last:1").card()


# ---------------------------------------------------------------- in a study


def test_conditions_with_an_adapter_make_other_rows(tiny: Executor, make: Callable[..., str], tmp_path: Path) -> None:
    from triaxis.store import Store
    from triaxis.study import Study

    spec = make(1, size=1.0)
    preset = tmp_path / "two.toml"
    preset.write_text(
        '[[condition]]\nname = "none"\nrole = "baseline"\n'
        f'[[condition]]\nname = "with"\nrole = "brittleness"\nadapter = "{spec}@last:2"\n'
    )
    small = {"preset": str(preset), "planners": (), "n": 3, "decode": {"steps": 12}}
    Study(**small).run(tmp_path / "a")
    with Store(tmp_path / "a" / "rows.sqlite", write=False) as store:
        rows = {(r.condition, r.item): r.text for r in store.rows()}
    plain = {i: t for (c, i), t in rows.items() if c == "none"}
    assert any(plain[i] != t for (c, i), t in rows.items() if c == "with")
    whole = Study(**small, conditions=("none",), adapter=f"{spec}@last:2").run(tmp_path / "b")
    with Store(tmp_path / "b" / "rows.sqlite", write=False) as store:
        assert {r.item: r.text for r in store.rows()} == {i: t for (c, i), t in rows.items() if c == "with"}
    assert whole["conditions"][0]["name"] == "none"


def test_every_arm_stands_beside_itself_with_the_adapter(make: Callable[..., str], tmp_path: Path) -> None:
    from triaxis.study import Study

    study = Study(
        planners=(),
        n=4,
        conditions=("none", "hint", "vote"),
        decode={"steps": 12},
        adapter=make(1, size=1.0),
        beside=True,
    )
    summary = study.run(tmp_path)
    names = [c["name"] for c in summary["conditions"]]
    assert names == ["none", "none+adapter", "hint", "hint+adapter", "vote", "vote+adapter"]
    found = summary["axes"]["adapters"]
    assert [(e["condition"], e["against"]) for e in found["effects"]] == [(f"{n}+adapter", n) for n in names[::2]]
    assert {e["adapter"] for e in found["effects"]} == {study.adapter}
    assert [c["condition"] for c in found["costs"]] == ["hint+adapter"]
    assert list(found["changes"]) == ["vote+adapter"]
    assert [e["name"] for e in summary["axes"]["brittleness"]["effects"]] == [
        "hint"
    ]  # axis 1 is of the executor as it is
    assert Study.reopen(tmp_path) == study


def test_an_adapter_trained_anew_is_another_study(make: Callable[..., str], tmp_path: Path) -> None:
    import shutil

    from triaxis.study import Study

    mine = tmp_path / "mine"
    shutil.copytree(make(1), mine)
    study = Study(planners=(), n=2, conditions=("none",), decode={"steps": 6}, adapter=str(mine))
    study.run(tmp_path / "out")
    shutil.copy(Path(make(2)) / "adapter_model.safetensors", mine)
    with pytest.raises(UserError, match="adapters"):
        study.run(tmp_path / "out")


# ---------------------------------------------------------------- other trees


@pytest.mark.parametrize("family", ["dream", "sdar", "llada_moe"])
def test_every_tree_has_its_targets(family: str) -> None:
    """Names of Hugging Face's trees, experts inside layers: targets, layer numbers and the head are told apart."""
    from triaxis.models.card import card
    from triaxis.models.decoder import DecoderConfig, DecoderNetwork
    from triaxis.models.targets import choose, linears, pattern, resolve

    fields = {
        "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 96, "tie_word_embeddings": False, "mask_token_id": 59,
        "eos_token_id": 58, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
        "rope_theta": 1e4, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    network = DecoderNetwork(DecoderConfig.read(fields, "here", card(family).config))
    g = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = (
            0.2 * torch.randn(parameter.shape, generator=g) if parameter.dim() > 1 else torch.ones_like(parameter)
        )
    found = linears(network)
    assert found.outside == ("lm_head",)
    assert found.depth == 3
    whole = choose(network, ["all"])
    assert {m.rsplit(".", 1)[-1] for m in whole} <= {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert set(choose(network, ["attention"], (0.67, 1.0))) < {m for m in whole if ".layers.2." in m}
    assert set(resolve(found, pattern(found, ["attn_out"]))) == {m for m in whole if m.endswith("o_proj")}
    pairs = {}
    for name in whole:
        layer: Any = network.get_submodule(name)
        pairs[name] = (torch.randn(2, layer.in_features), 0.2 * torch.randn(layer.out_features, 2))
    from triaxis.models.adapters import Adapter, Pair

    adapter = Adapter("a", Path(), {n: Pair(a, b, 0.5) for n, (a, b) in pairs.items()}, {}, {})
    mounted = mount(network, [adapter], family)
    ids = torch.arange(5, 45).view(2, 20)
    with mounted.on(a=1.0) as on:
        moved = logits(on, ids)
    for name, (a, b) in pairs.items():
        network.get_submodule(name).weight.data += 0.5 * b @ a  # type: ignore[operator]
    torch.testing.assert_close(moved, logits(network, ids), atol=1e-4, rtol=1e-4)
