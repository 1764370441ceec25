"""Saves what the selection decided: each job's model, and which jobs share another's answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from uuid import UUID

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32
from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.domain.prediction import Assignment
from routoo.store import columns, leases
from routoo.store.encoding import array_of, escaped

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
    key = f"{lease.key.batch_id}\t{revision}\t"
    if not await exist(conn, lease.key.batch_id):  # and the fence keeps others from writing any
        await _copy(conn, "assignments", key, assignments)
        return
    await _copy_new(conn, key, assignments)


async def _copy_new(conn: AsyncConnection, key: str, assignments: Iterable[Assignment]) -> None:
    """Copy rows in but for those that exist."""
    # COPY can't skip rows that exist, hence the detour; a temporary table writes no log.
    await conn.execute("CREATE TEMPORARY TABLE new_assignments (LIKE assignments) ON COMMIT DROP")
    await _copy(conn, "new_assignments", key, assignments)
    await conn.execute(
        "INSERT INTO assignments SELECT * FROM new_assignments ON CONFLICT DO NOTHING"
    )
    await conn.execute("DROP TABLE new_assignments")  # a transaction may save twice


async def exist(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether a batch has a plan that was committed."""
    cursor = await conn.execute("SELECT FROM assignments WHERE batch_id = %s LIMIT 1", [batch_id])
    return cursor.rowcount > 0


async def _copy(
    conn: AsyncConnection, table: str, key: str, assignments: Iterable[Assignment]
) -> None:
    statement = f"COPY {table} (batch_id, revision, {_ASSIGNMENT}) FROM STDIN"
    async with conn.cursor() as cursor, cursor.copy(statement.encode()) as copy:
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

_IN_SLICE = "WHERE batch_id = %(batch_id)s AND job_no >= %(first)s AND job_no < %(end)s"
# Arrays of one snapshot, each read along its table's key: looking each job up in every table costs
# ten times the time. The order makes a job's last revision its last.
_SLICE = f"""
    SELECT
        (SELECT array_send(array_agg(job_no)) FROM results {_IN_SLICE}),
        (SELECT array_send(array_agg(job_no)) FROM followers {_IN_SLICE}),
        (SELECT array_send(array_agg(job_no)) FROM (
            SELECT job_no FROM kept_answers {_IN_SLICE}
            UNION ALL
            SELECT job_no FROM (
                SELECT job_no, attempt_no FROM reservations {_IN_SLICE}
                EXCEPT SELECT job_no, attempt_no FROM attempts {_IN_SLICE}) AS awaited) AS called),
        array_send(array_agg(job_no)), array_send(array_agg(column_no)),
        array_send(array_agg(probe)), array_send(array_agg(usd))
    FROM (
        SELECT job_no, coalesce(array_position(%(models)s::text[], model), 0) - 1 AS column_no,
               probe::int, expected_cost_usd::float8 AS usd
        FROM assignments {_IN_SLICE} ORDER BY job_no, revision
    ) AS assigned
""".encode()


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
    found = OpenJobs(
        np.arange(job_count, dtype=np.int32),
        np.full(job_count, -1, np.int32),
        np.zeros(job_count, np.bool_),
        np.zeros(job_count),
        np.zeros(job_count, np.bool_),
    )
    is_open = np.ones(job_count, np.bool_)
    for first in range(0, job_count, _SLICE_JOBS):
        key = {"batch_id": batch_id, "first": first, "end": first + _SLICE_JOBS}
        cursor = await conn.execute(_SLICE, {**key, "models": list(models)}, binary=True)
        row = await cursor.fetchone()
        if row is not None:
            _fill(found, is_open, row)
    return OpenJobs(*(getattr(found, field.name)[is_open] for field in fields(OpenJobs)))


def _fill(found: OpenJobs, is_open: Bool[np.ndarray, " jobs"], row: Sequence[bytes | None]) -> None:
    """Set what a row of `_SLICE` says of some of all jobs of a batch."""
    ended, duplicates, awaited, assigned, columns_, probes = (
        array_of(sent, ">i4") for sent in row[:-1]
    )
    is_open[ended] = is_open[duplicates] = False
    found.called[awaited] = True
    found.column[assigned], found.probe[assigned] = columns_, probes > 0
    found.expected_cost_usd[assigned] = array_of(row[-1], ">f8")
