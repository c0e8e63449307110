"""The three axes from rows: pure functions of scores, no torch, no models.

Axis 1 (brittleness): every content-free shape against the bare question. Axis 2 (trust): a true plan
against its content-free twin of the same template and token length, the twin against the bare question,
and corruptions against the true plan. Axis 3 (diversity): what sampled branches give a vote. Grids and whole
pipelines stand beside them where they were run.
Every effect is paired by item; Holm's correction is applied within an axis (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from triaxis.estimate.adapters import adapters as adapters
from triaxis.estimate.arms import MARGIN as MARGIN
from triaxis.estimate.arms import Table as Table
from triaxis.estimate.arms import arrange as arrange
from triaxis.estimate.branches import diversity_axis as diversity_axis
from triaxis.estimate.brittleness import brittleness as brittleness
from triaxis.estimate.brittleness import factorial as factorial
from triaxis.estimate.brittleness import shapes
from triaxis.estimate.failures import KINDS
from triaxis.estimate.failures import condition_rows as condition_rows
from triaxis.estimate.pipelines import base_vote
from triaxis.estimate.pipelines import pipelines as pipelines
from triaxis.estimate.trust import shown_plans
from triaxis.estimate.trust import trust as trust

NOTABLE = 0.02  # a share of failed completions from which it is reported


def axes(t: Table, parameters: Mapping[str, int | None]) -> dict[str, Any]:
    """The contract's "axes" object; an axis whose conditions were not run is null.

    "factorial", "pipelines" and "adapters" are there only where grids, pipelines, or arms with and without an adapter
    were run. parameters: by planner.
    """
    found = {"brittleness": brittleness(t), "trust": trust(t, parameters), "diversity": diversity_axis(t)}
    extra = {"factorial": factorial(t), "pipelines": pipelines(t), "adapters": adapters(t)}
    return found | {k: v for k, v in extra.items() if v}


def main_contrasts(t: Table) -> list[tuple[int, int]]:
    """(gain, loss) of every shape against the bare question and every true plan against its twin."""
    pairs = [(n, t.baseline) for n in shapes(t)]
    pairs += [(s.name, s.twin) for s in shown_plans(t)]
    found = [t.score(a) - t.score(b) for a, b in pairs]
    return [(int((d > 0).sum()), int((d < 0).sum())) for d in found]


# ---------------------------------------------------------------- warnings


def warnings(t: Table, lines: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> list[str]:
    """What a reader must know before reading the numbers; each line is computed from the rows."""
    failed = [w for line in lines for w in _failures(line)]
    return [*failed, *_lost(lines), *_ties(t, found["diversity"]), *_graders(t), *_designs(found), *_low_power(found)]


def _failures(line: Mapping[str, Any]) -> Iterator[str]:
    said = {
        "truncated": "hit the end of the canvas",
        "unreadable": "had no readable answer",
        "early_end": KINDS["early_end"].says,
        "continued": "went on with the scaffold or repeated the plan instead of answering",
    }
    for rate, what in said.items():
        if line[rate] >= NOTABLE:
            share = f"{line['name']}: {line[rate]:.1%} of the completions {what}"
            yield f"{share}; read its accuracy with that in mind"


def _lost(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Conditions whose losses against the baseline are failures of format as often as not."""
    bare = next(line["accuracy"] for line in lines if line["lost"] is None)
    for line in lines:
        lost = line["lost"]
        if lost and lost["format"] and 2 * lost["format"] >= lost["items"] and line["accuracy"] < bare:
            yield (
                f"{line['name']}: {lost['format']} of the {lost['items']} items it loses have a failure of format "
                "(cut, unread, ended early or the plan goes on): not all of its drop is reasoning"
            )


def _ties(t: Table, axis: Mapping[str, Any] | None) -> Iterator[str]:
    if axis and axis["ties"]:
        votes = len(t.items) * len(t.by_seed(base_vote(t)))
        points = 100 * (axis["vote_high_tie"] - axis["vote_low_tie"])
        yield f"vote: {axis['ties']} of {votes} votes are tied; how ties are broken moves it by {points:.1f} points"


def _graders(t: Table) -> Iterator[str]:
    columns = t.columns
    shown = [columns.of[name] for name in t.conditions]
    disagree = sum(int(columns.kind("disagree", at).sum()) for at in shown)
    if disagree:
        asked = sum(int(columns.asked(at).sum()) for at in shown)
        yield f"the second grader (math-verify) disagrees on {disagree} of {asked} completions"
    fallback = sum(int(columns.rows.fallback[at].sum()) for at in shown)
    if fallback:
        yield f"{fallback} answers were read by the fallback rule (last number), not from a mark"


def _designs(found: Mapping[str, Any]) -> Iterator[str]:
    for design in found.get("factorial", ()):
        if design["missing"]:
            cells = ", ".join(design["missing"][:3])
            yield (
                f"grid {design['grid']}: {len(design['missing'])} cells were never run ({cells}); its effects cannot "
                "be told apart"
            )


def _low_power(found: Mapping[str, Any]) -> Iterator[str]:
    """One line an axis on its main effects; the spread, the corruptions and the slope are not counted."""
    shape_effects = (found["brittleness"] or {"effects": []})["effects"]
    contents = [p["content"] for p in (found["trust"] or {"planners": []})["planners"]]
    votes = [found["diversity"]["useful"]] if found["diversity"] else []
    for number, effects in enumerate((shape_effects, contents, votes), 1):
        open_ = [e for e in effects if e["verdict"] == "not resolved at this N"]
        if not open_:
            continue
        seen = [100 * e["mde80"] for e in open_ if e["mde80"] is not None]
        could = f"effects from {min(seen):.0f} to {max(seen):.0f} points" if seen else "no effect of any size"
        if seen and f"{min(seen):.0f}" == f"{max(seen):.0f}":
            could = f"an effect of {max(seen):.0f} points"
        many = f"{len(open_)} of {len(effects)} main effects of axis {number} are"
        yield f"low power: {many} not resolved at n={open_[0]['n']}; with 80 % power the design sees {could}"
