"""A real HTTP server on 127.0.0.1 that speaks chat completions and can be told to fail, hang or answer rubbish.

`Server.script` holds what to do with the next requests, in order; when it is empty the server answers well. Its text
is made of the request (prompt, seed, temperature), so that tests can tell which answer belongs to which question.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def says(prompt: str, seed: int, temperature: float) -> str:
    """What the server answers to a prompt."""
    digest = hashlib.sha256(f"{prompt}/{seed if temperature else 0}".encode()).hexdigest()[:6]
    return f"step {digest}"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: deque[Any] = deque()
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []  # (path, body, headers)
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0
        self.delay = 0.0
        self.ending = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def spec(self, model: str = "made-up/model-7b") -> str:
        return f"openai:{model}@{self.url}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        s = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with s.lock:
            s.seen.append((self.path, body, dict(self.headers)))
            s.times.append(time.monotonic())
            s.at_once += 1
            s.most_at_once = max(s.most_at_once, s.at_once)
            act = s.script.popleft() if s.script else "well"
        if s.delay:
            s.ending.wait(s.delay)
        with s.lock:
            s.at_once -= 1  # before the answer, after which the client may send the next request
        self.act(act, body)

    def act(self, act: Any, body: dict[str, Any]) -> None:
        if act == "well":
            self.reply(200, self.good(body))
        elif act == "hang":
            self.server.ending.wait(30)
        elif act == "trickle":  # a byte at a time, each in good time, for ever
            self.send_response(200)
            self.end_headers()
            while not self.server.ending.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        elif act == "drop":
            self.connection.close()
        elif act == "echo":  # repeats the key, in an error longer than what is shown
            self.reply(400, {"error": {"message": "x" * 170 + " you sent " + self.headers["Authorization"]}})
        elif act == "echo well":
            self.reply(200, self.good(body, text="You sent " + self.headers["Authorization"]))
        elif isinstance(act, bytes):
            self.reply(200, act)
        elif isinstance(act, dict):  # a good answer with changed parts
            self.reply(200, self.good(body) | act)
        else:
            status, value, headers = act
            self.reply(status, value, headers)

    @staticmethod
    def good(body: dict[str, Any], text: str | None = None) -> dict[str, Any]:
        prompt = body["messages"][-1]["content"]
        content = says(prompt, body["seed"], body["temperature"]) if text is None else text
        return {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(prompt.split()), "completion_tokens": 5},
        }

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
