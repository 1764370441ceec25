"""The recovery tick: what is ready or abandoned in the database is announced again."""

import random
from collections.abc import Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from routoo.domain.job import ShardKey, Stage
from routoo.errors import DatabaseUnavailableError
from routoo.store import leases, response_cache, shards
from routoo.store.batches import control
from routoo.store.database import Database
from worker.loop import LoopThread
from worker.queue import count_waiting, publish

_MOST_DUE = 2000
"""Shards of one stage announced in one tick: those of two million jobs."""
_log = structlog.get_logger(__name__)


def missing(due: Sequence[ShardKey], waiting_messages: int) -> list[ShardKey]:
    """Choose which due shards to publish so that messages and due shards are as many.

    Which shards the waiting messages name is unknown. Drawing at random reaches every shard sooner
    or later; a message too many costs one look at the database. So duplicates stay bounded by the
    number of due shards, however long the queue stands.
    """
    count = max(0, len(due) - waiting_messages)
    return random.sample(due, count)


def recover(app: Celery, loop: LoopThread, db: Database, *, max_attempts: int) -> int:
    """Announce due shards of every stage; park those that killed their worker too often.

    Batches that are being cancelled end here where no worker is left to end them.

    Returns:
        How many messages were published.
    """
    try:
        loop.run(_park(db, max_attempts))
        loop.run(_settle_cancelled(db))
        loop.run(_purge_cache(db))
        return sum(_announce(app, stage, loop.run(_due(db, stage))) for stage in Stage)
    except (DatabaseUnavailableError, OperationalError) as error:
        _log.warning("recover.skipped", reason=type(error).__name__)
        return 0


def _announce(app: Celery, stage: Stage, due: Sequence[ShardKey]) -> int:
    if not due:
        return 0
    keys = missing(due, count_waiting(app, stage))
    publish(app, keys)
    if keys:
        _log.info("recover.announced", stage=stage.value, shards=len(keys))
    return len(keys)


async def _park(db: Database, max_attempts: int) -> None:
    async with db.transaction() as conn:
        parked = await shards.park_exhausted(conn, max_attempts)
    for key in parked:
        _log.error("shard.parked", batch=str(key.batch_id), shard=key.shard_no)


async def _purge_cache(db: Database) -> None:
    async with db.transaction() as conn:
        await response_cache.purge(conn)


async def _settle_cancelled(db: Database) -> None:
    async with db.transaction() as conn:
        waiting_for_their_end = await control.being_cancelled(conn)
    for batch_id in waiting_for_their_end:
        async with db.transaction() as conn:
            ended = await control.end_cancelled(conn, batch_id)
        if ended:
            _log.info("batch.cancelled", batch=str(batch_id))


async def _due(db: Database, stage: Stage) -> list[ShardKey]:
    async with db.transaction() as conn:
        return await leases.due(conn, stage, _MOST_DUE)
