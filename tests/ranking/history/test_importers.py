"""Each public format, in small, as its source writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.ranking.history import read_results
from stockpot.ranking.history.importers import read_metadata


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_plain_matrix(tmp_path: Path) -> None:
    file = write(
        tmp_path / "m.csv", ",cars,dogs@10,dogs@full", "a,0.5,,0.9", "b,NA,0.2,55%", "c,-,nan,"
    )
    found = read_results(file)
    table = found.table
    assert found.format == "matrix"
    assert table.models == ("a", "b")
    assert table.groups == {"dogs@10": "dogs", "dogs@full": "dogs"}
    assert np.isnan(table.values[1, 0])
    assert table.values[1, 2] == 55.0
    assert found.notes == ("1 rows without any result are left out",)


def test_repeated_models_are_averaged(tmp_path: Path) -> None:
    found = read_results(write(tmp_path / "m.csv", "model,x,y", "a,1,", "a,3,5", "b,0,0"))
    assert found.table.values[0].tolist() == [2.0, 5.0]
    assert "more than once" in found.notes[0]


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
    assert (found.format, found.metric) == ("mteb", "main_score")


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
