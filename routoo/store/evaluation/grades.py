"""Grades of answers: saved, and read together with the answers they belong to."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.store import columns
from routoo.store.encoding import json_rows, storable

_FETCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class GradeRecord:
    """One answer's grade."""

    job_no: int
    score: float | None
    """1 = right, in [0, 1]; None where the answer can be read in more than one way."""
    grader: str
    detail: str | None = None
    """What the grader compared."""


_COLUMNS = columns.names(GradeRecord)
_SAVE = f"""
    INSERT INTO grades (batch_id, {columns.listed(_COLUMNS)})
    SELECT %(batch_id)s, {columns.listed(_COLUMNS)} FROM {columns.recordset(GradeRecord)}
    ON CONFLICT (batch_id, job_no)
    DO UPDATE SET {columns.assigned((*_COLUMNS[1:], "created_at"))}
""".encode()


async def save(conn: AsyncConnection, batch_id: UUID, grades: Sequence[GradeRecord]) -> None:
    """Save grades of a batch's jobs; a new grade of a job replaces the old one."""
    rows = json_rows(replace(grade, detail=storable(grade.detail)) for grade in grades)
    await conn.execute(_SAVE, {"batch_id": batch_id, "rows": rows})


@dataclass(frozen=True, slots=True)
class Gradable:
    """A job that has ended, as a grader needs it."""

    job_no: int
    custom_id: str
    body_json: str
    """The request, as it was submitted."""
    answer: str | None
    """None where the job ended without one."""


async def iterate_gradable(conn: AsyncConnection, batch_id: UUID) -> AsyncIterator[Gradable]:
    """Stream the jobs of a batch that have ended, in input order.

    Args:
        conn: A transaction; what is streamed is its state at the start.
        batch_id: The batch.

    Yields:
        One record a job.
    """
    async with conn.cursor(f"gradable_{batch_id.hex}", row_factory=class_row(Gradable)) as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(
            """
            SELECT r.job_no, j.custom_id, j.body::text AS body_json, r.answer
            FROM results r JOIN jobs j USING (batch_id, job_no)
            WHERE r.batch_id = %s ORDER BY r.job_no
            """,
            [batch_id],
        )
        async for record in cursor:
            yield record


async def load_scores(conn: AsyncConnection, batch_id: UUID) -> dict[str, tuple[float, float]]:
    """Return the grade of each graded job of a batch, and its cost in USD, by custom_id."""
    cursor = await conn.execute(
        """
        SELECT j.custom_id, g.score, r.cost_usd::float
        FROM grades g JOIN jobs j USING (batch_id, job_no) JOIN results r USING (batch_id, job_no)
        WHERE g.batch_id = %s AND g.score IS NOT NULL
        """,
        [batch_id],
    )
    return {custom_id: (score, cost_usd) async for custom_id, score, cost_usd in cursor}


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One answer with its grade."""

    body_json: str
    """The request."""
    model: str
    score: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float
    """Of the call that answered where answers were judged or compared, else of all calls."""
    latency_s: float | None
    source: str
    """Name of the evaluation set, else of the batch."""
    subject: str | None
    text: str
    """Of the answer."""
    finish_reason: str | None
    token_probabilities: dict[str, float | None] | None
    """Figures of `TokenProbabilities`; None where the endpoint gave none."""


_GRADED = b"""
    SELECT j.body::text AS body_json, g.score, r.prompt_tokens, r.completion_tokens,
           -- A batch channel is the same model, hours later.
           regexp_replace(r.model, '@batch$', '') AS model,
           (CASE WHEN r.decision = 'direct' THEN r.cost_usd
            ELSE coalesce(a.cost_usd, r.cost_usd) END)::float8 AS cost_usd,
           CASE WHEN r.model LIKE '%@batch' THEN NULL ELSE r.latency_s END AS latency_s,
           coalesce(s.name, b.name) AS source, i.subject, coalesce(r.answer, '') AS text,
           r.finish_reason, a.token_probabilities
    FROM grades g
    JOIN results r USING (batch_id, job_no)
    JOIN jobs j USING (batch_id, job_no)
    JOIN batches b ON b.id = g.batch_id
    LEFT JOIN eval_runs e ON g.batch_id IN (e.batch_id, e.sample_batch_id)
    LEFT JOIN eval_sets s ON s.id = e.eval_set_id
    LEFT JOIN eval_items i ON i.eval_set_id = e.eval_set_id AND i.item_no =
        CASE WHEN e.batch_id = g.batch_id THEN g.job_no
        ELSE e.sample_items[g.job_no / jsonb_array_length(b.pool -> 'models') + 1] END
    LEFT JOIN LATERAL (
        SELECT cost_usd, token_probabilities FROM attempts t
        WHERE t.batch_id = r.batch_id AND t.job_no = r.job_no AND t.model = r.model
          AND t.status = 'succeeded'
        ORDER BY attempt_no DESC LIMIT 1
    ) a ON true
    WHERE g.score IS NOT NULL AND r.status = 'succeeded' AND b.kind <> 'judgement'
      AND NOT coalesce(e.recorded, false)
    ORDER BY r.created_at, g.batch_id, g.job_no
"""


async def iterate_graded(conn: AsyncConnection) -> AsyncIterator[ScoredAnswer]:
    """Stream every answer that has a score, oldest first.

    Replayed outcomes are left out, because they were recorded elsewhere, and so are a judge's own
    answers.

    Args:
        conn: A transaction; what is streamed is its state at the start.

    Yields:
        One record an answer.
    """
    async with conn.cursor("graded_answers", row_factory=class_row(ScoredAnswer)) as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(_GRADED)
        async for record in cursor:
            yield record
