"""The signature beside a certificate, by an SSH key (``stockpot.signatures``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import InputError, SignatureError
from stockpot.files import write_text
from stockpot.signatures import sign as sign_bytes
from stockpot.signatures import signed_by, verify

PURPOSE = "forgetting"


@dataclass(frozen=True)
class Signature:
    """What is known of a file's signature.

    ``valid``: it is over these bytes and, where signers were given, by one of them. ``by``: who,
    which key, or why it is not valid.
    """

    valid: bool
    by: str


def signature_path(path: Path) -> Path:
    """Where the signature of a file lies."""
    return path.with_name(f"{path.name}.sig")


def sign(path: Path, key: Path) -> Path:
    """Sign a file with an SSH key; returns the signature's path. Raises ``InputError``."""
    write_text(signature_path(path), sign_bytes(path, key, purpose=PURPOSE))
    return signature_path(path)


def read_signature(path: Path, signers: Path | None = None) -> Signature | None:
    """The signature beside a file, or None.

    ``signers``: an allowed-signers file of OpenSSH, one line a signer: a name and a public key.
    Without it a valid signature says which key signed, and not whose it is.
    """
    if signers is not None and not signers.is_file():
        raise InputError(f"{signers}: no such file")
    if not signature_path(path).is_file():
        return None
    text = signature_path(path).read_text(encoding="utf-8", errors="replace")
    try:
        if signers is None:
            return Signature(True, f"key {signed_by(path, text, purpose=PURPOSE)}")
        return Signature(True, verify(path, text, signers, purpose=PURPOSE))
    except SignatureError as error:
        return Signature(False, error.message)
