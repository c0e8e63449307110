"""A store's rows as columns, read once: by this process, or the parts of a large store by several at once.

Every row's checksum is looked at, as in any reading of a store. What needs whole rows afterwards fetches them by id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaxis.compute import Chunk, Compute, Crew, Place, backend
from triaxis.errors import UserError
from triaxis.estimate.columns import Columns, Part, Values, arranged, join, read, reading
from triaxis.store import GradeRow, Row, Store, damaged, made, sound
from triaxis.study import kept

if TYPE_CHECKING:
    from triaxis.estimate.arms import Table

LARGE = 200_000  # rows from which further processes are worth their start
RANGES = 128  # parts of a large store
CACHE = 16_000  # KB of pages that a reader keeps: of the grades, which lie in the order of their hashes
MOST = 6  # readers: each takes about 110 MB, and a report of five million rows is to stay under 2 GB
WIDTH = len(Row.__dataclass_fields__) + 1  # columns of a row, with its checksum
Cards = Sequence[Mapping[str, Any]]


def gather(store: Store, cards: Cards, workers: int = 1, *, keep: bool = False) -> Columns:
    """The columns of the conditions in `cards`. workers: processes that read a large store, at most MOST. keep: leave
    the columns of a large store in a file beside it (`kept.py`); whoever comes next takes them from there. The result
    is the same.

    UserError where the store is damaged. With several workers a script that calls this needs
    `if __name__ == "__main__"`, as for any processes.
    """
    if store.tally("rows").rows < LARGE:
        return arranged(_part(store, cards))
    folder, made_of = store.path.parent, kept.stamp(store, cards)
    if (there := kept.load(folder, made_of)) is not None:
        return there
    found = arranged(_part(store, cards) if workers == 1 else join(_parts(store, cards, workers)))
    if keep:
        kept.keep(found, folder, made_of)
    return found


def tabled(store: Store, columns: Columns, cards: Cards, n: int) -> Table:
    """The columns of a store as a table; whole rows are read when they are asked for. UndefinedEstimate as `table`."""
    from triaxis.estimate.arms import by_item, table

    def completions(name: str, first: int | None) -> list[list[Row]]:
        return by_item(columns, name, first, lambda ids: [row for row, _ in fetch(store, ids)])

    return table(columns, store.plans(), cards, n, completions)


_TOGETHER = 500  # ids of one query; SQLite takes 999 at least


def fetch(store: Store, ids: Sequence[str]) -> list[tuple[Row, GradeRow]]:
    """Whole rows with their grades by id, in the order of the ids. UserError where one is missing or damaged."""
    found, split = {}, WIDTH - 1
    for start in range(0, len(ids), _TOGETHER):
        some = ids[start : start + _TOGETHER]
        for values in _graded(store, f"WHERE rows.id IN ({', '.join('?' * len(some))})", *some):
            found[values[0]] = (made(Row, values[:split]), made(GradeRow, (values[0], *values[split:])))
    if missing := len(set(ids) - found.keys()):
        raise UserError(f"{store.path}: {missing} rows vanished while they were read; run it again")
    return [found[id] for id in ids]


def _graded(store: Store, where: str, *values: str) -> Iterator[Values]:
    """Values of rows, then those of their grades without the id; None for all of these where there is no grade."""
    end = WIDTH - 1
    for found in store.ask(f"SELECT * FROM rows LEFT JOIN grades ON grades.row = rows.id {where}", *values):
        row, grade = found[:end], found[WIDTH:-1]
        if not sound(Row, row, found[end]):
            raise _refused(store, Row, row)
        if grade[0] is not None and not sound(GradeRow, grade, found[-1]):
            raise _refused(store, GradeRow, grade)
        yield row + grade[1:]


def _refused(store: Store, kind: type[Row | GradeRow], values: Values) -> UserError:
    repair = f"run triaxis verify {store.path.parent} --repair, then run the study again"
    return UserError(f"{store.path}: {damaged(kind, values)} is damaged; {repair}")


def _part(store: Store, cards: Cards, where: str = "", *values: str) -> Part:
    names = {str(c["name"]) for c in cards}
    found = (v for v in _graded(store, where, *values) if v[1] in names)
    return read(found, reading(cards, partial(_plan, store)))


def _plan(store: Store, id: str) -> str:
    return next((str(text) for (text,) in store.ask("SELECT text FROM plans WHERE id = ?", id)), "")


# ---------------------------------------------------------------- several processes


def _parts(store: Store, cards: Cards, workers: int) -> Iterator[Part]:
    from triaxis.compute.pool import Pool

    crews = {"reader": Crew(partial(_opened, store.path), _work)}
    compute = Compute(kind="processes", workers=min(workers, MOST))
    ranges = _ranges(store)
    with Pool(backend(compute), crews) as pool:
        for part in ranges:
            pool.submit(Chunk("reader", cards, (part,), (None,)))
        while pool.busy:
            yield from pool.next().results


def _ranges(store: Store) -> list[tuple[str, ...]]:
    """Conditions, with their values, that split the rows as they lie: by their place, or by their hash in a store from
    before rows had one. The first has no lower end and the last no upper one."""
    ((sql,),) = store.ask("SELECT sql FROM sqlite_master WHERE name = 'rows'")
    if "WITHOUT ROWID" in str(sql):
        column, ends = "id", [f"{256 * k // RANGES:02x}" for k in range(1, RANGES)]
    else:
        ((last,),) = store.ask("SELECT max(rowid) FROM rows")
        column, ends = "rowid", [str(last * k // RANGES) for k in range(1, RANGES)]
    middle = [(f"WHERE rows.{column} >= ? AND rows.{column} < ?", *pair) for pair in pairwise(ends)]
    return [(f"WHERE rows.{column} < ?", ends[0]), *middle, (f"WHERE rows.{column} >= ?", ends[-1])]


def _opened(path: Path, place: Place) -> Store:
    store = Store(path, write=False)
    list(store.ask(f"PRAGMA cache_size = -{CACHE}"))
    return store


def _work(store: Store, cards: Cards, ranges: tuple[Any, ...]) -> list[Part]:
    return [_part(store, cards, where, *values) for where, *values in ranges]
