"""``stockpot tangent``: train components, compose them, see how well the composition does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stockpot.cli.options import (
    Address,
    AllowCode,
    Backend,
    DryRun,
    GpusPerJob,
    InRegistry,
    Jobs,
    Json,
    Overwrite,
    Quiet,
    SkipCorrupt,
    backend_extras,
    check_tangent_packages,
    choose_backend,
)

tangent_app = typer.Typer(
    name="tangent",
    help="Contributions that can be added, scaled, taken away and forgotten.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
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
    backend: Backend = "local",
    jobs: Jobs = None,
    address: Address = None,
    gpus_per_job: GpusPerJob = None,
    registry: InRegistry = None,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one component for each part of the data, all from one head.

    Run again after an interruption: finished components are not trained again.
    """
    from stockpot.cli.landing import Landing
    from stockpot.cli.output import Output

    check_tangent_packages(recipe, *backend_extras(backend, address, gpus_per_job))
    from stockpot.tangent.run import plan_recipe, train

    out = Output(json=as_json, quiet=quiet)
    if dry_run:
        planned = plan_recipe(recipe, only or (), skip_corrupt=skip_corrupt)
        rows = [
            f"{p['name']}: {p['examples']} examples of {p['classes']} classes, {p['steps']} steps"
            for p in planned
        ]
        out.data({"components": planned}, "\n".join(rows))
        return
    chosen = choose_backend(backend, jobs, address, gpus_per_job)
    landing = Landing(registry)
    done = train(
        recipe,
        output,
        only=only or (),
        backend=chosen,
        jobs=jobs,
        skip_corrupt=skip_corrupt,
        overwrite=overwrite,
        quiet=quiet or as_json,
    )
    landing.add(output)
    for note in done.results["notes"]:
        out.say(f"note: {note}")
    out.data({**done.results, **landing.value}, _component_table(done.results["components"]))
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
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sum components into one, for the cost of one; their order changes no byte."""
    from stockpot.cli.landing import Landing
    from stockpot.cli.output import Output
    from stockpot.errors import InputError
    from stockpot.tangent.aggregate import aggregate
    from stockpot.tangent.evaluate import choose_weights, parse_weights
    from stockpot.tangent.lineage import sum_record
    from stockpot.tangent.run import keep_components, load_components, open_run

    out = Output(json=as_json, quiet=quiet)
    found = keep_components(load_components(components), without or ())
    if not found:
        raise InputError("nothing to compose: no components are left")
    rule: Any
    if weights == "learnt":
        if recipe is None or run is None:
            raise InputError("learnt weights need validation rows", hint="give --recipe and --run")
        rule = choose_weights(open_run(recipe, run), found, weights).weights
    else:
        default = "uniform" if found[0].kind == "delta" else "sum"
        rule = parse_weights(weights or default, found)
    landing = Landing(None if dry_run else registry)
    composed = aggregate(found, rule, name=output.stem)
    if not dry_run:
        composed.save(output, sum_record(composed, found))
        landing.add(*dict.fromkeys(map(_run_of, components)), output)
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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy of a composition on the rows that no component has seen."""
    from stockpot.cli.output import Output

    check_tangent_packages(recipe)
    from stockpot.tangent.evaluate import choose_weights, evaluate
    from stockpot.tangent.run import keep_components, load_components, open_run

    out = Output(json=as_json, quiet=quiet)
    opened = open_run(recipe, run, skip_corrupt=skip_corrupt)
    found = keep_components(load_components(components or [run]), without or ())
    chosen = choose_weights(opened, found, weights)
    result = evaluate(opened, found, chosen.weights)
    out.data({**result, "weights": chosen.rule}, _evaluation(result))


def _run_of(components: Path) -> Path:
    """The folder that `train` wrote these into, which knows their base; else the file itself."""
    from stockpot.provenance import MODELS_NAME

    near = (components, *components.parents[:2])
    return next((place for place in near if (place / MODELS_NAME).is_file()), components)


def _component_table(components: list[dict[str, Any]]) -> str:
    rows = []
    for one in components:
        found = one["metrics"].get("validation_accuracy")
        told = f"  validation {100 * found:.1f} %" if found is not None else ""
        rows.append(f"{one['name']}: {one['examples']} examples{told}  {one['digest'][:12]}")
    return "\n".join(rows)


def _evaluation(result: dict[str, Any]) -> str:
    rows = [f"composed  {100 * result['accuracy']:5.1f} %  ({result['examples']} test examples)"]
    if "task_incremental" in result:
        rows.append(f"  knowing the task  {100 * result['task_incremental']:5.1f} %")
    rows += [f"  {name}  {100 * value:5.1f} %" for name, value in result["by_domain"].items()]
    if result["base_accuracy"] is not None:
        rows.append(f"base      {100 * result['base_accuracy']:5.1f} %")
    for one in result["components"]:
        rows.append(f"{one['weight']:+.3f} {one['name']}  alone {100 * one['accuracy']:5.1f} %")
    return "\n".join(rows)
