"""Model folders that lie, inputs and evaluators, under the commands that use them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from tests.attacks.folders import base
from tests.attacks.judge import refused
from tests.attacks.test_recipes import TEXTS as YAML
from tests.inference.test_commands import kept

Spoil = Callable[[Path], object]
NAN, ENDLESS = float("nan"), 10**400
DEEP = "[" * 100_000


def said(file: str, **changes: Any) -> Spoil:
    """A JSON file of a folder with other values; None takes one out."""

    def spoil(folder: Path) -> None:
        value = json.loads((folder / file).read_text()) | changes
        kept = {key: item for key, item in value.items() if item is not None}
        (folder / file).write_text(json.dumps(kept))

    return spoil


def backbone(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        known = json.loads((folder / "head.json").read_text())["backbone"]
        said("head.json", backbone={**known, **changes})(folder)

    return spoil


def layout(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        known = json.loads((folder / "head.json").read_text())["layout"]
        said("head.json", layout={**known, **changes})(folder)

    return spoil


def written(file: str, content: str | bytes) -> Spoil:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(raw)


def weights(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        with open_checkpoint(folder) as checkpoint:
            state = {name: np.array(checkpoint.read(name)) for name in checkpoint.names}
        change(state)
        write_checkpoint(folder / "model.safetensors", state)

    return spoil


def first(state: dict[str, Any], change: Callable[[np.ndarray], np.ndarray]) -> None:
    name = next(name for name in state if name.endswith("word_embeddings.weight"))
    state[name] = np.array(change(state[name]))


def remote(folder: Path) -> None:
    """A config that asks for code beside it."""
    (folder / "code.py").write_text("import os\nos.mkdir(os.path.dirname(__file__) + '/../ran')\n")
    said("config.json", model_type="own", auto_map={"AutoModel": "code.Model"})(folder)


FOLDERS: dict[str, Spoil] = {
    **{
        f"head.json: {name}": written("head.json", text)
        for name, text in {
            "empty": "",
            "no JSON": "{",
            "a list": "[]",
            "a number": "3",
            "nested deeply": DEEP,
            "not UTF-8": b"{\xff}",
            "of 5000 digits": '{"schema": ' + "9" * 5000 + "}",
        }.items()
    },
    "head.json: a newer schema": said("head.json", schema=99),
    "head.json: a schema that is a text": said("head.json", schema="1"),
    "head.json: no classes": said("head.json", classes=None),
    "head.json: classes that are a number": said("head.json", classes=3),
    "head.json: classes that are numbers": said("head.json", classes=[1, 2]),
    "head.json: a class too many": said("head.json", classes=["a", "b", "c"]),
    "head.json: a class with an escape": said("head.json", classes=["a\x1b[2J", "b"]),
    "head.json: a class twice": said("head.json", classes=["a", "a"]),
    "head.json: no backbone": said("head.json", backbone=None),
    "head.json: a backbone that is a list": said("head.json", backbone=[1]),
    "head.json: a backbone that is a text": said("head.json", backbone="bert"),
    "head.json: an unknown kind": backbone(kind="evil"),
    "head.json: a kind that is a list": backbone(kind=["transformers"]),
    "head.json: a function of a package": backbone(kind="function", name="os:system"),
    "head.json: code of a model": backbone(options={"trust_remote_code": True}),
    "head.json: an unknown option": backbone(evil=1),
    "head.json: a folder elsewhere": backbone(name="/etc"),
    "head.json: a device": backbone(name="/dev/zero"),
    "head.json: an endless length": backbone(max_length=10**30),
    "head.json: no length": backbone(max_length=0),
    "head.json: an unknown pooling": backbone(pooling="evil"),
    "head.json: a layout that is a list": said("head.json", layout=[1]),
    "head.json: a layout of nothing": said("head.json", layout={}),
    "head.json: an unknown field of the layout": layout(evil=1),
    "head.json: an unknown form": layout(form="evil"),
    "head.json: a width that is a text": layout(inputs="x"),
    "head.json: another width": layout(inputs=3),
    "head.json: another prefix": layout(prefix="evil."),
    "head.json: weights elsewhere": backbone(weights="../good/model.safetensors"),
    "head.json: images of endless size": said("head.json", images={"size": 10**9, "resize": "x"}),
    "head.json: a prefix that is a number": layout(prefix=3),
    "config.json: empty": written("config.json", ""),
    "config.json: a list": written("config.json", "[]"),
    "config.json: nested deeply": written("config.json", DEEP),
    "config.json: an unknown type": said("config.json", model_type="evil"),
    "config.json: code of its own": remote,
    "config.json: 100000 layers": said("config.json", num_hidden_layers=100_000),
    "config.json: layers without end": said("config.json", num_hidden_layers=10**30),
    "config.json: minus one layer": said("config.json", num_hidden_layers=-1),
    "config.json: layers that are a text": said("config.json", num_hidden_layers="many"),
    "config.json: an endless vocabulary": said("config.json", vocab_size=10**15),
    "config.json: another width": said("config.json", hidden_size=64),
    "config.json: no heads": said("config.json", num_attention_heads=0),
    "config.json: an unknown activation": said("config.json", hidden_act="os.system"),
    "tokenizer.json: empty": written("tokenizer.json", ""),
    "tokenizer.json: a list": written("tokenizer.json", "[]"),
    "tokenizer.json: nested deeply": written("tokenizer.json", DEEP),
    "tokenizer.json: no model": written("tokenizer.json", "{}"),
    "tokenizer.json: an unknown model": said("tokenizer.json", model={"type": "Evil"}),
    "tokenizer.json: a pattern that is none": said(
        "tokenizer.json",
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "("},
            "behavior": "Isolated",
            "invert": False,
        },
    ),
    "weights: none": lambda folder: (folder / "model.safetensors").unlink(),
    "weights: of nothing": written("model.safetensors", b""),
    "weights: a tensor is missing": weights(lambda state: state.pop(next(iter(state)))),
    "weights: a tensor of another shape": weights(lambda state: first(state, lambda v: v[:, :-1])),
    "weights: NaN": weights(lambda state: first(state, lambda v: v * np.float32(NAN))),
}
COMMANDS = {
    "predict": lambda root, bad: ["predict", bad, root / "texts.csv"],
    "evaluate": lambda root, bad: ["evaluate", bad, root / "task.yaml"],
    "export": lambda root, bad: ["export", bad, "-o", root / "out.pt2"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    kept(root, "bert")
    shutil.rmtree(root / "base")
    (root / "texts.csv").write_text("text\ngood film\nbad food\n")
    rows = "".join(f"good film,{'no: 1' if i % 2 else 'other'},north\n" for i in range(8))
    (root / "data.csv").write_text(f"text,label,domain\n{rows}")
    (root / "task.yaml").write_text("kind: text\npath: data.csv\ntarget: classification\n")
    base(root / "good")
    return root


@pytest.fixture
def root(world: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("STOCKPOT_ALLOW_CODE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield world
    for name in ("bad", "out", "ran"):
        shutil.rmtree(world / name, ignore_errors=True)


@pytest.mark.parametrize(
    "command",
    ["predict", *(pytest.param(name, marks=pytest.mark.slow) for name in ("evaluate", "export"))],
)
@pytest.mark.parametrize("case", FOLDERS)
def test_model_folders(root: Path, case: str, command: str) -> None:
    shutil.copytree(root / "model", root / "bad")
    FOLDERS[case](root / "bad")
    refused(root, *COMMANDS[command](root, root / "bad"), names="bad")


INPUTS: dict[str, tuple[str, bytes]] = {
    "an empty table": ("bad.csv", b""),
    "a head alone": ("bad.csv", b"text\n"),
    "a table without texts": ("bad.csv", b"a,b\n1,2\n"),
    "a table that is not UTF-8": ("bad.csv", b"text\n\xff\xfe\n"),
    "a cell of 10 megabytes": ("bad.csv", b"text\n" + b"x" * 10_000_000 + b"\n"),
    "a line of another length": ("bad.csv", b"text,label\na\n"),
    "a cell without an end": ("bad.csv", b'text\n"a\nb\n'),
    "an empty cell": ("bad.csv", b"text,b\n,1\n"),
    "lines of JSON that are none": ("bad.jsonl", b"{\n"),
    "lines of JSON that are lists": ("bad.jsonl", b"[1]\n"),
    "lines of JSON nested deeply": ("bad.jsonl", b"[" * 100_000),
    "lines of JSON with a number": ("bad.jsonl", b'{"text": 3}\n'),
    "a text that is not UTF-8": ("bad.txt", b"\xff\xfe"),
    "a text of empty lines": ("bad.txt", b"\n\n"),
    "a text of nothing": ("bad.txt", b""),
    "a kind that nobody knows": ("bad.docx", b"PK"),
}


@pytest.mark.parametrize("command", ["predict"])
@pytest.mark.parametrize("case", [*INPUTS, "pipe", "device", "link to nothing"])
def test_inputs(root: Path, tmp_path: Path, case: str, command: str) -> None:
    name, content = INPUTS.get(case, ("bad.csv", b""))
    bad = tmp_path / name
    if case == "pipe":
        os.mkfifo(bad)
    elif case in ("device", "link to nothing"):
        bad.symlink_to("/dev/zero" if case == "device" else "nothing")
    else:
        bad.write_bytes(content)
    refused(tmp_path, command, root / "model", bad, names=name)


EVALUATORS: dict[str, bytes] = {
    **YAML,
    "no kind": b"metric: accuracy",
    "two kinds": b"command: 'echo {model}'\nfunction: a.py:b",
    "an unknown key": b"command: 'echo {model}'\nevil: 1",
    "a command without a model": b"command: echo",
    "a command of nothing": b"command: ''",
    "a command that is a list": b"command: [echo]",
    "a command with half a quote": b'command: "echo \'{model}"',
    "a program that is not there": b"command: 'nosuchprogram {model}'",
    "a program with a null": b'command: "echo\\0 {model}"',
    "a function of a package": b"function: os:system",
    "a function of a file elsewhere": b"function: ../other.py:f",
    "a function that is not there": b"function: none.py:f",
    "a function of a device": b"function: /dev/zero:f",
    "a task that is not there": b"task: none.yaml",
    "a task that is a device": b"task: /dev/zero",
    "rows that are not there": b"command: 'echo {model} {rows}'\nrows: none.txt",
    "rows that are a device": b"command: 'echo {model} {rows}'\nrows: /dev/zero",
    "rows of nothing": b"command: 'echo {model} {rows}'\nrows: bad.yaml/x",
    "files that are not there": b"command: 'echo {model}'\nfiles: [none]",
    "a file that is a device": b"command: 'echo {model}'\nfiles: [/dev/zero]",
    "a timeout of nothing": b"command: 'echo {model}'\ntimeout: 0",
    "a timeout of NaN": b"command: 'echo {model}'\ntimeout: .nan",
    "an endless timeout": b"command: 'echo {model}'\ntimeout: .inf",
    "a timeout that is a text": b"command: 'echo {model}'\ntimeout: soon",
    "a timeout of many digits": b"command: 'echo {model}'\ntimeout: " + b"9" * 90 + b"h",
    "an unknown metric": b"command: 'echo {model}'\nmetric: evil",
    "a metric with an escape": b'command: "echo {model}"\nmetric: "a\\u001b[2J"',
    "constraints that are a number": b"command: 'echo {model}'\nconstraints: 3",
    "a constraint of NaN": (
        b"command: 'echo {model}'\nconstraints:\n- {command: 'echo {model}', lose_at_most: .nan}"
    ),
    "a constraint that gains": (
        b"command: 'echo {model}'\nconstraints:\n- {command: 'echo {model}', lose_at_most: -1}"
    ),
    "texts that are not there": b"perplexity: none.jsonl",
    "texts of a device": b"perplexity: /dev/zero",
    "choices of a device": b"choices: /dev/zero",
}


@pytest.mark.parametrize("command", ["soup", pytest.param("average", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", EVALUATORS)
def test_evaluators(root: Path, tmp_path: Path, case: str, command: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(EVALUATORS[case])
    more = ["--sweep"] if command == "average" else []
    arguments = [root / "good", root / "good", *more, "-e", bad, "-o", tmp_path / "out"]
    refused(tmp_path, command, *arguments, names="bad.yaml")


ROWS: dict[str, tuple[str, bytes]] = {
    f"{kind}: {name}": (kind, content)
    for kind in ("perplexity", "choices")
    for name, content in {
        "empty": b"",
        "no JSON": b"{\n",
        "a list": b"[1]\n",
        "nested deeply": b"[" * 100_000,
        "not UTF-8": b"\xff\n",
        "a number": b'{"text": 3, "prompt": 3, "options": ["a"], "answer": 0}\n',
        "no text": b"{}\n",
        "an answer beyond": b'{"prompt": "a", "options": ["a", "b"], "answer": 7}\n',
        "an answer of NaN": b'{"prompt": "a", "options": ["a", "b"], "answer": NaN}\n',
        "options of nothing": b'{"prompt": "a", "options": [], "answer": 0}\n',
    }.items()
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_of_an_evaluator(root: Path, tmp_path: Path, case: str) -> None:
    kind, content = ROWS[case]
    (tmp_path / "rows.jsonl").write_bytes(content)
    (tmp_path / "eval.yaml").write_text(f"{kind}: rows.jsonl\n")
    arguments = [root / "good", root / "good", "-e", tmp_path / "eval.yaml"]
    refused(tmp_path, "soup", *arguments, "-o", tmp_path / "out", names="rows.jsonl")
