"""Axis 3 at length: branches at several temperatures, before and after training, and every rule of voting over them.

Makes no rows itself: it runs studies (`study/`) of one condition a temperature in folders of their own and compares
their ballots. So everything is resumable, and everything printed is computed from stored rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.errors import UserError
from triaxis.limits import parse_json
from triaxis.study import Study
from triaxis.study.jobs import Progress, silent
from triaxis.study.summary import held_protocol, write_json

if TYPE_CHECKING:
    from triaxis.estimate.arms import Table
    from triaxis.estimate.decompose import Change, Control
    from triaxis.estimate.votes import Ballots


@dataclass(frozen=True, slots=True, kw_only=True)
class Branching:
    """What is measured: K branches of each of n items at every temperature, before and after.

    after: another executor; adapter: a schedule put on the same one. Neither: only "before" is measured. match_by: what
    the accuracy-matched temperature makes equal, "per_branch" or "all_equal"; budget: temperatures it may try. judge: a
    planner spec, asked which branches are right, to rerank them. embed: a sentence-transformers model or folder, to
    measure how far apart the branches' texts are.
    """

    executor: str = "tiny"
    after: str = ""
    adapter: str = ""
    task: str = "gradeschool"
    n: int = 100
    k: int = 5
    temperatures: tuple[float, ...] = (0.3, 0.7, 1.2)
    seed: int = 0
    decode: Mapping[str, object] = field(default_factory=dict)
    device: str | None = None
    match_by: str = "per_branch"
    budget: int = 6
    judge: str = ""
    embed: str = ""

    def __post_init__(self) -> None:
        if self.k < 2 or not self.temperatures or min(self.temperatures) <= 0:
            raise UserError(f"k={self.k} and temperatures={self.temperatures}: give k >= 2 and temperatures above 0")

    @property
    def compared(self) -> bool:
        return bool(self.after or self.adapter)

    def study(self, out: Path, temperatures: Sequence[float], *, after: bool = False) -> Study:
        """The study of one side; its conditions are written beside it."""
        out.mkdir(parents=True, exist_ok=True)
        preset = out / "arms.toml"
        preset.write_text("\n".join(_entries(temperatures, self.k)), encoding="utf-8")
        return Study(
            executor=self.after if after and self.after else self.executor, planners=(), task=self.task, n=self.n,
            seeds=(self.seed,), decode=self.decode, device=self.device, preset=str(preset),
            adapter=self.adapter if after else "",
        )  # fmt: skip

    def run(self, out: str | Path, progress: Progress = silent) -> dict[str, Any]:
        """Measure, compare, and write OUT/diversity.json. Resumable; UserError as a study's."""
        home = Path(out)
        tables = {"before": self._table(home / "before", self.temperatures, progress)}
        if self.compared:
            tables["after"] = self._table(home / "after", self.temperatures, progress, after=True)
        found: dict[str, Any] = {"schema": 1, "study": asdict(self)}
        embed = embedder(self.embed) if self.embed else None
        found |= {side: {name: arm(t, name, embed) for name in t.role("diversity")} for side, t in tables.items()}
        if self.judge:
            found["rerank"] = {
                side: {name: reranked(t, name, self.task, self.judge) for name in t.role("diversity")}
                for side, t in tables.items()
            }
        found["temporal"] = {side: temporal_votes(t, WATCHED, self.task) for side, t in tables.items()}
        if self.compared:
            old, new = tables["before"], tables["after"]
            pairs = {n: (ballots(old, n), ballots(new, n)) for n in old.role("diversity")}
            found["changes"] = {n: _change(*pair) for n, pair in pairs.items()}
            found["control"] = self._control(home, pairs, progress)
        write_json(home / "diversity.json", found)
        return found

    def _table(self, out: Path, temperatures: Sequence[float], progress: Progress, *, after: bool = False) -> Table:
        self.study(out, temperatures, after=after).run(out, progress)
        return table(out)

    def _control(self, home: Path, pairs: Mapping[str, tuple[Ballots, Ballots]], progress: Progress) -> dict[str, Any]:
        """Before at the temperature that matches after at the middle one of the study's temperatures."""
        from triaxis.estimate.decompose import temperature_control

        middle = sorted(self.temperatures)[len(self.temperatures) // 2]

        def sample(temperature: float) -> Ballots:
            name = arm_name(temperature)
            if name in pairs:
                return pairs[name][0]
            return ballots(self._table(home / "match" / name, [temperature], progress), name)

        trained = pairs[arm_name(middle)][1]
        low, high = min(0.1, *self.temperatures), max(1.5, *self.temperatures)
        control = temperature_control(
            sample, trained, by=self.match_by, low=low, high=high, budget=self.budget, tolerance=0.01
        )
        return {"temperature_after": middle, **_control(control)}


WATCHED = "watched"  # one greedy pass whose predictions on the way are kept, for the temporal vote


def arm_name(temperature: float) -> str:
    return f"vote@{round(temperature, 4):g}"


def _entries(temperatures: Sequence[float], k: int) -> Iterator[str]:
    yield '[[condition]]\nname = "none"\nrole = "baseline"\n'
    yield f'[[condition]]\nname = "{WATCHED}"\nrole = "stage"\nwatch = true\n'
    for t in temperatures:
        yield f'[[condition]]\nname = "{arm_name(t)}"\nrole = "diversity"\nbranches = {k}'
        yield f"decode = {{ temperature = {round(t, 4)!r} }}\n"


# ---------------------------------------------------------------- what rows say


def table(folder: Path) -> Table:
    """The rows of a finished study, arranged for pairing."""
    from triaxis.estimate import axes
    from triaxis.store import Store

    protocol = held_protocol(folder)
    with Store(folder / "rows.sqlite", write=False) as store:
        n = int(store.get("items") or protocol["n"])
        return axes.arrange(store.rows(), store.grades(), store.plans(), protocol["conditions"], n)


def ballots(t: Table, name: str) -> Ballots:
    """The first seed's branches of a condition. Confidence: geometric mean probability of a branch's tokens."""
    import numpy as np

    from triaxis.estimate.votes import Ballots

    first = t.by_seed(name)[0]
    rows = [row[first] for row in t.rows(name)]
    return Ballots(
        [row[first] for row in t.answers(name)],
        t.right(name)[:, first],
        np.exp([[r.confidence for r in row] for row in rows]),
        np.array([[r.length for r in row] for row in rows], dtype=float),
    )


RULES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "majority, ties split": ("majority", {"tie": "uniform"}),
    "majority, first": ("majority", {"tie": "first"}),
    "majority, confidence": ("majority", {"tie": "confidence"}),
    "majority, shortest": ("majority", {"tie": "shortest"}),
    "confidence-weighted": ("confidence", {}),
    "oracle": ("oracle", {}),
}


def embedder(name: str) -> Callable[[list[str]], Any]:
    """Texts to vectors by a sentence-transformers model, no remote code. UserError where the package is missing."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            f"embedding with {name!r} needs sentence-transformers: pip install triaxis[embeddings]"
        ) from None
    model = SentenceTransformer(name, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    return lambda texts: model.encode(texts)


def arm(t: Table, name: str, embed: Callable[[list[str]], Any] | None = None) -> dict[str, Any]:
    """One condition's branches: every metric with its interval, every vote rule, and what a quorum saves."""
    from triaxis.estimate import branches, trajectory
    from triaxis.estimate.diversity import metrics
    from triaxis.estimate.paired import cluster_mean
    from triaxis.estimate.votes import elect, quorum

    b = ballots(t, name)
    first = t.by_seed(name)[0]
    forwards = [[r.forwards for r in row[first]] for row in t.rows(name)]
    votes = {}
    for label, (rule, settings) in RULES.items():
        score = elect(b, rule, **settings).score
        votes[label] = _plain(cluster_mean(score, bounds=(0.0, 1.0), name=label))
    texts, orders = _told(t, name)
    width = int(t.conditions[name]["decode"].get("block_length", 0)) or None
    stops = {r: quorum(b, rule=r, forwards=forwards) for r in ("exact", "likely")}
    return {
        **branches.branches(t, name),
        "metrics": {k: _plain(e) for k, e in metrics(*t.summaries(name)).items()},
        "trajectory": {
            k: _plain(e) for k, e in trajectory.metrics(texts, orders, block_length=width, embed=embed).items()
        },
        "votes": votes,
        "quorum": {
            r: {"saved": q.saved, "approximate": q.approximate, "flip_rate": _plain(q.flip_rate())}
            for r, q in stops.items()
        },
    }


def _told(t: Table, name: str) -> tuple[list[list[str]], list[list[list[int]]]]:
    """Texts of the first seed's branches, and the step that committed each of their tokens."""
    first = t.by_seed(name)[0]
    rows = [row[first] for row in t.rows(name)]
    return [[r.text for r in row] for row in rows], [[parse_json(r.trace)["order"] for r in row] for row in rows]


def reranked(t: Table, name: str, task_name: str, spec: str) -> dict[str, Any]:
    """The branches reranked by a judge: against the vote, one branch and the oracle, paired, and the gap it closes."""
    from triaxis.estimate.rerank import rerank
    from triaxis.plans.judge import judge
    from triaxis.tasks import load_task

    question = {i.id: i.question for i in load_task(task_name).items()}
    texts, _ = _told(t, name)
    scores = judge(spec, [question[row[0].item] for row in t.rows(name)], texts)
    found = rerank(ballots(t, name), scores)
    closed = None if found.gap_closure is None else _plain(found.gap_closure)
    return {"judge": spec, "effects": [e.effect() for e in found.estimates], "gap_closure": closed}


def temporal_votes(t: Table, name: str, task_name: str) -> dict[str, Any]:
    """Votes over the steps of one watched pass (condition with `watch`), by weighting, with intervals."""
    from triaxis.estimate.paired import cluster_mean
    from triaxis.estimate.votes import WEIGHTINGS, Ballots, elect, even_steps
    from triaxis.tasks import load_task

    task = load_task(task_name)
    item = {i.id: i for i in task.items()}
    paths, right = [], []
    for rows in t.rows(name):
        trace = parse_json(rows[0].trace).get("path")
        if trace is None:
            raise UserError(f"condition {name!r} kept no trajectory; set watch = true in its preset")
        graded = [(task.grade(text, item[rows[0].item]), steps) for text, steps in trace]
        paths.append([g.answer for g, steps in graded for _ in range(steps)])
        right.append([g.verdict == "right" for g, steps in graded for _ in range(steps)])
    longest = max(map(len, paths))
    marks = [row + [row[-1]] * (longest - len(row)) for row in right]
    b = Ballots(even_steps(paths), marks)
    return {w: _plain(cluster_mean(elect(b, "temporal", weighting=w).score, bounds=(0.0, 1.0))) for w in WEIGHTINGS}


def _change(before: Ballots, after: Ballots) -> dict[str, Any]:
    from triaxis.estimate.decompose import change

    found: Change = change(before, after)
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "effects": [e.effect() for e in found.estimates],
    }


def _control(c: Control) -> dict[str, Any]:
    return {
        "by": c.by,
        "temperature_before": c.match.temperature,
        "status": c.match.status,
        "trials": [{"temperature": t.temperature, "difference": t.difference.value} for t in c.match.trials],
        "effects": [e.effect() for e in c.effects],
        "verdict": c.verdict,
        "reason": c.reason,
    }


def _plain(e: Any) -> dict[str, Any]:
    return {"value": float(e.value), "low": float(e.low), "high": float(e.high), "n": e.n}
