"""docs/cli.md is made from the commands themselves: `python tests/test_cli_reference.py` writes it again."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from triaxis.cli import app, main

with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(["--help"])  # registers every command
PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """# Command line
Made from the commands by `python tests/test_cli_reference.py`; a test compares. Every command exits 0 when done, 1 when
the question's answer is "no", 2 on unusable input with one line on stderr. With `--json` stdout holds one JSON object.
"""


def commands(group: Any, path: str = "triaxis") -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def default(param: Any) -> str:
    if param.required:
        return "needed"
    plain = param.default is None or param.default is False or param.default in ("", ())
    return "" if plain or callable(param.default) else f"`{cell(param.default)}`"


def reference() -> str:
    parts = [HEAD]
    for path, command in commands(typer.main.get_command(app)):
        parts.append(f"\n## {path}\n{cell(command.help or '')}\n\n| | default | |\n|---|---|---|\n")
        for p in command.params:
            names = p.name.upper() if p.param_type_name == "argument" else ", ".join([*p.opts, *p.secondary_opts])
            parts.append(f"| `{cell(names)}` | {default(p)} | {cell(p.help or '')} |\n")
    return "".join(parts)


def test_the_reference_is_the_commands_own() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "stale: python tests/test_cli_reference.py writes it again"


def test_every_command_and_option_says_what_it_does() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert {"triaxis diagnose", "triaxis trace", "triaxis serve", "triaxis bench speed"} <= found.keys()
    for path, command in found.items():
        assert command.help, path
        assert all(p.help for p in command.params), (path, [p.name for p in command.params if not p.help])


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
