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

from routoo.domain.completion import Result
from routoo.domain.job import Lease, ResultStatus
from routoo.store import shards
from routoo.store.text import storable

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

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "status", ResultStatus(self.status))


async def save(conn: AsyncConnection, lease: Lease, results: Sequence[Result]) -> int:
    """Save how jobs ended; the first result of a job stands.

    Args:
        conn: A transaction.
        lease: The shard the jobs belong to.
        results: At most one a job.

    Returns:
        How many rows are new.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await shards.fence(conn, lease)
    if not results:
        return 0
    columns = zip(*map(_values, results), strict=True)
    cursor = await conn.execute(
        """
        INSERT INTO results (batch_id, job_no, status, model, answer, response, prompt_tokens,
            completion_tokens, cost_usd, latency_s, attempts, error_code, error_message)
        SELECT %(batch_id)s, * FROM unnest(
            %(c0)s::int[], %(c1)s::text[], %(c2)s::text[], %(c3)s::text[], %(c4)s::json[],
            %(c5)s::int[], %(c6)s::int[], %(c7)s::numeric[], %(c8)s::real[], %(c9)s::int[],
            %(c10)s::text[], %(c11)s::text[])
        ON CONFLICT DO NOTHING
        """,
        {"batch_id": lease.key.batch_id}
        | {f"c{number}": list(column) for number, column in enumerate(columns)},
    )
    return cursor.rowcount


def _values(result: Result) -> tuple[object, ...]:
    completion = result.completion
    usage = completion.usage if completion else None
    return (
        result.job_no,
        str(result.status),
        result.model,
        storable(completion.answer) if completion else None,
        orjson.dumps(completion.body).decode() if completion else None,
        usage.prompt_tokens if usage else None,
        usage.completion_tokens if usage else None,
        result.cost_usd,
        completion.latency_s if completion else None,
        result.attempts,
        result.error_code,
        storable(result.error_message),
    )


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
                   r.response, r.prompt_tokens, r.completion_tokens, r.attempts
            FROM batch_results v JOIN results r USING (batch_id, job_no)
            WHERE v.batch_id = %s ORDER BY v.job_no
            """,
            [batch_id],
        )
        async for record in cursor:
            yield record
