"""A task that is a list of items: splits, seeded subsets and the numeric grader. Knows nothing of files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from triaxis.errors import UserError, suggest
from triaxis.tasks import grading
from triaxis.tasks.base import Grade, Item


@dataclass(slots=True)
class ListTask:
    """A task from one loader a split. Satisfies `tasks.base.Task`.

    name, revision: as in `Task`; `revision` must change whenever any item does.
    splits: split name -> function that makes its items; each is called at most once, when first asked for.
    fallback: read the last number of a completion without a marked answer (counted in `Grade.how`).
    """

    name: str
    revision: str
    splits: Mapping[str, Callable[[], Sequence[Item]]]
    fallback: bool = False
    _made: dict[str, tuple[Item, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def items(self, n: int | None = None, *, split: str = "test", seed: int = 0) -> Sequence[Item]:
        """The first `n` items (all if None) of the split in the order of `seed`.

        Items are ordered by sha256(seed, id), so a smaller n is a prefix of a larger one, and adding items to
        the split does not reorder the others. UserError for an unknown split or an n outside 1..size.
        """
        made = self._split(split)
        if n is not None and not 1 <= n <= len(made):
            raise UserError(
                f"n={n}, but task {self.name!r} has {len(made)} items in split {split!r}; use 1 to {len(made)}"
            )
        return sorted(made, key=lambda item: _place(seed, item.id))[:n]

    def grade(self, text: str, item: Item) -> Grade:
        """Grade one completion by the rules of `tasks.grading`."""
        return grading.grade(text, item.answer, fallback=self.fallback)

    def _split(self, split: str) -> tuple[Item, ...]:
        if split not in self.splits:
            raise UserError(f"task {self.name!r} has no split {split!r}{suggest(split, self.splits)}")
        if split not in self._made:
            self._made[split] = tuple(self.splits[split]())
        return self._made[split]


def _place(seed: int, item_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{item_id}".encode()).digest()
