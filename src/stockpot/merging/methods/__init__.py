"""Merge methods, one file each. ``BUILTIN`` maps a method's name to the module that defines it,
``MERGEKIT`` the names of mergekit's methods.
"""

from __future__ import annotations

BUILTIN: dict[str, str] = {
    "ace": "ace",
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
    "keep_zeros": "keep_zeros",
    "linear": "linear",
    "lines": "lines",
    "magmax": "magmax",
    "monosoup": "monosoup",
    "nuslerp": "nuslerp",
    "pcb": "pcb",
    "ram": "ram",
    "ram_plus": "ram",
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

MERGEKIT: dict[str, str] = {
    **dict.fromkeys(
        (
            *("task_arithmetic", "ties", "dare_ties", "dare_linear", "breadcrumbs"),
            *("breadcrumbs_ties", "della", "della_linear"),
        ),
        "mergekit_deltas",
    ),
    **dict.fromkeys(("sce", "ram", "ramplus_tl"), "mergekit_changes"),
    **dict.fromkeys(
        (
            *("linear", "slerp", "nuslerp", "multislerp", "karcher", "passthrough", "nearswap"),
            *("model_stock", "arcee_fusion"),
        ),
        "mergekit_models",
    ),
}
"""mergekit's names and the modules that declare them, as ``mergekit:NAME``."""
