"""Figures as inline SVG: forests of effects, branch curves and costs, each with its interval.

What they show; how a drawing reaches the page or a file is `ink.py`. Numbers come from the summary; literals here are
lengths (_IN inches, _PT points, _ROWS rows) and opacities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from triaxis.report.ink import HAIR_PT, INK, SMALL_PT, Said, say, twice
from triaxis.report.words import Kind, number, span, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE_IN, NARROW_IN = 9.5, 3.5
LABEL_IN, VALUE_IN, EDGE_IN = 2.8, 2.5, 0.12  # of a wide forest: names at the left, numbers at the right
NUMBER_IN, SPAN_IN = 0.6, 1.15
ROW_IN, STACKED_ROW_IN, AXIS_IN, TOP_IN = 0.27, 0.46, 0.52, 0.06
PANEL_IN, TICK_IN = 2.35, 0.5  # of the branch curves
LINE_PT, MARK_PT, TIE_PT = 1.6, 5.5, 11
STACKED_ROWS = 0.22  # how far a phone's name and range stand from the middle of their line
BAND_ALPHA, PAD_RATIO, BAR_RATIO = 0.16, 0.06, 0.8
TICK_STEPS = (1, 2, 5, 10)
LONGEST, LONGEST_NARROW = 33, 26  # characters of a label before it is shortened


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of a forest, in shares; low and high are None where no interval is known. `inner` is a second, inner
    range such as the bounds of a tie rule, `outer` an outer one such as an interval that holds for a whole family."""

    label: str
    value: float
    low: float | None
    high: float | None
    note: str = ""
    kind: Kind | str = "ink"
    inner: tuple[float, float] | None = None
    outer: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The range that is drawn."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of a forest under one heading; an empty title has no heading."""

    title: str
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class Curve:
    """Shares against k = 1, 2, ..., with an interval each, in the panel that is named."""

    panel: str
    name: str
    values: Sequence[float]
    intervals: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Spot:
    """A share against a cost, intervals both ways. `number` stands beside it; `hollow`: nothing recommends it."""

    number: str
    accuracy: tuple[float, float, float]  # low, value, high
    cost: tuple[float, float, float]
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram: at each stated share, the share of items there whose outcome is right, and wrong."""

    name: str
    at: Sequence[float]
    right: Sequence[float]
    wrong: Sequence[float]


def effect_mark(effect: Mapping[str, Any], kind: Kind, label: str = "", outer: Sequence[float] | None = None) -> Mark:
    """An Effect as a line of a forest."""
    note = f"n {effect['n']}"
    ends = None if outer is None else (outer[0], outer[1])
    return Mark(label or effect["name"], effect["value"], effect["low"], effect["high"], note, kind, outer=ends)


def forest(groups: Sequence[Group], *, title: str, axis: str, name: str, sign: bool = True) -> str:
    """Two SVGs of the same forest, classes "wide" and "narrow". `name` is unique on the page; `sign`: differences."""
    heads = ("group", "label", "value", "low", "high", "inner_low", "inner_high", "outer_low", "outer_high", "note")
    none = (None, None)
    rows = [
        (g.title, m.label, m.value, m.low, m.high, *(m.inner or none), *(m.outer or none), m.note)
        for g in groups
        for m in g.marks
    ]
    return twice(lambda canvas, wide: _forest(canvas, groups, axis, sign, wide), name, title, [heads, *rows])


def curves(series: Sequence[Curve], *, title: str, axis: str, name: str) -> str:
    """Shares against the number of branches, intervals as bands, two SVGs."""
    heads = ("curve", "branches_of", "k", "value", "low", "high")
    rows = [
        (s.panel, s.name, k, value, *ends)
        for s in series
        for k, (value, ends) in enumerate(zip(s.values, s.intervals, strict=True), 1)
    ]
    return twice(lambda canvas, wide: _curves(canvas, series, axis, wide), name, title, [heads, *rows])


def costs(spots: Sequence[Spot], *, title: str, axis: str, name: str) -> str:
    """Accuracy against cost, both with intervals, two SVGs."""
    heads = ("number", "accuracy", "low", "high", "cost", "cost_low", "cost_high")
    rows = [(s.number, *(x[i] for x in (s.accuracy, s.cost) for i in (1, 0, 2))) for s in spots]
    return twice(lambda canvas, wide: _costs(canvas, spots, axis, wide), name, title, [heads, *rows])


def bars(series: Sequence[Bars], *, title: str, axis: str, name: str) -> str:
    """Histograms beside one another, right outcomes full and wrong ones hollow, two SVGs."""
    heads = ("series", "at", "right", "wrong")
    rows = [(s.name, *line) for s in series for line in zip(s.at, s.right, s.wrong, strict=True)]
    return twice(lambda canvas, wide: _bars(canvas, series, axis, wide), name, title, [heads, *rows])


# ---------------------------------------------------------------- forests


def _forest(canvas: type[Figure], groups: Sequence[Group], axis: str, sign: bool, wide: bool) -> Figure:
    """Drawn on the figure itself, in inches: its one axis is a few lines, and an Axes takes three times as long."""
    lines: list[str | Mark] = []
    for group in groups:
        lines += [group.title] if group.title else []
        lines += group.marks
    width, row = (WIDE_IN, ROW_IN) if wide else (NARROW_IN, STACKED_ROW_IN)
    left, right = (LABEL_IN, VALUE_IN) if wide else (EDGE_IN, EDGE_IN)
    figure = canvas(figsize=(width, TOP_IN + row * len(lines) + AXIS_IN))
    at = _scale(figure, [m for g in groups for m in g.marks], (left, width - right), axis, sign)
    for place, line in enumerate(lines):
        y = AXIS_IN + row * (len(lines) - place - 1 / 2)
        if isinstance(line, Mark):
            lift = 0 if wide else STACKED_ROWS * row
            _mark(figure, line, at, y - lift, sign)
            _words(figure, line, y + lift, sign, wide)
        else:
            _text(figure, 0, y - row / 6, line, weight="bold", size=SMALL_PT, color=INK["muted"])
    return figure


Scale = Callable[[float], float]  # points to inches from the figure's left edge


def _scale(figure: Figure, marks: Sequence[Mark], ends: tuple[float, float], axis: str, sign: bool) -> Scale:
    """Draw the horizontal axis between two places in inches, with its grid; where a value lies on it."""
    from matplotlib.ticker import MaxNLocator

    ends_of = [m.outer or m.ends for m in marks]
    low, high = 100 * min(e[0] for e in ends_of), 100 * max(e[1] for e in ends_of)
    if sign:
        low, high = min(low, 0), max(high, 0)
    pad = PAD_RATIO * max(high - low, 1)
    low, high = low - pad, high + pad
    per_point = (ends[1] - ends[0]) / (high - low)
    top = figure.get_figheight() - TOP_IN

    def at(x: float) -> float:
        return ends[0] + (x - low) * per_point

    _line(figure, ends, (AXIS_IN, AXIS_IN), color=INK["line"], lw=HAIR_PT)
    for x in MaxNLocator(nbins=6, integer=True, steps=TICK_STEPS).tick_values(low, high):
        if low <= x <= high:
            zero = sign and x == 0
            _line(
                figure,
                (at(x), at(x)),
                (AXIS_IN, top),
                color=INK["muted" if zero else "line"],
                lw=HAIR_PT / (1 if zero else 2),
            )
            _text(
                figure, at(x), AXIS_IN * 2 / 3, number(x, 0, sign=sign), ha="center", size=SMALL_PT, color=INK["muted"]
            )
    _text(figure, sum(ends) / 2, AXIS_IN / 4, axis, ha="center", size=SMALL_PT, color=INK["muted"])
    return at


def _mark(figure: Figure, m: Mark, at: Scale, y: float, sign: bool) -> None:
    """A range with its value; hollow where the verdict is open, so that colour is not needed to read it."""
    colour = INK[m.kind]
    face = INK["paper"] if m.kind == "open" else colour
    dot = {"marker": "o" if sign else "D", "markevery": [1], "ms": MARK_PT, "mfc": face, "mec": colour, "mew": LINE_PT}
    if m.outer is not None:
        _line(figure, [at(100 * x) for x in m.outer], (y, y), color=colour, lw=HAIR_PT)
    ends = [at(100 * x) for x in (m.ends[0], m.value, m.ends[1])]
    _line(figure, ends, (y, y, y), color=colour, lw=LINE_PT, solid_capstyle="butt", **dot)
    if m.inner is not None:
        ends = [at(100 * x) for x in m.inner]
        _line(figure, ends, (y, y), ls="none", marker="|", color=colour, ms=TIE_PT, mew=LINE_PT / 2)


def _words(figure: Figure, m: Mark, y: float, sign: bool, wide: bool) -> None:
    """The name at the left; value, interval and n in columns at the right."""
    value, interval = number(100 * m.value, sign=sign), span(m.low, m.high, sign=sign)
    _text(figure, 0, y, _short(m.label, LONGEST if wide else LONGEST_NARROW))
    if wide:
        _text(figure, WIDE_IN - NUMBER_IN - SPAN_IN, y, value, ha="right", weight="bold")
        _text(figure, WIDE_IN - NUMBER_IN, y, interval, ha="right")
        _text(figure, WIDE_IN, y, m.note, ha="right", color=INK["muted"])
    else:
        _text(figure, NARROW_IN, y, f"{value}  {interval}", ha="right")


def _text(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text at a place in inches, centred on its height."""
    say(figure, Said(x, y, text, **style))


def _line(figure: Figure, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    """A line through places in inches."""
    from matplotlib.lines import Line2D

    figure.add_artist(Line2D(xs, ys, transform=figure.dpi_scale_trans, **style))


def _short(label: str, most: int = LONGEST_NARROW) -> str:
    label = " ".join(visible(label).split())
    return label if len(label) <= most else label[: most - 1] + "\u2026"


# ---------------------------------------------------------------- curves

_LINES = (("ink", "-", "o"), ("second", "--", "s"), ("same", ":", "^"), ("lift", "-.", "v"), ("open", "-", "D"))


def _curves(canvas: type[Figure], series: Sequence[Curve], axis: str, wide: bool) -> Figure:
    """A panel for each kind of curve, on one scale: side by side on a screen, one over the other on a phone."""
    panels, names = (list(dict.fromkeys(x)) for x in ([s.panel for s in series], [s.name for s in series]))
    look = dict(zip(names, cycle(_LINES), strict=False))
    width, key = WIDE_IN if wide else NARROW_IN, ROW_IN * len(names)
    each = PANEL_IN + AXIS_IN
    figure = canvas(figsize=(width, each if wide else each * len(panels) + key))
    room = (width - LABEL_IN) / len(panels) if wide else width
    ends = [100 * x for s in series for pair in s.intervals for x in pair]
    for place, panel in enumerate(panels):
        left, bottom = (room * place, 0) if wide else (0, key + each * (len(panels) - 1 - place))
        box = (left + TICK_IN, bottom + AXIS_IN, room - TICK_IN - EDGE_IN, PANEL_IN - ROW_IN)
        ax = _axes(figure, box)
        ax.set_title(panel, loc="left", size=SMALL_PT, weight="bold", color=INK["muted"])
        _bands(ax, [s for s in series if s.panel == panel], look)
        ax.set_ylim(min(ends) - 1, max(ends) + 1)
        ax.set_ylabel("" if wide and place else axis)
    for place, name in enumerate(names):
        x = width - LABEL_IN + EDGE_IN if wide else TICK_IN
        _key(figure, x, (each if wide else key) - ROW_IN * (place + 1 / 2), _short(name), _line_of(look[name]))
    return figure


_Look = tuple[str, str, str]  # colour, dash, marker


def _line_of(look: _Look) -> dict[str, Any]:
    colour, dash, mark = look
    return {"color": INK[colour], "ls": dash, "marker": mark, "ms": MARK_PT, "lw": LINE_PT}


def _bands(ax: Any, series: Sequence[Curve], look: Mapping[str, _Look]) -> None:
    """The curves of one panel over their intervals."""
    for curve in series:
        k = range(1, len(curve.values) + 1)
        low, high = ([100 * ends[i] for ends in curve.intervals] for i in (0, 1))
        ax.fill_between(k, low, high, color=INK[look[curve.name][0]], alpha=BAND_ALPHA, lw=0)
        ax.plot(k, [100 * x for x in curve.values], **_line_of(look[curve.name]))
    ax.set_xlabel("branches k")
    ax.set_xlim(1 - PAD_RATIO, max(2, *(len(s.values) for s in series)) + PAD_RATIO)
    ax.locator_params(axis="x", integer=True)


def _costs(canvas: type[Figure], spots: Sequence[Spot], axis: str, wide: bool) -> Figure:
    figure, ax = _panel(canvas, wide, 0, EDGE_IN)
    for s in spots:
        (a_low, a, a_high), (c_low, c, c_high) = s.accuracy, s.cost
        colour = INK["open" if s.hollow else "ink"]
        style = {"color": colour, "lw": HAIR_PT, "solid_capstyle": "butt"}
        ax.plot([c, c], [100 * a_low, 100 * a_high], **style)
        ax.plot([c_low, c_high], [100 * a, 100 * a], **style)
        face = INK["paper"] if s.hollow else colour
        ax.plot([c], [100 * a], marker="o", ms=MARK_PT, mfc=face, mec=colour, mew=LINE_PT, ls="none")
        ax.annotate(
            s.number, (c, 100 * a), xytext=(MARK_PT, MARK_PT), textcoords="offset points", size=SMALL_PT, color=colour
        )
    ax.set_xlabel(axis)
    ax.set_ylabel("% of items right")
    ax.set_xlim(left=0)
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter(lambda x, _: number(x, 0))
    return figure


def _bars(canvas: type[Figure], series: Sequence[Bars], axis: str, wide: bool) -> Figure:
    """One group of bars at each share that any series states; the key as of curves."""
    figure, ax = _panel(canvas, wide, 0 if wide else ROW_IN * len(series), LABEL_IN if wide else EDGE_IN)
    height, key = figure.get_figheight(), ROW_IN * len(series)
    places = sorted({round(x, 6) for s in series for x in s.at})
    width = BAR_RATIO / len(series)
    for k, (s, (colour, *_)) in enumerate(zip(series, cycle(_LINES), strict=False)):
        x = [places.index(round(at, 6)) + (k - (len(series) - 1) / 2) * width for at in s.at]
        right, wrong = [100 * v for v in s.right], [100 * v for v in s.wrong]
        style: dict[str, Any] = {"width": width, "edgecolor": INK[colour], "lw": LINE_PT / 2}
        ax.bar(x, right, facecolor=INK[colour], **style)
        ax.bar(x, wrong, bottom=right, facecolor=INK["paper"], **style)
        left = WIDE_IN - LABEL_IN + EDGE_IN if wide else TICK_IN
        y = (height if wide else key) - ROW_IN * (k + 1 / 2)
        _key(figure, left, y, _short(s.name), {"color": INK[colour], "marker": "s", "ms": MARK_PT, "ls": "none"})
    ax.set_xticks(range(len(places)), [number(100 * x, 0) for x in places])
    ax.set_xlabel("share of the branches that give the winner, %")
    ax.set_ylabel(axis)
    return figure


def _panel(canvas: type[Figure], wide: bool, key: float, right: float) -> tuple[Figure, Any]:
    """A figure with one pair of axes, with room in inches under it for a key and at its right end."""
    width = WIDE_IN if wide else NARROW_IN
    height = PANEL_IN + AXIS_IN + key
    figure = canvas(figsize=(width, height))
    return figure, _axes(figure, (TICK_IN, AXIS_IN + key, width - TICK_IN - right, PANEL_IN - TOP_IN))


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Any:
    """A pair of axes at a place in inches: left, bottom, width, height."""
    width, height = figure.get_size_inches()
    left, bottom, across, up = box
    ax = figure.add_axes((left / width, bottom / height, across / width, up / height))
    ax.locator_params(axis="y", nbins=6)
    ax.grid(axis="y", color=INK["line"], lw=HAIR_PT / 2)
    ax.set_axisbelow(True)
    ax.yaxis.set_major_formatter(lambda x, _: number(x, 0))
    return ax


def _key(figure: Figure, x: float, y: float, name: str, line: dict[str, Any]) -> None:
    _line(figure, (x, x + ROW_IN / 2, x + ROW_IN), (y, y, y), markevery=[1], **line)
    _text(figure, x + ROW_IN + EDGE_IN, y, name)
