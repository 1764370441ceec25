"""The jobs of a running batch that wait for a result of their own, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from jaxtyping import Bool, Int32
from psycopg import AsyncConnection

_SLICE_JOBS = 10_000
"""Rows fetched at once; only the arrays grow with the batch."""

_OPEN = """
SELECT j.job_no, coalesce(array_position(%(models)s::text[], a.model), 0) - 1,
       (EXISTS (
           SELECT FROM reservations r
           WHERE r.batch_id = j.batch_id AND r.job_no = j.job_no AND NOT EXISTS (
               SELECT FROM attempts t WHERE t.batch_id = r.batch_id AND t.job_no = r.job_no
                 AND t.attempt_no = r.attempt_no)))::int
FROM jobs j
LEFT JOIN LATERAL (
    SELECT model FROM assignments s WHERE s.batch_id = j.batch_id AND s.job_no = j.job_no
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
    called: Bool[np.ndarray, " open"]
    """A call is under way, or was lost in a crash."""


async def load_open(
    conn: AsyncConnection, batch_id: UUID, job_count: int, models: Sequence[str]
) -> OpenJobs:
    """Return a batch's jobs that have no result.

    Args:
        conn: A connection.
        batch_id: The batch.
        job_count: Its jobs, open or not.
        models: Names of its candidate models, in pool order.
    """
    slices = [np.empty((0, 3), np.int32)]
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
        slices.append(np.array(rows, np.int32).reshape(-1, 3))
    table = np.concatenate(slices)
    return OpenJobs(table[:, 0], table[:, 1], table[:, 2] > 0)
