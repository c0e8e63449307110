"""docs/methods.md: every estimator stands there with assumption and source, under anchors that stay."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
ENTRIES = re.split(r"^### ", PAGE.split("\n## Functions that estimate nothing")[0], flags=re.M)[1:]


def public() -> set[str]:
    """module.function of every public function of triaxis.estimate."""
    found = set()
    for path in (ROOT / "src" / "triaxis" / "estimate").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found.add(f"{path.stem}.{node.name}")
    return found


def test_every_public_function_of_estimate_is_on_the_page_once_by_its_name() -> None:
    modules = {name.partition(".")[0] for name in public()}
    named = {n for n in re.findall(r"`([a-z]+\.[a-z][a-z_0-9]*)`", PAGE) if n.partition(".")[0] in modules}
    assert public() - named == set(), "not on docs/methods.md"
    assert named - public() == set(), "on docs/methods.md and in no module"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.splitlines()[0][7:30])
def test_an_entry_has_an_anchor_and_says_what_it_assumes_where_from_and_what_not(entry: str) -> None:
    assert re.match(r'<a id="m-[a-z0-9-]+"></a>\S', entry)
    for start in ("- Assumes: ", "- Source: ", "- Not: "):
        assert entry.count(start) == 1, start


def test_the_anchors_of_the_report_are_anchors_here() -> None:
    said = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src/triaxis/report/templates").glob("*.*"))
    asked = set(re.findall(r'id="(m-[a-z0-9-]+)"', said))
    here = re.findall(r'<a id="(m-[a-z0-9-]+)"', PAGE)
    assert len(here) == len(set(here)) == len(ENTRIES)
    assert len(asked) > 20
    assert asked - set(here) == set()
