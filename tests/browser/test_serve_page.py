"""The local page in a real browser: two studies picked, compared, and a report opened from it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from contrast import FAINT
from made_study import write_study

from triaxis.report import render
from triaxis.report.serve import LOOPBACK, Site, server

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_two_studies_are_compared_by_hand(browser: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_study(tmp_path / name, 12, conditions=("hint",))
        render(tmp_path / name)
    with server(Site.of([tmp_path])) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        home = f"http://{LOOPBACK}:{running.server_port}/"
        browser.look(dark=True, width=390)
        browser.open(home)
        assert browser.js("return document.documentElement.scrollWidth <= window.innerWidth")
        browser.look()
        browser.driver.save_screenshot(str(tmp_path / "list.png"))
        for dark in (False, True):
            browser.look(dark=dark)
            counted, faint = browser.js(FAINT)
            assert counted > 10
            assert faint == {}
        assert browser.js("return [...document.querySelectorAll('select')].map((s) => s.value)") == ["0", "1"]
        browser.find("button[type=submit]").click()
        browser.until("return location.pathname === '/compare'")
        assert browser.find("#differences p").text == "Nothing: one protocol."
        browser.driver.save_screenshot(str(tmp_path / "compare.png"))
        browser.find("a[href='/study/0/report.html']").click()
        browser.until("return document.title === 'tiny on gradeschool'")
        assert [u for u in browser.requests() if not u.startswith(home)] == []
        assert [c for c in browser.complaints() if "favicon" not in c] == []
        running.shutdown()


def test_hostile_folder_names_are_text(browser: Any, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>&amp;'\"{{ 7*7 }}"
    for folder in (tmp_path / name, tmp_path / "plain"):
        write_study(folder, 12, conditions=("hint",))
        render(folder)
    with server(Site.of([tmp_path])) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        home = f"http://{LOOPBACK}:{running.server_port}/"
        for page in (home, f"{home}compare?a=0&b=1"):
            browser.open(page)
            assert name in browser.js("return document.body.textContent")
            assert browser.js("return document.querySelectorAll('img').length") == 0
            assert [u for u in browser.requests() if not u.startswith(home)] == []
            assert [c for c in browser.complaints() if "favicon" not in c] == []
        running.shutdown()
