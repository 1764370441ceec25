"""Runs an embedded server from its programs: started for its first user, stopped after the last."""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from routoo.embedded.folders import ServerFolders, ServerUser, anyone_can_run, create_folders
from routoo.errors import EmbeddedStackError

_LOCK_TIMEOUT_S = 330.0
"""Longer than the longest crash recovery that `start` waits for."""
_POLL_S = 0.02
_LOG_LINES = 12
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
"""Nothing of the caller's environment: PGDATA or PGPORT would mislead the servers."""


class EmbeddedServer(ABC):
    """A server of a home folder, shared by all processes that use it.

    Every user holds the lock of a file of its own in the folder `users` from `start` to `stop`; the
    kernel releases it when a process is killed. Whoever finds no other file locked there is the
    last. `change.lock` keeps starting and stopping apart.

    Args:
        folders: The server's folders.
    """

    name: str

    def __init__(self, folders: ServerFolders) -> None:
        self._folders = folders
        self._users = folders.folder / "users"
        # Not by thread: the workers' supervisor starts a server again from another thread.
        self._use = FileLock(self._users / uuid4().hex, blocking=False, thread_local=False)
        self._kept = folders.folder / "keep"

    @property
    @abstractmethod
    def url(self) -> str:
        """URL of the server, whether or not it runs."""

    @property
    def log(self) -> Path:
        """File with the server's own messages."""
        return self._folders.folder / "log"

    def start(self) -> str:
        """Use the server, starting it if it doesn't run.

        Returns:
            Its URL.

        Raises:
            EmbeddedStackError: It can't be started; the message ends with its last log lines.
        """
        create_folders(self._folders)
        with self._changing():
            self._begin_use()
            try:
                if not self._answers():
                    self._launch()
            except BaseException:
                self._end_use()
                raise
        return self.url

    def stop(self) -> bool:
        """Use the server no longer; the last user stops it, unless it is kept.

        Returns:
            Whether it was stopped.
        """
        with self._changing():
            self._end_use()
            return not self._kept.exists() and self._halt_if_unused()

    def keep(self) -> None:
        """Let the server run on after its last user, until `shut_down`."""
        self._kept.touch()

    def shut_down(self) -> bool:
        """Stop the server now, kept or not, unless someone uses it.

        Returns:
            Whether it doesn't run now.
        """
        create_folders(self._folders)
        with self._changing():
            self._kept.unlink(missing_ok=True)
            self._end_use()
            return self._halt_if_unused()

    def is_running(self) -> bool:
        """Return whether the server answers."""
        return self._folders.folder.exists() and self._answers()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other processes from starting or stopping the server while the block runs.

        Raises:
            EmbeddedStackError: Another process did so for `_LOCK_TIMEOUT_S`.
        """
        path = self._folders.folder / "change.lock"
        lock = FileLock(path, timeout=_LOCK_TIMEOUT_S, poll_interval=_POLL_S, mode=0o600)
        try:
            held = lock.acquire()
        except Timeout as error:
            raise EmbeddedStackError(
                "another process has been starting or stopping the server for too long",
                where=str(path),
                remedy="See which process holds the file open and end it",
            ) from error
        with held:
            yield

    def _begin_use(self) -> None:
        if not self._use.is_locked:
            self._users.mkdir(mode=0o700, exist_ok=True)
            self._use.acquire()

    def _end_use(self) -> None:
        Path(self._use.lock_file).unlink(missing_ok=True)
        self._use.release()

    def _halt_if_unused(self) -> bool:
        if any(map(_is_locked, self._users.glob("*"))):
            return False
        self._halt()
        return True

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise self._error(f"{self.name} {what} within {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def _error(self, what: str) -> EmbeddedStackError:
        log_tail = self._log_tail()
        return EmbeddedStackError(
            f"{what}; its log ends with:\n{log_tail}\n" if log_tail else what,
            where=str(self._folders.folder),
            remedy="Remove the cause, or set the server's URL to one that runs elsewhere",
        )

    def _log_tail(self) -> str:
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


def _is_locked(path: Path) -> bool:
    """Return whether a process holds a file's lock; remove the file of one that was killed."""
    lock = FileLock(path, blocking=False)
    try:
        with lock:
            path.unlink()
    except Timeout:
        return True
    return False


def program(
    folders: ServerFolders, package: str, path: str, *, beside: tuple[str, ...] = ()
) -> Path:
    """Return a program that the server's user can run.

    If the virtual environment is where `nobody` can't read it, the package is copied once.

    Args:
        folders: The server's folders.
        package: Import name of the package.
        path: The program's path in the package.
        beside: Folders beside the package that its programs load libraries from.

    Raises:
        EmbeddedStackError: The package isn't installed.
    """
    installed = _package_folder(package)
    if not folders.user.is_other or anyone_can_run(installed / path):
        return installed / path
    version = importlib.metadata.version(package)
    copy = folders.folder / f"programs-{version}"
    if not copy.exists():
        _copy([installed, *(installed.parent / name for name in beside)], copy)
    return copy / package / path


def _package_folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedStackError(
            f"the package {package} is not installed",
            remedy="Run `make install`, or set the server's URL to one that runs elsewhere",
        )
    return Path(found.submodule_search_locations[0]).resolve()


def _copy(folders: list[Path], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        whole = Path(temporary) / "programs"
        for folder in folders:
            shutil.copytree(folder, whole / folder.name, symlinks=True)
        for path in (whole, *whole.rglob("*")):
            if not path.is_symlink():
                _let_anyone_read(path)
        whole.rename(target)  # whole or not at all


def _let_anyone_read(path: Path) -> None:
    mode = path.stat().st_mode
    may_run = path.is_dir() or mode & stat.S_IXUSR
    path.chmod(mode | (0o555 if may_run else 0o444))


def run(command: Sequence[str | Path], user: ServerUser, folder: Path, timeout_s: float) -> int:
    """Run a server's program to its end, its output at the end of the folder's `log`.

    Returns:
        Its exit status.

    Raises:
        EmbeddedStackError: It can't be run, or takes longer than `timeout_s` seconds.
    """
    try:
        with (folder / "log").open("ab") as log:
            os.fchown(log.fileno(), user.uid, user.gid)
            return subprocess.run(  # noqa: S603 - programs of installed packages
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=_ENVIRONMENT,
                timeout=timeout_s,
                check=False,
                start_new_session=True,  # Ctrl-C is for us; servers are stopped in order
                **user.subprocess_arguments,
            ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedStackError(
            f"{Path(command[0]).name} can't be run: {error}", where=str(folder)
        ) from error


def is_serving(pid_file: Path, folder: Path) -> bool:
    """Return whether the process of a pid file lives and works in the folder.

    A pid alone proves nothing: after a crash it may be that of a zombie or of an unrelated process.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except (OSError, ValueError, IndexError):
        return False
