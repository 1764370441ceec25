"""The replanning tick: running batches that go otherwise than planned are selected anew."""

import structlog
from celery import Celery

from routoo.domain.job import ShardKey, Stage
from routoo.errors import DatabaseUnavailableError, RoutooError
from routoo.pipeline.select.drift import ReplanOptions, request_if_adrift
from routoo.store.batches import replans
from routoo.store.database import Database
from worker.loop import LoopThread
from worker.queue import publish

_log = structlog.get_logger(__name__)


def replan(app: Celery, loop: LoopThread, db: Database, options: ReplanOptions) -> int:
    """Ask for a new plan of every batch that drifts, and publish its select shard.

    Returns:
        How many batches are planned anew.
    """
    try:
        asked = loop.run(request_all(db, options))
    except DatabaseUnavailableError as error:
        _log.warning("replan.skipped", reason=type(error).__name__)
        return 0
    publish(app, asked)
    return len(asked)


async def request_all(db: Database, options: ReplanOptions) -> list[ShardKey]:
    """Ask for a new plan of every batch that drifts; return the select shards that wait for it."""
    async with db.transaction() as conn:
        running = await replans.running(conn)
    asked = []
    for batch_id in running:
        try:
            async with db.transaction() as conn:
                reason = await request_if_adrift(conn, batch_id, options)
        except DatabaseUnavailableError:
            raise
        except RoutooError as error:  # one batch that can't be looked at keeps no other from it
            _log.error("batch.not_checked", batch=str(batch_id), error=str(error))
            continue
        if reason is not None:
            _log.info("batch.replanned", batch=str(batch_id), reason=reason)
            asked.append(ShardKey(batch_id, Stage.SELECT, 0))
    return asked
