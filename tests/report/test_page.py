import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from stockpot.recycling.schema import RecycleResults
from stockpot.report import markdown_table, terminal_table, write_report
from stockpot.report.page import embedded, render

read = RecycleResults.read


VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every element closed in order, and notes what tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.attributes, self.words = [], [], [], [], []
        self.svgs = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "svg":
            self.svgs.append((values, []))
        elif "svg" in self.open and self.open[-1] == "svg":
            self.svgs[-1][1].append((tag, values))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(results):
    return Page(render(read(results)))


def test_diverged_runs_are_named_in_one_sentence(results):
    assert "diverged" not in render(read(results))
    cell = results["cells"][0]
    for run in cell["runs"][:8]:
        run["diverged"] = {"step": 40, "learning_rate": 0.1, "what": "the loss is not finite"}
    total = sum(len(each["runs"]) for each in results["cells"])
    page = render(read(results))
    count = len(cell["runs"][:8])
    assert f"{count} of {total} runs diverged, and no selection and no average has them" in page
    where = f"{cell['runs'][0]['label']} ({cell['held_out']}, trial {cell['trial']})"
    assert f"{where} at step 40, learning rate 0.1: the loss is not finite" in page
    assert (f"; and {count - 6} more." in page) == (count > 6)


def test_makes_no_request(results):
    """Nothing that a browser would fetch: no address, no source, no import."""
    text = render(read(results))
    assert not re.search(r"https?:|@import|\bsrc=|url\(", text.replace("http-equiv", ""))
    links = [v for tag, name, v in Page(text).attributes if name == "href" and tag != "a"]
    assert links == ["data:,"]


def test_is_well_formed_with_unique_ids(page):
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    referred = {
        part
        for _, name, value in page.attributes
        if name in ("aria-labelledby", "aria-describedby")
        for part in value.split()
    }
    assert referred <= set(page.ids)


def test_every_figure_has_a_name_and_a_description(page):
    for attributes, children in page.svgs:
        if attributes.get("aria-hidden") == "true":
            continue
        assert attributes["role"] == "img"
        assert [tag for tag, _ in children[:2]] == ["title", "desc"]


def test_tables_have_captions_and_header_cells(page):
    assert page.tags.count("table") == page.tags.count("caption") == 2
    scopes = Counter(v for tag, name, v in page.attributes if tag == "th" and name == "scope")
    assert sum(scopes.values()) == page.tags.count("th")
    assert scopes["row"] > 14


def test_all_sections_are_there(page):
    expected = {
        *("h-accuracy", "h-table", "h-why", "h-curves", "h-diversity", "h-tree", "h-runs"),
        "h-how",
    }
    assert expected <= set(page.ids)


def test_data_is_inside_and_is_the_data(results):
    text = render(read(results))
    inside = re.search(r'<script type="application/json" id="results">(.*?)</script>', text, re.S)
    data = json.loads(inside[1])
    assert [row["mean"] for row in data["table"]] == pytest.approx(
        [row["mean"] for row in results["table"]], abs=1e-6
    )
    assert data["recipe"] == results["recipe"]
    assert data["left_out"] == ["history"][: len(data["left_out"])]
    assert len(text.encode()) < 300_000


def test_embedded_data_cannot_end_the_script():
    results = {"title": "</script><script>alert(1)</script>", "cells": []}
    written = embedded(results, limit=1000)
    assert "<" not in written
    assert json.loads(written)["title"] == results["title"]


def test_embedded_data_shrinks_to_its_limit(results):
    written = embedded(results, limit=20_000)
    assert len(written) <= 20_000
    assert json.loads(written)["left_out"][0] == "history"
    assert len(json.loads(written)["table"]) == len(results["table"])


def test_text_from_outside_is_escaped(results):
    results["title"] = "<img src=x onerror=alert(1)>"
    results["table"][0]["label"] = 'a<b>&"c'
    results["cells"][0]["held_out"] = results["cells"][0]["held_out"]
    results["recipe"] = "</pre><script>alert(2)</script>"
    text = render(read(results))
    assert "<img" not in text
    assert "alert(2)</script>" not in text
    Page(text)


def test_reads_without_scripts(results, page):
    """Every number of the table stands in the page itself."""
    words = " ".join(page.words)
    for row in results["table"]:
        assert row["label"] in words
        assert f"{100 * row['mean']:.1f}" in words
        if row["difference"]:
            assert row["difference"]["words"].split(" (")[0] in words


def test_a_large_comparison_stays_small(make_results):
    """12 cells of 40 runs, 26 methods, 10 diagnoses a cell: below 300 KB, runs summarised."""
    results = make_results(trials=3, runs=20)
    for row in results["table"][:12]:
        results["table"].append({**row, "protocol": f"{row['protocol']}_again"})
    for cell in results["cells"]:
        cell["diagnosis"] *= 5
        cell["connectivity"] *= 2
    text = render(read(results))
    assert len(text.encode()) < 300_000
    assert "The 480 runs" in text
    assert "Runs by domain, pool and init" in text


def test_the_least_that_may_come(results):
    """One domain, one trial, one method, nothing measured: a page all the same."""
    results["cells"] = [{"held_out": "tweets", "trial": 0, "runs": [], "models": []}]
    row = results["table"][3]
    row["domains"] = {"tweets": row["domains"]["tweets"]}
    results["table"] = [row]
    results["lineage"] = {"nodes": [], "edges": []}
    results["final"]["protocol"] = row["protocol"]
    page = Page(render(read(results)))
    assert {"h-curves", "h-diversity", "h-tree", "h-runs", "h-why"}.isdisjoint(page.ids)
    assert "ERM (best run) reaches" in " ".join(page.words)


def test_nothing_held_out(results):
    results.update(table=[], cells=[])
    page = Page(render(read(results)))
    assert {"h-table", "h-accuracy", "h-runs"}.isdisjoint(page.ids)
    assert "h-tree" in page.ids
    assert terminal_table(results).count("\n") == 1
    assert "nothing was compared" in markdown_table(results)


def test_no_ratio_error_no_scatter(results):
    for cell in results["cells"]:
        for row in cell["diversity"]:
            row["ratio_error"] = None
    assert "h-diversity" not in Page(render(read(results))).ids


def test_one_domain_shows_both_splits_side_by_side(results):
    results["cells"] = [cell for cell in results["cells"] if cell["held_out"] == "movies"]
    for row in results["table"]:
        row["domains"] = {"movies": row["domains"]["movies"]}
    words = " ".join(Page(render(read(results))).words)
    assert "Held out: movies" in words
    assert "On the held-out domain" not in words


def test_regression(results):
    results["task"].update(metric="r2", kind="regression", classes=[])
    for claim in (*results["averages"], *(r["difference"] for r in results["table"])):
        if claim is not None:
            claim["metric"] = "r2"
    words = " ".join(Page(render(read(results))).words)
    assert "0.77" in words
    assert "of R2" in words
    assert "points better" not in words


def test_same_results_same_page(results, tmp_path):
    assert render(read(results)) == render(read(results))
    path = write_report(results, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == render(read(results))
