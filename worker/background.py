"""What the beat does outside the task queue: fires schedules, grades runs, sends alerts, tidies up.

It has an event loop and connections of its own: grading ten thousand answers takes seconds and must
not delay the recovery of shards. Any number of beats may run at once: the database lets one of them
take each step.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from routoo.errors import DatabaseUnavailableError
from routoo.evaluation_runs.finish import finish_due
from routoo.evaluation_runs.scheduler import Scheduler
from routoo.settings import Settings
from routoo.store.batches import plans
from routoo.store.database import Database
from worker.loop import LoopThread
from worker.webhook import check_webhook, deliver_alerts

_S_PER_DAY = 86_400.0
_log = structlog.get_logger(__name__)


async def tick(db: Database, settings: Settings) -> None:
    """Take every step that is due: fire schedules, grade ended runs, send alerts, delete a plan."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    await Scheduler(owner, settings.shard_size).fire_due(db)
    await finish_due(db, shard_size=settings.shard_size)
    await deliver_alerts(db, settings)
    await _delete_plan(db, settings.plan_retention_days * _S_PER_DAY)


async def _delete_plan(db: Database, retention_s: float) -> None:
    """Delete one old plan: the others wait for the next ticks, and locks are held for less time."""
    async with db.transaction() as conn:
        deleted = await plans.delete_expired(conn, retention_s)
    if deleted is not None:
        _log.info("plan.deleted", batch=str(deleted))


@contextmanager
def background_ticks(settings: Settings, database_url: str) -> Iterator[None]:
    """Run `tick` every recovery interval, in a thread, for as long as the block runs.

    Raises:
        ConfigError: A webhook has no secret.
    """
    check_webhook(settings)
    with LoopThread() as loop:
        task = loop.run(_start(settings, database_url))
        try:
            yield
        finally:
            loop.run(_stop(task))


async def _start(settings: Settings, database_url: str) -> "asyncio.Task[None]":
    return asyncio.create_task(_tick_forever(settings, database_url))


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _tick_forever(settings: Settings, database_url: str) -> None:
    while True:
        try:
            async with Database(database_url, max_size=2) as db:
                while True:
                    await tick(db, settings)
                    await asyncio.sleep(settings.recovery_interval_s)
        except DatabaseUnavailableError as error:
            _log.warning("background.skipped", reason=str(error))
        except Exception:  # noqa: BLE001 - a fault of one tick must not end the next ones
            _log.exception("background.failed")
        await asyncio.sleep(settings.recovery_interval_s)
