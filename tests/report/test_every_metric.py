"""Reports by every declared metric: the better model stands first, with its plain value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stockpot.evaluation import paired_bootstrap
from stockpot.evaluation.claims import compare_all
from stockpot.evaluation.diagnosis import diagnose
from stockpot.evaluation.evidence import Member, SoupEvidence
from stockpot.evaluation.metrics import METRICS, Metric
from stockpot.evaluation.wording import difference_words, ends, points
from stockpot.recycling.schema import RecycleResults
from stockpot.report import markdown_table, terminal_table
from stockpot.report.headline import headline
from stockpot.report.numbers import score, spread, tick
from stockpot.report.page import render

read = RecycleResults.read


EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
LOWER = [metric for metric in METRICS.values() if not metric.higher_is_better]


def outputs_and_labels(metric: Metric) -> tuple[dict[str, Any], Any]:
    random = np.random.default_rng(0)
    if metric.kind == "regression":
        labels = random.normal(0, 30.0, 400)
        errors = {"erm": 6.0, "soup_uniform": 12.0, "single": 20.0}
        return {name: labels + random.normal(0, e, 400) for name, e in errors.items()}, labels
    labels = random.integers(0, 3, 400)
    sure = np.where(labels[:, None] == np.arange(3), 9.0, 0.0)
    noise = {"erm": 0.3, "soup_uniform": 6.0, "single": 12.0}
    return {name: sure + random.normal(0, e, sure.shape) for name, e in noise.items()}, labels


@pytest.fixture
def judged(results: dict[str, Any], metric: Metric) -> dict[str, Any]:
    """Three methods, from best to worst: erm, soup_uniform (the baseline), single."""
    outputs, labels = outputs_and_labels(metric)
    domains = ("tweets", "movies")

    def estimates(measure: Metric, baseline: str | None) -> Any:
        return paired_bootstrap(
            {
                name: {(domain, 0): measure.row_scores(values, labels) for domain in domains}
                for name, values in outputs.items()
            },
            baseline,
            resamples=300,
            metric=measure.name,
        )

    beside = [each for each in METRICS.values() if each.kind == metric.kind]
    also = {each.name: estimates(each, None) for each in beside}
    rows = {row["protocol"]: row for row in results["table"]}
    results["table"] = [
        {
            **rows[name],
            **estimate.to_json(),
            "also": {each: also[each][name].overall.to_json() for each in also},
        }
        for name, estimate in estimates(metric, "soup_uniform").items()
    ]
    results["task"]["metric"] = metric.name
    results["final"]["protocol"] = "erm"
    return results


@EVERY
def test_the_best_stands_first_with_its_plain_value(judged: dict[str, Any], metric: Metric) -> None:
    outputs, labels = outputs_and_labels(metric)
    value = {name: metric.value(each, labels) for name, each in outputs.items()}
    scale, decimals = (100, 1) if metric.percent else (1, 3)
    row = {each["protocol"]: each for each in judged["table"]}["erm"]
    shown = score(row["mean"], metric.name)
    assert float(shown) == pytest.approx(value["erm"] * scale, abs=0.6 * 10**-decimals, rel=5e-3)
    text, page = terminal_table(judged), render(read(judged))
    table = markdown_table(judged)
    line = next(line for line in text.splitlines() if line.startswith("> ERM"))
    assert f" {shown} " in line
    assert f"| ERM, best run | **{shown}** (" in table
    assert f'class="best">{shown}<' in page
    order = [line.partition(",")[0] for line in text.splitlines() if line[2:5] in ("ERM", "One")]
    assert order == ["> ERM", next(each for each in order if "One" in each)]
    said = headline(read(judged))
    assert said.verdict == "not testable"  # one training of one domain
    assert "another seed may differ" in said.words
    assert max(map(len, text.splitlines())) <= 80
    # The difference moves as the metric moves.
    moved = value["erm"] - value["soup_uniform"]
    assert (f"~{'-' if moved < 0 else '+'}" in line.partition(shown)[2]) or metric.name == "r2"
    assert "nan" not in page.lower()


@EVERY
def test_other_metrics_have_a_table(judged: dict[str, Any], metric: Metric) -> None:
    outputs, labels = outputs_and_labels(metric)
    page, table = render(read(judged)), markdown_table(judged)
    assert "Other metrics" in page
    for each in METRICS.values():
        if each.kind == metric.kind:
            shown = score(each.score(outputs["erm"], labels), each.name)
            assert f"| **{shown}**" in table.partition("\n\n")[2]
    assert table.partition("\n\n")[2].count("\n") == 2 + 3


def test_results_without_other_metrics_have_no_such_section(results: dict[str, Any]) -> None:
    assert "Other metrics" not in render(read(results))
    assert "\n\n" not in markdown_table(results)


def test_a_loss_reads_in_its_own_sign() -> None:
    """A log-loss of 0.412 (score -0.412) that fell by 0.030."""
    assert points(-0.412, metric="log_loss") == "0.412"
    assert points(0.03, metric="log_loss", sign=True) == "-0.030"
    assert points(0.03, metric="log_loss") == "0.030"
    assert ends(-0.45, -0.40, metric="log_loss") == ("0.400", "0.450")
    assert ends(-0.01, 0.03, metric="log_loss", sign=True) == ("-0.030", "+0.010")
    assert spread(-0.45, -0.40, "log_loss") == "0.400–0.450"
    assert spread(-0.01, 0.03, "log_loss") == "−0.030 to 0.010"
    assert tick(-0.45, "log_loss") == "0.45"
    assert tick(0.01, "log_loss", sign=True) == "-0.01"
    assert difference_words(0.03, 0.01, 0.05, metric="log_loss") == (
        "better by 0.030 nats (0.010 to 0.050)"
    )
    assert difference_words(-0.03, -0.05, -0.01, metric="log_loss") == (
        "worse by 0.030 nats (0.010 to 0.050)"
    )
    assert difference_words(0.01, -0.01, 0.03, metric="log_loss") == (
        "no difference that this test could see (-0.030 to +0.010)"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.4, "1234"), (12.345, "12.3"), (0.01234, "0.0123"), (0.0, "0"), (2.5e7, "2.5e+07")],
)
def test_errors_in_the_label_s_units_have_three_digits(value: float, text: str) -> None:
    assert points(-value, metric="rmse") == text


def test_a_claim_about_a_loss_reads_in_its_own_sign() -> None:
    """The first has a log-loss that is 0.2 lower on every row, the second one like the base."""
    random = np.random.default_rng(0)
    cells = [(domain, trial) for domain in ("north", "south") for trial in range(3)]
    base = {cell: -random.uniform(0.5, 1.5, 200) for cell in cells}
    lower = {cell: values + 0.2 + random.normal(0, 0.02, 200) for cell, values in base.items()}
    same = {cell: values + random.normal(0.01, 0.5, 200) for cell, values in base.items()}
    scores = {"base": base, "lower": lower, "same": same}
    clear, none = compare_all(scores, [("lower", "base"), ("same", "base")], metric="log_loss")
    assert clear.verdict == "better"
    assert clear.sentence().startswith("lower is 0.20")
    assert "nats better than base" in clear.sentence()
    assert none.verdict == "no difference"
    low, high = ends(none.low, none.high, metric="log_loss", sign=True)
    assert low.startswith("-")
    assert high.startswith("+")
    assert f"({low} to {high} nats)" in none.sentence()
    assert float(low) == pytest.approx(-none.high, abs=5e-4)


@pytest.mark.parametrize("metric", LOWER, ids=[each.name for each in LOWER])
def test_a_diagnosis_says_that_an_average_is_ahead_when_its_loss_fell(metric: Metric) -> None:
    members = tuple(Member(str(i), -0.9) for i in range(3))
    evidence = SoupEvidence(members, -0.5, low=0.3, high=0.5, ensemble=-0.6, metric=metric.name)
    found = diagnose(evidence)
    assert found.verdict == "ahead"
    assert f"rows: {points(0.4, metric=metric.name, sign=True)} {metric.unit} (" in found.words
