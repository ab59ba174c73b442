"""Find the weights that a path or a hub id means, and open them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.composite import CompositeCheckpoint, component_names
from stockpot.checkpoints.decoded import decoded
from stockpot.checkpoints.matching import is_adapter
from stockpot.checkpoints.memory import MemoryCheckpoint
from stockpot.checkpoints.safetensors_file import check_link, open_file, open_sharded
from stockpot.errors import CheckpointError

PICKLE_SUFFIXES = (".pt", ".pth", ".pth.tar", ".bin", ".ckpt")
GGUF_SUFFIX = ".gguf"
_SINGLE = (
    "model.safetensors",
    "adapter_model.safetensors",
    "open_clip_model.safetensors",
    "diffusion_pytorch_model.safetensors",
)
_DCP = (".metadata", "pytorch_model_fsdp_0/.metadata")
_PICKLES = ("pytorch_model.bin", "adapter_model.bin", "model.pt", "model.pth")
_SHARES = (
    (
        "*mp_rank_*_model_states.pt",
        "a checkpoint of DeepSpeed",
        "python zero_to_fp32.py FOLDER model, the script that DeepSpeed puts beside it; or name "
        "one file, where the model is not cut",
    ),
    (
        "global_step*/*mp_rank_*_model_states.pt",
        "a checkpoint of DeepSpeed",
        "python zero_to_fp32.py FOLDER model, the script that DeepSpeed puts beside it",
    ),
    (
        "rank*.pt",
        "a checkpoint cut by ranks",
        "gather the full state dict where it was trained, and save that",
    ),
)
"""Containers of which no file holds whole tensors: pattern, name, and what makes one of them."""
LONGEST_BASE = 1000
"""Characters of the name of an adapter's base."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def open_checkpoint(source: str | Path | Mapping[str, Any] | Checkpoint) -> Checkpoint:
    """Open weights for reading; nothing but headers is read.

    Encoded weights (FP8, GPTQ, bitsandbytes, ...; docs/formats.md) are read as the floats that they
    stand for; ``open_stored`` gives what lies there.

    Args:
        source: a safetensors file or index, a PyTorch file or one table in it
            (``file.pt::ema``), a GGUF file, a folder (Hugging Face, timm, sharded, LoRA adapter,
            sentence-transformers, diffusers), a hub id ``owner/name`` or ``owner/name@revision``
            (asked for only when no such path exists), a state in memory, or an open checkpoint
            (returned as it is).

    Raises:
        CheckpointError: nothing there, a damaged file, or weights in an encoding that is not
            decoded.
        UnsafeFileError: a file that would run code or leaves its folder.
    """
    if isinstance(source, Checkpoint):
        return source
    return decoded(open_stored(source))


def open_stored(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """Open weights as they are stored, for who keeps or counts them. Raises as
    ``open_checkpoint``.
    """
    if isinstance(source, Mapping):
        return MemoryCheckpoint(source)
    label = str(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path, label)
    if path.is_file():
        return _open_single(path, label)
    file, _, key = label.rpartition("::")
    if file.endswith(PICKLE_SUFFIXES) and Path(file).expanduser().is_file():
        from stockpot.checkpoints.pickle_file import open_pickle

        return open_pickle(Path(file).expanduser(), label, key)
    if _is_hub_id(source):
        from stockpot.checkpoints.hub import fetch_folder

        return _open_folder(fetch_folder(label), label)
    raise CheckpointError(
        f"{label} does not exist", hint="give a weights file, a model folder or a hub id owner/name"
    )


def weights_folder(source: str | Path) -> Path | None:
    """Folder with the config and tokenizer that belong to ``source``; None for a lone weights
    file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent if (path.parent / "config.json").is_file() else None
    if _is_hub_id(source):
        from stockpot.checkpoints.hub import fetch_folder

        return fetch_folder(str(source))
    return None


def is_encoded(folder: Path) -> bool:
    """Whether a folder's config declares a quantisation and its weights are encoded.

    A config may also ask for quantisation when plain weights are loaded. Raises as
    ``open_checkpoint`` does.
    """
    from stockpot.checkpoints.encodings.config import declares

    if not declares(folder):
        return False
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.stored is not checkpoint


def open_adapted(
    adapter: Path, label: str, base: str | Path | Checkpoint | None = None
) -> Checkpoint:
    """An adapter (PEFT's folder, or a LoRA file of diffusers' or kohya's) applied to ``base``, by
    default the one its config names.

    Raises ``CheckpointError`` where it names none, or one that is not here.
    """
    from stockpot.checkpoints.adapters import AdaptedCheckpoint, read_adapter

    read = read_adapter(adapter)
    named = base or named_base(adapter, read.settings.base)
    try:
        opened = open_checkpoint(named)
    except RecursionError:
        raise CheckpointError(f"{label} is an adapter whose bases lead back to itself") from None
    except CheckpointError as error:
        if base is None:
            error.message = f"{label} is an adapter of {named!s:.1000}: {error.message}"
        raise
    return AdaptedCheckpoint(opened, read, label=label)


def adapter_folder(source: object) -> Path | None:
    """The folder of PEFT's that ``source`` is; None for all else."""
    if not isinstance(source, str | Path):
        return None
    folder = Path(source).expanduser()
    return folder if _holds_adapter(folder) else None


def _holds_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file() and not (
        folder / "model.safetensors"
    ).exists()


def named_base(folder: Path, name: str | None) -> str | Path:
    """The base that an adapter names: a hub id, a path, or a path from the adapter's folder."""
    if not name:
        raise CheckpointError(
            f"{folder} is an adapter that names no base",
            hint="give it with --base, or set base_model_name_or_path",
        )
    if len(name) > LONGEST_BASE or "\0" in name:
        raise CheckpointError(f"{folder} names the base {name!r:.80}, which is no path or hub id")
    for path in (Path(name).expanduser(), folder / name, folder.parent / name):
        if path.is_dir() or path.is_file():
            return path
    if not _is_hub_id(name):
        raise CheckpointError(
            f"{folder} is an adapter of {name}, which does not exist here",
            hint="give its base with --base",
        )
    return name


def _is_hub_id(source: str | Path) -> bool:
    """Whether a text can be a hub id: ``owner/name`` that does not end like a weights file."""
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source) or ".." in source:
        return False
    return not source.endswith((".safetensors", ".json", GGUF_SUFFIX, *PICKLE_SUFFIXES))


def _open_single(path: Path, label: str) -> Checkpoint:
    if path.name.endswith(".index.json"):
        return _open_index(path, label)
    if path.name == ".metadata" or path.suffix == ".distcp":
        from stockpot.checkpoints.dcp_folder import DcpCheckpoint

        return _no_adapter(DcpCheckpoint(path.parent, label=label))
    if path.suffix == ".safetensors":
        return _no_adapter(open_file(path, label))
    if path.name.endswith(PICKLE_SUFFIXES):
        from stockpot.checkpoints.pickle_file import open_pickle

        return _no_adapter(open_pickle(path, label))
    if path.suffix == GGUF_SUFFIX:
        from stockpot.checkpoints.gguf_file import GgufCheckpoint

        return GgufCheckpoint(path, label=label)
    raise CheckpointError(
        f"{path} is no weights file",
        hint=f"expected .safetensors, {', '.join((*PICKLE_SUFFIXES, GGUF_SUFFIX))} or a model "
        "folder",
    )


def _no_adapter(weights: Checkpoint) -> Checkpoint:
    """``weights``, unless they are factors: an average of factors is no average of models."""
    if not is_adapter(weights.names):
        return weights
    weights.close()
    raise CheckpointError(
        f"{weights.label} holds the factors of an adapter, no weights of a model",
        hint="give PEFT's folder, or with its base: {model: BASE, lora: FILE} in a mergekit recipe",
    )


def _open_index(path: Path, label: str) -> Checkpoint:
    if ".bin." in path.name:
        from stockpot.checkpoints.pickle_file import open_sharded_pickle

        return open_sharded_pickle(path, label)
    return open_sharded(path, label)


def _open_folder(folder: Path, label: str) -> Checkpoint:
    if _holds_adapter(folder):
        return open_adapted(folder, label)
    listed = component_names(folder)
    for name in filter(None, listed):
        check_link(folder / name, folder)
    components = [name for name in listed if _has_weights(folder / name)]
    if not any(components):
        file = find_weights(folder)
        if file.parent != folder:
            check_link(file.parent, folder)
        check_link(file, file.parent)
        return _open_single(file, label)
    opened: dict[str, Checkpoint] = {}
    files = {}
    for name in components:
        file = find_weights(folder / name)
        check_link(file, folder / name)
        prefix = f"{name}/" if name else ""
        opened[prefix] = _open_single(file, f"{label}/{name}" if name else label)
        files[prefix] = _written_name(file)
    return CompositeCheckpoint(opened, files, label=label, path=folder)


def _has_weights(folder: Path) -> bool:
    try:
        return bool(find_weights(folder))
    except CheckpointError as error:
        if "several" in error.message:
            raise
        return False


def _written_name(file: Path) -> str:
    """Name of a component's weights when they are written as safetensors, without shards."""
    begin = re.split(r"[.-]", file.name)[0].replace("pytorch_model", "model")
    begin = "diffusion_pytorch_model" if file.name.startswith("diffusion") else begin
    return f"{begin}.safetensors"


def find_weights(folder: Path) -> Path:
    """The weights file (or index of shards) of a model folder; safetensors before pickles."""
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    for name in _SINGLE:
        if (folder / name).is_file():
            return folder / name
    if len(indexes) == 1:
        return indexes[0]
    tensors = sorted(folder.glob("*.safetensors"))
    if len(tensors) == 1:
        return tensors[0]
    for name in (*_PICKLES, "pytorch_model.bin.index.json"):
        if (folder / name).is_file():
            return folder / name
    packed = sorted(folder.glob(f"*{GGUF_SUFFIX}"))
    if len(packed) == 1 and not tensors and not indexes:
        return packed[0]
    if tensors or indexes or packed:
        names = ", ".join(file.name for file in (*indexes, *tensors, *packed)[:5])
        raise CheckpointError(f"{folder} holds several weights files ({names})", hint="name one")
    for name in _DCP:
        if (folder / name).is_file():
            return folder / name
    whole = sorted(folder.glob("*mp_rank_*_model_states.pt"))
    if len(whole) == 1 and not any(folder.glob("layer_*")):
        return whole[0]  # DeepSpeed, of one rank; cut by ZeRO 3, its tensors are empty
    for pattern, kind, hint in _SHARES:
        if any(folder.glob(pattern)):
            raise CheckpointError(
                f"{folder} holds {kind}: each file is a share of the tensors", hint=hint
            )
    raise CheckpointError(
        f"{folder} holds no weights", hint="expected model.safetensors or an index of shards"
    )
