"""Packed facts of requests: written by scorers, read by selections in place of the requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.store import columns, leases


@dataclass(frozen=True, slots=True)
class PackedFacts:
    """What is known of some consecutive jobs' requests, packed by `pipeline.request_facts`."""

    first_job: int
    """Number of the first job."""
    job_count: int
    format: int
    """Number of the format that the rest is in."""
    columns: bytes
    """Arrays of equal length, one after the other."""
    kinds: str
    """The kinds of requests that the arrays number, as a JSON list."""
    digests: bytes | None
    """A digest of each request; None where they were not read."""


_COLUMNS = columns.listed(columns.names(PackedFacts))
_INSERT = f"""
    INSERT INTO request_facts (batch_id, {_COLUMNS})
    VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
""".encode()


async def save(conn: AsyncConnection, lease: Lease, facts: PackedFacts) -> None:
    """Keep the facts of a shard's requests; facts that are there already stay.

    Args:
        conn: A transaction.
        lease: A score shard of the batch.
        facts: Of its jobs.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    await conn.execute(
        _INSERT, [lease.key.batch_id, *(getattr(facts, name) for name in facts.__slots__)]
    )


async def list_slices(conn: AsyncConnection, batch_id: UUID, format_: int) -> list[range]:
    """Return the job numbers of each slice whose facts are kept in a format, in order.

    Args:
        conn: A connection.
        batch_id: The batch.
        format_: Its number.
    """
    cursor = await conn.execute(
        "SELECT first_job, job_count FROM request_facts WHERE batch_id = %s AND format = %s"
        " ORDER BY first_job",
        [batch_id, format_],
    )
    return [range(first, first + count) for first, count in await cursor.fetchall()]


async def load(
    conn: AsyncConnection, batch_id: UUID, first_jobs: Sequence[int], *, digests: bool
) -> list[PackedFacts]:
    """Return some slices of a batch's facts, in order.

    Args:
        conn: A connection.
        batch_id: The batch.
        first_jobs: Number of each slice's first job.
        digests: Whether to read the digests, too.
    """
    cursor = await conn.execute(
        f"""
        SELECT first_job, job_count, format, columns, kinds::text,
               {"digests" if digests else "NULL::bytea"}
        FROM request_facts WHERE batch_id = %s AND first_job = ANY(%s) ORDER BY first_job
        """.encode(),
        [batch_id, list(first_jobs)],
        binary=True,
    )
    return [PackedFacts(*row) for row in await cursor.fetchall()]
