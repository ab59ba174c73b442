"""What one does with trained components: sum them into one file, and see how well that does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stockpot.errors import InputError
from stockpot.tangent.accuracy import choose_weights, parse_weights
from stockpot.tangent.accuracy import evaluate as score
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Weights
from stockpot.tangent.lineage import sum_record
from stockpot.tangent.opened import open_run
from stockpot.tangent.run import keep_components, load_components
from stockpot.tangent.schema import CompositionScores
from stockpot.tangent.summing import aggregate


def compose(
    components: Sequence[str | Path],
    output: str | Path,
    *,
    weights: str | None = None,
    without: Sequence[str] = (),
    recipe: str | Path | None = None,
    run: str | Path | None = None,
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
        dry_run: write nothing.

    Raises ``InputError`` where no components are left, or the weights do not fit.
    """
    kept = keep_components(load_components([Path(path) for path in components]), without)
    if not kept:
        raise InputError("nothing to compose: no components are left")
    rule: Weights
    if weights == "learnt":
        if recipe is None or run is None:
            raise InputError("learnt weights need validation rows", hint="give --recipe and --run")
        rule = choose_weights(open_run(Path(recipe), Path(run)), kept, weights).weights
    else:
        default = "uniform" if kept[0].kind == "delta" else "sum"
        rule = parse_weights(weights or default, kept)
    composed = aggregate(kept, rule, name=Path(output).stem)
    if not dry_run:
        composed.save(Path(output), sum_record(composed, kept))
    return composed


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
