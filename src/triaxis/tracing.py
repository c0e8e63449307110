"""Records how one completion is denoised: what was committed when, how sure the network was, and what else it saw.

The network is wrapped, not changed: a recorder stands between the denoising loop and the network, keeps the place of
the wanted positions and a few numbers of their logits on the device, and turns them into plain data at the end. On a
GPU a recorded row is denoised step by step without CUDA graphs. Knows nothing of pages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from triaxis.conditions import Prompt
from triaxis.errors import UserError
from triaxis.limits import check_form, lines, parse_json, read_text
from triaxis.models.schedules import At, Schedule
from triaxis.sampling.schedule import Decode

if TYPE_CHECKING:
    from torch import Tensor

    from triaxis.sampling.executor import Executor
    from triaxis.sampling.rows import Denoised


SCHEMA = 1
EVEN = 1e-6  # two float32 probabilities nearer than this are no order
DIGITS = 7  # of a probability in the file: finer than EVEN


class Guess(NamedTuple):
    """What the network wanted at a hidden position of the response at one step."""

    place: int
    token: int
    chance: float  # un-noised probability of `token`
    entropy: float  # of the whole distribution, nats


class Commit(NamedTuple):
    """A token put on the canvas. `others`: the likeliest tokens there with their probabilities, `token` perhaps among
    them."""

    place: int
    token: int
    chance: float
    entropy: float
    others: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its block, the adapters that were on with their factors, what was committed and what was left."""

    number: int
    block: int
    adapters: Mapping[str, float]
    commits: tuple[Commit, ...]
    left: tuple[Guess, ...]  # hidden positions of the block that stayed hidden


@dataclass(frozen=True, slots=True)
class Trace:
    """A denoising trajectory. Places count from the response's first token; `texts` has the text of every id in it."""

    label: str
    executor: str
    fingerprint: str
    adapter: str
    prompt: str
    decode: Mapping[str, Any]
    seed: int
    answer: str
    ids: tuple[int, ...]
    ended: bool
    forwards: int
    seconds: float
    texts: Mapping[int, str]
    steps: tuple[Step, ...]


class Recorder:
    """A network that remembers its predictions. Everything but `hidden` and `head` is the network's own."""

    def __init__(self, network: Any, cfg_scale: float = 0.0, top: int = 5) -> None:
        self._network, self._cfg, self._top = network, cfg_scale, top
        self._select: Any = None
        self.passes: list[
            tuple[Tensor, Tensor, Tensor, Tensor]
        ] = []  # places, entropy, chances, tokens; (K,) or (K, top)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def hidden(self, ids: Any, valid: Any = None, select: Any = None, *rest: Any, **named: Any) -> Any:
        self._select = select
        return self._network.hidden(ids, valid, select, *rest, **named)

    def head(self, hidden: Any) -> Any:
        """The logits, of which entropy and the likeliest tokens are noted."""
        from torch.special import entr

        logits = self._network.head(hidden)
        seen = logits
        if self._cfg:  # as sampling/denoise.py guides
            with_prompt, blind = logits.chunk(2)
            seen = blind + (self._cfg + 1) * (with_prompt - blind)
        chances = seen[0].float().softmax(-1)
        likely = chances.topk(min(self._top, chances.shape[-1]), dim=-1)
        self.passes.append((self._select[0], entr(chances).sum(-1), likely.values, likely.indices))
        return logits


def record(
    executor: Executor, prompt: Prompt, decode: Decode, *, label: str = "", seed: int = 0, top: int = 5
) -> Trace:
    """Denoise one prompt and keep its trajectory. The tokens are those of `Executor.denoise` without a recorder.

    executor: with its adapter schedule on. top: alternatives kept at each commit. UserError for a prompt or a protocol
    the executor cannot take, or top < 1.
    """
    from triaxis.streams import stream_key

    if top < 1:
        raise UserError(f"--top {top}: keep at least 1 alternative")
    recorder = Recorder(executor.checkpoint.network, decode.cfg_scale, top)
    watched = replace(executor, checkpoint=replace(executor.checkpoint, network=recorder))  # type: ignore[arg-type]
    ids = executor.prompt_ids(*prompt.parts)
    began = time.perf_counter()
    (row,) = watched.denoise([ids], [stream_key("trace", seed)], decode)
    steps = tuple(_steps(recorder, row, len(ids), decode, executor))
    seconds = time.perf_counter() - began
    used = {
        *row.ids,
        *(t for s in steps for c in s.commits for t, _ in c.others),
        *(g.token for s in steps for g in s.left),
    }
    return Trace(
        label or "trace", executor.name, executor.fingerprint, executor.schedule, prompt.shown, asdict(decode), seed,
        executor.text(row.ids), tuple(row.ids), row.ended, row.forwards, seconds,
        {t: str(executor.tokenizer.decode([t], skip_special_tokens=False)) for t in sorted(used)}, steps,
    )  # fmt: skip


def _steps(recorder: Recorder, row: Denoised, prompt: int, d: Decode, executor: Executor) -> Iterator[Step]:
    """Plain steps from what the recorder kept; the order of commits and their probabilities are the loop's own."""
    aligned = executor.checkpoint.network.shape.attend_block > 0
    inside = prompt % d.block_length if aligned else 0  # tokens of the prompt in the first block
    schedule = Schedule.parse(executor.schedule)
    block, began = -1, 0
    for number, kept in enumerate(recorder.passes):
        places, entropies, chances, tokens = (t.tolist() for t in kept)
        hidden = [
            (p - prompt, h, c, t)
            for p, h, c, t in zip(places, entropies, chances, tokens, strict=True)
            if 0 <= p - prompt < d.gen_length and (row.order[p - prompt] >= number or row.order[p - prompt] < 0)
        ]
        if not hidden:  # a step of an aligned block's end that lies outside the response
            continue
        now = (hidden[0][0] + inside) // d.block_length
        block, began = (block, began) if now == block else (now, number)
        masked = sum(o >= number or o < 0 for o in row.order) / d.gen_length
        gates = schedule.gate(At(block, d.blocks, number - began, masked), schedule.names)
        commits = [
            Commit(p, row.ids[p], row.chances[p], h, tuple(zip(t, c, strict=True)))
            for p, h, c, t in hidden
            if row.order[p] == number
        ]
        left = [Guess(p, t[0], c[0], h) for p, h, c, t in hidden if row.order[p] != number]
        on = {name: gate for name, gate in zip(schedule.names, gates, strict=True) if gate}
        yield Step(number, block, on, tuple(commits), tuple(left))


# ---------------------------------------------------------------- what to look at


class Divergence(NamedTuple):
    """Where two trajectories part: the first step that commits other tokens, the first place whose token differs."""

    step: int | None
    place: int | None


def divergence(a: Trace, b: Trace) -> Divergence:
    """None where they never do. A longer trajectory parts where the shorter one has ended."""
    paths = [[{(c.place, c.token) for c in s.commits} for s in t.steps] for t in (a, b)]
    longest = max(map(len, paths))
    left, right = (p + [set()] * (longest - len(p)) for p in paths)
    step = next((i for i in range(longest) if left[i] != right[i]), None)
    most = max(len(a.ids), len(b.ids))
    ids = [[*t.ids, *[-1] * (most - len(t.ids))] for t in (a, b)]
    return Divergence(step, next((i for i in range(most) if ids[0][i] != ids[1][i]), None))


class Alarms(NamedTuple):
    """Steps whose order of commitment, or whose token, no probability decided."""

    order_ties: tuple[int, ...]  # a position left hidden was as likely as one committed: the lower position won
    token_ties: tuple[int, ...]  # two tokens were equally likely at a committed position: the lower id won
    saturated: tuple[int, ...]  # more positions at probability 1 (float32) than were committed
    sure: int  # tokens committed at probability 1
    commits: int


def alarms(t: Trace) -> Alarms:
    """Ties and saturation of a trajectory. Where tokens or their order are drawn at random, only saturation is told."""
    drawn = t.decode["temperature"] > 0 or t.decode["remasking"] == "random"
    order, token, full = [], [], []
    for s in t.steps:
        sure = [c.chance >= 1 - EVEN for c in s.commits]
        if len(sure) and all(sure) and any(g.chance >= 1 - EVEN for g in s.left):
            full.append(s.number)
        if drawn or not s.commits:
            continue
        if s.left and min(c.chance for c in s.commits) - max(g.chance for g in s.left) <= EVEN:
            order.append(s.number)
        if any(len(c.others) > 1 and c.others[0][1] - c.others[1][1] <= EVEN for c in s.commits):
            token.append(s.number)
    made = [c for s in t.steps for c in s.commits]
    return Alarms(tuple(order), tuple(token), tuple(full), sum(c.chance >= 1 - EVEN for c in made), len(made))


# ---------------------------------------------------------------- files


def to_jsonl(t: Trace) -> str:
    """A head line, then a line a step: commits as [place, token, chance, entropy, [[token, chance], ...]], what stayed
    hidden as [place, token, chance, entropy]. Entropies are nats."""
    head = {k: v for k, v in _fields(t).items() if k != "steps"}
    lines: list[Mapping[str, Any]] = [{"schema": SCHEMA, **head}]
    lines += [
        {"step": s.number, "block": s.block, "adapters": dict(s.adapters), "commits": rounded(s.commits),
         "left": rounded(s.left)}
        for s in t.steps
    ]  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)


def read_jsonl(path: Path) -> Trace:
    """UserError where the file is not a trace this version can read."""
    try:
        head, *steps = [parse_json(line) for line in lines(read_text(path, "trace"))]
        if head.pop("schema") != SCHEMA:
            raise UserError(f"{path}: a trace of another schema; record it again with triaxis trace")
        check_form([head, *steps], [object], "the trace")
        check_form(head, _HEAD, "its first line")
        check_form(steps, [_STEP], "step")
        head["texts"] = {int(k): v for k, v in head["texts"].items()}
        return Trace(**{**head, "ids": tuple(head["ids"]), "steps": tuple(map(_step, steps))})
    except OSError as e:
        raise UserError(f"{path}: cannot read ({e.strerror}); give the .jsonl file that triaxis trace wrote") from None
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise UserError(f"{path}: damaged, not a trace ({e}); record it again with triaxis trace") from None


_HEAD = {
    "label": str, "executor": str, "fingerprint": str, "adapter": str, "prompt": str, "seed": int, "answer": str,
    "decode": {"temperature": float, "remasking": str, "gen_length": int}, "ids": [int], "ended": bool,
    "forwards": int, "seconds": float, "texts": {"*": str},
}  # fmt: skip
_STEP = {"step": int, "block": int, "adapters": {"*": float}, "commits": [[object]], "left": [[float]]}


def _fields(t: Trace) -> dict[str, Any]:
    return {name: getattr(t, name) for name in Trace.__slots__}


def _step(raw: Mapping[str, Any]) -> Step:
    commits, left = tuple(map(_commit, raw["commits"])), tuple(Guess(*g) for g in raw["left"])
    check_form([n for g in left for n in g[:2]], [int], "left")
    return Step(raw["step"], raw["block"], raw["adapters"], commits, left)


def _commit(raw: Sequence[Any]) -> Commit:
    place, token, chance, entropy, others = raw
    check_form(others, [[float]], "others")
    check_form([place, token, *(i for i, _ in others)], [int], "tokens")
    check_form([chance, entropy], [float], "chances")
    return Commit(place, token, chance, entropy, tuple((i, p) for i, p in others))


def rounded(values: Sequence[Any]) -> list[Any]:
    """Commits or guesses as lists of plain numbers, as they stand in a file."""

    def near(x: Any) -> Any:
        if isinstance(x, float):
            return round(x, DIGITS)
        return [near(y) for y in x] if isinstance(x, tuple) else x

    return [near(v) for v in values]
