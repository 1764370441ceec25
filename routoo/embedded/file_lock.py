"""Advisory file locks: the kernel gives them back when a process dies, however it dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from routoo.errors import EmbeddedStackError

_POLL_S = 0.02


class FileLock:
    """A lock on a file, shared or exclusive; one holder per instance, also in one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def try_exclusive(self) -> bool:
        """Take the lock alone; false where anyone else holds it."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take the lock beside other sharers; false where someone holds it alone."""
        return self._try(fcntl.LOCK_SH)

    def release(self) -> None:
        """Give the lock back, if held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self, kind: int) -> bool:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True


@contextmanager
def exclusively(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a file's lock alone while the block runs.

    Raises:
        EmbeddedStackError: Another process held it for `timeout_s` seconds.
    """
    lock, deadline = FileLock(path), time.monotonic() + timeout_s
    while not lock.try_exclusive():
        if time.monotonic() > deadline:
            raise EmbeddedStackError(
                "another process has been starting or stopping the server for too long",
                where=str(path),
                remedy="See which process holds the file open and end it",
            )
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.release()
