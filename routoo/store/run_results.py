"""What came of a run's jobs, a batch at a time: the rows that run arrays are filled from."""

from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one job of a run ended."""

    job_no: int
    status: str | None
    """None where the job has not ended."""
    model: str | None
    answer: str | None
    answer_sha256: str | None
    cost_usd: float | None
    latency_s: float | None
    chosen: str | None
    """Model of the latest plan."""
    expected_cost_usd: float | None
    graded: bool
    """Whether a grader has seen the job."""
    score: float | None
    """What it gave; None where the answer is ambiguous."""


async def load(conn: AsyncConnection, batch_id: UUID) -> list[RunResult]:
    """Return a row for every job of a batch, in order of job_no."""
    async with conn.cursor(row_factory=class_row(RunResult)) as cursor:
        await cursor.execute(
            """
            SELECT j.job_no, r.status, r.model, r.answer,
                   encode(sha256(convert_to(r.answer, 'UTF8')), 'hex') AS answer_sha256,
                   r.cost_usd::float8 AS cost_usd, r.latency_s, a.model AS chosen,
                   a.expected_cost_usd::float8 AS expected_cost_usd,
                   g.job_no IS NOT NULL AS graded, g.score
            FROM jobs j
            LEFT JOIN results r USING (batch_id, job_no)
            LEFT JOIN grades g USING (batch_id, job_no)
            LEFT JOIN LATERAL (
                SELECT model, expected_cost_usd FROM assignments s
                WHERE s.batch_id = j.batch_id AND s.job_no = j.job_no
                ORDER BY revision DESC LIMIT 1
            ) a ON true
            WHERE j.batch_id = %s ORDER BY j.job_no
            """,
            [batch_id],
        )
        return await cursor.fetchall()
