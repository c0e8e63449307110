"""A study that ends in its page: the public `triaxis.Study`. The one place where running and reporting meet.

`triaxis/study/` lies below report/ and imports nothing of it; what follows a summary is passed down from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis import study
from triaxis.report import current, render
from triaxis.study import Finish
from triaxis.study.jobs import Progress, Seen, silent, unseen

if TYPE_CHECKING:
    from triaxis.compute import Compute


def page(folder: Path) -> None:
    """Write the page of a finished study, unless the one there is current."""
    if not current(folder):
        render(folder)


class Study(study.Study):
    __doc__ = study.Study.__doc__
    __slots__ = ()

    def run(
        self,
        out: str | Path,
        progress: Progress = silent,
        finish: Finish = page,
        prereg: Path | None = None,
        seen: Seen = unseen,
        compute: Compute | str | None = None,
    ) -> dict[str, Any]:
        """Run or go on with the study in folder `out`; the summary, also written there with the report.

        Rows present are kept and only missing ones are made; a study that is finished already is not loaded again.
        compute: workers that make the rows, "processes", "ray" or a `triaxis.compute.Compute`; by default this process.
        UserError where `out` holds another study, or a name or setting is unknown; then nothing in it has changed.
        """
        return super().run(out, progress, finish, prereg, seen, compute)
