"""From a figure to the page and to a file: colours, fonts, downloads.

Matplotlib's Figure and its backends, never pyplot, imported when the first figure is drawn. Colours are CSS variables
of the page, so that one drawing serves light, dark and print; text stays text. Every figure is drawn twice, for a
screen and for a phone, because scaled-down labels cannot be read. Knows nothing of what a figure shows.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from triaxis.report.embed import embedded
from triaxis.report.words import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT_PT, SMALL_PT, HAIR_PT = 10, 9, 0.8
MIDDLE_EM = 0.35  # from the middle of a line of text down to where its letters stand
TRUETYPE = 42  # the kind of font in a PDF whose text can be searched and edited

# Stand-ins that matplotlib accepts as colours, and the page's variables that replace them.
INK = {
    "ink": "#010101", "muted": "#020202", "line": "#030303", "paper": "#040404",
    "drop": "#0a0001", "lift": "#0a0002", "same": "#0a0003", "open": "#0a0004", "second": "#0a0005",
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": TRUETYPE,
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": TEXT_PT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK["line"],
    "axes.linewidth": HAIR_PT,
    "axes.labelcolor": INK["muted"],
    "axes.labelsize": SMALL_PT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK["ink"],
    "xtick.color": INK["line"],
    "ytick.color": INK["line"],
    "xtick.labelcolor": INK["muted"],
    "ytick.labelcolor": INK["muted"],
    "xtick.labelsize": SMALL_PT,
    "ytick.labelsize": SMALL_PT,
}


@dataclass(frozen=True, slots=True)
class Said:
    """Text beside the axes of a figure, at a place in inches, centred on its height."""

    x: float
    y: float
    text: str
    ha: Literal["left", "center", "right"] = "left"
    weight: Literal["normal", "bold"] = "normal"
    size: float = TEXT_PT
    color: str = INK["ink"]


# Kept apart from the figure and written into the SVG as it is: Matplotlib measures every text it draws, which took a
# third of the time of a page. A file gets them from Matplotlib all the same.
_SAID: WeakKeyDictionary[Figure, list[Said]] = WeakKeyDictionary()


def say(figure: Figure, said: Said) -> None:
    """Put text on a figure."""
    _SAID.setdefault(figure, []).append(said)


def _written(figure: Figure) -> str:
    """What was said on a figure, as SVG."""
    height = 72 * figure.get_figheight()
    anchors = {"left": "start", "center": "middle", "right": "end"}
    return "".join(
        f'<text x="{72 * s.x:.2f}" y="{height - 72 * s.y + MIDDLE_EM * s.size:.2f}" style="font-size: {s.size}px; '
        f'font-weight: {s.weight}; text-anchor: {anchors[s.ha]}; fill: {_VARIABLE[s.color]}">'
        f"{escape(visible(s.text), quote=False)}</text>"
        for s in _SAID.get(figure, ())
    )


def twice(
    draw: Callable[[type[Figure], bool], Figure], name: str, title: str, behind: Sequence[Sequence[object]]
) -> str:
    """The figure for a screen and for a phone, and the numbers behind it, unrounded, as data for a download."""
    with _drawing(name) as canvas:
        files = _FILES.get()
        if files is not None:
            files.made[name] = _file(draw(canvas, True), files.kind)
            files.behind[name] = behind
        drawn = [_svg(draw(canvas, wide), f"{name}-{k}", k, title) for k, wide in (("wide", True), ("narrow", False))]
        shown = [[visible(x) if isinstance(x, str) else x for x in row] for row in behind]
        data = f'<script type="application/json" class="behind" data-name="{name}">{embedded(shown)}</script>'
        return "\n".join([*drawn, data])


@contextmanager
def _drawing(name: str) -> Iterator[type[Figure]]:
    """Our settings while drawing, the caller's again afterwards; ids made from `name`, the same every time."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser's fonts have it
        yield Figure


@dataclass(frozen=True, slots=True)
class Files:
    """Figures as files: their kind, the bytes of each by its name, and the table of the numbers behind it."""

    kind: str
    made: dict[str, bytes]
    behind: dict[str, Sequence[Sequence[object]]]


KINDS = ("pdf", "svg")
_FILES: ContextVar[Files | None] = ContextVar("files", default=None)
# The page's light colours, which a file on paper keeps.
PRINTED = {
    "ink": "#1b1d21", "muted": "#5c6168", "line": "#c8c7c1", "paper": "#ffffff",
    "drop": "#b0261c", "lift": "#14713f", "same": "#0b62a0", "open": "#696d74", "second": "#9a4d00",
}  # fmt: skip
_PAINTED = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


@contextmanager
def as_files(kind: str) -> Iterator[Files]:
    """Every figure drawn inside is also a file. kind: one of KINDS."""
    files = Files(kind, {}, {})
    token = _FILES.set(files)
    try:
        yield files
    finally:
        _FILES.reset(token)


def _file(figure: Figure, kind: str) -> bytes:
    """The figure by itself, in the light colours; the same bytes every time."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for s in _SAID.get(figure, ()):
        style: dict[str, Any] = {"ha": s.ha, "weight": s.weight, "size": s.size, "color": s.color}
        figure.text(s.x, s.y, s.text, va="center_baseline", transform=figure.dpi_scale_trans, **style)
    _paint(figure)
    out = io.BytesIO()
    bare: dict[str, None] = dict.fromkeys(
        ("CreationDate", "Creator", "Producer") if kind == "pdf" else ("Date", "Creator")
    )
    canvas = FigureCanvasPdf if kind == "pdf" else FigureCanvasSVG
    canvas(figure).print_figure(out, format=kind, metadata=bare, bbox_inches="tight")
    return out.getvalue()


def _paint(figure: Figure) -> None:
    """Replace the stand-in colours on everything drawn."""
    from matplotlib.colors import to_hex

    printed = {stand_in: PRINTED[name] for name, stand_in in INK.items()}
    figure.canvas.draw()  # ticks are made when they are drawn
    for artist in figure.findobj():
        for what in _PAINTED:
            if (get := getattr(artist, f"get_{what}", None)) is None:
                continue
            held = get()  # a colour, or a row of them each
            first = held[0] if getattr(held, "ndim", 1) == 2 and len(held) else held
            if len(first) == 0 or (isinstance(first, str) and first == "none"):
                continue
            if (colour := printed.get(to_hex(first))) is not None:
                getattr(artist, f"set_{what}")(colour)


def _svg(figure: Figure, name: str, kind: str, title: str) -> str:
    """The figure as an inline SVG element with a title, unique ids, and the page's colours and fonts."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    FigureCanvasSVG(figure).print_figure(
        out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = out.getvalue()
    text = text[text.index("<g ") : text.rindex("</svg>")]
    ids = {i: f"{name}-{place}" for place, i in enumerate(dict.fromkeys(_USED.findall(text)))}
    text = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], ids), text)
    text = re.sub(r">\s+<", "><", text) + _written(figure)
    width, height = (72 * x for x in figure.get_size_inches())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" role="img" aria-labelledby="{name}" '
        f'style="width:{4 * width / 3:.0f}px" viewBox="0 0 {width:g} {height:g}">'
        f'<title id="{name}">{escape(title)}</title>{text}</svg>'
    )


_USED = re.compile(r'(?:url\(|href=")#([\w.-]+)')
_DROP = re.compile(r'font-family: [^;"]*;? ?| transform="rotate\(-0 [^"]*"')
_COLOUR = re.compile("|".join(INK.values()))
_VARIABLE = {stand_in: f"var(--{name})" for name, stand_in in INK.items()}


def _tag(tag: str, ids: Mapping[str, str]) -> str:
    """One tag of matplotlib's SVG, rewritten; the text between tags, which holds names, is never touched."""
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{ids[m[1]]}"' if m[1] in ids else "", tag)
    tag = re.sub(r'(url\(|href=")#([\w.-]+)', lambda m: f"{m[1]}#{ids[m[2]]}", tag).replace("xlink:href", "href")
    tag = _COLOUR.sub(lambda m: _VARIABLE[m[0]], _DROP.sub("", tag))
    return re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", tag))
