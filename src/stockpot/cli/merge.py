"""``stockpot merge``: the weights of several models into one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stockpot.cli.landing import Landing
from stockpot.cli.options import (
    Address,
    DryRun,
    InRegistry,
    Jobs,
    Json,
    Overwrite,
    Quiet,
)
from stockpot.cli.output import Output
from stockpot.errors import InputError
from stockpot.system import usable_cores
from stockpot.yaml_lines import parse_yaml

if TYPE_CHECKING:
    from stockpot.merging import MergeReport, Spec
    from stockpot.merging.merge import Models


def merge_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="A recipe (YAML, ours or mergekit's; - for stdin), or models: folders, files, "
            "hub ids.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder, or one file NAME.safetensors."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Merge method [default: linear].")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="The model that all were fine-tuned from.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Parameter, such as density=0.3 or weights=[1,2]."),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(help="Tensors that do not fit: auto, mean, first or drop."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Type of the result [default: the models']")
    ] = None,
    align: Annotated[
        bool,
        typer.Option(
            "--align",
            help="First put hidden units in the order of the base's, or the first model's.",
        ),
    ] = False,
    vocabulary: Annotated[
        str | None,
        typer.Option(help="Give the result the tokens and tokenizer of this model."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Write a LoRA adapter of --base, of this rank at most."),
    ] = None,
    error: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="As --rank, by the relative error that an update may have."
        ),
    ] = None,
    space: Annotated[
        Literal["core", "weights"] | None,
        typer.Option(
            help="Where a method merges adapters for --rank: in Core Space (the default where all "
            "models are LoRA factors), or as whole weights."
        ),
    ] = None,
    recalibrate: Annotated[
        str | None,
        typer.Option(help="package.module:function that gives (model, batches) for BatchNorm."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu (no torch), or a torch device.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads, of large models processes [default: cores].")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Share the tensors out over workers: local processes, or ray for a cluster."
        ),
    ] = None,
    jobs: Jobs = None,
    address: Address = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of a folder.")] = "5GB",
    hash_parents: Annotated[
        bool, typer.Option("--hash/--no-hash", help="Record the parents' content hashes.")
    ] = True,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Merge NaN and infinity too.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Merge strangers, and models whose configs disagree."),
    ] = False,
    check_load: Annotated[
        bool,
        typer.Option(help="Have transformers or timm load the folder (no data) before it is kept."),
    ] = True,
    overwrite: Overwrite = False,
    registry: InRegistry = None,
    list_methods: Annotated[
        bool, typer.Option("--list-methods", help="Show methods and parameters, do nothing.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Combine models of one architecture and one ancestor, exactly and at the speed of the disk.

    stockpot merge recipe.yaml -o merged

    stockpot merge --method stock --base BASE A B -o merged
    """
    from stockpot.checkpoints.open import adapter_folder
    from stockpot.inspection.guarded import check_models, merge
    from stockpot.merging.job import aligned_spec
    from stockpot.merging.merge import read_spec

    out = Output(json=as_json, quiet=quiet)
    if list_methods:
        _show_methods(out)
        return
    if not models:
        raise InputError("nothing to merge", hint="give a recipe, or models and --method")
    changes = read_parameters(parameters or [])
    as_sum = method is None and base is None and _models(models) is models
    if rank is not None or error is not None:
        texts = {"dtype": dtype, "backend": backend, "recalibrate": recalibrate}
        rest = {"dry-run": dry_run, "overwrite": overwrite, "heads": as_sum and heads}
        rest |= {"align": align, "vocabulary": vocabulary}
        for option in (name for name, value in {**texts, **rest}.items() if value):
            raise InputError(f"--{option} has no effect on an adapter (--rank, --error)")
        if output is None:
            raise InputError("no output was given", hint="add -o FOLDER")
    as_adapter = method is not None and (rank is not None or error is not None)
    if space is not None and not as_adapter:
        raise InputError("--space is about adapters: it takes --method, and --rank or --error")
    if as_sum and rank is not None and output is not None:
        _add_adapters(out, models, output, rank, changes, registry, force=force)
        return
    if as_adapter and space != "weights" and output is not None:
        reason = _no_core_space(models, heads)
        if reason is None:
            sizes = {"method": method, "rank": rank, "error": error, "base": base, "force": force}
            _merge_cores(out, models, output, changes, registry, **sizes)
            return
        if space == "core":
            raise InputError(f"no Core Space: {reason}", hint="--space weights")
        if any(map(adapter_folder, models)):
            out.say(f"note: merged as whole weights: {reason}")
    spec = read_spec(
        _models(models),
        method,
        base,
        changes,
        heads=heads,  # type: ignore[arg-type]
        dtype=dtype,
    )
    if spec.rank is not None and rank is None:
        if dry_run or overwrite or backend or recalibrate or vocabulary or output is None:
            raise InputError("the recipe's 'rank' gives an adapter, which takes -o FOLDER alone")
        rank = spec.rank
    if align:
        spec = aligned_spec(spec)
    aside = dry_run or rank is not None or error is not None
    if aside and not force:
        check_models(spec)
    if (rank is not None or error is not None) and output is not None:
        _extract(out, replace(spec, force=force), output, rank, error, registry)
        return
    if dry_run:
        spec = replace(spec, force=force)
        if vocabulary is not None:
            from stockpot.merging.transplant import transplanted_spec

            spec = transplanted_spec(spec, vocabulary)
        _show_plan(out, spec)
        return
    if output is None:
        raise InputError("no output was given", hint="add -o FOLDER or -o FILE.safetensors")
    landing = Landing(registry)
    report = merge(
        spec,
        output=output,
        force=force,
        vocabulary=vocabulary,
        threads=threads,
        processes=threads or usable_cores(),
        device=device,
        backend=backend,
        jobs=jobs,
        address=address,
        allow_nonfinite=allow_nonfinite,
        check_load=check_load,
        max_shard_size=_bytes(max_shard_size),
        hash_parents=hash_parents,
        overwrite=overwrite,
        quiet=quiet or as_json,
    )
    if recalibrate is not None:
        from stockpot.merging.recalibrate import recalibrate_output

        layers = recalibrate_output(output, recalibrate)
        out.say(f"re-estimated the statistics of {layers} BatchNorm layers")
    for warning in report.warnings:
        out.say(f"note: {warning}")
    landing.add(output)
    out.data({"output": str(output), **report.to_json(), **landing.value}, _words(report, output))
    landing.finish(out)


def _models(sources: list[str]) -> Models:
    """The recipe, where one is given alone; else the models."""

    recipes = [source for source in sources if source == "-" or source.endswith((".yaml", ".yml"))]
    if recipes and len(sources) > 1:
        raise InputError("give one recipe, or models, not both")
    return recipes[0] if recipes else sources


def _show_plan(out: Output, spec: Spec) -> None:
    from stockpot.merging.job import MergeJob

    with MergeJob(spec) as job:
        tensors = [report.to_json() for report in job.plan.reports()]
        value = {
            "recipe": job.recipe(),
            "tensors": tensors,
            "dropped": job.plan.dropped,
            "warnings": job.plan.warnings,
        }
        count: dict[str, int] = {}
        for tensor in tensors:
            word = tensor["method"] if tensor["action"] == "merge" else tensor["action"]
            count[word] = count.get(word, 0) + 1
        lines = [f"{number} tensors: {word}" for word, number in count.items()]
        lines += [f"note: {warning}" for warning in job.plan.warnings]
        out.data(value, "\n".join(lines))


def _show_methods(out: Output) -> None:
    from stockpot.merging.method import available_methods, get_method, mergekit_methods

    methods = [get_method(name) for name in (*available_methods(), *mergekit_methods())]
    value = [
        {
            "name": method.name,
            "title": method.title,
            "formula": method.formula,
            "source": method.source,
            "base": method.base,
            "parameters": [
                {"name": p.name, "default": p.default, "range": p.range, "help": p.help}
                for p in method.parameters
            ],
        }
        for method in methods
    ]
    lines = []
    for method in methods:
        lines.append(f"{method.name}: {method.title}. {method.source}")
        lines.append(f"    {method.formula}")
        for p in method.parameters:
            default = "no default" if p.default is None else f"default {p.default}"
            lines.append(f"    {p.name} ({p.range}; {default}): {p.help}")
    out.data({"methods": value}, "\n".join(lines))


def _add_adapters(
    out: Output,
    sources: list[str],
    output: Path,
    rank: int,
    parameters: dict[str, Any],
    registry: str | None,
    *,
    force: bool,
) -> None:
    from stockpot.merging.lora import merge_adapters

    unknown = sorted(set(parameters) - {"weights"})
    if unknown:
        raise InputError(
            f"adding adapters takes weights only, not {unknown[0]}",
            hint="a method works on their models: add --method and --base",
        )
    landing = Landing(registry)
    weights = parameters.get("weights")
    errors = merge_adapters(sources, output, rank=rank, weights=weights, force=force)
    worst = max(errors.values(), default=0.0)
    landing.add(output)
    out.data(
        {"output": str(output), "rank": rank, "errors": errors, **landing.value},
        f"{output}: {len(errors)} updates at rank {rank}, largest relative error {worst:.3g}",
    )
    landing.finish(out)


def _no_core_space(models: list[str], heads: str | None) -> str | None:
    """Why these are not merged in Core Space; None where they are."""
    from stockpot.checkpoints.adapters import read_adapter
    from stockpot.checkpoints.open import adapter_folder
    from stockpot.merging.lora import more_than_factors

    if heads is not None:
        return "--heads is about whole weights"
    for model in models:
        folder = adapter_folder(model)
        if folder is None:
            return f"{model} is no adapter"
        if reason := more_than_factors(read_adapter(folder)):
            return reason
    return None


def _merge_cores(
    out: Output,
    sources: list[str],
    output: Path,
    parameters: dict[str, Any],
    registry: str | None,
    **options: Any,
) -> None:
    from stockpot.merging.lora import merge_adapters

    landing = Landing(registry)
    errors = merge_adapters(sources, output, **options, **parameters)
    worst, method = max(errors.values(), default=0.0), options["method"]
    landing.add(output)
    value = {"output": str(output), "method": method, "space": "core", "errors": errors}
    out.data(
        {**value, **landing.value},
        f"{output}: {len(errors)} updates by {method} in Core Space, "
        f"largest relative error {worst:.3g}",
    )
    landing.finish(out)


def _extract(
    out: Output,
    spec: Spec,
    output: Path,
    rank: int | None,
    error: float | None,
    registry: str | None,
) -> None:
    from stockpot.merging.extraction import write_adapter

    landing = Landing(registry)
    found = write_adapter(spec, output, rank=rank, error=error)
    landing.add(output)
    ranks = sorted(found.ranks.values())
    lines = [
        f"{output}: {len(ranks)} updates of rank {ranks[0]} to {ranks[-1]}, "
        f"largest relative error {found.worst:.3g}"
    ]
    if found.whole:
        lines.append(f"stored whole, being no matrices: {len(found.whole)} tensors")
    lines += [
        f"left out, as no adapter can hold it: '{name}' (changed by {change:.2%})"
        for name, change in found.left_out.items()
    ]
    value = {"output": str(output), **found.to_json(), **landing.value}
    out.data(value, "\n".join(lines))
    landing.finish(out)


def _words(report: MergeReport, output: Path) -> str:
    merged = [tensor for tensor in report.tensors if tensor.action == "merge"]
    text = f"{output}: {len(merged)} tensors by {report.method} in {report.seconds:.2f} s"
    ratios = [float(value) for value in report.fact("ratio").values()]
    if ratios:
        low, middle, high = min(ratios), sorted(ratios)[len(ratios) // 2], max(ratios)
        text += f"\nratio t: {low:.3f} to {high:.3f}, median {middle:.3f}"
    return text


def read_parameters(pairs: list[str]) -> dict[str, Any]:
    if not pairs:
        return {}

    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--set {pair}: expected name=value")
        try:
            values[name.strip()] = parse_yaml(text, name)
        except InputError:
            raise InputError(f"--set {pair}: the value cannot be read") from None
    return values


def _bytes(text: str) -> int:

    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    if not found or found[2] not in {*units, "B"} or not float(found[1]):
        raise InputError(f"--max-shard-size {text}: expected for instance 5GB")
    return max(int(float(found[1]) * units.get(found[2], 1)), 1)
