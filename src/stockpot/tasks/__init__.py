"""Data: examples, labels and domains, and splits that depend on the split seed alone."""

from stockpot.tasks.loading import load_task
from stockpot.tasks.rotation import rotation_task
from stockpot.tasks.specs import (
    ArraySpec,
    ColoredMnistSpec,
    DatasetsSpec,
    FunctionSpec,
    ImageFolderSpec,
    RotatedMnistSpec,
    RotationSpec,
    TaskSpec,
    TextSpec,
    parse_task_spec,
)
from stockpot.tasks.splits import Split, named_generator, split_task
from stockpot.tasks.task import (
    Task,
    build_task,
    image_decoding,
    require_domains,
    select_domains,
    take,
)

__all__ = [
    "ArraySpec",
    "ColoredMnistSpec",
    "DatasetsSpec",
    "FunctionSpec",
    "ImageFolderSpec",
    "RotatedMnistSpec",
    "RotationSpec",
    "Split",
    "Task",
    "TaskSpec",
    "TextSpec",
    "build_task",
    "image_decoding",
    "load_task",
    "named_generator",
    "parse_task_spec",
    "require_domains",
    "rotation_task",
    "select_domains",
    "split_task",
    "take",
]
