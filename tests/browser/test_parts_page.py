"""Parts of the report in a real browser: downloads, commands that recompute, what needs no mouse, and paper."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from contrast import FAINT
from made_study import HOSTILE, write_study

from triaxis.report import render

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Instead of a file on disk, what would be in it: the page's own buttons are pressed, the blob is read.
CATCH = """const done = arguments[arguments.length - 1];
    const kept = URL.createObjectURL;
    URL.createObjectURL = (blob) => { URL.createObjectURL = kept; blob.text().then(done); return 'data:,'; };
    document.querySelectorAll('.downloads')[arguments[0]].querySelectorAll('button')[arguments[1]].click()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, 30)
    return render(folder)


def test_a_figure_and_its_numbers_can_be_taken_along(browser: Any, page: Path) -> None:
    browser.open(page)
    figures = browser.js("return document.querySelectorAll('figure').length")
    assert len(browser.all(".downloads")) == figures
    drawn = browser.driver.execute_async_script(CATCH, 0, 0)
    assert drawn.startswith("<svg")
    assert "var(" not in drawn
    assert "#b0261c" in drawn or "#696d74" in drawn
    lines = list(csv.DictReader(io.StringIO(browser.driver.execute_async_script(CATCH, 0, 1))))
    summary = json.loads((page.parent / "summary.json").read_text(encoding="utf-8"))
    effects = summary["axes"]["brittleness"]["effects"]
    assert [(x["label"], float(x["value"])) for x in lines] == [(e["name"], e["value"]) for e in effects]
    assert browser.complaints() == []


def test_names_that_are_markup_or_formulas_stay_text_in_downloads(browser: Any, tmp_path: Path) -> None:
    write_study(tmp_path, 14, {f"=cmd-{HOSTILE[0]}": 1000})
    browser.open(render(tmp_path))
    for place in range(len(browser.all(".downloads"))):
        drawn = browser.driver.execute_async_script(CATCH, place, 0)
        assert "<script" not in drawn.replace("&lt;script", "")
        rows = list(csv.reader(io.StringIO(browser.driver.execute_async_script(CATCH, place, 1))))
        assert not any(cell.startswith("=") for row in rows for cell in row)
    assert browser.complaints() == []


def test_every_link_on_the_page_leads_to_a_place_on_it(browser: Any, page: Path) -> None:
    browser.open(page)
    code = """return [...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))
        .filter((href) => !href.startsWith('#') || !document.getElementById(href.slice(1)))"""
    assert browser.js(code) == []


def test_everything_has_a_name_and_no_text_is_faint(browser: Any, page: Path) -> None:
    """Names of controls and figures; WCAG AA contrast of text against its page, light and dark."""
    nameless = """return [...document.querySelectorAll('button, select, input, svg, .scroll')].filter((e) =>
        !(e.textContent.trim() || e.getAttribute('aria-label') || e.closest('label'))).length"""
    for dark in (False, True):
        browser.look(dark=dark)
        browser.open(page)
        browser.js("""document.querySelectorAll('details.pair').forEach((d) => { d.open = true; });
            setTimeout(() => document.querySelectorAll('details.flip').forEach((d) => { d.open = true; }), 50)""")
        browser.until("return document.querySelectorAll('.side mark').length > 5")
        assert browser.js(nameless) == 0
        counted, faint = browser.js(FAINT)
        assert counted > 1000
        assert faint == {}
        browser.js("document.documentElement.style.setProperty('--muted', arguments[0])", "#555" if dark else "#aaa")
        assert browser.js(FAINT)[1] != {}  # it would be seen


def test_a_link_to_folded_commands_opens_them(browser: Any, page: Path) -> None:
    browser.open(page)
    link = browser.find("#axis2 figcaption a.source")
    folded = "return document.getElementById('r-axis2').closest('details').open"
    assert not browser.js(folded)
    link.click()
    browser.until(folded)
    assert "triaxis compare DIR:" in browser.find("#r-axis2").text
    browser.open(page.resolve().as_uri() + "#r-axis3")
    browser.until("return document.getElementById('r-axis3').closest('details').open")


def test_the_list_of_sections_says_where_the_reader_is(browser: Any, page: Path) -> None:
    browser.open(page)
    here = "return [...document.querySelectorAll('nav a[aria-current]')].map((a) => a.hash).join()"
    for name in ("axis3", "flips", "answer"):
        browser.js("document.getElementById(arguments[0]).scrollIntoView()", name)
        browser.until(f"return (() => {{ {here} }})() === '#{name}'")


def test_the_keyboard_reaches_filters_items_and_tables(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    body = browser.find("body")
    body.send_keys(Keys.TAB)
    assert browser.js("return document.activeElement.className") == "skip"
    where = """const e = document.activeElement;
        return e.closest('#filter') ? 'filter' : e.closest('details.pair') ? 'pair' : e.tagName + '.' + e.className"""

    def reached(last: str, most: int = 120) -> set[str]:
        """What has the focus on the way to `last`, pressing Tab."""
        found: set[str] = set()
        while last not in found and most:
            browser.driver.switch_to.active_element.send_keys(Keys.TAB)
            found.add(browser.js(where))
            most -= 1
        return found

    assert {"BUTTON.", "DIV.scroll"} <= reached("DIV.scroll")
    browser.js("[...document.querySelectorAll('#published summary')].at(-1).focus()")  # what stands before the items
    assert {"filter", "pair"} <= reached("pair")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.until("return document.querySelectorAll('details.pair[open] details.flip').length > 0")
    assert browser.js("return document.activeElement.tagName") == "SUMMARY"  # the focus stays where it was


def test_paper_shows_no_controls(browser: Any, page: Path) -> None:
    browser.open(page)
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = """return ['nav', '#filter', '.downloads', '.recompute'].every((s) =>
        getComputedStyle(document.querySelector(s)).display === 'none')"""
    assert browser.js(hidden)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
