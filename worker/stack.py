"""Runs everything a batch needs on one machine: servers, schema and worker processes.

PostgreSQL and the broker are embedded where no URL names others. One process at a time runs the
stack of a home folder.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from filelock import Timeout

from routoo.embedded.server import EmbeddedServer
from routoo.embedded.stack import (
    broker_url,
    database_url,
    embedded_servers,
    remove_status,
    stack_lock,
)
from routoo.errors import EmbeddedStackError
from routoo.settings import Settings
from routoo.store.migrate import upgrade
from worker.queue import check_broker
from worker.roles import Role
from worker.supervisor import Supervisor

_CHECK_INTERVAL_S = 2.0
_log = structlog.get_logger(__name__)


def run_stack(
    settings: Settings,
    counts: Mapping[Role, int],
    *,
    json_logs: bool,
    on_ready: Callable[[], None],
) -> None:
    """Run servers and worker processes until SIGTERM or Ctrl-C.

    Args:
        settings: Where the home folder is, and which servers run elsewhere.
        counts: How many processes to run of each role.
        json_logs: Whether the workers log JSON.
        on_ready: Called once, when every worker consumes messages.

    Raises:
        BrokerUnavailableError: A broker that is named by URL can't be reached.
        EmbeddedStackError: Another process runs the stack of this home, a server can't start, or
            a worker died several times before it was ready.
        StoreError: The database can't be reached or migrated.
        ConfigError: The broker refuses the URL, or a worker can't start and no restart will mend
            it.
    """
    _raise_on_sigterm()
    with _running_servers(settings) as servers:
        commands = _commands(counts, json_logs=json_logs)
        supervisor = Supervisor(settings.home, commands, _environ(servers), on_ready=on_ready)
        asyncio.run(_supervise(supervisor, servers.embedded))


@dataclass(frozen=True, slots=True)
class _Servers:
    """The running servers."""

    database_url: str
    broker_url: str
    embedded: Sequence[EmbeddedServer]
    """Those that this process has to keep up."""


@contextmanager
def _running_servers(settings: Settings) -> Iterator[_Servers]:
    """Start the embedded servers, bring the schema up to date, and stop the servers in the end."""
    with ExitStack() as exits:
        exits.enter_context(_only_stack_of(settings.home))
        if not settings.embedded_broker:
            check_broker(broker_url(settings))
        remove_status(settings.home)  # of a supervisor that was killed
        servers = embedded_servers(settings)
        for server in servers:
            exits.callback(server.stop)
            server.start()
            _log.info("server.started", server=server.name)
        upgrade(database_url(settings))
        yield _Servers(database_url(settings), broker_url(settings), servers)


@contextmanager
def _only_stack_of(home: Path) -> Iterator[None]:
    """Hold the home's lock; the kernel releases it however this process ends."""
    home.mkdir(parents=True, exist_ok=True)
    try:
        held = stack_lock(home).acquire()
    except Timeout as error:
        raise EmbeddedStackError(
            "another `routoo-worker up` runs on this home",
            where=str(home),
            remedy="Submit to that one, stop it, or set ROUTOO_HOME to another folder",
        ) from error
    with held:
        yield


async def _supervise(supervisor: Supervisor, servers: Sequence[EmbeddedServer]) -> None:
    restarting = asyncio.create_task(_restart_dead(servers))
    try:
        await supervisor.run()
    finally:
        restarting.cancel()


async def _restart_dead(servers: Sequence[EmbeddedServer]) -> None:
    """Start a server again that no longer answers; ends only when cancelled."""
    while True:
        await asyncio.sleep(_CHECK_INTERVAL_S)
        for server in servers:
            await asyncio.to_thread(_restart_if_dead, server)


def _restart_if_dead(server: EmbeddedServer) -> None:
    if server.is_running():
        return
    _log.error("server.gone", server=server.name)
    try:
        server.start()
        _log.info("server.started", server=server.name)
    except EmbeddedStackError as error:
        _log.error("server.not_started", server=server.name, reason=str(error))


def _commands(counts: Mapping[Role, int], *, json_logs: bool) -> dict[str, list[str]]:
    options = ["--supervised", *(["--json-logs"] if json_logs else [])]
    # -P: don't import from a folder `worker` in the current directory.
    return {
        f"{role.value}-{number}": [sys.executable, "-P", "-m", "worker.cli", role.value, *options]
        for role, count in counts.items()
        for number in range(1, count + 1)
    }


def _environ(servers: _Servers) -> dict[str, str]:
    return {
        **os.environ,
        "ROUTOO_DATABASE_URL": servers.database_url,
        "ROUTOO_BROKER_URL": servers.broker_url,
        "PYTHONUNBUFFERED": "1",
    }


def _raise_on_sigterm() -> None:
    """Let SIGTERM end the process as Ctrl-C does until the supervisor handles it."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
