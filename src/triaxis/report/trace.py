"""Trajectories as one self-contained page: the canvas filling step by step, one or two side by side.

Arranges what `triaxis.tracing` recorded; the page's script only shows it. Needs no model and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from triaxis.errors import UserError
from triaxis.report import words
from triaxis.report.embed import embedded, markup, read, script_hash
from triaxis.report.page import templates

if TYPE_CHECKING:
    from triaxis.tracing import Alarms, Trace

MOST = 2  # trajectories a page shows
STEPS_NAMED = 12  # numbers of an alarm's steps before the rest is counted


def trace_page(traces: Sequence[Trace]) -> str:
    """The page of one trajectory, or of two side by side with where they part. UserError for none or more."""
    from triaxis.tracing import alarms, divergence

    if not 1 <= len(traces) <= MOST:
        raise UserError(f"a trace page shows 1 or {MOST} trajectories, not {len(traces)}")
    apart = divergence(*traces) if len(traces) == MOST else None
    script = read("trace.js")
    alarmed = [alarms(t) for t in traces]
    shown = [_data(t) | {"alarms": a._asdict()} for t, a in zip(traces, alarmed, strict=True)]
    data = {"traces": shown, "apart": apart and apart._asdict()}
    return templates().get_template("trace.html.j2").render(
        title=f"{traces[0].executor}: " + " and ".join(t.label for t in traces),
        traces=[
            {"trace": t, "facts": _facts(t), "alarms": alarm_lines(a)} for t, a in zip(traces, alarmed, strict=True)
        ],
        apart=None if apart is None else _apart(apart.step, apart.place),
        longest=max(len(t.steps) for t in traces),
        data=markup(embedded(data)),
        style=markup(read("style.css") + read("trace.css")),
        script=markup(script),
        script_hash=script_hash(script),
    )  # fmt: skip


def _data(t: Trace) -> dict[str, Any]:
    """What the script shows. Token texts are made visible here, so that none of them acts."""
    from triaxis.tracing import rounded

    steps = [
        {
            "b": s.block,
            "c": rounded(s.commits),
            "l": rounded(s.left),
            "a": [f"{name} \u00d7 {words.number(gate, 2)}" for name, gate in s.adapters.items()],
        }
        for s in t.steps
    ]
    block = t.decode["block_length"]
    reached = 1 + max((c.place for s in t.steps for c in s.commits), default=-1)
    ids = t.ids[: -(-reached // block) * block]  # what follows was never denoised
    texts = {str(k): words.visible(v.replace("\n", "\u21b5").replace(" ", "\u00b7")) for k, v in t.texts.items()}
    return {"label": t.label, "ids": ids, "block": block, "texts": texts, "steps": steps}


def _facts(t: Trace) -> str:
    d = t.decode
    parts = (
        f"executor {t.executor}", f"adapters {t.adapter or 'none'}", f"{len(t.steps)} steps",
        f"{t.forwards} forward passes", f"{d['gen_length']} tokens in blocks of {d['block_length']}",
        f"temperature {words.number(d['temperature'], 2)}", f"{d['remasking']} remasking", f"seed {t.seed}",
        "ended" if t.ended else "truncated by the canvas",
    )  # fmt: skip
    return " \u00b7 ".join(parts)


def _apart(step: int | None, place: int | None) -> str:
    if step is None:
        return "The two commit the same tokens at the same steps."
    where = "; they end with the same tokens" if place is None else f"; their tokens differ from position {place} on"
    return f"The two part at step {step}{where}."


def alarm_lines(a: Alarms) -> list[str]:
    """What of a trajectory no probability decided, in words; empty where all of it was decided."""
    found = []
    if a.order_ties:
        found.append(
            f"Order by position, not by confidence, at {_steps(a.order_ties)}: a position that stayed hidden was as "
            "likely as one that was committed, and the lower one won."
        )
    if a.saturated:
        found.append(
            f"Confidence saturates at {_steps(a.saturated)}: more positions than could be committed stood at "
            f"probability 1 in float32. In all, {a.sure} of {a.commits} tokens were committed there."
        )
    if a.token_ties:
        found.append(f"Two tokens were equally likely at {_steps(a.token_ties)}: the one with the lower id won.")
    return found


def _steps(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:STEPS_NAMED]))
    more = len(numbers) - STEPS_NAMED
    return f"step{'s' if len(numbers) > 1 else ''} {shown}" + (f" and {more} more" if more > 0 else "")
