"""The report in a real browser: quiet, filtering what it says it filters, marking differences, obeying no text."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from made_study import HOSTILE, write_study

from triaxis.report import render

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, 60)
    return render(folder)


def choose(browser: Any, **values: str) -> None:
    """Set fields of the filter; returns once it has been applied."""
    code = """const form = document.getElementById('filter');
        form.elements.count.value = '';
        for (const [key, value] of Object.entries(arguments[0])) form.elements[key].value = value;
        form.dispatchEvent(new Event('input'))"""
    browser.js(code, values)
    browser.until("return document.getElementById('filter').elements.count.value !== ''")


def records(browser: Any) -> list[list[tuple[str, str, str]]]:
    """(item, way, flags) of every comparison's records, from the data on the page."""
    data = json.loads(browser.js("return document.getElementById('data').textContent"))
    return [[tuple(data["texts"][k] for k in r[:3]) for r in found] for found in data["pairs"]]


def count(browser: Any) -> int:
    return int(browser.js("return document.getElementById('filter').elements.count.value").split()[0])


def test_it_opens_quietly_and_asks_nobody(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.js("return document.querySelectorAll('figure svg.wide').length") >= 4
    assert not browser.js("return document.getElementById('filter').hidden")


@pytest.mark.parametrize("direction", ["flipped", "gained", "lost", "same", ""])
@pytest.mark.parametrize("flag", ["", "tie", "unreadable", "truncated"])
def test_filters_keep_what_they_name(browser: Any, page: Path, direction: str, flag: str) -> None:
    browser.open(page)
    ways = {"flipped": ("gained", "lost"), "": ("gained", "lost", "same")}.get(direction, (direction,))
    wanted = [[r for r in found if r[1] in ways and (not flag or flag in r[2].split())] for found in records(browser)]
    choose(browser, direction=direction, flag=flag)
    assert count(browser) == sum(map(len, wanted))
    place = max(range(len(wanted)), key=lambda i: len(wanted[i]))
    choose(browser, comparison=str(place))
    code = """const names = document.querySelectorAll(`details.pair[data-pair='${arguments[0]}'] details.flip .name`);
        return [...names].map((n) => n.textContent)"""
    assert browser.js(code, place) == [r[0] for r in wanted[place]][:100]


def test_an_opened_item_shows_both_sides_with_their_differences(browser: Any, page: Path) -> None:
    browser.open(page)
    choose(browser, comparison="0", words="item-")
    browser.js("document.querySelector('details.flip').open = true")
    browser.until("return document.querySelectorAll('details.flip[open] .side').length === 2")
    old, new = (browser.all(f"details.flip[open] .side:nth-child({k}) pre")[-1].text for k in (1, 2))
    assert old != new
    assert (
        browser.js(
            "return document.querySelectorAll('details.flip[open] mark.old, details.flip[open] mark.new').length"
        )
        > 0
    )
    # what is not marked is the same on both sides
    code = """const side = document.querySelectorAll('details.flip[open] .side')[arguments[0]];
        const pre = [...side.querySelectorAll('pre')].at(-1).cloneNode(true);
        pre.querySelectorAll('mark').forEach((m) => m.remove());
        return pre.textContent"""
    assert browser.js(code, 0) == browser.js(code, 1)
    choose(browser, comparison="", words="no such words anywhere")
    assert count(browser) == 0


def test_thousands_of_items_stay_fluid(browser: Any, tmp_path: Path) -> None:
    write_study(tmp_path, 1000)
    page = render(tmp_path)
    assert page.stat().st_size < 3_000_000
    browser.open(page)
    assert sum(map(len, records(browser))) > 3000
    began = time.monotonic()
    choose(browser, words="makes 12")
    choose(browser, words="", direction="", comparison="1")
    assert time.monotonic() - began < 15  # two debounces, a search of all texts, a list drawn; a guard, not a benchmark
    assert len(browser.all("details.flip")) == 100
    browser.js("document.querySelector('button.more').click()")
    assert len(browser.all("details.flip")) > 100


def test_hostile_text_is_text(browser: Any, tmp_path: Path) -> None:
    write_study(tmp_path, 14, {f"p-{HOSTILE[0]}": 1000, f"q-{HOSTILE[2]}": 9000}, extra=" ".join(HOSTILE))
    page = render(tmp_path)
    browser.open(page)
    choose(browser, direction="")
    browser.js("document.querySelectorAll('details.pair').forEach((d) => { d.open = true; })")
    browser.until("return document.querySelectorAll('details.flip').length > 10")
    browser.js("document.querySelectorAll('details.flip').forEach((d) => { d.open = true; })")
    browser.until("return document.querySelectorAll('.side').length > 20")
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.js("return document.querySelectorAll('img, [onload], [onerror]').length") == 0
    assert browser.js("return document.querySelectorAll('style').length") == 1
    assert HOSTILE[0] in browser.js(
        "return document.querySelector('.side').textContent + document.querySelector('pre.prose').textContent"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows(browser: Any, page: Path, tmp_path: Path, dark: bool, width: int) -> None:
    browser.look(dark=dark, width=width)
    browser.open(page)
    choose(browser, comparison="6")
    browser.js("document.querySelector('details.flip').open = true; document.getElementById('flips').scrollIntoView()")
    browser.until("return document.querySelectorAll('details.flip[open] .side').length === 2")
    assert browser.js("return document.documentElement.scrollWidth <= window.innerWidth")
    browser.driver.save_screenshot(str(tmp_path / "shot.png"))
    browser.js("window.scrollTo(0, 0)")
    browser.driver.save_screenshot(str(tmp_path / "top.png"))
    assert browser.complaints() == []
