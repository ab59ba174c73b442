"""Image folders ``root/domain/class/file``, decoded once into an array that processes share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from stockpot.errors import OutputError, TaskError
from stockpot.extras import require
from stockpot.files import atomic_folder, digest, file_digest, write_json
from stockpot.progress import progress
from stockpot.system import usable_cores
from stockpot.tasks.specs import ImageFolderSpec
from stockpot.tasks.task import PREVIEW, Array, Task, build_task, check_domains, quoted

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

BLOCK = 2048
"""Images decoded at a time."""

Resize = Literal["stretch", "crop"]


@dataclass(frozen=True)
class _File:
    path: Path
    domain: str
    label: str
    sha256: str


def load_image_folder(
    spec: ImageFolderSpec, root: Path, *, skip_corrupt: bool = False, cache: Path | None = None
) -> Task:
    """The images below ``root / spec.path`` as uint8 (N, size, size, 3), RGB.

    Domains and classes are the folder names, sorted; hidden files and folders are ignored. With
    ``cache`` the pixels are written there once, under a name made from the content of the files,
    and mapped read-only, so that processes share them. Needs Pillow.

    Raises ``TaskError`` for a missing folder, an unknown domain, a class folder without images, a
    loop of links, the same file under two domains or classes, and images that cannot be decoded
    (with ``skip_corrupt`` these are left out and listed in ``Task.skipped``).
    """
    folder = root / spec.path
    files = _list_files(folder, spec.domains)
    if spec.duplicates == "refuse":
        _refuse_duplicates(files, folder)
    key = digest(
        {
            "files": [[file.domain, file.label, file.path.name, file.sha256] for file in files],
            "size": spec.size,
            "resize": spec.resize,
            "skip_corrupt": skip_corrupt,
        }
    )
    place = None if cache is None else cache / f"images-{key[:20]}"
    pixels, bad = _pixels(files, folder, spec, skip_corrupt, place)
    kept = [file for i, file in enumerate(files) if i not in bad]
    domains = list(dict.fromkeys(file.domain for file in files))
    classes = sorted({file.label for file in files})
    return build_task(
        name=spec.name or folder.resolve().name,
        kind="classification",
        modality="image",
        domains=domains,
        classes=classes,
        inputs=pixels,
        labels=np.array([classes.index(file.label) for file in kept], dtype=np.int64),
        domain_ids=np.array([domains.index(file.domain) for file in kept], dtype=np.int64),
        fingerprint=key,
        where=str(folder),
        skipped=[str(files[i].path) for i in sorted(bad)],
        allow_missing_classes=spec.allow_missing_classes,
    )


def decode_image(data: bytes, size: int, resize: Resize) -> Array:
    """Encoded image bytes as uint8 (size, size, 3), RGB; ``ValueError`` saying why it cannot be.

    EXIF orientation is applied, transparency is laid on white, resampling is bilinear.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data)) as opened:
                if opened.mode[0] in "IF":
                    raise ValueError(f"pixels of mode {opened.mode}, expected 8 bits a channel")
                opened.load()
                image = _to_rgb(ImageOps.exif_transpose(opened))
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise ValueError(str(error) or type(error).__name__) from error
    if resize == "crop":
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    elif image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def require_pillow() -> None:
    """``MissingDependencyError`` without Pillow."""
    require("PIL", "reading images")


def decode_all(
    blobs: Sequence[Path] | Sequence[bytes],
    names: Sequence[str],
    size: int,
    resize: Resize,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Array, dict[int, str]]:
    """All images as one uint8 array (N, size, size, 3), and the reason for each that failed."""
    pixels = np.zeros((len(blobs), size, size, 3), dtype=np.uint8)
    bad: dict[int, str] = {}

    def decode(index: int) -> None:
        blob = blobs[index]
        try:
            data = blob.read_bytes() if isinstance(blob, Path) else blob
            pixels[index] = decode_image(data, size, resize)
        except (ValueError, OSError) as error:
            bad[index] = f"{names[index]}: {error}"

    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes outside the interpreter lock
        for _ in pool.map(decode, range(len(blobs))):
            advance()
    return pixels, bad


def refuse_corrupt(bad: dict[int, str]) -> None:
    """``TaskError`` naming the first images that could not be decoded."""
    if bad:
        first = "; ".join(bad[i] for i in sorted(bad)[:PREVIEW])
        more = f"; and {len(bad) - PREVIEW} more" if len(bad) > PREVIEW else ""
        noun = "image" if len(bad) == 1 else "images"
        raise TaskError(
            f"{len(bad)} corrupt {noun}: {first}{more}",
            hint="replace or remove it, or leave such files out with --skip-corrupt",
        )


def _pixels(
    files: list[_File], folder: Path, spec: ImageFolderSpec, skip_corrupt: bool, place: Path | None
) -> tuple[Array, frozenset[int]]:
    """Pixels of the images that can be decoded, and the positions of the others."""
    if place is None:
        blocks: list[Array] = []
        bad = _decode_blocks(files, spec, skip_corrupt, blocks.append)
        return np.concatenate(blocks), frozenset(bad)
    if not place.is_dir():
        try:
            with atomic_folder(place) as temporary:
                _write_pixels(temporary, files, folder, spec, skip_corrupt)
        except OutputError:
            # Another process may have written the same folder meanwhile.
            if not (place / "images.json").is_file():
                raise
    return _read_pixels(place)


def _decode_blocks(
    files: list[_File],
    spec: ImageFolderSpec,
    skip_corrupt: bool,
    sink: Callable[[Array], object],
) -> dict[int, str]:
    """Hand the decoded images to ``sink``, some thousand at a time; why the others fail."""
    require_pillow()
    bad: dict[int, str] = {}
    with progress("decode images", len(files)) as advance:
        for start in range(0, len(files), BLOCK):
            part = [file.path for file in files[start : start + BLOCK]]
            pixels, failed = decode_all(part, list(map(str, part)), spec.size, spec.resize, advance)
            bad |= {start + i: reason for i, reason in failed.items()}
            sink(pixels[[i for i in range(len(part)) if i not in failed]] if failed else pixels)
    if not skip_corrupt:
        refuse_corrupt(bad)
    return bad


def _write_pixels(
    place: Path, files: list[_File], folder: Path, spec: ImageFolderSpec, skip_corrupt: bool
) -> None:
    """``images.npy`` block by block: a set larger than the memory can be decoded.

    Plain writes, since writing to a memory map on a full disk kills the process.
    """

    def header(count: int) -> bytes:
        buffer = BytesIO()
        shape = (count, spec.size, spec.size, 3)
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        return buffer.getvalue()

    with (place / "images.npy").open("wb") as handle:
        handle.write(header(len(files)))
        bad = _decode_blocks(files, spec, skip_corrupt, lambda block: handle.write(block.data))
        # numpy pads headers to a multiple of 64 bytes, so that this one fits over the first.
        handle.seek(0)
        handle.write(header(len(files) - len(bad)))
    write_json(place / "images.json", {"source": str(folder), "skipped": sorted(bad)})


def _read_pixels(place: Path) -> tuple[Array, frozenset[int]]:
    import json

    record = json.loads((place / "images.json").read_text(encoding="utf-8"))
    return cast(Array, np.load(place / "images.npy", mmap_mode="r")), frozenset(record["skipped"])


def _list_files(folder: Path, wanted: Sequence[str] | None) -> list[_File]:
    domains = _folders(folder)
    if not domains:
        raise TaskError(
            f"{folder}: no domain folders", hint="the layout is folder/domain/class/image"
        )
    if wanted is not None:
        check_domains(folder.name, wanted, [path.name for path in domains])
        by_name = {path.name: path for path in domains}
        domains = [by_name[name] for name in wanted]
    found: list[tuple[Path, str, str]] = []
    for domain in domains:
        classes = _folders(domain)
        if not classes:
            raise TaskError(
                f"{domain}: no class folders", hint="the layout is folder/domain/class/image"
            )
        for label in classes:
            images = sorted(_images(label, frozenset()))
            if not images:
                raise TaskError(
                    f"{label}: class '{label.name}' of domain '{domain.name}' has no images",
                    hint="add images or remove the folder",
                )
            found += [(path, domain.name, label.name) for path in images]
    with ThreadPoolExecutor(usable_cores()) as pool:
        hashes = pool.map(_hash, [path for path, _, _ in found])
        return [_File(*entry, sha256) for entry, sha256 in zip(found, hashes, strict=True)]


def _hash(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror}") from error


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


def _refuse_duplicates(files: list[_File], folder: Path) -> None:
    seen: dict[str, _File] = {}
    for file in files:
        first = seen.setdefault(file.sha256, file)
        if (first.domain, first.label) != (file.domain, file.label):
            raise TaskError(
                f"{folder}: the same image is in {quoted(_place(first))} and in "
                f"{quoted(_place(file))}: {first.path.name}, {file.path.name}",
                hint="remove one, or set duplicates: keep",
            )


def _place(file: _File) -> list[str]:
    return [f"{file.domain}/{file.label}"]
