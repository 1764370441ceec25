"""Results: one row a job, written in micro-batches and streamed out in input order."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.domain.completion import Result, ResultSource
from routoo.domain.job import Lease, ResultStatus
from routoo.store import leases
from routoo.store.encoding import json_rows, storable

_FETCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A row of the view `batch_results`, with the whole response and the job's reference to it."""

    job_no: int
    custom_id: str
    status: ResultStatus
    model: str | None
    answer: str | None
    expected_quality: float | None
    quality: float | None
    """What a grader gave, None where none has graded."""
    expected_cost_usd: Decimal | None
    cost_usd: Decimal
    latency_s: float | None
    error_code: str | None
    error_message: str | None
    created_at: datetime
    response: dict[str, Any] | None
    prompt_tokens: int | None
    completion_tokens: int | None
    attempts: int
    source: ResultSource
    """Whether it was called for, shares an identical job's answer, or is from the cache."""

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "status", ResultStatus(self.status))
        object.__setattr__(self, "source", ResultSource(self.source))


async def save(
    conn: AsyncConnection,
    lease: Lease,
    results: Sequence[Result],
    *,
    fenced: bool = False,
    alone: bool = False,
) -> int:
    """Save how jobs ended; the first result of a job stands.

    Jobs that share the answer of one of these get theirs in the same breath, at no cost; a shard's
    owner may so end jobs of other shards, which nobody else does.

    Args:
        conn: A transaction.
        lease: The shard the jobs belong to.
        results: At most one a job.
        fenced: The transaction has proved the lease.
        alone: No job of the batch shares another's answer.

    Returns:
        How many rows are new.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    if not fenced:
        await leases.fence(conn, lease)
    if not results:
        return 0
    cursor = await conn.execute(
        """
        INSERT INTO results (batch_id, job_no, status, model, answer, response, prompt_tokens,
            completion_tokens, cost_usd, latency_s, attempts, error_code, error_message, source)
        SELECT %(batch_id)s, job_no, status, model, answer, response::json, prompt_tokens,
            completion_tokens, cost_usd, latency_s, attempts, error_code, error_message, source
        FROM json_to_recordset(%(rows)s::json) AS row(
            job_no int, status text, model text, answer text, response text, prompt_tokens int,
            completion_tokens int, cost_usd numeric, latency_s real, attempts int,
            error_code text, error_message text, source text)
        ON CONFLICT DO NOTHING
        """,
        {"batch_id": lease.key.batch_id, "rows": json_rows(map(_row, results))},
    )
    if alone:
        return cursor.rowcount
    return cursor.rowcount + await _share(conn, lease, [result.job_no for result in results])


async def _share(conn: AsyncConnection, lease: Lease, leaders: list[int]) -> int:
    """End the jobs that share the results of some, and return how many ended now."""
    cursor = await conn.execute(
        """
        INSERT INTO results (batch_id, job_no, status, model, answer, response, prompt_tokens,
            completion_tokens, cost_usd, latency_s, attempts, error_code, error_message, source)
        SELECT f.batch_id, f.job_no, status, model, answer, response, prompt_tokens,
            completion_tokens, 0, latency_s, 0, error_code, error_message, 'duplicate'
        FROM followers f JOIN results r ON r.batch_id = f.batch_id AND r.job_no = f.leader_no
        WHERE f.batch_id = %s AND f.leader_no = ANY(%s)
        ON CONFLICT DO NOTHING
        """,
        [lease.key.batch_id, leaders],
    )
    return cursor.rowcount


def _row(result: Result) -> dict[str, object]:
    completion = result.completion
    usage = completion.usage if completion else None
    return {
        "job_no": result.job_no,
        "status": str(result.status),
        "model": result.model,
        "answer": storable(completion.answer) if completion else None,
        # As a string: so the response's own escapes, NULs among them, stay as they came.
        "response": orjson.dumps(completion.body).decode() if completion else None,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "cost_usd": result.cost_usd,
        "latency_s": completion.latency_s if completion else None,
        "attempts": result.attempts,
        "error_code": result.error_code,
        "error_message": storable(result.error_message),
        "source": str(result.source),
    }


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
        await cursor.execute(
            """
            SELECT v.job_no, v.custom_id, v.status, v.model, v.answer, v.expected_quality,
                   v.quality, v.expected_cost_usd, v.cost_usd, v.latency_s, v.error_code,
                   v.error_message, v.created_at,
                   r.response, r.prompt_tokens, r.completion_tokens, r.attempts, v.source
            FROM batch_results v JOIN results r USING (batch_id, job_no)
            WHERE v.batch_id = %s ORDER BY v.job_no
            """,
            [batch_id],
        )
        async for record in cursor:
            yield record
