"""Records provider batches: what was submitted, what has no outcome yet, when to poll again.

Every write is fenced by the lease of the dispatch shard whose rows these are.
"""

from collections.abc import Sequence
from uuid import UUID, uuid4

import orjson
from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.domain.completion import Reservation
from routoo.domain.job import Lease
from routoo.domain.provider_batch import OpenProviderBatch, ProviderRow, ProviderState
from routoo.domain.validators import Validators
from routoo.store import leases
from routoo.store.encoding import storable

_ADD_ROWS = b"""
    INSERT INTO provider_rows (batch_id, marker, job_no, attempt_no)
    SELECT %s, %s, * FROM unnest(%s::int[], %s::int[])
"""


async def prepare(
    conn: AsyncConnection, lease: Lease, model: str, calls: Sequence[Reservation]
) -> UUID:
    """Note that some calls, their money reserved in this transaction, will go out together.

    Args:
        conn: A transaction; send nothing before its commit.
        lease: The dispatch shard.
        model: Name of the candidate.
        calls: The calls; those that are noted already stay with their batch.

    Returns:
        The marker of their batch.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    marker = uuid4()
    await conn.execute(
        "INSERT INTO provider_batches (marker, batch_id, shard_no, model) VALUES (%s, %s, %s, %s)",
        [marker, lease.key.batch_id, lease.key.shard_no, model],
    )
    await conn.execute(
        _ADD_ROWS,
        [
            lease.key.batch_id,
            marker,
            [call.job_no for call in calls],
            [call.attempt_no for call in calls],
        ],
    )
    return marker


async def load_open(conn: AsyncConnection, lease: Lease) -> list[OpenProviderBatch]:
    """Return a shard's batches whose rows are not all settled, oldest first."""
    async with conn.cursor(row_factory=class_row(OpenProviderBatch)) as cursor:
        await cursor.execute(
            """
            SELECT marker, model, state, provider_id, file_id, created_at AS prepared_at,
                   cancel_asked,
                   extract(epoch FROM clock_timestamp() - created_at)::float8 AS age_s,
                   extract(epoch FROM clock_timestamp() - create_tried_at)::float8 AS create_age_s
            FROM provider_batches
            WHERE batch_id = %s AND shard_no = %s AND state <> 'closed' ORDER BY created_at, marker
            """,
            [lease.key.batch_id, lease.key.shard_no],
        )
        return await cursor.fetchall()


_UNSETTLED_ROWS = b"""
    SELECT m.job_no, m.attempt_no, j.body::text, r.worst_case_usd, j.deadline,
           j.validators,
           (SELECT coalesce(sum(cost_usd), 0) FROM attempts a
            WHERE a.batch_id = m.batch_id AND a.job_no = m.job_no)
    FROM provider_rows m
    JOIN reservations r USING (batch_id, job_no, attempt_no)
    JOIN jobs j USING (batch_id, job_no)
    WHERE m.batch_id = %s AND m.marker = %s AND NOT EXISTS (
        SELECT FROM attempts a WHERE a.batch_id = m.batch_id AND a.job_no = m.job_no
          AND a.attempt_no = m.attempt_no)
    ORDER BY m.job_no
"""


async def known(conn: AsyncConnection, provider_ids: Sequence[str]) -> set[str]:
    """Return those of a provider's keys of batches that are recorded here."""
    cursor = await conn.execute(
        "SELECT provider_id FROM provider_batches WHERE provider_id = ANY(%s)", [list(provider_ids)]
    )
    return {provider_id for (provider_id,) in await cursor.fetchall()}


async def load_rows(conn: AsyncConnection, lease: Lease, marker: UUID) -> list[ProviderRow]:
    """Return the rows of a batch that are not settled yet, in the order of their jobs."""
    cursor = await conn.execute(_UNSETTLED_ROWS, [lease.key.batch_id, marker])
    return [
        ProviderRow(
            job_no,
            attempt_no,
            orjson.loads(body),
            worst_case_usd,
            spent_usd,
            deadline,
            None if rules is None else Validators.from_json(rules),
        )
        async for job_no, attempt_no, body, worst_case_usd, deadline, rules, spent_usd in cursor
    ]


async def ever_sent(conn: AsyncConnection, lease: Lease) -> set[int]:
    """Return the jobs of a shard that went through a provider's batch, whatever came of it."""
    cursor = await conn.execute(
        """
        SELECT DISTINCT job_no FROM provider_rows
        WHERE batch_id = %s AND job_no >= %s AND job_no < %s
        """,
        [lease.key.batch_id, lease.first_job, lease.first_job + lease.job_count],
    )
    return {row[0] async for row in cursor}


async def held_jobs(conn: AsyncConnection, batch_id: UUID) -> list[int]:
    """Return the numbers of a batch's jobs whose rows are still at a provider."""
    cursor = await conn.execute(
        """
        SELECT m.job_no FROM provider_rows m JOIN provider_batches b USING (marker)
        WHERE m.batch_id = %s AND b.state <> 'closed'
        """,
        [batch_id],
    )
    return [row[0] for row in await cursor.fetchall()]


async def is_any_open(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether rows of a batch are still at a provider."""
    cursor = await conn.execute(
        "SELECT FROM provider_batches WHERE batch_id = %s AND state <> 'closed' LIMIT 1", [batch_id]
    )
    return cursor.rowcount > 0


async def make_due(conn: AsyncConnection, batch_id: UUID) -> None:
    """Make the shards of a batch that wait for a provider due at once, parked ones too."""
    await conn.execute(
        """
        UPDATE shards s SET not_before = NULL, attempts = 0,
            state = CASE state WHEN 'parked' THEN 'ready' ELSE state END
        WHERE batch_id = %s AND stage = 'dispatch' AND state IN ('ready', 'parked') AND EXISTS (
            SELECT FROM provider_batches p WHERE p.batch_id = s.batch_id
              AND p.shard_no = s.shard_no AND p.state <> 'closed')
        """,
        [batch_id],
    )


async def note_file(conn: AsyncConnection, lease: Lease, marker: UUID, file_id: str | None) -> None:
    """Note how the provider names the input file; None for one that it doesn't know any more.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await _update(conn, lease, marker, "file_id = %(file_id)s", file_id=file_id)


async def note_postponed(conn: AsyncConnection, lease: Lease, marker: UUID, error: str) -> None:
    """Note that the provider surely has no batch of these rows, and takes one later.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    changes = "state = 'prepared', provider_id = NULL, create_tried_at = NULL, error = %(error)s"
    await _update(conn, lease, marker, changes, error=storable(error))


async def note_create(conn: AsyncConnection, lease: Lease, marker: UUID) -> None:
    """Note, before it happens, that the provider is asked to create a batch.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await _update(conn, lease, marker, "create_tried_at = clock_timestamp()")


async def note_created(conn: AsyncConnection, lease: Lease, marker: UUID, provider_id: str) -> None:
    """Note that the provider has a batch, and how it names it.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    changes = "state = 'created', provider_id = %(provider_id)s, error = NULL"
    await _update(conn, lease, marker, changes, provider_id=provider_id)


async def note_cancel(conn: AsyncConnection, lease: Lease, marker: UUID) -> None:
    """Note that the provider was asked to cancel a batch.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await _update(conn, lease, marker, "cancel_asked = true")


async def note_look(
    conn: AsyncConnection, lease: Lease, marker: UUID, *, status: str | None, error: str | None
) -> None:
    """Note what a look at the provider brought: its word for the batch, or why there is none.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    changes = "provider_status = coalesce(%(status)s, provider_status), error = %(error)s"
    await _update(conn, lease, marker, changes, status=storable(status), error=storable(error))


async def close(conn: AsyncConnection, lease: Lease, marker: UUID, *, error: str | None) -> None:
    """Note that every row of a batch is settled, in the transaction that settles the last ones.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    changes = "state = %(closed)s, closed_at = clock_timestamp(), error = %(error)s"
    closed = str(ProviderState.CLOSED)
    await _update(conn, lease, marker, changes, closed=closed, error=storable(error))


async def _update(
    conn: AsyncConnection, lease: Lease, marker: UUID, changes: str, **values: object
) -> None:
    await leases.fence(conn, lease)
    await conn.execute(
        f"UPDATE provider_batches SET {changes} WHERE marker = %(marker)s".encode(),
        {"marker": marker, **values},
    )
