"""Find the rows of a component that somebody means: by position, file, text or hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stockpot.errors import InputError
from stockpot.tangent.opened import Opened
from stockpot.tangent.rows import content_hashes
from stockpot.tangent.shards import Shard
from stockpot.tasks import image_decoding
from stockpot.tasks.images import decode_image

_DIGITS = 8


def find_examples(opened: Opened, shard: Shard, wanted: Sequence[str]) -> np.ndarray:
    """Rows (int64, ascending) of ``shard`` that ``wanted`` names, and all with the same input.

    Each is a position in the data, the file of an image, a text, or the hash of a row (8 digits or
    more). Raises ``InputError`` for one that is not among the shard's rows.
    """
    rows = np.r_[shard.train, shard.validation]
    hashes = opened.division.hashes[rows]
    chosen = np.zeros(len(rows), dtype=bool)
    for text in wanted:
        match = np.array([str(content).startswith(_start(opened, text)) for content in hashes])
        if not match.any():
            raise InputError(
                f"'{text}' is no row that component '{shard.name}' was made of",
                hint="give its position in the data, the image's file, the text, or its hash",
            )
        chosen |= match
    if chosen[: len(shard.train)].all():
        raise InputError(
            f"these are all rows of component '{shard.name}'", hint="forget the component itself"
        )
    return np.sort(rows[chosen])


def _start(opened: Opened, text: str) -> str:
    """What the hash of the row that ``text`` names begins with."""
    task = opened.task
    if text.isdecimal() and int(text) < len(task) and len(text) < _DIGITS:
        return str(opened.division.hashes[int(text)])
    if len(text) >= _DIGITS and all(sign in "0123456789abcdef" for sign in text):
        return text
    if task.modality == "text":
        return content_hashes([text])[0]
    decoding = image_decoding(task, getattr(opened.recipe.task, "resize", None))
    if decoding is not None and Path(text).is_file():
        return content_hashes(decode_image(Path(text).read_bytes(), **decoding)[None])[0]
    raise InputError(
        f"'{text}' is no position in the data, hash, text or image",
        hint=f"positions go from 0 to {len(task) - 1}",
    )
