"""Signatures by SSH keys, made and checked by ``ssh-keygen -Y``: no cryptography of our own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import InputError

NAMESPACE = "stockpot-forgetting"


@dataclass(frozen=True)
class Signature:
    """What ``ssh-keygen`` says of a file's signature.

    ``valid``: it is over these bytes and, where signers were given, by one of them. ``by``: who, or
    which key.
    """

    valid: bool
    by: str


def signature_path(path: Path) -> Path:
    """Where the signature of a file lies."""
    return path.with_name(f"{path.name}.sig")


def sign(path: Path, key: Path) -> Path:
    """Sign a file with an SSH key; returns the signature's path. Raises ``InputError``."""
    signature_path(path).unlink(missing_ok=True)
    done = _run(["-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(path)])
    if done.returncode or not signature_path(path).is_file():
        raise InputError(f"{key} does not sign: {_last(done.stderr)}", hint="give an SSH key")
    return signature_path(path)


def read_signature(path: Path, signers: Path | None = None) -> Signature | None:
    """The signature beside a file, or None.

    ``signers``: an allowed-signers file of OpenSSH, one line a signer: a name and a public key.
    Without it a valid signature says which key signed, and not whose it is.
    """
    signature = signature_path(path)
    if signers is not None and not signers.is_file():
        raise InputError(f"{signers}: no such file")
    if not signature.is_file():
        return None
    common = ["-n", NAMESPACE, "-s", str(signature)]
    content = path.read_bytes()
    if signers is None:
        done = _run(["-Y", "check-novalidate", *common], content)
        return Signature(not done.returncode, _last(done.stdout or done.stderr))
    names = _run(["-Y", "find-principals", "-s", str(signature), "-f", str(signers)])
    for name in names.stdout.decode().splitlines():
        done = _run(["-Y", "verify", "-f", str(signers), "-I", name, *common], content)
        if not done.returncode:
            return Signature(True, name)
    return Signature(False, f"none of those in {signers}")


def _run(
    arguments: Sequence[str], content: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise InputError("signatures need ssh-keygen", hint="install OpenSSH, 8.1 or newer")
    return subprocess.run(
        [program, *arguments], input=content or b"", capture_output=True, check=False
    )


def _last(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"
