"""From finished jobs to ``results.json``: numbers, intervals, reasons, and the family tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from pydantic import JsonValue, TypeAdapter

from stockpot.evaluation.claims import Claim, compare_all
from stockpot.evaluation.connectivity import barrier
from stockpot.evaluation.crossed import Cell as Where
from stockpot.evaluation.intervals import Estimate, paired_bootstrap
from stockpot.evaluation.metrics import METRICS, Kind, Metric, constant_answer
from stockpot.execution import Job
from stockpot.provenance import versions
from stockpot.reading import read_json
from stockpot.recycling.cells import judged_on, trained_on, why_trained_on
from stockpot.recycling.choice import PROBE, CandidateRow, KeptModel
from stockpot.recycling.contents import content_of
from stockpot.recycling.cost import training_cost
from stockpot.recycling.diagnoses import average_claims, diagnose_cell
from stockpot.recycling.differences import differences
from stockpot.recycling.examine import Examined
from stockpot.recycling.family import family, member_counts
from stockpot.recycling.judging import other_metrics
from stockpot.recycling.metrics import JobMetrics, read_metrics
from stockpot.recycling.plan import BASE, Cell, Plan, Run
from stockpot.recycling.protocols import PROTOCOLS, Protocol
from stockpot.recycling.recipe import Recipe
from stockpot.recycling.schema import (
    BackboneResult,
    CandidateResult,
    CellResult,
    Curve,
    Distance,
    DiversityResult,
    FinalResult,
    MetricWords,
    ModelResult,
    RecycleResults,
    RunCounts,
    RunResult,
    TableRow,
    TaskResult,
    WildResult,
)
from stockpot.tasks import Split, Task, part_counts, split_task
from stockpot.training.rows import read_outputs

Folders = Mapping[Job, Path]
Scores = np.ndarray
ByColumn = dict[tuple[str, int], Scores]
CONSTANT = "constant"
CONSTANT_LABELS: dict[Kind, str] = {
    "classification": "always the most frequent class of these rows",
    "regression": "always the mean of these rows",
}
_CURVES = TypeAdapter(list[Curve])


@dataclass
class CellData:
    """Everything about one cell that is needed more than once."""

    cell: Cell
    split: Split
    labels: dict[str, np.ndarray]
    columns: dict[str, str]
    metric: Metric
    folders: Folders

    def metrics(self, job: Job) -> JobMetrics:
        return read_metrics(self.folders[job])

    def test_outputs(self, job: Job, file: str) -> dict[str, np.ndarray]:
        """Predictions on the test rows, by the domains that are tested."""
        outputs = read_outputs(self.folders[job] / file)
        return {name: outputs[f"test/{name}"] for name in self.labels}

    def protocol_scores(self, name: str, metric: Metric | None = None) -> ByColumn:
        """Score of every test row by the table's column and the trial; the mean over runs of a
        protocol that combines none.

        By the recipe's metric, or by ``metric``.
        """
        protocol = PROTOCOLS[name]
        if protocol.combine != "each":
            outputs = [self.test_outputs(self.cell.models[name], "outputs.npz")]
        else:
            runs = self.cell.runs[protocol.pool]
            outputs = [self.test_outputs(run.job, "outputs-best.npz") for run in runs]
        scores = [self.scores(one, metric) for one in outputs]
        return {
            (column, self.cell.trial): np.asarray(np.mean([one[domain] for one in scores], axis=0))
            for domain, column in self.columns.items()
        }

    def strata(self, name: str, metric: Metric | None = None) -> dict[Where, dict[str, Scores]]:
        """The same by this cell, and inside it by the domain that is tested: one training."""
        whole = self.protocol_scores(name, metric)
        return {
            self.where: {
                domain: whole[(column, self.cell.trial)] for domain, column in self.columns.items()
            }
        }

    @property
    def where(self) -> Where:
        """What was held out, and the trial."""
        return str(self.cell.held_out), self.cell.trial

    def validated(self, job: Job) -> int:
        """Number of validation rows of a run."""
        outputs = read_outputs(self.folders[job] / "outputs-best.npz")
        return sum(len(v) for name, v in outputs.items() if name.startswith("validation/"))

    def scores(
        self, outputs: Mapping[str, np.ndarray], metric: Metric | None = None
    ) -> dict[str, Scores]:
        """Score of every test row, by domain."""
        metric = metric or self.metric
        return {
            name: metric.row_scores(values, self.labels[name]) for name, values in outputs.items()
        }


def limited(task: Task, plan: Plan) -> Task:
    """The task as the jobs of a plan see it, with at most the recipe's number of rows."""
    from stockpot.training.rows import limit_task

    data = plan.cells[0].probe.arguments["data"]
    return task if data["limit"] is None else limit_task(task, data["limit"], data["seed"])


def collect(
    recipe: Recipe,
    examined: Examined,
    plan: Plan,
    folders: Folders,
    choice: KeptModel,
    digest: str,
) -> RecycleResults:
    """All results, which the report draws."""
    task, body = examined.task, examined.backbone
    small = limited(task, plan)
    metric, beside = METRICS[examined.facts.metric], other_metrics(recipe, task.kind)
    cells = _read(plan, small, metric, folders)
    return RecycleResults(
        recipe_digest=digest,
        version=RecycleResults.current,
        title=recipe.title,
        task=TaskResult(
            name=task.name,
            kind=task.kind,
            metric=metric.name,
            metrics={each.name: _metric_words(each) for each in (metric, *beside)},
            domains=task.domains,
            classes=task.classes,
            examples={name: int(count) for name, count in task.counts().items()},
            skipped=task.skipped,
            judged_on=judged_on(plan.cells[0].domains),
            splits=None if task.splits is None else part_counts(task.splits),
            groups=None if task.groups is None else len(np.unique(task.groups)),
            shared=task.shared or None,
        ),
        backbone=BackboneResult(
            kind=recipe.backbone.kind,
            name=Path(recipe.backbone.name).name.rpartition(":")[2],
            parameters=sum(each.numel() for each in body.network.parameters()),
            trained_parameters=sum(
                each.numel() for each in body.network.parameters() if each.requires_grad
            ),
        ),
        cells=tuple(_cell(recipe, data, len(cells)) for data in cells),
        table=tuple(_table(recipe, cells, beside)),
        averages=average_claims(cells),
        lineage=family(recipe, plan, folders, choice.protocol),
        wild=tuple(
            WildResult(name=name, **vars(evidence), doubt=evidence.doubt)
            for name, evidence in examined.lineage.items()
        ),
        final=_final(recipe, plan, choice, folders, cells),
        recipe=yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        versions=versions("torch", "transformers", "timm", "accelerate"),
        seconds=round(sum(_seconds(folders[job]) for job in set(folders)), 1),
    )


def _metric_words(metric: Metric) -> MetricWords:
    return MetricWords(
        label=metric.label, unit=metric.unit, higher_is_better=metric.higher_is_better
    )


def _read(plan: Plan, task: Task, metric: Metric, folders: Folders) -> list[CellData]:
    """Every cell of the comparison with its split and its columns of the table.

    A column is a domain; it says what was held out with it where other cells test it as well.
    """
    splits = [split_task(task, **cell.probe.arguments["split"]) for cell in plan.cells]
    testers: dict[str, set[str | None]] = {}
    for cell, split in zip(plan.cells, splits, strict=True):
        for domain in split.test:
            testers.setdefault(domain, set()).add(cell.held_out)
    cells = []
    for cell, split in zip(plan.cells, splits, strict=True):
        columns = {
            name: name if len(testers[name]) == 1 else f"{name} (held out: {cell.held_out})"
            for name in split.test
        }
        labels = {name: task.labels[rows] for name, rows in split.test.items()}
        cells.append(CellData(cell, split, labels, columns, metric, folders))
    return cells


def _cell(recipe: Recipe, data: CellData, cells: int) -> CellResult:
    cell = data.cell
    seen: dict[Job, RunResult] = {}
    for runs in cell.runs.values():
        for run in runs:
            seen.setdefault(run.job, _run(run, data))
    connectivity: list[Curve] = []
    if cell.connectivity is not None:
        path = data.folders[cell.connectivity] / "connectivity.json"
        connectivity = _CURVES.validate_json(path.read_bytes())
    shown = {name: job for name, job in cell.models.items() if name in recipe.protocol_names}
    models = [_model(PROTOCOLS[name], job, data) for name, job in shown.items()]
    diagnoses = diagnose_cell(recipe, data, connectivity, cells)
    parts = ("train", "validation", "test")
    return CellResult(
        held_out=cell.held_out,
        held_out_domains=cell.domains,
        judged_on=judged_on(cell.domains),
        examples={
            part: {name: len(rows) for name, rows in getattr(data.split, part).items()}
            for part in parts
        },
        trial=cell.trial,
        runs=tuple(seen.values()),
        models=tuple(models),
        connectivity=(*connectivity, *_frontiers(models)),
        diversity=tuple(
            _diversity(PROTOCOLS[each.protocol], each.evidence)
            for each in diagnoses
            if each.protocol in ("soup_uniform", "ratatouille_uniform")
        ),
        diagnosis=tuple(diagnoses),
    )


def _frontiers(models: Sequence[ModelResult]) -> list[Curve]:
    """What WiSE-FT gives at every coefficient, as a path from the base to the run, on all rows."""
    paths = []
    for model in models:
        frontier = [point for point in model.how.frontier if point.loss is not None]
        if frontier and len(frontier) == len(model.how.frontier):
            at = [point.coefficient for point in frontier]
            inside = [point.validation or 0.0 for point in frontier]
            outside = [point.held_out or 0.0 for point in frontier]
            paths.append(
                Curve(
                    a=BASE,
                    b=model.members[0],
                    kind="base to best run",
                    lambdas=tuple(at),
                    id=tuple(inside),
                    ood=tuple(outside),
                    barrier_id=barrier(at, inside),
                    barrier_ood=barrier(at, outside),
                )
            )
    return paths


def _run(run: Run, data: CellData) -> RunResult:
    metrics = data.metrics(run.job)
    return RunResult(
        id=run.name,
        label=run.name,
        pool=run.pool,
        init=run.init,
        hyperparameters=dict(run.hyperparameters),
        id_accuracy=metrics.main.id_accuracy,
        accuracy=metrics.main.tested,
        steps=metrics.steps,
        seconds=metrics.seconds,
        history=metrics.history,
        diverged=metrics.diverged,
    )


def _model(protocol: Protocol, job: Job, data: CellData) -> ModelResult:
    metrics = data.metrics(job)
    steps, seconds = training_cost(protocol, job, data.folders)
    members = metrics.members
    return ModelResult(
        protocol=protocol.name,
        label=protocol.label,
        selection=protocol.selection,
        members=members,
        # What pools trials was trained on rows that this trial holds back for validation.
        id_accuracy=None if protocol.over_trials else metrics.main.id_accuracy,
        accuracy=metrics.main.tested,
        steps=steps,
        seconds=seconds,
        forward_cost=max(1, len(members)) if protocol.combine == "ensemble" else 1,
        oracle=protocol.group == "oracle",
        how=metrics.how,
    )


def _diversity(protocol: Protocol, evidence: Mapping[str, JsonValue]) -> DiversityResult:
    own = {name: evidence.get(name) for name in DiversityResult.model_fields if name != "pool"}
    return DiversityResult.model_validate({"pool": protocol.pool, **own})


def _table(recipe: Recipe, cells: Sequence[CellData], beside: Sequence[Metric]) -> list[TableRow]:
    """One row per protocol, with intervals over domains and the difference to the reference."""
    if not cells:
        return []
    metric = cells[0].metric
    scores: dict[Metric, dict[str, ByColumn]] = {}
    trained: dict[str, dict[Where, dict[str, Scores]]] = {}
    costs: dict[str, list[tuple[float, float, int]]] = {}
    for data in cells:
        for name in _protocols_of(recipe, data):
            for one in dict.fromkeys((metric, *beside)):
                own = scores.setdefault(one, {}).setdefault(name, {})
                own.update(data.protocol_scores(name, one))
            trained.setdefault(name, {}).update(data.strata(name))
            costs.setdefault(name, []).append(_cost(name, data))
    against = next(
        (name for name in ("soup_uniform", "erm", "linear_probe") if name in costs), None
    )
    estimates = _estimates(recipe, cells, scores)
    compared = differences(
        trained,
        scores[metric],
        against,
        metric=metric.name,
        rows=judged_on(cells[0].cell.domains),
        labels={name: PROTOCOLS[name].label for name in costs},
    )
    rows = []
    for name, estimate in estimates[metric].items():
        protocol = PROTOCOLS[name]
        steps, seconds, _ = np.mean(costs[name], axis=0)
        rows.append(
            TableRow(
                protocol=name,
                label=protocol.label,
                group=protocol.group,
                steps=float(steps),
                seconds=float(seconds),
                forward_cost=max(forward for *_, forward in costs[name]),
                domains=estimate.domains,
                mean=estimate.overall.mean,
                low=estimate.overall.low,
                high=estimate.overall.high,
                difference=compared[name].difference,
                domain_differences=compared[name].domain_differences,
                covers=estimate.covers,
                also={each.name: estimates[each][name].overall for each in beside},
            )
        )
    return rows


def _estimates(
    recipe: Recipe, cells: Sequence[CellData], scores: Mapping[Metric, Mapping[str, ByColumn]]
) -> dict[Metric, dict[str, Estimate]]:
    """Of every metric and protocol, over the table's columns."""
    labels = {
        column: data.labels[domain] for data in cells for domain, column in data.columns.items()
    }
    return {
        metric: paired_bootstrap(
            own,
            resamples=recipe.resamples,
            seed=recipe.seed,
            metric=metric.name,
            within=metric.scores_within,
            strata={column: metric.strata(rows) for column, rows in labels.items()},
        )
        for metric, own in scores.items()
    }


def _protocols_of(recipe: Recipe, data: CellData) -> list[str]:
    """The protocols that a cell counts for: those over trials have one model for all trials."""
    first = data.cell.trial == 0
    return [name for name in recipe.protocol_names if first or not PROTOCOLS[name].over_trials]


def _cost(name: str, data: CellData) -> tuple[float, float, int]:
    """Steps, seconds and forward passes that a protocol costs in one cell."""
    protocol = PROTOCOLS[name]
    if protocol.combine == "each":
        runs = [data.metrics(run.job) for run in data.cell.runs[protocol.pool]]
        steps, seconds = [run.steps for run in runs], [run.seconds for run in runs]
        return float(np.mean(steps)), float(np.mean(seconds)), 1
    model = _model(protocol, data.cell.models[name], data)
    return model.steps, model.seconds, model.forward_cost


def _claims(cells: Sequence[CellData], kept: str) -> tuple[tuple[Claim, ...], Claim | None]:
    """A protocol against no fine-tuning and against one, and against a constant answer, on rows
    that chose nothing.
    """
    names = [kept, *(name for name in ("linear_probe", "single") if name != kept)]
    if not all(data.cell.runs.get("plain") for data in cells):
        names.remove("single")
    scores: dict[str, dict[Where, dict[str, Scores]]] = {name: {} for name in names}
    for data in cells:
        for name in names:
            if PROTOCOLS[name].over_trials and data.cell.trial > 0:
                continue
            scores[name] |= data.strata(name)
    metric = cells[0].metric
    against = partial(compare_all, rows=judged_on(cells[0].cell.domains), metric=metric.name)
    labels = {name: PROTOCOLS[name].label for name in names}
    claims = against(scores, [(kept, other) for other in names[1:]], labels=labels)
    if metric.kind == "classification" and metric.name != "accuracy":
        return claims, None
    constant = {
        data.where: {
            domain: metric.row_scores(constant_answer(own, metric.kind), own)
            for domain, own in data.labels.items()
        }
        for data in cells
        if data.where in scores[kept]
    }
    labels[CONSTANT] = CONSTANT_LABELS[metric.kind]
    (lowest,) = against({**scores, CONSTANT: constant}, [(kept, CONSTANT)], labels=labels)
    return claims, lowest


def run_counts(plan: Plan, folders: Folders) -> RunCounts:
    """Of the runs on the target: how many there are, diverged, and of the others never got better
    on validation than what they started from.
    """
    jobs = {run.job for cell in plan.cells for runs in cell.runs.values() for run in runs}
    metrics = [read_metrics(folders[job]) for job in jobs]
    return RunCounts(
        total=len(metrics),
        no_better=sum(each.best_step == 0 and each.diverged is None for each in metrics),
        diverged=sum(each.diverged is not None for each in metrics),
    )


def _final(
    recipe: Recipe, plan: Plan, choice: KeptModel, folders: Folders, cells: Sequence[CellData]
) -> FinalResult:
    assert plan.final_cell is not None
    cell = plan.final_cell
    instead = content_of(choice.protocol, cell, folders).instead
    claims, constant = _claims(cells, PROBE if instead else choice.protocol)
    return FinalResult(
        protocol=choice.protocol,
        chosen=choice.chosen,
        best=choice.best,
        auto=choice.auto,
        candidates=tuple(_candidate(one) for one in choice.candidates),
        validation=choice.against,
        below=tuple(claim.against for claim in choice.below),
        label=PROTOCOLS[choice.protocol].label,
        folder="model",
        train_on=recipe.final.train_on,
        trained_on=trained_on(cell.held_out, cell.domains),
        why_trained_on=why_trained_on(cell.held_out, cell.domains, len(plan.cells)),
        why=choice.reason(),
        instead=instead,
        runs=run_counts(plan, folders),
        members=member_counts(plan, folders, choice.protocol),
        claims=claims,
        constant=constant,
    )


def _candidate(row: CandidateRow) -> CandidateResult:
    behind = Distance(mean=row.behind.mean, margin=row.behind.margin)
    return CandidateResult(**{**vars(row), "behind": behind}, level=row.is_level)


def _seconds(folder: Path) -> float:
    return float(read_json(folder / "done.json")["seconds"])
