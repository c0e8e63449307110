"""Every family: its card, and its network against transformers' own Qwen2, Qwen3, Llama and mixture models.

transformers' models are causal; the test hands them the attention mask of the family and shifts their logits itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from triaxis.errors import UserError, override
from triaxis.models.card import card, cards
from triaxis.models.decoder import DecoderConfig
from triaxis.models.load import load_checkpoint
from triaxis.sampling.denoise import denoise
from triaxis.sampling.executor import Executor
from triaxis.sampling.schedule import Decode

MASK, EOS = 59, 58
BASE: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "tie_word_embeddings": False,
}  # fmt: skip
MOE = {"moe_intermediate_size": 20, "num_experts_per_tok": 2}
# family -> transformers' class prefix, its extra settings
MADE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "dream": ("Qwen2", {}),
    "dream_unshifted": ("Qwen2", {}),
    "sdar": ("Qwen3", {"head_dim": 16}),
    "a2d_qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "a2d_qwen3": ("Qwen3", {"head_dim": 8}),
    "a2d_llama": ("Llama", {"num_key_value_heads": 4}),
    "llada_moe": ("Qwen3Moe", {"head_dim": 8, "num_experts": 6, "norm_topk_prob": False, **MOE}),
    "llada2": (
        "Glm4Moe",
        {
            "head_dim": 8, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "n_shared_experts": 1,
            "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "use_qk_norm": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 600000.0, "partial_rotary_factor": 0.5}, **MOE,
        },
    ),
}  # fmt: skip
# Glm4Moe's tensor names -> LLaDA2's
_RENAMED = (
    (r"model\.embed_tokens", "model.word_embeddings"), (r"self_attn\.o_proj", "attention.dense"),
    (r"self_attn\.([qk])_norm", r"attention.\1_norm"), (r"attention\.q_norm", "attention.query_layernorm"),
    (r"attention\.k_norm", "attention.key_layernorm"), (r"gate\.e_score_correction_bias", "gate.expert_bias"),
)  # fmt: skip


def reference(family: str) -> Any:
    """A small random model of transformers', norms and biases random too."""
    import transformers

    prefix, extra = MADE[family]
    config = getattr(transformers, f"{prefix}Config")(**BASE | extra, attn_implementation="eager")
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(3)
    tensors = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if "correction" in n)]
    for name, tensor in tensors:
        spread = 0.05 if "correction" in name else 0.3
        tensor.data = torch.randn(tensor.shape, generator=generator) * spread + ("norm" in name) * 0.7
    return model.eval()


def write(folder: Path, family: str, model: Any) -> None:
    """Save as the family's own files would be."""
    model.save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"mask_token_id": MASK, "eos_token_id": EOS, "triaxis_family": family, "architectures": []}
    if family == "llada2":
        fields |= {"num_experts": 8, "num_shared_experts": 1, "block_size": 4}
        tensors = load_file(folder / "model.safetensors")
        for layer in range(3):
            at = f"model.layers.{layer}."
            parts = [tensors.pop(f"{at}self_attn.{n}_proj.weight") for n in "qkv"]
            tensors[f"{at}attention.query_key_value.weight"] = torch.cat(parts)
        for old, new in _RENAMED:
            tensors = {re.sub(old, new, name): t for name, t in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Mapping[str, tuple[Path, Any]]:
    """family -> its checkpoint folder and the model it was written from."""
    made = {}
    for family in MADE:
        folder, model = tmp_path_factory.mktemp(family), reference(family)
        write(folder, family, model)
        made[family] = folder, model
    return made


def expected(model: Any, ids: Tensor, block: int, shift: int) -> Tensor:
    """transformers' logits with everyone seeing everyone, or blocks seeing no later block."""
    length = ids.shape[1]
    place = torch.arange(length)
    seen = place[:, None] // block >= place[None] // block if block else torch.ones(length, length, dtype=torch.bool)
    mask = torch.zeros(len(ids), 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits: Tensor = model(ids, attention_mask=mask).logits
    return torch.cat((logits[:, :shift], logits[:, : length - shift]), dim=1)


SHIFT, BLOCKS = {"dream": 1}, {"sdar": 4, "llada2": 4}


@pytest.mark.parametrize("family", MADE)
def test_logits_are_those_of_transformers(folders: Mapping[str, tuple[Path, Any]], family: str) -> None:
    folder, model = folders[family]
    network = load_checkpoint(str(folder)).network
    ids = torch.randint(0, 58, (3, 15), generator=torch.Generator().manual_seed(1))
    wanted = expected(model, ids, BLOCKS.get(family, 0), SHIFT.get(family, 0))
    torch.testing.assert_close(network(ids), wanted, atol=1e-4, rtol=1e-4)
    select = torch.tensor([[0, 3, 4], [14, 1, 9], [5, 5, 0]])
    index = select[..., None].expand(-1, -1, 60)
    torch.testing.assert_close(network(ids, None, select), wanted.gather(1, index), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", MADE)
def test_padding_changes_nothing(folders: Mapping[str, tuple[Path, Any]], family: str) -> None:
    network = load_checkpoint(str(folders[family][0])).network
    rows = [torch.randint(0, 58, (n,), generator=torch.Generator().manual_seed(n)) for n in (6, 9, 12)]
    padded = torch.stack([torch.cat((r, torch.full((12 - len(r),), 7))) for r in rows])
    valid = torch.arange(12)[None] < torch.tensor([[6], [9], [12]])
    logits = network(padded, valid)
    for i, row in enumerate(rows):
        torch.testing.assert_close(logits[i, : len(row)], network(row[None])[0], atol=1e-5, rtol=1e-5)


# --- decoding: the loop against one that computes everything, with transformers' logits ---


def slow(model: Any, prompt: list[int], d: Decode, block: int, shift: int) -> list[int]:
    """generate.py's loop, greedy, on transformers' logits; aligned blocks count from position 0."""
    k, steps = d.block_length, d.steps // d.blocks
    start = len(prompt) // k * k if block else len(prompt)
    count = -(-(len(prompt) + d.gen_length - start) // k)
    x = torch.tensor([[*prompt, *[MASK] * (start + count * k - len(prompt))]])
    for b in range(count):
        span = slice(start + b * k, start + (b + 1) * k)
        for i in range(steps):
            hidden = x[0, span] == MASK
            if not hidden.any():
                break
            logits = expected(model, x, block, shift)[0, span]
            ids = logits.argmax(-1)
            sure = logits.softmax(-1).gather(-1, ids[:, None])[:, 0].masked_fill(~hidden, -1)
            best = sure.topk(min(k // steps + (i < k % steps), int(hidden.sum()))).indices
            x[0, span][best] = ids[best]
    return [int(t) for t in x[0, len(prompt) : len(prompt) + d.gen_length]]


@pytest.mark.parametrize("family", MADE)
def test_the_engine_decodes_what_a_plain_loop_decodes(folders: Mapping[str, tuple[Path, Any]], family: str) -> None:
    """Ragged prompts in one batch; for the block-causal families that is the exact block cache against none."""
    folder, model = folders[family]
    executor = Executor(load_checkpoint(str(folder)))
    d = Decode(gen_length=16, block_length=8, steps=10)
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 35, 8], [2, 7, 18, 28, 18, 2, 8, 45, 9, 0, 4]]
    wanted = [slow(model, p, d, BLOCKS.get(family, 0), SHIFT.get(family, 0)) for p in prompts]
    assert executor.generate_ids(prompts, d) == wanted


@pytest.mark.parametrize("heat", [0.0, 0.7])
@pytest.mark.parametrize("family", MADE)
def test_a_row_is_the_same_alone_and_in_a_running_batch(
    folders: Mapping[str, tuple[Path, Any]], family: str, heat: float
) -> None:
    """Ragged prompts, rows that end at unlike blocks and let others in."""
    network = load_checkpoint(str(folders[family][0])).network
    d = Decode(gen_length=16, block_length=4, steps=8, temperature=heat, stop="eos_block")
    prompts = [[(7 * n + i) % 50 + 1 for i in range(1 + n * 5 % 11)] for n in range(8)]

    def rows(room: int, marks: list[int], stop: str = "eos_block") -> list[Any]:
        return denoise(
            network, prompts, range(8), override(d, {"stop": stop}), mask_id=MASK, eos_ids=[EOS, *marks],
            device=torch.device("cpu"), room=room,
        )  # fmt: skip

    free = rows(0, [], "canvas")

    def blocks(mark: int) -> set[int]:  # where a row would end
        return {r.ids.index(mark) // 4 if mark in r.ids else -1 for r in free}

    marks = [max({t for r in free for t in r.ids}, key=lambda t: len(blocks(t)))]
    alone, running = rows(1, marks), rows(90, marks)
    assert [(r.ids, r.ended, r.forwards, r.tokens, r.order) for r in running] == [
        (r.ids, r.ended, r.forwards, r.tokens, r.order) for r in alone
    ]
    assert len({r.forwards for r in alone}) > 1


@pytest.mark.parametrize("family", ["sdar", "llada2"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.8}, {"threshold": 0.1}, {"cfg_scale": 0.5}, {"stop": "eos_block"}, {"steps": 3}],
    ids=str,
)
def test_the_block_cache_is_exact_and_computes_less(
    folders: Mapping[str, tuple[Path, Any]], family: str, changes: dict[str, Any]
) -> None:
    executor = Executor(load_checkpoint(str(folders[family][0])))
    d = override(Decode(gen_length=12, block_length=4, steps=12), changes)
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 35, 8], [2, 7, 18, 28, 18, 2, 8, 45, 9, 0, 4], [9] * 30]

    def rows(watch: bool) -> list[Any]:  # a watched run computes everything at every pass
        return denoise(
            executor.checkpoint.network, prompts, [1, 2, 3, 4], d,
            mask_id=MASK, eos_ids=[EOS, 3], device=torch.device("cpu"), watch=watch,
        )  # fmt: skip

    kept, plain = rows(False), rows(True)
    assert [r.ids for r in kept] == [r.ids for r in plain]
    assert [r.forwards for r in kept] == [r.forwards for r in plain]
    assert sum(r.tokens for r in kept) < 0.7 * sum(r.tokens for r in plain)
    alone = [executor.generate_ids([p], d, [s])[0] for s, p in enumerate(prompts)]
    assert executor.generate_ids(prompts, d) == alone


@pytest.mark.parametrize("family", ["dream", "llada_moe"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_that_is_never_stale_is_exact(folders: Mapping[str, tuple[Path, Any]], family: str, cache: str) -> None:
    """The shifted family needs the state before the block too."""
    executor = Executor(load_checkpoint(str(folders[family][0])))
    d = Decode(gen_length=16, block_length=8, steps=8)
    fresh = override(d, {"cache": cache, "steps": 2})
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 35, 8]]
    assert executor.generate_ids(prompts, fresh) == executor.generate_ids(prompts, override(d, {"steps": 2}))
    stale = override(d, {"cache": cache, "refresh": 1})
    assert executor.generate_ids(prompts, stale) == executor.generate_ids(prompts, d)


# --- cards ---


def test_every_card_is_whole() -> None:
    assert {"llada", "illada", "llada_moe", "llada2", "dream", "sdar", "a2d_qwen2", "a2d_qwen3", "a2d_llama"} < set(
        cards()
    )
    types = [t for c in cards().values() for t in c.model_types]
    assert len(types) == len(set(types)), "a model type belongs to one family"
    for c in cards().values():
        assert c.network in ("llada", "decoder")
        assert c.content.count("{content}") == 1
        assert c.system == "" or c.system.count("{content}") == 1
        assert c.ends
        assert c.citation
        assert re.compile(c.targets)
        assert Decode(**c.decode)  # type: ignore[arg-type]
        assert "\t" not in c.start + c.content


@pytest.mark.parametrize("family", sorted(MADE))
def test_targets_name_the_layers_matrices_and_never_the_head(
    folders: Mapping[str, tuple[Path, Any]], family: str
) -> None:
    network = load_checkpoint(str(folders[family][0])).network
    linear = [n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)]
    taken = [n for n in linear if re.fullmatch(card(family).targets, n)]
    assert len(taken) % 3 == 0
    assert len(taken) >= 3 * 2
    assert card(family).head not in taken
    assert family == "a2d_qwen2" or card(family).head in linear


@pytest.mark.parametrize(
    ("fields", "family"),
    [
        ({"model_type": "llada", "architectures": ["LLaDAModelLM"]}, "llada"),
        ({"model_type": "llada", "architectures": ["LLaDAMoEModelLM"]}, "llada_moe"),
        ({"model_type": "llada"}, "llada"),
        ({"model_type": "Dream"}, "dream"),
        ({"model_type": "Dream", "triaxis_family": "dream_unshifted"}, "dream_unshifted"),
        ({"model_type": "sdar"}, "sdar"),
        ({"model_type": "llada2_moe"}, "llada2"),
        ({"model_type": "a2d-qwen3"}, "a2d_qwen3"),
    ],
    ids=str,
)
def test_a_config_finds_its_family(fields: dict[str, object], family: str) -> None:
    from triaxis.models.card import card_of

    assert card_of(fields, "config.json").name == family


def test_published_sizes_and_ids(tmp_path: Path) -> None:
    """What the families' own config.json files leave out comes from the card."""
    dream = {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 131072, "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
    }  # fmt: skip
    c = DecoderConfig.read(dream, "x", card("dream").config)
    assert (c.mask_token_id, c.eos_token_id, c.shift, c.qkv_bias, c.shape.attend_block) == (151666, 151643, 1, True, 0)
    sdar = dream | {"hidden_size": 2560, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    c = DecoderConfig.read(sdar, "x", card("sdar").config)
    assert (c.mask_token_id, c.shift, c.qk_norm, c.shape.attend_block, c.head_size) == (151669, 0, True, 4, 128)


BAD: list[tuple[dict[str, object], str]] = [
    ({"hidden_size": None}, "'hidden_size' is missing"),
    ({"hidden_size": 31}, "hidden_size=31 does not split into 4"),
    ({"num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple of the 3 kv heads"),
    ({"num_hidden_layers": "3"}, "num_hidden_layers='3' is not sensible"),
    ({"mask_token_id": 60}, "mask_token_id=60 is outside the 60 embedding rows"),
    ({"mask_token_id": EOS}, "are both 58"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
    ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_scaling of type 'yarn' is not supported"),
]


@pytest.mark.parametrize(("fields", "part"), BAD, ids=[p[:30] for _, p in BAD])
def test_a_config_that_is_another_network(
    folders: Mapping[str, tuple[Path, Any]], tmp_path: Path, fields: dict[str, object], part: str
) -> None:
    import shutil

    folder = tmp_path / "spoilt"
    shutil.copytree(folders["dream"][0], folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(UserError, match=re.escape(part)):
        load_checkpoint(str(folder))


def test_tensors_of_another_family_are_named(folders: Mapping[str, tuple[Path, Any]]) -> None:
    with pytest.raises(UserError, match=r"tensor 'model\.layers\.0\.self_attn\.k_norm\.weight', .* does not belong"):
        load_checkpoint(str(folders["sdar"][0]), family="a2d_llama")
    with pytest.raises(UserError, match=r"9 tensors are missing, such as .*q_proj\.bias"):
        load_checkpoint(str(folders["a2d_llama"][0]), family="dream")


def test_a_mask_named_only_by_the_tokenizer_is_found(folders: Mapping[str, tuple[Path, Any]], tmp_path: Path) -> None:
    import shutil

    from tokenizers import Tokenizer, models

    folder = tmp_path / "masked"
    shutil.copytree(folders["a2d_llama"][0], folder)
    fields = json.loads((folder / "config.json").read_text())
    del fields["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(fields))
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(40)}, unk_token="0"))
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="names a mask token"):
        load_checkpoint(str(folder))
    tokenizer.add_special_tokens(["<|mask|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert load_checkpoint(str(folder)).config.mask_token_id == 40


def test_a_routers_bias_stays_in_fp32(folders: Mapping[str, tuple[Path, Any]]) -> None:
    network = load_checkpoint(str(folders["llada2"][0]), dtype="bf16").network
    kinds = {n.endswith("expert_bias"): p.dtype for n, p in network.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert network(torch.tensor([[1, 2, 3]])).isfinite().all()
