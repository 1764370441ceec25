"""Runs the embedded stack for as long as a program needs it, and tells whether a home's runs.

`routoo-worker up` holds the home's lock and keeps the status file for as long as it runs.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.server import EmbeddedServer
from routoo.embedded.valkey import EmbeddedValkey
from routoo.settings import Settings

_HELD_BY_A_GLANCE_S = 1.0
"""Longer than `is_stack_running` holds the lock to look at it."""


@contextmanager
def embedded_stack(settings: Settings, *, broker: bool = True) -> Iterator[tuple[str, str]]:
    """Run the embedded servers that the settings ask for while the block runs.

    Args:
        settings: A server without a URL is embedded.
        broker: Whether the broker is needed.

    Yields:
        URLs of the database and the broker. At the end the embedded servers are stopped, unless
        another process uses them.

    Raises:
        EmbeddedStackError: A server can't be started.
    """
    with ExitStack() as stack:
        for server in embedded_servers(settings, broker=broker):
            server.start()
            stack.callback(server.stop)
        yield database_url(settings), broker_url(settings)


def embedded_servers(
    settings: Settings, *, database: bool = True, broker: bool = True
) -> list[EmbeddedServer]:
    """Return the embedded servers that are needed and have no URL in the settings; starts none."""
    servers: list[EmbeddedServer] = []
    if database and settings.embedded_database:
        servers.append(EmbeddedPostgres(settings.home))
    if broker and settings.embedded_broker:
        servers.append(EmbeddedValkey(settings.home))
    return servers


def database_url(settings: Settings) -> str:
    """Return the database's URL; starts nothing."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return EmbeddedPostgres(settings.home).url


def broker_url(settings: Settings) -> str:
    """Return the broker's URL; starts nothing."""
    if settings.broker_url is not None:
        return settings.broker_url.get_secret_value()
    return EmbeddedValkey(settings.home).url


def stack_lock(home: Path) -> FileLock:
    """Return the lock of a home's only stack; the kernel releases it however its holder ends.

    `acquire` raises `filelock.Timeout` where another process holds it.
    """
    return FileLock(home / "up.lock", timeout=_HELD_BY_A_GLANCE_S)


def is_stack_running(home: Path) -> bool:
    """Return whether a process runs the stack of a home, or still starts or stops it."""
    if not (home / "up.lock").exists():
        return False
    try:
        with stack_lock(home).acquire(blocking=False):
            return False
    except Timeout:
        return True


@dataclass(frozen=True, slots=True)
class StackStatus:
    """Which processes a supervisor runs: a file under its home, for programs and people."""

    supervisor: int
    """Its process id."""
    children: Mapping[str, int]
    """Process ids of the workers that run, by name (scorer-1, dispatcher-1, beat-1)."""
    ready: bool
    """Whether every worker consumes messages."""

    def write(self, home: Path) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        path = status_path(home)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)

    @classmethod
    def read(cls, home: Path) -> "StackStatus | None":
        """Return what a home's file says; None where there is none."""
        try:
            return cls(**json.loads(status_path(home).read_text()))
        except FileNotFoundError:
            return None


def status_path(home: Path) -> Path:
    """Return the path of a home's status file, which exists while a supervisor runs."""
    return home / "worker.json"


def remove_status(home: Path) -> None:
    """Remove the status file of a supervisor that ends or was killed."""
    status_path(home).unlink(missing_ok=True)


def stack_log(home: Path) -> Path:
    """Return the file for what a stack says that a command started in the background."""
    return home / "logs" / "worker.log"
