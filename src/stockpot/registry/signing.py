"""Who signed what: signatures of manifests and contributions, beside what they are of.

A signature is of the entry's full hash, so that it holds for every byte of it. Whether a signer is
trusted is the reader's own question (``stockpot.signatures.signers_file``).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stockpot.errors import SignatureError
from stockpot.registry.documents import SCHEMA, Document, sealed
from stockpot.registry.registry import Registry
from stockpot.signatures import sign, signed_by, signers_file, verify

Kind = Literal["manifest", "contribution"]


@dataclass(frozen=True)
class Signer:
    """Who made a signature. ``state``: "trusted" (``name`` is the principal), "unknown" (the
    fingerprint of a key that this user does not trust) or "wrong" (why it is no signature of this).
    """

    state: Literal["trusted", "unknown", "wrong"]
    name: str

    def __str__(self) -> str:
        if self.state == "trusted":
            return self.name
        return f"unknown key {self.name}" if self.state == "unknown" else f"WRONG: {self.name}"


def sign_entry(registry: Registry, kind: Kind, ident: str, model: str, key: Path) -> Signer:
    """Sign an entry by its full hash with an SSH key, and keep that in the registry.

    ``model``: the model that the entry is, or speaks of. Raises ``InputError`` for the key.
    """
    signature = sign(_message(kind, ident), key, purpose=kind)
    value: Document = {
        "schema": SCHEMA,
        "of": kind,
        "id": ident,
        "model": model,
        "signature": signature,
    }
    place = f"signatures/{ident}/{hashlib.sha256(signature.encode()).hexdigest()[:16]}.json"
    with registry.store.lock(exclusive=False):
        registry.store.write(place, [sealed(place, value)])
        registry.store.flush()
    return signer(kind, ident, signature)


def signers(registry: Registry, kind: Kind, ident: str) -> list[Signer]:
    """Who signed an entry; empty where nobody did. Trusted ones come first."""
    found = {
        signer(kind, ident, value["signature"])
        for _, value in registry.documents(f"signatures/{ident}")
        if value["of"] == kind
    }
    return sorted(found, key=lambda each: (each.state != "trusted", each.state, each.name))


def signed_models(registry: Registry, models: Iterable[str]) -> dict[str, list[Signer]]:
    """Who signed each of some models, for those that somebody did."""
    with_any = {key.split("/")[1] for key in registry.store.keys("signatures")}
    return {
        model: found
        for model in models
        if model in with_any and (found := signers(registry, "manifest", model))
    }


def signer(kind: Kind, ident: str, signature: str) -> Signer:
    """Who made a signature of an entry, by what this user trusts now."""
    trusted = signers_file()
    try:
        changed = trusted.stat().st_mtime_ns
    except OSError:
        changed = None
    return _signer(kind, ident, signature, trusted, changed)


@functools.lru_cache(maxsize=10_000)
def _signer(kind: Kind, ident: str, signature: str, trusted: Path, changed: int | None) -> Signer:
    message = _message(kind, ident)
    try:
        fingerprint = signed_by(message, signature, purpose=kind)
    except SignatureError as error:
        return Signer("wrong", error.message)
    if changed is None:
        return Signer("unknown", fingerprint)
    try:
        return Signer("trusted", verify(message, signature, trusted, purpose=kind))
    except SignatureError:
        return Signer("unknown", fingerprint)


def _message(kind: Kind, ident: str) -> bytes:
    return f"stockpot {kind} {ident}\n".encode()
