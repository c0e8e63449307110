"""Auditing what was published or predicted: audit, prereg, registry. Parse, call one function, print.

Exit codes: 0 done, whatever an audit found; 1 a preregistered rule FAILED; 2 unusable input, with one line.
"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from triaxis.cli import app, complain, print_json
from triaxis.cli.options import Alpha, Discordance, Filter, Id, Json, Metric, Task, assumed, columns
from triaxis.errors import UserError
from triaxis.limits import read_card

if TYPE_CHECKING:
    from triaxis.estimate.results import Results
    from triaxis.registry.records import Paper

audit_app = typer.Typer(help="What published numbers, or graded rows, can and cannot say.", no_args_is_help=True)
prereg_app = typer.Typer(help="Predictions made before a run, applied literally after it.", no_args_is_help=True)
registry_app = typer.Typer(help="Published claims as data: read, contribute, line up.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")
app.add_typer(prereg_app, name="prereg")
app.add_typer(registry_app, name="registry")


# ---------------------------------------------------------------- audit


@audit_app.command("claim")
def audit_claim(
    baseline: Annotated[str, typer.Option(help="37/50, or a percentage with N: 74.0%/50.")],
    treatment: Annotated[str, typer.Option(help="33/50, or 66.0%/50.")],
    n: Annotated[int | None, typer.Option(help="Items, where the accuracies do not say.")] = None,
    discordance: Discordance = None,
    alpha: Alpha = 0.05,
    task: Task = "GSM8K",
    json: Json = False,
) -> None:
    """Audit "treatment against baseline" from two published accuracies: every pairing they allow."""
    from triaxis.estimate.audit import claim, parse_count

    left, right = parse_count(baseline, n), parse_count(treatment, n)
    found = claim(left, right, assumed=assumed(discordance, task), alpha=alpha)
    if json:
        return print_json(found.as_dict())
    from triaxis.cli import show

    show.claim(found)


@audit_app.command("table")
def audit_table(
    file: Annotated[
        Path, typer.Argument(help="CSV or YAML of claims: name, value, n, baseline, baseline_n, family, ...")
    ],
    discordance: Discordance = None,
    alpha: Alpha = 0.05,
    task: Task = "GSM8K",
    json: Json = False,
) -> None:
    """Audit a table of claims: each one, Holm by family, other N, impossible and doubled counts."""
    from triaxis.estimate import table
    from triaxis.estimate.claims import read_table

    found = table.audit_table(read_table(file), assumed=assumed(discordance, task), alpha=alpha)
    if json:
        return print_json(found.as_dict())
    from triaxis.cli import show

    show.table_audit(found)


@audit_app.command("rows")
def audit_rows(
    file: Annotated[Path, typer.Argument(help="Result file or study folder.")],
    factors: Annotated[
        str, typer.Option(help="Columns whose levels are crossed, a,b: every cell must have rows.")
    ] = "",
    task: Annotated[str, typer.Option(help="Task that holds the gold answers, where the file does not.")] = "",
    id: Id = "",
    metric: Metric = "",
    filter: Filter = "",
    json: Json = False,
) -> None:
    """Audit graded rows: items counted twice, grading by string, ties, cut-off answers, missing cells."""
    from triaxis.estimate.results import read
    from triaxis.estimate.rows import audit_rows as audit

    crossed = [f.strip() for f in factors.split(",") if f.strip()]
    results = _with_gold(read(file, columns(id, metric, filter)), task)
    found = audit(results, same=_same_answer, factors=crossed)
    if json:
        return print_json(found.as_dict())
    from triaxis.cli import show

    show.rows_audit(found)


def _same_answer(answer: str, gold: str) -> bool:
    """Equal as exact numbers where both are numbers, else as canonical text; a worked gold answer ends in "#### N"."""
    from triaxis.tasks.grading import canonical

    return canonical(answer) == canonical(gold.rpartition("####")[2])


def _with_gold(results: Results, task: str) -> Results:
    """The rows with the gold answers of the task, where the file holds none."""
    from dataclasses import replace

    if not task or any(r.gold is not None for r in results.records):
        return results
    from triaxis.tasks import load_task

    gold = {item.id: item.answer for item in load_task(task).items()}
    return replace(results, records=tuple(r._replace(gold=gold.get(r.item)) for r in results.records))


@audit_app.command("registry")
def audit_registry(
    paper: Annotated[str, typer.Option(help="One entry, by id or arXiv number.")] = "",
    axis: Annotated[str, typer.Option(help="brittleness, trust or diversity.")] = "",
    discordance: Discordance = None,
    json: Json = False,
) -> None:
    """Re-audit every published claim; contradictions by design variable; unverified entries marked."""
    from triaxis import registry
    from triaxis.estimate import landscape

    wanted = _axis(axis)
    entries = [registry.paper(paper)] if paper else list(registry.papers())
    audits = landscape.audit_registry(entries, assumed=assumed(discordance, "GSM8K"))
    across, inside = landscape.clashes(audits, wanted), landscape.within(audits, wanted)
    rows = landscape.variables(across, audits)
    if json:
        found = [
            {"id": a.paper.id, "label": a.paper.label, "claims": [s.as_dict() for s in a.sights],
             "findings": [f._asdict() for f in a.findings]}
            for a in audits
        ]  # fmt: skip
        clash = {"contradictions": [c._asdict() for c in across], "within_one_study": [c._asdict() for c in inside]}
        return print_json({"papers": found, **clash, "variables": [v._asdict() for v in rows]})
    from triaxis.cli import show

    show.registry_audit(audits)
    if not paper:
        show.contradictions(across, inside, rows, {a.paper.id: a.paper.label for a in audits})


def _axis(name: str) -> str | None:
    from triaxis.errors import lookup
    from triaxis.registry import AXES

    return lookup("axis", {**{a: a for a in AXES}, **{v: k for k, v in AXES.items()}}, name) if name else None


# ---------------------------------------------------------------- prereg


@prereg_app.command("new")
def prereg_new(file: Annotated[Path, typer.Argument(help="File to write, such as predictions.toml.")]) -> None:
    """Write a commented file of predictions to fill in."""
    from triaxis.estimate import prereg

    try:
        with file.open("x", encoding="utf-8") as handle:
            handle.write(prereg.TEMPLATE.format(name=file.name))
    except FileExistsError:
        raise UserError(f"{file} exists and is left as it is; choose another name") from None
    except OSError as e:
        raise UserError(f"{file}: cannot write there ({e.strerror})") from None
    complain(f"wrote {file}; fill it in before the run")


@prereg_app.command("check")
def prereg_check(
    file: Annotated[Path, typer.Argument(help="Predictions (TOML).")],
    study: Annotated[Path, typer.Argument(help="Folder of the finished study, or its summary.json.")],
    json: Json = False,
) -> None:
    """Apply the predictions literally: HOLDS, FAILS (exit 1), NOT RESOLVED."""
    from triaxis.estimate import prereg

    folder = study if study.is_dir() else study.parent
    rules = prereg.load(file)
    found = prereg.check(rules.predictions, read_card(folder / "summary.json" if study.is_dir() else study))
    standing = prereg.standing(rules.digest, _stamp(folder))
    if json:
        outcomes = [o._asdict() for o in found]
        made = {"made_before": standing.before, "standing": standing.words}
        print_json({"title": rules.title, "hash": rules.digest, **made, "outcomes": outcomes})
    else:
        from triaxis.cli import show

        show.outcomes(rules.title, standing, found)
    if any(o.outcome == prereg.FAILS for o in found):
        raise typer.Exit(1)


def _stamp(folder: Path) -> str | None:
    from triaxis.store import Store

    rows = folder / "rows.sqlite"
    if not rows.is_file():
        return None
    with Store(rows, write=False) as store:
        return store.get("prereg")


# ---------------------------------------------------------------- registry


@registry_app.command("list")
def registry_list(json: Json = False) -> None:
    """The shipped entries, with what they measure and how far their numbers were verified."""
    from triaxis import registry

    entries = registry.papers()
    if json:
        rows = [
            {
                "id": p.id,
                "arxiv": p.arxiv,
                "title": p.title,
                "axes": list(p.axes),
                "claims": len(p.claims),
                "label": p.label,
            }
            for p in entries
        ]
        return print_json({"papers": rows})
    from triaxis.cli import show

    show.papers(entries)


@registry_app.command("show")
def registry_show(id: Annotated[str, typer.Argument(help="Id or arXiv number.")], json: Json = False) -> None:
    """One entry: setup, claims, caveats."""
    from triaxis import registry

    entry = registry.paper(id)
    if json:
        return print_json({**registry.as_dict(entry), "label": entry.label})
    from triaxis.cli import show
    from triaxis.estimate.landscape import stated

    show.paper(entry, stated(entry))


@registry_app.command("add")
def registry_add(
    study: Annotated[Path, typer.Argument(help="Folder of a finished study.")],
    id: Annotated[str, typer.Option("--id", help="Id of the entry: one capital letter and a number.")] = "S1",
    title: Annotated[str, typer.Option(help="Title of the entry.")] = "",
    out: Annotated[Path | None, typer.Option(help="File to write; its name must begin with the id and a dash.")] = None,
    json: Json = False,
) -> None:
    """Make a registry entry from a finished study, to compare notes across executors."""
    from triaxis import registry
    from triaxis.registry.from_study import from_study

    entry = from_study(study, id=id, title=title)
    target = out or Path(f"{id}-{study.resolve().name}.json")
    if not target.name.startswith(f"{id}-"):
        raise UserError(f"--out {target}: the file name must begin with '{id}-'")
    document = registry.as_dict(entry)
    registry.validate(json_module.loads(json_module.dumps(document)), target.name)
    try:
        with target.open("x", encoding="utf-8") as handle:
            handle.write(json_module.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise UserError(f"{target} exists and is left as it is; pass another --out or --id") from None
    except OSError as e:
        raise UserError(f"{target}: cannot write there ({e.strerror}); pass --out") from None
    if json:
        return print_json({"path": str(target), "id": id, "claims": len(entry.claims), "label": entry.label})
    complain(f"wrote {target} ({len(entry.claims)} claims, {entry.label})")


@registry_app.command("compare")
def registry_compare(
    studies: Annotated[list[Path] | None, typer.Argument(help="Study folders and entry files to line up.")] = None,
    axis: Annotated[str, typer.Option(help="brittleness, trust or diversity.")] = "brittleness",
    task: Annotated[str, typer.Option(help="Only claims of this task.")] = "",
    json: Json = False,
) -> None:
    """Line studies and published claims up on one axis, in points."""
    from triaxis import registry
    from triaxis.estimate import landscape

    wanted = _axis(axis)
    own = _entries(studies or [])
    audits = landscape.audit_registry([*own, *registry.papers()])
    found = landscape.line_up(audits, str(wanted), task)
    if json:
        return print_json({"axis": axis, "claims": [s.as_dict() for s in found]})
    from triaxis.cli import show

    show.line_up(found)


def _entries(paths: list[Path]) -> list[Paper]:
    """Entry files as they are, study folders under ids of their own."""
    from triaxis import registry
    from triaxis.registry.from_study import from_study

    files = {path: registry.load(path) for path in paths if not path.is_dir()}
    free = (f"S{i}" for i in range(1, 1000) if f"S{i}" not in {p.id for p in files.values()})
    return [files[path] if path in files else from_study(path, id=next(free)) for path in paths]
