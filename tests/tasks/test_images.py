"""Image folders: what is read, what is refused, and the pixels that processes share."""

from __future__ import annotations

import errno
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stockpot.errors import OutputError, TaskError
from stockpot.tasks import load_task
from stockpot.tasks.images import decode_image
from stockpot.tasks.specs import ImageFolderSpec
from tests.tasks.builders import image_folder, picture


def load(root: Path, **options):
    cache = options.pop("cache", None)
    skip = options.pop("skip_corrupt", False)
    spec = {"kind": "images", "path": root.name, "size": 8, **options}
    return load_task(spec, root=root.parent, cache=cache, skip_corrupt=skip)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_folder_is_read_in_order(tmp_path: Path) -> None:
    task = load(image_folder(tmp_path / "PACS"))
    assert (task.name, task.kind, task.modality) == ("PACS", "classification", "image")
    assert task.domains == ("art", "photo", "sketch")
    assert task.classes == ("cat", "dog")
    assert task.inputs.shape == (30, 8, 8, 3)
    assert task.inputs.dtype == np.uint8
    assert task.labels.tolist() == [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5
    assert task.domain_ids.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert len(task) == 30
    expected = np.asarray(picture(10_102).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(task.inputs[17], expected)


def test_images_of_the_right_size_keep_their_bytes() -> None:
    image = picture(0, (8, 8))
    for resize in ("stretch", "crop"):
        np.testing.assert_array_equal(decode_image(encoded(image), 8, resize), np.asarray(image))


def test_crop_keeps_the_middle_and_the_shape_of_things() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    image = encoded(Image.fromarray(pixels))
    assert decode_image(image, 10, "crop").min() == 255
    assert decode_image(image, 10, "stretch").mean() == pytest.approx(255 / 3, abs=2)


def test_modes_become_rgb() -> None:
    grey = Image.fromarray(np.full((8, 8), 77, dtype=np.uint8))
    assert (decode_image(encoded(grey), 8, "stretch") == 77).all()
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (decode_image(encoded(clear), 8, "stretch") == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([200, 100, 50] * 256)
    assert decode_image(encoded(palette), 8, "stretch")[0, 0].tolist() == [200, 100, 50]
    assert decode_image(encoded(palette, transparency=0), 8, "stretch").min() == 255


def test_exif_orientation_is_applied() -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data, 8, "stretch"), np.rot90(pixels, -1))


def test_sixteen_bits_are_refused_and_not_clipped() -> None:
    deep = Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))
    with pytest.raises(ValueError, match="mode I;16, expected 8 bits"):
        decode_image(encoded(deep), 8, "stretch")


def test_cache_is_shared_and_the_same(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    plain, first = load(root), load(root, cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    written = (folder / "images.npy").stat().st_mtime_ns
    second = load(root, cache=tmp_path / "cache")
    assert isinstance(second.inputs, np.memmap)
    assert not second.inputs.flags.writeable
    assert (folder / "images.npy").stat().st_mtime_ns == written
    for task in (first, second):
        np.testing.assert_array_equal(task.inputs, plain.inputs)
        assert task.fingerprint == plain.fingerprint


def test_fingerprint_follows_content_and_not_the_place(tmp_path: Path) -> None:
    one, two = image_folder(tmp_path / "a" / "set"), image_folder(tmp_path / "b" / "set")
    assert load(one).fingerprint == load(two).fingerprint
    assert load(one).fingerprint != load(one, size=16).fingerprint
    assert load(one).fingerprint != load(one, resize="crop").fingerprint
    picture(999).save(two / "art" / "cat" / "0.png")
    assert load(one).fingerprint != load(two).fingerprint


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding seven at a time gives the same file, with and without a corrupt image."""
    from stockpot.tasks import images

    root = image_folder(tmp_path / "set")
    (root / "photo" / "cat" / "2.png").write_bytes(b"no image")
    whole = load(root, skip_corrupt=True, cache=tmp_path / "one")
    monkeypatch.setattr(images, "BLOCK", 7)
    parts = load(root, skip_corrupt=True, cache=tmp_path / "two")
    memory = load(root, skip_corrupt=True)
    for task in (parts, memory):
        np.testing.assert_array_equal(task.inputs, whole.inputs)
        assert task.skipped == whole.skipped
    (one,), (two,) = (tmp_path / "one").glob("*/*.npy"), (tmp_path / "two").glob("*/*.npy")
    assert one.read_bytes() == two.read_bytes()


def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stockpot.tasks import images

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images, "_write_pixels", full)
    with pytest.raises(OutputError, match=r"cannot write .*: no space left on the device"):
        load(image_folder(tmp_path / "set"), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_writers_of_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the folder of the first where it was about to put its own."""
    from stockpot.tasks import images

    root, cache = image_folder(tmp_path / "set"), tmp_path / "cache"
    decode = images.decode_all

    def decode_while_another_writes(*arguments):
        monkeypatch.setattr(images, "decode_all", decode)
        load(root, cache=cache)
        return decode(*arguments)

    monkeypatch.setattr(images, "decode_all", decode_while_another_writes)
    np.testing.assert_array_equal(load(root, cache=cache).inputs, load(root).inputs)
    assert len(list(cache.iterdir())) == 1


def test_hidden_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    (root / ".git").mkdir()
    (root / "art" / ".thumbs").mkdir()
    (root / "art" / "cat" / ".hidden.png").write_bytes(b"x")
    (root / "art" / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "readme.txt").write_text("x")
    assert len(load(root)) == 30


def test_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    (root / "art" / "cat" / "more").mkdir()
    picture(4711).save(root / "art" / "cat" / "more" / "x.PNG")
    assert load(root).counts()["art"] == 11


def test_chosen_domains(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    task = load(root, domains=["sketch", "art"])
    assert task.domains == ("sketch", "art")
    np.testing.assert_array_equal(task.inputs[:10], load(root).inputs[20:])


def refuse(root: Path, words: str, **options) -> None:
    with pytest.raises(TaskError, match=words) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_refusals(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "nowhere: cannot be read: No such file")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(empty, "no domain folders")
    (empty / "art").mkdir()
    refuse(empty, "art: no class folders")
    root = image_folder(tmp_path / "set")
    refuse(root, "no domain 'clipart'; its domains are 'art', 'photo'", domains=["clipart"])
    one_class = image_folder(tmp_path / "single", classes=("cat",))
    refuse(one_class, "needs two classes")


def test_empty_class(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    (root / "photo" / "horse").mkdir()
    refuse(root, "class 'horse' of domain 'photo' has no images")


def test_class_that_one_domain_lacks(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    (root / "photo" / "dog").rename(root / "photo" / "Dog")
    refuse(root, "domain 'art' has no examples of class 'Dog'.*allow_missing_classes")
    assert load(root, allow_missing_classes=True).classes == ("Dog", "cat", "dog")


def test_corrupt_image_is_named_or_skipped(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    bad = root / "art" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:80])
    refuse(root, r"1 corrupt image: .*art/dog/3\.png.*--skip-corrupt", cache=tmp_path / "c")
    assert not list((tmp_path / "c").glob("*"))
    for cache in (None, tmp_path / "c", tmp_path / "c"):
        task = load(root, skip_corrupt=True, cache=cache)
        assert len(task) == 29
        assert task.skipped == (str(bad),)
        assert task.labels[:10].tolist() == [0] * 5 + [1] * 4 + [0]
    for i in range(1, 5):
        (root / "art" / "dog" / f"{i}.png").write_bytes(b"no image")
    for i in range(3):
        (root / "art" / "cat" / f"{i}.png").write_bytes(b"")
    refuse(root, "7 corrupt images: .*; and 2 more", duplicates="keep")


def test_loop_of_links(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    (root / "art" / "cat" / "again").symlink_to(root / "art")
    refuse(root, "again.*the link leads back")
    (root / "art" / "cat" / "again").unlink()
    (root / "art" / "cat" / "self.png").symlink_to(root / "art" / "cat" / "self.png")
    refuse(root, r"self\.png: cannot be read")


def test_links_inside_the_folder_are_followed_and_others_refused(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    for home in (root / ".shared", tmp_path / "elsewhere"):
        home.mkdir()
        picture(5).save(home / "new.png")
    (root / "art" / "cat" / "linked").symlink_to(root / ".shared")
    assert load(root).counts()["art"] == 11
    (root / "art" / "cat" / "linked").unlink()
    (root / "art" / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    refuse(root, r"new\.png: a link leads out of .*elsewhere")


def test_same_image_under_two_names(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    image = root / "art" / "cat" / "0.png"
    (root / "photo" / "cat" / "copy.png").write_bytes(image.read_bytes())
    refuse(root, r"1 row is .*0.png \(art/cat\) and .*copy.png \(photo/cat\).*duplicates: keep")
    assert len(load(root, duplicates="keep")) == 31


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    (root / "art" / "cat" / "0.png").chmod(0)
    refuse(root, "cannot be read: Permission denied")


def test_spec_is_strict() -> None:
    assert ImageFolderSpec(path="x").size == 128
    with pytest.raises(TaskError, match=r"images\.sizes: Extra inputs are not permitted"):
        load_task({"kind": "images", "path": "x", "sizes": 3})
    with pytest.raises(TaskError, match=r"images\.size: .*greater than or equal to 8"):
        load_task({"kind": "images", "path": "x", "size": 1})
