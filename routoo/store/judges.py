"""Judges of answers: kept once for each checkpoint, since dispatchers may not see its folder."""

from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.store import leases


@dataclass(frozen=True, slots=True)
class StoredJudge:
    """A judge as the database keeps it."""

    weights_sha256: str
    """Hash of the weights of the checkpoint that it belongs to."""
    content: bytes


async def keep(conn: AsyncConnection, lease: Lease, judge: StoredJudge) -> None:
    """Keep the judge of a batch's answers; the first scorer's stands.

    Args:
        conn: A transaction.
        lease: A score shard of the batch.
        judge: The judge of the checkpoint that scores it.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    known = await conn.execute(
        "SELECT FROM judges WHERE weights_sha256 = %s", [judge.weights_sha256]
    )
    if known.rowcount == 0:  # megabytes, which are sent once and not with every shard
        await conn.execute(
            "INSERT INTO judges (weights_sha256, content) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [judge.weights_sha256, judge.content],
        )
    await conn.execute(
        "INSERT INTO batch_judges (batch_id, weights_sha256) VALUES (%s, %s)"
        " ON CONFLICT DO NOTHING",
        [lease.key.batch_id, judge.weights_sha256],
    )


async def hash_of(conn: AsyncConnection, batch_id: UUID) -> str | None:
    """Return the hash that names the judge of a batch's answers; None where it has none."""
    cursor = await conn.execute(
        "SELECT weights_sha256 FROM batch_judges WHERE batch_id = %s", [batch_id]
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def content_of(conn: AsyncConnection, weights_sha256: str) -> bytes:
    """Return a judge that is kept."""
    cursor = await conn.execute(
        "SELECT content FROM judges WHERE weights_sha256 = %s", [weights_sha256], binary=True
    )
    row = await cursor.fetchone()
    return b"" if row is None else row[0]
