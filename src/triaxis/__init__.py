"""triaxis: say what hurts a hybrid AR-planner -> diffusion-LM pipeline, prove it with paired evidence, and fix it.

Names are imported when first used, so that `import triaxis` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from triaxis.version import __version__

_WHERE = {
    "Compute": "triaxis.compute",
    "Decode": "triaxis.sampling.schedule",
    "Executor": "triaxis.sampling.executor",
    "load_executor": "triaxis.sampling.executor",
    "load_planner": "triaxis.models.planner",
    "load_task": "triaxis.tasks",
    "Estimate": "triaxis.estimate.paired",
    "paired": "triaxis.estimate.paired",
    "Study": "triaxis.report.study",
    "UserError": "triaxis.errors",
}
__all__ = [
    "Compute",
    "Decode",
    "Estimate",
    "Executor",
    "Study",
    "UserError",
    "__version__",
    "load_executor",
    "load_planner",
    "load_task",
    "paired",
]

if TYPE_CHECKING:
    from triaxis.compute import Compute
    from triaxis.errors import UserError
    from triaxis.estimate.paired import Estimate, paired
    from triaxis.models.planner import load_planner
    from triaxis.report.study import Study
    from triaxis.sampling.executor import Executor, load_executor
    from triaxis.sampling.schedule import Decode
    from triaxis.tasks import load_task


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'triaxis' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
