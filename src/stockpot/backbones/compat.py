"""The former home of ``stockpot.compat``."""

from stockpot.compat import ensure_torchvision, import_transformers

__all__ = ["ensure_torchvision", "import_transformers"]
