"""Models that lie on this machine: in folders here, in the hub's cache, in stockpot's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import InputError
from stockpot.files import cache_folder
from stockpot.ranking.infer import is_model, kind_of

_LARGEST = 3_000_000_000
"""Bytes of weights that are run without having been asked for by name."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_KNOWN = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""What the weights that `stockpot demo` fetches are called elsewhere."""
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
)


@dataclass(frozen=True)
class AtHand:
    """A model on this machine: what it is called, where it lies, how it is loaded."""

    name: str
    folder: Path
    kind: str

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        files = (file for pattern in _WEIGHTS for file in self.folder.glob(pattern))
        return sum(file.stat().st_size for file in files)

    @property
    def is_too_large(self) -> bool:
        """Whether it takes longer than anybody would expect who did not name it."""
        return self.size > _LARGEST


def models_at_hand(modality: str, here: Path) -> list[AtHand]:
    """Models for ``"text"`` or ``"image"`` with their weights: in folders of ``here`` and of
    ``here/models``, in the hub's cache, and in that of `stockpot demo`; each name once.
    """
    found: dict[str, AtHand] = {}
    for name, folder in _folders(here):
        kind = _kind(folder)
        if name not in found and kind is not None and _takes(folder, kind) == modality:
            model = AtHand(name, folder, kind)
            if model.size:
                found[name] = model
    return list(found.values())


def _folders(here: Path) -> Iterator[tuple[str, Path]]:
    for parent in (here, here / "models"):
        if parent.is_dir():
            yield from ((each.name, each) for each in sorted(parent.iterdir()) if each.is_dir())
    from huggingface_hub import constants

    for each in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        reference = each / "refs" / "main"
        if reference.is_file():
            snapshot = each / "snapshots" / reference.read_text(encoding="utf-8").strip()
            name = each.name.removeprefix("models--").replace("--", "/", 1)
            yield name.removeprefix("timm/"), snapshot
    assets = cache_folder() / "assets"
    if assets.is_dir():
        yield from ((_KNOWN.get(each.name, each.name), each) for each in sorted(assets.iterdir()))


def _kind(folder: Path) -> str | None:
    """How a folder's model is loaded; None for what is no model, or none that is known."""
    try:
        return kind_of(str(folder), Path()) if is_model(folder) else None
    except InputError:
        return None


def _takes(folder: Path, kind: str) -> str:
    """What a model's folder says that it takes; empty where it does not."""
    if kind == "timm" or (folder / "preprocessor_config.json").is_file():
        return "image"
    return "text" if any((folder / name).is_file() for name in _TOKENIZERS) else ""
