"""Starts the stack of this machine for a command, where no worker lives, and stops it again.

The stack is `routoo-worker up`, a process of its own: PostgreSQL and the broker where no URL names
others, and the workers. It ends with its standard input, so it outlives no command, however that
ends.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

from producer.pool_check import check_checkpoint
from routoo.console.output import note
from routoo.embedded.stack import StackStatus, is_stack_running, stack_log
from routoo.errors import CheckpointError, DatabaseUnavailableError, EmbeddedStackError
from routoo.settings import Settings
from routoo.store import checkpoints, workers
from routoo.store.database import Database

_NEEDED = frozenset({"scorer", "dispatcher"})
"""Roles without which no batch ends."""
_OTHERS_READY_S = 180.0
"""How long a stack that another command starts or stops is waited for."""
_POLL_S = 0.2
_WATCH_S = 2.0
_STOP_S = 60.0
_LOG_LINES = 15

Result = TypeVar("Result")


@dataclass(slots=True)
class LocalStack:
    """The stack of the settings' home, for one command; a context manager that stops it."""

    settings: Settings
    named_checkpoint: bool = False
    """Whether the checkpoint was named for these workers, and is no default."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once workers serve batches, ours or others."""
    _process: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_started:
            note("stopping the workers")
        self.stop()

    @property
    def is_started(self) -> bool:
        """Whether this command started workers."""
        return self._process is not None

    def start(self) -> None:
        """Start the stack in the background; its log is `stack_log` of the home."""
        log = stack_log(self.settings.home)
        note(f"no worker runs: starting the stack under {self.settings.home} (log: {log})")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                # -P: don't import from a folder `worker` in the current directory.
                [sys.executable, "-P", "-m", "worker.cli", "up", "--supervised"],
                stdin=subprocess.PIPE,  # held open, never written to
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environ(self.settings),
                # Ctrl-C reaches only the command, which then stops the stack in order.
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Return whether a stack was started, and all of its workers consume messages.

        Raises:
            EmbeddedStackError: It has ended; the message has the end of its log.
        """
        if self._process is None:
            return False
        if self._process.poll() is not None:
            if not is_stack_running(self.settings.home):
                raise _not_ready(self.settings, "since it ended")
            self._process = None  # another command was faster
            return False
        status = StackStatus.read(self.settings.home)
        return status is not None and status.ready and status.supervisor == self._process.pid

    def stop(self) -> None:
        """Stop the stack if it was started: calls in flight end or are given up first."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process = None

    async def check_named_checkpoint(self, database: Database) -> None:
        """Refuse a checkpoint that was named where workers live already: they have their own.

        Raises:
            CheckpointError: It would not be used.
        """
        if not self.named_checkpoint or not await self._is_served(database):
            return
        named = self.settings.checkpoint
        async with database.transaction() as conn:
            promoted = await checkpoints.promoted(conn)
        if promoted is None or promoted.path != str(named):
            raise CheckpointError(
                "workers run already and score with their own checkpoint: this one would not be "
                "used, and nothing was started",
                where="--checkpoint",
                value=str(named),
                remedy="Leave --checkpoint out, put it into use for all with `routoo checkpoint "
                "promote`, or stop these workers first",
            )

    async def serve(self, database: Database, work: Awaitable[Result]) -> Result:
        """Do some work while workers live: others, or those of a stack that is started for it.

        Args:
            database: Where workers report.
            work: What needs workers; it may wait for `ready`.

        Raises:
            EmbeddedStackError: The stack can't be started, or has ended; the work is cancelled.
        """
        working, keeping = asyncio.ensure_future(work), asyncio.create_task(self.keep(database))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                keeping.result()
            return await working
        finally:
            working.cancel()
            keeping.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)

    async def keep(self, database: Database) -> None:
        """Start the stack whenever no worker lives; ends only with an error."""
        while True:
            with suppress(DatabaseUnavailableError):  # one that restarts is waited for elsewhere
                await self._provide(database)
                self.ready.set()
            await asyncio.sleep(_WATCH_S)

    async def _provide(self, database: Database) -> None:
        deadline_s = time.monotonic() + _OTHERS_READY_S
        while not await self._is_served(database):
            # One that others start or stop just now is waited for.
            if self._process is None and not is_stack_running(self.settings.home):
                named = self.named_checkpoint
                await check_checkpoint(database, self.settings.checkpoint, is_named=named)
                self.start()
            # Our own gets ready or ends: a machine that is busy may take minutes.
            if self._process is None and time.monotonic() > deadline_s:
                raise _not_ready(self.settings, f"within {_OTHERS_READY_S:g} s")
            await asyncio.sleep(_POLL_S)

    async def _is_served(self, database: Database) -> bool:
        if self._process is not None:
            return self.is_ready()
        if self.settings.embedded_database and not is_stack_running(self.settings.home):
            return False  # whatever killed workers reported a moment ago
        async with database.transaction() as conn:
            return await workers.live_roles(conn) >= _NEEDED


def _environ(settings: Settings) -> Mapping[str, str]:
    """Return the environment of a stack with these settings."""
    named = {"ROUTOO_HOME": str(settings.home), "ROUTOO_CHECKPOINT": str(settings.checkpoint)}
    for name, url in (
        ("ROUTOO_DATABASE_URL", settings.database_url),
        ("ROUTOO_BROKER_URL", settings.broker_url),
    ):
        if url is not None:
            named[name] = url.get_secret_value()
    return {**os.environ, **named}


def _not_ready(settings: Settings, why: str) -> EmbeddedStackError:
    log = stack_log(settings.home)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    tail = "\n".join(lines[-_LOG_LINES:])
    return EmbeddedStackError(
        f"the workers on this machine do not serve {why}; the end of their log:\n{tail}\n",
        where=str(log),
        remedy="Mend what it says, or look at the `routoo-worker up` that runs on this home",
    )
