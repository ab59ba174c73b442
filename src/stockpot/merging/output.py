"""Write a merge to disk: one safetensors file, or a folder that loads as its parents did."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.composite import component_files
from stockpot.checkpoints.open import GGUF_SUFFIX, open_stored
from stockpot.checkpoints.running_digests import RunningDigests
from stockpot.checkpoints.writer import CheckpointWriter, file_writer, folder_writer
from stockpot.errors import InputError, OutputError
from stockpot.files import atomic_folder, write_json
from stockpot.merging.companions import REPORT_NAME
from stockpot.merging.job import MergeJob, Source, Spec, digests
from stockpot.merging.loading import LoadCheck, checking_library
from stockpot.merging.report import MergeReport
from stockpot.provenance import Parent, Record, has_record, read_record, write_card, write_record
from stockpot.reading import read_json

METADATA = {"format": "pt"}
_FLUSH_EVERY = 0.2  # seconds


def check_output(output: Path, spec: Spec, *, overwrite: bool) -> None:
    """Raise ``OutputError`` for an output that stands already, cannot hold the result, or is no
    place to write.
    """
    if output.suffix == ".safetensors" and spec.layout is not None and spec.layout.needs_folder:
        raise OutputError(
            f"{output}: one file cannot hold the tokenizer that the recipe asks for",
            hint="name a folder",
        )
    if output.suffix != ".safetensors" and _is_gguf(spec.models[:1]):
        raise OutputError(
            f"{output}: tensors of GGUF files have names that no model folder has",
            hint="name one file: -o merged.safetensors",
        )
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists already", hint="choose another name, or --overwrite")
    if output.suffix != ".safetensors" and output.is_file():
        raise OutputError(f"{output} is a file", hint="name a folder, or a file *.safetensors")
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(f"cannot write {output}: permission denied in {parent}")


def _is_gguf(sources: Sequence[Source]) -> bool:
    return any(
        str(source).endswith(GGUF_SUFFIX) for source in sources if isinstance(source, str | Path)
    )


def write_output(
    job: MergeJob,
    output: Path,
    advance: Callable[[float], None],
    *,
    max_shard_size: int,
    hash_parents: bool,
    overwrite: bool,
) -> MergeReport:
    """Run ``job`` into ``output``; returns the report, which lies beside the weights as JSON.

    Nothing stands under the final name before it is whole. Raises ``OutputError``.
    """
    started = time.perf_counter()
    _check_config(job, output)
    tensors = job.prepare()

    hashed: dict[str, bytes] = {}

    def fill(writer: CheckpointWriter) -> MergeReport:
        writer.running = RunningDigests() if hash_parents else None
        # The disk is kept busy while tensors are merged and parents are hashed.
        with _flushing(writer):
            job.run(writer, advance)
            digests = job.digests() if hash_parents else None
        if writer.running is not None:
            hashed.update(writer.running.complete(writer.tensors))
        return job.report(digests, time.perf_counter() - started)

    if output.suffix == ".safetensors":
        if components_of(job):
            raise OutputError(
                f"{output}: one file cannot hold a model of several components",
                hint="name a folder",
            )
        with file_writer(output, tensors, METADATA) as writer:
            report = fill(writer)
        write_beside(output, report, hashed)
        return report
    with begin_check(job) as check, atomic_folder(output, replace=overwrite) as folder:
        components = components_of(job)
        with folder_writer(folder, tensors, METADATA, max_shard_size, components) as writer:
            report = fill(writer)
        return complete_folder(job, folder, report, output.name, check, hashed)


def components_of(job: MergeJob) -> dict[str, str] | None:
    """Prefixes and files of the components, where the model whose config is taken has several."""
    donor = next((source for source in job.donors if source.home is not None), None)
    return component_files(donor)


def begin_check(job: MergeJob) -> AbstractContextManager[LoadCheck | None]:
    """The check of a folder by its library, begun while there is still work to do.

    A result with the tensors and shapes of the model whose config it takes, as it is, loads as that
    model does: the library is not asked, which takes seconds.
    """
    donor = next((source for source in job.donors if source.home is not None), None)
    if donor is None or not job.spec.check_load or _is_like(job, donor):
        return nullcontext()
    library = checking_library(donor.home)
    return nullcontext() if library is None else LoadCheck(library)


def _is_like(job: MergeJob, donor: Checkpoint) -> bool:
    changes = any(source.config_changes for source in job.sources)
    if changes or donor.stored is not donor:
        return False
    own, result = donor.tensors, job.plan.tensors
    return {name: info.shape for name, info in own.items()} == {
        name: info.shape for name, info in result.items()
    }


def _check_config(job: MergeJob, output: Path) -> None:
    """Raise ``OutputError`` where adapters would become a folder that no library loads."""
    if output.suffix == ".safetensors" or any(source.home for source in job.sources):
        return
    for source in job.sources:
        if source.base is not None:
            raise OutputError(
                f"{source.base.label}, the base of {source.label}, has no config.json, so that "
                f"{output} would not load",
                hint="give the base's folder with --base, or write one file: -o NAME.safetensors",
            )


def complete_folder(
    job: MergeJob,
    folder: Path,
    report: MergeReport,
    name: str,
    check: LoadCheck | None,
    hashed: Mapping[str, bytes] | None = None,
) -> MergeReport:
    """Add to the weights in ``folder`` what makes it a model: config, report, record and card.

    ``hashed``: digests of tensors that are known. Returns the report, with what ``check`` noted.
    Raises ``CheckpointError`` for a folder that would not load.
    """
    job.write_companions(folder)
    if check is not None:
        donor = next(source for source in job.donors if source.home is not None)
        note = check.check(folder, job.plan.tensors, donor)
        report = replace(report, warnings=(*report.warnings, note)) if note else report
    write_json(folder / REPORT_NAME, report.to_json())
    record = make_record(report, name, written_digest(folder, report, hashed))
    write_record(folder, record)
    write_card(folder, record, library_name=library_of(folder))
    return report


def report_beside(output: Path) -> Path:
    """Where the report of a merge into one file lies."""
    return output.with_suffix(".merge.json")


def write_beside(
    output: Path, report: MergeReport, hashed: Mapping[str, bytes] | None = None
) -> None:
    """Write the report of a merge into one file, with the record that a folder would hold."""
    record = make_record(report, output.stem, written_digest(output, report, hashed))
    write_json(report_beside(output), {**report.to_json(), "record": record.to_json()})


def read_report(output: Path) -> dict[str, Any] | None:
    """The report of a merge into a file or folder; None for what no merge has written.

    Raises ``InputError`` for a damaged one.
    """
    path = output / REPORT_NAME if output.is_dir() else report_beside(output)
    try:
        value = read_json(path, "the report of a merge")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(value, dict) or not {"parents", "tensors"} <= value.keys():
        raise InputError(f"{path} is no report of a merge")
    return value


def written_digest(
    output: Path, report: MergeReport, hashed: Mapping[str, bytes] | None = None
) -> str | None:
    """Content hash of the weights that lie in ``output``, but for the ``hashed`` tensors read back;
    None where hashing was declined.
    """
    if all(parent.digest is None for parent in report.parents):
        return None
    with open_stored(output) as checkpoint:
        return digests([checkpoint], hashed=hashed)[0]


def renew_digest(output: Path) -> None:
    """Bring the record of a merge up to date with weights that were changed after it."""
    with open_stored(output) as checkpoint:
        known = checkpoint.digest()
    if output.is_dir():
        write_record(output, replace(read_record(output), digest=known))
        return
    report = read_report(output)
    if report is not None and isinstance(report.get("record"), dict):
        record = {**report["record"], "digest": known}
        write_json(report_beside(output), {**report, "record": record})


def make_record(report: MergeReport, name: str, digest: str | None) -> Record:
    """Provenance of a merge. ``digest``: content hash of what it wrote."""
    return Record(
        kind="merge",
        name=name,
        digest=digest,
        parents=tuple(
            Parent(name=short_label(parent.label), digest=parent.digest or "", role=parent.role)
            for parent in report.parents
        ),
        recipe=_without_places(report.recipe),
        versions=report.versions,
    )


@contextmanager
def _flushing(writer: CheckpointWriter) -> Iterator[None]:
    """Write to the disk from a thread while the block works."""
    errors: list[OSError] = []
    finished = threading.Event()

    def flush() -> None:
        try:
            while not finished.wait(_FLUSH_EVERY):
                writer.flush()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    if errors:
        raise errors[0]


def library_of(folder: Path) -> str | None:
    """The library whose model a folder holds, as cards call it; None where its config is silent."""
    config = folder / "config.json"
    if not config.is_file():
        return None
    content = read_json(config, "a model's config")
    if not isinstance(content, dict):
        return None
    if "architecture" in content and "pretrained_cfg" in content:
        return "timm"
    return "transformers" if "model_type" in content else None


def short_label(label: str) -> str:
    """A hub id as it is, a path by its last part, or by the hub id that was pulled into it: cards
    and records tell nothing of this machine.
    """
    path = Path(label)
    if not path.exists():
        return label
    return _hub_name(path) or f"./{path.resolve().name}"


def _hub_name(folder: Path) -> str | None:
    """The hub's name of a folder that came from there and is as it came."""
    if not has_record(folder):
        return None
    try:
        parents = read_record(folder).parents
    except InputError:
        return None
    return next((parent.name for parent in parents if parent.role == "hub"), None)


def _without_places(value: Any) -> Any:
    if isinstance(value, str):
        return short_label(value) if "/" in value else value
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    return value
