"""The page of a soup: what stands on colour can be read on light and on dark pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stockpot.report import soup

CSS = Path(soup.__file__).parent / "templates"


def luminance(colour):
    """Relative luminance (WCAG 2.2) of red, green, blue in 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("fill", ["c1", "c2"])
@pytest.mark.parametrize("page", ["card", "paper"])
def test_numbers_on_the_deepest_cell_have_the_contrast_of_text(theme, fill, page):
    text = (CSS / f"{theme}.css").read_text()
    named = dict(re.findall(r"--(\w+): #([0-9a-f]{6})", text))
    ink, cell, ground = (
        [int(named[name][i : i + 2], 16) / 255 for i in (0, 2, 4)] for name in ("ink", fill, page)
    )
    share = soup._DEEPEST
    mixed = [share * c + (1 - share) * g for c, g in zip(cell, ground, strict=True)]
    low, high = sorted((luminance(ink), luminance(mixed)))
    assert (high + 0.05) / (low + 0.05) >= 4.5
