"""The command that shows several studies in a browser: serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from triaxis.cli import app, print_json
from triaxis.cli.options import Json


@app.command()
def serve(
    folders: Annotated[list[Path], typer.Argument(help="Folders of studies or traces, or folders that hold some.")],
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
    json_: Json = False,
) -> None:
    """Show studies on a local, read-only page: list them, compare two, open reports. Ends with Ctrl-C."""
    from triaxis.report.serve import LOOPBACK, Site, server

    site = Site.of(folders)
    with server(site, port) as running:
        address = f"http://{LOOPBACK}:{running.server_address[1]}/"
        if json_:
            print_json({"address": address, "folders": [str(f) for f in site.folders]})
        else:
            sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        running.serve_forever()
