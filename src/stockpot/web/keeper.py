"""Who may change something: the token, sessions, and the seal of every form."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path

from stockpot.errors import InputError
from stockpot.files import output_error

LEAST = 20  # characters of a token
HOURS = 12


class Keeper:
    """Knows the token and the open sessions.

    Sessions live in memory and end with the server, or after ``HOURS``. ``clock`` gives seconds.
    Without a token nobody may change anything.
    """

    def __init__(
        self, token: str | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._token = None if token is None else _hash(token)
        self._secret = secrets.token_bytes(32)
        self._sessions: dict[bytes, float] = {}
        self._clock = clock

    @property
    def open(self) -> bool:
        """Whether there is a token at all, so that one can sign in."""
        return self._token is not None

    def sign_in(self, token: str) -> str | None:
        """A new session for who knows the token, else None. Compares in constant time."""
        if self._token is None or not hmac.compare_digest(_hash(token), self._token):
            return None
        now = self._clock()
        self._sessions = {key: end for key, end in self._sessions.items() if end > now}
        session = secrets.token_urlsafe(32)
        self._sessions[_hash(session)] = now + HOURS * 3600
        return session

    def signed_in(self, session: str | None) -> bool:
        """Whether this is an open session."""
        return bool(session) and self._sessions.get(_hash(session or ""), 0.0) > self._clock()

    def sign_out(self, session: str | None) -> None:
        """End a session."""
        self._sessions.pop(_hash(session or ""), None)

    def seal(self, browser: str, session: str | None) -> str:
        """What a form must carry: bound to the browser's cookie and to its session."""
        what = f"{browser}|{session or ''}".encode()
        return hmac.new(self._secret, what, hashlib.sha256).hexdigest()

    def is_sealed(self, seal: str, browser: str | None, session: str | None) -> bool:
        """Whether a form was made by us for this browser. Compares in constant time."""
        if not browser:
            return False
        return hmac.compare_digest(seal.encode(), self.seal(browser, session).encode())


def read_token(path: Path) -> tuple[str, bool]:
    """The token in a file, and whether it was made now because there was no such file.

    Raises ``InputError`` for a token that is short or that others on this machine can read,
    ``OutputError`` where none can be made.
    """
    path = Path(path)
    if not path.exists():
        token = secrets.token_urlsafe(32)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as handle:
                handle.write(token + "\n")
        except OSError as error:
            raise output_error(path, error) from error
        return token, True
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {path} cannot be read: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"others can read the token in {path}", hint=f"chmod 600 {path}")
    if len(token) < LEAST or any(c.isspace() for c in token):
        raise InputError(
            f"the token in {path} has {len(token)} characters: expected one word of at least "
            f"{LEAST}",
            hint="name a file that does not exist, and one is made",
        )
    return token, False


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
