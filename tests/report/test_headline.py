from stockpot.report.headline import headline


def final(results, protocol):
    results["final"]["protocol"] = protocol
    return headline(results)


def change(results, protocol, mean, low, high):
    row = next(row for row in results["table"] if row["protocol"] == protocol)
    row["difference"].update(mean=mean, low=low, high=high)


def test_a_gain(results):
    change(results, "soup_uniform", 0.017, 0.012, 0.022)
    said = final(results, "soup_uniform")
    assert said.verdict == "helped"
    assert said.words.replace("\u00a0", " ") == (
        "Soup (DiWA, uniform) is 1.7 points better than ERM (best run) "
        "on domains it has never seen."
    )
    assert "between +1.2 and +2.2 points" in said.details[0]
    assert "4 held-out domains and 2 trials" in said.details[0]


def test_a_null_result_reads_as_one(results):
    change(results, "stock_2", 0.003, -0.004, 0.01)
    said = final(results, "stock_2")
    assert said.verdict == "no difference"
    assert said.words.startswith("No difference that this test could see between Model Stock")


def test_a_loss_is_called_a_loss(results):
    said = final(results, "linear_probe")
    assert said.verdict == "hurt"
    assert "points worse than ERM" in said.words.replace("\u00a0", " ")


def test_domains_where_the_winner_loses_are_named(results):
    said = final(results, "ratatouille_uniform")
    assert said.details[1].startswith("It is worse on tweets (−")


def test_the_baseline_itself_is_final(results):
    said = final(results, "erm")
    assert said.verdict == "no difference"
    assert said.words == "ERM (best run) stays: on validation no average was better."
    assert "The best average, Soup (DiWA, uniform), reaches" in said.details[0]


def test_nothing_held_out(results):
    results.update(table=[], cells=[])
    said = headline(results)
    assert said.verdict == "alone"
    assert said.words == "Model Ratatouille (uniform), trained on all domains."
    assert "compared" in said.details[0]
