"""Finds where an embedded server's files are, and which user the server runs as."""

import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routoo.errors import EmbeddedStackError

SHARED_BASE = Path("/var/lib/routoo")
"""Base for root when `nobody` can't reach the home folder."""
_LONGEST_SOCKET_FOLDER = 88
"""Bytes; a socket's whole path has at most 107, and the longest name we use has 15."""
_ANY_MAY_ENTER = 0o001
_ANY_MAY_READ_AND_ENTER = 0o005


@dataclass(frozen=True, slots=True)
class ServerUser:
    """A user that servers run as."""

    uid: int
    gid: int
    is_other: bool
    """Whether that is another user than the one we run as."""

    @property
    def subprocess_arguments(self) -> dict[str, Any]:
        """Arguments of `subprocess` that start a process as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}


def server_user() -> ServerUser:
    """Return the user that servers run as: ourselves, or `nobody` when we are root.

    PostgreSQL refuses to run as root.

    Raises:
        EmbeddedStackError: We are root and there is no user `nobody`.
    """
    if os.geteuid() != 0:
        return ServerUser(os.geteuid(), os.getegid(), is_other=False)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedStackError(
            "root needs a user `nobody` to run PostgreSQL as",
            remedy="Create it, run as another user, or set ROUTOO_DATABASE_URL",
        ) from None
    return ServerUser(entry.pw_uid, entry.pw_gid, is_other=True)


def anyone_can_enter(folder: Path) -> bool:
    """Return whether every user can enter the folder and those above it, as far as they exist."""
    return all(
        path.stat().st_mode & _ANY_MAY_ENTER for path in (folder, *folder.parents) if path.exists()
    )


def anyone_can_run(program: Path) -> bool:
    """Return whether every user can run the program in its folder."""
    mode = program.stat().st_mode
    return mode & _ANY_MAY_READ_AND_ENTER == _ANY_MAY_READ_AND_ENTER and anyone_can_enter(
        program.parent
    )


@dataclass(frozen=True, slots=True)
class ServerFolders:
    """The folders of one embedded server."""

    folder: Path
    """Data, logs, locks."""
    socket_folder: Path
    """The unix socket; only the server's user and root may enter."""
    user: ServerUser
    """The user that the server runs as, and that owns the folders."""


def server_folders(home: Path, name: str) -> ServerFolders:
    """Return the folders of the server `name` of a home folder; create nothing.

    The server's folder is `home/name`, with two exceptions. Root's servers run as `nobody`, so for
    a home that others can't enter it is `/var/lib/routoo/<hash of home>/name`. Where the socket's
    path would be too long for the kernel, the socket alone is in
    `/tmp/routoo-<uid>-<hash of the folder>`.
    """
    user = server_user()
    base = home.expanduser().resolve()
    if user.is_other and not anyone_can_enter(base):
        base = SHARED_BASE / _hash(base)
    folder = base / name
    sockets = folder / "socket"
    if len(os.fsencode(sockets)) > _LONGEST_SOCKET_FOLDER:
        sockets = Path("/tmp") / f"routoo-{user.uid}-{_hash(folder)}"  # noqa: S108 - checked below
    return ServerFolders(folder, sockets, user)


def create_folders(folders: ServerFolders) -> None:
    """Create the folders of a server, or check that those which exist are its own.

    Raises:
        EmbeddedStackError: A folder can't be created or belongs to someone else.
    """
    try:
        _make_parents(folders.folder.parent)
        for folder in (folders.folder, folders.socket_folder):
            _make_private(folder, folders.user)
    except OSError as error:
        raise EmbeddedStackError(
            "a folder of the embedded servers can't be used",
            where=str(error.filename or folders.folder),
            value=error.strerror,
            remedy="Set ROUTOO_HOME to a folder you may write to",
        ) from error


def _make_parents(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)  # whatever the umask: the server's user must get through


def _make_private(folder: Path, user: ServerUser) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        _check_private(folder, user)
    else:
        os.chown(folder, user.uid, user.gid)


def _check_private(folder: Path, user: ServerUser) -> None:
    # Not followed: in /tmp anyone could have laid a link or a folder of their own.
    status = folder.lstat()
    is_own = status.st_uid in {user.uid, os.geteuid()}
    if not (stat.S_ISDIR(status.st_mode) and is_own):
        raise EmbeddedStackError(
            "a folder of the embedded servers belongs to someone else",
            where=str(folder),
            remedy="Remove it, or set ROUTOO_HOME to another folder",
        )
    os.chown(folder, user.uid, user.gid)  # a creator killed before this left it undone
    folder.chmod(0o700)


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
