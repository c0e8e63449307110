"""Planners behind an OpenAI-compatible endpoint: chat completions over HTTP, with retries, limits and counted cost.

The standard library's http.client, and not an HTTP package: it follows no redirect (which would carry the key to
another host), reads no proxy setting, and is there on every machine; which package huggingface_hub brings along has
changed between its versions. What a server does with a seed is its own affair: plans of an endpoint are repeatable
because the bank stores them, not because the server would write them again.
"""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from triaxis.errors import UserError
from triaxis.limits import parse_json
from triaxis.models.writer import Writer, Writing, Written

KEYS = ("TRIAXIS_API_KEY", "OPENAI_API_KEY")  # environment variables, the first one set counts
_SPEC = re.compile(r"openai:(?P<model>.+?)@(?P<url>[A-Za-z][A-Za-z0-9+.-]*:.*)", re.DOTALL)
_LIKE = "http://localhost:8000/v1"
_LARGEST = 8 << 20  # bytes of an answer that are read
_AGAIN = frozenset({408, 425, 429})  # and every 5xx: the same request may succeed later


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How an endpoint is asked. No part of a planner's identity: it changes no plan. Times are in seconds.

    concurrency: requests at once. attempts: requests for one prompt. timeout: for one request, connecting and reading
    included. total: for one prompt, all attempts and waits included. first_wait: before the second attempt, doubled
    each time, of which a random part is waited (full jitter). longest_wait: at most, unless the server asks for more.
    """

    concurrency: int = 4
    attempts: int = 6
    timeout: float = 120.0
    total: float = 600.0
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise UserError(f"{name}={value!r} of an endpoint is not sensible; give a number above 0")


@dataclass(frozen=True)
class EndpointPlanner(Writer):
    """A model behind an endpoint. Made by `load_planner("openai:MODEL@URL")`. Holds no key."""

    model: str
    url: str
    patience: Patience = field(default_factory=Patience)

    def _complete(
        self, prompts: Sequence[str], keys: Sequence[int], writing: Writing
    ) -> Iterator[tuple[list[int], list[Written]]]:
        """One completion at a time, as they come. When one fails for good the others are stopped."""
        asker = _Asker(self.name, self.url, self.patience)
        pool = ThreadPoolExecutor(max_workers=int(self.patience.concurrency), thread_name_prefix="endpoint")
        try:
            bodies = [self._body(p, k, writing) for p, k in zip(prompts, keys, strict=True)]
            jobs = {pool.submit(asker.ask, body): i for i, body in enumerate(bodies)}
            for job in as_completed(jobs):
                try:
                    made = job.result()
                except UserError:  # the first one is raised below: what came before it is handed over first
                    continue
                yield [jobs[job]], [made]
            if asker.failure:
                raise asker.failure
        finally:
            asker.stop()
            pool.shutdown(cancel_futures=True)

    def _body(self, prompt: str, key: int, writing: Writing) -> dict[str, Any]:
        chat = [{"role": "system", "content": writing.system}] if writing.system else []
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*chat, {"role": "user", "content": prompt}],
            "max_tokens": writing.budget,
            "temperature": writing.temperature,
            "seed": key & 0x7FFFFFFF if writing.temperature else 0,
            "stream": False,
        }
        return body | ({"stop": list(writing.stop)} if writing.stop else {})


def parse(spec: str) -> tuple[str, str]:
    """(model, base URL) of "openai:MODEL@URL". UserError for anything else; credentials are never repeated in it."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        shown = "" if "://" in spec and "@" in spec.partition("://")[2] else f" {spec!r}"
        raise UserError(f"planner{shown} is not of the form openai:MODEL@URL, such as openai:qwen@{_LIKE}")
    model, text = found["model"], found["url"]
    try:
        url = urlsplit(text)
        _ = url.port  # raises where it is no port
    except ValueError:  # its text may be part of a password
        raise UserError(f"planner of model {model!r}: its URL cannot be read; give one such as {_LIKE}") from None
    if url.scheme.lower() not in ("http", "https") or not url.hostname:
        raise UserError(f"planner of model {model!r}: only http:// and https:// URLs are asked, such as {_LIKE}")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise UserError(
            f"planner of model {model!r}: give a URL without user, password, query or fragment; "
            f"a key belongs in the environment variable {KEYS[0]}"
        )
    if re.search(r"[\s\x00-\x1f\x7f]", text) or not text.isascii():
        raise UserError(f"planner of model {model!r}: its URL has spaces or other characters that no URL has")
    return model, text.rstrip("/")


def open_endpoint(spec: str, writing: Writing, patience: Patience | None = None) -> EndpointPlanner:
    """The planner of a spec. Sends nothing."""
    model, url = parse(spec)
    return EndpointPlanner(spec, None, f"openai/{model}@{url}", writing, model, url, patience or Patience())


def find_key(url: SplitResult) -> tuple[str, str]:
    """(variable, key) from the environment, ("", "") where there is none. Read when used, kept nowhere.

    OPENAI_API_KEY was not meant for this server by name, so it is sent over TLS or to this machine only.
    """
    for name in KEYS:
        key = os.environ.get(name, "").strip()
        if key and (name == KEYS[0] or url.scheme.lower() == "https" or _is_here(url.hostname or "")):
            if not re.fullmatch(r"[\x21-\x7e]+", key):
                raise UserError(f"the environment variable {name} holds characters that no HTTP header can carry")
            return name, key
    return "", ""


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Again(Exception):
    """An attempt failed in a way that may pass. `wait`: what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Asker:
    """Asks one endpoint, from several threads; `stop` ends waits and open requests at once."""

    def __init__(self, name: str, url: str, patience: Patience) -> None:
        self.name, self.url, self.patience = name, urlsplit(url), patience
        self.variable, self._key = find_key(self.url)
        self.limit = "max_tokens"  # what this server calls the budget
        self.failure: UserError | None = None  # the first one, which stopped the others
        self.stopped = threading.Event()
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()

    def stop(self, failure: UserError | None = None) -> None:
        with self.lock:
            self.failure = self.failure or failure
            self.stopped.set()
            for sock in self.open:
                _shut(sock)

    def ask(self, body: dict[str, Any]) -> Written:
        """One completion. UserError in one line when every attempt has failed or none can succeed, and stops all."""
        try:
            return self._attempts(body)
        except UserError as e:
            self.stop(e)  # here, before this thread takes the next prompt
            raise

    def _attempts(self, body: dict[str, Any]) -> Written:
        p, began = self.patience, time.monotonic()
        reason = "stopped"
        for attempt in range(1, int(p.attempts) + 1):
            left = began + p.total - time.monotonic()
            if left <= 0 or self.stopped.is_set():
                break
            try:
                return self._read(self._post(body, min(p.timeout, left)), attempt)
            except _Again as e:
                reason = str(e)
                backoff = min(p.longest_wait, p.first_wait * 2 ** (attempt - 1)) * random.random()
                wait = max(e.wait, backoff)
                if attempt == p.attempts or time.monotonic() + wait > began + p.total:
                    break
                self.stopped.wait(wait)
        spent = time.monotonic() - began
        raise UserError(
            f"planner {self.name!r}: no usable answer after {attempt} requests in {spent:.0f} s, the last: "
            f"{self._clean(reason)}; check the server, then run the same command again: what came is kept"
        )

    def _post(self, body: dict[str, Any], seconds: float) -> Any:
        """Send one request; the JSON of a good answer. _Again where asking again may help, else UserError."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        sent = {self.limit if name == "max_tokens" else name: value for name, value in body.items()}
        secure = self.url.scheme.lower() == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(str(self.url.hostname), self.url.port, timeout=seconds)
        began = time.monotonic()
        try:
            connection.connect()
            with self._cut_short(connection.sock, began + seconds - time.monotonic()):
                connection.request("POST", f"{self.url.path}/chat/completions", json.dumps(sent).encode(), headers)
                answer = connection.getresponse()
                data = answer.read(_LARGEST + 1)
                length = answer.length
        except (OSError, http.client.HTTPException, ValueError) as e:
            late = time.monotonic() - began >= seconds
            raise _Again(f"no answer within {seconds:.0f} s" if late else f"{type(e).__name__}: {e}") from None
        finally:
            connection.close()
        if len(data) > _LARGEST:
            raise _Again(f"an answer of more than {_LARGEST} bytes")
        if length or time.monotonic() - began >= seconds:
            raise _Again(f"no whole answer within {seconds:.0f} s")
        return self._judge(answer, data)

    @contextmanager
    def _cut_short(self, sock: socket.socket, seconds: float) -> Iterator[None]:
        """Ends a request's reads and writes after `seconds`, or when all is stopped.

        The socket's own timeout starts anew with every byte, so a slow trickle needs a clock of its own; and the
        connection forgets its socket while an answer is read, so the socket itself is held.
        """
        clock = threading.Timer(seconds, _shut, [sock])
        clock.daemon = True
        with self.lock:
            self.open.add(sock)
        try:
            clock.start()
            if self.stopped.is_set():
                raise OSError("stopped")
            yield
        finally:
            clock.cancel()
            with self.lock:
                self.open.discard(sock)

    def _judge(self, answer: http.client.HTTPResponse, data: bytes) -> Any:
        if answer.status in _AGAIN or answer.status >= 500:
            raise _Again(
                f"status {answer.status} ({self._told(data)})", _retry_after(answer.headers.get("Retry-After"))
            )
        if answer.status in (401, 403):
            given = f"the key in {self.variable} was refused" if self._key else f"no key is set; put it in {KEYS[0]}"
            raise UserError(f"planner {self.name!r}: status {answer.status}: {given}")
        if answer.status != 200:
            told = self._told(data)
            if self.limit in told and "max_completion_tokens" in told:  # newer models of the protocol's maker
                self.limit = "max_completion_tokens"
                raise _Again(told)
            hint = "give the final URL" if 300 <= answer.status < 400 else "check the model's name and the URL"
            raise UserError(f"planner {self.name!r}: the server refused with status {answer.status} ({told}); {hint}")
        try:
            return parse_json(data)
        except ValueError:
            raise _Again(f"an answer that is not JSON ({self._told(data)})") from None

    def _read(self, answer: Any, attempt: int) -> Written:
        """The completion in an answer. _Again where it is not what the protocol says."""
        choice = _at(answer, "choices", list, "a list")
        if not choice:
            raise _Again("an answer with empty choices")
        text = _at(_at(choice[0], "message", dict, "an object"), "content", str, "text")
        reason = _at(choice[0], "finish_reason", str, "text")
        usage = _at(answer, "usage", dict, "an object")
        prompt, tokens = (_at(usage, n, int, "a whole number") for n in ("prompt_tokens", "completion_tokens"))
        if len(self._key) >= 16:  # a server that repeats the key must not bring it into the bank
            text = text.replace(self._key, "[key]")
        text = text.encode("utf-8", "replace").decode()  # JSON can spell half a surrogate pair, which no store takes
        # a filter's cut is a cut as well: only "stop" says that the plan came to its end
        return Written(text.strip(), tokens, reason != "stop", tokens, prompt + max(tokens - 1, 0), attempt)

    def _told(self, data: bytes) -> str:
        """What an error answer says: its message where it is the protocol's, else its beginning."""
        text = data.decode("utf-8", "replace")
        with suppress(ValueError, AttributeError):
            error = parse_json(data).get("error")
            text = str(error.get("message") if isinstance(error, dict) else error or text)
        line = self._clean("".join(c if c.isprintable() else " " for c in text))  # before a part of a key is cut off
        return line[:200] or "nothing said"

    def _clean(self, text: str) -> str:
        """One line without the key."""
        line = " ".join(text.split())
        return line.replace(self._key, "[key]") if self._key else line


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        sock.shutdown(socket.SHUT_RDWR)


def _at(holder: Any, name: str, kind: type[Any], told: str) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
        raise _Again(f"an answer whose {name} is not {told}")
    return value


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 where it is missing or unreadable."""
    if not value:
        return 0.0
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
