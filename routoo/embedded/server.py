"""What PostgreSQL and Valkey have in common: started on demand, stopped by whoever leaves last."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from routoo.embedded.file_lock import FileLock, exclusively
from routoo.embedded.folders import Site, prepare
from routoo.errors import EmbeddedStackError

_GATE_TIMEOUT_S = 330.0
"""Longer than the longest crash recovery that `start` waits for."""
_POLL_S = 0.02
_LOG_LINES = 12


class EmbeddedServer(ABC):
    """A server of a home folder, shared by all processes that use it.

    Every user holds a shared lock on `users.lock` from `start` to `stop`; the kernel gives it back
    when a process is killed. Who can take that lock alone is the last. `gate.lock` keeps starting
    and stopping apart.

    Args:
        site: The server's folders.
    """

    name: str

    def __init__(self, site: Site) -> None:
        self._site = site
        self._use = FileLock(site.folder / "users.lock")
        self._kept = site.folder / "keep"

    @property
    @abstractmethod
    def url(self) -> str:
        """URL of the server, whether or not it runs."""

    @property
    def log(self) -> Path:
        """File with the server's own messages."""
        return self._site.folder / "log"

    def start(self) -> str:
        """Use the server, starting it if it doesn't run.

        Returns:
            Its URL.

        Raises:
            EmbeddedStackError: It can't be started; the message ends with its last log lines.
        """
        prepare(self._site)
        with exclusively(self._site.folder / "gate.lock", _GATE_TIMEOUT_S):
            self._use.try_shared()  # nobody holds it alone outside the gate
            try:
                if not self._answers():
                    self._launch()
            except BaseException:
                self._use.release()
                raise
        return self.url

    def stop(self) -> bool:
        """Use the server no longer; the last user stops it, unless it is kept.

        Returns:
            Whether it was stopped.
        """
        with exclusively(self._site.folder / "gate.lock", _GATE_TIMEOUT_S):
            self._use.release()
            return not self._kept.exists() and self._halt_if_unused()

    def keep(self) -> None:
        """Let the server run on after its last user, until `shut_down`."""
        self._kept.touch()

    def shut_down(self) -> bool:
        """Stop the server now, kept or not, unless someone uses it.

        Returns:
            Whether it doesn't run now.
        """
        prepare(self._site)
        with exclusively(self._site.folder / "gate.lock", _GATE_TIMEOUT_S):
            self._kept.unlink(missing_ok=True)
            self._use.release()
            return self._halt_if_unused()

    def is_running(self) -> bool:
        """Return whether the server answers."""
        return self._site.folder.exists() and self._answers()

    def _halt_if_unused(self) -> bool:
        if not self._use.try_exclusive():
            return False
        try:
            self._halt()
        finally:
            self._use.release()
        return True

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise self._error(f"{self.name} {what} within {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def _error(self, what: str) -> EmbeddedStackError:
        words = self._last_words()
        return EmbeddedStackError(
            f"{what}; its log ends with:\n{words}\n" if words else what,
            where=str(self._site.folder),
            remedy="Remove the cause, or set the server's URL to one that runs elsewhere",
        )

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_LINES:])

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server can be used now."""

    @abstractmethod
    def _launch(self) -> None:
        """Start the server, which doesn't answer, and wait until it does."""

    @abstractmethod
    def _halt(self) -> None:
        """Stop the server, if it runs, and wait until it is gone."""
