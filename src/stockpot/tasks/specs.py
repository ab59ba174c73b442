"""How a recipe names a task: one small model for each kind of source, all of them strict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from stockpot.declared import Declared
from stockpot.errors import TaskError

AUTO = "auto"
"""Value of a key that names a column: the usual column, where there is one."""


class _Spec(Declared):
    name: str | None = Field(default=None, min_length=1, description="shown in reports")
    domains: list[str] | None = Field(
        default=None, min_length=1, description="use only these domains, in this order"
    )


class _Source(_Spec):
    path: str = Field(min_length=1, description="file or folder, relative to the recipe")
    allow_missing_classes: bool = Field(
        default=False, description="accept a domain that has no example of some class"
    )
    duplicates: Literal["keep", "refuse"] = Field(
        default="keep",
        description="the same input under two domains, classes or splits; kept ones are counted",
    )


class _Files(_Source):
    """A source whose validation and test rows may be files of their own."""

    validation: str | None = Field(
        default=None, min_length=1, description="what `path` is, with the validation rows"
    )
    test: str | None = Field(
        default=None, min_length=1, description="what `path` is, with the test rows"
    )


class _Rows(_Files):
    """Columns that say where a row belongs."""

    domain: str | None = Field(
        default=AUTO,
        min_length=1,
        description="column of the domain; auto: `domain` where there is one, else one domain; "
        "null: one domain",
    )
    split: str | None = Field(
        default=AUTO,
        min_length=1,
        description="column of fixed splits (train, validation, test); auto: `split` where there "
        "is one; null: none is fixed",
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        description="column of groups that stay on one side of every split (a patient, an author)",
    )


class ImageFolderSpec(_Rows):
    """Images in folders, or a table (CSV, TSV, JSON Lines, Parquet) of their paths.

    Folders are ``path/domain/class/file`` as in DomainBed, or ``path/class/file``: one domain.
    Folders named train, valid (or validation, val, dev) and test above the classes are fixed
    splits, not domains. Paths in a table are relative to the table.
    """

    duplicates: Literal["keep", "refuse"] = Field(
        default="refuse", description="the same file under two domains, classes or splits"
    )
    kind: Literal["images"] = "images"
    size: int = Field(default=128, ge=8, le=1024, description="side in pixels")
    resize: Literal["stretch", "crop"] = Field(
        default="stretch",
        description="stretch to a square, or short side to `size` and centre crop",
    )
    image: str = Field(default="image", min_length=1, description="a table's column of the path")
    label: str = Field(default="label", min_length=1, description="a table's column of the class")


class TextSpec(_Rows):
    """A CSV, TSV, JSON Lines or Parquet file with a column each for text and label.

    More columns may name the domain, the split and the group of a row.
    """

    kind: Literal["text"] = "text"
    text: str = Field(default="text", description="column of the text")
    label: str = Field(default="label", description="column of the label")
    target: Literal["classification", "regression", "sign"] = Field(
        default="classification",
        description="sign: numbers become the classes negative and positive",
    )
    margin: float = Field(
        default=0.0, ge=0, description="with sign: drop labels nearer to zero than this"
    )
    classes: list[str] | None = Field(
        default=None, min_length=2, description="class names in order; default: those found, sorted"
    )

    @model_validator(mode="after")
    def _used(self) -> TextSpec:
        if self.margin and self.target != "sign":
            raise ValueError("'margin' has no effect here; it has one with target: sign")
        if self.classes is not None and self.target != "classification":
            raise ValueError("'classes' has no effect here; it has one with target: classification")
        return self


class ArraySpec(_Files):
    """An ``.npz`` file with arrays ``inputs`` and ``labels``.

    If wanted it has ``domains``, ``splits`` (train, validation or test) and ``groups`` of the rows,
    and ``classes``. ``inputs`` of dtype uint8 and shape (N, H, W, 3) are images; anything else is
    float32 (N, ...).
    """

    kind: Literal["arrays"] = "arrays"
    target: Literal["classification", "regression"] = "classification"


class DatasetsSpec(_Source):
    """A Hugging Face data set: a folder written by ``save_to_disk``, or a name on the hub."""

    kind: Literal["datasets"] = "datasets"
    config: str | None = None
    split: str = Field(default="train", description="which split of the data set")
    validation: str | None = Field(
        default=None, min_length=1, description="the split with the validation rows"
    )
    test: str | None = Field(default=None, min_length=1, description="the split with the test rows")
    split_column: str | None = Field(
        default=AUTO,
        min_length=1,
        description="column of fixed splits; auto: `split` where there is one; null: none is fixed",
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        description="column of groups that stay on one side of every split",
    )
    revision: str | None = Field(default=None, description="commit on the hub")
    input: str = Field(default="text", description="column of text or images")
    label: str = "label"
    domain: str | None = Field(
        default=AUTO,
        min_length=1,
        description="column; auto: `domain` where there is one, else one domain; null: one domain",
    )
    target: Literal["classification", "regression"] = "classification"
    size: int = Field(default=128, ge=8, le=1024, description="side of images in pixels")
    resize: Literal["stretch", "crop"] = "stretch"


class RotatedMnistSpec(_Spec):
    """RotatedMNIST as in DomainBed, from a folder with the four MNIST files (IDX, also .gz)."""

    kind: Literal["rotated_mnist"] = "rotated_mnist"
    path: str = Field(min_length=1)


class ColoredMnistSpec(_Spec):
    """ColoredMNIST as in DomainBed, from a folder with the four MNIST files (IDX, also .gz)."""

    kind: Literal["colored_mnist"] = "colored_mnist"
    path: str = Field(min_length=1)


class RotationSpec(_Spec):
    """Tell by how much an image was turned: needs no labels. Made from the target's own images."""

    kind: Literal["rotation"] = "rotation"
    source: ImageFolderSpec | ArraySpec | DatasetsSpec | None = Field(
        default=None, discriminator="kind", description="other images; default: the target task's"
    )


class FunctionSpec(_Spec):
    """A Python function that returns a task: ``module:function`` or ``file.py:function``."""

    kind: Literal["function"] = "function"
    function: str = Field(pattern=r"^.+:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)


TaskSpec = Annotated[
    ImageFolderSpec
    | TextSpec
    | ArraySpec
    | DatasetsSpec
    | RotatedMnistSpec
    | ColoredMnistSpec
    | RotationSpec
    | FunctionSpec,
    Field(discriminator="kind"),
]


def data_paths(spec: TaskSpec, root: Path) -> list[Path]:
    """Files and folders that a task is read from; some may not exist, such as a name on the hub."""
    spec = getattr(spec, "source", None) or spec
    keys = ("path", "validation", "test") if isinstance(spec, _Files) else ("path",)
    return [root / name for key in keys if (name := getattr(spec, key, None)) is not None]


_ADAPTER: TypeAdapter[TaskSpec] = TypeAdapter(TaskSpec)


def parse_task_spec(value: Mapping[str, Any]) -> TaskSpec:
    """The spec written as plain data; ``TaskError`` naming every field that is wrong."""
    try:
        return _ADAPTER.validate_python(dict(value))
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'task'}: {item['msg']}"
            for item in error.errors()
        ]
        raise TaskError("task: " + "; ".join(problems)) from error
