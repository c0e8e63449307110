"""The command line: parse, call one function, print.

Exit codes: 0 done, 1 the question's answer is "no", 2 unusable input with one line on stderr. With
`--json` a command prints one JSON object on stdout and nothing else there; progress goes to stderr.
"""

from __future__ import annotations

import errno
import io
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import typer

from triaxis.errors import NO_MEMORY, UserError, out_of_memory

app = typer.Typer(
    name="triaxis",
    help="Why a planner in front of a diffusion language model helps or hurts: three axes, paired evidence, repairs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
_ACTING = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, nothing else; what a terminal would obey is spelled as JSON spells it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(_ACTING.sub(lambda m: f"\\u{ord(m[0]):04x}", text) + "\n")


def write(text: str) -> None:
    """Text on stdout with nothing in it that a terminal would obey, whoever wrote it."""
    from triaxis.report.words import visible

    sys.stdout.write(visible(text))


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write("triaxis: " + " ".join(message.split()) + "\n")


# Typer carries its own copy of click in newer versions, so the base class is taken from what it exports.
_ClickException: type[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _no_unspeakable() -> None:
    """Half of a surrogate pair, which JSON can spell and no terminal takes, is written as JSON spells it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: list[str] | None = None) -> None:
    """Entry point: run a command, turn a UserError into one line and exit code 2, Ctrl-C into one line and 130."""
    _no_unspeakable()
    try:
        from triaxis.cli import bench, diversity, evidence, integrity, plans, serve, simulate, study, trace, train  # noqa: F401 - they register their commands

        code = app(args=argv, prog_name="triaxis", standalone_mode=False)
    except UserError as e:
        complain(str(e))
        code = 2
    except _ClickException as e:
        if type(e).__name__ == "NoArgsIsHelpError":  # a group without a command: its help is printed, or is the message
            sys.stdout.write(e.format_message())
            code = 0
        else:
            complain(e.format_message())
            code = 2
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as e:
        if e.errno != errno.ENAMETOOLONG:
            raise
        complain(f"{str(e.filename)[:80]}...: no file has a name that long; give a shorter one")
        code = 2
    except (MemoryError, RuntimeError) as e:
        if not out_of_memory(e):
            raise
        complain(NO_MEMORY)
        code = 2
    if code == INTERRUPTED:  # newer versions of typer return it, older ones abort
        complain("interrupted; what was written is safe: run the same command again to go on")
    sys.exit(code if isinstance(code, int) else 0)
