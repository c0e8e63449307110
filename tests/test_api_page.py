"""docs/api.md: every public name of the package, where it is defined, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import triaxis

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_public_name_has_its_docstring_on_the_page() -> None:
    shown = re.findall(r"^::: ([\w.]+)$", PAGE, flags=re.M)
    where = {f"{module}.{name}" for name, module in triaxis._WHERE.items()}
    assert set(shown) == where
    assert len(shown) == len(where)
    for name in triaxis._WHERE:
        assert getattr(triaxis, name).__doc__, name


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"drop", "lift", "not resolved at this N", "equivalent within 5 points"}
