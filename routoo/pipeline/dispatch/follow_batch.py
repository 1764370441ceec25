"""What a dispatch learns of its batch while it runs: may it go on, by which plan, at what cost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from routoo.domain.job import BatchStatus
from routoo.errors import DatabaseUnavailableError
from routoo.store import batches, budget
from routoo.store.batches import replans
from routoo.store.database import Database

POLL_S = 0.5
"""How often a shard's dispatch looks at its batch, in seconds."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Control:
    """What to do when a batch changes under a running dispatch."""

    closing: asyncio.Event
    """Set once the batch is paused, cancelled or failed."""
    revision: int
    """Of the plan that the dispatch works by."""
    on_revision: Callable[[], Awaitable[object]]
    """Awaited whenever a newer plan holds."""


async def follow_batch(db: Database, batch_id: UUID, control: Control) -> None:
    """Watch a batch until its dispatch closes.

    Three small queries a shard and half second: a cancelled batch makes its last call well within
    two seconds, and a share of the budget that was used up is logged by whoever sees it first.

    Raises:
        StoreError: The batch can't be read.
    """
    revision = control.revision
    while not control.closing.is_set():
        # A database that is away stops the calls by itself: none is made without a reservation.
        with suppress(DatabaseUnavailableError):
            async with db.transaction() as conn:
                status = await batches.status(conn, batch_id)
                latest = await replans.latest_revision(conn, batch_id)
            if status is not BatchStatus.IN_PROGRESS:
                control.closing.set()
            elif latest != revision:
                await control.on_revision()
                revision = latest
            await warn_of_budget(db, batch_id)
        with suppress(TimeoutError):
            await asyncio.wait_for(control.closing.wait(), POLL_S)


async def warn_of_budget(db: Database, batch_id: UUID) -> None:
    """Log which shares of its budget a batch has used up, each once in its life.

    Raises:
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        percents = await budget.note_warnings(conn, batch_id)
    for percent in percents:
        _log.warning("batch %s has used %d %% of its budget", batch_id, percent)
