"""Where words and data go: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

from stockpot.cli.options import Json, Quiet
from stockpot.reading import HIDDEN, visible


@dataclass(frozen=True)
class Output:
    """One way to speak for all commands, and their options for it.

    ``json``: data as one JSON value with ``"schema": 1``. ``quiet``: no words on stderr.
    """

    json: Json = False
    quiet: Quiet = False

    @property
    def silent(self) -> bool:
        """No progress either: it was asked for, or data alone is."""
        return self.quiet or self.json

    def say(self, text: str) -> None:
        """A word to the person at the terminal."""
        if not self.quiet:
            print(visible(text), file=sys.stderr)  # noqa: T201

    def data(self, value: Any, text: str) -> None:
        """The result: ``value`` for machines or ``text`` for people."""
        if self.json:
            plain = value if not isinstance(value, dict) else {"schema": 1, **value}
            written = json.dumps(plain, ensure_ascii=False, allow_nan=False)
            print(HIDDEN.sub(_escaped, written), flush=True)  # noqa: T201
        else:
            print(visible(text), flush=True)  # noqa: T201


def _escaped(match: re.Match[str]) -> str:
    """A character as JSON writes it out."""
    return f"\\u{ord(match.group()):04x}"
