"""When a vote over k branches may stop before all k are there. Pure counting: knows answers, not models.

"exact" stops when no answer the missing branches could give changes the winner. "likely" stops when the chance of
that is at most 1 - p under a Polya urn, and is approximate: its flip rate has to be measured (`votes.quorum`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from triaxis.errors import UserError, lookup

STOP_RULES: dict[str, str] = {
    "exact": "the winner cannot change any more, ties included",
    "likely": "approximate: the winner stays with probability >= p under a Polya urn",
}
TIE_RULES: dict[str, str] = {
    "uniform": "the expected score: the share of the tied answers that are right",
    "first": "the tied answer that came first",
    "shortest": "the tied answer with the shortest branch (key = lengths); then the first",
    "confidence": "the tied answer with the most confident branch (key = confidences); then the first",
}
UNSEEN = 1.0  # the urn's weight of an answer not seen yet, in branches
_MOST_LIKELY = 32  # branches; the urn's states are partitions of k, whose number explodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A stopping rule for a vote of k branches, taken in branch order.

    rule: one of `STOP_RULES`; p: what "likely" asks for; tie: the vote's tie rule. Under "first" a leader that can
    only be caught, not passed, is safe; under any other tie rule it is not. UserError on impossible settings.
    """

    k: int
    rule: str = "exact"
    p: float = 0.95
    tie: str = "first"

    def __post_init__(self) -> None:
        lookup("quorum rule", STOP_RULES, self.rule)
        lookup("tie rule", TIE_RULES, self.tie)
        if self.k < 1:
            raise UserError(f"a vote of k={self.k} branches does not exist; give k >= 1")
        if not 0 < self.p <= 1:
            raise UserError(f"quorum p={self.p} is not a probability in (0, 1]; write 95 % as 0.95")
        if self.rule == "likely" and self.k > _MOST_LIKELY:
            raise UserError(f"quorum rule 'likely' counts at most {_MOST_LIKELY} branches, not {self.k}; use 'exact'")

    def settled(self, seen: Sequence[str]) -> bool:
        """May the vote stop after these answers, in branch order, "" = unreadable?"""
        if len(seen) >= self.k:
            return True
        if self.rule == "exact":
            return _fixed(seen, self.k - len(seen), self.tie == "first")
        return flip_chance(seen, self.k, self.tie) <= 1 - self.p

    def earliest(self) -> int:
        """The fewest branches after which an item may stop: all of them agree."""
        return next(j for j in range(1, self.k + 1) if self.settled(["a"] * j))


def _tally(seen: Iterable[str]) -> dict[str, int]:
    """Readable answers in order of appearance."""
    votes: dict[str, int] = {}
    for answer in seen:
        if answer:
            votes[answer] = votes.get(answer, 0) + 1
    return votes


def leaders(seen: Iterable[str]) -> tuple[str, ...]:
    """The readable answers with the most votes, in order of appearance; () where none is readable."""
    votes = _tally(seen)
    return tuple(a for a, v in votes.items() if v == max(votes.values()))


def _fixed(seen: Sequence[str], left: int, first: bool) -> bool:
    """Whether no `left` further answers can change the winner."""
    votes = _tally(seen)
    if not votes:
        return left == 0
    leader = max(votes, key=lambda a: votes[a])  # of equals the one that came first
    order = {a: place for place, a in enumerate(votes)}
    lead = votes[leader]
    rivals = [(v + left, first and order[leader] < order[a]) for a, v in votes.items() if a != leader]
    rivals.append((left, first))  # an answer nobody gave yet
    return all(lead > reach or (lead == reach and safe) for reach, safe in rivals)


def flip_chance(seen: Sequence[str], k: int, tie: str = "first") -> float:
    """Chance that the winner of k branches is not the present leader, given the answers `seen` so far.

    The missing branches are draws from a Polya urn: an answer with c votes has weight c, an answer nobody gave yet
    `UNSEEN` (the predictive of a Dirichlet process; the likely-stop of Aggarwal et al. 2023, arXiv:2305.11860, with
    the k that are really left instead of infinitely many). A final tie of m under a rule other than "first" counts as
    (m - 1) / m of a flip. 1 without a leader, 0 with k branches. Otherwise 0 just where `Stop(rule="exact")` stops.
    """
    votes = _tally(seen)
    if len(seen) >= k:
        return 0.0
    first = tie == "first"
    top = max(votes.values(), default=0)
    leaders = [a for a, v in votes.items() if v == top]
    if not votes or (len(leaders) > 1 and not first):
        return 1.0
    order = list(votes)
    place = order.index(leaders[0])
    rivals = tuple(sorted((v, order.index(a) < place) for a, v in votes.items() if a != leaders[0]))
    return _flip(top, rivals, len(seen) - sum(votes.values()), k - len(seen), first)


@lru_cache(maxsize=1 << 18)
def _flip(lead: int, rivals: tuple[tuple[int, bool], ...], unreadable: int, left: int, first: bool) -> float:
    """The recursion of `flip_chance`; rivals are sorted (votes, came before the leader)."""
    best = max((v for v, _ in rivals), default=0)
    if lead > best + left:
        return 0.0
    if left == 0:
        equal = [before for v, before in rivals if v == lead]
        if best > lead or (first and any(equal)):
            return 1.0
        return 0.0 if first else 1 - 1 / (1 + len(equal))
    weight = lead + sum(v for v, _ in rivals) + unreadable + UNSEEN
    chance = lead / weight * _flip(lead + 1, rivals, unreadable, left - 1, first)
    if unreadable:
        chance += unreadable / weight * _flip(lead, rivals, unreadable + 1, left - 1, first)
    for rival in set(rivals):
        votes, before = rival
        at = rivals.index(rival)
        grown = tuple(sorted((*rivals[:at], (votes + 1, before), *rivals[at + 1 :])))
        chance += rivals.count(rival) * votes / weight * _flip(lead, grown, unreadable, left - 1, first)
    fresh = tuple(sorted((*rivals, (1, False))))
    return chance + UNSEEN / weight * _flip(lead, fresh, unreadable, left - 1, first)
