"""Diagnoses gathered per protocol: where an average was ahead of its members, and why if not."""

from __future__ import annotations

from typing import Any

from stockpot.evaluation.evidence import Position
from stockpot.report.compared import average_claims
from stockpot.report.numbers import typographic

SIGNS: dict[Position, str] = {
    "not measured": "○",
    "ahead": "▲",
    "no difference": "●",
    "behind": "▼",
}
# Files written before a diagnosis spoke of one cell's rows only.
_OLD: dict[str, Position] = {"helped": "ahead", "hurt": "behind"}


def reasons(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry per protocol: ``label``, ``counts``, ``cells`` by domain, ``reasons``, ``all``.

    ``claim``: over all domains and trials, the average against its members' mean (None for old
    files); whether averaging helped is said by it alone.
    """
    claims = average_claims(results)
    labels = {row["protocol"]: row["label"] for row in results["table"]}
    found: dict[str, list[dict[str, Any]]] = {}
    for cell in results["cells"]:
        for each in cell.get("diagnosis", []):
            where = {"domain": cell["held_out"], "trial": cell["trial"]}
            verdict = _OLD.get(each["verdict"], each["verdict"])
            found.setdefault(each["protocol"], []).append(
                {
                    **each,
                    **where,
                    "verdict": verdict,
                    "words": typographic(each["words"]),
                    "sign": SIGNS[verdict],
                }
            )
    return [
        {
            "protocol": protocol,
            "label": labels.get(protocol, protocol),
            "claim": claims.get(protocol),
            "counts": _counts(entries),
            "cells": _by_domain(entries),
            "reasons": _distinct(entries),
            "all": entries,
        }
        for protocol, entries in found.items()
    ]


def _counts(entries: list[dict[str, Any]]) -> str:
    total = len(entries)
    if total == 1:
        return str(entries[0]["verdict"])
    parts = [
        f"{verdict} in {number} of {total}"
        for verdict in SIGNS
        if (number := sum(each["verdict"] == verdict for each in entries))
    ]
    return ", ".join(parts)


def _by_domain(entries: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    cells: dict[str, list[dict[str, Any]]] = {}
    for each in entries:
        cells.setdefault(each["domain"], []).append(each)
    return cells


def _distinct(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One example of each verdict and reason, the gravest first."""
    order = [str(verdict) for verdict in reversed(SIGNS)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in entries:
        groups.setdefault((each["verdict"], each["code"]), []).append(each)
    keys = sorted(groups, key=lambda key: (order.index(key[0]), -len(groups[key])))
    return [{**groups[key][0], "times": len(groups[key])} for key in keys]
