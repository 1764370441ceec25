"""Shards that end every worker that takes them."""

from psycopg import AsyncConnection

from routoo.domain.job import ShardKey, Stage
from routoo.store import batches

_EXHAUSTED = """
    state = 'leased' AND lease_expires_at < clock_timestamp() AND attempts >= %s
    AND batch_id IN (SELECT id FROM batches WHERE status IN ('planning', 'in_progress'))
"""


async def park_exhausted(conn: AsyncConnection, max_attempts: int) -> list[ShardKey]:
    """Park shards that killed every worker that took them, and fail their batches.

    A shard that ends its worker never reports an error: only its expired lease and the count of
    its attempts tell.

    Args:
        conn: A transaction.
        max_attempts: Attempts after which an abandoned shard is parked.

    Returns:
        Keys of the shards parked now.
    """
    # Batches first, as `shards.complete` does, so that the two can't wait for each other.
    await conn.execute(
        f"SELECT FROM batches WHERE id IN (SELECT batch_id FROM shards WHERE {_EXHAUSTED})"  # noqa: S608 - a literal of this module
        " ORDER BY id FOR NO KEY UPDATE",
        [max_attempts],
    )
    cursor = await conn.execute(
        f"""
        UPDATE shards SET state = 'parked', owner = NULL, lease_expires_at = NULL,
            error = coalesce(error, 'its worker died')
        WHERE {_EXHAUSTED} RETURNING batch_id, stage, shard_no
        """,  # noqa: S608 - as above
        [max_attempts],
    )
    parked = [ShardKey(row[0], Stage(row[1]), row[2]) async for row in cursor]
    for key in parked:
        reason = f"{key.stage} shard {key.shard_no} lost its worker {max_attempts} times"
        await batches.fail(conn, key.batch_id, reason)
    return parked
