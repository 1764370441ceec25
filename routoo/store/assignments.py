"""Saves what the selection decided: each job's model, and which jobs share another's answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32
from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.domain.prediction import Assignment
from routoo.store import columns, leases
from routoo.store.encoding import escaped

_BLOCK_ROWS = 5_000
_ASSIGNMENT = columns.listed(columns.names(Assignment))


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
        cursor.copy(f"COPY new_assignments (batch_id, revision, {_ASSIGNMENT}) FROM STDIN") as copy,
    ):
        rows = iter(assignments)
        while block := list(islice(rows, _BLOCK_ROWS)):
            # Field by field, in the record's order: a loop over its fields costs twice the time.
            lines = [
                f"{key}{a.job_no}\t{escaped(a.model)}\t{a.expected_quality}\t{a.expected_cost_usd}"
                f"\t{a.probe}\t{a.escalation_chance}\n"
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


async def duplicates_of(
    conn: AsyncConnection, batch_id: UUID, numbers: Sequence[int]
) -> tuple[dict[int, int], dict[int, int]]:
    """Return which of some jobs share another's answer, and how many share that of each other.

    Returns:
        The original of each duplicate among them; of the others, the number of their duplicates
        where they have any. Both by job number.
    """
    of = "WHERE batch_id = %s AND {} = ANY(%s)"
    originals = await conn.execute(
        f"SELECT job_no, leader_no FROM followers {of.format('job_no')}".encode(),
        [batch_id, list(numbers)],
    )
    found: dict[int, int] = dict(await originals.fetchall())
    counts = await conn.execute(
        f"SELECT leader_no, count(*) FROM followers {of.format('leader_no')} GROUP BY 1".encode(),
        [batch_id, list(numbers)],
    )
    return found, dict(await counts.fetchall())


async def load_weights(
    conn: AsyncConnection, batch_id: UUID, numbers: Int32[np.ndarray, " some"]
) -> Float32[np.ndarray, " some"] | None:
    """Return how many jobs the answer of each of some originals serves; None = one each.

    Args:
        conn: A connection.
        batch_id: The batch, selected for.
        numbers: Of the jobs, ascending, no duplicates among them.
    """
    cursor = await conn.execute(
        "SELECT leader_no, count(*) FROM followers WHERE batch_id = %s GROUP BY 1", [batch_id]
    )
    counts: dict[int, int] = dict(await cursor.fetchall())
    if not counts:
        return None
    return np.array([1 + counts.get(number, 0) for number in numbers.tolist()], np.float32)


_SLICE_JOBS = 10_000
"""Rows fetched at once; only the arrays grow with the batch."""

_OPEN = """
SELECT j.job_no, coalesce(array_position(%(models)s::text[], a.model), 0) - 1,
       coalesce(a.probe, false)::int, coalesce(a.expected_cost_usd, 0)::float8,
       (EXISTS (
           SELECT FROM kept_answers k WHERE k.batch_id = j.batch_id AND k.job_no = j.job_no)
        OR EXISTS (
           SELECT FROM reservations r
           WHERE r.batch_id = j.batch_id AND r.job_no = j.job_no AND NOT EXISTS (
               SELECT FROM attempts t WHERE t.batch_id = r.batch_id AND t.job_no = r.job_no
                 AND t.attempt_no = r.attempt_no)))::int
FROM jobs j
LEFT JOIN LATERAL (
    SELECT model, probe, expected_cost_usd FROM assignments s
    WHERE s.batch_id = j.batch_id AND s.job_no = j.job_no
    ORDER BY revision DESC LIMIT 1
) a ON true
WHERE j.batch_id = %(batch_id)s AND j.job_no >= %(first)s AND j.job_no < %(end)s
  AND NOT EXISTS (
    SELECT FROM results r WHERE r.batch_id = j.batch_id AND r.job_no = j.job_no)
  AND NOT EXISTS (
    SELECT FROM followers f WHERE f.batch_id = j.batch_id AND f.job_no = j.job_no)
ORDER BY j.job_no
"""


@dataclass(frozen=True, slots=True)
class OpenJobs:
    """Jobs that are to be called and have no result, in order."""

    job_no: Int32[np.ndarray, " open"]
    column: Int32[np.ndarray, " open"]
    """Of the model assigned last, in pool order; -1 where none is."""
    probe: Bool[np.ndarray, " open"]
    """Its answer is to be judged."""
    expected_cost_usd: Float64[np.ndarray, " open"]
    """Of all calls of the job, as assigned, in USD."""
    called: Bool[np.ndarray, " open"]
    """A call is under way, or was lost in a crash, or an answer waits to be judged."""


async def load_open_jobs(
    conn: AsyncConnection, batch_id: UUID, job_count: int, models: Sequence[str]
) -> OpenJobs:
    """Return a batch's jobs that have no result.

    Args:
        conn: A connection.
        batch_id: The batch.
        job_count: Its jobs, open or not.
        models: Names of its candidate models, in pool order.
    """
    slices = [np.empty((0, 5))]
    for first in range(0, job_count, _SLICE_JOBS):
        cursor = await conn.execute(
            _OPEN,
            {
                "batch_id": batch_id,
                "first": first,
                "end": first + _SLICE_JOBS,
                "models": list(models),
            },
        )
        rows = await cursor.fetchall()
        slices.append(np.array(rows, np.float64).reshape(-1, 5))
    table = np.concatenate(slices)
    job_no, column = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32)
    probe, expected_cost_usd, called = table[:, 2] > 0, table[:, 3], table[:, 4] > 0
    return OpenJobs(job_no, column, probe, expected_cost_usd, called)
