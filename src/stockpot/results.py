"""What a verb leaves behind, as types: checked where it is read, written as plain JSON.

Every verb has one model of its results, a subclass of :class:`VerbResults`; nothing else passes
from a verb to reports, the dashboard, the registry and model cards.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stockpot.errors import InputError

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls a key that a model, or a dataclass in one, does not have."""


class ResultPart(BaseModel):
    """A part of results. It refuses what it has no field for: nothing of a job is lost unseen."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that the file has; what was never set is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class VerbResults(ResultPart):
    """The whole of one ``results.json``. ``version`` grows when a reader must know of a change.

    ``current``: the version that this release writes.
    """

    current: ClassVar[int] = 1

    recipe_digest: str = ""
    version: int = Field(1, alias="schema")

    @classmethod
    def read(cls, value: Mapping[str, Any] | Self, source: str = "these results") -> Self:
        """Results as they are, or from the content of their file, of any version.

        Keys without a field are passed over; where the file is of the current version, a warning
        names them. Raises ``InputError`` naming the key that is missing or wrong.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            problems = error.errors()
        unknown = [problem["loc"] for problem in problems if problem["type"] in _UNKNOWN]
        wrong = next((problem for problem in problems if problem["type"] not in _UNKNOWN), None)
        if wrong is not None:
            raise InputError(
                f"{source} lack something: {_dotted(wrong['loc'])}: {wrong['msg']}",
                hint="were they written by another version of stockpot?",
            )
        results = cls.model_validate(_without(value, unknown))
        if results.version == cls.current:
            names = ", ".join(map(_dotted, unknown))
            warnings.warn(f"{source} hold what is passed over: {names}", stacklevel=2)
        return results


def _dotted(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, path))


def _without(value: Any, paths: Iterable[tuple[int | str, ...]]) -> Any:
    """A copy of plain values without what these paths lead to."""
    rest = copy.deepcopy(value)
    for *parents, key in paths:
        part = rest
        for parent in parents:
            part = part[parent]
        del part[key]
    return rest
