"""What was kept, why, and against what: for whoever reads only one line."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.evaluation.claims import Claim
from stockpot.evaluation.wording import in_sentence, label, points
from stockpot.recycling.schema import FinalResult, MemberCounts, RecycleResults, RunCounts


def kept_line(results: RecycleResults) -> str:
    """``kept: `` and :func:`kept_sentences` on one line; empty for results without a choice."""
    sentences = kept_sentences(results)
    return f"kept: {' '.join(sentences)}" if sentences else ""


def kept_sentences(results: RecycleResults) -> list[str]:
    """The protocol and why it was kept, a warning, its score, claims on rows that chose nothing,
    what became of the runs, and what the weights were trained on where that is all there is.

    The warning is there where validation says that the kept weights are worse than something
    simple. Empty for results that were written before models were chosen.
    """
    final = results.final
    if final.claims is None:
        return []
    sentences = [f"{final.label}, {final.why}."]
    if final.instead:
        sentences.append(f"It came to nothing; the weights are the linear probe ({final.instead}).")
    if final.members is not None:
        sentences += _members(final.members)
    if final.below:
        sentences.append(_warning(final))
    sentences += _reached(results, final.claims)
    sentences += [claim.sentence() for claim in final.claims]
    if final.runs is not None:
        sentences += _runs(final.runs)
    if final.train_on == "all" and final.why_trained_on:
        sentences.append(final.why_trained_on)
    return sentences


def _reached(results: RecycleResults, claims: Sequence[Claim]) -> list[str]:
    row = results.row(results.final.protocol)
    if row is None or not claims:
        return []
    metric, value = results.task.metric, row.mean
    # The table's row: the kept weights are one of the models behind it, or made the same way.
    return [f"The protocol's {label(metric)} on {claims[0].where}: {points(value, metric=metric)}."]


def _members(counts: MemberCounts) -> list[str]:
    """What an average left out: a greedy one may hold one run, or none of the recycled ones."""
    if counts.members in (0, counts.runs):
        return []
    sentence = f"It holds {counts.members} of {counts.runs} runs"
    if counts.auxiliary_runs:
        own = counts.auxiliary_members or "none"
        sentence += f", {own} of the {counts.auxiliary_runs} from auxiliary weights"
    return [f"{sentence}."]


def _runs(runs: RunCounts) -> list[str]:
    """Runs that ended where they began, or diverged: work that was for nothing."""
    sentences = []
    if runs.no_better:
        sentences.append(
            f"{runs.no_better} of {runs.total} runs never got better on validation than what "
            "they started from, and are scored as that."
        )
    if runs.diverged:
        sentences.append(
            f"{runs.diverged} of {runs.total} runs diverged and are left out: lower the "
            "learning rate."
        )
    return sentences


def _warning(final: FinalResult) -> str:
    below = [claim for claim in final.validation if claim.against in final.below]
    names = " and ".join(in_sentence(claim.against_label) for claim in below)
    worst = min(below, key=lambda claim: claim.high)
    labels = {row.protocol: row.label for row in final.candidates}
    way_out = ""
    if final.auto in labels and final.auto != final.protocol:
        way_out = f"; final.protocol: auto keeps {in_sentence(labels[final.auto])}"
    return (
        f"WARNING: on validation rows these weights are worse than {names} "
        f"({worst.phrase()}){way_out}."
    )
