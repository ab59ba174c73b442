"""Forget components of a folder that ``stockpot tangent train`` wrote, or examples of one."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stockpot.backbones.folder import place_base
from stockpot.errors import InputError
from stockpot.execution import make_backend, run_all
from stockpot.outputs import WORK
from stockpot.reading import read_json
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Rule
from stockpot.tangent.forgetting.certificate import AuditData, certify
from stockpot.tangent.forgetting.contents import certificate_file, manifest, strangers
from stockpot.tangent.forgetting.erasure import Again, Erasure, erase
from stockpot.tangent.forgetting.examples import find_examples
from stockpot.tangent.forgetting.inventory import record
from stockpot.tangent.forgetting.schema import Certificate, RemovedExamples, SharedRows
from stockpot.tangent.forgetting.signing import sign as sign_file
from stockpot.tangent.forgetting.tombstones import Tombstones, make_tombstone
from stockpot.tangent.head import head_classes
from stockpot.tangent.jobs import COMPONENT, HEAD
from stockpot.tangent.lineage import find_parents
from stockpot.tangent.opened import Opened, open_run
from stockpot.tangent.plan import examine, plan
from stockpot.tangent.rows import shared_rows
from stockpot.tangent.run import (
    Trained,
    decoded_images,
    derived,
    load_components,
    place_component,
)
from stockpot.tangent.run import retrain as train_again

OUTSIDE = (
    "delete the source data, and backups and exports of it",
    "delete backups and copies of {run}, and earlier releases of models that were composed of it",
    "take models that were composed of it back from a hub, and tell those who have them",
)


@dataclass(frozen=True)
class Forgotten:
    """The certificate, where it lies, and the files that were deleted."""

    certificate: Certificate
    path: Path
    deleted: tuple[Path, ...]


def forget(
    recipe: str | Path,
    run: str | Path,
    names: Sequence[str],
    *,
    examples: Sequence[str] = (),
    certificate: str | Path | None = None,
    weights: Rule | None = None,
    retrain: bool = False,
    keep: bool = False,
    sign: str | Path | None = None,
    quiet: bool = False,
) -> Forgotten:
    """Remove components from ``run``, and write a certificate of what is left of them.

    ``recipe`` and ``run`` as for ``train``; ``names``: tasks of components; ``weights``: by default
    the composer's own rule. With ``examples`` only these go, from the one component named, which is
    made again without them: positions in the data, files of images, texts, or hashes of rows (8
    digits or more). With ``retrain`` the remaining components are trained again from nothing and
    compared. All that was derived from what is removed is deleted, or made again without it, and
    tombstones stop it from coming back, unless ``keep``. The certificate's default place is
    ``run/forgotten-NAME.json``; ``sign``: an SSH key to sign it.

    Raises ``InputError`` for unknown names or examples, or when nothing would be left.
    """
    recipe, run = Path(recipe), Path(run)
    opened = open_run(recipe, run)
    components = load_components([run])
    _check_names(run, names, components, examples)
    removal = _plan_removal(opened, run, components, names, examples)
    start, again = time.perf_counter(), None
    if examples:
        again = _again_without(recipe, run, names[0], removal.stones, quiet)
    took = time.perf_counter() - start
    instead = [] if again is None else [again.component]
    kept = [component for component in components if component.task not in names] + instead
    tasks = sorted(component.task for component in kept)
    retrained, seconds = None, _seconds(run, set(tasks))
    if retrain:
        retrained, seconds = retrain_kept(recipe, run, tasks, removal.stones, quiet=quiet)
    _, made = certify(
        opened.composer.compose(components, weights),
        list(names),
        evidence(opened, names, removal.rows if examples else None),
        retrained=retrained,
        training_seconds=seconds,
        instead=instead,
    )
    was = removal.removed[0].digest
    single = RemovedExamples(component=names[0], count=len(removal.rows), was=was, seconds=took)
    more = {"title": opened.recipe.title, "shared": removal.shared}
    made = made.model_copy(update=more | ({"examples": single} if examples else {}))
    path = Path(certificate or run / certificate_file(made))
    made.save(path)
    done = Erasure()
    if not keep:
        removal.stones.write(run)
        done = erase(run, removal.removed, kept, again)
        made = _with_erasure(made, run, kept, done, path)
        made.save(path)
    if sign is not None:
        sign_file(path, Path(sign))
    return Forgotten(made, path, tuple(done.deleted))


@dataclass(frozen=True, eq=False)
class _Removal:
    """What goes: components, rows of the task, all tombstones then, and rows that others have."""

    removed: list[Component]
    rows: np.ndarray
    stones: Tombstones
    shared: tuple[SharedRows, ...]


def _plan_removal(
    opened: Opened,
    run: Path,
    components: Sequence[Component],
    names: Sequence[str],
    examples: Sequence[str],
) -> _Removal:
    shards = {shard.name: shard for shard in opened.division.shards}
    for name in names:
        if name not in shards:
            raise InputError(
                f"the rows of component '{name}' are not among the data",
                hint="forget it first, and delete its data then: the certificate looks at both",
            )
    owned = {name: np.r_[shards[name].train, shards[name].validation] for name in shards}
    rows = np.concatenate([owned[name] for name in names])
    if examples:
        rows = find_examples(opened, shards[names[0]], examples)
    hashes = opened.division.hashes
    gone = {str(content) for content in hashes[rows]}
    shared = {
        both: gone & set(contents)
        for both, contents in shared_rows(owned, hashes).items()
        if set(both) & set(names) and set(both) - set(names) and gone & set(contents)
    }
    # Rows that a kept component has, too, may stay among the data.
    barred = gone.difference(*shared.values())
    date = time.strftime("%Y-%m-%d", time.gmtime())
    removed = [component for component in components if component.task in names]
    fresh = [make_tombstone(one, date, barred, examples=bool(examples)) for one in removed]
    return _Removal(
        removed,
        rows,
        Tombstones((*Tombstones.read(run).stones, *fresh)),
        tuple(SharedRows(names=both, rows=len(those)) for both, those in shared.items()),
    )


def _check_names(
    run: Path, names: Sequence[str], components: Sequence[Component], examples: Sequence[str]
) -> None:
    known = {component.task for component in components}
    for name in names:
        if name not in known:
            raise InputError(
                f"{run} has no component '{name}'", hint=f"it has {', '.join(sorted(known))}"
            )
    if examples and len(names) != 1:
        raise InputError("examples are forgotten from one component", hint="name one")
    if not names or (not examples and len(set(names)) == len(components)):
        raise InputError("forgetting needs a component to remove and one to keep")


def _with_erasure(
    made: Certificate, run: Path, kept: Sequence[Component], done: Erasure, path: Path
) -> Certificate:
    """What was done, what is left in the folder, and what people have to do."""
    by_name = {component.task: component for component in kept}
    besides = [path, path.with_suffix(".html")]
    unknown = [f"look at {words}" for words in strangers(run, by_name, besides)]
    words = [text.format(run=run.resolve().name) for text in OUTSIDE]
    return made.model_copy(
        update={
            "erased": tuple(done.erased),
            "files": manifest(run, besides),
            "outside": (*words, *done.outside, *unknown),
        }
    )


def evidence(opened: Opened, names: Sequence[str], members: np.ndarray | None = None) -> AuditData:
    """Training rows of the components ``names`` (or ``members``), and the recipe's test rows.

    Accuracy is told on the test rows of what is kept, which are there when the data is gone.
    """
    shards = {shard.name: shard for shard in opened.division.shards}
    if members is None:
        members = np.concatenate([shards[name].train for name in names])
    return AuditData(
        opened.feed,
        opened.task.labels,
        np.sort(members),
        test_rows(opened, names),
        test_rows(opened, ()),
    )


def test_rows(opened: Opened, without: Sequence[str]) -> np.ndarray:
    """Test rows of all domains but those ``without``; of all, where none would be left."""
    test = {name: rows for name, rows in opened.division.test.items() if len(rows)}
    kept = [rows for name, rows in test.items() if name not in without]
    return np.sort(np.concatenate(kept or list(test.values())))


def _again_without(recipe: Path, run: Path, name: str, stones: Tombstones, quiet: bool) -> Again:
    """Component ``name`` without forgotten rows. Of statistics only the blocks that held them are
    summed anew: the others' jobs have the names that they had."""
    with decoded_images(run, stones) as cache:
        examined = examine(recipe, cache, stones=stones)
        if examined.task.classes != head_classes(run / HEAD):  # a class went with another site
            examined = examine(recipe, cache, stones=stones, head=run / HEAD)
        (planned,) = plan(examined, str(cache.resolve()), [name])
        record(run, derived(planned))
        workers = make_backend("serial", 1, threads=examined.recipe.threads)
        folders = run_all("component", [planned.job], run / WORK, workers, quiet=quiet)
    base = place_base(examined.backbone, examined.root, run)
    parents = find_parents(base, run / HEAD)
    blocks = {
        Component.load(folders[job] / COMPONENT).digest
        for job in planned.job.inputs.values()
        if job.function.endswith(":block")
    }
    component = Component.load(folders[planned.job] / COMPONENT)
    place = functools.partial(place_component, examined, run, planned, folders, parents)
    return Again(component, blocks, place)


def retrain_kept(
    recipe: Path, run: Path, names: Sequence[str], stones: Tombstones, *, quiet: bool
) -> tuple[list[Component], float | None]:
    """The components ``names`` from nothing, in a folder of their own, and how long it took."""
    with retrained(recipe, run, names, stones, quiet=quiet) as done:
        return load_components(done.components), _seconds(done.folder, set(names))


@contextmanager
def retrained(
    recipe: Path, run: Path, names: Sequence[str], stones: Tombstones, *, quiet: bool
) -> Iterator[Trained]:
    """The folder of components that were trained from nothing, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        yield train_again(recipe, run, Path(scratch), sorted(names), stones, quiet=quiet)


def _seconds(run: Path, names: set[str]) -> float | None:
    """What training these components took, where ``run`` still knows: all their jobs together."""
    seconds: dict[str, float] = {}
    for file in sorted((run / WORK / "jobs").glob(f"*/{COMPONENT}")):
        done = read_json(file.parent / "done.json")
        task = Component.load(file).task
        seconds[task] = seconds.get(task, 0.0) + float(done["seconds"])
    return sum(seconds[name] for name in names) if names <= set(seconds) else None
