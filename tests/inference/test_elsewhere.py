"""What recycle keeps opens in other people's tools, and gives the numbers of the report there."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stockpot
from stockpot.backbones import BackboneSpec, load_backbone, load_model
from stockpot.backbones.layout import Layout, parse_layout
from stockpot.backbones.library import express
from stockpot.checkpoints import open_checkpoint
from stockpot.compat import ensure_torchvision
from stockpot.errors import BackboneError
from stockpot.evaluation.metrics import softmax
from stockpot.provenance import read_models, read_record
from stockpot.recycling import recycle
from stockpot.training.rows import read_outputs
from tests.inference.models import SEVEN, SIZE, base, image_recipe, text_recipe

CASES = {
    "bert": lambda folder: text_recipe(folder, "bert"),
    "roberta": lambda folder: text_recipe(folder, "roberta", SEVEN),
    "masked-bert": lambda folder: text_recipe(folder, "masked-bert"),
    "masked-roberta": lambda folder: text_recipe(folder, "masked-roberta"),
    "distilbert": lambda folder: text_recipe(folder, "distilbert", ()),
    "sentence": lambda folder: sentence_recipe(folder),
    "vit": lambda folder: image_recipe(folder, "vit"),
    "resnet": lambda folder: image_recipe(folder, "resnet", image_size=SIZE),
    "timm": lambda folder: image_recipe(folder, "timm"),
}


@dataclass(frozen=True)
class Kept:
    """A recycled model, and what the report is computed from on the held-out domain."""

    home: Path
    model: Path
    outputs: np.ndarray
    results: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        with (self.home / "texts.csv").open(encoding="utf-8", newline="") as handle:
            return [row["text"] for row in csv.DictReader(handle) if row["domain"] == "south"]

    @property
    def photos(self) -> list[Path]:
        return sorted(
            (self.home / "images" / "south").rglob("*.png"), key=lambda p: (p.parent, p.name)
        )

    @property
    def classes(self) -> list[str]:
        return self.results["task"]["classes"]


def sentence_recipe(folder: Path) -> dict[str, Any]:
    """A base with the files of sentence-transformers, which is pooled by the mean."""
    value = text_recipe(folder, "bert")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    (folder / "base" / "modules.json").write_text(json.dumps(modules))
    (folder / "base" / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "base" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return value


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Kept] = {}

    def keep(name: str) -> Kept:
        if name not in made:
            made[name] = recycled(tmp_path_factory.mktemp(name), name)
        return made[name]

    return keep


@pytest.fixture
def longer(tmp_path: Path) -> Any:
    """Recycles with runs that get better than the linear probe, by a metric that shows it."""

    def recycle_longer(name: str) -> Kept:
        rate = {"timm": 0.003}.get(name, 0.01)
        metric = {"distilbert": "r2"}.get(name, "log_loss")
        training = {"steps": 60, "learning_rate": rate, "evaluate_every": 20}
        return recycled(tmp_path / "world", name, training, metric=metric)

    return recycle_longer


def recycled(home: Path, name: str, training: dict[str, Any] | None = None, **more: Any) -> Kept:
    home.mkdir(exist_ok=True)
    value = {**CASES[name](home), **more}
    value["training"] |= training or {}
    done = recycle(value, home / "out", root=home, backend="serial", quiet=True)
    return Kept(home, Path(done.model), reported(done.folder), done.results.to_json())


def reported(folder: Path) -> np.ndarray:
    """The outputs on the held-out domain that the kept row was scored by."""
    for job in (folder / "work" / "jobs").iterdir():
        label = json.loads((job / "done.json").read_text())["label"]
        if label.startswith("Soup (DiWA), uniform · south"):
            return read_outputs(job / "outputs.npz")["test/south"]
    raise AssertionError("no such job")


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_a_text_model_answers_in_a_pipeline_as_the_report_says(kept: Any, name: str) -> None:
    import transformers

    own = kept(name)
    classify = transformers.pipeline(
        "text-classification", str(own.model), truncation=True, top_k=None
    )
    answers = classify(own.texts)
    if not own.classes:
        got = np.array([[one[0]["score"]] for one in answers])
        np.testing.assert_allclose(got, own.outputs, rtol=1e-5, atol=1e-5)
        return
    got = np.array(
        [
            [part["score"] for name in own.classes for part in one if part["label"] == name]
            for one in answers
        ]
    )
    np.testing.assert_allclose(got, softmax(own.outputs), atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(own.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(own.model)
    tokens = tokenizer(own.texts, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens).logits.numpy()
    np.testing.assert_allclose(logits, own.outputs, rtol=1e-5, atol=1e-5)
    assert [model.config.id2label[i] for i in range(len(own.classes))] == own.classes


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_an_image_model_answers_in_a_pipeline_as_the_report_says(kept: Any, name: str) -> None:
    import transformers

    own = kept(name)
    classify = transformers.pipeline("image-classification", str(own.model), top_k=2)
    answers = classify([str(path) for path in own.photos])
    got = np.array(
        [
            [part["score"] for name in own.classes for part in one if part["label"] == name]
            for one in answers
        ]
    )
    np.testing.assert_allclose(got, softmax(own.outputs), atol=1e-5)
    model = transformers.AutoModelForImageClassification.from_pretrained(own.model)
    processor = transformers.AutoImageProcessor.from_pretrained(own.model)
    from PIL import Image

    pixels = processor([Image.open(path) for path in own.photos], return_tensors="pt")
    assert pixels["pixel_values"].shape[-2:] == (SIZE, SIZE)
    with torch.no_grad():
        logits = model(**pixels).logits.numpy()
    np.testing.assert_allclose(logits, own.outputs, rtol=1e-5, atol=1e-5)


def test_a_timm_model_answers_in_timm_with_classes_and_sizes_as_trained(kept: Any) -> None:
    import timm
    from PIL import Image

    own = kept("timm")
    model = timm.create_model(f"local-dir:{own.model}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["input_size"]) == (3, SIZE, SIZE)
    assert (config["interpolation"], config["crop_pct"], config["crop_mode"]) == (
        "bilinear",
        1.0,
        "squash",
    )
    prepare = timm.data.create_transform(**config)
    with torch.no_grad():
        batch = torch.stack([prepare(Image.open(path).convert("RGB")) for path in own.photos])
        np.testing.assert_allclose(model(batch).numpy(), own.outputs, rtol=1e-5, atol=1e-5)
    said = json.loads((own.model / "config.json").read_text())
    assert said["label_names"] == own.classes
    assert said["num_classes"] == 2


@pytest.mark.parametrize("name", list(CASES))
def test_predict_gives_the_outputs_of_the_report(kept: Any, name: str) -> None:
    own = kept(name)
    inputs = own.texts if (own.home / "texts.csv").exists() else own.photos
    done = stockpot.predict(own.model, inputs, batch_size=7)
    np.testing.assert_allclose(done.outputs, own.outputs, rtol=1e-5, atol=1e-5)
    assert list(done.classes) == own.classes


@pytest.mark.parametrize("name", list(CASES))
def test_evaluate_gives_the_accuracy_of_the_report(kept: Any, name: str) -> None:
    own = kept(name)
    done = stockpot.evaluate(
        own.model, CASES_TASK[name.split("_")[0]], domains=["south"], root=own.home
    )
    cell = own.results["cells"][0]
    expected = next(m for m in cell["models"] if m["protocol"] == "soup_uniform")["accuracy"]
    assert done.value.mean == pytest.approx(expected, abs=1e-6)
    assert done.value.low <= done.value.mean <= done.value.high
    assert done.examples == {"south": len(own.outputs)}
    assert done.trained_on == {"south": False}


_TEXTS = {"kind": "text", "path": "texts.csv"}
_PHOTOS = {"kind": "images", "path": "images"}  # at another size than the model was trained at
CASES_TASK = {
    "bert": _TEXTS,
    "roberta": _TEXTS,
    "masked-bert": _TEXTS,
    "masked-roberta": _TEXTS,
    "distilbert": {**_TEXTS, "target": "regression"},
    "sentence": _TEXTS,
    "vit": _PHOTOS,
    "resnet": _PHOTOS,
    "timm": _PHOTOS,
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_lines_of_the_card_run_and_say_what_the_report_says(
    kept: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines are run as they stand; only the sample input is one of the held-out rows."""
    own = kept(name)
    card = (own.model / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == (2 if name == "sentence" else 1)
    monkeypatch.chdir(own.model)
    for lines in blocks:
        if "photo.png" in lines:
            lines = lines.replace("photo.png", str(own.photos[0]))
        else:
            assert "A joy from start to finish." in lines
            lines = lines.replace("A joy from start to finish.", own.texts[0])
        exec(lines, {"__name__": "__main__"})
        shown = capsys.readouterr().out
        numbers = [float(part) for part in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", shown)]
        expected = softmax(own.outputs[:1])[0] if own.classes else own.outputs[0]
        assert sorted(numbers) == pytest.approx(sorted(expected.tolist()), abs=1e-4)  # as printed
        for label in own.classes if "pipeline" in lines else []:
            assert repr(label) in shown


def test_a_pooling_that_no_class_has_is_not_promised(kept: Any) -> None:
    own = kept("sentence")
    card = (own.model / "README.md").read_text("utf-8")
    assert "stockpot.predict" in card
    assert "from transformers import pipeline" not in card
    assert "new, random head" in card
    about = json.loads((own.model / "head.json").read_text())
    assert about["backbone"]["pooling"] == "mean"
    assert parse_layout(about) is None
    assert (own.model / "1_Pooling" / "config.json").is_file()
    assert json.loads((own.model / "modules.json").read_text())[1]["path"] == "1_Pooling"


def test_sentence_transformers_opens_the_folder_as_it_opened_the_base(kept: Any) -> None:
    ensure_torchvision(quiet=True)
    library = pytest.importorskip("sentence_transformers", reason="is no dependency of stockpot")
    own = kept("sentence")
    vectors = library.SentenceTransformer(str(own.model)).encode(own.texts)
    model, _ = load_model(own.model)
    with torch.no_grad():
        features = model.features(model.backbone.prepare(own.texts)).numpy()
    np.testing.assert_allclose(vectors, features, rtol=1e-4, atol=1e-5)


def test_the_record_names_the_weights_with_their_head(kept: Any) -> None:
    for name in ("bert", "timm", "sentence"):
        own = kept(name)
        with open_checkpoint(own.model) as checkpoint:
            assert read_record(own.model).digest == checkpoint.digest()
        assert (own.model / "head.safetensors").is_file() == (name == "sentence")


def job_of(own: Kept, run: str) -> Path:
    """The folder of one fine-tuning."""
    jobs = (own.home / "out" / "work" / "jobs").iterdir()
    return next(job for job in jobs if f"fine-tune {run} from" in (job / "done.json").read_text())


@pytest.mark.parametrize("name", ["bert", "distilbert", "timm", "sentence"])
def test_runs_land_in_a_registry_and_answer_with_their_own_heads(
    longer: Any, name: str, tmp_path: Path
) -> None:
    from stockpot.checkpoints.torch_io import load_state
    from stockpot.registry import checkout, init_registry, land

    own = longer(name)
    with init_registry(tmp_path / "registry") as registry:
        done = land(registry, own.home / "out")
        listed = read_models(own.home / "out")
        digests = {made.record.name: made.record.digest for made in listed if made.record}
        runs = {m.manifest.name: m for m in done.models if ": base-" in (m.manifest.name or "")}
        # Runs that ended where they began have the same bytes.
        distinct = {digests[name] for name in digests if ": base-" in name}
        assert distinct
        assert {added.manifest.digest for added in runs.values()} == distinct
        for label, added in runs.items():
            place = tmp_path / label.rpartition("-")[2]
            checkout(registry, added.id, place)
            with open_checkpoint(place) as checkpoint:
                assert digests[label] == added.manifest.digest == checkpoint.digest()
            model, _ = load_model(place)
            state = load_state(job_of(own, label.rpartition(" ")[2]) / "best.safetensors")
            assert torch.equal(model.head.weight.detach(), state["head.weight"])
            assert torch.equal(model.head.bias.detach(), state["head.bias"])


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("bert", "small"),
        ("albert", "small"),
        ("camembert", "small"),
        ("mpnet", "small"),
        ("distilbert", "pair"),
        ("electra", "pair"),
        ("deberta", "pair"),
        ("vit", "linear"),
        ("swin", "linear"),
        ("convnext", "linear"),
        ("dinov2", "linear"),
    ],
)
def test_the_class_of_an_architecture_is_found_by_trying(
    tmp_path: Path, kind: str, form: str
) -> None:
    base(tmp_path / "base", kind)
    backbone = load_backbone(
        BackboneSpec(kind="transformers", name=str(tmp_path / "base"), image_size=32)
    )
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(7, backbone.feature_dim)).astype(np.float32)
    bias = rng.normal(size=7).astype(np.float32)
    module = backbone.module
    done = express(backbone.network, module.run, module.readout, (weight, bias), backbone.example())
    assert done is not None
    assert done.layout.form == form
    again = done.layout.read(done.layout.place(weight, bias), backbone.feature_dim)
    assert np.array_equal(again[0], weight)
    assert np.array_equal(again[1], bias)


def test_an_architecture_whose_class_computes_something_else_has_none(tmp_path: Path) -> None:
    """ModernBERT's class has a norm between the features and the last layer."""
    base(tmp_path / "base", "modernbert")
    backbone = load_backbone(BackboneSpec(kind="transformers", name=str(tmp_path / "base")))
    assert backbone.spec.pooling == "mean"
    head = np.ones((2, 16), np.float32), np.zeros(2, np.float32)
    module = backbone.module
    assert express(backbone.network, module.run, module.readout, head, backbone.example()) is None


@pytest.mark.parametrize("form", ["linear", "pair", "small"])
def test_the_mean_of_files_is_the_file_of_the_mean(form: Any) -> None:
    dense = "" if form == "linear" else "dense"
    layout = Layout(form, "out", 12, dense=dense, hidden=12 if dense else 0)
    rng = np.random.default_rng(0)
    heads = [
        (rng.integers(-8, 8, (3, 12)).astype(np.float32), rng.integers(-8, 8, 3).astype(np.float32))
        for _ in range(2)
    ]
    placed = [layout.place(*head) for head in heads]
    mean = {name: (placed[0][name] + placed[1][name]) / 2 for name in layout.names}
    weight, bias = layout.read(mean, 12)
    assert np.array_equal(weight, (heads[0][0] + heads[1][0]) / 2)
    assert np.array_equal(bias, (heads[0][1] + heads[1][1]) / 2)


def test_a_head_that_something_else_trained_is_refused_by_its_tensor() -> None:
    layout = Layout("pair", "out", 12, dense="dense", hidden=12)
    tensors = layout.place(np.ones((2, 5), np.float32), np.zeros(2, np.float32))
    tensors["dense.weight"][3, 1] += 1
    with pytest.raises(BackboneError, match=r"'dense\.weight' is no longer the head"):
        layout.read(tensors, 5)
    with pytest.raises(BackboneError, match=r"does not fit into \(12, 5\)"):
        layout.place(np.ones((7, 5), np.float32), np.zeros(7, np.float32))


def test_a_base_that_is_pooled_in_a_way_of_its_own_is_named(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}')
    with pytest.raises(BackboneError, match=r"pooled by 'max' \(set pooling: mean"):
        load_backbone(BackboneSpec(kind="transformers", name=str(folder)))
