"""Existing checkpoints in, one model out: candidates, a search, and an honest judgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.soups.run import Souped, plan_soup, soup
    from stockpot.soups.schema import SoupResults

__all__ = ["SoupResults", "Souped", "plan_soup", "soup"]

__getattr__ = lazily(__name__, {"run": "Souped plan_soup soup", "schema": "SoupResults"})
