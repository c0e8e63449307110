"""A trajectory as a film: a frame a step, the parting marked, hostile texts harmless, refusals said early."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from made_study import HOSTILE
from PIL import Image

from triaxis.conditions import Prompt, Scaffold
from triaxis.errors import UserError
from triaxis.report.ink import PRINTED
from triaxis.report.movie import check_movie, frames, write_movie
from triaxis.sampling.executor import load_executor
from triaxis.sampling.schedule import Decode
from triaxis.tracing import Trace, divergence, record

QUESTION = "Tom has 12 pens. Tom finds 7 more pens. How many pens are there?"


@pytest.fixture(scope="module")
def pair() -> list[Trace]:
    tiny = load_executor("tiny")
    decode = Decode(gen_length=32, block_length=8, steps=16)
    prompts = {"bare": Prompt(QUESTION), "filler": Scaffold("f", "Plan: " + "and so on " * 12).render(QUESTION)}
    return [record(tiny, p, decode, label=name) for name, p in prompts.items()]


def shades(picture: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.getcolors(1 << 24)}


@pytest.mark.slow
def test_there_is_a_frame_a_step_and_the_parting_is_marked(pair: list[Trace]) -> None:
    found = list(frames(pair))
    assert len(found) == max(len(t.steps) for t in pair) + 1
    assert {f.size for f in found} == {found[0].size}
    assert found[0].height % 2 == 0
    assert divergence(*pair).place is not None
    red = tuple(bytes.fromhex(PRINTED["drop"][1:]))
    assert all(red in shades(f) for f in found)
    assert red not in shades(next(frames(pair[:1])))
    whole = sum(len(s.commits) for s in pair[0].steps)
    filled = [sum(n for n, c in f.getcolors(1 << 24) if c[2] > c[0] + 30) for f in frames(pair[:1])]
    assert filled[0] == 0
    assert filled[-1] > 100 * whole  # every committed token is tinted
    assert filled == sorted(filled)


def test_a_gif_plays_every_step(pair: list[Trace], tmp_path: Path) -> None:
    path = write_movie(pair, tmp_path, "gif", per_second=10)
    film = Image.open(path)
    assert film.n_frames == len(list(frames(pair)))  # type: ignore[attr-defined]
    assert film.info["duration"] == 100
    assert write_movie(pair, tmp_path / "again", "gif", per_second=10).read_bytes() == path.read_bytes()


def test_an_mp4_is_one(pair: list[Trace], tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="no MP4: pip install imageio-ffmpeg")
    assert write_movie(pair[:1], tmp_path, "mp4").read_bytes()[4:8] == b"ftyp"


def test_hostile_tokens_and_labels_are_drawn(pair: list[Trace]) -> None:
    bad = dict(zip(pair[0].texts, HOSTILE * len(pair[0].texts), strict=False))
    shown = list(frames([replace(pair[0], label=HOSTILE[4], texts=bad)]))
    out = io.BytesIO()
    shown[-1].save(out, "PNG")
    assert out.tell() > 1000


def test_what_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no kind of film"):
        check_movie("avi")
    monkeypatch.setattr("triaxis.report.movie.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"triaxis\[movie\]"):
        check_movie("mp4")
