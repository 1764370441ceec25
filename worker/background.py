"""What the beat does outside the task queue: schedules, grading, webhooks, tidying up.

It has an event loop and connections of its own: grading ten thousand answers takes seconds and must
not delay the recovery of shards. Any number of beats may run at once: the database lets one of them
take each step.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog

from producer.scheduled import submit_scheduled
from routoo.errors import DatabaseUnavailableError, StoreError
from routoo.evaluation_runs.finish import finish_due
from routoo.evaluation_runs.scheduler import Scheduler
from routoo.loop_thread import LoopThread
from routoo.settings import Settings
from routoo.store import results, workers
from routoo.store.batches import control, plans
from routoo.store.batches.progress import merge_counts
from routoo.store.database import Database
from worker.roles import Role
from worker.webhooks import check_webhook, deliver_forever


@contextmanager
def heartbeat(loop: LoopThread, db: Database, name: str, role: Role) -> Iterator[None]:
    """Report while the block runs that a worker lives, and then that it has ended.

    One that is silent counts as gone, however it ended.
    """
    task = loop.run(_start(_report_forever(db, name, role)))
    try:
        yield
    finally:
        loop.run(_stop_heartbeat(task, db, name))


async def _report_forever(db: Database, name: str, role: Role) -> None:
    while True:
        # A database that is away loses a report and nothing else.
        with contextlib.suppress(StoreError):
            async with db.transaction() as conn:
                await workers.report(conn, name, role)
        await asyncio.sleep(workers.REPORT_INTERVAL_S)


async def _stop_heartbeat(task: "asyncio.Task[None]", db: Database, name: str) -> None:
    await _stop(task)
    with contextlib.suppress(StoreError, TimeoutError):
        async with asyncio.timeout(_LAST_REPORT_S), db.transaction() as conn:
            await workers.remove(conn, name)


_LAST_REPORT_S = 2.0
"""Longest wait for the database, in seconds, when an ending worker reports that it ends."""
_S_PER_DAY = 86_400.0
_log = structlog.get_logger(__name__)
_EXPIRE_EVERY_S = 1.0
_PARTS_PER_TICK = 4
"""Parts of an old batch that are deleted in one tick."""


async def tick(db: Database, settings: Settings) -> None:
    """Take every step that is due: fire schedules, grade runs, delete a plan, tidy."""
    await Scheduler(_owner(), settings.shard_size).fire_due(db)
    await finish_due(db, shard_size=settings.shard_size)
    await _delete_plan(db, settings.plan_retention_days * _S_PER_DAY)
    if settings.batch_retention_days is not None:
        await _delete_old(db, settings.batch_retention_days * _S_PER_DAY)
    async with db.transaction() as conn:
        await merge_counts(conn)


async def _expire_forever(db: Database) -> None:
    """End jobs past their deadline whose shards wait, each within about a second."""
    while True:
        with contextlib.suppress(DatabaseUnavailableError):
            async with db.transaction() as conn:
                await results.expire_waiting(conn)
        await asyncio.sleep(_EXPIRE_EVERY_S)


async def _delete_plan(db: Database, retention_s: float) -> None:
    """Delete one old plan: the others wait for the next ticks, and locks are held for less time."""
    async with db.transaction() as conn:
        deleted = await plans.delete_expired(conn, retention_s)
    if deleted is not None:
        _log.info("plan.deleted", batch=str(deleted))


async def _delete_old(db: Database, retention_s: float) -> None:
    """Delete the oldest batch, as far as it goes in one tick."""
    async with db.transaction() as conn:
        old = await control.find_old(conn, retention_s)
    for _ in range(_PARTS_PER_TICK if old else 0):
        async with db.transaction() as conn:
            if old is None or await control.delete_part(conn, old):
                _log.info("batch.deleted", batch=str(old))
                return


@contextmanager
def background_ticks(settings: Settings, database_url: str) -> Iterator[None]:
    """Run `tick` every recovery interval, in a thread, for as long as the block runs.

    Raises:
        ConfigError: Alerts have a webhook and no secret.
        InputError: Their webhook is no URL.
    """
    check_webhook(settings)
    # Batches are read from files and other databases, which may take minutes: on a loop of its own.
    with LoopThread() as loop, LoopThread() as reader:
        ticks = loop.run(_start(_tick_forever(settings, database_url)))
        submissions = reader.run(_start(_submit_forever(settings, database_url)))
        try:
            yield
        finally:
            reader.run(_stop(submissions))
            loop.run(_stop(ticks))


async def _start(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    return asyncio.create_task(work)


async def _submit_forever(settings: Settings, database_url: str) -> None:
    """Submit the batches of schedules that are due."""
    submit = partial(submit_scheduled, shard_size=settings.shard_size)
    scheduler = Scheduler(_owner(), settings.shard_size, submit)
    while True:
        try:
            async with Database(database_url, max_size=2) as db:
                while True:
                    await scheduler.fire_due(db)
                    await asyncio.sleep(settings.recovery_interval_s)
        except DatabaseUnavailableError as error:
            _log.warning("schedules.skipped", reason=str(error))
        except Exception:  # noqa: BLE001 - a fault of one schedule must not end the next ones
            _log.exception("schedules.failed")
        await asyncio.sleep(settings.recovery_interval_s)


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _tick_forever(settings: Settings, database_url: str) -> None:
    while True:
        try:
            async with Database(database_url, max_size=4) as db, asyncio.TaskGroup() as group:
                group.create_task(_expire_forever(db))
                group.create_task(deliver_forever(db, settings))
                while True:
                    await tick(db, settings)
                    await asyncio.sleep(settings.recovery_interval_s)
        except* DatabaseUnavailableError as error:
            _log.warning("background.skipped", reason=str(error.exceptions[0]))
        except* Exception:  # noqa: BLE001 - a fault of one tick must not end the next ones
            _log.exception("background.failed")
        await asyncio.sleep(settings.recovery_interval_s)
