"""What a verb leaves behind, as types: checked where it is read, written as plain JSON.

Every verb has one model of its results, a subclass of :class:`VerbResults`; nothing else passes
from a verb to reports, the dashboard, the registry and model cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stockpot.errors import InputError


class ResultPart(BaseModel):
    """A part of results. What a file says beyond its fields is passed over."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, arbitrary_types_allowed=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that the file has; what was never set is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class VerbResults(ResultPart):
    """The whole of one ``results.json``. ``version`` grows when a reader must know of a change."""

    recipe_digest: str = ""
    version: int = Field(1, alias="schema")

    @classmethod
    def read(cls, value: Mapping[str, Any] | Self, source: str = "these results") -> Self:
        """Results as they are, or from the content of their file, of any version.

        Raises ``InputError`` naming the key that is missing or wrong.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{source} lack something: {place}: {first['msg']}",
                hint="were they written by another version of stockpot?",
            ) from error
