"""Predictions written down before a run, and what the run says of them, literally.

A file of predictions (TOML) names a metric of the study's summary.json, a comparison and a target. Its hash is stamped
into the study's store when the run begins; whether rows were there already is part of the stamp, and is shown.
HOLDS, FAILS and NOT RESOLVED are decided on the numbers as they are: 79.0 against ">= 80" FAILS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from triaxis.errors import UserError, lookup, suggest
from triaxis.estimate.paired import tost
from triaxis.limits import check_form, parse_json, parse_toml, read_bytes
from triaxis.registry.records import Rule

HOLDS, FAILS, OPEN = "HOLDS", "FAILS", "NOT RESOLVED"
COMPARISONS = {
    "at_least": ">=",
    "at_most": "<=",
    "above": ">",
    "below": "<",
    "within": "within",
    "lift": "a lift",
    "drop": "a drop",
    "equivalent": "equivalent",
}
_SIGNS = {">=": "at_least", "<=": "at_most", ">": "above", "<": "below"}
_NUMERIC = ("at_least", "at_most", "above", "below", "within")
_NOISE = 1e-9  # 0.81 is within 0.01 of 0.80, whatever binary fractions make of it

TEMPLATE = """# Predictions, written before the run. Commit this file, then run:
#   triaxis diagnose --prereg {name} --out runs/mine
#   triaxis prereg check {name} runs/mine
# Its hash is stamped into the study; a change after that is shown, and so are rows that were there before it.
title = "what this study should show"

[[prediction]]
name = "an empty plan costs nothing"      # any words
metric = "axes.brittleness.effects[plan-empty]" # where it stands in summary.json; [..] picks a list entry by name
comparison = "equivalent"                  # at_least, at_most, above, below, within, lift, drop, equivalent
margin = 0.05                              # a share: five points
n = 200                                    # items this was predicted for; a smaller run is NOT RESOLVED

[[prediction]]
name = "the vote reaches 80 %"
metric = "axes.diversity.vote"
comparison = "at_least"
target = 0.80
rule = "point"                             # "point": the number itself; "interval": its whole interval
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One rule. target and margin are in the metric's unit: shares for accuracies (0.80, not 80)."""

    name: str
    metric: str
    comparison: str
    target: float | None = None
    margin: float | None = None
    n: int | None = None
    rule: str = "point"  # numeric comparisons only

    def __post_init__(self) -> None:
        object.__setattr__(self, "comparison", _SIGNS.get(self.comparison, self.comparison))
        lookup("comparison", COMPARISONS, self.comparison)
        lookup("rule", dict.fromkeys(("point", "interval")), self.rule)
        if (self.comparison in _NUMERIC) != (self.target is not None):
            need = "needs a target" if self.comparison in _NUMERIC else "takes no target; write at_least for one"
            raise UserError(f"prediction {self.name!r}: comparison {self.comparison!r} {need}")
        if (self.comparison in ("within", "equivalent")) != (self.margin is not None):
            need = "needs a margin" if self.margin is None else "takes no margin"
            raise UserError(f"prediction {self.name!r}: comparison {self.comparison!r} {need}")
        if self.margin is not None and self.margin < 0:
            raise UserError(f"prediction {self.name!r}: margin {self.margin:g} is negative")

    @property
    def words(self) -> str:
        """The rule as it is applied: "accuracy[none] >= 0.8"."""
        sign = COMPARISONS[self.comparison]
        if self.comparison == "within":
            return f"{self.metric} within {self.margin:g} of {self.target:g}"
        if self.comparison == "equivalent":
            return f"{self.metric} equivalent within {self.margin:g}"
        target = "" if self.target is None else f" {self.target:g}"
        whole = " (whole interval)" if self.rule == "interval" else ""
        return f"{self.metric} {sign}{target}{whole}" if target else f"{self.metric} is {sign}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preregistration:
    """A checked file of predictions."""

    path: Path
    title: str
    digest: str
    predictions: tuple[Prediction, ...]


class Outcome(NamedTuple):
    """What a run says of one prediction. observed: None where the run has no such number."""

    name: str
    rule: str
    outcome: str  # HOLDS, FAILS, NOT RESOLVED
    observed: float | None
    low: float | None
    high: float | None
    n: int | None
    why: str


class Standing(NamedTuple):
    """When the predictions were made, against the rows. `before` is True only for an unchanged stamp before any row."""

    before: bool
    words: str


# ---------------------------------------------------------------- the file


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hex: what is stamped into a study."""
    return hashlib.sha256(_bytes(path)).hexdigest()


def load(path: Path) -> Preregistration:
    """A checked file of predictions. UserError names file, prediction, field."""
    return _parsed(_bytes(path), path)


def _parsed(data: bytes, path: Path) -> Preregistration:
    try:
        document = parse_toml(data.decode("utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: not TOML ({e}); see triaxis prereg new") from None
    for name in document:
        if name not in ("title", "prediction"):
            raise UserError(f"{path}: unknown field {name!r}{suggest(name, ('title', 'prediction'))}")
    entries = document.get("prediction")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no predictions; expected [[prediction]] tables, see triaxis prereg new")
    predictions = tuple(_prediction(path, at, entry) for at, entry in enumerate(entries, 1))
    names = [p.name for p in predictions]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two predictions are named {name!r}")
    title = str(document.get("title", path.stem))
    return Preregistration(path=path, title=title, digest=hashlib.sha256(data).hexdigest(), predictions=predictions)


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "metric", "comparison", "rule"), (str,)),
    **dict.fromkeys(("target", "margin"), (int, float)),
    "n": (int,),
}


_COUNTED = ("target", "margin", "n")


def _prediction(path: Path, at: int, entry: Any) -> Prediction:
    where = f"{path}: prediction {at}"
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected a [[prediction]] table")
    known = [f.name for f in fields(Prediction)]
    for name, value in entry.items():
        if name not in known:
            raise UserError(f"{where}: unknown field {name!r}{suggest(name, known)}")
        number = isinstance(value, int | float) and (abs(value) < 1 << 63)  # false for NaN
        if isinstance(value, bool) or not isinstance(value, _KINDS[name]) or (not number and name in _COUNTED):
            expected = {str: "text", int: "a whole number"}.get(
                _KINDS[name][0] if len(_KINDS[name]) == 1 else float, "a number"
            )
            raise UserError(f"{where}: {name} is {value!r}; expected {expected}")
    for name in ("name", "metric", "comparison"):
        if name not in entry:
            raise UserError(f"{where}: no {name}; a prediction needs name, metric and comparison")
    try:
        return Prediction(**entry)
    except UserError as e:
        raise UserError(f"{where}: {e}") from None


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, "settings")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); make one with triaxis prereg new {path}") from None


# ---------------------------------------------------------------- when it was written


def stamp(path: Path, *, rows_before: int, stamped_at: str) -> str:
    """The JSON a study puts into its store under the key "prereg"; `rows_before`: rows the store held already.

    The predictions themselves are in it, so that a report shows what was predicted whatever became of the file.
    UserError as `load`.
    """
    data = _bytes(path)
    mark = {"hash": _parsed(data, path).digest, "stamped_at": stamped_at, "rows_before": rows_before}
    return json.dumps({**mark, "file": path.name, "text": data.decode("utf-8")}, ensure_ascii=False)


def scorecard(stamped: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The predictions stamped into a study against its summary, as plain data for a report.

    A prediction about a number that no summary has is NOT RESOLVED and says why. UserError where the stamp was changed
    by hand: its text must have its hash.
    """
    try:
        mark = parse_json(stamped)
        check_form(mark, {"hash": str, "stamped_at": str, "rows_before": int, "text?": str, "file?": str})
    except ValueError as e:
        raise UserError(f"the study's stamp of its predictions is not readable ({e}); it was changed by hand") from None
    data = str(mark.get("text", "")).encode("utf-8", "surrogatepass")
    at = standing(hashlib.sha256(data).hexdigest() if data else str(mark.get("hash")), stamped)
    about = {"hash": str(mark["hash"]), "standing": at.words, "before": at.before}
    if not data:  # stamped by a version that kept the hash alone
        return {"title": "", **about, "outcomes": []}
    rules = _parsed(data, Path(str(mark.get("file", "the predictions"))))
    return {"title": rules.title, **about, "outcomes": [_told(rule, summary)._asdict() for rule in rules.predictions]}


def _told(rule: Prediction, summary: Mapping[str, Any]) -> Outcome:
    try:
        return _outcome(rule, summary)
    except UserError as e:
        return Outcome(rule.name, rule.words, OPEN, None, None, None, None, str(e))


def standing(found: str, stamped: str | None) -> Standing:
    """Was this file (its digest) stamped before the first row? `stamped`: the store's JSON, None without one."""
    if stamped is None:
        return Standing(False, "NOT STAMPED: nothing shows that these predictions were made before the rows")
    try:
        mark = parse_json(stamped)
        hash_, at, rows = str(mark["hash"]), str(mark["stamped_at"]), int(mark["rows_before"])
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"the study's stamp of its predictions is not readable ({e}); it was changed by hand") from None
    if hash_ != found:
        return Standing(False, f"CHANGED: this is not the file that was stamped on {at}")
    if rows:
        return Standing(False, f"WRITTEN AFTER: {rows} rows existed when it was stamped on {at}")
    return Standing(True, f"stamped on {at}, before the first row")


# ---------------------------------------------------------------- deciding


def check(rules: Sequence[Prediction], summary: Mapping[str, Any]) -> list[Outcome]:
    """Every prediction against a study's summary.json, in order. UserError for a metric no summary has."""
    return [_outcome(rule, summary) for rule in rules]


def decide(comparison: str, observed: float, target: float, margin: float | None = None) -> str:
    """HOLDS or FAILS, on the number as it is. Rounding noise under 1e-9 is no difference; 79.0 is not >= 80."""
    if comparison == "within":
        if margin is None:
            raise UserError("'within' needs a margin")
        return HOLDS if abs(observed - target) <= margin + _NOISE else FAILS
    tests = {
        "at_least": observed >= target - _NOISE,
        "at_most": observed <= target + _NOISE,
        "above": observed > target + _NOISE,
        "below": observed < target - _NOISE,
    }
    return HOLDS if lookup("comparison", tests, comparison) else FAILS


def published(rule: Rule) -> str:
    """A registry rule applied literally; NOT RESOLVED where nothing was observed."""
    if rule.observed is None:
        return OPEN
    return decide(rule.comparison, rule.observed, rule.target, rule.margin)


class Observed(NamedTuple):
    """A metric as the summary has it."""

    value: float
    low: float | None
    high: float | None
    n: int | None
    effect: Mapping[str, Any] | None  # the whole Effect, where it is one


def _outcome(rule: Prediction, summary: Mapping[str, Any]) -> Outcome:
    found = find(rule.metric, summary)
    if isinstance(found, str):
        return Outcome(rule.name, rule.words, OPEN, None, None, None, None, found)
    _check_unit(rule, found)

    def answer(outcome: str, why: str) -> Outcome:
        return Outcome(rule.name, rule.words, outcome, found.value, found.low, found.high, found.n, why)

    if rule.n is not None and found.n is not None and found.n < rule.n:
        return answer(OPEN, f"predicted for N={rule.n}, the run has {found.n}")
    if rule.comparison in ("lift", "drop"):
        return answer(*_direction(rule, found))
    if rule.comparison == "equivalent":
        return answer(*_equivalent(rule, found))
    assert rule.target is not None
    if rule.rule == "interval":
        return answer(*_whole_interval(rule, found))
    outcome = decide(rule.comparison, found.value, rule.target, rule.margin)
    span = "" if found.low is None or found.high is None else f" (interval {found.low:.4g} to {found.high:.4g})"
    return answer(outcome, f"observed {found.value:.4g}{span}")


def _direction(rule: Prediction, found: Observed) -> tuple[str, str]:
    """By the Effect's own verdict, which is by Holm's p within its family."""
    if found.effect is None:
        raise UserError(
            f"prediction {rule.name!r}: {rule.metric} is a number, not an effect; {rule.comparison} needs one"
        )
    said = str(found.effect.get("verdict", ""))
    if said == rule.comparison:
        return HOLDS, f"the effect's verdict is {said!r}"
    if said in ("lift", "drop") or said.startswith("equivalent"):
        return FAILS, f"the effect's verdict is {said!r}"
    return OPEN, f"the effect's verdict is {said!r}"


def _equivalent(rule: Prediction, found: Observed) -> tuple[str, str]:
    """TOST on the counts where the effect is of 0/1 scores; else the whole 95 % interval, which asks for more."""
    margin = float(rule.margin or 0)
    effect, low, high = found.effect or {}, found.low, found.high
    gain, loss, n = effect.get("gain"), effect.get("loss"), effect.get("n")
    how = "95 % interval"
    if gain is not None and loss is not None and n and abs((gain - loss) / n - found.value) < _NOISE and 0 < margin < 1:
        test = tost(gain, loss, n, margin)
        low, high, how = test.low, test.high, "90 % interval (TOST)"
    if low is None or high is None:
        return OPEN, "the summary has no interval for it"
    why = f"{how} {low:.4g} to {high:.4g}"
    if -margin <= low and high <= margin:
        return HOLDS, why
    if low > margin or high < -margin:
        return FAILS, why
    return OPEN, why


def _whole_interval(rule: Prediction, found: Observed) -> tuple[str, str]:
    """HOLDS if every value of the interval does, FAILS if none does."""
    if found.low is None or found.high is None:
        return OPEN, "the summary has no interval for it"
    target = float(rule.target or 0)
    ends = {decide(rule.comparison, end, target, rule.margin) for end in (found.low, found.high)}
    why = f"interval {found.low:.4g} to {found.high:.4g}"
    straddles = rule.comparison == "within" and ends == {FAILS} and found.low < target < found.high
    if len(ends) > 1 or straddles:
        return OPEN, why
    return ends.pop(), why


def _check_unit(rule: Prediction, found: Observed) -> None:
    share = rule.metric.startswith(("axes.", "accuracy", "conditions")) and abs(found.value) <= 1
    for name, number in (("target", rule.target), ("margin", rule.margin)):
        if share and number is not None and abs(number) > 1 and not rule.metric.endswith(("forwards", "tokens")):
            raise UserError(
                f"prediction {rule.name!r}: {name} {number:g}, but {rule.metric} is a share; write {number / 100:g}"
            )


# ---------------------------------------------------------------- metrics by name


def _steps(path: str) -> list[tuple[str, str | None]] | None:
    """A path "a.b[key].c" as (name, key) pairs; a key may hold dots and brackets ("plan[small]"). None: no path."""
    steps: list[tuple[str, str | None]] = []
    rest = path
    while rest:
        found = re.match(r"[^.\[\]]+", rest)
        if not found:
            return None
        rest, key = rest[found.end() :], None
        if rest.startswith("["):
            end = _closing(rest)
            if end < 2:
                return None
            key, rest = rest[1:end], rest[end + 1 :]
        steps.append((found[0], key))
        if rest and (not rest.startswith(".") or rest == "."):
            return None
        rest = rest[1:]
    return steps


def _closing(text: str) -> int:
    """Where the bracket that `text` opens with is closed; -1 if nowhere."""
    depth = 0
    for at, letter in enumerate(text):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if depth == 0:
            return at
    return -1


def find(metric: str, summary: Mapping[str, Any]) -> Observed | str:
    """The number a metric names, or (a str) why this run has none.

    "axes.trust.slope", "axes.brittleness.effects[empty]", "conditions[none].accuracy", for short "accuracy[none]".
    A key in brackets is an entry's name or planner, or its position. UserError for a field no summary has.
    """
    short = metric.startswith("accuracy[")
    steps = _steps(f"conditions{metric.removeprefix('accuracy')}.accuracy" if short else metric)
    if not steps:
        raise UserError(f"metric {metric!r} is not a path such as axes.brittleness.effects[empty]")
    at: Any = summary
    holder: Mapping[str, Any] = summary
    for name, key in steps:
        if not isinstance(at, Mapping) or name not in at:
            known = at if isinstance(at, Mapping) else {}
            raise UserError(f"metric {metric!r}: the summary has no {name!r}{suggest(name, known)}")
        holder, at = at, at[name]
        if at is None:
            return f"the run has no {name}"
        if key is not None:
            at = _entry(at, key)
            if at is None:
                return f"the run has no {name} called {key!r}"
    return _observed(metric, at, holder, summary)


def _entry(table: Any, key: str) -> Any:
    if isinstance(table, Mapping):
        return table.get(key)
    if not isinstance(table, list):
        return None
    for entry in table:
        if isinstance(entry, Mapping) and key in (entry.get("name"), entry.get("planner")):
            return entry
    position = int(key) if key.isdigit() else len(table)
    return table[position] if position < len(table) else None


def _observed(metric: str, at: Any, holder: Mapping[str, Any], summary: Mapping[str, Any]) -> Observed | str:
    study_n = summary.get("study", {}).get("n")
    if isinstance(at, Mapping):
        if at.get("value") is None:
            if "value" in at:
                return f"the run could not estimate {metric}"
            raise UserError(f"metric {metric!r} names a group, not a number{suggest('value', at)}")
        if isinstance(at["value"], bool) or not isinstance(at["value"], (int, float)):
            raise UserError(f"metric {metric!r} has the value {at['value']!r}, not a number")
        return Observed(float(at["value"]), at.get("low"), at.get("high"), at.get("n", study_n), at)
    if isinstance(at, bool) or not isinstance(at, (int, float)):
        raise UserError(f"metric {metric!r} is {at!r}, not a number")
    ends = (holder.get("low"), holder.get("high")) if metric.endswith(("accuracy", "value", "]")) else (None, None)
    effect = holder if metric.endswith(".value") and "verdict" in holder else None
    return Observed(float(at), *ends, holder.get("n", study_n), effect)
