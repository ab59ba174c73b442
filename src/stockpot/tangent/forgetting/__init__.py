"""Forgetting a component, and saying in a form that can be checked what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute

if TYPE_CHECKING:
    from stockpot.tangent.forgetting.certificate import Certificate, certify
    from stockpot.tangent.forgetting.membership import Auc, auc

__all__ = ["Auc", "Certificate", "auc", "certify"]

_HOMES = {
    "Auc": "stockpot.tangent.forgetting.membership",
    "Certificate": "stockpot.tangent.forgetting.certificate",
    "auc": "stockpot.tangent.forgetting.membership",
    "certify": "stockpot.tangent.forgetting.certificate",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    return attribute(_HOMES, __name__, name)
