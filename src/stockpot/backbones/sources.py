"""Build the network that a spec names: from timm, from transformers, or from a function."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.backbones.preparation import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ArrayPreparation,
    Preparation,
    TextPreparation,
)
from stockpot.backbones.spec import BackboneSpec
from stockpot.checkpoints.open import is_encoded, open_checkpoint
from stockpot.checkpoints.torch_io import load_state
from stockpot.compat import ensure_torchvision, import_transformers
from stockpot.errors import BackboneError
from stockpot.extras import require
from stockpot.programs import load_function
from stockpot.reading import read_json

Run = Callable[[nn.Module, Any], Any]
Readout = Callable[[Any, Tensor | None], Tensor]
_LAYERS = re.compile(r"layers?$|^depths?$|^n_layer$")
_MOST_LAYERS = 1000
"""Layers that a config may ask for where the weights have fewer tensors: some share theirs."""
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Source:
    """A network with how to call it (``run``), what to read from its output, and how to feed it.

    ``example_shape`` is that of one float input (C, H, W), None for texts or where unknown.
    ``folder`` holds the configuration files that belong to the weights. ``missing``: tensors that
    the weights lack; those of a pooler are 0.
    """

    network: nn.Module
    run: Run
    readout: Readout
    preparation: Preparation
    example_shape: tuple[int, ...] | None = None
    feature_dim: int | None = None
    folder: Path | None = None
    missing: tuple[str, ...] = ()


def build_source(spec: BackboneSpec, root: Path) -> Source:
    """The network a spec names; relative paths start at ``root``.

    Raises ``BackboneError`` where it cannot be built, ``MissingDependencyError`` where the package
    is not installed.
    """
    builders = {"timm": _from_timm, "transformers": _from_transformers, "function": _from_function}
    return builders[spec.kind](spec, root)


def call(network: nn.Module, batch: Any) -> Any:
    """Run a network that takes one tensor."""
    return network(batch)


def call_text(network: nn.Module, batch: dict[str, Tensor]) -> Any:
    """Run a transformers text encoder."""
    return network(**batch)


def call_pixels(network: nn.Module, batch: Tensor) -> Any:
    """Run a transformers image encoder."""
    return network(pixel_values=batch)


def read_flat(output: Any, mask: Tensor | None) -> Tensor:
    """(N, D) or (N, D, 1, 1) as (N, D)."""
    if not isinstance(output, Tensor):
        raise BackboneError(
            f"the network returns {type(output).__name__}, expected one tensor (N, D)",
            hint="wrap it so that it returns its features",
        )
    return output.flatten(1)


def read_tokens(output: Any, mask: Tensor | None, *, pooling: str) -> Tensor:
    """Token vectors (N, L, D) as (N, D): their mean over the mask, the first, or the model's own.

    Raises ``BackboneError`` for a model without a pooled output of its own.
    """
    if pooling == "pooler":
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            raise BackboneError(
                "pooling: this model has no pooled output", hint="use pooling: mean, or cls"
            )
        return pooled.flatten(1)  # type: ignore[no-any-return]
    hidden: Tensor = output.last_hidden_state
    if pooling == "cls":
        return hidden[:, 0]
    if hidden.ndim == 4:  # convolutional encoders give (N, D, H, W)
        return hidden.mean((2, 3))
    if mask is None:
        return hidden.mean(1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def _from_timm(spec: BackboneSpec, root: Path) -> Source:
    ensure_torchvision()
    require("timm", "a timm backbone")
    import timm

    name, options = spec.name, dict(spec.options)
    folder = root / name
    if folder.is_dir():
        name = f"local-dir:{folder}"
    if name.startswith(("local-dir:", "hf-hub:")):
        options["pretrained"] = True  # a folder or a repository is named for its weights
    if "pretrained" not in options and spec.weights is None:
        raise BackboneError(
            f"backbone '{spec.name}': no weights are named",
            hint="give 'weights: FILE', or 'options: {pretrained: true}' to download timm's",
        )
    try:
        network = timm.create_model(name, num_classes=0, **options)
    except Exception as error:
        near = timm.list_models(f"*{spec.name}*")[:5]
        raise BackboneError(
            f"timm cannot build '{spec.name}': {_first_line(error)}",
            hint=f"similar names: {', '.join(near)}" if near else "see timm.list_models()",
        ) from error
    config: Any = network.pretrained_cfg
    size = spec.image_size or int(config.get("input_size", (3, 224, 224))[-1])
    return Source(
        network,
        call,
        read_flat,
        ArrayPreparation(
            spec.mean or tuple(config.get("mean", IMAGENET_MEAN)),
            spec.std or tuple(config.get("std", IMAGENET_STD)),
            spec.image_size,
        ),
        example_shape=(3, size, size),
        folder=folder if folder.is_dir() else None,
    )


def _from_transformers(spec: BackboneSpec, root: Path) -> Source:
    require("transformers", "a transformers backbone")
    transformers = import_transformers()

    folder = (root / Path(spec.name).expanduser()).resolve()
    local = folder.is_dir()
    looks_local = spec.name.startswith((".", "/", "~")) or spec.name.count("/") > 1
    if not local and looks_local:
        raise BackboneError(
            f"backbone: there is no folder {folder}", hint="give a folder or a hub id"
        )
    name = str(folder) if local else spec.name
    if local:
        _check_layers(folder)
    try:
        with _no_progress_bar(transformers):
            network, missing = _from_pretrained(transformers, name, spec.options, local=local)
    except Exception as error:
        raise BackboneError(
            f"transformers cannot load '{spec.name}': {_first_line(error)}",
            hint="a folder needs config.json and model.safetensors",
        ) from error
    network = network.float()
    for tensor in map(network.state_dict().get, filter(is_pooler, missing)):
        tensor.zero_()  # drawn anew at every load, and a base has one set of weights
    readout = functools.partial(read_tokens, pooling=spec.pooling)
    config_folder = folder if local else _hub_folder(name)
    if network.main_input_name == "pixel_values":
        mean, std = _pixel_statistics(transformers, name)
        size = int(spec.image_size or getattr(network.config, "image_size", None) or 224)
        preparation = ArrayPreparation(spec.mean or mean, spec.std or std, size)
        shape = (int(getattr(network.config, "num_channels", 3)), size, size)
        return Source(
            network,
            call_pixels,
            readout,
            preparation,
            example_shape=shape,
            folder=config_folder,
            missing=missing,
        )
    tokenizer = _tokenizer(transformers, name, folder if local else None)
    longest = getattr(network.config, "max_position_embeddings", spec.max_length)
    text = TextPreparation(tokenizer, min(spec.max_length, longest))
    return Source(network, call_text, readout, text, folder=config_folder, missing=missing)


def is_pooler(name: str) -> bool:
    """Whether a tensor belongs to the layers that make transformers' pooled output."""
    return name.partition(".")[0] == "pooler"


def _check_layers(folder: Path) -> None:
    """Raise ``BackboneError`` for a config that asks for more layers than its weights can have."""
    try:
        config = read_json(folder / "config.json", "a model's config", error=BackboneError)
    except FileNotFoundError:
        return
    for key, value in config.items() if isinstance(config, dict) else ():
        whole = value if isinstance(value, list) else [value]
        layers = sum(number for number in whole if type(number) is int)
        if not _LAYERS.search(key) or layers <= _MOST_LAYERS:
            continue
        with open_checkpoint(folder) as weights:
            if layers > len(weights):
                raise BackboneError(
                    f"{folder / 'config.json'}: {key} is {layers:,}; the weights have "
                    f"{len(weights):,} tensors, and the limit without weights for each is "
                    f"{_MOST_LAYERS:,}"
                )


def _from_pretrained(
    transformers: Any, name: str, options: Mapping[str, Any], *, local: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model, and the names of tensors that its weights lack.

    Encoded weights are decoded: the library would need another one for that.
    """
    if local and is_encoded(Path(name)):
        config = transformers.AutoConfig.from_pretrained(name, **options)
        del config.quantization_config
        with torch.device("meta"):
            kind = type(transformers.AutoModel.from_config(config))
        state = load_state(name)
        network, loaded = kind.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True
        )
    else:
        network, loaded = transformers.AutoModel.from_pretrained(
            name, **options, output_loading_info=True
        )
    return network, tuple(sorted(loaded["missing_keys"]))


def _tokenizer(transformers: Any, name: str, folder: Path | None) -> Any:
    """The library makes an empty tokenizer where a local folder has none, so that is looked for."""
    if folder is not None and not any((folder / file).is_file() for file in _VOCABULARIES):
        raise BackboneError(
            f"{folder} has no tokenizer", hint="copy the base's tokenizer.json into it"
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise BackboneError(f"'{name}' has no tokenizer: {_first_line(error)}") from error


@contextmanager
def quiet_library(kind: str) -> Iterator[None]:
    """Without transformers' report of tensors that a network has no use for, such as a head."""
    if kind != "transformers":
        yield
        return
    try:
        import transformers
    except ImportError:  # whoever needs it says so
        yield
        return
    logging: Any = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _no_progress_bar(transformers: Any) -> Iterator[None]:
    """The library draws a bar for every load, also where nobody watches."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hub_folder(name: str) -> Path | None:
    """Where the hub client keeps the files of a model that was just loaded, and those by which
    sentence-transformers knows it, where there are any.
    """

    from huggingface_hub import try_to_load_from_cache
    from transformers.utils.hub import cached_file

    def fetch(file: str) -> Any:
        with suppress(OSError):
            return cached_file(name, file, _raise_exceptions_for_missing_entries=False)

    modules = fetch("modules.json")
    if modules is not None:
        for file in ("sentence_bert_config.json", "config_sentence_transformers.json"):
            fetch(file)
        for module in read_json(Path(modules)):
            if module.get("path"):
                fetch(f"{module['path']}/config.json")
    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _pixel_statistics(transformers: Any, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        return tuple(processor.image_mean), tuple(processor.image_std)
    except (OSError, ValueError, AttributeError, ImportError):
        return IMAGENET_MEAN, IMAGENET_STD


def _from_function(spec: BackboneSpec, root: Path) -> Source:
    network = load_function(spec.name, root, "backbone", BackboneError)(**spec.options)
    if not isinstance(network, nn.Module):
        raise BackboneError(
            f"{spec.name} returned {type(network).__name__}, expected a torch.nn.Module"
        )
    shape = getattr(network, "input_shape", None)
    if shape is None and spec.image_size is not None:
        shape = (3, spec.image_size, spec.image_size)
    return Source(
        network,
        call,
        read_flat,
        ArrayPreparation(
            spec.mean or tuple(getattr(network, "input_mean", IMAGENET_MEAN)),
            spec.std or tuple(getattr(network, "input_std", IMAGENET_STD)),
            spec.image_size,
        ),
        example_shape=None if shape is None else tuple(shape),
        feature_dim=getattr(network, "feature_dim", None),
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
