"""What workers do: the stages' Celery tasks, and the beat's steps, by the task queue or beside it.

The queue brings the stages' shards, and the ticks of recovery and re-planning. Schedules, grading,
webhooks and tidying up have a thread with an event loop and connections of their own: grading ten
thousand answers takes seconds and must not delay the recovery of shards. Any number of beats may
run at once: the database lets one of them take each step.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from producer.scheduled import submit_scheduled
from routoo.domain.job import ShardKey, Stage
from routoo.errors import DatabaseUnavailableError, StoreError
from routoo.evaluation_runs.finish import finish_due
from routoo.evaluation_runs.scheduler import Scheduler
from routoo.loop_thread import LoopThread
from routoo.pipeline.select.drift import ReplanOptions, request_replans
from routoo.pipeline.shard_work import ShardWorker
from routoo.settings import Settings
from routoo.store import leases, response_cache, results, shards, workers
from routoo.store.batches import control, plans
from routoo.store.batches.progress import merge_counts
from routoo.store.database import Database
from routoo.task_queue import task_name
from worker.queue import RECOVER_TASK, REPLAN_TASK, count_waiting, publish
from worker.roles import Role
from worker.webhooks import check_webhook, deliver_forever

_MAX_DUE = 2000
"""Shards of one stage published in one tick: those of two million jobs."""
_LAST_REPORT_S = 2.0
"""Longest wait for the database, in seconds, when an ending worker reports that it ends."""
_S_PER_DAY = 86_400.0
_EXPIRE_EVERY_S = 1.0
_PARTS_PER_TICK = 4
"""Parts of an old batch that are deleted at once."""
_log = structlog.get_logger(__name__)


def register_stages(app: Celery, loop: LoopThread, worker: ShardWorker) -> None:
    """Register the task of every stage that the worker does."""
    for stage in worker.stages:
        _register_stage(app, loop, worker, stage)


def _register_stage(app: Celery, loop: LoopThread, worker: ShardWorker, stage: Stage) -> None:
    def work(*arguments: object) -> None:
        key = read_message(stage, arguments)
        if key is None:
            _log.warning("message.unreadable", stage=stage.value)
            return
        handled = loop.run(worker.handle(key))
        publish(app, handled.publish)

    app.task(work, name=task_name(stage))


def read_message(stage: Stage, arguments: Sequence[object]) -> ShardKey | None:
    """Return the shard that a message names; None where it names none."""
    try:
        batch_id, shard_no = arguments
        return ShardKey(UUID(str(batch_id)), stage, int(str(shard_no)))
    except ValueError:
        return None


def register_recovery(app: Celery, loop: LoopThread, db: Database, *, max_failures: int) -> None:
    """Register the recovery tick.

    Args:
        app: The app that the beat publishes by.
        loop: Runs the database's work.
        db: Opened on that loop.
        max_failures: Failures of a shard after which it is split.
    """

    def tick() -> None:
        recover(app, loop, db, max_failures=max_failures)

    app.task(tick, name=RECOVER_TASK)


def register_replanning(
    app: Celery, loop: LoopThread, db: Database, options: ReplanOptions
) -> None:
    """Register the re-planning tick, which has batches that drift from their plan planned anew."""

    def tick() -> None:
        try:
            publish(app, loop.run(request_replans(db, options)))
        except DatabaseUnavailableError as error:
            _log.warning("replan.skipped", reason=type(error).__name__)

    app.task(tick, name=REPLAN_TASK)


def recover(app: Celery, loop: LoopThread, db: Database, *, max_failures: int) -> int:
    """Publish due shards of every stage again, and split those that killed their worker too often.

    Batches that are being cancelled end here if no worker is left to end them.

    Returns:
        How many messages were published.
    """
    try:
        loop.run(_tidy_up(db, max_failures))
        return sum(_publish_due(app, stage, loop.run(_due(db, stage))) for stage in Stage)
    except (DatabaseUnavailableError, OperationalError) as error:
        _log.warning("recover.skipped", reason=type(error).__name__)
        return 0


def sample_due(due: Sequence[ShardKey], waiting_messages: int) -> list[ShardKey]:
    """Choose which due shards to publish so that messages and due shards are as many.

    Which shards the waiting messages name is unknown. Drawing at random reaches every shard sooner
    or later; a message too many costs one query. So duplicates stay bounded by the number of due
    shards, however long the queue is. Shards that a worker left behind need no message of their
    own while any waits: whoever handles one takes them first.
    """
    count = max(0, len(due) - waiting_messages)
    return random.sample(due, count)


def _publish_due(app: Celery, stage: Stage, due: Sequence[ShardKey]) -> int:
    if not due:
        return 0
    keys = sample_due(due, count_waiting(app, stage))
    publish(app, keys)
    if keys:
        _log.info("recover.published", stage=stage.value, shards=len(keys))
    return len(keys)


async def _due(db: Database, stage: Stage) -> list[ShardKey]:
    async with db.transaction() as conn:
        return await leases.due(conn, stage, _MAX_DUE)


async def _tidy_up(db: Database, max_failures: int) -> None:
    async with db.transaction() as conn:
        failing = await shards.isolate_failing(conn, max_failures)
    for one in failing:
        key, jobs = one.key, one.job_count
        _log.error(
            "shard.split" if jobs > 1 and key.stage is not Stage.SELECT else "shard.given_up",
            batch=str(key.batch_id), stage=key.stage.value, shard=key.shard_no, jobs=jobs,
            reason=one.cause,
        )  # fmt: skip
    await _end_cancelled(db)
    await _settle_left(db)
    async with db.transaction() as conn:
        await response_cache.purge(conn)


async def _settle_left(db: Database) -> None:
    """Settle what dead workers left reserved in batches that failed."""
    async with db.transaction() as conn:
        unsettled = await control.with_open_reservations(conn)
    for batch_id in unsettled:
        async with db.transaction() as conn:
            closed = await control.settle_left(conn, batch_id)
        if closed:
            _log.info("batch.books_closed", batch=str(batch_id))


async def _end_cancelled(db: Database) -> None:
    async with db.transaction() as conn:
        being_cancelled = await control.being_cancelled(conn)
    for batch_id in being_cancelled:
        async with db.transaction() as conn:
            ended = await control.end_cancelled(conn, batch_id)
        if ended:
            _log.info("batch.cancelled", batch=str(batch_id))


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


async def take_due_steps(db: Database, settings: Settings) -> None:
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
    """Run `take_due_steps` every recovery interval, in a thread, for as long as the block runs.

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
                    await take_due_steps(db, settings)
                    await asyncio.sleep(settings.recovery_interval_s)
        except* DatabaseUnavailableError as error:
            _log.warning("background.skipped", reason=str(error.exceptions[0]))
        except* Exception:  # noqa: BLE001 - a fault of one tick must not end the next ones
            _log.exception("background.failed")
        await asyncio.sleep(settings.recovery_interval_s)
