"""``predict``, ``evaluate`` and ``export``, as commands and as functions."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import stockpot
from stockpot.backbones import BackboneSpec, Model, load_backbone, save_folder
from stockpot.cli.main import app
from stockpot.errors import InputError, MissingDependencyError, StockpotError, TaskError
from stockpot.inference import export, load
from stockpot.provenance import Record
from tests.inference.models import ODD, SIZE, base

TEXTS = ["good film, a b", "bad food", "c d e f a b c d e f"]
ROOT = Path(__file__).parents[2]


def kept(folder: Path, kind: str, classes: tuple[str, ...] = ODD, **more: Any) -> Model:
    """A model folder as recycle leaves it, with weights that are not the base's."""
    spec = BackboneSpec(kind="transformers", name=str(folder / "base"), max_length=8)
    if kind == "function":
        spec = BackboneSpec(kind="function", name="tests.recycling.tiny:net")
    elif kind == "file":
        (folder / "net.py").write_text(
            "from torch import nn\n\ndef make():\n    net = nn.Linear(6, 4)\n"
            "    net.input_shape = (6,)\n    return net\n"
        )
        spec = BackboneSpec(kind="function", name="net.py:make")
    else:
        base(folder / "base", kind)
    model = Model(load_backbone(spec, root=folder), max(1, len(classes)))
    rng = torch.Generator().manual_seed(0)
    state = {
        n: t + 0.1 * torch.randn(t.shape, generator=rng)
        for n, t in model.state().items()
        if t.is_floating_point()
    }
    model.load_state(state, partial=True)
    model.eval()
    out = folder / "model"
    out.mkdir()
    record = Record(kind="merge", name="Soup")
    save_folder(out, model.backbone, model.state(), record=record, classes=classes, **more)
    return model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("text")
    model = kept(folder, "bert")
    with torch.no_grad():
        expected = model(model.backbone.prepare(TEXTS)).softmax(1).numpy()
    return folder / "model", expected


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    folder = tmp_path_factory.mktemp("photo")
    model = kept(folder, "vit", images={"size": SIZE, "resize": "crop"})
    return folder / "model", model


def run(*arguments: object, code: int = 0, **settings: Any) -> Any:
    done = CliRunner().invoke(app, [str(each) for each in arguments], **settings)
    assert done.exit_code == code, done.output
    return done


def read(text: str) -> np.ndarray:
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["input", "label", *ODD]
    return np.array([[float(value) for value in row[2:]] for row in rows[1:]])


def write_table(path: Path, column: str = "text", **more: list[str]) -> Path:
    columns = {column: TEXTS, **more}
    if path.suffix == ".jsonl":
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)))
        return path
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


def test_texts_from_every_kind_of_file_and_from_stdin(
    text: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    model, expected = text
    lines = "\n".join(TEXTS)
    (tmp_path / "lines.txt").write_text(lines)
    places: list[list[object]] = [
        [write_table(tmp_path / "a.csv", other=["x"] * 3)],
        [write_table(tmp_path / "only.csv", "sentence")],
        [write_table(tmp_path / "b.jsonl", "body", text=["a"] * 3), "--text", "body"],
        [tmp_path / "lines.txt", "--batch-size", 1, "--device", "cpu"],
    ]
    for place in places:
        got = read(run("predict", model, *place).stdout)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    got = read(run("predict", model, "-", input=lines).stdout)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_json_and_files(text: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    model, expected = text
    table = write_table(tmp_path / "a.csv")
    value = json.loads(run("predict", model, table, "--json").stdout)
    assert value["classes"] == list(ODD)
    for row, shown, chances in zip(value["predictions"], TEXTS, expected, strict=True):
        assert row["input"] == shown
        assert list(row["probabilities"].values()) == pytest.approx(chances.tolist(), abs=1e-6)
        assert row["label"] == ODD[int(chances.argmax())]
    done = run("predict", model, table, "-o", tmp_path / "out.json")
    assert done.stdout == ""
    assert json.loads((tmp_path / "out.json").read_text()) == value
    run("predict", model, table, "-o", tmp_path / "out.json", code=2)
    run("predict", model, table, "-o", tmp_path / "out.json", "--overwrite")
    run("predict", model, table, "-o", tmp_path / "out.csv", "-q")
    np.testing.assert_allclose(read((tmp_path / "out.csv").read_text()), expected, atol=1e-6)


def test_images_are_decoded_as_in_training(photo: tuple[Path, Model], tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    folder, model = photo
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    pixels = []
    for name in ("a.png", "deep/b.jpg"):
        image = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
        image.save(tmp_path / "photos" / name)
        again = Image.open(tmp_path / "photos" / name).convert("RGB")
        pixels.append(np.asarray(ImageOps.fit(again, (SIZE, SIZE), Image.Resampling.BILINEAR)))
    with torch.no_grad():
        expected = model(model.backbone.prepare(np.stack(pixels))).softmax(1).numpy()
    done = run("predict", folder, tmp_path / "photos", "--batch-size", 1)
    np.testing.assert_allclose(read(done.stdout), expected, atol=1e-6)
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == ["a.png", "deep/b.jpg"]
    one = read(run("predict", folder, tmp_path / "photos" / "a.png").stdout)
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)
    again = stockpot.predict(folder, np.stack(pixels))
    np.testing.assert_allclose(again.probabilities, expected, atol=1e-6)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["do_center_crop"]
    assert processor["size"] == {"shortest_edge": SIZE}


def test_an_image_of_the_input_is_never_the_output(
    photo: tuple[Path, Model], tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    for inputs in (tmp_path, tmp_path / "a.png"):
        output = ["-o", tmp_path / "a.png", "--overwrite"]
        assert "is an input" in run("predict", photo[0], inputs, *output, code=2).stderr
    assert (tmp_path / "a.png").read_bytes() == before
    run("predict", photo[0], tmp_path, "-o", tmp_path / "answers.csv")
    table = write_table(tmp_path / "b.csv")
    said = run("predict", photo[0], table, code=2).stderr
    assert "b.csv is no image, and the model takes images" in said
    (tmp_path / "c.png").write_bytes(b"no image")
    assert "skip-corrupt" not in run("predict", photo[0], tmp_path / "c.png", code=2).stderr


@pytest.mark.parametrize("shape", [(3, 5), (3, 7), (3,), (3, 6, 1)])
def test_arrays_of_another_width_are_refused_with_both_shapes(
    tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, "file")
    np.save(tmp_path / "odd.npy", np.zeros(shape, np.float32))
    monkeypatch.chdir(tmp_path)
    said = run("predict", "model", "odd.npy", "--root", ".", code=2).stderr
    got = ", ".join(map(str, ("N", *shape[1:])))
    assert f"odd.npy: inputs of shape ({got}), the model takes (N, 6)" in said
    np.save(tmp_path / "texts.npy", np.array(["a", "b"]))
    assert "type <U1" in run("predict", "model", "texts.npy", "--root", ".", code=2).stderr


@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=2, max_size=5, unique=True)
    | st.permutations(["input", "label", "probability of input", "probability of label"]),
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=4),
)
def test_every_column_of_a_table_has_a_name_of_its_own(
    classes: list[str], inputs: list[str]
) -> None:
    from stockpot.cli.predict import _table
    from stockpot.inference import Predictions

    outputs = np.random.default_rng(0).normal(size=(len(inputs), len(classes)))
    done = Predictions(outputs, tuple(classes), tuple(inputs))
    header, *rows = csv.reader(io.StringIO(_table(done), newline=""))
    assert len(set(header)) == len(header) == 2 + len(classes)
    assert header[:2] == ["input", "label"]
    for name, column in zip(classes, header[2:], strict=True):
        assert column in (name, f"probability of {name}")
    assert [row[:2] for row in rows] == list(map(list, zip(inputs, done.labels, strict=True)))


def test_numbers_are_predicted_as_values(tmp_path: Path) -> None:
    model = kept(tmp_path, "distilbert", ())
    with torch.no_grad():
        expected = model(model.backbone.prepare(TEXTS))[:, 0].numpy()
    table = write_table(tmp_path / "a.csv", label=["0.5", "1.5", "-1"])
    shown = run("predict", tmp_path / "model", table).stdout
    got = [float(line.rpartition(",")[2]) for line in shown.splitlines()[1:]]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    done = stockpot.predict(tmp_path / "model", TEXTS)
    with pytest.raises(InputError, match="no probabilities"):
        _ = done.labels
    task = {"kind": "text", "path": "a.csv", "domain": None, "target": "regression"}
    found = stockpot.evaluate(tmp_path / "model", task, root=tmp_path)
    truth = np.array([0.5, 1.5, -1])
    r2 = 1 - ((expected - truth) ** 2).mean() / truth.var()
    assert (found.metric, found.value.mean) == ("r2", pytest.approx(r2, rel=1e-5))


@pytest.mark.parametrize("kind", ["function", "file"])
def test_the_card_of_a_function_backbone_runs(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = kept(tmp_path, kind)
    inputs = np.random.default_rng(0).normal(size=(1, 6)).astype(np.float32)
    np.save(tmp_path / "model" / "inputs.npy", inputs)
    if kind == "file":
        (tmp_path / "model" / "net.py").write_text((tmp_path / "net.py").read_text())
    monkeypatch.chdir(tmp_path / "model")
    monkeypatch.syspath_prepend(ROOT)
    code = re.search(r"```python\n(.*?)```", Path("README.md").read_text("utf-8"), re.S)
    assert code is not None
    exec(code[1], {"__name__": "__main__"})
    shown = capsys.readouterr().out
    with torch.no_grad():
        expected = model(torch.from_numpy(inputs)).softmax(1)[0].tolist()
    numbers = [float(part) for part in re.findall(r"\d+\.\d+", shown)]
    assert numbers == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "none.csv: no such file or folder"),
        (["."], "is a folder, and the model takes texts"),
        (["none.csv"], "hint: check the path"),
        (["two.csv"], "line 2: no column 'text'"),
        (["two.csv"], "its columns are 'a', 'b'; say which one holds the texts: --text COLUMN"),
        (["two.csv", "--text", "c"], "line 2: no column 'c'"),
        (["empty.txt"], "empty.txt, line 1: no text"),
        (["gap.txt"], "gap.txt, line 2: no text"),
        (["latin.txt"], "latin.txt is not UTF-8 text"),
        (["ok.txt", "--root", "/nope"], "--root is for function backbones"),
        (["ok.txt", "-o", "ok.txt"], "ok.txt exists already"),
        (["ok.txt", "-o", "ok.txt", "--overwrite"], "ok.txt is an input"),
        (["ok.txt", "-o", "../ok/ok.txt", "--overwrite"], "ok.txt is an input"),
        (["model.bin"], "no kind of table"),
        (["gap.csv"], "line 3: column 'text' holds no text"),
        (["ok.txt", "--device", "cuda:7"], "device 'cuda:7' is not there"),
        (["ok.txt", "--device", "gpu"], "device 'gpu' is not there"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(
    text: tuple[Path, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "ok").mkdir()
    monkeypatch.chdir(tmp_path / "ok")
    Path("gap.txt").write_text("good\n \nbad\n")
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    Path("two.csv").write_text("a,b\nx,y\n")
    Path("gap.csv").write_text('text,b\nx,y\n" ",y\n')
    Path("ok.txt").write_text("good\n")
    for name in ("empty.txt", "model.bin"):
        Path(name).touch()
    done = run("predict", text[0], *arguments, code=2)
    assert done.stdout == ""
    assert message in done.stderr
    assert Path("ok.txt").read_text() == "good\n"
    run("predict", tmp_path, "ok.txt", code=2)


def test_classes_are_matched_by_name(text: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    model, expected = text
    right = [ODD[int(row.argmax())] for row in expected]
    other = ODD[1 - ODD.index(right[0])]
    for classes in (None, list(ODD), list(ODD[::-1])):
        labels = [right[0], other, right[2]]
        write_table(tmp_path / "a.csv", label=labels, domain=["p", "p", "q"])
        task: dict[str, Any] = {"kind": "text", "path": "a.csv", "allow_missing_classes": True}
        if len(set(labels)) == 2:
            done = stockpot.evaluate(model, task | {"classes": classes}, root=tmp_path)
            agreed = np.mean([a == b for a, b in zip(labels, right, strict=True)])
            assert done.value.mean == pytest.approx(agreed)
            both = [one.mean for one in done.domains.values()]
            assert done.over_domains.mean == pytest.approx(np.mean(both))
            assert done.examples == {"p": 2, "q": 1}
    write_table(tmp_path / "a.csv", label=["no: 1", "maybe", "maybe"], domain=["p", "p", "q"])
    (tmp_path / "task.yaml").write_text("kind: text\npath: a.csv\nallow_missing_classes: true\n")
    done = run("evaluate", model, tmp_path / "task.yaml", code=2)
    assert "class 'maybe', which the model has not; its classes are 'no: 1'" in done.stderr


def test_evaluate_reads_a_recipe_and_prints_domains(
    text: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    model, expected = text
    labels = [ODD[0], ODD[1], ODD[0]]
    write_table(tmp_path / "a.csv", label=labels, domain=["p", "p", "q"])
    (tmp_path / "recipe.yaml").write_text(
        "task: {kind: text, path: a.csv, allow_missing_classes: true}\nruns: 3\n"
    )
    value = json.loads(run("evaluate", model, tmp_path / "recipe.yaml", "--json").stdout)
    truth = [ODD.index(label) for label in labels]
    assert value["mean"] == pytest.approx(float((expected.argmax(1) == truth).mean()))
    assert set(value["domains"]) == {"p", "q"}
    shown = run("evaluate", model, tmp_path / "recipe.yaml").stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["all", "mean", "p", "q"]
    mean = np.mean([one["mean"] for one in value["domains"].values()])
    assert value["over_domains"]["mean"] == pytest.approx(mean)
    loss = stockpot.evaluate(model, tmp_path / "recipe.yaml", metric="log_loss")
    assert loss.value.mean == pytest.approx(-np.log(expected[[0, 1, 2], truth]).mean(), abs=1e-5)
    assert loss.also["accuracy"] == pytest.approx(value["mean"])
    with pytest.raises(InputError, match="metric 'r2' is for regression"):
        stockpot.evaluate(model, tmp_path / "recipe.yaml", metric="r2")
    one = run("evaluate", model, tmp_path / "recipe.yaml", "--domain", "p").stdout
    assert "2 examples" in one
    (tmp_path / "bad.yaml").write_text("[1]")
    with pytest.raises(TaskError, match=r"bad\.yaml is no mapping"):
        stockpot.evaluate(model, tmp_path / "bad.yaml")
    (tmp_path / "odd.yaml").write_text("kind: text\npath: a.csv\nsiez: 3\n")
    with pytest.raises(TaskError, match=r"odd\.yaml: .*siez"):
        stockpot.evaluate(model, tmp_path / "odd.yaml")


def test_a_model_of_another_kind_is_refused(photo: tuple[Path, Model], tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", label=["x", "y", "x"])
    task = {"kind": "text", "path": "a.csv", "domain": None}
    with pytest.raises(InputError, match="takes image inputs, task 'a' has text inputs"):
        stockpot.evaluate(photo[0], task, root=tmp_path)


def test_a_folder_from_before_still_opens(tmp_path: Path) -> None:
    """Weights under the base's names, the head in a file of its own, and no word on images."""
    from stockpot.checkpoints.torch_io import save_state

    model = kept(tmp_path, "bert")
    old = tmp_path / "old"
    old.mkdir()
    for file in (tmp_path / "base").iterdir():
        (old / file.name).write_bytes(file.read_bytes())
    save_state(old / "model.safetensors", model.backbone.state())
    save_state(old / "head.safetensors", dict(model.head.state_dict()))
    spec = model.backbone.spec.model_dump(mode="json", exclude={"freeze_below", "weights"})
    about = {"schema": 1, "classes": list(ODD), "backbone": {**spec, "name": "."}}
    (old / "head.json").write_text(json.dumps(about))
    got, new = (stockpot.predict(place, TEXTS) for place in (old, tmp_path / "model"))
    np.testing.assert_allclose(got.outputs, new.outputs, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "vit", "function"])
def test_an_exported_program_gives_the_models_outputs(tmp_path: Path, kind: str) -> None:
    more = {"images": {"size": SIZE, "resize": "stretch"}} if kind == "vit" else {}
    model = kept(tmp_path, kind, **more)
    done = run("export", tmp_path / "model", "-o", tmp_path / "model.pt2")
    assert done.stdout == ""
    extra = {"stockpot.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["stockpot.json"])["classes"] == list(ODD)
    raw: Any = TEXTS
    if kind != "bert":
        rng = np.random.default_rng(3)
        raw = rng.normal(size=(5, 6)).astype(np.float32)
        if kind == "vit":
            raw = rng.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    batch = model.backbone.prepare(raw)
    given = (batch["input_ids"], batch["attention_mask"]) if kind == "bert" else (batch,)
    with torch.no_grad():
        torch.testing.assert_close(program(*given), model(batch), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_leaves_no_file(
    text: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    predictor = load(text[0])
    with pytest.raises(InputError, match="unknown format 'tflite'"):
        export(predictor, path, format="tflite")  # type: ignore[arg-type]
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else real(name, *a)
    )
    with pytest.raises(MissingDependencyError, match=r"'onnx'.*stockpot\[onnx\]"):
        export(predictor, path, format="onnx")
    # A program that says something else than the model is not kept.
    from stockpot.inference import program

    monkeypatch.setattr(program, "_run_torch", lambda path, example: np.zeros((4, 2)))
    with pytest.raises(StockpotError, match="differs from the model"):
        export(predictor, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_onnx_gives_the_models_outputs(text: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")
    path = export(text[0], tmp_path / "model.onnx", format="onnx")
    said = {each.key: each.value for each in onnx.load(str(path)).metadata_props}
    assert json.loads(said["stockpot.json"])["classes"] == list(ODD)


def test_numbers_on_rows_that_trained_the_model_are_labelled(
    text: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    """A copy of the folder says that it was trained on this data, with domain q held out."""
    import shutil

    from stockpot.provenance import write_record
    from stockpot.tasks import load_task, parse_task_spec

    model = shutil.copytree(text[0], tmp_path / "model")
    spec = {"kind": "text", "path": "a.csv", "allow_missing_classes": True}
    write_table(tmp_path / "a.csv", label=[ODD[0], ODD[1], ODD[0]], domain=["p", "p", "q"])
    recipe = {"task": spec, "held_out": ["q"], "metric": "log_loss"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = run("evaluate", model, tmp_path / "recipe.yaml")
    assert done.stdout.startswith("q  log_loss")
    assert "not known whether the model was trained on them" in done.stderr
    backbone = {"kind": "transformers", "name": "base"}
    data = load_task(parse_task_spec(spec), root=tmp_path).fingerprint
    own = {**recipe, "backbone": backbone}
    write_record(model, Record(kind="merge", name="Soup", recipe=own, data=data))
    done = run("evaluate", model, tmp_path / "recipe.yaml")
    assert done.stdout.startswith("q  log_loss")
    assert "trained on" not in done.stdout
    assert "judged on 1 of 3 rows; they neither trained nor chose the model" in done.stderr
    both = ["--domain", "p", "--domain", "q", "--metric", "accuracy"]
    done = run("evaluate", model, tmp_path / "recipe.yaml", *both)
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(", trained on")]
    assert lines == ["all", "mean", "p"]
    assert "rows of 'p' trained the model, or chose it" in done.stderr
    value = json.loads(run("evaluate", model, tmp_path / "recipe.yaml", *both, "--json").stdout)
    assert value["trained_on"] is True
    assert [value["domains"][name]["trained_on"] for name in "pq"] == [True, False]
    assert value["about"] in done.stderr
