"""Results: one row a job, written in micro-batches and streamed out in input order."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.domain.completion import (
    AnswerDecision,
    Completion,
    DeviationReason,
    FinishReason,
    Result,
    ResultSource,
)
from routoo.domain.job import Lease, ResultStatus
from routoo.store import columns, leases
from routoo.store.encoding import json_rows, json_text, put_text_back, storable, without_text
from routoo.store.jobs import IS_OPEN

_FETCH_ROWS = 1_000
# Marks of the fields of ResultRecord; one without a mark is a column of `results` and of the view.
_JOINED: Mapping[str, bool] = {"joined": True}
"""From another table, by the view `batch_results`."""
_SERVER_SET: Mapping[str, bool] = {"server_set": True}
"""Set by the server when the row is written."""
_NOT_IN_VIEW: Mapping[str, bool] = {"not_in_view": True}
"""A column of `results` that the view leaves out."""


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """How a job ended, with what was expected of it.

    The one list of the columns of a result: the statements here follow from its fields, and so do
    the exports. First come the columns of the view `batch_results`, in its order.
    """

    job_no: int
    custom_id: str = field(metadata=_JOINED)
    status: ResultStatus
    model: str | None
    answer: str | None
    expected_quality: float | None
    """Predicted for the model that answered; the view has the plan's where the row has none."""
    quality: float | None = field(metadata=_JOINED)
    """What a grader gave, None where none has graded."""
    expected_cost_usd: Decimal | None
    """Expected of a call to that model, in the same way."""
    cost_usd: Decimal
    latency_s: float | None
    error_code: str | None
    error_message: str | None
    created_at: datetime = field(metadata=_SERVER_SET)
    source: ResultSource
    """Whether it was called for, shares an identical job's answer, or is from the cache."""
    planned_model: str | None = field(metadata=_JOINED)
    """The model that the batch's first plan chose, None where it chose none."""
    planned_quality: float | None = field(metadata=_JOINED)
    """Predicted for the planned model."""
    planned_cost_usd: Decimal | None = field(metadata=_JOINED)
    """Expected of a call to the planned model."""
    reason: DeviationReason | None
    """Why another model than planned answered; None where the planned one did, or none."""
    decision: AnswerDecision
    """How its answer came about: direct, accepted, escalated or kept."""
    finish_reason: FinishReason | None
    """Why the answer ended, as far as the endpoint told."""
    response: dict[str, Any] | None = field(metadata=_NOT_IN_VIEW)
    """The whole response."""
    prompt_tokens: int | None = field(metadata=_NOT_IN_VIEW)
    completion_tokens: int | None = field(metadata=_NOT_IN_VIEW)
    attempts: int = field(metadata=_NOT_IN_VIEW)

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "status", ResultStatus(self.status))
        object.__setattr__(self, "source", ResultSource(self.source))
        if self.reason is not None:
            object.__setattr__(self, "reason", DeviationReason(self.reason))
        object.__setattr__(self, "decision", AnswerDecision(self.decision))
        if self.finish_reason is not None:
            object.__setattr__(self, "finish_reason", FinishReason(self.finish_reason))
        if self.response is not None:
            put_text_back(self.response, self.answer)

    def view_row(self) -> dict[str, Any]:
        """Return its row of the view `batch_results`, by column and without `batch_id`."""
        return {name: getattr(self, name) for name in VIEW_COLUMNS}


VIEW_COLUMNS = columns.names(ResultRecord, lambda one: "not_in_view" not in one.metadata)
"""Columns of the view `batch_results`, in its order, without `batch_id`."""
WRITTEN_COLUMNS = columns.names(
    ResultRecord, lambda one: not one.metadata.keys() & {"joined", "server_set"}
)
"""Columns of `results` that are written, without `batch_id`."""

_INSERT = f"INSERT INTO results (batch_id, {columns.listed(WRITTEN_COLUMNS)}, quality_change) "
# So that downgrades and upgrades are counted without a look at the plan of each job.
_QUALITY_CHANGE = """
    CASE WHEN reason IS NOT NULL THEN
        coalesce(row.expected_quality, (
            SELECT max(s.expected_quality) FROM assignments s
            WHERE s.batch_id = %(batch_id)s AND s.job_no = row.job_no AND s.model = row.model))
        - (SELECT s.expected_quality FROM assignments s
           WHERE s.batch_id = %(batch_id)s AND s.job_no = row.job_no ORDER BY revision LIMIT 1)
    END
"""
_SAVE = f"""
    {_INSERT} SELECT %(batch_id)s, {columns.from_recordset(ResultRecord, WRITTEN_COLUMNS)},
                     {_QUALITY_CHANGE}
    FROM {columns.recordset(ResultRecord, WRITTEN_COLUMNS)} ON CONFLICT DO NOTHING
""".encode()
# A duplicate has the result of its original, at no cost and without a call of its own.
_OF_DUPLICATE = {"job_no": "f.job_no", "cost_usd": "0", "attempts": "0", "source": "'duplicate'"}
_SHARED = [_OF_DUPLICATE.get(name, f"r.{name}") for name in WRITTEN_COLUMNS]
_SHARE = f"""
    {_INSERT} SELECT f.batch_id, {columns.listed(_SHARED)}, r.quality_change
    FROM followers f JOIN results r ON r.batch_id = f.batch_id AND r.job_no = f.leader_no
    WHERE f.batch_id = %s AND f.leader_no = ANY(%s)
    ON CONFLICT DO NOTHING
""".encode()
_READ = (f"{'v' if name in VIEW_COLUMNS else 'r'}.{name}" for name in columns.names(ResultRecord))
_SELECT = f"""
    SELECT {columns.listed(_READ)}
    FROM batch_results v JOIN results r USING (batch_id, job_no)
"""
_ITERATE = f"{_SELECT} WHERE v.batch_id = %s ORDER BY v.job_no".encode()
_READ_SOME = f"""
    {_SELECT} WHERE v.batch_id = %s AND v.job_no = ANY(%s::int[]) ORDER BY v.job_no
""".encode()


async def save(
    conn: AsyncConnection,
    lease: Lease,
    results: Sequence[Result],
    *,
    fenced: bool = False,
    alone: bool = False,
) -> int:
    """Save how jobs ended; the first result of a job stands.

    Duplicates of these jobs get their results by the same call, at no cost, wherever their own
    shards are: nothing else ends them.

    Args:
        conn: A transaction.
        lease: The shard the jobs belong to.
        results: At most one a job.
        fenced: The transaction has proved the lease.
        alone: No job of the batch is a duplicate of another.

    Returns:
        How many rows are new.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    if not fenced:
        await leases.fence(conn, lease)
    if not results:
        return 0
    rows = json_rows(map(row_of, results))
    cursor = await conn.execute(_SAVE, {"batch_id": lease.key.batch_id, "rows": rows})
    if alone:
        return cursor.rowcount
    return cursor.rowcount + await _share(conn, lease, [result.job_no for result in results])


async def _share(conn: AsyncConnection, lease: Lease, originals: list[int]) -> int:
    """End the jobs that share the results of some, and return how many ended now."""
    return (await conn.execute(_SHARE, [lease.key.batch_id, originals])).rowcount


# A shard that nobody owns has no call in flight; its next owner waits for its row meanwhile. Shards
# whose jobs have no deadline are never looked at.
_WATCHED = b"""
    SELECT batch_id, shard_no, statement_timestamp() FROM shards
    WHERE stage = 'dispatch' AND state IN ('ready', 'blocked')
      AND next_deadline <= statement_timestamp()
      AND batch_id IN (SELECT id FROM batches WHERE status IN ('in_progress', 'paused'))
    FOR UPDATE SKIP LOCKED
"""
_EXPIRE = f"""
    INSERT INTO results (batch_id, job_no, status, cost_usd, attempts, error_code, error_message)
    SELECT j.batch_id, j.job_no, 'expired', coalesce(calls.cost_usd, 0),
           coalesce(calls.attempts, 0), 'expired',
           'the deadline ' || j.deadline || ' passed before an answer came'
    FROM unnest(%(batches)s::uuid[], %(shards)s::int[]) AS w (batch_id, shard_no)
    JOIN shards s ON s.batch_id = w.batch_id AND s.shard_no = w.shard_no AND s.stage = 'dispatch'
    JOIN jobs j ON j.batch_id = w.batch_id AND j.job_no >= s.first_job
        AND j.job_no < s.first_job + s.job_count AND j.deadline <= %(now)s
    CROSS JOIN LATERAL (
        SELECT max(attempt_no) AS attempts, sum(cost_usd) AS cost_usd FROM attempts a
        WHERE a.batch_id = j.batch_id AND a.job_no = j.job_no) AS calls
    WHERE {IS_OPEN}
      AND NOT EXISTS (  -- the next owner of the shard makes it the result
        SELECT FROM kept_answers k WHERE k.batch_id = j.batch_id AND k.job_no = j.job_no)
    ON CONFLICT DO NOTHING RETURNING batch_id, job_no
""".encode()
_WATCH_NEXT = b"""
    UPDATE shards s SET next_deadline = (
        SELECT min(j.deadline) FROM jobs j
        WHERE j.batch_id = s.batch_id AND j.job_no >= s.first_job
          AND j.job_no < s.first_job + s.job_count AND j.deadline > %(now)s)
    FROM unnest(%(batches)s::uuid[], %(shards)s::int[]) AS w (batch_id, shard_no)
    WHERE s.batch_id = w.batch_id AND s.shard_no = w.shard_no AND s.stage = 'dispatch'
"""
# Of a job that waited for another model: the answer of its probe, which was judged and keeps the
# rules.
_TAKE_KEPT = b"""
    INSERT INTO results (batch_id, job_no, status, model, answer, response, prompt_tokens,
                         completion_tokens, cost_usd, latency_s, attempts, expected_quality,
                         decision, finish_reason)
    SELECT DISTINCT ON (k.job_no) k.batch_id, k.job_no, 'succeeded', a.model, k.answer, k.response,
           a.prompt_tokens, a.completion_tokens, calls.cost_usd, a.latency_s, calls.attempts,
           g.after, 'kept', k.finish_reason
    FROM kept_answers k
    JOIN attempts a USING (batch_id, job_no, attempt_no)
    JOIN answer_judgements g USING (batch_id, job_no, attempt_no)
    CROSS JOIN LATERAL (
        SELECT max(attempt_no) AS attempts, sum(cost_usd) AS cost_usd FROM attempts c
        WHERE c.batch_id = k.batch_id AND c.job_no = k.job_no) AS calls
    WHERE k.batch_id = %s AND a.probe AND g.fault IS NULL AND NOT EXISTS (
        SELECT FROM results r WHERE r.batch_id = k.batch_id AND r.job_no = k.job_no)
    ORDER BY k.job_no, k.attempt_no DESC
    ON CONFLICT DO NOTHING RETURNING job_no
"""


async def take_kept(conn: AsyncConnection, batch_id: UUID) -> None:
    """Give open jobs that wait for another model the answer of their probe: it is paid.

    Args:
        conn: A transaction that has made sure that no worker is busy with the batch.
        batch_id: The batch.
    """
    taken = await (await conn.execute(_TAKE_KEPT, [batch_id])).fetchall()
    await conn.execute(_SHARE, [batch_id, [job_no for (job_no,) in taken]])


async def end_failed(
    conn: AsyncConnection, batch_id: UUID, job_no: int, *, code: str, message: str
) -> None:
    """End one job, and its duplicates, that no worker will ever end.

    Args:
        conn: A transaction that has settled or written off the job's calls.
        batch_id: The batch.
        job_no: The job.
        code: Kind of failure.
        message: What happened, for people.
    """
    await conn.execute(
        """
        INSERT INTO results (batch_id, job_no, status, cost_usd, attempts, error_code,
                             error_message)
        SELECT %(batch_id)s, %(job_no)s, 'failed', coalesce(sum(cost_usd), 0),
               coalesce(max(attempt_no), 0), %(code)s, %(message)s
        FROM attempts WHERE batch_id = %(batch_id)s AND job_no = %(job_no)s
        ON CONFLICT DO NOTHING
        """,
        {"batch_id": batch_id, "job_no": job_no, "code": code, "message": message},
    )
    await conn.execute(_SHARE, [batch_id, [job_no]])


async def share_all(conn: AsyncConnection, batch_id: UUID) -> None:
    """Give duplicates the results of those originals that ended before they were found out."""
    await conn.execute(
        f"""
        {_INSERT} SELECT f.batch_id, {columns.listed(_SHARED)}, r.quality_change
        FROM followers f JOIN results r ON r.batch_id = f.batch_id AND r.job_no = f.leader_no
        WHERE f.batch_id = %s ON CONFLICT DO NOTHING
        """.encode(),
        [batch_id],
    )


async def expire_waiting(conn: AsyncConnection) -> int:
    """End the jobs past their deadline whose shards wait: for a plan, endpoints, money, a worker.

    Shards at work end such jobs themselves. Call it about once a second.

    Args:
        conn: A transaction of its own.

    Returns:
        How many jobs expired.
    """
    watched = await (await conn.execute(_WATCHED)).fetchall()
    if not watched:
        return 0
    batch_ids, shard_nos, (now, *_) = zip(*watched, strict=True)
    values = {"batches": list(batch_ids), "shards": list(shard_nos), "now": now}
    rows = await (await conn.execute(_EXPIRE, values)).fetchall()
    expired: dict[UUID, list[int]] = {}
    for batch_id, job_no in rows:
        expired.setdefault(batch_id, []).append(job_no)
    for batch_id, originals in expired.items():
        await conn.execute(_SHARE, [batch_id, originals])
    await conn.execute(_WATCH_NEXT, values)
    return len(rows)


def row_of(result: Result) -> dict[str, object]:
    """Return what the columns that are written hold, by name."""
    return {
        "job_no": result.job_no,
        "status": str(result.status),
        "model": result.model,
        "cost_usd": result.cost_usd,
        "attempts": result.attempts,
        "error_code": result.error_code,
        "error_message": storable(result.error_message),
        "source": str(result.source),
        "reason": None if result.reason is None else str(result.reason),
        "expected_quality": result.expected_quality,
        "expected_cost_usd": result.expected_cost_usd,
        "decision": str(result.decision),
        **_completion_columns(result.completion),
    }


def _completion_columns(completion: Completion | None) -> dict[str, object]:
    usage = completion.usage if completion else None
    answer = storable(completion.answer) if completion else None
    return {
        "answer": answer,
        # As a string: so the response's own escapes, NULs among them, stay as they came.
        "response": json_text(without_text(completion.body, answer)) if completion else None,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "latency_s": completion.latency_s if completion else None,
        "finish_reason": completion.finish_reason if completion else None,
    }


async def saved_since(
    conn: AsyncConnection, batch_id: UUID, since: datetime
) -> tuple[list[int], datetime | None]:
    """Return the jobs of a batch whose results were saved since then, and when the newest was.

    A transaction that is not committed yet may have saved results at earlier times.
    """
    cursor = await conn.execute(
        "SELECT array_agg(job_no ORDER BY job_no), max(created_at) FROM results"
        " WHERE batch_id = %s AND created_at >= %s",
        [batch_id, since],
    )
    numbers, newest = await cursor.fetchone() or (None, None)
    return numbers or [], newest


async def read(conn: AsyncConnection, batch_id: UUID, jobs: Sequence[int]) -> list[ResultRecord]:
    """Return the results of some jobs of a batch, in input order; those that have ended."""
    async with conn.cursor(row_factory=class_row(ResultRecord)) as cursor:
        await cursor.execute(_READ_SOME, [batch_id, jobs])
        return await cursor.fetchall()


async def iterate(conn: AsyncConnection, batch_id: UUID) -> AsyncGenerator[ResultRecord, None]:
    """Stream a batch's results in input order, whether or not it is complete.

    Args:
        conn: A transaction; what is streamed is its state at the start.
        batch_id: The batch.

    Yields:
        One record a job that has ended.
    """
    async with conn.cursor(
        f"results_{batch_id.hex}", row_factory=class_row(ResultRecord)
    ) as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(_ITERATE, [batch_id])
        async for record in cursor:
            yield record
