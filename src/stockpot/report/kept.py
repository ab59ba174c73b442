"""What was kept, why, and against what: for whoever reads only one line."""

from __future__ import annotations

from typing import Any

from stockpot.evaluation.claims import Claim
from stockpot.evaluation.wording import in_sentence


def kept_line(results: dict[str, Any]) -> str:
    """``kept: <protocol>, <why>. <Claims on rows that chose nothing.>`` and, first, a warning.

    The warning is there where validation says that the kept weights are worse than something
    simple. Empty for results that were written before models were chosen.
    """
    final = results["final"]
    if "claims" not in final:
        return ""
    parts = [f"kept: {final['label']}, {final['why']}."]
    if final["below"]:
        parts.append(_warning(final))
    parts += [Claim.from_json(value).sentence() for value in final["claims"]]
    return " ".join(parts)


def _warning(final: dict[str, Any]) -> str:
    claims = [Claim.from_json(value) for value in final["validation"]]
    below = [claim for claim in claims if claim.against in final["below"]]
    names = " and ".join(in_sentence(claim.against_label) for claim in below)
    worst = min(below, key=lambda claim: claim.high)
    way_out = "" if final["chosen"] == "auto" else "; final.protocol: auto would not have kept it"
    return (
        f"WARNING: on validation rows these weights are worse than {names} "
        f"({worst.phrase()}){way_out}."
    )
