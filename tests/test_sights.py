"""registry/sights.json is made from the registry's papers: `python tests/test_sights.py` writes it again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from triaxis import registry
from triaxis.estimate import landscape
from triaxis.registry.records import AXES
from triaxis.registry.sights import FILE, sights

KEPT = ("paper", "label", "condition", "task", "executor", "points", "low", "high", "n", "verdict", "fixed")
DIGITS = 3  # of a point


def made() -> dict[str, list[dict[str, Any]]]:
    audits = landscape.audit_registry(registry.papers())
    cited = {p.id: p.citation for p in registry.papers()}
    found: dict[str, list[dict[str, Any]]] = {}
    for axis in AXES:
        found[axis] = []
        for s in landscape.line_up(audits, axis):
            line = {k: v for k, v in s.as_dict().items() if k in KEPT}
            for key in ("points", "low", "high"):
                line[key] = None if line[key] is None else round(line[key], DIGITS)
            found[axis].append({**line, "citation": cited[s.paper]})
    return found


def test_the_file_is_what_the_audit_says() -> None:
    now = made()
    for axis in AXES:
        assert len(now[axis]) == len(sights()[axis]) > 5
        for new, held in zip(now[axis], sights()[axis], strict=True):
            for key in ("points", "low", "high"):
                assert held[key] == (None if new[key] is None else pytest.approx(new[key], abs=0.01))
            assert {k: v for k, v in new.items() if not isinstance(v, float)} == {
                k: v for k, v in held.items() if not isinstance(v, float)
            }


def test_what_is_not_from_full_text_says_so() -> None:
    for claims in sights().values():
        for c in claims:
            full = registry.paper(c["paper"]).provenance == ("full_text",)
            assert c["label"].startswith("verified" if full else "unverified")


if __name__ == "__main__":
    lines = [
        f'"{axis}": [\n' + ",\n".join(json.dumps(c, ensure_ascii=False, sort_keys=True) for c in claims) + "\n]"
        for axis, claims in made().items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
