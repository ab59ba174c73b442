"""Arguments that many jobs have: what names their data and their base."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def data_argument(
    spec: BaseModel,
    content: str,
    *,
    seed: int,
    limit: int | None = None,
    skip_corrupt: bool = False,
) -> dict[str, Any]:
    """A task as a job's ``data``, opened by ``training.rows.open_task``.

    ``content``: its fingerprint; ``limit``: at most so many rows of a domain, drawn by ``seed``.
    """
    return {
        "spec": spec.model_dump(mode="json"),
        "content": content,
        "limit": limit,
        "seed": seed,
        "skip_corrupt": skip_corrupt,
    }


def backbone_argument(spec: BaseModel, content: str) -> dict[str, Any]:
    """A base as a job's ``backbone``, opened by ``training.rows.open_backbone``."""
    return {"spec": spec.model_dump(mode="json"), "content": content}
