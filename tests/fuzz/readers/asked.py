"""Readers of foreign data: endpoints' replies, rows to train on, the command line."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fuzz.readers import settings, stores, texts
from fuzz.readers.base import put, suppress_user


def reply(data: bytes, place: Path) -> None:
    """An answer as received: status and Retry-After in the first two lines."""
    from triaxis.models.endpoint import Patience, _Again, _Asker

    status, _, rest = data.partition(b"\n")
    retry, _, body = rest.partition(b"\n")
    asker = _Asker("openai:m@http://localhost:1/v1", "http://localhost:1/v1", Patience())
    code = int(status) if status.isdigit() and len(status) < 4 else 200
    head = SimpleNamespace(status=code, headers={"Retry-After": retry.decode("latin-1")})
    with suppress(_Again):
        asker._read(asker._judge(head, body), 1)  # type: ignore[arg-type]


def reply_seeds() -> list[bytes]:
    good = {
        "choices": [{"message": {"role": "assistant", "content": "12+7=19"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5},
    }
    bad = {"error": {"message": "max_tokens: use max_completion_tokens"}}
    heads = (b"200\n\n", b"429\n3\n", b"503\nWed, 21 Oct 2026 07:28:00 GMT\n", b"400\n\n", b"301\n\n")
    return [h + json.dumps(body).encode() for h in heads for body in (good, bad)]


def spec(data: bytes, place: Path) -> None:
    from triaxis.models.endpoint import open_endpoint
    from triaxis.models.planner import check_planner
    from triaxis.models.writer import Writing

    spec = data.decode("utf-8", "replace")
    with suppress_user():
        open_endpoint(spec, Writing())
    check_planner(spec)


def training(data: bytes, place: Path) -> None:
    from triaxis.train.doctor import _marks, _own_template, _rendered, read_rows

    with suppress_user():
        read_rows(put(place, "rows.jsonl", data))
    put(place, "tokenizer_config.json", data)
    _marks(_own_template(place))
    with suppress(UnicodeDecodeError):
        _rendered(data.decode(), "<s>")


def training_seeds() -> list[bytes]:
    row = json.dumps({"prompt": "What?", "response": "19"}).encode() + b"\n"
    template = b"{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    return [row * 3, template, json.dumps({"chat_template": template.decode()}).encode()]


_RUN = (  # commands that read and print; the others' arguments are parsed and not acted upon
    "audit claim", "audit rows", "audit table", "compare", "power", "prereg check", "registry show", "registry compare",
    "plans check", "factorial",
)  # fmt: skip


def forecast(data: bytes, place: Path) -> None:
    """What a dry run printed, up to the prediction for a few GPUs."""
    from triaxis.cli.simulate import _of_forecast
    from triaxis.estimate.scaling import predict

    load = _of_forecast(put(place, "dry.json", data), 0)
    if load.chunks < 10_000:
        predict(load, 3)


def arguments(data: bytes, place: Path) -> None:
    """One argument a line, in a folder with a few files. stderr must be one line where the exit code is 2."""
    from triaxis.cli import main

    argv = [a for a in data.decode("utf-8", "surrogateescape").split("\n") if a][:40]
    acted = " ".join(argv[:2]) in _RUN or argv[:1] in (["compare"], ["power"], ["factorial"])
    if "--watch" in argv or (not acted and "--help" not in argv):
        return _parsed(argv)
    before, out, err = Path.cwd(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    for name, content in cli_files().items():
        if not (place / name).exists():
            put(place, name, content)
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
def cli_files() -> Mapping[str, bytes]:
    a, b = (b"".join(b'{"id": "q%d", "correct": %d}\n' % (i, i % k == 0) for i in range(12)) for k in (2, 3))
    return {
        "a.jsonl": a, "b.jsonl": b, "claims.csv": b"name,value,n,baseline\nx,74.0,50,66.0\n",
        "p.toml": settings.prereg_seeds()[0], "summary.json": (stores.study() / "summary.json").read_bytes(),
        "bank.jsonl": texts.bank_seeds()[0],
    }  # fmt: skip


def cli_seeds() -> list[bytes]:
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
