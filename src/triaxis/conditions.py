"""Experimental arms as data: scaffolds, conditions, and the presets that list them.

A scaffold is a template with a placement and a closure; a condition is a scaffold, the source of the plan it shows,
who completes it and how often. A new arm is a new entry of a preset file (`presets/*.toml`), never a branch in the
loop. A preset is read with the study's planners: an entry with `each = "planner"` stands for one arm a planner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from triaxis.errors import UserError, lookup, suggest
from triaxis.limits import check_form, parse_toml, read_text

CELLS = 2000  # of a grid, and branches of a condition: more is a slip of the pen
Placement = Literal["before", "after", "system", "reply"]
Closure = Literal["open", "closed"]
Role = Literal["baseline", "brittleness", "trust", "diversity", "pipeline", "factorial", "stage", "adapter"]
Settings = tuple[tuple[str, object], ...]  # decoding settings a condition changes, as pairs

# label -> what opens it and what closes it. Every word occurs in the tiny executor's training in other roles.
LABELS: Mapping[str, tuple[str, str]] = {
    "plan": ("Plan: ", "\nThe plan is set."),
    "hint": ("Hint: ", "\nThe hint is set."),
    "draft": ("Draft: ", "\nThe draft is set."),
    "xml": ("<plan>", "</plan>"),
    "json": ('{"plan": "', '"}'),
    "markdown": ("# Plan\n", "\n---"),
    "none": ("", "\n---"),
}


class Prompt(NamedTuple):
    """What a model is shown: the user's text, a system text, and text its response already begins with."""

    user: str
    system: str = ""
    reply: str = ""

    @property
    def parts(self) -> tuple[str, str, str]:
        """As `Executor.prompt_ids` takes them: user, reply, system."""
        return self.user, self.reply, self.system

    @property
    def shown(self) -> str:
        """One text for people."""
        head = f"[system]\n{self.system}\n[user]\n" if self.system else ""
        return f"{head}{self.user}" + (f"\n[response begins]\n{self.reply}" if self.reply else "")


@dataclass(frozen=True, slots=True)
class Scaffold:
    """Text put beside a question. `template` holds "{plan}" where a plan goes, or is fixed text.

    placement: before or after the question, one newline apart; in the system turn; or as the start of the response.
    closed: text after the plan that marks its end, "" for an open scaffold. An empty template is the bare question.
    """

    name: str
    template: str = ""
    placement: Placement = "after"
    closed: str = ""

    def __post_init__(self) -> None:
        if self.placement not in get_args(Placement):
            known = suggest(str(self.placement), get_args(Placement))
            raise UserError(f"scaffold {self.name!r}: placement {self.placement!r} is unknown{known}")

    @property
    def shows_plan(self) -> bool:
        return "{plan}" in self.template

    @property
    def closure(self) -> Closure:
        return "closed" if self.closed else "open"

    def render(self, question: str, plan: str | None = None) -> Prompt:
        """What is shown. ValueError where the template and the plan disagree."""
        if self.shows_plan != (plan is not None):
            raise ValueError(f"scaffold {self.name!r}: template and plan disagree")
        text = self.template.replace("{plan}", plan or "") + self.closed  # not str.format: a plan may contain braces
        if not text:
            return Prompt(question)
        if self.placement == "system":
            return Prompt(question, system=text)
        if self.placement == "reply":
            return Prompt(question, reply=text + "\n")
        return Prompt(f"{question}\n{text}" if self.placement == "after" else f"{text}\n{question}")


def labelled(label: str, placement: Any = "after", closure: Any = "open", *, plan: bool = True) -> Scaffold:
    """The scaffold of a label: opened by it, closed by its marker. `plan` False: nothing between the two."""
    opener, closer = lookup("label", LABELS, label)
    name = f"{label}-{placement}-{closure}" + ("" if plan else "-empty")
    lookup("closure", dict.fromkeys(get_args(Closure)), closure)
    return Scaffold(name, opener + ("{plan}" if plan else ""), placement, closer if closure == "closed" else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How one branch of a condition differs from the others: its decoding, its scaffold."""

    decode: Settings = ()
    scaffold: Scaffold | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One arm: a scaffold, the plan it shows, and how it is completed.

    plan: a plan source ("" for none); "rows:NAME" shows what condition NAME answered, all of its branches.
    writer: the planner that completes it; "" is the executor. decode: settings changed from the study's Decode;
    "tokens_per_step" sets `steps` by the canvas. variants: branch k is decoded and scaffolded as variant k modulo
    their number. role says which axis reads it, planner which planner a plan or its twin comes from, against what
    it is compared with, factors its levels in a factorial design. adapter: an adapter schedule, "" for none.
    """

    name: str
    scaffold: Scaffold
    role: Role
    plan: str = ""
    planner: str = ""
    kind: str = ""
    branches: int = 1
    decode: Settings = ()
    against: str = ""  # "" in a preset: the baseline
    writer: str = ""
    variants: tuple[Variant, ...] = ()
    factors: tuple[tuple[str, str], ...] = ()
    adapter: str = ""
    watch: bool = False  # also keep what the executor predicted at every step

    @property
    def needs_gold(self) -> bool:
        """Whether its plan is a gold plan or made from one."""
        return "gold" in self.plan.split(":", 1)

    @property
    def stage(self) -> str:
        """The condition whose answers it shows, "" for none."""
        return self.plan.removeprefix("rows:") if self.plan.startswith("rows:") else ""

    def card(self) -> dict[str, Any]:
        """The fields as plain data."""
        card = asdict(self)
        card["decode"], card["factors"] = dict(self.decode), dict(self.factors)
        card["variants"] = [{**asdict(v), "decode": dict(v.decode)} for v in self.variants]
        return card


BARE = Scaffold("none")


# ---------------------------------------------------------------- presets


@dataclass(frozen=True)
class Preset:
    """A named table of conditions: its entries as read, to be laid out for some planners."""

    name: str
    title: str
    source: str
    decode: Mapping[str, object]  # changes to the executor family's protocol
    writer: Mapping[str, object]  # settings of AR models where they answer
    study: Mapping[str, Any]  # executor, planners, task, n, seeds, ... where the user names none
    entries: Mapping[str, Any]
    where: str

    def conditions(self, planners: Iterable[str]) -> tuple[Condition, ...]:
        """The table for these planners. UserError for an entry that cannot be, naming the file."""
        scaffolds = {"none": BARE}
        for raw in self.entries.get("scaffold", []):
            made = _scaffold(raw, self.where)
            scaffolds[made.name] = made
        table = [c for raw in self.entries.get("condition", []) for c in self._each(raw, scaffolds, list(planners))]
        table += [c for raw in self.entries.get("grid", []) for c in _grid(raw, self.where)]
        table = _against_baseline(table, self.where)
        names = [c.name for c in table]
        for c in table:
            if names.count(c.name) > 1:
                raise UserError(f"{self.where}: condition {c.name!r} is there twice; give each its own name")
            for other in filter(None, (c.against, c.stage)):
                if other not in names:
                    raise UserError(f"{self.where}: condition {c.name!r} needs {other!r}{suggest(other, names)}")
        return tuple(table)

    def _each(
        self, raw: Mapping[str, Any], scaffolds: Mapping[str, Scaffold], planners: list[str]
    ) -> Iterator[Condition]:
        given = dict(raw)
        each = given.pop("each", None)
        if each not in (None, "planner"):
            raise UserError(f"{self.where}: each={each!r} is unknown; did you mean 'planner'?")
        for planner in planners if each else [""]:
            filled = {k: v.replace("{planner}", planner) if isinstance(v, str) else v for k, v in given.items()}
            yield _condition(filled, scaffolds, self.where)


def _against_baseline(table: Sequence[Condition], where: str) -> list[Condition]:
    """Conditions that name nothing to compare with are compared with the baseline."""
    found = [c.name for c in table if c.role == "baseline"]
    if len(found) != 1:
        raise UserError(f"{where}: {len(found)} conditions have role 'baseline'; give exactly one")
    return [c if c.against else replace(c, against=found[0]) for c in table]


def _check_names(kind: str, raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = list(known)
    for name in raw:
        if name not in names:
            raise UserError(f"{where}: unknown field {name!r} of a {kind}{suggest(name, names)}")
    if "name" not in raw:
        raise UserError(f"{where}: a {kind} has no name; give it one")


def _scaffold(raw: Mapping[str, Any], where: str) -> Scaffold:
    _check_names("scaffold", raw, ("name", "template", "placement", "closed", "label", "closure", "empty"), where)
    if "label" in raw:
        made = labelled(
            raw["label"], raw.get("placement", "after"), raw.get("closure", "open"), plan=not raw.get("empty", False)
        )
        return replace(made, name=raw["name"])
    return Scaffold(raw["name"], raw.get("template", ""), raw.get("placement", "after"), raw.get("closed", ""))


def _condition(raw: Mapping[str, Any], scaffolds: Mapping[str, Scaffold], where: str) -> Condition:
    _check_names("condition", raw, (f.name for f in fields(Condition)), where)
    name = raw["name"]
    scaffold = lookup(f"scaffold (condition {name!r} in {where})", scaffolds, str(raw.get("scaffold", "none")))
    role = str(raw.get("role", ""))
    lookup(f"role (condition {name!r} in {where})", dict.fromkeys(get_args(Role)), role)
    if scaffold.shows_plan != bool(raw.get("plan")):
        what = "shows a plan, but the condition names none" if scaffold.shows_plan else "has no {plan} to show it in"
        raise UserError(f"{where}: condition {name!r}: scaffold {scaffold.name!r} {what}")
    variants = tuple(
        Variant(
            decode=tuple(v.get("decode", {}).items()),
            scaffold=lookup("scaffold", scaffolds, v["scaffold"]) if "scaffold" in v else None,
        )
        for v in raw.get("variants", [])
    )
    if not 1 <= raw.get("branches", 1) <= CELLS:
        raise UserError(f"{where}: condition {name!r}: branches is {raw['branches']}; expected 1 to {CELLS}")
    plain = {k: v for k, v in raw.items() if k not in ("scaffold", "decode", "variants", "factors")}
    decode, factors = (tuple(raw.get(k, {}).items()) for k in ("decode", "factors"))
    return Condition(**plain, scaffold=scaffold, variants=variants, decode=decode, factors=factors)


def _count(text: str, what: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text):
        raise UserError(f"{what} is {text!r}; expected a whole number from 0")
    return int(text)


def _grid(raw: Mapping[str, Any], where: str) -> Iterator[Condition]:
    """Every combination of the levels of a design: label, placement, closure, filler, length, tokens_per_step."""
    _check_names("grid", raw, ("name", "levels"), where)
    levels = {**{k: [v] for k, v in GRID.items()}, **raw.get("levels", {})}
    for name in levels:
        lookup(f"factor of grid {raw['name']!r} ({where})", GRID, name)
    varied = [k for k, v in levels.items() if len(v) > 1]
    if math.prod(map(len, levels.values())) > CELLS:
        raise UserError(f"{where}: grid {raw['name']!r} has more than {CELLS} cells; give fewer levels")
    for chosen in product(*levels.values()):
        cell = dict(zip(levels, map(str, chosen), strict=True))
        length, paced = (_count(cell[k], f"{where}: grid {raw['name']!r}: {k}") for k in ("length", "tokens_per_step"))
        scaffold = labelled(cell["label"], cell["placement"], cell["closure"], plan=length > 0)
        steps: Settings = (("tokens_per_step", paced),) if paced else ()
        yield Condition(
            "/".join([raw["name"], *(cell[k] for k in varied)]), scaffold, "factorial",
            plan=f"{cell['filler']}-{length}" if length else "", kind="filler" if length else "", decode=steps,
            factors=tuple((k, cell[k]) for k in varied),
        )  # fmt: skip


# factor of a grid -> its level where a preset varies others only. tokens_per_step 0: the study's own steps
GRID: Mapping[str, object] = {
    "label": "plan",
    "placement": "after",
    "closure": "open",
    "filler": "filler",
    "length": 0,
    "tokens_per_step": 0,
}
PRESETS = ("quick", "original", "think-first", "factorial", "trust", "diversity")


def load_preset(spec: str) -> Preset:
    """A shipped preset by name, or a user's own TOML file by path. UserError names the file and the place."""
    if spec in PRESETS:
        return _shipped(spec)
    path = Path(spec)
    if path.suffix != ".toml":
        raise UserError(f"no preset named {spec!r}{suggest(spec, PRESETS)}; or give the path of a .toml file")
    try:
        return read_preset(read_text(path, "settings"), path.stem, spec)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{spec}: cannot be read ({e}); known presets: {', '.join(PRESETS)}") from None


@cache
def _shipped(name: str) -> Preset:
    path = files("triaxis").joinpath("presets", f"{name}.toml")
    return read_preset(path.read_text(encoding="utf-8"), name, f"preset {name}")


_SETTINGS = {"*": (str, float, bool)}
_VARIANT = {"decode?": _SETTINGS, "scaffold?": str}
_SCAFFOLD = ("name?", "template?", "placement?", "closed?", "label?", "closure?")
_FORM = {
    **dict.fromkeys(("title?", "source?", "extends?"), str), "decode?": _SETTINGS, "writer?": {}, "study?": {},
    "scaffold?": [{"empty?": bool, **dict.fromkeys(_SCAFFOLD, str)}],
    "condition?": [{
        **dict.fromkeys(("name?", "scaffold?", "role?", "plan?", "planner?", "kind?", "against?", "writer?"), str),
        "adapter?": str, "each?": str, "branches?": int, "watch?": bool, "decode?": _SETTINGS, "variants?": [_VARIANT],
        "factors?": {"*": (str, float)},
    }],
    "grid?": [{"name?": str, "levels?": {"*": [(str, float)]}}],
}  # fmt: skip


def read_preset(text: str, name: str, where: str) -> Preset:
    """A preset from its TOML text. UserError for TOML that does not parse or unknown fields.

    `extends = "original"` takes over that preset's scaffolds and conditions, and its settings where none are given.
    """
    try:
        raw = parse_toml(text)
    except ValueError as e:
        raise UserError(f"{where}: not TOML ({e})") from None
    tables, lists = ("decode", "writer", "study"), ("scaffold", "condition", "grid")
    known = ("title", "source", "extends", *tables, *lists)
    for field in raw:
        if field not in known:
            raise UserError(f"{where}: unknown field {field!r} of a preset{suggest(field, known)}")
    try:
        check_form(raw, _FORM, "the preset")
    except ValueError as e:
        raise UserError(f"{where}: {e}; see a shipped preset") from None
    if "extends" in raw:
        base = load_preset(str(raw["extends"]))
        mine = {k: {**base.entries.get(k, {}), **raw.get(k, {})} for k in tables}
        raw = {**raw, **mine, **{k: [*base.entries.get(k, []), *raw.get(k, [])] for k in lists}}
    parts = {k: dict(raw.get(k, {})) for k in tables}
    return Preset(name, str(raw.get("title", "")), str(raw.get("source", "")), **parts, entries=raw, where=where)


def default_conditions(planners: Iterable[str]) -> tuple[Condition, ...]:
    """The quick preset: every arm of the three axes."""
    return load_preset("quick").conditions(planners)


def select(table: Sequence[Condition], names: Sequence[str]) -> tuple[Condition, ...]:
    """The named conditions, with those they are compared against or made from, in the table's order.

    UserError with the nearest name. The baseline is always included.
    """
    known = {c.name: c for c in table}
    wanted: set[str] = set()
    queue = [n for n in names if n]
    if not queue:
        raise UserError("no condition named; give a comma-separated list such as none,plan-empty,vote")
    queue += [c.name for c in table if c.role == "baseline"]
    while queue:
        condition = lookup("condition", known, queue.pop())
        if condition.name not in wanted:
            wanted.add(condition.name)
            queue += [n for n in (condition.against, condition.stage) if n]
    return tuple(c for c in table if c.name in wanted)


def under(table: Sequence[Condition], schedule: str, *, beside: bool) -> tuple[Condition, ...]:
    """The executor's arms under an adapter schedule, where they name none themselves.

    beside: after the same arm as it is, as "NAME+adapter", which no axis reads: what adapters change is read apart.
    """

    def made(c: Condition) -> tuple[Condition, ...]:
        if c.adapter or c.writer:
            return (c,)
        if not beside:
            return (replace(c, adapter=schedule),)
        return c, replace(c, name=f"{c.name}+adapter", adapter=schedule, role="adapter", against=c.name)

    return tuple(arm for c in table for arm in made(c))


def in_order(table: Sequence[Condition]) -> list[list[Condition]]:
    """The table in rounds: every condition after the ones whose answers it shows."""
    depth: dict[str, int] = {}
    known = {c.name: c for c in table}

    def of(c: Condition, seen: tuple[str, ...] = ()) -> int:
        if c.name in seen:
            raise UserError(f"conditions {', '.join(seen)} show each other's answers in a circle; break it")
        if c.name not in depth:
            depth[c.name] = of(known[c.stage], (*seen, c.name)) + 1 if c.stage else 0
        return depth[c.name]

    rounds = max(map(of, table), default=0) + 1
    return [[c for c in table if depth[c.name] == r] for r in range(rounds)]
