"""Follows a batch while one of its shards is dispatched: its state, its plan and its budget."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

import structlog

from routoo.domain.job import BatchStatus
from routoo.errors import DatabaseUnavailableError
from routoo.store import batches, budget
from routoo.store.batches import replans
from routoo.store.database import Database

_POLL_S = 0.5
"""How often a shard's dispatch reads its batch, in seconds."""
_log = structlog.get_logger(__name__)


async def follow_batch(
    db: Database,
    batch_id: UUID,
    revision: int,
    closing: asyncio.Event,
    on_revision: Callable[[], Awaitable[object]],
) -> None:
    """Poll a batch until its dispatch closes.

    A poll is three small queries. So a cancelled batch makes its last call well within two seconds,
    and the first dispatcher that sees a share of the budget used up logs it.

    Args:
        db: The store.
        batch_id: The batch.
        revision: Number of the plan that the dispatch follows.
        closing: Is set once the batch is paused, cancelled or failed.
        on_revision: Awaited whenever the batch has a newer plan.

    Raises:
        StoreError: The batch can't be read.
    """
    while not closing.is_set():
        # While the database is away no call is sent, since none can be reserved.
        with suppress(DatabaseUnavailableError):
            async with db.transaction() as conn:
                status = await batches.status(conn, batch_id)
                latest = await replans.latest_revision(conn, batch_id)
            if status is not BatchStatus.IN_PROGRESS:
                closing.set()
            elif latest != revision:
                await on_revision()
                revision = latest
            await log_budget_used(db, batch_id)
        with suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), _POLL_S)


async def log_budget_used(db: Database, batch_id: UUID) -> None:
    """Log which shares of its budget a batch has used up, each once for the whole batch.

    Raises:
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        percents = await budget.note_warnings(conn, batch_id)
    for percent in percents:
        _log.warning("batch.budget_used", batch=str(batch_id), percent=percent)
