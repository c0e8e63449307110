"""The tables of docs/performance.md are what the benches printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tables_are_made_of_what_was_measured() -> None:
    script = ROOT / "recipes" / "performance_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stdout}; run python recipes/performance_tables.py"
