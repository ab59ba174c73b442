import pytest

from stockpot.report import markdown_table, terminal_table


@pytest.mark.parametrize("metric", ["accuracy", "r2"])
def test_terminal_table_fits_80_columns(results, metric):
    results["task"]["metric"] = metric
    text = terminal_table(results)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


def test_terminal_table_marks_the_final_model_and_null_results(results):
    lines = terminal_table(results).splitlines()
    marked = [line for line in lines if line.startswith("> ")]
    assert marked[0].startswith("> Model Ratatouille, unif")
    single = next(line for line in lines if "One fine-tuning" in line)
    row = next(row for row in results["table"] if row["protocol"] == "single")
    null = row["difference"]["low"] <= 0 <= row["difference"]["high"]
    assert ("=" in single) == null
    assert "Difference to: ERM, best run" in " ".join(lines)


def test_markdown_table_is_rectangular(results):
    lines = markdown_table(results).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(results["table"])
    assert sum("**" in line for line in lines) >= 1
    oracle = next(line for line in lines if "oracle" in line)
    assert "**" not in oracle


def test_markdown_escapes_bars(results):
    results["table"][0]["label"] = "a|b"
    line = next(line for line in markdown_table(results).splitlines() if "a\\|b" in line)
    assert line.replace("\\|", "").count("|") == 11


def test_markdown_without_domains(results):
    assert "tweets" not in markdown_table(results, domains=False)
