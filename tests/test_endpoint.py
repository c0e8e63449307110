"""Planners behind an endpoint, against a real HTTP server on this machine that can be told to fail."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from endpoint_server import Server, says, serving

from triaxis.errors import UserError
from triaxis.models.endpoint import EndpointPlanner, Patience, _retry_after, find_key, open_endpoint, parse
from triaxis.models.planner import load_planner
from triaxis.models.writer import Writing, Written
from triaxis.plans import bank
from triaxis.plans.sources import Maker
from triaxis.sampling.executor import Executor
from triaxis.store import Store
from triaxis.streams import stream_key
from triaxis.tasks import load_task

KEY = "sk-made-up-0123456789abcdef"
QUICK = Patience(first_wait=0.02, timeout=2.0, total=10.0, attempts=4)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("TRIAXIS_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        yield running


@pytest.fixture
def keyed(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("TRIAXIS_API_KEY", KEY)
    return server


def planner(server: Server, patience: Patience = QUICK, **settings: Any) -> EndpointPlanner:
    return open_endpoint(server.spec(), Writing(**settings), patience)


def refused(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as e:
        call(*args, **options)
    assert "\n" not in str(e.value)
    assert KEY not in str(e.value)
    assert len(str(e.value)) < 500
    return str(e.value)


ERROR = {"error": {"message": "overloaded"}}


# --- what is asked and what comes back ---


def test_questions_are_asked_as_the_settings_say(server: Server) -> None:
    own = planner(server, budget=7, system="Plan.", prompt="Problem: {question}", stop=("\n\n",))
    asked = ["a b c", "d", "e f", "d"]
    made = own.write(asked)
    assert [w.text for w in made] == [says(f"Problem: {q}", 0, 0) for q in asked]
    assert made[0] == Written(says("Problem: a b c", 0, 0), 5, False, 5, 8, 1)
    assert len(server.seen) == 3, "one question is asked once"
    path, body, headers = next(s for s in server.seen if s[1]["messages"][-1]["content"] == "Problem: d")
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body == {
        "model": "made-up/model-7b", "max_tokens": 7, "temperature": 0.0, "seed": 0, "stream": False, "stop": ["\n\n"],
        "messages": [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Problem: d"}],
    }  # fmt: skip


def test_sampled_answers_have_a_seed_each(server: Server) -> None:
    warm = planner(server, temperature=0.7)
    made = warm.write(["a", "b"])
    assert [w.text for w in made] == [says(q, stream_key(0, q) & 0x7FFFFFFF, 0.7) for q in ("a", "b")]
    assert warm.write(["b", "a"]) == made[::-1]
    assert warm.using(seed=1).write(["a"]) != made[:1]
    assert len({w.text for w in warm.complete(["a"] * 4, range(4))}) == 4


def test_the_planner_is_one_as_any_other(server: Server) -> None:
    own = load_planner(server.spec(), budget=9)
    assert own.name == server.spec()
    assert own.parameters is None
    assert own.identity.startswith(f"openai/made-up/model-7b@{server.url}/greedy/9/v1/")
    assert server.seen == [], "opening asks nothing"
    assert own.write([]) == []


def test_requests_run_beside_each_other_up_to_the_limit(server: Server) -> None:
    server.delay = 0.1
    made = planner(server, Patience(concurrency=5)).write([str(i) for i in range(20)])
    assert [w.text for w in made] == [says(str(i), 0, 0) for i in range(20)]
    assert 2 <= server.most_at_once <= 5


def test_a_cut_answer_is_truncated(server: Server) -> None:
    choice = {"message": {"content": " cut off \ud800"}, "finish_reason": "length"}
    server.script.append({"choices": [choice]})
    [made] = planner(server).write(["a"])
    assert (made.text, made.truncated) == ("cut off ?", True)


# --- failures that pass ---


@pytest.mark.parametrize(
    "act",
    [
        (429, ERROR, {}), (500, ERROR, {}), (503, b"<html>", {}), (408, b"", {}), "drop", b"", b"{", b"[1]",
        b"\xff\xfe", b"[" * 100_000, {"choices": []}, {"choices": {}}, {"choices": [7]}, {"choices": None},
        {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": ["a"]}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "a"}, "finish_reason": 3}]}, {"usage": None},
        {"usage": {"prompt_tokens": 3}}, {"usage": {"prompt_tokens": -1, "completion_tokens": 1}},
        {"usage": {"prompt_tokens": True, "completion_tokens": 1}},
    ],
    ids=lambda a: str(a)[:50],
)  # fmt: skip
def test_a_bad_answer_is_asked_again_and_told_when_it_stays(server: Server, act: Any) -> None:
    own = planner(server)
    server.script.append(act)
    [made] = own.write(["a"])
    assert (made.text, made.requests) == (says("a", 0, 0), 2)
    server.script.extend([act] * 4)
    told = refused(own.write, ["a"])
    assert "no usable answer after 4 requests" in told
    assert "check the server" in told
    assert not server.script


@pytest.mark.parametrize("act", ["hang", "trickle"])
def test_a_request_ends_when_its_time_is_up(server: Server, act: str) -> None:
    own = planner(server, Patience(first_wait=0.02, timeout=0.3, total=10.0, attempts=2))
    server.script.append(act)
    began = time.monotonic()
    assert own.write(["a"])[0].requests == 2
    assert 0.25 < time.monotonic() - began < 20, "the server keeps it for 30 s or for ever"
    server.script.extend([act] * 2)
    assert "within 0 s" in refused(own.write, ["a"])


def test_all_attempts_together_have_a_limit(server: Server) -> None:
    own = planner(server, Patience(first_wait=0.02, timeout=25, total=0.4, attempts=99))
    server.script.extend(["hang"] * 99)
    began = time.monotonic()
    assert "no usable answer after 1 requests" in refused(own.write, ["a"])
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_what_the_server_asks_for_is_waited(server: Server) -> None:
    server.script.append((429, ERROR, {"Retry-After": "1"}))
    planner(server).write(["a"])
    assert server.times[1] - server.times[0] >= 1.0
    server.script.append((429, ERROR, {"Retry-After": "3600"}))
    began = time.monotonic()
    assert "after 1 requests" in refused(planner(server).write, ["b"]), "longer than it may take: told at once"
    assert time.monotonic() - began < 20


def test_retry_after_is_seconds_or_a_date() -> None:
    assert _retry_after("7") == 7.0
    assert 25 < _retry_after(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert _retry_after(formatdate(time.time() - 30, usegmt=True)) == 0.0
    assert [_retry_after(v) for v in (None, "", "soon", "-3", "9" * 40)] == [0.0] * 5


def test_waits_grow_and_are_spread(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("threading.Event.wait", lambda self, timeout=None: waits.append(timeout) or self.is_set())
    monkeypatch.setattr("random.random", lambda: 0.5)
    from triaxis.models.endpoint import _Again, _Asker

    patience = Patience(first_wait=1, longest_wait=5, attempts=6)
    asker = _Asker("x", server.url, patience)
    monkeypatch.setattr(asker, "_post", lambda *_: (_ for _ in ()).throw(_Again("busy")))
    refused(asker.ask, {})
    assert waits == [0.5, 1.0, 2.0, 2.5, 2.5]


# --- failures that stay ---


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = open_endpoint(f"openai:m@http://127.0.0.1:{port}/v1", Writing(), QUICK)
    assert "ConnectionRefusedError" in refused(own.write, ["a"])


@pytest.mark.parametrize(
    ("act", "part"),
    [
        ((400, {"error": {"message": "bad\nmodel"}}, {}), "refused with status 400 (bad model)"),
        ((404, b"<html>not here</html>", {}), "status 404 (<html>not here</html>)"),
        ((401, ERROR, {}), "no key is set; put it in TRIAXIS_API_KEY"),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), "status 302 (nothing said); give the final URL"),
        ((400, {"error": "x" * 5000}, {}), "status 400"),
    ],
)
def test_what_cannot_succeed_is_not_asked_again(server: Server, act: Any, part: str) -> None:
    server.script.append(act)
    assert part in refused(planner(server).write, ["a"])
    assert len(server.seen) == 1


def test_a_server_with_another_name_for_the_budget(server: Server) -> None:
    told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.script.append((400, {"error": {"message": told}}, {}))
    assert planner(server, Patience(concurrency=1, first_wait=0.01), budget=9).write(["a", "b"])[0].requests == 2
    assert [b.get("max_completion_tokens") for _, b, _ in server.seen] == [None, 9, 9]
    assert [b.get("max_tokens") for _, b, _ in server.seen] == [9, None, None]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_came_before_a_failure_is_handed_over(server: Server, concurrency: int) -> None:
    """A study appends what comes and asks for the rest when it is run again."""
    kept: dict[int, Written] = {}

    def done(places: list[int], made: list[Written]) -> None:
        kept.update(zip(places, made, strict=True))

    own = planner(server, Patience(concurrency=concurrency, first_wait=0.01, attempts=1))
    questions = [str(i) for i in range(12)]
    server.script.extend(["well"] * 5 + [(500, ERROR, {})])
    assert "status 500 (overloaded)" in refused(own.write, questions, done=done)
    assert len(kept) >= 5 - (concurrency - 1), "only what was on its way beside the failure may be cut off"
    if concurrency == 1:
        assert (len(kept), len(server.seen)) == (5, 6), "nothing new is asked after a failure"
    rest = [i for i in range(12) if i not in kept]
    done(rest, own.write([questions[i] for i in rest]))
    assert [kept[i].text for i in range(12)] == [says(q, 0, 0) for q in questions]


def test_a_failure_does_not_wait_for_requests_that_hang(server: Server) -> None:
    server.script.extend(["hang", "hang", (400, ERROR, {})])
    began = time.monotonic()
    refused(planner(server, Patience(concurrency=3, timeout=25)).write, ["a", "b", "c"])
    assert time.monotonic() - began < 20


# --- the key ---


def test_the_key_is_sent_and_written_nowhere(
    keyed: Server, tiny: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    own = planner(keyed)
    task = load_task("gradeschool")
    keyed.script.append("echo well")
    with Store(tmp_path / "rows.sqlite", write=True) as store:
        bank.fill(store, Maker(task, task.items(4), tiny, {"far": lambda: own}, 0), ["true:far"])
        assert any("[key]" in p.text for p in store.plans().values()), "the server said it, and it was taken out"
    assert {h["Authorization"] for _, _, h in keyed.seen} == {f"Bearer {KEY}"}
    keyed.script.extend(["echo", (401, {"error": {"message": f"wrong key {KEY}"}}, {})])
    told = [refused(own.write, ["a"]), refused(own.write, ["a"])]
    assert "[key]" in told[0]
    assert "the key in TRIAXIS_API_KEY was refused" in told[1]
    everything = [repr(own), own.identity, caplog.text, *capfd.readouterr(), *told]
    everything += [p.read_bytes().decode("latin-1") for p in tmp_path.iterdir()]
    assert not any(KEY in text or KEY[:12] in text for text in everything)


def test_which_key_is_sent_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(url: str) -> str:
        return find_key(urlsplit(url))[0]

    monkeypatch.delenv("TRIAXIS_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    here = ["https://api.example.com/v1", "http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:8000/v1"]
    assert [sent(url) for url in here] == ["OPENAI_API_KEY"] * 4
    assert sent("http://10.0.0.7:8000/v1") == "", "not in the clear to another machine"
    monkeypatch.setenv("TRIAXIS_API_KEY", "mine")
    assert find_key(urlsplit("http://10.0.0.7:8000/v1")) == ("TRIAXIS_API_KEY", "mine")
    monkeypatch.setenv("TRIAXIS_API_KEY", "two\nlines")
    assert "TRIAXIS_API_KEY holds characters" in refused(find_key, urlsplit("https://api.example.com/v1"))


# --- specs ---


@pytest.mark.parametrize(
    ("spec", "model", "url"),
    [
        ("openai:m@http://h/v1", "m", "http://h/v1"),
        ("openai:org/m@2@https://h:8000/v1/", "org/m@2", "https://h:8000/v1"),
        ("openai:m:free@HTTP://[::1]:80", "m:free", "HTTP://[::1]:80"),
    ],
)
def test_a_spec_is_a_model_and_a_url(spec: str, model: str, url: str) -> None:
    assert parse(spec) == (model, url)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("openai:m", "not of the form"), ("openai:@http://h", "not of the form"), ("openai:m@", "not of the form"),
        ("openai:m@h:8000/v1", "only http:// and https://"), ("openai:m@file:///etc/passwd", "only http://"),
        ("openai:m@ftp://h/v1", "only http://"), ("openai:m@http:///v1", "only http://"),
        ("openai:m@http://h:99999/v1", "cannot be read"), ("openai:m@http://[::1/v1", "cannot be read"),
        ("openai:m@http://secret@h/v1", "without user"), ("openai:m@http://me:secret@h/v1", "without user"),
        ("openai:m@http://h/v1?key=secret", "without user"), ("openai:m@http://h/v1#secret", "without user"),
        ("openai:m@http://me:secret", "cannot be read"), ("openai:m@http://h /v1", "spaces"),
        ("openai:m@http://h/é", "spaces"),
    ],
)  # fmt: skip
def test_other_specs_are_refused_and_repeat_no_secret(spec: str, part: str) -> None:
    told = refused(parse, spec)
    assert part in told
    assert "secret" not in told


def test_patience_is_checked() -> None:
    assert "attempts=0" in refused(Patience, attempts=0)
    assert "timeout=nan" in refused(Patience, timeout=float("nan"))
