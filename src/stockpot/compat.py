"""Live with a torchvision that was built for another torch.

A torchvision built for CUDA beside a CPU build of torch fails on import with ``operator
torchvision::nms does not exist``, and takes timm and transformers down with it, although neither
needs its compiled operators. Declaring the two missing operators lets the rest import.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import Any

_SYMPTOM = "operator torchvision::nms does not exist"
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_alive: list[Any] = []  # the declarations vanish with the object that made them


def ensure_torchvision(*, quiet: bool = False) -> bool:
    """Make ``import torchvision`` work where it fails with the known mismatch, warning once.

    Returns True where the operators had to be declared. Any other failure is left to whoever
    imports torchvision, and so is its absence. ``quiet``: no warning, where nothing of torchvision
    is used and only the failing import stands in the way.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            return False
    except Exception:
        return False
    else:
        return False
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _alive:
        make: Any = torch.library.Library
        library = make("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(operator)
        _alive.append(library)
        logging.getLogger("stockpot").log(
            logging.DEBUG if quiet else logging.WARNING,
            "the installed torchvision was built for another torch than %s; stockpot goes on "
            "without its compiled operators (to fix: install both together, in one command)",
            torch.__version__,
        )
    importlib.import_module("torchvision")
    return True


def import_transformers() -> Any:
    """The module, also beside a torchvision that cannot be imported."""
    ensure_torchvision(quiet=True)
    return importlib.import_module("transformers")
