"""The trace page in a real browser: it plays, scrubs, marks the parting, and shows hostile text as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from contrast import FAINT
from made_study import HOSTILE

from triaxis.conditions import Prompt, Scaffold
from triaxis.report.trace import trace_page
from triaxis.sampling.executor import load_executor
from triaxis.sampling.schedule import Decode
from triaxis.tracing import Trace, alarms, record

pytestmark = [pytest.mark.browser, pytest.mark.slow]
QUESTION = "Tom has 12 pens. Tom finds 7 more pens. How many pens are there?"


@pytest.fixture(scope="module")
def pair() -> list[Trace]:
    tiny = load_executor("tiny")
    decode = Decode(gen_length=32, block_length=8, steps=16)
    prompts = {"bare": Prompt(QUESTION), "filler": Scaffold("f", "Plan: " + "and so on " * 12).render(QUESTION)}
    return [record(tiny, p, decode, label=name) for name, p in prompts.items()]


def write(traces: list[Trace], folder: Path) -> Path:
    path = folder / "trace.html"
    path.write_text(trace_page(traces), encoding="utf-8")
    return path


def shown(browser, side: int = 0) -> list[str]:  # type: ignore[no-untyped-def]
    code = """const home = document.querySelectorAll('#canvas > .side')[arguments[0]];
        return [...home.querySelectorAll('.token:not(.hiddenyet)')].map((t) => t.textContent)"""
    return list(browser.js(code, side))


def test_it_plays_scrubs_and_marks_the_parting(browser, pair: list[Trace], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = write(pair, tmp_path)
    browser.open(page)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    whole = len(pair[0].ids)
    assert len(shown(browser)) == len(shown(browser, 1)) == whole
    browser.js("const s = document.getElementById('step'); s.value = 5; s.dispatchEvent(new Event('input'))")
    wanted = sorted((c.place, c.token) for s in pair[0].steps[:5] for c in s.commits)
    assert len(shown(browser)) == len(wanted)
    assert "".join(shown(browser)).replace("·", " ").replace("↵", "\n") == "".join(pair[0].texts[t] for _, t in wanted)
    browser.js("document.getElementById('speed').value = '60'")
    browser.find("#play").click()
    assert browser.find("#play").text == "Pause"
    browser.until("return document.getElementById('play').textContent === 'Play'")
    assert len(shown(browser)) == whole
    browser.find("#jump").click()
    assert browser.find("#now").text.startswith(
        f"{1 + browser.js('return JSON.parse(document.getElementById(`data`).textContent).apart.step')} "
    )
    assert len(browser.all("path.parting")) == 2
    assert len(browser.all(".order circle")) == 2 * whole
    browser.js("document.querySelector('details.steps').open = true")
    browser.until("return document.querySelectorAll('details.steps table').length === 1")
    assert browser.complaints() == []


def test_a_token_tells_its_alternatives(browser, pair: list[Trace], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    browser.open(write(pair[:1], tmp_path))
    browser.js("document.querySelectorAll('.token')[0].focus()")
    told = browser.find(".told").text
    (commit,) = [c for s in pair[0].steps for c in s.commits if c.place == 0]
    assert told.startswith("Position 0: ")
    assert told.count(", ") >= len(commit.others)
    for colour in ("step", "entropy", "none"):
        browser.js(
            "const c = document.getElementById('colour'); c.value = arguments[0]; c.dispatchEvent(new Event('change'))",
            colour,
        )
    assert browser.js("return document.querySelectorAll('.token')[0].style.background") == "none"


def test_alarms_lead_to_their_steps_and_stand_in_the_order(browser, pair: list[Trace], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    browser.open(write(pair, tmp_path))
    for side, trace in enumerate(pair):
        found = alarms(trace)
        kinds = [k for k in (found.order_ties, found.saturated, found.token_ties) if k]
        home = f"#canvas > .side:nth-child({side + 1}) "
        assert len(browser.all(home + "path.alarm")) == len({step for k in kinds for step in k})
        buttons = browser.all(home + ".warnings button")
        assert len(buttons) == len(kinds)
        for button, kind in zip(buttons, kinds, strict=True):
            button.click()
            assert browser.find("#now").text.startswith(f"{kind[0] + 1} ")
    assert any(alarms(t).order_ties or alarms(t).saturated for t in pair)


def test_letters_of_the_order_keep_their_size_on_a_phone(browser, pair: list[Trace], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    browser.look(width=390)
    browser.open(write(pair[:1], tmp_path))
    assert browser.js("return document.querySelector('.order text').getBoundingClientRect().height") >= 11


def test_hostile_text_is_text(browser, pair: list[Trace], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bad = dict(zip(pair[0].texts, HOSTILE * len(pair[0].texts), strict=False))
    t = replace(
        pair[0],
        label=HOSTILE[0],
        prompt=HOSTILE[1],
        answer=HOSTILE[3],
        executor=HOSTILE[2],
        adapter=HOSTILE[4],
        texts=bad,
    )
    page = write([t, replace(t, label=HOSTILE[1])], tmp_path)
    browser.open(page)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.js("return document.querySelectorAll('img, svg[onload], style').length") == 1  # the page's own style
    assert browser.find("h2").text == HOSTILE[0]
    assert any("<script>" in text for text in shown(browser))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows(browser, pair: list[Trace], tmp_path: Path, dark: bool, width: int) -> None:  # type: ignore[no-untyped-def]
    browser.look(dark=dark, width=width)
    browser.open(write(pair, tmp_path))
    assert browser.js("return document.documentElement.scrollWidth <= window.innerWidth")
    for colour in ("chance", "step", "entropy", "none"):
        browser.js(
            "const c = document.getElementById('colour'); c.value = arguments[0]; c.dispatchEvent(new Event('change'))",
            colour,
        )
        counted, faint = browser.js(FAINT)
        assert counted > 50
        assert faint == {}
    browser.driver.save_screenshot(str(tmp_path / "shot.png"))
    assert (tmp_path / "shot.png").stat().st_size > 5000
