"""Where a server's files stand, and who owns them."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from routoo.embedded.identity import Identity, anyone_can_enter, server_identity
from routoo.errors import EmbeddedStackError

SHARED_BASE = Path("/var/lib/routoo")
"""Base for root when `nobody` can't reach the home folder."""
_LONGEST_SOCKET_FOLDER = 88
"""Bytes; a socket's whole path has at most 107, and the longest name we use has 15."""


@dataclass(frozen=True, slots=True)
class Site:
    """The folders of one embedded server."""

    folder: Path
    """Data, logs, locks."""
    socket_folder: Path
    """The unix socket; only the server's user and root may enter."""
    identity: Identity


def site_of(home: Path, name: str) -> Site:
    """Return where the server `name` of a home folder stands; creates nothing.

    The folder is `home/name`, but for two cases: root's servers run as `nobody`, so under a home
    that others can't enter they stand in `/var/lib/routoo/<hash of home>/name`; and where a
    socket's path would be too long for the kernel, the socket alone moves to
    `/tmp/routoo-<uid>-<hash of the folder>`.
    """
    identity = server_identity()
    base = home.expanduser().resolve()
    if identity.is_other and not anyone_can_enter(base):
        base = SHARED_BASE / _hash(base)
    folder = base / name
    sockets = folder / "socket"
    if len(os.fsencode(sockets)) > _LONGEST_SOCKET_FOLDER:
        sockets = Path("/tmp") / f"routoo-{identity.uid}-{_hash(folder)}"  # noqa: S108 - checked below
    return Site(folder, sockets, identity)


def prepare(site: Site) -> None:
    """Create the folders of a server, or check that those which exist are its own.

    Raises:
        EmbeddedStackError: A folder can't be created or belongs to someone else.
    """
    try:
        _make_parents(site.folder.parent)
        for folder in (site.folder, site.socket_folder):
            _make_private(folder, site.identity)
    except OSError as error:
        raise EmbeddedStackError(
            "a folder of the embedded servers can't be used",
            where=str(error.filename or site.folder),
            value=error.strerror,
            remedy="Set ROUTOO_HOME to a folder you may write to",
        ) from error


def _make_parents(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)  # whatever the umask: the server's user must get through


def _make_private(folder: Path, identity: Identity) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        _check_private(folder, identity)
    else:
        os.chown(folder, identity.uid, identity.gid)


def _check_private(folder: Path, identity: Identity) -> None:
    # Not followed: in /tmp anyone could have laid a link or a folder of their own.
    status = folder.lstat()
    mine = status.st_uid in {identity.uid, os.geteuid()}
    if not (stat.S_ISDIR(status.st_mode) and mine):
        raise EmbeddedStackError(
            "a folder of the embedded servers belongs to someone else",
            where=str(folder),
            remedy="Remove it, or set ROUTOO_HOME to another folder",
        )
    os.chown(folder, identity.uid, identity.gid)  # a creator killed before this left it undone
    folder.chmod(0o700)


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
