"""Small JSON files that carry their own hash, in one canonical form: a flipped bit is found."""

from __future__ import annotations

import json
from typing import Any

from stockpot.errors import CheckpointError
from stockpot.files import digest

_SEAL = "sha256"


def seal(value: dict[str, Any]) -> bytes:
    """``value`` with its hash, as it is written."""
    return _canonical({**value, _SEAL: digest(value)})


def unseal(raw: bytes, where: str) -> dict[str, Any]:
    """Read what ``seal`` wrote, without the hash. Raises ``CheckpointError`` naming ``where``."""
    try:
        value = json.loads(raw)
        said = value.pop(_SEAL)
        whole = said == digest(value) and raw == _canonical({**value, _SEAL: said})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if not whole:
        raise CheckpointError(f"{where} is damaged: its content has another hash than it says")
    return dict(value)


def _canonical(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
