"""Signatures by OpenSSH: who signed these bytes, as what."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from stockpot.errors import InputError, SignatureError
from stockpot.signatures import sign, signed_by, verify

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")


def key(folder: Path, name: str) -> Path:
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def ada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return key(tmp_path_factory.mktemp("keys"), "ada")


@pytest.fixture(scope="module")
def signers(ada: Path) -> Path:
    path = ada.parent / "signers"
    path.write_text(f"ada@example.org {ada.with_suffix('.pub').read_text()}")
    return path


def test_who_signed_is_known_by_name(ada: Path, signers: Path, tmp_path: Path) -> None:
    signature = sign(b"some bytes", ada, purpose="manifest")
    assert verify(b"some bytes", signature, signers, purpose="manifest") == "ada@example.org"
    (tmp_path / "file").write_bytes(b"some bytes")
    assert sign(tmp_path / "file", ada, purpose="manifest") == signature
    printed = subprocess.run(["ssh-keygen", "-lf", ada], capture_output=True, text=True).stdout
    assert signed_by(b"some bytes", signature, purpose="manifest") == printed.split()[1]


def test_other_bytes_and_purposes_are_refused(ada: Path, signers: Path) -> None:
    signature = sign(b"some bytes", ada, purpose="manifest")
    with pytest.raises(SignatureError, match="does not fit"):
        verify(b"other bytes", signature, signers, purpose="manifest")
    with pytest.raises(SignatureError, match="does not fit"):
        verify(b"some bytes", signature, signers, purpose="certificate")
    for position in range(40, len(signature) - 40, 37):
        letter = "A" if signature[position] != "A" else "B"
        changed = f"{signature[:position]}{letter}{signature[position + 1 :]}"
        with pytest.raises(SignatureError):
            verify(b"some bytes", changed, signers, purpose="manifest")


def test_a_key_that_nobody_trusts_is_named(signers: Path, tmp_path: Path) -> None:
    signature = sign(b"x", key(tmp_path, "eve"), purpose="manifest")
    fingerprint = signed_by(b"x", signature, purpose="manifest")
    with pytest.raises(SignatureError, match="does not allow") as caught:
        verify(b"x", signature, signers, purpose="manifest")
    assert fingerprint in str(caught.value)


def test_who_may_sign_what_is_in_the_file_of_signers(ada: Path, tmp_path: Path) -> None:
    limited = tmp_path / "signers"
    public = ada.with_suffix(".pub").read_text()
    limited.write_text(f'*@example.org namespaces="certificate@stockpot" {public}')
    certificate = sign(b"x", ada, purpose="certificate")
    assert verify(b"x", certificate, limited, purpose="certificate") == "*@example.org"
    with pytest.raises(SignatureError, match="does not allow"):
        verify(b"x", sign(b"x", ada, purpose="manifest"), limited, purpose="manifest")
    limited.write_text(f'ada valid-before="20000101" {public}')
    with pytest.raises(SignatureError, match="does not allow"):
        verify(b"x", certificate, limited, purpose="certificate")


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN SSH SIGNATURE-----\n", "é" * 30])
def test_what_is_no_signature_is_refused(signers: Path, text: str) -> None:
    with pytest.raises(SignatureError, match="no SSH signature"):
        verify(b"x", text, signers, purpose="manifest")


def test_an_endless_signature_is_refused(ada: Path, signers: Path) -> None:
    begin, end = "-----BEGIN SSH SIGNATURE-----\n", "\n-----END SSH SIGNATURE-----\n"
    with pytest.raises(SignatureError, match="16,000"):
        verify(b"x", f"{begin}{'A' * 50_000}{end}", signers, purpose="manifest")


def test_missing_files_are_named(ada: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no key"):
        sign(b"x", tmp_path / "none", purpose="manifest")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="does not sign"):
        sign(b"x", tmp_path / "text", purpose="manifest")
    with pytest.raises(InputError, match="allowed signers"):
        verify(b"x", sign(b"x", ada, purpose="manifest"), tmp_path / "none", purpose="manifest")


def test_without_openssh_one_line_says_so(ada: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"ssh-keygen.*not here.*install OpenSSH"):
        sign(b"x", ada, purpose="manifest")
