"""What the selection decided: the model of each job, and which jobs share another's answer."""

from collections.abc import Iterable
from itertools import islice
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.domain.prediction import Assignment
from routoo.store import leases
from routoo.store.encoding import escaped

_BLOCK_ROWS = 5_000


async def save(
    conn: AsyncConnection, lease: Lease, assignments: Iterable[Assignment], revision: int
) -> None:
    """Save a plan; rows of the same revision that exist already stay.

    Args:
        conn: A transaction.
        lease: The shard whose jobs these are, the whole batch in the select stage.
        assignments: The models chosen; a job without one gets a result instead.
        revision: From 1; the highest one of a job counts.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    # COPY can't skip rows that exist, hence the detour; a temporary table writes no log.
    await conn.execute("CREATE TEMPORARY TABLE new_assignments (LIKE assignments) ON COMMIT DROP")
    await _copy(conn, f"{lease.key.batch_id}\t{revision}\t", iter(assignments))
    await conn.execute(
        "INSERT INTO assignments SELECT * FROM new_assignments ON CONFLICT DO NOTHING"
    )
    await conn.execute("DROP TABLE new_assignments")  # a transaction may save twice


async def exist(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether a batch has a plan that was committed."""
    cursor = await conn.execute("SELECT FROM assignments WHERE batch_id = %s LIMIT 1", [batch_id])
    return cursor.rowcount > 0


async def _copy(conn: AsyncConnection, key: str, assignments: Iterable[Assignment]) -> None:
    async with (
        conn.cursor() as cursor,
        cursor.copy(
            "COPY new_assignments (batch_id, revision, job_no, model, expected_quality,"
            " expected_cost_usd) FROM STDIN"
        ) as copy,
    ):
        rows = iter(assignments)
        while block := list(islice(rows, _BLOCK_ROWS)):
            lines = [
                f"{key}{a.job_no}\t{escaped(a.model)}\t{a.expected_quality}\t{a.expected_cost_usd}\n"
                for a in block
            ]
            await copy.write("".join(lines))


async def save_duplicates(
    conn: AsyncConnection, lease: Lease, pairs: Iterable[tuple[int, int]]
) -> None:
    """Save which jobs are duplicates and share another's answer; pairs that exist already stay.

    Args:
        conn: A transaction.
        lease: The select shard.
        pairs: Numbers of a duplicate and of its original, which is no duplicate itself.

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
        [lease.key.batch_id, [job for job, _ in numbers], [original for _, original in numbers]],
    )


async def any_duplicates(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether any job of a batch that was selected for shares another's answer."""
    found = await conn.execute("SELECT FROM followers WHERE batch_id = %s LIMIT 1", [batch_id])
    return await found.fetchone() is not None
