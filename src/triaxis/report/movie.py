"""Trajectories as a film: the canvas filling step by step, one above the other, as GIF or MP4.

The same data as the page, for slides and threads. GIF needs Pillow alone, which Matplotlib brings; MP4 needs the extra
`movie` (imageio-ffmpeg, which carries an ffmpeg of its own).
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.errors import UserError, suggest
from triaxis.report import words
from triaxis.report.ink import PRINTED
from triaxis.report.load import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from triaxis.tracing import Commit, Divergence, Guess, Trace

KINDS = ("gif", "mp4")
WIDTH_PX, TEXT_PX, PAD_PX, GAP_PX = 960, 18, 12, 4
LAST_S = 2.0  # how long the whole text stands at the end
FULL = 0.45  # share of the colour at probability 1, as on the page
LONGEST = 16  # characters of a token before it is shortened


def write_movie(traces: Sequence[Trace], folder: Path, kind: str, per_second: float = 6.0) -> Path:
    """Write folder/trace.KIND; its path. UserError for an unknown kind, or MP4 without its extra."""
    check_movie(kind)
    path = folder / f"trace.{kind}"
    shown = list(frames(traces))
    write_bytes(path, _gif(shown, per_second) if kind == "gif" else _mp4(shown, per_second))
    return path


def check_movie(kind: str) -> None:
    """UserError for an unknown kind, or MP4 without its extra: said before anything is recorded."""
    if kind not in KINDS:
        raise UserError(f"--movie {kind!r} is no kind of film{suggest(kind, KINDS)}")
    if kind == "mp4" and find_spec("imageio_ffmpeg") is None:
        raise UserError("--movie mp4 needs imageio-ffmpeg: pip install 'triaxis[movie]', or give --movie gif")


def _gif(shown: Sequence[Image], per_second: float) -> bytes:
    out = io.BytesIO()
    each = round(1000 / per_second)
    durations = [*[each] * (len(shown) - 1), round(1000 * LAST_S)]
    shown[0].save(out, "GIF", save_all=True, append_images=shown[1:], duration=durations, loop=0)
    return out.getvalue()


def _mp4(shown: Sequence[Image], per_second: float) -> bytes:
    import imageio_ffmpeg

    width, height = shown[0].size
    still = [shown[-1]] * round(LAST_S * per_second)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", f"{per_second:g}", "-i", "-", "-pix_fmt", "yuv420p",
        "-movflags", "frag_keyframe+empty_moov", "-f", "mp4", "-",
    ]  # fmt: skip
    raw = b"".join(f.tobytes() for f in [*shown, *still])
    done = subprocess.run(command, input=raw, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(f"--movie mp4: ffmpeg could not write the film ({last}); give --movie gif")
    return done.stdout


# ---------------------------------------------------------------- frames


def frames(traces: Sequence[Trace]) -> Iterator[Image]:
    """One picture before the first step and one after each, all of one size with even sides."""
    from PIL import Image, ImageDraw

    from triaxis.tracing import divergence

    apart = divergence(*traces) if len(traces) == 2 else None
    font = _font()
    sides = [_Side(t, apart, font) for t in traces]
    height, width = sum(s.height for s in sides) + PAD_PX, round(max(s.width for s in sides)) + PAD_PX
    for step in range(max(len(t.steps) for t in traces) + 1):
        picture = Image.new("RGB", (width + width % 2, height + height % 2), PRINTED["paper"])
        pen = ImageDraw.Draw(picture)
        top = 0
        for side in sides:
            side.draw(pen, top, step)
            top += side.height
        yield picture


def _font() -> Any:
    """DejaVu Sans Mono, which Matplotlib ships."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"), TEXT_PX)


class _Side:
    """One trajectory: where each of its tokens stands, and how they look after so many steps."""

    def __init__(self, trace: Trace, apart: Divergence | None, font: Any) -> None:
        self.trace, self.apart, self.font = trace, apart, font
        self.committed: dict[int, tuple[int, Commit]] = {
            c.place: (at, c) for at, s in enumerate(trace.steps) for c in s.commits
        }
        self.row = TEXT_PX + 2 * GAP_PX + GAP_PX
        self.boxes: dict[int, tuple[float, float]] = {}  # place -> left, width
        self.lines: dict[int, int] = {}
        left, line = float(PAD_PX), 0
        for place in sorted(self.committed):
            width = max(font.getlength(self._text(self.committed[place][1].token)), TEXT_PX) + 2 * GAP_PX
            if left + width > WIDTH_PX - PAD_PX or (place and place % trace.decode["block_length"] == 0):
                left, line = float(PAD_PX), line + 1
            self.boxes[place], self.lines[place] = (left, width), line
            left += width + GAP_PX
        head = font.getlength(self._head(len(trace.steps))) + PAD_PX
        self.width = max([head, *(left + width for left, width in self.boxes.values())])
        self.height = 2 * PAD_PX + TEXT_PX + (line + 1) * self.row

    def _text(self, token: int) -> str:
        text = words.visible(self.trace.texts.get(token, f"#{token}"))
        text = text.replace("\n", "\u21b5").replace(" ", "\u00b7")
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"

    def _head(self, step: int) -> str:
        steps = len(self.trace.steps)
        head = f"{words.visible(self.trace.label)}   step {min(step, steps)} of {steps}"
        if self.apart is not None and self.apart.step is not None and step > self.apart.step:
            head += f"   parted at step {self.apart.step}"
        return head

    def draw(self, pen: Any, top: int, step: int) -> None:
        """Draw the trace as it stood after `step` passes, from `top` pixels down."""
        ended = min(step, len(self.trace.steps))
        pen.text((PAD_PX, top + PAD_PX), self._head(step), PRINTED["muted"], self.font)
        seen: dict[int, Guess] = {} if not ended else {g.place: g for g in self.trace.steps[ended - 1].left}
        for place, (left, width) in self.boxes.items():
            at, commit = self.committed[place]
            y = top + PAD_PX + TEXT_PX + GAP_PX + self.lines[place] * self.row
            box = (left, y, left + width, y + TEXT_PX + 2 * GAP_PX)
            done = at < ended
            differs = self.apart is not None and self.apart.place == place
            edge = PRINTED["drop" if differs else "second" if done and at == ended - 1 else "line"]
            pen.rectangle(box, _tint(commit.chance) if done else None, edge, 2 if differs else 1)
            guess = seen.get(place)
            text = self._text(commit.token) if done else self._text(guess.token) if guess else ""
            text = text if self.font.getlength(text) <= width else ""  # a guess longer than what came
            pen.text((left + GAP_PX, y + GAP_PX / 2), text, PRINTED["ink" if done else "muted"], self.font)


def _tint(chance: float) -> tuple[int, ...]:
    """Paper mixed with the page's blue, by probability."""
    paper, ink = (bytes.fromhex(PRINTED[name].removeprefix("#")) for name in ("paper", "same"))
    return tuple(round(a + (b - a) * FULL * chance) for a, b in zip(paper, ink, strict=True))
