"""A vote that samples its branches in waves and leaves out those that cannot (or hardly) change it.

Knows an executor only by `complete`, and answers only as the strings a reader returns. When to stop is
`estimate.quorum`; what a stop costs in changed outcomes is measured by `estimate.votes.quorum` on finished branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from triaxis.errors import UserError
from triaxis.estimate.quorum import Stop, leaders
from triaxis.sampling.schedule import Decode


class Completed(Protocol):
    """What a vote needs of a completion."""

    @property
    def text(self) -> str: ...
    @property
    def forwards(self) -> int: ...


C = TypeVar("C", bound=Completed)


class Completes(Protocol[C]):
    """What a vote needs of an executor."""

    def complete(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[int], decode: Decode,
        done: Callable[[list[int], list[C]], None],
    ) -> None: ...  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumItem:
    """One item's vote. forwards_saved: branches not drawn x the mean forwards of those drawn, an estimate."""

    winner: str  # "" where no branch was readable
    tied: tuple[str, ...]  # all answers with the most votes, in order of appearance; the winner alone if settled
    answers: tuple[str, ...]  # of the branches drawn, in branch order
    forwards: int
    forwards_saved: float

    @property
    def used(self) -> int:
        """Branches drawn."""
        return len(self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumRun:
    """The votes of all items, in order, and the rule that stopped them."""

    stop: Stop
    items: tuple[QuorumItem, ...]

    @property
    def approximate(self) -> bool:
        """Whether the rule may have changed an outcome."""
        return self.stop.rule != "exact"

    @property
    def forwards(self) -> int:
        return sum(i.forwards for i in self.items)

    @property
    def saved(self) -> float:
        """Share of all forwards that were not run, as far as the branches drawn tell."""
        spared = sum(i.forwards_saved for i in self.items)
        return spared / (spared + self.forwards)


def quorum_vote(
    executor: Completes[C],
    prompts: Sequence[Sequence[int]],
    keys_by_branch: Sequence[Sequence[int]],
    decode: Decode,
    read_answer: Callable[[int, str], str],
    k: int,
    rule: str = "exact",
    p: float = 0.95,
    tie: str = "first",
) -> QuorumRun:
    """Sample up to k branches of each prompt, wave by wave, and stop an item when its vote is settled.

    keys_by_branch: k sequences of one random stream key a prompt; branch b of item i is the completion that
    `executor.complete` gives for keys_by_branch[b][i], whatever wave it falls in, so that "exact" has the winners of
    the full vote. read_answer(place, text): the canonical answer, "" if unreadable. tie: "first" or "uniform" (whose
    winner is the first of the tied; see `tied`). The first wave draws the branches that every item needs, each later
    one a branch of every item left. Raises UserError on impossible settings, and where a completion does not depend on
    its random stream (every branch would be the same).
    """
    if tie not in ("first", "uniform"):
        raise UserError(f"a quorum reads answers only, so tie rule {tie!r} cannot be kept; use 'first' or 'uniform'")
    stop = Stop(k=k, rule=rule, p=p, tie=tie)
    if len(keys_by_branch) != k or any(len(keys) != len(prompts) for keys in keys_by_branch):
        sizes = sorted({len(keys) for keys in keys_by_branch})
        raise UserError(
            f"keys for {len(keys_by_branch)} branches of {sizes} items; give k={k} lists of {len(prompts)} keys"
        )
    if k > 1 and not decode.draws:
        raise UserError("branches at temperature 0 with low-confidence remasking are all the same; raise temperature")
    answers: list[list[str]] = [[] for _ in prompts]
    forwards = [0] * len(prompts)
    open_items, at, wave = list(range(len(prompts))), 0, stop.earliest()
    while open_items:
        work = [(i, b) for i in open_items for b in range(at, at + wave)]
        drawn = _draw(executor, prompts, keys_by_branch, decode, work)
        for i, b in work:
            completion = drawn[i, b]
            answers[i].append(read_answer(i, completion.text))
            forwards[i] += completion.forwards
        at, wave = at + wave, 1
        open_items = [i for i in open_items if not stop.settled(answers[i])]
    return QuorumRun(stop=stop, items=tuple(_item(a, f, k) for a, f in zip(answers, forwards, strict=True)))


def _draw(
    executor: Completes[C], prompts: Sequence[Sequence[int]], keys_by_branch: Sequence[Sequence[int]], decode: Decode,
    work: Sequence[tuple[int, int]],
) -> dict[tuple[int, int], C]:  # fmt: skip
    """The completions of (item, branch) pairs."""
    drawn: dict[tuple[int, int], C] = {}

    def done(places: list[int], completions: list[C]) -> None:
        drawn.update(zip((work[place] for place in places), completions, strict=True))

    executor.complete([prompts[i] for i, _ in work], [keys_by_branch[b][i] for i, b in work], decode, done)
    return drawn


def _item(answers: Sequence[str], forwards: int, k: int) -> QuorumItem:
    tied = leaders(answers)
    saved = forwards / len(answers) * (k - len(answers))
    return QuorumItem(
        winner=tied[0] if tied else "", tied=tied, answers=tuple(answers), forwards=forwards, forwards_saved=saved
    )
