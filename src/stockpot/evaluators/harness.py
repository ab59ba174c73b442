"""Scores of lm-evaluation-harness: one of its tasks, example by example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones.sources import quiet_library
from stockpot.checkpoints import Checkpoint
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluators.contract import LOSS, SCORE, Rows, Scores, checked
from stockpot.evaluators.language import CausalEvaluator
from stockpot.extras import require
from stockpot.files import digest, file_digest

_RIGHT = ("acc", "acc_norm", "exact_match")  # 1 for what is right, 0 for what is wrong
_SEED = 1234  # of the examples before a question: lm-eval's own default


class HarnessEvaluator(CausalEvaluator):
    """A task of lm-evaluation-harness (extra ``lm-eval``) on causal models of transformers.

    ``task``: its name. ``include``: a folder with task files of one's own; with it the tasks that
    lm-eval brings are not looked at. ``root``: where the relative paths of data in task files
    start. ``score``: which of the task's metrics, by default its first; one number an example.
    ``metric``: how the scores are shown.

    Raises ``InputError`` for a task that is not there; ``MissingDependencyError``.
    """

    def __init__(
        self,
        task: str,
        *,
        root: Path,
        include: Path | None = None,
        score: str | None = None,
        metric: str | None = None,
    ) -> None:
        super().__init__()
        require("lm_eval", "scores of lm-evaluation-harness")
        from lm_eval.tasks import TaskManager

        if include is not None and not include.is_dir():
            raise InputError(f"include_path: {include} is no folder")
        self.label, self._score, self._root = f"lm-eval {task}", score, root
        try:
            with self._quiet():
                manager = TaskManager(include_path=include, include_defaults=include is None)
                self._loaded: Any = manager.load([task])
                (self._task,) = self._loaded["tasks"].values()
                docs = [dict(doc) for doc in self._task.eval_docs]
        except Exception as error:  # task files fail in as many ways as programs do
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"lm_eval: cannot load the task '{task}': {reason}") from error
        if self._task.get_config("num_fewshot") is None:
            self._task.set_config(key="num_fewshot", value=0)
        # Examples before a question are drawn in order: a row's depend on those before it.
        self.takes_rows = self._task.get_config("num_fewshot") == 0
        self.size = len(docs)
        self._choose_metric(task, metric)
        files = sorted(one for one in include.rglob("*") if one.is_file()) if include else []
        self.identity = digest(
            [
                ["lm_eval", version("lm_eval"), task, self._score, self.metric],
                [[str(one.relative_to(include or root)), file_digest(one)] for one in files],
                [sorted((key, repr(value)) for key, value in doc.items()) for doc in docs],
            ]
        )

    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores | float:
        """The rows' scores; the model answers one request at a time, so none depends on others."""
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        self.load(model)
        numbers = list(range(self.size or 0)) if rows is None else [int(row) for row in rows]
        try:
            with self._quiet():
                self._task.set_fewshot_seed(seed=_SEED)
                result = evaluate(
                    lm=HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=1),
                    task_dict=self._loaded,
                    samples={self._task.task_name: sorted(numbers)},
                    bootstrap_iters=0,
                    log_samples=True,
                )
            (samples,) = result["samples"].values()
        except Exception as error:  # what fails there is the task's own code, too
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise EvaluationError(f"{self.label}: {reason}") from error
        known: dict[int, Any] = {}
        for one in samples:
            known.setdefault(one["doc_id"], one.get(self._score))  # of the first filter
        values = [known[number] for number in numbers]
        if not all(isinstance(value, int | float | np.number) for value in values):
            raise EvaluationError(
                f"{self.label}: '{self._score}' is no number an example",
                hint=f"say as score one of {', '.join(samples[0]['metrics'])}",
            )
        return checked(np.multiply(values, self._sign), SCORE, len(values))

    def _choose_metric(self, task: str, metric: str | None) -> None:
        better = self._task.higher_is_better()
        if self._score is None:
            self._score = next(iter(better), None)
        if self._score not in better:
            known = ", ".join(better)
            raise InputError(f"score: task '{task}' has no metric '{self._score}', but {known}")
        self.label += f" {self._score}"
        shown = "accuracy" if self._score in _RIGHT else SCORE if better[self._score] else LOSS
        self.metric = metric or shown
        self._sign = 1.0 if better[self._score] else -1.0

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """In the root folder, without progress and logs."""
        import datasets

        was = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            with contextlib.chdir(self._root), quiet_library("transformers"):
                yield
        finally:
            if not was:
                datasets.enable_progress_bars()
