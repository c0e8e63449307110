"""Everything of this package that reads what others wrote, in one table: name -> function of bytes, shape, seeds.

A reader may return or raise UserError; anything else it raises is a finding, and so is a message of more than a screen
or a run that takes seconds. A new reader of foreign data is a new row here. Seeds are real files of this repository,
cut short where size would only cost time, or files its own writers make.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from fuzz.readers import asked, harnesses, settings, stores, texts, weights
from fuzz.readers.base import Reader, files, named, these

READERS: Mapping[str, Reader] = {
    "rows-jsonl": Reader(harnesses.results, "lines", harnesses.jsonl_rows, 2),
    "rows-csv": Reader(named(harnesses.results, "results.csv"), "text", harnesses.csv, 2),
    "rows-lm-eval": Reader(harnesses.results, "lines", harnesses.lm_eval, 2),
    "rows-inspect": Reader(harnesses.inspect, "json", harnesses.inspect_seeds, 0.2, needs="inspect_ai"),
    "rows-growing": Reader(harnesses.watched, "lines", harnesses.jsonl_rows),
    "compare": Reader(
        harnesses.compared, "lines", lambda: [b"\n".join(asked.cli_files()[n] for n in ("a.jsonl", "b.jsonl"))], 0.3),
    "store-pages": Reader(stores.store, "bytes", lambda: [(stores.study() / "rows.sqlite").read_bytes()]),
    "store-salvage": Reader(stores.salvaged, "bytes", lambda: [(stores.study() / "rows.sqlite").read_bytes()]),
    "export-jsonl": Reader(named(stores.exported, "a.jsonl"), "lines", lambda: [stores.export("jsonl")], 0.3),
    "export-parquet": Reader(
        named(stores.exported, "a.parquet"), "bytes", lambda: [stores.export("parquet")], 0.3, needs="pyarrow"),
    "kept-columns": Reader(stores.kept, "safetensors", lambda: [stores.columns()[0]], 0.5),
    "seal": Reader(stores.manifest, "lines", stores.manifest_seeds, 0.5),
    "store-cells": Reader(stores.cells, "json", stores.cell_seeds, 0.5),
    "store-report": Reader(stores.reported, "json", stores.cell_seeds, 0.1),
    "bank": Reader(texts.bank, "bank", texts.bank_seeds, 2),
    "bank-gz": Reader(
        named(texts.bank, "b.jsonl.gz"), "packed", lambda: [gzip.compress(b) for b in texts.bank_seeds()]),
    "task-jsonl": Reader(texts.task, "lines", texts.task_seeds, 2),
    "task-lm-eval": Reader(texts.harness_task, "yaml", these(
        b"dataset_path: json\ndataset_kwargs: {data_files: {test: a.jsonl}}\ndoc_to_text: '{{question}} A:'\n"
        b"doc_to_target: \"{{answer.split('####')[-1].strip()}}\"\noutput_type: generate_until\ntest_split: test\n"
        b"metric_list:\n  - {metric: exact_match, ignore_case: true}\n"), 0.3, needs="lm_eval"),
    "completion": Reader(texts.grade, "text", these(
        b"19\nso 12+7=19.\n#### 19", b"3/4\n\\boxed{\\frac{3}{4}}", b"1.5\n50% is", b"7\nThe answer is **7**."), 2),
    "config": Reader(weights.config, "json", weights.config_seeds, 0.5),
    "safetensors": Reader(weights.header, "safetensors", lambda: [weights.safetensors()], 2),
    "weights-index": Reader(weights.index, "json", these(
        b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}')),
    "tokenizer": Reader(weights.tokenizer, "json", files("models/tiny/tiny-2/tokenizer.json"), 0.3),
    "adapter-config": Reader(
        weights.adapter("adapter_config.json"), "json", weights.adapter_seeds("adapter_config.json")),
    "adapter-card": Reader(weights.adapter("card.json"), "json", weights.adapter_seeds("card.json"), 0.5),
    "adapter-weights": Reader(
        weights.adapter("adapter_model.safetensors"), "safetensors",
        weights.adapter_seeds("adapter_model.safetensors")),
    "resume": Reader(weights.resume, "safetensors", weights.resume_seeds),
    "gguf": Reader(weights.gguf, "bytes", weights.gguf_seeds, 2),
    "preset": Reader(settings.preset, "toml", files("presets/quick.toml", "presets/factorial.toml"), 0.5),
    "prereg": Reader(settings.prereg, "toml", settings.prereg_seeds, 2),
    "stamp": Reader(settings.stamp, "json", settings.stamp_seeds),
    "claims-csv": Reader(settings.claims, "text", these(
        b"name,value,n,baseline,family,p\nx,74.0,50,66.0,t1,0.2\ny,37/50,,33/50,t1,\n")),
    "claims-yaml": Reader(named(settings.claims, "c.yaml"), "yaml", these(
        b"claims:\n  - {name: x, value: 74.0, n: 50, baseline: 66.0}\n"
        b"  - name: y\n    value: 37/50\n    gain: 3\n    loss: 4\n")),
    "schedule": Reader(settings.schedule, "text", these(
        b"prefix+commit@last:2,masked:0.1-0.5*0.5", b"a@alone,block:1-2"), 2),
    "registry": Reader(settings.registry, "json", settings.registry_seeds),
    "trace": Reader(settings.trace, "lines", settings.trace_seeds, 2),
    "tune": Reader(settings.tuned, "json", settings.tuned_seeds),
    "summary": Reader(settings.summary, "json", lambda: [(stores.study() / "summary.json").read_bytes()], 0.1),
    "protocol": Reader(settings.protocol, "json", lambda: [(stores.study() / "protocol.json").read_bytes()], 0.1),
    "serve-request": Reader(settings.asked, "text", these(b"/study/0/summary.json", b"/compare?a=0&b=0", b"/"), 0.3),
    "endpoint-reply": Reader(asked.reply, "bytes", asked.reply_seeds, 2),
    "planner-spec": Reader(asked.spec, "text", these(
        b"openai:m/x@https://h.example:8000/v1", b"gguf:x", b"file:tiny-planner-s")),
    "training-data": Reader(asked.training, "lines", asked.training_seeds),
    "forecast": Reader(asked.forecast, "json", these(
        b'{"rows": 400, "seconds": 105.5, "calibration": {"items": 4, "loading": 5.25, "seconds": 12}}')),
    "arguments": Reader(asked.arguments, "text", asked.cli_seeds, 0.3),
}  # fmt: skip
