"""Forgetting a component, and saying in a form that can be checked what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stockpot.tangent.forgetting.certificate import Certificate, certify
    from stockpot.tangent.forgetting.membership import Auc, auc

__all__ = ["Auc", "Certificate", "auc", "certify"]

_HOMES = {"Auc": "membership", "Certificate": "certificate", "auc": "membership"}
_HOMES["certify"] = "certificate"


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stockpot.tangent.forgetting' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"stockpot.tangent.forgetting.{_HOMES[name]}"), name)
