"""A checkpoint folder as files: where it is, its config.json, which weight files it has, and its fingerprint.

Imports no torch, so that a misspelt name is answered at once. `load.py` makes networks of these files.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from triaxis.errors import UserError, suggest
from triaxis.limits import parse_json, plain_name, read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# shipped name -> folder; "tiny" is the executor of training seed 2 (docs/tiny.md says why that one)
SHIPPED = {
    "executor": {"tiny": "tiny-2", "tiny-0": "tiny-0", "tiny-1": "tiny-1", "tiny-2": "tiny-2"},
    "planner": {n: n for n in ("tiny-planner-s", "tiny-planner-m", "tiny-planner-l")},
}
RANDOM = "random_weights"  # of config.json: a seed that the weights are drawn from; the folder holds none (random.py)
# beside the weights: what makes tokens of text, text of tokens, and a chat of a question
_TEXT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip


def home(spec: str) -> str:
    """The path with "~" spelled out. os, not Path, and no NUL: nothing raises, whatever the text."""
    return spec if "\x00" in spec else os.path.expanduser(spec)


def find_folder(spec: str, kind: str) -> Path:
    """The folder of a shipped model or of a path. UserError with the nearest name."""
    if spec in SHIPPED[kind]:
        return Path(str(files("triaxis.models").joinpath("tiny", SHIPPED[kind][spec])))
    folder = home(spec)
    if os.path.isdir(folder):
        return Path(folder)
    raise UserError(f"no {kind} named {spec!r} and no such folder{suggest(spec, SHIPPED[kind])}")


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")


def find_checkpoint(spec: str, kind: str) -> tuple[Path, str]:
    """The folder of a shipped model, of a path or of a hub id, and the hub commit ("" where it is not from the hub).

    A hub id is "org/name" or "org/name@revision"; it is fetched, or found in the hub's cache, only when named. No code
    and no pickle is fetched. UserError with the nearest name, or with the hub's own reason.
    """
    if spec in SHIPPED[kind] or os.path.isdir(home(spec)) or not _HUB_ID.fullmatch(spec):
        return find_folder(spec, kind), ""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = spec.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:160]
        raise UserError(
            f"no {kind} named {spec!r}: no such folder, and the hub says: {type(e).__name__} ({reason}); "
            "check the name and the connection, or give a folder"
        ) from None
    return folder, folder.name  # the cache keeps a snapshot under its commit


def added_token(folder: Path, text: str) -> int:
    """The id of an added token of tokenizer.json, such as a mask. UserError where it has none."""
    found = open_tokenizer(folder).token_to_id(text)
    if found is None:
        raise UserError(f"{folder}: neither config.json (mask_token_id) nor tokenizer.json ({text}) names a mask token")
    return int(found)


def read_config(folder: Path) -> dict[str, object]:
    """config.json as a dict. UserError if it is missing or not a JSON object."""
    path = folder / "config.json"
    try:
        fields = parse_json(read_text(path, "settings"))
    except FileNotFoundError:
        raise UserError(f"{folder}: there is no config.json; give a checkpoint folder") from None
    except (ValueError, OSError) as e:
        raise UserError(f"{path}: not readable JSON ({e}); download it again") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    return fields


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sharded or single."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return _shards(folder, index)
    others = [p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    hint = f"; {others[0]} is a pickle, which is never read: convert it to safetensors" if others else ""
    raise UserError(f"{folder}: no model.safetensors and no model.safetensors.index.json{hint}")


def _shards(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(parse_json(read_text(index, "index"))["weight_map"].values()))
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        names = []
    if not names:
        raise UserError(f"{index}: expected a JSON object with a weight_map of tensor name to file; download it again")
    for name in names:
        if not isinstance(name, str) or not plain_name(name) or not name.endswith(".safetensors"):
            raise UserError(f"{index}: {name!r} is not the name of a safetensors file in the same folder")
        if not (folder / name).is_file():
            raise UserError(f"{folder}: the shard {name} named in {index.name} is missing; download it again")
    return [folder / name for name in names]


def open_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.json. UserError if it is missing or unreadable."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder}: no tokenizer.json; text needs one, token ids do not")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as e:
        if type(e) is not Exception:  # tokenizers raises the bare class, and nothing else, for a malformed file
            raise
        raise UserError(f"{path}: not a readable tokenizer ({' '.join(str(e).split())}); download it again") from None


def fingerprint(folder: Path) -> str:
    """Twelve hex digits over the bytes of every file that can change what the model says. Reads them all."""
    digest = hashlib.sha256()
    weights = [] if RANDOM in read_config(folder) else weight_files(folder)
    for path in [*(folder / name for name in _TEXT_FILES), *weights]:
        if path.is_file():
            now = path.stat()
            digest.update(path.name.encode() + _digest(path, now.st_size, now.st_mtime_ns))
    return digest.hexdigest()[:12]


@cache
def _digest(path: Path, size: int, changed: int) -> bytes:
    """sha256 of a file, read once a process while its size and time of change stay the same."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").digest()
