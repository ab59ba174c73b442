"""What was withdrawn from a registry stays out: tombstones, by salted hashes of its weights.

Nobody can read from a tombstone what it stands for; who has the weights can ask.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

from stockpot.errors import InputError
from stockpot.files import salted
from stockpot.registry.documents import SCHEMA, sealed
from stockpot.registry.manifest import Manifest
from stockpot.registry.registry import Registry

FOLDER = "tombstones"


def withdraw(registry: Registry, model: str, *digests: str) -> None:
    """Leave a tombstone of a model's weights, and of other ``digests`` by which it is known."""
    salt = secrets.token_hex(16)
    known = sorted({salted(salt, one) for one in (registry.manifest(model).digest, *digests)})
    day = time.strftime("%Y-%m-%d", time.gmtime())
    key = f"{FOLDER}/{salt}.json"
    value = {"schema": SCHEMA, "salt": salt, "known": known, "day": day}
    with registry.store.lock(exclusive=False):
        registry.store.write(key, [sealed(key, value)])
        registry.store.flush()


def check_withdrawn(registry: Registry, name: str, digests: Iterable[str]) -> None:
    """``InputError`` where ``name``, known by one of ``digests``, was withdrawn from here."""
    for _, day in _tombstones(registry, digests):
        raise InputError(
            f"'{name}' was withdrawn from {registry.label} on {day}",
            hint="leave it out, or take it back: stockpot contribute --readmit",
        )


def check_model(registry: Registry, model: str | Manifest) -> None:
    """``InputError`` for a model of the registry that was withdrawn."""
    manifest = model if isinstance(model, Manifest) else registry.manifest(model)
    check_withdrawn(registry, manifest.name, [manifest.digest])


def readmit(registry: Registry, digests: Iterable[str]) -> None:
    """Delete the tombstones of what is known by one of ``digests``."""
    with registry.store.lock(exclusive=False):
        for key, _ in _tombstones(registry, digests):
            registry.store.delete(key)
        registry.store.flush()


def _tombstones(registry: Registry, digests: Iterable[str]) -> list[tuple[str, str]]:
    """Keys and days of those that stand for one of ``digests``."""
    wanted = set(digests)
    return [
        (key, value["day"])
        for key, value in registry.documents(FOLDER)
        if {salted(value["salt"], one) for one in wanted} & set(value["known"])
    ]
