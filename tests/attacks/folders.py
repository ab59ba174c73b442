"""Model folders that must be refused: adapters, encoded weights, components, GGUF files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import write_checkpoint
from tests.checkpoints.encoded import FORMATS

Make = Callable[[Path], object]
SIZES = (8, 6)
NAN, INFINITE = float("nan"), float("inf")


def base(folder: Path) -> Path:
    """A sound model: one matrix with its bias."""
    folder.mkdir(exist_ok=True)
    values = np.arange(48, dtype="f4").reshape(SIZES) / 50
    write_checkpoint(folder / "model.safetensors", {"a.weight": values, "a.bias": np.ones(8, "f4")})
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


# Adapters: an honest one, and what others say.

HONEST: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "../good",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["a"],
}


def factors(rank: int = 2, rows: int = 8, columns: int = 6) -> dict[str, np.ndarray]:
    return {
        "base_model.model.a.lora_A.weight": np.ones((rank, columns), "f4"),
        "base_model.model.a.lora_B.weight": np.ones((rows, rank), "f4"),
    }


def adapter(tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Make:
    def make(folder: Path) -> None:
        folder.mkdir()
        write_checkpoint(folder / "adapter_model.safetensors", tensors or factors())
        (folder / "adapter_config.json").write_text(json.dumps({**HONEST, **config}))

    return make


def parts(kind: str, tensors: dict[str, tuple[int, ...]], **config: Any) -> Make:
    state = {f"base_model.model.a.{n}": np.ones(shape, "f4") for n, shape in tensors.items()}
    return adapter(state, peft_type=kind, **config)


KRONECKER = {"lokr_w1": (4096, 4096), "lokr_w2": (1, 1)}
ADAPTERS: dict[str, Make] = {
    "alpha is NaN": adapter(lora_alpha=NAN),
    "alpha is infinite": adapter(lora_alpha=INFINITE),
    "alpha is beyond all numbers": adapter(lora_alpha=10**400),
    "alpha is a text": adapter(lora_alpha="high"),
    "alpha is a number as a text": adapter(lora_alpha="16"),
    "alpha is true": adapter(lora_alpha=True),
    "alpha is a list": adapter(lora_alpha=[4]),
    "alpha is a table": adapter(lora_alpha={"a": 4}),
    "an alpha of one module is NaN": adapter(alpha_pattern={"a": NAN}),
    "an alpha of one module is a text": adapter(alpha_pattern={"a": "x"}),
    "alphas are a list": adapter(alpha_pattern=["a"]),
    "alphas are a number": adapter(alpha_pattern=3),
    "a pattern that is none": adapter(alpha_pattern={"(": 4}),
    "a pattern that never ends": adapter(
        {
            f"base_model.model.{'a' * 40}.lora_A.weight": np.ones((2, 6), "f4"),
            f"base_model.model.{'a' * 40}.lora_B.weight": np.ones((8, 2), "f4"),
        },
        alpha_pattern={"(a+)+b": 4},
    ),
    "a rank that lies": adapter(r=64),
    "a rank that is a text": adapter(r="two"),
    "a rank of nothing": adapter(factors(0), r=0),
    "factors of other sizes": adapter(factors(2, 9, 6)),
    "factors of another rank each": adapter(
        {
            "base_model.model.a.lora_A.weight": np.ones((2, 6), "f4"),
            "base_model.model.a.lora_B.weight": np.ones((8, 3), "f4"),
        }
    ),
    "one factor": adapter({"base_model.model.a.lora_A.weight": np.ones((2, 6), "f4")}),
    "factors that are numbers": adapter(
        {
            "base_model.model.a.lora_A.weight": np.ones((), "f4"),
            "base_model.model.a.lora_B.weight": np.ones((), "f4"),
        }
    ),
    "factors with NaN": adapter({n: v * np.float32(NAN) for n, v in factors().items()}),
    "factors that overflow": adapter({n: v * np.float32(3e38) for n, v in factors().items()}),
    "a module that is not there": adapter(
        {n.replace(".a.", ".zz."): v for n, v in factors().items()}
    ),
    "a kind that is none": adapter(peft_type="EVIL"),
    "a kind that is a list": adapter(peft_type=["LORA"]),
    "no kind": adapter(peft_type=None),
    "a config that is a list": lambda folder: (
        adapter()(folder),
        (folder / "adapter_config.json").write_text("[]"),
    ),
    "an unknown key": adapter(trust_remote_code=True),
    "a base that is a number": adapter(base_model_name_or_path=3),
    "a base that is a list": adapter(base_model_name_or_path=["../good"]),
    "a base that is not there": adapter(base_model_name_or_path="./none"),
    "a base with a null": adapter(base_model_name_or_path="a\0b"),
    "an endless base": adapter(base_model_name_or_path="x" * 100_000),
    "a base that is a device": adapter(base_model_name_or_path="/dev/zero"),
    "a base that is itself": adapter(base_model_name_or_path="../bad"),
    "a base with a revision that leaves": adapter(
        base_model_name_or_path="me/none", revision="../../x"
    ),
    "a start that is a list": adapter(init_lora_weights=["pissa"]),
    "saved modules that are a number": adapter(
        {**factors(), "base_model.model.b.weight": np.ones(2, "f4")}, modules_to_save=3
    ),
    "a saved module of another size": adapter(
        {**factors(), "base_model.model.a.weight": np.ones(5, "f4")}, modules_to_save=["a"]
    ),
    "tokens that are negative": parts(
        "TRAINABLE_TOKENS", {"trainable_tokens_delta": (1, 6)}, token_indices=[-1]
    ),
    "tokens beyond the end": parts(
        "TRAINABLE_TOKENS", {"trainable_tokens_delta": (1, 6)}, token_indices=[2**70]
    ),
    "tokens that are texts": parts(
        "TRAINABLE_TOKENS", {"trainable_tokens_delta": (1, 6)}, token_indices=["x"]
    ),
    "tokens that are a number": parts(
        "TRAINABLE_TOKENS", {"trainable_tokens_delta": (1, 6)}, token_indices=3
    ),
    "targets that are numbers": adapter(
        {n.replace(".a.", ".zz."): v for n, v in factors().items()}, target_parameters=[3]
    ),
    "a product of many small ones": parts("LOKR", KRONECKER, alpha=1),
    "a product of two that is large": parts(
        "LOKR", {"lokr_w1": (20_000, 50), "lokr_w2": (20_000, 50)}, alpha=1
    ),
    "halves without each other": parts("LOHA", {"hada_w1_a": (8, 2)}, alpha=1),
    "halves of other sizes": parts(
        "LOHA",
        {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (9, 2), "hada_w2_b": (2, 6)},
        alpha=1,
    ),
    "halves of no dimension": parts(
        "LOHA", {"hada_w1_a": (), "hada_w1_b": (), "hada_w2_a": (), "hada_w2_b": ()}, alpha=1
    ),
    "scales of another size": parts("IA3", {"ia3_l": (5, 1)}, feedforward_modules=["b"]),
    "vectors without projections": parts("VERA", {"vera_lambda_b": (8,), "vera_lambda_d": (2,)}),
    "a singular value of nothing": parts(
        "ADALORA", {"lora_A": (2, 6), "lora_B": (8, 2), "lora_E": (3, 1)}, init_r="x"
    ),
    "singular values without a rank": parts(
        "ADALORA", {"lora_A": (2, 6), "lora_B": (8, 2), "lora_E": (2, 1)}, init_r=NAN
    ),
}


# Encoded weights whose config or tables lie.


def encoded(
    kind: str, *, change: Callable[[dict[str, np.ndarray]], Any] | None = None, **config: Any
) -> Make:
    """A sound encoding with other tensors, or another word in its config."""

    def make(folder: Path) -> None:
        stored = FORMATS[kind](np.random.default_rng(0), _weights())
        stored.config.update(config)
        if change is not None:
            change(stored.tensors)
        stored.codes = {n: code for n, code in stored.codes.items() if n in stored.tensors}
        stored.write(folder)

    return make


def stored_names() -> list[tuple[str, str]]:
    """Each tensor of each encoding."""
    return [
        (kind, name)
        for kind, make in FORMATS.items()
        for name in make(np.random.default_rng(0), _weights()).tensors
    ]


def _replaced(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any], str], Any]:
    def apply(tensors: dict[str, Any], name: str) -> None:
        tensors[name] = np.array(change(tensors[name]))

    return apply


def _extreme(values: np.ndarray) -> np.ndarray:
    most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else np.inf
    return np.full_like(values, most)


def _least(values: np.ndarray) -> np.ndarray:
    return np.full_like(values, np.iinfo(values.dtype).min if values.dtype.kind in "iu" else np.nan)


DAMAGES: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "missing": lambda tensors, name: tensors.pop(name),
    "half": _replaced(lambda v: v[: len(v) // 2] if v.ndim else v),
    "empty": _replaced(lambda v: v[:0] if v.ndim else v),
    "flat": _replaced(lambda v: v.reshape(-1)),
    "one number": _replaced(lambda v: v.reshape(-1)[0] if v.size else v),
    "twice": _replaced(lambda v: np.concatenate([v, v]) if v.ndim else v),
    "the largest": _replaced(_extreme),
    "the least": _replaced(_least),
}
_SAID: dict[str, tuple[Any, ...]] = {
    "bits": (0, -1, 3, 10**9, "x", [4], INFINITE, NAN),
    "group_size": ("x", [1], INFINITE, NAN),
    "quant_method": ("evil", ["gptq"], "x" * 10_000),
    "checkpoint_format": (["x"], "marlin", "none"),
}
CONFIGS: dict[str, Make] = {
    f"{key}: {value!r:.20}": encoded("gptq_4_bits", **{key: value})
    for key, values in _SAID.items()
    for value in values
}
CONFIGS |= {
    f"weight_block_size: {value!r:.20}": encoded("fp8_blocks", weight_block_size=value)
    for value in ([-1, 3], [1], "ab", 3, [10**30, 1], [INFINITE, 1], {"a": 1})
}


def _weights() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(48, 64)).astype("f4")


# GGUF, written by hand.


def word(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return word(key) + struct.pack("<I", kind) + value


def info(name: bytes, sizes: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<{len(sizes)}Q", *sizes)
    return word(name) + struct.pack("<I", len(sizes)) + shape + struct.pack("<IQ", kind, offset)


ARCHITECTURE = pair(b"general.architecture", 8, word(b"llama"))


def gguf(
    pairs: tuple[bytes, ...] = (ARCHITECTURE,),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    tensor_count: int | None = None,
    pair_count: int | None = None,
) -> Make:
    count = len(tensors) if tensor_count is None else tensor_count
    known = len(pairs) if pair_count is None else pair_count
    head = b"GGUF" + struct.pack("<IQQ", version, count, known) + b"".join((*pairs, *tensors))
    content = head + bytes(-len(head) % 32) + data
    return lambda path: path.write_bytes(content)


EIGHT = info(b"a.weight", (4, 2))
GGUFS: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "the first word alone": lambda path: path.write_bytes(b"GGUF"),
    "a text": lambda path: path.write_text("hello"),
    "half a head": lambda path: path.write_bytes(b"GGUF" + struct.pack("<IQ", 3, 1)),
    "an unknown version": gguf(version=99),
    "the other order of bytes": gguf(version=3 << 24),
    "more pairs than there are": gguf(pair_count=2**62),
    "more tensors than there are": gguf(tensor_count=2**62),
    "an endless key": gguf((struct.pack("<Q", 2**62) + b"x",)),
    "an endless text": gguf((word(b"a") + struct.pack("<IQ", 8, 2**63 - 1),)),
    "an endless list of numbers": gguf((pair(b"a", 9, struct.pack("<IQ", 0, 2**40)),)),
    "an endless list of texts": gguf((pair(b"a", 9, struct.pack("<IQ", 8, 2**40)),)),
    "lists in lists in lists": gguf(
        (pair(b"a", 9, struct.pack("<IQ", 9, 1) * 5000 + struct.pack("<IQ", 0, 0)),)
    ),
    "an unknown kind of value": gguf((pair(b"a", 77, b""),)),
    "a key twice": gguf((ARCHITECTURE, ARCHITECTURE)),
    "an alignment of nothing": gguf(
        (ARCHITECTURE, pair(b"general.alignment", 4, struct.pack("<I", 0))), (EIGHT,), bytes(32)
    ),
    "an alignment that is a text": gguf(
        (ARCHITECTURE, pair(b"general.alignment", 8, word(b"x"))), (EIGHT,), bytes(32)
    ),
    "no data": gguf(tensors=(EIGHT,)),
    "half the data": gguf(tensors=(EIGHT,), data=bytes(16)),
    "a tensor beyond the end": gguf(
        tensors=(info(b"a.weight", (4, 2), offset=2**40),), data=bytes(32)
    ),
    "a tensor of endless shape": gguf(tensors=(info(b"a.weight", (2**40, 2**40)),), data=bytes(32)),
    "a shape that turns around": gguf(
        tensors=(info(b"a.weight", (2**33, 2**33, 2**33)),), data=bytes(32)
    ),
    "a shape of nothing and much": gguf(tensors=(info(b"a.weight", (0, 2**62)),), data=bytes(32)),
    "a hundred million dimensions": gguf(
        tensors=(word(b"a") + struct.pack("<I", 100_000_000),), data=bytes(32)
    ),
    "an unknown type": gguf(tensors=(info(b"a.weight", (4, 2), kind=9999),), data=bytes(64)),
    "a type without code": gguf(tensors=(info(b"a.weight", (256, 2), kind=16),), data=bytes(200)),
    "rows that are no blocks": gguf(tensors=(info(b"a.weight", (33, 2), kind=8),), data=bytes(99)),
    "a name twice": gguf(tensors=(EIGHT, EIGHT), data=bytes(64)),
    "a name with an escape": gguf(tensors=(info(b"a\x1b[2Jb", (4, 2)),), data=bytes(32)),
    "a name that is no text": gguf(tensors=(info(b"a\xff\xfe", (4, 2)),), data=bytes(32)),
    "an endless name": gguf(tensors=(info(b"x" * 100_000, (4, 2)),), data=bytes(32)),
}


# Components and shards that lead elsewhere.


def listed(file: str, content: Any, *, module: str | None = "m") -> Make:
    def make(folder: Path) -> None:
        folder.mkdir()
        if module is not None:
            base(folder / module)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / file).write_text(text)

    return make


def modules(*paths: Any) -> Make:
    return listed("modules.json", [{"idx": 0, "name": "0", "path": path} for path in paths])


def pipeline(*names: str) -> Make:
    return listed("model_index.json", {"_class_name": "X", **{name: ["d", "C"] for name in names}})


def shards(target: Any, file: str = "model.safetensors.index.json") -> Make:
    def make(folder: Path) -> None:
        base(folder)
        if ".bin." in file:
            (folder / "model.safetensors").unlink()
        else:
            (folder / "model.safetensors").rename(folder / "shard.safetensors")
        (folder / file).write_text(
            json.dumps({"weight_map": {"a.weight": target, "a.bias": target}})
        )

    return make


def linked(name: str) -> Make:
    """A component, or its file, that is a link out of the folder."""

    def make(folder: Path) -> None:
        modules("m")(folder)
        for file in (folder / "m").iterdir():
            file.unlink()
        if name == "folder":
            (folder / "m").rmdir()
            (folder / "m").symlink_to(folder.parent / "good")
        else:
            (folder / "m" / name).symlink_to(folder.parent / "good" / name)

    return make


OUTSIDE = ("../good/model.safetensors", "../../x", "/etc/passwd", "sub/x.safetensors", "..", ".")
ODD: tuple[Any, ...] = ("", "C:\\x", "a\0b", 3, None, ["x"], "none.safetensors", "x" * 5000)
COMPONENTS: dict[str, Make] = {
    **{f"modules at {path!r:.30}": modules(path) for path in ("../good", "/etc", "..", "a/../..")},
    **{f"modules at {path!r:.30}": modules(path) for path in (3, ["m"], {"m": 1}, "a\0b", "a\nb")},
    "modules at an endless path": modules("x" * 5000),
    "modules that are a number": listed("modules.json", 3),
    "modules that are texts": listed("modules.json", ["m"]),
    "modules nested deeply": listed("modules.json", "[" * 100_000),
    "modules that are no JSON": listed("modules.json", "{"),
    "modules of nothing": listed("modules.json", [], module=None),
    "a hundred thousand modules": modules(*(f"m{i}" for i in range(100_000))),
    **{f"a pipeline of {name!r:.30}": pipeline(name) for name in ("../good", "..", "a/b", "a\0b")},
    "a pipeline that is no JSON": listed("model_index.json", "{"),
    "a pipeline of texts alone": listed("model_index.json", '"m"'),
    "a module that is a link": linked("folder"),
    "a module whose weights are a link": linked("model.safetensors"),
    **{f"a shard {target!r:.30}": shards(target) for target in (*OUTSIDE, *ODD)},
    **{
        f"a pickled shard {target!r:.30}": shards(target, "pytorch_model.bin.index.json")
        for target in (*OUTSIDE[:4], 3, None, "none.bin")
    },
}


# Files beside the weights that are taken over as they are.


def companion(name: str) -> Make:
    """A model whose config or tokenizer is a link to a file of the reader's."""

    def make(folder: Path) -> None:
        base(folder)
        (folder.parent / "secret").write_text('{"model_type": "secret"}')
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder.parent / "secret")

    return make


LINKS: dict[str, Make] = {
    **{
        f"{name} is a link": companion(name)
        for name in ("config.json", "tokenizer.json", "vocab.txt", "1_Pooling/config.json")
    },
}
