"""Processes of the servers: run one of their programs, recognise a server by its folder."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from routoo.embedded.identity import Identity
from routoo.errors import EmbeddedStackError

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
"""Nothing of the caller's: PGDATA, PGPORT and the like would lead the servers astray."""


def run(command: Sequence[str | Path], identity: Identity, folder: Path, timeout_s: float) -> int:
    """Run a server's program to its end, its output at the end of the folder's `log`.

    Returns:
        Its exit status.

    Raises:
        EmbeddedStackError: It can't be run, or takes longer than `timeout_s` seconds.
    """
    try:
        with (folder / "log").open("ab") as log:
            os.fchown(log.fileno(), identity.uid, identity.gid)
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
                **identity.popen,
            ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedStackError(
            f"{Path(command[0]).name} can't be run: {error}", where=str(folder)
        ) from error


def is_serving(pid_file: Path, folder: Path) -> bool:
    """Return whether the process of a pid file lives and works in the folder.

    A pid alone proves nothing: after a crash it may be a zombie's or a stranger's.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except (OSError, ValueError, IndexError):
        return False
