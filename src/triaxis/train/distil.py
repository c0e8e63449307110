"""Consensus distillation: put what several branches agree on into one pass, through a late-layer adapter.

First the headroom is measured in the chosen decoding regime: a vote that is not above greedy has nothing to distil, and
is not distilled in silence. Then greedy and K branches of training items are sorted into buckets, mixed and trained on;
the adapter is on in the last blocks of decoding. Source: the study's consensus adapter (shared buckets and mixture).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from triaxis.conditions import Prompt
from triaxis.errors import UserError, lookup, override
from triaxis.estimate.paired import Estimate, finish, paired
from triaxis.estimate.votes import Ballots, majority, oracle_vote, verifier
from triaxis.sampling.schedule import Decode
from triaxis.store import identity
from triaxis.train.data import Dataset, End, Example, Span, encode
from triaxis.train.fit import Fitted, Note, fit
from triaxis.train.sampled import Bench, Floats, Sampled
from triaxis.train.trackers import check_tracker
from triaxis.train.watch import watch

if TYPE_CHECKING:
    from triaxis.tasks.base import Item
    from triaxis.train.recipes import Recipe

MIXTURE: Mapping[str, float] = {"rescue": 40, "preserve": 50, "pure": 5}  # the study's, in parts
LABELS = ("vote", "gold")


@dataclass(frozen=True, slots=True)
class Regime:
    """A way of decoding: what one pass changes of the family's protocol, and what a branch changes of that."""

    name: str
    one: Mapping[str, object]
    branch: Mapping[str, object]

    def decode(self, base: Decode, *, branch: bool = False) -> Decode:
        """The protocol of the single pass, or of a branch. "whole" as block_length is one block."""
        changes = {**self.one, **(self.branch if branch else {})}
        if changes.get("block_length") == "whole":
            changes["block_length"] = base.gen_length
        return override(base, changes)


REGIMES: Mapping[str, Regime] = {
    r.name: r
    for r in (
        Regime("default", {}, {"temperature": 0.7}),
        Regime("random-order", {"remasking": "random"}, {"temperature": 0.3}),
        Regime("one-block", {"block_length": "whole"}, {"temperature": 0.7}),
        Regime("hot", {}, {"temperature": 1.0}),
    )
}


# ---------------------------------------------------------------- headroom


@dataclass(frozen=True, eq=False)
class Headroom:
    """Greedy, vote and oracle of one regime on the same items, and what there is to gain."""

    regime: str
    greedy: float
    branch: float
    vote: float
    oracle: float
    over_greedy: Estimate  # vote minus greedy
    oracle_over_greedy: Estimate

    def as_dict(self) -> dict[str, Any]:
        named: dict[str, Any] = {k: getattr(self, k) for k in ("regime", "greedy", "branch", "vote", "oracle")}
        named["vote_minus_greedy"] = self.over_greedy.effect()
        return {**named, "oracle_minus_greedy": self.oracle_over_greedy.effect()}

    def sentence(self) -> str:
        e = self.over_greedy
        shares = f"greedy {100 * self.greedy:.1f}, vote {100 * self.vote:.1f}, oracle {100 * self.oracle:.1f} %"
        gap = f"vote minus greedy {100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"
        return f"{self.regime}: {shares}; {gap}"


def headroom(bench: Bench, items: Sequence[Item], regime: Regime, k: int, seed: int = 0) -> Headroom:
    """Measure one regime on `items` with k branches; ties of the vote are split."""
    base = bench.executor.default_decode()
    greedy = bench.sample(items, regime.decode(base), seed=seed)
    branches = bench.sample(items, regime.decode(base, branch=True), branches=k, seed=seed)
    vote, best = majority(branches.ballots).score, oracle_vote(branches.ballots).score
    over, above = finish(
        [paired(vote, greedy.score, name="vote minus greedy"), paired(best, greedy.score, name="oracle minus greedy")]
    )
    one, branch, voted, most = (float(x.mean()) for x in (greedy.score, branches.score, vote, best))
    return Headroom(regime.name, one, branch, voted, most, over, above)


def has_headroom(h: Headroom, label: str) -> bool:
    """Whether there is something to distil: the vote above greedy, or with gold labels the oracle above greedy."""
    e = h.over_greedy if label == "vote" else h.oracle_over_greedy
    return e.low > 0


def refusal(tried: Sequence[Headroom], label: str) -> str:
    """Why nothing is distilled, in one line."""
    if label == "gold":
        told = "; ".join(h.sentence() for h in tried)
        return f"the oracle of the branches is not above greedy ({told}): take more --items, or another --regime"
    return (
        f"the vote is not above greedy in any regime tried ({'; '.join(h.sentence() for h in tried)}): there is no "
        "consensus to distil; use --label gold, another --regime, or more items"
    )


# ---------------------------------------------------------------- buckets


class Sorted(NamedTuple):
    """One training item: its bucket, and the response to learn."""

    item: str
    bucket: str
    target: str


Said = tuple[str, str, bool]  # text, answer, right


def sort_item(item: str, greedy: Said, branches: Sequence[Said], label: str) -> Sorted:
    """The bucket of one item.

    label "vote": the strict plurality of readable answers is the label; without one the item is "tied". rescue: greedy
    says something else (target: the first branch that agrees with the vote); preserve: greedy agrees and some branch
    does not (target: greedy); pure: all agree. label "gold": rescue is greedy wrong and a branch right (target: the
    first right branch), preserve is greedy right and a branch different, pure is all the same and right; "lost" where
    nothing is right.
    """
    text, answer, right = greedy
    same = all(b[1] == answer for b in branches)
    if label == "gold":
        found = next((b[0] for b in branches if b[2]), "")
        if right:
            return Sorted(item, "pure" if same else "preserve", text)
        return Sorted(item, "rescue", found) if found else Sorted(item, "lost", "")
    counts = Counter(b[1] for b in branches if b[1]).most_common()
    if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
        return Sorted(item, "tied", "")
    winner = counts[0][0]
    if winner == answer:
        return Sorted(item, "pure" if same else "preserve", text)
    return Sorted(item, "rescue", next(b[0] for b in branches if b[1] == winner))


def sort_items(items: Sequence[Item], greedy: Sampled, branches: Sampled, label: str) -> list[Sorted]:
    """The buckets of all items, in order."""
    lookup("label source", dict.fromkeys(LABELS), label)

    def said(s: Sampled, i: int) -> list[tuple[str, str, bool]]:
        return list(zip(s.texts[i], s.answers[i], map(bool, s.right[i]), strict=True))

    return [sort_item(item.id, said(greedy, i)[0], said(branches, i), label) for i, item in enumerate(items)]


def mix(rows: Sequence[Sorted], parts: Mapping[str, float] = MIXTURE, seed: int = 0) -> list[Sorted]:
    """The largest mixture of the buckets in the given parts; rows are chosen by hash, so more data keeps the order.

    Buckets without parts are left out; one with parts and no rows gives its share to the others, but an empty rescue
    bucket is a UserError: without it there is nothing to learn.
    """

    def place(r: Sorted) -> str:
        return identity({"seed": seed, "item": r.item})

    pools = {b: sorted((r for r in rows if r.bucket == b), key=place) for b in parts}
    if not pools.get("rescue"):
        raise UserError(
            f"bucket 'rescue' is empty over {len(rows)} items: no branch is better than greedy by this label; take "
            "more --items, another --regime, or --label gold"
        )
    held = {b: p for b, p in pools.items() if p and parts[b] > 0}
    whole = sum(parts[b] for b in held)
    total = min(len(p) / (parts[b] / whole) for b, p in held.items())
    return [r for b, p in held.items() for r in p[: max(1, round(total * parts[b] / whole))]]


def agreement(rows: Sequence[Sorted], greedy: Sampled, branches: Sampled) -> dict[str, Any]:
    """How far the branches agree: bucket counts, shares of items all alike, mean number of different answers."""
    unique = [len({a for a in row if a}) for row in branches.answers]
    same = [len(set(row)) == 1 and row[0] == g[0] for row, g in zip(branches.answers, greedy.answers, strict=True)]
    votes = majority(branches.ballots)
    agree = [w == g[0] for w, g in zip(votes.winner, greedy.answers, strict=True)]
    return {
        "items": len(rows), "buckets": dict(Counter(r.bucket for r in rows)),
        "unanimous": float(np.mean(same)), "greedy_is_vote": float(np.mean(agree)),
        "unique": float(np.mean(unique)), "tied": int(votes.tie.sum()),
    }  # fmt: skip


def consensus_data(
    bench: Bench, items: Sequence[Item], rows: Sequence[Sorted], recipe: Recipe, held: float = 0.1
) -> tuple[Dataset, Dataset | None]:
    """Training and held-out data of a mixture; the held-out share is whole items of every bucket."""
    question = {i.id: i.question for i in items}
    apart = {r.item for b in MIXTURE for r in _share([r for r in rows if r.bucket == b], held)}
    decode = bench.executor.default_decode()
    end: End = "one" if recipe.end == "one" else "fill"

    def made(part: list[Sorted]) -> Dataset:
        examples = [Example(r.item, r.bucket, Prompt(question[r.item]), r.target) for r in part]
        return encode(
            bench.executor, examples, response=decode.gen_length, block=decode.block_length,
            span=Span.parse(recipe.span), end=end,
        )  # fmt: skip

    kept = [r for r in rows if r.item in apart]
    return made([r for r in rows if r.item not in apart]), made(kept) if kept else None


def _share(rows: Sequence[Sorted], share: float) -> Sequence[Sorted]:
    return rows[: int(share * len(rows))]


# ---------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil:
    """What is distilled. items: for training; n: for the test; k: branches; blocks: last blocks with the adapter on."""

    recipe: Recipe
    regime: str = "default"
    label: str = "vote"
    items: int = 500
    n: int = 300
    k: int = 5
    blocks: tuple[int, ...] = (1, 3)
    seeds: tuple[int, ...] = (0,)
    temperatures: tuple[float, ...] = (0.3, 0.7)
    tracker: str = ""

    def __post_init__(self) -> None:
        lookup("label source", dict.fromkeys(LABELS), self.label)
        lookup("regime", dict.fromkeys(("auto", *REGIMES)), self.regime)
        check_tracker(self.tracker)
        if self.k < 2 or not self.blocks or min(self.blocks) < 1:
            raise UserError(f"distil k={self.k} must be at least 2, and blocks={self.blocks} whole numbers from 1")


def find_regime(bench: Bench, d: Distil, items: Sequence[Item]) -> tuple[Regime | None, list[Headroom]]:
    """The regime to distil in, None where none has headroom; "auto" tries them all in order."""
    tried = []
    for name in REGIMES if d.regime == "auto" else (d.regime,):
        h = headroom(bench, items, REGIMES[name], d.k)
        tried.append(h)
        if has_headroom(h, d.label):
            return REGIMES[name], tried
    return None, tried


def train_consensus(
    bench: Bench, d: Distil, regime: Regime, items: Sequence[Item], out: Path, note: Note | None = None
) -> tuple[list[Fitted], dict[str, Any]]:
    """One adapter a training seed, and the data report."""
    base = bench.executor.default_decode()
    greedy = bench.sample(items, regime.decode(base))
    branches = bench.sample(items, regime.decode(base, branch=True), branches=d.k)
    rows = sort_items(items, greedy, branches, d.label)
    mixture = mix(rows)
    report = {**agreement(rows, greedy, branches), "mixture": dict(Counter(r.bucket for r in mixture))}
    data, held = consensus_data(bench, items, mixture, d.recipe)
    card = {
        "kind": "consensus",
        "label": d.label,
        "regime": regime.name,
        "data_report": report,
        "protocol": base.card(),
    }
    probe = watch(bench.executor, held) if held else None
    fitted = [
        fit(bench.executor, replace(d.recipe, seed=s), data, out / f"consensus-s{s}", held=held, card=card, probe=probe,
            note=note, tracker=d.tracker)
        for s in d.seeds
    ]  # fmt: skip
    return fitted, report


def baselines(bench: Bench, d: Distil, regime: Regime, tests: Sequence[Item]) -> tuple[Sampled, Sampled, list[Sampled]]:
    """What every adapter is compared with: greedy, the branches, and one pass at each other temperature."""
    base = bench.executor.default_decode()
    one = regime.decode(base)
    heated = [bench.sample(tests, override(one, {"temperature": t})) for t in d.temperatures]
    return bench.sample(tests, one), bench.sample(tests, regime.decode(base, branch=True), branches=d.k), heated


def evaluate(
    bench: Bench, d: Distil, regime: Regime, adapters: Sequence[Path], tests: Sequence[Item]
) -> dict[str, Any]:
    """Single pass and vote with the adapter against greedy, vote, the best temperature and a reranker.

    Scores are means over training seeds; every line says what it costs in forwards an item, and comparisons are between
    lines of equal cost. The temperature is chosen on the other half of the items for each half.
    """
    base = bench.executor.default_decode()
    one, many = regime.decode(base), regime.decode(base, branch=True)
    greedy, branches, heated = baselines(bench, d, regime, tests)
    scores: dict[str, Floats] = {"greedy": greedy.score, "vote": majority(branches.ballots).score}
    scores["rerank"] = _reranked(branches)
    scores["best-temperature"] = _best_of([greedy.score, *(s.score for s in heated)])
    cost = {"greedy": greedy.forwards.mean(), "best-temperature": greedy.forwards.mean()}
    cost |= dict.fromkeys(("vote", "rerank"), branches.forwards.sum(1).mean())
    shift: dict[str, Any] = {}
    for n in d.blocks:
        specs = [f"{folder}@last:{n}" for folder in adapters]
        single = [bench.sample(tests, one, adapter=s) for s in specs]
        voted = [bench.sample(tests, many, branches=d.k, adapter=s) for s in specs]
        scores[f"c2c@{n}"] = _over([s.score for s in single])
        scores[f"cmajc@{n}"] = _over([majority(s.ballots).score for s in voted])
        cost[f"c2c@{n}"] = np.mean([s.forwards.mean() for s in single])
        cost[f"cmajc@{n}"] = np.mean([s.forwards.sum(1).mean() for s in voted])
        shift[f"c2c@{n}"] = _shifts(greedy, single)
    pairs = [(f"c2c@{n}", other) for n in d.blocks for other in ("greedy", "best-temperature", "vote")]
    pairs += [(f"cmajc@{n}", other) for n in d.blocks for other in ("vote", "rerank")]
    family = finish([paired(scores[a], scores[b], name=f"{a} minus {b}") for a, b in pairs])
    lines = [{"name": k, "accuracy": float(v.mean()), "forwards": float(cost[k])} for k, v in scores.items()]
    return {"n": len(tests), "lines": lines, "effects": [e.effect() for e in family], "shift": shift}


def _over(scores: Sequence[Floats]) -> Floats:
    return np.asarray(np.mean(scores, axis=0), dtype=float)


def _reranked(s: Sampled) -> Floats:
    """The branch whose own tokens were likeliest: a reranker that needs no second model."""
    b: Ballots = s.ballots
    return np.asarray(verifier(b, scores=np.exp(s.confidence)).score, dtype=float)


def _best_of(tried: Sequence[Floats]) -> Floats:
    """One pass at the best of the temperatures, chosen by cross-fitting on the other half of the items."""
    matrix = np.stack(tried)
    half = np.arange(matrix.shape[1]) % 2 == 0
    out = np.empty(matrix.shape[1])
    for mine in (half, ~half):
        out[mine] = matrix[int(matrix[:, ~mine].mean(1).argmax())][mine]
    return out


def _shifts(greedy: Sampled, single: Sequence[Sampled]) -> dict[str, float]:
    """How often the adapter changes the text, the answer, and the verdict each way, over seeds and items."""
    text = [a[0] != b[0] for s in single for a, b in zip(s.texts, greedy.texts, strict=True)]
    answer = [a[0] != b[0] for s in single for a, b in zip(s.answers, greedy.answers, strict=True)]
    gain = np.mean([(s.right & ~greedy.right).mean() for s in single])
    loss = np.mean([(~s.right & greedy.right).mean() for s in single])
    return {"text": float(np.mean(text)), "answer": float(np.mean(answer)), "gain": float(gain), "loss": float(loss)}


def distil(bench: Bench, d: Distil, out: Path, note: Note | None = None) -> dict[str, Any]:
    """Headroom, data, adapters, evaluation; resumable. Without headroom "refused" says why, and nothing is trained."""
    items = bench.task.items(d.items, split="train", seed=0)
    tests = bench.task.items(d.n, seed=0)
    regime, tried = find_regime(bench, d, items)
    found: dict[str, Any] = {"label": d.label, "headroom": [h.as_dict() for h in tried], "recipe": d.recipe.card()}
    if regime is None:
        return {**found, "refused": refusal(tried, d.label)}
    fitted, report = train_consensus(bench, d, regime, items, out, note)
    found |= {"regime": regime.name, "data": report, "adapters": [str(f.folder) for f in fitted]}
    return {**found, **evaluate(bench, d, regime, [f.folder for f in fitted], tests)}
