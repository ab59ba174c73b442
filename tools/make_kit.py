"""The starter kit of `stockpot rank`: facts of public models, and results of them on public tasks.

    python tools/make_kit.py FOLDER     # writes src/stockpot/ranking/kit

FOLDER holds the sources; where one is missing nothing is written, and it is named:

=================== ================================================================================
``timm/*.csv``      ``results/`` of github.com/huggingface/pytorch-image-models, Apache-2.0
``mteb*.whl``       the package ``mteb`` (facts of text encoders), Apache-2.0
``mteb_dense.csv``  github.com/embeddings-benchmark/results as a matrix, CC0
=================== ================================================================================

Nothing is written that one of these does not say (no width of timm's models); the column ``source``
of a model names which. The tables of timm are of commit aa4b5850, those of MTEB of commit f4cc6c8b.
"""

from __future__ import annotations

import ast
import csv
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from stockpot.compat import ensure_torchvision
from stockpot.files import write_text
from stockpot.ranking.history import read_results

TIMM, TIMM_AT = "huggingface/pytorch-image-models", "aa4b5850c1543fa488abf260f18390eda46cf85d"
TESTS = {
    "imagenet": "results-imagenet",
    "imagenet-real": "results-imagenet-real",
    "imagenet-v2": "results-imagenetv2-matched-frequency",
    "imagenet-sketch": "results-sketch",
    "imagenet-a": "results-imagenet-a",
    "imagenet-r": "results-imagenet-r",
}
SPEED = "benchmark-infer-amp-nhwc-pt240-cu124-rtx3090"
COLUMNS = (
    "name",
    "kind",
    "modality",
    "parameters",
    "width",
    "context",
    "gmacs",
    "pretraining",
    "licence",
    "published",
    "source",
)
MOST = 1.5e9
"""Parameters of a model that somebody would fine-tune on one machine."""
FEW = 3
"""Models of one architecture with different weights, the best on ImageNet first."""
ENGLISH = (
    "AmazonCounterfactual AmazonPolarity AmazonReviews Banking77 DBpedia Emotion "
    "FinancialPhrasebank Imdb MTOPDomain MTOPIntent MassiveIntent MassiveScenario PoemSentiment "
    "ToxicChat ToxicConversations TweetSentimentExtraction TweetTopicSingle"
)
"""MTEB's classifications of English texts (of the multilingual ones the mean over languages)."""

Row = dict[str, Any]


def read(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of one of timm's tables."""
    with (folder / "timm" / f"{name}.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def image_models(folder: Path) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """Facts of timm's models with weights on the hub, and per cent right on six test sets."""
    ensure_torchvision()
    import timm

    configs = timm.models._registry._model_pretrained_cfgs
    pretraining = {row["model"]: row["pretrain"] for row in read(folder, "model_metadata-in1k")}
    gmacs = {row["model"]: row["infer_gmacs"] for row in read(folder, SPEED)}
    results: dict[str, dict[str, float]] = {}
    for task, table in TESTS.items():
        for row in read(folder, table):
            results.setdefault(row["model"], {})[task] = float(row["top1"])
    rows: list[Row] = []
    count: dict[str, int] = {}
    for row in read(folder, TESTS["imagenet"]):
        name = row["model"]
        architecture, _, tag = name.partition(".")
        config = configs.get(name)
        parameters = float(row["param_count"].replace(",", "")) * 1e6
        if config is None or not config.hf_hub_id or parameters > MOST or name.startswith("test_"):
            continue
        count[architecture] = count.get(architecture, 0) + 1
        if count[architecture] > FEW:
            continue
        rows.append(
            {
                "name": name,
                "kind": "timm",
                "modality": "image",
                "parameters": parameters,
                "width": "",
                "context": row["img_size"],
                "gmacs": gmacs.get(architecture, ""),
                "pretraining": tag or pretraining.get(name, ""),
                "licence": config.license or "",
                "published": "",
                "source": f"timm {metadata.version('timm')}; {TIMM}@{TIMM_AT[:8]}",
            }
        )
    return rows, {row["name"]: results[row["name"]] for row in rows}


def metas(wheel: Path) -> Iterator[dict[str, Any]]:
    """The literal facts of every ``ModelMeta`` in the package mteb; no code of it runs."""
    with zipfile.ZipFile(wheel) as archive:
        for file in archive.namelist():
            if not file.startswith("mteb/models/model_implementations/"):
                continue
            tree = ast.parse(archive.read(file))
            constants = {
                target.id: node.value.value
                for node in tree.body
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ModelMeta":
                    yield {
                        word.arg: constants.get(word.value.id)
                        if isinstance(word.value, ast.Name)
                        else _literal(word.value)
                        for word in node.keywords
                        if word.arg
                    }


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _largest(value: Any) -> Any:
    """The whole width of a model that may be cut to several."""
    return max(value) if isinstance(value, list) else value or ""


def _licence(value: str | None) -> str:
    return "" if value in (None, "not specified") else str(value).lower()


def text_models(folder: Path) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """Facts of open text encoders, and MTEB's accuracy in per cent on English classifications."""
    (wheel,) = folder.glob("mteb-*.whl")
    table = read_results(folder / "mteb_dense.csv", "mteb").table
    tasks = [f"{name}Classification" for name in ENGLISH.split()]
    rows, results = [], {}
    known = {name.replace("__", "/"): index for name, index in table.row.items()}
    for meta in metas(wheel):
        name, parameters = meta.get("name"), meta.get("n_parameters")
        modalities = meta.get("modalities") or ["text"]
        if not isinstance(name, str) or not parameters or parameters > MOST:
            continue
        if (
            not meta.get("open_weights")
            or modalities != ["text"]
            or "dense" not in (meta.get("model_type") or ["dense"])
        ):
            continue
        libraries = meta.get("framework") or []
        if not {"Sentence Transformers", "Transformers"} & set(libraries):
            continue
        depth = parameters - (meta.get("n_embedding_parameters") or 0)
        rows.append(
            {
                "name": name,
                "kind": "transformers",
                "modality": "text",
                "parameters": parameters,
                "width": _largest(meta.get("embed_dim")),
                "context": meta.get("max_tokens") or "",
                # Multiplications for one token: every weight but the embeddings, once.
                "gmacs": f"{depth / 1e9:.4g}" if depth < parameters else "",
                "pretraining": meta.get("adapted_from") or "",
                "licence": _licence(meta.get("license")),
                "published": meta.get("release_date") or "",
                "source": wheel.name.rpartition("-py3")[0].replace("-", " "),
            }
        )
        if name in known:
            own = table.values[known[name]]
            found = {t: float(own[table.column[t]]) for t in tasks if t in table.column}
            results[name] = {t: v * 100 for t, v in found.items() if v == v}
    return rows, results


def write(path: Path, columns: list[str], rows: list[Mapping[str, Any]]) -> None:
    """A CSV file, numbers as short as they are."""

    def cell(value: Any) -> str:
        text = f"{value:.9g}" if isinstance(value, float) else str(value)
        return f'"{text}"' if "," in text else text

    lines = [",".join(columns)]
    lines += [",".join(cell(row.get(name, "")) for name in columns) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def write_matrix(path: Path, results: Mapping[str, Mapping[str, float]]) -> None:
    """Models x tasks, per cent to one digit after the point."""
    tasks = list(dict.fromkeys(task for own in results.values() for task in own))
    rows = [
        {"model": name, **{task: f"{value:.1f}" for task, value in own.items()}}
        for name, own in sorted(results.items())
        if own
    ]
    write(path, ["model", *tasks], rows)


def missing(folder: Path) -> list[str]:
    """The sources that ``folder`` lacks."""
    tables = [f"timm/{name}.csv" for name in (*TESTS.values(), "model_metadata-in1k", SPEED)]
    return [
        name for name in (*tables, "mteb-*.whl", "mteb_dense.csv") if not any(folder.glob(name))
    ]


def main(folder: Path) -> None:
    """Write the kit from the sources in ``folder``."""
    if lacks := missing(folder):
        raise SystemExit(
            f"{folder} lacks {', '.join(lacks)}; see the head of {Path(__file__).name}"
        )
    output = Path(__file__).parents[1] / "src" / "stockpot" / "ranking" / "kit"
    images, image_results = image_models(folder)
    texts, text_results = text_models(folder)
    rows = sorted([*images, *texts], key=lambda row: (row["modality"], row["name"].lower()))
    write(output / "models.csv", list(COLUMNS), list({row["name"]: row for row in rows}.values()))
    write_matrix(output / "image.csv", image_results)
    write_matrix(output / "text.csv", text_results)
    sizes = f"{len(images)} image models, {len(texts)} text encoders"
    print(f"{sizes}; results of {len(image_results)} and {len(text_results)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
