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
        why = final.instead.removeprefix("linear probe: ")
        sentences.append(f"It came to nothing; the weights are the linear probe ({why}).")
    elif final.members is not None:
        sentences += _members(final.members)
    sentences += _nothing(final)
    if final.below:
        sentences.append(_warning(final))
    sentences += _reached(results, final.claims)
    sentences += [claim.sentence() for claim in final.claims]
    if final.constant is not None and final.constant.mean < 0:
        sentences.append(f"Below a constant answer on these rows: {final.constant.sentence()}")
    if final.runs is not None:
        sentences += _runs(final.runs)
    if results.task.shared:
        sentences.append(
            f"{results.task.shared} rows are the same as others of another domain, class or split: "
            "test rows may have been trained on."
        )
    if final.train_on == "all" and final.why_trained_on:
        sentences.append(final.why_trained_on)
    return sentences


def _nothing(final: FinalResult) -> list[str]:
    """Of the candidates: those that are the linear probe under another name."""
    count = sum(row.came_to_nothing and row.protocol != final.protocol for row in final.candidates)
    if not count:
        return []
    which = "candidate" if count == 1 else "candidates"
    return [f"{count} more {which} came to nothing: the linear probe under another name."]


def _reached(results: RecycleResults, claims: Sequence[Claim]) -> list[str]:
    which, name = "The protocol", results.final.protocol
    if results.final.instead:
        which, name = "The linear probe", "linear_probe"
    row = results.row(name)
    if row is None or not claims:
        return []
    metric, value = results.task.metric, row.mean
    # The table's row: the kept weights are one of the models behind it, or made the same way.
    return [f"{which}'s {label(metric)} on {claims[0].where}: {points(value, metric=metric)}."]


def _members(counts: MemberCounts) -> list[str]:
    """What an average left out: a greedy one may hold one run, or none of the recycled ones."""
    different = counts.members if counts.different is None else counts.different
    if counts.members == 0 or different == counts.runs:
        return []
    sentence = f"It holds {counts.members} of {counts.runs} runs"
    if counts.auxiliary_runs:
        own = counts.auxiliary_members or "none"
        sentence += f", {own} of the {counts.auxiliary_runs} from auxiliary weights"
    if different < counts.members:
        sentence += (
            f", {different} of them with weights of {'its' if different == 1 else 'their'} own"
        )
    alone = [] if counts.is_average else ["It is that run, not an average."]
    return [f"{sentence}.", *alone]


def _runs(runs: RunCounts) -> list[str]:
    """Runs that ended where they began, or diverged: work that was for nothing."""
    sentences = []
    if runs.no_better:
        sentences.append(
            f"{runs.no_better} of {runs.total} runs never got better on validation than what "
            f"{one('it', 'they', runs.no_better)} started from, and "
            f"{one('is', 'are', runs.no_better)} scored as that."
        )
    if runs.diverged:
        sentences.append(
            f"{runs.diverged} of {runs.total} runs diverged and "
            f"{one('is', 'are', runs.diverged)} left out: lower the learning rate."
        )
    return sentences


def one(single: str, many: str, count: int) -> str:
    """The word that goes with a count."""
    return single if count == 1 else many


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
