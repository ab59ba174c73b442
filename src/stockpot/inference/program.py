"""A model folder as one file that runs without stockpot: ``torch.export``, or ONNX."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stockpot.backbones.model import Model
from stockpot.backbones.preparation import TextPreparation
from stockpot.errors import InputError, StockpotError
from stockpot.extras import require
from stockpot.files import atomic_file
from stockpot.inference.predictor import Predictor, load

Format = Literal["torch", "onnx"]
FORMATS: tuple[Format, ...] = ("torch", "onnx")
TOLERANCE = 1e-4
_TEXTS = ("a short one", "a text that is quite a bit longer than that", "one", "and a last one")


def export(
    model: str | Path | Predictor,
    output: str | Path,
    *,
    format: Format = "torch",
    root: str | Path | None = None,
) -> Path:
    """Write a model folder as one file, head included; returns its path.

    The file takes what the network takes: ``input_ids`` and ``attention_mask`` (int64, N x L), or
    float32 (N, ...) normalised as in training; it gives logits or values (N, C). Number of inputs
    and length of texts are free. Classes and preparation are in the file ("stockpot.json").

    The file is read again and compared with the model on inputs of other sizes than those it was
    made with, and kept only where the largest difference is below 1e-4 of the largest output.

    Raises ``MissingDependencyError`` without the package for the format, ``StockpotError`` where
    the network cannot be exported or the outputs differ.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format '{format}'; choose one of: {', '.join(FORMATS)}")
    if format == "onnx":
        for package in ("onnx", "onnxscript"):
            require(package, "exporting to ONNX")
    predictor = model if isinstance(model, Predictor) else load(model, root=root)
    module = _Plain(predictor.model.cpu().eval()).eval()
    first, second = _examples(predictor)
    about = json.dumps(_about(predictor), ensure_ascii=False)
    path = Path(output)
    with atomic_file(path) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors in another memory order, which are whole
        try:
            program = torch.export.export(
                module, first, dynamic_shapes=_free(first, predictor), strict=False
            )
            if format == "torch":
                with temporary.open("wb") as handle:
                    torch.export.save(program, handle, extra_files={"stockpot.json": about})
            else:
                _write_onnx(program, temporary, about)
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise StockpotError(
                f"the network cannot be exported: {reason[0] if reason else type(error).__name__}"
            ) from error
        run = _run_torch if format == "torch" else _run_onnx
        for example in (first, second):
            _compare(run(temporary, example), module(*example).numpy())
    return path


class _Plain(nn.Module):
    """The model as a function of tensors alone."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.featurizer = model.featurizer
        self.head = model.head
        self.text = isinstance(model.backbone.preparation, TextPreparation)

    def forward(self, *inputs: Tensor) -> Tensor:
        batch: Any = inputs[0]
        if self.text:
            batch = {"input_ids": inputs[0], "attention_mask": inputs[1]}
        outputs: Tensor = self.head(self.featurizer(batch))
        return outputs


def _examples(predictor: Predictor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Two batches of different numbers of inputs, and of different lengths."""
    backbone = predictor.model.backbone
    if isinstance(backbone.preparation, TextPreparation):
        batches = [backbone.prepare(list(texts)) for texts in (_TEXTS, _TEXTS[:1] * 3)]
        long, short = [(each["input_ids"], each["attention_mask"]) for each in batches]
        return long, short
    if predictor.images is not None:
        side = predictor.images["size"]
        pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
        batch = backbone.prepare(pixels).contiguous()
        return (batch,), (batch[:2].contiguous(),)
    batch = backbone.example()
    if batch is None:
        raise InputError("the model folder does not say what size its inputs have")
    return (batch,), (torch.cat([batch, batch[:1]]),)


def _free(example: tuple[Tensor, ...], predictor: Predictor) -> Any:
    rows = torch.export.Dim("rows", min=1, max=65536)
    if len(example) == 1:
        return (({0: rows},),)
    preparation = predictor.model.backbone.preparation
    assert isinstance(preparation, TextPreparation)
    length = torch.export.Dim("length", min=2, max=preparation.max_length)
    return (({0: rows, 1: length}, {0: rows, 1: length}),)


def _about(predictor: Predictor) -> dict[str, Any]:
    preparation = predictor.model.backbone.preparation
    if isinstance(preparation, TextPreparation):
        prepared: dict[str, Any] = {"max_length": preparation.max_length}
    else:
        mean, std = getattr(preparation, "mean", None), getattr(preparation, "std", None)
        prepared = {"images": predictor.images, "mean": mean, "std": std}
        prepared["size"] = getattr(preparation, "size", None)
    return {"schema": 1, "classes": list(predictor.classes), **prepared}


def _write_onnx(program: Any, path: Path, about: str) -> None:
    import onnx  # type: ignore[import-not-found,unused-ignore]

    done: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    proto = done.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "stockpot.json", about
    onnx.save(proto, str(path))


def _run_torch(path: Path, example: tuple[Tensor, ...]) -> np.ndarray:
    with path.open("rb") as handle:
        outputs: np.ndarray = torch.export.load(handle).module()(*example).detach().numpy()
    return outputs


def _run_onnx(path: Path, example: tuple[Tensor, ...]) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator  # type: ignore[import-not-found,unused-ignore]

    session = ReferenceEvaluator(str(path))
    given = {
        name: tensor.numpy() for name, tensor in zip(session.input_names, example, strict=True)
    }
    outputs: np.ndarray = session.run(None, given)[0]
    return outputs


def _compare(got: np.ndarray, expected: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(got - expected).max()) if got.shape == expected.shape else np.inf
    if not worst <= TOLERANCE * scale:
        raise StockpotError(f"the exported file differs from the model by {worst:.1e}; not kept")
