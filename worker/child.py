"""A worker process as its supervisor sees it: started, heard, restarted, stopped."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from routoo.errors import ConfigError, EmbeddedStackError
from worker.lifeline import READY

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_SETTLED_S = 30.0
"""A child that ran this long did not die of its start: the delay begins anew."""
_MOST_FALSE_STARTS = 3
"""Deaths of a child that was never ready, after which there is no hope."""
_UNUSABLE = ConfigError.exit_code
"""Exit status of a child whose settings or checkpoint a restart won't mend."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Child:
    """One worker process, restarted as long as the supervisor runs."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
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
        """Run the process, again and again, until told to stop.

        Raises:
            ConfigError: Its settings or its checkpoint can't be used.
            EmbeddedStackError: It died again and again before it was ever ready.
        """
        delay_s, deaths = _FIRST_DELAY_S, 0
        while not self.stopping.is_set():
            started_at = time.monotonic()
            exit_code = await self._run()
            if self.stopping.is_set():
                return
            deaths += 1
            if not self._ever_ready:
                self._check_hope(exit_code, deaths)
            if time.monotonic() - started_at > _SETTLED_S:
                delay_s = _FIRST_DELAY_S
            _log.error("child.died", child=self.name, exit_code=exit_code, restart_in_s=delay_s)
            await self._pause(delay_s)
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)

    def _check_hope(self, exit_code: int, deaths: int) -> None:
        """Give up where another start would end like the last one."""
        remedy = "Mend what it said above"
        if exit_code == _UNUSABLE:
            raise ConfigError(f"{self.name} can't start", remedy=remedy)
        if deaths >= _MOST_FALSE_STARTS:
            what = f"{self.name} died {deaths} times before it was ready"
            raise EmbeddedStackError(what, value=f"exit status {exit_code}", remedy=remedy)

    async def _run(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,  # the lifeline: held open, never written to
            stdout=asyncio.subprocess.PIPE,
            env=self.environ,
            start_new_session=True,  # Ctrl-C is for the supervisor: it stops children in order
        )
        self.on_change()
        if self.stopping.is_set():
            self.send(signal.SIGTERM)
        try:
            await self._listen(self._process)
            return await self._process.wait()
        finally:
            self._process = None
            self.ready.clear()
            self.on_change()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            if line.decode().strip() == READY:
                self._ever_ready = True
                self.ready.set()
                _log.info("child.ready", child=self.name, pid=process.pid)
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
        """Ask the process to drain, and don't start it again."""
        self.stopping.set()
        self.send(signal.SIGTERM)
