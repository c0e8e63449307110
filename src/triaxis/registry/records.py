"""What a registry entry holds, as frozen records. Field for field the same as paper.schema.json (a test compares).

Knows nothing of files. None always means "not stated". Percentages are kept exactly as published. No slots: they
double the time the classes take to make, and 150 records need no memory saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool
Variable: TypeAlias = Scalar | tuple[Scalar, ...] | None

AXES = {"A1": "brittleness", "A2": "trust", "A3": "diversity"}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The design variables on which papers differ: one value, a tuple where varied, None where not stated.

    Lengths and budgets are tokens; `closed` says whether the scaffold ends before the answer begins.
    """

    executor: Variable = None
    ar_control: Variable = None
    planner: Variable = None
    planner_temperature: Variable = None
    plan_budget: Variable = None
    placement: tuple[str, ...] | None = None
    wrapper: Variable = None
    closed: Variable = None
    channel: Variable = None
    system_prompt: Variable = None
    templates: Variable = None
    steps: Variable = None
    gen_length: Variable = None
    block_length: Variable = None
    temperature: Variable = None
    branches: Variable = None
    branch_temperature: Variable = None
    vote: Variable = None
    seed: Variable = None
    dtype: Variable = None
    hardware: Variable = None
    batch: Variable = None
    dataset: Variable = None
    n: Variable = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published number, with what it was compared to. The paper's label goes wherever it is shown."""

    task: str
    metric: str
    unit: str  # percent (share of n items), points, relative_percent, ratio, correlation, count
    condition: str
    value: float | None  # None where `values` holds several
    values: Mapping[str, float] = field(default_factory=dict)
    value_sd: float | None = None
    value_range: float | None = None
    averaged_over: str | None = None  # a mean of runs: `value` is then no count of n items
    baseline: float | None
    baseline_sd: float | None = None
    baseline_condition: str | None
    n: int | None
    baseline_n: int | None = None  # only where it differs from n: other items
    claimed_n: int | None = None  # only where the publication says another n than its rows
    repeats: int | None = None  # only where each item was counted this many times
    gain: int | None = None
    loss: int | None = None
    mcnemar_exact_p: float | None = None
    discordance: float | None = None  # share in [0, 1]
    executor: str | None = None
    axes: tuple[str, ...] | None = None  # None: the paper's
    source: str | None
    note: str | None = None  # the registry's remark, not the paper's words

    @property
    def is_share(self) -> bool:
        """Whether `value` must be a whole count of n items in percent (what a count audit may test)."""
        return self.unit == "percent" and self.value is not None and self.averaged_over is None

    @property
    def delta(self) -> float | None:
        """value - baseline in the claim's unit, None where either is missing."""
        if self.value is None or self.baseline is None:
            return None
        return round(self.value - self.baseline, 9)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A prediction made before the runs, and the verdict its authors gave."""

    name: str
    metric: str
    condition: str | None
    comparison: str  # at_least, at_most, within
    target: float
    margin: float | None = None
    observed: float | None
    called: str | None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of levels."""

    levels: Mapping[str, Scalar]
    value: float | None  # None: never run
    n: int | None
    condition: str | None = None


@dataclass(frozen=True, kw_only=True)
class Factorial:
    """A crossed design as published, one cell for every combination of levels."""

    name: str
    task: str
    metric: str
    factors: Mapping[str, tuple[Scalar, ...]]
    cells: tuple[Cell, ...]
    note: str | None = None

    @property
    def missing(self) -> tuple[Cell, ...]:
        return tuple(c for c in self.cells if c.value is None)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Another number an audit needs."""

    name: str
    value: float
    unit: str
    n: int | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One registry entry: where its numbers were read, what was set, what was claimed."""

    schema: int = 1
    id: str
    arxiv: str | None
    title: str
    provenance: tuple[str, ...]
    provenance_note: str | None = None
    same_study: str | None = None  # another entry about the same runs: never count both
    axes: tuple[str, ...]
    setup: Setup
    setup_notes: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...]
    rules: tuple[Rule, ...] = ()
    factorials: tuple[Factorial, ...] = ()
    facts: tuple[Fact, ...] = ()
    caveats: tuple[str, ...]

    @property
    def verified(self) -> bool:
        """True only when every number was read from the paper's full text."""
        return self.provenance == ("full_text",)

    @property
    def label(self) -> str:
        """What must stand beside every number of this entry that is shown."""
        levels = " + ".join(self.provenance).replace("_", " ")
        return f"{'verified' if self.verified else 'unverified'} ({levels})"

    @property
    def citation(self) -> str:
        return f"{self.title} (arXiv:{self.arxiv})" if self.arxiv else f"{self.title} ({self.id})"

    def axes_of(self, claim: Claim) -> tuple[str, ...]:
        """What this claim measures: its own axes, else the paper's. () = none of them (protocol only)."""
        return self.axes if claim.axes is None else claim.axes


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One published accuracy of the same checkpoint without a scaffold."""

    source: str
    value: float
    n: int | None
