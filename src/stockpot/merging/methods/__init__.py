"""Merge methods, one file each. ``BUILTIN`` maps a method's name to the module that defines it."""

from __future__ import annotations

BUILTIN: dict[str, str] = {
    "adamerging": "adamerging",
    "breadcrumbs": "breadcrumbs",
    "cocktail": "cocktail",
    "consensus": "consensus",
    "dare": "dare",
    "della": "della",
    "doge": "doge",
    "emr": "packed",
    "fisher": "fisher",
    "iso_c": "iso",
    "iso_cts": "iso",
    "karcher": "karcher",
    "linear": "linear",
    "lines": "lines",
    "magmax": "magmax",
    "nuslerp": "nuslerp",
    "pcb": "pcb",
    "regmean": "regmean",
    "sce": "sce",
    "slerp": "slerp",
    "stock": "stock",
    "tall": "packed",
    "task_arithmetic": "task_arithmetic",
    "ties": "ties",
    "tsv": "tsv",
    "wudi": "wudi",
}
