"""Margins of a batch whose quality floors are to hold with confidence."""

from collections.abc import Sequence
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.store import leases


async def save(conn: AsyncConnection, lease: Lease, margins: Sequence[float]) -> None:
    """Keep what is taken off each model's estimate; the first scorer's margins stand.

    Args:
        conn: A transaction.
        lease: A score shard of the batch.
        margins: In pool order.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    await conn.execute(
        "INSERT INTO floors (batch_id, margins) VALUES (%s, %s::real[]) ON CONFLICT DO NOTHING",
        [lease.key.batch_id, list(margins)],
    )


async def load(conn: AsyncConnection, batch_id: UUID) -> list[float] | None:
    """Return the margins in pool order; None where the batch asks for no confidence."""
    cursor = await conn.execute("SELECT margins FROM floors WHERE batch_id = %s", [batch_id])
    row = await cursor.fetchone()
    return None if row is None else list(row[0])
