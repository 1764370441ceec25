"""Creates the row of a batch, seals it with its jobs, looks it up, completes or fails it."""

from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Self, cast
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import BatchStatus
from routoo.domain.pool import Pool
from routoo.errors import InputError, NotFoundError, UnreadableRecordError
from routoo.store import columns

_SHORTEST_PREFIX = 4
"""Characters of an id that may stand for it."""


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a batch is asked to be; None means no limit."""

    name: str
    pool: Pool
    kind: str = "batch"
    idempotency_key: str | None = None
    budget_usd: Decimal | None = None
    """Most that all calls may cost together, in USD."""
    min_quality: float | None = None
    """Least predicted quality of a model, in [0, 1], where a job names no floor."""
    max_cost_usd: Decimal | None = None
    """Most that one job may cost where it names no cap, in USD."""
    deadline: datetime | None = None
    """No call starts after this instant (with time zone)."""
    objective: Objective = field(default_factory=Objective)
    plan_only: bool = field(default=False, metadata=columns.named("draft"))
    """To be planned only: no call is made until its plan is submitted."""
    call_options: CallOptions = field(default_factory=CallOptions)
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as the store knows it."""

    id: UUID
    name: str
    kind: str
    idempotency_key: str | None
    status: BatchStatus
    pool: Pool
    budget_usd: Decimal | None
    min_quality: float | None
    max_cost_usd: Decimal | None
    deadline: datetime | None
    job_count: int
    created_at: datetime
    completed_at: datetime | None
    plan: dict[str, Any] | None
    """What the selection expected, once it has run."""
    error: str | None
    objective: Objective
    submitted_at: datetime | None
    """When its plan was submitted; None where there was no plan."""
    plan_only: bool = field(metadata=columns.named("draft"))
    """Made as a plan: nothing is called before it is submitted."""
    call_options: CallOptions

    def __post_init__(self) -> None:
        """Parse what the database keeps as text and JSON."""
        try:
            self._parse()
        except (ValueError, TypeError, KeyError) as error:
            raise UnreadableRecordError(
                "this version of Routoo can't read the batch; a newer one may have submitted it",
                value=str(error).splitlines()[0],
                where=f"batch {self.id}",
                remedy="Finish the upgrade: restart this program with the newest version",
            ) from error

    def _parse(self) -> None:
        object.__setattr__(self, "status", BatchStatus(self.status))
        object.__setattr__(self, "pool", Pool.model_validate(self.pool))
        objective = cast("dict[str, Any] | None", self.objective)
        object.__setattr__(self, "objective", Objective.from_json(objective))
        call_options = cast("dict[str, Any] | None", self.call_options)
        object.__setattr__(self, "call_options", CallOptions.from_json(call_options))

    def with_pool(self, pool: Pool) -> Self:
        """Return the batch with a pool that says more of the same models."""
        changed = copy(self)  # `replace` would parse once more what is parsed
        object.__setattr__(changed, "pool", pool)
        return changed


async def create(conn: AsyncConnection, new: NewBatch) -> tuple[UUID, bool]:
    """Write a batch's row, or find the one that has the same idempotency key.

    A second submitter of the same key waits here until the first one's transaction ends.

    Returns:
        The batch's id, and whether it is new.
    """
    # A first submitter that rolls back while we wait leaves neither its row nor ours: try again.
    while True:
        batch_id = await _insert(conn, new)
        if batch_id is not None:
            return batch_id, True
        cursor = await conn.execute(
            "SELECT id FROM batches WHERE idempotency_key = %s", [new.idempotency_key]
        )
        row = await cursor.fetchone()
        if row is not None:
            return row[0], False


async def _insert(conn: AsyncConnection, new: NewBatch) -> UUID | None:
    values = columns.values_of(new)
    aim, call_options = new.objective, new.call_options
    values |= {
        # Without what is as usual: so workers of an older version read it, too, for as long as the
        # pool asks for nothing that they don't know.
        "pool": Jsonb(new.pool.model_dump(mode="json", exclude_defaults=True)),
        "status": BatchStatus.PLANNING if new.plan_only else BatchStatus.IN_PROGRESS,
        "objective": None if aim == Objective() else Jsonb(aim.as_json()),
        "call_options": None if call_options == CallOptions() else Jsonb(call_options.as_json()),
    }
    unless_known = "ON CONFLICT (idempotency_key) DO NOTHING RETURNING id"
    cursor = await conn.execute(columns.insert("batches", values, unless_known), values)
    row = await cursor.fetchone()
    return None if row is None else row[0]


_OPEN_LEDGER = b"""
    INSERT INTO ledgers (batch_id, limit_usd, key_id)
    SELECT id, budget_usd, %s FROM batches WHERE id = %s
"""
_MAKE_SHARDS = b"""
    INSERT INTO shards (batch_id, stage, shard_no, first_job, job_count, state, next_deadline)
    SELECT %(id)s, stage, n, n * %(size)s, least(%(size)s, %(jobs)s - n * %(size)s), state,
           CASE stage WHEN 'dispatch' THEN
               (SELECT first_deadline FROM batches WHERE id = %(id)s) END
    FROM generate_series(0, (%(jobs)s - 1) / %(size)s) AS n,
         (VALUES ('score', 'ready'), ('dispatch', 'blocked')) AS stages(stage, state)
    UNION ALL SELECT %(id)s, 'select', 0, 0, %(jobs)s, 'blocked', NULL
"""


async def seal(
    conn: AsyncConnection,
    batch_id: UUID,
    job_count: int,
    shard_size: int,
    *,
    key_id: UUID | None = None,
) -> None:
    """Finish a submission: job count, ledger and shards, in the transaction that copied the jobs.

    Args:
        conn: The submission's transaction.
        batch_id: The batch.
        job_count: Jobs copied, with job_no 0 .. job_count - 1; at least one, or an `InputError`.
        shard_size: Most jobs in a shard.
        key_id: Key whose daily limit its calls count against.
    """
    if job_count < 1:
        raise InputError("a batch needs at least one job", remedy="Give at least one prompt")
    await conn.execute("UPDATE batches SET job_count = %s WHERE id = %s", [job_count, batch_id])
    await conn.execute(_OPEN_LEDGER, [key_id, batch_id])
    await conn.execute(_MAKE_SHARDS, {"id": batch_id, "size": shard_size, "jobs": job_count})


async def get(conn: AsyncConnection, batch_id: UUID) -> BatchRecord:
    """Return a batch.

    Raises:
        NotFoundError: There is none with this id.
    """
    found = await _select(conn, "WHERE id = %s", [batch_id])
    return columns.only(found, "batch", batch_id)


async def find(conn: AsyncConnection, text: str) -> BatchRecord:
    """Return the batch that a person means: by id, start of an id, or name (the latest of it).

    Raises:
        NotFoundError: None matches.
        InputError: Several ids start so.
    """
    named = await _select(conn, "WHERE name = %s ORDER BY created_at DESC, id LIMIT 1", [text])
    if named:
        return named[0]
    found: list[BatchRecord] = []
    if len(text) >= _SHORTEST_PREFIX:
        condition = "WHERE starts_with(id::text, %s) ORDER BY created_at DESC, id LIMIT 2"
        found = await _select(conn, condition, [text.lower()])
    if len(found) > 1:
        raise InputError("several batches have such an id", value=text, remedy="Give more of it")
    return columns.only(found, "batch", text, remedy="Give an id or a name")


async def list_recent(conn: AsyncConnection, limit: int) -> list[BatchRecord]:
    """Return the newest batches, newest first."""
    return await _select(conn, "ORDER BY created_at DESC, id LIMIT %s", [limit])


async def with_key_prefix(conn: AsyncConnection, prefix: str) -> list[BatchRecord]:
    """Return the batches whose idempotency key begins so, newest first."""
    condition = "WHERE starts_with(idempotency_key, %s) ORDER BY created_at DESC, id"
    return await _select(conn, condition, [prefix])


async def names_like(conn: AsyncConnection, beginning: str, limit: int) -> list[str]:
    """Return names of the newest batches that begin so; ids where no name does."""
    for column in (b"name", b"id::text"):
        cursor = await conn.execute(
            b"SELECT " + column + b" FROM batches WHERE starts_with(" + column + b", %s)"
            b" GROUP BY 1 ORDER BY max(created_at) DESC LIMIT %s",
            [beginning, limit],
        )
        found = [row[0] async for row in cursor]
        if found:
            return found
    return []


async def _select(conn: AsyncConnection, condition: str, values: list[Any]) -> list[BatchRecord]:
    return await columns.select(conn, BatchRecord, f"batches {condition}", values)


async def lock(conn: AsyncConnection, batch_id: UUID) -> BatchStatus:
    """Lock a batch's row until the transaction ends; its changes of state queue up here.

    Raises:
        NotFoundError: There is none with this id.
    """
    return await _status(conn, batch_id, b"FOR NO KEY UPDATE")


async def status(conn: AsyncConnection, batch_id: UUID) -> BatchStatus:
    """Return a batch's state, without the rest of it.

    Raises:
        NotFoundError: There is none with this id.
    """
    return await _status(conn, batch_id, b"")


async def _status(conn: AsyncConnection, batch_id: UUID, locking: bytes) -> BatchStatus:
    cursor = await conn.execute(b"SELECT status FROM batches WHERE id = %s " + locking, [batch_id])
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError("there is no such batch", value=str(batch_id))
    return BatchStatus(row[0])


async def save_plan(conn: AsyncConnection, batch_id: UUID, plan: dict[str, Any]) -> None:
    """Keep what the selection expected; a later plan replaces it."""
    await conn.execute("UPDATE batches SET plan = %s WHERE id = %s", [Jsonb(plan), batch_id])


async def finish_if_done(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Complete a batch whose every shard is done and every job has a result.

    `shards.finish` calls this; after it there is nothing left to finish.

    Returns:
        Whether this call completed it: true once in a batch's life.
    """
    await lock(conn, batch_id)  # so that of two last shards one sees the other's results
    cursor = await conn.execute(
        """
        UPDATE batches b SET status = 'completed', completed_at = clock_timestamp()
        WHERE id = %s AND status IN ('in_progress', 'paused')
          -- cheap, and nearly always false: only the last shard pays for the count
          AND NOT EXISTS (SELECT FROM shards WHERE batch_id = b.id AND state <> 'done')
          AND (SELECT count(*) FROM results WHERE batch_id = b.id) = job_count
        """,
        [batch_id],
    )
    return cursor.rowcount == 1


async def mark_failed(conn: AsyncConnection, batch_id: UUID, error: str) -> None:
    """Mark a running batch as failed; its ready shards are not handed out any more."""
    await conn.execute(
        "UPDATE batches SET status = 'failed', error = %s, completed_at = clock_timestamp()"
        " WHERE id = %s AND status IN ('planning', 'in_progress')",
        [error, batch_id],
    )


_PREDICT_NEUTRALLY = b"""
    INSERT INTO predictions (batch_id, job_no, quality, quality_std, completion_tokens,
                             novelty, truncated)
    SELECT batch_id, job_no, array_fill(1::real, ARRAY[%(models)s::int]),
           array_fill(0::real, ARRAY[%(models)s::int]),
           array_fill(%(tokens)s::real, ARRAY[%(models)s::int]), 0, false
    FROM jobs WHERE batch_id = %(id)s
"""


async def skip_scoring(
    conn: AsyncConnection, batch_id: UUID, models: int, completion_tokens: float
) -> None:
    """Give a batch neutral predictions in place of the score stage.

    Args:
        conn: The submission's transaction, after `batches.seal`.
        batch_id: The batch; with one candidate model, or every request naming one.
        models: Candidate models in its pool.
        completion_tokens: What an answer is expected to take.
    """
    await conn.execute(
        _PREDICT_NEUTRALLY, {"id": batch_id, "models": models, "tokens": completion_tokens}
    )
    await conn.execute(
        "UPDATE shards SET state = 'done' WHERE batch_id = %s AND stage = 'score'", [batch_id]
    )
    await conn.execute(
        "UPDATE shards SET state = 'ready' WHERE batch_id = %s AND stage = 'select'", [batch_id]
    )
