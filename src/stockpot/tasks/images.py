"""Images from folders or tables, decoded once into an array that processes share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from stockpot.errors import OutputError, TaskError
from stockpot.extras import require
from stockpot.files import atomic_folder, digest, write_json
from stockpot.progress import progress
from stockpot.reading import read_bytes, read_json
from stockpot.system import usable_cores
from stockpot.tasks.image_files import ImageFile, count_shared_files, list_images
from stockpot.tasks.parts import fixed_parts, group_names
from stockpot.tasks.specs import ImageFolderSpec
from stockpot.tasks.task import PREVIEW, Array, Task, build_task

if TYPE_CHECKING:
    import PIL.Image

BLOCK = 2048
"""Images decoded at a time."""
PIXELS = 64_000_000
"""Pixels of an image: a few kilobytes can unpack to more than any memory holds."""
LARGEST_IMAGE = 256_000_000
"""Bytes of an image file."""

Resize = Literal["stretch", "crop"]
_SKIP = "replace or remove it, or leave such files out with --skip-corrupt"


def load_image_folder(
    spec: ImageFolderSpec, root: Path, *, skip_corrupt: bool = False, cache: Path | None = None
) -> Task:
    """The images that ``root / spec.path`` holds or lists, as uint8 (N, size, size, 3), RGB.

    Classes are sorted by name, and so are domains where they are folders; in a table domains come
    in order of first appearance. With ``cache`` the pixels are written there once, under a name
    made from the content of the files, and mapped read-only, so that processes share them. Needs
    Pillow.

    Raises ``TaskError`` for whatever :func:`list_images` refuses, and for images that cannot be
    decoded (with ``skip_corrupt`` these are left out and listed in ``Task.skipped``).
    """
    folder = root / spec.path
    files = list_images(spec, root)
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
        name=spec.name or (folder.stem if folder.is_file() else folder.resolve().name),
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
        splits=fixed_parts([file.part for file in kept]),
        groups=group_names([file.group for file in kept]),
        shared=count_shared_files(kept, folder),
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
                if opened.width * opened.height > PIXELS:
                    raise ValueError(
                        f"{opened.width} x {opened.height} pixels, more than {PIXELS:,}, the limit"
                    )
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
            data = read_bytes(blob, limit=LARGEST_IMAGE) if isinstance(blob, Path) else blob
            pixels[index] = decode_image(data, size, resize)
        except (ValueError, OSError) as error:
            bad[index] = f"{names[index]}: {getattr(error, 'strerror', None) or error}"

    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes outside the interpreter lock
        for _ in pool.map(decode, range(len(blobs))):
            advance()
    return pixels, bad


def refuse_corrupt(bad: dict[int, str], hint: str = _SKIP) -> None:
    """``TaskError`` naming the first images that could not be decoded."""
    if bad:
        first = "; ".join(bad[i] for i in sorted(bad)[:PREVIEW])
        more = f"; and {len(bad) - PREVIEW} more" if len(bad) > PREVIEW else ""
        noun = "image" if len(bad) == 1 else "images"
        raise TaskError(
            f"{len(bad)} corrupt {noun}: {first}{more}",
            hint=hint,
        )


def _pixels(
    files: list[ImageFile],
    folder: Path,
    spec: ImageFolderSpec,
    skip_corrupt: bool,
    place: Path | None,
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
    files: list[ImageFile],
    spec: ImageFolderSpec,
    skip_corrupt: bool,
    sink: Callable[[Array], object],
) -> dict[int, str]:
    """Hand the decoded images to ``sink``, some thousand at a time; why the others fail."""
    require_pillow()
    bad: dict[int, str] = {}
    with progress("decode images", len(files)) as advance:
        for start in range(0, len(files), BLOCK):
            block = files[start : start + BLOCK]
            part, names = [file.path for file in block], [file.where for file in block]
            pixels, failed = decode_all(part, names, spec.size, spec.resize, advance)
            bad |= {start + i: reason for i, reason in failed.items()}
            sink(pixels[[i for i in range(len(part)) if i not in failed]] if failed else pixels)
    if not skip_corrupt:
        refuse_corrupt(bad)
    return bad


def _write_pixels(
    place: Path, files: list[ImageFile], folder: Path, spec: ImageFolderSpec, skip_corrupt: bool
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

    record = read_json(place / "images.json")
    return cast(Array, np.load(place / "images.npy", mmap_mode="r")), frozenset(record["skipped"])
