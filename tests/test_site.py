"""The hook of the documentation site: a page that would load something from another host fails the build."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

HOOK = Path(__file__).resolve().parents[1] / "recipes" / "site.py"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location("site_hook", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://a.example/x.js"></script>',
        "<link rel=stylesheet href=//a.example/x.css>",
        '<link rel="preconnect" href="https://a.example" crossorigin>',
        "<img alt='' src='http://a.example/x.png'>",
    ],
)
def test_a_page_that_asks_another_host_is_refused(hook: ModuleType, tmp_path: Path, tag: str) -> None:
    from mkdocs.exceptions import PluginError

    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "page.html").write_text(f"<p>text</p>{tag}", encoding="utf-8")
    with pytest.raises(PluginError, match="would load from another host"):
        hook.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))


def test_links_and_own_files_are_no_requests(hook: ModuleType, tmp_path: Path) -> None:
    fine = (
        '<a href="https://a.example">x</a><script src="own.js"></script><link rel="canonical" href="https://a.example">'
    )
    (tmp_path / "page.html").write_text(fine, encoding="utf-8")
    hook.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))


def test_the_example_is_the_studies_of_the_readme_and_the_page(hook: ModuleType) -> None:
    root = HOOK.parents[1]
    readme, page = ((root / p).read_text(encoding="utf-8") for p in ("README.md", "docs/example.md"))
    assert f"triaxis diagnose --out {hook.STUDY.relative_to(root)}" in readme
    assert f"--out {hook.TRACE.relative_to(root)}" in page
    assert hook.QUESTION in page
    for made in hook.MADE:
        assert f"({made}" in page, made


def test_ci_builds_it_strictly_and_not_quietly() -> None:
    (line,) = [
        x for x in (HOOK.parents[1] / ".ci" / "run").read_text(encoding="utf-8").splitlines() if "mkdocs build" in x
    ]
    words = line.partition("#")[0].split()
    assert "--strict" in words
    assert not {"-q", "--quiet"} & set(words), "quiet hides the warnings that strict counts: broken links would pass"


def test_the_picture_of_a_report_is_there_used_and_small() -> None:
    root = HOOK.parents[1]
    picture = root / "docs" / "img" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000
    assert "(img/report.png)" in (root / "docs" / "index.md").read_text(encoding="utf-8")
