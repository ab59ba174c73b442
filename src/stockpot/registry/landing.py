"""Put in what a command left: its results, and before them the models that they were made of."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones.layout import ABOUT, HEAD, WEIGHTS, Layout, parse_layout
from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.open import open_stored, weights_folder
from stockpot.checkpoints.safetensors_file import check_link
from stockpot.checkpoints.writer import file_writer
from stockpot.errors import CheckpointError, InputError
from stockpot.files import write_json
from stockpot.merging.companions import REPORT_NAME
from stockpot.merging.output import read_report
from stockpot.provenance import FILE_NAME, MODELS_NAME, RunModel, read_models
from stockpot.reading import read_json
from stockpot.registry.adding import Added, add
from stockpot.registry.contents import read_contents
from stockpot.registry.registry import Registry
from stockpot.yaml_lines import load_with_lines

# The recipe that `rank` writes beside its results.
RECIPE = "recipe.yaml"
# What a folder says about its own weights says nothing about those laid over them.
_OWN = (FILE_NAME, REPORT_NAME, "README.md")


@dataclass(frozen=True)
class Landed:
    """``models``: what was added or was there already, parents first, the result last; empty
    where a ranking's winner has no weights of its own.

    ``left_out``: parents that are not where they were, or not what they were, in words; their
    edges are there all the same, and join when such weights are added.
    """

    models: tuple[Added, ...]
    left_out: tuple[str, ...]

    @property
    def result(self) -> Added:
        """The last of ``models``. Raises ``InputError`` where there is none."""
        if not self.models:
            raise InputError(f"nothing was added: {'; '.join(self.left_out)}")
        return self.models[-1]


def land(registry: Registry, output: str | Path, *, quiet: bool = True) -> Landed:
    """Add the results of a command and the models that they were made of.

    ``output``: what ``recycle`` or ``tangent train`` wrote (a folder with ``models.json``), a merge
    (folder or file: with its parents, where they still lie), a ranking (its winner), or any model
    that ``add`` takes. The same output twice changes nothing; after an interruption call it again.
    Parents whose weights the registry has are left as they are.

    Raises ``InputError`` and ``CheckpointError`` for an output that cannot be read,
    ``OutputError`` where the registry cannot be written.
    """
    place = Path(output).expanduser()
    results, left_out = list[Added](), list[str]()
    listed = _listed(place, str(output), left_out)
    for number, made in enumerate(listed):
        try:
            found = _land(registry, place, made, quiet)
        except (InputError, CheckpointError) as error:
            if made.record is not None or number == len(listed) - 1:
                raise
            left_out.append(f"{made.name or made.source}: {error.message}")
            continue
        results.append(found)
    return Landed(tuple(results), tuple(left_out))


def _listed(output: Path, label: str, left_out: list[str]) -> list[RunModel]:
    ranked = (output / RECIPE).is_file() and (output / "results.json").is_file()
    models = _ranked(output, left_out) if ranked else []
    if (output / MODELS_NAME).is_file():
        models += read_models(output)
        if not models and not ranked:
            raise InputError(f"{output / MODELS_NAME} lists no models")
        return models
    if ranked:
        return models
    report = read_report(output)
    if report is None:
        return [RunModel(label)]
    # The base first, so that the others are stored as differences to it.
    parents = sorted(report["parents"], key=lambda each: each["role"] != "base")
    base = next((each["digest"] for each in parents if each["role"] == "base"), None)
    made = [
        RunModel(
            each["label"], digest=each["digest"], base=base if each["role"] != "base" else None
        )
        for each in parents
        if each["digest"]  # of one that was not hashed nobody knows whether it is still the same
    ]
    return [*made, RunModel(label)]


def _ranked(output: Path, left_out: list[str]) -> list[RunModel]:
    """The model that came first in a ranking, from the recipe that starts from it."""
    recipe = output / RECIPE
    try:
        spec = load_with_lines(recipe)[0]["backbone"]
        place, has_weights = spec.get("weights") or spec["name"], spec["kind"] != "function"
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{recipe} cannot be read: {error}") from error
    if not (has_weights or spec.get("weights")):
        left_out.append(f"{place}: the winner is made by a function, and lies in no file")
        return []
    with open_stored(output / place if (output / place).exists() else place) as checkpoint:
        return [RunModel(place, digest=checkpoint.digest())]


def _land(registry: Registry, output: Path, made: RunModel, quiet: bool) -> Added:
    """Add one model; a parent whose weights are in the registry stays what it is there."""
    if made.digest is not None:
        there = registry.index.rows("digest = ?", (made.digest,), 1)
        if there:
            manifest = registry.manifest(there[0].id)
            return Added(manifest.id, manifest, False, manifest.nbytes, 0, 0, {}, None)
    inside = output / made.source
    source = str(inside) if output.is_dir() and inside.exists() else made.source
    if made.overlay is not None:
        with _laid_over(Path(source), output / made.overlay, made.parts) as folder:
            return add(registry, folder, name=made.name, record=made.record, quiet=quiet)
    if made.digest is not None:
        with open_stored(source) as checkpoint:
            if checkpoint.digest() != made.digest:
                raise InputError("its weights have changed since")
        home = weights_folder(source)
        if home is not None and (home / "adapter_config.json").is_file():
            raise InputError("an adapter, whose weights exist on its base alone")
    parents: Sequence[str] | None = None
    if made.record is None and made.base is not None and made.base != made.digest:
        with read_contents(source) as contents:
            known = contents.record is not None and contents.record.parents
        if not known and registry.index.rows("digest = ?", (made.base,), 1):
            parents = [made.base]
    return add(registry, source, name=made.name, parents=parents, record=made.record, quiet=quiet)


@contextmanager
def _laid_over(source: Path, overlay: Path, parts: Mapping[str, str]) -> Iterator[Path]:
    """A model folder like ``source`` with the tensors of ``overlay`` in it; gone at the end."""
    about = _about(source)
    layout = parse_layout(about)
    with tempfile.TemporaryDirectory(prefix="stockpot-land-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        absent = {file.stem for file in source.glob("*.safetensors")} | {Path(HEAD).stem}
        absent -= {Path(name).stem for name in parts}
        for file in sorted(source.rglob("*")):
            inside = file.relative_to(source)
            if not file.is_file() or file.suffix == ".safetensors" or inside.name in _OWN:
                continue
            if len(inside.parts) == 1 and file.stem in absent:
                continue
            check_link(file, file.parent)
            (folder / inside).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / inside)
        with open_stored(overlay) as over:
            for name, prefix in parts.items():
                if name == HEAD and layout is not None:
                    continue  # it is in the other file
                with open_stored(source / name) as under:
                    if name == WEIGHTS and layout is not None:
                        _write_joined(folder / name, under, over, prefix, layout, parts.get(HEAD))
                    else:
                        _write_mixed(folder / name, under, over, prefix)
        if layout is not None and HEAD not in parts:
            _say_headless(folder / "config.json", about["headless"])
        yield folder


def _about(source: Path) -> Any:
    """What a model folder says about its head; empty where it says nothing."""
    path = source / ABOUT
    if not path.is_file():
        return {}
    return read_json(path, "what a model folder says about its head", error=CheckpointError)


def _say_headless(path: Path, changes: Mapping[str, Any]) -> None:
    values = read_json(path, "a config", error=CheckpointError) | dict(changes)
    write_json(path, {name: value for name, value in values.items() if value is not None})


def _write_mixed(path: Path, under: Checkpoint, over: Checkpoint, prefix: str) -> None:
    """A weights file with the tensors of ``under``, or those of ``over`` that have their names."""
    _write(path, under, over, {name: f"{prefix}{name}" for name in under.names}, {})


def _write_joined(
    path: Path, under: Checkpoint, over: Checkpoint, prefix: str, layout: Layout, head: str | None
) -> None:
    """The same for a file that holds the head as well, which is left out where ``head``, its
    prefix in the overlay, is None.
    """
    named = {
        name: f"{prefix}{name.removeprefix(layout.prefix)}"
        for name in under.names
        if name not in layout.names
    }
    placed: Mapping[str, Any] = {}
    if head is not None:
        placed = layout.place(over.read(f"{head}weight"), over.read(f"{head}bias"))
    _write(path, under, over, named, placed)


def _write(
    path: Path,
    under: Checkpoint,
    over: Checkpoint,
    named: Mapping[str, str],
    given: Mapping[str, Any],
) -> None:
    """``named``: what each tensor of ``under`` is called in ``over``, which goes before; others of
    its tensors stand in ``given``, or are left out.
    """
    taken = {name: there for name, there in named.items() if there in over}
    names = [name for name in under.names if name in named or name in given]
    infos = {
        name: TensorInfo(name, info.shape, info.dtype)
        for name in names
        for info in [over.info(taken[name]) if name in taken else under.info(name)]
    }
    with file_writer(path, infos, under.metadata) as writer:
        for name in names:
            if name in given:
                values = given[name].astype(under.read(name).dtype)
                writer.write(name, 0, np.ascontiguousarray(values).reshape(-1))
            else:
                writer.write(name, 0, over.raw(taken[name]) if name in taken else under.raw(name))
