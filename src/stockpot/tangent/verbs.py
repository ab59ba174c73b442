"""What one does with trained components: sum them into one file, and see how well that does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stockpot.errors import InputError
from stockpot.tangent.accuracy import choose_weights, parse_weights
from stockpot.tangent.accuracy import evaluate as score
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Weights
from stockpot.tangent.forgetting.inventory import INVENTORY, Derived, record
from stockpot.tangent.forgetting.tombstones import Tombstones
from stockpot.tangent.lineage import sum_record
from stockpot.tangent.opened import open_run
from stockpot.tangent.run import keep_components, load_components, run_of
from stockpot.tangent.schema import CompositionScores
from stockpot.tangent.summing import aggregate, terms_of


def compose(
    components: Sequence[str | Path],
    output: str | Path,
    *,
    weights: str | None = None,
    without: Sequence[str] = (),
    recipe: str | Path | None = None,
    run: str | Path | None = None,
    readmit: bool = False,
    dry_run: bool = False,
) -> Component:
    """Sum components into one, for the cost of one; their order changes no byte.

    Args:
        components: files, or folders of them.
        output: the file to write; its name is the component's.
        weights: "uniform", "sum", "examples", "learnt", numbers such as "0.5,0.5" or
            "north=0.5,south=0.5"; None: "uniform" for deltas, "sum" for statistics.
        without: leave these components out, by name or digest.
        recipe, run: with "learnt": where the validation rows are, and the folder ``train`` wrote.
        readmit: take components that were forgotten in their folder, or in the output's.
        dry_run: write nothing.

    Raises ``InputError`` where no components are left, or the weights do not fit.
    """
    kept = keep_components(load_components([Path(path) for path in components]), without)
    if not kept:
        raise InputError("nothing to compose: no components are left")
    runs = {run_of(Path(path)) for path in components}
    if not readmit:
        for folder in {*runs, Path(output).parent}:
            Tombstones.read(folder).check(kept, folder)
    rule: Weights
    if weights == "learnt":
        if recipe is None or run is None:
            raise InputError("learnt weights need validation rows", hint="give --recipe and --run")
        rule = choose_weights(open_run(Path(recipe), Path(run)), kept, weights).weights
    else:
        weights = weights or ("uniform" if kept[0].kind == "delta" else "sum")
        rule = parse_weights(weights, kept)
    composed = aggregate(kept, rule, name=Path(output).stem)
    if not dry_run:
        for folder in runs:
            if (folder / INVENTORY).is_file():
                named = rule if isinstance(rule, str) else None
                record(folder, [_composition(folder, Path(output), composed, named)])
        composed.save(Path(output), sum_record(composed, kept))
    return composed


def _composition(folder: Path, output: Path, composed: Component, rule: str | None) -> Derived:
    """The entry of a composition in the inventory of a run that it has components of."""
    path, inside = output.resolve(), output.resolve().is_relative_to(folder.resolve())
    return Derived(
        path=path.relative_to(folder.resolve()).as_posix() if inside else str(path),
        kind="composition",
        shards=tuple(sorted({str(term["task"]) for term in terms_of(composed)})),
        digest=composed.digest,
        rule=rule,
    )


def evaluate(
    recipe: str | Path,
    run: str | Path,
    *,
    components: Sequence[str | Path] = (),
    weights: str | None = None,
    without: Sequence[str] = (),
    skip_corrupt: bool = False,
) -> CompositionScores:
    """Accuracy of a composition on the rows that no component has seen.

    ``run``: the folder ``train`` wrote; ``components``: these files instead of all. ``weights`` and
    ``without`` as for :func:`compose`.
    """
    opened = open_run(Path(recipe), Path(run), skip_corrupt=skip_corrupt)
    files = [Path(path) for path in components or [run]]
    kept = keep_components(load_components(files), without)
    return score(opened, kept, choose_weights(opened, kept, weights))


def show(components: Sequence[str | Path]) -> list[Component]:
    """Components of files, or of folders of them; a corrupted file is refused."""
    return load_components([Path(path) for path in components])
