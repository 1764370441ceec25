"""Finds and runs the servers' programs, and recognises a running server by its folder."""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from routoo.embedded.folders import ServerFolders, ServerUser, anyone_can_run
from routoo.errors import EmbeddedStackError

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
"""Nothing of the caller's environment: PGDATA or PGPORT would mislead the servers."""


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
