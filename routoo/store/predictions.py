"""Predictions: saved a shard at a time, loaded a batch at a time into arrays."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from jaxtyping import Float32
from psycopg import AsyncConnection

from routoo.domain.job import Lease
from routoo.domain.prediction import Predictions
from routoo.errors import StoreError
from routoo.store import columns, leases
from routoo.store.encoding import array_of

_SLICE_JOBS = 10_000
"""Rows fetched at once: a few MB."""


def _empty(jobs: int, models: int) -> Predictions:
    return Predictions(
        quality=np.empty((jobs, models), np.float32),
        quality_std=np.empty((jobs, models), np.float32),
        completion_tokens=np.empty((jobs, models), np.float32),
        novelty=np.empty(jobs, np.float32),
        truncated=np.empty(jobs, np.bool_),
    )


_COLUMNS = columns.names(Predictions)
_SHAPES = _empty(0, 0)


def _sent(name: str) -> str:
    """Return the expression that sends a slice of a column as one array of `real`."""
    is_flag = getattr(_SHAPES, name).dtype == np.bool_
    return f"array_send(array_agg({name}{'::int::real' if is_flag else ''}))"


def _received_row(name: str) -> str:
    """Return the expression that cuts row n out of a parameter that holds a whole column."""
    shape = getattr(_SHAPES, name)
    if shape.dtype == np.bool_:
        return f"(%({name})b::bool[])[n]"
    if shape.ndim == 1:
        return f"(%({name})b::float8[])[n]::real"
    return f"(%({name})b::float8[])[(n - 1) * %(models)s + 1 : n * %(models)s]::real[]"


# One row, a byte string a column: numpy reads them several times faster than rows become objects.
_SELECT = f"""
    SELECT {columns.listed(map(_sent, _COLUMNS))}
    FROM (SELECT * FROM predictions WHERE batch_id = %s AND """
_SELECT_SLICE = f"{_SELECT} job_no >= %s AND job_no < %s ORDER BY job_no) AS slice".encode()
_SELECT_SOME = f"{_SELECT} job_no = ANY(%s) ORDER BY job_no) AS chosen".encode()
_INSERT = f"""
    INSERT INTO predictions (batch_id, job_no, {columns.listed(_COLUMNS)})
    SELECT %(batch_id)s, %(first)s + n - 1, {columns.listed(map(_received_row, _COLUMNS))}
    FROM generate_series(1, %(jobs)s) AS n
    ON CONFLICT DO NOTHING
""".encode()


async def save(conn: AsyncConnection, lease: Lease, predictions: Predictions) -> None:
    """Save the predictions of a shard's jobs, in order; rows that exist already stay.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: There are not as many rows as jobs in the shard.
    """
    jobs, models = predictions.quality.shape
    if jobs != lease.job_count:
        raise StoreError(f"{jobs} predictions for a shard of {lease.job_count} jobs")
    await leases.fence(conn, lease)
    await conn.execute(
        _INSERT,
        {
            "batch_id": lease.key.batch_id,
            "first": lease.first_job,
            "jobs": jobs,
            "models": models,
            **{name: getattr(predictions, name).ravel().tolist() for name in _COLUMNS},
        },
    )


async def save_unknown(conn: AsyncConnection, batch_id: UUID, job_no: int) -> None:
    """Save for a job that can't be scored that nothing is known of it, so that the others go on."""
    await conn.execute(
        """
        INSERT INTO predictions (batch_id, job_no, quality, quality_std, completion_tokens,
                                 novelty, truncated)
        SELECT id, %s, array_fill(0::real, ARRAY[models]), array_fill(1::real, ARRAY[models]),
               array_fill(0::real, ARRAY[models]), 1, false
        FROM batches, jsonb_array_length(pool -> 'models') AS models WHERE id = %s
        ON CONFLICT DO NOTHING
        """,
        [job_no, batch_id],
    )


async def load_batch(conn: AsyncConnection, batch_id: UUID) -> Predictions:
    """Load a whole batch's predictions, rows in the order of job_no.

    The memory needed is that of the arrays and of one slice.

    Raises:
        StoreError: A job of the batch has no prediction.
    """
    jobs, models = await _shape(conn, batch_id)
    loaded = _empty(jobs, models)
    for first in range(0, jobs, _SLICE_JOBS):
        cursor = await conn.execute(
            _SELECT_SLICE, [batch_id, first, first + _SLICE_JOBS], binary=True
        )
        row = await cursor.fetchone()
        if row is not None:
            _fill(loaded, row, slice(first, min(first + _SLICE_JOBS, jobs)))
    return loaded


async def load_some(
    conn: AsyncConnection, batch_id: UUID, numbers: Sequence[int], models: int
) -> Predictions:
    """Load the predictions of some jobs, rows in the order of job_no.

    Args:
        conn: A connection.
        batch_id: The batch, scored as a whole.
        numbers: Of the jobs, at least one.
        models: How many candidate models the batch has.
    """
    loaded = _empty(len(numbers), models)
    cursor = await conn.execute(_SELECT_SOME, [batch_id, list(numbers)], binary=True)
    row = await cursor.fetchone()
    if row is not None:
        _fill(loaded, row, slice(0, len(numbers)))
    return loaded


async def load_completion_tokens(
    conn: AsyncConnection, batch_id: UUID, job_no: int
) -> Float32[np.ndarray, " models"]:
    """Load the predicted completion tokens of one job.

    Raises:
        StoreError: The job has no prediction.
    """
    cursor = await conn.execute(
        "SELECT completion_tokens FROM predictions WHERE batch_id = %s AND job_no = %s",
        [batch_id, job_no],
    )
    row = await cursor.fetchone()
    if row is None:
        raise StoreError("the job has no prediction", value=job_no, where=f"batch {batch_id}")
    return np.array(row[0], np.float32)


async def load_quality(conn: AsyncConnection, batch_id: UUID, job_no: int) -> tuple[float, ...]:
    """Return the predicted quality of one job for every model; nothing before it is scored."""
    cursor = await conn.execute(
        "SELECT quality FROM predictions WHERE batch_id = %s AND job_no = %s", [batch_id, job_no]
    )
    row = await cursor.fetchone()
    return tuple(row[0]) if row else ()


async def _shape(conn: AsyncConnection, batch_id: UUID) -> tuple[int, int]:
    """Return jobs and models; refuse a batch that isn't scored as a whole."""
    cursor = await conn.execute(
        """
        SELECT b.job_count, count(p), coalesce(min(cardinality(quality)), 0),
               coalesce(max(cardinality(quality)), 0)
        FROM batches b LEFT JOIN predictions p ON p.batch_id = b.id
        WHERE b.id = %s GROUP BY b.id
        """,
        [batch_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise StoreError("there is no such batch", value=str(batch_id))
    jobs, predicted, least, most = row
    if predicted != jobs or least != most:
        raise StoreError(f"{predicted} of {jobs} jobs have predictions", value=str(batch_id))
    return jobs, most


def _fill(loaded: Predictions, sent: Sequence[bytes], rows: slice) -> None:
    for name, data in zip(_COLUMNS, sent, strict=True):
        target = getattr(loaded, name)
        shape = target[rows].shape
        target[rows] = array_of(data, ">f4", len(shape)).reshape(shape)


async def save_margins(conn: AsyncConnection, lease: Lease, margins: Sequence[float]) -> None:
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


async def save_prompt_factors(
    conn: AsyncConnection, lease: Lease, factors: Sequence[float]
) -> None:
    """Keep what the checkpoint knows of its models' prompt tokens; the first scorer's stands.

    Args:
        conn: A transaction.
        lease: A score shard of the batch.
        factors: Prompt tokens billed for one that is estimated, in pool order.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    await conn.execute(
        "INSERT INTO prompt_factors (batch_id, factors) VALUES (%s, %s::real[])"
        " ON CONFLICT DO NOTHING",
        [lease.key.batch_id, list(factors)],
    )


async def load_prompt_factors(conn: AsyncConnection, batch_id: UUID) -> list[float] | None:
    """Return prompt tokens billed for one estimated, in pool order; None where nobody knows."""
    cursor = await conn.execute(
        "SELECT factors FROM prompt_factors WHERE batch_id = %s", [batch_id]
    )
    row = await cursor.fetchone()
    return None if row is None else list(row[0])


async def load_margins(conn: AsyncConnection, batch_id: UUID) -> list[float] | None:
    """Return the margins in pool order; None where the batch asks for no confidence."""
    cursor = await conn.execute("SELECT margins FROM floors WHERE batch_id = %s", [batch_id])
    row = await cursor.fetchone()
    return None if row is None else list(row[0])
