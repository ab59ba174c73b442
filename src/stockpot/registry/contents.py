"""What there is to store of a model: the files of its folder, opened for reading."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.header import build_header, header_bytes
from stockpot.checkpoints.open import (
    GGUF_SUFFIX,
    PICKLE_SUFFIXES,
    find_weights,
    open_stored,
    weights_folder,
)
from stockpot.checkpoints.safetensors_file import check_link, open_file, read_index
from stockpot.errors import CheckpointError, InputError
from stockpot.files import below
from stockpot.merging.output import read_report, report_beside
from stockpot.provenance import (
    HEADER_KEY,
    MODELS_NAME,
    Record,
    has_record,
    parse_record,
    read_record,
)
from stockpot.reading import open_plain, parse_json

_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".md", ".yaml", ".yml")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model")
_LARGEST = 100_000_000
_LEAVE = ("trainer_state.json",)


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file to store: its first bytes as they are, and its tensors in file order."""

    path: str
    header: bytes
    tensors: tuple[TensorInfo, ...]
    checkpoint: Checkpoint

    @property
    def size(self) -> int:
        return len(self.header) + sum(info.nbytes for info in self.tensors)


@dataclass
class Contents:
    """A model to be added. A context manager: closes what it opened.

    ``main`` are the paths of the weights files that the model's digest speaks of; ``others`` maps
    paths of all other files to where they lie.
    """

    label: str
    weights: list[WeightsFile]
    main: tuple[str, ...]
    others: dict[str, Path]
    record: Record | None
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The tensors of the main weights."""
        return {
            info.name: info
            for file in self.weights
            if file.path in self.main
            for info in file.tensors
        }

    @property
    def tokenizer(self) -> str | None:
        """Hash of the tokenizer's files; None for a model without."""
        found = [name for name in _TOKENIZERS if name in self.others]
        if not found:
            return None
        whole = hashlib.sha256()
        for name in found:
            whole.update(name.encode() + b"\0" + self.others[name].read_bytes() + b"\0")
        return whole.hexdigest()


def read_contents(source: str | Path) -> Contents:
    """Find and open the files of a model folder, a weights file or a hub id.

    Pickled weights are read safely and stored as the safetensors file that they make. Optimizer
    states, pickles beside safetensors and hidden files are left out.
    Raises ``CheckpointError`` where there are no weights or a damaged file.
    """
    path = Path(source).expanduser()
    if (path / MODELS_NAME).is_file():
        raise InputError(
            f"{source} is what a run left, not one model", hint=f"stockpot registry land {source}"
        )
    home = weights_folder(source)
    stack = ExitStack()
    try:
        if home is None or path.is_file():
            return _single(path if path.exists() else Path(str(source)), stack)
        return _folder(home, str(source), stack)
    except BaseException:
        stack.close()
        raise


def _single(path: Path, stack: ExitStack) -> Contents:
    _refuse_gguf(path)
    checkpoint = stack.enter_context(open_stored(path))
    file = (
        _as_it_is(path, path.name, checkpoint)
        if path.suffix == ".safetensors"
        else _converted(checkpoint)
    )
    record = _record_of_file(path, checkpoint)
    if record is not None and record.digest not in (None, checkpoint.digest()):
        record = None
    return Contents(str(path), [file], (file.path,), {}, record, stack)


def _refuse_gguf(path: Path) -> None:
    if path.suffix == GGUF_SUFFIX:
        raise InputError(
            f"{path} is a GGUF file, a registry keeps safetensors",
            hint=f"stockpot merge {path} -o model.safetensors gives its floats",
        )


def _record_of_file(path: Path, checkpoint: Checkpoint) -> Record | None:
    """The record of a lone weights file: in its header, in the report that a merge left beside
    it, or in the folder that it was taken from.
    """
    if HEADER_KEY in checkpoint.metadata:
        try:
            value = parse_json(checkpoint.metadata[HEADER_KEY])
        except ValueError as error:
            raise CheckpointError(f"{path}: the record in its header is no JSON: {error}") from None
        return parse_record(value, f"the header of {path}")
    report = read_report(path)
    if report is not None:
        found = [(each.name, each.dtype, list(each.shape)) for each in checkpoint.tensors.values()]
        said = [(each["name"], each["dtype"], each["shape"]) for each in report["tensors"]]
        if sorted(found) == sorted(said) and "record" in report:
            return parse_record(report["record"], str(report_beside(path)))
    return read_record(path.parent) if has_record(path.parent) else None


def _folder(home: Path, label: str, stack: ExitStack) -> Contents:
    chosen = find_weights(home)
    _refuse_gguf(chosen)
    check_link(chosen, home)
    weights: list[WeightsFile] = []
    main: tuple[str, ...]
    if chosen.name.endswith(".safetensors.index.json"):
        # Through the index once, which checks that shards and index agree.
        stack.enter_context(open_stored(chosen))
        main = tuple(dict.fromkeys(read_index(chosen).values()))
    elif chosen.suffix == ".safetensors":
        main = (chosen.name,)
    else:
        weights.append(_converted(stack.enter_context(open_stored(chosen))))
        main = (weights[0].path,)
    others: dict[str, Path] = {}
    for file in below(home):
        inside = file.relative_to(home)
        if len(inside.parts) > 2 or any(part.startswith(".") for part in inside.parts):
            continue
        if not file.is_file() or file.name in _LEAVE:
            continue
        place = inside.as_posix()
        if file.suffix == ".safetensors":
            check_link(file, file.parent)
            weights.append(_as_it_is(file, place, stack.enter_context(open_file(file, place))))
        elif file.suffix in _SUFFIXES or file.name.startswith("LICENSE"):
            check_link(file, file.parent)
            if weights and file.suffix == ".json" and ".bin." in file.name:
                continue
            if file.stat().st_size > _LARGEST:
                raise InputError(f"{file} has {file.stat().st_size} bytes: too large for a text")
            others[place] = file
    missing = [name for name in main if name not in {file.path for file in weights}]
    if missing:
        raise CheckpointError(f"{home} lacks the weights file {missing[0]}")
    record = read_record(home) if has_record(home) else None
    return Contents(label, weights, main, others, record, stack)


def _as_it_is(path: Path, place: str, checkpoint: Checkpoint) -> WeightsFile:
    with open_plain(path) as handle:
        prefix = handle.read(8)
        header = prefix + handle.read(int.from_bytes(prefix, "little"))
    from stockpot.checkpoints.header import parse_header

    offsets = parse_header(path, header[8:], path.stat().st_size).offsets
    order = sorted(checkpoint.tensors.values(), key=lambda info: (offsets[info.name], info.nbytes))
    return WeightsFile(place, header, tuple(order), checkpoint)


def _converted(checkpoint: Checkpoint) -> WeightsFile:
    assert checkpoint.path is None or checkpoint.path.name.endswith((*PICKLE_SUFFIXES, ".json"))
    metadata = {"format": "pt"}
    header = build_header(checkpoint.tensors, metadata)
    written = header_bytes(header.tensors, metadata)
    return WeightsFile("model.safetensors", written, tuple(checkpoint.tensors.values()), checkpoint)
