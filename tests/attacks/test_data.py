"""Hostile tables, images and arrays: named, within bounds, before anything is trained."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

from tests.attacks.judge import refused

Make = Callable[[Path], object]
NET = """import torch


def make():
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 4))
    layers.feature_dim = 4
    layers.input_shape = (6,)
    return layers
"""


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    raw = header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw + data


def shape(text: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {text}}}"


def stored(array: object) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


SOUND = {
    "inputs": stored(np.ones((6, 6), "f4")),
    "labels": stored(np.array([0, 1, 2] * 2)),
    "domains": stored(np.array(["a", "b"] * 3)),
}


def arrays(**changes: bytes) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**SOUND, **changes}.items():
                archive.writestr(f"{name}.npy", data)

    return make


def code() -> bytes:
    class Payload:
        def __reduce__(self) -> object:
            import os

            return os.mkdir, ("ran",)

    return stored(np.array([Payload()], dtype=object))


ARRAYS: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"hello"),
    "one array": lambda path: path.write_bytes(SOUND["inputs"]),
    "a terabyte by its shape": arrays(inputs=npy(shape("(1000000, 262144)"))),
    "more bytes than any number": arrays(inputs=npy(shape(f"({2**62}, {2**62})"))),
    "a negative shape": arrays(inputs=npy(shape("(-1, 6)"))),
    "a shape that is a text": arrays(inputs=npy(shape("'x'"))),
    "a shape nested deeply": arrays(inputs=npy(shape("(" * 9000))),
    "a header that is code": arrays(inputs=npy("__import__('os').mkdir('ran')")),
    "a header that is a list": arrays(inputs=npy("[1, 2]")),
    "a type that is none": arrays(inputs=npy(shape("(6, 6)", "'<q9'"))),
    "texts of a gigabyte": arrays(domains=npy(shape("(6,)", "'<U50000000'"))),
    "a pickle": arrays(labels=code()),
    "labels up to a billion": arrays(labels=stored(np.array([0, 10**9] * 3))),
    "labels below zero": arrays(labels=stored(np.array([-1, 1] * 3))),
    "labels of other length": arrays(labels=stored(np.zeros(3, int))),
    "labels that are a table": arrays(labels=stored(np.zeros((6, 2), int))),
    "complex inputs": arrays(inputs=stored(np.ones((6, 6), complex))),
    "inputs without end": arrays(inputs=stored(np.full((6, 6), np.inf, "f4"))),
    "inputs of no dimension": arrays(inputs=stored(np.float32(1))),
    "300 MB in 300 kB": arrays(inputs=stored(np.zeros((12_500_000, 6), "f4"))),
    "no labels": lambda path: np.savez(path, inputs=np.ones((6, 6))),
}


def lines(*rows: object) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


TABLES: dict[str, tuple[str, bytes]] = {
    "empty": ("csv", b""),
    "a header alone": ("csv", b"text,label,domain\n"),
    "not UTF-8": ("csv", b"text,label,domain\n\xff\xfe,a,b\n"),
    "a null byte": ("csv", b"text,label,domain\n\0,\0\n"),
    "a row too short": ("csv", b"text,label,domain\na,b\n"),
    "a quote without end": ("csv", b'text,label,domain\n"a,b,c\n'),
    "a cell of a megabyte": ("csv", b"text,label,domain\n" + b"x" * 1_000_000 + b",a,b\n"),
    "a column twice": ("csv", b"text,text,label\na,b,c\n"),
    "other columns": ("csv", b"a,b,c\n1,2,3\n"),
    "an empty label": ("csv", b"text,label,domain\na,,b\n"),
    "no JSON": ("jsonl", b"{"),
    "a list": ("jsonl", b"[1]"),
    "deep JSON": ("jsonl", b'{"text": ' + b"[" * 100_000),
    "deep JSON that ends": ("jsonl", b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "a number of 5000 digits": ("jsonl", b'{"text": ' + b"9" * 5000 + b"}"),
    "a text that is a table": ("jsonl", lines({"text": {"a": 1}, "label": "a", "domain": "b"})),
    "no Parquet": ("parquet", b"PAR1hello"),
    "another kind of file": ("xlsx", b"hello"),
}


def png(width: int, height: int) -> bytes:
    """The head of a grey image of any size, and its first rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 + width)) for _ in range(min(height, 50)))
    rest = body + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rest) + chunk(b"IEND", b"")


IMAGES: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"hello"),
    "cut short": lambda path: path.write_bytes(png(20, 20)[:45]),
    "178 megapixels": lambda path: path.write_bytes(png(13_377, 13_377)),
    "100 megapixels": lambda path: path.write_bytes(png(10_000, 10_000)),
    "four billion pixels": lambda path: path.write_bytes(png(65_500, 65_500)),
    "no pixels": lambda path: path.write_bytes(png(0, 0)),
    "a link out": lambda path: path.symlink_to("/etc/passwd"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": lambda path: __import__("os").mkfifo(path),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def recipe(root: Path, command: str, task: str) -> list[object]:
    backbone = "backbone: {kind: function, name: 'net.py:make'}"
    (root / "recipe.yaml").write_text(f"task: {task}\n{backbone}\n")
    if command == "tangent":
        return ["tangent", "train", root / "recipe.yaml", "-o", root / "out", "--backend", "serial"]
    return ["recycle", root / "recipe.yaml", "-o", root / "out", "--backend", "serial"]


@pytest.mark.parametrize("command", ["recycle", "tangent"])
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(root: Path, case: str, command: str) -> None:
    ARRAYS[case](root / "bad.npz")
    arguments = recipe(root, command, "{kind: arrays, path: bad.npz}")
    refused(root, *arguments, names="bad.npz", changes=("out", "__pycache__"))


@pytest.mark.parametrize("command", ["recycle", "tangent"])
@pytest.mark.parametrize("case", TABLES)
def test_tables(root: Path, case: str, command: str) -> None:
    ending, content = TABLES[case]
    (root / f"bad.{ending}").write_bytes(content)
    arguments = recipe(root, command, f"{{kind: text, path: bad.{ending}, domain: domain}}")
    refused(root, *arguments, names=f"bad.{ending}", changes=("out", "__pycache__"))


@pytest.mark.parametrize("command", ["recycle", "tangent"])
@pytest.mark.parametrize("case", IMAGES)
def test_images(root: Path, case: str, command: str) -> None:
    for domain in "ab":
        for label in "xy":
            folder = root / "images" / domain / label
            folder.mkdir(parents=True)
            (folder / "good.png").write_bytes(png(20 + 3 * "ab".index(domain), 20 + ord(label)))
    IMAGES[case](root / "images" / "b" / "y" / "bad.png")
    arguments = recipe(root, command, "{kind: images, path: images, duplicates: keep}")
    said = refused(root, *arguments, names="bad.png", changes=("out", "__pycache__"))
    if case in ("178 megapixels", "100 megapixels", "four billion pixels"):
        assert "limit" in said  # before any pixel was unpacked


def test_a_folder_of_images_is_not_left_by_a_link(root: Path) -> None:
    (root / "else" / "x").mkdir(parents=True)
    (root / "else" / "x" / "secret.png").write_bytes(png(20, 20))
    for domain in "ab":
        (root / "images" / domain / "y").mkdir(parents=True)
        (root / "images" / domain / "y" / "good.png").write_bytes(png(20, 20))
    (root / "images" / "b" / "x").symlink_to(root / "else" / "x")
    arguments = recipe(root, "recycle", "{kind: images, path: images, duplicates: keep}")
    refused(root, *arguments, names="secret.png", changes=("out", "__pycache__"))
