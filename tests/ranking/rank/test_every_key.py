"""No key is accepted and dropped: each one of a request, a zoo and a task changes what comes out,
or is refused by name; and so does each option of the commands.

The cases are a table; that it holds every key there is follows from walking the schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import StockpotError
from stockpot.ranking.history import Store
from stockpot.ranking.request import Request
from stockpot.ranking.verb import rank
from stockpot.ranking.zoo import FeatureEntry, ModelEntry
from stockpot.tasks import load_task
from stockpot.tasks.specs import TaskSpec
from stockpot.yaml_lines import models_of
from tests.backbones.networks import WORDS, text_folder
from tests.ranking.rank.tiny import QUALITY, zoo
from tests.tasks.builders import image_folder, mnist

HOW = {"threads": "how fast a fine-tuning is", "kind": "tells which keys there are"}
"""Keys that change nothing on purpose, and what they are for."""


# The keys of a request and of a zoo, by the whole ranking.

REQUEST: dict[str, tuple[str, Any]] = {
    "title": ("arrays", "Mine"),
    "held_out": ("arrays", ["d1"]),
    "validation_fraction": ("arrays", 0.5),
    "limit_per_domain": ("arrays", 40),
    "seed": ("arrays", 3),
    "scores": ("arrays", ["knn", "nleep"]),
    "sample.first": ("arrays", 90),
    "sample.most": ("arrays", 48),
    "sample.keep": ("arrays", "moments"),
    "training.steps": ("arrays", 9),
    "training.batch_size": ("arrays", 9),
    "training.learning_rate": ("arrays", 0.02),
    "training.weight_decay": ("arrays", 0.1),
    "training.dropout": ("arrays", 0.1),
    "training.optimizer": ("arrays", "adamw"),
    "training.augmentation": ("images", False),
}
WITHOUT_EFFECT: list[tuple[str, dict[str, Any], str]] = [
    ("arrays", {"training.augmentation": False}, "training.augmentation"),
    ("text", {"training.augmentation": False}, "training.augmentation"),
    ("arrays", {"sample.keep": "moments", "sample.first": 16}, "sample.first"),
    ("arrays", {"sample.first": 130}, "sample.first"),
    ("arrays", {"scores": ["leep"]}, "leep"),
    ("arrays", {"scores": ["knnn"]}, "did you mean 'knn'"),
    ("arrays", {"sample": {"keep": "moments"}, "scores": ["knn"]}, "knn"),
]
ENTRY: dict[str, tuple[str, Any]] = {
    "id": ("arrays", "mine"),
    "metadata": ("arrays", {"family": "other"}),
    "name": ("arrays", "tests.ranking.rank.tiny:broken"),
    "options": ("arrays", {"quality": 0.1}),
    "weights": ("arrays", "none.safetensors"),
    "learning_rate": ("arrays", 0.5),
    "head": ("arrays", "fc"),
    "image_size": ("images", 12),
    "mean": ("images", [0.1, 0.2, 0.3]),
    "std": ("images", [0.1, 0.2, 0.3]),
    "batchnorm": ("images", "reestimate"),
    "freeze_below": ("images", "stage.0"),
    "readout": ("text", "cls"),
    "pooling": ("text", "cls"),
    "max_length": ("text", 3),
}
ENTRY_WITHOUT_EFFECT: list[tuple[str, str, Any]] = [
    ("arrays", "readout", "cls"),
    ("arrays", "pooling", "cls"),
    ("arrays", "max_length", 3),
    ("arrays", "image_size", 12),
    ("arrays", "mean", [0.1, 0.2, 0.3]),
    ("arrays", "batchnorm", "reestimate"),
    ("text", "image_size", 12),
    ("text", "std", [0.1, 0.2, 0.3]),
    ("images", "readout", "cls"),
]


def worlds(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Request and zoo by kind of input; the first entry of the zoo is the one that changes."""
    draw = np.random.default_rng(0)
    labels = np.arange(240) % 3
    inputs = (draw.normal(size=(240, 10)) * 3).astype(np.float32)
    inputs[:, :3] += 4 * np.eye(3, dtype=np.float32)[labels]
    names = np.array(["d0", "d1"])[np.arange(240) // 3 % 2]
    np.savez(folder / "data.npz", inputs=inputs, labels=labels, domains=names)
    small = {"sample": {"first": 60, "most": 120}, "training": {"steps": 8, "batch_size": 8}}
    text_folder(folder / "encoder", spread=0.5)
    text_folder(folder / "second", seed=1, spread=0.5)
    words = [word for word in WORDS if word.isalpha()]
    rows = [
        f"{' '.join(draw.choice(words, 6))} {words[i % 2]},{'ab'[i % 2]},{'xy'[i // 2 % 2]}"
        for i in range(80)
    ]
    (folder / "texts.csv").write_text("text,label,domain\n" + "\n".join(rows) + "\n")
    image_folder(folder / "pictures", each=8)
    networks = "tests.backbones.networks:cnn"
    return {
        "arrays": ({"task": {"kind": "arrays", "path": "data.npz"}, **small}, zoo()),
        "text": (
            {"task": {"kind": "text", "path": "texts.csv"}, **small},
            {"models": [{"kind": "transformers", "name": name} for name in ("encoder", "second")]},
        ),
        "images": (
            {"task": {"kind": "images", "path": "pictures", "size": 16}, **small},
            {
                "models": [
                    {
                        "id": f"net{i}",
                        "kind": "function",
                        "name": networks,
                        "options": {"seed": i},
                        "image_size": 16,
                    }
                    for i in range(2)
                ]
            },
        ),
    }


def changed(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(value))
    for key, new in changes.items():
        *path, last = key.split(".")
        part = found
        for name in path:
            part = part[name]
        part[last] = new
    return found


TIMES = re.compile(r'"(feature_seconds|tuning_seconds|seconds|recipe_digest)": [^,}]*')


def outcome(request: Any, models: Any, folder: Path, where: str) -> str:
    """What a ranking leaves behind, without times; or why it is refused."""
    try:
        done = rank(request, models, folder / where, root=folder, backend="serial", quiet=True)
    except StockpotError as error:
        return f"refused: {error.message} {error.hint}"
    recipe = folder / where / "recipe.yaml"
    results = json.dumps(done.results.to_json(), sort_keys=True)
    return TIMES.sub("", results) + (recipe.read_text() if recipe.exists() else "")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("worlds")
    found: dict[str, Any] = {"folder": folder}
    for name, (request, models) in worlds(folder).items():
        found[name] = (request, models, outcome(request, models, folder, f"base-{name}"))
        assert not found[name][2].startswith("refused"), found[name][2]
    return found


def keys(model: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a schema, those of its parts included."""
    for name, field in model.model_fields.items():
        inner = models_of(field.annotation) if name != "task" else []
        if len(inner) == 1:
            yield from keys(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_tables_hold_every_key() -> None:
    assert set(keys(Request)) == {*REQUEST, "task", "threads"}
    assert set(ModelEntry.model_fields) == {*ENTRY, "kind"}
    assert set(FeatureEntry.model_fields) == {"kind", "path", "id", "metadata"}
    assert {spec.__name__ for spec in models_of(TaskSpec)} == set(TASKS)
    for spec in models_of(TaskSpec):
        assert set(spec.model_fields) == {*TASKS[spec.__name__][1], "kind"}, spec.__name__


@pytest.mark.parametrize("key", REQUEST)
def test_a_key_of_a_request_changes_what_comes_out(key: str, places: dict[str, Any]) -> None:
    world, value = REQUEST[key]
    request, models, base = places[world]
    asked = changed(request, {key: value})
    if key in ("sample.keep", "sample.most"):
        del asked["sample"]["first"]  # has no effect beside it
    found = outcome(asked, models, places["folder"], f"r-{key}")
    assert not found.startswith("refused"), found
    assert found != base


@pytest.mark.parametrize(("world", "changes", "named"), WITHOUT_EFFECT)
def test_a_key_without_effect_is_refused(
    world: str, changes: dict[str, Any], named: str, places: dict[str, Any]
) -> None:
    request, models, _ = places[world]
    found = outcome(changed(request, changes), models, places["folder"], "never")
    assert found.startswith("refused")
    assert named in found
    assert not (places["folder"] / "never" / "results.json").exists()


@pytest.mark.parametrize("key", ENTRY)
def test_a_key_of_an_entry_changes_what_comes_out(key: str, places: dict[str, Any]) -> None:
    world, value = ENTRY[key]
    request, models, base = places[world]
    models = json.loads(json.dumps(models))
    if key in ("learning_rate", "batchnorm", "pooling"):  # stand in the recipe of the winner
        models["models"] = models["models"][:1]
        base = outcome(request, models, places["folder"], "alone")
    models["models"][0][key] = value
    found = outcome(request, models, places["folder"], f"e-{key}")
    assert found != base


@pytest.mark.parametrize(("world", "key", "value"), ENTRY_WITHOUT_EFFECT)
def test_a_key_of_an_entry_without_effect_costs_its_line(
    world: str, key: str, value: Any, places: dict[str, Any]
) -> None:
    request, models, _ = places[world]
    models = json.loads(json.dumps(models))
    models["models"][0][key] = value
    found = outcome(request, models, places["folder"], f"n-{world}-{key}")
    assert f"'{key}' has no effect on it" in found


@pytest.mark.parametrize("key", ["path", "id", "metadata"])
def test_a_key_of_features_changes_what_comes_out(key: str, places: dict[str, Any]) -> None:
    folder = places["folder"]
    request, _, _ = places["arrays"]
    for index, name in enumerate(("f", "g")):
        np.save(folder / f"{name}.npy", np.random.default_rng(index).normal(size=(240, 4)))
    entries = [{"kind": "features", "path": "f.npy"}, {"kind": "features", "path": "g.npy"}]
    base = outcome(request, {"models": entries}, folder, f"f-base-{key}")
    entries[0][key] = {"path": "none.npy", "id": "mine", "metadata": {"family": "x"}}[key]
    assert outcome(request, {"models": entries}, folder, f"f-{key}") != base


# The keys of a task, by what is loaded.

ROWS = "\n".join(
    f"text {i},{'ab'[i % 2]},{i - 20.5},{'xy'[i // 2 % 2]},{['train', 'test'][i % 9 == 0]},g{i}"
    for i in range(40)
)
TABLE = f"text,label,number,domain,split,group\n{ROWS}\n"
_FILES = {"validation": "second", "test": "second"}
_COMMON = {"name": "mine", "domains": ["x"], "path": "second"}
_RULES = {"allow_missing_classes": True, "duplicates": "refuse"}
_DATASETS = """
name domains path allow_missing_classes duplicates config split validation test split_column group
revision input label domain target size resize
"""
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "TextSpec": (
        {"kind": "text", "path": "t.csv", "split": None},
        {
            **_COMMON,
            **_RULES,
            "path": "u.csv",
            "validation": "u.csv",
            "test": "u.csv",
            "domain": None,
            "split": "auto",
            "group": "group",
            "text": "number",
            "label": "domain",
            "target": "regression",
            "margin": 0.5,
            "classes": ["b", "a"],
        },
    ),
    "ImageFolderSpec": (
        {"kind": "images", "path": "pictures", "size": 8},
        {
            **_COMMON,
            **_RULES,
            **_FILES,
            "domains": ["art"],
            "duplicates": "keep",
            "domain": "x",
            "split": "x",
            "group": "x",
            "size": 9,
            "resize": "crop",
            "image": "x",
            "label": "x",
        },
    ),
    "ArraySpec": (
        {"kind": "arrays", "path": "a.npz"},
        {
            **_COMMON,
            **_RULES,
            "path": "b.npz",
            "validation": "b.npz",
            "test": "b.npz",
            "target": "regression",
        },
    ),
    "DatasetsSpec": (
        {"kind": "datasets", "path": "none"},
        dict.fromkeys(_DATASETS.split()),
    ),
    "RotatedMnistSpec": ({"kind": "rotated_mnist", "path": "m"}, {**_COMMON, "domains": ["15"]}),
    "ColoredMnistSpec": (
        {"kind": "colored_mnist", "path": "m"},
        {**_COMMON, "domains": ["-90%"]},
    ),
    "RotationSpec": (
        {"kind": "rotation", "source": {"kind": "images", "path": "pictures", "size": 8}},
        {
            "name": "mine",
            "domains": ["art"],
            "source": {"kind": "images", "path": "second", "size": 8},
        },
    ),
    "FunctionSpec": (
        {"kind": "function", "function": "f.py:make", "arguments": {"rows": 8}},
        {
            "name": "mine",
            "domains": ["x"],
            "function": "f.py:other",
            "arguments": {"rows": 10},
        },
    ),
}
SAME = {
    "allow_missing_classes": "accepts what is else refused",
    "duplicates": "as allow_missing_classes",
}
FUNCTION = """
import numpy as np
from stockpot.tasks import build_task

def make(rows, name="made"):
    return build_task(
        name=name, kind="classification", modality="array", domains=["x", "y"], classes=["a", "b"],
        inputs=np.eye(rows, dtype=np.float32), labels=np.arange(rows) % 2,
        domain_ids=np.arange(rows) // 2 % 2, fingerprint=f"{name}{rows}", where="here",
    )

def other(rows):
    return make(rows, "other")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "t.csv").write_text(TABLE)
    (folder / "u.csv").write_text(TABLE.replace("text ", "word "))
    for name, seed in (("a", 0), ("b", 1)):
        inputs = np.random.default_rng(seed).normal(size=(12, 3))
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=np.arange(12) % 2,
                 domains=np.array(["x", "y"])[np.arange(12) // 2 % 2])  # fmt: skip
    image_folder(folder / "pictures")
    image_folder(folder / "second", classes=("cat", "cow"))
    mnist(folder / "m")
    (folder / "f.py").write_text(FUNCTION)
    return folder


def loaded(spec: dict[str, Any], root: Path) -> str:
    try:
        task = load_task(spec, root=root)
    except StockpotError as error:
        return f"refused: {error.message}"
    splits = None if task.splits is None else task.splits.tolist()
    groups = None if task.groups is None else task.groups.tolist()
    return f"{task.name} {task.fingerprint} {splits} {groups} {task.classes} {task.kind}"


@pytest.mark.parametrize(
    ("spec", "key"),
    [(spec, key) for spec in TASKS if spec != "DatasetsSpec" for key in TASKS[spec][1]],
)
def test_a_key_of_a_task_changes_what_is_loaded(spec: str, key: str, data: Path) -> None:
    base, values = TASKS[spec]
    before = loaded(base, data)
    assert not before.startswith("refused"), before
    after = loaded({**base, key: values[key]}, data)
    assert (after == before) == (key in SAME), after


# The options of the commands.

RUNS = {
    "output": "where results go",
    "backend": "where fine-tunings run",
    "jobs": "how many run at a time",
    "registry": "where models are kept besides",
    "overwrite": "whether another's results may go",
    "dry_run": "nothing runs",
    "allow_code": "whether code may run",
    "json": "how results are printed",
    "quiet": "what is printed beside them",
    "page": "a page besides",
    "limit": "how much is shown",
    "repeats": "draws of anchors",
    "seed": "as repeats",
    "skip_corrupt": "whether broken images are left out",
    "download": "whether weights may be fetched",
}
"""Options that say how, not what; they have tests of their own."""
RANK: dict[str, tuple[str, ...]] = {
    "zoo": ("--zoo", "two.yaml"),
    "changes": ("--set", "scores=[nleep]"),
    "max_parameters": ("--max-parameters", "5M"),
    "licence": ("--licence", "mit"),
    "max_ms": ("--max-ms", "3"),
    "history": ("--history", "h.db"),
    "budget": ("--budget", "1h"),
    "top": ("--top", "2"),
    "without": ("--without", "fair"),
    "shortlist": ("--shortlist", "2"),
    "select": ("--select", "halving"),
    "verify": ("--verify",),
    "append": ("--append",),
    "quick": ("--quick",),
    "address": ("--address", "host:1"),
    "gpus_per_job": ("--gpus-per-job", "0.5"),
    "task": ("other.yaml",),
    "method": ("--method", "fennec"),
    "known": ("--known", "task.yaml"),
    "proxy": ("--proxy", "good"),
}
HISTORY: dict[str, dict[str, tuple[str, ...]]] = {
    "add": {
        "model": ("b", "t", "0.5"),
        "task": ("a", "u", "0.5"),
        "value": ("a", "t", "0.6"),
        "metric": ("a", "t", "0.5", "--metric", "f1"),
        "lower_is_better": ("a", "t", "0.5", "--lower-is-better"),
        "source": ("a", "t", "0.5", "--source", "paper"),
        "run": ("a", "t", "0.5", "--run", "1"),
        "fact": ("a", "t", "0.5", "--fact", "parameters=3"),
    },
    "import": {
        "files": ("s.csv", "--metric", "accuracy"),
        "format": ("r.csv", "--metric", "accuracy", "--format", "vtab"),
        "metric": ("r.csv", "--metric", "error"),
        "lower_is_better": ("r.csv", "--metric", "accuracy", "--lower-is-better"),
        "unit": ("r.csv", "--metric", "accuracy", "--unit", "fraction"),
        "fact": ("r.csv", "--metric", "accuracy", "--fact", "c"),
        "ignore": ("r.csv", "--metric", "accuracy", "--ignore", "c"),
        "zeros_missing": ("r.csv", "--metric", "accuracy", "--zeros-missing"),
        "metadata": ("r.csv", "--metric", "accuracy", "--metadata", "f.csv"),
        "base": ("r.csv", "--metric", "accuracy", "--base", "m0"),
        "clean": ("r.csv", "--metric", "accuracy", "--base", "m0", "--no-clean"),
    },
    "show": {"task": ("--task", "a"), "model": ("--model", "m1"), "limit": ("--limit", "3")},
    "evaluate": {
        "anchors": ("--anchors", "0", "--anchors", "2"),
        "task": ("--anchors", "0", "--task", "a"),
        "every": ("--anchors", "0", "--every", "2"),
        "score": ("--anchors", "0", "--score", "s=s.csv"),
        "clean": ("--anchors", "0", "--no-clean"),
        "format": ("--anchors", "0", "--format", "vtab"),
        "metadata": ("--anchors", "0", "--metadata", "f.csv"),
        "metric": ("--anchors", "0", "--metric", "error"),
        "lower_is_better": ("--anchors", "0", "--lower-is-better"),
        "unit": ("--anchors", "0", "--unit", "fraction"),
        "fact": ("--anchors", "0", "--fact", "c"),
        "ignore": ("--anchors", "0", "--ignore", "c"),
        "zeros_missing": ("--anchors", "0", "--zeros-missing"),
    },
}
BASE: dict[str, tuple[str, ...]] = {
    "add": ("a", "t", "0.5"),
    "import": ("r.csv", "--metric", "accuracy"),
    "show": (),
    "evaluate": ("--anchors", "0"),
}


def test_every_option_has_its_case() -> None:
    commands: Any = typer.main.get_command(app).commands
    assert {each.name for each in commands.get("rank").params} == {*RANK, *RUNS.keys() & RANK_RUNS}
    for name, cases in HISTORY.items():
        own = {each.name for each in commands.get("history").commands.get(name).params}
        assert own - {"store", "history", *(RUNS.keys() - cases.keys())} == set(cases)


RANK_RUNS = {
    "output", "backend", "jobs", "registry", "skip_corrupt", "overwrite", "dry_run", "allow_code",
    "json", "quiet", "download",
}  # fmt: skip


def run(*words: str) -> str:
    """What a command says and its exit code, without times and folders."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code in (0, 2), done.output
    text = re.sub(r"\d+(\.\d+)? (s|min|h)\b|<1 s|out-\S+", "", done.stdout)
    return f"{done.exit_code} {text}"


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("commands")
    request, models = worlds(folder)["arrays"]
    (folder / "task.yaml").write_text(yaml.safe_dump(request))
    (folder / "other.yaml").write_text(yaml.safe_dump(request | {"scores": ["nleep"]}))
    (folder / "zoo.yaml").write_text(yaml.safe_dump(models))
    (folder / "two.yaml").write_text(yaml.safe_dump({"models": models["models"][:2]}))
    with Store.open(folder / "h.db") as store:
        for task in range(5):
            for place, name in enumerate(reversed(QUALITY)):
                store.add(name, f"t{task}", "accuracy", 0.5 + 0.1 * place + 0.01 * task)
    return folder, ""


@pytest.mark.parametrize("option", RANK)
def test_an_option_of_rank_changes_what_it_says(
    option: str, ranked: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = ranked
    monkeypatch.chdir(folder)
    plain = ["rank", "task.yaml", "--zoo", "zoo.yaml", "--backend", "serial"]
    if option == "quick":  # the first examples may settle it: the plan says how many are looked at
        plain += ["--dry-run", "--json"]
    words = [*plain, *RANK[option]]
    if option == "task":
        words[1:2] = []
        words = [words[0], "other.yaml", *words[1:-1]]
    base = run(*plain, "-o", "out-base", "--overwrite")
    assert base.startswith("0"), base
    assert run(*words, "-o", f"out-{option}") != base


@pytest.mark.parametrize(("command", "option"), [(c, o) for c in HISTORY for o in HISTORY[c]])
def test_an_option_of_history_changes_the_store(command: str, option: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    rows = 50 + draw.normal(size=(8, 5)).round(2) + np.array([40.0, -10, 20, 30, 5])
    rows[5] = np.roll(rows[5], 2)
    rows[2, 2] = 0
    for name, values in (("r", rows), ("s", rows + 1)):
        lines = [f"m{i}," + ",".join(map(str, row)) for i, row in enumerate(values)]
        (tmp_path / f"{name}.csv").write_text("model,a,b,c,d,e\n" + "\n".join(lines) + "\n")
    (tmp_path / "f.csv").write_text("model,params\nm0,5\n")

    def after(words: tuple[str, ...]) -> str:
        """What the command says, and what the store holds after it."""
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
        reads = command in ("show", "evaluate")
        if command == "add":
            with Store.open(place) as opened:
                opened.add("a", "t", "accuracy", 0.7)
        if reads:
            imported = ("import", str(place), str(tmp_path / "r.csv"), "--metric", "accuracy")
            assert CliRunner().invoke(app, ["history", *imported, "--base", "m0"]).exit_code == 0
        files = [str(tmp_path / word) if word.endswith(".csv") else word for word in words]
        files = [word.replace("=s.csv", f"={tmp_path / 's.csv'}") for word in files]
        done = CliRunner().invoke(app, ["history", command, str(place), *files])
        if done.exit_code or reads:
            assert done.exit_code in (0, 2), done.output
            return done.output.replace(place.name, "")
        with Store.open(place) as opened:
            table, sources = opened.table(), opened.sources()
            return f"{table} {sources} {opened.aside()} {opened.metrics()}"

    base = (
        *BASE[command],
        *(("--base", "m0") if option == "clean" and command == "import" else ()),
    )
    assert after(base) != after(HISTORY[command][option])
