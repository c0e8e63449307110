"""Known vulnerabilities of the installed packages, where a database can be reached; says what was looked up.

`python .ci/audit.py`: exit 1 where a package has a known vulnerability, 0 otherwise, also where no database answers or
pip-audit is not installed: a build must not depend on somebody else's server, and must not say "clean" either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

OWN = "triaxis"
SERVICES = ("pypi", "osv")
SECONDS = 240


def ask(service: str, pinned: list[str]) -> list[dict[str, Any]] | str:
    """pip-audit's answer for each package, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        (listed := Path(folder) / "pinned.txt").write_text("\n".join(pinned) + "\n")
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "-s",
            service,
            "--no-deps",
            "--disable-pip",
            "--format",
            "json",
        ]
        command += ["--progress-spinner", "off", "--timeout", "8", "-r", str(listed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            return list(json.loads(done.stdout)["dependencies"])
        except subprocess.TimeoutExpired:
            return f"no answer within {SECONDS} s"
        except (ValueError, KeyError, TypeError):
            return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]


def main() -> int:
    named = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    pinned = sorted(f"{name}=={version.split('+')[0]}" for name, version in named.items() if name != OWN)
    for service in SERVICES:
        probe = ask(service, [p for p in pinned if p.startswith("pip==")] or pinned[:1])
        if isinstance(probe, str) or any("skip_reason" in d for d in probe):
            why = probe if isinstance(probe, str) else probe[0]["skip_reason"]
            print(f"audit: {service} was not reached ({why}); nothing looked up there")
            continue
        found = ask(service, pinned)
        if isinstance(found, str):
            print(f"audit: {service} stopped answering ({found})")
            continue
        return told(service, found)
    print(f"audit: NOT DONE: no vulnerability database was reached; {len(pinned)} packages were not looked up")
    return 0


def told(service: str, found: list[dict[str, Any]]) -> int:
    """Print what was looked up and what was found; the exit code."""
    skipped = [d for d in found if "skip_reason" in d]
    bad = [(d, v) for d in found for v in d.get("vulns", ())]
    for d, v in bad:
        fixed = ", ".join(v.get("fix_versions") or ()) or "no version yet"
        print(f"audit: {d['name']} {d['version']}: {v['id']}, fixed in {fixed}")
    known = len(found) - len(skipped)
    print(f"audit: {service}: {known} packages looked up, {len(skipped)} unknown there, {len(bad)} found")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
