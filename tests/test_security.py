"""Nothing foreign is executed or unpickled, or leads out of its folder; no key is written. See SECURITY.md."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import guard
import pytest
from endpoint_server import serving
from made_study import HOSTILE, write_study

from triaxis.errors import UserError, readable

SRC = Path(guard.HOME)
ROOT = SRC.parents[1]
SOURCES = sorted(SRC.rglob("*.py"))
MORE = sorted(p for folder in ("bench", "recipes") for p in (ROOT / folder).rglob("*.py"))

# ---------------------------------------------------------------- what no source may say

NEVER = {  # module -> why
    **dict.fromkeys(
        ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"), "executes what it reads"
    ),
    **dict.fromkeys(("zipfile", "tarfile"), "unpacks names from elsewhere"),
}
IN_LIMITS = (
    "tomllib",
    "yaml",
    "zlib",
    "safetensors.safe_open",
    "safetensors.torch.load_file",
    "safetensors.torch.load",
)
CALLS = (
    "torch.load", "np.load", "numpy.load", "torch.hub.load", "eval", "exec", "compile", "__import__", "os.system",
    "os.popen", "json.load", "gzip.open", "gzip.decompress", "gzip.GzipFile", "shutil.unpack_archive", "yaml.load",
    "yaml.safe_load", "torch.jit.load", "torch.package.PackageImporter",
)  # fmt: skip


def offences(source: str, limits: bool = False) -> Iterator[str]:
    """What a source says that it may not. limits: of the one module that opens foreign formats."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node, limits)
        elif isinstance(node, ast.Call):
            yield from _call(node, limits)


def _imports(node: ast.Import | ast.ImportFrom, limits: bool) -> Iterator[str]:
    names = [a.name for a in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [node.module or "", *(f"{node.module}.{n}" for n in names)]
    for name in names:
        if name.split(".")[0] in NEVER and not (limits and name == "zipfile"):
            yield f"{node.lineno}: imports {name}, which {NEVER[name.split('.')[0]]}"
        if not limits and name in IN_LIMITS:
            yield f"{node.lineno}: imports {name}; limits.py opens foreign formats"


def _call(node: ast.Call, limits: bool) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in CALLS and not (limits and name in ("gzip.GzipFile", "yaml.load")):
        yield f"{node.lineno}: calls {name}"
    if name.split(".")[-1] in ("loads", "extractall") and not limits and not _of_our_own(node):
        yield f"{node.lineno}: calls {name}; limits.parse_json has the limits"
    for word in node.keywords:
        value = ast.unparse(word.value)
        if (word.arg, value) in (
            ("trust_remote_code", "True"), ("allow_pickle", "True"), ("shell", "True"), ("weights_only", "False"),
            ("use_safetensors", "False"), ("autoescape", "False"),
        ):  # fmt: skip
            yield f"{node.lineno}: {word.arg}={value}"
    if name.endswith("import_module") and ("torch" in ast.unparse(node) or "pickle" in ast.unparse(node)):
        yield f"{node.lineno}: {ast.unparse(node)}"
    if (
        name.endswith("from_pretrained")
        and "**options" not in ast.unparse(node)
        and "local_files_only" not in ast.unparse(node)
    ):
        yield f"{node.lineno}: {name} without local_files_only"


def _of_our_own(node: ast.Call) -> bool:
    """json.loads(json.dumps(x)) makes plain data of our own."""
    first = node.args[0] if node.args else None
    return isinstance(first, ast.Call) and ast.unparse(first.func).endswith("dumps")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_source_executes_or_opens_what_it_may_not(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"), limits=path.name == "limits.py")) == []


@pytest.mark.parametrize("path", MORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_script_unpickles(path: Path) -> None:
    bad = [o for o in offences(path.read_text(encoding="utf-8")) if re.search("pickle|torch.load|np.load|eval|exec", o)]
    assert bad == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle", "from pickle import loads", "def f():\n    import joblib", "torch.load(p, weights_only=True)",
        "np.load(p, allow_pickle=True)", "AutoModel.from_pretrained(x, trust_remote_code=True, local_files_only=True)",
        "yaml.load(t, Loader=yaml.Loader)", "json.loads(path.read_text())", "import tomllib", "tar.extractall()",
        "from safetensors import safe_open", "eval(text)", "gzip.decompress(b)", "AutoConfig.from_pretrained(name)",
    ],
)  # fmt: skip
def test_the_scan_finds_planted_offences(planted: str) -> None:
    assert list(offences(planted))


def test_models_of_others_are_opened_without_their_code() -> None:
    text = (SRC / "models" / "causal.py").read_text(encoding="utf-8")
    assert '"trust_remote_code": False' in text
    assert "use_safetensors=True" in text


# ---------------------------------------------------------------- the guard that watches every test


def _as_ours(source: str) -> Callable[..., Any]:
    """A function whose code says that it stands in this package."""
    space: dict[str, Any] = {"pickle": pickle}
    exec(compile(source, str(SRC / "planted.py"), "exec"), space)
    made: Callable[..., Any] = space["f"]
    return made


def test_the_guard_stops_unpickling_and_opening_pickles(tmp_path: Path) -> None:
    data = pickle.dumps(Path("x"))
    assert pickle.loads(data) == Path("x")  # a test may
    before = len(guard.found)
    with pytest.raises(guard.ForeignPickle, match=r"planted.py:1 unpickled pathlib"):
        _as_ours("def f(b): return pickle.loads(b)")(data)
    with pytest.raises(guard.ForeignPickle, match="unpickled"):  # the pure Python unpickler as well
        _as_ours("def f(b):\n import io\n return pickle._Unpickler(io.BytesIO(b)).load()")(data)
    weights = tmp_path / "pytorch_model.bin"
    weights.write_bytes(data)
    with pytest.raises(guard.ForeignPickle, match=r"opened .*pytorch_model.bin"):
        _as_ours("def f(p): return open(p, 'rb').read()")(str(weights))
    del guard.found[before:]


def test_torch_load_on_our_way_is_stopped(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(1)}, tmp_path / "w.weights")  # whatever it is called
    before = len(guard.found)
    with pytest.raises(guard.ForeignPickle):
        _as_ours("def f(load, p): return load(p, weights_only=False)")(torch.load, tmp_path / "w.weights")
    del guard.found[before:]


@pytest.fixture(autouse=True)
def nothing_swallowed() -> Iterator[None]:
    before = len(guard.found)
    yield
    assert guard.found[before:] == []


# ---------------------------------------------------------------- names that lead elsewhere

NAMES = ("../x", "/etc/x", "..", ".", "", "a/b", "a\\b", "x\x00", "..\\x", "a" * 300)


@pytest.mark.parametrize("name", NAMES)
def test_a_bank_is_copied_under_a_plain_name_only(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triaxis.plans import build, files
    from triaxis.tasks import load_task

    monkeypatch.chdir(tmp_path)
    bank = files.read_bank(files.shipped()["tiny-planner-s"])
    with pytest.raises(UserError, match="plain name"):
        build.copy(bank, load_task(bank.manifest.task), name)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", [f"{n}.safetensors" for n in NAMES if n] + ["..", "x.bin"])
def test_a_shard_lies_in_its_folder(name: str, folder: Path) -> None:
    import triaxis

    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(UserError, match=r"not the name of a safetensors file|is missing"):
        triaxis.load_executor(str(folder))


@pytest.mark.slow
def test_files_made_of_foreign_names_stay_in_their_folder(tmp_path: Path) -> None:
    """A study whose arms, planners and tasks have names of paths: figures, tables, tuned files, registry entries."""
    from triaxis.cli.tune import place_of
    from triaxis.report.export import latex, write_csv, write_figures
    from triaxis.report.load import load

    deep = tmp_path / "a" / "b"
    write_study(deep / "study", n=6, planners={"../../evil": 1000, "/tmp/evil": 2000})
    summary, _, store = load(deep / "study")
    store.__exit__(None, None, None)
    out = deep / "out"
    made = [*write_csv(summary, out), *write_figures(summary, out, "svg")]
    assert made
    assert {p.resolve().parent for p in made} == {out.resolve()}
    assert {p.name for p in tmp_path.rglob("*") if p.is_dir()} == {"a", "b", "study", "out"}
    assert "evil" in latex(summary)
    for executor, task in (("../../x", "../y"), ("/etc/passwd", "jsonl:../../z"), ("..", "..")):
        place = place_of(executor, task)
        assert place.parent == place_of("tiny", "gradeschool").parent
        assert place.name not in ("..", ".")


def test_served_paths_lead_nowhere_else(tmp_path: Path) -> None:
    from triaxis.report.serve import Site

    write_study(tmp_path / "runs" / "s", n=4, planners={"p": 1})
    (tmp_path / "secret.html").write_text("the secret")
    (tmp_path / "runs" / "s" / "trace.html").symlink_to(tmp_path / "secret.html")
    site = Site.of([tmp_path / "runs"])
    for target in (
        "/study/0/trace.html", "/study/0/../../secret.html", "/study/0/%2e%2e/secret.html", "/study/../secret.html",
        "/study/0//etc/passwd", "/study/-1/summary.json", "/study/\u0660/summary.json", "/study/0/rows.sqlite",
        "//evil/summary.json", "http://[", "/study/0/summary.json/..", "/compare?a=../..&b=0",
    ):  # fmt: skip
        answer = site.answer(target)
        assert b"the secret" not in answer.body, target
        assert answer.status == 404, target
    assert site.answer("/study/0/summary.json").status == 200


# ---------------------------------------------------------------- keys and tokens

KEY, TOKEN = "sk-" + "Kq7" * 14, "hf_" + "Zx9" * 12


def _run(arguments: list[str], cwd: Path) -> tuple[int, str]:
    """A command in a process of its own with both secrets set; all it said."""
    env = {**os.environ, "TRIAXIS_API_KEY": KEY, "OPENAI_API_KEY": KEY, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", "from triaxis.cli import main; main()", *arguments],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _holds(folder: Path, secret: str) -> list[str]:
    """Files below a folder that hold any part of a secret of twelve characters or more, or its base64."""
    import base64

    marks = [secret[:12].encode(), secret[-12:].encode(), base64.b64encode(secret.encode())[:16]]
    return [str(p) for p in folder.rglob("*") if p.is_file() and any(m in p.read_bytes() for m in marks)]


@pytest.mark.slow
def test_a_run_with_keys_writes_them_nowhere(tmp_path: Path) -> None:
    """A server that repeats the key in its answers, its errors and its headers; a whole study, then failures."""
    echo = {"error": {"message": f"bad key Bearer {KEY} and {TOKEN}"}}
    with serving() as server:
        spec = server.spec()
        common = ["--n", "4", "--planners", spec, "--conditions", f"none,plan[{spec}]"]
        code, said = _run(["diagnose", "--out", "good", *common], tmp_path)
        assert code == 0, said
        server.script.extend([(401, echo)] * 8)
        code, more = _run(["diagnose", "--out", "refused", *common, "--seeds", "1"], tmp_path)
        assert code == 2, more
        server.script.extend([(400, echo)] * 8)
        code, third = _run(["plans", "build", "--planner", spec, "--out", "b.jsonl", "--n", "2"], tmp_path)
        assert code == 2, third
        assert any(KEY in headers.get("Authorization", "") for _, _, headers in server.seen)  # it was sent
    code, fourth = _run(["diagnose", "--out", "hub", "--executor", "nobody/nothing", "--n", "4"], tmp_path)
    assert code == 2
    with_user = "openai:m@http://user:" + KEY + "@localhost:1/v1"
    code, fifth = _run(["diagnose", "--out", "url", "--planners", with_user, "--n", "4"], tmp_path)
    assert code == 2
    for text in (said, more, third, fourth, fifth):
        assert KEY[:12] not in text
        assert TOKEN[:12] not in text
    assert _holds(tmp_path, KEY) == []
    assert _holds(tmp_path, TOKEN) == []


def test_keys_are_in_no_repr_and_no_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    import traceback

    from triaxis.models.endpoint import _Asker, open_endpoint
    from triaxis.models.writer import Writing
    from triaxis.study import planner_card, versions

    monkeypatch.setenv("TRIAXIS_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    planner = open_endpoint("openai:m@http://127.0.0.1:9/v1", Writing())
    asker = _Asker(planner.name, planner.url, planner.patience)
    told = [repr(planner), repr(asker), str(planner_card(planner)), str(versions())]
    asker.patience = type(planner.patience)(attempts=1)
    try:
        asker.ask({"model": "m"})
    except UserError as e:
        told += [str(e), repr(e), "".join(traceback.format_exception(e))]
    assert len(told) == 7
    assert not [t for t in told if KEY[:12] in t or TOKEN[:12] in t]


# ---------------------------------------------------------------- pages


class Tags(HTMLParser):
    """Every element with its attribute names, in order; scripts' and styles' own text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert not re.match(r"\s*(javascript|data|vbscript):", value or "", re.I), (tag, name, value)


def _hostile(value: Any, text: str, under: str = "") -> Any:
    """Every text of free choice in a summary or protocol gets `text` behind it, names that are keys as well."""
    if isinstance(value, dict):
        end = text if under in _KEYED else ""
        return {k + end: v if k in _FIXED else _hostile(v, text, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_hostile(v, text) for v in value]
    return value + text if isinstance(value, str) and value else value


_KEYED = ("intervals", "corruptions", "left_out")  # objects whose keys are names


_FIXED = {"protocol_hash", "verdict", "role", "placement", "method", "kind", "closure", "schema", "stop"}


@pytest.mark.parametrize(
    "text",
    [HOSTILE[0], *(pytest.param(text, marks=pytest.mark.slow) for text in HOSTILE[1:])],
    ids=range(len(HOSTILE)),
)
def test_every_page_has_the_same_elements_whatever_the_texts(text: str, plain_pages: list[Any], tmp_path: Path) -> None:
    """Compared with harmless text of the same kind: a text that became markup would add an element or an attribute."""
    assert all(map(len, plain_pages))
    assert _elements(tmp_path, text) == plain_pages


@pytest.fixture(scope="module")
def plain_pages(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return _elements(tmp_path_factory.mktemp("plain"), "x")


def _elements(folder: Path, text: str) -> list[Any]:
    """Elements and attributes of every page of a study whose texts are all this one."""
    from triaxis.report.load import cards
    from triaxis.report.page import page
    from triaxis.report.serve import Site

    write_study(folder, n=6, planners={"some-planner": 1000})
    for file in ("summary.json", "protocol.json"):
        made = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(_hostile(made, text)))
    summary, protocol = cards(folder)
    site = Site.of([folder])
    listed, compared = (site.answer(t) for t in ("/", "/compare?a=0&b=0"))
    assert (listed.status, compared.status) == (200, 200)
    return [Tags(t).found for t in (page(summary, protocol, None), listed.body.decode(), compared.body.decode())]


def test_what_a_terminal_is_told_does_not_act_on_it() -> None:
    message = str(UserError("name '\x1b[2J\x07\u202e' \r\n is  wrong\x00" + "a" * 5000 + "; do this"))
    assert message.isprintable()
    assert len(message) <= 1000
    assert message.endswith("; do this")
    assert readable("plain text, as it is: \u00e9 \u65e5") == "plain text, as it is: \u00e9 \u65e5"


ACTING = "c\x1b[31m\x9b2J\u202e\udc00"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "a.jsonl", "b.jsonl"], ["compare", "a.jsonl", "b.jsonl", "--json"], ["audit", "rows", "a.jsonl"],
        ["audit", "rows", "a.jsonl", "--json"], ["compare", f"a.jsonl:{ACTING}", "b.jsonl:none"],
        ["plans", "show", "b.jsonl.gz"], ["factorial", "a.jsonl", "--factors", "condition"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_a_command_prints_of_a_file_does_not_act(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, answers and plans with escape sequences, marks of direction and halves of surrogate pairs."""
    import io

    from triaxis.cli import main
    from triaxis.plans import files

    rows = [
        {"id": f"q{i}{ACTING}", "correct": i % 2, "prediction": ACTING, "gold": "3", "condition": ACTING}
        for i in range(6)
    ]
    for name, correct in (("a", 1), ("b", 0)):
        lines = [{**r, "correct": r["correct"] if correct else 1} for r in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    bank = files.read_bank(files.shipped()["tiny-planner-s"])
    first = type(bank.rows[0])(item=bank.rows[0].item, text="\x1b[2J\u202e 1", tokens=1, truncated=False, leaks=False)
    files.write_bank(files.Bank(bank.manifest, [first], tmp_path / "b.jsonl.gz"))
    monkeypatch.chdir(tmp_path)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    for stream in (out, err):
        stream.flush()
        text = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), text
        if "--json" in arguments and stream is out:
            assert json.loads(text)
    assert ended.value.code in (0, 2)
