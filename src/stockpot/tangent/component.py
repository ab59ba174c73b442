"""A component: what one shard of data adds to a base, as one file bound to that base.

A file is safetensors. Its header holds ``component``, the description as canonical JSON, and
``digest``, the SHA-256 of the description and the tensors; a reader computes it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from stockpot.checkpoints import MemoryCheckpoint, open_checkpoint
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.errors import BaseMismatchError, CheckpointError, InputError, NonFiniteError
from stockpot.provenance import HEADER_KEY, Record
from stockpot.tangent.probing import difference

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
Kind = Literal["delta", "statistics"]


@dataclass(frozen=True, eq=False)
class Component:
    """What one shard of data adds to a base.

    ``kind``: "delta" (``tensors`` holds differences by parameter name) or "statistics" (sums that
    add up over shards). ``base_digest`` and ``head_digest`` name the weights it was made on: the
    digest of the base without its head, and of the head all components start from. ``task`` is the
    shard's name, ``classes`` the names of the classes it has seen, ``examples`` how many rows,
    ``data_fingerprint`` their hash. ``settings`` is any JSON object that makes it again with
    ``seed``; ``metrics`` are finite numbers. ``function`` says what the base computes, see
    ``probing``; it is empty in files of older versions.

    Raises ``InputError`` for a field of the wrong kind, ``NonFiniteError`` for NaN or infinity in a
    tensor.
    """

    kind: Kind
    base_digest: str
    head_digest: str
    task: str
    classes: tuple[str, ...]
    examples: int
    data_fingerprint: str
    tensors: Mapping[str, Tensor]
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    function: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if self.kind not in get_args(Kind):
            raise InputError(f"component '{self.task}': kind is {self.kind!r}, expected {Kind}")
        if not self.task:
            raise InputError("a component needs a name (task)")
        if type(self.examples) is not int or self.examples < 0:
            raise InputError(
                f"component '{self.task}': examples is {self.examples!r}, expected a whole number"
            )
        try:
            self.description  # noqa: B018 - it has to be a JSON value
        except (TypeError, ValueError) as error:
            raise InputError(f"component '{self.task}' is no JSON value: {error}") from error
        for name, tensor in self.tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NonFiniteError(
                    f"component '{self.task}': tensor '{name}' holds NaN or infinity",
                    hint="train it again with a lower learning rate",
                )

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the description and of all tensors with names, types and shapes."""
        content = MemoryCheckpoint(self.tensors, label=f"component '{self.task}'").digest()
        return hashlib.sha256(f"{self.description}\0{content}".encode()).hexdigest()

    def check_base(self, base_digest: str, head_digest: str) -> None:
        """``BaseMismatchError`` unless the component was made on these very weights."""
        for what, own, other in (
            ("base", self.base_digest, base_digest),
            ("head", self.head_digest, head_digest),
        ):
            if own != other:
                raise BaseMismatchError(
                    f"component '{self.task}' was made on the {what} {own[:12]}, "
                    f"this {what} is {other[:12]}",
                    hint="components only fit the very weights they were trained on"
                    if what == "base"
                    else "load the head that was saved for all components",
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the head's columns, in order; empty where they are not known."""
        return tuple(self.settings.get("head_classes", ()))

    def check_fits(self, function: Mapping[str, Any], columns: Sequence[str], other: str) -> None:
        """``BaseMismatchError`` unless the component was made on this function and these columns.

        ``other``: whose they are, for the message. What is not known fits everything.
        """
        problem = difference(self.function, function)
        if problem:
            raise BaseMismatchError(
                f"component '{self.task}' was made on a base that computes something else than "
                f"that of {other}: {problem}",
                hint="give both the same architecture with the same settings (activations, eps) "
                "and the same preparation of inputs (mean, std, tokenizer)",
            )
        if self.columns and columns and self.columns != tuple(columns):
            raise BaseMismatchError(
                f"component '{self.task}' has the classes {', '.join(self.columns)}, "
                f"{other} has {', '.join(columns)}: their columns mean different things",
                hint="give all sites one list of classes: head: {classes: [...]}",
            )

    def save(self, path: str | Path, record: Record | None = None) -> Path:
        """Write one safetensors file, whole or not at all; returns its path.

        ``record``: where it came from, kept in the header beside the description; it is no part of
        what ``digest`` speaks of.
        """
        path = Path(path)
        about = {"component": self.description, "digest": self.digest}
        if record is not None:
            about[HEADER_KEY] = json.dumps(record.to_json(), sort_keys=True)
        save_state(path, dict(sorted(self.tensors.items())), about)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Component:
        """Read a component; raises ``CheckpointError`` for any other or a corrupted file."""
        path = Path(path)
        with open_checkpoint(path) as checkpoint:
            metadata = dict(checkpoint.metadata)
        if "component" not in metadata or "digest" not in metadata:
            raise CheckpointError(
                f"{path} is no component: its header has no description",
                hint="components are written by `stockpot tangent train`",
            )
        component = _parse(path, metadata["component"], load_state(path))
        if component.digest != metadata["digest"]:
            raise CheckpointError(
                f"{path} is corrupted: its content has the digest {component.digest[:12]}, "
                f"its header says {metadata['digest'][:12]}",
                hint="copy the file again, or train the component again",
            )
        return component

    @property
    def description(self) -> str:
        """All but the tensors, as it stands in the header of its file: JSON in one form."""
        value = {
            "format": FORMAT if self.function else 1,
            "kind": self.kind,
            "base_digest": self.base_digest,
            "head_digest": self.head_digest,
            "task": self.task,
            "classes": list(self.classes),
            "examples": self.examples,
            "data_fingerprint": self.data_fingerprint,
            "seed": self.seed,
            "settings": dict(self.settings),
            "metrics": dict(self.metrics),
            **({"function": dict(self.function)} if self.function else {}),
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parse(path: Path, text: str, tensors: Mapping[str, Tensor]) -> Component:
    try:
        value = json.loads(text)
        found = value.pop("format")
        if found == (FORMAT if value.get("function") else 1):
            return Component(tensors=tensors, **value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a description that cannot be read: {error}") from None
    except NonFiniteError:
        raise
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error
    raise CheckpointError(
        f"{path} is a component of format {found!r}, this stockpot reads {FORMAT}",
        hint="upgrade stockpot",
    )
