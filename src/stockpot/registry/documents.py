"""Small JSON files that carry their own hash, in one canonical form: a flipped bit is found.

What a line's version, a proposal, a review or a mark of the garbage collection may hold is said
here once, for whoever writes and whoever reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from stockpot.errors import CheckpointError, InputError
from stockpot.files import digest
from stockpot.reading import parse_json
from stockpot.registry.store import ObjectStore
from stockpot.schema import fields

Document = dict[str, Any]
"""What a document holds, without its hash."""

SCHEMA = 1
LARGEST = 16_000_000
"""Bytes of a document."""
LINE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_SEAL = "sha256"
_KEYS = {
    "models": r"models/[0-9a-f]{64}\.json",
    "blobs": r"blobs/[0-9a-f]{2}/[0-9a-f]{64}",
    "lines": rf"lines/{LINE_NAME}/[0-9]{{8}}\.json",
    "proposals": r"proposals/[0-9a-f]{16}\.json",
    "reviews": r"reviews/[0-9a-f]{16}/[0-9]{6}\.json",
    "signatures": r"signatures/[0-9a-f]{64}/[0-9a-f]{16}\.json",
    "gc": r"gc/[0-9a-f]{32}\.json",
    "tombstones": r"tombstones/[0-9a-f]{32}\.json",
}
DOCUMENTS = ("lines", "proposals", "reviews", "signatures", "gc", "tombstones")
"""Folders of sealed documents."""


class NewerError(CheckpointError):
    """An entry that a newer stockpot wrote: whole, and not for this one to read."""


def seal(value: Document) -> bytes:
    """``value`` with its hash, as it is written."""
    return _canonical({**value, _SEAL: digest(value)})


def unseal(raw: bytes, where: str) -> Document:
    """Read what ``seal`` wrote, without the hash. Raises ``CheckpointError`` naming ``where``."""
    try:
        value = parse_json(raw)
        said = value.pop(_SEAL)
        whole = said == digest(value) and raw == _canonical({**value, _SEAL: said})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if not whole:
        raise CheckpointError(f"{where} is damaged: its content has another hash than it says")
    return dict(value)


def sealed(key: str, value: Document) -> bytes:
    """``value`` as the document ``key`` is written, proved to be one that is read again.

    Raises ``InputError`` naming the field that cannot be kept.
    """
    try:
        _check(key, value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{key} cannot be written: {_reason(error)}") from error
    return seal(value)


def read_document(store: ObjectStore, key: str) -> Document:
    """A document of one of the folders ``DOCUMENTS``, checked.

    Raises ``FileNotFoundError``, ``NewerError`` for one of a newer schema, and ``CheckpointError``
    naming it for one that is damaged or holds what none of its kind may.
    """
    value = unseal(read_whole(store, key, LARGEST), key)
    try:
        if fields.count(value["schema"], "schema") > SCHEMA:
            raise NewerError(
                f"{key} has schema {value['schema']}, this stockpot reads up to {SCHEMA}",
                hint="upgrade stockpot",
            )
        _check(key, value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{key} cannot be used: {_reason(error)}") from error
    return value


def read_whole(store: ObjectStore, key: str, limit: int) -> bytes:
    """The bytes of a key. Raises ``CheckpointError`` for more than ``limit``."""
    raw = store.read(key, limit + 1)
    if len(raw) > limit:
        raise CheckpointError(f"{key} is larger than {limit:,} bytes, the limit")
    return raw


def is_entry(key: str) -> bool:
    """Whether a key has the form that entries of its folder have; others are strays."""
    pattern = _KEYS.get(key.partition("/")[0])
    return pattern is not None and re.fullmatch(pattern, key) is not None


def _check(key: str, value: Mapping[str, Any]) -> None:
    _CHECKS[key.partition("/")[0]](key, value)


def _check_version(key: str, value: Mapping[str, Any]) -> None:
    fields.hexadecimal(value["model"], "model")
    fields.name(value["time"], "time")
    event = fields.table(value["event"], "event")
    fields.plain(event, "event")
    fields.optional(fields.name, event.get("what"), "event: what")
    for name in ("words", "said"):
        fields.optional(_note, event.get(name), f"event: {name}")
    if event.get("what") == "accept":
        _check_round({**event, "model": value["model"]})
    for turn in fields.items(event.get("rounds", []), "event: rounds"):
        _check_round(turn)
    for ident in fields.items(event.get("dropped", []), "event: dropped"):
        fields.hexadecimal(ident, "event: dropped", 16)
    for task, score in fields.table(event.get("scores", {}), "event: scores").items():
        for part in ("mean", "low", "high"):
            fields.number(score[part], f"event: scores.{task}.{part}")


def _check_round(value: Mapping[str, Any]) -> None:
    for ident in fields.items(value["contributions"], "contributions"):
        fields.hexadecimal(ident, "contributions", 16)
    fields.name(value["method"], "method")
    fields.table(value["parameters"], "parameters")
    fields.hexadecimal(value["model"], "model")


def _check_proposal(key: str, value: Mapping[str, Any]) -> None:
    names = {"schema", "line", "model", "base", "name", "author", "note", "kind"}
    if set(value) != names:
        raise ValueError(f"it has the fields {', '.join(sorted(value))[:200]}")
    if not re.fullmatch(LINE_NAME, fields.name(value["line"], "line")):
        raise ValueError("'line' is no name of a line")
    fields.hexadecimal(value["model"], "model")
    fields.hexadecimal(value["base"], "base")
    fields.name(value["name"], "name")
    fields.text(value["author"], "author")
    _note(value["note"], "note")
    if value["kind"] not in ("finetune", "component"):
        raise ValueError(f"'kind' is {value['kind']!r:.40}, expected finetune or component")
    if key != f"proposals/{digest(value)[:16]}.json":
        raise ValueError("its name is not the hash of its content")


def _check_review(key: str, value: Mapping[str, Any]) -> None:
    if fields.hexadecimal(value["contribution"], "contribution", 16) != key.split("/")[1]:
        raise ValueError("it speaks of another contribution")
    fields.hexadecimal(value["model"], "model")
    fields.hexadecimal(value["against"], "against")
    _note(value["reason"], "reason")
    checks = fields.items(value["checks"], "checks")
    for check in checks:
        if set(check) != {"name", "passed", "words", "numbers"}:
            raise ValueError(f"a check has the fields {', '.join(sorted(check))[:200]}")
        fields.name(check["name"], "checks: name")
        _note(check["words"], "checks: words")
        fields.table(check["numbers"], "checks: numbers")
        fields.plain(check["numbers"], "checks: numbers")
        _boolean(check["passed"], "checks: passed")
    if _boolean(value["accepted"], "accepted") != all(check["passed"] for check in checks):
        raise ValueError("'accepted' is not what its checks say")


def _check_signature(key: str, value: Mapping[str, Any]) -> None:
    if set(value) != {"schema", "of", "id", "model", "signature"}:
        raise ValueError(f"it has the fields {', '.join(sorted(value))[:200]}")
    if value["of"] not in ("manifest", "contribution"):
        raise ValueError(f"'of' is {value['of']!r:.40}, expected manifest or contribution")
    if fields.hexadecimal(value["id"], "id") != key.split("/")[1]:
        raise ValueError("it is of another entry")
    fields.hexadecimal(value["model"], "model")
    _note(value["signature"], "signature")


def _check_mark(key: str, value: Mapping[str, Any]) -> None:
    fields.number(value["time"], "time")
    for blob in fields.items(value["blobs"], "blobs", 100_000_000):
        fields.hexadecimal(blob, "blobs")


def _check_tombstone(key: str, value: Mapping[str, Any]) -> None:
    if set(value) != {"schema", "salt", "known", "day"}:
        raise ValueError(f"it has the fields {', '.join(sorted(value))[:200]}")
    if key != f"tombstones/{fields.hexadecimal(value['salt'], 'salt', 32)}.json":
        raise ValueError("its name is not its salt")
    for known in fields.items(value["known"], "known"):
        fields.hexadecimal(known, "known", 32)
    fields.name(value["day"], "day")


_CHECKS: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
    "lines": _check_version,
    "proposals": _check_proposal,
    "reviews": _check_review,
    "signatures": _check_signature,
    "gc": _check_mark,
    "tombstones": _check_tombstone,
}


def _note(value: Any, what: str) -> str:
    return fields.text(value, what, fields.TEXT)


def _boolean(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"'{what}' is {type(value).__name__}, expected true or false")
    return value


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _canonical(value: Document) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
