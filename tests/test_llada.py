"""The native network: against the recorded logits, and against a second, plain implementation written here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from places import PARITY
from torch import Tensor

from triaxis.models.llada import LladaConfig, LladaNetwork
from triaxis.sampling.executor import Executor

SMALL = LladaConfig(
    d_model=24, n_heads=6, n_layers=2, mlp_hidden_size=40, vocab_size=50, mask_token_id=48, eos_token_id=49,
    max_sequence_length=64, rope_theta=500.0, rms_norm_eps=1e-5,
)  # fmt: skip
VARIANTS = {
    "plain": SMALL,
    "grouped": replace(SMALL, n_kv_heads=2),
    "one kv head": replace(SMALL, n_kv_heads=1),
    "tied": replace(SMALL, weight_tying=True),
    "bias": replace(SMALL, include_qkv_bias=True),
    "padded embedding": replace(SMALL, embedding_size=64),
    "everything": replace(SMALL, n_kv_heads=3, weight_tying=True, include_qkv_bias=True, embedding_size=56),
}


def made(config: LladaConfig, seed: int = 0) -> LladaNetwork:
    """A network with every parameter random, norms and biases too, so that none can be left out unnoticed."""
    network = LladaNetwork(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.dim() == 1) * 0.7
    return network.eval().requires_grad_(False)


def random_ids(config: LladaConfig, rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(0, config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def plain_logits(network: LladaNetwork, ids: list[int]) -> Tensor:
    """The same function of one row in float64, position by position and head by head, from the paper's formulas."""
    c = network.config
    weights = {k.removeprefix("model.transformer."): v.double() for k, v in network.state_dict().items()}
    half = c.head_width // 2
    angle = torch.tensor([[p * c.rope_theta ** (-i / half) for i in range(half)] for p in range(len(ids))]).double()

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * weights[name]

    def project(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))

    def turned(x: Tensor) -> Tensor:  # (L, E): pairs (i, i + half) turn by the angle of position and pair
        a, b = x[:, :half], x[:, half:]
        return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), dim=1)

    x = weights["wte.weight"][ids]
    for layer in range(c.n_layers):
        at = f"blocks.{layer}."
        h = norm(x, f"{at}attn_norm.weight")
        q, k, v = (project(h, f"{at}{n}_proj") for n in "qkv")
        heads = []
        for head in range(c.n_heads):
            group = head // (c.n_heads // c.kv_heads)
            own, shared = (slice(i * c.head_width, (i + 1) * c.head_width) for i in (head, group))
            scores = turned(q[:, own]) @ turned(k[:, shared]).T / c.head_width**0.5
            heads.append(scores.softmax(-1) @ v[:, shared])
        x = x + project(torch.cat(heads, dim=1), f"{at}attn_out")
        h = norm(x, f"{at}ff_norm.weight")
        gate = project(h, f"{at}ff_proj")
        x = x + project(gate * gate.sigmoid() * project(h, f"{at}up_proj"), f"{at}ff_out")
    x = norm(x, "ln_f.weight")
    return x @ (weights["wte.weight"] if c.weight_tying else weights["ff_out.weight"]).T


def test_logits_are_the_recorded_ones(parity: Executor) -> None:
    recorded = json.loads((PARITY / "recorded.json").read_text())["forward"]
    logits = parity.checkpoint.network(torch.tensor(recorded["input_ids"]))
    torch.testing.assert_close(logits, torch.tensor(recorded["logits"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_second_implementation_agrees(config: LladaConfig) -> None:
    network, ids = made(config), random_ids(config, 2, 13)
    logits = network(ids)
    assert logits.shape == (2, 13, config.rows)
    for row in range(2):
        expected = plain_logits(network, ids[row].tolist())
        torch.testing.assert_close(logits[row].double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["wte", "blocks.0.q_proj", "blocks.0.v_proj", "blocks.0.attn_norm"])
@pytest.mark.parametrize("how", ["in place", "data", "another tensor"])
def test_first_projections_that_were_kept_follow_the_weights(part: str, how: str) -> None:
    network, ids = made(SMALL), random_ids(SMALL, 2, 12)
    with torch.inference_mode():
        network(ids)  # from here on they are looked up
    module = network.get_submodule(f"model.transformer.{part}")
    with torch.no_grad():
        if how == "in place":
            module.weight.mul_(1.25)
        elif how == "data":
            module.weight.data *= 1.25
        else:
            module.weight = torch.nn.Parameter(module.weight * 1.25, requires_grad=False)
        found = network(ids)
    for row, logits in zip(ids.tolist(), found, strict=True):
        torch.testing.assert_close(logits.double(), plain_logits(network, row), atol=2e-5, rtol=1e-4)


def test_attention_is_bidirectional() -> None:
    network, ids = made(SMALL), random_ids(SMALL, 1, 9)
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % SMALL.vocab_size
    assert (network(ids)[0, 0] - network(changed)[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("config", [VARIANTS["plain"], VARIANTS["everything"]])
def test_selected_positions_have_the_logits_of_the_whole_canvas(config: LladaConfig) -> None:
    network, ids = made(config), random_ids(config, 3, 12)
    select = torch.tensor([[0, 3, 4], [11, 10, 9], [5, 5, 0]])
    whole = network(ids).gather(1, select[..., None].expand(-1, -1, config.rows))
    torch.testing.assert_close(network(ids, None, select), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(side: str) -> None:
    """On the left too: rotary positions are relative, so a row may begin at any column."""
    network, filler = made(SMALL), 7
    rows = [random_ids(SMALL, 1, n, seed=n)[0].tolist() for n in (5, 9, 12)]
    padded, valid = [], []
    for row in rows:
        gap = 12 - len(row)
        padded.append([*row, *[filler] * gap] if side == "right" else [*[filler] * gap, *row])
        valid.append([*[True] * len(row), *[False] * gap] if side == "right" else [*[False] * gap, *[True] * len(row)])
    logits = network(torch.tensor(padded), torch.tensor(valid))
    for i, row in enumerate(rows):
        found = logits[i, : len(row)] if side == "right" else logits[i, 12 - len(row) :]
        torch.testing.assert_close(found, network(torch.tensor([row]))[0], atol=1e-5, rtol=1e-5)


def test_bf16_stays_near_fp32() -> None:
    network, ids = made(VARIANTS["grouped"]), random_ids(SMALL, 1, 10)
    expected = network(ids).softmax(-1)
    found = network.bfloat16()(ids)
    assert found.dtype is torch.bfloat16
    assert (found.float().softmax(-1) - expected).abs().max() < 0.1


def global_state() -> dict[str, object]:
    """What a constructor must not touch: LLaDA's remote code turns a kernel off for the whole process."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "rng": torch.get_rng_state().tolist(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def test_loading_and_running_changes_no_global_of_torch() -> None:
    import triaxis

    before = global_state()
    executor = triaxis.load_executor(str(PARITY), dtype="bf16")
    executor.generate_ids([[1, 2, 3]], triaxis.Decode(gen_length=8, block_length=4, steps=4, temperature=0.7))
    assert global_state() == before


def test_building_on_the_meta_device_draws_no_random_numbers_and_holds_nothing() -> None:
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = LladaNetwork(SMALL)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.is_meta for p in network.parameters())


def test_a_network_that_has_sampled_can_still_be_trained() -> None:
    """Rotary tables made under inference mode could not be used in a backward pass."""
    network, ids = made(SMALL), random_ids(SMALL, 1, 6)
    with torch.inference_mode():
        network(ids)
    network.requires_grad_(True)
    network(ids).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_rotary_tables_grow_with_the_canvas() -> None:
    network = made(replace(SMALL, max_sequence_length=8))
    ids = random_ids(SMALL, 1, 20)
    network(ids[:, :4])
    torch.testing.assert_close(network(ids)[0].double(), plain_logits(network, ids[0].tolist()), atol=1e-4, rtol=1e-4)
