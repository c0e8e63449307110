"""What a study would take, from a short calibration: `triaxis diagnose --dry-run`. Nothing is kept of it."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.cost import dollars

if TYPE_CHECKING:
    from triaxis.store import Store
    from triaxis.study import OpenStudy, Study

ITEMS = 4  # sampled to calibrate; the first of them warms up (loading, compiling) and is not timed


@dataclass(frozen=True, slots=True)
class Forecast:
    """A study before it is run. seconds: loading and the first item once, the others as the calibration's.

    Items of a whole study fill larger batches than the few of the calibration, so on a GPU it is rather quicker.
    """

    items: int
    rows: int
    seconds: float
    forwards: int
    tokens: int
    flops: int  # of the executor
    dollars: float | None
    memory_gb: dict[str, float]  # weights; batch: a full one; peak: of process or GPU, during the calibration
    calibration: dict[str, float]

    def plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def lines(self) -> str:
        """For a terminal."""
        hours, price = self.seconds / 3600, "" if self.dollars is None else f", {self.dollars:.2f} dollars"
        took = f"{self.seconds:.0f} s" if hours < 0.1 else f"{hours:.1f} h"
        memory = ", ".join(f"{name} {size:.3g} GB" for name, size in self.memory_gb.items())
        return (
            f"{self.items} items, {self.rows} rows: about {took}{price}\n"
            f"{self.forwards} forwards, {self.tokens} tokens, {self.flops / 1e12:.3g} TFLOP; {memory}\n"
            f"from {self.calibration['items']:.0f} items in {self.calibration['seconds']:.1f} s; nothing was kept\n"
        )


def forecast(study: Study, price_per_hour: float | None = None) -> Forecast:
    """Sample a few items in a temporary folder and scale. UserError as `Study.run`.

    A study that may stop early (`stop_when`) is predicted as if it did not.
    """
    from triaxis.store import Store
    from triaxis.study import prepare
    from triaxis.study.jobs import sample, silent

    few = min(study.n, ITEMS)
    began = time.monotonic()
    opened = prepare(replace(study, n=few))
    scratch = tempfile.TemporaryDirectory(prefix="triaxis-dry-run-")
    with scratch as folder, Store(Path(folder) / "rows.sqlite", write=True) as store:
        sample(store, replace(opened, items=opened.items[:1]).arms, silent)
        warm = time.monotonic()
        sample(store, opened.arms, silent)
        timed, rows = time.monotonic() - warm, store.tally("rows").rows
        forwards, tokens, flops = _work(opened, store)
    scale = study.n / few
    seconds = (warm - began) + timed / (few - 1) * (study.n - 1)
    return Forecast(
        items=study.n, rows=round(rows * scale), seconds=round(seconds, 1), forwards=round(forwards * scale),
        tokens=round(tokens * scale), flops=round(flops * scale), dollars=dollars(seconds, price_per_hour),
        memory_gb=_memory(opened),
        calibration={
            "items": few, "rows": rows, "seconds": round(time.monotonic() - began, 1), "loading": round(warm - began, 1)
        },
    )  # fmt: skip


def _work(opened: OpenStudy, store: Store) -> tuple[int, int, int]:
    """Forwards, tokens and the executor's operations, identical work counted once."""
    from triaxis.models.load import sizes_of
    from triaxis.study.gather import gather
    from triaxis.study.summary import work

    sizes = sizes_of(opened.arms.executor.checkpoint.config)
    ran = work(gather(store, opened.protocol["conditions"]), opened.protocol, sizes)
    return ran["forwards"], ran["tokens"], ran["flops"]


def _memory(opened: OpenStudy) -> dict[str, float]:
    import torch

    from triaxis.sampling.cache import bytes_a_token, fitting_tokens

    checkpoint, decode = opened.arms.executor.checkpoint, opened.arms.base_decode
    network, rows = checkpoint.network, checkpoint.config.rows
    length = decode.gen_length + max(len(opened.arms.executor.prompt_ids(i.question)) for i in opened.items)
    batch = fitting_tokens(network, rows, decode, length) * bytes_a_token(network, rows, decode, length)
    found = {"weights": sum(p.numel() * p.element_size() for p in network.parameters()) / 1e9, "batch": batch / 1e9}
    if next(network.parameters()).is_cuda:
        found["peak"] = torch.cuda.max_memory_allocated() / 1e9
    elif sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return found


# ---------------------------------------------------------------- dollars


def priced(folder: Path, price_per_hour: float) -> dict[str, Any]:
    """The summary with dollars: what an hour of the machine costs is stored, and a later `grade` keeps it."""
    from triaxis.report import render
    from triaxis.store import Store
    from triaxis.study.summary import held_protocol, summarise, write_json

    protocol = held_protocol(folder)
    with Store(folder / "rows.sqlite", write=True) as store:
        store.set("price_per_hour", str(price_per_hour))
        summary = summarise(store, protocol)
    write_json(folder / "summary.json", summary)
    render(folder)
    return summary
