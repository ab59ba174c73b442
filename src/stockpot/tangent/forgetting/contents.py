"""What lies in a run's folder, file by file: known kinds, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import StockpotError
from stockpot.files import file_digest
from stockpot.provenance import FILE_NAME, MODELS_NAME, read_models
from stockpot.reading import read_json
from stockpot.tangent.component import Component
from stockpot.tangent.forgetting.inventory import INVENTORY, read_inventory
from stockpot.tangent.forgetting.tombstones import TOMBSTONES, Tombstones
from stockpot.tangent.head import head_classes
from stockpot.tangent.jobs import COMPONENT, HEAD
from stockpot.tangent.probing import same_numbers
from stockpot.tangent.run import RESULTS, component_file
from stockpot.tangent.schema import TangentResults
from stockpot.tangent.summing import COMPOSED, aggregate, terms_of, total

_CERTIFICATE = re.compile(r"forgotten-[^/]*\.(json|html|json\.sig)")
_BASE = re.compile(r"work/base-[0-9a-f]{12}\.safetensors")
_JOB = re.compile(r"work/jobs/[0-9a-f]{20}/(component\.safetensors|head\.safetensors|\w+\.json)")
_NOTES = {"done.json": {"function", "label", "seconds"}, "notes.json": {"notes", "metrics"}}


def list_files(run: Path) -> Iterator[str]:
    """Paths of everything below ``run`` that is no folder, links to folders included."""
    for folder, folders, files in os.walk(run):
        for name in [*files, *(each for each in folders if (Path(folder) / each).is_symlink())]:
            yield (Path(folder) / name).relative_to(run).as_posix()


def manifest(run: Path, besides: Sequence[Path] = ()) -> dict[str, str]:
    """SHA-256 by path of all files of a run, ``besides`` and certificates aside."""
    aside = {path.resolve() for path in besides}
    return {
        path: file_digest(run / path)
        for path in sorted(list_files(run))
        if (run / path).is_file()
        and (run / path).resolve() not in aside
        and not _CERTIFICATE.fullmatch(path)
    }


def strangers(run: Path, kept: Mapping[str, Component], besides: Sequence[Path] = ()) -> list[str]:
    """What does not belong in the folder of the components ``kept``, by name, with the reason.

    Every file has to be of a known kind and in a known place, and its content has to follow from
    the components: sums are summed again, lists are read, links are refused.
    """
    aside = {path.resolve() for path in besides}
    problems = []
    for path in sorted(list_files(run)):
        if (run / path).resolve() in aside and not (run / path).is_symlink():
            continue
        try:
            reason = _problem(run, path, kept)
        except (StockpotError, OSError, ValueError, TypeError, AttributeError) as error:
            reason = f"cannot be read: {getattr(error, 'message', error)}"
        if reason:
            problems.append(f"{path} {reason}")
    return problems + _sums_of_blocks(run, kept)


def _problem(run: Path, path: str, kept: Mapping[str, Component]) -> str:
    """Why a file does not belong there; empty where it does."""
    if (run / path).is_symlink():
        return "is a link"
    if path in {component_file(name) for name in kept} or _CERTIFICATE.fullmatch(path):
        return ""
    if path == HEAD or path.endswith(f"/{HEAD}"):
        head_classes(run / path)
        digests = {each.head_digest for each in kept.values() if each.kind == "delta"}
        same = not digests or same_numbers(load_state(run / path)) in digests
        return "" if same else "is not the head of the components"
    if _BASE.fullmatch(path):
        bases = {component.base_digest for component in kept.values()}
        return "" if same_numbers(load_state(run / path)) in bases else "is not their base"
    if path in (RESULTS, MODELS_NAME, FILE_NAME, INVENTORY, TOMBSTONES):
        return _listing(run, path, kept)
    if _JOB.fullmatch(path):
        return _job(run / path, kept)
    if path.endswith(".safetensors"):
        return composition_problem(Component.load(run / path), list(kept.values()))
    return "is no file of this folder"


def _listing(run: Path, path: str, kept: Mapping[str, Component]) -> str:
    """Names in a list have to be those of the components."""
    if path == RESULTS:
        value = read_json(run / path)
        listed = {one.name: one.digest for one in TangentResults.model_validate(value).components}
        own = {name: component.digest for name, component in kept.items()}
        return "" if listed == own else "lists other components"
    if path == INVENTORY:
        names = {
            name for one in read_inventory(run) if "test" not in one.kind for name in one.shards
        }
        return "" if names <= set(kept) else "names what was removed"
    if path == MODELS_NAME:
        records = [one.record for one in read_models(run) if one.record is not None]
        names = {one.name for one in records if one.kind == "component"}
        return "" if names <= set(kept) else "names what was removed"
    if path == TOMBSTONES:
        Tombstones.read(run)
    return ""


def _job(path: Path, kept: Mapping[str, Component]) -> str:
    """What training left: a component of those kept, or a block of one."""
    if path.name in _NOTES:
        value = read_json(path)
        return "" if set(value) == _NOTES[path.name] else "holds more than a job's notes"
    if path.name != COMPONENT:
        return "is no file of a job"
    component = Component.load(path)
    own = kept.get(component.task)
    if own is None:
        return f"is a component '{component.task}' that was not kept"
    done = read_json(path.parent / "done.json")
    if component.digest == own.digest or done["function"].endswith(":block"):
        return ""
    return f"is another component than the kept '{component.task}'"


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
