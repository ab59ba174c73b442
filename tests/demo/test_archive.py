"""Only what is asked for leaves an archive, and nothing leaves its folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from stockpot.demo import archive as archive_module
from stockpot.demo.archive import read_member, unpack
from stockpot.errors import UnsafeFileError

FILES = {"a/model/config.json": b"{}", "a/model/sub/x.bin": b"x" * 100, "a/code.py": b"import os"}


def write(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as opened:
            for name, data in files.items():
                opened.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as opened:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                opened.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture(params=["p.whl", "p.tar.gz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_only_what_is_below_the_prefix(archive: Path, tmp_path: Path) -> None:
    written = unpack(write(archive, FILES), "a/model/", tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in written} == {
        "config.json",
        "sub/x.bin",
    }
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "config.json",
        "x.bin",
    ]
    assert (tmp_path / "out" / "sub" / "x.bin").read_bytes() == b"x" * 100


def test_one_member(archive: Path) -> None:
    write(archive, FILES)
    assert read_member(archive, "a/code.py") == b"import os"
    assert read_member(archive.read_bytes(), "a/code.py") == b"import os"
    with pytest.raises(UnsafeFileError, match="no file 'b'"):
        read_member(archive, "b")
    with pytest.raises(UnsafeFileError, match="nothing below 'b/'"):
        unpack(archive, "b/", archive.parent / "out")


@pytest.mark.parametrize("name", ["a/model/../../evil", "a/model//etc/evil"])
def test_paths_out_of_the_folder(archive: Path, tmp_path: Path, name: str) -> None:
    write(archive, {name: b"x"})
    with pytest.raises(UnsafeFileError, match="leads out of its folder"):
        unpack(archive, "a/model/", tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


def test_size_is_bounded(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(archive, FILES)
    monkeypatch.setattr(archive_module, "LIMIT", 50)
    with pytest.raises(UnsafeFileError, match="more than"):
        unpack(archive, "a/model/", tmp_path / "out")
    with pytest.raises(UnsafeFileError, match="unpacks to 100 bytes"):
        read_member(archive, "a/model/sub/x.bin")


def test_links_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as opened:
        link = tarfile.TarInfo("a/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
        entry = tarfile.TarInfo("a/file")
        opened.addfile(entry, io.BytesIO())
    unpack(tmp_path / "p.tar.gz", "a/", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as zipped:
        info = zipfile.ZipInfo("a/link")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeFileError, match="nothing below"):
        unpack(tmp_path / "p.whl", "a/", tmp_path / "out")
