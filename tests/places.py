"""Where the tests' own data lie."""

from __future__ import annotations

from pathlib import Path

PARITY = Path(__file__).parent / "parity" / "llada_tiny"
