"""The starter kit: sourced facts, limits, proposals for whoever has no zoo."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import InputError
from stockpot.ranking.at_hand import models_at_hand
from stockpot.ranking.starter import MODALITIES, Limits, count, starter_kit
from stockpot.ranking.zoo import load_zoo


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on a machine without a model."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def reviews(folder: Path) -> Path:
    words = ["good and kind and funny it was", "bad and dull and far too long it was"]
    lines = [f"{words[i % 2]} number {i},{'yes' if i % 2 else 'no'}" for i in range(40)]
    (folder / "reviews.csv").write_text("review,liked\n" + "\n".join(lines) + "\n")
    return folder / "reviews.csv"


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["rank", *map(str, words)])
    return done.exit_code, done.output


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_fact_of_the_kit_has_a_source(modality: str) -> None:
    kit = starter_kit(modality)
    assert len(kit.facts) > 300
    assert all(facts["source"] and facts["parameters"] > 0 for facts in kit.facts.values())
    assert set(kit.table.models) <= set(kit.facts)
    assert kit.table.lower == frozenset()
    assert kit.table.values[kit.table.values == kit.table.values].min() >= 0
    assert kit.table.values[kit.table.values == kit.table.values].max() <= 100


@pytest.mark.parametrize("file", ["docs/ranking.md", "src/stockpot/ranking/kit/README.md"])
def test_the_docs_count_the_kit_as_it_is(file: str) -> None:
    text = (Path(__file__).parents[3] / file).read_text(encoding="utf-8")
    image, texts = starter_kit("image"), starter_kit("text")
    assert re.search(rf"\b{len(image.facts):,} (image )?models", text)
    assert re.search(rf"\b{len(texts.facts)} (open )?text encoders", text)
    assert re.search(rf"\b{len(texts.table.models)} of the", text)


def test_facts_that_others_publish_are_the_kits_too() -> None:
    minilm = starter_kit("text").facts["sentence-transformers/all-MiniLM-L6-v2"]
    assert minilm["parameters"] == pytest.approx(22.7e6, rel=0.01)
    assert (minilm["width"], minilm["licence"]) == (384, "apache-2.0")
    resnet = starter_kit("image").facts["resnet50.a1_in1k"]
    assert resnet["parameters"] == pytest.approx(25.56e6, rel=0.001)
    assert (resnet["licence"], resnet["family"]) == ("apache-2.0", "resnet")


def test_limits_say_what_is_not_wanted() -> None:
    kit = starter_kit("text")
    limits = Limits(count("30M"), ("MIT",))
    limits.check(kit)
    assert limits.refusal({"parameters": 2e7, "licence": "mit"}) is None
    assert limits.refusal({"parameters": 4e7, "licence": "mit"}) == "40 million parameters"
    assert limits.refusal({"parameters": 2e7}) == "its licence is not known"
    assert limits.refusal({"licence": "mit"}) == "its number of parameters is not known"
    with pytest.raises(InputError, match=r"did you mean 'apache-2\.0'"):
        Limits(licences=("apache-2",)).check(kit)
    assert [count(text) for text in ("110M", "1.5B", "2e7", 5.0)] == [1.1e8, 1.5e9, 2e7, 5.0]
    with pytest.raises(InputError, match="no number of parameters"):
        count("small")


def test_one_table_and_nothing_else(nothing_at_hand: Path) -> None:
    code, text = run(reviews(nothing_at_hand), "--max-parameters", "50M", "--licence", "mit")
    assert code == 0, text
    assert "none was run" in text
    assert "labels: column 'liked' (2 classes)" in text
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("next:"))
    results = json.loads((nothing_at_hand / "ranked" / "results.json").read_text())
    assert results["models"] == []
    assert len(results["proposals"]) == 10
    for each in results["proposals"]:
        assert each["facts"]["parameters"] <= 5e7
        assert each["facts"]["licence"] == "mit"
    assert "Proposals" in (nothing_at_hand / "ranked" / "report.html").read_text()
    zoo = load_zoo(nothing_at_hand / "ranked" / "zoo.yaml")
    assert list(zoo.entries) == [each["name"] for each in results["proposals"]]
    code, text = run("reviews.csv", "--dry-run", "--max-parameters", "50M")
    assert code == 0, text
    assert "proposed" in text


def test_limits_are_for_proposals_alone(nothing_at_hand: Path) -> None:
    task = reviews(nothing_at_hand)
    (nothing_at_hand / "zoo.yaml").write_text(yaml.safe_dump({"models": ["f.npy"]}))
    for option in (("--max-ms", 3), ("--licence", "mit"), ("--max-parameters", "5M")):
        code, text = run(task, "--zoo", "zoo.yaml", *option)
        assert code == 2
        assert "leave out the zoo" in text


def test_models_on_this_machine_are_seen(nothing_at_hand: Path, tmp_path: Path) -> None:
    def model(folder: Path, *files: str) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "bert"}')
        for file in (*files, "model.safetensors"):
            (folder / file).write_text("{}")

    model(nothing_at_hand / "models" / "mine", "vocab.txt")
    model(nothing_at_hand / "pictures", "preprocessor_config.json")
    model(tmp_path / "cache" / "assets" / "minilm", "tokenizer.json")
    hub = tmp_path / "hub" / "models--org--name"
    model(hub / "snapshots" / "abc", "tokenizer.json")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    (nothing_at_hand / "notes").mkdir()
    found = [each.name for each in models_at_hand("text", nothing_at_hand)]
    assert found == ["mine", "org/name", "sentence-transformers/all-MiniLM-L6-v2"]
    assert [each.name for each in models_at_hand("image", nothing_at_hand)] == ["pictures"]
