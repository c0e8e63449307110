"""Every part of the page that holds figures, by the name the template knows it by; what `--figures` draws, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from triaxis.report import diversity, sections, standing


def parts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The parts in the order of the page; one whose data is not there is None or empty."""
    axes = summary["axes"]
    return {
        "axis1": sections.axis1(axes["brittleness"]),
        "designs": sections.designs(axes.get("factorial") or ()),
        "axis2": sections.axis2(axes["trust"]),
        "axis3": diversity.axis3(axes["diversity"]),
        "adapters": standing.adapters(axes.get("adapters")),
        "pipelines": sections.pipelines(axes.get("pipelines")),
        "failures": sections.failures(summary["conditions"]),
        "cost": sections.cost(summary["cost"]),
        "scorecard": standing.scorecard(summary.get("prereg")),
        "published": standing.published(summary),
    }
