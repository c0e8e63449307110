"""Experimental arms as data: scaffolds, conditions, and the tables of the built-in ones.

A scaffold is a template with a placement; a condition is a scaffold, the source of the plan it shows and
the number of branches. A new arm is a new row of a table, never a branch in the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from triaxis.errors import UserError, lookup

Placement = Literal["before", "after"]
Role = Literal["baseline", "brittleness", "trust", "diversity"]


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Text put beside a question. `template` holds "{plan}" where a plan goes, or is fixed text.

    placement: before or after the question, one newline apart. An empty template is the bare question.
    """

    name: str
    template: str = ""
    placement: Placement = "after"

    @property
    def shows_plan(self) -> bool:
        return "{plan}" in self.template

    def render(self, question: str, plan: str | None = None) -> str:
        """The user text. ValueError where the template and the plan disagree."""
        if self.shows_plan != (plan is not None):
            raise ValueError(f"scaffold {self.name!r}: template and plan disagree")
        text = self.template.replace("{plan}", plan or "")  # not str.format: a plan may contain braces
        if not text:
            return question
        return f"{question}\n{text}" if self.placement == "after" else f"{text}\n{question}"


@dataclass(frozen=True, slots=True)
class Condition:
    """One arm. `plan` names a plan source ("" for none), `branches` and `temperature` how it is sampled.

    temperature None means the study's own. `role` says which axis reads it; `planner` which planner a plan
    or its twin comes from; `against` the condition it is compared with.
    """

    name: str
    scaffold: Scaffold
    role: Role
    plan: str = ""
    planner: str = ""
    kind: str = ""
    branches: int = 1
    temperature: float | None = None
    against: str = "none"

    @property
    def needs_gold(self) -> bool:
        """Whether its plan is a gold plan or made from one."""
        return "gold" in self.plan.split(":", 1)

    def card(self) -> dict[str, object]:
        """The fields as plain data."""
        return asdict(self)


BARE = Scaffold("none")
PLAN = Scaffold("plan", "Plan: {plan}")
SCAFFOLDS = {
    s.name: s
    for s in (
        BARE,
        Scaffold("hint", "Let's think step by step."),
        Scaffold("plan-empty", "Plan: "),
        Scaffold("plan-empty-before", "Plan: ", "before"),
        Scaffold("xml-open", "<plan>"),
        PLAN,
        Scaffold("plan-before", "Plan: {plan}", "before"),
    )
}
# A plan source is "kind" or "kind:planner"; `plans/sources.py` makes each of them.
SHAPES = (  # axis 1: no content, compared with the bare question
    Condition("none", BARE, "baseline"),
    Condition("hint", SCAFFOLDS["hint"], "brittleness"),
    Condition("plan-empty", SCAFFOLDS["plan-empty"], "brittleness"),
    Condition("plan-empty-before", SCAFFOLDS["plan-empty-before"], "brittleness"),
    Condition("xml-open", SCAFFOLDS["xml-open"], "brittleness"),
    Condition("filler", PLAN, "brittleness", plan="filler:gold", kind="filler"),
    Condition("filler-before", SCAFFOLDS["plan-before"], "brittleness", plan="filler:gold", kind="filler"),
)
CONTENTS = (  # axis 2 beside the planners: the ceiling and the wrong plan, against the gold plan's twin
    Condition("gold-plan", PLAN, "trust", plan="gold", planner="gold", kind="true", against="filler"),
    Condition("other-plan", PLAN, "trust", plan="other:gold", planner="gold", kind="other", against="gold-plan"),
    Condition("wrong-plan", PLAN, "trust", plan="numbers:gold", planner="gold", kind="numbers", against="gold-plan"),
)


def planner_conditions(planner: str) -> tuple[Condition, ...]:
    """The arms of one planner: its plan against a content-free twin of the same template and token length."""
    twin = f"filler-as[{planner}]"
    return (
        Condition(f"plan[{planner}]", PLAN, "trust", f"true:{planner}", planner, "true", against=twin),
        Condition(twin, PLAN, "trust", f"filler:{planner}", planner, "filler"),
    )


def vote_conditions(branches: int = 5, temperature: float = 0.7) -> tuple[Condition, ...]:
    """Axis 3: sampled branches without and with a scaffold."""
    return (
        Condition("vote", BARE, "diversity", branches=branches, temperature=temperature),
        Condition(
            "vote-plan-empty", SCAFFOLDS["plan-empty"], "diversity",
            branches=branches, temperature=temperature, against="vote",
        ),
    )  # fmt: skip


def default_conditions(planners: Iterable[str]) -> tuple[Condition, ...]:
    """The quick preset: every arm of the three axes."""
    arms = [c for p in planners for c in planner_conditions(p)]
    return (*SHAPES, *CONTENTS, *arms, *vote_conditions())


def select(table: Sequence[Condition], names: Sequence[str]) -> tuple[Condition, ...]:
    """The named conditions, with those they are compared against, in the table's order.

    UserError with the nearest name. The baseline is always included.
    """
    known = {c.name: c for c in table}
    wanted = {"none"}
    queue = [n for n in names if n]
    if not queue:
        raise UserError("no condition named; give a comma-separated list such as none,plan-empty,vote")
    while queue:
        condition = lookup("condition", known, queue.pop())
        if condition.name not in wanted or condition.name == "none":
            wanted.add(condition.name)
            if condition.against not in wanted:
                queue.append(condition.against)
    return tuple(c for c in table if c.name in wanted)
