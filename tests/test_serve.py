"""The local page over several studies: what it lists and compares, and everything it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest
from made_study import HOSTILE, write_study

from triaxis.errors import UserError
from triaxis.report import render
from triaxis.report.serve import FILES, LOOPBACK, Site, server
from triaxis.store.protocol import differences


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies, one of them with other steps, a trace, a damaged study, and a secret beside them."""
    home = tmp_path_factory.mktemp("runs")
    for name in ("one", "two"):
        write_study(home / name, 12, conditions=("hint", "plan-empty"), seed=len(name) + ord(name[0]))
        render(home / name)
    card = json.loads((home / "two/protocol.json").read_text())
    card["decode"]["steps"], card["protocol_hash"] = 48, "other"
    card["conditions"][-1]["scaffold"]["template"] += "!"
    summary = json.loads((home / "two/summary.json").read_text())
    summary["study"] |= {"protocol_hash": "other", "executor": HOSTILE[0], "seeds": [0, 1]}
    (home / "two/protocol.json").write_text(json.dumps(card))
    (home / "two/summary.json").write_text(json.dumps(summary))
    for name, file in (("trace", "trace.html"), ("zdamaged", "summary.json"), ("empty", "notes.txt")):
        (home / name).mkdir()
        (home / name / file).write_text("text")
    (home / "trace" / "trace.html").write_text(f"<title>tiny: {escape(HOSTILE[1])}</title>")
    (home / "secret.json").write_text("<title>secret</title>")
    (home / "ylink").mkdir()
    (home / "ylink" / "trace.html").symlink_to(home / "secret.json")
    (home / "one" / "trace.html").symlink_to(home / "secret.json")
    return home


@pytest.fixture(scope="module")
def site(home: Path) -> Site:
    return Site.of([home])


@pytest.fixture(scope="module")
def port(site: Site) -> Iterator[int]:
    with server(site) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


def ask(port: int, target: str, method: str = "GET", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    connection.request(method, target, headers={"Host": host or f"{LOOPBACK}:{port}"})
    reply = connection.getresponse()
    return reply.status, reply.read().decode(), dict(reply.headers)


def test_folders_are_found_one_level_down_and_none_twice(home: Path, site: Site) -> None:
    assert [f.name for f in site.folders] == ["one", "trace", "two", "ylink", "zdamaged"]
    assert len(Site.of([home / "one", home, home / "one"]).folders) == 5
    for bad, said in ((home / "nowhere", "no such folder"), (home / "empty", "holds no study")):
        with pytest.raises(UserError, match=said):
            Site.of([bad])


def test_the_list_shows_every_folder_and_what_is_wrong(port: int, home: Path) -> None:
    status, page, headers = ask(port, "/")
    assert status == 200
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name in ("one", "two", "trace", "zdamaged"):
        assert str(home / name) in page
    assert "damaged, not JSON" in page
    assert f"trace of tiny: {escape(HOSTILE[1])}" in page.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")
    assert "secret" not in page
    assert page.count('href="/study/') == 3  # two reports and a trace; a link that leads out is not offered
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_files_of_a_study_can_be_opened_and_nothing_else(port: int, home: Path) -> None:
    assert ask(port, "/study/0/report.html")[1] == (home / "one/report.html").read_text(encoding="utf-8")
    assert ask(port, "/study/1/trace.html")[1].startswith("<title>")
    for target in (
        "/study/0/rows.sqlite", "/study/0/../secret.json", "/study/0/%2e%2e/secret.json", "/study/0/..%2fsecret.json",
        "/study/0/", "/study/9/report.html", "/study/-1/report.html", "/study/0/trace.html", "/secret.json",
        "//etc/passwd", "/study/0/report.html/x", "/etc/passwd", "//[bad",
        "/compare?a=0", "/compare?a=0&b=7", "/compare",
    ):  # fmt: skip
        status, text, _ = ask(port, target)
        assert status == 404, target
        assert "secret" not in text
    assert "rows.sqlite" not in FILES


def test_two_are_compared_protocol_first(port: int, home: Path) -> None:
    status, page, _ = ask(port, "/compare?a=0&b=2")
    assert status == 200
    cards = [json.loads((home / n / "protocol.json").read_text()) for n in ("one", "two")]
    (told,) = differences(*cards)
    assert told == "decode.steps (24, 48)"
    shape = json.loads((home / "two/protocol.json").read_text())["conditions"][-1]
    assert f"{shape['name']} scaffold.template" in page
    assert "The samples differ in: seeds (0; 0, 1)." in page
    assert page.index(told) < page.index('id="conditions"') < page.index('id="effects"')
    for name in ("one", "two"):
        for c in json.loads((home / name / "summary.json").read_text())["conditions"]:
            assert f"{100 * c['accuracy']:.1f} [" in page
    assert "Nothing: one protocol." in ask(port, "/compare?a=0&b=0")[1]
    assert ask(port, "/compare?a=0&b=4")[0] == 409


def test_only_this_machine_under_its_own_name_and_only_reading(port: int) -> None:
    for host in ("evil.example", f"evil.example:{port}", LOOPBACK, f"{LOOPBACK}:1", f"{LOOPBACK}:{port}.evil.example"):
        assert ask(port, "/", host=host)[0] == 403
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(port, "/", method)[0] == 501
    status, text, headers = ask(port, "/", "HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 500
    assert "Access-Control-Allow-Origin" not in headers


def test_it_listens_on_loopback_only(site: Site) -> None:
    with server(site) as running:
        assert running.socket.getsockname()[0] == LOOPBACK
        with pytest.raises(UserError, match="--port"):
            server(site, running.server_address[1])
    with pytest.raises(UserError, match="--port 99999"):
        server(site, 99999)


def test_the_command_says_its_address_and_ends_on_ctrl_c(home: Path) -> None:
    program = [sys.executable, "-c", "from triaxis.cli import main; main()", "serve", str(home), "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = json.loads(running.stdout.readline())
        with socket.create_connection((LOOPBACK, int(said["address"].rstrip("/").rsplit(":", 1)[1])), timeout=5):
            pass
        running.send_signal(2)
        assert running.wait(timeout=10) == 130
    assert len(said["folders"]) == 5
