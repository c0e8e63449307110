"""Commands about a study as files: export, import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from triaxis.cli import app, print_json
from triaxis.cli.study import Folder, Json
from triaxis.errors import UserError


@app.command()
def export(
    folder: Folder,
    parquet: Annotated[
        Path | None, typer.Option(help="Write FILE.parquet, and FILE.plans.parquet with the plans.")
    ] = None,
    jsonl: Annotated[Path | None, typer.Option(help="Write one JSON Lines file.")] = None,
    json_: Json = False,
) -> None:
    """Write a study's rows, grades and plans for other programs; `triaxis import` makes the same store of them."""
    from triaxis.exchange import export_jsonl, export_parquet, plans_beside
    from triaxis.store import Store

    path = parquet or jsonl
    if path is None or (parquet and jsonl):
        raise UserError("give one of --parquet FILE and --jsonl FILE")
    with Store(folder / "rows.sqlite", write=False) as store:
        counts = (export_parquet if parquet else export_jsonl)(store, path)
    files = [str(path), *([str(plans_beside(path))] if parquet else [])]
    text = f"{counts['rows']} rows, {counts['plans']} plans: {', '.join(files)}\n"
    print_json({**counts, "files": files}) if json_ else sys.stdout.write(text)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file of triaxis export (.parquet or JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder of the study to make.")],
    json_: Json = False,
) -> None:
    """Make a study's folder of an export, exactly as it was, or nothing; `triaxis grade` then makes its report."""
    from triaxis.exchange import import_store, read_head
    from triaxis.protocol import read_protocol
    from triaxis.summary import write_json

    held = read_head(file).get("protocol")
    card = None if held is None else read_protocol(held, file, {})
    counts = import_store(file, out)
    if card is not None:
        write_json(out / "protocol.json", card)
    text = f"{counts['rows']} rows, {counts['plans']} plans: triaxis grade {out}\n"
    print_json({**counts, "folder": str(out)}) if json_ else sys.stdout.write(text)
