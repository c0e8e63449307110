"""Preflight of a training run, and of an adapter someone else trained: what would go wrong in silence.

Each check returns findings; none of them trains or decodes more than a probe. The mistakes they are made of were all
made: names of another family that attach to 4 of 7 modules, a bare ff_out that wraps LLaDA's head, training rows
without the chat template of the evaluation, adapters that were loaded and did nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from triaxis.errors import UserError
from triaxis.limits import lines, parse_json, read_text
from triaxis.models.adapters import CONFIG, find_adapter, read_adapter, read_tensors
from triaxis.models.card import card_of
from triaxis.models.folder import find_checkpoint, read_config
from triaxis.models.load import Checkpoint
from triaxis.models.load import build_network as build
from triaxis.models.schedules import At, Schedule
from triaxis.models.targets import Linears, linears, matches, meant, pattern, resolve
from triaxis.sampling.executor import Executor, load_executor
from triaxis.sampling.schedule import Decode

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. error: the run would not be what it says; warning: it may not be; info: how it is."""

    code: str
    severity: Severity
    message: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def skeleton(spec: str) -> Executor:
    """An executor without weights: names, ids, template. Quick at any size."""
    folder, revision = find_checkpoint(spec, "executor")
    fields = read_config(folder)
    family = card_of(fields, str(folder / "config.json"), None)
    config, network, _ = build(family, fields, folder)
    return Executor(Checkpoint(spec, folder, family, config, network, "", revision))


# ---------------------------------------------------------------- targets


def check_targets(found: Linears, targets: str | Sequence[str], what: str = "the network") -> list[Finding]:
    """What a list of target names, or a pattern, would attach to. `what`: how messages call the network."""
    if isinstance(targets, str):
        return list(_check_pattern(found, targets, what))
    chosen = resolve(found, targets)
    right = pattern(found, targets)
    absent = [t for t in targets if not any(matches(t, m) for m in (*found.layered, *found.outside))]
    out: list[Finding] = []
    if absent:
        named = ", ".join(f"{t} (here {meant(found, t)})" if meant(found, t) else t for t in absent)
        out.append(Finding("target-unmatched", "error", f"no linear layer of {what} is called {named}; use {right}"))
    inside = [m for m in chosen if m in found.layered]
    if absent and inside:
        full = len(resolve(found, right))
        out.append(
            Finding(
                "fewer-modules", "error",
                f"{len(targets) - len(absent)} of {len(targets)} names attach: {len(inside)} of {full} modules; "
                f"the others are passed over in silence by peft; use {right}",
            )
        )  # fmt: skip
    out += _heads(found, chosen, right)
    return out or [Finding("targets", "info", _extent(found, inside))]


def _check_pattern(found: Linears, targets: str, what: str) -> Iterator[Finding]:
    chosen = resolve(found, targets)
    inside = [m for m in chosen if m in found.layered]
    if not chosen:
        right = pattern(found, [])
        yield Finding(
            "target-unmatched", "error", f"pattern {targets!r} matches no linear layer of {what}; use {right}"
        )
        return
    yield from _heads(found, chosen, pattern(found, list(dict.fromkeys(m.rsplit(".", 1)[-1] for m in inside))))
    yield Finding("targets", "info", _extent(found, inside))


def _heads(found: Linears, chosen: Sequence[str], right: str) -> list[Finding]:
    heads = [m for m in chosen if m in found.outside]
    if not heads:
        return []
    message = f"the targets also wrap {', '.join(heads)}, the language model's head; use {right}"
    return [Finding("head-wrapped", "error", message)]


def _extent(found: Linears, modules: Sequence[str]) -> str:
    names = ", ".join(dict.fromkeys(m.rsplit(".", 1)[-1] for m in modules))
    layers = len({found.layered[m] for m in modules})
    return f"{len(modules)} modules: {names} in {layers} of {found.depth} layers"


# ---------------------------------------------------------------- ids and template


def check_tokens(executor: Executor) -> list[Finding]:
    """Mask id, end marks, padding and the chat template, against the tokenizer's files."""
    return [*_ids(executor), *_template(executor)] or [
        Finding("tokens", "info", "mask id, end marks, padding and chat template agree with the tokenizer")
    ]


def _ids(executor: Executor) -> Iterator[Finding]:
    checkpoint, tokenizer = executor.checkpoint, executor.tokenizer
    config, family = checkpoint.config, checkpoint.family
    if tokenizer.id_to_token(config.mask_token_id) is None:
        yield Finding(
            "mask-id",
            "error",
            f"mask id {config.mask_token_id} is no token of the tokenizer; take both from one checkpoint",
        )
    if tokenizer.get_vocab_size() > config.rows:
        more = f"{tokenizer.get_vocab_size()} tokens, the network {config.rows} embedding rows"
        yield Finding("vocabulary", "error", f"the tokenizer has {more}; take both from one checkpoint")
    lost = [e for e in family.ends if tokenizer.token_to_id(e) is None]
    if lost:
        yield Finding(
            "eos", "error", f"end mark {', '.join(lost)} of family {family.name} is no token: answers would not end"
        )
    known = [tokenizer.token_to_id(e) for e in family.ends]
    if config.eos_token_id not in known:
        yield Finding(
            "eos", "warning", f"config's eos id {config.eos_token_id} is none of the end marks {', '.join(family.ends)}"
        )
    pad = read_config(checkpoint.folder).get("pad_token_id")
    if pad == config.mask_token_id:
        yield Finding(
            "padding", "error", f"pad id {pad} is the mask id: padding would be denoised; set it to the eos id"
        )
    elif pad is not None and pad not in executor.end_ids:
        yield Finding(
            "padding",
            "warning",
            f"pad id {pad} is no end mark; triaxis pads with {config.eos_token_id} whatever it says",
        )


def _template(executor: Executor) -> Iterator[Finding]:
    family = executor.checkpoint.family
    before, _, after = family.content.partition("{content}")
    for part in (family.start, before, after, family.reply):
        for mark in _marks(part):
            if len(executor.encode(mark, special=True)) != 1:
                yield Finding(
                    "chat-template", "error",
                    f"template mark {mark} of family {family.name} is no single token of this tokenizer",
                )  # fmt: skip
    own = _own_template(executor.checkpoint.folder)
    ours = family.start + family.content.replace("{content}", "QUESTION") + family.reply
    if own and _rendered(own, family.start) not in (ours, None):
        yield Finding(
            "chat-template", "warning",
            "the folder's own chat template renders another prompt than the family card; the card's is what is used",
        )  # fmt: skip


def _marks(text: str) -> list[str]:
    import re

    return re.findall(r"<\|[^|<>]+\|>", text)


def _own_template(folder: Path) -> str:
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja", "settings")
    path = folder / "tokenizer_config.json"
    try:
        found = parse_json(read_text(path, "tokenizer")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _rendered(template: str, bos: str) -> str | None:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
        messages = [{"role": "user", "content": "QUESTION"}]
        return made.render(messages=messages, bos_token=bos, eos_token="", add_generation_prompt=True)
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ):
        return None  # a template that cannot be rendered, whatever it does


# ---------------------------------------------------------------- data against the evaluation


def read_rows(path: Path) -> list[dict[str, str]]:
    """Training rows of a JSON Lines file: objects with "prompt" and "response". UserError names the first bad line."""
    rows = []
    try:
        found = lines(read_text(path, "results"))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read ({e})") from None
    for number, line in enumerate(found, 1):
        try:
            row = parse_json(line)
            rows.append({k: str(row[k]) for k in ("prompt", "response")})
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{path}:{number}: expected an object with "prompt" and "response"') from None
    if not rows:
        raise UserError(f"{path}: no rows; give a JSON Lines file with prompt and response")
    return rows


def check_data(
    executor: Executor, rows: Sequence[Mapping[str, str]], decode: Decode, scaffolds: Mapping[str, str] | None = None
) -> list[Finding]:
    """Training rows against how they will be evaluated. scaffolds: name -> opening text that the evaluation shows."""
    family, n = executor.checkpoint.family, len(rows)
    marks = _marks(family.start + family.content + family.reply)
    within = sum(any(m in r["prompt"] for m in marks) for r in rows)
    out = []
    if 0 < within < n:
        out.append(
            Finding("format-mismatch", "error", f"{within} of {n} prompts carry template marks and the rest do not")
        )
    elif within == n:
        text = (
            f"all {n} prompts spell the chat template themselves; it is added to them again: give the user's text only"
        )
        out.append(Finding("format-mismatch", "error", text))
    mask = executor.tokenizer.id_to_token(executor.checkpoint.config.mask_token_id)
    ends = [e for e in (*family.ends, mask) if e and any(e in r["response"] for r in rows)]
    if ends:
        text = f"responses spell {', '.join(ends)}; end marks are added by the padding rule, text is ordinary text"
        out.append(Finding("eos", "error", text))
    long = sum(len(executor.encode(r["response"])) + 1 > decode.gen_length for r in rows)
    if long:
        out.append(
            Finding(
                "padding",
                "warning",
                f"{long} of {n} responses do not fit gen_length={decode.gen_length}; they are left out",
            )
        )
    unseen = [name for name, text in (scaffolds or {}).items() if text and not any(text in r["prompt"] for r in rows)]
    if unseen:
        text = f"the evaluation shows {', '.join(unseen)}, which no training prompt contains: a test of generalising"
        out.append(Finding("scaffold-unseen", "warning", text))
    return out or [Finding("data", "info", f"{n} rows agree with the evaluation's format")]


# ---------------------------------------------------------------- adapters


def check_adapter(executor: Executor, spec: str) -> list[Finding]:
    """What an adapter's files really attach to in this executor, whatever its configuration says."""
    folder, found = find_adapter(spec), linears(executor.checkpoint.network)
    held = list(read_tensors(folder))
    inside = [m for m in held if m in found.layered]
    absent = [m for m in held if m not in found.layered and m not in found.outside]
    out = _heads(found, held, pattern(found, list(dict.fromkeys(m.rsplit(".", 1)[-1] for m in inside))))
    if absent:
        names = dict.fromkeys(m.rsplit(".", 1)[-1] for m in absent)
        own = ", ".join(f"{n} (here {meant(found, n)})" if meant(found, n) else n for n in names)
        text = f"{len(absent)} of its {len(held)} modules are not in {executor.name}: {own}, such as {absent[0]}"
        out.append(Finding("adapter-absent", "error", text))
    out += _against_config(folder, found, held, executor.name)
    extent = _extent(found, inside) if inside else "nothing"
    return [*out, Finding("adapter-attaches", "info", f"{spec} attaches to {extent}")]


def _against_config(folder: Path, found: Linears, held: Sequence[str], name: str) -> Iterator[Finding]:
    config = parse_json(read_text(folder / CONFIG, "settings"))
    targets = config.get("target_modules")
    if isinstance(targets, str | list) and targets:
        yield from (f for f in check_targets(found, targets, name) if f.severity == "error")
    named = targets if isinstance(targets, list) else []
    bare = [t for t in named if not any(matches(t, m) for m in held)]
    if bare:
        text = f"its configuration names {', '.join(bare)}, for which it holds no matrices: it was never attached there"
        yield Finding("fewer-modules", "error", text)


def check_card(executor: Executor, spec: str) -> Iterator[Finding]:
    """Whether an adapter's own card says that it was trained on this base and for this canvas and template."""
    adapter = read_adapter(spec)
    base, canvas = adapter.card.get("base"), adapter.card.get("canvas")
    if not base or not canvas:
        text = f"{spec} has no card: on which base, data and template it was trained is not known"
        yield Finding("no-card", "warning", text)
        return
    if base["fingerprint"] != executor.fingerprint:
        text = f"{spec} was trained on {base['name']} ({base['fingerprint']}), this is {executor.fingerprint}"
        yield Finding("other-base", "warning", text)
    if base["family"] != executor.checkpoint.family.name:
        text = f"{spec} was trained in the template of family {base['family']}, here {executor.checkpoint.family.name}"
        yield Finding("format-mismatch", "error", text)
    decode = executor.default_decode()
    for name, here in (("gen_length", decode.gen_length), ("block_length", decode.block_length)):
        if canvas[name] != here:
            yield Finding(
                "other-canvas", "warning", f"{spec} was trained with {name}={canvas[name]}, here it is {here}"
            )


class Shift(NamedTuple):
    """How far an adapter moves the logits of one block, over all prompts and positions of the block."""

    block: int
    on: bool  # whether the schedule has any adapter on there
    largest: float  # largest absolute difference of logits
    divergence: float  # mean KL divergence, adapter from base, nats
    flips: float  # share of positions whose likeliest token changes


@torch.inference_mode()
def block_shift(executor: Executor, prompts: Sequence[Sequence[int]], decode: Decode, schedule: str) -> list[Shift]:
    """The logit-shift profile of a schedule: each block still hidden, the ones before as the base answers greedily."""
    plain = executor.with_adapters("")
    mounted = plain.with_adapters(schedule).adapters
    if mounted is None:
        raise UserError(f"schedule {schedule!r} names no adapter; there is nothing to probe")
    device = next(mounted.network.parameters()).device
    answers = torch.tensor(plain.generate_ids(prompts, replace(decode, temperature=0.0)))
    plan, shifts = Schedule.parse(schedule), []
    place = torch.arange(decode.gen_length)
    for block in range(decode.blocks):
        start = block * decode.block_length
        shown = torch.where(place < start, answers, executor.checkpoint.config.mask_token_id)
        ids, valid, first = _canvas(prompts, shown)
        select = first[:, None] + torch.arange(start, start + decode.block_length)
        given = (ids.to(device), valid.to(device), select.to(device))
        base: Tensor = mounted.base.head(mounted.base.hidden(*given)).float()
        gate = plan.gate(At(block, decode.blocks, 0, 1 - start / decode.gen_length), mounted.names)
        with mounted.gated([gate]) as network:
            moved: Tensor = network.head(network.hidden(*given)).float()
        shifts.append(_shift(block, any(gate), base, moved))
    return shifts


def _canvas(prompts: Sequence[Sequence[int]], shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    width = max(map(len, prompts)) + shown.shape[1]
    lines = [[*p, *s, *[0] * (width - len(p) - len(s))] for p, s in zip(prompts, shown.tolist(), strict=True)]
    first = torch.tensor([len(p) for p in prompts])
    return torch.tensor(lines), torch.arange(width)[None] < (first + shown.shape[1])[:, None], first


def _shift(block: int, on: bool, base: Tensor, moved: Tensor) -> Shift:
    p, q = base.log_softmax(-1), moved.log_softmax(-1)
    divergence = (q.exp() * (q - p)).sum(-1).mean()
    flips = (base.argmax(-1) != moved.argmax(-1)).float().mean()
    return Shift(block, on, float((base - moved).abs().max()), float(divergence), float(flips))


def check_fires(shifts: Sequence[Shift], spec: str) -> list[Finding]:
    """Whether a loaded adapter changes anything where its schedule says it is on, and nothing where it is off."""
    table = ", ".join(f"{s.block}: {s.largest:.2g} ({100 * s.flips:.0f} % flips)" for s in shifts)
    dead = [str(s.block) for s in shifts if s.on and s.largest == 0]
    if dead:
        text = f"{spec} is on in block {', '.join(dead)} and changes no logit there; it was not trained, or not loaded"
        return [Finding("does-not-fire", "error", text)]
    return [Finding("fires", "info", f"largest logit change by block: {table}")]


# ---------------------------------------------------------------- all of it


def examine(
    spec: str, *, targets: Sequence[str] = (), adapter: str = "", data: Path | None = None,
    scaffolds: Mapping[str, str] | None = None, questions: Sequence[str] = (),
) -> list[Finding]:  # fmt: skip
    """All checks that what is given allows. Weights are loaded only to probe an adapter that fits."""
    executor = skeleton(spec)
    out: list[Finding] = []
    if targets:
        given: str | Sequence[str] = targets[0] if len(targets) == 1 and set(targets[0]) & set("*()|\\") else targets
        out += check_targets(linears(executor.checkpoint.network), given, spec)
    tokenizer = (executor.checkpoint.folder / "tokenizer.json").is_file()
    if tokenizer:
        out += check_tokens(executor)
    else:
        out.append(Finding("tokenizer", "warning", f"{spec} has no tokenizer.json: ids and template were not checked"))
    if data is not None and tokenizer:
        out += check_data(executor, read_rows(data), executor.default_decode(), scaffolds)
    if adapter:
        out += _examine_adapter(spec, executor, adapter, questions)
    return out


def _examine_adapter(spec: str, executor: Executor, adapter: str, questions: Sequence[str]) -> list[Finding]:
    out = [f for name in Schedule.parse(adapter).names for f in check_adapter(executor, name)]
    if any(f.code in ("adapter-absent", "head-wrapped") for f in out) or not questions:
        return out
    try:
        loaded: Any = load_executor(spec).with_adapters(adapter)
    except UserError as e:
        return [*out, Finding("adapter-refused", "error", str(e))]
    out += [f for name in Schedule.parse(adapter).names for f in check_card(loaded, name)]
    prompts = [loaded.prompt_ids(q) for q in questions]
    return [*out, *check_fires(block_shift(loaded, prompts, loaded.default_decode(), adapter), adapter)]
