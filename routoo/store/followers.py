"""Followers: jobs that are not called because an identical one of their batch is."""

from collections.abc import Iterable
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.store import leases


async def save(conn: AsyncConnection, lease: Lease, pairs: Iterable[tuple[int, int]]) -> None:
    """Save which jobs share another's answer; pairs that exist already stay.

    Args:
        conn: A transaction.
        lease: The select shard.
        pairs: Numbers of a follower and of its leader, which is no follower itself.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    numbers = list(pairs)
    await conn.execute(
        """
        INSERT INTO followers (batch_id, job_no, leader_no)
        SELECT %s, * FROM unnest(%s::int[], %s::int[]) ON CONFLICT DO NOTHING
        """,
        [lease.key.batch_id, [job for job, _ in numbers], [leader for _, leader in numbers]],
    )


async def exist(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether any job of a batch that was selected for shares another's answer."""
    found = await conn.execute("SELECT FROM followers WHERE batch_id = %s LIMIT 1", [batch_id])
    return await found.fetchone() is not None
