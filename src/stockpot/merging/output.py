"""Write a merge to disk: one safetensors file, or a folder that loads as its parents did."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.composite import component_files
from stockpot.checkpoints.open import GGUF_SUFFIX, is_encoded, open_stored
from stockpot.checkpoints.running_digests import RunningDigests
from stockpot.checkpoints.safetensors_file import check_link
from stockpot.checkpoints.writer import CheckpointWriter, file_writer, folder_writer
from stockpot.errors import InputError, OutputError
from stockpot.files import atomic_folder, write_json
from stockpot.merging.job import DTYPES, MergeJob, Source, Spec, digests, dtype_code
from stockpot.merging.loading import LoadCheck, checking_library
from stockpot.merging.report import MergeReport
from stockpot.provenance import Parent, Record, has_record, read_record, write_card, write_record
from stockpot.reading import read_json

REPORT_NAME = "merge_report.json"

METADATA = {"format": "pt"}
_FLUSH_EVERY = 0.2  # seconds
_KEPT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_NOT_KEPT = (REPORT_NAME, "stockpot.json", "adapter_config.json", "trainer_state.json")


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
    _copy_companions(job, folder)
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


def _copy_companions(job: MergeJob, folder: Path) -> bool:
    """Config, tokenizer and the like of the first model that has them; whether one has."""
    for source in job.donors:
        inner = getattr(source, "job", None)
        changes: dict[str, Any] = {}
        if inner is None and source.home is not None:
            copy_companions(source.home, folder)
            changes = _from_adapters(job.sources, folder)
        elif inner is None or not _copy_companions(inner, folder):
            continue
        if (folder / "config.json").is_file() or changes:
            _correct_config(folder / "config.json", job.spec.dtype, changes)
        if job.spec.layout is not None:
            job.spec.layout.complete(folder, job.sources)
        return True
    return False


def _drop_quantization(home: Path, folder: Path) -> None:
    """Let what was copied from ``home`` say nothing of an encoding that was decoded."""
    if not is_encoded(home):
        return
    from stockpot.checkpoints.encodings.config import FILES, without_quantization

    path = folder / "config.json"
    write_json(path, without_quantization(read_json(path, "a model's config")))
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def copy_companions(home: Path, folder: Path) -> None:
    """Copy to ``folder`` what makes weights a model: config, tokenizer and the like of ``home``."""
    for file in sorted(home.rglob("*")):
        inside = file.relative_to(home)
        # Sentence-transformers keep the config of a module one folder down.
        if len(inside.parts) > 2 or any(part.startswith(".") for part in inside.parts):
            continue
        if file.is_file() and _is_companion(file):
            check_link(file, file.parent)
            (folder / inside).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / inside)
    _drop_quantization(home, folder)


def _is_companion(file: Path) -> bool:
    return (
        file.suffix in _KEPT_SUFFIXES
        and file.name not in _NOT_KEPT
        and not file.name.endswith(".index.json")
        and file.stat().st_size < 100_000_000
    )


def _from_adapters(sources: Sequence[Checkpoint], folder: Path) -> dict[str, Any]:
    """What adapters change beside the weights: their tokenizers are copied, changes of the config
    returned.
    """
    changes: dict[str, Any] = {}
    for source in sources:
        changes |= source.config_changes
        path = source.path if source.base is not None else None
        if path is not None and (path / "tokenizer_config.json").is_file():
            for file in sorted(path.glob("*token*")):
                check_link(file, path)
                shutil.copyfile(file, folder / file.name)
    return changes


def _correct_config(config: Path, dtype: str | None, changes: Mapping[str, Any]) -> None:
    """Keep a config's word about the type and the tensors true."""
    if changes and not config.is_file():
        raise OutputError("the base has no config.json, which its adapter would change")
    content = read_json(config, "a model's config")
    if not isinstance(content, dict):
        return
    right: dict[str, Any] = dict(changes)
    if dtype is not None:
        name = {code: name for name, code in DTYPES.items()}[dtype_code(dtype) or "F32"]
        right |= dict.fromkeys(("torch_dtype", "dtype"), name)
    changed = {
        key: value
        for key, value in right.items()
        if content.get(key, None if key in changes else value) != value
    }
    if changed:
        write_json(config, {**content, **changed})


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
