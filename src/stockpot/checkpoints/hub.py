"""Models of the Hugging Face hub, through ``huggingface_hub`` and its cache. Only when asked for
by id.
"""

from __future__ import annotations

from pathlib import Path

from stockpot.errors import CheckpointError, StockpotError

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_REST = ("README.md", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
_PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def fetch_folder(model_id: str) -> Path:
    """Local folder of ``owner/name`` or ``owner/name@revision``; downloads what the cache lacks."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = model_id.partition("@")
    try:
        folder = Path(
            snapshot_download(name, revision=revision or None, allow_patterns=[*_WEIGHTS, *_REST])
        )
        if not any(folder.glob("*.safetensors")):
            folder = Path(
                snapshot_download(
                    name, revision=revision or None, allow_patterns=[*_PICKLES, *_REST]
                )
            )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        answers = [getattr(known, "response", None) for known in (error, error.__cause__)]
        status = next((answer.status_code for answer in answers if answer is not None), None)
        if status is not None and (status >= 500 or status == 429):
            raise StockpotError(
                f"'{model_id}': the hub failed ({status}): {reason}", hint="try again later"
            ) from error
        raise CheckpointError(
            f"'{model_id}' is no path, and the hub gave no model of that name: {reason}",
            hint="check the spelling; private models need HF_TOKEN",
        ) from error
    return folder
