"""Forgetting a component, and saying in a form that can be checked what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.tangent.forgetting.certificate import certify
    from stockpot.tangent.forgetting.membership import auc
    from stockpot.tangent.forgetting.schema import Auc, Certificate

__all__ = [
    "Auc",
    "Certificate",
    "auc",
    "certify",
]

__getattr__ = lazily(
    __name__,
    {
        "certificate": "certify",
        "membership": "auc",
        "schema": "Auc Certificate",
    },
)
