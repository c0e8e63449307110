"""Checkpoint folders: sharded and single, and every way a folder can be unusable, each one clear line."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import triaxis
from triaxis.errors import UserError
from triaxis.models import load
from triaxis.models.folder import SHIPPED, fingerprint
from triaxis.models.load import load_checkpoint

Setter = Callable[..., None]
QUICK = triaxis.Decode(gen_length=8, block_length=8, steps=4)
INDEX = "model.safetensors.index.json"


def refusal(spec: Path | str, load: Callable[..., object] = load_checkpoint, **options: Any) -> str:
    """The one line with which `spec` is refused."""
    with pytest.raises(UserError) as refused:
        load(str(spec), **options)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def shard(folder: Path, parts: int = 3) -> None:
    """Split model.safetensors into shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(parts):
        name = f"model-{i + 1:05d}-of-{parts:05d}.safetensors"
        names = sorted(tensors)[i::parts]
        save_file({n: tensors[n] for n in names}, folder / name)
        weight_map |= dict.fromkeys(names, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# --- what loads ---


def test_a_sharded_checkpoint_is_the_single_file(folder: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(folder, sharded)
    shard(sharded)
    one, many = load_checkpoint(str(folder)), load_checkpoint(str(sharded))
    a, b = one.network.state_dict(), many.network.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("dtype", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), (None, torch.float32)])
def test_weights_load_in_the_asked_precision(folder: Path, dtype: str | None, kind: torch.dtype) -> None:
    executor = triaxis.load_executor(str(folder), dtype=dtype, device="cpu")
    assert {p.dtype for p in executor.checkpoint.network.parameters()} == {kind}
    assert not any(p.requires_grad for p in executor.checkpoint.network.parameters())
    assert len(executor.generate_ids([[1, 2, 3]], QUICK)[0]) == 8


def test_grouped_heads_bias_and_a_tied_head_load(folder: Path, set_config: Setter, set_tensors: Setter) -> None:
    tensors = load_file(folder / "model.safetensors")
    changed: dict[str, Any] = {"model.transformer.ff_out.weight": None}
    for layer in range(3):
        at = f"model.transformer.blocks.{layer}."
        for name, rows in (("q_proj", 64), ("k_proj", 32), ("v_proj", 32)):
            changed |= {
                f"{at}{name}.bias": torch.ones(rows),
                f"{at}{name}.weight": tensors[f"{at}{name}.weight"][:rows],
            }
    set_tensors(folder, changed)
    set_config(folder, n_kv_heads=2, include_qkv_bias=True, weight_tying=True)
    network = load_checkpoint(str(folder)).network
    assert network(torch.tensor([[1, 2, 3]])).shape == (1, 3, 256)
    set_tensors(folder, {"model.transformer.ff_out.weight": torch.zeros(256, 64)})
    again = load_checkpoint(str(folder)).network  # a tied head that is also stored: the embedding rules
    assert torch.equal(network(torch.tensor([[1, 2, 3]])), again(torch.tensor([[1, 2, 3]])))


def test_the_fingerprint_covers_config_weights_and_tokenizer(
    folder: Path, set_config: Setter, set_tensors: Setter
) -> None:
    seen = [fingerprint(folder)]
    set_config(folder, rope_theta=10000.0)
    seen.append(fingerprint(folder))
    set_tensors(folder, {"model.transformer.ln_f.weight": torch.zeros(64)})
    seen.append(fingerprint(folder))
    (folder / "tokenizer.json").write_text("{}")
    seen.append(fingerprint(folder))
    (folder / "README.md").write_text("words")
    assert len(set(seen)) == 4
    assert fingerprint(folder) == seen[-1]
    assert load_checkpoint(str(folder)).fingerprint == seen[-1]


@pytest.mark.parametrize("name", SHIPPED["executor"])
def test_every_shipped_executor_loads(name: str) -> None:
    assert load_checkpoint(name).family.name == "tiny"


@pytest.mark.parametrize(("given", "asked"), [({}, {-3, -1}), ({"MALLOC_TRIM_THRESHOLD_": "1"}, {-3})])
def test_freed_memory_stays_unless_the_environment_says_otherwise(
    given: dict[str, str], asked: set[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[int, int] = {}
    monkeypatch.setattr(load.sys, "platform", "linux")
    monkeypatch.setattr(load, "CDLL", lambda _: SimpleNamespace(mallopt=called.__setitem__))
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    load.keep_freed_memory.cache_clear()
    load.load_checkpoint(str(folder), device="cpu")
    load.load_checkpoint(str(folder), device="cpu")
    assert set(called) == asked


# --- names ---


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has nothing, instead of the network."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def nothing(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("cannot find the requested files\nin the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("tinny", "no executor named 'tinny' and no such folder; did you mean 'tiny'?"),
        ("tiny-3", "did you mean 'tiny"),
        ("GSAI-ML/LLaDA-8B-Base", "no executor named 'GSAI-ML/LLaDA-8B-Base': no such folder, and the hub says"),
        ("", "no executor named ''"),
        ("~nobody/model", "no executor named '~nobody/model'"),
        ("x" * 300, "no executor named"),
        ("a\0b", "no executor named"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(spec: str, part: str) -> None:
    assert part in refusal(spec)


@pytest.mark.parametrize(("spec", "revision"), [("org/model", None), ("org/model@v1.0", "v1.0")])
def test_a_hub_id_loads_from_the_hubs_cache_with_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, revision: str | None
) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--model" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    asked: list[Any] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        assert not any(p.endswith((".py", ".bin", ".pt")) for p in options["allow_patterns"])
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    checkpoint = load_checkpoint(spec)
    assert asked == [("org/model", revision)]
    assert (checkpoint.name, checkpoint.revision, checkpoint.folder) == (spec, commit, snapshot)
    assert load_checkpoint(str(folder)).revision == ""


def test_a_study_of_a_hub_id_records_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from triaxis.models.folder import find_folder
    from triaxis.study import Study

    commit = "89abcdef0123456789abcdef0123456789abcdef"
    snapshot = tmp_path / "models--org--model" / "snapshots" / commit
    shutil.copytree(find_folder("tiny", "executor"), snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    study = Study(executor="org/model@v1", planners=(), n=2, conditions=("none",), decode={"steps": 6})
    study.run(tmp_path / "out")
    held = json.loads((tmp_path / "out" / "protocol.json").read_text(encoding="utf-8"))["executor"]
    assert (held["name"], held["revision"]) == ("org/model@v1", commit)


def test_a_mask_id_that_is_a_word_is_refused(tmp_path: Path, set_config: Setter) -> None:
    from triaxis.models.folder import find_folder

    copy = Path(shutil.copytree(find_folder("tiny", "executor"), tmp_path / "copy"))
    set_config(copy, mask_token_id=40)
    executor = triaxis.load_executor(str(copy))
    with pytest.raises(UserError, match=r"mask_token_id=40 is the ordinary token .*own: 0 \(<\|mask\|>\)"):
        executor.prompt_ids("How many?")


@pytest.mark.usefixtures("no_hub")
def test_a_folder_counts_before_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert load_checkpoint(f"{folder.parent.name}/{folder.name}").revision == ""


def test_a_family_can_be_named(folder: Path) -> None:
    assert load_checkpoint(str(folder), family="tiny").family.name == "tiny"
    assert "no model family named 'tinny'; did you mean 'tiny'" in refusal(folder, family="tinny")


def test_fused_weights_are_views_and_loading_holds_each_tensor_once(folder: Path) -> None:
    network = load_checkpoint(str(folder)).network
    plain = network(torch.tensor([[1, 2, 3]]))
    network.fuse()
    for layer in network.layers():
        for fused, roles in ((layer.qkv, "qkv"), (layer.gate_up, ("gate", "up"))):
            assert fused is not None
            parts = [layer.part(r).weight for r in roles]
            assert torch.equal(fused[:, : parts[0].shape[1]], torch.cat(parts))
            assert not fused[:, parts[0].shape[1] :].any(), "room for adapters"
            assert {p.untyped_storage().data_ptr() for p in parts} == {fused.untyped_storage().data_ptr()}
    before = network(torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(before, plain, atol=1e-5, rtol=1e-5)
    moved = network.double().float()
    assert all(layer.qkv.data_ptr() == layer.part("q").weight.data_ptr() for layer in moved.layers())
    assert torch.equal(moved(torch.tensor([[1, 2, 3]])), before)
    assert not any("qkv" in name or "gate_up" in name for name in network.state_dict())


def test_a_misspelt_planner_is_refused_without_importing_transformers() -> None:
    assert "did you mean 'tiny-planner-m'?" in refusal("tiny-planer-m", triaxis.load_planner)


def test_bad_options(folder: Path) -> None:
    assert "dtype 'fp16' is unknown" in refusal(folder, dtype="fp16")
    assert "no device named 'gpu'" in refusal(folder, device="gpu")
    assert "no device named 'cuda:x'" in refusal(folder, device="cuda:x")
    assert "device 'cuda:99' is not here" in refusal(folder, device="cuda:99")


# --- configs ---

NEEDED = (
    "d_model", "n_heads", "n_layers", "mlp_hidden_size", "vocab_size", "mask_token_id", "eos_token_id", "rope_theta",
    "rms_norm_eps", "max_sequence_length", "activation_type", "block_type", "layer_norm_type", "rope",
)  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", [..., None], ids=["missing", "null"])
def test_a_missing_field_is_named(folder: Path, set_config: Setter, name: str, value: object) -> None:
    set_config(folder, **{name: value})
    assert f"config.json: config field {name!r} is missing" in refusal(folder)


def test_every_field_is_either_named_when_missing_or_changes_nothing(folder: Path, set_config: Setter) -> None:
    whole = json.loads((folder / "config.json").read_text())
    before = load_checkpoint(str(folder)).network(torch.arange(9)[None])
    for name in whole:
        (folder / "config.json").write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        if name in NEEDED:
            assert name in refusal(folder)
        else:
            after = load_checkpoint(str(folder)).network(torch.arange(9)[None])
            assert torch.equal(after, before), name


ABSURD: list[tuple[dict[str, object], str]] = [
    ({"d_model": -64}, "d_model=-64 is not sensible; expected a whole number from 2 to 65536"),
    ({"d_model": 0}, "d_model=0"),
    ({"d_model": 10**30}, "d_model=1000"),
    ({"d_model": 64.0}, "d_model=64.0"),
    ({"d_model": "64"}, "d_model='64'"),
    ({"d_model": [64]}, "d_model=[64]"),
    ({"d_model": "x" * 10_000}, "d_model='xxx"),
    ({"d_model": True}, "d_model=True"),
    ({"d_model": 66}, "d_model=66 does not split into n_heads=4"),
    ({"d_model": 12}, "d_model=12 does not split into n_heads=4 even heads"),
    ({"n_heads": 0}, "n_heads=0"),
    ({"n_heads": 5}, "n_heads=5"),
    ({"n_layers": 0}, "n_layers=0"),
    ({"n_layers": 10**9}, "n_layers=1000000000"),
    ({"n_kv_heads": 0}, "n_kv_heads=0"),
    ({"n_kv_heads": 3}, "n_heads=4 is not a multiple of n_kv_heads=3"),
    ({"n_kv_heads": 8}, "n_heads=4 is not a multiple of n_kv_heads=8"),
    ({"mlp_hidden_size": -1}, "mlp_hidden_size=-1"),
    ({"vocab_size": 1 << 40}, "vocab_size="),
    ({"vocab_size": 300}, "embedding_size=256 is below vocab_size=300"),
    ({"mask_token_id": 256}, "mask_token_id=256 is outside the 256 embedding rows"),
    ({"mask_token_id": -1}, "mask_token_id=-1"),
    ({"mask_token_id": 251}, "mask_token_id and eos_token_id are both 251"),
    ({"eos_token_id": [251]}, "eos_token_id=[251]"),
    ({"eos_token_id": 1000}, "eos_token_id=1000"),
    ({"rope_theta": float("nan")}, "rope_theta=nan"),
    ({"rope_theta": float("inf")}, "rope_theta=inf"),
    ({"rope_theta": -1.0}, "rope_theta=-1.0"),
    ({"rope_theta": "big"}, "rope_theta='big'"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
    ({"rms_norm_eps": 5.0}, "rms_norm_eps=5.0"),
    ({"rms_norm_eps": 0}, "rms_norm_eps=0"),
    ({"max_sequence_length": 0}, "max_sequence_length=0"),
    ({"max_sequence_length": 1 << 60}, "max_sequence_length="),
    ({"weight_tying": "no"}, "weight_tying='no' is not sensible; expected true or false"),
    ({"include_qkv_bias": 1}, "include_qkv_bias=1"),
    ({"rope": False}, "rope=False is not supported; expected True"),
    ({"alibi": True}, "alibi=True is not supported"),
    ({"block_type": "sequential"}, "block_type='sequential' is not supported; expected 'llama'"),
    ({"activation_type": "gelu"}, "activation_type='gelu' is not supported"),
    ({"layer_norm_type": ["rms"]}, "layer_norm_type=['rms'] is not supported"),
    ({"include_bias": True}, "include_bias=True is not supported"),
    ({"clip_qkv": 8.0}, "clip_qkv=8.0 is not supported"),
    (
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        "model_type='llama' is no known diffusion family; known: Dream",
    ),
    ({"model_type": ..., "architectures": ...}, "model_type=None is no known diffusion family"),
    ({"model_type": ["llada"], "architectures": "LLaDAModelLM"}, "model_type=['llada'] is no known diffusion family"),
    ({"triaxis_family": "tyni"}, "no model family named 'tyni'; known: a2d_llama"),
    ({"triaxis_family": 7}, "no model family named '7'"),
]


@pytest.mark.parametrize(("fields", "part"), ABSURD, ids=[str(f)[:40] for f, _ in ABSURD])
def test_an_absurd_field_is_named_with_its_value(
    folder: Path, set_config: Setter, fields: Mapping[str, object], part: str
) -> None:
    set_config(folder, **fields)
    assert part in refusal(folder)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "config.json: not readable JSON"),
        ("{", "config.json: not readable JSON"),
        ("[" * 100_000, "config.json: not readable JSON"),
        ('{"d_model": ' + "9" * 5000 + "}", "config.json: not readable JSON"),
        ("[1]", "config.json: expected a JSON object, found list"),
        ("null", "config.json: expected a JSON object, found NoneType"),
    ],
    ids=["empty", "cut", "deep", "long number", "list", "null"],
)
def test_a_config_that_is_no_json_object(folder: Path, text: str, part: str) -> None:
    (folder / "config.json").write_text(text)
    assert part in refusal(folder)


def test_a_config_that_is_not_there_or_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    assert "not readable JSON" in refusal(folder)
    (folder / "config.json").unlink()
    assert "there is no config.json; give a checkpoint folder" in refusal(folder)
    (folder / "config.json").mkdir()
    assert "not readable JSON" in refusal(folder)


def test_a_hostile_config_allocates_nothing(folder: Path, set_config: Setter) -> None:
    """150 layers of width 65,536 would be 134 TB; the network is built on the meta device and held against the file."""
    set_config(folder, d_model=65536, n_heads=512, n_kv_heads=512, n_layers=150, mlp_hidden_size=1 << 20)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert "has shape" in refusal(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"
    assert time.monotonic() - began < 30


def test_more_experts_than_the_files_hold_are_not_built(folder: Path, set_config: Callable[..., None]) -> None:
    """1,024 layers of 4,096 experts: every number is within its range, and building them would take hours."""
    shape = {
        "hidden_size": 32, "num_hidden_layers": 1024, "num_attention_heads": 2, "intermediate_size": 48,
        "vocab_size": 64, "max_position_embeddings": 128, "rope_theta": 1e4, "rms_norm_eps": 1e-6, "mask_token_id": 60,
        "eos_token_id": 61, "num_experts": 4096, "num_experts_per_tok": 2, "expert_intermediate_size": 16,
        "architectures": ["LLaDAMoEModelLM"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    with pytest.raises(UserError, match="layers times experts are 4,194,304, the files hold"):
        load_checkpoint(str(folder))


# --- weights ---

NAME = "model.transformer.blocks.1.q_proj.weight"


def test_tensors_that_do_not_fit_the_config(folder: Path, set_tensors: Setter) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    set_tensors(folder, {NAME: None})
    assert f"1 tensors are missing, such as {NAME}" in refusal(folder)
    (folder / "model.safetensors").write_bytes(whole)
    set_tensors(folder, {NAME: torch.zeros(64, 63)})
    assert f"tensor {NAME!r} has shape (64, 63), config.json says (64, 64)" in refusal(folder)
    set_tensors(folder, {NAME: torch.zeros(64, 64), "lm_head.weight": torch.zeros(3)})
    assert "tensor 'lm_head.weight' does not belong to the network of config.json" in refusal(folder)
    set_tensors(folder, {NAME: torch.zeros(64, 64, dtype=torch.int8), "lm_head.weight": None})
    assert "is torch.int8; give weights that are not quantised" in refusal(folder)


def test_a_checkpoint_of_another_architecture(folder: Path) -> None:
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    assert "does not belong to the network of config.json; take both from one checkpoint" in refusal(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: b"PK\x03\x04" + b"\0" * 500,
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data + b"\0" * 64,
    ],
    ids=["half", "five bytes", "empty", "a zip", "huge header", "broken header", "trailing bytes"],
)
def test_a_file_that_is_no_safetensors(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    assert "model.safetensors: not a readable safetensors file" in refusal(folder)


def test_a_pickle_is_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "no model.safetensors" in message
    assert "pytorch_model.bin is a pickle, which is never read: convert it to safetensors" in message
    assert "is a pickle" in refusal(folder, triaxis.load_planner)
    (folder / "pytorch_model.bin").unlink()
    assert refusal(folder).endswith("no model.safetensors and no model.safetensors.index.json")


def test_a_missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "the shard model-00002-of-00003.safetensors named in" in refusal(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shard(folder)
    shards = sorted(folder.glob("model-*"))
    name = next(iter(load_file(shards[0])))
    save_file(load_file(shards[1]) | {name: torch.zeros(load_file(shards[0])[name].shape)}, shards[1])
    assert f"tensor {name!r} is there twice" in refusal(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin", "", "a\0"])
def test_an_index_cannot_point_outside_its_folder(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "secret.safetensors")
    shard(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {NAME: name}}))
    assert f"{name!r} is not the name of a safetensors file in the same folder" in refusal(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": ["b"]}}',
     '{"weight_map": {"a": 1, "b": "c.safetensors"}}', "[" * 100_000],
)  # fmt: skip
def test_a_broken_index(folder: Path, text: str) -> None:
    shard(folder)
    (folder / INDEX).write_text(text)
    assert "expected a JSON object with a weight_map of tensor name to file" in refusal(folder)


# --- planners ---


@pytest.fixture
def planner_folder(tmp_path: Path) -> Path:
    from triaxis.models.folder import find_folder

    copy = tmp_path / "planner"
    shutil.copytree(find_folder("tiny-planner-s", "planner"), copy)
    return copy


BAD_PLANNERS: list[tuple[dict[str, object], str]] = [
    ({"model_type": "llada"}, "does not recognize this architecture"),
    ({"model_type": ...}, "model_type"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "it is a LlamaForSequenceClassification, no causal"),
    ({"hidden_size": "x"}, "hidden_size"),
    ({"hidden_size": 96}, "the files hold 105,888"),
    ({"intermediate_size": 64}, "tensors are mismatched"),
    ({"num_hidden_layers": 4}, "config.json describes"),
    ({"num_hidden_layers": 2}, "tensors are unexpected, such as model.layers.2"),
    ({"num_hidden_layers": -3}, "num_hidden_layers=-3"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000, but the files hold 29 tensors"),
    ({"hidden_size": 1 << 20, "intermediate_size": 1 << 22, "vocab_size": 1 << 22}, "config.json describes"),
    ({"num_attention_heads": 7}, "planner"),
]


@pytest.mark.parametrize(("fields", "part"), BAD_PLANNERS, ids=[str(f)[:40] for f, _ in BAD_PLANNERS])
def test_a_planner_that_is_not_what_its_config_says(
    planner_folder: Path, set_config: Setter, capfd: pytest.CaptureFixture[str], fields: dict[str, object], part: str
) -> None:
    """transformers would fill what is missing with random numbers and print a table."""
    set_config(planner_folder, **fields)
    assert part in refusal(planner_folder, triaxis.load_planner)
    assert capfd.readouterr() == ("", "")


def test_a_planner_with_damaged_files(planner_folder: Path, tmp_path: Path) -> None:
    good = {p.name: p.read_bytes() for p in planner_folder.iterdir()}

    def told(name: str, data: bytes | None) -> str:
        path = planner_folder / name
        path.unlink() if data is None else path.write_bytes(data)
        message = refusal(planner_folder, triaxis.load_planner)
        path.write_bytes(good[name])
        return message

    assert "not a readable safetensors file" in told("model.safetensors", good["model.safetensors"][:5000])
    assert "not readable JSON" in told("config.json", b"{")
    assert "there is no config.json" in told("config.json", None)
    assert "expected a JSON object" in told("config.json", b"[]")
    assert "not a readable tokenizer" in told("tokenizer.json", good["tokenizer.json"][:700])
    assert "planner" in told("tokenizer.json", None)
    assert "no chat template; give an instruction-tuned model" in told("tokenizer_config.json", None)
    assert "no executor" not in told("tokenizer_config.json", b"{")
    assert triaxis.load_planner(str(planner_folder)).parameters == 105_888


def test_an_executor_is_no_planner_and_a_planner_no_executor(tiny: Any, planner_folder: Path) -> None:
    assert "planner" in refusal(tiny.checkpoint.folder, triaxis.load_planner)
    assert "model_type='llama' is no known diffusion family" in refusal(planner_folder)


def test_loading_a_planner_leaves_the_logging_of_transformers_alone(planner_folder: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    triaxis.load_planner(str(planner_folder))
    (planner_folder / "config.json").write_text('{"model_type": "nothing"}')
    refusal(planner_folder, triaxis.load_planner)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
