"""``stockpot tangent``: train components, compose them, see how well the composition does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.groups import CommandGroup
from stockpot.cli.landing import Landing
from stockpot.cli.options import (
    AllowCode,
    DryRun,
    InRegistry,
    Overwrite,
    SkipCorrupt,
    Workers,
    check_tangent_packages,
)
from stockpot.cli.output import Output
from stockpot.reading import read_json

if TYPE_CHECKING:
    from stockpot.tangent.schema import CompositionScores, TangentResults

tangent_app = CommandGroup(
    "tangent", "Contributions that can be added, scaled, taken away and forgotten."
)

Recipe = Annotated[
    Path, typer.Argument(help="The recipe, a YAML file, or - for stdin.", show_default=False)
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="uniform, sum, examples, learnt, 0.5,0.3,0.2 or north=0.5,south=0.5 "
        "[default: uniform for deltas, sum for statistics].",
        show_default=False,
    ),
]


@tangent_app.command("train")
def train_command(
    recipe: Recipe,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for head and components.")
    ] = Path("tangent"),
    only: Annotated[
        list[str] | None, typer.Option(help="Train only the component of this name; repeatable.")
    ] = None,
    workers: Workers = Workers(),
    registry: InRegistry = None,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    readmit: Annotated[
        bool, typer.Option("--readmit", help="Take back rows that were forgotten in this folder.")
    ] = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Train one component for each part of the data, all from one head.

    Run again after an interruption: finished components are not trained again.
    """

    check_tangent_packages(recipe, *workers.extras())
    from stockpot.tangent.run import plan_recipe, train

    if dry_run:
        planned = plan_recipe(recipe, only or (), skip_corrupt=skip_corrupt)
        rows = [
            f"{p.name}: {p.examples} examples of {p.classes} classes, {p.steps} steps"
            for p in planned
        ]
        out.data({"components": [vars(p) for p in planned]}, "\n".join(rows))
        return
    landing = Landing(registry)
    done = train(
        recipe,
        output,
        only=only or (),
        **workers.options(),
        skip_corrupt=skip_corrupt,
        overwrite=overwrite,
        readmit=readmit,
        quiet=out.silent,
    )
    landing.add(output)
    note_entries(output, landing.value)
    for note in done.results.notes:
        out.say(f"note: {note}")
    out.data({**done.results.to_json(), **landing.value}, _component_table(done.results))
    out.say(f"components: {output / 'components'}")
    landing.finish(out)


@tangent_app.command("compose")
def compose_command(
    components: Annotated[
        list[Path],
        typer.Argument(metavar="COMPONENT", help="Files, or folders of them.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The composed component.")] = Path(
        "composed.safetensors"
    ),
    weights: Weights = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave this component out; repeatable.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="With --weights learnt: where the validation rows are.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="With --weights learnt: the folder `train` wrote.")
    ] = None,
    registry: InRegistry = None,
    readmit: Annotated[
        bool, typer.Option("--readmit", help="Take components that were forgotten.")
    ] = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Sum components into one, for the cost of one; their order changes no byte."""
    from stockpot.tangent.run import run_of
    from stockpot.tangent.verbs import compose

    landing = Landing(None if dry_run else registry)
    composed = compose(
        components,
        output,
        weights=weights,
        without=without or (),
        recipe=recipe,
        run=run,
        readmit=readmit,
        dry_run=dry_run,
    )
    if not dry_run:
        landing.add(*dict.fromkeys(map(run_of, components)), output)
    terms = composed.settings["composed"]
    value = {"output": str(output), "digest": composed.digest, "terms": terms, **landing.value}
    out.data(value, "\n".join(f"{term['weight']:+.4f}  {term['task']}" for term in terms))
    if not dry_run:
        out.say(f"composed: {output}")
    landing.finish(out)


@tangent_app.command("eval")
def eval_command(
    recipe: Recipe,
    run: Annotated[
        Path, typer.Argument(help="The folder `stockpot tangent train` wrote.", show_default=False)
    ],
    components: Annotated[
        list[Path] | None,
        typer.Option("--component", "-c", help="These files instead of all; repeatable."),
    ] = None,
    weights: Weights = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave this component out; repeatable.")
    ] = None,
    skip_corrupt: SkipCorrupt = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Accuracy of a composition on the rows that no component has seen."""

    check_tangent_packages(recipe)
    from stockpot.tangent.verbs import evaluate

    done = evaluate(
        recipe,
        run,
        components=components or (),
        weights=weights,
        without=without or (),
        skip_corrupt=skip_corrupt,
    )
    out.data(done.to_json(), _evaluation(done))


def note_entries(run: Path, landed: dict[str, Any]) -> None:
    """Note in a run's inventory what went into a registry, so that forgetting finds it there."""
    from stockpot.tangent.forgetting.inventory import Derived, record
    from stockpot.tangent.schema import TangentResults

    registry = landed.get("registry")
    if registry is None or not (run / "components.json").is_file():
        return
    value = read_json(run / "components.json")
    tasks = [one.name for one in TangentResults.read(value).components]
    record(
        run,
        [
            Derived(path=registry["place"], kind="registry entry", shards=(task,), id=model["id"])
            for model in registry["models"]
            for task in tasks
            if model["kind"] == "component" and model["name"].endswith(f": {task}")
        ],
    )


def _component_table(results: TangentResults) -> str:
    rows = []
    for one in results.components:
        value = one.metrics.get("validation_accuracy")
        shown = f"  validation {100 * value:.1f} %" if value is not None else ""
        rows.append(f"{one.name}: {one.examples} examples{shown}  {one.digest[:12]}")
    return "\n".join(rows)


def _evaluation(done: CompositionScores) -> str:
    rows = [f"composed  {100 * done.accuracy:5.1f} %  ({done.examples} test examples)"]
    if done.task_incremental is not None:
        rows.append(f"  knowing the task  {100 * done.task_incremental:5.1f} %")
    rows += [f"  {name}  {100 * value:5.1f} %" for name, value in done.by_domain.items()]
    if done.base_accuracy is not None:
        rows.append(f"base      {100 * done.base_accuracy:5.1f} %")
    for one in done.components:
        rows.append(f"{one.weight:+.3f} {one.name}  alone {100 * one.accuracy:5.1f} %")
    return "\n".join(rows)
