"""A whole command that runs on a cluster, watched from a machine that sees none of its files.

The command runs in a process of its own beside a Ray actor that outlives the one who asked: a
laptop may be closed. Asking for the same command again while it runs shows it from the start.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from stockpot.errors import JobError
from stockpot.execution.cluster import connect
from stockpot.files import digest
from stockpot.version import VERSION

_KEPT = 1_000_000  # bytes of each stream for one who comes late
_SPACE = "stockpot"
_EVERY = 0.2  # seconds between looks

Terminal = tuple[int, int]
"""Columns and lines."""


class _Stream:
    """The last bytes that came out of a process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._data = bytearray()
        self._dropped = 0
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # a terminal says in this way that nobody writes to it any more
                data = b""
            if not data:
                os.close(self._descriptor)
                return
            with self._lock:
                self._data += data
                more = max(0, len(self._data) - _KEPT)
                del self._data[:more]
                self._dropped += more

    def since(self, place: int) -> tuple[bytes, int]:
        """What came after ``place`` bytes, and the place after it."""
        with self._lock:
            start = max(place - self._dropped, 0)
            return bytes(self._data[start:]), self._dropped + len(self._data)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Conductor:
    """A stockpot command as a process on this machine. Made by Ray on a machine of the cluster."""

    def __init__(
        self, words: Sequence[str], version: str, address: str | None, terminal: Terminal | None
    ) -> None:
        if version != VERSION:
            raise JobError(f"the cluster has stockpot {VERSION}, the command came from {version}")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        # A driver of its own, not a part of the actor.
        for name in [name for name in environment if name.startswith("RAY_JOB")]:
            del environment[name]
        if address is not None:
            environment["RAY_ADDRESS"] = address
        out, theirs_out = os.pipe()
        if terminal is None:
            err, theirs_err = os.pipe()
        else:  # so that progress is drawn
            import fcntl
            import termios

            err, theirs_err = os.openpty()
            size = struct.pack("HHHH", terminal[1], terminal[0], 0, 0)
            fcntl.ioctl(theirs_err, termios.TIOCSWINSZ, size)
            environment.setdefault("TERM", "xterm-256color")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stockpot", *words],
            stdin=subprocess.DEVNULL,
            stdout=theirs_out,
            stderr=theirs_err,
            env=environment,
            start_new_session=True,
            # Ray is often started in the background, where shells have Ctrl-C ignored.
            preexec_fn=_heed_interrupts,
        )
        os.close(theirs_out)
        os.close(theirs_err)
        self._out, self._err = _Stream(out), _Stream(err)

    def look(self, out: int, err: int) -> tuple[tuple[bytes, int], tuple[bytes, int], int | None]:
        """What came on stdout and stderr after these places, and the exit code once there is one"""
        code = self._process.poll()
        if code is not None:
            self._out.thread.join(1.0)
            self._err.thread.join(1.0)
        return self._out.since(out), self._err.since(err), code

    def interrupt(self) -> None:
        """Ctrl-C."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


def conduct(
    words: Sequence[str],
    address: str | None,
    *,
    write_out: Callable[[bytes], Any],
    write_err: Callable[[bytes], Any],
    terminal: Terminal | None = None,
) -> int:
    """Run ``stockpot WORDS`` on the cluster at ``address`` and return its exit code.

    Paths are the cluster's. A keyboard interrupt here is one there; being killed or cut off here
    changes nothing there.

    Raises ``JobError`` where the cluster loses the command, and what ``connect`` raises.
    """
    ray = connect(address, namespace=_SPACE)
    try:
        name = digest(list(words))[:20]
        conductor = (
            ray.remote(Conductor)
            .options(name=name, get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=0)
            .remote(list(words), VERSION, _gcs_address(ray), terminal)
        )
        try:
            code = _watch(ray, conductor, write_out, write_err)
            ray.kill(conductor)
        except ray.exceptions.RayError as error:
            reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            raise JobError(f"the cluster has lost the command: {reason}") from error
        return code
    finally:
        ray.shutdown()


def _watch(
    ray: Any, conductor: Any, write_out: Callable[[bytes], Any], write_err: Callable[[bytes], Any]
) -> int:
    out = err = 0
    while True:
        try:
            seen = ray.get(conductor.look.remote(out, err))
            (data_out, out), (data_err, err), code = seen
            if data_out:
                write_out(data_out)
            if data_err:
                write_err(data_err)
            if code is not None:
                return int(code)
            time.sleep(_EVERY)
        except KeyboardInterrupt:
            ray.get(conductor.interrupt.remote())


def _gcs_address(ray: Any) -> str | None:
    address: str | None = ray.get_runtime_context().gcs_address
    return address
