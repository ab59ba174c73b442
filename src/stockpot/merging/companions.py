"""What makes weights a model: config, tokenizer and the like, copied from a parent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.open import is_encoded
from stockpot.checkpoints.safetensors_file import check_link
from stockpot.errors import OutputError
from stockpot.files import below, write_json
from stockpot.reading import read_json

REPORT_NAME = "merge_report.json"
_KEPT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_NOT_KEPT = (REPORT_NAME, "stockpot.json", "adapter_config.json", "trainer_state.json")


def copy_companions(home: Path, folder: Path) -> None:
    """Copy to ``folder`` what makes weights a model: config, tokenizer and the like of ``home``."""
    code = code_files(home)
    for file in below(home):
        inside = file.relative_to(home)
        # Sentence-transformers keep the config of a module one folder down.
        if len(inside.parts) > 2 or any(part.startswith(".") for part in inside.parts):
            continue
        if file.is_file() and (file in code or _is_companion(file)):
            check_link(file, file.parent)
            (folder / inside).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / inside)
    _drop_quantization(home, folder)


def code_files(home: Path) -> list[Path]:
    """The code of a model whose configs name classes of their own (``auto_map``)."""
    configs = (read_json(file, "a model's config") for file in home.glob("*config.json"))
    named = any(isinstance(config, dict) and "auto_map" in config for config in configs)
    return sorted(home.glob("*.py")) if named else []


def _is_companion(file: Path) -> bool:
    return (
        file.suffix in _KEPT_SUFFIXES
        and file.name not in _NOT_KEPT
        and not file.name.endswith(".index.json")
        and file.stat().st_size < 100_000_000
    )


def _drop_quantization(home: Path, folder: Path) -> None:
    """Let what was copied from ``home`` say nothing of an encoding that was decoded."""
    if not is_encoded(home):
        return
    from stockpot.checkpoints.encodings.config import FILES, without_quantization

    path = folder / "config.json"
    write_json(path, without_quantization(read_json(path, "a model's config")))
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def from_adapters(sources: Sequence[Checkpoint], folder: Path) -> dict[str, Any]:
    """What adapters change beside the weights: their tokenizers are copied, changes of the config
    returned.
    """
    changes: dict[str, Any] = {}
    for source in sources:
        changes |= source.config_changes
        path = source.path if source.base is not None else None
        if path is not None and (path / "tokenizer_config.json").is_file():
            for file in sorted(path.glob("*token*")):
                check_link(file, path)
                shutil.copyfile(file, folder / file.name)
    return changes


def correct_config(config: Path, dtype: str | None, changes: Mapping[str, Any]) -> None:
    """Keep a config's word about the type (torch's name of it) and the tensors true."""
    if not config.is_file():
        if changes:
            raise OutputError("the base has no config.json, which its adapter would change")
        return
    content = read_json(config, "a model's config")
    if not isinstance(content, dict):
        return
    right: dict[str, Any] = dict(changes)
    if dtype is not None:
        right |= dict.fromkeys(("torch_dtype", "dtype"), dtype)
    changed = {
        key: value
        for key, value in right.items()
        if content.get(key, None if key in changes else value) != value
    }
    if changed:
        write_json(config, {**content, **changed})
