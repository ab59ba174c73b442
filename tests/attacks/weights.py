"""Weights that must be refused, each made by a function of the path that it is written to."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.attacks.test_safetensors import BAD, EIGHT, crafted, tensor

Make = Callable[[Path], object]


class Payload:
    """A pickle that would make the file ``ran`` beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path.parent / "ran"),)


def saved(state: Any, **options: Any) -> Make:
    return lambda path: torch.save(state, path, **options)


def rezipped(change: Callable[[dict[str, bytes]], Any], **options: Any) -> Make:
    """A sound file whose records were changed. ``change`` edits them in place."""

    def make(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save({"a.weight": torch.arange(64.0), "b": torch.ones(32)}, buffer)
        with zipfile.ZipFile(buffer) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        change(records)
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in records.items():
                archive.writestr(name, data)

    return make


def record(ending: str, data: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    def change(records: dict[str, bytes]) -> None:
        name = next(name for name in records if name.endswith(ending))
        records[name] = data(records[name])

    return change


def without(ending: str) -> Callable[[dict[str, bytes]], None]:
    def change(records: dict[str, bytes]) -> None:
        del records[next(name for name in records if name.endswith(ending))]

    return change


def twice(path: Path) -> None:
    rezipped(lambda records: None)(path)
    with zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr(name, b"\1" * 256)


def bomb(path: Path) -> None:
    rezipped(record("data/0", lambda data: bytes(200_000_000)), compression=zipfile.ZIP_DEFLATED)(
        path
    )


def elsewhere(path: Path) -> None:
    """The directory and the record itself disagree on how it is compressed."""
    rezipped(lambda records: None)(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("archive/data/0").header_offset
    data[at + 8 : at + 10] = struct.pack("<H", 8)
    path.write_bytes(data)


def expanded(*shape: int) -> Make:
    return saved({"a": torch.ones(1).expand(*shape), "b": torch.ones(3)})


def complex_tensor() -> dict[str, torch.Tensor]:
    return {"ok": torch.ones(2), "bad": torch.ones(2, dtype=torch.complex64)}


def quantized(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kind of tensor on its way out
        bad = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        torch.save({"ok": torch.ones(2), "bad": bad}, path)


def memo_bomb(path: Path) -> None:
    """A pickle of a few bytes that names the memo's two billionth place."""
    raw = b"\x80\x02}r\xff\xff\xff\x7f."
    rezipped(record("data.pkl", lambda data: raw))(path)


def deep_pickle(path: Path) -> None:
    raw = b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."
    rezipped(record("data.pkl", lambda data: raw))(path)


def hidden_code(path: Path) -> None:
    torch.save({"a": torch.ones(2), "x": Payload(path)}, path)


def legacy_code(path: Path) -> None:
    torch.save({"a": torch.ones(2), "x": Payload(path)}, path, _use_new_zipfile_serialization=False)


def plain_code(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path)))


def shard_bombs(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))


PICKLES: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "a broken zip": shard_bombs,
    "a zip of nothing": rezipped(lambda records: records.clear()),
    "code in a zip": hidden_code,
    "code in a legacy file": legacy_code,
    "code alone": plain_code,
    "a record that is too short": rezipped(record("data/0", lambda data: data[:16])),
    "a record that is too long": rezipped(record("data/0", lambda data: data + bytes(16))),
    "a record that is missing": rezipped(without("data/1")),
    "a record twice": twice,
    "a record that unpacks to much": bomb,
    "a record that is elsewhere": elsewhere,
    "compressed by bzip2": rezipped(lambda records: None, compression=zipfile.ZIP_BZIP2),
    "compressed by lzma": rezipped(lambda records: None, compression=zipfile.ZIP_LZMA),
    "a pickle that is none": rezipped(record("data.pkl", lambda data: b"\x80\x02K")),
    "a pickle with a huge memo": memo_bomb,
    "a pickle nested deeply": deep_pickle,
    "a tensor of a terabyte from one number": expanded(1 << 20, 1 << 18),
    "a tensor of 100 MB from one number": expanded(25_000_000),
    "many names of one tensor": saved(
        (lambda one: {f"t{i}": one for i in range(3000)})(torch.ones(10_000))
    ),
    "complex": saved(complex_tensor()),
    "sparse": saved({"ok": torch.ones(2), "bad": torch.eye(3).to_sparse()}),
    "quantized": quantized,
    "8-bit floats of another kind": saved(
        {"ok": torch.ones(2), "bad": torch.ones(2).to(torch.float8_e4m3fnuz)}
    ),
    "meta": saved({"ok": torch.ones(2), "bad": torch.ones(2, device="meta")}),
    "keys 1 and '1'": saved({1: torch.ones(2), "1": torch.zeros(2)}),
    "tensors in a table of their own": saved({"a": torch.ones(2), "ema": {"a": torch.ones(2)}}),
    "tensors in a list": saved({"a": torch.ones(2), "more": [torch.ones(2)]}),
    "no tensors": saved(OrderedDict(a=1, b="text")),
    "a list": saved([torch.ones(2)]),
    "a number": saved(3),
}

TENSORS: dict[str, bytes] = {
    **BAD,
    "a shape of no bytes and no array": crafted({"a": tensor(0, 0, [0, 2**62, 2**62])}),
    "a hundred dimensions": crafted({"a": tensor(0, 8, [1] * 99 + [2])}, EIGHT),
    "a name with a line end": crafted({"a\nerror: b": tensor(0, 8)}, EIGHT),
    "a name with an escape": crafted({"a\x1b[2Jb": tensor(0, 8)}, EIGHT),
    "a name with a null": crafted({"a\0F32": tensor(0, 8)}, EIGHT),
    "half a character": crafted(b'{"\\ud800": ' + json.dumps(tensor(0, 8)).encode() + b"}", EIGHT),
    "an endless name": crafted({"x" * 100_000: tensor(0, 8)}, EIGHT),
    "a number of 5000 digits": crafted(b'{"a": ' + b"9" * 5000 + b"}"),
}
