"""A summary outside of the page: booktabs tables for a paper, CSV files, figures as vector files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triaxis.errors import UserError, suggest
from triaxis.report import ink, words
from triaxis.report.load import write_bytes, write_text
from triaxis.report.markdown import Table, tables
from triaxis.report.parts import parts
from triaxis.report.sections import every_effect

Json = Mapping[str, Any]

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\symbol{34}", "\u2212": "$-$", "\u2013": "--", "\u2014": "---", "\u00a0": "~",
    "\u2026": r"\dots{}", "[": "{[}", "]": "{]}",
}  # fmt: skip
_TEX_CELL = str.maketrans(_TEX)
CONDITION = ("name", "n", "accuracy", "low", "high", "unreadable", "truncated", "forwards", "tokens")
EFFECT = ("name", "value", "low", "high", "p", "p_holm", "n", "gain", "loss", "mde80", "verdict", "method")


def latex(summary: Json) -> str:
    """The tables of a summary as LaTeX that needs the packages booktabs and graphicx; what it says of the protocol is
    a comment. No table is wider than its line: one that would be is scaled down."""
    protocol = " ".join(words.visible(str(summary["study"]["protocol_hash"])).split())
    head = f"% triaxis, protocol {protocol}; needs \\usepackage{{booktabs,graphicx}}\n"
    return head + "\n".join(_tabular(t) for t in tables(summary))


_BRIEF = {"not resolved at this N": "not resolved"}
_TABLE = r"""\begin{table}
\centering
\caption{CAPTION}
\footnotesize\setlength{\tabcolsep}{3pt}%
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{COLUMNS}
\toprule
HEADS
\midrule
ROWS
\bottomrule
\end{tabular}}
\end{table}
"""


def _tabular(t: Table) -> str:
    lines = [" & ".join(tex(_BRIEF.get(x, x)) for x in cells) + r" \\" for cells in (t.heads, *t.rows)]
    columns = "".join("l" if words_ else "r" for words_ in t.is_words)
    filled = {"CAPTION": tex(t.caption), "COLUMNS": columns, "HEADS": lines[0], "ROWS": "\n".join(lines[1:])}
    return re.sub("|".join(filled), lambda m: filled[m[0]], _TABLE)


def tex(text: str) -> str:
    """Text that LaTeX shows as it is: no command in a name acts."""
    return " ".join(words.visible(text).split()).translate(_TEX_CELL)


def write_csv(summary: Json, folder: Path) -> list[Path]:
    """conditions.csv and effects.csv with unrounded shares, one line each; their paths."""
    found = {
        "conditions": (CONDITION, [[c[k] for k in CONDITION] for c in summary["conditions"]]),
        "effects": (("axis", *EFFECT), [[axis, *(e[k] for k in EFFECT)] for axis, e in every_effect(summary)]),
    }
    paths = []
    for name, (heads, rows) in found.items():
        paths.append(folder / f"{name}.csv")
        write_text(paths[-1], _csv([heads, *rows]))
    return paths


def _plain(value: object) -> object:
    """A name that a spreadsheet would take for a formula begins with a quote, as spreadsheets themselves mark text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_figures(summary: Json, folder: Path, kind: str) -> list[Path]:
    """Every figure of the page as a vector file of its own, with a CSV of the numbers behind it; their paths.

    kind: "pdf" or "svg".
    """
    if kind not in ink.KINDS:
        raise UserError(f"--figures {kind!r} is no kind of vector figure{suggest(kind, ink.KINDS)}")
    with ink.as_files(kind) as files:
        parts(summary)
    paths = []
    for name, content in files.made.items():
        paths += [folder / f"{name}.{kind}", folder / f"{name}.csv"]
        write_bytes(paths[-2], content)
        write_text(paths[-1], _csv(files.behind[name]))
    return paths


def _csv(rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[_plain(x) for x in row] for row in rows])
    return out.getvalue()
