"""Forget components of a folder that ``stockpot tangent train`` wrote, and check a certificate."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import InputError
from stockpot.files import write_json
from stockpot.provenance import RunModel, read_models, write_models
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Rule
from stockpot.tangent.forgetting.certificate import AuditData, certify
from stockpot.tangent.forgetting.schema import Certificate, CertificateCheck, HeldCheck
from stockpot.tangent.jobs import COMPONENT
from stockpot.tangent.opened import Opened, open_run
from stockpot.tangent.run import file_name, load_components, retrain as train_again
from stockpot.tangent.schema import TangentResults


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
    certificate: str | Path | None = None,
    weights: Rule | None = None,
    retrain: bool = False,
    keep: bool = False,
    quiet: bool = False,
) -> Forgotten:
    """Remove components from ``run``, and write a certificate of what is left of them.

    ``recipe`` and ``run`` as for ``train``; ``names``: tasks of components; ``weights``: by default
    the composer's own rule. With ``retrain`` the
    remaining components are trained again from nothing and compared. The component's file, the job
    it came from and the cached activations, which hold its rows, are deleted after the certificate
    is written, unless ``keep``. The certificate's default place is ``run/forgotten-NAME.json``.

    Raises ``InputError`` for unknown names, or when no component would be left.
    """
    recipe, run = Path(recipe), Path(run)
    opened = open_run(recipe, run)
    components = load_components([run])
    known = {component.task for component in components}
    for name in names:
        if name not in known:
            raise InputError(
                f"{run} has no component '{name}'", hint=f"it has {', '.join(sorted(known))}"
            )
    if not names or len(set(names)) == len(components):
        raise InputError("forgetting needs a component to remove and one to keep")
    retrained, seconds = None, _seconds(run, known - set(names))
    if retrain:
        retrained, seconds = _retrain(recipe, sorted(known - set(names)), quiet=quiet)
    composed = opened.composer.compose(components, weights)
    _, made = certify(
        composed,
        list(names),
        evidence(opened, names),
        retrained=retrained,
        training_seconds=seconds,
    )
    made = made.model_copy(update={"title": opened.recipe.title})
    path = Path(certificate or run / f"forgotten-{file_name('-'.join(names))}.json")
    made.save(path)
    deleted = () if keep else _delete(run, set(names))
    return Forgotten(made, path, deleted)


def verify(
    certificate: str | Path,
    *,
    recipe: str | Path | None = None,
    run: str | Path | None = None,
    retrain: bool = False,
    quiet: bool = False,
) -> CertificateCheck:
    """Check a certificate: alone, against the components in ``run``, and by training anew.

    Alone: its own hash, and that it reports no difference. With ``recipe`` and ``run``: that what
    was removed is no longer there, that the kept components are those it names, and that composing
    them gives the model it names. With ``retrain``: that components trained from nothing on the
    remaining data are bit for bit the kept ones.
    Raises ``InputError`` for a file that is no certificate, or a check that lacks what it needs.
    """
    made, whole = Certificate.load(Path(certificate))
    checks = [
        ("the certificate's hash fits its content", whole),
        ("it reports a model with the bits of one that never had the component", made.exact),
    ]
    if retrain and (recipe is None or run is None):
        raise InputError("training anew needs the recipe", hint="give --recipe and --run")
    if recipe is not None and run is not None:
        recipe, run = Path(recipe), Path(run)
        opened = open_run(recipe, run)
        found = load_components([run])
        present = {component.digest for component in found}
        kept = sorted(one.digest for one in made.kept)
        gone = [one.digest for one in made.removed]
        checks.append(("what was removed is not in the folder", not present & set(gone)))
        complete = sorted(present & set(kept)) == kept
        checks.append(("the kept components are those it names", complete))
        if complete:
            rest = [component for component in found if component.digest in set(kept)]
            composed = opened.composer.compose(rest, _weights(made, rest))
            same = composed.digest == made.after
            checks.append(("composing them gives the model it names", same))
        if retrain:
            tasks = sorted(one.name for one in made.kept)
            again, _ = _retrain(recipe, tasks, quiet=quiet)
            equal = sorted(component.digest for component in again) == kept
            checks.append(("training the rest anew gives the same components, bit by bit", equal))
    return CertificateCheck(
        holds=all(held for _, held in checks),
        checks=tuple(HeldCheck(check=words, holds=held) for words, held in checks),
    )


def evidence(opened: Opened, names: Sequence[str]) -> AuditData:
    """Training rows of the components ``names``, and the recipe's test rows."""
    shards = {shard.name: shard for shard in opened.division.shards}
    members = [shards[name].train for name in names]
    test = [rows for rows in opened.division.test.values() if len(rows)]
    return AuditData(
        opened.feed,
        opened.task.labels,
        np.sort(np.concatenate(members)),
        np.sort(np.concatenate(test)),
    )


def _weights(made: Certificate, rest: Sequence[Component]) -> Any:
    if isinstance(made.weights, str):
        return made.weights
    by_digest = {one.digest: w for one, w in zip(made.kept, made.weights, strict=True)}
    return [by_digest[component.digest] for component in rest]


def _retrain(
    recipe: Path, names: Sequence[str], *, quiet: bool
) -> tuple[list[Component], float | None]:
    """The components ``names`` from nothing, in a folder of their own, and how long it took."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        done = train(recipe, Path(scratch), only=names, backend="serial", quiet=quiet)
        return load_components(done.components), _seconds(Path(scratch), set(names))


def _jobs(run: Path) -> dict[Path, str]:
    """Folders of finished component jobs, and the tasks of their components."""
    files = sorted((run / "work" / "jobs").glob(f"*/{COMPONENT}"))
    return {file.parent: Component.load(file).task for file in files}


def _seconds(run: Path, names: set[str]) -> float | None:
    """What training these components took, where ``run`` still knows."""
    found = {
        task: float(json.loads((folder / "done.json").read_text(encoding="utf-8"))["seconds"])
        for folder, task in _jobs(run).items()
        if task in names
    }
    return sum(found.values()) if set(found) == names else None


def _delete(run: Path, names: set[str]) -> tuple[Path, ...]:
    """Everything in ``run`` that holds a removed component or its rows."""
    gone = [
        file
        for file in sorted((run / "components").glob("*.safetensors"))
        if Component.load(file).task in names
    ]
    gone += [folder for folder, task in _jobs(run).items() if task in names]
    gone += [file.parent for file in sorted((run / "work" / "jobs").glob("*/activations.bin"))]
    gone += [folder for folder in (run / "work" / "partial",) if folder.exists()]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    listing = run / "components.json"
    if listing.is_file():
        listed = TangentResults.read(json.loads(listing.read_text(encoding="utf-8")))
        rest = tuple(one for one in listed.components if one.name not in names)
        write_json(listing, listed.model_copy(update={"components": rest}).to_json())
    models = [made for made in read_models(run) if not _is_of(made, names)]
    if models:
        write_models(run, models)
    return tuple(gone)


def _is_of(made: RunModel, names: set[str]) -> bool:
    record = made.record
    return record is not None and record.kind == "component" and record.name in names
