"""Files as this package writes them, byte for byte: nothing lies between what is read of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.checkpoints.header import header_bytes, read_header
from stockpot.files import json_text
from stockpot.provenance import HEADER_KEY, Record, parse_record
from stockpot.reading import open_plain, parse_json, read_bytes
from stockpot.tangent.component import Component
from stockpot.tangent.lineage import content_digest


def json_problem(path: Path, value: Any) -> str:
    """Why a file is not the JSON of ``value`` as ``write_json`` has it; empty where it is."""
    same = read_bytes(path) == json_text(value).encode()
    return "" if same else "is not written as stockpot writes it"


def weights_problem(path: Path, metadata: Mapping[str, str]) -> str:
    """Why a safetensors file is not as ``save_state`` writes it with ``metadata``.

    The reader vouches for the rest: every byte behind the header belongs to one tensor.
    """
    with open_plain(path) as handle:
        header = read_header(path, handle)
        own = header_bytes(header.tensors, header.metadata)
        handle.seek(0)
        written = handle.read(len(own)) == own
    same = header.metadata == {"format": "pt", **metadata}
    return "" if written and same else "has a header that stockpot does not write"


def component_problem(path: Path, component: Component) -> str:
    """Why a file is not as ``Component.save`` writes ``component``, with a record that fits."""
    with open_plain(path) as handle:
        header = read_header(path, handle)
    about = {"component": component.description, "digest": component.digest}
    text = header.metadata.get(HEADER_KEY)
    if text is not None:
        about[HEADER_KEY] = text
    if list(header.tensors) != sorted(header.tensors):
        return "has its tensors in another order than stockpot"
    if text is not None and not _fits(parse_record(parse_json(text), str(path)), text, component):
        return "has a record in its header that is of something else"
    return weights_problem(path, about)


def _fits(record: Record, text: str, component: Component) -> bool:
    return (
        record.kind == "component"
        and record.name == component.task
        and record.data == component.data_fingerprint
        and record.digest == content_digest(component)
        and dict(record.metrics) == dict(component.metrics)
        and text == json.dumps(record.to_json(), sort_keys=True)
    )


def attributes_problem(path: Path) -> str:
    """Why a file or folder has more than its content: extended attributes, where there are any."""
    if not hasattr(os, "listxattr"):
        return ""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return ""  # a file system without them
    own = sorted(name for name in names if name.startswith(("user.", "trusted.")))
    return f"has the extended attribute '{own[0][:80]}'" if own else ""
