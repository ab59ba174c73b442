"""What was kept, why, and against what: for whoever reads only one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockpot.evaluation.claims import Claim
from stockpot.evaluation.wording import in_sentence


def kept_line(results: Mapping[str, Any]) -> str:
    """``kept: `` and :func:`kept_sentences` on one line; empty for results without a choice."""
    sentences = kept_sentences(results)
    return f"kept: {' '.join(sentences)}" if sentences else ""


def kept_sentences(results: Mapping[str, Any]) -> list[str]:
    """The protocol and why it was kept, a warning, claims on rows that chose nothing, and what the
    weights were trained on.

    The warning is there where validation says that the kept weights are worse than something
    simple. Empty for results that were written before models were chosen.
    """
    final = results["final"]
    if "claims" not in final:
        return []
    sentences = [f"{final['label']}, {final['why']}."]
    if final["below"]:
        sentences.append(_warning(final))
    sentences += [Claim.from_json(value).sentence() for value in final["claims"]]
    if final.get("why_trained_on"):
        sentences.append(final["why_trained_on"])
    return sentences


def _warning(final: Mapping[str, Any]) -> str:
    claims = [Claim.from_json(value) for value in final["validation"]]
    below = [claim for claim in claims if claim.against in final["below"]]
    names = " and ".join(in_sentence(claim.against_label) for claim in below)
    worst = min(below, key=lambda claim: claim.high)
    labels = {row["protocol"]: row["label"] for row in final["candidates"]}
    auto = final["auto"]
    way_out = ""
    if auto in labels and auto != final["protocol"]:
        way_out = f"; final.protocol: auto keeps {in_sentence(labels[auto])}"
    return (
        f"WARNING: on validation rows these weights are worse than {names} "
        f"({worst.phrase()}){way_out}."
    )
