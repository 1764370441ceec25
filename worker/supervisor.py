"""Keeps the worker processes of one machine running, and the servers that they need with them.

PostgreSQL and the broker are embedded where no URL names others. One process at a time runs the
stack of a home folder.

A worker process is connected to its supervisor by two pipes. On its standard output it prints
`ready` once it consumes messages. Its standard input is held open by the supervisor and never
written to: when the supervisor is gone, even by kill -9, the worker reads the end of the file and
stops by itself, on any platform.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
from filelock import Timeout

from routoo.embedded.server import EmbeddedServer
from routoo.embedded.stack import (
    StackStatus,
    broker_url,
    database_url,
    embedded_servers,
    remove_status,
    stack_lock,
)
from routoo.errors import ConfigError, EmbeddedStackError
from routoo.settings import Settings
from routoo.store.administration import upgrade
from worker.queue import check_broker
from worker.roles import Role

READY = "ready"
"""The line on a worker's standard output which reports that it consumes messages."""
_DRAIN_S = 8.0
"""How long workers may take to stop before they are killed."""
_ORPHAN_DRAIN_S = 10.0
"""How long a worker whose supervisor is gone may take to stop before it ends itself."""
STACK_DRAIN_S = 60.0
"""How long a stack whose command is gone may take to stop: workers, then servers."""
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_SETTLED_S = 30.0
"""A process that ran this long did not die of its start: the restart delay begins anew."""
_MAX_FALSE_STARTS = 3
"""Deaths of a process that was never ready, after which the supervisor gives up."""
_UNUSABLE = ConfigError.exit_code
"""Exit status of a process whose settings or checkpoint a restart won't mend."""
_log = structlog.get_logger(__name__)
_CHECK_INTERVAL_S = 2.0


def stop_with_supervisor(drain_s: float = _ORPHAN_DRAIN_S) -> None:
    """Stop this process as SIGTERM does once its standard input ends.

    To be called in a worker process, or in a supervisor that another command started.

    Args:
        drain_s: How long it may take to stop before it is killed.
    """
    wait = partial(_wait_for_end_of_input, drain_s)
    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def say_ready() -> None:
    """Report to the supervisor that this worker process consumes messages."""
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()


def _wait_for_end_of_input(drain_s: float) -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_s)
    os._exit(1)


@dataclass(slots=True)
class WorkerProcess:
    """One worker process, restarted for as long as the supervisor runs."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    """The process's whole environment."""
    on_change: Callable[[], None]
    """Called when the process starts, gets ready or ends."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _process: asyncio.subprocess.Process | None = None
    _ever_ready: bool = False

    @property
    def pid(self) -> int | None:
        """The process id, None while no process runs."""
        return self._process.pid if self._process else None

    async def keep_running(self) -> None:
        """Run the process, again and again, until `stop` is called.

        Raises:
            ConfigError: Its settings or its checkpoint can't be used.
            EmbeddedStackError: It died several times before it was ever ready.
        """
        delay_s, deaths = _FIRST_DELAY_S, 0
        while not self.stopping.is_set():
            started_at = time.monotonic()
            exit_code = await self._run()
            if self.stopping.is_set():
                return
            deaths += 1
            if not self._ever_ready:
                self._give_up_if_hopeless(exit_code, deaths)
            if time.monotonic() - started_at > _SETTLED_S:
                delay_s = _FIRST_DELAY_S
            _log.error("process.died", process=self.name, exit_code=exit_code, restart_in_s=delay_s)
            await self._pause(delay_s)
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)

    def _give_up_if_hopeless(self, exit_code: int, deaths: int) -> None:
        """Raise where another start would end like the last one."""
        remedy = "Mend what it said above"
        if exit_code == _UNUSABLE:
            raise ConfigError(f"{self.name} can't start", remedy=remedy)
        if deaths >= _MAX_FALSE_STARTS:
            what = f"{self.name} died {deaths} times before it was ready"
            raise EmbeddedStackError(what, value=f"exit status {exit_code}", remedy=remedy)

    async def _run(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,  # held open, never written to
            stdout=asyncio.subprocess.PIPE,
            env=self.environ,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops workers
        )
        self.on_change()
        if self.stopping.is_set():
            self.send(signal.SIGTERM)
        try:
            await self._read_output(self._process)
            return await self._process.wait()
        finally:
            self._process = None
            self.ready.clear()
            self.on_change()

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            if line.decode().strip() == READY:
                self._ever_ready = True
                self.ready.set()
                _log.info("process.ready", process=self.name, pid=process.pid)
                self.on_change()

    async def _pause(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), delay_s)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal, if one runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def stop(self) -> None:
        """Ask the process to release its shards and end, and don't start it again."""
        self.stopping.set()
        self.send(signal.SIGTERM)


class Supervisor:
    """Runs worker processes and lists them in the status file under `home`.

    Args:
        home: Folder of the status file.
        commands: Command line of each process, by its name.
        environ: The whole environment of every process.
        on_ready: Called once, when every worker consumes messages.
    """

    def __init__(
        self,
        home: Path,
        commands: Mapping[str, Sequence[str]],
        environ: Mapping[str, str],
        *,
        on_ready: Callable[[], None],
    ) -> None:
        self._home, self._on_ready = home, on_ready
        self._stop = asyncio.Event()
        self._workers = [
            WorkerProcess(name, command, environ, self._write_status)
            for name, command in commands.items()
        ]

    async def run(self) -> None:
        """Run until SIGTERM or Ctrl-C; a second one kills the workers.

        Raises:
            ConfigError: A worker can't start, and no restart will mend it.
            EmbeddedStackError: A worker died several times before it was ready.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._request_stop)
        tasks = [asyncio.create_task(worker.keep_running()) for worker in self._workers]
        becoming_ready = asyncio.create_task(self._report_ready())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            becoming_ready.cancel()
            stopping.cancel()
            await self._stop_workers(tasks)
            remove_status(self._home)
        for task in tasks:
            task.result()

    def _request_stop(self) -> None:
        if self._stop.is_set():
            _log.warning("supervisor.kills")
            for worker in self._workers:
                worker.send(signal.SIGKILL)
        else:
            _log.info("supervisor.stopping")
        self._stop.set()

    async def _report_ready(self) -> None:
        for worker in self._workers:
            await worker.ready.wait()
        self._on_ready()

    async def _stop_workers(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for worker in self._workers:
            worker.stop()
        _, late = await asyncio.wait(tasks, timeout=_DRAIN_S)
        if late:
            _log.warning("supervisor.kills", workers=len(late))
            for worker in self._workers:
                worker.send(signal.SIGKILL)
            await asyncio.wait(late)

    def _write_status(self) -> None:
        pids = {worker.name: worker.pid for worker in self._workers}
        running = {name: pid for name, pid in pids.items() if pid is not None}
        ready = all(worker.ready.is_set() and worker.pid for worker in self._workers)
        StackStatus(os.getpid(), running, ready).write(self._home)


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
