"""Where a registry lies: a folder, or any place that fsspec reaches (S3, GCS, memory, ...).

What is written appears whole or not at all. Keys are texts such as ``blobs/ab/abcd...``.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from stockpot.errors import CheckpointError, InputError, OutputError, StockpotError
from stockpot.extras import require
from stockpot.files import output_error
from stockpot.reading import open_plain
from stockpot.system import BINARY, locked, sync

_LEASE = 900.0  # seconds after which a remote writer that said nothing counts as dead
_WAIT = 30.0  # seconds to wait for a lock


class ObjectStore(ABC):
    """Named byte strings. ``label`` is how the user called the place."""

    label: str

    @abstractmethod
    def read(self, key: str, size: int | None = None) -> bytes:
        """The bytes of a key, or its first ``size``. Raises ``FileNotFoundError``."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether a key is there."""

    @abstractmethod
    def keys(self, prefix: str) -> list[str]:
        """All keys below ``prefix`` (a folder), sorted."""

    @abstractmethod
    def write(self, key: str, parts: Sequence[bytes], *, exclusive: bool = False) -> None:
        """Write a key whole or not at all, over what is there; durable after ``flush``.

        With ``exclusive``, raises ``FileExistsError`` where the key exists: of any number of
        writers one succeeds.
        """

    @abstractmethod
    def flush(self) -> None:
        """Make everything written so far survive a crash of the machine."""

    @abstractmethod
    def stat(self, key: str) -> tuple[int, float]:
        """Bytes and time of last writing (seconds since 1970). Raises ``FileNotFoundError``."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""

    @abstractmethod
    def move(self, key: str, to: str) -> None:
        """Give what lies at a key another one, whatever it is; nothing is read or written over."""

    @abstractmethod
    def lock(self, *, exclusive: bool) -> Any:
        """Context manager: many writers hold it shared, the sweep of ``gc`` holds it alone.

        Yields a function that a long writer calls now and then, to show that it lives. Raises
        ``StockpotError`` where it is not to be had within half a minute.
        """

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Keys of unfinished writes of processes that died; only meaningful in the exclusive
        lock.
        """


def open_store(place: str | Path) -> ObjectStore:
    """The store at a folder or an fsspec address. Nothing is created."""
    text = str(place)
    if "://" in text and not text.startswith("file://"):
        return RemoteStore(text)
    return LocalStore(Path(text.removeprefix("file://")).expanduser())


class LocalStore(ObjectStore):
    """A folder: written beside, flushed, renamed. Locks are the kernel's and die with a process."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.label = str(root)
        self._dirty: set[Path] = set()
        self._held = 0

    def read(self, key: str, size: int | None = None) -> bytes:
        path = self.root / key
        try:
            with open_plain(path, follow=False) as handle:
                return handle.read() if size is None else handle.read(size)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def keys(self, prefix: str) -> list[str]:
        found = []
        pending = [prefix.strip("/")]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        place = f"{folder}/{entry.name}"
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(place)
                        else:
                            found.append(place)
            except FileNotFoundError:
                continue
        return sorted(found)

    def write(self, key: str, parts: Sequence[bytes], *, exclusive: bool = False) -> None:
        # Who collects garbage takes what lies in tmp/ for a dead writer's.
        with nullcontext() if self._held else self.lock(exclusive=False):
            self._write(self.root / key, parts, exclusive)

    def _write(self, path: Path, parts: Sequence[bytes], exclusive: bool) -> None:
        try:
            temporary = self._write_beside(parts)
            try:
                self._make_folder(path.parent)
                if exclusive:
                    os.link(temporary, path)
                else:
                    os.replace(temporary, path)  # noqa: PTH105 (tests stop the process here)
            finally:
                if temporary.exists():
                    os.unlink(temporary)  # noqa: PTH108
        except FileExistsError:
            raise
        except OSError as error:
            raise output_error(path, error) from error
        self._dirty.add(path.parent)

    def _write_beside(self, parts: Sequence[bytes]) -> Path:
        folder = self.root / "tmp"
        self._make_folder(folder)
        path = folder / uuid.uuid4().hex
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except BaseException:
            os.unlink(path)  # noqa: PTH108
            raise
        finally:
            os.close(descriptor)
        return path

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            self._dirty.add(each.parent)

    def flush(self) -> None:
        while self._dirty:
            sync(self._dirty.pop())

    def stat(self, key: str) -> tuple[int, float]:
        found = (self.root / key).stat()
        return found.st_size, found.st_mtime

    def delete(self, key: str) -> None:
        path = self.root / key
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            return
        except OSError as error:
            raise output_error(path, error) from error
        self._dirty.add(path.parent)

    def move(self, key: str, to: str) -> None:
        path, target = self.root / key, self.root / to
        try:
            self._make_folder(target.parent)
            while os.path.lexists(target):
                target = target.with_name(f"{target.name}~")
            path.rename(target)
        except FileNotFoundError:
            return
        except OSError as error:
            raise output_error(path, error) from error
        self._dirty |= {path.parent, target.parent}

    @contextmanager
    def lock(self, *, exclusive: bool) -> Iterator[Callable[[], None]]:
        with ExitStack() as stack:
            try:
                self._make_folder(self.root)
                stack.enter_context(locked(self.root / "lock", shared=not exclusive, wait=_WAIT))
            except BlockingIOError:
                raise _busy(self.label, exclusive) from None
            except OSError as error:
                raise output_error(self.root / "lock", error) from error
            self._held += 1
            try:
                yield lambda: None
            finally:
                self._held -= 1

    def leftovers(self) -> list[str]:
        return self.keys("tmp")


class RemoteStore(ObjectStore):
    """Any fsspec file system whose writes of one file are atomic, as object stores' are.

    Locks are objects with a lease: a writer that dies blocks ``gc`` for a quarter of an hour.
    """

    def __init__(self, url: str) -> None:
        require("fsspec", f"a registry at {url}")
        import fsspec

        try:
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:  # fsspec names the package of this kind of storage
            raise InputError(f"{url} cannot be reached: {error}") from error
        except (ValueError, OSError) as error:
            raise OutputError(f"{url} cannot be reached: {error}") from error
        self.label = url
        self._root = str(root).rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def read(self, key: str, size: int | None = None) -> bytes:
        path = self._path(key)
        try:
            return bytes(self._fs.cat_file(path, start=None, end=size))
        except OSError as error:
            # Of an object of no bytes S3 gives no range.
            if error.errno == errno.EINVAL and size is not None and self._fs.size(path) == 0:
                return b""
            raise

    def exists(self, key: str) -> bool:
        return bool(self._fs.exists(self._path(key)))

    def keys(self, prefix: str) -> list[str]:
        self._fs.invalidate_cache()
        home = self._path(prefix.strip("/"))
        skip = len(self._root.lstrip("/")) + 1
        return sorted(str(path).lstrip("/")[skip:] for path in self._fs.find(home))

    def write(self, key: str, parts: Sequence[bytes], *, exclusive: bool = False) -> None:
        try:
            mode = "create" if exclusive else "overwrite"
            self._fs.pipe_file(self._path(key), b"".join(parts), mode=mode)
        except FileExistsError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {self.label}/{key}: {error}") from error

    def flush(self) -> None:
        return

    def stat(self, key: str) -> tuple[int, float]:
        self._fs.invalidate_cache()
        found = self._fs.info(self._path(key))
        return int(found["size"]), float(self._fs.modified(self._path(key)).timestamp())

    def delete(self, key: str) -> None:
        try:
            self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"cannot remove {self.label}/{key}: {error}") from error

    def move(self, key: str, to: str) -> None:
        while self.exists(to):
            to = f"{to}~"
        try:
            self.write(to, [self.read(key)])
        except FileNotFoundError:
            return
        self.delete(key)

    @contextmanager
    def lock(self, *, exclusive: bool) -> Iterator[Callable[[], None]]:
        # Each side writes its own mark first and looks for the other's then: whatever the order,
        # at least one of two sees the other.
        mine = "leases/alone" if exclusive else f"leases/writer-{uuid.uuid4().hex}"
        deadline = time.monotonic() + _WAIT
        while True:
            held = self._take(mine, exclusive)
            if held and not self._others(mine, exclusive):
                break
            if held:
                self.delete(mine)
            if time.monotonic() > deadline:
                raise _busy(self.label, exclusive)
            time.sleep(0.2)
        said = time.monotonic()

        def renew() -> None:
            nonlocal said
            if time.monotonic() - said > _LEASE / 10:
                said = time.monotonic()
                self.write(mine, [b"lease"])

        try:
            yield renew
        finally:
            self.delete(mine)

    def _take(self, mine: str, exclusive: bool) -> bool:
        if exclusive and self.exists(mine) and not self._alive(mine):
            self.delete(mine)
        try:
            self.write(mine, [b"lease"], exclusive=exclusive)
        except FileExistsError:
            return False
        return True

    def _others(self, mine: str, exclusive: bool) -> bool:
        others = [key for key in self.keys("leases") if key != mine]
        if not exclusive:
            others = [key for key in others if key == "leases/alone"]
        return any(self._alive(key) for key in others)

    def _alive(self, key: str) -> bool:
        try:
            return time.time() - self.stat(key)[1] < _LEASE
        except FileNotFoundError:
            return False

    def leftovers(self) -> list[str]:
        return [key for key in self.keys("leases") if not self._alive(key)]


def _busy(label: str, exclusive: bool) -> StockpotError:
    who = "somebody is writing" if exclusive else "garbage is being collected"
    return StockpotError(f"{label} is busy: {who}", hint="try again in a moment")
