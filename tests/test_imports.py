"""Imports point down (design.md, "Layout"), lazy ones inside functions and those for type checkers included.

No exception is made for the report of a study, which `tx.Study(...).run(folder)` writes at its end: running is
`triaxis/study/`, below report/, and takes what follows a summary as an argument (`finish`). `report/study.py`
passes the page down as that argument's default and is what `triaxis.Study` names; the command line uses the same.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import triaxis

HOME = Path(triaxis.__file__).parent
LAYERS = (  # from the top; a module, or a folder less its own lines here; a layer may import itself
    ("triaxis",),  # the names of the public interface, imported when first used
    ("cli",),
    ("report",),
    ("harness",),
    ("branching", "tracing", "study.integrity"),
    ("study",),
    ("study.summary",),
    ("study.gather",),
    ("study.kept",),
    ("study.spread",),
    ("study.hands",),
    ("study.jobs",),
    ("compute",),
    ("train",),
    ("conditions",),
    ("plans",),
    ("tasks",),
    ("sampling",),
    ("models",),
    ("estimate",),
    ("registry",),
    ("store.salvage", "store.seals", "store.exchange", "store.protocol"),
    ("store",),
    ("store.migrations",),
    ("store.checksums", "cost", "limits", "errors", "streams", "version"),
)
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
MODULES = sorted(HOME.rglob("*.py"))


def layer(module: str) -> str:
    """'triaxis.models.load' -> 'models', 'triaxis.study.jobs' -> 'study.jobs'; the package itself -> 'triaxis'."""
    parts = module.split(".")[1:]
    within = ".".join(parts[:2])
    return within if within in DEPTH else parts[0] if parts else "triaxis"


def module_name(path: Path) -> str:
    parts = path.relative_to(HOME.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module of ours) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] == "triaxis")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            if node.module and node.module.split(".")[0] == "triaxis":
                for a in node.names:  # a module, or a name in one
                    path = HOME.parent.joinpath(*node.module.split("."), a.name)
                    module = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
                    yield node.lineno, f"{node.module}.{a.name}" if module else node.module


def upward(source: str, module: str) -> list[str]:
    mine = layer(module)
    found = [(line, target) for line, target in imported(ast.parse(source)) if DEPTH[layer(target)] < DEPTH[mine]]
    return [f"{module}:{line} imports {target}, which lies above it" for line, target in found]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    module = module_name(path)
    assert layer(module) in DEPTH, f"{module} is in no layer; add it to LAYERS and to design.md"
    assert upward(path.read_text(encoding="utf-8"), module) == []


def test_the_walk_sees_lazy_and_typing_imports() -> None:
    lazy = "def f():\n    from triaxis.report import render\n"
    typing = "if TYPE_CHECKING:\n    from triaxis.study import Study\n"
    package = "from triaxis import report\n"
    public = "from triaxis import Study\n"
    for source in (lazy, typing, package, public):
        assert len(upward(source, "triaxis.store")) == 1
    assert upward("from triaxis import study\n", "triaxis.report.study") == []


def test_no_module_of_ours_is_imported_by_a_string() -> None:
    """import_module would hide an arrow from the walk; it is for optional packages and the public interface."""
    found = []
    for path in MODULES:
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        named = [ast.unparse(c) for c in calls if ast.unparse(c.func).endswith(("import_module", "__import__"))]
        found += [module_name(path)] if any("triaxis" in n or "_WHERE" in n for n in named) else []
    assert found == ["triaxis"]


def test_quick_commands_load_nothing_heavy() -> None:
    """What needs no model answers at once: help, usage errors, misspelt names. By modules, not by the clock."""
    program = """
import sys
from triaxis.cli import main
commands = (["--help"], ["diagnose", "--help"], ["report"], ["report", "nowhere"], ["grade", "nowhere"], ["diagnos"],
    ["diagnose", "--exectuor", "x"], ["diagnose", "--executor", "tiy"], ["diagnose", "--task", "gradschool"],
    ["diagnose", "--conditions", "nne"], ["diagnose", "--planners", "tiny-planner-x"], ["diagnose", "--n", "9999"])
for command in commands:
    try:
        main(command)
    except SystemExit as e:
        assert e.code == (0 if "--help" in command else 2), (command, e.code)
heavy = ("torch", "transformers", "peft", "tokenizers", "scipy.stats", "matplotlib", "sympy", "math_verify")
sys.exit(",".join(m for m in heavy if m in sys.modules) or None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"loaded: {done.stderr[-500:]}"


def test_import_triaxis_is_light() -> None:
    heavy = "torch", "numpy", "scipy", "typer"
    program = f"import sys, triaxis; sys.exit(','.join(m for m in {heavy} if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_had() -> None:
    for name in triaxis.__all__:
        assert getattr(triaxis, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Stduy'"):
        _ = triaxis.Stduy
