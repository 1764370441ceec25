"""Whom the servers run as: ourselves, or `nobody` when we are root."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routoo.errors import EmbeddedStackError

_ANY_MAY_ENTER = 0o001
_ANY_MAY_READ_AND_ENTER = 0o005


@dataclass(frozen=True, slots=True)
class Identity:
    """A user that servers run as."""

    uid: int
    gid: int
    is_other: bool
    """Whether that is another user than the one we run as."""

    @property
    def popen(self) -> dict[str, Any]:
        """Arguments of `subprocess` that start a process as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}


def server_identity() -> Identity:
    """Return whom servers run as: PostgreSQL refuses to run as root.

    Raises:
        EmbeddedStackError: We are root and there is no user `nobody`.
    """
    if os.geteuid() != 0:
        return Identity(os.geteuid(), os.getegid(), is_other=False)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedStackError(
            "root needs a user `nobody` to run PostgreSQL as",
            remedy="Create it, run as another user, or set ROUTOO_DATABASE_URL",
        ) from None
    return Identity(entry.pw_uid, entry.pw_gid, is_other=True)


def anyone_can_enter(folder: Path) -> bool:
    """Return whether every user can enter the folder and those above it, as far as they exist."""
    return all(
        path.stat().st_mode & _ANY_MAY_ENTER for path in (folder, *folder.parents) if path.exists()
    )


def anyone_can_run(program: Path) -> bool:
    """Return whether every user can run the program where it stands."""
    mode = program.stat().st_mode
    return mode & _ANY_MAY_READ_AND_ENTER == _ANY_MAY_READ_AND_ENTER and anyone_can_enter(
        program.parent
    )
