"""Work under a lease that is renewed while the work goes on."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from routoo.domain.job import Lease
from routoo.errors import DatabaseUnavailableError, StaleLeaseError
from routoo.store import shards
from routoo.store.database import Database

_RENEWALS_PER_LEASE = 3
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Renewal:
    """How leases are kept alive, and when work is given up."""

    db: Database
    lease_s: float
    stop: asyncio.Event
    """Set when the worker is asked to stop."""


async def work_under_lease(
    renewal: Renewal, lease: Lease, work: Coroutine[Any, Any, bool], *, grace_s: float
) -> bool:
    """Await the work while its lease is renewed.

    Args:
        renewal: How the lease is kept alive.
        lease: The lease, just claimed.
        work: The stage; cancelled when the lease is lost or the grace of a stop is over.
        grace_s: How long the work may go on after the worker was asked to stop, in seconds.

    Returns:
        What the work returned, or False when it was cancelled because the worker stops.

    Raises:
        StaleLeaseError: Another worker may own the shard now.
    """
    task = asyncio.create_task(work)
    alive = asyncio.create_task(_keep_alive(renewal, lease))
    drained = asyncio.create_task(_after_stop(renewal.stop, grace_s))
    try:
        await asyncio.wait({task, alive, drained}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if alive.done():
            alive.result()
        return False
    finally:
        await _cancel(task, alive, drained)


async def _keep_alive(renewal: Renewal, lease: Lease) -> None:
    """Renew the lease until it is lost."""
    renewed_at = time.monotonic()
    while True:
        await asyncio.sleep(renewal.lease_s / _RENEWALS_PER_LEASE)
        try:
            async with renewal.db.transaction() as conn:
                await shards.renew(conn, lease, renewal.lease_s)
            renewed_at = time.monotonic()
        except DatabaseUnavailableError as error:
            if time.monotonic() - renewed_at > renewal.lease_s:
                raise StaleLeaseError("the lease ran out while the database was away") from error
            _log.warning("lease.not_renewed", shard=lease.key.shard_no, reason=str(error))


async def _after_stop(stop: asyncio.Event, grace_s: float) -> None:
    await stop.wait()
    await asyncio.sleep(grace_s)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
