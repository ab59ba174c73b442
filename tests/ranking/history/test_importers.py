"""Each public format, in small, as its source writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.ranking.history import Reading, Store, read_results
from stockpot.ranking.history.importers import read_metadata


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_plain_matrix(tmp_path: Path) -> None:
    file = write(
        tmp_path / "m.csv", ",cars,dogs@10,dogs@full", "a,0.5,,0.9", "b,NA,0.2,55%", "c,-,nan,"
    )
    found = read_results(file, reading=Reading(metric="accuracy"))
    table = found.table
    assert found.format == "matrix"
    assert table.models == ("a", "b")
    assert table.groups == {"dogs@10": "dogs", "dogs@full": "dogs"}
    assert np.isnan(table.values[1, 0])
    assert table.values[1, 2] == 0.55  # beside 0.9
    assert found.notes == (
        "more is better: accuracy",
        "1 rows without any result are left out",
    )


def test_repeated_models_are_averaged(tmp_path: Path) -> None:
    found = read_results(write(tmp_path / "m.csv", "model,x,y", "a,1,", "a,3,5", "b,0,0"))
    assert found.table.values[0].tolist() == [2.0, 5.0]
    assert "more than once" in found.notes[1]
    assert found.unsaid == ("x", "y")


def test_ibm_table_of_one_base(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.csv",
        ",model_name,avg,mnli_lp,mnli,esnli,wnli,20_newsgroup",
        "0,base,80,,84,90,50,83",
        "1,tuned,81,61.5,85,91,51,84",
    )
    found = read_results(file)
    assert found.format == "ibm"
    assert found.table.tasks == ("mnli", "esnli", "wnli", "20_newsgroup")
    assert found.table.metadata["tuned"] == {"mnli_lp": 61.5, "family": "base"}
    assert found.reference["base"]["mnli"] == 84.0


def test_ibm_all_bases_in_fractions_with_facts(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.csv",
        "model_name,base_model,size,tokenizer,layers,from_tf,mnli_lp,mnli,esnli,wnli,20_newsgroup",
        "x,bert,1e8,x,12,False,0.5,0.8,0.9,0.5,0.8",
        "y,bert,1e8,y,12,False,0.4,,,,",
    )
    found = read_results(file)
    assert found.table.models == ("x",)
    assert found.table.values[0].tolist() == [80.0, 90.0, 50.0, 80.0]
    assert found.table.metadata["x"] == {
        "family": "bert",
        "parameters": 1e8,
        "layers": 12.0,
        "mnli_lp": 0.5,
    }


def test_open_clip(tmp_path: Path) -> None:
    file = write(
        tmp_path / "o.csv",
        "name,pretrained,params (M),FLOPs (B),Average perf. on 38 datasets,ImageNet 1k,WinoGAViL",
        "ViT-B-16,openai,149.62,41.09,0.56,0.68,0.43",
        "ViT-B-16,laion,149.62,41.09,0.56,0.67,0.42",
    )
    found = read_results(file)
    assert found.format == "openclip"
    assert found.table.models == ("ViT-B-16|openai", "ViT-B-16|laion")
    assert found.table.tasks == ("ImageNet 1k", "WinoGAViL")
    assert found.table.metadata["ViT-B-16|openai"] == {
        "architecture": "ViT-B-16",
        "pretraining": "openai",
        "parameters": 149.62e6,
        "flops": 41.09e9,
    }


def test_vtab_with_its_three_headings(tmp_path: Path) -> None:
    file = write(
        tmp_path / "v.csv",
        "train_examples_if_subset,1000,full,metadata,metadata,metadata,metadata",
        "dataset,DTD,DTD,model,architecture,hyper_sweep_size,preprocessing",
        "method,,,,,,",
        "Exemplar,48.9,61.1,https://example.org/1,ResNet50,4,resize(224)",
    )
    found = read_results(file)
    assert found.format == "vtab"
    assert found.table.tasks == ("DTD@1000", "DTD@full")
    assert found.table.group("DTD@1000") == found.table.group("DTD@full") == "DTD"
    facts = {"architecture": "ResNet50", "preprocessing": "resize(224)"}
    assert found.table.metadata["Exemplar"] == facts


def test_mteb_folder(tmp_path: Path) -> None:
    def result(path: str, task: str, scores: object) -> None:
        file = tmp_path / "results" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"task_name": task, "scores": scores}))

    result("a/rev/STS.json", "STS", {"test": [{"main_score": 0.4}, {"main_score": 0.6}]})
    result(
        "a/rev/AFQMC.json",
        "AFQMC",
        {"test": [{"main_score": float("nan")}], "validation": [{"main_score": 0.3}]},
    )
    result("b/external/STS.json", "STS", {"test": [{"main_score": 0.8}]})
    (tmp_path / "results" / "b" / "external" / "model_meta.json").write_text("{}")
    (tmp_path / "results" / "b" / "external" / "broken.json").write_text("[")
    found = read_results(tmp_path / "results")
    assert found.table.models == ("a", "b")
    assert found.table.tasks == ("AFQMC", "STS")
    assert np.allclose(found.table.values, [[0.3, 0.5], [np.nan, 0.8]], equal_nan=True)
    assert "broken.json" in found.notes[0]
    assert read_results(tmp_path / "results" / "b").table.models == ("b",)


def test_mteb_matrix_is_recognised(tmp_path: Path) -> None:
    found = read_results(write(tmp_path / "m.csv", "model,ArguAna,AlphaNLI", "a,1,2"))
    assert (found.format, found.metrics["ArguAna"]) == ("mteb", ("ArguAna", "main_score"))


def test_facts_of_models(tmp_path: Path) -> None:
    file = write(tmp_path / "f.csv", "m,params (M),pretraining,note", "a,12.5,lion,", "b,,,x")
    assert read_metadata(file) == {
        "a": {"parameters": 12.5e6, "pretraining": "lion"},
        "b": {"note": "x"},
    }


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["model,x", "a,high"], r"line 2, column 'x': 'high' is not a number"),
        (["model,x", "a,inf"], r"column 'x': the value is infinite"),
        (["model,x", "a,1,2"], r"line 2: 3 cells under 2 headings"),
        (["model,x", ",1"], r"line 2: the name of the model is empty"),
        (["model,x"], "holds no results"),
        (["model,x", "a,"], "holds no results"),
        (["model,params (M)", "a,1"], "no column with results"),
        (["train_examples_if_subset,1000", "dataset,x", "oops,", "a,1"], "lacks its lines"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_results(write(tmp_path / "wrong.csv", *lines))


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown format 'xls'"):
        read_results(tmp_path, "xls")
    with pytest.raises(InputError, match="is a folder"):
        read_results(tmp_path, "vtab")
    with pytest.raises(InputError, match="no MTEB results"):
        read_results(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_results(tmp_path / "nothing.csv")


ACCURACY = Reading(metric="accuracy")


@pytest.mark.parametrize(
    ("name", "heading", "reading", "lower"),
    [
        ("m.csv", "model,a,b", Reading(metric="MASE"), {"a", "b"}),
        ("m.csv", "model,a,b", Reading(metric="Top-1 error"), {"a", "b"}),
        ("m.csv", "model,a,b", Reading(metric="own"), None),
        ("m.csv", "model,a,b", Reading(metric="own", lower_is_better=True), {"a", "b"}),
        ("perplexity.csv", "model,a,b", Reading(), {"a", "b"}),
        ("m.csv", "model,a_ppl,b accuracy", Reading(), {"a_ppl"}),
        ("m.csv", "model,a,b", Reading(lower_is_better=True), {"a", "b"}),
        ("m.csv", "model,a,b", Reading(metric="loss", lower_is_better=False), set()),
        ("m.csv", "model,a,b", Reading(), None),
    ],
)
def test_which_way_is_up_is_known_or_asked_for(
    name: str, heading: str, reading: Reading, lower: set[str] | None, tmp_path: Path
) -> None:
    file = write(tmp_path / name, heading, "x,1.5,0.25", "y,2,0.5")
    with Store.open(":memory:") as store:
        if lower is None:
            with pytest.raises(InputError, match="--lower-is-better"):
                store.import_csv(file, reading=reading)
            return
        report = store.import_csv(file, reading=reading)
        assert store.table().lower == lower
        assert "is better" in report.notes[0]


def test_a_long_table(tmp_path: Path) -> None:
    file = write(
        tmp_path / "l.csv",
        "Task;Model;Value;Metric;Seed;params;notes",
        "cars;a;0,80;accuracy;0;5;x",
        "cars;a;0,90;accuracy;1;5;",
        "cars;b;70%;accuracy;0;6;",
        "text;a;12,5;perplexity;0;5;",
        "text;b;10;perplexity;0;6;",
        "cars;b;0,1;ece;0;6;",
    )
    with pytest.raises(InputError, match="column 'notes' is neither"):
        read_results(file)
    with Store.open(":memory:") as store:
        report = store.import_csv(file, reading=Reading(ignore=["notes"]))
        table = store.table()
    assert report.format == "long"
    assert set(table.tasks) == {"cars [accuracy]", "cars [ece]", "text"}
    assert table.lower == {"cars [ece]", "text"}
    assert table.values[:, table.column["cars [accuracy]"]] == pytest.approx([0.85, 0.7])
    assert table.values[:, table.column["text"]].tolist() == [12.5, 10.0]
    assert table.group("cars [ece]") == "cars"
    assert table.metadata["b"] == {"parameters": 6.0}
    twice = write(tmp_path / "t.csv", "model,task,acc,value,seed", "a,t,,1,0", "a,t,,2,0")
    with pytest.raises(InputError, match="line 3: a t accuracy 0 stands on line 2"):
        read_results(twice, reading=Reading(metric="accuracy", ignore=["acc"]))


def test_columns_are_results_facts_or_refused(tmp_path: Path) -> None:
    file = write(
        tmp_path / "m.csv", "model,built,optimizer,cars,avg", "a,2019,sgd,81,1", "b,2021,adam,85,2"
    )
    with pytest.raises(InputError, match="column 'built': no accuracy is 2021"):
        read_results(file, reading=ACCURACY)
    found = read_results(file, reading=Reading(metric="accuracy", facts=["built"]))
    assert found.table.tasks == ("cars",)
    assert found.table.metadata["b"] == {"built": 2021.0, "optimizer": "adam"}
    assert "columns of texts are facts about the models: optimizer" in found.notes
    assert "columns left out: avg" in found.notes
    with pytest.raises(InputError, match=r"no column 'biult' \(--ignore\); did you mean 'built'"):
        read_results(file, reading=Reading(metric="accuracy", ignore=["biult"]))


def test_fractions_beside_per_cent_are_refused(tmp_path: Path) -> None:
    rows = ["a,0.8", "b,0.9", "c,85", "d,70"]
    file = write(tmp_path / "m.csv", "model,t", *rows)
    with pytest.raises(InputError, match=r"holds 0\.8 and 85"):
        read_results(file, reading=ACCURACY)
    found = read_results(file, reading=Reading(metric="accuracy", unit="percent"))
    assert found.table.values[:, 0].tolist() == [0.8, 0.9, 85.0, 70.0]
    with pytest.raises(InputError, match="no accuracy is 85 as a fraction"):
        read_results(file, reading=Reading(metric="accuracy", unit="fraction"))


def test_zeros_are_missing_on_request(tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", "model,t,u", "a,0,0.5", "b,0.8,0")
    values = read_results(file, reading=Reading(metric="accuracy", zeros_missing=True)).table.values
    assert np.isnan(values).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("name", ["rank", "Year", "Unnamed: 0", "#", "downloads"])
@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_numbers_that_are_no_results_are_refused_whatever_the_metric(
    name: str, metric: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "m.csv", f"model,{name},cars", "a,1,81", "b,2,70")
    with pytest.raises(InputError, match="holds no results") as caught:
        read_results(file, reading=Reading(metric=metric))
    assert f"--ignore '{name}'" in str(caught.value.hint)
    found = read_results(file, reading=Reading(metric=metric, ignore=[name]))
    assert found.table.tasks == ("cars",)


@pytest.mark.parametrize("name", ["Model", "model name", "MODEL_NAME", "Name", "Model-ID"])
def test_the_models_column_is_known_however_it_is_written(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", f"Rank,{name},cars,pets", "1,a,81,70", "2,b,70,80")
    found = read_results(file, reading=Reading(metric="accuracy", ignore=["Rank"]))
    assert (found.table.models, found.table.tasks) == (("a", "b"), ("cars", "pets"))


def test_models_are_not_called_by_their_place(tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", "Rank,System,cars", "1,a,81", "2,b,70")
    with pytest.raises(InputError, match="which column names the models"):
        read_results(file, reading=ACCURACY)


def test_less_than_nothing_is_no_accuracy_but_a_correlation(tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", "model,t,u", "a,-0.3,0.5", "b,0.7,0.2")
    with pytest.raises(InputError, match=r"column 't': no accuracy is -0\.3"):
        read_results(file, reading=ACCURACY)
    for metric in ("spearman", "R2", "val_r2"):
        reading = Reading(metric=metric, lower_is_better=False)
        assert read_results(file, reading=reading).table.values[0, 0] == -0.3
