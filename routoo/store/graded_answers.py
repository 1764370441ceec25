"""Graded answers of all batches: what predictors can learn from, and be measured by."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from psycopg import AsyncConnection
from psycopg.rows import class_row

_FETCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One answer with its grade."""

    body_json: str
    """The request."""
    model: str
    score: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float
    """Of all calls of the job."""
    latency_s: float | None
    source: str
    """Name of the evaluation set, else of the batch."""
    subject: str | None


async def iterate(conn: AsyncConnection) -> AsyncIterator[GradedAnswer]:
    """Stream every answer that has a score, oldest first.

    Replayed outcomes are left out: whoever recorded them has them. So are a judge's own answers.

    Args:
        conn: A transaction; what is streamed is its state at the start.

    Yields:
        One record an answer.
    """
    async with conn.cursor("graded_answers", row_factory=class_row(GradedAnswer)) as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(
            """
            SELECT j.body::text AS body_json, g.score, r.prompt_tokens, r.completion_tokens,
                   -- A batch channel is the same model, hours later.
                   regexp_replace(r.model, '@batch$', '') AS model,
                   r.cost_usd::float8 AS cost_usd,
                   CASE WHEN r.model LIKE '%@batch' THEN NULL ELSE r.latency_s END AS latency_s,
                   coalesce(s.name, b.name) AS source, i.subject
            FROM grades g
            JOIN results r USING (batch_id, job_no)
            JOIN jobs j USING (batch_id, job_no)
            JOIN batches b ON b.id = g.batch_id
            LEFT JOIN eval_runs e ON g.batch_id IN (e.batch_id, e.sample_batch_id)
            LEFT JOIN eval_sets s ON s.id = e.eval_set_id
            LEFT JOIN eval_items i ON i.eval_set_id = e.eval_set_id AND i.item_no =
                CASE WHEN e.batch_id = g.batch_id THEN g.job_no
                ELSE e.sample_items[g.job_no / jsonb_array_length(b.pool -> 'models') + 1] END
            WHERE g.score IS NOT NULL AND r.status = 'succeeded' AND b.kind <> 'judgement'
              AND NOT coalesce(e.recorded, false)
            ORDER BY r.created_at, g.batch_id, g.job_no
            """
        )
        async for record in cursor:
            yield record
