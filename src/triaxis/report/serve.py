"""Several studies on one local page: a list, two compared with what their protocols differ in first, their reports.

Read-only and for this machine: it binds to loopback, answers GET and HEAD of a few named files, and refuses a request
whose Host is not its own, so that no web page can read it through a name that points here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from triaxis.errors import UserError
from triaxis.report import words
from triaxis.report.answer import adapted, answers
from triaxis.report.embed import markup, read
from triaxis.report.load import cards
from triaxis.report.page import templates
from triaxis.report.sections import every_effect
from triaxis.store.protocol import differences

LOOPBACK = "127.0.0.1"
HTML, JSON_, TEXT = "text/html; charset=utf-8", "application/json; charset=utf-8", "text/plain; charset=utf-8"
FILES = {"report.html": HTML, "trace.html": HTML, "summary.json": JSON_, "protocol.json": JSON_}
HEAD = 4_000  # characters of a page in which its title stands
SIGNS = ("summary.json", "trace.html")  # a folder with one of them is shown
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Answer(NamedTuple):
    status: HTTPStatus
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Site:
    """What is served: folders by number. Files are read at every request, so a running study is seen as it grows."""

    folders: Sequence[Path]

    @classmethod
    def of(cls, given: Sequence[Path]) -> Site:
        """The folders that hold a study or a trace, or whose own folders do. UserError where one holds neither."""
        found: dict[Path, None] = {}
        for folder in given:
            if not folder.is_dir():
                raise UserError(f"{folder}: there is no such folder; give folders of studies, or one that holds them")
            mine = list(_shown(folder))
            if not mine:
                raise UserError(
                    f"{folder}: holds no study (summary.json) and no trace; run triaxis diagnose --out there"
                )
            found |= dict.fromkeys(mine)
        return cls(list(found))

    def answer(self, target: str) -> Answer:
        """What a request for `target`, a path with its query, gets."""
        try:
            asked = urlsplit(target)
        except ValueError:
            return _missing()
        match asked.path.split("/")[1:]:
            case [""]:
                return _page(self._list())
            case ["compare"]:
                return self._compare(parse_qs(asked.query))
            case ["study", number, name]:
                return self._file(number, name)
        return _missing()

    def _file(self, number: str, name: str) -> Answer:
        folder = self._folder(number)
        if folder is None or name not in FILES:
            return _missing()
        path = _inside(folder, name)
        return _missing() if path is None else Answer(HTTPStatus.OK, FILES[name], path.read_bytes())

    def _folder(self, number: str) -> Path | None:
        known = {str(i): f for i, f in enumerate(self.folders)}
        return known.get(number)

    def _list(self) -> str:
        lines = [_line(i, folder) for i, folder in enumerate(self.folders)]
        return _render(
            "serve.html.j2", title="Studies", lines=lines, several=sum(x["study"] is not None for x in lines) > 1
        )

    def _compare(self, query: Mapping[str, Sequence[str]]) -> Answer:
        numbers = [query.get(side, [""])[0] for side in ("a", "b")]
        folders = [self._folder(n) for n in numbers]
        if None in folders:
            return _missing()
        try:
            pair = [cards(f) for f in folders if f is not None]
        except UserError as e:
            return Answer(HTTPStatus.CONFLICT, TEXT, str(e).encode(errors="replace"))
        (a, card_a), (b, card_b) = pair
        sides = [
            {"name": str(f), "number": n, "study": s["study"]}
            for f, n, (s, _) in zip(folders, numbers, pair, strict=True)
        ]
        return _page(
            _render(
                "compare.html.j2", title="Two studies", sides=sides, differences=_protocols(card_a, card_b),
                samples=_samples(a["study"], b["study"]),
                same=card_a["protocol_hash"] == card_b["protocol_hash"], conditions=_beside(_arms(a), _arms(b)),
                effects=_beside(_effects(a), _effects(b)),
            )
        )  # fmt: skip


def _shown(folder: Path) -> Iterator[Path]:
    if any((folder / sign).is_file() for sign in SIGNS):
        yield folder
    for inner in sorted(f for f in folder.iterdir() if f.is_dir() and not f.is_symlink()):
        if any((inner / sign).is_file() for sign in SIGNS):
            yield inner


def _inside(folder: Path, name: str) -> Path | None:
    """A file of the folder itself; None where there is none, or it is a link that leads out."""
    path = (folder / name).resolve()
    return path if path.parent == folder.resolve() and path.is_file() else None


def _line(number: int, folder: Path) -> dict[str, Any]:
    """A folder in the list; what is wrong with it where it cannot be read."""
    files = [name for name in ("report.html", "trace.html") if _inside(folder, name)]
    line: dict[str, Any] = {
        "number": number,
        "name": str(folder),
        "files": files,
        "study": None,
        "answers": [],
        "wrong": "",
        "trace": "",
    }
    if not (folder / "summary.json").is_file():
        return {**line, "trace": _title(_inside(folder, "trace.html"))}
    try:
        summary, _ = cards(folder)
    except UserError as e:
        return {**line, "wrong": str(e)}
    return {**line, "study": summary["study"], "answers": [*answers(summary), *adapted(summary)]}


def _title(page: Path | None) -> str:
    """The title that a trace's page gives itself: its executor and what is side by side."""
    if page is None:
        return ""
    with page.open(encoding="utf-8", errors="replace") as file:
        head = file.read(HEAD)
    found = re.search(r"<title>(.*?)</title>", head, re.S)
    return unescape(found[1]) if found else ""


def _protocols(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what the two measured differently: settings of the study, then settings of arms of one name."""
    whole = differences(a, b)
    names = [c["name"] for c in a["conditions"] if c["name"] in {c["name"] for c in b["conditions"]}]
    return whole + [text for name in names for text in differences(a, b, name, name)[len(whole) :]]


_SAMPLE = {"n": "items", "seeds": "seeds", "planners": "planners"}


def _samples(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what the two samples differ."""
    shown = {key: [", ".join(map(str, x)) if isinstance(x, list) else x for x in (a[key], b[key])] for key in _SAMPLE}
    return [f"{said} ({shown[k][0] or 'none'}; {shown[k][1] or 'none'})" for k, said in _SAMPLE.items() if a[k] != b[k]]


class Cell(NamedTuple):
    """A number with its interval, and a verdict where it has one."""

    text: str
    verdict: str = ""
    kind: str = ""


def _arms(summary: Mapping[str, Any]) -> dict[str, Cell]:
    def cell(c: Mapping[str, Any]) -> Cell:
        interval = words.span(c["low"], c["high"], sign=False)
        return Cell(f"{words.points(c['accuracy'], sign=False)} {interval}, n {c['n']}")

    return {c["name"]: cell(c) for c in summary["conditions"]}


def _effects(summary: Mapping[str, Any]) -> dict[str, Cell]:
    def cell(e: Mapping[str, Any]) -> Cell:
        return Cell(
            f"{words.points(e['value'])} {words.span(e['low'], e['high'])}", e["verdict"], words.kind(e["verdict"])
        )

    return {f"{axis}: {e['name']}": cell(e) for axis, e in every_effect(summary)}


def _beside(a: Mapping[str, Cell], b: Mapping[str, Cell]) -> list[tuple[str, Cell, Cell]]:
    none = Cell(words.DASH)
    return [(name, a.get(name, none), b.get(name, none)) for name in dict.fromkeys([*a, *b])]


def _render(name: str, **values: Any) -> str:
    return templates().get_template(name).render(style=markup(read("style.css")), **values)


def _page(html: str) -> Answer:
    return Answer(HTTPStatus.OK, HTML, html.encode(errors="replace"))


def _missing() -> Answer:
    return Answer(HTTPStatus.NOT_FOUND, TEXT, b"there is nothing here; go to /\n")


def server(site: Site, port: int = 0) -> ThreadingHTTPServer:
    """A server on loopback, not yet running; port 0 takes a free one. UserError where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        server: ThreadingHTTPServer
        server_version, sys_version = "triaxis", ""

        def do_GET(self) -> None:
            self._give(with_body=True)

        def do_HEAD(self) -> None:
            self._give(with_body=False)

        def _give(self, with_body: bool) -> None:
            port = self.server.server_port
            own = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
            if self.headers.get("Host", "") in own:
                answer = site.answer(self.path)
            else:
                answer = Answer(HTTPStatus.FORBIDDEN, TEXT, b"not the name of this server\n")
            self.send_response(answer.status)
            for key, value in {
                **_HEADERS,
                "Content-Type": answer.kind,
                "Content-Length": str(len(answer.body)),
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a terminal shows the address and is quiet."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as e:
        raise UserError(f"--port {port}: cannot listen there ({e}); leave it out to take a free one") from None
