"""Batches that come through the gateway: asked for, read and submitted, then batches like others.

A row stays `validating` until some gateway has read its file: one that dies leaves it to the next.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.domain.job import ApiBatchState, BatchStatus, ResultStatus
from routoo.store import columns
from routoo.store.database import Database

OUTPUT, ERRORS = "output", "errors"
"""The two files of a batch's results, as `deleted_files` names them."""


@dataclass(frozen=True, slots=True)
class NewApiBatch:
    """A batch as it is asked for."""

    id: UUID
    key_id: UUID | None
    """Key that it belongs to; None stands for the operator."""
    input_file_id: UUID
    endpoint: str
    completion_window: str
    details: Mapping[str, str]
    """Its metadata."""
    budget_usd: Decimal | None
    expires_at: datetime
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class ApiBatchRecord:
    """A batch of the gateway, with what became of it."""

    id: UUID
    key_id: UUID | None
    input_file_id: UUID
    endpoint: str
    completion_window: str
    details: dict[str, str]
    budget_usd: Decimal | None
    expires_at: datetime
    idempotency_key: str | None
    state: ApiBatchState
    errors: list[dict[str, Any]] | None
    bad_rows: int
    bad_rows_file_id: UUID | None
    deleted_files: list[str]
    created_at: datetime
    ended_at: datetime | None

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "state", ApiBatchState(self.state))


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """What became of a batch once it was submitted."""

    status: BatchStatus
    error: str | None
    job_count: int
    submitted_at: datetime
    completed_at: datetime | None
    results: Mapping[ResultStatus, int]
    """Jobs that ended, by how; absent where none did."""
    downgraded: int
    """Jobs that a model answered which is expected to be worse than the planned one."""
    budget_usd: Decimal | None
    """Its budget now."""
    spent_usd: Decimal
    """Cost of its calls so far, above the budget too."""

    @property
    def succeeded(self) -> int:
        """Jobs that have an answer."""
        return self.results.get(ResultStatus.SUCCEEDED, 0)

    @property
    def unanswered(self) -> int:
        """Jobs that ended without one."""
        return sum(self.results.values()) - self.succeeded


async def add(conn: AsyncConnection, new: NewApiBatch) -> tuple[UUID, bool]:
    """Write a batch, or find the one that was asked for with the same idempotency key.

    Returns:
        Its id, and whether it is new.
    """
    values = {one.name: getattr(new, one.name) for one in fields(NewApiBatch)}
    values["details"] = Jsonb(dict(new.details))
    unless_known = "ON CONFLICT (idempotency_key) DO NOTHING RETURNING id"
    while True:  # the first one may free its key while we look for it
        query = columns.insert("api_batches", values, unless_known)
        if await (await conn.execute(query, values)).fetchone() is not None:
            return new.id, True
        cursor = await conn.execute(
            "SELECT id FROM api_batches WHERE idempotency_key = %s", [new.idempotency_key]
        )
        row = await cursor.fetchone()
        if row is not None:
            return row[0], False


async def get(conn: AsyncConnection, batch_id: UUID) -> ApiBatchRecord:
    """Return a batch.

    Raises:
        NotFoundError: None with this id came through the gateway.
    """
    found = await columns.select(conn, ApiBatchRecord, "api_batches WHERE id = %s", [batch_id])
    return columns.only(found, "batch", batch_id)


async def page(
    conn: AsyncConnection, key_id: UUID | None, *, all_keys: bool, after: UUID | None, limit: int
) -> list[ApiBatchRecord]:
    """Return batches of a key, or of all keys, the newest first.

    Args:
        conn: A connection.
        key_id: Whose batches; None stands for the operator.
        all_keys: Whether those of all keys are wanted.
        after: Only those behind this one; None begins with the newest.
        limit: Most to return.
    """
    source = """
        api_batches WHERE (%(all)s OR key_id IS NOT DISTINCT FROM %(key)s)
          AND (%(after)s::uuid IS NULL OR (created_at, id) <
               (SELECT created_at, id FROM api_batches WHERE id = %(after)s))
        ORDER BY created_at DESC, id DESC LIMIT %(limit)s
    """
    values = {"all": all_keys, "key": key_id, "after": after, "limit": limit}
    return await columns.select(conn, ApiBatchRecord, source, values)


_SUBMITTED = b"""
    SELECT b.id, b.status, b.error, b.job_count, coalesce(b.submitted_at, b.created_at),
           b.completed_at,
           (SELECT json_object_agg(status, n) FROM (
                SELECT status, sum(results) AS n FROM batch_counts
                WHERE batch_id = b.id AND status IS NOT NULL GROUP BY status) AS r),
           (SELECT coalesce(sum(downgrades), 0)::int FROM batch_counts WHERE batch_id = b.id),
           l.limit_usd, l.spent_usd + l.overrun_usd
    FROM batches b JOIN ledgers l ON l.batch_id = b.id WHERE b.id = ANY(%s)
"""


async def submitted_batches(
    conn: AsyncConnection, batch_ids: Sequence[UUID]
) -> dict[UUID, SubmittedBatch]:
    """Return what became of batches, by id; one that was never submitted is missing."""
    cursor = await conn.execute(_SUBMITTED, [list(batch_ids)])
    found = {}
    async for batch_id, status, error, jobs, submitted_at, completed_at, results, *rest in cursor:
        counts = {ResultStatus(name): count for name, count in (results or {}).items()}
        found[batch_id] = SubmittedBatch(
            BatchStatus(status), error, jobs, submitted_at, completed_at, counts, *rest
        )
    return found


async def validating(conn: AsyncConnection) -> list[UUID]:
    """Return the batches whose rows are still to be read, the oldest first."""
    cursor = await conn.execute(
        "SELECT id FROM api_batches WHERE state = 'validating' ORDER BY created_at, id"
    )
    return [row[0] async for row in cursor]


@asynccontextmanager
async def reading(database: Database, batch_id: UUID) -> AsyncIterator[ApiBatchRecord | None]:
    """Hold a batch for as long as the block reads its rows; None where another gateway does.

    The lock goes with the connection: however this process ends, another one takes over.
    """
    async with database.transaction() as conn:
        cursor = await conn.execute(
            "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [str(batch_id)]
        )
        row = await cursor.fetchone()
        record = await get(conn, batch_id) if row and row[0] else None
        waits = record is not None and record.state is ApiBatchState.VALIDATING
        yield record if waits else None


async def set_submitted(
    conn: AsyncConnection, batch_id: UUID, bad_rows: int, bad_rows_file_id: UUID | None
) -> bool:
    """Note that a batch was submitted; False where it was cancelled meanwhile."""
    cursor = await conn.execute(
        """
        UPDATE api_batches SET state = 'submitted', bad_rows = %s, bad_rows_file_id = %s
        WHERE id = %s AND state = 'validating'
        """,
        [bad_rows, bad_rows_file_id, batch_id],
    )
    return bool(cursor.rowcount)


async def end(
    conn: AsyncConnection,
    batch_id: UUID,
    state: ApiBatchState,
    errors: Sequence[Mapping[str, Any]] | None = None,
) -> bool:
    """End a batch before it was submitted, as failed or cancelled; the same may be asked for again.

    Returns:
        False where it was submitted, or had ended.
    """
    cursor = await conn.execute(
        """
        UPDATE api_batches SET state = %s, errors = %s, ended_at = clock_timestamp(),
            idempotency_key = NULL
        WHERE id = %s AND state = 'validating'
        """,
        [str(state), None if errors is None else Jsonb(list(errors)), batch_id],
    )
    return bool(cursor.rowcount)


async def forget_idempotency_key(conn: AsyncConnection, batch_id: UUID) -> None:
    """Let the same batch be asked for anew: this one was cancelled."""
    await conn.execute("UPDATE api_batches SET idempotency_key = NULL WHERE id = %s", [batch_id])


async def delete_file(conn: AsyncConnection, batch_id: UUID, which: str) -> None:
    """Note that a file of a batch's results was deleted; the results themselves stay."""
    await conn.execute(
        """
        UPDATE api_batches SET deleted_files = array_append(deleted_files, %s)
        WHERE id = %s AND NOT %s = ANY(deleted_files)
        """,
        [which, batch_id, which],
    )
