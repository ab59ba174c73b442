"""Which images a task has: from folders, whose names say what they are, or from a table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from stockpot.errors import TaskError
from stockpot.reading import open_plain
from stockpot.system import usable_cores
from stockpot.tasks.duplicates import Rule, count_shared
from stockpot.tasks.labels import class_labels
from stockpot.tasks.parts import is_part, part_of
from stockpot.tasks.specs import ImageFolderSpec
from stockpot.tasks.tables import own_files, read_examples
from stockpot.tasks.task import PREVIEW, check_domains, quoted

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

_LAYOUT = "the layout is folder/domain/class/image, or folder/class/image"


@dataclass(frozen=True)
class ImageFile:
    """One image. ``where`` names it in messages; ``part`` and ``group`` as in a task."""

    path: Path
    domain: str
    label: str
    where: str
    part: int | None = None
    group: str | None = None
    sha256: str = ""


@dataclass(frozen=True)
class _Branch:
    """A folder whose folders are classes."""

    folder: Path
    domain: str
    part: int | None


def list_images(spec: ImageFolderSpec, root: Path) -> list[ImageFile]:
    """All images of a task with the hashes of their content.

    In folders, domains and classes are the folder names, sorted; hidden files and folders are
    ignored. Folders named train, valid, test and the like above the classes are fixed splits. In a
    table they come in its order.

    Raises ``TaskError`` for a missing folder or file, an unknown domain, a class folder without
    images, a loop of links, split folders beside others, columns that are not there, and the same
    file under two domains, classes or splits.
    """
    path = root / spec.path
    folders = {(root / name).is_dir() for _, name in own_files(spec)}
    if len(folders) > 1:
        raise TaskError(
            f"{path}: 'path', 'validation' and 'test' must all be folders, or all be tables"
        )
    files = _from_table(spec, root) if path.is_file() else _from_folders(spec, root)
    with ThreadPoolExecutor(usable_cores()) as pool:
        hashes = pool.map(_hash, files)
        files = [replace(file, sha256=own) for file, own in zip(files, hashes, strict=True)]
    count_shared_files(files, path, spec.duplicates)
    return files


def count_shared_files(files: Sequence[ImageFile], folder: Path, rule: Rule = "keep") -> int:
    """:func:`count_shared` of files by their hashes."""
    sides = ((file.part, file.domain, file.label) for file in files)
    return count_shared(
        (file.sha256 for file in files), sides, str(folder), lambda row: files[row].where, rule
    )


def _from_table(spec: ImageFolderSpec, root: Path) -> list[ImageFile]:
    examples = read_examples(spec, root)
    labels, classes = class_labels(
        [example.cell(spec.label) for example in examples],
        [example.where for example in examples],
        hint="images have classes: write names",
    )
    names = list(dict.fromkeys(example.domain for example in examples))
    wanted = names if spec.domains is None else spec.domains
    check_domains(spec.name or Path(spec.path).stem, wanted, names)
    files, missing = [], []
    for example, label in zip(examples, labels, strict=True):
        if example.domain not in wanted:
            continue
        name = str(example.cell(spec.image))
        where = f"{example.where}: {name}"
        path = example.folder / name
        if not path.is_file():
            missing.append(where)
        files.append(
            ImageFile(path, example.domain, classes[label], where, example.part, example.group)
        )
    if missing:
        more = f"; and {len(missing) - PREVIEW} more" if len(missing) > PREVIEW else ""
        raise TaskError(
            f"no such image: {'; '.join(missing[:PREVIEW])}{more}",
            hint="paths in a table start at the table's folder",
        )
    return files if spec.domains is None else sorted(files, key=lambda f: wanted.index(f.domain))


def _from_folders(spec: ImageFolderSpec, root: Path) -> list[ImageFile]:
    folder = root / spec.path
    _refuse_columns(spec, folder)
    branches: list[_Branch] = []
    for part, name in own_files(spec):
        own = _branches(root / name, folder.resolve().name, splits=spec.split is not None)
        if part is not None:
            if any(branch.part is not None for branch in own):
                raise TaskError(
                    f"{root / name}: splits are fixed twice, by folders in it and by the recipe",
                    hint="leave out 'validation' and 'test', or set split: null",
                )
            own = [replace(branch, part=part) for branch in own]
        branches += own
    if len({branch.part is None for branch in branches}) > 1:
        whole = [branch.domain for branch in branches if branch.part is None]
        raise TaskError(
            f"{folder}: domain {quoted(whole)} has no folders of splits, others have",
            hint="divide all domains or none; with split: null such folders are classes",
        )
    names = list(dict.fromkeys(branch.domain for branch in branches))
    wanted = names if spec.domains is None else spec.domains
    check_domains(folder.name, wanted, names)
    files = [
        file
        for name in wanted
        for branch in branches
        if branch.domain == name
        for file in _class_files(branch)
    ]
    for _, name in own_files(spec):
        home = root / name
        _refuse_links([file for file in files if file.path.is_relative_to(home)], home)
    return files


def _refuse_links(files: Sequence[ImageFile], folder: Path) -> None:
    """``TaskError`` for an image that lies outside its folder, where a link leads to it."""
    home = folder.resolve()
    real: dict[Path, Path] = {}
    for file in files:
        parent = file.path.parent
        if parent not in real:
            real[parent] = parent.resolve()
        try:
            place = file.path.resolve() if file.path.is_symlink() else real[parent]
        except (OSError, RuntimeError) as error:  # a link to itself
            raise TaskError(f"{file.where}: cannot be read: {error}") from error
        if not place.is_relative_to(home):
            raise TaskError(
                f"{file.where}: a link leads out of {folder}, to {place}",
                hint="copy the images into the folder, or name the folder where they lie",
            )


def _refuse_columns(spec: ImageFolderSpec, folder: Path) -> None:
    """A folder has no columns: naming one is a mistake."""
    for key in ("image", "label", "domain", "group", "split"):
        value, default = getattr(spec, key), ImageFolderSpec.model_fields[key].default
        if value != default and (key, value) != ("split", None):
            raise TaskError(
                f"{folder} is a folder of images; '{key}: {value or 'null'}' names a column",
                hint="give a table of paths, or leave it out",
            )


def _branches(folder: Path, name: str, *, splits: bool) -> list[_Branch]:
    """The folders above the classes, with their domain (``name`` where there is one only)."""
    tops = _folders(folder)
    if not tops:
        raise TaskError(f"{folder}: no domain folders", hint=_LAYOUT)
    parts = [top for top in tops if splits and is_part(top.name)]
    if parts and len(parts) == len(tops):
        ordered = sorted(tops, key=lambda top: part_of(top.name, str(top)))
        return [
            replace(branch, part=part_of(top.name, str(top)))
            for top in ordered
            for branch in _branches(top, name, splits=False)
        ]
    if _are_classes(tops):
        return [_Branch(folder, name, None)]
    if parts:
        others = [top.name for top in tops if top not in parts]
        raise TaskError(
            f"{folder}: {quoted([part.name for part in parts])} are names of splits, "
            f"{quoted(others)} are not",
            hint="keep splits and domains apart, as in folder/train/domain/class; "
            "with split: null all are domains",
        )
    return [branch for top in tops for branch in _domain(top, splits=splits)]


def _domain(folder: Path, *, splits: bool) -> list[_Branch]:
    """One domain: its classes, or fixed splits with classes in them."""
    inner = _folders(folder)
    if not (splits and len(inner) > 1 and all(is_part(one.name) for one in inner)):
        return [_Branch(folder, folder.name, None)]
    ordered = sorted(inner, key=lambda one: part_of(one.name, str(one)))
    return [_Branch(one, folder.name, part_of(one.name, str(one))) for one in ordered]


def _are_classes(folders: Sequence[Path]) -> bool:
    """Whether these folders hold images, and no folders that could be classes."""
    return not any(map(_folders, folders)) and any(
        _images(folder, frozenset()) for folder in folders
    )


def _class_files(branch: _Branch) -> Iterator[ImageFile]:
    classes = _folders(branch.folder)
    if not classes:
        raise TaskError(f"{branch.folder}: no class folders", hint=_LAYOUT)
    for label in classes:
        images = sorted(_images(label, frozenset()))
        if not images:
            raise TaskError(
                f"{label}: class '{label.name}' of domain '{branch.domain}' has no images",
                hint="add images or remove the folder",
            )
        for path in images:
            yield ImageFile(path, branch.domain, label.name, str(path), branch.part)


def _hash(file: ImageFile) -> str:
    try:
        with open_plain(file.path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise TaskError(f"{file.where}: cannot be read: {error.strerror}") from error


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()
        )
    except OSError as error:
        raise TaskError(f"{folder}: cannot be read: {error.strerror}") from error


def _images(folder: Path, above: frozenset[Path]) -> list[Path]:
    """Image files below ``folder``; links are followed, but not in circles."""
    real = folder.resolve()
    if real in above:
        raise TaskError(f"{folder}: the link leads back to {real}", hint="remove the link")
    images: list[Path] = []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise TaskError(f"{folder}: cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            images += _images(entry, above | {real})
        elif entry.suffix.lower() in SUFFIXES:
            images.append(entry)
    return images
