"""Registers the Celery tasks: the stages' tasks, and the beat's recovery and re-planning ticks."""

import random
from collections.abc import Sequence
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from routoo.domain.job import ShardKey, Stage
from routoo.errors import DatabaseUnavailableError
from routoo.loop_thread import LoopThread
from routoo.pipeline.select.drift import ReplanOptions, request_replans
from routoo.pipeline.shard_work import ShardWorker
from routoo.store import leases, response_cache, shards
from routoo.store.batches import control
from routoo.store.database import Database
from routoo.task_queue import task_name
from worker.queue import RECOVER_TASK, REPLAN_TASK, count_waiting, publish

_MAX_DUE = 2000
"""Shards of one stage published in one tick: those of two million jobs."""
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
