"""From packages to tables."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from stockpot.demo.convert import gloss_rows, sentiment_rows, write_rows
from stockpot.tasks import load_task

LEXNAMES = "03\tnoun.Tops\t1  \n05\tnoun.animal\t1\n29\tverb.body\t2\n"
NOUNS = """  1 This software and database is being provided to you | the licensee
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which exists; "an entity"
00015388 05 n 03 animal 0 beast 0 001 @ 00004475 n 0000 | a living organism; moves by itself
00015389 05 n 01 dog 0 001 @ 00004475 n 0000 | a member of the genus Canis; "the dog barked"; "a"
00015390 05 n 01 cat 0 001 @ 00004475 n 0000 | feline mammal
"""


def test_sentiment_lines() -> None:
    tables = {
        "tweets": "1\t2.726315789\tlove &amp; peace\r\n2\t-0.15\t  \r\n",
        "movies": "1_1\t-1\tdull\twith a tab\r\n",
    }
    assert list(sentiment_rows(tables)) == [
        ("love & peace", "2.72632", "tweets"),
        ("dull\twith a tab", "-1", "movies"),
    ]


def test_glosses_lose_their_examples_and_keep_their_class() -> None:
    assert list(gloss_rows(NOUNS, LEXNAMES)) == [
        ("that which exists", "Tops", "nouns"),
        ("a living organism; moves by itself", "animal", "nouns"),
        ("a member of the genus Canis", "animal", "nouns"),
        ("feline mammal", "animal", "nouns"),
    ]


def test_glosses_are_bounded_by_class_and_repeatable() -> None:
    rows = list(gloss_rows(NOUNS, LEXNAMES, per_class=2))
    assert Counter(label for _, label, _ in rows) == {"Tops": 1, "animal": 2}
    assert rows == list(gloss_rows(NOUNS, LEXNAMES, per_class=2))


def test_table_is_read_back(tmp_path: Path) -> None:
    rows = [('he said "no",\nthen', "x", "d"), ("b", "y", "d")]
    write_rows(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as handle:
        assert list(csv.reader(handle)) == [["text", "label", "domain"], *map(list, rows)]
    task = load_task({"kind": "text", "path": "t.csv"}, root=tmp_path)
    assert task.inputs == [rows[0][0], "b"]
