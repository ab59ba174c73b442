"""Data: examples, labels and domains, and splits that depend on the split seed alone."""

from stockpot.tasks.arrays import array_fingerprint
from stockpot.tasks.loading import load_task
from stockpot.tasks.mnist import read_mnist
from stockpot.tasks.parts import PARTS, part_counts
from stockpot.tasks.rotation import rotation_task
from stockpot.tasks.specs import parse_task_spec
from stockpot.tasks.splits import Split, draw_groups, named_generator, set_apart, split_task
from stockpot.tasks.task import (
    Task,
    build_task,
    image_decoding,
    select_domains,
    take,
    take_rows,
)

__all__ = [
    "PARTS",
    "Split",
    "Task",
    "array_fingerprint",
    "build_task",
    "draw_groups",
    "image_decoding",
    "load_task",
    "named_generator",
    "parse_task_spec",
    "part_counts",
    "read_mnist",
    "rotation_task",
    "select_domains",
    "set_apart",
    "split_task",
    "take",
    "take_rows",
]
