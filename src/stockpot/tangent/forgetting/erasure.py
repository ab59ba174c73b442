"""Delete all that was derived from removed components, and make again what others need."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stockpot.errors import StockpotError
from stockpot.files import write_json
from stockpot.outputs import WORK
from stockpot.provenance import RunModel, read_models, read_record, write_models, write_record
from stockpot.reading import read_json
from stockpot.tangent.component import Component
from stockpot.tangent.forgetting.contents import derived_of
from stockpot.tangent.forgetting.inventory import Derived, read_inventory, write_inventory
from stockpot.tangent.forgetting.schema import Erased
from stockpot.tangent.jobs import COMPONENT, HEAD
from stockpot.tangent.lineage import data_of, sum_record
from stockpot.tangent.run import RESULTS
from stockpot.tangent.schema import TangentResults
from stockpot.tangent.summing import aggregate, terms_of

_KEPT_OF_JOBS = {COMPONENT, HEAD, "done.json", "notes.json"}


@dataclass
class Erasure:
    """What was erased, the paths that were deleted, and what people have to do themselves."""

    erased: list[Erased] = field(default_factory=list)
    deleted: list[Path] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def delete(self, run: Path, path: Path, kind: str) -> None:
        """Delete a file or folder and note it."""
        action = "deleted" if path.exists() or path.is_symlink() else "missing"
        self.outside += _other_names(run, path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if action == "deleted":
            self.deleted.append(path)
        self.erased.append(Erased(path=_shown(run, path), kind=kind, action=action))


@dataclass(frozen=True, eq=False)
class Again:
    """A component that was made again without some rows.

    ``blocks``: digests of what it is summed of; ``place`` puts it into the folder of the run and
    returns its entry.
    """

    component: Component
    blocks: set[str]
    place: Callable[[], RunModel]


def erase(
    run: Path, removed: Sequence[Component], kept: Sequence[Component], again: Again | None = None
) -> Erasure:
    """Erase in ``run``, and where its inventory says, all that holds something of ``removed``.

    ``again``: what takes the place of a removed component. What only saves time (activations,
    decoded images, logs) goes altogether: it is made again when it is needed.
    """
    done = Erasure()
    fresh = None
    if again is not None:
        fresh = again.place()
        done.erased.append(Erased(path=fresh.source, kind="component", action="rebuilt"))
    spared = _Spared(run, kept, again)
    names = {component.task for component in removed}
    digests = {component.digest for component in removed}
    inventory = read_inventory(run)
    for entry in inventory:
        own = names & set(entry.shards) and entry.kind not in ("composition", "registry entry")
        if own and not spared(run / entry.path):
            done.delete(run, run / entry.path, entry.kind)
    for entry in inventory:
        if entry.kind == "composition" and names & set(entry.shards):
            _forget_composition(run, entry, digests, kept, done)
    for path in sorted({*run.glob("components/*.safetensors"), *run.glob("*.safetensors")}):
        _forget_component(run, path, digests, done)
    for entry in inventory:
        if entry.kind == "registry entry" and names & set(entry.shards):
            _forget_entry(entry, removed, done)
    _sweep(run, spared, done)
    _rewrite(run, names - {component.task for component in kept}, inventory, kept, fresh)
    return done


class _Spared:
    """Tells files and job folders that hold kept components, or the blocks of one, from others."""

    def __init__(self, run: Path, kept: Sequence[Component], again: Again | None) -> None:
        self.digests = {component.digest for component in kept}
        self.tasks = {component.task for component in kept}
        self.again = again

    def __call__(self, path: Path) -> bool:
        file = path / COMPONENT if path.is_dir() else path
        if not file.is_file() or file.suffix != ".safetensors":
            return False
        component = Component.load(file)
        if component.digest in self.digests:
            return True
        if component.task not in self.tasks or not _is_block(path):
            return False
        again = self.again
        remade = again is not None and component.task == again.component.task
        return again is None or not remade or component.digest in again.blocks


def _is_block(folder: Path) -> bool:
    done = folder / "done.json"
    if not done.is_file():
        return False
    value = read_json(done)
    return str(value["function"]).endswith(":block")


def _forget_component(run: Path, path: Path, removed: set[str], done: Erasure) -> None:
    """A copy of a removed component under another name, or a sum that nobody noted."""
    try:
        component = Component.load(path)
    except StockpotError:
        return
    terms = {term["digest"] for term in terms_of(component)}
    if component.digest in removed or terms & removed:
        done.delete(run, path, "composition" if terms else "component")


def _forget_composition(
    run: Path, entry: Derived, removed: set[str], kept: Sequence[Component], done: Erasure
) -> None:
    """Sum it again of what is left of its terms, by its rule; delete it where that cannot be."""
    path = run / entry.path
    if not path.is_file():
        known = [one for one in done.erased if one.path == entry.path]
        if not known:
            done.erased.append(Erased(path=entry.path, kind=entry.kind, action="missing"))
            digest = f" (digest {entry.digest[:12]})" if entry.digest else ""
            done.outside.append(
                f"delete copies of the composition {entry.path}{digest}: it held the component, "
                "and is no longer where it was written"
            )
        return
    composed = Component.load(path)
    terms = {term["digest"] for term in terms_of(composed)}
    if not terms & removed:
        return
    rest = [component for component in kept if component.digest in terms]
    if entry.rule is None or len(rest) + len(terms & removed) != len(terms) or not rest:
        done.delete(run, path, entry.kind)
        return
    again = aggregate(rest, entry.rule, name=composed.task)  # type: ignore[arg-type]
    again.save(path, sum_record(again, rest))
    done.erased.append(Erased(path=entry.path, kind=entry.kind, action="rebuilt"))


def _forget_entry(entry: Derived, removed: Sequence[Component], done: Erasure) -> None:
    """Take a model out of a registry on this machine, unless versions of a line were made of it; a
    tombstone stays."""
    from stockpot.registry import Registry
    from stockpot.registry.withdrawn import withdraw

    said = f"{entry.path}: {(entry.id or '')[:12]}"
    digests = [component.digest for component in removed if component.task in entry.shards]
    try:
        with Registry(entry.path) as registry:
            withdraw(registry, entry.id or "", *digests)
            registry.remove(entry.id or "")
        done.erased.append(Erased(path=said, kind=entry.kind, action="deleted"))
        done.outside.append(f"stockpot registry gc -r {entry.path}: blobs go only then")
    except StockpotError as error:
        done.outside.append(
            f"take {said} out of its registry ({error.message}): stockpot revert, then remove"
        )


def _sweep(run: Path, spared: _Spared, done: Erasure) -> None:
    """Keep of the work folder the base, the head, and the jobs of what is kept; no more."""
    work = run / WORK
    for path in sorted(work.glob("*")):
        if path.name != "jobs" and not path.name.startswith("base-"):
            done.delete(run, path, "cache")
    for folder in sorted((work / "jobs").glob("*")):
        if not spared(folder) and not (folder / HEAD).is_file():
            kind = "component" if (folder / COMPONENT).is_file() else "activations"
            done.delete(run, folder, kind)
            continue
        for path in sorted(folder.iterdir()):
            if path.name not in _KEPT_OF_JOBS:
                done.delete(run, path, "cache")


def _rewrite(
    run: Path,
    names: set[str],
    inventory: Iterable[Derived],
    kept: Sequence[Component],
    fresh: RunModel | None,
) -> None:
    """Lists of a run without the components ``names``, and with what was made again."""
    listing = run / RESULTS
    if listing.is_file():
        listed = TangentResults.read(read_json(listing))
        now = {component.task: component for component in kept}
        rest = tuple(
            one.model_copy(
                update={
                    "digest": now[one.name].digest,
                    "examples": now[one.name].examples,
                    "classes": now[one.name].classes,
                    "metrics": now[one.name].metrics,
                }
            )
            for one in listed.components
            if one.name in now
        )
        notes = tuple(n for n in listed.notes if not any(repr(name) in n for name in names))
        update = {"components": rest, "notes": notes}
        write_json(listing, listed.model_copy(update=update).to_json())
    models = [
        fresh if fresh is not None and one.source == fresh.source else one
        for one in read_models(run)
        if not _is_of(one, names)
    ]
    if models:
        write_models(run, models)
        record = read_record(run)
        components = [one for one in models if one.record and one.record.kind == "component"]
        write_record(run, record.__class__(**{**vars(record), "data": data_of(components)}))
    write_inventory(
        run, [*derived_of(run, [one.task for one in kept]), *_left(run, inventory, names)]
    )


def _left(run: Path, inventory: Iterable[Derived], names: set[str]) -> Iterator[Derived]:
    for entry in inventory:
        shards = tuple(name for name in entry.shards if name not in names)
        if shards and (entry.kind == "registry entry" or (run / entry.path).exists()):
            yield entry.model_copy(update={"shards": shards})


def _is_of(model: RunModel, names: set[str]) -> bool:
    record = model.record
    return record is not None and record.kind == "component" and record.name in names


def _other_names(run: Path, path: Path) -> Iterator[str]:
    """Hard links keep a file that is deleted here."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and not file.is_symlink() and (status := file.stat()).st_nlink > 1:
            yield (
                f"delete the other names of {_shown(run, file)}: {status.st_nlink - 1} hard links "
                f"to it are elsewhere (find -inum {status.st_ino})"
            )


def _shown(run: Path, path: Path) -> str:
    return path.relative_to(run).as_posix() if path.is_relative_to(run) else str(path)
