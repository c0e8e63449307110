"""Preflight: the silent mistakes of adapter training, each found and named with what to write instead."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from triaxis.cli import main
from triaxis.errors import UserError
from triaxis.models.adapters import linear_names, save_adapter, target_pattern
from triaxis.models.targets import linears, resolve
from triaxis.sampling.schedule import Decode
from triaxis.train.doctor import (
    block_shift,
    check_adapter,
    check_card,
    check_data,
    check_targets,
    check_tokens,
    examine,
    read_rows,
    skeleton,
)

if TYPE_CHECKING:
    from triaxis.sampling.executor import Executor

DECODE = Decode(gen_length=16, block_length=8, steps=16)
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def codes(findings: list[Any], severity: str = "error") -> list[str]:
    return [f.code for f in findings if f.severity == severity]


def saved(
    executor: Executor, folder: Path, rename: Callable[[str], str] = str, size: float = 0.1, **config: Any
) -> str:
    g = torch.Generator().manual_seed(0)
    pairs = {}
    for name in linear_names(executor.checkpoint.network):
        if ".blocks." in name:
            layer: Any = executor.checkpoint.network.get_submodule(name)
            pairs[rename(name)] = (
                torch.randn(2, layer.in_features, generator=g),
                size * torch.ones(layer.out_features, 2),
            )
    save_adapter(folder, pairs, {"r": 2, "lora_alpha": 2, "target_modules": target_pattern(list(pairs)), **config}, {})
    return str(folder)


def test_names_of_another_family_attach_to_four_of_seven(tiny: Executor) -> None:
    found = check_targets(linears(tiny.checkpoint.network), SEVEN, "tiny")
    assert codes(found) == ["target-unmatched", "fewer-modules"]
    assert "o_proj (here attn_out), gate_proj (here ff_proj), down_proj (here ff_out)" in found[0].message
    assert "4 of 7 names attach: 16 of 28 modules" in found[1].message


def test_the_pattern_it_gives_is_the_right_one(tiny: Executor) -> None:
    everything = linears(tiny.checkpoint.network)
    for targets in (SEVEN, ["ff_out"], ["nothing"], r".*ff_out"):
        found = check_targets(everything, targets, "tiny")
        given = re.search(r"use (\S+)$", found[0].message)
        assert given, found
        assert codes(check_targets(everything, given[1], "tiny")) == []
        assert "model.transformer.ff_out" not in resolve(everything, given[1])
        assert len(resolve(everything, given[1])) == (28 if targets in (SEVEN, ["nothing"]) else 4)


@pytest.mark.parametrize("targets", [["ff_out"], ["q_proj", "ff_out"], r".*(q_proj|ff_out)"])
def test_a_bare_ff_out_wraps_the_head(tiny: Executor, targets: Any) -> None:
    found = check_targets(linears(tiny.checkpoint.network), targets, "tiny")
    assert codes(found) == ["head-wrapped"]
    assert "model.transformer.ff_out" in found[0].message


@pytest.mark.slow
def test_what_it_calls_unmatched_peft_would_pass_over(tiny: Executor) -> None:
    """The rule is peft's own: it attaches where ours says, the head included."""
    peft = pytest.importorskip("peft")
    from triaxis.models.adapters import share

    for targets in (SEVEN, ["ff_out"], r".*\.blocks\.[01]\.q_proj"):
        model = peft.inject_adapter_in_model(
            peft.LoraConfig(target_modules=targets, r=1), share(tiny.checkpoint.network)
        )
        attached = [n.removesuffix(".lora_A") for n, _ in model.named_modules() if n.endswith(".lora_A")]
        assert attached == resolve(linears(tiny.checkpoint.network), targets)


def test_a_good_recipe_has_no_error(tiny: Executor) -> None:
    assert codes(examine("tiny", targets=["q_proj", "v_proj"])) == []
    assert codes(examine("tiny", targets=[r".*\.blocks\.\d+\.ff_out"])) == []
    with pytest.raises(UserError, match="regular expression"):
        examine("tiny", targets=["(a"])


# ---------------------------------------------------------------- ids, template, data


@pytest.fixture
def copy(tiny: Executor, tmp_path: Path) -> Path:
    shutil.copytree(tiny.checkpoint.folder, tmp_path / "executor")
    return tmp_path / "executor"


def test_ids_and_template_are_checked_against_the_tokenizer(
    tiny: Executor, copy: Path, set_config: Callable[..., None]
) -> None:
    assert codes(check_tokens(skeleton("tiny"))) == []
    mask, eos = tiny.checkpoint.config.mask_token_id, tiny.checkpoint.config.eos_token_id
    set_config(copy, pad_token_id=mask)
    assert codes(check_tokens(skeleton(str(copy)))) == ["padding"]
    set_config(copy, pad_token_id=eos, eos_token_id=40)
    assert "eos" in codes(check_tokens(skeleton(str(copy))), "warning")
    set_config(copy, eos_token_id=eos, triaxis_family="llada")
    found = check_tokens(skeleton(str(copy)))
    assert set(codes(found)) == {"eos", "chat-template"}
    assert any("<|startoftext|>" in f.message for f in found)


def test_another_chat_template_in_the_folder_is_said(copy: Path) -> None:
    marks = "<|user|>{{ messages[0]['content'] }}<|assistant|>"
    (copy / "chat_template.jinja").write_text(marks)
    assert codes(check_tokens(skeleton(str(copy))), "warning") == []
    (copy / "chat_template.jinja").write_text("### " + marks)
    assert codes(check_tokens(skeleton(str(copy))), "warning") == ["chat-template"]


def row(prompt: str, response: str = "1+1=2\n#### 2") -> dict[str, str]:
    return {"prompt": prompt, "response": response}


@pytest.mark.parametrize(
    ("rows", "code", "severity"),
    [
        ([row("<|user|>a<|assistant|>"), row("<|user|>b<|assistant|>")], "format-mismatch", "error"),
        ([row("<|user|>a<|assistant|>"), row("b")], "format-mismatch", "error"),
        ([row("a", "2<|eos|>")], "eos", "error"),
        ([row("a", "2<|mask|>")], "eos", "error"),
        ([row("a", "1+" * 40)], "padding", "warning"),
        ([row("a")], "scaffold-unseen", "warning"),
    ],
)
def test_rows_are_checked_against_the_evaluation(
    tiny: Executor, rows: list[dict[str, str]], code: str, severity: str
) -> None:
    decode = tiny.default_decode()
    assert code in codes(check_data(tiny, rows, decode, {"plan-empty": "Plan:"}), severity)
    fine = [row("How many?"), row("How many?\nPlan: ")]
    assert codes(check_data(tiny, fine, decode, {"plan-empty": "Plan:"})) == []


def test_data_that_is_no_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text, message in (("", "no rows"), ('{"prompt": 1}\n', ":1: expected"), ("{", ":1: expected")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_rows(path)


# ---------------------------------------------------------------- adapters and the probe


def test_what_a_published_adapter_really_attaches_to(tiny: Executor, tmp_path: Path) -> None:
    good = saved(tiny, tmp_path / "good")
    assert codes(check_adapter(tiny, good)) == []
    assert "28 modules" in check_adapter(tiny, good)[-1].message
    hf = {"attn_out": "o_proj", "ff_proj": "gate_proj"}
    named = saved(tiny, tmp_path / "hf", lambda n: ".".join(hf.get(p, p) for p in n.split(".")))
    found = check_adapter(tiny, named)
    assert codes(found)[0] == "adapter-absent"
    assert "8 of its 28 modules" in found[0].message
    assert "o_proj (here attn_out)" in found[0].message
    fewer = saved(tiny, tmp_path / "fewer", target_modules=["q_proj", "o_proj"])
    assert {"fewer-modules", "target-unmatched"} <= set(codes(check_adapter(tiny, fewer)))


def test_the_probe_says_whether_it_fires_and_where(tiny: Executor, tmp_path: Path) -> None:
    prompts = [tiny.prompt_ids(q) for q in ("Tom has 3 pens.", "Ana has 12 cups. How many cups are there?")]
    live = saved(tiny, tmp_path / "live", size=0.5)
    whole = block_shift(tiny, prompts, DECODE, live)
    assert [s.on for s in whole] == [True, True]
    assert all(s.largest > 0.1 and s.divergence > 0 for s in whole)
    late = block_shift(tiny, prompts, DECODE, f"{live}@last:1")
    assert [s.on for s in late] == [False, True]
    assert (late[0].largest, late[0].flips) == (0.0, 0.0)
    assert late[1] == whole[1]
    dead = saved(tiny, tmp_path / "dead", size=0.0)
    found = examine("tiny", adapter=dead, questions=["Tom has 3 pens."])
    assert codes(found) == ["does-not-fire"]
    assert codes(examine("tiny", adapter=live, questions=["Tom has 3 pens."])) == []


def test_a_card_of_another_base_is_said(tiny: Executor, tmp_path: Path) -> None:
    folder = saved(tiny, tmp_path / "a")
    assert [f.code for f in check_card(tiny, folder)] == ["no-card"]
    card: dict[str, Any] = {
        "base": {"name": "x", "family": "tiny", "fingerprint": tiny.fingerprint},
        "canvas": {"gen_length": 48, "block_length": 8},
    }
    (tmp_path / "a" / "card.json").write_text(json.dumps(card))
    assert list(check_card(tiny, folder)) == []
    card["base"] |= {"family": "llada", "fingerprint": "0"}
    card["canvas"]["block_length"] = 32
    (tmp_path / "a" / "card.json").write_text(json.dumps(card))
    assert [f.code for f in check_card(tiny, folder)] == ["other-base", "format-mismatch", "other-canvas"]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for targets, code in (("q_proj,o_proj", 1), ("q_proj,v_proj", 0)):
        with pytest.raises(SystemExit) as stop:
            main(["doctor", "--executor", "tiny", "--targets", targets, "--json"])
        assert stop.value.code == code
        said = json.loads(capsys.readouterr().out)
        assert set(said["findings"][0]) == {"code", "severity", "message"}
        assert any(f["severity"] == "error" for f in said["findings"]) is bool(code)
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--executor", "tiny", "--adapter", "nowhere"])
    assert stop.value.code == 2
    assert "no adapter named 'nowhere'" in capsys.readouterr().err


@pytest.mark.slow
def test_target_checks_load_no_weights(tmp_path: Path) -> None:
    """A folder with a configuration and no weights is enough to check names against."""
    program = (
        "import shutil, sys, triaxis.models.folder as f; from pathlib import Path;"
        "src = f.find_folder('tiny', 'executor'); out = Path(sys.argv[1]); out.mkdir();"
        "[shutil.copy(src / n, out) for n in ('config.json', 'tokenizer.json')];"
        "from triaxis.train.doctor import examine;"
        "sys.exit(len([x for x in examine(str(out), targets=['q_proj']) if x.severity == 'error']))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "bare")], timeout=60)
    assert done.returncode == 0
