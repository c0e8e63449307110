"""Commands about a study as files: verify, seal, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triaxis.cli import app, print_json, write
from triaxis.cli.study import Folder, Json
from triaxis.errors import UserError

if TYPE_CHECKING:
    from triaxis.study.integrity import Verdict


@app.command()
def verify(
    folder: Folder,
    full: Annotated[bool, typer.Option("--full", help="Make every row's id anew too; loads the models.")] = False,
    seal: Annotated[str, typer.Option(help="The sha256 that triaxis seal printed.")] = "",
    repair: Annotated[
        bool, typer.Option("--repair", help="Where the store is damaged, keep every sound row in a new one.")
    ] = False,
    json_: Json = False,
) -> None:
    """Whether a study is as it was written: rows, plans, grades, cards, weights, banks, data, seal. Exits 1 if not."""
    from triaxis.study.integrity import mend
    from triaxis.study.integrity import verify as look

    found = look(folder, full=full, seal=seal)
    mended = mend(folder) if repair and not found.ok else None
    if mended is not None:
        found = look(folder, full=full, seal=seal)
    plain = found.plain() if mended is None else {**found.plain(), "repaired": mended.plain()}
    print_json(plain) if json_ else write(_lines(found) + ("" if mended is None else mended.line()))
    raise typer.Exit(0 if found.ok else 1)


def _lines(found: Verdict) -> str:
    """For a terminal: what is wrong, what could not be asked, what is there."""
    lines = [f"{f.severity}: {f.where}: {f.message}" for f in found.findings]
    there = ", ".join(f"{n} {table}" for table, n in found.counts.items())
    sealed = f", sealed ({found.seal})" if found.seal else ""
    lines.append(f"{found.folder}: {'sound' if found.ok else 'not sound'}: {there}{sealed}")
    return "\n".join(lines) + "\n"


@app.command()
def seal(folder: Folder, json_: Json = False) -> None:
    """Seal a finished study: a manifest of every file, after which nothing is written into it. Prints its sha256."""
    from triaxis.study.integrity import seal as close

    made = close(folder)
    text = f"{folder} is sealed: {made}\nKeep that line elsewhere: triaxis verify {folder} --seal {made[:16]}\n"
    print_json({"folder": str(folder), "seal": made}) if json_ else write(text)


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
    from triaxis.store import Store
    from triaxis.store.exchange import export_jsonl, export_parquet, plans_beside

    path = parquet or jsonl
    if path is None or (parquet and jsonl):
        raise UserError("give one of --parquet FILE and --jsonl FILE")
    with Store(folder / "rows.sqlite", write=False) as store:
        counts = (export_parquet if parquet else export_jsonl)(store, path)
    files = [str(path), *([str(plans_beside(path))] if parquet else [])]
    text = f"{counts['rows']} rows, {counts['plans']} plans: {', '.join(files)}\n"
    print_json({**counts, "files": files}) if json_ else write(text)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file of triaxis export (.parquet or JSON Lines).")],
    out: Annotated[Path, typer.Option(help="Folder of the study to make.")],
    json_: Json = False,
) -> None:
    """Make a study's folder of an export, exactly as it was, or nothing; `triaxis grade` then makes its report."""
    from triaxis.store.exchange import import_store, read_head
    from triaxis.store.protocol import read_protocol
    from triaxis.study.summary import write_json

    held = read_head(file).get("protocol")
    card = None if held is None else read_protocol(held, file, {})
    counts = import_store(file, out)
    if card is not None:
        write_json(out / "protocol.json", card)
    text = f"{counts['rows']} rows, {counts['plans']} plans: triaxis grade {out}\n"
    print_json({**counts, "folder": str(out)}) if json_ else write(text)
