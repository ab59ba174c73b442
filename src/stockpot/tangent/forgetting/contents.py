"""What lies in a run's folder, file by file: known kinds, and nothing else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from stockpot.checkpoints import MemoryCheckpoint
from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import StockpotError
from stockpot.files import file_digest
from stockpot.provenance import (
    FILE_NAME,
    MODELS_NAME,
    models_json,
    read_models,
    read_record,
)
from stockpot.reading import read_json
from stockpot.tangent.component import Component
from stockpot.tangent.forgetting.canonical import (
    attributes_problem,
    component_problem,
    json_problem,
    weights_problem,
)
from stockpot.tangent.forgetting.inventory import (
    INVENTORY,
    Derived,
    make_inventory,
    read_inventory,
)
from stockpot.tangent.forgetting.schema import Certificate
from stockpot.tangent.forgetting.signing import read_signature, signature_path
from stockpot.tangent.forgetting.tombstones import TOMBSTONES, Tombstones
from stockpot.tangent.head import head_classes
from stockpot.tangent.jobs import COMPONENT, HEAD
from stockpot.tangent.probing import same_numbers
from stockpot.tangent.run import RESULTS, component_file, file_name
from stockpot.tangent.schema import TangentResults
from stockpot.tangent.summing import COMPOSED, aggregate, terms_of, total

_CERTIFICATE = re.compile(r"forgotten-[^/]*\.(json|html|json\.sig)")
_BASE = re.compile(r"work/base-([0-9a-f]{12})\.safetensors")
_JOB = re.compile(r"work/jobs/[0-9a-f]{20}/(component\.safetensors|head\.safetensors|\w+\.json)")
_FUNCTIONS = ("head", "component", "block", "statistics")
_LABELS = ("component", "sums")
UNREADABLE = (StockpotError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What reading a file may raise that somebody has changed."""
_LONGEST = 1e9  # seconds of a job


def list_files(run: Path) -> Iterator[str]:
    """Paths of everything below ``run``: files, links, and folders in which there is nothing."""
    for folder, folders, files in os.walk(run):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        empty = [] if files or folders or Path(folder) == run else ["."]
        for name in (*files, *links, *empty):
            yield (Path(folder) / name).relative_to(run).as_posix()


def manifest(run: Path, besides: Collection[Path] = ()) -> dict[str, str]:
    """SHA-256 by path of all files of a run, ``besides`` aside."""
    aside = {path.resolve() for path in besides}
    return {
        path: file_digest(run / path)
        for path in sorted(list_files(run))
        if (run / path).is_file() and (run / path).resolve() not in aside
    }


def own_files(run: Path, certificate: Path) -> list[Path]:
    """A certificate with its page and its signature, and a copy of them in the folder ``run``."""
    copy = run / certificate_file(Certificate.load(certificate)[0])
    same = copy.is_file() and copy.read_bytes() == certificate.read_bytes()
    return [
        part
        for path in dict.fromkeys([certificate, *([copy] if same else [])])
        for part in (path, path.with_suffix(".html"), signature_path(path))
    ]


def certificate_file(made: Certificate) -> str:
    """The name of a certificate's file in the folder of its run."""
    return f"forgotten-{file_name('-'.join(one.name for one in made.removed))}.json"


def strangers(
    run: Path, kept: Mapping[str, Component], besides: Collection[Path] = ()
) -> list[str]:
    """What does not belong in the folder of the components ``kept``, by name, with the reason.

    Every file has to be of a known kind and in a known place, written byte for byte as this package
    writes it, and its content has to follow from the components: sums are summed again, lists are
    read, links are refused. ``besides``: a certificate, its page and its signature.
    """
    aside = {path.resolve() for path in besides}
    problems = []
    for folder, folders, _ in os.walk(run):
        inner = (Path(folder) / name for name in folders)
        problems += [
            f"{path.relative_to(run).as_posix()} {reason}"
            for path in ([run, *inner] if Path(folder) == run else inner)
            if (reason := attributes_problem(path))
        ]
    for path in sorted(list_files(run)):
        try:
            own = (run / path).resolve() in aside and not (run / path).is_symlink()
            own &= not path.endswith(".sig")
            reason = attributes_problem(run / path) or ("" if own else _problem(run, path, kept))
        except UNREADABLE as error:
            reason = f"cannot be read: {getattr(error, 'message', error)}"
        if reason:
            problems.append(f"{path} {reason}")
    lost = [] if (run / INVENTORY).is_file() else [f"{INVENTORY} is missing"]
    return problems + lost + _sums_of_blocks(run, kept)


def _problem(run: Path, path: str, kept: Mapping[str, Component]) -> str:
    """Why a file does not belong there; empty where it does."""
    if (run / path).is_symlink():
        return "is a link"
    if not (run / path).is_file():
        return "is an empty folder" if (run / path).is_dir() else "is no plain file"
    named = next((one for name, one in kept.items() if path == component_file(name)), None)
    if named is not None:
        return component_problem(run / path, named)
    if _CERTIFICATE.fullmatch(path):
        return _certificate_problem(run / path)
    if path == HEAD or (_JOB.fullmatch(path) and path.endswith(HEAD)):
        return _head_problem(run / path, kept)
    if match := _BASE.fullmatch(path):
        bases = {component.base_digest for component in kept.values()}
        state = load_state(run / path)
        fits = same_numbers(state) in bases
        fits &= MemoryCheckpoint(state).digest().startswith(match[1])
        return weights_problem(run / path, {}) if fits else "is not their base"
    if path in (RESULTS, MODELS_NAME, FILE_NAME, INVENTORY, TOMBSTONES):
        return _listing(run, path, kept)
    if _JOB.fullmatch(path):
        return _job(run / path, kept)
    if path.endswith(".safetensors"):
        composed = Component.load(run / path)
        problem = composition_problem(composed, list(kept.values()))
        if not problem and composed.task != Path(path).stem:
            problem = f"has the name '{composed.task[:80]}' inside"
        return problem or component_problem(run / path, composed)
    return "is no file of this folder"


def _head_problem(path: Path, kept: Mapping[str, Component]) -> str:
    classes = head_classes(path)
    digests = {one.head_digest for one in kept.values() if one.kind == "delta"}
    columns = {one.columns for one in kept.values() if one.columns}
    if (digests and same_numbers(load_state(path)) not in digests) or not columns <= {classes}:
        return "is not the head of the components"
    return weights_problem(path, {"classes": json.dumps(list(classes))})


def _certificate_problem(path: Path) -> str:
    """Why another certificate, its signature or its page is none; a page has to have one."""
    if path.suffix == ".sig":
        signature = read_signature(path.with_suffix(""))
        return "" if signature is not None and signature.valid else "is no signature of it"
    if path.suffix == ".html":
        fits = path.with_suffix(".json").is_file()
        return "" if fits else "is the page of no certificate"
    made, whole = Certificate.load(path)
    if not whole or path.name != certificate_file(made):
        return "is no certificate of what its name says"
    return json_problem(path, made.to_json())


def _listing(run: Path, path: str, kept: Mapping[str, Component]) -> str:
    """Names in a list have to be those of the components."""
    file = run / path
    if path == RESULTS:
        results = TangentResults.model_validate(read_json(file))
        listed = {one.name: one.digest for one in results.components}
        own = {name: component.digest for name, component in kept.items()}
        return json_problem(file, results.to_json()) if listed == own else "lists others"
    if path == INVENTORY:
        inventory = read_inventory(run)
        return _inventory_problem(run, inventory, kept) or json_problem(
            file, make_inventory(inventory).to_json()
        )
    if path == MODELS_NAME:
        models = read_models(run)
        records = [one.record for one in models if one.record is not None]
        names = {one.name for one in records if one.kind == "component"}
        known = names <= set(kept)
        return json_problem(file, models_json(models)) if known else "names what was removed"
    if path == FILE_NAME:
        return json_problem(file, read_record(run).to_json())
    stones = Tombstones.read(run)
    return stones.problem() or json_problem(file, stones.file.to_json())


def _inventory_problem(
    run: Path, inventory: Sequence[Derived], kept: Mapping[str, Component]
) -> str:
    for one in inventory:
        if "test" not in one.kind and not set(one.shards) <= set(kept):
            return "names what was removed"
        outside = one.kind == "registry entry" or Path(one.path).is_absolute()
        if not outside and not (run / one.path).exists():
            return f"names '{one.path[:80]}', which is not there"
    lacking = {one.path for one in derived_of(run, kept)} - {one.path for one in inventory}
    return f"lacks {min(lacking)}" if lacking else ""


def derived_of(run: Path, kept: Collection[str]) -> Iterator[Derived]:
    """What the inventory of a run has to name of the components ``kept``: them and their jobs."""
    for name in kept:
        if (run / component_file(name)).is_file():
            yield Derived(path=component_file(name), kind="component", shards=(name,))
    for file in sorted((run / "work" / "jobs").glob(f"*/{COMPONENT}")):
        done = read_json(file.parent / "done.json")
        yield Derived(
            path=file.parent.relative_to(run).as_posix(),
            kind=str(done["function"]).rpartition(":")[2],
            shards=(Component.load(file).task,),
        )


def _job(path: Path, kept: Mapping[str, Component]) -> str:
    """What training left: a component of those kept, or a block of one, and how it was made."""
    done = read_json(path.parent / "done.json")
    block = done["function"].endswith(":block")
    if path.name == "done.json":
        functions = [f"stockpot.tangent.jobs:{name}" for name in _FUNCTIONS]
        labels = {"head", *(f"{word} {name}" for word in _LABELS for name in kept)}
        known = done["label"] in labels and done["function"] in functions
        fits = known and set(done) == {"function", "label", "seconds"}
        fits &= type(done["seconds"]) is float and 0 <= done["seconds"] < _LONGEST
        return json_problem(path, done) if fits else "holds more than a job's notes"
    component = Component.load(path.parent / COMPONENT)
    if path.name == "notes.json":
        notes = read_json(path)
        fits = set(notes) == {"notes", "metrics"} and notes["metrics"] == component.metrics
        return json_problem(path, notes) if fits else "holds more than a job's notes"
    if path.name != COMPONENT:
        return "is no file of a job"
    own = kept.get(component.task)
    if own is None:
        return f"is a component '{component.task}' that was not kept"
    if component.digest != own.digest and not block:
        return f"is another component than the kept '{component.task}'"
    return component_problem(path, component)


def _sums_of_blocks(run: Path, kept: Mapping[str, Component]) -> list[str]:
    """Blocks of statistics have to add up to the component that they are blocks of."""
    blocks: dict[str, list[Component]] = {}
    for path in sorted((run / "work" / "jobs").glob(f"*/{COMPONENT}")):
        component = Component.load(path)
        own = kept.get(component.task)
        if own is not None and component.digest != own.digest:
            blocks.setdefault(component.task, []).append(component)
    return [
        f"the blocks of '{name}' in work/jobs do not add up to it"
        for name, parts in blocks.items()
        if total(parts, fingerprint=kept[name].data_fingerprint).digest != kept[name].digest
    ]


def composition_problem(composed: Component, kept: Sequence[Component]) -> str:
    """Why a composition does not follow from the components ``kept``; empty where it does."""
    terms = composed.settings.get(COMPOSED)
    if not terms:
        return f"is a component '{composed.task}' that was not kept"
    by_digest = {component.digest: component for component in kept}
    for term in terms_of(composed):
        if term["digest"] not in by_digest:
            return f"is a sum with '{term['task']}' ({term['digest'][:12]}), which was not kept"
    parts = [by_digest[term["digest"]] for term in terms]
    again = aggregate(parts, [float(term["weight"]) for term in terms], name=composed.task)
    return "" if again.digest == composed.digest else "is not the sum of its terms"
