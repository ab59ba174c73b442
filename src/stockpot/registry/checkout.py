"""Take a model out of a registry: the very files that went in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stockpot.checkpoints.header import TensorInfo
from stockpot.errors import CheckpointError, InputError
from stockpot.files import atomic_file, atomic_folder
from stockpot.progress import progress
from stockpot.registry.manifest import File, Manifest, StoredTensor
from stockpot.registry.registry import Registry
from stockpot.registry.withdrawn import check_model
from stockpot.system import usable_cores


def checkout(
    registry: Registry,
    model: str | Manifest,
    output: str | Path,
    *,
    overwrite: bool = False,
    withdrawn: bool = False,
    threads: int | None = None,
    quiet: bool = True,
) -> Manifest:
    """Write a model's files to ``output``, byte for byte as they were added.

    ``output`` is a folder, or ``NAME.safetensors`` for the main weights alone where they are one
    file. Every tensor is checked against its hash. Raises ``CheckpointError`` for a damaged
    registry, ``OutputError`` where the output exists or cannot be written, and ``InputError`` for a
    model that was withdrawn, unless ``withdrawn``.
    """
    manifest = model if isinstance(model, Manifest) else registry.manifest(model)
    if not withdrawn:
        check_model(registry, manifest)
    output = Path(output)
    workers = max(1, threads if threads is not None else usable_cores())
    with (
        progress("writing", manifest.nbytes, quiet=quiet) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        if output.suffix == ".safetensors":
            main = [file for file in manifest.files if file.path in manifest.main]
            if len(main) > 1:
                raise InputError(
                    f"{manifest.name} has {len(main)} weights files", hint="name a folder"
                )
            if output.exists() and not overwrite:
                from stockpot.errors import OutputError

                raise OutputError(f"{output} exists already", hint="choose another name")
            with atomic_file(output) as temporary:
                _write(registry, main[0], temporary, pool)
                advance(main[0].size)
            return manifest
        with atomic_folder(output, replace=overwrite) as folder:
            for file in manifest.files:
                path = folder / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(registry, file, path, pool)
                advance(file.size)
    return manifest


def _write(registry: Registry, file: File, path: Path, pool: ThreadPoolExecutor) -> None:
    with path.open("wb") as handle:
        if file.blob is not None:
            handle.write(registry.blob(file.blob).data)
        if file.header is not None:
            handle.write(registry.blob(file.header).data)
            for stored in _ahead(registry, file.tensors, pool):
                handle.write(stored)
        if handle.tell() != file.size:
            raise CheckpointError(
                f"{file.path} has {handle.tell()} bytes when put together, expected {file.size}"
            )


def _ahead(
    registry: Registry, tensors: tuple[StoredTensor, ...], pool: ThreadPoolExecutor
) -> Iterator[memoryview]:
    """Decoded tensors in order, a few of them decoded before they are asked for."""

    def decode(stored: StoredTensor) -> memoryview:
        data = registry.blob(stored.blob)
        _check_size(stored.info, data.nbytes)
        return data.data

    pending = []
    for stored in tensors:
        pending.append(pool.submit(decode, stored))
        if len(pending) > 4:
            yield pending.pop(0).result()
    for each in pending:
        yield each.result()


def _check_size(info: TensorInfo, nbytes: int) -> None:
    if nbytes != info.nbytes:
        raise CheckpointError(
            f"tensor '{info.name}' has {nbytes} bytes in the registry, expected {info.nbytes}"
        )
