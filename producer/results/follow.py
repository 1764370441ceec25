"""Yields the results of a batch as they come, each once, while the batch runs."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

import numpy as np
from jaxtyping import Bool, Int

from routoo.errors import DatabaseUnavailableError
from routoo.store import results
from routoo.store.database import Database
from routoo.store.results import ResultRecord

_POLL_S = 0.3
_POLL_SHARE = 10.0
"""Shortest pause between two queries for results, as a multiple of the last query's duration."""
_COMMIT_S = timedelta(seconds=60)
"""Longer than a transaction of results takes: one that began earlier may be seen later."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK = 500
"""Results read at once."""
_DATABASE_AWAY_S = 60.0
"""How long a database that restarts is waited for."""

_Found = TypeVar("_Found")


async def follow_results(
    database: Database,
    batch_id: UUID,
    job_count: int,
    is_over: Callable[[], Awaitable[bool]],
    *,
    in_order: bool,
) -> AsyncGenerator[list[ResultRecord], None]:
    """Yield every job's result once, some at a time, until the batch is over.

    Args:
        database: The store.
        batch_id: The batch; it was submitted.
        job_count: Its jobs.
        is_over: Returns whether the batch is over; called before each query for results.
        in_order: Yield the results in input order, once the batch is over.

    Yields:
        Results that are new; an empty list where a query found none, so that a reader knows that
        the batch is still followed.

    Raises:
        DatabaseUnavailableError: The database was away for a minute.
    """
    seen = np.zeros(job_count, np.bool_)
    since, rest_s = _LONG_AGO, _POLL_S
    while not await _when_there(is_over):
        if in_order:
            yield []
        else:
            begun_s = time.monotonic()
            saved = partial(_saved, database, batch_id, since, seen)
            numbers, newest = await _when_there(saved)
            rest_s = max(_POLL_S, _POLL_SHARE * (time.monotonic() - begun_s))
            since = max(since, newest - _COMMIT_S)
            yield []
            async for block in _read(database, batch_id, numbers):
                yield block
        await asyncio.sleep(rest_s)
    async for block in _read(database, batch_id, np.flatnonzero(~seen)):
        yield block


async def _saved(
    database: Database, batch_id: UUID, since: datetime, seen: Bool[np.ndarray, " jobs"]
) -> tuple[Int[np.ndarray, " new"], datetime]:
    """Return and mark the jobs whose results were saved lately, and the time of the newest."""
    async with database.transaction() as conn:
        found, newest = await results.saved_since(conn, batch_id, since)
    numbers = np.array(found, np.int64)
    new = numbers[~seen[numbers]]
    seen[new] = True
    return new, newest or since


async def _read(
    database: Database, batch_id: UUID, numbers: Int[np.ndarray, " some"]
) -> AsyncGenerator[list[ResultRecord], None]:
    for first in range(0, len(numbers), _BLOCK):
        block = numbers[first : first + _BLOCK].tolist()
        yield await _when_there(partial(_read_block, database, batch_id, block))


async def _read_block(database: Database, batch_id: UUID, jobs: list[int]) -> list[ResultRecord]:
    async with database.transaction() as conn:
        return await results.read(conn, batch_id, jobs)


async def _when_there(read: Callable[[], Awaitable[_Found]]) -> _Found:
    """Read from the database; again and again for a minute where it is away."""
    begun_s = time.monotonic()
    while True:
        try:
            return await read()
        except DatabaseUnavailableError:
            if time.monotonic() - begun_s > _DATABASE_AWAY_S:
                raise
        await asyncio.sleep(_POLL_S)
