"""Keeps the worker processes of one machine running until it is asked to stop.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from routoo.embedded.stack import StackStatus, remove_status
from routoo.errors import ConfigError, EmbeddedStackError

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
