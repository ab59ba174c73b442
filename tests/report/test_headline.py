from dataclasses import replace

import pytest

from stockpot.evaluation.claims import Claim
from stockpot.recycling.schema import RecycleResults
from stockpot.report.compared import row_claim
from stockpot.report.headline import headline
from stockpot.report.numbers import typographic

read = RecycleResults.read


def final(results, protocol):
    results["final"].update(
        protocol=protocol,
        label=next(r["label"] for r in results["table"] if r["protocol"] == protocol),
    )
    return headline(read(results))


def change(results, protocol, mean, low, high, verdict):
    row = next(row for row in results["table"] if row["protocol"] == protocol)
    row["difference"].update(mean=mean, low=low, high=high, verdict=verdict)


def old(results):
    """As files were before differences were claims."""
    kept = ("against", "mean", "low", "high", "words")
    for row in results["table"]:
        row["covers"] = "other examples of these domains and other trainings"
        for gap in (row["difference"], *row["domain_differences"].values()):
            for key in set(gap or ()) - set(kept):
                del gap[key]
    del results["averages"]
    return results


def test_a_gain(results):
    change(results, "soup_uniform", 0.017, 0.012, 0.022, "better")
    said = final(results, "soup_uniform")
    assert said.verdict == "helped"
    assert said.words == (
        "Soup (DiWA, uniform) is 1.7 points better than ERM (best run) "
        "on 4 held-out domains (1.2 to 2.2)."
    )
    assert (
        "95 % interval over examples and trainings, for 13 comparisons together"
        in (said.details[0])
    )
    assert "2 trials" in said.details[0]


def test_a_null_result_reads_as_one(results):
    change(results, "stock_2", 0.003, -0.004, 0.01, "no difference")
    said = final(results, "stock_2")
    assert said.verdict == "no difference"
    assert said.words.startswith("No difference that this test could see between Model Stock")


def test_a_loss_is_called_a_loss(results):
    said = final(results, "linear_probe")
    assert said.verdict == "hurt"
    assert "points worse than ERM" in said.words


def test_domains_where_the_winner_loses_are_named(results):
    """Two trials of one domain are too few to call it worse: the numbers are said all the same."""
    said = final(results, "ratatouille_uniform")
    assert said.details[1].startswith("Model Ratatouille (uniform) against ERM (best run): −")
    assert "on the held-out domain tweets" in said.details[1]
    assert "2 trainings each, another seed may differ" in said.details[1]


def test_the_baseline_itself_is_final(results):
    said = final(results, "erm")
    against = {claim.against for claim in said.claims}
    assert against == {"single", "linear_probe"}
    single = next(row for row in results["table"] if row["protocol"] == "single")
    turned = row_claim(read(results), read(results).row(single["protocol"])).reversed()
    assert turned in said.claims
    assert typographic(turned.sentence()) in (said.words, *said.details)


def claim(**changes):
    base = Claim(
        *(0.02, 0.01, 0.03, "soup", "single", "Soup, greedy", "one fine-tuning"),
        *("held-out domains", "accuracy", 0.95, "examples and trainings", 3, ("a", "b"), 2),
        "better",
    )
    return replace(base, **changes)


PROBE = {"against": "linear_probe", "against_label": "Linear probe"}


def test_claims_of_the_choice_lead(results):
    results["final"]["claims"] = [claim().to_json(), claim(mean=0.05, high=0.09, **PROBE).to_json()]
    said = headline(read(results))
    assert said.words == (
        "On 2 held-out domains Soup (greedy) is 2.0 points better than one fine-tuning "
        "(1.0 to 3.0) and 5.0 points better than Linear probe (1.0 to 9.0)."
    )
    assert said.verdict == "helped"


def test_the_weakest_claim_speaks_first(results):
    null = claim(low=-0.01, verdict="no difference")
    results["final"]["claims"] = [claim(**PROBE).to_json(), null.to_json()]
    said = headline(read(results))
    assert (said.verdict, said.words) == ("no difference", typographic(null.sentence()))
    assert said.details[0].startswith("Soup (greedy) is 2.0 points better than Linear probe")


def test_nothing_simpler_was_compared(results):
    results["final"]["claims"] = []
    said = headline(read(results))
    assert said.verdict == "alone"
    assert said.words.startswith("Model Ratatouille (uniform) reaches ")
    assert said.details == ("It was compared with nothing simpler.",)


@pytest.mark.parametrize("trials", [1, 2])
def test_old_files_open_and_one_trial_of_theirs_has_no_verdict(results, trials):
    results = old(results)
    results["cells"] = [cell for cell in results["cells"] if cell["trial"] < trials]
    said = final(results, "linear_probe")
    assert said.verdict == ("hurt" if trials > 1 else "not testable")
    text = " ".join((said.words, *said.details))
    assert ("worse" in text) == (trials > 1)
    assert ("another seed may differ" in text) == (trials == 1)


def test_nothing_held_out(results):
    results.update(table=[], cells=[])
    said = headline(read(results))
    assert said.verdict == "alone"
    assert said.words == "Model Ratatouille (uniform), trained on all domains."
    assert "compared" in said.details[0]
