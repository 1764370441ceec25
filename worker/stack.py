"""The servers under the workers: embedded where no URL names others, migrated, one owner a home."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from routoo.embedded.server import EmbeddedServer
from routoo.embedded.stack import broker_url, database_url, embedded_servers
from routoo.errors import EmbeddedStackError
from routoo.settings import Settings
from routoo.store.migrate import upgrade
from worker.statusfile import remove_status

_LOOK_EVERY_S = 2.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stack:
    """The servers, running."""

    database_url: str
    broker_url: str
    embedded: Sequence[EmbeddedServer]
    """Those that are ours to keep up."""


@contextmanager
def open_stack(settings: Settings) -> Iterator[Stack]:
    """Start what is embedded, bring the schema up to date, and stop it all in the end.

    Raises:
        EmbeddedStackError: Another supervisor runs on this home, or a server can't start.
        StoreError: The database can't be reached or migrated.
    """
    with ExitStack() as exits:
        exits.enter_context(_home_owned(settings.home))
        remove_status(settings.home)  # of a supervisor that was killed
        servers = embedded_servers(settings)
        for server in servers:
            exits.callback(server.stop)
            server.start()
            _log.info("server.started", server=server.name)
        upgrade(database_url(settings))
        yield Stack(database_url(settings), broker_url(settings), servers)


async def keep_up(servers: Sequence[EmbeddedServer]) -> None:
    """Start a server again that no longer answers; ends only when cancelled."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        for server in servers:
            await asyncio.to_thread(_look_after, server)


def _look_after(server: EmbeddedServer) -> None:
    if server.is_running():
        return
    _log.error("server.gone", server=server.name)
    try:
        server.start()
        _log.info("server.started", server=server.name)
    except EmbeddedStackError as error:
        _log.error("server.not_started", server=server.name, reason=str(error))


@contextmanager
def _home_owned(home: Path) -> Iterator[None]:
    """Hold the home's lock; the kernel lets go of it however this process ends."""
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "up.lock", blocking=False)
    try:
        held = lock.acquire()
    except Timeout as error:
        raise EmbeddedStackError(
            "another `routoo-worker up` runs on this home",
            where=str(home),
            remedy="Submit to that one, stop it, or set ROUTOO_HOME to another folder",
        ) from error
    with held:
        yield
