"""Everything of this package that reads what others wrote, in one table: name -> function of bytes, shape, seeds.

A reader may return or raise UserError; anything else it raises is a finding, and so is a message of more than a screen
or a run that takes seconds. A new reader of foreign data is a new row here. Seeds are real files of this repository,
cut short where size would only cost time, or files its own writers make.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
HOME = TESTS.parent / "src" / "triaxis"
TINY = HOME / "models" / "tiny"
Seeds = Callable[[], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Reader:
    """run: takes the bytes and a scratch folder of its own. shape: of mutate.SHAPES. weight: share of executions."""

    run: Callable[[bytes, Path], object]
    shape: str
    seeds: Seeds
    weight: float = 1.0
    needs: str = ""  # a package of an extra, without which there is nothing to read with

    @property
    def ready(self) -> bool:
        return not self.needs or find_spec(self.needs) is not None


def _put(place: Path, name: str, data: bytes) -> Path:
    path = place / name
    path.write_bytes(data)
    return path


def _lines(path: Path, count: int) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


# ---------------------------------------------------------------- result files, rows and logs of other harnesses


def _results(data: bytes, place: Path, name: str = "results.jsonl") -> None:
    from triaxis.cli.published import _same_answer
    from triaxis.estimate.results import read
    from triaxis.estimate.rows import audit_rows

    audit_rows(read(_put(place, name, data)), same=_same_answer).as_dict()


def _watched(data: bytes, place: Path) -> None:
    from triaxis.estimate.results import Columns, read

    read(_put(place, "growing.jsonl", data), Columns(unfinished=True))


def _compared(data: bytes, place: Path) -> None:
    """Two files at once, cut at the first empty line."""
    from triaxis.estimate.compare import How, compare_many, relabel
    from triaxis.estimate.results import open_spec

    for name, part in zip(("a.jsonl", "b.jsonl"), [*data.split(b"\n\n", 1), b""][:2], strict=True):
        _put(place, name, part)
    compare_many(relabel([open_spec(str(place / n)) for n in ("a.jsonl", "b.jsonl")]), How()).as_dict()


def _jsonl_rows() -> list[bytes]:
    rows = [
        {"id": f"q{i}", "condition": c, "seed": 0, "branch": i % 2, "correct": i % 3 == 0, "prediction": str(i),
         "gold": "3", "truncated": False, "question": f"What is {i}?", "text": "so #### 3"}
        for i in range(4) for c in ("none", "hint")
    ]  # fmt: skip
    whole = json.dumps(rows).encode()
    return [b"".join(json.dumps(r).encode() + b"\n" for r in rows), whole, b'{"id": "q1", "correct": true}\n']


def _lm_eval() -> list[bytes]:
    def row(i: int, name: str) -> dict[str, Any]:
        doc = {"question": "How many?", "answer": "#### 4"}
        return {
            "doc_id": i, "doc": doc, "target": "4", "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": []}}},
            "resps": [["4"]], "filtered_resps": ["4"], "filter": name, "metrics": ["exact_match"], "doc_hash": "ab",
            "prompt_hash": "cd", "target_hash": "ef", "exact_match": float(i % 2),
        }  # fmt: skip

    one = b"".join(json.dumps(row(i, "none")).encode() + b"\n" for i in range(3))
    two = b"".join(json.dumps(row(i, n)).encode() + b"\n" for i in range(2) for n in ("strict", "flexible"))
    return [one, two]


def _csv() -> list[bytes]:
    return [
        b"id,correct,seed,branch,condition\nq1,true,0,0,none\nq2,0.5,0,0,none\nq1,wrong,0,0,hint\nq2,right,0,0,hint\n",
        b'item\tscore\tprediction\tgold\nq1\t1\t"75.00"\t75\nq2\t0\t3 1/2\t3.5\n', b"id;acc\n1;0\n2;1\n",
    ]  # fmt: skip


def _inspect(data: bytes, place: Path) -> None:
    """By content a zip archive or JSON, whatever the name."""
    _results(data, place, "log.eval" if data.startswith(b"PK") else "log.json")


def _inspect_seeds() -> list[bytes]:
    sys.path.insert(0, str(TESTS))
    from test_compare import inspect_log

    place = Path(tempfile.mkdtemp())
    return [Path(inspect_log(place / name, "CIP")).read_bytes() for name in ("a.json", "a.eval")]


# ---------------------------------------------------------------- stores


@cache
def _study() -> Path:
    """A small made-up study's folder, for the whole run of the process."""
    sys.path.insert(0, str(TESTS))
    from made_study import write_study

    folder = Path(tempfile.mkdtemp(prefix="study-"))
    write_study(folder, n=3, planners={"tiny-planner-s": 100_000}, conditions=("none", "plan-empty", "gold-plan"))
    db = sqlite3.connect(folder / "rows.sqlite")
    db.execute("PRAGMA page_size=512")
    db.execute("VACUUM")
    from triaxis.store import Store
    from triaxis.study import Study

    protocol = json.dumps({**json.loads((folder / "protocol.json").read_text()), "spec": Study().spec()})
    (folder / "protocol.json").write_text(protocol)
    db.commit()
    db.close()
    with Store(folder / "rows.sqlite", write=True) as store:
        store.set("protocol", protocol)
        store.set("prereg", '{"hash": "ab", "stamped_at": "now", "rows_before": 0}')
    return folder


def _store(data: bytes, place: Path) -> None:
    """The file as bytes: pages and headers damaged."""
    from triaxis.estimate.results import read
    from triaxis.store import Store

    path = _put(place, "rows.sqlite", data)
    with Store(path, write=False) as store:
        store.rows(), store.plans(), store.grades(), store.get("protocol")
    read(path)


def _salvaged(data: bytes, place: Path) -> None:
    """A damaged store read page by page; a row that comes back is one that was written."""
    from triaxis.store.salvage import salvage

    found = salvage(_put(place, "rows.sqlite", data))
    known = _written()
    assert all(known.get(id) == row for id, row in found.rows.items())


@cache
def _columns() -> tuple[bytes, Any]:
    """The study's columns as they are kept, and the study's cards."""
    from triaxis.store import Store
    from triaxis.study import kept
    from triaxis.study.gather import gather

    cards = json.loads((_study() / "protocol.json").read_text())["conditions"]
    with Store(_study() / "rows.sqlite", write=False) as store, tempfile.TemporaryDirectory() as folder:
        kept.keep(gather(store, cards), Path(folder), "stamp")
        return (Path(folder) / kept.FILE).read_bytes(), cards


def _kept(data: bytes, place: Path) -> None:
    """Kept columns, those too that were changed together with their hash: numbers may be wrong, nothing may break."""
    from triaxis.estimate.columns import once
    from triaxis.study import kept

    _put(place, kept.FILE, data)
    kept.load(place, "stamp")
    digest, held = kept._digest, sha256_of(data)
    kept._digest = lambda arrays: held  # type: ignore[assignment]
    try:
        found = kept.load(place, "stamp")
    finally:
        kept._digest = digest
    if found is not None:
        found.of, found.ungraded(), found.ids(slice(0, 9)), once(found, lambda name, branch: (name, False))


def sha256_of(data: bytes) -> str:
    """The hash that a safetensors file's metadata holds; "" where there is none."""
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        length = int.from_bytes(data[:8], "little")
        return str(json.loads(data[8 : 8 + length])["__metadata__"]["sha256"])
    return ""


@cache
def _written() -> Mapping[str, Any]:
    from triaxis.store import Store

    with Store(_study() / "rows.sqlite", write=False) as store:
        return {r.id: r for r in store.rows()}


def _exported(data: bytes, place: Path, name: str) -> None:
    """An export with changes: read as it was, or refused."""
    from triaxis.store import Store
    from triaxis.store.exchange import import_store, plans_beside

    path = _put(place, name, data)
    if name.endswith("parquet"):
        _put(place, plans_beside(path).name, _export("plans.parquet"))
    out = place / "imported"
    shutil.rmtree(out, ignore_errors=True)
    import_store(path, out)
    with Store(out / "rows.sqlite", write=False) as store:
        assert {r.id: r for r in store.rows()} == _written()


@cache
def _export(name: str) -> bytes:
    from triaxis.store import Store
    from triaxis.store.exchange import export_jsonl, export_parquet

    place = Path(tempfile.mkdtemp(prefix="export-"))
    with Store(_study() / "rows.sqlite", write=False) as store:
        export_jsonl(store, place / "a.jsonl")
        if name.endswith("parquet"):
            export_parquet(store, place / "a.parquet")
    return (place / f"a.{name}").read_bytes()


def _manifest(data: bytes, place: Path) -> None:
    from triaxis.store import Store
    from triaxis.store.seals import SUMS, differences

    (kind, _, rest) = data.partition(b"\n")
    _put(place, "seal.json" if kind == b"0" else SUMS, rest)
    if kind != b"0":
        files = {"rows.sqlite": {"bytes": 0, "sha256": ""}}
        _put(place, "seal.json", json.dumps({"seal": 1, "files": files, "tables": {}}).encode())
    _put(place, "rows.sqlite", (_study() / "rows.sqlite").read_bytes())
    with Store(place / "rows.sqlite", write=False) as store:
        list(differences(store, place, "ab"))


def _manifest_seeds() -> list[bytes]:
    from triaxis.store import Store
    from triaxis.store.seals import _sums

    with Store(_study() / "rows.sqlite", write=False) as store:
        sums = "\n".join(_sums(store))
    entry = {"bytes": 3, "sha256": "ab" * 32}
    manifest = {"seal": 1, "triaxis": "0", "tables": {"rows": "3 ab"}, "files": {"rows.sqlite": entry, "x": entry}}
    return [b"0\n" + json.dumps(manifest).encode(), b"1\n" + sums.encode()]


def _cells(data: bytes, place: Path) -> None:
    """SQLite keeps no column to its type: a JSON list of [table, column, value] is written into a sound store."""
    from triaxis.cli.published import _same_answer
    from triaxis.estimate.prereg import standing
    from triaxis.estimate.results import read
    from triaxis.estimate.rows import audit_rows
    from triaxis.store import Store
    from triaxis.study import Study
    from triaxis.study.summary import held_protocol, summarise

    path = _spoiled(data, place)
    if path is None:
        return
    with suppress_user():
        audit_rows(read(path), same=_same_answer).as_dict()
    with suppress_user():
        Study.reopen(place)
    with Store(path, write=False) as store:
        with suppress_user():
            standing("ab", store.get("prereg"))
        with suppress_user():
            protocol = held_protocol(place)
            summarise(store, protocol)
        store.plans()


def _spoiled(data: bytes, place: Path) -> Path | None:
    """A sound store with some values changed; None where the changes themselves are none."""
    path = _put(place, "rows.sqlite", (_study() / "rows.sqlite").read_bytes())
    db = sqlite3.connect(path, isolation_level=None)
    try:
        _spoil_cells(db, json.loads(data))
    except (ValueError, TypeError, KeyError, sqlite3.Error, RecursionError, OverflowError):
        return None
    finally:
        db.close()
    return path


def _reported(data: bytes, place: Path) -> None:
    """The page of a study whose store was changed."""
    from triaxis.report import render

    for name in ("summary.json", "protocol.json"):
        _put(place, name, (_study() / name).read_bytes())
    if _spoiled(data, place):
        render(place)


def _spoil_cells(db: sqlite3.Connection, changes: Any) -> None:
    from triaxis.store.checksums import checksum

    db.create_function("checksum", -1, lambda *values: checksum(values))
    columns = {t: [c[1] for c in db.execute(f"PRAGMA table_info({t})")] for t in ("rows", "plans", "grades", "meta")}
    for table, column, value in changes:
        name = columns[str(table)][int(column) % len(columns[str(table)])]
        plain = json.dumps(value) if isinstance(value, dict | list) else value
        raw = plain.encode("utf-8", "surrogatepass") if isinstance(plain, str) and "\ud800" in plain else plain
        key = columns[table][0]
        first = f"{key} = (SELECT min({key}) FROM {table})"
        db.execute(f"UPDATE {table} SET {name} = ? WHERE {first}", (raw,))
        if name != "checksum":  # of a hostile file they are right; without this every change would end at them
            db.execute(f"UPDATE {table} SET checksum = checksum({', '.join(columns[table][:-1])}) WHERE {first}")


def suppress_user() -> Any:
    from triaxis.errors import UserError

    return suppress(UserError)


def _cell_seeds() -> list[bytes]:
    found = [[t, c, v] for t in ("rows", "plans", "grades", "meta") for c in range(14) for v in ("x", 1)]
    protocol = json.loads((_study() / "protocol.json").read_text())
    return [b"[]", *(json.dumps([f]).encode() for f in found[::5]), json.dumps([["meta", 1, protocol]]).encode()]


# ---------------------------------------------------------------- plans, tasks, texts


def _bank(data: bytes, place: Path, name: str = "bank.jsonl") -> None:
    from triaxis.plans.files import check_bank, read_bank
    from triaxis.tasks import load_task

    bank = read_bank(_put(place, name, data))
    with suppress_user():
        check_bank(bank, load_task("gradeschool"))


def _bank_seeds() -> list[bytes]:
    from triaxis.plans.files import Bank, read_bank, write_bank

    found = []
    for name in ("tiny-planner-s", "smollm2-gsm8k"):
        bank = read_bank(HOME / "plans" / "banks" / f"{name}.jsonl.gz")
        path = Path(tempfile.mkdtemp()) / "short.jsonl"
        write_bank(Bank(bank.manifest, bank.rows[:4], path))
        found.append(path.read_bytes())
    return found


def _grade(data: bytes, place: Path) -> None:
    """A completion and a gold answer, cut at the first line's end; and what plans are read for."""
    from triaxis.plans import read
    from triaxis.tasks.grading import canonical, grade

    gold, _, text = data.decode("utf-8", "replace").partition("\n")
    grade(text, gold), grade(text, gold, fallback=True), canonical(text), read.leaks(text, gold)


def _task(data: bytes, place: Path) -> None:
    from triaxis.tasks.jsonl import jsonl

    jsonl(_put(place, "items.jsonl", data)).items()


def _harness_task(data: bytes, place: Path) -> None:
    """A task file of lm-evaluation-harness, up to where the harness itself takes over."""
    import lm_eval.api.task as harness

    from triaxis.tasks import lm_eval

    path, real = _put(place, "t.yaml", data), harness.ConfigurableTask
    harness.ConfigurableTask = dict
    try:
        made, _ = lm_eval._from_file(path)
    finally:
        harness.ConfigurableTask = real
    for name in ("doc_to_text", "doc_to_target"):
        made["config"][name]({"question": "7 + 12?", "answer": "#### 19"})


def _task_seeds() -> list[bytes]:
    rows: list[dict[str, Any]] = [
        {"question": "What is 12+7?", "answer": "19", "solution": "12+7=19\n#### 19", "steps": ["12+7=19"]},
        {"problem": "Half of 3?", "target": 1.5, "id": "b"},
        {"prompt": "How many?", "answer": "He has 3*6=<<3*6=18>>18.\n#### 18"},
    ]
    return [b"".join(json.dumps(r).encode() + b"\n" for r in rows)]


# ---------------------------------------------------------------- checkpoints, adapters


def _config(data: bytes, place: Path) -> None:
    """config.json up to the network of the meta device."""
    from triaxis.models.card import card_of
    from triaxis.models.folder import read_config
    from triaxis.models.load import build_network

    path = _put(place, "config.json", data)
    fields = read_config(place)
    if not (place / "tokenizer.json").exists():
        _put(place, "tokenizer.json", (TINY / "tiny-2" / "tokenizer.json").read_bytes())
    build_network(card_of(fields, str(path)), fields, place)


def _config_seeds() -> list[bytes]:
    found = [(TINY / "tiny-2" / "config.json").read_bytes(), (TESTS / "parity/llada_tiny/config.json").read_bytes()]
    shape = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 128, "rope_theta": 1e4,
        "rms_norm_eps": 1e-6, "mask_token_id": 60, "eos_token_id": 61, "num_experts": 4, "num_experts_per_tok": 2,
        "expert_intermediate_size": 16, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, "block_size": 4, "pad_token_id": 61,
    }  # fmt: skip
    kinds = {"Dream": "Dream", "sdar": "SDARForCausalLM", "llada": "LLaDAMoEModelLM", "llada2_moe": "LLaDA2MoeModelLM"}
    return found + [json.dumps({**shape, "model_type": k, "architectures": [a]}).encode() for k, a in kinds.items()]


@cache
def _safetensors() -> bytes:
    import torch
    from safetensors.torch import save

    made = {f"model.layers.0.self_attn.{n}.weight": torch.ones(4, 4) for n in ("q_proj", "k_proj")}
    return save({**made, "model.norm.weight": torch.ones(4, dtype=torch.bfloat16)}, metadata={"format": "pt"})


def _header(data: bytes, place: Path) -> None:
    from triaxis.models.causal import _shapes
    from triaxis.models.load import _tensors

    path = _put(place, "model.safetensors", data)
    with suppress_user():
        _shapes([path])
    for _ in _tensors([path]):
        pass


def _index(data: bytes, place: Path) -> None:
    from triaxis.models.folder import weight_files

    _put(place, "model.safetensors.index.json", data)
    _put(place, "model-00001-of-00002.safetensors", b"")
    for path in weight_files(place):
        assert path.resolve().parent == place.resolve(), f"a shard outside its folder: {path}"


def _tokenizer(data: bytes, place: Path) -> None:
    from triaxis.models.folder import open_tokenizer

    _put(place, "tokenizer.json", data)
    found = open_tokenizer(place)
    checkpoint = SimpleNamespace(folder=place)
    from triaxis.sampling.executor import Executor

    Executor.encode(SimpleNamespace(tokenizer=found, checkpoint=checkpoint), "Tom has 12 pens.")  # type: ignore[arg-type]


@cache
def _adapter_files() -> Mapping[str, bytes]:
    import torch

    from triaxis.models.adapters import save_adapter

    place = Path(tempfile.mkdtemp())
    pairs = {f"model.layers.{i}.q_proj": (torch.ones(2, 8), torch.zeros(8, 2)) for i in range(2)}
    config = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "alpha_pattern": {"q_proj": 8}}
    save_adapter(place, pairs, config, {"recipe": {"name": "x"}, "base": {"fingerprint": "ab"}})
    return {p.name: p.read_bytes() for p in place.iterdir()}


def _adapter(name: str) -> Callable[[bytes, Path], None]:
    def run(data: bytes, place: Path) -> None:
        from triaxis.models.adapters import adapter_fingerprint, read_adapter

        for other, content in {**_adapter_files(), name: data}.items():
            _put(place, other, content)
        with suppress_user():
            adapter_fingerprint(place)
        read_adapter(str(place))

    return run


def _resume(data: bytes, place: Path) -> None:
    """A checkpoint of an interrupted training: what `--out` finds there."""
    from triaxis.train.fit import _held_step

    _put(place, "checkpoint.safetensors", data)
    _held_step(place)


def _resume_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    metadata = {"identity": json.dumps({"recipe": {"rank": 2}}), "state": json.dumps({"step": 3, "best": 0.5})}
    return [save({"w/x": torch.ones(2)}, metadata=metadata)]


def _gguf(data: bytes, place: Path) -> None:
    from triaxis.models.gguf import read_header, read_layout

    path = _put(place, "model.gguf", data)
    with suppress_user():
        _ = read_header(path).context
    read_layout(path)


def _gguf_seeds() -> list[bytes]:
    sys.path.insert(0, str(TESTS))
    from gguf_file import write_gguf

    from triaxis.models.gguf import read_layout

    path = write_gguf(Path(tempfile.mkdtemp()) / "a.gguf")
    whole, end = path.read_bytes(), read_layout(path).end
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    field = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    tensor = text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 0)
    return [whole[: end + 64], b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + field + tensor + bytes(64)]


# ---------------------------------------------------------------- settings people write


def _preset(data: bytes, place: Path) -> None:
    from triaxis.conditions import in_order, load_preset

    found = load_preset(str(_put(place, "mine.toml", data)))
    table = found.conditions(["tiny-planner-s"])
    in_order(table)
    for c in table:
        c.card(), c.scaffold.render("What?", "a plan" if c.scaffold.shows_plan else None)


def _prereg(data: bytes, place: Path) -> None:
    from triaxis.estimate import prereg

    found = prereg.load(_put(place, "predictions.toml", data))
    prereg.check(found.predictions, json.loads((_study() / "summary.json").read_text()))


def _prereg_seeds() -> list[bytes]:
    from triaxis.estimate.prereg import TEMPLATE

    return [TEMPLATE.format(name="x.toml").encode()]


def _stamp(data: bytes, place: Path) -> None:
    """What a store holds of the predictions stamped into it; the hash is made right for the text, where it is one."""
    from triaxis.estimate.prereg import scorecard

    with suppress(ValueError, TypeError, RecursionError):
        mark = json.loads(data)
        text = mark["text"].encode() if isinstance(mark, dict) and isinstance(mark.get("text"), str) else b""
        data = json.dumps({**mark, "hash": sha256(text).hexdigest()}).encode() if text else data
    scorecard(data.decode("utf-8", "replace"), json.loads((_study() / "summary.json").read_text()))


def _stamp_seeds() -> list[bytes]:
    from triaxis.estimate.prereg import stamp

    path = _put(Path(tempfile.mkdtemp()), "p.toml", _prereg_seeds()[0])
    return [stamp(path, rows_before=0, stamped_at="2026-01-01").encode()]


def _claims(data: bytes, place: Path, name: str = "claims.csv") -> None:
    from triaxis.estimate.claims import read_table
    from triaxis.estimate.table import audit_table

    audit_table(read_table(_put(place, name, data))).as_dict()


def _schedule(data: bytes, place: Path) -> None:
    from triaxis.models.schedules import At, Schedule

    found = Schedule.parse(data.decode("utf-8", "replace"))
    found.check(4, 8)
    found.gate(At(1, 4, 2, 0.5), found.names)


def _registry(data: bytes, place: Path) -> None:
    from triaxis.estimate.landscape import audit_registry
    from triaxis.registry import as_dict, load

    entry = load(_put(place, "S1-x.json", data))
    as_dict(entry)
    audit_registry([entry])


def _registry_seeds() -> list[bytes]:
    found = sorted((HOME / "registry" / "papers").glob("*.json"), key=lambda p: p.stat().st_size)
    return [p.read_bytes() for p in (*found[:3], found[len(found) // 2])]


def _trace(data: bytes, place: Path) -> None:
    from triaxis.tracing import alarms, divergence, read_jsonl

    found = read_jsonl(_put(place, "t.jsonl", data))
    alarms(found), divergence(found, found)


def _trace_seeds() -> list[bytes]:
    from triaxis.tracing import Commit, Guess, Step, Trace, to_jsonl

    steps = (Step(0, 0, {}, (Commit(0, 5, 0.9, 0.1, ((5, 0.9), (6, 0.1))),), (Guess(1, 5, 0.5, 1.0),)),)
    decode = {"temperature": 0.0, "remasking": "low_confidence", "gen_length": 2}
    made = Trace("a", "tiny", "ab", "", "Q", decode, 0, "x", (5, 6), True, 1, 0.1, {5: "x", 6: "y"}, steps)
    return [to_jsonl(made).encode()]


def _tuned(data: bytes, place: Path) -> None:
    from triaxis.cli import tune

    path, old = _put(place, "tune.json", data), tune.place_of
    tune.place_of = lambda executor, task: path  # type: ignore[assignment]
    try:
        tune.speed_settings(tune.SPEEDS[-1], "tiny", "gradeschool")
    finally:
        tune.place_of = old


def _tuned_seeds() -> list[bytes]:
    from triaxis.cli.tune import SPEEDS
    from triaxis.models.folder import fingerprint
    from triaxis.tasks import load_task

    cheap = {"steps": 24, "threshold": 0.9}
    held = {"fingerprint": fingerprint(TINY / "tiny-2"), "revision": load_task("gradeschool").revision}
    presets = {"exact": {"steps": 48, "threshold": None}, **dict.fromkeys(SPEEDS[1:], cheap)}
    return [json.dumps({**held, "presets": presets}).encode()]


# ---------------------------------------------------------------- what a page is made of, what a browser asks


def _summary(data: bytes, place: Path) -> None:
    from triaxis.registry.from_study import from_study
    from triaxis.report.load import cards
    from triaxis.report.page import page
    from triaxis.report.serve import Site

    _put(place, "summary.json", data)
    _put(place, "protocol.json", (_study() / "protocol.json").read_bytes())
    with suppress_user():
        from_study(place, id="S1")
    for asked in ("/", "/compare?a=0&b=0"):
        Site([place]).answer(asked)
    summary, protocol = cards(place)
    page(summary, protocol, None)


def _protocol(data: bytes, place: Path) -> None:
    from triaxis.report.page import page

    _put(place, "protocol.json", data)
    _put(place, "summary.json", (_study() / "summary.json").read_bytes())
    from triaxis.registry.from_study import from_study
    from triaxis.report.load import cards

    with suppress_user():
        from_study(place, id="S1")
    summary, protocol = cards(place)
    page(summary, protocol, None)


def _asked(data: bytes, place: Path) -> None:
    from triaxis.report.serve import Site

    (place / "s").mkdir(exist_ok=True)
    _put(place, "secret", b"the secret")
    _put(place / "s", "summary.json", (_study() / "summary.json").read_bytes())
    answer = Site([place / "s"]).answer(data.decode("latin-1"))
    assert b"the secret" not in answer.body, "a file outside the folder was served"


# ---------------------------------------------------------------- endpoints


def _reply(data: bytes, place: Path) -> None:
    """An answer as received: status and Retry-After in the first two lines."""
    from triaxis.models.endpoint import Patience, _Again, _Asker

    status, _, rest = data.partition(b"\n")
    retry, _, body = rest.partition(b"\n")
    asker = _Asker("openai:m@http://localhost:1/v1", "http://localhost:1/v1", Patience())
    code = int(status) if status.isdigit() and len(status) < 4 else 200
    head = SimpleNamespace(status=code, headers={"Retry-After": retry.decode("latin-1")})
    with suppress(_Again):
        asker._read(asker._judge(head, body), 1)  # type: ignore[arg-type]


def _reply_seeds() -> list[bytes]:
    good = {
        "choices": [{"message": {"role": "assistant", "content": "12+7=19"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5},
    }
    bad = {"error": {"message": "max_tokens: use max_completion_tokens"}}
    heads = (b"200\n\n", b"429\n3\n", b"503\nWed, 21 Oct 2026 07:28:00 GMT\n", b"400\n\n", b"301\n\n")
    return [h + json.dumps(body).encode() for h in heads for body in (good, bad)]


def _spec(data: bytes, place: Path) -> None:
    from triaxis.models.endpoint import open_endpoint
    from triaxis.models.planner import check_planner
    from triaxis.models.writer import Writing

    spec = data.decode("utf-8", "replace")
    with suppress_user():
        open_endpoint(spec, Writing())
    check_planner(spec)


def _training(data: bytes, place: Path) -> None:
    from triaxis.train.doctor import _marks, _own_template, _rendered, read_rows

    with suppress_user():
        read_rows(_put(place, "rows.jsonl", data))
    _put(place, "tokenizer_config.json", data)
    _marks(_own_template(place))
    with suppress(UnicodeDecodeError):
        _rendered(data.decode(), "<s>")


def _training_seeds() -> list[bytes]:
    row = json.dumps({"prompt": "What?", "response": "19"}).encode() + b"\n"
    template = b"{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    return [row * 3, template, json.dumps({"chat_template": template.decode()}).encode()]


# ---------------------------------------------------------------- the command line

_RUN = (  # commands that read and print; the others' arguments are parsed and not acted upon
    "audit claim", "audit rows", "audit table", "compare", "power", "prereg check", "registry show", "registry compare",
    "plans check", "factorial",
)  # fmt: skip


def _forecast(data: bytes, place: Path) -> None:
    """What a dry run printed, up to the prediction for a few GPUs."""
    from triaxis.cli.simulate import _of_forecast
    from triaxis.estimate.scaling import predict

    load = _of_forecast(_put(place, "dry.json", data), 0)
    if load.chunks < 10_000:
        predict(load, 3)


def _arguments(data: bytes, place: Path) -> None:
    """One argument a line, in a folder with a few files. stderr must be one line where the exit code is 2."""
    from triaxis.cli import main

    argv = [a for a in data.decode("utf-8", "surrogateescape").split("\n") if a][:40]
    acted = " ".join(argv[:2]) in _RUN or argv[:1] in (["compare"], ["power"], ["factorial"])
    if "--watch" in argv or (not acted and "--help" not in argv):
        return _parsed(argv)
    before, out, err = Path.cwd(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    for name, content in _cli_files().items():
        if not (place / name).exists():
            _put(place, name, content)
    os.chdir(place)
    code: object = None
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(argv)
    except SystemExit as e:
        code = e.code
    finally:
        os.chdir(before)
    told = err.getvalue()
    assert code in (0, 1, 2), f"exit code {code}"
    assert code != 2 or (told.startswith("triaxis: ") and told.count("\n") == 1), f"not one line: {told[:200]!r}"


def _parsed(argv: list[str]) -> None:
    """Through click's own parsing of the command, without calling it."""
    import typer

    from triaxis.cli import (  # noqa: F401
        _ClickException,
        app,
        bench,
        diversity,
        evidence,
        integrity,
        plans,
        serve,
        simulate,
        study,
        trace,
        train,
    )  # fmt: skip

    command: Any = typer.main.get_command(app)
    rest = list(argv)
    while rest and hasattr(command, "commands"):
        found = command.commands.get(rest.pop(0))
        if found is None:
            return
        command = found
    if hasattr(command, "commands"):
        return
    with suppress(_ClickException), redirect_stdout(io.StringIO()), suppress(SystemExit):
        try:
            command.make_context("triaxis", rest)
        except Exception as e:
            if type(e).__name__ != "Exit":
                raise


@cache
def _cli_files() -> Mapping[str, bytes]:
    a, b = (b"".join(b'{"id": "q%d", "correct": %d}\n' % (i, i % k == 0) for i in range(12)) for k in (2, 3))
    return {
        "a.jsonl": a, "b.jsonl": b, "claims.csv": b"name,value,n,baseline\nx,74.0,50,66.0\n",
        "p.toml": _prereg_seeds()[0], "summary.json": (_study() / "summary.json").read_bytes(),
        "bank.jsonl": _bank_seeds()[0],
    }  # fmt: skip


def _cli_seeds() -> list[bytes]:
    lines = (
        "audit claim --baseline 37/50 --treatment 33/50 --json",
        "audit claim --baseline 74.0% --treatment 66.0% --n 50",
        "power --n 200 --discordance .26 --json", "power --effect .08 --discordance 0.3", "compare a.jsonl b.jsonl",
        "compare a.jsonl b.jsonl --json --margin 0.1 --level 0.9 --intersect --repeats average",
        "audit table claims.csv",
        "audit rows a.jsonl --factors id,correct --json", "prereg check p.toml summary.json --json",
        "registry show L1", "registry compare --axis trust --task GSM8K", "plans check bank.jsonl",
        "diagnose --out runs/x --n 10 --seeds 0,1 --set steps=32 --conditions none,hint --planners tiny-planner-s",
        "train prefix --out x --steps 10 --lr 1e-4", "trace a --top 2", "serve x --port 80", "diversity --k 3",
        "tune --executor tiny", "report runs --json", "bench speed --json",
    )  # fmt: skip
    return [line.replace(" ", "\n").encode() for line in lines]


# ---------------------------------------------------------------- the table


def _files(*paths: str) -> Seeds:
    return lambda: [(HOME / p).read_bytes() for p in paths]


def _these(*seeds: bytes) -> Seeds:
    return lambda: seeds


def _adapter_seeds(name: str) -> Seeds:
    return lambda: [_adapter_files()[name]]


def _named(run: Callable[[bytes, Path, str], None], name: str) -> Callable[[bytes, Path], None]:
    """The reader of a file that is told by its name."""
    return lambda data, place: run(data, place, name)


READERS: Mapping[str, Reader] = {
    "rows-jsonl": Reader(_results, "lines", _jsonl_rows, 2),
    "rows-csv": Reader(_named(_results, "results.csv"), "text", _csv, 2),
    "rows-lm-eval": Reader(_results, "lines", _lm_eval, 2),
    "rows-inspect": Reader(_inspect, "json", _inspect_seeds, 0.2, needs="inspect_ai"),
    "rows-growing": Reader(_watched, "lines", _jsonl_rows),
    "compare": Reader(_compared, "lines", lambda: [_cli_files()["a.jsonl"] + b"\n" + _cli_files()["b.jsonl"]], 0.3),
    "store-pages": Reader(_store, "bytes", lambda: [(_study() / "rows.sqlite").read_bytes()]),
    "store-salvage": Reader(_salvaged, "bytes", lambda: [(_study() / "rows.sqlite").read_bytes()]),
    "export-jsonl": Reader(_named(_exported, "a.jsonl"), "lines", lambda: [_export("jsonl")], 0.3),
    "export-parquet": Reader(
        _named(_exported, "a.parquet"), "bytes", lambda: [_export("parquet")], 0.3, needs="pyarrow"),
    "kept-columns": Reader(_kept, "safetensors", lambda: [_columns()[0]], 0.5),
    "seal": Reader(_manifest, "lines", _manifest_seeds, 0.5),
    "store-cells": Reader(_cells, "json", _cell_seeds, 0.5),
    "store-report": Reader(_reported, "json", _cell_seeds, 0.1),
    "bank": Reader(_bank, "bank", _bank_seeds, 2),
    "bank-gz": Reader(_named(_bank, "b.jsonl.gz"), "packed", lambda: [gzip.compress(b) for b in _bank_seeds()]),
    "task-jsonl": Reader(_task, "lines", _task_seeds, 2),
    "task-lm-eval": Reader(_harness_task, "yaml", _these(
        b"dataset_path: json\ndataset_kwargs: {data_files: {test: a.jsonl}}\ndoc_to_text: '{{question}} A:'\n"
        b"doc_to_target: \"{{answer.split('####')[-1].strip()}}\"\noutput_type: generate_until\ntest_split: test\n"
        b"metric_list:\n  - {metric: exact_match, ignore_case: true}\n"), 0.3, needs="lm_eval"),
    "completion": Reader(_grade, "text", _these(
        b"19\nso 12+7=19.\n#### 19", b"3/4\n\\boxed{\\frac{3}{4}}", b"1.5\n50% is", b"7\nThe answer is **7**."), 2),
    "config": Reader(_config, "json", _config_seeds, 0.5),
    "safetensors": Reader(_header, "safetensors", lambda: [_safetensors()], 2),
    "weights-index": Reader(_index, "json", _these(
        b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}')),
    "tokenizer": Reader(_tokenizer, "json", _files("models/tiny/tiny-2/tokenizer.json"), 0.3),
    "adapter-config": Reader(_adapter("adapter_config.json"), "json", _adapter_seeds("adapter_config.json")),
    "adapter-card": Reader(_adapter("card.json"), "json", _adapter_seeds("card.json"), 0.5),
    "adapter-weights": Reader(
        _adapter("adapter_model.safetensors"), "safetensors", _adapter_seeds("adapter_model.safetensors")),
    "resume": Reader(_resume, "safetensors", _resume_seeds),
    "gguf": Reader(_gguf, "bytes", _gguf_seeds, 2),
    "preset": Reader(_preset, "toml", _files("presets/quick.toml", "presets/factorial.toml"), 0.5),
    "prereg": Reader(_prereg, "toml", _prereg_seeds, 2),
    "stamp": Reader(_stamp, "json", _stamp_seeds),
    "claims-csv": Reader(_claims, "text", _these(
        b"name,value,n,baseline,family,p\nx,74.0,50,66.0,t1,0.2\ny,37/50,,33/50,t1,\n")),
    "claims-yaml": Reader(_named(_claims, "c.yaml"), "yaml", _these(
        b"claims:\n  - {name: x, value: 74.0, n: 50, baseline: 66.0}\n"
        b"  - name: y\n    value: 37/50\n    gain: 3\n    loss: 4\n")),
    "schedule": Reader(_schedule, "text", _these(b"prefix+commit@last:2,masked:0.1-0.5*0.5", b"a@alone,block:1-2"), 2),
    "registry": Reader(_registry, "json", _registry_seeds),
    "trace": Reader(_trace, "lines", _trace_seeds, 2),
    "tune": Reader(_tuned, "json", _tuned_seeds),
    "summary": Reader(_summary, "json", lambda: [(_study() / "summary.json").read_bytes()], 0.1),
    "protocol": Reader(_protocol, "json", lambda: [(_study() / "protocol.json").read_bytes()], 0.1),
    "serve-request": Reader(_asked, "text", _these(b"/study/0/summary.json", b"/compare?a=0&b=0", b"/"), 0.3),
    "endpoint-reply": Reader(_reply, "bytes", _reply_seeds, 2),
    "planner-spec": Reader(_spec, "text", _these(
        b"openai:m/x@https://h.example:8000/v1", b"gguf:x", b"file:tiny-planner-s")),
    "training-data": Reader(_training, "lines", _training_seeds),
    "forecast": Reader(_forecast, "json", _these(
        b'{"rows": 400, "seconds": 105.5, "calibration": {"items": 4, "loading": 5.25, "seconds": 12}}')),
    "arguments": Reader(_arguments, "text", _cli_seeds, 0.3),
}  # fmt: skip
