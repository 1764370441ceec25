"""Judges of answers: each is kept once, since dispatchers may not see a checkpoint's folder."""

import hashlib
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.store import leases


async def keep(conn: AsyncConnection, lease: Lease, content: bytes) -> None:
    """Keep the judge of a batch's answers; the first scorer's stands.

    Args:
        conn: A transaction.
        lease: A score shard of the batch.
        content: The judge of the checkpoint that scores it, as one file.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    sha256 = hashlib.sha256(content).hexdigest()
    known = await conn.execute("SELECT FROM judges WHERE content_sha256 = %s", [sha256])
    if known.rowcount == 0:  # megabytes, which are sent once and not with every shard
        await conn.execute(
            "INSERT INTO judges (content_sha256, content) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [sha256, content],
        )
    await conn.execute(
        "INSERT INTO batch_judges (batch_id, content_sha256) VALUES (%s, %s)"
        " ON CONFLICT DO NOTHING",
        [lease.key.batch_id, sha256],
    )


async def sha256_of(conn: AsyncConnection, batch_id: UUID) -> str | None:
    """Return the hash of the judge of a batch's answers; None where it has none."""
    cursor = await conn.execute(
        "SELECT content_sha256 FROM batch_judges WHERE batch_id = %s", [batch_id]
    )
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def content_of(conn: AsyncConnection, batch_id: UUID) -> bytes | None:
    """Return the judge of a batch's answers as one file; None where it has none."""
    cursor = await conn.execute(
        "SELECT content FROM batch_judges JOIN judges USING (content_sha256) WHERE batch_id = %s",
        [batch_id],
        binary=True,
    )
    row = await cursor.fetchone()
    return None if row is None else bytes(row[0])
