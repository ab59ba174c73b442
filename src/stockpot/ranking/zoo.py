"""A zoo: the models among which one is looked for, as a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from stockpot.backbones.spec import BackboneSpec
from stockpot.declared import Declared
from stockpot.errors import InputError, RecipeError
from stockpot.programs import forbidden
from stockpot.ranking.infer import complete, models_in
from stockpot.yaml_lines import (
    Location,
    line_of,
    load_with_lines,
    suggestion,
    validated,
)

Readout = Literal["mean_of_layers", "last", "cls", "best_layer"]


def _number(value: Any) -> Any:
    """YAML takes ``2.2e7`` for a word, since it wants a sign in the exponent; people do not."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Metadata = dict[str, Annotated[float | str, BeforeValidator(_number)]]


class ModelEntry(BackboneSpec):
    """A model that can be loaded: a backbone as in a recipe, and what is known about it."""

    id: str | None = Field(
        None, min_length=1, description="what it is called in tables and history; default: name"
    )
    metadata: Metadata = Field(
        default_factory=dict,
        description="what is known of it: family, pretraining, accuracy elsewhere, ...",
    )
    readout: Readout = Field(
        "mean_of_layers",
        description="of a text encoder, what scores see: token means averaged over all layers, "
        "of the last, its first token, or of the layer that scores best",
    )
    head: str | None = Field(
        None,
        description="name of the source classifier inside 'weights' ('fc' for fc.weight and "
        "fc.bias): scores on source classes (LEEP, NCE) need it",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="of fine-tuning this model; default: the task's"
    )

    @property
    def label(self) -> str:
        """The name under which tables and history know the model."""
        return self.id or self.name

    @property
    def spec(self) -> BackboneSpec:
        """The backbone alone."""
        kept = {name: getattr(self, name) for name in BackboneSpec.model_fields}
        return BackboneSpec(**kept)


class FeatureEntry(Declared):
    """Features that somebody else computed: scored like the rest, but never fine-tuned."""

    kind: Literal["features"] = "features"
    path: str = Field(
        min_length=1,
        description="a .npy file (N, D), or .npz with 'features' and, if wanted, 'logits'; "
        "one row for every example of the task, in its order",
    )
    id: str | None = Field(None, min_length=1, description="default: the file's name")
    metadata: Metadata = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name under which tables and history know the model."""
        return self.id or Path(self.path).stem


Entry = Annotated[ModelEntry | FeatureEntry, Field(discriminator="kind")]


class _ZooFile(Declared):
    models: list[Entry] = Field(min_length=1, description="the models, in any order")

    @model_validator(mode="after")
    def _names_once(self) -> _ZooFile:
        names = [entry.label for entry in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two models are called '{twice[0]}': give one of them another 'id'")
        return self


@dataclass(frozen=True)
class Zoo:
    """Models by name. ``root``: where relative paths of their entries start; ``others``: folders
    beside them that hold no model that can be read, and why.
    """

    entries: dict[str, ModelEntry | FeatureEntry]
    root: Path
    others: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    def without(self, names: Sequence[str]) -> Zoo:
        """The zoo without some models; ``InputError`` for a name it does not have."""
        for name in names:
            if name not in self.entries:
                raise InputError(
                    f"the zoo has no model '{name}'{suggestion(name, list(self.entries))}"
                )
        kept = {n: e for n, e in self.entries.items() if n not in names}
        return replace(self, entries=kept)

    def metadata(self) -> dict[str, Metadata]:
        """What the file says about each model."""
        return {name: dict(entry.metadata) for name, entry in self.entries.items()}


def load_zoo(path: Path) -> Zoo:
    """Read and check a zoo: a YAML file, or a folder of models.

    Raises ``RecipeError`` with all problems of a file and their lines.
    """
    if path.is_dir():
        return _zoo_of_folder(path)
    value, lines = load_with_lines(path, "zoo")
    return parse_zoo(value, root=path.parent, source=str(path), lines=lines)


def parse_zoo(
    value: Any,
    *,
    root: Path = Path(),
    source: str = "zoo",
    lines: Mapping[Location, int] | None = None,
) -> Zoo:
    """Check a zoo given as plain data: a mapping with ``models``, a list of entries.

    An entry may leave out its kind where its name tells, and be its name alone. What a file names
    (``lines``) may run code only as ``stockpot.programs`` allows.
    """
    if not isinstance(value, Mapping):
        raise RecipeError([f"{source}: a zoo is a mapping with 'models', a list"])
    value = _completed(value, root, source, lines)
    found = validated(_ZooFile, value, source=source, lines=lines, wants=False)
    return Zoo({entry.label: entry for entry in found.models}, root.resolve())


def _completed(
    value: Mapping[str, Any], root: Path, source: str, lines: Mapping[Location, int] | None
) -> Mapping[str, Any]:
    """The zoo with the kinds that it does not say; all that cannot be known is told at once."""
    entries = value.get("models")
    if not isinstance(entries, list):
        return value
    problems, completed = [], []
    for index, entry in enumerate(entries):
        try:
            completed.append(complete(entry, root))
            reasons = forbidden(completed[-1], root) if lines and completed[-1] != entry else ()
            problem = next((reason for _, reason in reasons), None)
        except InputError as error:
            problem = "; ".join(filter(None, (error.message, error.hint)))
        if problem is not None:
            line = f":{line_of(('models', index), lines)}" if lines else ""
            problems.append(f"{source}{line}: models.{index}: {problem}")
    if problems:
        raise RecipeError(problems)
    return {**value, "models": completed}


def _zoo_of_folder(folder: Path) -> Zoo:
    """Every model in a folder, by its name there."""
    names, others = models_in(folder)
    if not names:
        raise InputError(
            f"{folder} holds no model: no folder in it has a config.json",
            hint="give a folder of models, or a YAML file that lists them",
        )
    unread = dict.fromkeys(others, "it holds no model: no config.json")
    for name in names:
        try:
            complete(name, folder)
        except InputError as error:
            unread[name] = error.message
    good = [name for name in names if name not in unread]
    # Where none can be read, the problems of all are told.
    zoo = parse_zoo({"models": good or names}, root=folder, source=str(folder))
    return replace(zoo, others=unread)
