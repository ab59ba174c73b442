"""Sign bytes with an SSH key and check who signed them, all by ``ssh-keygen -Y`` of OpenSSH.

There is no cryptography in here: keys, agents, hardware keys and formats are OpenSSH's own, and so
is the file of allowed signers (``man ssh-keygen``, ALLOWED SIGNERS): a line ``principal key`` for
each person who is trusted. A signature holds for one purpose (a namespace of OpenSSH), so that what
was signed as one thing cannot be shown as another.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stockpot.errors import InputError, SignatureError
from stockpot.reading import read_bytes, visible

LARGEST = 16_000
"""Characters of a signature: those of the longest RSA keys have 3000."""
_SECONDS = 120.0  # a person may have to type a passphrase or to touch a key
_SIGNATURE = re.compile(
    "-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=]+\n)+-----END SSH SIGNATURE-----\n"
)
_KEY = re.compile(rb"key (SHA256:[A-Za-z0-9+/]+)")


def sign(data: bytes | Path, key: Path, *, purpose: str) -> str:
    """The signature (text, a few lines) of some bytes or a file's, for ``purpose`` (a word).

    ``key``: a private key, or a public one whose private one an agent holds. Raises ``InputError``
    where the key cannot be used, or where there is no OpenSSH.
    """
    check_key(key)
    done = _keygen("sign", "-f", str(key), "-n", _namespace(purpose), data=_bytes(data))
    if done.returncode:
        raise InputError(
            f"{key} does not sign: {_reason(done)}", hint="ssh-add it where it has a passphrase"
        )
    return _checked(done.stdout.decode("ascii", "replace").replace("\r\n", "\n"))


def check_key(key: Path) -> None:
    """Raise ``InputError`` where there is no such key: before the work that is to be signed."""
    if not Path(key).is_file():
        raise InputError(f"there is no key {key}", hint="ssh-keygen -t ed25519 makes one")


def verify(data: bytes | Path, signature: str, signers: Path, *, purpose: str) -> str:
    """The principal of the file ``signers`` who signed these bytes for ``purpose``.

    Raises ``SignatureError`` where the signature is none of these bytes, or of nobody in the file.
    """
    if not Path(signers).is_file():
        raise InputError(f"there is no file of allowed signers {signers}")
    data, namespace = _bytes(data), _namespace(purpose)
    with _file(signature) as path:
        common = ("-f", str(signers), "-s", path)
        known = _keygen("find-principals", *common, data=b"").stdout.decode("utf-8", "replace")
        for principal in known.splitlines():
            done = _keygen("verify", *common, "-I", principal, "-n", namespace, data=data)
            if done.returncode == 0:
                return visible(principal)
    fingerprint = signed_by(data, signature, purpose=purpose)
    raise SignatureError(
        f"the signature is of the key {fingerprint}, which {signers} does not allow",
        hint="add a line 'name key' to that file if you trust it",
    )


def signers_file() -> Path:
    """Whom this user trusts: ``STOCKPOT_SIGNERS``, else a file in their own configuration.

    A registry never says whom to trust: everybody who may write could then be trusted.
    """
    chosen = os.environ.get("STOCKPOT_SIGNERS")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "stockpot/signers"


def trusted_line(principal: str, key: Path) -> str:
    """The line of a file of allowed signers by which ``key`` (public) is that of ``principal``.

    Raises ``InputError`` for a name that is no word, or a file that holds no public key.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.@+-]{0,199}", principal):
        raise InputError(
            f"'{principal}' names no signer", hint="expected a word, such as ada@example.org"
        )
    found = re.fullmatch(rb"((?:ssh|ecdsa|sk)-[\w@.-]+) ([A-Za-z0-9+/=]+)(?: .*)?\s*", _bytes(key))
    if found is None:
        raise InputError(f"{key} holds no public SSH key", hint="expected a file such as id.pub")
    return f"{principal} {found[1].decode()} {found[2].decode()}\n"


def signed_by(data: bytes | Path, signature: str, *, purpose: str) -> str:
    """The fingerprint of the key that signed these bytes for ``purpose``, trusted or not.

    Raises ``SignatureError`` where the signature is none of these bytes.
    """
    with _file(signature) as path:
        arguments = ("-n", _namespace(purpose), "-s", path)
        done = _keygen("check-novalidate", *arguments, data=_bytes(data))
    fingerprint = _KEY.search(done.stdout)
    if done.returncode or fingerprint is None:
        raise SignatureError(
            f"the signature does not fit what it signs: {_reason(done)}",
            hint="it was changed after it was signed, or signed as something else",
        )
    return fingerprint[1].decode()


def _keygen(action: str, *arguments: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise InputError("signatures need 'ssh-keygen', which is not here", hint="install OpenSSH")
    command = [program, "-Y", action, *arguments]
    try:
        return subprocess.run(command, input=data, capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"ssh-keygen -Y {action} did not end well: {error}") from error


@contextmanager
def _file(signature: str) -> Iterator[str]:
    """The path of a file of the signature, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as folder:
        path = Path(folder) / "signature"
        path.write_text(_checked(signature), encoding="ascii", newline="\n")
        yield str(path)


def _namespace(purpose: str) -> str:
    return f"{purpose}@stockpot"


def _bytes(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return read_bytes(data)
    except OSError as error:
        raise InputError(f"{data} cannot be read: {error.strerror or error}") from error


def _checked(signature: str) -> str:
    # OpenSSH reads to the first end: what came after it would be in nobody's sight.
    if not _SIGNATURE.fullmatch(signature):
        raise SignatureError("it is no SSH signature", hint="ssh-keygen -Y sign makes one")
    if len(signature) > LARGEST:
        raise SignatureError(f"the signature has more than {LARGEST:,} characters, the limit")
    return signature


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return visible(said[-1].strip(), 200) if said else f"exit code {done.returncode}"
