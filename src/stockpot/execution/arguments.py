"""What the jobs of a plan have in common: where they work, what names their data and their base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from stockpot.execution.job import Job


@dataclass(frozen=True)
class JobMaker:
    """Makes the jobs of one plan. ``prefix`` stands before the name of every function, ``common``
    are arguments that all jobs have; the rest as in :class:`Job`.
    """

    places: Mapping[str, str]
    threads: int
    prefix: str = ""
    common: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        function: str,
        arguments: Mapping[str, Any],
        inputs: Mapping[str, Job],
        label: str,
        weight: float = 1.0,
    ) -> Job:
        arguments, function = {**self.common, **arguments}, f"{self.prefix}{function}"
        return Job(function, arguments, dict(inputs), self.places, label, self.threads, weight)


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
