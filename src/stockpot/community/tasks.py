"""What a maintainer measures: tasks on which every version of a line has to hold.

A model is measured by what its features are good for: a linear probe is fitted on training rows and
scored on others. So models with other heads, or none, are compared alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from stockpot.declared import Declared, first_problem
from stockpot.errors import InputError
from stockpot.yaml_lines import load_with_lines

if TYPE_CHECKING:
    from stockpot.community.suites import MaintainerSuite
    from stockpot.evaluation import Interval

Scores = NDArray[np.float64]


class MaintainerTask(Declared):
    """A task, how a model folder becomes a feature extractor for it, and what loss is too much."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$", description="one word")
    task: Mapping[str, Any] = Field(description="the data, as in a recipe")
    backbone: Mapping[str, Any] = Field(
        description="kind, pooling and the like, as in a recipe; for transformers and timm the "
        "name is the model folder, for functions the weights are"
    )
    held_out: tuple[str, ...] = Field((), description="domains to test on; none: validation rows")
    limit_per_domain: int | None = Field(None, ge=4, description="use so many rows of a domain")
    seed: int = Field(0, ge=0, description="of the split")
    tolerance: float = Field(0.01, ge=0, le=1, description="a loss of score that is acceptable")
    root: str = Field(".", description="folder at which relative paths start")

    def scores(self, folder: Path) -> Scores:
        """Score of each test row, (N,) in a fixed order: 1 right, 0 wrong; R2's terms for numbers.

        ``folder`` is a model folder, perhaps with a sum of tangent components in it. Raises
        ``TaskError`` and ``BackboneError``.
        """
        from stockpot.backbones import load_backbone
        from stockpot.community.components import linear_features, read_delta
        from stockpot.evaluation import correct
        from stockpot.tasks import load_task, split_task
        from stockpot.training import build_feed, extract_features, linear_probe

        task = load_task(self.task, root=self.root)
        split = split_task(
            task, held_out=self.held_out, seed=self.seed, limit_per_domain=self.limit_per_domain
        )
        train = np.concatenate(list(split.train.values()))
        probed = np.concatenate(list(split.validation.values()))
        tested = np.concatenate(list(split.test.values())) if split.test else probed
        if not split.test:
            # The probe's penalty is chosen on other rows than those it is tested on.
            cut = len(train) - max(1, len(train) // 5)
            order = np.random.default_rng(self.seed).permutation(len(train))
            train, probed = train[order[:cut]], train[order[cut:]]
        backbone = load_backbone(self._backbone(folder), root=Path(self.root))
        with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
            feed = build_feed(task, backbone, folder=Path(scratch), views=0, augmentation=False)
            rows = np.concatenate([train, probed, tested])
            delta = read_delta(folder)
            features = (
                extract_features(backbone, feed, rows)
                if delta is None
                else linear_features(backbone, feed, rows, delta)
            )
        parts = np.split(features, [len(train), len(train) + len(probed)])
        outputs = len(task.classes) if task.kind == "classification" else 1
        weight, bias = linear_probe(
            parts[0],
            task.labels[train],
            parts[1],
            task.labels[probed],
            n_outputs=outputs,
            kind=task.kind,
        )
        return correct(parts[2] @ weight.T + bias, task.labels[tested], task.kind)

    def holds(self, gap: Interval) -> bool:
        """Whether a difference to the current version is no loss beyond tolerance and chance."""
        return not (gap.mean < -self.tolerance and gap.high < 0.0)

    @property
    def limit(self) -> str:
        """What may be lost, in words."""
        return f"tolerance {self.tolerance:.1%}"

    def _backbone(self, folder: Path) -> Any:
        from stockpot.backbones import BackboneSpec

        fields = dict(self.backbone)
        place = str(folder.resolve())
        fields["weights" if fields.get("kind") == "function" else "name"] = place
        try:
            return BackboneSpec(**fields)
        except ValidationError as error:
            raise InputError(f"task '{self.name}': backbone: {first_problem(error)}") from error


def load_tasks(
    source: str | Path | Mapping[str, Any],
) -> list[MaintainerTask | MaintainerSuite]:
    """Read ``tasks:`` of a YAML file (or of a mapping); paths are relative to the file. One with
    ``evaluate`` is an evaluator.

    Raises ``InputError`` naming the task and the field.
    """
    if isinstance(source, Mapping):
        value, root, where = dict(source), Path(), "tasks"
    else:
        path = Path(source)
        value, _ = load_with_lines(path, "file of tasks")
        root, where = path.resolve().parent, str(path)
    entries = value.get("tasks") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: a file of tasks holds a list 'tasks'")
    from stockpot.community.suites import MaintainerSuite

    found: list[MaintainerTask | MaintainerSuite] = []
    for entry in entries:
        try:
            kind = MaintainerSuite if "evaluate" in entry else MaintainerTask
            found.append(kind(**{"root": str(root), **entry}))
        except (ValidationError, TypeError) as error:
            name = entry.get("name", "?") if isinstance(entry, dict) else "?"
            said = first_problem(error)
            raise InputError(f"{where}: task '{name}': {said}") from error
    for task in found:
        if isinstance(task, MaintainerSuite):
            task.check()
    names = [task.name for task in found]
    if len(set(names)) < len(names):
        raise InputError(f"{where}: two tasks have the same name: {', '.join(names)}")
    return found
