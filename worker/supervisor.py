"""Keeps the worker processes of one machine running until it is asked to stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from worker.child import Child
from worker.statusfile import Status, remove_status, write_status

_DRAIN_S = 8.0
"""How long children may take to stop before they are killed."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Crew:
    """Which processes to run."""

    commands: Mapping[str, Sequence[str]]
    """Command line of each process, by its name."""
    environ: Mapping[str, str]
    """Their whole environment."""


class Supervisor:
    """Runs a crew; its state is in the status file under `home`.

    Args:
        home: Folder of the status file.
        crew: What to run.
        on_ready: Called once, when every child consumes messages.
    """

    def __init__(self, home: Path, crew: Crew, *, on_ready: Callable[[], None]) -> None:
        self._home, self._on_ready = home, on_ready
        self._stop = asyncio.Event()
        self._children = [
            Child(name, command, crew.environ, self._write_status)
            for name, command in crew.commands.items()
        ]

    async def run(self) -> None:
        """Run until SIGTERM or Ctrl-C; a second one kills.

        Raises:
            ConfigError: A child can't start, and no restart will mend it.
            EmbeddedStackError: A child died again and again before it was ready.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        tasks = [asyncio.create_task(child.keep_running()) for child in self._children]
        announcing = asyncio.create_task(self._announce_ready())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            announcing.cancel()
            stopping.cancel()
            await self._stop_children(tasks)
            remove_status(self._home)
        for task in tasks:
            task.result()

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            _log.warning("supervisor.kills")
            for child in self._children:
                child.send(signal.SIGKILL)
        else:
            _log.info("supervisor.stopping")
        self._stop.set()

    async def _announce_ready(self) -> None:
        for child in self._children:
            await child.ready.wait()
        self._on_ready()

    async def _stop_children(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for child in self._children:
            child.stop()
        _, late = await asyncio.wait(tasks, timeout=_DRAIN_S)
        if late:
            _log.warning("supervisor.kills", children=len(late))
            for child in self._children:
                child.send(signal.SIGKILL)
            await asyncio.wait(late)

    def _write_status(self) -> None:
        pids = {child.name: child.pid for child in self._children}
        running = {name: pid for name, pid in pids.items() if pid is not None}
        ready = all(child.ready.is_set() and child.pid for child in self._children)
        write_status(self._home, Status(os.getpid(), running, ready))
