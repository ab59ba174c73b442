"""What a model's features depend on, as a hash, found without loading the model."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import BackboneError
from stockpot.extras import require
from stockpot.files import digest, file_digest
from stockpot.ranking.zoo import FeatureEntry, ModelEntry

_CONFIGURATION = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def revision(entry: ModelEntry | FeatureEntry, root: Path) -> str:
    """SHA-256 of weights, code and preprocessing of a zoo entry.

    Local weights and source files are hashed by content (weights that were hashed before are known
    by path, size and time), hub models by the commit in the local cache, timm's own weights by
    timm's version. Of a function only its own file is hashed, not what that imports.
    Raises ``InputError`` naming a file that is not there.
    """
    if isinstance(entry, FeatureEntry):
        path = root / Path(entry.path).expanduser()
        if not path.is_file():
            raise BackboneError(f"there is no features file {path}")
        return digest(["features", file_digest(path)])
    spec = entry.spec
    declared = spec.model_dump(mode="json", exclude={"weights"})
    parts: dict[str, object] = {"spec": declared}
    if spec.weights is not None:
        parts["weights"] = _weights(root / Path(spec.weights).expanduser())
    if spec.kind == "function":
        parts["code"] = file_digest(_source_file(spec.name, root))
        declared["name"] = spec.name.rpartition(":")[2]
    else:
        folder = root / Path(spec.name).expanduser()
        require(spec.kind, f"the model '{entry.label}'")
        try:
            parts["library"] = metadata.version(spec.kind)
        except metadata.PackageNotFoundError as error:
            needed = f"needs the package '{spec.kind}', which is not installed"
            raise BackboneError(f"the model '{entry.label}' {needed}") from error
        if folder.is_dir():
            declared["name"] = "."
            parts["weights of the folder"] = _weights(folder)
            files = [folder / name for name in _CONFIGURATION]
            parts["configuration"] = [file_digest(file) for file in files if file.is_file()]
        else:
            parts["commit"] = _commit(spec.name)
    return digest(parts)


def _weights(path: Path) -> str:
    if not path.exists():
        raise BackboneError(f"there is no weights file {path}")
    with open_checkpoint(path) as checkpoint:
        return checkpoint.digest()


def _source_file(name: str, root: Path) -> Path:
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        path = root / place
        if not path.is_file():
            raise BackboneError(f"there is no file {path}")
        return path
    try:
        loaded = sys.modules.get(place)
        found = getattr(loaded, "__spec__", None) or importlib.util.find_spec(place)
    except (ImportError, ValueError) as error:
        raise BackboneError(f"backbone '{name}': {error}") from error
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise BackboneError(f"backbone '{name}': there is no module '{place}'")
    return Path(found.origin)


def _commit(name: str) -> str | None:
    """The snapshot of a hub model in the local cache; None for weights that timm knows by name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = name.removeprefix("hf-hub:")
    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None
