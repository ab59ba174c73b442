"""Predictions of a model folder, prepared as in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stockpot.backbones.folder import load_model, read_about
from stockpot.backbones.model import Model
from stockpot.backbones.preparation import ArrayPreparation, TextPreparation
from stockpot.errors import InputError
from stockpot.evaluation.metrics import softmax
from stockpot.inference.inputs import Inputs, decode, read_inputs
from stockpot.progress import progress
from stockpot.training.device import best_device

BATCH = 64


@dataclass(frozen=True)
class Predictions:
    """What a model says about N inputs, in their order.

    ``outputs``: logits, float32 (N, C), or values (N, 1). ``names``: text, path or number of each
    input. ``classes`` is empty for a regression.
    """

    outputs: np.ndarray
    classes: tuple[str, ...]
    names: tuple[str, ...]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Float64 (N, C), in the order of ``classes``. ``InputError`` for a regression."""
        if not self.classes:
            raise InputError("a regression has no probabilities", hint="see `values`")
        return softmax(self.outputs)

    @property
    def labels(self) -> list[str]:
        """The class with the largest probability. ``InputError`` for a regression."""
        return [self.classes[index] for index in self.probabilities.argmax(axis=1)]

    @property
    def values(self) -> np.ndarray:
        """What a regression predicts, float64 (N,). ``InputError`` for classes."""
        if self.classes:
            raise InputError("the model predicts classes", hint="see `labels` and `probabilities`")
        return self.outputs[:, 0].astype(np.float64)

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object an input."""
        if not self.classes:
            return [
                {"input": n, "value": v}
                for n, v in zip(self.names, self.values.tolist(), strict=True)
            ]
        parts = zip(self.names, self.labels, self.probabilities.tolist(), strict=True)
        return [
            {"input": n, "label": label, "probabilities": dict(zip(self.classes, p, strict=True))}
            for n, label, p in parts
        ]


@dataclass(frozen=True)
class Predictor:
    """A model folder, loaded."""

    model: Model
    classes: tuple[str, ...]
    images: Mapping[str, Any] | None
    folder: Path

    @property
    def modality(self) -> str:
        """What it takes: "text", "image" or "array"."""
        return self.model.backbone.modality

    def predict(
        self,
        inputs: Inputs,
        *,
        batch_size: int = BATCH,
        device: str | None = None,
        quiet: bool = True,
    ) -> Predictions:
        """See :func:`predict`."""
        if len(inputs) == 0:
            raise InputError("no inputs to predict")
        place = choose_device(device)
        self.model.to(place).eval()
        preparation = self.model.backbone.preparation
        encoded = inputs.values
        order = np.arange(len(inputs))
        if isinstance(preparation, TextPreparation):
            encoded = preparation.encode(encoded)
            order = np.argsort([len(each) for each in encoded], kind="stable")
        parts = []
        with progress("predict", len(inputs), quiet=quiet) as advance, torch.no_grad():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                parts.append(self._batch(encoded, inputs, rows, place))
                advance(len(rows))
        found = np.concatenate(parts)
        outputs = np.empty_like(found)
        outputs[order] = found
        if not np.isfinite(outputs).all():
            row = int(np.argmin(np.isfinite(outputs).all(axis=1)))
            raise InputError(f"{self.folder}: the output for '{inputs.names[row]}' is not finite")
        return Predictions(outputs, self.classes, inputs.names)

    def outputs(self, inputs: Inputs) -> torch.Tensor:
        """Logits or values (N, C) of one batch, with the graph that leads to them."""
        place = choose_device(None)
        self.model.to(place).eval()
        preparation, encoded = self.model.backbone.preparation, inputs.values
        if isinstance(preparation, TextPreparation):
            encoded = preparation.encode(encoded)
        return self._forward(encoded, inputs, np.arange(len(inputs)), place)

    def _batch(
        self, encoded: Any, inputs: Inputs, rows: np.ndarray, device: torch.device
    ) -> np.ndarray:
        array: np.ndarray = self._forward(encoded, inputs, rows, device).float().cpu().numpy()
        return array

    def _forward(
        self, encoded: Any, inputs: Inputs, rows: np.ndarray, device: torch.device
    ) -> torch.Tensor:
        preparation = self.model.backbone.preparation
        if isinstance(preparation, ArrayPreparation) and isinstance(encoded, list):
            size, resize = self._decoding()
            shown = [inputs.names[row] for row in rows]
            encoded = decode([encoded[row] for row in rows], shown, size, resize)
            rows = np.arange(len(rows))
        try:
            outputs: torch.Tensor = self.model(preparation.batch(encoded, rows, device))
        except Exception as error:
            self._refuse_shape(inputs, error)
            raise
        return outputs

    def _refuse_shape(self, inputs: Inputs, error: Exception) -> None:
        """``InputError`` where arrays failed that have another shape than the network's own."""
        example, got = self.model.backbone.example(), np.shape(inputs.values)[1:]
        if self.modality == "text" or isinstance(inputs.values, list):
            return
        takes = "the model takes other ones"
        if example is not None:
            own = tuple(example.shape[1:])
            pixels = (*own[1:], own[0]) if self.modality == "image" else own
            if got in (own, pixels):
                return
            takes = f"the model takes ({', '.join(map(str, ('N', *pixels)))})"
        shape = ", ".join(map(str, ("N", *got)))
        raise InputError(f"{inputs.source}: inputs of shape ({shape}), {takes}") from error

    def _decoding(self) -> tuple[int, str]:
        """Size and way of resizing, as in training; older folders say the network's size alone."""
        if self.images is not None:
            return self.images["size"], self.images["resize"]
        preparation = self.model.backbone.preparation
        assert isinstance(preparation, ArrayPreparation)
        if preparation.size is None:
            raise InputError(
                "the model folder does not say to which size images were decoded",
                hint="give arrays of pixels (N, H, W, 3)",
            )
        return preparation.size, "stretch"


def load(folder: str | Path, *, root: str | Path | None = None) -> Predictor:
    """Load a model folder that ``recycle`` or ``rank`` kept.

    ``root``: where the code of a function backbone lies. Raises ``BackboneError`` for a folder
    without such a model.
    """
    about = read_about(folder)
    model, classes = load_model(folder, root=root)
    return Predictor(model, classes, about.get("images"), Path(folder))


def predict(
    model: str | Path | Predictor,
    inputs: Any,
    *,
    batch_size: int = BATCH,
    device: str | None = None,
    text: str | None = None,
    root: str | Path | None = None,
    quiet: bool = True,
) -> Predictions:
    """What a model folder says about ``inputs``, prepared as in training.

    Args:
        model: the folder, or what :func:`load` returned.
        inputs: texts or paths of images in a list; an array; or the path of a table, a text file, a
            folder of images, an ``.npz`` or ``.npy`` file.
        batch_size: inputs at a time.
        device: "cpu", "cuda", ...; by default the GPU where there is one.
        text: the table's column of texts; by default "text", or the only one.
        root: where the code of a function backbone lies.

    Raises:
        InputError: inputs that the model does not take, naming file, line or row; a device that is
            not there; a folder that holds no model.
    """
    predictor = model if isinstance(model, Predictor) else load(model, root=root)
    rows = inputs if isinstance(inputs, Inputs) else read_inputs(inputs, predictor.modality, text)
    return predictor.predict(rows, batch_size=batch_size, device=device, quiet=quiet)


def choose_device(device: str | None) -> torch.device:
    """The device of that name, by default the best. ``InputError`` where it is not there."""
    if device is None or device == "cpu":
        return best_device(device)
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device '{device}' is not there: {str(error).splitlines()[0]}", hint="use cpu"
        ) from error
    return place
