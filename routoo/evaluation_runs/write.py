"""Writes the batches of a run."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from routoo.store import batches
from routoo.store.jobs import JobInput, copy_jobs

_CHUNK = 1000


async def write_batch(
    conn: AsyncConnection,
    new: batches.NewBatch,
    rows: Sequence[tuple[str, dict[str, Any]]],
    shard_size: int,
) -> UUID:
    """Write a batch whose jobs are known to be good, and return its id.

    Args:
        conn: A transaction; workers see the batch when it commits.
        new: What the batch is asked to be.
        rows: The custom_id and the request of each job.
        shard_size: Most jobs in a shard.
    """
    batch_id, _ = await batches.create(conn, new)
    async with copy_jobs(conn, batch_id) as copy:
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            await copy.write(
                [
                    JobInput(number, custom_id, orjson.dumps(body).decode())
                    for number, (custom_id, body) in enumerate(part, start)
                ]
            )
    await batches.seal(conn, batch_id, len(rows), shard_size)
    return batch_id
