"""The live view of a running study on a terminal: progress by condition, running estimates, cost, time left.

Quiet where stderr is no terminal: then nothing is graded on the way either. What it shows are looks at a study that is
not done; its intervals are for a fixed N, and only the summary's numbers are results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from triaxis.cli.options import Bar
from triaxis.cost import dollars, work_flops
from triaxis.report import words
from triaxis.report.words import points, span

if TYPE_CHECKING:
    from rich.console import RenderableType

    from triaxis.cost import Sizes
    from triaxis.store import Row
    from triaxis.study.jobs import Arms

ROOM = 9  # lines of the terminal that are not conditions


@dataclass(slots=True)
class Standing:
    """What is known of a condition so far. Scores are by item: the share of its completions that are right."""

    total: int
    done: int = 0
    unreadable: int = 0
    items: dict[str, list[int]] = field(default_factory=dict)  # item -> completions, right ones

    def add(self, item: str, verdict: str) -> None:
        seen = self.items.setdefault(item, [0, 0])
        seen[0] += 1
        seen[1] += verdict == "right"
        self.done += 1
        self.unreadable += verdict == "unreadable"

    def estimate(self) -> tuple[float, float, float]:
        """Accuracy with Wilson's 95 % interval over the items seen; too wide, never too narrow, for branches."""
        from triaxis.estimate.paired import wilson

        right = sum(k / n for n, k in self.items.values())
        return (right / len(self.items), *wilson(round(right), len(self.items)))


class Live:
    """A progress bar with a table under it; nothing where stderr is no terminal."""

    def __init__(self, price_per_hour: float | None = None) -> None:
        self.bar, self.price = Bar(), price_per_hour
        self.console = self.bar.progress.console
        self.standings: dict[str, Standing] = {}
        self.known: set[str] = set()
        self.forwards = self.tokens = self.block = 0
        self.sizes: Sizes | None = None
        self.mine = (0, 0)  # forwards and tokens of the executor
        self.began = time.monotonic()
        self.view: Any = None

    def __enter__(self) -> Live:
        if self.console.is_terminal:
            from rich.live import Live as View

            self.view = View(get_renderable=self.render, console=self.console, refresh_per_second=4, transient=True)
            self.view.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.view is not None:
            self.view.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.bar(stage, done, total)

    def seen(self, arms: Arms, rows: Sequence[Row]) -> None:
        """Rows that were stored; grades them for the table. One row counts once, however often it is shown."""
        if self.view is None:
            return
        from triaxis.models.load import sizes_of
        from triaxis.tasks.grading import grade_many

        self.sizes, self.block = sizes_of(arms.executor.checkpoint.config), arms.base_decode.block_length
        written = {c.name for c in arms.table if c.writer}
        item = {i.id: i for i in arms.items}
        fresh = [r for r in rows if r.id not in self.known and r.item in item]
        graded = grade_many(arms.task, [r.text for r in fresh], [item[r.item] for r in fresh], second=False)
        for c in arms.table:
            total = arms.completions(c) * len(arms.items)
            held = self.standings.setdefault(c.name, Standing(total))
            held.total = max(held.total, total)
        for row, grade in zip(fresh, graded, strict=True):
            self.standings[row.condition].add(row.item, grade.verdict)
            self.forwards, self.tokens = self.forwards + row.forwards, self.tokens + row.tokens
            if row.condition not in written:
                self.mine = (self.mine[0] + row.forwards, self.mine[1] + row.tokens)
            self.known.add(row.id)

    def render(self) -> RenderableType:
        """The live view as it stands: bar, table of conditions, what was spent."""
        from rich.console import Group
        from rich.text import Text

        spent = time.monotonic() - self.began
        paid = dollars(spent, self.price)
        parts = [words.duration(spent), f"{self.forwards:,} forward passes", f"{self.tokens:,} tokens of rows"]
        parts += [] if self.sizes is None else [words.operations(work_flops(self.sizes, *self.mine, self.block))]
        parts += [] if paid is None else [f"{paid:.4f} dollars"]
        return Group(self.bar.progress, self._table(), Text(" \u00b7 ".join(parts), style="dim"))

    def _table(self) -> RenderableType:
        """Conditions under way first, then those done, as many as the terminal has lines for."""
        from rich.table import Table

        made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for head in ("condition", "rows", "right, %", f"{words.LEVEL} so far", "unread, %"):
            made.add_column(head, justify="left" if head == "condition" else "right", no_wrap=True)
        shown = sorted((s.done == s.total, name) for name, s in self.standings.items() if s.done)
        most = max(1, self.console.height - ROOM)
        for _, name in shown[:most]:
            made.add_row(*_line(name, self.standings[name]))
        if len(shown) > most:
            made.add_row(f"... and {len(shown) - most} more", *[""] * 4)
        return made


def _line(name: str, s: Standing) -> list[RenderableType]:
    from rich.text import Text

    value, low, high = s.estimate()
    cells = (points(value, sign=False), span(low, high, sign=False), points(s.unreadable / s.done, sign=False))
    return [Text(words.visible(x)) for x in (name, f"{s.done}/{s.total}", *cells)]
