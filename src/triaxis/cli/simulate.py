"""What a study would take on more GPUs: `triaxis simulate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triaxis.cli import app, print_json, write
from triaxis.errors import UserError

if TYPE_CHECKING:
    from triaxis.estimate.scaling import Table, Workload

MOST = 10_000
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]


@app.command()
def simulate(
    measured: Annotated[
        Path | None,
        typer.Argument(help="A finished study that one process made, or the JSON of diagnose --dry-run --json."),
    ] = None,
    works: Annotated[int, typer.Option(help="Without a study: completions to decode.")] = 0,
    work_seconds: Annotated[float, typer.Option(help="Without a study: seconds of one GPU for one of them.")] = 0.0,
    times: Annotated[float, typer.Option(help="Predict a study with that many times the items.")] = 1.0,
    gpus: Annotated[str, typer.Option(help="Numbers of workers, comma-separated; default: 1 to 1,000.")] = "",
    faster: Annotated[float, typer.Option(help="How many times faster a GPU is than what was measured.")] = 1.0,
    chunk: Annotated[int, typer.Option(help="Works of a chunk; 0: as --compute chooses on GPUs.")] = 0,
    loading: Annotated[float | None, typer.Option(help="Seconds in which a worker loads the model.")] = None,
    planning: Annotated[float, typer.Option(help="Seconds that one planner's worker takes for all plans.")] = 0.0,
    planners: Annotated[int, typer.Option(help="Workers that write plans, beside the others.")] = 1,
    planned: Annotated[float | None, typer.Option(help="Share of works that show plans; default: the study's.")] = None,
    appends: Annotated[float, typer.Option(help="Works a second that one driver stores; see bench/store.py.")] = 5000.0,
    noise: Annotated[float, typer.Option(help="Spread of a chunk's seconds that its rows do not explain.")] = 0.05,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Dollars an hour of one GPU costs.")] = None,
    seed: Annotated[int, typer.Option(help="Of the repetitions.")] = 0,
    json_: Json = False,
) -> None:
    """Predict wall-clock time, cost and efficiency of a study on 1 to 1,000 GPUs, from rows that were measured."""
    from dataclasses import replace

    from triaxis.estimate.scaling import COUNTS, Workload, scaled, table

    counts = _counts(gpus) or COUNTS
    if not faster > 0:
        raise UserError(f"--faster {faster:g} must be above 0")
    if measured is None:
        if not (works and work_seconds):
            raise UserError(
                "give a finished study, the JSON of diagnose --dry-run --json, or --works and --work-seconds"
            )
        load = Workload(works=works, seconds=works * work_seconds, chunk=_chunk(works, chunk))
    else:
        load = _measured(measured, chunk, times)
    given: dict[str, Any] = {"planning": planning, "planners": planners, "appends": appends, "noise": noise}
    given |= {k: v for k, v in (("loading", loading), ("planned", planned)) if v is not None}
    load = scaled(replace(load, **given, seconds=load.seconds / faster), times)
    found = table(replace(load, chunk=_chunk(load.works, chunk)), counts, seed)
    if json_:
        print_json(_plain(load, found, price_per_hour))
    else:
        write(_lines(load, found, price_per_hour))


def _counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(n) for n in text.split(",")) if text else ()
    except ValueError:
        found = (0,)
    if any(not 1 <= n <= MOST for n in found):
        raise UserError(f"--gpus {text!r} is not a list of numbers from 1 to {MOST:,}, such as 1,8,64")
    return found


def _chunk(works: int, chunk: int) -> int:
    """As `study/spread.py` cuts a study's works on GPUs."""
    from triaxis.study.spread import ROWS, SHARES

    least, most = ROWS["cuda"]
    return chunk or max(least, min(most, works // SHARES))


def _measured(path: Path, chunk: int, times: float) -> Workload:
    return _of_study(path, chunk, times) if path.is_dir() else _of_forecast(path, chunk)


def _of_study(folder: Path, chunk: int, times: float) -> Workload:
    """The workload of a finished study: its seconds, spread over its works by the tokens that their passes read."""
    from triaxis.estimate.columns import once
    from triaxis.estimate.scaling import Workload, shape_of
    from triaxis.store import Store
    from triaxis.study.gather import gather
    from triaxis.study.summary import held_protocol, protocols

    protocol = held_protocol(folder)
    with Store(folder / "rows.sqlite", write=False) as store:
        seconds = float(store.get("seconds") or 0)
        columns = gather(store, protocol["conditions"])
    if not seconds or not len(columns.rows):
        raise UserError(f"{folder}: the study has no rows yet, or does not know its seconds; finish it first")
    ran = once(columns, protocols(protocol))
    ran.sort()
    shows = {str(c["name"]): bool(c.get("planner")) for c in protocol["conditions"]}
    late = [shows[columns.conditions[c]] for c in columns.rows.condition[ran].tolist()]
    size = _chunk(round(len(ran) * times), chunk)
    return Workload(
        works=len(ran), seconds=seconds, chunk=size, shape=shape_of(columns.rows.tokens[ran].astype(float), size),
        planned=sum(late) / len(late),
    )  # fmt: skip


FORM = {"rows": int, "seconds": float, "calibration": {"loading": float, "seconds": float}}


def _of_forecast(path: Path, chunk: int) -> Workload:
    from triaxis.estimate.scaling import Workload
    from triaxis.limits import check_form, parse_json, read_text

    try:
        found = parse_json(read_text(path, "settings"))
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
        check_form(found, FORM)
    except OSError as e:
        raise UserError(
            f"{path}: cannot be read ({e.strerror}); give the folder of a study or a dry run's JSON"
        ) from None
    except ValueError as e:
        raise UserError(f"{path}: not what diagnose --dry-run --json prints ({e}); run it again") from None
    loading = float(found["calibration"]["loading"])
    rows, seconds = int(found["rows"]), float(found["seconds"]) - loading
    if rows < 1 or not seconds > 0:
        raise UserError(
            f"{path}: {rows} rows in {seconds:g} s say nothing of a study; run diagnose --dry-run --json again"
        )
    return Workload(works=rows, seconds=seconds, loading=loading, chunk=_chunk(rows, chunk))


def _plain(load: Workload, found: Table, price: float | None) -> dict[str, Any]:
    asked = {n: getattr(load, n) for n in load.__dataclass_fields__ if n != "shape"}
    holds = {f"{level:.0%}": workers for level, workers in found.holds.items()}
    return {"workload": asked, "runs": [r.plain(price) for r in found.runs], "most_workers_at": holds}


def _lines(load: Workload, found: Table, price: float | None) -> str:
    head = ["GPUs", "wall", "GPU hours", *(["dollars"] if price is not None else []), "efficiency", "lost most to"]
    lines = [head]
    for r in found.runs:
        plain: Mapping[str, Any] = r.plain(price)
        most = max(r.lost, key=lambda name: r.lost[name])
        paid = [f"{plain['dollars']:,.2f}"] if price is not None else []
        where = f"{most} ({r.lost[most]:.0%})" if r.lost[most] >= 0.005 else "-"
        lines.append([f"{r.workers:,}", _time(r.seconds), f"{plain['worker_hours']:,.2f}", *paid,
                      f"{r.efficiency:.0%}", where])  # fmt: skip
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    text = "".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) + "\n" for line in lines)
    for level, workers in found.holds.items():
        text += (
            f"efficiency of {level:.0%}: "
            + ("on no number of GPUs" if workers is None else f"up to {workers:,}")
            + "\n"
        )
    return f"{load.works:,} works, {_time(load.seconds)} of decoding on one GPU, chunks of {load.chunk}\n{text}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
